//! The answer: candidate causes with their probability, what speaks for them, what was ruled out, what was not seen.

mod answer;

pub use answer::attribute;
pub(crate) use answer::is_verdict;
pub(crate) use answer::{attribute_causes_in, attribute_in};

use crate::{place::Place, symptom::Symptom};

/// Why one subject shows one symptom.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// What is being explained.
    pub symptom: Symptom,
    /// Exclusive candidates by falling probability, `Unexplained` among them; their probabilities sum to 1.
    pub causes: Vec<Candidate>,
    /// Other faults that would be enough by themselves; each with its own probability.
    pub contributing: Vec<Candidate>,
    /// Causes that a fresh positive look speaks against.
    pub ruled_out: Vec<RuledOut>,
    /// What could not be seen, one sentence each.
    pub unknown: Vec<String>,
    /// What was looked at and is well, one sentence each.
    pub looked_at: Vec<String>,
    /// How sure.
    pub confidence: Confidence,
}

/// How sure an attribution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// The first cause has a probability of 0.6 or more.
    Verdict,
    /// The first cause has 0.3 to 0.6.
    Suspected,
    /// Nothing reaches 0.3, or `Unexplained` is first.
    Unexplained,
}

/// One candidate cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Id of the catalogue of causes.
    pub id: &'static str,
    /// 0..=1.
    pub probability: f64,
    /// Score before normalisation, decibans.
    pub score_db: f64,
    /// `hosting`, `source`, `target`, `path`, `shared` or `cluster`; empty for `Unexplained`, which sits nowhere.
    pub role: &'static str,
    /// The node that is blamed.
    pub node: Option<String>,
    /// What the root cause sits in: one incident per (root cause, place).
    pub place: Place,
    /// Whether it could be the cause in the first one's stead. Of a node with faults, what explains none of them only happened beside them.
    pub explains: bool,
    /// What nodes share and the evidence names, where nobody can tell whether that is at fault or the node.
    pub may_be_at: Option<Place>,
    /// Causes from root to the symptom, root first.
    pub chain: Vec<&'static str>,
    /// What speaks for and against it, strongest first.
    pub evidence: Vec<WeighedEvidence>,
    /// What to do.
    pub remedy: Remedy,
}

impl Candidate {
    /// How sure it is by itself.
    #[must_use]
    pub fn confidence(&self) -> Confidence {
        answer::confidence(self)
    }
}

/// A piece of evidence and what it adds.
#[derive(Clone, Debug, PartialEq)]
pub struct WeighedEvidence {
    /// Where it comes from (`systemd`, `kmsg`, …).
    pub source: String,
    /// Node that saw it.
    pub node: String,
    /// When, Unix time in microseconds.
    pub at_wall_usec: i64,
    /// What was seen.
    pub text: String,
    /// Decibans after subject factor and freshness; negative speaks against.
    pub weight_db: f64,
    /// The cause of the chain that it speaks for.
    pub cause: &'static str,
}

/// A cause that a fresh positive look speaks against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuledOut {
    /// Cause id.
    pub id: &'static str,
    /// The look, one sentence.
    pub why: String,
}

/// What to do about a cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// What to do now; commands are ready to paste.
    pub now: Vec<String>,
    /// What to check.
    pub check: Vec<String>,
    /// How to prevent it.
    pub prevent: Vec<String>,
    /// False while a QEMU lives, may live, or a volume may still be written.
    pub safe_to_force_delete: bool,
}
