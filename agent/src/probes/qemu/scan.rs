//! One look at the QEMUs: the new ones of the census, and the threads of all.

use std::collections::BTreeMap;

use kulprit_host::ReadError;
use kulprit_host::kept::KeptBuffer;
use kulprit_host::process::{ProcessId, Procfs, TaskState, Thread, WatchedLook, WatchedProcess};
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

/// Reads the QEMUs; their files stay open from look to look.
#[derive(Debug)]
pub(super) struct Scanner {
    procfs: Procfs,
    watched: BTreeMap<ProcessId, WatchedProcess>,
    buffer: KeptBuffer,
}

impl Scanner {
    pub(super) fn new(procfs: &Procfs) -> Self {
        Self { procfs: procfs.clone(), watched: BTreeMap::new(), buffer: KeptBuffer::default() }
    }

    /// Reads the threads of the QEMUs that are known and of those of `all` that are not.
    pub(super) fn scan(&mut self, all: impl Iterator<Item = ProcessId>, known: &[ProcessId]) -> Scan {
        let found: Vec<ProcessId> = all.filter(|id| !known.contains(id)).collect();
        self.watched.retain(|id, _| known.contains(id));
        let threads = known.iter().chain(&found).map(|id| (*id, self.read_threads(*id))).collect();
        Scan { found, threads }
    }

    fn read_threads(&mut self, id: ProcessId) -> Result<ThreadsRead, ReadError> {
        let procfs = &self.procfs;
        let watched = self.watched.entry(id).or_insert_with(|| WatchedProcess::new(procfs, id));
        let WatchedLook { leader, threads, status } = watched.look(&mut self.buffer)?;
        let waiting = threads.iter().filter(|thread| thread.state == TaskState::Uninterruptible);
        let blocked: Vec<BlockedThread> = waiting
            .map(|thread| BlockedThread {
                thread: thread.clone(),
                frames: procfs.kernel_stack(id.pid, thread.tid).ok().flatten(),
                switches_total: read_switches(procfs, id.pid, thread.tid),
            })
            .collect();
        // Signals are pending for the process, or, once it is being killed, for each thread that has not taken note.
        let pending = status.map(|status| {
            let mut pending = PendingSignals::default();
            let of_threads = blocked.iter().filter_map(|row| procfs.status(row.thread.tid).ok());
            std::iter::once(status).chain(of_threads).for_each(|status| pending.add(&status));
            pending
        });
        Ok(ThreadsRead { leader, threads, blocked, pending })
    }
}

/// How often a thread has given up the processor to wait, since its start. `None` when the kernel does not say.
fn read_switches(procfs: &Procfs, pid: u32, tid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(procfs.path().join(format!("{pid}/task/{tid}/status"))).ok()?;
    parse_switches(&text)
}

fn parse_switches(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}
