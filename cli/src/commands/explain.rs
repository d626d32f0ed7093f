//! `kulprit diagnose --explain CAUSE`: how one cause came to its score, to be checked by hand.

use std::{fmt::Write as _, process::ExitCode};

use kulprit_case::Case;
use kulprit_diagnosis::{ExplainedClue, Explanation, MissingClue, catalogue, explain};
use serde::Serialize;

use crate::{
    Terminal,
    arguments::Format,
    error::AskError,
    output, page,
    shape::{self, round},
    table::{Cell, Table, one_line},
};

/// Answer of `diagnose --explain`.
#[derive(Debug, Serialize)]
struct Sheets {
    sheets: Vec<Sheet>,
}

/// One cause for one symptom.
#[derive(Debug, Serialize)]
struct Sheet {
    subject: shape::Subject,
    symptom: &'static str,
    cause: &'static str,
    meaning: &'static str,
    role: &'static str,
    node: Option<String>,
    /// Decibans.
    prior: f64,
    /// Decibans.
    score: f64,
    probability: f64,
    /// Whether it has evidence enough to stand beside `Unexplained`.
    competes: bool,
    first: &'static str,
    /// Decibans.
    first_score: f64,
    seen: Vec<SeenClue>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct SeenClue {
    group: &'static str,
    text: &'static str,
    strength: f64,
    factor: f64,
    freshness: f64,
    decibans: f64,
    counted: bool,
    evidence: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Missing {
    group: &'static str,
    text: &'static str,
    look: String,
    would_add: f64,
    would_change_the_verdict: bool,
}

pub(super) fn answer(format: Format, terminal: &mut Terminal, case: &Case, cause: &str) -> Result<ExitCode, AskError> {
    let known = catalogue::CAUSES.iter().find(|known| known.id.eq_ignore_ascii_case(cause));
    let id = known.ok_or_else(|| AskError::NoSuchCause(cause.to_owned()))?.id;
    let symptoms = case.symptoms();
    let sheets: Vec<Sheet> = symptoms
        .iter()
        .filter_map(|symptom| {
            let subject = shape::Subject::of_case(&case.snapshot, &symptom.subject, symptom.migration.as_deref());
            Some(Sheet::new(subject, symptom.id.as_str(), explain(&case.snapshot, symptom, id)?))
        })
        .collect();
    if sheets.is_empty() {
        let why = if symptoms.is_empty() { "no VM of the case shows a symptom" } else { "it cannot be weighed" };
        return Err(AskError::NotExplained(format!("there is no score sheet of {id}: {why}")));
    }
    let shaped = Sheets { sheets };
    output::print(terminal, format, &shaped, |terminal| {
        shaped.sheets.iter().map(|sheet| human(terminal, sheet)).collect::<Vec<_>>().join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Sheet {
    fn new(subject: shape::Subject, symptom: &'static str, explanation: Explanation) -> Self {
        let Explanation { id, meaning, role, node, prior_db, score_db, probability, competes, first, seen, missing } =
            explanation;
        Self {
            subject,
            symptom,
            cause: id,
            meaning,
            role,
            node,
            prior: round(prior_db, 1),
            score: round(score_db, 1),
            probability: round(probability, 4),
            competes,
            first: first.0,
            first_score: round(first.1, 1),
            seen: seen.into_iter().map(SeenClue::from).collect(),
            missing: missing.into_iter().map(Missing::from).collect(),
        }
    }
}

impl From<ExplainedClue> for SeenClue {
    fn from(clue: ExplainedClue) -> Self {
        let ExplainedClue { group, text, strength_db, factor, freshness, decibans, is_counted, evidence } = clue;
        Self {
            group,
            text,
            strength: round(strength_db, 1),
            factor: round(factor, 1),
            freshness: round(freshness, 2),
            decibans: round(decibans, 1),
            counted: is_counted,
            evidence: evidence
                .into_iter()
                // What the cluster says is of no node.
                .map(|seen| format!("{}: {}", format!("{} {}", seen.source, seen.node).trim_end(), seen.text))
                .collect(),
        }
    }
}

impl From<MissingClue> for Missing {
    fn from(clue: MissingClue) -> Self {
        let MissingClue { group, text, look, would_add_db, would_flip } = clue;
        Self { group, text, look, would_add: round(would_add_db, 1), would_change_the_verdict: would_flip }
    }
}

fn human(terminal: &Terminal, sheet: &Sheet) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {}", terminal.bold(sheet.cause), sheet.meaning);
    let _ = writeln!(text, "  For:    {}, {}", page::subject_words(&sheet.subject), sheet.symptom);
    let at = sheet.node.as_ref().map(|node| format!(", node {node}")).unwrap_or_default();
    let _ = writeln!(text, "  Judged: {}{at}", sheet.role);
    let _ = writeln!(text, "\n{:+6.1}  prior of {} for {}", sheet.prior, sheet.cause, sheet.symptom);
    for clue in &sheet.seen {
        let counted = if clue.counted { format!("{:+6.1}", clue.decibans) } else { "     –".to_owned() };
        let factors = format!("{:+} × {} × {}", clue.strength, clue.factor, clue.freshness);
        let beaten = if clue.counted { "" } else { ", counted once with a stronger one" };
        let _ = writeln!(text, "{counted}  {}: {} ({factors}{beaten})", clue.group, clue.text);
        for line in &clue.evidence {
            let _ = writeln!(text, "          {}", one_line(line));
        }
    }
    let _ = writeln!(text, "{:+6.1}  {}", sheet.score, terminal.bold("score"));
    let stands = if sheet.competes {
        format!("probability {:.2}", sheet.probability)
    } else {
        "too little of its own to stand beside Unexplained".to_owned()
    };
    let _ = writeln!(text, "        {stands}; first is {} with {:+.1}", sheet.first, sheet.first_score);
    if !sheet.missing.is_empty() {
        let _ = writeln!(text, "\n{}", terminal.bold("What would change it"));
        let mut table = Table::new(&["DECIBANS", "VERDICT", "GROUP", "IF SEEN"]);
        for clue in sheet.missing.iter().filter(|clue| clue.would_add != 0.0) {
            let changes = if clue.would_change_the_verdict { Cell::from("changes") } else { Cell::from("stays") };
            table.row([
                format!("{:+.1}", clue.would_add).into(),
                changes,
                clue.group.into(),
                format!("{} ({})", clue.text, clue.look).into(),
            ]);
        }
        text.push_str(&table.render(terminal));
    }
    text
}
