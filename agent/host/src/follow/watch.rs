//! Which of some folders changed since the last look, asked and not waited for.
//!
//! Logs are written many times a second; to be woken for each line would cost more than reading it. So the kernel keeps the
//! events (inotify) and one read at the beat of the probe tells where there is something to do. A watch keeps neither a folder
//! nor its mount busy, and ends with its folder. Events that were lost make everything changed.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::{HostRoot, ReadError};

const FLAGS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);
/// Events taken in one call: beyond that everything counts as changed, and the rest is dropped.
const MAX_EVENTS: usize = 16_384;

/// Folders that are watched.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: OwnedFd,
    folders: BTreeMap<i32, PathBuf>,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderChanges {
    /// Folders in which a file was written, made or moved, or that are gone.
    pub folders: BTreeSet<PathBuf>,
    /// Those of them in which a name appeared, or that are gone.
    pub named: BTreeSet<PathBuf>,
    /// Events were lost: all folders may have changed.
    pub is_all: bool,
}

impl FolderWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// `Io` when the user's inotify instances are used up.
    pub fn open() -> Result<Self, ReadError> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|errno| ReadError::from_io("inotify", errno.into()))?;
        Ok(Self { inotify, folders: BTreeMap::new() })
    }

    /// Adds a folder below `root`; again is nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Io` when the user's watches are used up.
    pub fn add(&mut self, root: &HostRoot, folder: &Path) -> Result<(), ReadError> {
        let target = root.open_fd(folder, OFlags::PATH)?;
        // By way of a descriptor, so that the path is resolved inside the root.
        let by_descriptor = format!("/proc/self/fd/{}", target.as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, by_descriptor, FLAGS)
            .map_err(|errno| ReadError::from_io(root.display_path(folder), errno.into()))?;
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    /// Ends the watch of a folder that nobody asks for any more.
    pub fn remove(&mut self, folder: &Path) {
        let watches: Vec<i32> =
            self.folders.iter().filter(|(_, known)| *known == folder).map(|(watch, _)| *watch).collect();
        for watch in watches {
            self.folders.remove(&watch);
            // Gone with its folder, perhaps.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// What changed since the last call. Never waits.
    pub fn take(&mut self) -> FolderChanges {
        self.take_at_most(MAX_EVENTS)
    }

    fn take_at_most(&mut self, max_events: usize) -> FolderChanges {
        let mut changes = FolderChanges::default();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        for _ in 0..max_events {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => changes.is_all = true,
                Ok(event) => {
                    let is_gone = event.events().contains(ReadFlags::IGNORED);
                    let folder =
                        if is_gone { self.folders.remove(&event.wd()) } else { self.folders.get(&event.wd()).cloned() };
                    if !event.events().contains(ReadFlags::MODIFY) {
                        changes.named.extend(folder.clone());
                    }
                    changes.folders.extend(folder);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return changes,
                // The kernel refuses its own queue: look everywhere.
                Err(_) => break,
            }
        }
        changes.is_all = true;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_made_or_removed_in_a_folder_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        for name in ["a", "b"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut watch = FolderWatch::open().unwrap();
        watch.add(&root, Path::new("a")).unwrap();
        watch.add(&root, Path::new("b")).unwrap();
        assert_eq!(watch.take(), FolderChanges::default());
        std::fs::write(dir.path().join("a/0.log"), "x").unwrap();
        std::fs::write(dir.path().join("a/0.log"), "xy").unwrap();
        let only = |name: &str| FolderChanges {
            folders: [PathBuf::from(name)].into(),
            named: [PathBuf::from(name)].into(),
            is_all: false,
        };
        assert_eq!(watch.take(), only("a"));
        std::fs::write(dir.path().join("a/0.log"), "xyz").unwrap();
        assert_eq!(watch.take(), FolderChanges { named: BTreeSet::new(), ..only("a") });
        assert_eq!(watch.take(), FolderChanges::default());
        std::fs::remove_dir(dir.path().join("b")).unwrap();
        assert_eq!(watch.take(), only("b"));
        watch.remove(Path::new("a"));
        std::fs::write(dir.path().join("a/0.log"), "xyz").unwrap();
        assert_eq!(watch.take(), FolderChanges::default());
        assert!(watch.add(&root, Path::new("none")).unwrap_err().is_not_found());
    }

    #[test]
    fn more_events_than_are_taken_make_everything_changed() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let mut watch = FolderWatch::open().unwrap();
        watch.add(&root, Path::new("/")).unwrap();
        for n in 0..20 {
            std::fs::write(dir.path().join(if n % 2 == 0 { "x" } else { "y" }), "z").unwrap();
        }
        assert!(watch.take_at_most(10).is_all);
    }
}
