//! The `qemu` probe: every QEMU of the node, its end by pidfd, its threads by procfs.
//!
//! A look reads the state of each thread of each known QEMU and looks for new ones: every 4 s, every 1 s while a thread is
//! blocked or the VM is a suspect, and at once when libvirt says that a domain started. Reading runs on a blocking thread, one
//! for threads and one for identities, because a command line cannot be read while its process hangs with its memory map
//! locked: such a QEMU is known by libvirt's pidfile, or by its pid alone.

mod identity;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kulprit_host::ReadError;
use kulprit_host::pidfd::{Exit, ProcessWatch};
use kulprit_host::process::{ProcessId, Procfs};
use kulprit_judge::qemu::{Ended, QemuLook, ThreadHistory, exited, judge};
use kulprit_judge::{StateVerdict, Verdict};
use kulprit_model::catalogue::{CATALOGUE, Kind};
use kulprit_model::{FindingCode, Moment, Qemu, Subject};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use self::identity::{Identity, identify};
use self::scan::{Scan, Scanner};
use super::blocking::{Blocking, Late};
use super::counters::count;
use super::launcher::ResidentKind;
use super::{DiskTarget, ProbeContext, ProbeSpec, chain};
use crate::look::{Look, Sighting};

const NAME: &str = "qemu";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether each VM's QEMU runs, hangs in the kernel, is stopped, or has ended.",
    sources: "pidfd; /proc/loadavg, /proc/PID/{stat,status,cgroup,cmdline,mountinfo,fdinfo}, /proc/PID/task/*/{stat,wchan,stack,status}; /run/libvirt/qemu/*.pid; /sys/dev/block",
    needs: "the host's pid namespace; CAP_SYS_PTRACE for kernel stacks, open files and wait channels of other users; Linux 6.15 for exit codes",
    lost_without: "which call a thread hangs in, and which disks a QEMU has, without CAP_SYS_PTRACE; exit code and signal on older kernels",
    look_every: Duration::from_secs(4),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes about 1 ms for ten VMs.
const SCAN_DEADLINE: Duration = Duration::from_secs(4);
/// Reading a command line that can be read takes microseconds.
const IDENTITY_DEADLINE: Duration = Duration::from_secs(1);
/// A parent reaps within microseconds; the death is not told later than this for want of its reason.
const REAP_DEADLINE: Duration = Duration::from_millis(30);
/// A new libvirt domain's process is looked for after so long: its command line stands when the event comes.
const STARTED_SETTLE: Duration = Duration::from_millis(10);
/// A census of this age is of the same beat.
const SAME_BEAT: Duration = Duration::from_millis(500);

/// A QEMU we know.
struct Tracked {
    id: ProcessId,
    subject: Subject,
    identity: Identity,
    /// libvirt's disks when the identity was made.
    targets: Vec<DiskTarget>,
    since: Moment,
    /// Whether all this was said: it is said again when it has changed.
    is_told: bool,
    history: ThreadHistory,
    has_blocked_thread: bool,
    /// Its end has been told; it is a zombie that stays.
    has_ended: bool,
}

type Exits = JoinSet<(ProcessId, Result<Option<Exit>, ReadError>)>;

struct Probe {
    context: ProbeContext,
    procfs: Procfs,
    tracked: BTreeMap<ProcessId, Tracked>,
    exits: Exits,
    scanner: Option<Scanner>,
    scanning: Blocking,
    identifying: Blocking,
}

async fn run(context: ProbeContext) {
    let procfs = Procfs::new(&context.config.procfs);
    let mut probe = Probe {
        procfs,
        tracked: BTreeMap::new(),
        exits: JoinSet::new(),
        scanner: None,
        scanning: context.blocking(),
        identifying: context.blocking(),
        context,
    };
    if probe.context.once {
        probe.look_once().await;
        return;
    }
    let mut max_age = SAME_BEAT;
    loop {
        let look = probe.look(max_age).await;
        if !probe.context.send(look).await {
            return;
        }
        let next = probe.context.beat.next(probe.period());
        max_age = SAME_BEAT;
        // Deaths are told at once, between looks.
        loop {
            let context = &probe.context;
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return,
                Some(ended) = probe.exits.join_next() => {
                    let Ok((id, exit)) = ended else { continue };
                    let look = probe.on_exit(id, exit);
                    if let Some(look) = look && !probe.context.send(look).await {
                        return;
                    }
                }
                () = context.vms.started.notified() => {
                    tokio::time::sleep(STARTED_SETTLE).await;
                    max_age = Duration::ZERO;
                    break;
                }
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

impl Probe {
    fn period(&self) -> Duration {
        let config = &self.context.config;
        let suspects = self.context.suspects.borrow();
        let is_close = |row: &Tracked| {
            row.has_blocked_thread || row.identity.uid.as_ref().is_some_and(|uid| suspects.contains(uid))
        };
        if self.tracked.values().any(is_close) { config.blocked_every.get() } else { config.qemu_every.get() }
    }

    /// One look for `check`: a thread in D state is looked at until its hold is over, so that a passing wait is no finding.
    async fn look_once(&mut self) {
        let hold = Duration::from_millis(u64::from(FindingCode::QemuThreadBlocked.spec().raise_after_ms));
        let until = Instant::now() + hold;
        loop {
            let mut look = self.look(SAME_BEAT).await;
            let is_held = Instant::now() >= until;
            if is_held || !self.tracked.values().any(|row| row.has_blocked_thread) {
                drop_young(&mut look);
                self.context.send(look).await;
                return;
            }
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return,
                () = tokio::time::sleep(self.context.config.blocked_every.get()) => {}
            }
        }
    }

    /// `max_age` is that of the census.
    async fn look(&mut self, max_age: Duration) -> Look {
        let draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let (vms, procfs) = (Arc::clone(&self.context.vms), self.procfs.clone());
        let filter = self.context.config.cgroup_filter();
        let known: Vec<ProcessId> = self.tracked.keys().copied().collect();
        let new = || Scanner::new(&self.procfs);
        let scan = move |scanner: &mut Scanner| {
            let pass = vms.census.take(&procfs, &filter, max_age)?;
            let qemus = pass.residents.iter().filter(|row| row.kind == ResidentKind::Qemu).map(|row| row.id);
            Ok::<_, ReadError>((scanner.scan(qemus, &known), pass.n_errors))
        };
        let (Scan { found, threads }, n_errors) =
            match self.scanning.run_with(SCAN_DEADLINE, &mut self.scanner, new, scan).await {
                Ok(Ok(scan)) => scan,
                Ok(Err(error)) => {
                    count(&self.context.counters.errors, 1);
                    return draft.blind(chain(&error)).end(&self.context.clock);
                }
                Err(Late { for_secs }) => {
                    return draft
                        .blind(format!("reading procfs has not returned for {for_secs} s"))
                        .end(&self.context.clock);
                }
            };
        count(&self.context.counters.errors, u64::try_from(n_errors).unwrap_or(u64::MAX));
        let mut gone = Vec::new();
        for id in found {
            self.track(id, at).await;
        }
        gone.extend(self.identify_again().await);

        let mut verdicts = Vec::new();
        for (id, read) in threads {
            let Some(row) = self.tracked.get_mut(&id) else {
                // Nobody's VM (libvirt asks QEMU what it can), and it has ended.
                if read.is_err_and(|error| error.is_not_found()) {
                    self.context.vms.census.forget(id);
                }
                continue;
            };
            match read {
                Ok(read) => {
                    self.context.vms.set_threads(id.pid, read.threads.iter().map(|thread| thread.tid).collect());
                    row.has_blocked_thread = !read.blocked.is_empty();
                    let look = QemuLook {
                        at,
                        subject: &row.subject,
                        pid: id.pid,
                        leader: read.leader,
                        threads: &read.threads,
                        blocked: &read.blocked,
                        pending: read.pending,
                        disks: &row.identity.disks,
                    };
                    verdicts.extend(judge(&look, &mut row.history));
                }
                Err(error) if error.is_not_found() => {
                    // Its pidfd tells too, unless there is none or the zombie was told already.
                    let is_told = row.has_ended;
                    let row = self.tracked.remove(&id).expect("found just now");
                    self.context.vms.census.forget(id);
                    if !is_told {
                        self.context.vms.set_ended(id.pid, id.start_time_ticks, at);
                        verdicts.push(Verdict::Occurrence(exited(&row.subject, id.pid, at, Ended::NotTold)));
                    }
                    verdicts.extend(all_absent(&row.subject));
                    gone.push(process_subject(id));
                }
                Err(error) => {
                    count(&self.context.counters.errors, 1);
                    verdicts.extend(kulprit_judge::qemu::unknown(&row.subject, &chain(&error)));
                }
            }
        }
        let sightings: Vec<Sighting> = self.tracked.values_mut().filter_map(Tracked::sighting).collect();
        draft.verdicts(verdicts).sightings(sightings).gone(gone).end(&self.context.clock)
    }

    /// Begins to watch a QEMU that was found, unless it is none of a VM.
    async fn track(&mut self, id: ProcessId, at: Moment) {
        let Some((identity, targets)) = self.identity(id).await else { return };
        match ProcessWatch::open(&self.procfs, id) {
            Ok(watch) if !self.context.once => {
                self.exits.spawn(async move {
                    let exit = watch.exit(REAP_DEADLINE).await;
                    (id, exit)
                });
            }
            Ok(_) => {}
            Err(error) if error.is_not_found() => return,
            Err(error) => debug!(probe = NAME, error = %chain(&error), "the end of a QEMU is polled, not watched"),
        }
        let subject = self.subject_of(id, &identity);
        let row = Tracked {
            id,
            subject,
            identity,
            targets,
            since: at,
            is_told: false,
            history: ThreadHistory::default(),
            has_blocked_thread: false,
            has_ended: false,
        };
        self.tracked.insert(id, row);
        self.context.vms.changed.notify_one();
    }

    /// Who it is; `None` when it is no VM's (libvirt asks QEMU itself what it can).
    async fn identity(&mut self, id: ProcessId) -> Option<(Identity, Vec<DiskTarget>)> {
        let (procfs, host) = (self.procfs.clone(), self.context.host.clone());
        let vms = Arc::clone(&self.context.vms);
        let launchers = Arc::clone(&self.context.launchers.borrow());
        let read = self.identifying.run(IDENTITY_DEADLINE, move || identify(&procfs, &host, &vms, &launchers, id));
        match read.await {
            Ok(identity) => identity,
            Err(Late { .. }) => {
                count(&self.context.counters.errors, 1);
                Some((self.identity_without_waiting(id), Vec::new()))
            }
        }
    }

    /// What can be said of a process that cannot be asked.
    fn identity_without_waiting(&self, id: ProcessId) -> Identity {
        let launchers = Arc::clone(&self.context.launchers.borrow());
        match identity::in_launcher(&self.procfs, &launchers, id) {
            Some(launcher) => identity::of_launcher(launcher),
            None => identity::from_pidfile(&self.context.host, &self.context.vms, id),
        }
    }

    /// Asks again for those that could not be told, and those whose disks have changed; returns subjects that are no more.
    async fn identify_again(&mut self) -> Vec<Subject> {
        let vms = &self.context.vms;
        let launchers = Arc::clone(&self.context.launchers.borrow());
        let is_anothers = |row: &Tracked, uid: &String| {
            launchers.by_qemu(row.id.pid).is_some_and(|launcher| launcher.vmi_uid != *uid)
        };
        let is_stale = |row: &&Tracked| match &row.identity.uid {
            None => !row.has_ended,
            Some(uid) => vms.disks(uid) != row.targets || is_anothers(row, uid),
        };
        let stale: Vec<ProcessId> = self.tracked.values().filter(is_stale).map(|row| row.id).collect();
        let mut gone = Vec::new();
        for id in stale {
            let Some((identity, targets)) = self.identity(id).await else { continue };
            let subject = self.subject_of(id, &identity);
            let Some(row) = self.tracked.get_mut(&id) else { continue };
            if identity.uid.is_some() || row.identity.uid.is_none() {
                if row.subject != subject {
                    gone.push(std::mem::replace(&mut row.subject, subject));
                }
                (row.identity, row.targets, row.is_told) = (identity, targets, false);
            }
        }
        gone
    }

    fn subject_of(&self, id: ProcessId, identity: &Identity) -> Subject {
        match &identity.uid {
            Some(uid) => {
                self.context.vms.insert(id.pid, id.start_time_ticks, uid);
                Subject::vm(uid.as_str())
            }
            None => process_subject(id),
        }
    }

    /// The pidfd told that a QEMU ended.
    fn on_exit(&mut self, id: ProcessId, exit: Result<Option<Exit>, ReadError>) -> Option<Look> {
        let draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let row = self.tracked.get_mut(&id)?;
        if std::mem::replace(&mut row.has_ended, true) {
            return None;
        }
        let ended = match exit {
            Ok(Some(Exit::Code(code))) => Ended::Exited(code),
            Ok(Some(Exit::Signal { number, .. })) => Ended::Killed { signal: number },
            Ok(None) => Ended::NotTold,
            Err(error) => {
                debug!(probe = NAME, error = %chain(&error), "the end of a QEMU cannot be watched");
                row.has_ended = false;
                return None;
            }
        };
        self.context.vms.set_ended(id.pid, id.start_time_ticks, at);
        self.context.vms.changed.notify_one();
        let mut verdicts = vec![Verdict::Occurrence(exited(&row.subject, id.pid, at, ended))];
        // Not reaped: it stays to be looked at, as a zombie.
        let is_reaped = self.procfs.stat(id.pid).map_or(true, |stat| stat.id() != id);
        let mut gone = Vec::new();
        if is_reaped {
            self.context.vms.census.forget(id);
            verdicts.extend(all_absent(&row.subject));
            gone.push(process_subject(id));
            self.tracked.remove(&id);
        }
        Some(draft.verdicts(verdicts).gone(gone).end(&self.context.clock))
    }
}

impl Tracked {
    /// What it is, unless that was told.
    fn sighting(&mut self) -> Option<Sighting> {
        let uid = self.identity.uid.clone()?;
        if self.has_ended || std::mem::replace(&mut self.is_told, true) {
            return None;
        }
        Some(Sighting::Qemu(Qemu {
            uid,
            name: self.identity.name.clone(),
            pid: self.id.pid,
            start_ticks: self.id.start_time_ticks,
            since: self.since,
            disks: self.identity.disks.iter().map(|row| row.disk.clone()).collect(),
        }))
    }
}

fn process_subject(id: ProcessId) -> Subject {
    Subject::Process { pid: id.pid, start_ticks: id.start_time_ticks }
}

/// Every state of the probe is absent of a QEMU that is no more.
fn all_absent(subject: &Subject) -> Vec<Verdict> {
    let states = CATALOGUE.iter().filter(|spec| spec.probe == NAME && spec.kind == Kind::State);
    states.map(|spec| Verdict::State(StateVerdict::seen(spec.code, subject.clone(), false))).collect()
}

/// Takes back what has not lasted as long as its hold.
fn drop_young(look: &mut Look) {
    for verdict in &mut look.verdicts {
        if let Verdict::State(state) = verdict
            && let Some(since) = state.since
            && look.at.usec_since(since) < i64::from(state.code.spec().raise_after_ms) * 1_000
        {
            *state = StateVerdict::seen(state.code, state.subject.clone(), false);
        }
    }
}

#[cfg(test)]
mod tests;
