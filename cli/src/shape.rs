//! The JSON and YAML shapes of answers. Stable within `kulprit.io/v1`: fields are added, never renamed.
//!
//! `why` has the shape of a diagnosed case ([`verdict`]): an object with `case` and `verdicts`; live, `case` is `live`.

mod can_migrate;
mod verdict;

use std::collections::BTreeMap;

use kulprit_diagnosis::catalogue::{Clue, Step};
use kulprit_proto::v1;
use serde::Serialize;

use crate::when::rfc3339;
pub(crate) use can_migrate::{CanMigrate, Candidate, Obstacle, Terms};
pub(crate) use verdict::{Cause, Confidence, Diagnosis, Evidence, PastMigration, Subject, Verdict};

/// `value` with so many decimals: what is printed need not carry the last bits of a float.
pub(crate) fn round(value: f64, decimals: i32) -> f64 {
    let factor = 10f64.powi(decimals);
    // Plus zero: no negative zero in a page.
    (value * factor).round() / factor + 0.0
}

/// Answer of `incidents`.
#[derive(Debug, Serialize)]
pub(crate) struct Incidents {
    pub(crate) incidents: Vec<Incident>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Incident {
    pub(crate) id: String,
    pub(crate) cause: String,
    pub(crate) node: String,
    /// Where on the node the cause sits.
    pub(crate) place: String,
    pub(crate) open: bool,
    pub(crate) opened: Option<String>,
    pub(crate) closed: Option<String>,
    pub(crate) probability: f64,
    pub(crate) chain: Vec<String>,
    pub(crate) members: Vec<IncidentMember>,
    pub(crate) timeline: Vec<TimelineEntry>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) merged_into: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) captures: Vec<Capture>,
}

/// One line of `incidents --watch`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum WatchedIncident {
    /// A connection to central began: what was told before is told anew.
    Begin,
    /// An incident as it is; `events` is what became of it, none between `begin` and `complete`.
    Incident { at: Option<String>, events: Vec<&'static str>, incident: Box<Incident> },
    /// What there was has been told; changes follow.
    Complete,
}

/// What a node showed of a VM.
#[derive(Debug, Serialize)]
pub(crate) struct Capture {
    pub(crate) node: String,
    pub(crate) vm_uid: String,
    pub(crate) at: Option<String>,
    pub(crate) took_usec: u64,
    pub(crate) sections: Vec<CaptureSection>,
    pub(crate) series: Vec<CaptureSeries>,
}

/// Answer of `capture`.
#[derive(Debug, Serialize)]
pub(crate) struct Captured {
    pub(crate) vm_uid: String,
    pub(crate) nodes: Vec<NodeCapture>,
}

/// What a node showed, or why nothing.
#[derive(Debug, Serialize)]
pub(crate) struct NodeCapture {
    pub(crate) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capture: Option<Capture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why_not: Option<String>,
}

impl From<v1::NodeCapture> for NodeCapture {
    fn from(answer: v1::NodeCapture) -> Self {
        use v1::node_capture::Outcome;
        let v1::NodeCapture { node, outcome } = answer;
        let (result, why_not) = match outcome {
            Some(Outcome::Result(result)) => (Some(result), None),
            Some(Outcome::WhyNot(why_not)) => (None, Some(why_not)),
            None => (None, None),
        };
        let capture = result.map(|result| v1::Capture { node: node.clone(), result: Some(result) }.into());
        Self { node, capture, why_not }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct CaptureSection {
    pub(crate) name: String,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) lacks: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct CaptureSeries {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) end: Option<String>,
    /// A value a second, oldest first; null: no sample.
    pub(crate) values: Vec<Option<f32>>,
}

impl From<v1::Capture> for Capture {
    fn from(capture: v1::Capture) -> Self {
        let v1::Capture { node, result } = capture;
        let v1::CaptureResult { incident_id: _, vm_uid, at, took_usec, sections, series } = result.unwrap_or_default();
        let section = |v1::CaptureSection { name, text, lacks }| CaptureSection { name, text, lacks };
        let series_of = |v1::CaptureSeries { name, unit, end, values }| CaptureSeries {
            name,
            unit,
            end: end.and_then(|end| rfc3339(end.wall_usec)),
            values: values.into_iter().map(|value| value.is_finite().then_some(value)).collect(),
        };
        Self {
            node,
            vm_uid,
            at: at.and_then(|at| rfc3339(at.wall_usec)),
            took_usec,
            sections: sections.into_iter().map(section).collect(),
            series: series.into_iter().map(series_of).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct IncidentMember {
    pub(crate) subject: Subject,
    pub(crate) symptom: String,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TimelineEntry {
    pub(crate) at: Option<String>,
    pub(crate) text: String,
}

impl From<v1::Incident> for Incident {
    fn from(incident: v1::Incident) -> Self {
        Self {
            id: incident.id,
            cause: incident.cause,
            node: incident.node,
            place: incident.place,
            open: incident.is_open,
            opened: rfc3339(incident.opened_wall_usec),
            closed: rfc3339(incident.closed_wall_usec),
            probability: round(incident.probability, 4),
            chain: incident.chain,
            members: incident.members.into_iter().map(IncidentMember::from).collect(),
            timeline: incident
                .timeline
                .into_iter()
                .map(|entry| TimelineEntry { at: rfc3339(entry.at_wall_usec), text: entry.text })
                .collect(),
            captures: incident.captures.into_iter().map(Capture::from).collect(),
            merged_into: incident.merged_into,
        }
    }
}

impl From<v1::IncidentMember> for IncidentMember {
    fn from(member: v1::IncidentMember) -> Self {
        Self {
            subject: member.subject.unwrap_or_default().into(),
            symptom: member.symptom,
            since: rfc3339(member.since_wall_usec),
            until: rfc3339(member.until_wall_usec),
        }
    }
}

/// Answer of `nodes`.
#[derive(Debug, Serialize)]
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) reporting: bool,
    pub(crate) last_heard: Option<String>,
    pub(crate) agent_version: String,
    pub(crate) kernel: String,
    pub(crate) os: String,
    pub(crate) libvirt: String,
    pub(crate) qemu: String,
    pub(crate) runtime: String,
    pub(crate) processor: String,
    pub(crate) microcode: String,
    pub(crate) clock_offset_usec: i64,
    pub(crate) vms: u32,
    pub(crate) faults: u32,
    pub(crate) unknown: u32,
    pub(crate) cannot_show: Vec<String>,
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        Self {
            name: node.name,
            reporting: node.is_reporting,
            last_heard: rfc3339(node.last_heard_wall_usec),
            agent_version: node.agent_version,
            kernel: node.kernel,
            os: node.os,
            libvirt: node.libvirt,
            qemu: node.qemu,
            runtime: node.runtime,
            processor: node.processor,
            microcode: node.microcode,
            clock_offset_usec: node.clock_offset_usec,
            vms: node.n_vms,
            faults: node.n_faults,
            unknown: node.n_unknown,
            cannot_show: node.cannot_show,
        }
    }
}

/// Answer of `node NAME`.
#[derive(Debug, Serialize)]
pub(crate) struct NodeDetail {
    pub(crate) node: Node,
    pub(crate) findings: Vec<Finding>,
    pub(crate) vms: Vec<Vm>,
}

/// Answer of `vms`.
#[derive(Debug, Serialize)]
pub(crate) struct Vms {
    pub(crate) vms: Vec<Vm>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Vm {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) since: Option<String>,
    pub(crate) qemu_pid: Option<u32>,
    pub(crate) symptom: Option<String>,
}

impl From<v1::Vm> for Vm {
    fn from(vm: v1::Vm) -> Self {
        Self {
            namespace: vm.namespace,
            name: vm.name,
            uid: vm.uid,
            node: vm.node,
            state: vm.state,
            reason: vm.reason,
            since: rfc3339(vm.since_wall_usec),
            qemu_pid: (vm.qemu_pid != 0).then_some(vm.qemu_pid),
            symptom: (!vm.symptom.is_empty()).then_some(vm.symptom),
        }
    }
}

/// Answer of `findings`.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) findings: Vec<Finding>,
}

/// A state or an occurrence; the fields of the other kind are left out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Finding {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
    pub(crate) code: String,
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) severity: String,
    pub(crate) subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) vm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unknown_because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) looked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) evidence: Vec<FindingEvidence>,
    /// For sorting and for people; not printed.
    #[serde(skip)]
    pub(crate) at_wall_usec: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct FindingEvidence {
    pub(crate) source: String,
    pub(crate) at: Option<String>,
    pub(crate) text: String,
}

fn wall(moment: Option<&v1::Moment>) -> i64 {
    moment.map_or(0, |moment| moment.wall_usec)
}

fn pairs(attributes: Vec<v1::Attribute>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|attribute| (attribute.key, attribute.value)).collect()
}

fn evidences(evidence: Vec<v1::Evidence>) -> Vec<FindingEvidence> {
    let shape =
        |one: v1::Evidence| FindingEvidence { at: rfc3339(wall(one.at.as_ref())), source: one.source, text: one.text };
    evidence.into_iter().map(shape).collect()
}

impl From<v1::State> for Finding {
    fn from(state: v1::State) -> Self {
        let status = match state.status() {
            v1::Status::Present => "Present",
            v1::Status::Absent => "Absent",
            v1::Status::Unknown | v1::Status::Unspecified => "Unknown",
        };
        Self {
            kind: "state",
            status: Some(status),
            since: rfc3339(wall(state.since.as_ref())),
            looked: rfc3339(wall(state.looked.as_ref())),
            at_wall_usec: wall(state.since.as_ref()),
            code: state.code,
            subject: state.subject,
            unknown_because: state.unknown_because,
            attributes: pairs(state.attributes),
            evidence: evidences(state.evidence),
            ..Self::default()
        }
    }
}

impl From<v1::Occurrence> for Finding {
    fn from(occurrence: v1::Occurrence) -> Self {
        Self {
            kind: "occurrence",
            first: rfc3339(wall(occurrence.first.as_ref())),
            last: rfc3339(wall(occurrence.last.as_ref())),
            at_wall_usec: wall(occurrence.last.as_ref()),
            count: Some(occurrence.count),
            code: occurrence.code,
            subject: occurrence.subject,
            attributes: pairs(occurrence.attributes),
            evidence: evidences(occurrence.evidence),
            ..Self::default()
        }
    }
}

impl From<v1::NodeFinding> for Finding {
    fn from(finding: v1::NodeFinding) -> Self {
        let shaped = match finding.finding {
            Some(v1::node_finding::Finding::State(state)) => state.into(),
            Some(v1::node_finding::Finding::Occurrence(occurrence)) => occurrence.into(),
            None => Self { kind: "unknown", ..Self::default() },
        };
        Self { node: finding.node, vm: finding.vm_name, severity: finding.severity, ..shaped }
    }
}

/// Answer of `causes`.
#[derive(Debug, Serialize)]
pub(crate) struct Causes {
    pub(crate) causes: Vec<CatalogueCause>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CatalogueCause {
    pub(crate) id: String,
    pub(crate) meaning: String,
    pub(crate) symptoms: Vec<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) runbook_item: String,
    pub(crate) clues: Vec<String>,
    pub(crate) remedy: CauseRemedy,
}

#[derive(Debug, Serialize)]
pub(crate) struct CauseRemedy {
    pub(crate) now: Vec<String>,
    pub(crate) check: Vec<String>,
    pub(crate) prevent: Vec<String>,
}

impl From<&kulprit_diagnosis::Cause> for CatalogueCause {
    fn from(cause: &kulprit_diagnosis::Cause) -> Self {
        let texts = |steps: &[Step]| steps.iter().map(|step| step.text().to_owned()).collect();
        Self {
            id: cause.id.to_owned(),
            meaning: cause.meaning.to_owned(),
            symptoms: cause.symptoms().map(|symptom| symptom.as_str().to_owned()).collect(),
            roles: cause.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            runbook_item: cause.runbook_item.to_owned(),
            clues: cause.clues.iter().map(Clue::line).collect(),
            remedy: CauseRemedy {
                now: texts(cause.advice.now),
                check: texts(cause.advice.check),
                prevent: texts(cause.advice.prevent),
            },
        }
    }
}

/// Answer of `status`.
#[derive(Debug, Serialize)]
pub(crate) struct AgentStatus {
    pub(crate) node: String,
    pub(crate) agent_version: String,
    pub(crate) boot_id: String,
    pub(crate) epoch: u64,
    pub(crate) cannot_show: Vec<String>,
    pub(crate) central: Uplink,
    pub(crate) probes: Vec<Probe>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) domains: Vec<Domain>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Uplink {
    pub(crate) address: String,
    pub(crate) connected: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
    pub(crate) spooled: u64,
    pub(crate) last_acked_seq: u64,
    pub(crate) lost: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) blind_because: String,
    pub(crate) last_success: Option<String>,
    pub(crate) duration_usec: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Domain {
    pub(crate) uid: String,
    pub(crate) name: String,
    /// `virDomainState`.
    pub(crate) state: i32,
    pub(crate) reason: i32,
    pub(crate) since: Option<String>,
}

impl From<v1::GetStatusResponse> for AgentStatus {
    fn from(status: v1::GetStatusResponse) -> Self {
        let hello = status.hello.unwrap_or_default();
        let uplink = status.uplink.unwrap_or_default();
        let states = status.states.into_iter().map(Finding::from);
        Self {
            node: hello.node,
            agent_version: hello.agent_version,
            boot_id: hello.boot_id,
            epoch: hello.epoch,
            cannot_show: hello.cannot_show,
            central: Uplink {
                address: uplink.central,
                connected: uplink.is_connected,
                error: uplink.error,
                spooled: uplink.n_spooled,
                last_acked_seq: uplink.last_acked_seq,
                lost: uplink.n_lost,
            },
            probes: status
                .probes
                .into_iter()
                .map(|probe| Probe {
                    last_success: rfc3339(wall(probe.last_success.as_ref())),
                    name: probe.name,
                    outcome: probe.outcome,
                    blind_because: probe.blind_because,
                    duration_usec: probe.duration_usec,
                })
                .collect(),
            findings: states.chain(status.occurrences.into_iter().map(Finding::from)).collect(),
            domains: status
                .domains
                .into_iter()
                .map(|domain| Domain {
                    since: rfc3339(wall(domain.since.as_ref())),
                    uid: domain.uid,
                    name: domain.name,
                    state: domain.state,
                    reason: domain.reason,
                })
                .collect(),
        }
    }
}
