//! A verdict: the shape of `why` and `diagnose`, and all that their page shows.
//!
//! It is made from what central answers, or from what the engine says of a recorded case; one page and one JSON for both. Fields
//! that only the page shows are left out of JSON.

use kulprit_diagnosis::{
    Attribution, Candidate, Confidence as Sure, MigrationOutcome, MigrationRecord, Snapshot, SymptomSubject,
    WeighedEvidence, catalogue,
};
use kulprit_proto::v1;
use serde::{Serialize, Serializer};

use crate::when::rfc3339;

/// Answer of `why` and of `diagnose`.
#[derive(Debug, Serialize)]
pub(crate) struct Diagnosis {
    /// `live`, or the case as it was named.
    pub(crate) case: String,
    pub(crate) verdicts: Vec<Verdict>,
    /// What of the case could not be used: `file:line: why`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Confidence {
    Verdict,
    Suspected,
    Unexplained,
}

#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) subject: Subject,
    pub(crate) symptom: String,
    #[serde(rename = "since", serialize_with = "time")]
    pub(crate) since_wall_usec: i64,
    pub(crate) confidence: Confidence,
    pub(crate) causes: Vec<Cause>,
    pub(crate) contributing: Vec<Cause>,
    pub(crate) ruled_out: Vec<RuledOut>,
    pub(crate) unknown: Vec<String>,
    pub(crate) looked_at: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) migrations: Vec<PastMigration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mentions: Vec<Evidence>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) incident: String,
    #[serde(skip)]
    pub(crate) symptom_text: String,
    #[serde(skip)]
    pub(crate) reference_wall_usec: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Subject {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) migration: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cause {
    pub(crate) id: String,
    #[serde(serialize_with = "four_decimals")]
    pub(crate) probability: f64,
    /// Empty for `Unexplained`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) role: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
    pub(crate) chain: Vec<String>,
    pub(crate) evidence: Vec<Evidence>,
    /// What to do now, one step a line.
    #[serde(serialize_with = "lines")]
    pub(crate) remedy: Vec<String>,
    pub(crate) safe_to_force_delete: bool,
    #[serde(skip)]
    pub(crate) meaning: String,
    #[serde(skip)]
    pub(crate) check: Vec<String>,
    #[serde(skip)]
    pub(crate) prevent: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Evidence {
    pub(crate) source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
    #[serde(rename = "at", serialize_with = "time")]
    pub(crate) at_wall_usec: i64,
    pub(crate) text: String,
    /// Decibans.
    #[serde(serialize_with = "one_decimal")]
    pub(crate) weight: f64,
}

/// A migration of the VM that ended within a day. Empty texts are not known.
#[derive(Debug, Serialize)]
pub(crate) struct PastMigration {
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) vmi_uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) target: String,
    #[serde(rename = "created", serialize_with = "time")]
    pub(crate) created_wall_usec: i64,
    #[serde(rename = "ended", serialize_with = "time")]
    pub(crate) ended_wall_usec: i64,
    /// `succeeded`, `failed`, `aborted`, `unknown`.
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) initiator: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct RuledOut {
    pub(crate) id: String,
    pub(crate) why: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn time<S: Serializer>(wall_usec: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339(*wall_usec).serialize(serializer)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn four_decimals<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(super::round(*value, 4))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn one_decimal<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(super::round(*value, 1))
}

fn lines<S: Serializer>(steps: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&steps.join("\n"))
}

impl From<v1::Verdict> for Verdict {
    fn from(verdict: v1::Verdict) -> Self {
        let confidence = match verdict.confidence() {
            v1::Confidence::Verdict => Confidence::Verdict,
            v1::Confidence::Suspected => Confidence::Suspected,
            v1::Confidence::Unexplained | v1::Confidence::Unspecified => Confidence::Unexplained,
        };
        Self {
            subject: verdict.subject.unwrap_or_default().into(),
            symptom: verdict.symptom,
            since_wall_usec: verdict.since_wall_usec,
            confidence,
            causes: verdict.causes.into_iter().map(Cause::from).collect(),
            contributing: verdict.contributing.into_iter().map(Cause::from).collect(),
            ruled_out: verdict.ruled_out.into_iter().map(|out| RuledOut { id: out.id, why: out.why }).collect(),
            unknown: verdict.unknown,
            looked_at: verdict.looked_at,
            migrations: verdict.migrations.into_iter().map(PastMigration::from).collect(),
            mentions: Vec::new(),
            incident: verdict.incident_id,
            symptom_text: verdict.symptom_text,
            reference_wall_usec: verdict.reference_wall_usec,
        }
    }
}

impl From<v1::VerdictSubject> for Subject {
    fn from(subject: v1::VerdictSubject) -> Self {
        let v1::VerdictSubject { uid, namespace, name, node } = subject;
        Self { namespace, name, migration: None, uid, node }
    }
}

impl From<v1::Cause> for Cause {
    fn from(cause: v1::Cause) -> Self {
        let remedy = cause.remedy.unwrap_or_default();
        Self {
            id: cause.id,
            probability: cause.probability,
            role: cause.role,
            node: cause.node,
            chain: cause.chain,
            evidence: cause.evidence.into_iter().map(Evidence::from).collect(),
            remedy: remedy.now,
            safe_to_force_delete: remedy.safe_to_force_delete,
            meaning: cause.meaning,
            check: remedy.check,
            prevent: remedy.prevent,
        }
    }
}

impl From<v1::WeighedEvidence> for Evidence {
    fn from(evidence: v1::WeighedEvidence) -> Self {
        let v1::WeighedEvidence { source, node, at_wall_usec, text, weight_db, cause: _ } = evidence;
        Self { source, node, at_wall_usec, text, weight: weight_db }
    }
}

impl From<v1::PastMigration> for PastMigration {
    fn from(migration: v1::PastMigration) -> Self {
        let outcome = match migration.outcome() {
            v1::MigrationOutcome::Succeeded => MigrationOutcome::Succeeded,
            v1::MigrationOutcome::Failed => MigrationOutcome::Failed,
            v1::MigrationOutcome::Aborted => MigrationOutcome::Aborted,
            v1::MigrationOutcome::Unspecified => MigrationOutcome::Unknown,
        };
        let v1::PastMigration {
            uid,
            name,
            vmi_uid,
            source_node: source,
            target_node: target,
            created_wall_usec,
            ended_wall_usec,
            outcome: _,
            reason,
            initiator,
        } = migration;
        let outcome = outcome.as_str();
        Self { uid, name, vmi_uid, source, target, created_wall_usec, ended_wall_usec, outcome, reason, initiator }
    }
}

impl From<&MigrationRecord> for PastMigration {
    fn from(record: &MigrationRecord) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            uid: record.uid.clone(),
            name: record.name.clone(),
            vmi_uid: text(&record.vmi_uid),
            source: text(&record.source),
            target: text(&record.target),
            created_wall_usec: record.created_usec.unwrap_or(0),
            ended_wall_usec: record.over_usec().unwrap_or(0),
            outcome: record.outcome().as_str(),
            reason: text(&record.reason),
            initiator: record.initiator.map(|initiator| initiator.to_string()).unwrap_or_default(),
        }
    }
}

impl Verdict {
    /// What the engine says of a subject of `snapshot`.
    pub(crate) fn of_case(snapshot: &Snapshot, attribution: &Attribution) -> Self {
        let Attribution { symptom, causes, contributing, ruled_out, unknown, looked_at, confidence } = attribution;
        Self {
            subject: Subject::of_case(snapshot, &symptom.subject, symptom.migration.as_deref()),
            symptom: symptom.id.as_str().to_owned(),
            since_wall_usec: symptom.since_wall_usec.unwrap_or(0),
            confidence: match confidence {
                Sure::Verdict => Confidence::Verdict,
                Sure::Suspected => Confidence::Suspected,
                Sure::Unexplained => Confidence::Unexplained,
            },
            causes: causes.iter().map(Cause::from).collect(),
            contributing: contributing.iter().map(Cause::from).collect(),
            ruled_out: ruled_out.iter().map(|out| RuledOut { id: out.id.to_owned(), why: out.why.clone() }).collect(),
            unknown: unknown.clone(),
            looked_at: looked_at.clone(),
            migrations: symptom.past_migrations(snapshot).iter().map(PastMigration::from).collect(),
            mentions: Vec::new(),
            incident: String::new(),
            symptom_text: symptom.text.clone(),
            reference_wall_usec: snapshot.reference_wall_usec,
        }
    }
}

impl Subject {
    /// The subject of a case's symptom.
    pub(crate) fn of_case(snapshot: &Snapshot, subject: &SymptomSubject, migration: Option<&str>) -> Self {
        let migration = migration.filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        let none = String::new;
        match subject {
            SymptomSubject::Node { node } => {
                Self { namespace: none(), name: none(), migration, uid: none(), node: node.clone() }
            }
            SymptomSubject::Vm { node, uid } => {
                let known = snapshot.cluster_vm(uid).map(|vm| (vm.namespace.clone(), vm.name.clone()));
                let of_node = || {
                    let vm = snapshot.node(node)?.vm(uid)?;
                    Some((vm.namespace.clone().unwrap_or_default(), vm.name.clone()))
                };
                let (namespace, name) = known.or_else(of_node).unwrap_or_default();
                Self { namespace, name, migration, uid: uid.clone(), node: node.clone() }
            }
        }
    }
}

impl From<&Candidate> for Cause {
    fn from(candidate: &Candidate) -> Self {
        let Candidate {
            id,
            probability,
            score_db: _,
            role,
            node,
            place: _,
            explains: _,
            may_be_at: _,
            chain,
            evidence,
            remedy,
        } = candidate;
        Self {
            id: (*id).to_owned(),
            probability: *probability,
            role: (*role).to_owned(),
            node: node.clone().unwrap_or_default(),
            chain: chain.iter().map(|id| (*id).to_owned()).collect(),
            evidence: evidence.iter().map(Evidence::from).collect(),
            remedy: remedy.now.clone(),
            safe_to_force_delete: remedy.safe_to_force_delete,
            meaning: catalogue::find(id).map(|cause| cause.meaning.to_owned()).unwrap_or_default(),
            check: remedy.check.clone(),
            prevent: remedy.prevent.clone(),
        }
    }
}

impl Evidence {
    /// A line that weighs nothing: no rule knows it, and it names the subject.
    pub(crate) fn mention((node, line): (&str, &kulprit_model::Evidence)) -> Self {
        let kulprit_model::Evidence { source, at, text } = line;
        let (source, node, text) = (source.clone(), node.to_owned(), text.clone());
        Self { source, node, at_wall_usec: at.wall_usec, text, weight: 0.0 }
    }
}

impl From<&WeighedEvidence> for Evidence {
    fn from(evidence: &WeighedEvidence) -> Self {
        let WeighedEvidence { source, node, at_wall_usec, text, weight_db, cause: _ } = evidence;
        Self {
            source: source.clone(),
            node: node.clone(),
            at_wall_usec: *at_wall_usec,
            text: text.clone(),
            weight: *weight_db,
        }
    }
}
