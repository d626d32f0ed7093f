//! `kulprit diagnose`: the page of a recorded case, without any cluster.

use std::{path::PathBuf, process::ExitCode};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::tz::TimeZone;
use kulprit_case::{Case, Options, SubjectName, manifest};

use crate::{
    Terminal,
    arguments::Format,
    commands::why::ONLY_UNEXPLAINED,
    error::AskError,
    output, page,
    shape::{self, Confidence},
};

/// At most so many problems of a case are shown on the page; JSON has all.
const MAX_PROBLEMS: usize = 10;

/// What is asked of a case.
pub(super) struct Asked {
    pub(super) case: PathBuf,
    pub(super) vm: Option<String>,
    pub(super) migration: Option<String>,
    pub(super) at: Option<String>,
    pub(super) explain: Option<String>,
}

pub(super) fn answer(format: Format, terminal: &mut Terminal, asked: &Asked) -> Result<ExitCode, AskError> {
    let case = open(asked, terminal.is_interactive())?;
    if let Some(cause) = &asked.explain {
        return super::explain::answer(format, terminal, &case, cause);
    }
    let verdicts: Vec<shape::Verdict> = case
        .attributions()
        .iter()
        .map(|attribution| {
            let mut verdict = shape::Verdict::of_case(&case.snapshot, attribution);
            verdict.mentions = case.mentions(&attribution.symptom).map(shape::Evidence::mention).collect();
            verdict
        })
        .collect();
    let problems = case.problems.iter().map(ToString::to_string).collect();
    let shaped = shape::Diagnosis { case: asked.case.display().to_string(), verdicts, problems };
    output::print(terminal, format, &shaped, |terminal| human(terminal, &shaped, &case))?;
    let is_unexplained = !shaped.verdicts.is_empty()
        && shaped.verdicts.iter().all(|verdict| verdict.confidence == Confidence::Unexplained);
    Ok(if is_unexplained { ExitCode::from(ONLY_UNEXPLAINED) } else { ExitCode::SUCCESS })
}

/// Opens the case; on a terminal a bar shows how far it is read.
fn open(asked: &Asked, is_interactive: bool) -> Result<Case, AskError> {
    let at_usec = match &asked.at {
        Some(text) => Some(manifest::time(text).ok_or_else(|| AskError::BadTime(text.clone()))?),
        None => None,
    };
    let subject = asked.vm.as_ref().map(|vm| {
        let vm = vm.strip_prefix("vm/").unwrap_or(vm);
        let (namespace, name) = vm.split_once('/').unwrap_or(("", vm));
        SubjectName { namespace: namespace.to_owned(), name: name.to_owned(), migration: asked.migration.clone() }
    });
    let bar = is_interactive.then(bar);
    let mut show = |read_bytes: u64, all_bytes: u64| {
        if let Some(bar) = &bar {
            bar.set_length(all_bytes);
            bar.set_position(read_bytes);
        }
    };
    let case = Case::open(&asked.case, &Options { at_usec, subject }, &mut show);
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    Ok(case?)
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("reading {bar:40} {bytes}/{total_bytes} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar
}

fn human(terminal: &Terminal, shaped: &shape::Diagnosis, case: &Case) -> String {
    let mut text = if shaped.verdicts.is_empty() {
        let n_vms = case.n_vms();
        let vms = if n_vms == 1 { "VM" } else { "VMs" };
        format!("{}: {n_vms} {vms} in the case.\n", terminal.green("No VM shows a symptom"))
    } else {
        page::verdicts(terminal, &shaped.verdicts, &TimeZone::UTC)
    };
    if !shaped.problems.is_empty() {
        text.push_str(&format!("\n{}\n", terminal.yellow("Not used")));
        for problem in shaped.problems.iter().take(MAX_PROBLEMS) {
            text.push_str(&format!("  {problem}\n"));
        }
        if shaped.problems.len() > MAX_PROBLEMS {
            text.push_str(&format!("  … and {} more: `-o json` has them all\n", shaped.problems.len() - MAX_PROBLEMS));
        }
    }
    text
}
