//! Processes and their threads, from procfs.
//!
//! Which procfs, and which of its processes, are two questions: an agent in the host's pid namespace sees everything in its
//! own `/proc`, while the node it watches may be a part of that, told by the cgroup ([`CgroupFilter`]). A process is known by
//! its pid *and* its start time ([`ProcessId`]); a pid alone is reused. Processes end while we look: that is an answer
//! ([`ReadError::NotFound`]), never a failure of the list.
//!
//! Reading `stat`, `status`, `wchan` and `cgroup` takes no lock of the process; reading `cmdline` takes its memory map's lock,
//! and waits where a thread sleeps in D state with that lock held. So [`Procfs::scan`] reads `stat` only.

mod births;
mod confinement;
mod list;
mod stat;
mod status;
mod thread;
mod watched;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use births::Births;
pub use confinement::{AppArmor, Confinement, parse_apparmor};
pub use list::{CgroupFilter, Process, Processes};
pub use stat::{Stat, TaskState, parse_stat};
pub use status::{Seccomp, Status, parse_status};
pub use thread::{StackFrames, Thread, parse_kernel_stack};
pub use watched::{WatchedLook, WatchedProcess};

use crate::cgroup::{CgroupMembership, parse_proc_cgroup};
use crate::text::{into_text, read_plain, read_record};
use crate::{Malformed, ReadError};

/// A process, told from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Number in the pid namespace of the procfs it was read from.
    pub pid: u32,
    /// Start, clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time_ticks: u64,
}

/// A mounted procfs, or a recorded copy of one. Cheap to clone.
///
/// Paths are plain, not under a [`crate::HostRoot`]: the processes are those of the pid namespace in which this procfs was
/// mounted, which is normally the agent's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Procfs {
    path: Arc<Path>,
}

impl Default for Procfs {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl Procfs {
    /// The procfs at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: Arc::from(path.as_ref()) }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file_of(&self, pid: u32, name: &str) -> PathBuf {
        self.path.join(pid.to_string()).join(name)
    }

    /// The pids there are, ascending.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn pids(&self) -> Result<Vec<u32>, ReadError> {
        numbers_in(&self.path)
    }

    /// What `/proc/PID/stat` says. For a process whose leader has ended this is the leader: see [`Self::threads`].
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn stat(&self, pid: u32) -> Result<Stat, ReadError> {
        let path = self.file_of(pid, "stat");
        parse_stat(&read_record(&path)?).map_err(|malformed| malformed.at(path))
    }

    /// What `/proc/PID/status` says.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn status(&self, pid: u32) -> Result<Status, ReadError> {
        let path = self.file_of(pid, "status");
        parse_status(&into_text(read_record(&path)?)).map_err(|malformed| malformed.at(path))
    }

    /// The process's cgroup in each hierarchy.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn cgroups(&self, pid: u32) -> Result<Vec<CgroupMembership>, ReadError> {
        let path = self.file_of(pid, "cgroup");
        let (rows, errors) = parse_proc_cgroup(&into_text(read_record(&path)?));
        // One bad line of several is survivable here: every reader of this looks for *a* line.
        match errors.into_iter().next() {
            Some(malformed) if rows.is_empty() => Err(malformed.at(path)),
            _ => Ok(rows),
        }
    }

    /// The arguments the process was started with; empty for kernel threads and for the dead.
    ///
    /// When the leader has ended (a zombie) and another thread has not (in D state, say), the arguments are read from that
    /// thread: `/proc/PID/cmdline` is empty then, just when one wants to know which VM it was.
    ///
    /// May wait for the process's memory map lock.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn command_line(&self, pid: u32) -> Result<Vec<String>, ReadError> {
        let args = parse_cmdline(&read_plain(&self.file_of(pid, "cmdline"))?);
        if !args.is_empty() {
            return Ok(args);
        }
        let tasks = numbers_in(&self.file_of(pid, "task")).unwrap_or_default();
        let of_thread = |tid: u32| read_plain(&self.file_of(pid, &format!("task/{tid}/cmdline"))).ok();
        let from_threads = tasks.into_iter().filter(|tid| *tid != pid).filter_map(of_thread);
        Ok(from_threads.map(|bytes| parse_cmdline(&bytes)).find(|args| !args.is_empty()).unwrap_or_default())
    }

    /// File name of the program that runs, without ` (deleted)`. `None` for kernel threads, zombies, and where we may not look.
    pub fn exe_name(&self, pid: u32) -> Option<String> {
        let target = std::fs::read_link(self.file_of(pid, "exe")).ok()?;
        let name = target.file_name()?.to_string_lossy().into_owned();
        Some(name.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(name))
    }
}

/// Splits the content of a `cmdline` file into its arguments.
///
/// Arguments end with NUL; a process that overwrote them (`setproctitle`) gives one long argument. Empty in, empty out.
pub fn parse_cmdline(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// The entries of a directory whose names are numbers, ascending.
pub(crate) fn numbers_in(path: &Path) -> Result<Vec<u32>, ReadError> {
    let at = |source| ReadError::from_io(path, source);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(path).map_err(at)? {
        let name: OsString = entry.map_err(at)?.file_name();
        if let Some(number) = std::str::from_utf8(&name.into_vec()).ok().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The text of a file that may be absent or refused: `None` for both, for optional fields of an observation.
pub(crate) fn optional_text(path: &Path) -> Option<String> {
    read_plain(path).ok().map(into_text)
}

/// Complains about a text that has a known first line.
pub(crate) fn malformed_text(text: &str) -> Malformed {
    Malformed::new(1, text.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests;
