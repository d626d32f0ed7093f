//! What the crate promises, from snapshot to verdict: symptoms, each cause from all sides, what is said beside it, properties.

mod causes;
mod indexed;
mod kubevirt;
mod places;
mod preflight;
mod properties;
mod said;
mod sharing;
mod standalone;
mod symptoms;
