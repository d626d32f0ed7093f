//! One finding: a state of a subject, or an occurrence.

use crate::{
    attribute::Attributes, catalogue::FindingCode, evidence::Evidence, status::Status, subject::Subject, time::Moment,
};

/// What the agent says about one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A three-valued state.
    State(State),
    /// Something that happened.
    Occurrence(Occurrence),
}

/// A three-valued state of one subject. Equal key (code, subject) means the same state at another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Which state.
    pub code: FindingCode,
    /// Of what.
    pub subject: Subject,
    /// What is known of it.
    pub status: Status,
    /// Since when the status has been as it is: for `Present` the first look that saw it, hold time included.
    pub since: Moment,
    /// The look this is based on; for `Unknown` the last attempt.
    pub looked: Moment,
    /// Why nobody could look; set exactly when the status is `Unknown`.
    pub unknown_because: Option<String>,
    /// What was measured, in the unit of the catalogue row.
    pub attributes: Attributes,
    /// What was seen; may be empty for `Absent`.
    pub evidence: Vec<Evidence>,
}

/// Something that happened to one subject, once or several times. Never present or absent; it ages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// What happened.
    pub code: FindingCode,
    /// To what.
    pub subject: Subject,
    /// The first time of this burst.
    pub first: Moment,
    /// The last time of this burst.
    pub last: Moment,
    /// How often in this burst; at least 1.
    pub count: u64,
    /// Facts of the last time.
    pub attributes: Attributes,
    /// What was seen, first and last at least.
    pub evidence: Vec<Evidence>,
}

impl Finding {
    /// Its code.
    #[must_use]
    pub const fn code(&self) -> FindingCode {
        match self {
            Self::State(state) => state.code,
            Self::Occurrence(occurrence) => occurrence.code,
        }
    }

    /// Its subject.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        match self {
            Self::State(state) => &state.subject,
            Self::Occurrence(occurrence) => &occurrence.subject,
        }
    }

    /// Its evidence.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        match self {
            Self::State(state) => &state.evidence,
            Self::Occurrence(occurrence) => &occurrence.evidence,
        }
    }

    /// Its attributes.
    #[must_use]
    pub const fn attributes(&self) -> &Attributes {
        match self {
            Self::State(state) => &state.attributes,
            Self::Occurrence(occurrence) => &occurrence.attributes,
        }
    }
}
