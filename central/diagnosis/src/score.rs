//! The score sheet of one cause for one symptom: every clue with what it adds, so that the verdict can be checked by hand.
//!
//! score = prior + Σ over groups (the strongest clue × subject factor × freshness), in decibans.

use kulprit_model::Attributes;

use crate::{
    catalogue::{CAUSES, Cause, Clue, Scope},
    causes,
    evidence::{self, Seen},
    scene::Scene,
    snapshot::Snapshot,
    symptom::{Symptom, SymptomSubject},
};

/// How one cause came to its score.
#[derive(Debug)]
pub struct ScoreSheet {
    /// The cause.
    pub cause: &'static Cause,
    /// What it is worth for this symptom before anything was looked at, decibans.
    pub prior_db: f64,
    /// Every clue that was seen, in the order of the catalogue.
    pub lines: Vec<ScoreLine>,
}

/// One clue that was seen.
#[derive(Debug)]
pub struct ScoreLine {
    /// The clue.
    pub clue: &'static Clue,
    /// Subject factor: 1 for the VM's own, 0.6 for its node's.
    pub factor: f64,
    /// 1 for fresh evidence, less for old, 0.3 for what began after the symptom.
    pub freshness: f64,
    /// Strength × factor × freshness.
    pub decibans: f64,
    /// Whether it is the strongest of its group; only that one counts.
    pub is_counted: bool,
    /// What was seen.
    pub seen: Vec<Seen>,
    pub(crate) attributes: Attributes,
    pub(crate) unit: Option<String>,
}

impl ScoreSheet {
    /// What its own evidence adds up to, decibans.
    #[must_use]
    pub fn own_db(&self) -> f64 {
        self.lines.iter().filter(|line| line.is_counted).map(|line| line.decibans).sum()
    }

    /// Prior and own evidence, decibans.
    #[must_use]
    pub fn score_db(&self) -> f64 {
        self.prior_db + self.own_db()
    }

    fn new(scene: &Scene<'_>, cause: &'static Cause) -> Self {
        let mut lines: Vec<ScoreLine> = Vec::new();
        for clue in cause.clues {
            let Some(hit) = evidence::strongest(evidence::hits(scene, &clue.look, clue.text)) else { continue };
            lines.push(ScoreLine {
                clue,
                factor: hit.factor,
                freshness: hit.freshness,
                decibans: clue.strength.decibans() * hit.factor * hit.freshness,
                is_counted: false,
                seen: hit.seen,
                attributes: hit.attributes,
                unit: hit.unit,
            });
        }
        for index in 0..lines.len() {
            let line = &lines[index];
            let is_beaten = lines.iter().enumerate().any(|(other_index, other)| {
                other.clue.group == line.clue.group
                    && (other.decibans.abs() > line.decibans.abs()
                        || other.decibans.abs() == line.decibans.abs() && other_index < index)
            });
            lines[index].is_counted = !is_beaten;
        }
        Self { cause, prior_db: cause.prior_db(scene.symptom.id), lines }
    }
}

/// The sheets of every cause but `Unexplained`, in the order of the catalogue. A node has none of what sits in one VM: whatever the
/// kernel killed there, "its QEMU" is nobody's.
#[must_use]
pub fn score_sheets(snapshot: &Snapshot, symptom: &Symptom) -> Vec<ScoreSheet> {
    sheets_of(&Scene::new(snapshot, symptom))
}

pub(crate) fn sheets_of(scene: &Scene<'_>) -> Vec<ScoreSheet> {
    let is_node = matches!(scene.symptom.subject, SymptomSubject::Node { .. });
    CAUSES
        .iter()
        .copied()
        .filter(|cause| cause.id != causes::UNEXPLAINED.id && !(is_node && cause.scope == Scope::Vm))
        .map(|cause| ScoreSheet::new(scene, cause))
        .collect()
}
