//! A case with its objects over time: migrations whose objects are gone are counted, whatever is left of them in the end.

use std::fs;

use kulprit_case::{Case, Options};
use kulprit_diagnosis::{MigrationOutcome, SymptomId};
use serde_json::{Value, json};

const MANIFEST: &str =
    "apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-01T10:15:00Z\nsubject: {namespace: prod, name: db-0}\n";

fn migration(n: usize, phase: &str) -> Value {
    let time = format!("2026-03-01T10:{n:02}:00Z");
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": format!("m-{n}"), "namespace": "prod", "uid": format!("uid-{n}"), "creationTimestamp": time},
        "spec": {"vmiName": "db-0"},
        "status": {"phase": phase, "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": time}]}})
}

fn change(t: &str, what: &str, object: &Value) -> String {
    format!("{}\n", json!({"t": t, "type": what, "object": object}))
}

/// A case with the newest five objects, and with `watch` if there is any.
fn case(watch: Option<&str>) -> Case {
    let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "db-0", "namespace": "prod", "uid": "vmi-1", "creationTimestamp": "2026-03-01T08:00:00Z"},
        "status": {"phase": "Running", "nodeName": "n1"}});
    let left = (7..12).map(|n| migration(n, "Succeeded")).chain([vmi]).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("cluster")).unwrap();
    fs::write(folder.path().join("case.yaml"), MANIFEST).unwrap();
    fs::write(folder.path().join("cluster/objects.json"), json!({"kind": "List", "items": left}).to_string()).unwrap();
    if let Some(watch) = watch {
        fs::write(folder.path().join("watch.jsonl"), watch).unwrap();
    }
    Case::open(folder.path(), &Options::default(), &mut |_, _| {}).unwrap()
}

#[test]
fn objects_over_time_tell_of_migrations_that_are_gone() {
    let mut watch = String::new();
    for n in 0..12 {
        watch += &change("2026-03-01T10:00:00Z", "ADDED", &migration(n, "Running"));
        watch += &change("2026-03-01T10:12:00Z", "MODIFIED", &migration(n, "Succeeded"));
        watch += &change("2026-03-01T10:12:00Z", "MODIFIED", &migration(n, "Succeeded"));
    }
    watch += &change("2026-03-01T10:12:30Z", "ADDED", &migration(12, "Running"));
    watch += &change("2026-03-01T10:13:00Z", "DELETED", &migration(12, "Running"));
    watch += &change("2026-03-01T10:16:00Z", "ADDED", &migration(13, "Failed"));
    watch += "{\"t\": \"2026-03-01T10:13:00Z\"}\nnonsense\n";
    let watched = case(Some(&watch));
    let [symptom] = watched.symptoms().try_into().unwrap();
    assert_eq!(
        (symptom.id, symptom.text.as_str()),
        (SymptomId::ExcessiveMigrations, "13 migrations in 24 h are known: 12 succeeded, 0 failed, 1 not seen to end")
    );
    let told = symptom.past_migrations(&watched.snapshot);
    assert_eq!((told.len(), told[0].uid.as_str(), told[0].outcome()), (13, "uid-12", MigrationOutcome::Unknown));
    let problems: Vec<String> = watched.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["watch.jsonl:40: an object without a kind; and 1 more lines"]);

    let [symptom] = case(None).symptoms().try_into().unwrap();
    assert_eq!(symptom.text, "5 migrations in 24 h are known: 5 succeeded, 0 failed");
}
