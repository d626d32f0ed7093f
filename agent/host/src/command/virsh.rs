//! `virsh`: state, control, blocks and definition of a domain.
//!
//! Source: libvirt `tools/virsh-domain-monitor.c`, `include/libvirt/libvirt-domain.h` (numbers of states and reasons).

/// State of a domain with libvirt's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainState {
    /// `virDomainState`.
    pub state: i32,
    /// `virDomain*Reason`, its meaning depends on the state. `None` without `--reason`, or for an unknown word.
    pub reason: Option<i32>,
}

/// What `domcontrol` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainControl {
    /// `virDomainControlState`: 0 ok, 1 job, 2 occupied, 3 error.
    pub state: i32,
    /// `virDomainControlErrorReason`, for state 3: 1 unknown, 2 monitor, 3 internal; else 0.
    pub details: i32,
    /// For how long, ms; 0 for ok.
    pub state_ms: u64,
}

/// What `dominfo` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainInfo {
    /// libvirt's id. `None` for a domain that does not run.
    pub id: Option<i32>,
    /// Name.
    pub name: Option<String>,
    /// UUID, lower-case with dashes.
    pub uuid: Option<String>,
    /// `virDomainState`.
    pub state: Option<i32>,
    /// Whether the definition outlives the run.
    pub is_persistent: Option<bool>,
}

/// A row of `list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDomain {
    /// libvirt's id. `None` for a domain that does not run.
    pub id: Option<i32>,
    /// Name.
    pub name: String,
    /// `virDomainState`, `None` for an unknown word.
    pub state: Option<i32>,
}

/// A disk of the definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmlDisk {
    /// Guest's name, for example `vda`.
    pub target: Option<String>,
    /// File, block device or name of a network volume.
    pub source: Option<String>,
}

/// What of a definition names it and its disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainXml {
    /// Name.
    pub name: Option<String>,
    /// UUID, lower-case with dashes.
    pub uuid: Option<String>,
    /// Disks, in the order of the definition.
    pub disks: Vec<XmlDisk>,
}

const STATES: &[(&str, i32)] = &[
    ("no state", 0),
    ("running", 1),
    ("idle", 2),
    ("blocked", 2),
    ("paused", 3),
    ("in shutdown", 4),
    ("shut off", 5),
    ("shutoff", 5),
    ("crashed", 6),
    ("pmsuspended", 7),
];
const RUNNING: &[&str] = &[
    "unknown",
    "booted",
    "migrated",
    "restored",
    "from snapshot",
    "unpaused",
    "migration canceled",
    "save canceled",
    "event wakeup",
    "crashed",
    "post-copy",
    "post-copy failed",
];
const PAUSED: &[&str] = &[
    "unknown",
    "user",
    "migrating",
    "saving",
    "dumping",
    "I/O error",
    "watchdog",
    "from snapshot",
    "shutting down",
    "creating snapshot",
    "crashed",
    "starting up",
    "post-copy",
    "post-copy failed",
    "api error",
];
const SHUTOFF: &[&str] =
    &["unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"];
const CRASHED: &[&str] = &["unknown", "panicked"];

fn state_of(word: &str) -> Option<i32> {
    STATES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word.trim())).map(|(_, number)| *number)
}

/// `paused (I/O error)`. `None` when no line is a state.
#[must_use]
pub fn parse_domstate(text: &str) -> Option<DomainState> {
    text.lines().find_map(|line| {
        let (word, reason) = match line.trim().split_once(" (") {
            Some((word, reason)) => (word, Some(reason.trim_end_matches(')'))),
            None => (line.trim(), None),
        };
        let state = state_of(word)?;
        let words = match state {
            1 => RUNNING,
            3 => PAUSED,
            5 => SHUTOFF,
            6 => CRASHED,
            _ => &[],
        };
        let reason = reason.and_then(|reason| words.iter().position(|word| word.eq_ignore_ascii_case(reason)));
        Some(DomainState { state, reason: reason.and_then(|index| i32::try_from(index).ok()) })
    })
}

/// `occupied (31.529s)`, `error: monitor failure (2.000s)`, `ok`. `None` when no line is such.
#[must_use]
pub fn parse_domcontrol(text: &str) -> Option<DomainControl> {
    text.lines().find_map(|line| {
        let line = line.trim();
        let (words, secs) = match line.rsplit_once(" (") {
            Some((words, secs)) => (words, secs.trim_end_matches([')', 's']).parse::<f64>().ok()?),
            None => (line, 0.0),
        };
        let (state, details) = match words.split_once(": ").unwrap_or((words, "")) {
            ("ok", _) => (0, 0),
            ("background job" | "job", _) => (1, 0),
            ("occupied", _) => (2, 0),
            ("error", "monitor failure") => (3, 2),
            ("error", "internal (locking) error") => (3, 3),
            // Any other error text is virsh's own, not a control state.
            ("error", "" | "unknown") => (3, 1),
            _ => return None,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
        Some(DomainControl { state, details, state_ms: (secs * 1000.0) as u64 })
    })
}

/// The table of `dominfo`. `None` without a name.
#[must_use]
pub fn parse_dominfo(text: &str) -> Option<DomainInfo> {
    let get = |key| super::value_of(text, key);
    let name = get("Name")?.to_owned();
    Some(DomainInfo {
        id: get("Id").and_then(|id| id.parse().ok()),
        name: Some(name),
        uuid: get("UUID").map(str::to_ascii_lowercase),
        state: get("State").and_then(state_of),
        is_persistent: get("Persistent").map(|word| word == "yes"),
    })
}

/// The rows of `list`; `None` when the table's head is not there, so that nothing is known.
#[must_use]
pub fn parse_domain_list(text: &str) -> Option<Vec<ListedDomain>> {
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("Id "));
    lines.next()?;
    let rows = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let id = words.next()?;
        let id = if id == "-" { None } else { Some(id.parse().ok()?) };
        let name = words.next()?.to_owned();
        let state = words.collect::<Vec<_>>().join(" ");
        Some(ListedDomain { id, name, state: state_of(&state) })
    });
    Some(rows.collect())
}

/// Targets and words of `domblkerror`: `vda: no space`. `None` when the output says neither errors nor that there are none.
#[must_use]
pub fn parse_domblkerror(text: &str) -> Option<Vec<(String, String)>> {
    let errors: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(target, _)| *target != "error" && !target.contains(' '))
        .map(|(target, words)| (target.to_owned(), words.to_owned()))
        .collect();
    (!errors.is_empty() || text.contains("No errors found")).then_some(errors)
}

/// A scan for what names a definition and its disks; not a parser of XML. `None` when there is no `<domain`.
#[must_use]
pub fn parse_domain_xml(text: &str) -> Option<DomainXml> {
    let domain = &text[text.find("<domain")?..];
    let head = domain.find("<devices").map_or(domain, |end| &domain[..end]);
    let inside = |tag: &str| {
        let (_, after) = head.split_once(&format!("<{tag}>"))?;
        Some(after.split_once('<')?.0.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let disks = domain.split("<disk ").skip(1).map(|disk| {
        let disk = disk.split_once("</disk>").map_or(disk, |(disk, _)| disk);
        let source = element(disk, "source")
            .and_then(|source| ["file", "dev", "name", "dir", "volume"].iter().find_map(|key| attribute(source, key)));
        XmlDisk { target: element(disk, "target").and_then(|target| attribute(target, "dev")), source }
    });
    Some(DomainXml {
        name: inside("name"),
        uuid: inside("uuid").map(|uuid| uuid.to_ascii_lowercase()),
        disks: disks.take(1000).collect(),
    })
}

fn element<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("<{tag} "))?;
    Some(after.split_once('>')?.0)
}

fn attribute(element: &str, key: &str) -> Option<String> {
    let after = element.split_once(&format!("{key}=")).map(|(_, after)| after)?;
    let quote = after.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    Some(after[1..].split_once(quote)?.0.to_owned())
}
