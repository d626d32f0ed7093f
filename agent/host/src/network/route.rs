//! Default routes and protocol counters of a network namespace.
//!
//! Sources: `/proc/net/route` (`fib_trie.c`), `/proc/net/ipv6_route` (`net/ipv6/route.c`), `/proc/net/netstat`
//! (`net/ipv4/proc.c`: a line of names, a line of values).

use std::path::Path;

use crate::{HostRoot, ReadError};

/// Most of a table of routes that is read, bytes.
const TABLE_LIMIT_BYTES: usize = 8 << 20;

/// Parses `/proc/net/route`: the links that carry a default route of IPv4.
pub fn parse_default_routes(text: &str) -> Vec<String> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, destination, _, flags, _, _, _, mask, ..] = words[..] else { return None };
        // RTF_UP set, RTF_REJECT not.
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = destination == "00000000" && mask == "00000000" && flags & 1 != 0 && flags & 0x200 == 0;
        is_default.then(|| name.to_owned())
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Parses `/proc/net/ipv6_route`: the links that carry a default route of IPv6.
pub fn parse_default_routes_v6(text: &str) -> Vec<String> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, prefix, _, _, _, _, _, _, flags, name] = words[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default =
            prefix == "00" && destination.bytes().all(|byte| byte == b'0') && flags & 1 != 0 && flags & 0x200 == 0;
        (is_default && destination.len() == 32 && name != "lo").then(|| name.to_owned())
    };
    text.lines().filter_map(row).collect()
}

/// The links that carry a default route, of both families, sorted; `directory` is `proc/net` or `proc/1/net`.
///
/// # Errors
/// When the table of IPv4 cannot be read; a kernel without IPv6 has no second one.
pub fn read_default_routes(root: &HostRoot, directory: impl AsRef<Path>) -> Result<Vec<String>, ReadError> {
    let text = |name: &str| {
        root.read_bytes(directory.as_ref().join(name), TABLE_LIMIT_BYTES)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let mut names = parse_default_routes(&text("route")?);
    match text("ipv6_route") {
        Ok(text) => names.extend(parse_default_routes_v6(&text)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Parses one counter out of `netstat` or `snmp`: `group` is the word before the colon. `None` when it is not there.
pub fn parse_netstat_counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|word| word == name)?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// What TCP has counted since the network namespace began. `None` where it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Connections that were dropped because a server's queue was full.
    pub listen_overflows_total: Option<u64>,
    /// Times that something sent got no answer in time, requests for connections included (`tcp_retransmit_timer` of the kernel's
    /// `net/ipv4/tcp_timer.c`): while it stands still, no connection begins to be without an answer.
    pub timeouts_total: Option<u64>,
}

/// Reads them out of `netstat`; `directory` is `proc/net` or `proc/1/net`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_tcp_counters(root: &HostRoot, directory: impl AsRef<Path>) -> Result<TcpCounters, ReadError> {
    let text = root.read_text(directory.as_ref().join("netstat"))?;
    let counter = |name: &str| parse_netstat_counter(&text, "TcpExt", name);
    Ok(TcpCounters { listen_overflows_total: counter("ListenOverflows"), timeouts_total: counter("TCPTimeouts") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADING: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn only_a_default_route_that_is_up_counts() {
        let text = format!(
            "{HEADING}eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth1\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\nblack\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n"
        );
        assert_eq!(parse_default_routes(&text), ["eth0"]);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(parse_default_routes_v6(&v6), ["eth0"]);
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 17 19\nIpExt: InNoRoutes\nIpExt: 3\n";
        assert_eq!(parse_netstat_counter(text, "TcpExt", "ListenOverflows"), Some(17));
        assert_eq!(parse_netstat_counter(text, "IpExt", "InNoRoutes"), Some(3));
        assert_eq!(parse_netstat_counter(text, "TcpExt", "None"), None);
        assert_eq!(parse_netstat_counter("TcpExt: ListenOverflows\n", "TcpExt", "ListenOverflows"), None);
    }

    #[test]
    fn a_request_for_a_connection_that_nobody_answers_counts_as_timed_out() {
        let root = HostRoot::new("/");
        let counted = || read_tcp_counters(&root, "proc/self/net").unwrap().timeouts_total.unwrap();
        let before = counted();
        // A server that takes nobody: its queue is full after the first, and further requests are dropped.
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&server, 0).unwrap();
        let address = server.local_addr().unwrap();
        let limit = std::time::Duration::from_millis(1_500);
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect_timeout(&address, limit)).collect();
        assert!(clients.iter().any(Result::is_err), "{clients:?}");
        assert!(counted() > before);
    }

    #[test]
    fn this_machine_counts() {
        let root = HostRoot::new("/");
        let counters = read_tcp_counters(&root, "proc/self/net").unwrap();
        assert!(counters.listen_overflows_total.is_some() && counters.timeouts_total.is_some());
        assert!(read_default_routes(&root, "proc/self/net").is_ok());
        assert!(read_default_routes(&root, "proc/none/net").unwrap_err().is_not_found());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "([0-9A-Fé]{0,33}[ \t\n]){0,24}") {
            let _ = parse_default_routes(&format!("{HEADING}{text}"));
            let _ = parse_default_routes_v6(&text);
            let _ = parse_netstat_counter(&format!("TcpExt: {text}\nTcpExt:{text}"), "TcpExt", "0");
        }
    }
}
