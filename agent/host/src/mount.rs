//! Which mount holds a path, from the text of mountinfo; what it does not tell is where links lead ([`follow_links`]).
//!
//! Asking the file system itself (`statfs`, or `stat` on a dead NFS) can wait for ever; mountinfo is the kernel's memory and
//! always answers. Source: `proc_pid_mountinfo(5)`; lines are parsed by procfs-core.

mod links;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

pub use links::follow_links;
pub use watch::MountWatch;

use procfs_core::process::MountInfo;

use crate::process::Procfs;
use crate::text::{into_text, read_plain};
use crate::{HostRoot, Malformed, ReadError};

/// The table of the node's first process, below the host's root.
pub const NODE_MOUNTS: &str = "proc/1/mountinfo";
/// Most of mountinfo that is read, bytes: a node with 250 pods has some 3,000 mounts.
const MOUNTINFO_LIMIT_BYTES: usize = 8 << 20;

/// A device number: of a disk, or of a file system's super block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Device of that driver; for major 0 a number the kernel gave to a file system without a disk.
    pub minor: u32,
}

impl DeviceNumber {
    /// Parses `254:0`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Splits a `st_dev` or `st_rdev`.
    pub(crate) fn from_raw(device: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) }
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount, as a process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount; files' `fdinfo` name it.
    pub mount_id: u32,
    /// Device of the file system; major 0 where there is no disk behind it (NFS, tmpfs, overlay, btrfs).
    pub device: DeviceNumber,
    /// Directory of the file system that is mounted; not `/` for bind mounts.
    pub fs_root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Kind of file system: `ext4`, `nfs4`, `fuse.sshfs`.
    pub fs_type: String,
    /// Where it comes from: a device, `server:/export`. `None` where the kernel says `none`.
    pub source: Option<String>,
    /// Whether this mount or its file system takes no writes ([`is_read_only_option`]).
    pub is_read_only: bool,
}

/// Parses mountinfo, keeping the good lines and complaining about the others. In the order of the kernel's list: a mount
/// stands after the one it covers.
pub fn parse_mountinfo(text: &str) -> (Vec<Mount>, Vec<Malformed>) {
    let mut mounts = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match MountInfo::from_line(line).ok().and_then(mount_from) {
            Some(mount) => mounts.push(mount),
            None => errors.push(Malformed::new(index + 1, line)),
        }
    }
    (mounts, errors)
}

fn mount_from(line: MountInfo) -> Option<Mount> {
    Some(Mount {
        mount_id: line.mnt_id.try_into().ok()?,
        device: DeviceNumber::parse(&line.majmin)?,
        fs_root: unescape_path(&line.root),
        mount_point: unescape_path(line.mount_point.to_str()?),
        is_read_only: line
            .mount_options
            .keys()
            .chain(line.super_options.keys())
            .any(|option| is_read_only_option(option)),
        source: line.mount_source.map(|source| unescape_path(&source).to_string_lossy().into_owned()),
        fs_type: line.fs_type,
    })
}

/// Whether a mount with this option takes no writes.
///
/// After an error ext4 of Linux ≥ 6.15 goes on saying `rw`, with `emergency_ro` behind it, and `shutdown` where it has given up all
/// work; earlier ones, and other file systems, say `ro`. XFS says nothing at all ([`crate::space::Space::is_shut_down`]).
/// Source: `fs/ext4/super.c` (`_ext4_show_options`).
pub fn is_read_only_option(option: &str) -> bool {
    matches!(option, "ro" | "emergency_ro" | "shutdown")
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
pub(crate) fn unescape_path(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The mount that holds `path`: the deepest mount point above it, and of several at one place the last, which covers the others.
///
/// `path` must be absolute and free of links: symbolic links are not followed here, but by [`follow_links`]. `None` for a relative
/// path, one with `..`, and a table without a root.
pub fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    // `max_by_key` gives the last of equals.
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
}

impl Procfs {
    /// The mounts as a process sees them.
    ///
    /// # Errors
    /// See [`ReadError`]; `Malformed` only when no line could be read.
    pub fn mounts(&self, pid: u32) -> Result<Vec<Mount>, ReadError> {
        let path = self.file_of(pid, "mountinfo");
        good_lines(&into_text(read_plain(&path)?), path)
    }
}

/// The node's own mounts: as its first process sees them, by the procfs below the host's root; by the other one where there is none.
///
/// # Errors
/// As [`Procfs::mounts`].
pub fn read_node_mounts(host: &HostRoot, procfs: &Procfs) -> Result<Vec<Mount>, ReadError> {
    match host.read_bytes(NODE_MOUNTS, MOUNTINFO_LIMIT_BYTES) {
        Ok(bytes) => good_lines(&into_text(bytes), host.display_path(NODE_MOUNTS)),
        Err(error) if error.is_not_found() => procfs.mounts(1),
        Err(error) => Err(error),
    }
}

fn good_lines(text: &str, path: PathBuf) -> Result<Vec<Mount>, ReadError> {
    let (mounts, errors) = parse_mountinfo(text);
    match errors.into_iter().next() {
        Some(malformed) if mounts.is_empty() => Err(malformed.at(path)),
        _ => Ok(mounts),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_recorded_launcher_shows_which_mount_holds_its_disk() {
        let (mounts, errors) = parse_mountinfo(include_str!("../fixtures/kubevirt-1.8.4/proc/3888/mountinfo"));
        assert!(errors.is_empty(), "{errors:?}");
        let disk = mount_of(&mounts, Path::new("/run/kubevirt-ephemeral-disks/disk-data/root/disk.qcow2")).unwrap();
        assert_eq!(disk.mount_point, Path::new("/run/kubevirt-ephemeral-disks"));
        assert_eq!((disk.fs_type.as_str(), disk.device), ("overlay", DeviceNumber { major: 0, minor: 39 }));
        assert!(disk.fs_root.ends_with("kubernetes.io~empty-dir/ephemeral-disks"));
        assert!(mount_of(&mounts, Path::new("/sys/fs/cgroup/memory")).unwrap().is_read_only);
        assert_eq!(mount_of(&mounts, Path::new("/etc/shadow")).unwrap().mount_point, Path::new("/"));
    }

    #[test]
    fn the_kernel_agrees_on_this_machine() {
        let mounts = Procfs::default().mounts(std::process::id()).unwrap();
        for path in ["/proc/self/stat", "/sys/kernel", "/dev/null"] {
            let path = std::fs::canonicalize(path).unwrap();
            let want = DeviceNumber::from_raw(std::fs::metadata(&path).unwrap().dev());
            assert_eq!(mount_of(&mounts, &path).unwrap().device, want, "{}", path.display());
        }
    }

    #[test]
    fn a_later_mount_at_the_same_place_covers_the_earlier() {
        let text = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /data rw - ext4 /dev/sda2 rw\n3 2 0:50 / /data rw - nfs4 nas:/vol ro\n";
        let (mounts, _) = parse_mountinfo(text);
        let data = mount_of(&mounts, Path::new("/data/vm.img")).unwrap();
        assert_eq!((data.mount_id, data.source.as_deref(), data.is_read_only), (3, Some("nas:/vol"), true));
        assert_eq!(
            mount_of(&mounts, Path::new("/database/x")).unwrap().mount_id,
            1,
            "a name is not a prefix of another"
        );
        assert_eq!(mount_of(&mounts, Path::new("data/vm.img")), None);
        assert_eq!(mount_of(&mounts, Path::new("/data/../etc")), None);
    }

    #[test]
    fn spaces_in_mount_points_are_unescaped() {
        let (mounts, _) = parse_mountinfo("1 0 8:1 / /mnt/my\\040disk\\134x rw - ext4 /dev/sda1 rw\n");
        assert_eq!(mounts[0].mount_point, Path::new("/mnt/my disk\\x"));
    }

    /// The second and third line are Linux 6.18's own, after an error and after a shutdown.
    #[test]
    fn a_file_system_that_fell_read_only_says_so_in_three_ways() {
        for (options, want) in [
            ("rw,relatime - ext4 /dev/loop0 rw,errors=remount-ro", false),
            ("rw,relatime - ext4 /dev/loop0 rw,errors=remount-ro,emergency_ro", true),
            ("rw,relatime - ext4 /dev/loop0 rw,shutdown", true),
            ("rw,relatime - ext4 /dev/loop0 ro,errors=remount-ro", true),
            ("ro,relatime - ext4 /dev/loop0 rw", true),
        ] {
            let (mounts, _) = parse_mountinfo(&format!("65 44 7:0 / /mnt {options}\n"));
            assert_eq!(mounts[0].is_read_only, want, "{options}");
        }
    }

    #[test]
    fn a_bad_line_keeps_the_good_ones() {
        let (mounts, errors) =
            parse_mountinfo("garbage\n1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 x:y / /a rw - ext4 b rw\n");
        assert_eq!((mounts.len(), errors.iter().map(|error| error.line).collect::<Vec<_>>()), (1, vec![1, 3]));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,200}", line in "([0-9]{1,3} ){2}[0-9:]{1,4} /(\\\\[0-9]{0,4}é?)* /.* rw( [a-z:0-9]*){0,2} -( .*){0,3}") {
            let (mounts, _) = parse_mountinfo(&format!("{text}\n{line}"));
            let _ = mount_of(&mounts, Path::new(&text));
        }
    }
}
