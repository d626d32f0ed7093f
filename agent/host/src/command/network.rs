//! `ip`, `ping` and `ss`: links, routes, reachability, connections.
//!
//! Sources: iproute2 `ip/ipaddress.c`, `misc/ss.c`; iputils `ping`.

/// A link of `ip link`, `ip addr` or `ip -br link`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkRow {
    /// Name, without `@peer`.
    pub name: String,
    /// Flags, for example `UP`, `LOWER_UP`, `NO-CARRIER`.
    pub flags: Vec<String>,
    /// MTU, bytes.
    pub mtu: Option<u32>,
    /// `UP`, `DOWN`, `UNKNOWN`, `DORMANT`, `LOWERLAYERDOWN`.
    pub state: Option<String>,
    /// `ether`, `loopback`, `none`, `sit`.
    pub link_type: Option<String>,
    /// The bridge or bond it belongs to.
    pub master: Option<String>,
    /// Whether it says of itself that it is virtual (`veth`, `tun`, `dummy` …, or `@` a peer).
    pub is_virtual: bool,
    /// Addresses with their prefix.
    pub addresses: Vec<String>,
}

impl LinkRow {
    /// Whether it was switched on.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags.iter().any(|flag| flag == "UP")
    }

    /// Whether nothing answers at its other end.
    #[must_use]
    pub fn has_no_carrier(&self) -> bool {
        self.flags.iter().any(|flag| flag == "NO-CARRIER") || self.state.as_deref() == Some("LOWERLAYERDOWN")
    }
}

/// What one `ping` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Whom.
    pub target: Option<String>,
    /// Bytes of data in each packet.
    pub payload_bytes: Option<u32>,
    /// Packets sent.
    pub n_sent: u64,
    /// Answers.
    pub n_received: u64,
    /// Whether a router or this host refused to send it whole.
    pub is_too_long: bool,
}

/// A connection of `ss`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketRow {
    /// `ESTAB`, `SYN-SENT` …
    pub state: String,
    /// Bytes not yet acknowledged or sent.
    pub send_queue_bytes: u64,
    /// Own address and port.
    pub local: String,
    /// Other end.
    pub peer: String,
    /// Names of the programs that hold it.
    pub programs: Vec<String>,
    /// Segments under retransmission now (`retrans:1/5`: the first).
    pub n_retrans: u64,
    /// Retransmissions of one segment in a row.
    pub n_backoff: u64,
    /// Since the last acknowledgement, ms.
    pub last_ack_ms: Option<u64>,
}

impl SocketRow {
    /// Port at the other end.
    #[must_use]
    pub fn peer_port(&self) -> Option<u16> {
        self.peer.rsplit_once(':')?.1.parse().ok()
    }
}

/// The links, in their order.
#[must_use]
pub fn parse_links(text: &str) -> Vec<LinkRow> {
    let mut links: Vec<LinkRow> = Vec::new();
    for line in text.lines() {
        if let Some(link) = link_head(line).or_else(|| brief_link(line)) {
            links.push(link);
            continue;
        }
        let Some(link) = links.last_mut() else { continue };
        let mut words = line.split_whitespace();
        match words.next() {
            Some(word) if word.starts_with("link/") => {
                link.link_type = Some(word["link/".len()..].to_owned());
            }
            Some("inet" | "inet6") => link.addresses.extend(words.next().map(str::to_owned)),
            Some(
                "veth" | "tun" | "dummy" | "bridge" | "vxlan" | "geneve" | "openvswitch" | "ipip" | "wireguard" | "ifb",
            ) => {
                link.is_virtual = true;
            }
            _ => {}
        }
    }
    links
}

/// `2: eth0@if46: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP …`.
fn link_head(line: &str) -> Option<LinkRow> {
    let (index, rest) = line.split_once(": ")?;
    index.trim().parse::<u32>().ok()?;
    let (name, rest) = rest.split_once(": <")?;
    let (flags, rest) = rest.split_once('>')?;
    let after = |key: &str| {
        let mut words = rest.split_whitespace();
        words.by_ref().find(|word| *word == key)?;
        words.next()
    };
    Some(LinkRow {
        name: name.split('@').next()?.to_owned(),
        flags: flags.split(',').map(str::to_owned).collect(),
        mtu: after("mtu").and_then(|mtu| mtu.parse().ok()),
        state: after("state").map(str::to_owned),
        master: after("master").map(str::to_owned),
        is_virtual: name.contains("@if"),
        ..LinkRow::default()
    })
}

/// `eth0  UP  52:54:00:00:00:01 <BROADCAST,MULTICAST,UP,LOWER_UP>`.
fn brief_link(line: &str) -> Option<LinkRow> {
    if line.starts_with([' ', '\t']) {
        return None;
    }
    let mut words = line.split_whitespace();
    let (name, state) = (words.next()?, words.next()?);
    if !matches!(state, "UP" | "DOWN" | "UNKNOWN" | "LOWERLAYERDOWN" | "DORMANT") {
        return None;
    }
    let rest: Vec<&str> = words.collect();
    let flags = rest.iter().find_map(|word| word.strip_prefix('<')?.strip_suffix('>'));
    Some(LinkRow {
        name: name.split('@').next()?.to_owned(),
        flags: flags.map_or_else(Vec::new, |flags| flags.split(',').map(str::to_owned).collect()),
        state: Some(state.to_owned()),
        is_virtual: name.contains("@if"),
        addresses: rest.iter().filter(|word| word.contains('/')).map(|word| (*word).to_owned()).collect(),
        ..LinkRow::default()
    })
}

/// Every `ping` of a text.
#[must_use]
pub fn parse_pings(text: &str) -> Vec<Ping> {
    let mut pings = Vec::new();
    let mut current = Ping::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("PING ") {
            let is_too_long = std::mem::take(&mut current).is_too_long;
            let target = rest.split([' ', '(']).next().map(|target| target.trim_end_matches(':').to_owned());
            // `1472(1500) bytes of data`, BusyBox: `: 56 data bytes`.
            let payload = rest.split_whitespace().find_map(|word| {
                word.split_once('(').filter(|(head, _)| !head.is_empty()).unwrap_or((word, "")).0.parse().ok()
            });
            current = Ping { target, payload_bytes: payload, is_too_long, ..Ping::default() };
        }
        let lower = line.to_ascii_lowercase();
        if lower.contains("message too long") || lower.contains("frag needed") || lower.contains("packet too big") {
            current.is_too_long = true;
        }
        if let Some((n_sent, rest)) = line.split_once(" packets transmitted, ") {
            current.n_sent = n_sent.trim().parse().unwrap_or_default();
            current.n_received = rest.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
            pings.push(std::mem::take(&mut current));
        }
    }
    pings
}

const STATES: &[&str] = &[
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSE-WAIT",
    "LAST-ACK",
    "CLOSING",
    "CLOSED",
    "LISTEN",
    "UNCONN",
];

/// The connections; details of `-i` belong to the row before. `None` when neither header nor a row is there.
#[must_use]
pub fn parse_ss(text: &str) -> Option<Vec<SocketRow>> {
    let mut rows: Vec<SocketRow> = Vec::new();
    let mut is_table = false;
    for line in text.lines() {
        is_table |= line.contains("Local Address");
        let words: Vec<&str> = line.split_whitespace().collect();
        let start = words.iter().take(2).position(|word| STATES.contains(word));
        let rest = start.and_then(|start| words.get(start..));
        if let Some([state, _received, sent, local, peer, rest @ ..]) = rest
            && local.contains(':')
        {
            let mut row = SocketRow {
                state: (*state).to_owned(),
                send_queue_bytes: sent.parse().unwrap_or_default(),
                local: (*local).to_owned(),
                peer: (*peer).to_owned(),
                ..SocketRow::default()
            };
            details(&mut row, rest);
            rows.push(row);
            is_table = true;
        } else if let Some(row) = rows.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
            details(row, &words);
        }
    }
    is_table.then_some(rows)
}

fn details(row: &mut SocketRow, words: &[&str]) {
    for word in words {
        let number = |text: &str| text.split('/').next().and_then(|text| text.parse().ok());
        if let Some(users) = word.strip_prefix("users:(") {
            row.programs.extend(users.split("(\"").skip(1).filter_map(|user| Some(user.split_once('"')?.0.to_owned())));
        } else if let Some(value) = word.strip_prefix("retrans:") {
            row.n_retrans = number(value).unwrap_or_default();
        } else if let Some(value) = word.strip_prefix("backoff:") {
            row.n_backoff = number(value).unwrap_or_default();
        } else if let Some(value) = word.strip_prefix("lastack:") {
            row.last_ack_ms = number(value);
        }
    }
}
