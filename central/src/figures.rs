//! What a pass comes to in numbers: the gauges that alerts and dashboards are made of.
//!
//! Pure. Their number is bounded whatever agents say: causes, symptoms, probes and conditions are those of the catalogues, nodes are named
//! only while they are in trouble, VMs never.

use std::collections::{BTreeMap, BTreeSet};

use kulprit_daemon::metrics::ClosedName;
use kulprit_diagnosis::{Attribution, Confidence, Snapshot, SymptomId, catalogue, catalogue::Class};
use kulprit_model::{
    FindingCode, Status, Subject,
    catalogue::{CATALOGUE, NodeCondition},
};

use crate::{
    conditions::{NodeVerdict, Truth},
    incident::{Incident, Incidents},
    metrics::{
        CentralMetrics, ConditionLabels, ConfidenceLabel, IncidentLabels, NodeLabel, ProbeLabel, StatusLabel,
        SymptomLabel,
    },
};

/// More series of incidents are shown without their nodes.
const MAX_INCIDENT_SERIES: usize = 1_000;
/// More silent nodes are not named.
const MAX_SILENT_NODES: usize = 1_000;
/// What the store has of a version with more causes.
const OTHER: &str = "other";
const MISSING: &str = "missing";

/// The numbers of one pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    symptoms: BTreeMap<SymptomLabel, f64>,
    verdicts: BTreeMap<ConfidenceLabel, f64>,
    incidents: BTreeMap<IncidentLabels, f64>,
    probability: BTreeMap<IncidentLabels, f64>,
    conditions: BTreeMap<ConditionLabels, f64>,
    blind_probes: BTreeMap<ProbeLabel, f64>,
    unknown_since: BTreeMap<ProbeLabel, f64>,
    silent_nodes: BTreeMap<NodeLabel, f64>,
    n_missing: usize,
}

impl Figures {
    /// Counts. `judged`: what nodes come to, if anybody asked.
    #[must_use]
    pub fn of(
        snapshot: &Snapshot,
        attributions: &[Attribution],
        incidents: &Incidents,
        judged: Option<&[NodeVerdict]>,
    ) -> Self {
        let (incidents, probability) = of_incidents(incidents);
        let (blind_probes, unknown_since) = of_probes(snapshot);
        let known: BTreeSet<&str> = snapshot.nodes.iter().map(|node| node.name.as_str()).collect();
        Self {
            symptoms: of_symptoms(attributions),
            verdicts: of_verdicts(attributions),
            incidents,
            probability,
            conditions: judged.map(of_conditions).unwrap_or_default(),
            blind_probes,
            unknown_since,
            silent_nodes: of_silence(snapshot),
            n_missing: snapshot.cluster_nodes.iter().filter(|node| !known.contains(node.name.as_str())).count(),
        }
    }

    /// Shows them.
    pub fn show(self, metrics: &CentralMetrics) {
        let Self {
            symptoms,
            verdicts,
            incidents,
            probability,
            conditions,
            blind_probes,
            unknown_since,
            silent_nodes,
            n_missing,
        } = self;
        metrics.symptoms.replace(symptoms);
        metrics.verdicts.replace(verdicts);
        metrics.incidents_open.replace(incidents);
        metrics.incident_probability.replace(probability);
        metrics.node_conditions.replace(conditions);
        metrics.blind_probes.replace(blind_probes);
        metrics.unknown_since.replace(unknown_since);
        metrics.silent_nodes.replace(silent_nodes);
        let n_missing = i64::try_from(n_missing).unwrap_or(i64::MAX);
        metrics.nodes.get_or_create(&StatusLabel::new(MISSING)).set(n_missing);
    }
}

fn of_symptoms(attributions: &[Attribution]) -> BTreeMap<SymptomLabel, f64> {
    let mut series: BTreeMap<SymptomLabel, f64> =
        SymptomId::ALL.iter().map(|id| (SymptomLabel::new(id.as_str()), 0.0)).collect();
    for attribution in attributions {
        *series.entry(SymptomLabel::new(attribution.symptom.id.as_str())).or_default() += 1.0;
    }
    series
}

fn of_verdicts(attributions: &[Attribution]) -> BTreeMap<ConfidenceLabel, f64> {
    let mut series: BTreeMap<ConfidenceLabel, f64> =
        ["verdict", "suspected", "unexplained"].map(|word| (ConfidenceLabel::new(word), 0.0)).into();
    for attribution in attributions {
        let word = match attribution.confidence {
            Confidence::Verdict => "verdict",
            Confidence::Suspected => "suspected",
            Confidence::Unexplained => "unexplained",
        };
        *series.entry(ConfidenceLabel::new(word)).or_default() += 1.0;
    }
    series
}

/// How many are open, and how probable the likeliest of each series is.
fn of_incidents(incidents: &Incidents) -> (BTreeMap<IncidentLabels, f64>, BTreeMap<IncidentLabels, f64>) {
    let (mut n_open, mut probability) = (BTreeMap::new(), BTreeMap::new());
    for incident in incidents.open() {
        let mut labels = labels(incident);
        if n_open.len() >= MAX_INCIDENT_SERIES && !n_open.contains_key(&labels) {
            labels.node.clear();
        }
        *n_open.entry(labels.clone()).or_insert(0.0) += 1.0;
        let most: &mut f64 = probability.entry(labels).or_insert(0.0);
        *most = most.max(incident.probability);
    }
    (n_open, probability)
}

fn labels(incident: &Incident) -> IncidentLabels {
    let (class, cause) = match catalogue::find(&incident.key.cause) {
        Some(cause) => (cause.class, cause.id),
        None => (Class::Outside, OTHER),
    };
    let serves_not = |symptom: &str| SymptomId::ALL.iter().any(|id| id.as_str() == symptom && id.is_outage());
    let mut lasting = incident.members.iter().filter(|member| member.until_wall_usec.is_none());
    let is_outage = lasting.any(|member| serves_not(&member.symptom));
    IncidentLabels {
        class: ClosedName(class.as_str()),
        cause: ClosedName(cause),
        severity: ClosedName(if is_outage { "critical" } else { "warning" }),
        node: incident.node.clone(),
    }
}

fn of_conditions(judged: &[NodeVerdict]) -> BTreeMap<ConditionLabels, f64> {
    let labels = |condition: NodeCondition, truth: Truth| ConditionLabels {
        condition: ClosedName(condition.as_str()),
        status: ClosedName(truth.as_str()),
    };
    let all = NodeCondition::ALL
        .into_iter()
        .flat_map(|condition| [Truth::True, Truth::False, Truth::Unknown].map(|truth| (labels(condition, truth), 0.0)));
    let mut series: BTreeMap<ConditionLabels, f64> = all.collect();
    for judged in judged.iter().flat_map(|verdict| &verdict.judged) {
        *series.entry(labels(judged.condition, judged.truth)).or_default() += 1.0;
    }
    series
}

/// On how many nodes each probe is blind, and since when the oldest state of a probe is unknown. Names that the catalogue does not have
/// are an agent's own, and not counted: their number has no bound.
fn of_probes(snapshot: &Snapshot) -> (BTreeMap<ProbeLabel, f64>, BTreeMap<ProbeLabel, f64>) {
    let known: BTreeSet<&'static str> = CATALOGUE.iter().map(|spec| spec.probe).collect();
    let (mut blind, mut since): (BTreeMap<&str, f64>, BTreeMap<&str, i64>) = (BTreeMap::new(), BTreeMap::new());
    for state in snapshot.nodes.iter().filter(|node| node.is_reporting).flat_map(|node| &node.states) {
        match (&state.subject, state.status) {
            (Subject::Probe { name }, Status::Present) if state.code == FindingCode::ProbeBlind => {
                if let Some(name) = known.get(name.as_str()) {
                    *blind.entry(name).or_default() += 1.0;
                }
            }
            (_, Status::Unknown) => {
                let oldest = since.entry(state.code.spec().probe).or_insert(i64::MAX);
                *oldest = (*oldest).min(state.since.wall_usec);
            }
            (_, Status::Present | Status::Absent) => {}
        }
    }
    let label = |probe: &'static str| ProbeLabel::new(probe);
    let blind = blind.into_iter().map(|(probe, n)| (label(probe), n)).collect();
    (blind, since.into_iter().map(|(probe, usec)| (label(probe), seconds(usec))).collect())
}

fn of_silence(snapshot: &Snapshot) -> BTreeMap<NodeLabel, f64> {
    let silent = snapshot.nodes.iter().filter(|node| !node.is_reporting).take(MAX_SILENT_NODES);
    let heard =
        silent.map(|node| (NodeLabel { node: node.name.clone() }, node.last_heard_wall_usec.map_or(0.0, seconds)));
    heard.collect()
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 fit 53 bits until the year 2255")]
fn seconds(wall_usec: i64) -> f64 {
    wall_usec as f64 / 1e6
}

#[cfg(test)]
mod tests;
