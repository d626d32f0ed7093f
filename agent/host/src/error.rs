//! How a look at the host fails.
//!
//! Variants exist because callers treat them differently: a thing that is not there, a thing we may not see, a kernel that
//! does not offer it, an I/O error worth a retry, and content that no version of the kernel is known to write. The cause is a
//! source, never part of the text, so a chain printed once reads once.

use std::io;
use std::path::{Path, PathBuf};

/// A read of the host that gave nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing has this name, or the process it belongs to is gone.
    #[error("`{path}` does not exist")]
    NotFound {
        /// What was opened.
        path: PathBuf,
    },
    /// The kernel refused us: permissions, a device cgroup, a security module.
    #[error("no permission to read `{path}`")]
    Denied {
        /// What was opened.
        path: PathBuf,
        /// `EACCES` or `EPERM`.
        #[source]
        source: io::Error,
    },
    /// The kernel offers no such file or call: too old, or built without it.
    #[error("`{path}` is not available on this kernel")]
    Unsupported {
        /// What was opened.
        path: PathBuf,
    },
    /// The read failed for another reason; a retry may work.
    #[error("failed to read `{path}`")]
    Io {
        /// What was opened.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There was more than the reader takes, so nothing of it was used.
    #[error("`{path}` is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was opened.
        path: PathBuf,
        /// The most that this reader takes.
        limit_bytes: usize,
    },
    /// The content is not what the kernel is known to write.
    #[error("unexpected content in `{path}`, line {line}: {text:?}")]
    Malformed {
        /// What was opened.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The offending line, cut at 120 characters.
        text: String,
    },
}

impl ReadError {
    /// Sorts an error of the kernel about `path` into the variant its caller will want.
    pub fn from_io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match rustix::io::Errno::from_io_error(&source) {
            // ESRCH: a file of a process that ended after it was opened. ENODEV: a node without its driver, for text files.
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::SRCH) => {
                Self::NotFound { path }
            }
            Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Self::Denied { path, source },
            Some(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => Self::Unsupported { path },
            _ => Self::Io { path, source },
        }
    }

    /// The file that was looked at.
    pub fn path(&self) -> &Path {
        match self {
            Self::NotFound { path }
            | Self::Denied { path, .. }
            | Self::Unsupported { path }
            | Self::Io { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Malformed { path, .. } => path,
        }
    }

    /// Whether there was nothing by that name: often an answer, not a failure.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Text or bytes that are not what their source is known to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected content, line {line}: {text:?}")]
pub struct Malformed {
    /// Line, counted from 1.
    pub line: usize,
    /// The offending line, cut at 120 characters.
    pub text: String,
}

impl Malformed {
    /// A complaint about one line (counted from 1) of a text.
    pub(crate) fn new(line: usize, text: impl AsRef<[u8]>) -> Self {
        let text = String::from_utf8_lossy(text.as_ref()).chars().take(120).collect();
        Self { line, text }
    }

    /// The same complaint, about a file.
    pub fn at(self, path: impl Into<PathBuf>) -> ReadError {
        ReadError::Malformed { path: path.into(), line: self.line, text: self.text }
    }
}
