//! Processes of a captured tree: what a tool saved of `/proc`, not a kernel that answers.
//!
//! [`crate::process`] asks a live procfs, where a process has all its files or none and where paths may be followed. A saved
//! tree lacks any of them, was written by anybody, and is of another machine: so every file is opened inside the root, each
//! value is an `Option`, only processes that somebody wants are read whole, and what is kept has an upper bound.
//! Source: `proc(5)`; the layout of saved trees as sosreport and `cp -r` leave it.

mod descriptor;

pub use descriptor::{Descriptor, parse_fd_listing};

use crate::cgroup::{CgroupMembership, parse_proc_cgroup};
use crate::mount::{Mount, parse_mountinfo};
use crate::process::{
    StackFrames, Status, TaskState, Thread, parse_cmdline, parse_kernel_stack, parse_stat, parse_status,
};
use crate::{HostRoot, ReadError};

/// Most of a command line that is read, bytes; QEMU's are some 10 KiB.
const CMDLINE_LIMIT_BYTES: usize = 256 << 10;
/// Most processes that are read whole: a node has some hundred VMs with five each.
const MAX_PROCESSES: usize = 4096;
/// Most threads of one process that are read: a QEMU has one for each vCPU and some 70 others.
const MAX_THREADS: usize = 2048;

/// One process of a captured tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapturedProcess {
    /// Number of its directory.
    pub pid: u32,
    /// Name, at most 15 bytes; the program's file name where only the command line was saved.
    pub comm: String,
    /// What its leader was doing.
    pub state: Option<TaskState>,
    /// Parent.
    pub ppid: Option<u32>,
    /// Start, clock ticks since boot.
    pub start_time_ticks: Option<u64>,
    /// Arguments; empty for the dead and where not saved.
    pub args: Vec<String>,
    /// Its cgroup in each hierarchy; empty where not saved.
    pub cgroups: Vec<CgroupMembership>,
    /// What `status` says.
    pub status: Option<Status>,
}

impl CapturedProcess {
    /// File name of the program by the command line, else its name.
    pub fn program(&self) -> &str {
        let from_args = self.args.first().and_then(|arg| arg.split_whitespace().next()?.rsplit('/').next());
        from_args.filter(|name| !name.is_empty()).unwrap_or(&self.comm)
    }
}

/// One thread of a captured process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedThread {
    /// As a live one; `wchan` is read for threads in D state.
    pub thread: Thread,
    /// The kernel's stack, read for threads in D state; `None` where not saved.
    pub frames: Option<StackFrames>,
    /// What its `status` says.
    pub status: Option<Status>,
}

/// What was found, and what could not be used.
#[derive(Debug, Default)]
pub struct Captured {
    /// Ascending by pid.
    pub processes: Vec<CapturedProcess>,
    /// Whether there were more than are kept.
    pub is_cut: bool,
    /// Whether the tree has any process at all.
    pub has_processes: bool,
    /// Files that are there and could not be read. A missing file is none.
    pub errors: Vec<ReadError>,
}

/// The processes whose name (or program) satisfies `is_wanted`.
///
/// Reads one small file for each process and some more for each that is wanted.
///
/// # Errors
/// When the list of processes cannot be read; `NotFound` when no `proc` was saved.
pub fn read_captured(root: &HostRoot, is_wanted: impl Fn(&str) -> bool) -> Result<Captured, ReadError> {
    let mut captured = Captured::default();
    for pid in numbers(root, "proc")? {
        captured.has_processes = true;
        let mut errors = Vec::new();
        if let Some(process) = read_process(root, pid, &is_wanted, &mut errors) {
            if captured.processes.len() == MAX_PROCESSES {
                captured.is_cut = true;
                break;
            }
            captured.processes.push(process);
        }
        captured.errors.extend(errors.into_iter().filter(|error| !error.is_not_found()));
    }
    Ok(captured)
}

fn read_process(
    root: &HostRoot,
    pid: u32,
    is_wanted: impl Fn(&str) -> bool,
    errors: &mut Vec<ReadError>,
) -> Option<CapturedProcess> {
    let path = |name: &str| format!("proc/{pid}/{name}");
    let mut process = CapturedProcess { pid, ..CapturedProcess::default() };
    let stat = root
        .read_bytes(path("stat"), 1 << 16)
        .and_then(|bytes| parse_stat(&bytes).map_err(|malformed| malformed.at(root.display_path(path("stat")))));
    match stat {
        Ok(stat) => {
            process.comm = stat.comm;
            process.state = Some(stat.state);
            process.ppid = Some(stat.ppid);
            process.start_time_ticks = Some(stat.start_time_ticks);
        }
        Err(error) => errors.push(error),
    }
    if process.comm.is_empty() {
        process.status = read_status(root, &path("status"), errors);
        process.comm = process.status.as_ref().and_then(|status| status.comm.clone()).unwrap_or_default();
    }
    if process.comm.is_empty() {
        let comm = root.read_text(path("comm")).map_err(|error| errors.push(error)).ok();
        process.comm = comm.map(|comm| comm.trim_end().to_owned()).unwrap_or_default();
    }
    // Without a name, or with one that a program gave itself, the command line tells.
    if !process.comm.is_empty() && !is_wanted(&process.comm) {
        return None;
    }
    process.args = read_args(root, pid, errors);
    if process.comm.is_empty() {
        process.comm = process.program().chars().take(15).collect();
        if process.comm.is_empty() || !is_wanted(&process.comm) {
            return None;
        }
    }
    process.status = process.status.or_else(|| read_status(root, &path("status"), errors));
    if let Some(status) = &process.status {
        process.state = process.state.or(Some(status.state));
        process.ppid = process.ppid.or(status.ppid);
    }
    match root.read_text(path("cgroup")) {
        Ok(text) => process.cgroups = parse_proc_cgroup(&text).0,
        Err(error) => errors.push(error),
    }
    Some(process)
}

/// A leader that has ended has no command line; its threads, where they were saved, have.
fn read_args(root: &HostRoot, pid: u32, errors: &mut Vec<ReadError>) -> Vec<String> {
    let read = |path: String| root.read_bytes(path, CMDLINE_LIMIT_BYTES).map(|bytes| parse_cmdline(&bytes));
    match read(format!("proc/{pid}/cmdline")) {
        Ok(args) if !args.is_empty() => return args,
        Ok(_) => {}
        Err(error) => errors.push(error),
    }
    let tasks = numbers(root, &format!("proc/{pid}/task")).unwrap_or_default();
    let of_threads =
        tasks.into_iter().take(MAX_THREADS).filter_map(|tid| read(format!("proc/{pid}/task/{tid}/cmdline")).ok());
    of_threads.into_iter().find(|args| !args.is_empty()).unwrap_or_default()
}

fn read_status(root: &HostRoot, path: &str, errors: &mut Vec<ReadError>) -> Option<Status> {
    let status = root
        .read_text(path)
        .and_then(|text| parse_status(&text).map_err(|malformed| malformed.at(root.display_path(path))));
    status.map_err(|error| errors.push(error)).ok()
}

/// The threads of a captured process, ascending. Empty when `task` was not saved.
///
/// # Errors
/// One for each file that is there and could not be read, beside the threads that could.
pub fn read_captured_threads(root: &HostRoot, pid: u32) -> (Vec<CapturedThread>, Vec<ReadError>) {
    let mut errors = Vec::new();
    let directory = format!("proc/{pid}/task");
    let tids = numbers(root, &directory).map_err(|error| errors.push(error)).unwrap_or_default();
    let threads: Vec<_> = tids
        .into_iter()
        .take(MAX_THREADS)
        .filter_map(|tid| read_thread(root, &format!("{directory}/{tid}"), tid, &mut errors))
        .collect();
    errors.retain(|error| !error.is_not_found());
    (threads, errors)
}

/// The leader of a captured process as its only thread, for trees without `task`. `None` when its state is not known.
pub fn read_captured_leader(root: &HostRoot, process: &CapturedProcess) -> Option<CapturedThread> {
    let state = process.state?;
    let thread = Thread {
        tid: process.pid,
        comm: process.comm.clone(),
        state,
        wchan: None,
        start_time_ticks: process.start_time_ticks,
        utime_ticks: None,
        stime_ticks: None,
    };
    let directory = format!("proc/{}", process.pid);
    Some(with_wait(root, &directory, CapturedThread { thread, frames: None, status: process.status.clone() }))
}

fn read_thread(root: &HostRoot, directory: &str, tid: u32, errors: &mut Vec<ReadError>) -> Option<CapturedThread> {
    let stat = root.read_bytes(format!("{directory}/stat"), 1 << 16).ok().and_then(|bytes| parse_stat(&bytes).ok());
    let status = read_status(root, &format!("{directory}/status"), errors);
    let state = stat.as_ref().map(|stat| stat.state).or(status.as_ref().map(|status| status.state))?;
    let comm = stat.as_ref().map(|stat| stat.comm.clone()).or_else(|| status.as_ref()?.comm.clone());
    let thread = Thread {
        tid,
        comm: comm.unwrap_or_default(),
        state,
        wchan: None,
        start_time_ticks: stat.as_ref().map(|stat| stat.start_time_ticks),
        utime_ticks: stat.as_ref().map(|stat| stat.utime_ticks),
        stime_ticks: stat.as_ref().map(|stat| stat.stime_ticks),
    };
    Some(with_wait(root, directory, CapturedThread { thread, frames: None, status }))
}

/// Adds what a thread in D state waits in.
fn with_wait(root: &HostRoot, directory: &str, mut row: CapturedThread) -> CapturedThread {
    if row.thread.state == TaskState::Uninterruptible {
        let wchan = root.read_text(format!("{directory}/wchan")).ok();
        let name = wchan.as_deref().map(str::trim).filter(|name| !name.is_empty() && *name != "0");
        row.thread.wchan = name.map(|name| name.chars().take(100).collect());
        row.frames = root.read_text(format!("{directory}/stack")).ok().map(|text| parse_kernel_stack(&text));
    }
    row
}

/// The mounts as a captured process saw them. Empty when not saved.
///
/// # Errors
/// See [`ReadError`]; never `NotFound`.
pub fn read_captured_mounts(root: &HostRoot, pid: u32) -> Result<Vec<Mount>, ReadError> {
    let text = root.read_text_if_any(format!("proc/{pid}/mountinfo"))?;
    Ok(text.map(|text| parse_mountinfo(&text).0).unwrap_or_default())
}

/// What a captured process had open, by descriptor; `None` when it was not saved.
///
/// From `fd/` with its links, else from `fd.txt` or a file `fd` with a listing.
///
/// # Errors
/// See [`ReadError`]; never `NotFound`.
pub fn read_captured_descriptors(root: &HostRoot, pid: u32) -> Result<Option<Vec<Descriptor>>, ReadError> {
    descriptor::read(root, pid)
}

/// The entries of a directory whose names are numbers, ascending.
fn numbers(root: &HostRoot, path: &str) -> Result<Vec<u32>, ReadError> {
    let mut numbers: Vec<u32> = root.list(path)?.into_iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests;
