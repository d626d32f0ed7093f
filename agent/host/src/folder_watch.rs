//! Changes of a folder, as inotify reports them: names that come, go or are replaced in it, or the folder itself going.
//!
//! It says *look again* and no more. The folder is found inside the root, and not kept open; the watch goes with it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::readiness::watch_readable;
use crate::{HostRoot, ReadError};

const FLAGS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// A watch over one folder.
#[derive(Debug)]
pub struct FolderWatch {
    path: PathBuf,
    inotify: AsyncFd<OwnedFd>,
}

/// What happened since the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderChange {
    /// Names came or went, or so many that some were not told.
    Names,
    /// The folder went: nothing more comes.
    Ended,
}

impl FolderWatch {
    /// Starts to watch. Look at the folder *after* this, or a change in between is missed.
    ///
    /// Must be called in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder; `Io` when the user's inotify instances are used up.
    pub fn open(root: &HostRoot, path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let shown = root.display_path(&path);
        let at = |errno: Errno| ReadError::from_io(&shown, errno.into());
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(at)?;
        let folder = root.open_fd(&path, OFlags::PATH)?;
        inotify::add_watch(&inotify, format!("/proc/self/fd/{}", folder.as_raw_fd()), FLAGS).map_err(at)?;
        let inotify = watch_readable(inotify).map_err(|source| ReadError::Io { path: shown.clone(), source })?;
        Ok(Self { path: shown, inotify })
    }

    /// Waits for the next change; what came together counts once. Cancel-safe.
    ///
    /// # Errors
    /// `Io` when the kernel refuses to be read, which ends the watch.
    pub async fn next(&mut self) -> Result<FolderChange, ReadError> {
        loop {
            let at = |source: io::Error| ReadError::from_io(&self.path, source);
            let mut guard = self.inotify.readable().await.map_err(at)?;
            match guard.try_io(|fd| read(fd.get_ref())) {
                Ok(change) => return change.map_err(at),
                Err(_would_block) => {}
            }
        }
    }
}

/// Returns when the folder changed, never without a watch; one that ended is dropped, to be opened anew by whoever looks next.
/// Cancel-safe.
pub async fn changed(watch: &mut Option<FolderWatch>) {
    let Some(open) = watch else { return std::future::pending().await };
    match open.next().await {
        Ok(FolderChange::Names) => {}
        Ok(FolderChange::Ended) | Err(_) => *watch = None,
    }
}

/// Takes all that is there.
fn read(inotify: &OwnedFd) -> io::Result<FolderChange> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    let ended = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
    let mut change = FolderChange::Names;
    loop {
        match reader.next() {
            Ok(event) => {
                if event.events().intersects(ended) {
                    change = FolderChange::Ended;
                }
                if reader.is_buffer_empty() {
                    return Ok(change);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_come_and_go_are_told_and_the_end_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("plugins");
        std::fs::create_dir(&folder).unwrap();
        let root = HostRoot::new(dir.path());
        let mut watch = FolderWatch::open(&root, "plugins").unwrap();
        std::fs::write(folder.join("a.sock"), "").unwrap();
        assert_eq!(watch.next().await.unwrap(), FolderChange::Names);
        std::fs::remove_file(folder.join("a.sock")).unwrap();
        assert_eq!(watch.next().await.unwrap(), FolderChange::Names);
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(watch.next().await.unwrap(), FolderChange::Ended);
        assert!(FolderWatch::open(&root, "plugins").unwrap_err().is_not_found());
    }
}
