//! A folder of cases with their truth: users bring their own, and the project's own figures come from one.

use std::path::{Path, PathBuf};

use crate::{
    case::{Case, Options},
    error::CaseError,
    eval::Outcome,
    folder::Folder,
    truth,
};

/// Cases below each other.
const MAX_DEPTH: usize = 8;
const TRUTH: &str = "truth.yaml";

/// Every case below `folder`: folders with a `truth.yaml`, and `.tar.gz` or `.tgz` archives. Sorted.
///
/// # Errors
/// [`CaseError::Open`] if the folder itself cannot be listed.
pub fn cases(folder: &Path) -> Result<Vec<PathBuf>, CaseError> {
    let mut found = Vec::new();
    let mut left = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = left.pop() {
        if path.join(TRUTH).is_file() {
            found.push(path);
            continue;
        }
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(source) if depth == 0 => return Err(CaseError::Open { path, source }),
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => left.push((path, depth + 1)),
                Ok(kind) if kind.is_file() && is_archive(&path) => found.push(path),
                Ok(_) | Err(_) => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_archive(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(".tar.gz") || name.ends_with(".tgz"))
}

/// The name of a case: its folder or archive without the ending.
#[must_use]
pub fn id(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let ending = [".tar.gz", ".tgz"].into_iter().find_map(|ending| name.strip_suffix(ending));
    ending.map(ToOwned::to_owned).unwrap_or(name)
}

/// Diagnoses every case below `folder` and judges the verdicts; beside them the cases that could not be read, with the reason.
///
/// # Errors
/// As [`cases`].
pub fn evaluate(folder: &Path) -> Result<(Vec<Outcome>, Vec<String>), CaseError> {
    let mut outcomes = Vec::new();
    let mut unreadable = Vec::new();
    for path in cases(folder)? {
        match outcome(&path) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    outcomes.sort_by(|a, b| a.id.cmp(&b.id));
    Ok((outcomes, unreadable))
}

/// Diagnoses one case and judges its verdict. Where the case names no VM, its first symptom is the one.
///
/// # Errors
/// If the case or its truth cannot be read.
pub fn outcome(path: &Path) -> Result<Outcome, CaseError> {
    let folder = Folder::open(path)?;
    let file = Path::new(TRUTH);
    let text = folder.read_text(file, 1 << 20).map_err(|source| CaseError::Open { path: path.join(file), source })?;
    let truth = truth::read(&text, &path.join(file))?;
    let case = Case::open(folder.path(), &Options::default(), &mut |_, _| {})?;
    let symptoms = case.symptoms();
    Ok(Outcome::new(id(path), truth, &case.snapshot, symptoms.first()))
}
