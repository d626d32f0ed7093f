//! What one look says of one subject, before the tracker holds and remembers it.

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Status, Subject};

/// What one look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A state, as seen at this look.
    State(StateVerdict),
    /// Something happened since the last look.
    Occurrence(OccurrenceVerdict),
}

/// A state as one look saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateVerdict {
    /// Which state.
    pub code: FindingCode,
    /// Of what.
    pub subject: Subject,
    /// What the look saw.
    pub status: Status,
    /// Why nobody could look; set exactly when `status` is `Unknown`.
    pub unknown_because: Option<String>,
    /// The hold starts anew when this changes between two looks: for a blocked thread its id and wchan.
    pub hold_key: Option<String>,
    /// Since when it is known to have been so, where the source tells (`stateTime` of libvirt); lengthens the hold's past.
    pub since: Option<Moment>,
    /// Facts.
    pub attributes: Attributes,
    /// What was seen.
    pub evidence: Vec<Evidence>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OccurrenceVerdict {
    /// What happened.
    pub code: FindingCode,
    /// To what.
    pub subject: Subject,
    /// When.
    pub at: Moment,
    /// How often at once; at least 1.
    pub count: u64,
    /// Facts.
    pub attributes: Attributes,
    /// What was seen.
    pub evidence: Vec<Evidence>,
}

impl StateVerdict {
    /// A state that was looked at: `Present` with what was seen, or `Absent`.
    #[must_use]
    pub fn seen(code: FindingCode, subject: Subject, is_present: bool) -> Self {
        let status = if is_present { Status::Present } else { Status::Absent };
        Self {
            code,
            subject,
            status,
            unknown_because: None,
            hold_key: None,
            since: None,
            attributes: Attributes::new(),
            evidence: Vec::new(),
        }
    }

    /// A state that could not be looked at, and why.
    #[must_use]
    pub fn unknown(code: FindingCode, subject: Subject, because: impl Into<String>) -> Self {
        Self { status: Status::Unknown, unknown_because: Some(because.into()), ..Self::seen(code, subject, false) }
    }
}
