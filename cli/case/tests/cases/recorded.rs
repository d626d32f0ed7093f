//! A snapshot that was written and narrowed says what the whole one said, for every case of the project.

use std::{fs, path::Path};

use kulprit_case::{Case, CaseError, Folder, Options, SubjectName, collection, manifest};
use kulprit_diagnosis::{narrow, written::write_snapshot};

/// Symptom, then each cause with its probability and chain.
type Said = Vec<(&'static str, Vec<(&'static str, u64, Vec<&'static str>)>)>;

fn said(case: &Case) -> Said {
    let all = case.attributions();
    all.iter()
        .map(|one| {
            let causes = one.causes.iter().chain(&one.contributing);
            let causes = causes.map(|cause| (cause.id, cause.probability.to_bits(), cause.chain.clone()));
            (one.symptom.id.as_str(), causes.collect())
        })
        .collect()
}

fn open(folder: &Path, options: &Options) -> Result<Case, CaseError> {
    Case::open(folder, options, &mut |_, _| {})
}

/// The case as central would record it.
fn recorded(case: &Case, subject: Option<&SubjectName>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject.map(|SubjectName { namespace, name, migration }| {
        let migration = migration.as_ref().map(|name| format!(", migration: {name:?}")).unwrap_or_default();
        format!("subject: {{namespace: {namespace:?}, name: {name:?}{migration}}}\n")
    });
    let manifest =
        format!("apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-01T10:15:00Z\n{}", subject.unwrap_or_default());
    fs::write(folder.path().join("case.yaml"), manifest).unwrap();
    let narrowed = narrow(&case.snapshot, &case.symptoms()).snapshot;
    fs::write(folder.path().join("snapshot.json"), write_snapshot(&narrowed).to_string()).unwrap();
    folder
}

fn subject_of(folder: &Folder) -> Option<SubjectName> {
    let file = Path::new("case.yaml");
    manifest::read(&folder.read_text(file, 1 << 20).ok()?, file).ok()?.subject
}

#[test]
fn what_is_recorded_of_a_case_says_what_the_case_says() {
    let mut wrong = Vec::new();
    for path in collection::cases(&super::fixtures()).unwrap() {
        let folder = Folder::open(&path).unwrap();
        let whole = open(folder.path(), &Options::default()).unwrap();
        let written = recorded(&whole, subject_of(&folder).as_ref());
        let read = open(written.path(), &Options::default()).unwrap();
        if said(&read) != said(&whole) {
            wrong.push(collection::id(&path));
        }
        assert_eq!(read.problems, [], "{}", path.display());
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn of_another_vm_there_is_the_name_only_and_files_beside_are_not_read() {
    let folder = Folder::open(&super::fixtures().join("cases/H06")).unwrap();
    let whole = open(folder.path(), &Options::default()).unwrap();
    let written = recorded(&whole, subject_of(&folder).as_ref());
    let path = written.path().join("snapshot.json");
    let mut value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let other = serde_json::json!({"namespace": "other", "name": "web-0", "uid": "u-9"});
    value["snapshot"]["cluster_vms"].as_array_mut().unwrap().push(other);
    fs::write(&path, value.to_string()).unwrap();
    fs::create_dir_all(written.path().join("nodes/n1")).unwrap();
    fs::write(written.path().join("nodes/n1/kmsg.log"), "[    1.0] x\n").unwrap();
    fs::write(written.path().join("nodes/n1/history.jsonl"), "{}\n").unwrap();
    let ask = |name: &str| {
        let subject = SubjectName { namespace: "other".to_owned(), name: name.to_owned(), migration: None };
        open(written.path(), &Options { at_usec: None, subject: Some(subject) }).unwrap_err().to_string()
    };
    assert!(ask("web-0").ends_with("of `other/web-0` it has the name only"), "{}", ask("web-0"));
    assert_eq!(ask("web-1"), "no VM `other/web-1` in the case");
    let case = open(written.path(), &Options::default()).unwrap();
    let problems: Vec<String> = case.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["snapshot.json: 1 files beside it are not read: it is all that was decided from"]);
}

#[test]
fn a_snapshot_that_is_none_is_named() {
    for (text, want) in [("{", "not as this version writes it"), ("{}", "it says ` `"), ("[1]", "it says ` `")] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("case.yaml"), "apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-01T10:15:00Z\n")
            .unwrap();
        fs::write(folder.path().join("snapshot.json"), text).unwrap();
        let error = open(folder.path(), &Options::default()).unwrap_err();
        let because = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(error.to_string(), "`snapshot.json` cannot be used");
        assert!(because.contains(want), "{because}");
    }
}
