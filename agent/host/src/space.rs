//! How much room a file system has: what `statfs` answers.
//!
//! The call asks the file system itself, and one whose server is gone never answers. So whoever calls this knows from mountinfo
//! that the file system is local ([`is_local`]), or is a child process that may be lost. Nothing is kept open.
//! Source: `statfs(2)`, `statvfs(3)`.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{HostRoot, ReadError};

/// File systems that answer from this machine's memory or disks alone.
///
/// Overlay asks the file system of its upper layer, which a runtime keeps on a local disk.
const LOCAL_TYPES: [&str; 14] = [
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "f2fs",
    "tmpfs",
    "devtmpfs",
    "ramfs",
    "hugetlbfs",
    "overlay",
    "vfat",
    "squashfs",
    "erofs",
];

/// Room of one file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// All of it, bytes.
    pub total_bytes: u64,
    /// Free for root, bytes.
    pub free_bytes: u64,
    /// Free for everybody, bytes: less than `free_bytes` where a part is reserved.
    pub available_bytes: u64,
    /// All inodes. 0 where the file system makes them as needed (btrfs, many network file systems).
    pub total_inodes: u64,
    /// Inodes that are left.
    pub free_inodes: u64,
    /// Whether it cannot be written to.
    pub is_read_only: bool,
    /// Whether it has given up all work after an error. Only of XFS, which tells it in no other way.
    #[serde(default)]
    pub is_shut_down: bool,
}

impl Space {
    /// Bytes that are used of those that a user could use, percent as `df` counts it. `None` of a file system without size.
    pub fn used_bytes_pct(&self) -> Option<f64> {
        let used = self.total_bytes.saturating_sub(self.free_bytes);
        percent(used, used.saturating_add(self.available_bytes))
    }

    /// Inodes that are used, percent. `None` where they are not counted.
    pub fn used_inodes_pct(&self) -> Option<f64> {
        percent(self.total_inodes.saturating_sub(self.free_inodes), self.total_inodes)
    }
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// Whether a file system of this type answers from this machine alone, so that asking it waits at most for a local disk.
///
/// Types that are not known are not local.
pub fn is_local(fs_type: &str) -> bool {
    LOCAL_TYPES.contains(&fs_type)
}

/// What `statfs` calls XFS. Source: `statfs(2)`.
const XFS_SUPER_MAGIC: u64 = 0x5846_5342;

/// Whether a file system has given up all work, by its kind and what looking at its own folder gave.
///
/// XFS that was shut down still answers `statfs`, and its mount says `rw`; every look at a file of it fails with EIO.
/// Source: `fs/xfs/xfs_iops.c` (`xfs_vn_getattr`).
fn is_shut_down(magic: u64, looked: Result<(), Errno>) -> bool {
    magic == XFS_SUPER_MAGIC && looked == Err(Errno::IO)
}

/// Asks the file system that holds `path`, every link resolved inside the root.
///
/// Waits as long as the file system does.
///
/// # Errors
/// See [`ReadError`].
pub fn read_space(root: &HostRoot, path: impl AsRef<Path>) -> Result<Space, ReadError> {
    let path = path.as_ref();
    let fd = root.open_fd(path, OFlags::PATH)?;
    let failed = |errno: Errno| ReadError::from_io(root.display_path(path), errno.into());
    let stat = rustix::fs::fstatvfs(fd.as_fd()).map_err(failed)?;
    let magic = rustix::fs::fstatfs(fd.as_fd()).map_err(failed)?.f_type;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space {
        total_bytes: bytes(stat.f_blocks),
        free_bytes: bytes(stat.f_bfree),
        available_bytes: bytes(stat.f_bavail),
        total_inodes: stat.f_files,
        free_inodes: stat.f_ffree,
        is_read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        is_shut_down: is_shut_down(u64::try_from(magic).unwrap_or_default(), rustix::fs::fstat(fd.as_fd()).map(drop)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_root_has_room() {
        let space = read_space(&HostRoot::new("/"), "/").unwrap();
        assert!(space.total_bytes > 0 && space.available_bytes <= space.free_bytes, "{space:?}");
        assert!(space.used_bytes_pct().is_some_and(|pct| (0.0..=100.0).contains(&pct)), "{space:?}");
        assert!(!space.is_read_only && !space.is_shut_down);
        assert!(read_space(&HostRoot::new("/"), "/none").unwrap_err().is_not_found());
    }

    #[test]
    fn what_is_reserved_for_root_counts_as_used_up_as_df_counts_it() {
        let space = Space { total_bytes: 100, free_bytes: 10, available_bytes: 5, ..Space::default() };
        assert_eq!(space.used_bytes_pct().map(f64::round), Some(95.0));
        assert_eq!(Space::default().used_bytes_pct(), None, "procfs and the like have no size");
        assert_eq!(space.used_inodes_pct(), None, "btrfs counts none");
        let inodes = Space { total_inodes: 200, free_inodes: 2, ..Space::default() };
        assert_eq!(inodes.used_inodes_pct(), Some(99.0));
    }

    #[test]
    fn only_xfs_tells_by_an_io_error_that_it_was_shut_down() {
        const EXT4_SUPER_MAGIC: u64 = 0xef53;
        assert!(is_shut_down(XFS_SUPER_MAGIC, Err(Errno::IO)));
        assert!(!is_shut_down(XFS_SUPER_MAGIC, Ok(())));
        assert!(!is_shut_down(XFS_SUPER_MAGIC, Err(Errno::ACCESS)));
        assert!(!is_shut_down(EXT4_SUPER_MAGIC, Err(Errno::IO)));
    }

    #[test]
    fn what_is_not_known_to_be_local_is_not() {
        for (fs_type, want) in [
            ("ext4", true),
            ("overlay", true),
            ("squashfs", true),
            ("nfs4", false),
            ("ceph", false),
            ("fuse.sshfs", false),
            ("gfs2", false),
        ] {
            assert_eq!(is_local(fs_type), want, "{fs_type}");
        }
    }
}
