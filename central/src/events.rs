//! What objects of Kubernetes are told in Events: why a VM, its migration or a node is in trouble, and that it is over.
//!
//! Pure. [`reports`] says in each pass of the engine whom the open incidents touch and why, `due` what of it is to be written now, within
//! a [`budget`], and `flips` what became of nodes' conditions. What was said is taken over from the Events that stand, so that neither
//! a restart nor another central says anything twice. Nothing that a node is told names a VM: who may read nodes may not read VMs.

pub mod budget;
pub mod due;
pub mod flips;
mod note;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kulprit_cluster::{Cluster, StandingNode};
use kulprit_diagnosis::{Attribution, Confidence};
use ulid::Ulid;

use self::due::{Mode, Saying};
use crate::incident::{
    Incident, Incidents, Member, Whom,
    observe::{named, whom},
};

/// The API server refuses longer notes (`NoteLengthLimit`, Kubernetes `pkg/apis/core/validation/events.go`).
pub const MAX_NOTE_BYTES: usize = 1_024;
/// How long a closed incident is told of, microseconds: a central that was away when it closed, or without the API server, says it late.
const OVER_FRESH_USEC: i64 = 300_000_000;
/// How long an explanation that is no verdict waits for a better one, microseconds: agents look every few seconds.
const UNSURE_WAITS_USEC: i64 = 30_000_000;
/// The cause of what nothing explains.
const UNEXPLAINED: &str = "Unexplained";

/// An object of Kubernetes, as an Event names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which kind.
    pub kind: ObjectKind,
    /// Its namespace; empty for a node.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The kinds that are told something; what matters most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A node.
    Node,
    /// A VM that runs, or is to.
    Vmi,
    /// A live migration.
    Vmim,
    /// A VM.
    Vm,
}

impl ObjectKind {
    /// `apiVersion` and `kind`.
    #[must_use]
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Node => ("v1", "Node"),
            Self::Vmi => ("kubevirt.io/v1", "VirtualMachineInstance"),
            Self::Vmim => ("kubevirt.io/v1", "VirtualMachineInstanceMigration"),
            Self::Vm => ("kubevirt.io/v1", "VirtualMachine"),
        }
    }
}

/// Whom a report is about, as diagnosis knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A VM of Kubernetes.
    Vm {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// As in [`Whom`].
        uid: String,
        /// The migration that is in trouble, if it is one.
        migration: Option<String>,
    },
    /// A node.
    Node {
        /// Its name.
        name: String,
    },
}

/// What there is to be said of one whom an incident touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whom.
    pub about: About,
    /// Which incident.
    pub incident: Ulid,
    /// Id of its root cause.
    pub cause: String,
    /// Node where the cause sits; empty if it is not one node's.
    pub node: String,
    /// Whether diagnosis is sure of the cause.
    pub is_verdict: bool,
    /// Whether it was seen to be over, and not for long enough yet: nobody is told now that it begins, nor that it is over.
    pub is_quiet: bool,
    /// Whether it is over.
    pub is_over: bool,
    /// In words.
    pub note: String,
}

/// How it stands with one whom an incident touches; what counts more is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Over,
    /// Seen to be over a moment ago.
    Quiet,
    Lasts,
}

/// What the engine last had to say; `None` before its first word.
pub type Reports = Option<Arc<Vec<Report>>>;

/// Whom the open incidents touch and why, and of those that closed a moment ago whom they touched, in the order of opening. A symptom
/// that was seen to be over is quiet for `close_after_usec`, as long as its incident lasts on.
#[must_use]
pub fn reports(
    attributions: &[Attribution],
    incidents: &Incidents,
    now_usec: i64,
    close_after_usec: i64,
) -> Vec<Report> {
    let shown: BTreeMap<(Whom, &str), &Attribution> =
        attributions.iter().map(|shown| ((whom(&shown.symptom.subject), shown.symptom.id.as_str()), shown)).collect();
    let is_told = |incident: &&Arc<Incident>| {
        let is_fresh = |closed: i64| now_usec.saturating_sub(closed) < OVER_FRESH_USEC;
        incident.merged_into.is_none() && incident.closed_wall_usec.is_none_or(is_fresh)
    };
    let mut reports = Vec::new();
    for incident in incidents.iter().filter(is_told) {
        let standing = |member: &Member| match member.until_wall_usec {
            _ if !incident.is_open() => Standing::Over,
            None => Standing::Lasts,
            Some(until) if now_usec.saturating_sub(until) < close_after_usec => Standing::Quiet,
            Some(_) => Standing::Over,
        };
        let mut touched: BTreeMap<&Whom, (&Member, Standing)> = BTreeMap::new();
        for member in &incident.members {
            let is = standing(member);
            let known = touched.entry(&member.whom).or_insert((member, is));
            // Of several symptoms the one that counts most.
            if is > known.1 {
                *known = (member, is);
            }
        }
        let (mut is_verdict, mut is_quiet) = (false, true);
        for (whom, (member, standing)) in &touched {
            // What was over may be back in another incident: then its explanation is that one's.
            let lasts = *standing == Standing::Lasts;
            let shown_for = |whom: &Whom| shown.get(&(whom.clone(), member.symptom.as_str())).copied();
            let attribution = lasts.then(|| shown_for(whom)).flatten();
            is_verdict |= attribution.is_some_and(|shown| is_sure(shown, incident));
            is_quiet &= !lasts;
            reports.extend(of_member(incident, member, attribution, *standing));
        }
        let is_its_own = touched.keys().any(|whom| whom.uid.is_empty() && whom.node == incident.node);
        reports.extend((!is_its_own).then(|| of_place(incident, is_verdict, is_quiet)).flatten());
    }
    reports
}

/// Whether diagnosis is sure of what the incident names.
fn is_sure(shown: &Attribution, incident: &Incident) -> bool {
    named(shown, &incident.key).is_some_and(|cause| cause.confidence() == Confidence::Verdict)
}

/// Of one whom the incident touches; `None` of a VM that Kubernetes does not have.
fn of_member(
    incident: &Incident,
    member: &Member,
    attribution: Option<&Attribution>,
    standing: Standing,
) -> Option<Report> {
    let about = match (member.whom.uid.is_empty(), member.namespace.is_empty()) {
        (true, _) => About::Node { name: member.whom.node.clone() },
        (false, true) => return None,
        (false, false) => About::Vm {
            namespace: member.namespace.clone(),
            name: member.name.clone(),
            uid: member.whom.uid.clone(),
            migration: attribution.and_then(|shown| shown.symptom.migration.clone()).filter(|name| !name.is_empty()),
        },
    };
    let is_verdict = attribution.is_some_and(|shown| is_sure(shown, incident));
    let note = note::of_trouble(incident, &about, &member.symptom, attribution);
    let (is_quiet, is_over) = (standing == Standing::Quiet, standing == Standing::Over);
    Some(Report { about, is_verdict, is_quiet, is_over, note, ..blank(incident) })
}

/// Of the node in which the cause sits, where the incident touches VMs of it.
fn of_place(incident: &Incident, is_verdict: bool, is_quiet: bool) -> Option<Report> {
    let (place, node) = (&incident.key.place, &incident.node);
    let is_in_node = *place == format!("node/{node}")
        || place.starts_with(&format!("node/{node}/device/"))
        || place.starts_with(&format!("path/{node}/"));
    (is_in_node && !node.is_empty() && incident.key.cause != UNEXPLAINED).then(|| {
        let about = About::Node { name: node.clone() };
        let note = note::of_trouble(incident, &about, "", None);
        Report { about, note, is_verdict, is_quiet, is_over: !incident.is_open(), ..blank(incident) }
    })
}

fn blank(incident: &Incident) -> Report {
    Report {
        about: About::Node { name: String::new() },
        incident: incident.id,
        cause: incident.key.cause.clone(),
        node: incident.node.clone(),
        is_verdict: false,
        is_quiet: false,
        is_over: false,
        note: String::new(),
    }
}

/// What objects are to be told: each report to every object that it is about and that is there, with its real UID.
#[must_use]
pub fn sayings(reports: &[Report], cluster: &Cluster, nodes: &[StandingNode]) -> Vec<Saying> {
    let nodes: HashMap<&str, &StandingNode> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let node_object = |name: &str| {
        let node = nodes.get(name).filter(|node| !node.uid.is_empty())?;
        let (namespace, name, uid) = (String::new(), node.name.clone(), node.uid.clone());
        Some(Object { kind: ObjectKind::Node, namespace, name, uid })
    };
    // Two incidents may say the same of one object: what lasts counts.
    let mut said: BTreeSet<(String, String)> = BTreeSet::new();
    let mut sayings = Vec::new();
    let (lasting, over): (Vec<&Report>, Vec<&Report>) = reports.iter().partition(|report| !report.is_over);
    for report in lasting.into_iter().chain(over) {
        let objects = match &report.about {
            About::Node { name } => node_object(name).into_iter().collect(),
            About::Vm { namespace, name, uid, migration } => {
                of_vm(cluster, [namespace, name, uid], migration.as_deref())
            }
        };
        let topic = format!("{}@{}", report.cause, report.node);
        for object in objects {
            if !said.insert((object.uid.clone(), topic.clone())) {
                continue;
            }
            let related = (object.kind != ObjectKind::Node).then(|| node_object(&report.node)).flatten();
            sayings.push(Saying {
                topic: topic.clone(),
                mode: if report.is_over { Mode::Over } else { Mode::Lasts },
                episode: report.incident.to_string(),
                begins_after_usec: match (report.is_quiet, report.is_verdict) {
                    (true, _) => None,
                    (false, true) => Some(0),
                    (false, false) => Some(UNSURE_WAITS_USEC),
                },
                reason: report.cause.clone(),
                note: report.note.clone(),
                over_note: note::of_end(report),
                incident: Some(report.incident),
                related,
                object,
            });
        }
    }
    sayings
}

/// The VMI, the migration and the VM, as far as they are there. A VMI that was made anew is not the one in trouble.
fn of_vm(cluster: &Cluster, [namespace, name, uid]: [&String; 3], migration: Option<&str>) -> Vec<Object> {
    let found = cluster.objects_of(namespace, name, migration);
    let object =
        |kind, name: &str, uid: String| Object { kind, namespace: namespace.clone(), name: name.to_owned(), uid };
    let vmi = found.vmi.filter(|vmi| vmi == uid).map(|uid| object(ObjectKind::Vmi, name, uid));
    let vm = found.vm.map(|uid| object(ObjectKind::Vm, name, uid));
    let migration = found.migration.zip(migration).map(|(uid, name)| object(ObjectKind::Vmim, name, uid));
    vmi.into_iter().chain(migration).chain(vm).collect()
}
