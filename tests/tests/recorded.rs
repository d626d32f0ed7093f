//! What central records is what `kulprit diagnose` reads: every case of the project, recorded as central would and read again.
//!
//! Central and the reader of cases know nothing of each other but the files; here both are. The verdict has to be the same to the last
//! bit: root cause, probability and chain of each cause, cleaned of secrets and narrowed to whom the case is about.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics; clippy only knows the test functions themselves"
)]

use std::{fs, path::Path};

use kulprit_case::{Case, Folder, Options, collection, manifest};
use kulprit_central::record::{About, Recording};

/// A cause with the bits of its probability, and its chain.
type Said = (&'static str, u64, Vec<&'static str>);

/// Symptom, then each cause.
fn said(case: &Case) -> Vec<(&'static str, Vec<Said>)> {
    let all = case.attributions();
    let said = all.iter().map(|one| {
        let causes = one.causes.iter().chain(&one.contributing);
        let causes = causes.map(|cause| (cause.id, cause.probability.to_bits(), cause.chain.clone()));
        (one.symptom.id.as_str(), causes.collect())
    });
    said.collect()
}

fn open(folder: &Path) -> Case {
    Case::open(folder, &Options::default(), &mut |_, _| {}).unwrap()
}

fn about(folder: &Folder) -> Option<About> {
    let file = Path::new("case.yaml");
    let manifest = manifest::read(&folder.read_text(file, 1 << 20).ok()?, file).ok()?;
    let subject = manifest.subject?;
    Some(About::Vm { namespace: subject.namespace, name: subject.name, migration: subject.migration })
}

#[test]
fn a_recorded_case_says_what_central_says() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../central/diagnosis/fixtures");
    let (mut n_cases, mut wrong) = (0, Vec::new());
    for path in collection::cases(&fixtures).unwrap() {
        let folder = Folder::open(&path).unwrap();
        let Some(about) = about(&folder) else { continue };
        let known = open(folder.path());
        let recording = Recording::new(&known.snapshot, &known.symptoms(), &about, &[]);
        let written = tempfile::tempdir().unwrap();
        for file in recording.into_parts().0 {
            let path = written.path().join(&file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.content).unwrap();
        }
        n_cases += 1;
        if said(&open(written.path())) != said(&known) {
            wrong.push(collection::id(&path));
        }
    }
    assert!(n_cases > 300, "only {n_cases} cases name their VM");
    assert!(wrong.is_empty(), "{wrong:?}");
}
