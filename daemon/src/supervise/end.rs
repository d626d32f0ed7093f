//! How a task ended.

use std::{error::Error, fmt};

use tokio::task::JoinError;

use crate::{BoxError, Chain, shutdown::Drain, telemetry::panic_text};

/// How a task ended that should not have.
#[derive(Debug)]
pub enum End {
    /// It returned without an error, but nobody had told it to.
    Returned,
    /// It returned an error.
    Failed(BoxError),
    /// It panicked with this message.
    Panicked(String),
}

/// [`End`] as a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// See [`End::Returned`].
    Returned,
    /// See [`End::Failed`].
    Failed,
    /// See [`End::Panicked`].
    Panicked,
}

impl Outcome {
    /// Lower case, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
        }
    }
}

impl End {
    /// Which of the three.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Returned => Outcome::Returned,
            Self::Failed(_) => Outcome::Failed,
            Self::Panicked(_) => Outcome::Panicked,
        }
    }

    /// What went wrong, if something did.
    pub(crate) fn into_error(self) -> Option<BoxError> {
        match self {
            Self::Returned => None,
            Self::Failed(error) => Some(error),
            Self::Panicked(_) => Some(self.to_string().into()),
        }
    }
}

impl From<JoinError> for End {
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::Panicked(panic_text(payload.as_ref()).to_owned()),
            // Nobody aborts tasks before the end, so the runtime is going down.
            Err(cancelled) => Self::Failed(cancelled.into()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned => f.write_str("returned without being told to"),
            Self::Failed(error) => write!(f, "failed: {}", Chain(error.as_ref())),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
        }
    }
}

/// A core task ended before the process was told to.
#[derive(Debug)]
pub struct EarlyEnd {
    /// Its name.
    pub task: &'static str,
    /// How it ended.
    pub end: End,
    /// How the other tasks ended after that.
    pub drain: Drain,
}

impl fmt::Display for EarlyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.end {
            // The error itself is the source.
            End::Failed(_) => write!(f, "core task `{}` failed", self.task),
            other => write!(f, "core task `{}` {other}", self.task),
        }
    }
}

impl Error for EarlyEnd {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.end {
            End::Failed(error) => Some(error.as_ref()),
            End::Returned | End::Panicked(_) => None,
        }
    }
}
