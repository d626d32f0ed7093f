//! From a snapshot to a verdict: which cause makes this VM show this symptom. Pure.
//!
//! Read in this order: [`snapshot`] (what is known, the time included), [`symptom`] (who is in trouble), [`catalogue`]
//! (what can be the cause), [`attribution`] (the answer). No clock, no I/O, no async: the same snapshot gives the same
//! bytes, live and for a recorded case.

pub mod attribution;
pub mod place;
pub mod snapshot;
pub mod symptom;

pub use attribution::{Attribution, Candidate, Confidence, Remedy, RuledOut, WeighedEvidence};
pub use place::{Place, incident_key};
pub use snapshot::{NodeView, Settings, Snapshot, VmView};
pub use symptom::{Symptom, SymptomId, SymptomSubject};
