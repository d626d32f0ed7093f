//! Why a cause has the score it has, and what would change the verdict: the page behind `--explain CAUSE`.
//!
//! What was not seen is judged at its best: of the VM itself and fresh. Whether a look alone would put another cause first follows from
//! the score sheet; chains that it would make or break are not worked out.

use crate::{
    catalogue::{Clue, UNEXPLAINED_DB, find},
    causes::UNEXPLAINED,
    evidence::Seen,
    indexed::Indexed,
    score::{self, ScoreLine, ScoreSheet},
    snapshot::Snapshot,
    stage::Stage,
    symptom::Symptom,
};

/// How one cause fares for one symptom.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The cause.
    pub id: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The place at which it is scored.
    pub role: &'static str,
    /// The node of that place; `None` if it is on none, or not known.
    pub node: Option<String>,
    /// What it is worth for this symptom before anything was looked at, decibans.
    pub prior_db: f64,
    /// Prior and evidence, decibans.
    pub score_db: f64,
    /// Its probability in the verdict, alone or in the chain that it is part of; 0 if it does not compete.
    pub probability: f64,
    /// Whether it has enough evidence of its own to stand beside `Unexplained`.
    pub competes: bool,
    /// The first cause of the verdict and its score, decibans.
    pub first: (&'static str, f64),
    /// The clues that were seen, in the order of the catalogue.
    pub seen: Vec<ExplainedClue>,
    /// The clues that were not seen, those that would change most first.
    pub missing: Vec<MissingClue>,
}

/// A clue that was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedClue {
    /// Evidence of one origin has one group, and counts once.
    pub group: &'static str,
    /// What it means.
    pub text: &'static str,
    /// What it would weigh at its best, decibans.
    pub strength_db: f64,
    /// Subject factor: 1 for the VM's own, 0.6 for its node's.
    pub factor: f64,
    /// 1 for fresh evidence, less for old.
    pub freshness: f64,
    /// Strength × factor × freshness.
    pub decibans: f64,
    /// Whether it is the strongest of its group; only that one counts.
    pub is_counted: bool,
    /// What was seen.
    pub evidence: Vec<Seen>,
}

/// A clue that was not seen.
#[derive(Clone, Debug, PartialEq)]
pub struct MissingClue {
    /// Its group.
    pub group: &'static str,
    /// What it would mean.
    pub text: &'static str,
    /// Which look would show it, in the codes of the finding catalogue.
    pub look: String,
    /// What the score would change by if it were seen of the VM itself, decibans. 0: a stronger clue of its group is there.
    pub would_add_db: f64,
    /// Whether that alone would give the verdict another first cause.
    pub would_flip: bool,
}

/// Explains one cause for one symptom; `None` if this version has no such cause, or the symptom's subject cannot have it.
#[must_use]
pub fn explain(snapshot: &Snapshot, symptom: &Symptom, cause_id: &str) -> Option<Explanation> {
    let cause = find(cause_id).filter(|cause| cause.id != UNEXPLAINED.id)?;
    let indexed = Indexed::new(snapshot);
    let verdict = indexed.attribute(symptom);
    let stage = Stage::new(&indexed, symptom);
    let sheet = score::sheets_of(&stage).best.into_iter().find(|sheet| sheet.cause.id == cause.id)?;
    let first = verdict.causes.first().map_or((UNEXPLAINED.id, UNEXPLAINED_DB), |first| (first.id, first.score_db));
    let is_first = first.0 == cause.id;
    let rival_db =
        if is_first { verdict.causes.get(1).map_or(UNEXPLAINED_DB, |second| second.score_db) } else { first.1 };
    let own = verdict.causes.iter().find(|candidate| candidate.chain.contains(&cause.id));
    let mut missing: Vec<MissingClue> = cause
        .clues
        .iter()
        .filter(|clue| !sheet.lines.iter().any(|line| std::ptr::eq(line.clue, *clue)))
        .map(|clue| missing_clue(&sheet, clue, is_first, rival_db))
        .collect();
    missing.sort_by(|a, b| b.would_add_db.abs().total_cmp(&a.would_add_db.abs()));
    Some(Explanation {
        id: cause.id,
        meaning: cause.meaning,
        role: sheet.role.as_str(),
        node: sheet.node.clone(),
        prior_db: sheet.prior_db,
        score_db: sheet.score_db(),
        probability: own.map_or(0.0, |candidate| candidate.probability),
        competes: sheet.competes(),
        first,
        seen: sheet.lines.iter().map(explained).collect(),
        missing,
    })
}

fn explained(line: &ScoreLine) -> ExplainedClue {
    ExplainedClue {
        group: line.clue.group,
        text: line.clue.text,
        strength_db: line.clue.strength.decibans(),
        factor: line.factor,
        freshness: line.freshness,
        decibans: line.decibans,
        is_counted: line.is_counted,
        evidence: line.seen.clone(),
    }
}

fn missing_clue(sheet: &ScoreSheet, clue: &'static Clue, is_first: bool, rival_db: f64) -> MissingClue {
    let of_group = sheet.lines.iter().find(|line| line.clue.group == clue.group && line.is_counted);
    let counted_db = of_group.map_or(0.0, |line| line.decibans);
    let full_db = clue.strength.decibans();
    let would_add_db = if full_db.abs() > counted_db.abs() { full_db - counted_db } else { 0.0 };
    let then_db = sheet.score_db() + would_add_db;
    let would_flip = would_add_db != 0.0 && if is_first { then_db < rival_db } else { then_db > rival_db };
    MissingClue { group: clue.group, text: clue.text, look: clue.look.describe(), would_add_db, would_flip }
}
