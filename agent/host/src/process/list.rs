//! Going through the processes of a node.
//!
//! Two ways, by cost: [`Procfs::scan`] reads one small file a process and finds candidates by name; [`Procfs::processes`] and
//! [`Procfs::process`] read all that is known of a process. Both keep the good rows and return what went wrong beside them.

use super::{ProcessId, Procfs, Stat, Status, TaskState};
use crate::ReadError;
use crate::cgroup::CgroupMembership;

/// All that is read of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Pid and start time.
    pub id: ProcessId,
    /// Name of its leader, at most 15 bytes.
    pub comm: String,
    /// Parent, 0 when outside the pid namespace.
    pub ppid: u32,
    /// What its leader is doing; other threads may do otherwise.
    pub state: TaskState,
    /// Threads that have not ended.
    pub n_threads: u32,
    /// Arguments; empty for kernel threads and for the dead.
    pub args: Vec<String>,
    /// File name of the program. `None` for kernel threads, zombies, and where we may not look.
    pub exe_name: Option<String>,
    /// Its cgroup in each hierarchy.
    pub cgroups: Vec<CgroupMembership>,
    /// Owner, other namespaces' pids, pending signals.
    pub status: Status,
}

/// Which processes belong to the node we watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupFilter {
    /// All of this procfs.
    All,
    /// Those in this cgroup or below it, in any hierarchy: `/lab/n1` takes `/lab/n1` and `/lab/n1/x`, not `/lab/n10`.
    Under(String),
}

impl CgroupFilter {
    /// Whether a process in these cgroups is one of ours.
    pub fn matches(&self, cgroups: &[CgroupMembership]) -> bool {
        match self {
            Self::All => true,
            Self::Under(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let is_under =
                    |path: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                cgroups.iter().any(|row| is_under(&row.path))
            }
        }
    }
}

/// Processes found, and what kept others from being read.
#[derive(Debug, Default)]
pub struct Processes {
    /// Ascending by pid.
    pub rows: Vec<Process>,
    /// One for each process that is there and could not be read.
    pub errors: Vec<ReadError>,
}

impl Procfs {
    /// The processes of the node whose `stat` satisfies `is_wanted`, with errors for those that could not be read.
    ///
    /// Reads one file for each process and a second one for each that is wanted.
    ///
    /// # Errors
    /// When the list of processes itself cannot be read.
    pub fn scan(
        &self,
        filter: &CgroupFilter,
        mut is_wanted: impl FnMut(&Stat) -> bool,
    ) -> Result<(Vec<Stat>, Vec<ReadError>), ReadError> {
        let mut rows = Vec::new();
        let mut errors = Vec::new();
        for pid in self.pids()? {
            match self.stat(pid) {
                Ok(stat) if is_wanted(&stat) => match self.is_ours(pid, filter) {
                    Ok(true) => rows.push(stat),
                    Ok(false) => {}
                    Err(error) => errors.push(error),
                },
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        errors.retain(|error| !error.is_not_found());
        Ok((rows, errors))
    }

    fn is_ours(&self, pid: u32, filter: &CgroupFilter) -> Result<bool, ReadError> {
        match filter {
            CgroupFilter::All => Ok(true),
            CgroupFilter::Under(_) => Ok(filter.matches(&self.cgroups(pid)?)),
        }
    }

    /// All that is known of one process.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when it has ended, or ended and was followed by another of its number while we read.
    pub fn process(&self, pid: u32) -> Result<Process, ReadError> {
        let stat = self.stat(pid)?;
        let process = Process {
            id: stat.id(),
            cgroups: self.cgroups(pid)?,
            status: self.status(pid)?,
            args: self.command_line(pid)?,
            exe_name: self.exe_name(pid),
            comm: stat.comm,
            ppid: stat.ppid,
            state: stat.state,
            n_threads: stat.n_threads,
        };
        match self.stat(pid)?.start_time_ticks == stat.start_time_ticks {
            true => Ok(process),
            false => Err(ReadError::NotFound { path: self.file_of(pid, "stat") }),
        }
    }

    /// All processes of the node, read fully. Four files each: not for every second.
    ///
    /// # Errors
    /// When the list of processes itself cannot be read.
    pub fn processes(&self, filter: &CgroupFilter) -> Result<Processes, ReadError> {
        let mut found = Processes::default();
        for pid in self.pids()? {
            match self.process(pid) {
                Ok(process) if filter.matches(&process.cgroups) => found.rows.push(process),
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => found.errors.push(error),
            }
        }
        Ok(found)
    }
}
