//! What links and TCP connections of a node say: links that went down, and peers that do not answer.
//!
//! A connection in SYN-SENT that was sent again has no answer for 3 s at least (1 s, then 2 s; kernel `TCP_TIMEOUT_INIT`). Which
//! thing does not answer is told by the port, and by whose connection it is: a migration's stand in the network namespace of
//! virt-handler's pod. What the node reaches at all is in [`reach`]; which links come and go, in [`flap`].

mod flap;
mod reach;

use std::net::{IpAddr, SocketAddr};

use kulprit_host::network::{Bridge, Link, PathTry, TcpSocket};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::say::{PROCFS, SYSFS, absent, present};
use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

pub use flap::{CarrierHistory, judge_flaps, judge_logged};
pub use reach::{
    LinkHistory, NameSeen, ReachLook, RegistryReach, RegistrySeen, judge_link_errors, judge_listen_queues, judge_reach,
};

/// What the answers to packets are.
const ICMP: &str = "icmp";
/// Retransmissions from which a peer counts as silent.
const MIN_RETRANSMITS: u32 = 2;
/// The same of a connection that stood: one timeout after another, 1.4 s at least (0.2 s, doubled each time).
const MIN_RETRANSMITS_ESTABLISHED: u32 = 3;
/// States in which what was sent is sent again until it is answered: established, and closed at this end (FIN-WAIT-1), at the other
/// (CLOSE-WAIT) or at both (LAST-ACK, CLOSING), as of a migration that libvirt gave up. Source: RFC 9293, 3.3.2.
const SENDING: [u8; 5] = [1, 4, 8, 9, 11];
/// Ports of storage servers, and the backend's word. Sources: IANA; Ceph `ms_bind_port`.
const STORAGE_PORTS: [(u16, &str); 5] =
    [(2049, "nfs"), (3260, "iscsi"), (3300, "ceph"), (6789, "ceph"), (4420, "nvme")];
/// libvirt's own ports of a migration (`migration_port_min`, `_max` in `qemu.conf`); KubeVirt uses the first two.
pub(crate) const LIBVIRT_PORTS: std::ops::RangeInclusive<u16> = 49_152..=49_215;
/// First port that servers of a migration's proxies may have: they listen on one that the kernel chose (`ip_local_port_range`).
const FIRST_CHOSEN_PORT: u16 = 30_000;

/// Whose connections a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The node's own namespace.
    Node,
    /// The same, of a host on which libvirt migrates by itself.
    Libvirt,
    /// The namespace of virt-handler's or a launcher's pod.
    KubeVirt,
}

/// A physical link that has carried something since the boot, or one with a default route; others may never have had a cable.
fn is_in_use(link: &Link) -> bool {
    link.has_default_route || link.is_physical && link.rx_bytes.is_some_and(|bytes| bytes > 0)
}

/// `LinkDown` of links that are in use.
#[must_use]
pub fn judge_links(at: Moment, links: &[Link]) -> Vec<Verdict> {
    let judged = links.iter().filter(|link| is_in_use(link)).filter_map(|link| {
        let code = FindingCode::LinkDown;
        let subject = Subject::Device { name: link.name.clone() };
        let n_lost =
            link.carrier_down_total.map(|count| format!(", lost it {count} times since the boot")).unwrap_or_default();
        // Told of a link that is well too: the largest packet of each end of a path.
        let facts = Attributes::new().with(attribute::DEVICE_NAME, &link.name).with_some(attribute::MTU, link.mtu);
        Some(Verdict::State(match (link.is_set_up, link.has_carrier) {
            // The kernel answers for a link that is set up only.
            (Some(true) | None, Some(false)) => {
                present(code, &subject, at, SYSFS, facts, format!("{} has no carrier{n_lost}", link.name))
            }
            (Some(true) | None, Some(true)) => {
                let state = absent(code, &subject, at, SYSFS, format!("{} has a carrier{n_lost}", link.name));
                StateVerdict { attributes: facts, ..state }
            }
            (Some(false), _) | (_, None) => return None,
        }))
    });
    judged.collect()
}

/// `BridgeMtuDiffers` of each bridge that has two ports or more.
#[must_use]
pub fn judge_bridges(at: Moment, bridges: &[Bridge]) -> Vec<Verdict> {
    let judged = bridges.iter().filter(|bridge| bridge.ports.len() > 1).filter_map(|bridge| {
        let (code, subject) = (FindingCode::BridgeMtuDiffers, Subject::Device { name: bridge.name.clone() });
        let (small, least) = bridge.ports.iter().min_by_key(|(_, mtu)| mtu)?;
        let (large, most) = bridge.ports.iter().max_by_key(|(_, mtu)| mtu)?;
        Some(Verdict::State(if least < most {
            let facts = Attributes::new()
                .with(attribute::DEVICE_NAME, small)
                .with(attribute::MTU, least)
                .with(attribute::LIMIT, most);
            let text = format!("of the ports of {} {small} takes {least} bytes and {large} {most}", bridge.name);
            present(code, &subject, at, SYSFS, facts, text)
        } else {
            let text = format!("all {} ports of {} take {least} bytes", bridge.ports.len(), bridge.name);
            absent(code, &subject, at, SYSFS, text)
        }))
    });
    judged.collect()
}

/// `MtuMismatch`, of what was sent to the peer of a migration. `None` where it does not answer to small packets either, or the
/// ways in between could not be tried: then a large one tells nothing.
#[must_use]
pub fn judge_packets(at: Moment, peer: IpAddr, tried: PathTry) -> Option<Verdict> {
    let (code, n_bytes) = (FindingCode::MtuMismatch, tried.large_bytes);
    let facts = Attributes::new().with(attribute::SERVER, peer).with(attribute::MTU, n_bytes);
    Some(Verdict::State(if tried.is_large_answered? {
        absent(code, &Subject::Node, at, ICMP, format!("{peer} answers to packets of {n_bytes} bytes as to small ones"))
    } else {
        let text = format!("{peer} answers to small packets, and not to one of {n_bytes} bytes or its parts");
        present(code, &Subject::Node, at, ICMP, facts, text)
    }))
}

/// `MigrationPeerSilent`, and `StorageConnectionLost` for each storage server that does not answer.
///
/// `MigrationPeerSilent` becomes `Absent` only where migrations are seen: not in the node's namespace beside KubeVirt.
#[must_use]
pub fn judge_connections(at: Moment, owner: Owner, sockets: &[TcpSocket]) -> Vec<Verdict> {
    let code = FindingCode::MigrationPeerSilent;
    let silent: Vec<&TcpSocket> =
        sockets.iter().filter(|row| row.is_syn_sent() && row.n_retransmits >= MIN_RETRANSMITS).collect();
    let stalled =
        sockets.iter().filter(|row| SENDING.contains(&row.state) && row.n_retransmits >= MIN_RETRANSMITS_ESTABLISHED);
    let words = |row: &TcpSocket| {
        if row.is_syn_sent() {
            let n_sent = row.n_retransmits + 1;
            format!("{} has sent {n_sent} requests to {} without an answer (SYN-SENT)", row.local, row.remote)
        } else {
            let n_open = row.send_queue_bytes;
            format!(
                "{} has sent {n_open} bytes to {} {} times again without an answer",
                row.local, row.remote, row.n_retransmits
            )
        }
    };
    let is_migration = |row: &&TcpSocket| match owner {
        Owner::Node | Owner::Libvirt => LIBVIRT_PORTS.contains(&row.remote.port()),
        Owner::KubeVirt => row.remote.port() >= FIRST_CHOSEN_PORT,
    };
    let mut verdicts = Vec::new();
    match silent.iter().copied().chain(stalled).find(is_migration) {
        Some(row) => {
            let what = if row.is_syn_sent() { "syn-sent" } else { "retransmits" };
            let facts = Attributes::new().with(attribute::SERVER, row.remote).with(attribute::WHAT, what);
            verdicts.push(Verdict::State(present(code, &Subject::Node, at, PROCFS, facts, words(row))));
        }
        None if owner != Owner::Node => {
            let text = format!("{} connections of those that migrate, none without an answer", sockets.len());
            verdicts.push(Verdict::State(absent(code, &Subject::Node, at, PROCFS, text)));
        }
        None => {}
    }
    let mut told: Vec<(&str, IpAddr)> = Vec::new();
    for row in silent {
        let Some((_, backend)) = STORAGE_PORTS.iter().find(|(port, _)| *port == row.remote.port()) else { continue };
        if told.contains(&(backend, row.remote.ip())) {
            continue;
        }
        told.push((backend, row.remote.ip()));
        verdicts.push(Verdict::Occurrence(OccurrenceVerdict {
            code: FindingCode::StorageConnectionLost,
            subject: Subject::Node,
            at,
            count: 1,
            attributes: Attributes::new().with(attribute::BACKEND, backend).with(attribute::SERVER, row.remote.ip()),
            evidence: vec![Evidence::new(PROCFS, at, words(row))],
        }));
    }
    verdicts
}

/// The same by the kernel's count alone, which stands still: since all connections were last seen to be answered, none has timed out.
#[must_use]
pub fn judge_no_timeouts(at: Moment, owner: Owner) -> Option<Verdict> {
    let text = "no connection of those that migrate has timed out since all were seen to be answered";
    let code = FindingCode::MigrationPeerSilent;
    (owner != Owner::Node).then(|| Verdict::State(absent(code, &Subject::Node, at, PROCFS, text)))
}

/// Adds to the `MigrationPeerSilent` of `peer` what came of packets that were sent to it: where its host answers to those, only the
/// port of the migration is silent. No answer says nothing by itself: a host may drop what nobody there asked for.
pub fn add_answer(at: Moment, verdicts: &mut [Verdict], peer: IpAddr, tried: PathTry) {
    let states = verdicts.iter_mut().filter_map(|verdict| match verdict {
        Verdict::State(state) => Some(state),
        Verdict::Occurrence(_) => None,
    });
    let is_its = |address: &str| address.parse::<SocketAddr>().is_ok_and(|address| address.ip() == peer);
    for state in states.filter(|state| state.code == FindingCode::MigrationPeerSilent) {
        if !state.attributes.get(attribute::SERVER).is_some_and(is_its) {
            continue;
        }
        let text = if tried.is_small_answered {
            state.attributes = std::mem::take(&mut state.attributes).with(attribute::HOST_ANSWERS, true);
            format!("{peer} answers to a datagram from the same network namespace: only the port is silent")
        } else {
            format!("{peer} does not answer to a datagram either, which it may drop all the same")
        };
        state.evidence.push(Evidence::new(ICMP, at, text));
    }
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{Absent, Present};

    use super::*;
    use crate::testing::status_of;

    fn socket(remote: &str, state: u8, n_retransmits: u32) -> TcpSocket {
        let (local, remote) = ("192.0.2.1:40000".parse().unwrap(), remote.parse().unwrap());
        TcpSocket { local, remote, state, n_retransmits, send_queue_bytes: 0, receive_queue_bytes: 0, inode: 0 }
    }

    #[test]
    fn large_packets_that_are_lost_where_small_ones_are_answered_are_an_mtu() {
        let check = |is_small_answered, is_large_answered, want| {
            let tried = PathTry { is_small_answered, is_large_answered, large_bytes: 9_000 };
            let judged = judge_packets(Moment::default(), "192.0.2.1".parse().unwrap(), tried);
            assert_eq!(status_of(judged.as_slice(), FindingCode::MtuMismatch), want, "{tried:?}");
        };
        check(true, Some(false), Some(Present));
        check(true, Some(true), Some(Absent));
        check(false, None, None);
    }

    #[test]
    fn a_peer_is_silent_after_two_retransmissions() {
        for (state, retransmits, want) in [
            (2, 1, Absent),
            (2, 2, Present),
            (1, 2, Absent),
            (1, 3, Present),
            (4, 3, Present),
            (8, 2, Absent),
            (8, 3, Present),
            (9, 3, Present),
            (11, 3, Present),
            (5, 9, Absent),
            (6, 9, Absent),
        ] {
            let verdicts =
                judge_connections(Moment::default(), Owner::KubeVirt, &[socket("192.0.2.9:43210", state, retransmits)]);
            assert_eq!(status_of(&verdicts, FindingCode::MigrationPeerSilent), Some(want), "{state} {retransmits}");
        }
    }

    #[test]
    fn ports_of_a_bridge_take_the_same_packets_or_the_smallest_is_told() {
        let judge = |mtus: &[u32]| {
            let port = |(n, mtu): (usize, &u32)| (format!("port{n}"), *mtu);
            let ports = mtus.iter().enumerate().map(port).collect();
            judge_bridges(Moment::default(), &[Bridge { name: "br1".to_owned(), ports }])
        };
        let check = |mtus: &[u32], want| {
            assert_eq!(status_of(&judge(mtus), FindingCode::BridgeMtuDiffers), want, "{mtus:?}");
        };
        check(&[1500, 1500], Some(Absent));
        check(&[1500, 1499], Some(Present));
        check(&[1500], None);
        check(&[], None);
        let verdicts = judge(&[9000, 1400, 1500]);
        let Verdict::State(state) = &verdicts[0] else { panic!("a state") };
        let facts = [attribute::DEVICE_NAME, attribute::MTU, attribute::LIMIT].map(|key| state.attributes.get(key));
        assert_eq!(facts, [Some("port1"), Some("1400"), Some("9000")]);
    }

    #[test]
    fn a_silent_port_of_a_host_that_answers_is_told_from_a_silent_host() {
        let check = |remote: &str, is_small_answered, n_evidence, want: Option<&str>| {
            let mut verdicts = judge_connections(Moment::default(), Owner::KubeVirt, &[socket(remote, 2, 2)]);
            let tried = PathTry { is_small_answered, is_large_answered: None, large_bytes: 9_000 };
            add_answer(Moment::default(), &mut verdicts, "192.0.2.9".parse().unwrap(), tried);
            let Verdict::State(state) = &verdicts[0] else { panic!("a state") };
            assert_eq!(state.attributes.get(attribute::HOST_ANSWERS), want, "{remote} {is_small_answered}");
            assert_eq!(state.evidence.len(), n_evidence);
        };
        check("192.0.2.9:43210", true, 2, Some("true"));
        check("192.0.2.9:43210", false, 2, None);
        check("192.0.2.8:43210", true, 1, None);
    }

    #[test]
    fn in_the_nodes_namespace_only_libvirts_ports_are_a_migrations() {
        let status = |remote| {
            let verdicts = judge_connections(Moment::default(), Owner::Node, &[socket(remote, 2, 5)]);
            status_of(&verdicts, FindingCode::MigrationPeerSilent)
        };
        assert_eq!(status("192.0.2.9:49152"), Some(Present));
        assert_eq!(status("192.0.2.9:43210"), None);
        assert_eq!(status("192.0.2.9:6443"), None);
    }

    #[test]
    fn a_storage_server_without_an_answer_is_told_once() {
        let sockets = [socket("192.0.2.5:2049", 2, 4), socket("192.0.2.5:2049", 2, 6), socket("192.0.2.6:3260", 2, 0)];
        assert_eq!(judge_no_timeouts(Moment::default(), Owner::Node), None);
        let verdicts = judge_connections(Moment::default(), Owner::Node, &sockets);
        let [Verdict::Occurrence(lost)] = &verdicts[..] else { panic!("{verdicts:?}") };
        assert_eq!(lost.code, FindingCode::StorageConnectionLost);
        assert_eq!((lost.attributes.get("backend"), lost.attributes.get("server")), (Some("nfs"), Some("192.0.2.5")));
    }

    #[test]
    fn a_plain_hosts_own_namespace_shows_its_migrations() {
        let status = |remote| {
            let verdicts = judge_connections(Moment::default(), Owner::Libvirt, &[socket(remote, 2, 5)]);
            status_of(&verdicts, FindingCode::MigrationPeerSilent)
        };
        assert_eq!(status("192.0.2.9:49152"), Some(Present));
        assert_eq!(status("192.0.2.9:43210"), Some(Absent));
    }

    #[test]
    fn only_a_link_that_was_in_use_can_be_down() {
        let link = |is_physical, has_carrier, rx_bytes| Link {
            name: "eth0".to_owned(),
            is_physical,
            is_set_up: Some(true),
            has_carrier,
            rx_bytes,
            carrier_down_total: Some(1),
            has_default_route: false,
            mtu: Some(1500),
            packets_total: Some(9),
            errors_total: Some(0),
        };
        for (link, want) in [
            (link(true, Some(false), Some(9)), Some(Present)),
            (link(true, Some(true), Some(9)), Some(Absent)),
            (link(true, Some(false), Some(0)), None),
            (link(false, Some(false), Some(9)), None),
            (link(true, None, Some(9)), None),
            (Link { is_set_up: Some(false), ..link(true, Some(false), Some(9)) }, None),
            (Link { has_default_route: true, ..link(false, Some(false), None) }, Some(Present)),
        ] {
            let verdicts = judge_links(Moment::default(), std::slice::from_ref(&link));
            assert_eq!(status_of(&verdicts, FindingCode::LinkDown), want, "{link:?}");
        }
    }
}
