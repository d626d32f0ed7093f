//! How a VM's QEMU is: blocked in the kernel, stopped, dead and not reaped, killed and not ending.
//!
//! A thread in D state is normal; one that stays there is not. [`ThreadHistory`] remembers where each blocked thread was seen
//! first, so that the longest wait is the one reported. A thread that is found in D state at every look and yet runs in
//! between (a busy disk) is told by its context switches, and begins anew.

use std::collections::BTreeMap;

use kulprit_host::process::{TaskState, Thread};
use kulprit_model::{Attributes, Disk, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};
use crate::wait::{self, Storage, Wait};

/// A thread that waits may be woken in vain now and then (retries of the kernel) and still wait for the same; more often than
/// this a second it does work.
const MAX_WAKEUPS_PER_SEC: i64 = 1;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;
const SOURCE: &str = "procfs";
/// Kernel threads that appear among QEMU's.
const KERNEL_THREADS: [&str; 2] = ["kvm-nx-lpage-re", "kvm-pit/"];
/// Frames of a stack that are shown.
const MAX_FRAMES: usize = 12;

/// A thread in D state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedThread {
    /// Id, name, wchan.
    pub thread: Thread,
    /// Kernel functions, innermost first; `None` where they cannot be seen.
    pub frames: Option<Vec<String>>,
    /// How often it has given up the processor to wait since its start; `None` where the kernel does not say.
    pub switches_total: Option<u64>,
}

/// A signal that was sent and not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingSignals {
    /// SIGKILL, by the process or one of its threads.
    pub has_kill: bool,
    /// SIGTERM, likewise.
    pub has_term: bool,
}

impl PendingSignals {
    /// Adds what one `status` file shows.
    pub fn add(&mut self, status: &kulprit_host::process::Status) {
        self.has_kill |= status.is_pending(SIGKILL) == Some(true);
        self.has_term |= status.is_pending(SIGTERM) == Some(true);
    }
}

/// A disk of the VM and the guest's name of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QemuDisk {
    /// Where it lies.
    pub disk: Disk,
    /// `vda`, where libvirt told.
    pub target: Option<String>,
}

/// One look at one QEMU.
#[derive(Clone, Debug)]
pub struct QemuLook<'a> {
    /// When.
    pub at: Moment,
    /// The VM, or the process while the VM is not known.
    pub subject: &'a Subject,
    /// Its pid.
    pub pid: u32,
    /// State of its leader.
    pub leader: TaskState,
    /// All its threads, the leader included.
    pub threads: &'a [Thread],
    /// Those in D state.
    pub blocked: &'a [BlockedThread],
    /// Signals not taken; `None` when that could not be read.
    pub pending: Option<PendingSignals>,
    /// Its disks.
    pub disks: &'a [QemuDisk],
}

/// Where the blocked threads of one QEMU were at earlier looks.
#[derive(Clone, Debug, Default)]
pub struct ThreadHistory {
    by_tid: BTreeMap<u32, Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    start_ticks: Option<u64>,
    wchan: Option<String>,
    switches_total: Option<u64>,
    first: Moment,
}

impl ThreadHistory {
    /// Takes a look's blocked threads; returns them with the moment they were first seen in this wait, longest first.
    fn take<'a>(&mut self, at: Moment, blocked: &'a [BlockedThread]) -> Vec<(Moment, &'a BlockedThread)> {
        let mut now = BTreeMap::new();
        for row in blocked {
            let known = self.by_tid.remove(&row.thread.tid).filter(|seen| seen.is_same_wait(row, at));
            now.insert(row.thread.tid, known.unwrap_or_else(|| Seen::new(row, at)));
        }
        self.by_tid = now;
        let mut waits: Vec<_> = blocked.iter().map(|row| (self.by_tid[&row.thread.tid].first, row)).collect();
        waits.sort_by_key(|(first, row)| (*first, row.thread.tid));
        waits
    }
}

impl Seen {
    fn new(row: &BlockedThread, at: Moment) -> Self {
        Self {
            start_ticks: row.thread.start_time_ticks,
            wchan: row.thread.wchan.clone(),
            switches_total: row.switches_total,
            first: at,
        }
    }

    fn is_same_wait(&self, row: &BlockedThread, at: Moment) -> bool {
        let wakeups = row.switches_total.zip(self.switches_total).map(|(now, then)| now.saturating_sub(then));
        let allowed = 1 + MAX_WAKEUPS_PER_SEC * at.usec_since(self.first).max(0) / 1_000_000;
        self.start_ticks == row.thread.start_time_ticks
            && self.wchan == row.thread.wchan
            && wakeups.is_none_or(|wakeups| i64::try_from(wakeups).is_ok_and(|wakeups| wakeups <= allowed))
    }
}

/// All states of the probe for one QEMU.
#[must_use]
pub fn judge(look: &QemuLook<'_>, history: &mut ThreadHistory) -> Vec<Verdict> {
    let counts = |row: &&BlockedThread| {
        !KERNEL_THREADS.iter().any(|name| row.thread.comm.starts_with(name))
            && !wait::is_core_dump(row.thread.wchan.as_deref(), row.frames.as_deref().unwrap_or_default())
    };
    let blocked: Vec<BlockedThread> = look.blocked.iter().filter(counts).cloned().collect();
    let waits = history.take(look.at, &blocked);
    let states = [
        judge_blocked(look, &waits),
        judge_disk(look, &waits),
        judge_stopped(look),
        judge_zombie(look),
        judge_termination(look),
    ];
    states.into_iter().map(Verdict::State).collect()
}

/// All states of the probe for a QEMU that could not be looked at.
#[must_use]
pub fn unknown(subject: &Subject, because: &str) -> Vec<Verdict> {
    use FindingCode::{QemuStopped, QemuTerminationPending, QemuThreadBlocked, QemuZombie, VmDiskStalled};
    [QemuThreadBlocked, VmDiskStalled, QemuStopped, QemuZombie, QemuTerminationPending]
        .map(|code| Verdict::State(StateVerdict::unknown(code, subject.clone(), because)))
        .to_vec()
}

type Waits<'a> = [(Moment, &'a BlockedThread)];

fn judge_blocked(look: &QemuLook<'_>, waits: &Waits<'_>) -> StateVerdict {
    let code = FindingCode::QemuThreadBlocked;
    let Some((first, row)) = waits.first() else { return StateVerdict::seen(code, look.subject.clone(), false) };
    let wait = classify(row);
    StateVerdict {
        hold_key: Some(hold_key(*first, row)),
        since: Some(*first),
        attributes: thread_facts(look, row, wait),
        evidence: thread_evidence(look, row, waits.len()),
        ..StateVerdict::seen(code, look.subject.clone(), true)
    }
}

fn judge_disk(look: &QemuLook<'_>, waits: &Waits<'_>) -> StateVerdict {
    let code = FindingCode::VmDiskStalled;
    let storage_wait = waits.iter().find_map(|(first, row)| {
        let wait = classify(row);
        Some((*first, *row, wait, wait.storage?))
    });
    let Some((first, row, wait, storage)) = storage_wait else {
        return StateVerdict::seen(code, look.subject.clone(), false);
    };
    let disks = disks_on(look.disks, storage);
    let mut evidence = thread_evidence(look, row, waits.len());
    evidence.extend(disks.iter().map(|disk| Evidence::new(SOURCE, look.at, disk_in_words(disk))));
    StateVerdict {
        hold_key: Some(hold_key(first, row)),
        since: Some(first),
        attributes: disk_facts(thread_facts(look, row, wait), &disks),
        evidence,
        ..StateVerdict::seen(code, look.subject.clone(), true)
    }
}

fn judge_stopped(look: &QemuLook<'_>) -> StateVerdict {
    let code = FindingCode::QemuStopped;
    let by = match look.leader {
        TaskState::Stopped => "by a signal",
        TaskState::Traced => "by a debugger",
        TaskState::Running
        | TaskState::Sleeping
        | TaskState::Uninterruptible
        | TaskState::Zombie
        | TaskState::Dead
        | TaskState::Idle
        | TaskState::Other(_) => return StateVerdict::seen(code, look.subject.clone(), false),
    };
    state_present(look, code, format!("QEMU {} is stopped {by} (state {})", look.pid, look.leader.letter()))
}

fn judge_zombie(look: &QemuLook<'_>) -> StateVerdict {
    let code = FindingCode::QemuZombie;
    if is_dead(look.leader) && n_alive(look) == 0 {
        return state_present(look, code, format!("QEMU {} has ended and its parent has not reaped it", look.pid));
    }
    StateVerdict::seen(code, look.subject.clone(), false)
}

fn judge_termination(look: &QemuLook<'_>) -> StateVerdict {
    let code = FindingCode::QemuTerminationPending;
    let n_alive = n_alive(look);
    if is_dead(look.leader) && n_alive > 0 {
        let text = format!("the main thread of QEMU {} has ended, {n_alive} of its threads cannot", look.pid);
        return state_present(look, code, text);
    }
    match look.pending {
        Some(PendingSignals { has_kill: true, .. }) => {
            let mut verdict =
                state_present(look, code, format!("SIGKILL was sent to QEMU {} and is not taken", look.pid));
            verdict.attributes = verdict.attributes.with(attribute::SIGNAL, SIGKILL);
            verdict
        }
        Some(PendingSignals { has_term: true, .. }) => {
            let mut verdict =
                state_present(look, code, format!("SIGTERM was sent to QEMU {} and is not taken", look.pid));
            verdict.attributes = verdict.attributes.with(attribute::SIGNAL, SIGTERM);
            verdict
        }
        Some(PendingSignals { has_kill: false, has_term: false }) => {
            StateVerdict::seen(code, look.subject.clone(), false)
        }
        None => StateVerdict::unknown(code, look.subject.clone(), "the signals of the process could not be read"),
    }
}

/// What is known of the end of a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit, or returned from main.
    Exited(u8),
    /// A signal ended it.
    Killed {
        /// Which.
        signal: u8,
    },
    /// The kernel does not tell (before 6.15).
    NotTold,
}

/// The QEMU of a VM ended.
#[must_use]
pub fn exited(subject: &Subject, pid: u32, at: Moment, ended: Ended) -> OccurrenceVerdict {
    let attributes = Attributes::new().with(attribute::PID, pid);
    let (attributes, text) = match ended {
        Ended::Exited(code) => {
            (attributes.with(attribute::EXIT_CODE, code), format!("QEMU {pid} exited with code {code}"))
        }
        Ended::Killed { signal } => (
            attributes.with(attribute::SIGNAL, signal),
            format!("QEMU {pid} was ended by signal {signal}{}", signal_name(signal)),
        ),
        Ended::NotTold => (attributes, format!("QEMU {pid} ended")),
    };
    OccurrenceVerdict {
        code: FindingCode::QemuExited,
        subject: subject.clone(),
        at,
        count: 1,
        attributes,
        evidence: vec![Evidence::new(SOURCE, at, text)],
    }
}

fn signal_name(signal: u8) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

fn is_dead(state: TaskState) -> bool {
    matches!(state, TaskState::Zombie | TaskState::Dead)
}

fn n_alive(look: &QemuLook<'_>) -> usize {
    look.threads.iter().filter(|thread| !is_dead(thread.state)).count()
}

fn state_present(look: &QemuLook<'_>, code: FindingCode, text: String) -> StateVerdict {
    StateVerdict {
        attributes: Attributes::new()
            .with(attribute::PID, look.pid)
            .with(attribute::PROCESS_STATE, look.leader.letter()),
        evidence: vec![Evidence::new(SOURCE, look.at, text)],
        ..StateVerdict::seen(code, look.subject.clone(), true)
    }
}

fn classify(row: &BlockedThread) -> Wait {
    wait::classify(row.thread.wchan.as_deref(), row.frames.as_deref().unwrap_or_default())
}

fn hold_key(first: Moment, row: &BlockedThread) -> String {
    let start = row.thread.start_time_ticks.unwrap_or_default();
    format!("{}@{start} {} {}", row.thread.tid, row.thread.wchan.as_deref().unwrap_or("?"), first.boottime_usec)
}

fn thread_facts(look: &QemuLook<'_>, row: &BlockedThread, wait: Wait) -> Attributes {
    Attributes::new()
        .with(attribute::PID, look.pid)
        .with(attribute::TID, row.thread.tid)
        .with(attribute::COMM, &row.thread.comm)
        .with(attribute::PROCESS_STATE, row.thread.state.letter())
        .with(attribute::WAIT, wait.kind)
        .with_some(attribute::WCHAN, row.thread.wchan.as_deref())
}

fn thread_evidence(look: &QemuLook<'_>, row: &BlockedThread, n_blocked: usize) -> Vec<Evidence> {
    let thread = &row.thread;
    let others = if n_blocked > 1 { format!(", one of {n_blocked} such threads") } else { String::new() };
    let wchan = thread.wchan.as_deref().unwrap_or("a function the kernel does not show");
    let text = format!("thread {} ({}) of QEMU {} is in state D in {wchan}{others}", thread.tid, thread.comm, look.pid);
    let mut evidence = vec![Evidence::new(SOURCE, look.at, text)];
    if let Some(frames) = row.frames.as_ref().filter(|frames| !frames.is_empty()) {
        let shown: Vec<&str> = frames.iter().take(MAX_FRAMES).map(String::as_str).collect();
        let frozen = if wait::is_frozen(thread.wchan.as_deref(), frames) {
            "; a writer waits there while the file system is frozen (fsfreeze, a snapshot or backup)"
        } else {
            ""
        };
        evidence.push(Evidence::new(SOURCE, look.at, format!("its kernel stack: {}{frozen}", shown.join(" < "))));
    }
    evidence
}

/// The disks that can be what is waited for: those on that kind of storage, or all that might be when none is.
fn disks_on(disks: &[QemuDisk], storage: Storage) -> Vec<&QemuDisk> {
    let fits = |row: &&QemuDisk| match (storage, row.disk.fstype.as_deref()) {
        (Storage::FileSystem(types), Some(fstype)) => types.iter().any(|prefix| fstype.starts_with(prefix)),
        (Storage::AnyFileSystem, fstype) => fstype.is_some(),
        (Storage::FileSystem(_), None) => false,
        (Storage::Block, fstype) => fstype.is_none(),
    };
    let fitting: Vec<&QemuDisk> = disks.iter().filter(fits).collect();
    if fitting.is_empty() && storage == Storage::Block {
        // Block functions alone: a file system above may have been left out of the stack.
        return disks.iter().filter(|row| row.disk.device.is_some()).collect();
    }
    fitting
}

/// Facts that all of `disks` share; the targets of all.
fn disk_facts(attributes: Attributes, disks: &[&QemuDisk]) -> Attributes {
    let shared = |value: fn(&Disk) -> Option<&String>| {
        let first = value(&disks.first()?.disk)?;
        disks.iter().all(|row| value(&row.disk) == Some(first)).then(|| first.clone())
    };
    let targets: Vec<&str> = disks.iter().filter_map(|row| row.target.as_deref()).collect();
    attributes
        .with_some(attribute::DEVICE, shared(|disk| disk.device.as_ref()))
        .with_some(attribute::DEVICE_NAME, shared(|disk| disk.device_name.as_ref()))
        .with_some(attribute::FSTYPE, shared(|disk| disk.fstype.as_ref()))
        .with_some(attribute::MOUNT_POINT, shared(|disk| disk.mount_point.as_ref()))
        .with_some(attribute::PATH, shared(|disk| Some(&disk.path)))
        .with_some(attribute::DISK, (!targets.is_empty()).then(|| targets.join(",")))
}

fn disk_in_words(row: &QemuDisk) -> String {
    let disk = &row.disk;
    let target = row.target.as_deref().map(|target| format!("disk {target}, ")).unwrap_or_default();
    let place = match (&disk.fstype, &disk.mount_point) {
        (Some(fstype), Some(mount_point)) => format!(" on {fstype} at {mount_point}"),
        (Some(fstype), None) => format!(" on {fstype}"),
        (None, _) => String::new(),
    };
    let device = match (&disk.device_name, &disk.device) {
        (Some(name), Some(number)) => format!(", device {name} ({number})"),
        (None, Some(number)) => format!(", device {number}"),
        (_, None) => String::new(),
    };
    format!("the VM has {target}{}{place}{device}", disk.path)
}

#[cfg(test)]
mod tests;
