//! Limits: of one process, and of the kernel as a whole.
//!
//! Sources: `proc_pid_limits(5)`; kernel `Documentation/admin-guide/sysctl/fs.rst` (`file-nr`, `aio-nr`) and
//! `Documentation/networking/nf_conntrack-sysctl.rst`.

mod inotify;

use std::path::Path;

use rustix::fs::{Mode, OFlags};

pub use inotify::{InotifyCounter, InotifyUse, InotifyUsers, parse_inotify_watches};

use crate::kept::is_of_kernel;
use crate::memory::{ProcessMemory, parse_process_memory};
use crate::process::{Procfs, numbers_in};
use crate::text::{into_text, read_record};
use crate::{HostRoot, Malformed, ReadError};

/// A soft limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// In the unit of the limit: bytes, files, processes.
    Of(u64),
    /// None.
    Unlimited,
}

/// The soft limits of a process. Each is `None` where its line is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Descriptors.
    pub open_files: Option<Limit>,
    /// Locked memory, bytes.
    pub locked_memory: Option<Limit>,
    /// Address space, bytes.
    pub address_space: Option<Limit>,
}

/// Parses `/proc/PID/limits`.
///
/// # Errors
/// When none of the limits used here is in it.
pub fn parse_process_limits(text: &str) -> Result<ProcessLimits, Malformed> {
    let soft = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        match line.split_ascii_whitespace().next()? {
            "unlimited" => Some(Limit::Unlimited),
            number => number.parse().ok().map(Limit::Of),
        }
    };
    let limits = ProcessLimits {
        open_files: soft("Max open files"),
        locked_memory: soft("Max locked memory"),
        address_space: soft("Max address space"),
    };
    match limits == ProcessLimits::default() {
        true => Err(Malformed::new(1, text.lines().next().unwrap_or_default())),
        false => Ok(limits),
    }
}

impl Procfs {
    /// The soft limits of a process.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn limits(&self, pid: u32) -> Result<ProcessLimits, ReadError> {
        let path = self.file_of(pid, "limits");
        parse_process_limits(&into_text(read_record(&path)?)).map_err(|malformed| malformed.at(path))
    }

    /// Memory of a process that a limit may apply to.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn memory(&self, pid: u32) -> Result<ProcessMemory, ReadError> {
        Ok(parse_process_memory(&into_text(read_record(&self.file_of(pid, "status"))?)))
    }

    /// How many descriptors a process has open.
    ///
    /// # Errors
    /// See [`ReadError`]; `Denied` for another user's process, `NotFound` when it has ended.
    pub fn open_file_count(&self, pid: u32) -> Result<u64, ReadError> {
        let path = self.file_of(pid, "fd");
        // Since Linux 6.2 the size of the folder is the count (`fs/proc/fd.c`); it was 0 before, and is that of a recording's folder.
        let folder = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| ReadError::from_io(&path, errno.into()))?;
        let stat = rustix::fs::fstat(&folder).map_err(|errno| ReadError::from_io(&path, errno.into()))?;
        match u64::try_from(stat.st_size) {
            Ok(n_files @ 1..) if is_of_kernel(&folder) => Ok(n_files),
            Ok(_) | Err(_) => Ok(numbers_in(&path)?.len() as u64),
        }
    }
}

/// How much of a kernel-wide thing is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Used now.
    pub used: u64,
    /// The most there may be.
    pub limit: u64,
}

/// Parses `fs/file-nr`: allocated, unused, limit. The used ones are allocated and not unused (0 since Linux 2.6).
///
/// # Errors
/// When it is not three numbers.
pub fn parse_file_nr(text: &str) -> Result<Usage, Malformed> {
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let mut next =
        || numbers.next().flatten().ok_or_else(|| Malformed::new(1, text.lines().next().unwrap_or_default()));
    let (allocated, unused, limit) = (next()?, next()?, next()?);
    Ok(Usage { used: allocated.saturating_sub(unused), limit })
}

/// Reads a file that holds one number.
///
/// # Errors
/// `Malformed` when it does not; otherwise see [`ReadError`].
pub fn read_number(root: &HostRoot, path: impl AsRef<Path>) -> Result<u64, ReadError> {
    let path = path.as_ref();
    let text = root.read_text(path)?;
    text.trim()
        .parse()
        .map_err(|_| Malformed::new(1, text.lines().next().unwrap_or_default()).at(root.display_path(path)))
}

/// Open files of the whole kernel.
///
/// # Errors
/// See [`ReadError`].
pub fn read_file_usage(root: &HostRoot) -> Result<Usage, ReadError> {
    let path = "proc/sys/fs/file-nr";
    parse_file_nr(&root.read_text(path)?).map_err(|malformed| malformed.at(root.display_path(path)))
}

/// Asynchronous I/O requests that processes may have under way (`io_setup`).
///
/// # Errors
/// See [`ReadError`].
pub fn read_aio_usage(root: &HostRoot) -> Result<Usage, ReadError> {
    Ok(Usage { used: read_number(root, "proc/sys/fs/aio-nr")?, limit: read_number(root, "proc/sys/fs/aio-max-nr")? })
}

/// Tracked connections.
///
/// # Errors
/// `NotFound` also where the module is not loaded; otherwise see [`ReadError`].
pub fn read_conntrack_usage(root: &HostRoot) -> Result<Usage, ReadError> {
    let number = |name: &str| match read_number(root, format!("proc/sys/net/netfilter/nf_conntrack_{name}")) {
        Err(error) if error.is_not_found() => read_number(root, format!("proc/sys/net/nf_conntrack_{name}")),
        result => result,
    };
    Ok(Usage { used: number("count")?, limit: number("max")? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn soft_limits_of_a_process_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            19999                20000                files     \nMax locked memory         8388608              unlimited            bytes     \nMax address space         unlimited            unlimited            bytes     \n";
        let limits = parse_process_limits(text).unwrap();
        assert_eq!(limits.open_files, Some(Limit::Of(19_999)));
        assert_eq!(limits.locked_memory, Some(Limit::Of(8_388_608)));
        assert_eq!(limits.address_space, Some(Limit::Unlimited));
        assert!(parse_process_limits("Max open files many\n").is_err());
    }

    #[test]
    fn files_of_the_kernel_are_allocated_less_unused() {
        assert_eq!(parse_file_nr("1984\t10\t9223372036854775807\n"), Ok(Usage { used: 1974, limit: i64::MAX as u64 }));
        assert!(parse_file_nr("1984 0").is_err());
    }

    #[test]
    fn conntrack_is_found_in_its_old_and_new_place() {
        for place in ["proc/sys/net/netfilter", "proc/sys/net"] {
            let dir = tempfile::tempdir().unwrap();
            let root = HostRoot::new(dir.path());
            std::fs::create_dir_all(dir.path().join(place)).unwrap();
            assert!(read_conntrack_usage(&root).unwrap_err().is_not_found());
            std::fs::write(dir.path().join(place).join("nf_conntrack_count"), "7\n").unwrap();
            std::fs::write(dir.path().join(place).join("nf_conntrack_max"), "9\n").unwrap();
            assert_eq!(read_conntrack_usage(&root).unwrap(), Usage { used: 7, limit: 9 });
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(Max open files)?( {0,3}([0-9]{1,24}|unlimited)){0,4}\\PC{0,20}") {
            let _ = parse_process_limits(&text);
            let _ = parse_file_nr(&text);
        }
    }
}
