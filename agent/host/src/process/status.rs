//! `/proc/PID/status`: what `stat` does not say: other namespaces' pids, owners, pending signals.
//!
//! The file grows with kernels, so every field is looked up by name and is `None` where the kernel does not write it; only a
//! file with no state at all is an error. Source: `proc_pid_status(5)`.

use super::{TaskState, malformed_text};
use crate::Malformed;

/// The fields of a `status` file that are used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Name of the task; control characters are escaped as the kernel does.
    pub comm: Option<String>,
    /// What the task is doing.
    pub state: TaskState,
    /// Process this task belongs to.
    pub tgid: Option<u32>,
    /// Parent, 0 when outside the pid namespace.
    pub ppid: Option<u32>,
    /// Effective user.
    pub uid: Option<u32>,
    /// Effective group.
    pub gid: Option<u32>,
    /// Pids of the task in each pid namespace, from the reader's to the innermost. Empty where the kernel does not say.
    pub ns_pids: Vec<u32>,
    /// Signals pending for this thread; bit *n−1* is signal *n*.
    pub thread_pending_signals: Option<u64>,
    /// Signals pending for the whole process; bit *n−1* is signal *n*.
    pub process_pending_signals: Option<u64>,
    /// Resident memory, bytes. `None` for kernel threads and zombies.
    pub rss_bytes: Option<u64>,
    /// Threads that have not ended.
    pub n_threads: Option<u32>,
    /// How seccomp holds the task. `None` where the kernel has no seccomp.
    pub seccomp: Option<Seccomp>,
}

/// How seccomp holds a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// Not at all.
    Disabled,
    /// To four system calls.
    Strict,
    /// By a filter.
    Filter,
}

impl Seccomp {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Strict => "strict",
            Self::Filter => "filter",
        }
    }

    fn from_number(number: &str) -> Option<Self> {
        match number {
            "0" => Some(Self::Disabled),
            "1" => Some(Self::Strict),
            "2" => Some(Self::Filter),
            _ => None,
        }
    }
}

impl Status {
    /// Whether this signal (9 is SIGKILL) was sent and not yet taken, by the thread or its process.
    ///
    /// `None` when the kernel does not say, or for a number that is no signal.
    pub fn is_pending(&self, signal: u32) -> Option<bool> {
        let bit = signal.checked_sub(1).and_then(|shift| 1_u64.checked_shl(shift))?;
        Some((self.thread_pending_signals? | self.process_pending_signals?) & bit != 0)
    }
}

/// Parses a `status` file.
///
/// # Errors
/// When there is no `State:` line.
pub fn parse_status(text: &str) -> Result<Status, Malformed> {
    let mut status = Status {
        comm: None,
        state: TaskState::Other('?'),
        tgid: None,
        ppid: None,
        uid: None,
        gid: None,
        ns_pids: Vec::new(),
        thread_pending_signals: None,
        process_pending_signals: None,
        rss_bytes: None,
        n_threads: None,
        seccomp: None,
    };
    let mut has_state = false;
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim_start();
        match name {
            "Name" => status.comm = Some(value.to_owned()),
            "State" => {
                if let Some(letter) = value.chars().next() {
                    status.state = TaskState::from_letter(letter);
                    has_state = true;
                }
            }
            "Tgid" => status.tgid = value.parse().ok(),
            "PPid" => status.ppid = value.parse().ok(),
            "Uid" => status.uid = effective_id(value),
            "Gid" => status.gid = effective_id(value),
            "NSpid" => status.ns_pids = value.split_ascii_whitespace().map_while(|pid| pid.parse().ok()).collect(),
            "SigPnd" => status.thread_pending_signals = u64::from_str_radix(value, 16).ok(),
            "ShdPnd" => status.process_pending_signals = u64::from_str_radix(value, 16).ok(),
            "VmRSS" => status.rss_bytes = kib_to_bytes(value),
            "Threads" => status.n_threads = value.parse().ok(),
            "Seccomp" => status.seccomp = Seccomp::from_number(value.trim_end()),
            _ => {}
        }
    }
    if has_state { Ok(status) } else { Err(malformed_text(text)) }
}

/// The second of real, effective, saved and file system id.
fn effective_id(value: &str) -> Option<u32> {
    value.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn kib_to_bytes(value: &str) -> Option<u64> {
    value.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
