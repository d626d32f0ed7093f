//! The three values of a state: present, absent, unknown.
//!
//! `Unknown` is neither good nor bad: nobody could look, or nobody has looked for too long.

use std::fmt;

/// What is known of a state after a look, or after the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// A look saw the state.
    Present,
    /// A look of the same boot saw that it is not there.
    Absent,
    /// Nobody could look. Never to be read as `Absent`.
    Unknown,
}

impl Status {
    /// The word used in JSON, tables and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "Present",
            Self::Absent => "Absent",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
