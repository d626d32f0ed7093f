//! Telling when a mount table changes, without reading it.
//!
//! The kernel marks an open mountinfo as urgent when a mount is added, moved or removed in its namespace. The descriptor is one
//! of procfs: it holds no mount. Source: `proc_pid_mountinfo(5)`, kernel `fs/proc_namespace.c` (`mounts_poll`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::io::unix::AsyncFd;

use crate::readiness::watch_priority;
use crate::text::READ_FLAGS;
use crate::{HostRoot, ReadError};

/// An open mountinfo.
#[derive(Debug)]
pub struct MountWatch {
    file: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl MountWatch {
    /// Watches the table at `path`, for example `proc/1/mountinfo`.
    ///
    /// Must be called in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// See [`ReadError`]; `Denied` also for what cannot be waited for, such as a plain file.
    pub fn open(root: &HostRoot, path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let shown = root.display_path(path);
        let file = root.open_fd(path, READ_FLAGS)?;
        let file = watch_priority(file).map_err(|source| ReadError::from_io(&shown, source))?;
        Ok(Self { file, path: shown })
    }

    /// Returns when a mount was added, moved or removed since the last return. Cancel-safe.
    ///
    /// # Errors
    /// `Io` when it cannot be waited for any more.
    pub async fn changed(&self) -> Result<(), ReadError> {
        let guard = self.file.ready(tokio::io::Interest::PRIORITY).await;
        let mut guard = guard.map_err(|source| ReadError::from_io(&self.path, source))?;
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plain_file_cannot_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mountinfo"), "").unwrap();
        assert!(MountWatch::open(&HostRoot::new(dir.path()), "mountinfo").is_err());
    }

    #[tokio::test]
    async fn a_table_that_does_not_change_is_not_told() {
        let watch = MountWatch::open(&HostRoot::new("/"), "proc/self/mountinfo").unwrap();
        // Others on this machine may mount; they do not do so without end.
        let quiet = async {
            while tokio::time::timeout(std::time::Duration::from_millis(20), watch.changed()).await.is_ok() {}
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), quiet).await.unwrap();
    }
}
