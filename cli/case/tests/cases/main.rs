//! The verdicts on every case of the project: figures that must not get worse, and verdicts that must not turn wrong.
//!
//! `figures`: top-1, top-3, host blamed, abstentions and Brier score for the training and the check set, with three baselines.
//! `perturbed`: the same incident with other names, dates and addresses, with a file missing, with noise. `forms`: one incident as a
//! case, an archive, a must-gather, a sosreport. `recorded`: a written snapshot instead of files. `hostile`: input that nobody should get
//! through.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics; clippy only knows the test functions themselves"
)]

mod figures;
mod forms;
mod hostile;
mod perturb;
mod perturbed;
mod recorded;
mod watched;

use std::path::{Path, PathBuf};

/// Where the cases are: incidents as folders, recordings as archives.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../central/diagnosis/fixtures")
}
