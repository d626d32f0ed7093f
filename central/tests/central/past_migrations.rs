//! Migrations of a day whose objects KubeVirt has removed: counted by what central saw, over a restart, and in a recorded case.

use std::{path::Path, time::Duration};

use kulprit_central::store::sqlite::FILE_NAME;
use kulprit_diagnosis::written::read_snapshot;
use kulprit_proto::v1::{self, MigrationOutcome, record_case_request::Subject};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    agent::PATIENCE,
    api::{AT, Api},
    app::App,
};

const VMIM: &str = "VirtualMachineInstanceMigration";

/// An evacuation of `prod/db-0`, asked for 4 s after the one before.
fn evacuation(n: usize, phase: &str) -> Value {
    let secs = 20 + 4 * n;
    let time = |secs: usize| format!("2026-11-21T05:{:02}:{:02}Z", 38 + secs / 60, secs % 60);
    let (from, to) = if n.is_multiple_of(2) { ("n1", "n2") } else { ("n2", "n1") };
    let state = match phase {
        "Running" => json!({"sourceNode": from, "targetNode": to}),
        "Failed" => {
            json!({"sourceNode": from, "targetNode": to, "failed": true, "failureReason": "client socket is closed",
            "endTimestamp": time(secs + 3)})
        }
        _ => json!({"sourceNode": from, "targetNode": to, "completed": true, "endTimestamp": time(secs + 3)}),
    };
    json!({"apiVersion": "kubevirt.io/v1", "kind": VMIM,
        "metadata": {"name": format!("kubevirt-evacuation-{n:02}"), "namespace": "prod", "uid": format!("uid-{n:02}"),
            "creationTimestamp": time(secs), "annotations": {"kubevirt.io/evacuationMigration": from}},
        "spec": {"vmiName": "db-0"},
        "status": {"phase": phase, "migrationState": state,
            "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": time(secs + 3)}]}})
}

/// Only these evacuations are left; the migration of the recorded objects stays.
fn leave(api: &Api, evacuations: Vec<Value>) {
    let is_evacuation =
        |object: &Value| !object["metadata"]["annotations"]["kubevirt.io/evacuationMigration"].is_null();
    let is_left = |object: &Value| {
        evacuations.iter().any(|evacuation| evacuation["metadata"]["uid"] == object["metadata"]["uid"])
    };
    api.retain(|object| !is_evacuation(object) || is_left(object));
    evacuations.into_iter().for_each(|evacuation| api.put(evacuation));
}

/// What central says of `prod/db-0`, once it is this.
async fn wait_for(app: &App, text: &str) -> v1::Verdict {
    let mut said = None;
    let waited = timeout(PATIENCE, async {
        loop {
            let asked = v1::ExplainVmRequest { vm: "prod/db-0".to_owned(), node: String::new() };
            let answer = app.query.clone().explain_vm(asked).await;
            match answer.map(|answer| answer.into_inner().verdicts.remove(0)) {
                Ok(verdict) if verdict.symptom_text.starts_with(text) => return verdict,
                other => said = Some(other),
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("wanted {text:?}, it stays {said:#?}"))
}

/// Waits until the store has a migration: it comes a moment after the verdict does.
async fn wait_until_stored(folder: &Path, uid: &str) {
    let store = rusqlite::Connection::open(folder.join(FILE_NAME)).unwrap();
    let is_there = || store.prepare("SELECT 1 FROM migration WHERE uid = ?1").unwrap().exists([uid]).unwrap();
    let waited = timeout(PATIENCE, async {
        while !is_there() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it is stored");
}

#[tokio::test]
async fn what_kubevirt_removed_is_counted_over_a_restart_and_in_a_recorded_case() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::recorded().await;
    let app = api.central(folder.path(), AT).await;
    let ended = |n: usize| evacuation(n, if n == 3 { "Failed" } else { "Succeeded" });
    leave(&api, (0..5).map(ended).collect());
    wait_for(&app, "6 migrations in 24 h are known: 5 succeeded, 1 failed").await;
    leave(&api, (5..10).map(ended).collect());
    wait_for(&app, "11 migrations in 24 h are known: 10 succeeded, 1 failed").await;
    leave(&api, (7..12).map(ended).chain([evacuation(12, "Running")]).collect());
    let before = wait_for(&app, "13 migrations in 24 h are known: 12 succeeded, 1 failed").await;
    assert_eq!((before.symptom.as_str(), before.migrations.len()), ("ExcessiveMigrations", 13));
    let failed = before.migrations.iter().find(|one| one.outcome() == MigrationOutcome::Failed).unwrap();
    let (uid, reason, initiator) = (failed.uid.as_str(), failed.reason.as_str(), failed.initiator.as_str());
    assert_eq!((uid, reason, initiator), ("uid-03", "client socket is closed", "evacuation"));
    assert_eq!((failed.source_node.as_str(), failed.target_node.as_str()), ("n2", "n1"));
    wait_until_stored(folder.path(), "uid-12").await;
    app.stop().await;

    // While central is away the last one vanishes, and older objects with it.
    leave(&api, (8..12).map(ended).collect());
    let app = api.central(folder.path(), AT).await;
    let after = wait_for(&app, "14 migrations in 24 h are known: 12 succeeded, 1 failed, 1 not seen to end").await;
    let vanished: Vec<_> =
        after.migrations.iter().filter(|one| one.outcome() == MigrationOutcome::Unspecified).collect();
    let [vanished] = vanished.as_slice() else { panic!("{vanished:#?}") };
    assert_eq!((vanished.uid.as_str(), vanished.ended_wall_usec), ("uid-12", AT.wall_usec));
    let others: Vec<_> = after.migrations.iter().filter(|one| one.uid != "uid-12").cloned().collect();
    assert_eq!(others, before.migrations);

    let request = v1::RecordCaseRequest {
        subject: Some(Subject::Vm("prod/db-0".to_owned())),
        from_wall_usec: 0,
        to_wall_usec: 0,
    };
    let mut messages = app.query.clone().record_case(request).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        if message.path == "snapshot.json" {
            content.extend(message.content);
        }
    }
    let snapshot = read_snapshot(serde_json::from_slice(&content).unwrap()).unwrap().snapshot;
    let uid = after.subject.as_ref().unwrap().uid.clone();
    let symptom = kulprit_diagnosis::symptom_of(&snapshot, &uid, None, true);
    assert_eq!(symptom.text, after.symptom_text);
    assert_eq!(symptom.past_migrations(&snapshot).len(), after.migrations.len());
    let first = kulprit_diagnosis::attribute(&snapshot, &symptom).causes.remove(0);
    assert_eq!(
        (first.id, first.probability.to_bits()),
        (after.causes[0].id.as_str(), after.causes[0].probability.to_bits())
    );
    app.stop().await;
}
