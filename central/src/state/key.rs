//! The key of one thing that holds now: equal exactly when a newer record replaces an older one.
//!
//! The text form is what the store keeps in its `current` table; it only tells rows apart, nothing is read back from it but
//! the kind.

use std::fmt;

use kulprit_model::{Body, FindingCode, Moment, Record, Subject};

/// Names one thing of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CurrentKey {
    /// A state.
    State(FindingCode, Subject),
    /// An occurrence, by the first time of its burst.
    Occurrence(FindingCode, Subject, Moment),
    /// A libvirt domain, by UID.
    Domain(String),
    /// The QEMU that runs now, by the UID of its VM.
    Qemu(String),
    /// The QEMU that ran last, by the UID of its VM.
    LastQemu(String),
}

impl CurrentKey {
    /// The key under which `record` is kept; `None` for a record that only ends others.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        match &record.body {
            Body::State(state) => Some(Self::State(state.code, state.subject.clone())),
            Body::Occurrence(occurrence) => {
                Some(Self::Occurrence(occurrence.code, occurrence.subject.clone(), occurrence.first))
            }
            Body::Domain(domain) => Some(Self::Domain(domain.uid.clone())),
            Body::Qemu(qemu) => Some(Self::Qemu(qemu.uid.clone())),
            Body::SubjectGone { .. } => None,
        }
    }
}

/// What the text of a [`CurrentKey::LastQemu`] starts with.
pub(crate) const LAST_QEMU_PREFIX: &str = "last_qemu/";

impl fmt::Display for CurrentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(code, subject) => write!(f, "state/{code}/{subject}"),
            Self::Occurrence(code, subject, first) => {
                write!(f, "occurrence/{code}/{subject}/{}.{}", first.wall_usec, first.boottime_usec)
            }
            Self::Domain(uid) => write!(f, "domain/{uid}"),
            Self::Qemu(uid) => write!(f, "qemu/{uid}"),
            Self::LastQemu(uid) => write!(f, "{LAST_QEMU_PREFIX}{uid}"),
        }
    }
}
