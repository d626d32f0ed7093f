//! `nft list ruleset` and `iptables-save`: the rules that drop or reject.
//!
//! Only rules that end a packet are kept, with the ports and addresses they name; what a rule does besides stays its text.

/// A rule that ends packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterRule {
    /// Table, for example `inet filter`.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// The rule as it stands.
    pub text: String,
    /// Whether it rejects instead of dropping.
    pub is_reject: bool,
    /// Whether it takes TCP: says so, or names no protocol.
    pub takes_tcp: bool,
    /// Destination ports, first and last; empty when it names none.
    pub dports: Vec<(u16, u16)>,
    /// Packets it has met; `None` without a counter.
    pub n_packets: Option<u64>,
}

/// The rules of either format; `None` when the text is neither.
#[must_use]
pub fn parse_filter_rules(text: &str) -> Option<Vec<FilterRule>> {
    let is_iptables = text.lines().any(|line| line.starts_with("-A ") || (line.starts_with('*') && line.len() < 16));
    if is_iptables {
        return Some(iptables(text));
    }
    text.lines().any(|line| line.starts_with("table ") && line.ends_with('{')).then(|| nft(text))
}

fn nft(text: &str) -> Vec<FilterRule> {
    let (mut table, mut chain) = (String::new(), None);
    let mut rules = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ").and_then(|rest| rest.strip_suffix('{')) {
            table = name.trim().to_owned();
            chain = None;
        } else if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix('{')) {
            chain = Some(name.trim().to_owned());
        } else if line == "}" {
            chain = None;
        } else if let Some(chain) = &chain {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_reject = words.contains(&"reject");
            if words.first() == Some(&"type") || !(is_reject || words.contains(&"drop")) {
                continue;
            }
            let protocol =
                words.iter().find(|word| matches!(**word, "tcp" | "udp" | "icmp" | "icmpv6" | "sctp" | "esp"));
            let n_packets = after(&words, "packets").and_then(|word| word.parse().ok());
            rules.push(FilterRule {
                table: table.clone(),
                chain: chain.clone(),
                text: line.to_owned(),
                is_reject,
                takes_tcp: protocol.is_none_or(|protocol| *protocol == "tcp"),
                dports: nft_ports(line),
                n_packets,
            });
        }
    }
    rules
}

fn after<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.get(words.iter().position(|word| *word == key)? + 1).copied()
}

/// `dport 22`, `dport 30000-65535`, `dport { 80, 443 }`; a negated set is no set.
fn nft_ports(line: &str) -> Vec<(u16, u16)> {
    let Some((_, rest)) = line.split_once("dport ") else { return Vec::new() };
    let list = match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default(),
        None => rest.split_whitespace().next().unwrap_or_default(),
    };
    list.split(',').filter_map(|range| port_range(range.trim(), '-')).collect()
}

fn port_range(text: &str, separator: char) -> Option<(u16, u16)> {
    match text.split_once(separator) {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => text.parse().ok().map(|port| (port, port)),
    }
}

fn iptables(text: &str) -> Vec<FilterRule> {
    let mut table = String::new();
    let mut rules = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
            continue;
        }
        // `[12:720] -A INPUT …` with `-c`.
        let (counter, rule) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((counter, rule)) => (counter.split(':').next().and_then(|packets| packets.parse().ok()), rule),
            None => (None, line),
        };
        let Some(rest) = rule.strip_prefix("-A ") else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let target = after(&words, "-j").unwrap_or_default();
        if !matches!(target, "DROP" | "REJECT") {
            continue;
        }
        let ports = after(&words, "--dport").or_else(|| after(&words, "--dports")).unwrap_or_default();
        // `! --dport 22` is all but one.
        let is_negated = words.windows(2).any(|pair| pair[0] == "!" && pair[1].starts_with("--dport"));
        rules.push(FilterRule {
            table: table.clone(),
            chain: words.first().map(|chain| (*chain).to_owned()).unwrap_or_default(),
            text: rule.to_owned(),
            is_reject: target == "REJECT",
            takes_tcp: after(&words, "-p").is_none_or(|protocol| protocol == "tcp"),
            dports: if is_negated {
                Vec::new()
            } else {
                ports.split(',').filter_map(|range| port_range(range, ':')).collect()
            },
            n_packets: counter,
        });
    }
    rules
}
