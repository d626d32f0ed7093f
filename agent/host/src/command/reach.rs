//! Whether a storage server answers: errors of `df`, `ls` and `stat` at a mount, `nc`, `showmount`, `rpcinfo`, `ceph`, `iscsiadm`.
//!
//! Sources: coreutils' error lines with glibc's `strerror` words, OpenBSD `nc` and `ncat`, libtirpc's `clnt_sperror`, nfs-utils
//! `showmount`, Ceph `src/mon/MonClient.cc` and `src/pybind/rados`, open-iscsi `usr/session_info.c` and `usr/iscsi_err.c`.

/// Why a server or a mount gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReach {
    /// No answer in time.
    TimedOut,
    /// The server's host refuses the connection.
    Refused,
    /// No way to the server.
    NoRoute,
    /// `ESTALE`: the server does not know the file system's handle any more.
    Stale,
    /// `ENOTCONN`, `ESHUTDOWN`: the program or client that serves the mount is gone.
    NotConnected,
    /// `EIO`.
    IoError,
}

impl NoReach {
    fn of(words: &str) -> Option<Self> {
        let lower = words.to_ascii_lowercase();
        let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
        Some(match () {
            () if has(&["stale file handle", "stale nfs file handle"]) => Self::Stale,
            () if has(&["transport endpoint is not connected", "transport endpoint shutdown"]) => Self::NotConnected,
            () if has(&["timed out", "timeout", "host is down"]) => Self::TimedOut,
            () if has(&["no route to host", "network is unreachable"]) => Self::NoRoute,
            () if has(&["connection refused"]) => Self::Refused,
            () if has(&["input/output error"]) => Self::IoError,
            () => return None,
        })
    }
}

/// A path at which a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFailure {
    /// The path as the command names it.
    pub path: String,
    /// Why.
    pub failure: NoReach,
}

/// One try to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Name or address; empty where the output does not name it.
    pub server: String,
    /// Port, where the output tells it.
    pub port: Option<u16>,
    /// `None`: it answered.
    pub failure: Option<NoReach>,
}

/// A session of `iscsiadm -m session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiSession {
    /// Address and port of the portal.
    pub portal: String,
    /// The target's name, `iqn.…`.
    pub target: String,
    /// Whether it is logged in. `None` without `-P 1`: the short list shows what the kernel has, working or not.
    pub is_logged_in: Option<bool>,
}

/// The paths at which `df`, `ls`, `stat`, `find`, `umount` and their like failed because what is mounted there does not answer:
/// `df: /mnt/x: Stale file handle`, `ls: cannot access '/mnt/x': Transport endpoint is not connected`.
#[must_use]
pub fn parse_mount_failures(text: &str) -> Vec<MountFailure> {
    let failure = |line: &str| {
        let (command, rest) = line.trim().split_once(": ")?;
        if command.is_empty() || command.contains([' ', '/']) && !command.starts_with('/') {
            return None;
        }
        let (before, words) = rest.rsplit_once(": ")?;
        let failure = NoReach::of(words)?;
        let path = before.get(before.find('/')?..)?.trim_end_matches(['\'', '"', '`', '’', ':']);
        // `ls: cannot access 'a b/c': …`: what stands before the path is the program's own words.
        (!path.contains("://")).then(|| MountFailure { path: path.to_owned(), failure })
    };
    text.lines().filter_map(failure).collect()
}

/// What `nc` and `ncat` say of a port; `None` when the line is none of theirs.
#[must_use]
pub fn parse_port_check(text: &str) -> Vec<Reach> {
    text.lines().filter_map(port_check).collect()
}

fn port_check(line: &str) -> Option<Reach> {
    let line = line.trim();
    let word_port = |word: &str| word.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().ok();
    // `Connection to 10.0.0.5 2049 port [tcp/nfs] succeeded!`
    if let Some(rest) = line.strip_prefix("Connection to ") {
        let mut words = rest.split_whitespace();
        let server = words.next()?.to_owned();
        let port = words.next().and_then(word_port);
        return line.contains("succeeded").then_some(Reach { server, port, failure: None });
    }
    // `Ncat: Connected to 10.0.0.5:2049.`
    if let Some(rest) = line.strip_prefix("Ncat: Connected to ") {
        let (server, port) = rest.trim_end_matches('.').rsplit_once(':')?;
        return Some(Reach { server: server.to_owned(), port: word_port(port), failure: None });
    }
    // `nc: connect to 10.0.0.5 port 2049 (tcp) failed: Connection refused`
    if let Some(rest) = line.strip_prefix("nc: connect to ") {
        let mut words = rest.split_whitespace();
        let server = words.next()?.to_owned();
        let port = words.find(|word| *word == "port").and_then(|_| words.next()).and_then(word_port);
        return Some(Reach { server, port, failure: Some(NoReach::of(rest)?) });
    }
    let words = line.strip_prefix("Ncat: ")?.trim_end_matches('.');
    Some(Reach { server: String::new(), port: None, failure: Some(NoReach::of(words)?) })
}

/// What `showmount` and `rpcinfo` got. A refusal proves nothing: a server of NFS 4 alone has no port mapper.
#[must_use]
pub fn parse_rpc_check(text: &str) -> Option<Reach> {
    let at = |server: &str, failure| Some(Reach { server: server.to_owned(), port: None, failure });
    for line in text.lines().map(str::trim) {
        if let Some(server) = line.strip_prefix("Export list for ") {
            return at(server.trim_end_matches(':'), None);
        }
        if line.contains("ready and waiting") || line.starts_with("program vers") {
            return at("", None);
        }
        if ["clnt_create:", "rpcinfo:", "rpc mount", "showmount:"].iter().any(|start| line.starts_with(start))
            && let Some(failure) = NoReach::of(line)
        {
            return at("", Some(failure));
        }
    }
    None
}

/// What `ceph -s` and `rbd` got of the monitors: an answer, or none. `None` when the text tells neither.
#[must_use]
pub fn parse_ceph_answer(text: &str) -> Option<Reach> {
    let reach = |failure| Some(Reach { server: String::new(), port: None, failure });
    for line in text.lines() {
        let lower = line.trim().to_ascii_lowercase();
        if lower.starts_with("health: health_") || lower.starts_with("health_") {
            return reach(None);
        }
        let is_monitors = ["monclient", "rados", "error connecting to the cluster", "couldn't connect"]
            .iter()
            .any(|word| lower.contains(word));
        if is_monitors && let Some(failure) = NoReach::of(&lower) {
            return reach(Some(failure));
        }
    }
    None
}

/// The sessions of `iscsiadm -m session`, short or with `-P`; `None` when the text lists none.
#[must_use]
pub fn parse_iscsi_sessions(text: &str) -> Option<Vec<IscsiSession>> {
    let mut sessions: Vec<IscsiSession> = Vec::new();
    let mut target = String::new();
    for line in text.lines().map(str::trim) {
        // `tcp: [1] 10.0.0.5:3260,1 iqn.2003-01.org.x:t (non-flash)`
        if let Some((_, rest)) = line.split_once(": [")
            && let Some((_, rest)) = rest.split_once("] ")
        {
            let mut words = rest.split_whitespace();
            if let (Some(portal), Some(name)) = (words.next(), words.next()) {
                let portal = portal.split(',').next().unwrap_or(portal);
                sessions.push(IscsiSession { portal: portal.to_owned(), target: name.to_owned(), is_logged_in: None });
            }
        } else if let Some(name) = line.strip_prefix("Target: ") {
            target = name.split_whitespace().next().unwrap_or(name).to_owned();
        } else if let Some(portal) = line.strip_prefix("Current Portal: ") {
            let portal = portal.split(',').next().unwrap_or(portal);
            sessions.push(IscsiSession { portal: portal.to_owned(), target: target.clone(), is_logged_in: None });
        } else if let Some((_, state)) =
            line.split_once("iSCSI Connection State: ").or(line.split_once("iSCSI Session State: "))
            && let Some(session) = sessions.last_mut()
        {
            let is_up = state.replace([' ', '_'], "").starts_with("LOGGEDIN");
            session.is_logged_in = Some(session.is_logged_in.unwrap_or(true) && is_up);
        }
    }
    (!sessions.is_empty()).then_some(sessions)
}

/// `iscsiadm: cannot make connection to 10.0.0.5: No route to host` and the failed logins; a target that refuses a login is another
/// fault.
#[must_use]
pub fn parse_iscsi_errors(text: &str) -> Vec<Reach> {
    let error = |line: &str| {
        let line = line.trim();
        let rest = line.strip_prefix("iscsiadm: ")?;
        let failure = NoReach::of(rest)?;
        let after = |mark: &str| Some(rest.split_once(mark)?.1.split([':', ' ', ',', ']']).next()?.to_owned());
        let server = after("cannot make connection to ").or_else(|| after("portal: ")).unwrap_or_default();
        Some(Reach { server, port: None, failure: Some(failure) })
    };
    text.lines().filter_map(error).collect()
}

/// Whether a command was broken off by the one who typed it (`^C`) or by `timeout` (exit status 124), before it printed anything.
#[must_use]
pub fn is_broken_off(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some()
        && lines.all(|line| matches!(line, "^C" | "rc=124" | "exit status 124" | "Terminated" | "Killed"))
}
