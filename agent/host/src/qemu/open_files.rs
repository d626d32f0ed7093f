//! The files that a process really has open, without touching any of them.
//!
//! `stat` on an open file of a dead NFS waits for ever, and even following `/proc/PID/fd/N` can: so the file system is found
//! from the mount's number in `fdinfo` and the process's mountinfo, which the kernel answers from memory. Only nodes in a
//! `/dev` that is a memory file system are looked at themselves, for the number of the disk.
//! Source: `proc_pid_fdinfo(5)`.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, StatxFlags};

use crate::ReadError;
use crate::mount::{DeviceNumber, Mount};
use crate::process::{Procfs, numbers_in, optional_text};

/// A file or block device that a process has open. Sockets, pipes, character devices and the like are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Descriptor.
    pub fd: u32,
    /// Path in the process's own root when it was opened.
    pub path: PathBuf,
    /// Whether the name is gone while the file lives on.
    pub is_deleted: bool,
    /// The disk, for a block device; for a file, the device of its file system (major 0 where there is no disk behind it).
    /// `None` when the mount is not in the process's table any more.
    pub device: Option<DeviceNumber>,
    /// Whether it is a block device itself.
    pub is_block_device: bool,
    /// Mount that holds it. `None` as above.
    pub mount_point: Option<PathBuf>,
    /// Kind of file system. `None` as above.
    pub fs_type: Option<String>,
    /// Opened for writing. `None` when the kernel did not say.
    pub is_writable: Option<bool>,
    /// Opened with `O_DIRECT`. `None` when the kernel did not say.
    pub is_direct: Option<bool>,
}

/// What `fdinfo` says of a descriptor: flags of `open`, and number of the mount.
///
/// Either is `None` when its line is missing or no number.
pub fn parse_fdinfo(text: &str) -> (Option<u32>, Option<u32>) {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.trim())
    };
    let flags = value("flags").and_then(|flags| u32::from_str_radix(flags, 8).ok());
    (flags, value("mnt_id").and_then(|id| id.parse().ok()))
}

impl Procfs {
    /// The files and block devices a process has open, by descriptor.
    ///
    /// # Errors
    /// See [`ReadError`]; `Denied` for another user's process, `NotFound` when it has ended.
    pub fn open_files(&self, pid: u32) -> Result<Vec<OpenFile>, ReadError> {
        let mounts = self.mounts(pid)?;
        let mut files = Vec::new();
        for fd in numbers_in(&self.file_of(pid, "fd"))? {
            let link = self.file_of(pid, &format!("fd/{fd}"));
            let target = match std::fs::read_link(&link) {
                Ok(target) => target,
                // Closed since.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(ReadError::from_io(link, error)),
            };
            if target.is_absolute() && !target.starts_with("/memfd:") {
                files.extend(self.open_file(pid, fd, &link, &target, &mounts));
            }
        }
        Ok(files)
    }

    /// Whether the name of an open file is gone by now; `None` when its descriptor is closed or leads elsewhere.
    pub fn is_deleted_by_now(&self, pid: u32, file: &OpenFile) -> Option<bool> {
        let target = std::fs::read_link(self.file_of(pid, &format!("fd/{}", file.fd))).ok()?;
        if target == file.path {
            return Some(false);
        }
        let name = target.to_str()?.strip_suffix(" (deleted)")?;
        (Path::new(name) == file.path).then_some(true)
    }

    /// Whether a descriptor of a process leads to what `is_wanted` says, by the text of its link alone.
    ///
    /// # Errors
    /// See [`ReadError`]; `Denied` for another user's process, `NotFound` when it has ended.
    pub fn has_open(&self, pid: u32, is_wanted: impl Fn(&str) -> bool) -> Result<bool, ReadError> {
        let fds = numbers_in(&self.file_of(pid, "fd"))?;
        let mut targets =
            fds.into_iter().filter_map(|fd| std::fs::read_link(self.file_of(pid, &format!("fd/{fd}"))).ok());
        Ok(targets.any(|target| target.to_str().is_some_and(&is_wanted)))
    }

    fn open_file(&self, pid: u32, fd: u32, link: &Path, target: &Path, mounts: &[Mount]) -> Option<OpenFile> {
        let info = optional_text(&self.file_of(pid, &format!("fdinfo/{fd}")));
        let (flags, mount_id) = info.as_deref().map(parse_fdinfo).unwrap_or_default();
        let mount = mount_id.and_then(|id| mounts.iter().find(|mount| mount.mount_id == id));
        let mut device = mount.map(|mount| mount.device);
        let mut is_block_device = false;
        if mount.is_some_and(|mount| matches!(mount.fs_type.as_str(), "devtmpfs" | "tmpfs")) {
            match memory_node(link)? {
                MemoryNode::Block(number) => {
                    device = Some(number);
                    is_block_device = true;
                }
                MemoryNode::File => {}
            }
        }
        let name = target.to_string_lossy();
        let kept = name.strip_suffix(" (deleted)");
        Some(OpenFile {
            fd,
            path: kept.map_or_else(|| target.to_path_buf(), PathBuf::from),
            is_deleted: kept.is_some(),
            device,
            is_block_device,
            mount_point: mount.map(|mount| mount.mount_point.clone()),
            fs_type: mount.map(|mount| mount.fs_type.clone()),
            is_writable: flags.map(|flags| flags & libc_flags::ACCESS_MODE != libc_flags::READ_ONLY),
            is_direct: flags.map(|flags| flags & libc_flags::DIRECT != 0),
        })
    }
}

/// What an open node of a memory file system is.
enum MemoryNode {
    Block(DeviceNumber),
    File,
}

/// `None` for character devices, sockets and directories, which nobody here asks about.
fn memory_node(link: &Path) -> Option<MemoryNode> {
    // Never `STATX_ATTR` with a sync: the attributes as the kernel has them.
    let stat = rustix::fs::statx(rustix::fs::CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::BlockDevice => {
            Some(MemoryNode::Block(DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor }))
        }
        FileType::RegularFile => Some(MemoryNode::File),
        _ => None,
    }
}

/// Flags of `open` as `fdinfo` prints them.
mod libc_flags {
    use rustix::fs::OFlags;

    pub(super) const ACCESS_MODE: u32 = OFlags::RWMODE.bits();
    pub(super) const READ_ONLY: u32 = OFlags::RDONLY.bits();
    pub(super) const DIRECT: u32 = OFlags::DIRECT.bits();
}
