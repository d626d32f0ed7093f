//! What the outputs of administrators' commands mean: parsers of `kulprit_host::command` in, verdicts out.
//!
//! An output is one look at one moment, by somebody who had a reason to look. Nothing can be held: a state counts as the output
//! shows it, with the beginning the output tells (systemd, libvirt), or else marked as `first_look`. What a single look cannot
//! tell from a short moment of normal life (a thread in D state in no storage function) is `Unknown`, not present. Absent is
//! said only where the output shows the good state itself.

pub mod domain;
pub mod machine;
pub mod network;
pub mod node;
pub mod reach;
pub mod storage;
pub mod tasks;

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{StateVerdict, Verdict};

/// A state that an output shows; its beginning is not known.
fn present(
    code: FindingCode,
    subject: Subject,
    at: Moment,
    source: &str,
    facts: Attributes,
    text: impl Into<String>,
) -> Verdict {
    Verdict::State(StateVerdict {
        attributes: facts.with(attribute::FIRST_LOOK, true),
        evidence: vec![Evidence::new(source, at, text)],
        ..StateVerdict::seen(code, subject, true)
    })
}

/// A state that began at a moment which the output tells.
fn present_since(
    code: FindingCode,
    subject: Subject,
    since: Moment,
    source: &str,
    facts: Attributes,
    text: impl Into<String>,
) -> Verdict {
    Verdict::State(StateVerdict {
        since: Some(since),
        attributes: facts,
        evidence: vec![Evidence::new(source, since, text)],
        ..StateVerdict::seen(code, subject, true)
    })
}

/// The output shows that it is not so.
fn absent(code: FindingCode, subject: Subject) -> Verdict {
    Verdict::State(StateVerdict::seen(code, subject, false))
}

/// The output does not tell, and why.
fn unknown(code: FindingCode, subject: Subject, because: impl Into<String>) -> Verdict {
    Verdict::State(StateVerdict::unknown(code, subject, because))
}

#[cfg(test)]
mod tests;
