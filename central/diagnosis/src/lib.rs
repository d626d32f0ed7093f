//! From a snapshot to a verdict: which cause makes this VM show this symptom. Pure.
//!
//! Read in this order: [`snapshot`] (what is known, the time included), [`symptom`] (who is in trouble), [`catalogue`]
//! (what can be the cause, with one row each in [`causes`]), [`evidence`] and [`score`] (what was seen, and what it weighs),
//! [`attribution`] (the answer), [`place`] (which answers are one incident), [`preflight`] (could a VM migrate, and what would stop
//! it), [`written`] (a snapshot as a file). Of a snapshot of many VMs an [`Indexed`] is asked. No clock, no I/O, no async: the same
//! snapshot gives the same bytes, live and for a recorded case.

pub mod attribution;
pub mod catalogue;
pub mod causes;
mod chain;
mod cleared;
mod collect;
mod compared;
mod docs;
pub mod evidence;
mod explain;
mod identity;
mod indexed;
mod leftover;
pub mod libvirt;
mod mentions;
mod narrow;
mod nearness;
pub mod place;
pub mod preflight;
mod remedy;
mod scene;
pub mod score;
mod shared;
pub mod snapshot;
mod stage;
mod standalone;
pub mod symptom;
mod thing;
mod words;
pub mod written;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use attribution::{Attribution, Candidate, Confidence, Remedy, RuledOut, WeighedEvidence, attribute};
pub use catalogue::{CAUSES, Cause, Class};
pub use docs::causes_markdown;
pub use explain::{ExplainedClue, Explanation, MissingClue, explain};
pub use indexed::Indexed;
/// What [`Symptom::past_migrations`] tells.
pub use kulprit_cluster::{MigrationOutcome, MigrationRecord};
pub use narrow::{Narrowed, narrow};
pub use place::{Place, incident_key};
pub use preflight::{CanMigrate, CandidateNode, Fit, MigrationAnswer, Obstacle, can_migrate};
pub use score::{ScoreLine, ScoreSheet, score_sheets};
pub use snapshot::{ClusterSight, NodeView, Settings, Shared, Snapshot, VmView};
pub use symptom::{Symptom, SymptomId, SymptomSubject, is_at_rest, symptom_of, symptoms};
