//! One look at the QEMUs: the new ones of the census, and the threads of all.

use kulprit_host::ReadError;
use kulprit_host::process::{ProcessId, Procfs, TaskState, Thread};
use kulprit_judge::qemu::{BlockedThread, PendingSignals};

/// What a look found.
#[derive(Debug)]
pub(super) struct Scan {
    /// QEMUs that were not known.
    pub(super) found: Vec<ProcessId>,
    /// The known and the new ones.
    pub(super) threads: Vec<(ProcessId, Result<ThreadsRead, ReadError>)>,
}

/// The threads of one QEMU.
#[derive(Debug)]
pub(super) struct ThreadsRead {
    pub(super) leader: TaskState,
    pub(super) threads: Vec<Thread>,
    pub(super) blocked: Vec<BlockedThread>,
    pub(super) pending: Option<PendingSignals>,
}

/// Reads the threads of the QEMUs that are known and of those of `all` that are not.
pub(super) fn scan(procfs: &Procfs, all: impl Iterator<Item = ProcessId>, known: &[ProcessId]) -> Scan {
    let found: Vec<ProcessId> = all.filter(|id| !known.contains(id)).collect();
    let threads = known.iter().chain(&found).map(|id| (*id, read_threads(procfs, *id))).collect();
    Scan { found, threads }
}

fn read_threads(procfs: &Procfs, id: ProcessId) -> Result<ThreadsRead, ReadError> {
    let stat = procfs.stat(id.pid)?;
    if stat.id() != id {
        return Err(ReadError::NotFound { path: procfs.path().join(id.pid.to_string()) });
    }
    let threads = procfs.threads(id.pid)?;
    let waiting = threads.iter().filter(|thread| thread.state == TaskState::Uninterruptible);
    let blocked: Vec<BlockedThread> = waiting
        .map(|thread| BlockedThread {
            thread: thread.clone(),
            frames: procfs.kernel_stack(id.pid, thread.tid).ok().flatten(),
            switches_total: read_switches(procfs, id.pid, thread.tid),
        })
        .collect();
    Ok(ThreadsRead { leader: stat.state, pending: pending(procfs, id.pid, &blocked), threads, blocked })
}

/// How often a thread has given up the processor to wait, since its start. `None` when the kernel does not say.
fn read_switches(procfs: &Procfs, pid: u32, tid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(procfs.path().join(format!("{pid}/task/{tid}/status"))).ok()?;
    parse_switches(&text)
}

fn parse_switches(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// Signals are pending for the process, or, once it is being killed, for each thread that has not taken note.
fn pending(procfs: &Procfs, pid: u32, blocked: &[BlockedThread]) -> Option<PendingSignals> {
    let mut pending = PendingSignals::default();
    pending.add(&procfs.status(pid).ok()?);
    for row in blocked {
        if let Ok(status) = procfs.status(row.thread.tid) {
            pending.add(&status);
        }
    }
    Some(pending)
}
