//! `/proc/PID/stat` and `/proc/PID/task/TID/stat`: the cheapest look at a task.
//!
//! Parsed by hand and from bytes: the second field is whatever the process called itself, brackets and bad UTF-8 included,
//! and the few fields used here are read many times a second. Source: `proc_pid_stat(5)`.

use super::ProcessId;
use crate::Malformed;

/// What a task is doing, as the kernel's one letter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// `R`: on a CPU or waiting for one.
    Running,
    /// `S`: asleep, and a signal wakes it.
    Sleeping,
    /// `D`: asleep, and nothing but what it waits for wakes it; not even SIGKILL.
    Uninterruptible,
    /// `T`: stopped by a signal.
    Stopped,
    /// `t`: stopped by a debugger.
    Traced,
    /// `Z`: ended, not yet reaped; or a leader whose other threads have not ended.
    Zombie,
    /// `X`: ended and reaped, about to vanish.
    Dead,
    /// `I`: an idle kernel thread.
    Idle,
    /// A letter that is not known here.
    Other(char),
}

impl TaskState {
    /// The state for a letter of `stat` or `status`.
    pub fn from_letter(letter: char) -> Self {
        match letter {
            'R' => Self::Running,
            'S' => Self::Sleeping,
            'D' => Self::Uninterruptible,
            'T' => Self::Stopped,
            't' => Self::Traced,
            'Z' => Self::Zombie,
            'X' | 'x' => Self::Dead,
            'I' => Self::Idle,
            other => Self::Other(other),
        }
    }

    /// The letter the kernel writes.
    pub fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Sleeping => 'S',
            Self::Uninterruptible => 'D',
            Self::Stopped => 'T',
            Self::Traced => 't',
            Self::Zombie => 'Z',
            Self::Dead => 'X',
            Self::Idle => 'I',
            Self::Other(letter) => letter,
        }
    }
}

/// The fields of a `stat` file that are used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process, or thread where a thread's file was read.
    pub pid: u32,
    /// Name of the task, at most 15 bytes, not necessarily that of the program.
    pub comm: String,
    /// What the task is doing.
    pub state: TaskState,
    /// Parent, 0 when it lies outside the pid namespace.
    pub ppid: u32,
    /// Processor time in user mode, clock ticks (1/100 s). Of all threads for a process's file.
    pub utime_ticks: u64,
    /// Processor time in the kernel, clock ticks (1/100 s). Of all threads for a process's file.
    pub stime_ticks: u64,
    /// Threads that have not ended.
    pub n_threads: u32,
    /// Start, clock ticks since boot.
    pub start_time_ticks: u64,
}

impl Stat {
    /// The process this is, for good.
    pub fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start_time_ticks: self.start_time_ticks }
    }
}

/// Parses the one line of a `stat` file.
///
/// # Errors
/// When a field that is used is missing or no number.
pub fn parse_stat(bytes: &[u8]) -> Result<Stat, Malformed> {
    stat_fields(bytes).ok_or_else(|| Malformed::new(1, bytes))
}

fn stat_fields(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    // The last bracket, because the name may contain brackets.
    let close = bytes.iter().rposition(|byte| *byte == b')').filter(|close| *close > open)?;
    let pid = std::str::from_utf8(&bytes[..open]).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(&bytes[close + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // Field numbers of proc_pid_stat(5); `nth` counts from the one after the last taken.
    let state = fields.next()?.chars().next()?; // 3
    let ppid = fields.next()?.parse().ok()?; // 4
    let utime_ticks = fields.nth(9)?.parse().ok()?; // 14
    let stime_ticks = fields.next()?.parse().ok()?; // 15
    let n_threads = fields.nth(4)?.parse().ok()?; // 20
    let start_time_ticks = fields.nth(1)?.parse().ok()?; // 22
    Some(Stat {
        pid,
        comm: String::from_utf8_lossy(&bytes[open + 1..close]).into_owned(),
        state: TaskState::from_letter(state),
        ppid,
        utime_ticks,
        stime_ticks,
        n_threads,
        start_time_ticks,
    })
}
