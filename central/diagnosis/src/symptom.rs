//! Who is in trouble, and how: the symptoms of a snapshot.
//!
//! A VM shows at most one symptom, the most telling: stopped before stuck stopping, before paused, before unresponsive. Normal
//! life (start, stop, pause by a user, save, restore, migration, snapshot) shows none, and a node whose agent is silent raises
//! none: nothing is known of it.

mod rules;

pub use rules::symptoms;

/// The symptoms of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SymptomId {
    /// Asked or made to stop, and it does not.
    StuckStopping,
    /// Paused, and nobody asked for it.
    PausedUnexpectedly,
    /// Shown running while its host side is hung or gone.
    Unresponsive,
    /// The domain is gone, crashed or shut off, and nobody asked for it.
    StoppedUnexpectedly,
    /// No symptom can be derived: asked for by name, or a node with a fault of its own.
    Unspecified,
}

impl SymptomId {
    /// The id as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StuckStopping => "StuckStopping",
            Self::PausedUnexpectedly => "PausedUnexpectedly",
            Self::Unresponsive => "Unresponsive",
            Self::StoppedUnexpectedly => "StoppedUnexpectedly",
            Self::Unspecified => "Unspecified",
        }
    }
}

/// Whom a symptom is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SymptomSubject {
    /// A VM on a node.
    Vm {
        /// Name of the node.
        node: String,
        /// UID of the VM.
        uid: String,
    },
    /// A node with a fault of its own.
    Node {
        /// Name of the node.
        node: String,
    },
}

/// One symptom of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symptom {
    /// Whom it is about.
    pub subject: SymptomSubject,
    /// Which symptom.
    pub id: SymptomId,
    /// Its onset, Unix time in microseconds; `None` if not known.
    pub since_wall_usec: Option<i64>,
    /// What it was derived from, one sentence.
    pub text: String,
}
