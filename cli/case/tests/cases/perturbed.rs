//! A verdict may become less sure when a case changes; it may not become wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use kulprit_case::{
    Case, Folder, Options, collection,
    eval::Outcome,
    truth::{self, Truth},
};

use super::perturb::Files;

/// From here on an answer claims to be one.
const CLAIMED: f64 = 0.6;
/// As many cases are asked at once.
const N_THREADS: usize = 2;

struct Subject {
    id: String,
    files: Files,
    truth: Truth,
    outcome: Outcome,
}

/// Reads a case and asks it as it is.
fn subject(path: &Path) -> Subject {
    let id = collection::id(path);
    let folder = Folder::open(path).unwrap();
    let files = Files::read(&folder);
    let truth = truth::read(&files.0[Path::new("truth.yaml")], Path::new("truth.yaml")).unwrap();
    let outcome = outcome_of(&id, &truth, folder.path());
    Subject { id, files, truth, outcome }
}

/// Asks every case of the project; what is wrong with it, in the order of the cases.
fn each(ask: impl Fn(&Subject) -> Vec<String> + Sync) -> Vec<String> {
    let paths = collection::cases(&super::fixtures()).expect("the fixtures are in the checkout");
    let next = AtomicUsize::new(0);
    let said = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..N_THREADS {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = ask(&subject(path));
                    said.lock().unwrap().insert(path, wrong);
                }
            });
        }
    });
    said.into_inner().unwrap().into_values().flatten().collect()
}

fn outcome_of(id: &str, truth: &Truth, path: &Path) -> Outcome {
    let case = Case::open(path, &Options::default(), &mut |_, _| {}).unwrap();
    Outcome::new(id.to_owned(), truth.clone(), &case.snapshot, case.symptoms().first())
}

/// What a changed case says, if that is wrong: a claim that the truth does not accept, where the case as it is was right.
fn wrong(subject: &Subject, folder: &Path, what: &str) -> Option<String> {
    let outcome = outcome_of(&subject.id, &subject.truth, folder);
    let is_claimed = outcome.engine.probability() >= CLAIMED && outcome.engine.first() != "Unexplained";
    (is_claimed && !outcome.is_right())
        .then(|| format!("{} {what}: {} {:.2}", subject.id, outcome.engine.first(), outcome.engine.probability()))
}

#[test]
fn another_name_and_date_change_no_verdict() {
    let changed = each(|subject| {
        let folder = subject.files.renamed().write();
        let outcome = outcome_of(&subject.id, &subject.truth, folder.path());
        let (old, new) = (&subject.outcome.engine, &outcome.engine);
        if old.first() == new.first() && (old.probability() - new.probability()).abs() <= 0.05 {
            return Vec::new();
        }
        let said = format!("{} {:.2}, was {} {:.2}", new.first(), new.probability(), old.first(), old.probability());
        vec![format!("{}: {said}", subject.id)]
    });
    assert!(changed.is_empty(), "\n  {}", changed.join("\n  "));
}

/// Drops of one file that make a verdict wrong today, each a weakness that is known and not accepted: `<case> without <file>`. One that
/// is not in the file fails the test, and so does one that is and is not wrong any more. `KULPRIT_BLESS=1` writes the file.
const KNOWN: &str = "perturbed-known.txt";

#[test]
fn a_missing_file_makes_no_verdict_wrong_that_is_not_known() {
    let broken = each(|subject| {
        if !subject.outcome.is_right() {
            return Vec::new();
        }
        let folder = subject.files.write();
        let (case, aside) = (folder.path().to_owned(), folder.path().with_extension("aside"));
        let drop_one = |path: PathBuf| {
            fs::rename(case.join(&path), &aside).unwrap();
            let wrong = wrong(subject, &case, &format!("without {}", path.display()));
            fs::rename(&aside, case.join(&path)).unwrap();
            wrong
        };
        subject.files.droppable().into_iter().filter_map(drop_one).collect()
    });
    let name = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
    let now: BTreeSet<String> = broken.iter().map(name).collect();
    let path = super::fixtures().join(KNOWN);
    if std::env::var_os("KULPRIT_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, now.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }
    let known: BTreeSet<String> = fs::read_to_string(&path).unwrap().lines().map(ToOwned::to_owned).collect();
    let new: Vec<_> = broken.iter().filter(|line| !known.contains(&name(line))).collect();
    let mended: Vec<_> = known.difference(&now).collect();
    assert!(new.is_empty(), "wrong and not known: {new:#?}");
    assert!(mended.is_empty(), "not wrong any more, take them out of {KNOWN}: {mended:#?}");
}

#[test]
fn noise_makes_no_verdict_wrong() {
    let broken = each(|subject| {
        if !subject.outcome.is_right() {
            return Vec::new();
        }
        let folder = subject.files.with_noise().write();
        wrong(subject, folder.path(), "with noise").into_iter().collect()
    });
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}
