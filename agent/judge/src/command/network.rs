//! `ip`, `ping`, `ss`, `nft`, `iptables`: links, reachability, the migration's connections, filters.

use kulprit_host::command::filter::FilterRule;
use kulprit_host::command::network::{LinkRow, Ping, SocketRow};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use super::{absent, present};
use crate::verdict::Verdict;

/// Names of links that a node makes for itself: down is nothing.
const OWN_LINKS: [&str; 18] = [
    "lo",
    "veth",
    "cali",
    "lxc",
    "tap",
    "tun",
    "vnet",
    "docker",
    "virbr",
    "cni",
    "flannel",
    "kube",
    "nodelocaldns",
    "dummy",
    "ifb",
    "cilium",
    "podman",
    "antrea",
];
/// Packets of so much data and more are large: a frame of 1,500 bytes holds 1,472.
const LARGE_BYTES: u32 = 1_300;
/// A lost packet may be chance.
const MIN_PACKETS: u64 = 2;
/// Segments under retransmission, or timeouts in a row, of a connection that stands still.
const N_RETRANS: u64 = 3;
/// States in which what was sent is sent again until it is answered; those closed at an end are of a migration that was given up.
const SENDING: [&str; 5] = ["ESTAB", "FIN-WAIT-1", "CLOSE-WAIT", "LAST-ACK", "CLOSING"];
/// Ports at which targets of migrations listen: libvirt's own, and those that the kernel gives to virt-handler's proxies.
const MIGRATION_PORTS: (u16, u16) = (32_768, 60_999);
/// Proxies get any port of the range: a rule for one service's port is not about them.
const MIN_PORTS: u16 = 16;
const LIBVIRT_PORTS: [u16; 2] = [49_152, 49_153];
/// Chains that programs fill which know what they do, and whose drops are for other packets.
const KNOWN_CHAINS: [&str; 7] = ["KUBE-", "cali-", "CILIUM_", "DOCKER", "LIBVIRT_", "FLANNEL-", "ANTREA-"];

/// Links that are in use and down.
#[must_use]
pub fn judge_links(at: Moment, links: &[LinkRow]) -> Vec<Verdict> {
    let code = FindingCode::LinkDown;
    let is_own = |link: &LinkRow| link.is_virtual || OWN_LINKS.iter().any(|prefix| link.name.starts_with(prefix));
    // A port that nobody uses is down on most machines.
    let is_used =
        |link: &LinkRow| link.master.is_some() || link.addresses.iter().any(|address| !address.starts_with("fe80:"));
    let mut verdicts = Vec::new();
    for link in links.iter().filter(|link| {
        !is_own(link) && link.link_type.as_deref().is_none_or(|kind| kind == "ether" || kind == "infiniband")
    }) {
        let subject = Subject::Device { name: link.name.clone() };
        let is_down = link.has_no_carrier() || link.state.as_deref() == Some("DOWN");
        if is_down && is_used(link) {
            let facts = Attributes::new().with(attribute::DEVICE_NAME, &link.name);
            let why = if link.has_no_carrier() { "has no carrier" } else { "is down" };
            verdicts.push(present(code, subject, at, "ip", facts, format!("ip: link {} {why}", link.name)));
        } else if link.state.as_deref() == Some("UP") {
            verdicts.push(absent(code, subject));
        }
    }
    verdicts
}

/// Pings: nobody answers, or only to small packets.
#[must_use]
pub fn judge_pings(at: Moment, pings: &[Ping]) -> Vec<Verdict> {
    use FindingCode::{MtuMismatch, NetworkUnreachable};
    let is_large = |ping: &Ping| ping.payload_bytes.is_some_and(|bytes| bytes >= LARGE_BYTES);
    let is_lost = |ping: &Ping| ping.n_sent >= MIN_PACKETS && ping.n_received == 0;
    let mut verdicts = Vec::new();
    for ping in pings {
        let facts =
            || Attributes::new().with(attribute::WHAT, "peer").with_some(attribute::SERVER, ping.target.as_deref());
        let target = ping.target.as_deref().unwrap_or("a peer");
        let bytes = ping.payload_bytes.unwrap_or(56);
        let others = || pings.iter().filter(|other| other.target == ping.target);
        let small_passes = others().any(|other| !is_large(other) && other.n_received > 0);
        if ping.is_too_long || (is_lost(ping) && is_large(ping) && small_passes) {
            let text = format!("ping: {bytes} bytes to {target} do not pass");
            let facts = facts().with(attribute::MEASURED, bytes);
            verdicts.push(present(MtuMismatch, Subject::Node, at, "ping", facts, text));
        } else if is_lost(ping) && !small_passes {
            let text = format!("ping: all {} packets to {target} lost", ping.n_sent);
            verdicts.push(present(NetworkUnreachable, Subject::Node, at, "ping", facts(), text));
        } else if ping.n_received > 0 {
            verdicts.push(absent(NetworkUnreachable, Subject::Node));
            if is_large(ping) {
                verdicts.push(absent(MtuMismatch, Subject::Node));
            }
        }
    }
    verdicts
}

/// Connections of virt-handler, QEMU or libvirt that get no answer. `is_migrators`: the output is of one of their network
/// namespaces, so that its rows need no names of programs.
#[must_use]
pub fn judge_sockets(at: Moment, rows: &[SocketRow], is_migrators: bool) -> Vec<Verdict> {
    let code = FindingCode::MigrationPeerSilent;
    let is_migrator = |row: &SocketRow| {
        let named = ["virt-handler", "qemu", "virtqemud", "libvirtd"];
        row.programs.iter().any(|program| named.iter().any(|name| program.starts_with(name)))
            || (is_migrators && row.programs.is_empty())
    };
    // The API server and health probes are no peers of a migration.
    let is_to_peer = |row: &SocketRow| row.peer_port().is_some_and(|port| port >= 1024 && port != 6443 && port != 8443);
    let is_silent = |row: &SocketRow| match row.state.as_str() {
        "SYN-SENT" => true,
        state if SENDING.contains(&state) => row.n_retrans >= N_RETRANS || row.n_backoff >= N_RETRANS,
        _ => false,
    };
    let mut own = rows.iter().filter(|row| is_migrator(row) && is_to_peer(row)).peekable();
    let has_own = own.peek().is_some();
    if let Some(row) = own.find(|row| is_silent(row)) {
        let facts = Attributes::new()
            .with(attribute::SERVER, &row.peer)
            .with(attribute::WHAT, &row.state)
            .with_some(attribute::COMM, row.programs.first());
        let text = format!(
            "ss: {} to {} of {} gets no answer ({} bytes unsent, {} retransmissions)",
            row.state,
            row.peer,
            row.programs.first().map_or("virt-handler or QEMU", String::as_str),
            row.send_queue_bytes,
            row.n_retrans.max(row.n_backoff),
        );
        return vec![present(code, Subject::Node, at, "ss", facts, text)];
    }
    if has_own { vec![absent(code, Subject::Node)] } else { Vec::new() }
}

/// Rules that drop what a migration needs. A rule with a counter counts when it has met a packet.
#[must_use]
pub fn judge_filter(at: Moment, rules: &[FilterRule], source: &str) -> Vec<Verdict> {
    let code = FindingCode::PacketFilterDrops;
    let hits_migration = |(first, last): &(u16, u16)| {
        let is_libvirts = LIBVIRT_PORTS.iter().any(|port| first <= port && port <= last);
        let overlap = last.min(&MIGRATION_PORTS.1).saturating_sub(*first.max(&MIGRATION_PORTS.0));
        is_libvirts || overlap >= MIN_PORTS
    };
    let is_dropping = |rule: &&FilterRule| {
        rule.takes_tcp
            && !KNOWN_CHAINS.iter().any(|prefix| rule.chain.starts_with(prefix))
            && rule.dports.iter().any(hits_migration)
            && rule.n_packets != Some(0)
    };
    match rules.iter().find(is_dropping) {
        Some(rule) => {
            let facts = Attributes::new()
                .with(attribute::OBJECT, format!("{} {}", rule.table, rule.chain))
                .with_some(attribute::MEASURED, rule.n_packets);
            let verb = if rule.is_reject { "rejects" } else { "drops" };
            let text = format!("{source}: a rule of {} {} {verb}: {}", rule.table, rule.chain, rule.text);
            vec![present(code, Subject::Node, at, source, facts, text)]
        }
        None => vec![absent(code, Subject::Node)],
    }
}
