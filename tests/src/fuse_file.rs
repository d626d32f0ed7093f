//! A file whose server can stop answering, as that of a network file system does: the lab's stand-in for storage that hangs.
//!
//! A FUSE file system with one file, served by a thread of this process from a sparse file beside it. While it hangs no request is
//! answered, and who waits for one sleeps in D state. Should this process end, the kernel answers them all with an error: nobody is left.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nix::sched::{CloneFlags, setns, unshare};

use crate::node::Node;
use crate::{lab, process};

/// The one file.
pub(crate) const NAME: &str = "disk";
/// Its inode; 1 is the folder.
const INODE: INodeNo = INodeNo(2);
/// Nothing about the file changes.
const TTL: Duration = Duration::from_secs(3600);
const BLOCK_BYTES: u32 = 4096;

/// The mounted file; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct FuseFile {
    gate: Arc<Gate>,
    session: Option<BackgroundSession>,
    /// systemd of the node in which it is mounted, on this machine; `None`: it is mounted here.
    leader: Option<i32>,
}

/// Holds the server back while it is shut.
#[derive(Debug, Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set_shut(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = is_shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_shut = self.is_shut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(is_shut, |is_shut| *is_shut).unwrap_or_else(PoisonError::into_inner));
    }
}

impl FuseFile {
    /// Serves `backing` below `point`, a folder to be made.
    ///
    /// # Errors
    /// Without root or `/dev/fuse`.
    pub(crate) fn mount(backing: &Path, point: PathBuf) -> Result<Self> {
        fs::create_dir_all(&point)?;
        let (served, gate) = Served::new(backing)?;
        let session = fuser::spawn_mount(served, &point, &Config::default()).context("failed to mount over FUSE")?;
        Ok(Self { gate, session: Some(session), leader: None })
    }

    /// Serves `backing` below `point`, a folder of a node and mounted there alone, as if it came from `source`, `server:/name`, by way of
    /// GlusterFS' client.
    ///
    /// # Errors
    /// As [`FuseFile::mount`].
    pub(crate) fn mount_in(node: &Node, backing: &Path, point: &Path, source: &str) -> Result<Self> {
        let (served, gate) = Served::new(backing)?;
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName(source.to_owned()), MountOption::CUSTOM("subtype=glusterfs".to_owned())];
        let session = in_mounts_of(node.leader(), || fuser::spawn_mount(served, point, &config))?;
        let session = session.context("failed to mount over FUSE")?;
        Ok(Self { gate, session: Some(session), leader: Some(node.leader()) })
    }

    /// Lets the server answer nothing more.
    pub(crate) fn hang(&self) -> HungDisk<'_> {
        self.gate.set_shut(true);
        HungDisk(self)
    }
}

/// A disk whose requests wait; all are answered when dropped.
#[derive(Debug)]
pub struct HungDisk<'disk>(&'disk FuseFile);

impl Drop for HungDisk<'_> {
    fn drop(&mut self) {
        self.0.gate.set_shut(false);
    }
}

/// Works in the mount namespace of a node, on a thread of its own: who shares folders with another thread cannot enter.
fn in_mounts_of<T: Send>(leader: i32, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = File::open(format!("/proc/{leader}/ns/mnt"))?;
    let entered = move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        Ok(work())
    };
    std::thread::scope(|scope| scope.spawn(entered).join()).expect("it does not panic")
}

impl Served {
    fn new(backing: &Path) -> Result<(Self, Arc<Gate>)> {
        let file = File::options().read(true).write(true).open(backing)?;
        let size_bytes = file.metadata()?.len();
        let gate = Arc::new(Gate::default());
        Ok((Self { file, size_bytes, gate: Arc::clone(&gate) }, gate))
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        self.gate.set_shut(false);
        let Some(session) = self.session.take() else { return };
        let unmount = || session.umount_and_join().context("a FUSE file stays mounted");
        let done = match self.leader {
            // What was mounted in a node has gone with it.
            Some(leader) if !process::is_alive(leader) => Ok(()),
            Some(leader) => in_mounts_of(leader, unmount).flatten(),
            None => unmount(),
        };
        if let Err(error) = done {
            lab::complain(&format!("{error:#}"));
        }
    }
}

struct Served {
    file: File,
    size_bytes: u64,
    gate: Arc<Gate>,
}

impl Served {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, size, perm) = if ino == INODE {
            (FileType::RegularFile, self.size_bytes, 0o600)
        } else {
            (FileType::Directory, 0, 0o700)
        };
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&TTL, &self.attr(INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(inode));
    }

    /// Its size, owner and mode stay what they are.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attr(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.gate.pass();
        let left = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(left)];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.gate.pass();
        match self.file.write_all_at(data, offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.gate.pass();
        reply.ok();
    }
}
