//! Under which name this program was started: one binary is the command, the plugin of kubectl, and that plugin's completion.
//!
//! kubectl finds plugins by the names of files in `PATH`: `kubectl kulprit …` starts `kubectl-kulprit …`, and, from 1.26 on, a Tab after
//! `kubectl kulprit` starts `kubectl_complete-kulprit` with the words typed so far. Both are links to `kulprit`. Nothing but the name
//! decides; the folder does not.
//!
//! Source: <https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/>.

use std::{ffi::OsStr, path::Path};

/// What this run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// `kulprit`, or any name that is not one of the others.
    Kulprit,
    /// `kubectl kulprit`.
    Plugin,
    /// kubectl asks what could come next.
    Completion,
}

impl Called {
    /// By the first word of the command line.
    pub(crate) fn of(first_word: Option<&OsStr>) -> Self {
        match first_word.and_then(|word| Path::new(word).file_name()).and_then(OsStr::to_str) {
            Some("kubectl-kulprit") => Self::Plugin,
            Some("kubectl_complete-kulprit") => Self::Completion,
            Some(_) | None => Self::Kulprit,
        }
    }

    /// What a person types to start it.
    pub(crate) const fn typed(self) -> &'static str {
        match self {
            Self::Kulprit => "kulprit",
            Self::Plugin | Self::Completion => "kubectl kulprit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first_word: &str, want: Called) {
        assert_eq!(Called::of(Some(OsStr::new(first_word))), want, "{first_word}");
    }

    #[test]
    fn the_name_of_the_file_decides_and_nothing_else() {
        check("kulprit", Called::Kulprit);
        check("./kulprit", Called::Kulprit);
        check("kubectl-kulprit", Called::Plugin);
        check("/usr/local/bin/kubectl-kulprit", Called::Plugin);
        check("/opt/kubectl-kulprit/kulprit", Called::Kulprit);
        check("/opt/kubectl_complete-kulprit", Called::Completion);
        check("kubectl-kulprit-nightly", Called::Kulprit);
        assert_eq!(Called::of(None), Called::Kulprit);
        assert_eq!((Called::Plugin.typed(), Called::Kulprit.typed()), ("kubectl kulprit", "kulprit"));
    }
}
