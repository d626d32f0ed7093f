//! The threads of a process: where one that does not move is stuck.
//!
//! A process is its threads: a QEMU whose leader is a zombie may have one worker in D state that keeps the whole process (and
//! its disk) alive, and only `task/*` shows it. The kernel's stack of a thread needs root.

use super::stat::{Stat, TaskState, parse_stat};
use super::status::parse_status;
use super::{Procfs, numbers_in, optional_text};
use crate::ReadError;
use crate::text::{into_text, read_plain, read_record};

/// One thread of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Number of the thread; that of the process for its leader.
    pub tid: u32,
    /// Name, at most 15 bytes: `CPU 0/KVM` is a virtual CPU, `worker` does disk I/O, `migration` sends memory.
    pub comm: String,
    /// What it is doing.
    pub state: TaskState,
    /// Kernel function it sleeps in. Read only for threads in D state, where it says what they wait for; `None` also when the
    /// kernel hides it.
    pub wchan: Option<String>,
    /// Start, clock ticks since boot. `None` in recordings without the thread's `stat`.
    pub start_time_ticks: Option<u64>,
    /// Processor time in user mode, clock ticks (1/100 s).
    pub utime_ticks: Option<u64>,
    /// Processor time in the kernel, clock ticks (1/100 s).
    pub stime_ticks: Option<u64>,
}

impl Thread {
    pub(super) fn new(tid: u32, stat: Stat, wchan: Option<String>) -> Self {
        Self {
            tid,
            comm: stat.comm,
            state: stat.state,
            wchan,
            start_time_ticks: Some(stat.start_time_ticks),
            utime_ticks: Some(stat.utime_ticks),
            stime_ticks: Some(stat.stime_ticks),
        }
    }
}

/// The kernel's stack of a thread, innermost function first, without addresses and offsets.
pub type StackFrames = Vec<String>;

impl Procfs {
    /// The threads of a process, ascending; those that ended meanwhile are left out.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn threads(&self, pid: u32) -> Result<Vec<Thread>, ReadError> {
        let mut threads = Vec::new();
        for tid in numbers_in(&self.file_of(pid, "task"))? {
            match self.thread(pid, tid) {
                Ok(thread) => threads.push(thread),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(threads)
    }

    pub(super) fn thread(&self, pid: u32, tid: u32) -> Result<Thread, ReadError> {
        let mut thread = match self.thread_from_stat(pid, tid) {
            // Recordings may lack it; a live thread has both or none.
            Err(error) if error.is_not_found() => self.thread_from_status(pid, tid)?,
            result => result?,
        };
        if thread.state == TaskState::Uninterruptible {
            thread.wchan = self.wchan(pid, tid);
        }
        Ok(thread)
    }

    fn thread_from_stat(&self, pid: u32, tid: u32) -> Result<Thread, ReadError> {
        let path = self.file_of(pid, &format!("task/{tid}/stat"));
        let stat = parse_stat(&read_record(&path)?).map_err(|malformed| malformed.at(path))?;
        Ok(Thread::new(tid, stat, None))
    }

    fn thread_from_status(&self, pid: u32, tid: u32) -> Result<Thread, ReadError> {
        let path = self.file_of(pid, &format!("task/{tid}/status"));
        let status = parse_status(&into_text(read_plain(&path)?)).map_err(|malformed| malformed.at(path))?;
        Ok(Thread {
            tid,
            comm: status.comm.unwrap_or_default(),
            state: status.state,
            wchan: None,
            start_time_ticks: None,
            utime_ticks: None,
            stime_ticks: None,
        })
    }

    /// Kernel function a thread sleeps in. `None` when it runs, has ended, or the kernel hides it from us.
    pub fn wchan(&self, pid: u32, tid: u32) -> Option<String> {
        let text = optional_text(&self.file_of(pid, &format!("task/{tid}/wchan")))?;
        let name = text.trim();
        (!name.is_empty() && name != "0").then(|| name.to_owned())
    }

    /// The kernel's stack of a thread. `None` where we may not see it (it needs CAP_SYS_ADMIN) or the kernel has no such file.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the thread has ended.
    pub fn kernel_stack(&self, pid: u32, tid: u32) -> Result<Option<StackFrames>, ReadError> {
        match read_plain(&self.file_of(pid, &format!("task/{tid}/stack"))) {
            Ok(bytes) => Ok(Some(parse_kernel_stack(&into_text(bytes)))),
            Err(ReadError::Denied { .. } | ReadError::Unsupported { .. }) => Ok(None),
            // No file for a thread that is there: a kernel without CONFIG_STACKTRACE.
            Err(error) if error.is_not_found() && self.file_of(pid, &format!("task/{tid}")).exists() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Parses `[<0>] io_schedule+0x46/0x70 [module]` lines into `io_schedule`; lines of another form are left out.
pub fn parse_kernel_stack(text: &str) -> StackFrames {
    let frame = |line: &str| {
        let symbol = line.trim().strip_prefix("[<")?.split_once(">] ")?.1;
        let name = symbol.split(['+', ' ']).next().unwrap_or_default();
        // Older kernels end the list with an address that has no name.
        (!name.is_empty() && !name.starts_with("0xffff")).then(|| name.to_owned())
    };
    text.lines().filter_map(frame).collect()
}
