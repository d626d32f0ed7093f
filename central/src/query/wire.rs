//! Attributions, views and the catalogue as messages.

use std::{collections::BTreeMap, sync::Arc};

use kulprit_cluster::ClusterVm;
use kulprit_diagnosis::{
    Attribution, CAUSES, Candidate, Cause, Confidence, Indexed, MigrationOutcome, MigrationRecord, NodeView, Remedy,
    RuledOut, Symptom, SymptomId, SymptomSubject, VmView, WeighedEvidence, catalogue, libvirt,
};
use kulprit_model::{FindingCode, Occurrence, Severity, State, Status, StreamId, Subject};
use kulprit_proto::v1;

use crate::{
    incident::{Incident, Whom, observe::whom},
    state::NodeState,
};

/// How long an occurrence counts among the faults of its node, microseconds.
const RECENT_USEC: i64 = 15 * 60_000_000;

/// An attribution; `incidents` are those of [`crate::incident::Incidents::by_member`].
pub(super) fn verdict(
    snapshot: &Indexed<'_>,
    incidents: &BTreeMap<(&Whom, &str), &Arc<Incident>>,
    attribution: &Attribution,
) -> v1::Verdict {
    let Attribution { symptom, causes, contributing, ruled_out, unknown, looked_at, confidence } = attribution;
    let Symptom { subject, id, since_wall_usec, text, migration: _ } = symptom;
    let whom = whom(subject);
    let incident = incidents.get(&(&whom, id.as_str()));
    v1::Verdict {
        subject: Some(verdict_subject(snapshot, subject)),
        symptom: id.as_str().to_owned(),
        since_wall_usec: since_wall_usec.unwrap_or(0),
        symptom_text: text.clone(),
        causes: causes.iter().map(cause).collect(),
        contributing: contributing.iter().map(cause).collect(),
        ruled_out: ruled_out
            .iter()
            .map(|RuledOut { id, why }| v1::RuledOut { id: (*id).to_owned(), why: why.clone() })
            .collect(),
        unknown: unknown.clone(),
        looked_at: looked_at.clone(),
        incident_id: incident.map(|incident| incident.id.to_string()).unwrap_or_default(),
        reference_wall_usec: snapshot.reference_wall_usec,
        confidence: match confidence {
            Confidence::Verdict => v1::Confidence::Verdict,
            Confidence::Suspected => v1::Confidence::Suspected,
            Confidence::Unexplained => v1::Confidence::Unexplained,
        }
        .into(),
        migrations: symptom.past_migrations(snapshot).iter().map(past_migration).collect(),
    }
}

fn past_migration(record: &MigrationRecord) -> v1::PastMigration {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    v1::PastMigration {
        uid: record.uid.clone(),
        name: record.name.clone(),
        vmi_uid: text(&record.vmi_uid),
        source_node: text(&record.source),
        target_node: text(&record.target),
        created_wall_usec: record.created_usec.unwrap_or(0),
        ended_wall_usec: record.over_usec().unwrap_or(0),
        outcome: match record.outcome() {
            MigrationOutcome::Succeeded => v1::MigrationOutcome::Succeeded,
            MigrationOutcome::Failed => v1::MigrationOutcome::Failed,
            MigrationOutcome::Aborted => v1::MigrationOutcome::Aborted,
            MigrationOutcome::UnderWay | MigrationOutcome::Unknown => v1::MigrationOutcome::Unspecified,
        }
        .into(),
        reason: text(&record.reason),
        initiator: record.initiator.map(|initiator| initiator.to_string()).unwrap_or_default(),
    }
}

fn verdict_subject(snapshot: &Indexed<'_>, subject: &SymptomSubject) -> v1::VerdictSubject {
    match subject {
        SymptomSubject::Node { node } => v1::VerdictSubject { node: node.clone(), ..v1::VerdictSubject::default() },
        SymptomSubject::Vm { node, uid } => {
            let vm = snapshot.node(node).and_then(|view| find_vm(view, uid));
            let (namespace, name) = match (snapshot.cluster_vm(uid), vm) {
                (Some(vm), _) => (vm.namespace.clone(), vm.name.clone()),
                (None, Some(vm)) => (vm.namespace.clone().unwrap_or_default(), vm.name.clone()),
                (None, None) => (String::new(), String::new()),
            };
            v1::VerdictSubject { uid: uid.clone(), namespace, name, node: node.clone() }
        }
    }
}

fn find_vm<'a>(node: &'a NodeView, uid: &str) -> Option<&'a VmView> {
    node.vms.iter().find(|vm| vm.uid == uid)
}

fn cause(candidate: &Candidate) -> v1::Cause {
    let Candidate {
        id,
        probability,
        score_db,
        role,
        node,
        place: _,
        explains: _,
        may_be_at: _,
        chain,
        evidence,
        remedy: advice,
    } = candidate;
    v1::Cause {
        id: (*id).to_owned(),
        probability: *probability,
        role: (*role).to_owned(),
        node: node.clone().unwrap_or_default(),
        chain: chain.iter().map(|id| (*id).to_owned()).collect(),
        evidence: evidence.iter().map(weighed_evidence).collect(),
        remedy: Some(remedy(advice)),
        score_db: *score_db,
        meaning: catalogue::find(id).map(|cause| cause.meaning.to_owned()).unwrap_or_default(),
    }
}

fn weighed_evidence(evidence: &WeighedEvidence) -> v1::WeighedEvidence {
    let WeighedEvidence { source, node, at_wall_usec, text, weight_db, cause } = evidence;
    v1::WeighedEvidence {
        source: source.clone(),
        node: node.clone(),
        at_wall_usec: *at_wall_usec,
        text: text.clone(),
        weight_db: *weight_db,
        cause: (*cause).to_owned(),
    }
}

fn remedy(remedy: &Remedy) -> v1::Remedy {
    let Remedy { now, check, prevent, safe_to_force_delete } = remedy;
    v1::Remedy {
        now: now.clone(),
        check: check.clone(),
        prevent: prevent.clone(),
        safe_to_force_delete: *safe_to_force_delete,
    }
}

/// Every cause this version knows.
pub(super) fn catalogue() -> Vec<v1::CatalogueCause> {
    CAUSES.iter().map(|cause| catalogue_cause(cause)).collect()
}

fn catalogue_cause(cause: &Cause) -> v1::CatalogueCause {
    let texts = |steps: &[catalogue::Step]| steps.iter().map(|step| step.text().to_owned()).collect();
    v1::CatalogueCause {
        id: cause.id.to_owned(),
        meaning: cause.meaning.to_owned(),
        symptoms: cause.symptoms().map(|id| id.as_str().to_owned()).collect(),
        roles: cause.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        runbook_item: cause.runbook_item.to_owned(),
        remedy: Some(v1::Remedy {
            now: texts(cause.advice.now),
            check: texts(cause.advice.check),
            prevent: texts(cause.advice.prevent),
            safe_to_force_delete: false,
        }),
        clues: cause.clues.iter().map(catalogue::Clue::line).collect(),
    }
}

/// A node as central sees it at `now_wall_usec`.
pub(super) fn node(id: &StreamId, node: &NodeState, now_wall_usec: i64) -> v1::Node {
    let view = node.view();
    let hello = node.hello_message();
    let inventory = hello.inventory.clone().unwrap_or_default();
    let is_fault = |code: FindingCode| code.spec().severity == Severity::Fault;
    let n_present = view.states.iter().filter(|state| state.status == Status::Present && is_fault(state.code)).count();
    let oldest = now_wall_usec.saturating_sub(RECENT_USEC);
    let n_recent = view.occurrences.iter().filter(|seen| is_fault(seen.code) && seen.last.wall_usec >= oldest).count();
    let n_unknown = view.states.iter().filter(|state| state.status == Status::Unknown).count();
    v1::Node {
        name: id.node.clone(),
        cluster: id.cluster.clone(),
        is_reporting: view.is_reporting,
        last_heard_wall_usec: view.last_heard_wall_usec.unwrap_or(0),
        agent_version: hello.agent_version.clone(),
        kernel: inventory.kernel,
        os: inventory.os,
        libvirt: inventory.libvirt,
        qemu: inventory.qemu,
        runtime: inventory.runtime,
        processor: inventory.processor,
        microcode: inventory.microcode,
        clock_offset_usec: node.clock_offset_usec(),
        n_vms: count(view.vms.len()),
        n_faults: count(n_present + n_recent),
        n_unknown: count(n_unknown),
        cannot_show: view.cannot_show,
    }
}

/// A node of Kubernetes from which no agent ever reported. `n_vms` are those that Kubernetes has there.
pub(super) fn node_without_agent(name: &str, n_vms: usize) -> v1::Node {
    v1::Node { name: name.to_owned(), n_vms: count(n_vms), ..v1::Node::default() }
}

/// A VM as its node shows it, by Kubernetes' name if it has it. `symptom` is what it shows, if anything.
pub(super) fn vm(node: &NodeView, vm: &VmView, of_cluster: Option<&ClusterVm>, symptom: Option<SymptomId>) -> v1::Vm {
    let VmView { uid, namespace, name, domain, qemu, last_qemu: _ } = vm;
    // A host calls a VM of KubeVirt namespace/name.
    let (namespace, name) = match (of_cluster, name.split_once('/')) {
        (Some(of_cluster), _) => (of_cluster.namespace.clone(), of_cluster.name.clone()),
        (None, Some((namespace, name))) => (namespace.to_owned(), name.to_owned()),
        (None, None) => (namespace.clone().unwrap_or_default(), name.clone()),
    };
    let state = domain.as_ref().map(|domain| {
        libvirt::state_word(domain.state).map_or_else(|| format!("state {}", domain.state), ToOwned::to_owned)
    });
    let reason = domain.as_ref().map(|domain| {
        let word = libvirt::reason_word(domain.state, domain.reason);
        word.map_or_else(|| format!("reason {}", domain.reason), ToOwned::to_owned)
    });
    v1::Vm {
        uid: uid.clone(),
        namespace,
        name,
        node: node.name.clone(),
        state: state.unwrap_or_else(|| "unknown".to_owned()),
        reason: reason.unwrap_or_default(),
        since_wall_usec: domain.as_ref().map_or(0, |domain| domain.since.wall_usec),
        qemu_pid: qemu.as_ref().map_or(0, |qemu| qemu.pid),
        symptom: symptom.map(|id| id.as_str().to_owned()).unwrap_or_default(),
    }
}

/// A VMI of Kubernetes that no host shows.
pub(super) fn vm_without_host(vm: &ClusterVm, symptom: Option<SymptomId>) -> v1::Vm {
    let phase = vm.life.phase.as_deref().filter(|phase| !phase.is_empty()).unwrap_or("no phase");
    v1::Vm {
        uid: vm.uid.clone(),
        namespace: vm.namespace.clone(),
        name: vm.name.clone(),
        node: vm.hosting.clone().unwrap_or_default(),
        state: "unknown".to_owned(),
        reason: format!("{phase} in Kubernetes"),
        since_wall_usec: vm.life.phase_since_usec.unwrap_or(0),
        qemu_pid: 0,
        symptom: symptom.map(|id| id.as_str().to_owned()).unwrap_or_default(),
    }
}

/// A state with the node that says it.
pub(super) fn state(node: &str, vm_name: String, state: State) -> v1::NodeFinding {
    let severity = state.code.spec().severity.as_str().to_owned();
    v1::NodeFinding {
        node: node.to_owned(),
        vm_name,
        severity,
        finding: Some(v1::node_finding::Finding::State(state.into())),
    }
}

/// An occurrence with the node that says it.
pub(super) fn occurrence(node: &str, vm_name: String, occurrence: Occurrence) -> v1::NodeFinding {
    let severity = occurrence.code.spec().severity.as_str().to_owned();
    v1::NodeFinding {
        node: node.to_owned(),
        vm_name,
        severity,
        finding: Some(v1::node_finding::Finding::Occurrence(occurrence.into())),
    }
}

/// The name of the VM that a finding is about; empty if it is about none or the name is not known.
pub(super) fn vm_name(node: Option<&NodeView>, subject: &Subject) -> String {
    let Some(node) = node else { return String::new() };
    let vm = match subject {
        Subject::Vm { uid } => find_vm(node, uid),
        Subject::Process { pid, start_ticks } => node.vms.iter().find(|vm| {
            let mut runs = vm.qemu.iter().chain(&vm.last_qemu);
            runs.any(|qemu| qemu.pid == *pid && (qemu.start_ticks == *start_ticks || *start_ticks == 0))
        }),
        Subject::Node
        | Subject::Unit { .. }
        | Subject::Device { .. }
        | Subject::Mount { .. }
        | Subject::Problem { .. }
        | Subject::Libvirt { .. }
        | Subject::Probe { .. } => None,
    };
    vm.map(|vm| vm.name.clone()).unwrap_or_default()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
