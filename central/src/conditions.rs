//! Node conditions: what a node's findings come to, VM in trouble or not, in eight words that Kubernetes' tools can read.
//!
//! Pure. A condition is `True` when one of the findings that feed it (column of the catalogue) is present or has just happened; `False`
//! only when every probe behind it looked and saw nothing; else `Unknown`, with the reason. Incidents only annotate.
//! What is written of it, and when, is decided in `due`. Nothing here names a VM: nodes may be read by people who may not read VMs.

pub mod due;
pub mod npd;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::LazyLock,
};

use kulprit_cluster::ClusterNode;
use kulprit_diagnosis::{Attribution, Candidate, NodeView, Place, Snapshot, SymptomSubject, catalogue};
use kulprit_model::{
    Finding, FindingCode, Moment, State, Status, Subject,
    catalogue::{CATALOGUE, Kind, NodeCondition, ONLY_RECORDED},
};

pub use self::npd::{NpdCondition, NpdMode};
use crate::incident::{Incident, Incidents};

/// Every condition type and every taint of ours begins so.
pub const PREFIX: &str = "kulprit.io/";
/// More of a message is cut.
pub const MAX_MESSAGE_BYTES: usize = 1_024;
/// How long an error that the hardware could not correct counts, microseconds: what failed once is not well five minutes later. As long as
/// central keeps an occurrence.
const HARDWARE_FRESH_USEC: i64 = 24 * 3_600_000_000;
/// A cause this probable is confirmed. A verdict needs 0.6; to take a node away, being wrong twice in five times is too often.
const CONFIRMED: f64 = 0.9;
/// A cause that nodes share is suspected from here on.
const SUSPECTED: f64 = 0.3;
/// Devices, mounts or units that a message names.
const MAX_NAMES: usize = 3;
/// Characters of an agent's own words in a message.
const MAX_BECAUSE_CHARS: usize = 200;

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// The problem is there.
    True,
    /// Whoever would see it looked, and saw nothing.
    False,
    /// Nobody could look.
    Unknown,
}

impl Truth {
    /// The word of Kubernetes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose fault a condition is, as far as diagnosis is sure of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A confirmed cause sits in this node, and none that nodes share is suspected.
    Own,
    /// Something that nodes share is suspected.
    Shared,
    /// Neither.
    Unsure,
}

/// One condition of one node, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Which.
    pub condition: NodeCondition,
    /// Its status.
    pub truth: Truth,
    /// CamelCase.
    pub reason: String,
    /// For a person; [`MAX_MESSAGE_BYTES`] at most. The same facts make the same text: it holds no age and no probability.
    pub message: String,
    /// Whose fault it is.
    pub blame: Blame,
}

/// One condition of node-problem-detector's, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpdJudged {
    /// Which.
    pub condition: NpdCondition,
    /// Its status.
    pub truth: Truth,
    /// CamelCase, node-problem-detector's word where it is `True` or `False`.
    pub reason: String,
    /// As of our own.
    pub message: String,
}

/// A node whose agent has reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVerdict {
    /// Its name.
    pub node: String,
    /// In the order of [`NodeCondition::ALL`].
    pub judged: Vec<Judged>,
    /// In the order of [`NpdCondition::ALL`]; none where node-problem-detector's types are its own.
    pub npd: Vec<NpdJudged>,
}

/// The type of a condition as Kubernetes has it.
#[must_use]
pub fn type_of(condition: NodeCondition) -> String {
    format!("{PREFIX}{condition}")
}

/// The reason of a condition that is `False`.
#[must_use]
pub const fn well(condition: NodeCondition) -> &'static str {
    match condition {
        NodeCondition::KvmUnavailable => "KvmIsAvailable",
        NodeCondition::VirtStackUnresponsive => "VirtStackResponds",
        NodeCondition::VmStorageStalled => "VmStorageResponds",
        NodeCondition::MigrationPathDegraded => "MigrationPathIsWell",
        NodeCondition::HostPressure => "HostHasNoPressure",
        NodeCondition::KubeletDegraded => "KubeletIsWell",
        NodeCondition::ContainerRuntimeDegraded => "ContainerRuntimeIsWell",
        NodeCondition::HardwareFault => "HardwareHasNoFault",
    }
}

/// Every node's conditions, by name.
#[must_use]
pub fn judge(
    snapshot: &Snapshot,
    attributions: &[Attribution],
    incidents: &Incidents,
    npd_mode: NpdMode,
) -> Vec<NodeVerdict> {
    let of_cluster: HashMap<&str, &ClusterNode> =
        snapshot.cluster_nodes.iter().map(|node| (node.name.as_str(), &**node)).collect();
    let causes = causes_by_node(attributions);
    let incidents = incidents_by_node(incidents);
    // Of two that call themselves the same, a machine that was replaced and its successor, the one that reports.
    let mut nodes: BTreeMap<&str, &NodeView> = BTreeMap::new();
    for node in &snapshot.nodes {
        let first = nodes.entry(&node.name).or_insert(node);
        if node.is_reporting && !first.is_reporting {
            *first = node;
        }
    }
    let judged = nodes.into_values().map(|node| {
        let name = node.name.as_str();
        let seen = Seen {
            npd_mode,
            now_usec: snapshot.reference_wall_usec,
            fresh_usec: snapshot.settings.occurrence_fresh_usec,
            node,
            of_cluster: of_cluster.get(name).copied(),
            causes: causes.get(name).map(Vec::as_slice).unwrap_or_default(),
            incidents: incidents.get(name).map(Vec::as_slice).unwrap_or_default(),
        };
        let said = seen.said();
        NodeVerdict { node: name.to_owned(), judged: seen.judge(&said), npd: seen.judge_npd(&said) }
    });
    judged.collect()
}

/// What is seen of one node.
struct Seen<'a> {
    npd_mode: NpdMode,
    now_usec: i64,
    fresh_usec: i64,
    node: &'a NodeView,
    of_cluster: Option<&'a ClusterNode>,
    causes: &'a [&'a Candidate],
    incidents: &'a [&'a Incident],
}

/// What a finding can feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fed {
    Own(NodeCondition),
    Npd(NpdCondition),
}

/// Subjects of what is present, by finding.
type Present<'a> = BTreeMap<FindingCode, BTreeSet<&'a Subject>>;

/// What a node's findings say, by whom it concerns.
#[derive(Default)]
struct Said<'a> {
    /// What makes each condition `True`. A silent agent's word is none; Kubernetes' is.
    present: BTreeMap<Fed, Present<'a>>,
    /// For each condition the first state that nobody could tell.
    unseen: BTreeMap<Fed, &'a State>,
    /// Whether each probe is blind.
    blind: BTreeMap<&'a str, Status>,
}

impl<'a> Seen<'a> {
    fn judge(&self, said: &Said<'_>) -> Vec<Judged> {
        NodeCondition::ALL.into_iter().map(|condition| self.judge_one(condition, said)).collect()
    }

    fn judge_one(&self, condition: NodeCondition, said: &Said<'_>) -> Judged {
        if let Some(present) = said.present.get(&Fed::Own(condition))
            && let Some((code, _)) = present.first_key_value()
        {
            return Judged {
                condition,
                truth: Truth::True,
                reason: code.to_string(),
                message: self.told(present),
                blame: self.blame(present),
            };
        }
        let (truth, reason, message) =
            self.not_there(probes(condition), said.unseen.get(&Fed::Own(condition)).copied(), said, well(condition));
        Judged { condition, truth, reason: reason.to_owned(), message, blame: Blame::Unsure }
    }

    fn judge_npd(&self, said: &Said<'_>) -> Vec<NpdJudged> {
        match self.npd_mode {
            NpdMode::Coexist => Vec::new(),
            NpdMode::Replace => {
                NpdCondition::ALL.into_iter().map(|condition| self.judge_npd_one(condition, said)).collect()
            }
        }
    }

    fn judge_npd_one(&self, condition: NpdCondition, said: &Said<'_>) -> NpdJudged {
        let fed = Fed::Npd(condition);
        let (truth, reason, message) = match said.present.get(&fed) {
            Some(present) => (Truth::True, condition.fault(), self.told(present)),
            None => {
                let unseen = said.unseen.get(&fed).copied();
                self.not_there(&condition.probes(), unseen, said, condition.well())
            }
        };
        NpdJudged { condition, truth, reason: reason.to_owned(), message }
    }

    /// Of a condition that nothing makes `True`: `False` with this reason, or `Unknown`.
    fn not_there(
        &self,
        probes: &[&'static str],
        unseen: Option<&State>,
        said: &Said<'_>,
        well: &'static str,
    ) -> (Truth, &'static str, String) {
        let (truth, reason, message) = match self.why_unknown(probes, unseen, said) {
            Some((reason, message)) => (Truth::Unknown, reason, message),
            None => (Truth::False, well, format!("looked for by {} and not found", words(probes))),
        };
        (truth, reason, shortened(&message, MAX_MESSAGE_BYTES))
    }

    /// What a finding feeds here.
    fn fed_by(&self, code: FindingCode) -> impl Iterator<Item = Fed> + use<> {
        let npd = match self.npd_mode {
            NpdMode::Coexist => None,
            NpdMode::Replace => NpdCondition::fed_by(code),
        };
        code.spec().condition.map(Fed::Own).into_iter().chain(npd.map(Fed::Npd))
    }

    fn there(&self, said: &mut Said<'a>, code: FindingCode, subject: &'a Subject) {
        for fed in self.fed_by(code) {
            said.present.entry(fed).or_default().entry(code).or_default().insert(subject);
        }
    }

    /// Sorts all findings, in one walk: there are thousands of nodes.
    fn said(&self) -> Said<'a> {
        let mut said = Said::default();
        if self.node.is_reporting {
            for state in &self.node.states {
                match (&state.subject, state.status) {
                    (Subject::Probe { name }, status) if state.code == FindingCode::ProbeBlind => {
                        said.blind.insert(name, status);
                    }
                    (subject, Status::Present) => self.there(&mut said, state.code, subject),
                    (_, Status::Unknown) => {
                        for fed in self.fed_by(state.code) {
                            said.unseen.entry(fed).or_insert(state);
                        }
                    }
                    (_, Status::Absent) => {}
                }
            }
            for occurrence in self.node.occurrences.iter().filter(|one| self.is_fresh(one.code, one.last)) {
                self.there(&mut said, occurrence.code, &occurrence.subject);
            }
        }
        for finding in self.of_cluster.into_iter().flat_map(|node| &node.findings) {
            let is_there = match finding {
                Finding::State(state) => state.status == Status::Present,
                Finding::Occurrence(occurrence) => self.is_fresh(occurrence.code, occurrence.last),
            };
            if is_there {
                self.there(&mut said, finding.code(), finding.subject());
            }
        }
        said
    }

    fn is_fresh(&self, code: FindingCode, last: Moment) -> bool {
        let is_of_hardware = code.spec().condition == Some(NodeCondition::HardwareFault);
        let fresh_usec = if is_of_hardware { HARDWARE_FRESH_USEC } else { self.fresh_usec };
        self.now_usec.saturating_sub(last.wall_usec) < fresh_usec
    }

    /// Why nobody can say that nothing is there; `None` if everybody looked.
    fn why_unknown(
        &self,
        probes: &[&'static str],
        unseen: Option<&State>,
        said: &Said<'_>,
    ) -> Option<(&'static str, String)> {
        if !self.node.is_reporting {
            return Some(("AgentSilent", "the node's agent is not heard: what it saw last is unknown now".to_owned()));
        }
        for probe in probes {
            match said.blind.get(probe) {
                Some(Status::Absent) => {}
                Some(Status::Present) => {
                    let mut of_probe = self.node.states.iter().filter(|state| state.code.spec().probe == *probe);
                    let because = of_probe.find_map(|state| state.unknown_because.as_deref());
                    return Some(("ProbeBlind", format!("probe {probe} cannot look{}", because_of(because))));
                }
                Some(Status::Unknown) | None => {
                    return Some(("ProbeMissing", format!("probe {probe} has not said yet that it looked")));
                }
            }
        }
        let state = unseen?;
        let because = because_of(state.unknown_because.as_deref());
        let message = format!("{}{} is not known{because}", state.code, whereabouts(&[&state.subject].into()));
        Some(("NotSeen", message))
    }

    /// What is present, and whose work it is. What does not fit is cut from the findings: cause and incident stay.
    fn told(&self, present: &Present<'_>) -> String {
        let findings: Vec<String> = present
            .iter()
            .map(|(code, subjects)| format!("{code}{}: {}", whereabouts(subjects), code.spec().meaning))
            .collect();
        let incident = self.incidents.iter().find(|incident| is_work_of(&incident.key.cause, present));
        let cause = incident.map_or(String::new(), |incident| {
            let at =
                if incident.node == self.node.name { String::new() } else { format!(" at {}", incident.key.place) };
            format!(" Cause: {}{at}, incident {}.", incident.key.cause, incident.id)
        });
        let cause = shortened(&cause, MAX_MESSAGE_BYTES / 2);
        format!("{}{cause}", shortened(&findings.join(" "), MAX_MESSAGE_BYTES - cause.len()))
    }

    fn blame(&self, present: &Present<'_>) -> Blame {
        let name = &self.node.name;
        let sits_here = |place: &Place| match place {
            Place::Node { node } | Place::Device { node, .. } => node == name,
            Place::Vm { .. } | Place::Path { .. } | Place::Shared { .. } | Place::Cluster { .. } => false,
        };
        let mut blame = Blame::Unsure;
        for cause in self.causes.iter().filter(|cause| is_work_of(cause.id, present)) {
            let is_shared =
                matches!(cause.place, Place::Shared { .. } | Place::Path { .. }) || cause.may_be_at.is_some();
            if is_shared && cause.probability >= SUSPECTED {
                return Blame::Shared;
            }
            if sits_here(&cause.place) && cause.probability >= CONFIRMED {
                blame = Blame::Own;
            }
        }
        blame
    }
}

/// Whether one of what is present speaks for the cause.
fn is_work_of(cause: &str, present: &Present<'_>) -> bool {
    catalogue::find(cause).is_some_and(|cause| present.keys().any(|code| cause.is_spoken_for_by(*code)))
}

/// The causes that are named for what a node or its VMs show, and for what sits in it.
fn causes_by_node(attributions: &[Attribution]) -> HashMap<&str, Vec<&Candidate>> {
    let mut by_node: HashMap<&str, Vec<&Candidate>> = HashMap::new();
    for attribution in attributions {
        let (SymptomSubject::Vm { node: shows, .. } | SymptomSubject::Node { node: shows }) =
            &attribution.symptom.subject;
        for cause in attribution.causes.first().into_iter().chain(&attribution.contributing) {
            let mut nodes = BTreeSet::from([shows.as_str(), cause.place.node()]);
            if let Place::Path { to, .. } = &cause.place {
                nodes.insert(to);
            }
            for node in nodes {
                by_node.entry(node).or_default().push(cause);
            }
        }
    }
    by_node
}

/// Open incidents that sit in a node or touch it: first those that sit there, then the oldest.
fn incidents_by_node(incidents: &Incidents) -> HashMap<&str, Vec<&Incident>> {
    let mut by_node: HashMap<&str, Vec<&Incident>> = HashMap::new();
    for incident in incidents.open() {
        let members = incident.members.iter().filter(|member| member.until_wall_usec.is_none());
        let mut nodes: BTreeSet<&str> = members.map(|member| member.whom.node.as_str()).collect();
        nodes.insert(&incident.node);
        for node in nodes {
            by_node.entry(node).or_default().push(incident);
        }
    }
    for (node, incidents) in &mut by_node {
        incidents.sort_by_key(|incident| (incident.node != *node, incident.id));
    }
    by_node
}

/// The agent's probes that look for what feeds it, each once.
fn probes(condition: NodeCondition) -> &'static [&'static str] {
    static PROBES: LazyLock<BTreeMap<NodeCondition, Vec<&str>>> = LazyLock::new(|| {
        let of = |condition: NodeCondition| {
            let probes = condition.findings().map(|spec| spec.probe).filter(|probe| !ONLY_RECORDED.contains(probe));
            probes.collect::<BTreeSet<_>>().into_iter().collect()
        };
        NodeCondition::ALL.into_iter().map(|condition| (condition, of(condition))).collect()
    });
    PROBES.get(&condition).map(Vec::as_slice).unwrap_or_default()
}

/// ` (sda, sdb)`, ` (2 VMs)`; nothing of what is the node's own.
fn whereabouts(subjects: &BTreeSet<&Subject>) -> String {
    let (mut names, mut n_vms, mut n_processes) = (Vec::new(), 0, 0);
    for subject in subjects {
        match subject {
            Subject::Vm { .. } => n_vms += 1,
            Subject::Process { .. } => n_processes += 1,
            Subject::Device { name } | Subject::Unit { name } | Subject::Mount { point: name } => {
                names.push(name.clone());
            }
            // A launcher's libvirt is named after its pod.
            Subject::Node | Subject::Libvirt { .. } | Subject::Problem { .. } | Subject::Probe { .. } => {}
        }
    }
    let n_more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    if n_more > 0 {
        names.push(format!("{n_more} more"));
    }
    let counted = |n: usize, one: &str, many: &str| (n > 0).then(|| format!("{n} {}", if n == 1 { one } else { many }));
    names.extend(counted(n_vms, "VM", "VMs"));
    names.extend(counted(n_processes, "process", "processes"));
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn because_of(because: Option<&str>) -> String {
    because
        .map_or(String::new(), |because| format!(": {}", because.chars().take(MAX_BECAUSE_CHARS).collect::<String>()))
}

fn words(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("probe {one}"),
        [first @ .., last] => format!("probes {} and {last}", first.join(", ")),
    }
}

/// At most `max` bytes of it, whole characters.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    const MORE: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max.saturating_sub(MORE.len()));
    format!("{}{MORE}", &text[..end])
}

/// docs/conditions.md.
#[must_use]
pub fn conditions_markdown() -> String {
    let mut text = String::from(include_str!("conditions/head.md"));
    for condition in NodeCondition::ALL {
        let codes = |kind: Kind| {
            let codes = CATALOGUE.iter().filter(|spec| spec.condition == Some(condition) && spec.kind == kind);
            codes.map(|spec| format!("`{}`", spec.code)).collect::<Vec<_>>().join(", ")
        };
        text.push_str(&format!(
            "| `{}` | `{}` | {} | {} |\n",
            type_of(condition),
            well(condition),
            codes(Kind::State),
            codes(Kind::Occurrence)
        ));
    }
    text.push_str(include_str!("conditions/npd.md"));
    for condition in NpdCondition::ALL {
        let codes = condition.findings().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(", ");
        let (name, well, fault) = (condition.as_str(), condition.well(), condition.fault());
        text.push_str(&format!("| `{name}` | `{well}` | `{fault}` | {codes} |\n"));
    }
    text
}
