//! Answers, decided from a snapshot. Pure: the same snapshot and question give the same answer.

use std::collections::{BTreeMap, HashMap, HashSet};

use kulprit_cluster::ClusterVm;
use kulprit_diagnosis::{Indexed, NodeView, Snapshot, Symptom, SymptomId, SymptomSubject, VmView};
use kulprit_model::{FindingCode, Record, Status as Seen, Subject};
use kulprit_proto::v1;
use tonic::Status;

use super::{
    check_texts,
    named::{self, NamedVm},
    page, shortened, wire,
};
use crate::{
    access::rights::Sight,
    incident::Incidents,
    store::{HistoryEntry, HistoryPosition, HistoryQuery},
};

/// Findings of one page: at most, and where none are asked for.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 200;

/// Why a VM is in trouble; `node` narrows if it is not empty.
///
/// # Errors
/// NOT_FOUND names what does not exist; FAILED_PRECONDITION lists the candidates of an ambiguous name.
pub fn explain_vm(
    snapshot: &Snapshot,
    incidents: &Incidents,
    vm: &str,
    node: &str,
    sight: &Sight,
) -> Result<Vec<v1::Verdict>, Status> {
    let named = named::vm(snapshot, vm, node, sight)?;
    let indexed = Indexed::new(snapshot);
    Ok(verdicts_on(&indexed, incidents, &symptoms_of_vm(&indexed, named)))
}

/// What a VM shows, at least one.
pub(super) fn symptoms_of_vm(indexed: &Indexed<'_>, vm: NamedVm<'_>) -> Vec<Symptom> {
    match vm {
        NamedVm::OfCluster(vm) => vec![indexed.symptom_of(&vm.uid, None, true)],
        NamedVm::OfHost(node, vm) => {
            let subject = SymptomSubject::Vm { node: node.name.clone(), uid: vm.uid.clone() };
            of_subject(indexed.symptoms(), subject, || no_symptom_of_vm(node, vm))
        }
    }
}

/// Why a migration is stuck or failed. `found` is every migration of the name that was asked for, with its VM described so that this
/// migration is the one in question; so it stands in the snapshot afterwards.
///
/// # Errors
/// NOT_FOUND if there is none; FAILED_PRECONDITION lists the candidates of an ambiguous name.
pub fn explain_migration(
    snapshot: &mut Snapshot,
    incidents: &Incidents,
    name: &str,
    found: Vec<(String, ClusterVm)>,
) -> Result<Vec<v1::Verdict>, Status> {
    let MigrationAsked { symptom, .. } = migration_asked(snapshot, name, found)?;
    Ok(verdicts_on(&Indexed::new(snapshot), incidents, &[symptom]))
}

/// A migration that somebody asks about.
#[derive(Debug)]
pub(super) struct MigrationAsked {
    /// What it shows.
    pub(super) symptom: Symptom,
    /// Namespace and name of its VM.
    pub(super) vm: (String, String),
    /// Its name.
    pub(super) name: String,
}

/// Asks about the one migration in `found`, which stands in the snapshot afterwards as the one in question of its VM.
///
/// # Errors
/// As [`explain_migration`].
pub(super) fn migration_asked(
    snapshot: &mut Snapshot,
    name: &str,
    mut found: Vec<(String, ClusterVm)>,
) -> Result<MigrationAsked, Status> {
    let fix = "ask with a namespace or a UID";
    match (found.pop(), found.as_slice()) {
        (None, _) => {
            let is_watched = snapshot.cluster_sight.is_watched;
            let watched = if is_watched { ", nor was one seen in the last 24 h" } else { ": no Kubernetes is watched" };
            Err(Status::not_found(format!("no migration `{}`{watched}", shortened(name))))
        }
        (Some((name, vm)), []) => {
            let (uid, key) = (vm.uid.clone(), (vm.namespace.clone(), vm.name.clone()));
            match snapshot.cluster_vms.iter_mut().find(|known| known.namespace == vm.namespace && known.name == vm.name)
            {
                Some(known) => *known = vm.into(),
                None => snapshot.cluster_vms.push(vm.into()),
            }
            let symptom = Indexed::new(snapshot).symptom_of(&uid, Some(&name), true);
            Ok(MigrationAsked { symptom, vm: key, name })
        }
        (Some(last), others) => {
            let all: Vec<String> =
                others.iter().chain([&last]).map(|(name, vm)| format!("{}/{name}", vm.namespace)).collect();
            Err(named::ambiguous("migration", name, "migrations", all.iter(), fix))
        }
    }
}

/// Why a node itself is in trouble.
///
/// # Errors
/// NOT_FOUND if no node has that name.
pub fn explain_node(
    snapshot: &Snapshot,
    incidents: &Incidents,
    node: &str,
    sight: &Sight,
) -> Result<Vec<v1::Verdict>, Status> {
    let node = named::node(snapshot, node, sight)?;
    let indexed = Indexed::new(snapshot);
    Ok(verdicts_on(&indexed, incidents, &symptoms_of_node(&indexed, node)))
}

/// What a node itself shows, at least one.
pub(super) fn symptoms_of_node(indexed: &Indexed<'_>, node: &NodeView) -> Vec<Symptom> {
    let subject = SymptomSubject::Node { node: node.name.clone() };
    of_subject(indexed.symptoms(), subject, || no_symptom_of_node(node))
}

/// Everything in trouble, or of one node if `node` is not empty: the node itself and its VMs.
///
/// # Errors
/// NOT_FOUND if no node has that name.
pub fn verdicts(
    snapshot: &Snapshot,
    incidents: &Incidents,
    node: &str,
    sight: &Sight,
) -> Result<Vec<v1::Verdict>, Status> {
    // Who may not get nodes is not told which there are.
    if !node.is_empty() && sight.shows_nodes() {
        named::node(snapshot, node, sight)?;
    }
    let indexed = Indexed::new(snapshot);
    let mut shown = indexed.symptoms();
    if !node.is_empty() {
        shown.retain(|symptom| match &symptom.subject {
            SymptomSubject::Node { node: on } | SymptomSubject::Vm { node: on, .. } => on == node,
        });
    }
    Ok(verdicts_on(&indexed, incidents, &shown))
}

fn verdicts_on(indexed: &Indexed<'_>, incidents: &Incidents, wanted: &[Symptom]) -> Vec<v1::Verdict> {
    let incidents = incidents.by_member();
    wanted.iter().map(|symptom| wire::verdict(indexed, &incidents, &indexed.attribute(symptom))).collect()
}

/// The symptoms of `subject`; if there are none, one that says so.
fn of_subject(shown: Vec<Symptom>, subject: SymptomSubject, none: impl FnOnce() -> String) -> Vec<Symptom> {
    let own: Vec<Symptom> = shown.into_iter().filter(|symptom| symptom.subject == subject).collect();
    if own.is_empty() {
        vec![Symptom { subject, id: SymptomId::Unspecified, since_wall_usec: None, text: none(), migration: None }]
    } else {
        own
    }
}

fn no_symptom_of_vm(node: &NodeView, vm: &VmView) -> String {
    if !node.is_reporting {
        return format!("whether the VM shows a symptom is not known: the agent of {} does not report", node.name);
    }
    match &vm.domain {
        Some(domain) => {
            format!(
                "the VM shows no symptom; libvirt says {}",
                kulprit_diagnosis::libvirt::describe(domain.state, domain.reason)
            )
        }
        None => "the VM shows no symptom that could be seen; libvirt says nothing about it".to_owned(),
    }
}

fn no_symptom_of_node(node: &NodeView) -> String {
    if node.is_reporting {
        "the node shows no fault of its own".to_owned()
    } else {
        "whether the node has a fault is not known: its agent does not report".to_owned()
    }
}

/// A node with its findings and VMs. `node` is its message, if it is known.
///
/// # Errors
/// NOT_FOUND if no node has that name.
pub fn node_detail(
    snapshot: &Snapshot,
    node: Option<v1::Node>,
    name: &str,
    sight: &Sight,
) -> Result<v1::GetNodeResponse, Status> {
    let view = named::node(snapshot, name, sight)?;
    let indexed = Indexed::new(snapshot);
    let shown = indexed.symptoms();
    Ok(v1::GetNodeResponse {
        node: Some(node.ok_or_else(|| named::no_node(snapshot, name, sight))?),
        findings: findings_of(view).map(|(_, _, finding)| finding).collect(),
        vms: vms_of(view, &indexed, &symptoms_by_vm(&shown)).collect(),
    })
}

/// Every node, by name. `heard` are those from which an agent reported; Kubernetes may have others.
#[must_use]
pub fn all_nodes(snapshot: &Snapshot, mut heard: Vec<v1::Node>) -> v1::ListNodesResponse {
    let mut n_vms: HashMap<&str, usize> = HashMap::new();
    for hosting in vmis(snapshot).filter_map(|vm| vm.hosting.as_deref()) {
        *n_vms.entry(hosting).or_default() += 1;
    }
    let known: HashSet<String> = heard.iter().map(|node| node.name.clone()).collect();
    let others = snapshot.cluster_nodes.iter().map(|node| node.name.as_str()).filter(|name| !known.contains(*name));
    heard.extend(others.map(|name| wire::node_without_agent(name, n_vms.get(name).copied().unwrap_or(0))));
    heard.sort_by(|a, b| (&a.name, &a.cluster).cmp(&(&b.name, &b.cluster)));
    v1::ListNodesResponse { nodes: heard }
}

/// VMIs that Kubernetes has.
fn vmis(snapshot: &Snapshot) -> impl Iterator<Item = &ClusterVm> {
    snapshot.cluster_vms.iter().map(|vm| &**vm).filter(|vm| vm.life.has_vmi)
}

/// VMs by name, of one node or all: those that hosts show, and VMIs of Kubernetes that none does.
///
/// # Errors
/// NOT_FOUND if neither an agent nor Kubernetes has a node of that name.
pub fn vms(snapshot: &Snapshot, node: &str, sight: &Sight) -> Result<v1::ListVmsResponse, Status> {
    let nodes = match nodes(snapshot, node, sight) {
        Err(_) if snapshot.cluster_nodes.iter().any(|known| known.name == node) => Vec::new(),
        nodes => nodes?,
    };
    let indexed = Indexed::new(snapshot);
    let shown = indexed.symptoms();
    let (by_vm, by_uid) = (symptoms_by_vm(&shown), symptoms_by_uid(&shown));
    let mut vms: Vec<v1::Vm> = nodes.into_iter().flat_map(|view| vms_of(view, &indexed, &by_vm)).collect();
    let of_hosts: HashSet<&str> = snapshot.nodes.iter().flat_map(|view| &*view.vms).map(|vm| vm.uid.as_str()).collect();
    // A host may still remember the VM by the UID of a VMI that is gone.
    let others = vmis(snapshot).filter(|vm| !of_hosts.contains(vm.uid.as_str()));
    let others = others.filter(|vm| node.is_empty() || vm.hosting.as_deref() == Some(node));
    vms.extend(others.map(|vm| wire::vm_without_host(vm, by_uid.get(vm.uid.as_str()).copied())));
    vms.sort_by(|a, b| (&a.namespace, &a.name, &a.node, &a.uid).cmp(&(&b.namespace, &b.name, &b.node, &b.uid)));
    Ok(v1::ListVmsResponse { vms })
}

/// The node of that name, or all if it is empty. Who may not get nodes is not told which there are.
fn nodes<'a>(snapshot: &'a Snapshot, node: &str, sight: &Sight) -> Result<Vec<&'a NodeView>, Status> {
    match (node.is_empty(), sight.shows_nodes()) {
        (true, _) => Ok(snapshot.nodes.iter().collect()),
        (false, true) => Ok(vec![named::node(snapshot, node, sight)?]),
        (false, false) => Ok(snapshot.nodes.iter().filter(|view| view.name == node).collect()),
    }
}

type SymptomsByVm<'a> = BTreeMap<(&'a str, &'a str), SymptomId>;

/// The symptom of each VM that shows one, by node and UID.
fn symptoms_by_vm(shown: &[Symptom]) -> SymptomsByVm<'_> {
    let of_vms = shown.iter().filter_map(|symptom| match &symptom.subject {
        SymptomSubject::Vm { node, uid } => Some(((node.as_str(), uid.as_str()), symptom.id)),
        SymptomSubject::Node { .. } => None,
    });
    of_vms.collect()
}

/// The symptom of each VM that shows one, by UID.
fn symptoms_by_uid(shown: &[Symptom]) -> HashMap<&str, SymptomId> {
    symptoms_by_vm(shown).into_iter().map(|((_, uid), id)| (uid, id)).collect()
}

fn vms_of<'a>(
    view: &'a NodeView,
    indexed: &'a Indexed<'_>,
    shown: &'a SymptomsByVm<'_>,
) -> impl Iterator<Item = v1::Vm> + 'a {
    view.vms.iter().map(|vm| {
        let symptom = shown.get(&(view.name.as_str(), vm.uid.as_str())).copied();
        wire::vm(view, vm, indexed.cluster_vm(&vm.uid), symptom)
    })
}

/// A question about findings, checked.
#[derive(Clone, Debug)]
pub struct FindingsQuestion {
    request: v1::ListFindingsRequest,
    page_size: usize,
    /// From the page token: what the previous page ended with.
    after: Option<String>,
}

impl FindingsQuestion {
    /// Checks a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the field.
    pub fn new(request: v1::ListFindingsRequest) -> Result<Self, Status> {
        check_texts(&[("node", &request.node), ("code", &request.code), ("subject", &request.subject)])?;
        if !request.code.is_empty() && request.code.parse::<FindingCode>().is_err() {
            let code = shortened(&request.code);
            return Err(Status::invalid_argument(format!(
                "code: `{code}` is not in the finding catalogue of this version"
            )));
        }
        if !request.subject.is_empty()
            && let Err(error) = request.subject.parse::<Subject>()
        {
            return Err(Status::invalid_argument(format!("subject: {error}")));
        }
        if request.from_wall_usec > request.to_wall_usec {
            return Err(Status::invalid_argument("from_wall_usec: later than to_wall_usec"));
        }
        let page_size = match request.page_size {
            0 => PAGE_DEFAULT,
            1..=PAGE_MAX => request.page_size,
            more => return Err(Status::invalid_argument(format!("page_size: {more}, at most {PAGE_MAX} are given"))),
        };
        let page_size = usize::try_from(page_size).unwrap_or(usize::MAX);
        let mut question = Self { request, page_size, after: None };
        if !question.request.page_token.is_empty() {
            let after = page::position(&question.texts_of_question(), &question.request.page_token);
            let wrong = || Status::invalid_argument("page_token: not one that this question was answered with");
            question.after = Some(after.ok_or_else(wrong)?);
            if question.is_history() && question.position().is_none() {
                return Err(wrong());
            }
        }
        Ok(question)
    }

    /// The node that is asked about; empty: all.
    pub(super) fn node(&self) -> &str {
        &self.request.node
    }

    /// UID of the VM that is asked about, if it is one.
    pub(super) fn vm_uid(&self) -> Option<String> {
        match self.request.subject.parse() {
            Ok(Subject::Vm { uid }) => Some(uid),
            _ => None,
        }
    }

    /// The part of the history that is asked for; `None` if what holds now is asked for.
    #[must_use]
    pub fn history(&self) -> Option<HistoryQuery> {
        let v1::ListFindingsRequest { node, code, subject, include_absent, from_wall_usec, to_wall_usec, .. } =
            &self.request;
        self.is_history().then(|| HistoryQuery {
            from_wall_usec: *from_wall_usec,
            to_wall_usec: *to_wall_usec,
            node: node.clone(),
            code: code.clone(),
            subject: subject.clone(),
            include_absent: *include_absent,
            after: self.position(),
            // One more tells whether there is a next page.
            limit: self.page_size + 1,
        })
    }

    const fn is_history(&self) -> bool {
        self.request.from_wall_usec != 0 || self.request.to_wall_usec != 0
    }

    fn position(&self) -> Option<HistoryPosition> {
        let mut numbers = self.after.as_ref()?.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(HistoryPosition { at_wall_usec: next()?, day: next()?, row: next()? })
    }

    /// What a page token is bound to.
    fn texts_of_question(&self) -> Vec<&str> {
        let v1::ListFindingsRequest { node, code, subject, include_absent, .. } = &self.request;
        let kind = if self.is_history() { "history" } else { "current" };
        vec![kind, node, code, subject, if *include_absent { "all" } else { "present" }]
    }

    fn token(&self, position: &str) -> String {
        page::token(&self.texts_of_question(), position)
    }

    fn wants(&self, code: FindingCode, subject: &str, is_absent: bool) -> bool {
        let v1::ListFindingsRequest { code: wanted, subject: about, include_absent, .. } = &self.request;
        (wanted.is_empty() || wanted == code.as_str())
            && (about.is_empty() || about == subject)
            && (*include_absent || !is_absent)
    }
}

/// One page of what holds now, by (node, kind, code, subject, first time).
///
/// # Errors
/// NOT_FOUND if no node has the name asked for.
pub fn current_findings(
    snapshot: &Snapshot,
    question: &FindingsQuestion,
    sight: &Sight,
) -> Result<v1::ListFindingsResponse, Status> {
    let nodes = nodes(snapshot, &question.request.node, sight)?;
    let mut findings = Vec::new();
    let mut last = String::new();
    for view in nodes {
        let wanted =
            findings_of(view).filter(|((code, subject, is_absent), ..)| question.wants(*code, subject, *is_absent));
        for (_, position, finding) in wanted {
            if question.after.as_ref().is_some_and(|after| position <= *after) {
                continue;
            }
            if findings.len() == question.page_size {
                return Ok(v1::ListFindingsResponse { findings, next_page_token: question.token(&last) });
            }
            findings.push(finding);
            last = position;
        }
    }
    Ok(v1::ListFindingsResponse { findings, next_page_token: String::new() })
}

/// What a question filters by: code, subject key, whether it is an Absent state.
type Filtered = (FindingCode, String, bool);

/// The findings of a node, each with what is filtered by and its position in the order of all.
fn findings_of(view: &NodeView) -> impl Iterator<Item = (Filtered, String, v1::NodeFinding)> {
    let states = view.states.iter().map(|state| {
        let subject = state.subject.to_string();
        let position = format!("{}\0state\0{}\0{subject}", view.name, state.code);
        let finding = wire::state(&view.name, wire::vm_name(Some(view), &state.subject), state.clone());
        ((state.code, subject, state.status == Seen::Absent), position, finding)
    });
    let occurrences = view.occurrences.iter().map(|occurrence| {
        let subject = occurrence.subject.to_string();
        // Times before 1970 come last; they are nonsense anyway.
        let first = occurrence.first.wall_usec;
        let position = format!("{}\0occurrence\0{}\0{subject}\0{first:020}", view.name, occurrence.code);
        let finding = wire::occurrence(&view.name, wire::vm_name(Some(view), &occurrence.subject), occurrence.clone());
        ((occurrence.code, subject, false), position, finding)
    });
    let mut findings: Vec<_> = states.chain(occurrences).collect();
    findings.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
    findings.into_iter()
}

/// One page of the history, oldest first. `entries` may hold one more than the page.
#[must_use]
pub fn history_findings(
    snapshot: &Snapshot,
    question: &FindingsQuestion,
    mut entries: Vec<HistoryEntry>,
) -> v1::ListFindingsResponse {
    let is_last = entries.len() <= question.page_size;
    entries.truncate(question.page_size);
    let last = entries.last().map(|entry| entry.position);
    let next_page_token = match last {
        Some(HistoryPosition { at_wall_usec, day, row }) if !is_last => {
            question.token(&format!("{at_wall_usec}.{day}.{row}"))
        }
        _ => String::new(),
    };
    let findings = entries.into_iter().filter_map(|entry| {
        let view = snapshot.nodes.iter().find(|node| node.name == entry.node);
        match Record::try_from(entry.record).ok()?.body {
            kulprit_model::Body::State(state) => {
                Some(wire::state(&entry.node, wire::vm_name(view, &state.subject), state))
            }
            kulprit_model::Body::Occurrence(occurrence) => {
                Some(wire::occurrence(&entry.node, wire::vm_name(view, &occurrence.subject), occurrence))
            }
            kulprit_model::Body::Domain(_) | kulprit_model::Body::Qemu(_) | kulprit_model::Body::SubjectGone { .. } => {
                None
            }
        }
    });
    v1::ListFindingsResponse { findings: findings.collect(), next_page_token }
}
