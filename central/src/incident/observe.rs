//! What a pass over incidents sees: each attribution as an observation, and where nobody could look.

use std::{collections::BTreeSet, sync::Arc};

use kulprit_cluster::ClusterVm;
use kulprit_diagnosis::{
    Attribution, Candidate, Indexed, NodeView, Place, Snapshot, SymptomSubject, causes::UNEXPLAINED,
    place::incident_key,
};
use kulprit_model::{FindingCode, Severity, State, Status, Subject};

use super::{Key, Member, Whom};

/// What is less likely than the first by no more than this may be the cause as well, decibans: it is a third as likely. Evidence of the VM's
/// own that says something weighs 7, a hint 3: by a hint alone nobody changes his mind.
const NEAR_DB: f64 = 5.0;

/// What a symptom may be due to.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Root cause and place.
    pub key: Key,
    /// Node of the place.
    pub node: String,
    /// Of the root cause.
    pub probability: f64,
    /// Causes from the root to the symptom.
    pub chain: Vec<String>,
}

/// One symptom and its root cause, as diagnosis sees them now.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Root cause and place.
    pub key: Key,
    /// What is nearly as likely, and the same at what nodes share where nobody can tell whether that is at fault; likeliest first.
    pub may_be: Vec<Explanation>,
    /// Node of the place.
    pub node: String,
    /// Who shows the symptom.
    pub whom: Whom,
    /// Namespace of the VM; empty for none.
    pub namespace: String,
    /// Name of the VM; empty for a node.
    pub name: String,
    /// Symptom id.
    pub symptom: String,
    /// Onset, Unix time in microseconds.
    pub since_wall_usec: Option<i64>,
    /// Of the root cause.
    pub probability: f64,
    /// Causes from the root to the symptom.
    pub chain: Vec<String>,
    /// States that are Present and may carry the symptom, `<code> <subject>`, sorted.
    pub based_on: Vec<String>,
}

/// Where nobody could look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// Nodes whose agent does not report.
    pub silent_nodes: BTreeSet<String>,
    /// States that are Unknown, by node: `<code> <subject>`.
    pub unknown: BTreeSet<(String, String)>,
    /// Whether Kubernetes' objects are not known to be as they are shown: none of its VMs is seen to be well.
    pub is_cluster_unseen: bool,
    /// The VMs that Kubernetes has on silent nodes, by node and UID; `None` while it is not watched or not seen as it is.
    pub vms_on_silent: Option<BTreeSet<(String, String)>>,
}

impl Looks {
    /// Reads off a snapshot where nobody could look.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let is_cluster_unseen = snapshot.cluster_sight.until_usec.is_some();
        let mut looks = Self { is_cluster_unseen, ..Self::default() };
        for node in &snapshot.nodes {
            if !node.is_reporting {
                looks.silent_nodes.insert(node.name.clone());
            }
            let unknown = node.states.iter().filter(|state| state.status == Status::Unknown);
            looks.unknown.extend(unknown.map(|state| (node.name.clone(), state_key(state.code, &state.subject))));
        }
        if snapshot.cluster_sight.is_watched && !is_cluster_unseen {
            looks.vms_on_silent = Some(vms_on(&snapshot.cluster_vms, &looks.silent_nodes));
        }
        looks
    }

    /// Whether it could be seen if the symptom were still there. Only a VM of Kubernetes has a namespace; of one that has left a silent
    /// node nothing is left there to be seen.
    pub(super) fn can_see(&self, member: &Member) -> bool {
        let Member { whom, based_on, .. } = member;
        let is_hidden = self.is_cluster_unseen && !whom.uid.is_empty() && !member.namespace.is_empty();
        let is_blind = self.silent_nodes.contains(&whom.node)
            || based_on.iter().any(|key| self.unknown.contains(&(whom.node.clone(), key.clone())));
        !is_hidden && (!is_blind || self.has_left(member))
    }

    /// Whether Kubernetes has a VM on that silent node no more: its VMI is gone, or runs elsewhere.
    fn has_left(&self, member: &Member) -> bool {
        let Member { whom, namespace, .. } = member;
        let is_of_kubernetes = !whom.uid.is_empty() && !namespace.is_empty();
        let vms = self.vms_on_silent.as_ref().filter(|_| is_of_kubernetes && self.silent_nodes.contains(&whom.node));
        vms.is_some_and(|vms| !vms.contains(&(whom.node.clone(), whom.uid.clone())))
    }
}

/// The VMs that have a VMI on one of `nodes`, under each of their UIDs.
fn vms_on(vms: &[Arc<ClusterVm>], nodes: &BTreeSet<String>) -> BTreeSet<(String, String)> {
    let with_vmi = vms.iter().filter(|vm| vm.life.has_vmi);
    let placed = with_vmi.filter_map(|vm| Some((vm, vm.hosting.as_ref().filter(|node| nodes.contains(*node))?)));
    placed.flat_map(|(vm, node)| vm.uids.iter().chain([&vm.uid]).map(move |uid| (node.clone(), uid.clone()))).collect()
}

/// What `attributions` say, in their order; those that make no incident are left out.
#[must_use]
pub fn observe(snapshot: &Indexed<'_>, attributions: &[Attribution]) -> Vec<Observation> {
    attributions.iter().filter_map(|attribution| observation(snapshot, attribution)).collect()
}

/// Whom a symptom is about, as incidents know it.
#[must_use]
pub fn whom(subject: &SymptomSubject) -> Whom {
    match subject {
        SymptomSubject::Vm { node, uid } => Whom { node: node.clone(), uid: uid.clone() },
        SymptomSubject::Node { node } => Whom { node: node.clone(), uid: String::new() },
    }
}

fn observation(snapshot: &Indexed<'_>, attribution: &Attribution) -> Option<Observation> {
    incident_key(attribution)?;
    let first = attribution.causes.first()?;
    let Explanation { key, node: node_of_place, probability, chain } = explanation(first, &first.place);
    let whom = whom(&attribution.symptom.subject);
    let node = snapshot.node(&whom.node);
    let vm = node.and_then(|node| node.vms.iter().find(|vm| vm.uid == whom.uid));
    let of_cluster = snapshot.cluster_vm(&whom.uid).filter(|_| !whom.uid.is_empty());
    let (namespace, name) = match (of_cluster, vm) {
        (Some(vm), _) => (vm.namespace.clone(), vm.name.clone()),
        (None, Some(vm)) => (vm.namespace.clone().unwrap_or_default(), vm.name.clone()),
        (None, None) => (String::new(), String::new()),
    };
    Some(Observation {
        node: node_of_place,
        key,
        may_be: may_be(attribution, first),
        namespace,
        name,
        symptom: attribution.symptom.id.as_str().to_owned(),
        since_wall_usec: attribution.symptom.since_wall_usec,
        probability,
        chain,
        based_on: node.map(|node| present_states(node, &whom)).unwrap_or_default(),
        whom,
    })
}

fn explanation(candidate: &Candidate, place: &Place) -> Explanation {
    Explanation {
        key: Key { cause: candidate.id.to_owned(), place: place.to_string() },
        node: place.node().to_owned(),
        probability: candidate.probability,
        chain: candidate.chain.iter().map(|id| (*id).to_owned()).collect(),
    }
}

/// What it may be as well as the first; that nothing explains it is no explanation.
fn may_be(attribution: &Attribution, first: &Candidate) -> Vec<Explanation> {
    let others = attribution.causes.iter().skip(1).chain(&attribution.contributing);
    let is_near =
        |other: &&Candidate| other.explains && other.id != UNEXPLAINED.id && first.score_db - other.score_db <= NEAR_DB;
    let at_shared = |candidate: &Candidate| candidate.may_be_at.as_ref().map(|place| explanation(candidate, place));
    let near = others.filter(is_near).flat_map(|other| [Some(explanation(other, &other.place)), at_shared(other)]);
    std::iter::once(at_shared(first)).chain(near).flatten().collect()
}

/// The candidate that an incident of `key` names, among those that its members are observed by.
pub(crate) fn named<'a>(attribution: &'a Attribution, key: &Key) -> Option<&'a Candidate> {
    let is_at = |place: &Place| place.to_string() == key.place;
    let mut candidates = attribution.causes.iter().chain(&attribution.contributing);
    candidates.find(|one| one.id == key.cause && (is_at(&one.place) || one.may_be_at.as_ref().is_some_and(is_at)))
}

/// The states that may carry a symptom of `whom`: its own, and the faults of its node.
fn present_states(node: &NodeView, whom: &Whom) -> Vec<String> {
    let carries = |state: &&State| match &state.subject {
        Subject::Vm { uid } => *uid == whom.uid,
        Subject::Process { .. } => false,
        Subject::Node
        | Subject::Unit { .. }
        | Subject::Device { .. }
        | Subject::Mount { .. }
        | Subject::Problem { .. }
        | Subject::Libvirt { .. }
        | Subject::Probe { .. } => state.code.spec().severity == Severity::Fault,
    };
    let present = node.states.iter().filter(|state| state.status == Status::Present).filter(carries);
    let mut keys: Vec<String> = present.map(|state| state_key(state.code, &state.subject)).collect();
    keys.sort_unstable();
    keys
}

fn state_key(code: FindingCode, subject: &Subject) -> String {
    format!("{code} {subject}")
}

#[cfg(test)]
mod tests;
