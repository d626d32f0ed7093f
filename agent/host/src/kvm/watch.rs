//! Changes of the device's node, as the kernel reports them: created, removed, other permissions.
//!
//! inotify on the `dev` directory sees names come and go. The node itself is watched too, because a node that is a bind mount
//! (in containers and lab nodes) belongs to another directory, whose watch would be the one to fire. inotify says *look
//! again*, nothing more: reading is [`super::read_kvm_node`]. A device cgroup or an unmounted bind mount gives no event, so a
//! slow look goes beside it. A watch keeps neither the directory nor the mount busy.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::KVM_PATH;
use crate::readiness::watch_readable;
use crate::{HostRoot, ReadError};

/// Why the device should be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmChange {
    /// A node appeared under the name.
    Appeared,
    /// The node is gone, or moved away.
    Removed,
    /// Permissions, owner or label changed.
    AttributesChanged,
    /// Events were lost, or the directory itself went: anything may have happened.
    Unknown,
}

/// A watch over `/dev/kvm`.
#[derive(Debug)]
pub struct KvmWatch {
    root: HostRoot,
    inotify: AsyncFd<OwnedFd>,
    directory: i32,
    /// Watch on the node itself, where there is one.
    node: Option<i32>,
    /// Read from the kernel, not yet handed out, last first.
    pending: Vec<KvmChange>,
}

const DIRECTORY_FLAGS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
const NODE_FLAGS: WatchFlags = WatchFlags::ATTRIB.union(WatchFlags::DELETE_SELF).union(WatchFlags::MOVE_SELF);

impl KvmWatch {
    /// Starts to watch. Look at the device *after* this, or a change in between is missed.
    ///
    /// Must be called in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// `NotFound` when there is no `dev` directory; `Io` when the user's inotify instances are used up.
    pub fn open(root: &HostRoot) -> Result<Self, ReadError> {
        let path = root.display_path("dev");
        let at = |errno: Errno| ReadError::from_io(&path, errno.into());
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(at)?;
        let directory = add_watch(root, &inotify, "dev", DIRECTORY_FLAGS)?;
        let node = add_watch(root, &inotify, KVM_PATH, NODE_FLAGS).ok();
        let inotify = watch_readable(inotify).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        Ok(Self { root: root.clone(), inotify, directory, node, pending: Vec::new() })
    }

    /// Waits for the next change.
    ///
    /// Cancel-safe: a change that was read stays for the next call. After [`KvmChange::Unknown`] for a directory that went,
    /// nothing more comes: open anew.
    ///
    /// # Errors
    /// `Io` when the kernel refuses to be read, which ends the watch.
    pub async fn next(&mut self) -> Result<KvmChange, ReadError> {
        loop {
            if let Some(change) = self.pending.pop() {
                return Ok(change);
            }
            let at = |source: io::Error| ReadError::from_io(self.root.display_path("dev"), source);
            let mut guard = self.inotify.readable().await.map_err(at)?;
            match guard.try_io(|fd| read_events(fd.get_ref())) {
                Ok(events) => {
                    let events = events.map_err(at)?;
                    self.take(&events);
                }
                Err(_would_block) => {}
            }
        }
    }

    fn take(&mut self, events: &[Event]) {
        for event in events {
            let Some(change) = self.change_of(event) else { continue };
            if change == KvmChange::Appeared {
                // The watch of a node that was replaced went with it.
                self.node = add_watch(&self.root, self.inotify.get_ref(), KVM_PATH, NODE_FLAGS).ok();
            }
            if self.pending.first() != Some(&change) {
                self.pending.insert(0, change);
            }
        }
    }

    fn change_of(&self, event: &Event) -> Option<KvmChange> {
        let flags = event.flags;
        let is_any = |set: ReadFlags| flags.intersects(set);
        if is_any(ReadFlags::QUEUE_OVERFLOW) {
            return Some(KvmChange::Unknown);
        }
        if event.watch == self.directory && event.is_kvm {
            return match () {
                () if is_any(ReadFlags::CREATE | ReadFlags::MOVED_TO) => Some(KvmChange::Appeared),
                () if is_any(ReadFlags::DELETE | ReadFlags::MOVED_FROM) => Some(KvmChange::Removed),
                () if is_any(ReadFlags::ATTRIB) => Some(KvmChange::AttributesChanged),
                () => None,
            };
        }
        if event.watch == self.directory {
            let is_gone =
                is_any(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED);
            return is_gone.then_some(KvmChange::Unknown);
        }
        if Some(event.watch) == self.node {
            return match () {
                () if is_any(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) => {
                    Some(KvmChange::Removed)
                }
                // Unlinking a node changes its link count, and says so first; the look that follows finds out.
                () if is_any(ReadFlags::ATTRIB) => Some(KvmChange::AttributesChanged),
                () => None,
            };
        }
        None
    }
}

/// One event, without its name.
struct Event {
    watch: i32,
    flags: ReadFlags,
    is_kvm: bool,
}

fn read_events(inotify: &OwnedFd) -> io::Result<Vec<Event>> {
    // Room for some hundred events with short names; what does not fit stays in the kernel.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let is_kvm = event
                    .file_name()
                    .is_some_and(|name| Path::new(KVM_PATH).ends_with(name.to_str().unwrap_or_default()));
                events.push(Event { watch: event.wd(), flags: event.events(), is_kvm });
                if reader.is_buffer_empty() {
                    return Ok(events);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Adds a watch by way of a descriptor, so that the path is resolved inside the root.
fn add_watch(root: &HostRoot, inotify: &OwnedFd, path: &str, flags: WatchFlags) -> Result<i32, ReadError> {
    let target = root.open_fd(path, OFlags::PATH)?;
    let by_descriptor = format!("/proc/self/fd/{}", target.as_raw_fd());
    inotify::add_watch(inotify, by_descriptor, flags)
        .map_err(|errno| ReadError::from_io(root.display_path(path), errno.into()))
}
