//! Links, routes and TCP connections of the node or of one process's network namespace; name service and registries.
//!
//! Sources: `/sys/class/net/*` (kernel `Documentation/ABI/testing/sysfs-class-net`), `/proc/net/tcp`, `/proc/net/tcp6`
//! (`proc_pid_net(5)`).

mod bridge;
mod name;
mod namespace;
mod path;
mod registries_conf;
mod registry;
mod route;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

pub use bridge::{Bridge, read_bridges};
pub use name::{
    DnsAnswer, RecordType, ResolvConf, dns_question, parse_api_server, parse_dns_answer, parse_hosts,
    parse_resolv_conf, read_api_server,
};
pub use namespace::NetworkNamespace;
pub use path::{PathTry, try_path};
pub use registries_conf::{ConfiguredMirror, ConfiguredRegistry, parse_registries_conf};
pub use registry::{
    RegistryHost, TlsReply, parse_image_registry, parse_registry_hosts, parse_tls_reply, read_has_proxy,
    read_registry_hosts, tls_hello,
};
pub use route::{
    TcpCounters, parse_default_routes, parse_default_routes_v6, parse_netstat_counter, read_default_routes,
    read_tcp_counters,
};

use crate::{HostRoot, Malformed, ReadError};

/// Most links that are read: a node has one for each pod and some more.
const MAX_LINKS: usize = 4096;
/// Most of a table of connections that is read, bytes: some 200,000 connections.
const TABLE_LIMIT_BYTES: usize = 32 << 20;
/// Most connections that are kept of one table.
const MAX_SOCKETS: usize = 100_000;

/// A network link. Each value is `None` where it was not there or could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name: `eth0`, `bond0`.
    pub name: String,
    /// Whether there is a device behind it (PCI, virtio, USB), or it bundles such ones (bond).
    pub is_physical: bool,
    /// Whether it is set up (`IFF_UP`), whatever the cable says.
    pub is_set_up: Option<bool>,
    /// Whether there is a carrier. The kernel answers for links that are set up only.
    pub has_carrier: Option<bool>,
    /// Bytes received since the boot.
    pub rx_bytes: Option<u64>,
    /// Times the carrier went away.
    pub carrier_down_total: Option<u64>,
    /// Whether a default route goes over it; only who reads routes sets it.
    pub has_default_route: bool,
    /// Largest packet, bytes.
    pub mtu: Option<u32>,
    /// Packets sent and received since the boot.
    pub packets_total: Option<u64>,
    /// Of these broken ones, and those that could not be sent.
    pub errors_total: Option<u64>,
}

/// The links of the node, by name.
///
/// # Errors
/// When there is no list; `NotFound` when sysfs is not there.
pub fn read_links(root: &HostRoot) -> Result<Vec<Link>, ReadError> {
    Ok(link_names(root)?.into_iter().map(|name| read_link(root, name)).collect())
}

/// The physical links, and those that carry one of `routes`, by name: few, where each pod has one more.
///
/// # Errors
/// As [`read_links`].
pub fn read_used_links(root: &HostRoot, routes: &[String]) -> Result<Vec<Link>, ReadError> {
    let is_used = |name: &String| {
        // A bond is virtual and bundles physical ones.
        let is_virtual = root
            .read_link(format!("sys/class/net/{name}"))
            .is_ok_and(|link| link.components().any(|part| part.as_os_str() == "virtual"));
        routes.contains(name) || !is_virtual || root.list(format!("sys/class/net/{name}/bonding")).is_ok()
    };
    let read = |name: String| Link { has_default_route: routes.contains(&name), ..read_link(root, name) };
    Ok(link_names(root)?.into_iter().filter(is_used).map(read).collect())
}

fn link_names(root: &HostRoot) -> Result<Vec<String>, ReadError> {
    let names = root.list("sys/class/net")?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).take(MAX_LINKS).collect())
}

fn read_link(root: &HostRoot, name: String) -> Link {
    let directory = format!("sys/class/net/{name}");
    let text = |file: &str| root.read_text(format!("{directory}/{file}")).ok().map(|text| text.trim().to_owned());
    let number = |file: &str| text(file)?.parse::<u64>().ok();
    let both = |kind: &str| {
        Some(number(&format!("statistics/rx_{kind}"))?.saturating_add(number(&format!("statistics/tx_{kind}"))?))
    };
    let flags = text("flags").and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    let entries = root.list(&directory).unwrap_or_default();
    Link {
        is_physical: entries.iter().any(|entry| entry == "device" || entry == "bonding"),
        is_set_up: flags.map(|flags| flags & 1 != 0),
        has_carrier: number("carrier").map(|carrier| carrier == 1),
        rx_bytes: number("statistics/rx_bytes"),
        carrier_down_total: number("carrier_down_count"),
        has_default_route: false,
        mtu: number("mtu").and_then(|mtu| mtu.try_into().ok()),
        packets_total: both("packets"),
        errors_total: both("errors"),
        name,
    }
}

/// One row of a TCP table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The kernel's number of the state: 1 established, 2 SYN-SENT, 10 listening.
    pub state: u8,
    /// Retransmissions without an answer.
    pub n_retransmits: u32,
    /// Bytes sent and not acknowledged, or not yet sent.
    pub send_queue_bytes: u64,
    /// Bytes that arrived and were not read; of a listening socket connections that nobody has taken.
    pub receive_queue_bytes: u64,
    /// The socket's number, as `/proc/PID/fd` has it; 0 once no process has it.
    pub inode: u64,
}

impl TcpSocket {
    /// Whether it has asked for a connection and got no answer yet.
    pub fn is_syn_sent(&self) -> bool {
        self.state == 2
    }
}

/// Parses `/proc/net/tcp` or `tcp6`; lines that are no row are left out. An IPv4 address in IPv6 form becomes IPv4.
///
/// # Errors
/// When not even the heading is there.
pub fn parse_tcp_table(text: &str) -> Result<Vec<TcpSocket>, Malformed> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    if !heading.contains("local_address") {
        return Err(Malformed::new(1, heading));
    }
    Ok(lines.filter_map(parse_row).take(MAX_SOCKETS).collect())
}

/// `sl local rem st tx:rx tr:tm retrnsmt uid …`.
fn parse_row(line: &str) -> Option<TcpSocket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = parse_address(fields.next()?)?;
    let remote = parse_address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (send_queue, receive_queue) = fields.next()?.split_once(':')?;
    let bytes = |text: &str| u64::from_str_radix(text, 16).ok();
    let n_retransmits = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
    Some(TcpSocket {
        local,
        remote,
        state,
        n_retransmits,
        send_queue_bytes: bytes(send_queue)?,
        receive_queue_bytes: bytes(receive_queue)?,
        inode: fields.nth(2).and_then(|inode| inode.parse().ok()).unwrap_or(0),
    })
}

/// `0100007F:1F90`: words of four bytes in the order of the machine that wrote it, which is little-endian wherever KubeVirt
/// runs but on s390x.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_le_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The TCP connections that `directory` (`proc/net`, `proc/12/net`) shows, of both families.
///
/// # Errors
/// `NotFound` when neither table was saved; otherwise see [`ReadError`].
pub fn read_tcp(root: &HostRoot, directory: impl AsRef<Path>) -> Result<Vec<TcpSocket>, ReadError> {
    let directory = directory.as_ref();
    let mut sockets = None;
    for name in ["tcp", "tcp6"] {
        let path = directory.join(name);
        match root.read_bytes(&path, TABLE_LIMIT_BYTES) {
            Ok(bytes) => {
                let rows = parse_tcp_table(&String::from_utf8_lossy(&bytes));
                let rows = rows.map_err(|malformed| malformed.at(root.display_path(&path)))?;
                sockets.get_or_insert_with(Vec::new).extend(rows);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    sockets.ok_or_else(|| ReadError::NotFound { path: root.display_path(directory.join("tcp")) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";

    #[test]
    fn a_connection_without_an_answer_is_read_with_its_peer() {
        let row = "   3: 0B004D0A:D472 01004D0A:403B 02 00000010:00000001 01:0000176B 00000004     0        0 77 3 0\n";
        let sockets = parse_tcp_table(&format!("{HEADING}rubbish\n{row}")).unwrap();
        assert_eq!(sockets.len(), 1);
        assert_eq!(sockets[0].remote.to_string(), "10.77.0.1:16443");
        assert!(sockets[0].is_syn_sent());
        assert_eq!((sockets[0].n_retransmits, sockets[0].inode), (4, 77));
        assert_eq!((sockets[0].send_queue_bytes, sockets[0].receive_queue_bytes), (16, 1));
    }

    #[test]
    fn an_address_of_the_newer_family_is_read_and_a_mapped_one_becomes_the_older() {
        let address = |text: &str| parse_address(text).map(|address| address.ip().to_string());
        assert_eq!(address("00000000000000000000000001000000:0016").as_deref(), Some("::1"));
        assert_eq!(address("0000000000000000FFFF00000100007F:0016").as_deref(), Some("127.0.0.1"));
        assert_eq!(address("0100007:0016"), None);
    }

    #[test]
    fn links_say_whether_they_are_physical_and_carry() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("sys/class/net");
        std::fs::create_dir_all(net.join("eth0/device")).unwrap();
        std::fs::create_dir_all(net.join("eth0/statistics")).unwrap();
        std::fs::create_dir_all(net.join("veth1")).unwrap();
        for (path, text) in [("eth0/flags", "0x1003\n"), ("eth0/carrier", "0\n"), ("eth0/statistics/rx_bytes", "9\n")] {
            std::fs::write(net.join(path), text).unwrap();
        }
        let links = read_links(&HostRoot::new(dir.path())).unwrap();
        let eth0 = &links[0];
        assert!(eth0.is_physical);
        assert_eq!((eth0.is_set_up, eth0.has_carrier, eth0.rx_bytes), (Some(true), Some(false), Some(9)));
        assert_eq!((links[1].is_physical, links[1].is_set_up), (false, None));
    }

    #[test]
    fn links_of_pods_are_left_out_unless_a_route_goes_over_one() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("sys/class/net");
        std::fs::create_dir_all(&net).unwrap();
        for (name, target) in [("eth0", "pci0000:00/0000:00:03.0/net/eth0"), ("veth1", "virtual/net/veth1")] {
            std::fs::create_dir_all(dir.path().join("sys/devices").join(target).join("statistics")).unwrap();
            std::os::unix::fs::symlink(format!("../../devices/{target}"), net.join(name)).unwrap();
        }
        let eth0 = dir.path().join("sys/devices/pci0000:00/0000:00:03.0/net/eth0");
        for (file, text) in [("mtu", "9000\n"), ("statistics/rx_errors", "2\n"), ("statistics/tx_errors", "1\n")] {
            std::fs::write(eth0.join(file), text).unwrap();
        }
        let root = HostRoot::new(dir.path());
        let links = read_used_links(&root, &[]).unwrap();
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["eth0"]);
        assert_eq!((links[0].mtu, links[0].errors_total, links[0].packets_total), (Some(9000), Some(3), None));
        let links = read_used_links(&root, &["veth1".to_owned()]).unwrap();
        assert_eq!(links.iter().map(|link| link.has_default_route).collect::<Vec<_>>(), [false, true]);
        assert!(read_used_links(&HostRoot::new("/none"), &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "( *[0-9]{1,3}:)?( [0-9A-Fé]{0,33}:[0-9A-F]{0,5}){0,6}( \\PC{0,8}){0,3}") {
            let _ = parse_tcp_table(&format!("{HEADING}{text}"));
            let _ = parse_tcp_table(&text);
        }
    }
}
