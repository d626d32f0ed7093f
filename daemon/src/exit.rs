//! With what a process ends: the exit code, and one line that says what, where and what to do.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | ended as asked |
//! | 1 | failed while running; the log says more |
//! | 2 | cannot start as told (flag, configuration, file, address): the same start fails again until somebody acts |
//! | 3 | told to end, but tasks did not end before the drain deadline |
//! | 4 | told to end twice: ended at once, nothing was drained |

use std::{error::Error, fmt};

use crate::{BoxError, config::ConfigError, http::ListenError, shutdown::DrainError, telemetry::Chain};

/// Failed while running.
pub const FAILED: u8 = 1;
/// Cannot start as told.
pub const USAGE: u8 = 2;
/// Tasks did not end before the drain deadline.
pub const DRAIN_LATE: u8 = 3;
/// A second signal ended the process at once.
pub const ABORTED: u8 = 4;

/// Something a person has to put right before this process can run; ends it with [`USAGE`].
///
/// [`ConfigError`] and [`ListenError`] count as such by themselves; wrap what else is of this kind
/// (a foreign database file, a peer given by flag that is not there).
#[derive(Debug)]
pub struct UsageError {
    what: String,
    fix: Option<String>,
    source: Option<BoxError>,
}

impl UsageError {
    /// `what` was attempted on what, for example "failed to open the spool `/var/lib/kulprit/spool`".
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), fix: None, source: None }
    }

    /// Why it failed.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What to do about it, for example "choose another with --state-dir"; ends the line.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for UsageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// What `main` prints and answers for an error.
#[derive(Debug, PartialEq, Eq)]
pub struct ExitReason {
    /// One of the codes of this module.
    pub code: u8,
    /// One line without the leading `error: `: the chain of causes, then what to do.
    pub line: String,
}

impl ExitReason {
    /// Reads the code and the advice off the first error in the chain that knows them.
    ///
    /// The chain is searched by type. `anyhow::Error` turned into [`BoxError`] by `into()` or `?` hides the type of its
    /// outermost error, so that a bare [`UsageError`] in it would end the process with [`FAILED`]; hand over
    /// `anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace` instead.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut code = FAILED;
        let mut fix = None;
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(usage) = error.downcast_ref::<UsageError>() {
                (code, fix) = (USAGE, usage.fix.clone());
            } else if let Some(config) = error.downcast_ref::<ConfigError>() {
                (code, fix) = (USAGE, config.fix());
            } else if let Some(listen) = error.downcast_ref::<ListenError>() {
                (code, fix) = (USAGE, Some(listen.fix()));
            } else if let Some(DrainError::Late { .. }) = error.downcast_ref::<DrainError>() {
                code = DRAIN_LATE;
            }
            if code != FAILED {
                break;
            }
            next = error.source();
        }
        let line = match fix {
            Some(fix) => format!("{}; {fix}", Chain(error)),
            None => Chain(error).to_string(),
        };
        Self { code, line }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use anyhow::Context;

    use super::*;

    #[track_caller]
    fn check(error: impl Into<BoxError>, code: u8, line: &str) {
        let error = error.into();
        assert_eq!(ExitReason::of(error.as_ref()), ExitReason { code, line: line.to_owned() });
    }

    fn foreign() -> UsageError {
        UsageError::new("failed to open the store `/x/central.db`")
            .because(io::Error::other("file is not a database"))
            .fix("choose another with --data-dir")
    }

    #[test]
    fn a_usage_error_says_what_where_and_what_to_do() {
        check(
            foreign(),
            USAGE,
            "failed to open the store `/x/central.db`: file is not a database; choose another with --data-dir",
        );
    }

    #[test]
    fn it_is_found_below_the_context_that_app_added() {
        let error = Err::<(), _>(foreign()).context("failed to start").unwrap_err();
        check(
            error,
            USAGE,
            "failed to start: failed to open the store `/x/central.db`: file is not a database; choose another with --data-dir",
        );
    }

    #[test]
    fn it_is_found_as_the_outermost_error_of_anyhow() {
        let error = anyhow::Error::new(UsageError::new("no name for this node"));
        check(error.reallocate_into_boxed_dyn_error_without_backtrace(), USAGE, "no name for this node");
    }

    #[test]
    fn config_errors_are_usage_errors() {
        let error = crate::config::load::<String>(Path::new("/nonexistent/agent.yaml")).unwrap_err();
        assert_eq!(ExitReason::of(&error).code, USAGE);
    }

    #[test]
    fn a_late_drain_has_its_own_code() {
        let error = DrainError::Late { tasks: vec!["uplink"], deadline: std::time::Duration::from_secs(10) };
        check(error, DRAIN_LATE, "not ended 10s after being told to: uplink");
    }

    #[test]
    fn anything_else_failed() {
        check(io::Error::other("disk on fire"), FAILED, "disk on fire");
    }

    #[test]
    fn the_line_is_one_line() {
        check(io::Error::other("first\n  second\n"), FAILED, "first second");
    }
}
