//! How good the verdicts are, as numbers: over a folder of cases that have a truth.
//!
//! *Top-1*: the first cause is right. *Top-3*: one of the first three is. *Host blamed*: a control (nothing wrong, or not a host's
//! fault) in which a wrong cause of a host has 0.5 or more. *Abstained*: `Unexplained` was first where the evidence is
//! not enough. *Brier*: the mean of (probability of the first cause − whether it is right)², 0 is perfect. Beside the engine three
//! baselines that a person could follow: the worst finding, the latest one, and what Kubernetes' conditions and events alone say.

use std::sync::Arc;

use kulprit_diagnosis::{Attribution, ScoreSheet, Snapshot, Symptom, attribute, score_sheets};
use kulprit_model::Finding;

use crate::truth::{Expectation, Truth};

/// From here on a host is blamed.
const BLAMED: f64 = 0.5;
const UNEXPLAINED: &str = "Unexplained";

/// One case, what was expected of it, and what was said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the case: its folder.
    pub id: String,
    /// The set it is of.
    pub set: Set,
    /// What was expected.
    pub truth: Truth,
    /// The engine's answer.
    pub engine: Answer,
    /// What each baseline says, in the order of [`BASELINES`].
    pub baselines: [Answer; 3],
}

/// The sets whose figures are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Rules may be written and tuned from these.
    Training,
    /// No rule is.
    Check,
    /// Made from what the rules are made from: see [`Truth::is_constructed`].
    Constructed,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Training, Self::Check, Self::Constructed];

    /// The word used in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Check => "check",
            Self::Constructed => "constructed",
        }
    }

    /// The set of a case. A third of what is not constructed is the check set, by the FNV-1a hash of the id.
    #[must_use]
    pub fn of(id: &str, truth: &Truth) -> Self {
        match (truth.is_constructed, is_check(id)) {
            (true, _) => Self::Constructed,
            (false, true) => Self::Check,
            (false, false) => Self::Training,
        }
    }
}

/// The names of the baselines.
pub const BASELINES: [&str; 3] = ["worst finding", "latest finding", "conditions and events"];

/// Causes by falling probability, with their roles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Id, probability, role.
    pub ranked: Vec<(String, f64, String)>,
}

/// The figures of a set of cases.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Cases.
    pub n_cases: usize,
    /// Cases whose first cause is right.
    pub n_top1: usize,
    /// Cases where one of the first three is right.
    pub n_top3: usize,
    /// Controls.
    pub n_controls: usize,
    /// Controls in which a host was blamed.
    pub n_blamed: usize,
    /// Cases whose evidence is not enough.
    pub n_abstain: usize,
    /// Of those, where `Unexplained` was first.
    pub n_abstained: usize,
    /// Brier score of the first cause, 0..=1.
    pub brier: f64,
}

fn is_check(id: &str) -> bool {
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash % 3 == 0
}

impl Answer {
    fn of(attribution: &Attribution) -> Self {
        let ranked =
            attribution.causes.iter().map(|cause| (cause.id.to_owned(), cause.probability, cause.role.to_owned()));
        Self { ranked: ranked.collect() }
    }

    fn certain(id: Option<&str>) -> Self {
        Self { ranked: vec![(id.unwrap_or(UNEXPLAINED).to_owned(), 1.0, String::new())] }
    }

    /// The first cause.
    #[must_use]
    pub fn first(&self) -> &str {
        self.ranked.first().map_or(UNEXPLAINED, |(id, ..)| id)
    }

    /// The first cause's probability.
    #[must_use]
    pub fn probability(&self) -> f64 {
        self.ranked.first().map_or(1.0, |(_, probability, _)| *probability)
    }

    /// Whether one of the first `n` causes is right.
    #[must_use]
    pub fn is_right_within(&self, truth: &Truth, n: usize) -> bool {
        match truth.expectation {
            Expectation::Abstain | Expectation::Healthy => {
                let is_right = |id: &str| id == UNEXPLAINED || truth.accepts(id);
                self.ranked.is_empty() || self.ranked.iter().take(n).any(|(id, ..)| is_right(id))
            }
            Expectation::Attribute | Expectation::NoHostCause => {
                self.ranked.iter().take(n).any(|(id, ..)| truth.accepts(id))
            }
        }
    }

    /// Whether a host is blamed, other than by what is right.
    #[must_use]
    pub fn blames_a_host(&self, truth: &Truth) -> bool {
        let is_host = |role: &str| matches!(role, "hosting" | "source" | "target" | "path");
        let is_blame = |id: &str, role: &str| is_host(role) && !truth.accepts(id);
        self.ranked.iter().any(|(id, probability, role)| *probability >= BLAMED && is_blame(id, role))
    }
}

impl Outcome {
    /// Judges what the engine says of a symptom, and what the baselines would.
    #[must_use]
    pub fn new(id: String, truth: Truth, snapshot: &Snapshot, symptom: Option<&Symptom>) -> Self {
        let (engine, baselines) = match symptom {
            Some(symptom) => {
                let sheets = score_sheets(snapshot, symptom);
                (
                    Answer::of(&attribute(snapshot, symptom)),
                    [worst(&sheets), latest(&sheets), of_kubernetes_alone(snapshot, symptom)],
                )
            }
            None => (Answer::default(), std::array::from_fn(|_| Answer::default())),
        };
        Self { set: Set::of(&id, &truth), id, truth, engine, baselines }
    }

    /// Whether the engine's first cause is right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.engine.is_right_within(&self.truth, 1)
    }
}

/// The cause of the single strongest clue.
fn worst(sheets: &[ScoreSheet]) -> Answer {
    let mut best: Option<(&str, f64)> = None;
    for sheet in sheets {
        for line in &sheet.lines {
            if line.decibans > best.map_or(0.0, |(_, decibans)| decibans) {
                best = Some((sheet.cause.id, line.decibans));
            }
        }
    }
    Answer::certain(best.map(|(id, _)| id))
}

/// The cause of the clue that was seen last.
fn latest(sheets: &[ScoreSheet]) -> Answer {
    let mut best: Option<(&str, (i64, i64))> = None;
    for sheet in sheets {
        for line in sheet.lines.iter().filter(|line| line.decibans > 0.0) {
            let at = line.seen.iter().map(|seen| seen.at_wall_usec).max().unwrap_or(i64::MIN);
            #[expect(clippy::cast_possible_truncation, reason = "a tie-breaker")]
            let key = (at, (line.decibans * 10.0) as i64);
            if best.is_none_or(|(_, known)| key > known) {
                best = Some((sheet.cause.id, key));
            }
        }
    }
    Answer::certain(best.map(|(id, _)| id))
}

/// The strongest of what Kubernetes' conditions and events say, without a look at any host and any log.
fn of_kubernetes_alone(snapshot: &Snapshot, symptom: &Symptom) -> Answer {
    let mut snapshot = snapshot.clone();
    snapshot.nodes.clear();
    for vm in &mut snapshot.cluster_vms {
        Arc::make_mut(vm).findings.retain(|finding| match &finding.finding {
            Finding::State(_) => true,
            Finding::Occurrence(occurrence) => {
                occurrence.evidence.iter().all(|line| line.source == "event" || line.source == "condition")
            }
        });
    }
    worst(&score_sheets(&snapshot, symptom))
}

impl Figures {
    /// The figures of these cases for one answerer: `None` the engine, else a baseline's index.
    #[must_use]
    pub fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>, baseline: Option<usize>) -> Self {
        let mut figures = Self::default();
        let mut squares = 0.0;
        for outcome in outcomes {
            let answer = baseline.map_or(&outcome.engine, |index| &outcome.baselines[index]);
            let truth = &outcome.truth;
            let is_right = answer.is_right_within(truth, 1);
            figures.n_cases += 1;
            figures.n_top1 += usize::from(is_right);
            figures.n_top3 += usize::from(answer.is_right_within(truth, 3));
            if matches!(truth.expectation, Expectation::NoHostCause | Expectation::Healthy) {
                figures.n_controls += 1;
                figures.n_blamed += usize::from(answer.blames_a_host(truth));
            }
            if truth.expectation == Expectation::Abstain {
                figures.n_abstain += 1;
                figures.n_abstained += usize::from(is_right);
            }
            squares += (answer.probability() - f64::from(u8::from(is_right))).powi(2);
        }
        if figures.n_cases > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a few hundred cases")]
            let n_cases = figures.n_cases as f64;
            figures.brier = squares / n_cases;
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_truth(expectation: Expectation, cause: &str) -> Truth {
        Truth {
            expectation,
            cause: cause.to_owned(),
            accept: vec!["Twin".to_owned()],
            role: None,
            node: None,
            is_constructed: false,
        }
    }

    fn mk_outcome(truth: Truth, ranked: &[(&str, f64, &str)]) -> Outcome {
        let ranked = ranked.iter().map(|(id, p, role)| ((*id).to_owned(), *p, (*role).to_owned())).collect();
        let none = std::array::from_fn(|_| Answer::default());
        Outcome { id: "x".to_owned(), set: Set::Training, truth, engine: Answer { ranked }, baselines: none }
    }

    #[test]
    fn figures_count_what_they_say() {
        let outcomes = [
            mk_outcome(mk_truth(Expectation::Attribute, "A"), &[("A", 0.9, "hosting"), ("B", 0.1, "hosting")]),
            mk_outcome(mk_truth(Expectation::Attribute, "A"), &[("B", 0.6, "hosting"), ("Twin", 0.4, "hosting")]),
            mk_outcome(mk_truth(Expectation::Abstain, "Unexplained"), &[("Unexplained", 0.5, "cluster")]),
            mk_outcome(mk_truth(Expectation::NoHostCause, "K"), &[("B", 0.5, "target"), ("K", 0.5, "cluster")]),
            mk_outcome(mk_truth(Expectation::Healthy, "Unexplained"), &[]),
        ];
        let figures = Figures::of(outcomes.iter(), None);
        assert_eq!((figures.n_cases, figures.n_top1, figures.n_top3), (5, 3, 5));
        assert_eq!((figures.n_controls, figures.n_blamed, figures.n_abstain, figures.n_abstained), (2, 1, 1, 1));
        assert!((figures.brier - (0.01 + 0.36 + 0.25 + 0.25) / 5.0).abs() < 1e-9, "{}", figures.brier);
    }

    #[test]
    fn a_shared_cause_blames_no_host() {
        let outcome = mk_outcome(mk_truth(Expectation::NoHostCause, "Y"), &[("X", 0.9, "shared")]);
        assert!(!outcome.engine.blames_a_host(&outcome.truth));
    }

    #[test]
    fn the_check_set_is_a_third_by_hash() {
        let n_check = (0..3_000).filter(|n| is_check(&format!("H{n}"))).count();
        assert!((900..1_100).contains(&n_check), "{n_check}");
        assert!(is_check("H01") && !is_check("H06"));
    }
}
