//! Why a case cannot be read at all. What is only partly unreadable is a [`Problem`](crate::Problem) instead.

use std::{io, path::PathBuf};

use kulprit_diagnosis::written::ReadError;

/// The case as a whole cannot be used: exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The folder or archive cannot be opened.
    #[error("cannot open `{path}`")]
    Open {
        /// The path as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a folder and not an archive that can be read.
    #[error("`{path}` is neither a folder nor a .tar or .tar.gz archive; unpack it and name the folder")]
    NotACase {
        /// The path as given.
        path: PathBuf,
    },
    /// The archive is damaged, or too large to unpack.
    #[error("cannot unpack `{path}`: {why}")]
    Unpack {
        /// The path as given.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// There is nothing in it.
    #[error("`{path}` is empty: a case is a folder with a case.yaml, a must-gather or a sosreport")]
    Empty {
        /// The path as given.
        path: PathBuf,
    },
    /// Nothing tells what it is.
    #[error(
        "`{path}` has no case.yaml and is neither a must-gather nor a sosreport (found {found}); write a case.yaml with \
         `apiVersion: kulprit.io/v1`, `kind: Case` and `at: <time of asking>`"
    )]
    Unrecognised {
        /// The path as given.
        path: PathBuf,
        /// A few names that are there.
        found: String,
    },
    /// The manifest is wrong.
    #[error("`{path}`{place}: {why}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// `:line:column`, or empty.
        place: String,
        /// What is wrong and what to write.
        why: String,
    },
    /// The written snapshot is none that this version reads.
    #[error("`{path}` cannot be used")]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ReadError,
    },
    /// The VM that was asked for stands nowhere in the case, or in several namespaces.
    #[error("{0}")]
    Subject(String),
}
