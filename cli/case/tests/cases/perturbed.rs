//! A verdict may become less sure when a case changes; it may not become wrong.

use std::path::Path;

use kulprit_case::{
    Case, Folder, Options, collection,
    eval::Outcome,
    truth::{self, Truth},
};

use super::perturb::Files;

/// From here on an answer claims to be one.
const CLAIMED: f64 = 0.6;

struct Subject {
    id: String,
    files: Files,
    truth: Truth,
    outcome: Outcome,
}

fn subjects() -> Vec<Subject> {
    let paths = collection::cases(&super::fixtures()).expect("the fixtures are in the checkout");
    let mut subjects = Vec::new();
    for path in paths {
        let id = collection::id(&path);
        let folder = Folder::open(&path).unwrap();
        let files = Files::read(&folder);
        let truth = truth::read(&files.0[Path::new("truth.yaml")], Path::new("truth.yaml")).unwrap();
        let outcome = outcome_of(&id, &truth, folder.path());
        subjects.push(Subject { id, files, truth, outcome });
    }
    subjects
}

fn outcome_of(id: &str, truth: &Truth, path: &Path) -> Outcome {
    let case = Case::open(path, &Options::default(), &mut |_, _| {}).unwrap();
    Outcome::new(id.to_owned(), truth.clone(), &case.snapshot, case.symptoms().first())
}

/// What a changed case says, if that is wrong: a claim that the truth does not accept, where the case as it is was not wrong.
fn wrong(subject: &Subject, files: &Files, what: &str) -> Option<String> {
    let folder = files.write();
    let outcome = outcome_of(&subject.id, &subject.truth, folder.path());
    let is_claimed = outcome.engine.probability() >= CLAIMED && outcome.engine.first() != "Unexplained";
    (is_claimed && !outcome.is_right()).then(|| {
        format!("{} {what}: {} {:.2}", subject.id, outcome.engine.first(), outcome.engine.probability())
    })
}

#[test]
fn another_name_and_date_change_no_verdict() {
    let mut changed = Vec::new();
    for subject in subjects() {
        let folder = subject.files.renamed().write();
        let outcome = outcome_of(&subject.id, &subject.truth, folder.path());
        let (old, new) = (&subject.outcome.engine, &outcome.engine);
        if old.first() != new.first() || (old.probability() - new.probability()).abs() > 0.05 {
            let said = format!("{} {:.2}, was {} {:.2}", new.first(), new.probability(), old.first(), old.probability());
            changed.push(format!("{}: {said}", subject.id));
        }
    }
    assert!(changed.is_empty(), "\n  {}", changed.join("\n  "));
}

#[test]
fn a_missing_file_makes_no_verdict_wrong() {
    let mut broken = Vec::new();
    for subject in subjects().into_iter().filter(|subject| subject.outcome.is_right()) {
        for path in subject.files.droppable() {
            broken.extend(wrong(&subject, &subject.files.without(&path), &format!("without {}", path.display())));
        }
    }
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}

#[test]
fn noise_makes_no_verdict_wrong() {
    let mut broken = Vec::new();
    for subject in subjects().into_iter().filter(|subject| subject.outcome.is_right()) {
        broken.extend(wrong(&subject, &subject.files.with_noise(), "with noise"));
    }
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}
