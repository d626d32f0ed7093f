//! Short forms for saying what a look saw, shared by the judges of readings.
//!
//! A reading is what a reader returned, or the text of its error: the text becomes the reason of an `Unknown`, with the
//! file in it.

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

/// A value that was read, or why it could not be.
pub type Reading<T> = Result<T, String>;

/// Files of procfs.
pub(crate) const PROCFS: &str = "procfs";
/// Files of sysfs.
pub(crate) const SYSFS: &str = "sysfs";
/// Files of cgroupfs.
pub(crate) const CGROUP: &str = "cgroup";

/// A state that is there, with one piece of evidence.
pub(crate) fn present(
    code: FindingCode,
    subject: &Subject,
    at: Moment,
    source: &str,
    attributes: Attributes,
    text: impl Into<String>,
) -> StateVerdict {
    StateVerdict {
        attributes,
        evidence: vec![Evidence::new(source, at, text)],
        ..StateVerdict::seen(code, subject.clone(), true)
    }
}

/// A state that was looked at and is not there, with what was seen instead.
pub(crate) fn absent(
    code: FindingCode,
    subject: &Subject,
    at: Moment,
    source: &str,
    text: impl Into<String>,
) -> StateVerdict {
    StateVerdict { evidence: vec![Evidence::new(source, at, text)], ..StateVerdict::seen(code, subject.clone(), false) }
}

/// A state that nobody could look at.
pub(crate) fn unknown(code: FindingCode, subject: &Subject, because: impl Into<String>) -> StateVerdict {
    StateVerdict::unknown(code, subject.clone(), because)
}

/// Something that a counter proves to have happened since the boot, nobody knows when: undated, at the moment of the look.
pub(crate) fn counted(
    code: FindingCode,
    subject: &Subject,
    at: Moment,
    count: u64,
    source: &str,
    attributes: Attributes,
    text: impl Into<String>,
) -> Verdict {
    Verdict::Occurrence(OccurrenceVerdict {
        code,
        subject: subject.clone(),
        at,
        count: count.max(1),
        attributes: attributes.with(attribute::UNDATED, true),
        evidence: vec![Evidence::new(source, at, text)],
    })
}
