//! One pass over procfs: new QEMUs, and the threads of the known ones.
//!
//! Listing pids is cheap, reading hundreds of `stat` files every 2 s is not: a pid that was seen to be no QEMU is not read
//! again, except while it is young, since a process becomes QEMU by `exec` after its `fork`, and once a minute for all.

use std::collections::BTreeMap;

use kulprit_host::ReadError;
use kulprit_host::process::{CgroupFilter, ProcessId, Procfs, TaskState, Thread};
use kulprit_host::qemu::is_qemu_name;
use kulprit_judge::qemu::{BlockedThread, PendingSignals};

/// Looks at which a new pid is read: libvirt's child runs hooks and sets up cgroups before it becomes QEMU.
const N_YOUNG_LOOKS: u32 = 5;
/// Every so many looks all pids are read again: about a minute.
const N_LOOKS_OF_FULL: u32 = 30;

/// What is remembered between passes.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Pids that are no QEMU, with the number of looks that read them.
    others: BTreeMap<u32, u32>,
    n_looks: u32,
}

/// What a pass found.
#[derive(Debug)]
pub(super) struct Scan {
    /// QEMUs that were not known.
    pub(super) found: Vec<ProcessId>,
    /// The known and the new ones.
    pub(super) threads: Vec<(ProcessId, Result<ThreadsRead, ReadError>)>,
    /// Processes that are there and could not be read.
    pub(super) errors: usize,
}

/// The threads of one QEMU.
#[derive(Debug)]
pub(super) struct ThreadsRead {
    pub(super) leader: TaskState,
    pub(super) threads: Vec<Thread>,
    pub(super) blocked: Vec<BlockedThread>,
    pub(super) pending: Option<PendingSignals>,
}

impl Scanner {
    pub(super) fn scan(
        &mut self,
        procfs: &Procfs,
        filter: &CgroupFilter,
        known: &[ProcessId],
    ) -> Result<Scan, ReadError> {
        let mut scan = Scan { found: Vec::new(), threads: Vec::new(), errors: 0 };
        self.n_looks += 1;
        if self.n_looks.is_multiple_of(N_LOOKS_OF_FULL) {
            self.others.clear();
        }
        let pids = procfs.pids()?;
        self.others.retain(|pid, _| pids.binary_search(pid).is_ok());
        for pid in pids {
            let n_reads = self.others.get(&pid).copied().unwrap_or_default();
            if n_reads >= N_YOUNG_LOOKS || known.iter().any(|id| id.pid == pid) {
                continue;
            }
            match find(procfs, filter, pid) {
                Ok(Some(id)) => scan.found.push(id),
                // Already running when we came: it is what it is.
                Ok(None) => drop(self.others.insert(pid, if self.n_looks == 1 { N_YOUNG_LOOKS } else { n_reads + 1 })),
                Err(error) => scan.errors += usize::from(!error.is_not_found()),
            }
        }
        let all: Vec<ProcessId> = known.iter().chain(&scan.found).copied().collect();
        scan.threads = all.into_iter().map(|id| (id, read_threads(procfs, id))).collect();
        Ok(scan)
    }
}

fn find(procfs: &Procfs, filter: &CgroupFilter, pid: u32) -> Result<Option<ProcessId>, ReadError> {
    let stat = procfs.stat(pid)?;
    let is_other = !is_qemu_name(&stat.comm) || procfs.exe_name(pid).is_some_and(|exe| !is_qemu_name(&exe));
    if is_other || (*filter != CgroupFilter::All && !filter.matches(&procfs.cgroups(pid)?)) {
        return Ok(None);
    }
    Ok(Some(stat.id()))
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
