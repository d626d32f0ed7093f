//! `kulprit eval`: how good the verdicts are on cases whose truth is known.

use std::{path::Path, process::ExitCode};

use kulprit_case::{
    collection,
    eval::{BASELINES, Figures, Outcome, Set},
};
use serde::Serialize;

use crate::{Terminal, arguments::Format, error::AskError, output, shape::round, table::Table};

/// Answer of `eval`.
#[derive(Debug, Serialize)]
struct Evaluation {
    training: Vec<Row>,
    check: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    constructed: Vec<Row>,
    cases: Vec<Line>,
    /// Cases that could not be read, with the reason.
    unreadable: Vec<String>,
}

/// The figures of one answerer.
#[derive(Debug, Serialize)]
struct Row {
    who: &'static str,
    cases: usize,
    top1: usize,
    top3: usize,
    controls: usize,
    host_blamed: usize,
    to_abstain: usize,
    abstained: usize,
    brier: f64,
}

/// One case.
#[derive(Debug, Serialize)]
struct Line {
    case: String,
    set: &'static str,
    right: bool,
    expected: String,
    said: String,
    probability: f64,
    /// Place of the right answer, from 1; none if it is not among the causes.
    place: Option<usize>,
}

pub(super) fn answer(format: Format, terminal: &mut Terminal, folder: &Path, all: bool) -> Result<ExitCode, AskError> {
    let (outcomes, unreadable) = collection::evaluate(folder)?;
    if outcomes.is_empty() && unreadable.is_empty() {
        return Err(AskError::NoTruth(folder.to_owned()));
    }
    let shaped = Evaluation {
        training: rows(&outcomes, Set::Training),
        check: rows(&outcomes, Set::Check),
        constructed: rows(&outcomes, Set::Constructed),
        cases: outcomes.iter().map(Line::from).collect(),
        unreadable,
    };
    output::print(terminal, format, &shaped, |terminal| human(terminal, &shaped, all))?;
    Ok(ExitCode::SUCCESS)
}

/// The figures of a set: ours, then the baselines'. Nothing for a set that has no case.
fn rows(outcomes: &[Outcome], set: Set) -> Vec<Row> {
    let of_set = || outcomes.iter().filter(move |outcome| outcome.set == set);
    if of_set().next().is_none() {
        return Vec::new();
    }
    let names =
        std::iter::once((None, "kulprit")).chain(BASELINES.iter().enumerate().map(|(at, name)| (Some(at), *name)));
    names.map(|(baseline, who)| Row::new(who, &Figures::of(of_set(), baseline))).collect()
}

impl Row {
    fn new(who: &'static str, figures: &Figures) -> Self {
        let Figures { n_cases, n_top1, n_top3, n_controls, n_blamed, n_abstain, n_abstained, brier } = *figures;
        Self {
            who,
            cases: n_cases,
            top1: n_top1,
            top3: n_top3,
            controls: n_controls,
            host_blamed: n_blamed,
            to_abstain: n_abstain,
            abstained: n_abstained,
            brier: round(brier, 3),
        }
    }
}

impl From<&Outcome> for Line {
    fn from(outcome: &Outcome) -> Self {
        let ranked = &outcome.engine.ranked;
        Self {
            case: outcome.id.clone(),
            set: outcome.set.as_str(),
            right: outcome.is_right(),
            expected: outcome.truth.cause.clone(),
            said: outcome.engine.first().to_owned(),
            probability: round(outcome.engine.probability(), 2),
            place: ranked.iter().position(|(id, ..)| outcome.truth.accepts(id)).map(|at| at + 1),
        }
    }
}

fn human(terminal: &Terminal, shaped: &Evaluation, all: bool) -> String {
    let mut text = String::new();
    let sets = [
        ("Training set", &shaped.training),
        ("Check set", &shaped.check),
        ("Constructed, say nothing of quality", &shaped.constructed),
    ];
    for (title, rows) in sets.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        let mut table = Table::new(&["", "CASES", "TOP-1", "TOP-3", "HOST BLAMED", "ABSTAINED", "BRIER"]);
        for row in rows {
            let percent = |n: usize| format!("{n} ({} %)", n * 100 / row.cases.max(1));
            table.row([
                row.who.to_owned().into(),
                row.cases.to_string().into(),
                percent(row.top1).into(),
                percent(row.top3).into(),
                format!("{} of {}", row.host_blamed, row.controls).into(),
                format!("{} of {}", row.abstained, row.to_abstain).into(),
                format!("{:.3}", row.brier).into(),
            ]);
        }
        text.push_str(&format!("{}\n{}\n", terminal.bold(title), table.render(terminal)));
    }
    let mut table = Table::new(&["CASE", "SET", "EXPECTED", "SAID", "SURE", "PLACE"]);
    let mut n_shown = 0;
    for line in shaped.cases.iter().filter(|line| all || !line.right) {
        n_shown += 1;
        table.row([
            line.case.clone().into(),
            line.set.into(),
            line.expected.clone().into(),
            line.said.clone().into(),
            format!("{:.2}", line.probability).into(),
            line.place.map_or_else(|| "-".to_owned(), |place| place.to_string()).into(),
        ]);
    }
    if n_shown > 0 {
        let title = if all { "Every case" } else { "Not right" };
        text.push_str(&format!("{}\n{}", terminal.bold(title), table.render(terminal)));
    }
    for line in &shaped.unreadable {
        text.push_str(&format!("{}: {line}\n", terminal.red("not read")));
    }
    text
}
