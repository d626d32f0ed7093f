//! Name service: where to ask, and the little of DNS that it takes to see whether anybody answers.
//!
//! Not a resolver: one question, one answer, its code and addresses. Sources: `resolv.conf(5)`, `hosts(5)`, RFC 1035
//! (messages), RFC 3596 (AAAA).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{HostRoot, ReadError};

/// Most servers that the C library asks (`MAXNS`).
const MAX_SERVERS: usize = 3;
/// Longest name of DNS, bytes.
const MAX_NAME_BYTES: usize = 253;
/// How many names one name may refer on to within a message.
const MAX_ANSWERS: usize = 64;

/// What `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Whom to ask, in order. Empty: the local machine.
    pub servers: Vec<IpAddr>,
    /// Domains to append to short names.
    pub search: Vec<String>,
}

/// Parses `resolv.conf`. Lines that are not understood are left out, as the C library does.
pub fn parse_resolv_conf(text: &str) -> ResolvConf {
    let mut found = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A zone (`fe80::1%eth0`) is no part of an address here.
                let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                if found.servers.len() < MAX_SERVERS {
                    found.servers.extend(address);
                }
            }
            Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    found
}

/// The addresses that `hosts` gives a name.
pub fn parse_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let row = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    text.lines().filter_map(row).collect()
}

/// What a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Name servers; asked of the root it is the smallest question that every server answers.
    Ns,
}

impl RecordType {
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Ns => 2,
        }
    }
}

/// A question as a datagram. `name` without or with a dot at its end; empty for the root. `None` for a name that DNS cannot have.
pub fn dns_question(id: u16, name: &str, record: RecordType) -> Option<Vec<u8>> {
    let name = name.trim_end_matches('.');
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let mut message = Vec::with_capacity(18 + name.len());
    message.extend(id.to_be_bytes());
    // Recursion desired; one question, nothing else.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|_| !name.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(record.number().to_be_bytes());
    message.extend([0, 1]);
    Some(message)
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// 0 no error, 2 the server failed, 3 no such name, 5 refused.
    pub code: u8,
    /// Whether there was more than fits: whoever wants all asks over TCP.
    pub is_truncated: bool,
    /// Addresses, whichever were asked for.
    pub addresses: Vec<IpAddr>,
}

/// Parses an answer to the question `id`. `None` when it is no answer to it, or cut in its head.
pub fn parse_dns_answer(message: &[u8], id: u16) -> Option<DnsAnswer> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let flags = number(2)?;
    if number(0)? != id || flags & 0x8000 == 0 {
        return None;
    }
    let (n_questions, n_answers) = (number(4)?, number(6)?);
    let code = u8::try_from(flags & 0x000f).ok()?;
    let mut answer = DnsAnswer { code, is_truncated: flags & 0x0200 != 0, addresses: Vec::new() };
    let mut at = 12;
    for _ in 0..n_questions {
        let Some(end) = skip_name(message, at) else { return Some(answer) };
        at = end + 4;
    }
    for _ in 0..usize::from(n_answers).min(MAX_ANSWERS) {
        let Some(head) = skip_name(message, at) else { break };
        let (Some(kind), Some(length)) = (number(head), number(head + 8)) else { break };
        let data = head + 10..head + 10 + usize::from(length);
        at = data.end;
        let Some(data) = message.get(data) else { break };
        match (kind, data) {
            (1, [a, b, c, d]) => answer.addresses.push(Ipv4Addr::new(*a, *b, *c, *d).into()),
            (28, data) => answer
                .addresses
                .extend(<[u8; 16]>::try_from(data).ok().map(|bytes| IpAddr::from(Ipv6Addr::from(bytes)))),
            _ => {}
        }
    }
    Some(answer)
}

/// Where the name that begins at `at` ends.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A reference to a name further up; it ends this one.
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

/// Name or address, and port, of the API server in a kubeconfig. `None` when it names none.
pub fn parse_api_server(kubeconfig: &str) -> Option<(String, u16)> {
    let url = kubeconfig.lines().find_map(|line| line.trim().trim_start_matches("- ").strip_prefix("server:"))?;
    let url = url.trim().trim_matches(['"', '\'']);
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    split_port(authority, if scheme == "http" { 80 } else { 443 })
}

/// `host`, `host:port`, `[v6]:port`, with the port where none is given.
pub(super) fn split_port(authority: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Where kubelets keep the kubeconfig with which they speak to the API server.
const KUBECONFIGS: [&str; 5] = [
    "etc/kubernetes/kubelet.conf",
    "var/lib/kubelet/kubeconfig",
    "etc/kubernetes/kubelet/kubeconfig",
    "var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "var/lib/rancher/rke2/agent/kubelet.kubeconfig",
];

/// The API server that this node's kubelet speaks to. `None` where no kubelet has a kubeconfig.
///
/// # Errors
/// When there is one and it cannot be read.
pub fn read_api_server(root: &HostRoot) -> Result<Option<(String, u16)>, ReadError> {
    for path in KUBECONFIGS {
        if let Some(text) = root.read_text_if_any(path)? {
            return Ok(parse_api_server(&text));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_and_domains_are_read_as_the_c_library_does() {
        let conf = parse_resolv_conf(
            "# made by hand\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\nnameserver nonsense\nsearch prod.svc.cluster.local svc.cluster.local\noptions ndots:5\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
        );
        assert_eq!(
            conf.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.96.0.10", "fe80::1", "192.0.2.3"]
        );
        assert_eq!(conf.search, ["prod.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(parse_resolv_conf(""), ResolvConf::default());
    }

    #[test]
    fn a_name_in_hosts_is_found_by_each_of_its_names() {
        let text = "127.0.0.1 localhost\n192.0.2.9 api.example API # 192.0.2.10 api\n::1 localhost\n";
        assert_eq!(parse_hosts(text, "api").len(), 1);
        assert_eq!(parse_hosts(text, "localhost").len(), 2);
        assert!(parse_hosts(text, "other").is_empty());
    }

    #[test]
    fn a_question_has_the_form_of_the_standard() {
        let message = dns_question(0x1234, "api.example.", RecordType::A).unwrap();
        assert_eq!(message[..12], [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[12..], *b"\x03api\x07example\x00\x00\x01\x00\x01");
        assert_eq!(dns_question(1, "", RecordType::Ns).unwrap()[12..], [0, 0, 2, 0, 1]);
        assert_eq!(dns_question(1, "a..b", RecordType::A), None);
        assert_eq!(dns_question(1, &"x".repeat(64), RecordType::A), None);
    }

    #[test]
    fn an_answer_is_read_through_its_references() {
        let mut message = dns_question(7, "api.example", RecordType::A).unwrap();
        message[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 3]);
        // A CNAME to a name further up, an address of each family.
        message.extend(*b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x10");
        message.extend(*b"\xc0\x10\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x09");
        message.extend(*b"\xc0\x10\x00\x1c\x00\x01\x00\x00\x00\x3c\x00\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09");
        let answer = parse_dns_answer(&message, 7).unwrap();
        assert_eq!(answer.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.9", "2001:db8::9"]);
        assert_eq!(parse_dns_answer(&message, 8), None, "another question's");
        for end in 0..message.len() {
            let _ = parse_dns_answer(&message[..end], 7);
        }
        message[3] = 0x83;
        assert_eq!(parse_dns_answer(&message, 7).map(|answer| answer.code), Some(3));
        message[2] = 0x01;
        assert_eq!(parse_dns_answer(&message, 7), None, "a question is no answer");
    }

    #[test]
    fn a_kubeconfig_names_the_api_server() {
        let server = |url: &str| parse_api_server(&format!("clusters:\n- cluster:\n    server: {url}\n  name: x\n"));
        assert_eq!(server("https://api.example:6443"), Some(("api.example".to_owned(), 6443)));
        assert_eq!(server("https://[2001:db8::1]:6443/"), Some(("2001:db8::1".to_owned(), 6443)));
        assert_eq!(server("\"https://127.0.0.1\""), Some(("127.0.0.1".to_owned(), 443)));
        assert_eq!(server("nonsense"), None);
        assert_eq!(parse_api_server(""), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(text in "\\PC{0,120}", bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_resolv_conf(&text);
            let _ = parse_hosts(&text, &text);
            let _ = parse_api_server(&format!("server: https://{text}"));
            let _ = dns_question(1, &text, RecordType::Aaaa);
            let _ = parse_dns_answer(&bytes, 0);
            let answer = [&[0, 0, 0x80, 0, 0, 1, 0, 9, 0, 0, 0, 0][..], &bytes].concat();
            let _ = parse_dns_answer(&answer, 0);
        }
    }
}
