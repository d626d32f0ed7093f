//! A host's root that cannot be read: everything is where it is on this machine, and no file gives what it should.
//!
//! A FUSE file system that mirrors this machine's tree. Folders, links and attributes are the real ones; each read of a file is answered as
//! [`Fault`] says, but for `/proc/sys/kernel`; nothing hangs that cannot. An agent that is given it as its host meets every error in every file that any of its probes opens, now or later.
//! Unmounted when dropped; reads that hang are answered then.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, FileType as StdType, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};
use tempfile::TempDir;

/// What reading a file gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO` at each read.
    Eio,
    /// `EACCES` at each open.
    Denied,
    /// Nothing, for ever.
    Hang,
    /// Bytes that are no text, the same for a file each time.
    Garbage,
    /// Eight times what the real file has, over and over: a file that grew beyond all measure.
    Storm,
}

/// Bytes of garbage.
const GARBAGE_BYTES: usize = 3_000;
/// Bytes of a storm, at least.
const STORM_BYTES: usize = 4 << 20;
/// Nothing is cached: a process that ended is gone.
const TTL: Duration = Duration::ZERO;

/// The mounted tree.
#[derive(Debug)]
pub struct BrokenRoot {
    held: Arc<Held>,
    session: Option<BackgroundSession>,
    point: TempDir,
}

/// Reads that wait; `None` when no more do.
struct Held(Mutex<Option<Vec<ReplyData>>>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} reads", self.lock().as_ref().map_or(0, Vec::len))
    }
}

impl Held {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<ReplyData>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, reply: ReplyData) {
        match &mut *self.lock() {
            Some(held) => held.push(reply),
            None => reply.error(Errno::EIO),
        }
    }

    fn release(&self) {
        self.lock().take().into_iter().flatten().for_each(|reply| reply.error(Errno::EIO));
    }
}

impl BrokenRoot {
    /// Mounts it in a folder of its own.
    ///
    /// # Errors
    /// Without root or `/dev/fuse`.
    pub fn mount(fault: Fault) -> Result<Self> {
        let point = tempfile::tempdir()?;
        let held = Arc::new(Held(Mutex::new(Some(Vec::new()))));
        let tree = Tree { fault, held: Arc::clone(&held), hidden: point.path().to_owned(), paths: Mutex::default() };
        let session =
            fuser::spawn_mount(tree, point.path(), &Config::default()).context("failed to mount over FUSE")?;
        Ok(Self { held, session: Some(session), point })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// Reads that hang now.
    #[must_use]
    pub fn n_held(&self) -> usize {
        self.held.lock().as_ref().map_or(0, Vec::len)
    }

    /// Ends the hang: who waits gets `EIO`, and so does who reads from now on. Nothing can kill who waits before that.
    pub fn release(&self) {
        self.held.release();
    }
}

impl Drop for BrokenRoot {
    fn drop(&mut self) {
        self.held.release();
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            crate::lab::complain(&format!("a FUSE tree stays mounted: {error}"));
        }
    }
}

/// Inodes, in the order in which they were asked for; a path keeps its own.
#[derive(Default)]
struct Paths {
    by_inode: Vec<PathBuf>,
    by_path: HashMap<PathBuf, u64>,
}

struct Tree {
    fault: Fault,
    held: Arc<Held>,
    /// Our own mount point: a tree in itself has no end.
    hidden: PathBuf,
    paths: Mutex<Paths>,
}

impl Tree {
    fn path(&self, inode: INodeNo) -> PathBuf {
        if inode == INodeNo::ROOT {
            return PathBuf::from("/");
        }
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(u64::from(inode).saturating_sub(2)).unwrap_or(usize::MAX);
        paths.by_inode.get(index).cloned().unwrap_or_else(|| PathBuf::from("/nonexistent"))
    }

    fn inode(&self, path: &Path) -> INodeNo {
        if path == Path::new("/") {
            return INodeNo::ROOT;
        }
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inode) = paths.by_path.get(path) {
            return INodeNo(*inode);
        }
        paths.by_inode.push(path.to_owned());
        let inode = u64::try_from(paths.by_inode.len()).unwrap_or(u64::MAX).saturating_add(1);
        paths.by_path.insert(path.to_owned(), inode);
        INodeNo(inode)
    }

    fn attr(&self, path: &Path) -> Result<FileAttr, Errno> {
        if path.starts_with(&self.hidden) {
            return Err(Errno::ENOENT);
        }
        let metadata = fs::symlink_metadata(path).map_err(Errno::from)?;
        Ok(attr_of(self.inode(path), &metadata))
    }

    /// What a read at `offset` gives, where it gives something.
    fn content(&self, path: &Path, offset: u64, size: usize) -> Vec<u8> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let (seed, length) = match self.fault {
            Fault::Storm => {
                let seed = read_some(path);
                let length = if seed.is_empty() { 0 } else { STORM_BYTES.max(seed.len() * 8) };
                (seed, length)
            }
            // Of the path, so that a second look sees the same.
            Fault::Eio | Fault::Denied | Fault::Hang | Fault::Garbage => {
                let mut state = path
                    .as_os_str()
                    .as_bytes()
                    .iter()
                    .fold(7_u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(*byte)));
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                };
                ((0..GARBAGE_BYTES).map(|_| next()).collect(), GARBAGE_BYTES)
            }
        };
        let end = offset.saturating_add(size).min(length);
        (offset..end).map(|at| seed[at % seed.len()]).collect()
    }
}

/// What the kernel answers from its own memory without any lock that somebody could hold; without it a boot has no id, and an agent no start.
fn is_of_kernel(path: &Path) -> bool {
    path.starts_with("/proc/sys/kernel")
}

/// What the kernel computes when it is asked, over no lock that a process in trouble can hold. The agent reads it where it runs, because a
/// thread for it would cost more than the read.
fn is_never_held(path: &Path) -> bool {
    ["/proc/pressure", "/proc/stat", "/proc/meminfo", "/proc/loadavg", "/proc/sys", "/sys/fs/cgroup"]
        .iter()
        .any(|start| path.starts_with(start))
}

/// The beginning of a real file; nothing of one that would wait or is a device.
fn read_some(path: &Path) -> Vec<u8> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let mut text = Vec::new();
    if let Ok(file) = opened {
        let _ = file.take(256 << 10).read_to_end(&mut text);
    }
    text
}

impl Filesystem for Tree {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attr(&self.path(parent).join(name)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(&self.path(inode)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match fs::read_link(self.path(inode)) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.fault {
            Fault::Denied if !is_of_kernel(&self.path(inode)) => reply.error(Errno::EACCES),
            // Sizes of procfs are 0: only direct reads go beyond them.
            Fault::Eio | Fault::Denied | Fault::Hang | Fault::Garbage | Fault::Storm => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (path, size) = (self.path(inode), usize::try_from(size).unwrap_or(usize::MAX));
        if is_of_kernel(&path) || self.fault == Fault::Hang && is_never_held(&path) {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let content = read_some(&path);
            return reply.data(content.get(start..).map_or(&[], |rest| &rest[..rest.len().min(size)]));
        }
        match self.fault {
            Fault::Eio | Fault::Denied => reply.error(Errno::EIO),
            Fault::Hang => self.held.hold(reply),
            Fault::Garbage | Fault::Storm => reply.data(&self.content(&path, offset, size)),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let folder = self.path(inode);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries.filter_map(Result::ok),
            Err(error) => return reply.error(error.into()),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, entry) in (1_u64..).zip(entries).skip(skip) {
            let Ok(kind) = entry.file_type() else { continue };
            let path = folder.join(entry.file_name());
            if path == self.hidden || reply.add(self.inode(&path), next, kind_of(kind), entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }
}

fn kind_of(kind: StdType) -> FileType {
    match kind {
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        kind if kind.is_socket() => FileType::Socket,
        kind if kind.is_fifo() => FileType::NamedPipe,
        kind if kind.is_char_device() => FileType::CharDevice,
        kind if kind.is_block_device() => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn attr_of(ino: INodeNo, metadata: &Metadata) -> FileAttr {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    FileAttr {
        ino,
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: UNIX_EPOCH,
        mtime: metadata.modified().unwrap_or(UNIX_EPOCH),
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind_of(metadata.file_type()),
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0o755),
        nlink: small(metadata.nlink()),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: small(metadata.rdev()),
        blksize: 4096,
        flags: 0,
    }
}
