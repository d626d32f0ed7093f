//! A snapshot as a value to write down, and back: what central decided from, kept in a recorded case.
//!
//! The engine gives the same bytes for the same snapshot, so a snapshot that reads back equal gives the verdict of the moment at which it
//! was written. Field names are the types' own; codes, subjects and sides are their words. Fields that a reader does not
//! know are left alone, and those that a writer did not know are empty. A finding whose code the reader does not know is left out
//! and counted: the rest of what was seen still counts. The forms are in `written/forms.rs`, the glue to foreign types in
//! `written/glue.rs`.

mod forms;
mod glue;

use kulprit_model::{Finding, FindingCode};
use serde_json::{Value, json};

use self::glue::{In, Out};
use crate::snapshot::Snapshot;

/// `apiVersion` of a written snapshot.
const API_VERSION: &str = "kulprit.io/v1";
/// Its `kind`.
const KIND: &str = "Snapshot";

/// A snapshot that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadSnapshot {
    /// What was written, without what this version does not know.
    pub snapshot: Snapshot,
    /// Findings that were left out, because their code is not in the catalogue of this version.
    pub n_unknown: usize,
}

/// A value is no written snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is something else, or of another version.
    #[error("it says `{found}`; this version reads `{API_VERSION} {KIND}`")]
    Kind {
        /// Its `apiVersion` and `kind`.
        found: String,
    },
    /// A field is missing or of another type.
    #[error("it is not as this version writes it")]
    Malformed(#[from] serde_json::Error),
}

/// The snapshot as a value.
#[must_use]
pub fn write_snapshot(snapshot: &Snapshot) -> Value {
    let written = serde_json::to_value(Out(snapshot)).expect("all keys are texts");
    json!({"apiVersion": API_VERSION, "kind": KIND, "snapshot": written})
}

/// One finding as a value: `{"state": …}` or `{"occurrence": …}`.
#[must_use]
pub fn write_finding(finding: &Finding) -> Value {
    serde_json::to_value(Out(finding)).expect("all keys are texts")
}

/// Reads what [`write_snapshot`] wrote.
///
/// # Errors
/// [`ReadError`] if it is something else.
pub fn read_snapshot(mut value: Value) -> Result<ReadSnapshot, ReadError> {
    let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    if (word("apiVersion"), word("kind")) != (API_VERSION.to_owned(), KIND.to_owned()) {
        let found = format!("{} {}", word("apiVersion"), word("kind")).chars().take(80).collect();
        return Err(ReadError::Kind { found });
    }
    let n_unknown = leave_out_unknown(&mut value);
    let In(snapshot) = serde_json::from_value(value["snapshot"].take())?;
    Ok(ReadSnapshot { snapshot, n_unknown })
}

/// Takes findings of unknown codes out of every list, and says how many.
fn leave_out_unknown(value: &mut Value) -> usize {
    match value {
        Value::Array(items) => {
            let n_before = items.len();
            items.retain(|item| !is_unknown(item));
            n_before - items.len() + items.iter_mut().map(leave_out_unknown).sum::<usize>()
        }
        Value::Object(fields) => fields.values_mut().map(leave_out_unknown).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Whether it is a finding, bare or as one of Kubernetes' objects, whose code is not in the catalogue.
fn is_unknown(item: &Value) -> bool {
    let finding = item.get("finding").unwrap_or(item);
    let body = finding.get("state").or_else(|| finding.get("occurrence")).unwrap_or(finding);
    let code = body.get("code").and_then(Value::as_str);
    code.is_some_and(|code| code.parse::<FindingCode>().is_err())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::{ClusterSight, NodeView, VmView};
    use kulprit_cluster::{
        ClusterFinding, ClusterNode, ClusterVm, Initiator, Life, MigrationCounts, MigrationLife, MigrationRecord,
        PodRef,
    };
    use kulprit_model::{Attributes, Disk, Domain, Evidence, Moment, Occurrence, Qemu, Side, State, Status, Subject};

    const AT: Moment = Moment { wall_usec: 1_772_360_100_000_001, boottime_usec: 7 };

    fn state(subject: Subject) -> State {
        State {
            code: FindingCode::KvmDeviceMissing,
            subject,
            status: Status::Unknown,
            since: AT,
            looked: AT,
            unknown_because: Some("a hung disk".to_owned()),
            attributes: Attributes::new().with("what", "3"),
            evidence: vec![Evidence::new("kvm", AT, "no such \"device\"")],
        }
    }

    fn occurrence() -> Occurrence {
        Occurrence {
            code: FindingCode::ErrorSaid,
            subject: Subject::Process { pid: 7, start_ticks: u64::MAX },
            first: AT,
            last: AT,
            count: 3,
            attributes: Attributes::new(),
            evidence: Vec::new(),
        }
    }

    fn vm_view() -> VmView {
        let disk = Disk { path: "/dev/x".to_owned(), device: Some("8:0".to_owned()), ..Disk::default() };
        let qemu = Qemu {
            uid: "u".to_owned(),
            name: Some("prod_db-0".to_owned()),
            pid: 9,
            start_ticks: 5,
            since: AT,
            disks: vec![disk],
        };
        let domain = Domain {
            uid: "u".to_owned(),
            name: "prod_db-0".to_owned(),
            state: 1,
            reason: -1,
            since: AT,
            is_persistent: true,
        };
        VmView {
            uid: "u".to_owned(),
            namespace: Some("prod".to_owned()),
            name: "db-0".to_owned(),
            domain: Some(domain),
            qemu: Some(qemu.clone()),
            last_qemu: Some(qemu),
        }
    }

    fn snapshot() -> Snapshot {
        let node = NodeView {
            name: "n1".to_owned(),
            is_reporting: true,
            last_heard_wall_usec: Some(4),
            vms: vec![vm_view(), VmView::default()].into(),
            states: vec![state(Subject::Node), state(Subject::vm("u"))].into(),
            occurrences: vec![occurrence()].into(),
            cannot_show: vec!["PSI".to_owned()],
        };
        let found = |finding| ClusterFinding { side: Some(Side::Target), node: Some("n2".to_owned()), finding };
        let life = Life {
            phase: Some("Running".to_owned()),
            n_migrations_24h: MigrationCounts { succeeded: 2, failed: 1, aborted: 3, unknown: 4 },
            knows_all_migrations: true,
            past_migrations: vec![MigrationRecord {
                uid: "m".to_owned(),
                has_succeeded: Some(false),
                initiator: Some(Initiator::HotPlug),
                ..MigrationRecord::default()
            }],
            evacuation: Some(("n1".to_owned(), None)),
            not_synchronized: Some(("a".to_owned(), "b".to_owned())),
            migration: Some(MigrationLife { name: "m".to_owned(), outcome: Some(false), ..MigrationLife::default() }),
            ..Life::default()
        };
        let pod = PodRef {
            namespace: "prod".to_owned(),
            name: "p".to_owned(),
            uid: None,
            node: Some("n1".to_owned()),
            side: Side::Hosting,
        };
        let vm = ClusterVm {
            uid: "u".to_owned(),
            pods: vec![pod],
            life,
            findings: vec![found(Finding::State(state(Subject::vm("u")))), found(Finding::Occurrence(occurrence()))],
            ..ClusterVm::default()
        };
        let cluster_node = ClusterNode { name: "n1".to_owned(), findings: vec![Finding::Occurrence(occurrence())] };
        Snapshot {
            reference_wall_usec: AT.wall_usec,
            nodes: vec![node],
            cluster_vms: vec![Arc::new(vm)],
            cluster_nodes: vec![Arc::new(cluster_node)],
            cluster_sight: ClusterSight { is_watched: true, until_usec: Some(3), unseen: vec!["x".to_owned()] },
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_snapshot_reads_back_as_itself() {
        for snapshot in [snapshot(), Snapshot::default()] {
            let text = write_snapshot(&snapshot).to_string();
            let read = read_snapshot(serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(read, ReadSnapshot { snapshot, n_unknown: 0 });
        }
    }

    #[test]
    fn findings_of_another_version_are_left_out_and_counted() {
        let text = write_snapshot(&snapshot()).to_string().replace("ErrorSaid", "SaidByANewerOne");
        let read = read_snapshot(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(read.n_unknown, 3, "of a node, of a VM's objects, of a node's object");
        assert_eq!(read.snapshot.nodes[0].states.len(), 2);
    }

    #[test]
    fn fields_of_other_versions_are_no_error() {
        let mut value = write_snapshot(&snapshot());
        value["snapshot"]["later"] = json!([1]);
        value["snapshot"].as_object_mut().unwrap().remove("settings");
        value["snapshot"]["cluster_vms"][0].as_object_mut().unwrap().remove("volumes");
        assert_eq!(read_snapshot(value.clone()).unwrap().snapshot, snapshot());
        let life = &mut value["snapshot"]["cluster_vms"][0]["life"];
        life["n_migrations_24h"] = json!([2, 1]);
        life.as_object_mut().unwrap().remove("past_migrations");
        let life = read_snapshot(value).unwrap().snapshot.cluster_vms[0].life.clone();
        assert_eq!(
            (life.n_migrations_24h.words(), life.past_migrations.len()),
            ("2 succeeded, 1 failed".to_owned(), 0)
        );
    }

    #[test]
    fn what_is_no_snapshot_says_what_it_is() {
        for (value, want) in [
            (json!(null), "it says ` `"),
            (json!({"apiVersion": "kulprit.io/v2", "kind": KIND}), "`kulprit.io/v2 Snapshot`"),
            (json!({"apiVersion": API_VERSION, "kind": KIND}), "not as this version"),
            (json!({"apiVersion": API_VERSION, "kind": KIND, "snapshot": {"nodes": 3}}), "not as this version"),
        ] {
            let error = read_snapshot(value).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
