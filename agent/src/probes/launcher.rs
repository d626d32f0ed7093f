//! The `launcher` probe: every virt-launcher of the node, whose VM it runs and how it does.
//!
//! It makes the snapshot of launchers that other probes take VMs, pods and cgroups from. Processes come from the census that the
//! `qemu` probe counts too; a launcher's end is told by its pidfd, at once. What may wait runs on two threads: one for what the
//! kernel answers from memory (and the names in a launcher's folders), one for arguments, which wait for the process's memory map.
//! Nothing of a pod is kept open; the command socket is connected to and left, as virt-handler does.

mod census;
mod family;
mod links;
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kulprit_host::launcher::{
    CommandSocket, GhostRecord, LauncherArgs, Taps, is_marked_unresponsive, parse_launcher_args, read_ghost_records,
    try_command_socket,
};
use kulprit_host::pidfd::ProcessWatch;
use kulprit_host::process::{CgroupFilter, ProcessId, Procfs};
use kulprit_host::qemu::parse_command_line;
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Verdict;
use kulprit_judge::launcher::{LauncherLook, Member, judge_count, judge_emulation, judge_links, judge_own};
use kulprit_judge::recorded::Health;
use kulprit_model::{Moment, Status, Subject};
use tokio::task::JoinSet;

use self::family::{AllFacts, Facts, Family, complete, families, has_unnamed};
use self::links::TapReader;
use self::members::MemberReader;
use super::blocking::{Blocking, Late};
use super::counters::count;
use super::{Launcher, Launchers, ProbeContext, ProbeSpec, Suspects, VmIndex, VmProcess, chain};
use crate::look::Look;

pub(super) use census::{Census, ResidentKind};

const NAME: &str = "launcher";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether each virt-launcher of the node runs and answers, and has what its VM needs.",
    sources: "/proc/loadavg; /proc/PID/{stat,cgroup,cmdline,wchan} of launchers, libvirt daemons and QEMUs, /proc/PID/task/*/stat of suspect VMs' launchers; pidfd; virt-handler's ghost records; each launcher's command socket and its marker; /proc/PID/{fdinfo,net/dev} of QEMUs, their /sys/class/net/*/carrier",
    needs: "the host's pid and cgroup namespaces; root for sockets below /proc/PID/root",
    lost_without: "command sockets and interfaces of launchers without root; pods by cgroup where another cgroup namespace hides the paths",
    look_every: Duration::from_secs(4),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes 0.1 ms and as much for each launcher.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);
/// Reading arguments that can be read takes microseconds.
const ARGS_DEADLINE: Duration = Duration::from_secs(1);
/// A census of this age is of the same beat.
const SAME_BEAT: Duration = Duration::from_millis(500);
/// Looks between two connections to a command socket; virt-handler makes one every 11 s.
const LOOKS_OF_SOCKET: u64 = 3;
/// Looks between two at the taps of QEMUs: some 40 links are read for each.
const LOOKS_OF_LINKS: u64 = 5;
/// After so many looks a VM's emulation is asked for again, should its first answer have been unknown.
const MAX_EMULATION_LOOKS: u32 = 15;

/// What one look brought back from its thread.
struct Seen {
    facts: AllFacts,
    families: Vec<Family>,
    members: BTreeMap<ProcessId, Member>,
    /// By pod.
    marks: BTreeMap<String, bool>,
    sockets: BTreeMap<String, CommandSocket>,
    n_errors: usize,
}

/// What a look's thread is given.
struct Question {
    facts: AllFacts,
    known: Arc<Launchers>,
    /// Whose threads are all looked at; `None`: everybody's.
    close: Option<Arc<Suspects>>,
    tries_sockets: bool,
    max_age: Duration,
}

struct Probe {
    context: ProbeContext,
    procfs: Procfs,
    facts: AllFacts,
    /// Command sockets as of the last time they were tried, by pod.
    sockets: BTreeMap<String, CommandSocket>,
    emulation: BTreeMap<(u32, u64), Emulation>,
    watched: BTreeSet<ProcessId>,
    ends: JoinSet<ProcessId>,
    looking: Blocking,
    members: Option<MemberReader>,
    reading_args: Blocking,
    taps: Option<TapReader>,
    n_looks: u64,
}

/// Whether a QEMU runs without KVM: decided once.
struct Emulation {
    verdict: Verdict,
    n_tries: u32,
}

async fn run(context: ProbeContext) {
    let mut probe = Probe {
        procfs: Procfs::new(&context.config.procfs),
        facts: AllFacts::new(),
        sockets: BTreeMap::new(),
        emulation: BTreeMap::new(),
        watched: BTreeSet::new(),
        ends: JoinSet::new(),
        looking: context.blocking(),
        members: None,
        reading_args: context.blocking(),
        taps: None,
        n_looks: 0,
        context,
    };
    let mut max_age = SAME_BEAT;
    loop {
        let look = probe.look(max_age).await;
        if !probe.context.send(look).await || probe.context.once {
            return;
        }
        let next = probe.context.beat.next(SPEC.look_every);
        tokio::select! {
            biased;
            () = probe.context.stop.cancelled() => return,
            Some(ended) = probe.ends.join_next() => {
                if let Ok(id) = ended {
                    probe.watched.remove(&id);
                    probe.context.vms.census.forget(id);
                }
                max_age = Duration::ZERO;
            }
            () = probe.context.vms.changed.notified() => max_age = Duration::ZERO,
            () = tokio::time::sleep_until(next) => max_age = SAME_BEAT,
        }
    }
}

impl Probe {
    async fn look(&mut self, max_age: Duration) -> Look {
        let draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let tries_sockets = self.n_looks.is_multiple_of(LOOKS_OF_SOCKET);
        self.n_looks += 1;
        let question = Question {
            facts: self.facts.clone(),
            known: Arc::clone(&self.context.launchers.borrow()),
            close: (!self.context.once).then(|| Arc::clone(&self.context.suspects.borrow())),
            tries_sockets,
            max_age,
        };
        let seen = match self.see(question).await {
            Ok(seen) => seen,
            Err(because) => return draft.blind(because).end(&self.context.clock),
        };
        count(&self.context.counters.errors, u64::try_from(seen.n_errors).unwrap_or(u64::MAX));
        if tries_sockets {
            self.sockets.clone_from(&seen.sockets);
        }
        self.facts.clone_from(&seen.facts);
        let gone = self.publish(&seen.families);
        self.watch();
        let mut verdicts = self.judge(at, &seen);
        verdicts.extend(self.judge_qemus(at).await);
        if (self.n_looks - 1).is_multiple_of(LOOKS_OF_LINKS) {
            verdicts.extend(self.judge_taps(at).await);
        }
        draft.verdicts(verdicts).gone(gone).end(&self.context.clock)
    }

    /// The processes and how they do; twice where arguments had to be read in between.
    async fn see(&mut self, mut question: Question) -> Result<Seen, String> {
        let mut has_read_args = false;
        loop {
            let (procfs, host) = (self.procfs.clone(), self.context.host.clone());
            let (vms, config) = (Arc::clone(&self.context.vms), Arc::clone(&self.context.config));
            let (known, close) = (Arc::clone(&question.known), question.close.clone());
            let (tries_sockets, max_age) = (question.tries_sockets, question.max_age);
            let new = || MemberReader::new(&self.procfs);
            let look = move |members: &mut MemberReader| {
                look_at(&procfs, &host, &vms, config.cgroup_prefix.as_deref(), members, question)
            };
            let mut seen = match self.looking.run_with(LOOK_DEADLINE, &mut self.members, new, look).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(error)) => {
                    count(&self.context.counters.errors, 1);
                    return Err(chain(&error));
                }
                Err(Late { for_secs }) => return Err(format!("reading procfs has not returned for {for_secs} s")),
            };
            let unread: Vec<u32> =
                seen.facts.values().filter(|of| of.wants_args()).map(|of| of.resident.id.pid).collect();
            if has_read_args || unread.is_empty() {
                return Ok(seen);
            }
            has_read_args = true;
            for (pid, args) in self.read_args(unread).await {
                if let Some(of) = seen.facts.values_mut().find(|of| of.resident.id.pid == pid) {
                    Arc::make_mut(of).args = Some(args);
                }
            }
            question = Question { facts: seen.facts, known, close, tries_sockets, max_age: max_age.max(SAME_BEAT) };
        }
    }

    /// The arguments of launchers. One that hangs hides the others until it returns; ghost records then tell whose they are.
    async fn read_args(&mut self, pids: Vec<u32>) -> Vec<(u32, LauncherArgs)> {
        let procfs = self.procfs.clone();
        let read = move || {
            let args = |pid: u32| Some((pid, parse_launcher_args(&procfs.command_line(pid).ok()?)?));
            pids.into_iter().filter_map(args).collect()
        };
        match self.reading_args.run(ARGS_DEADLINE, read).await {
            Ok(found) => found,
            Err(Late { .. }) => {
                count(&self.context.counters.errors, 1);
                Vec::new()
            }
        }
    }

    /// Shows the launchers to the other probes; the VMs that are no more on this node.
    fn publish(&self, families: &[Family]) -> Vec<Subject> {
        let rows: Vec<Launcher> = families.iter().map(|family| family.row.clone()).collect();
        let known = Arc::clone(&self.context.launchers.borrow());
        let has_qemu = |uid: &str| self.context.vms.running().iter().any(|(_, vm)| vm.uid == uid);
        let gone: BTreeSet<&str> = known
            .rows
            .iter()
            .map(|row| row.vmi_uid.as_str())
            .filter(|uid| !rows.iter().any(|row| row.vmi_uid == *uid) && !has_qemu(uid))
            .collect();
        let gone = gone.into_iter().map(Subject::vm).collect();
        // The first snapshot is one also where it is empty.
        if known.rows != rows || self.n_looks == 1 {
            self.context.launchers.send_replace(Arc::new(Launchers { rows }));
        }
        gone
    }

    /// Waits for the end of each launcher's first process.
    fn watch(&mut self) {
        if self.context.once {
            return;
        }
        for row in &self.context.launchers.borrow().rows {
            let id = ProcessId { pid: row.pid, start_time_ticks: row.start_ticks };
            if !self.watched.contains(&id)
                && let Ok(watch) = ProcessWatch::open(&self.procfs, id)
            {
                self.watched.insert(id);
                self.ends.spawn(async move {
                    // How it ended is the container runtime's to tell.
                    let _ = watch.exit(Duration::ZERO).await;
                    id
                });
            }
        }
    }

    fn judge(&self, at: Moment, seen: &Seen) -> Vec<Verdict> {
        let member = |id: &Option<ProcessId>| id.and_then(|id| seen.members.get(&id).cloned());
        // Of two pods of one VMI the younger one counts: the older one is on its way out.
        let newest: BTreeMap<&str, &Family> = seen.families.iter().fold(BTreeMap::new(), |mut newest, family| {
            let uid = family.row.vmi_uid.as_str();
            let known: Option<&&Family> = newest.get(uid);
            if known.is_none_or(|known| known.row.start_ticks <= family.row.start_ticks) {
                newest.insert(uid, family);
            }
            newest
        });
        let look = |family: &&Family| {
            let row = &family.row;
            let pod = row.pod_uid.as_deref().unwrap_or_default();
            let qemus: Vec<u32> = seen
                .families
                .iter()
                .filter(|other| other.row.vmi_uid == row.vmi_uid)
                .flat_map(|other| other.row.qemu_pids.clone())
                .collect();
            judge_own(&LauncherLook {
                at,
                vmi_uid: &row.vmi_uid,
                monitor: member(&family.monitor),
                launcher: member(&family.launcher),
                libvirt: member(&family.libvirt),
                qemus: &qemus,
                is_marked_unresponsive: seen.marks.get(pod).copied(),
                command: self.sockets.get(pod).copied(),
                is_live: true,
                has_job: self.context.vms.has_job(&row.vmi_uid),
            })
        };
        newest.values().flat_map(look).collect()
    }

    /// `SoftwareEmulation` of every QEMU, and `TwoQemus` of VMs without a launcher.
    async fn judge_qemus(&mut self, at: Moment) -> Vec<Verdict> {
        let running = self.context.vms.running();
        self.emulation.retain(|key, _| running.iter().any(|(pid, vm)| (*pid, vm.start_ticks) == *key));
        let launchers = Arc::clone(&self.context.launchers.borrow());
        let mut by_vm: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (pid, vm) in &running {
            by_vm.entry(&vm.uid).or_default().push(*pid);
            let key = (*pid, vm.start_ticks);
            let known = self.emulation.get(&key).map(|known| known.n_tries);
            if known.is_some_and(|n_tries| n_tries >= MAX_EMULATION_LOOKS) {
                continue;
            }
            let (procfs, subject, pid) = (self.procfs.clone(), Subject::vm(vm.uid.as_str()), *pid);
            let judged = self.reading_args.run(ARGS_DEADLINE, move || emulation(&procfs, &subject, pid, at)).await;
            let Ok(verdict) = judged else { continue };
            let is_known = matches!(&verdict, Verdict::State(state) if state.status != Status::Unknown);
            let n_tries = if is_known { MAX_EMULATION_LOOKS } else { known.unwrap_or_default() + 1 };
            self.emulation.insert(key, Emulation { verdict, n_tries });
        }
        let has_launcher = |uid: &str| launchers.by_vmi(uid).next().is_some();
        let counts = by_vm
            .iter()
            .filter(|(uid, _)| !has_launcher(uid))
            .filter_map(|(uid, pids)| judge_count(&Subject::vm(*uid), at, pids, self.context.vms.has_job(uid)));
        counts.chain(self.emulation.values().map(|known| known.verdict.clone())).collect()
    }
}

impl Probe {
    /// `VmLinkLost` of every QEMU.
    async fn judge_taps(&mut self, at: Moment) -> Vec<Verdict> {
        let launchers = Arc::clone(&self.context.launchers.borrow());
        let running = self.context.vms.running();
        let new = || TapReader::new(&self.procfs);
        let judge = move |taps: &mut TapReader| {
            let id = |(pid, vm): &(u32, Arc<VmProcess>)| ProcessId { pid: *pid, start_time_ticks: vm.start_ticks };
            let qemus: Vec<(ProcessId, bool)> =
                running.iter().map(|row| (id(row), launchers.by_qemu(row.0).is_some())).collect();
            let of = |((_, vm), taps): (&(u32, Arc<VmProcess>), Result<Taps, ReadError>)| {
                let is_gone = matches!(&taps, Err(error) if error.is_not_found());
                let taps = taps.map_err(|error| chain(&error));
                (!is_gone).then(|| judge_links(&Subject::vm(vm.uid.as_str()), at, &taps))
            };
            running.iter().zip(taps.read(&qemus)).filter_map(of).collect()
        };
        self.reading_args.run_with(ARGS_DEADLINE, &mut self.taps, new, judge).await.unwrap_or_default()
    }
}

/// By the names of QEMU's threads, or by what it was told.
fn emulation(procfs: &Procfs, subject: &Subject, pid: u32, at: Moment) -> Verdict {
    let threads = procfs.threads(pid).unwrap_or_default();
    let is_told = threads.iter().any(|thread| thread.comm.starts_with("CPU "));
    let line = (!is_told).then(|| procfs.command_line(pid).unwrap_or_default());
    let accelerators = line.map(|args| parse_command_line(&args).accelerators).unwrap_or_default();
    judge_emulation(subject, at, &threads, &Ok(None), &accelerators)
}

fn look_at(
    procfs: &Procfs,
    host: &HostRoot,
    vms: &VmIndex,
    prefix: Option<&str>,
    member_reader: &mut MemberReader,
    question: Question,
) -> Result<Seen, ReadError> {
    let Question { mut facts, known, close, tries_sockets, max_age } = question;
    let filter = prefix.map_or(CgroupFilter::All, |prefix| CgroupFilter::Under(prefix.to_owned()));
    let pass = vms.census.take(procfs, &filter, max_age)?;
    let mut n_errors = pass.n_errors;
    // A process's name may have become another one since.
    facts.retain(|id, of| {
        let at = pass.residents.binary_search_by_key(&id.pid, |resident| resident.id.pid);
        at.is_ok_and(|at| pass.residents[at] == of.resident)
    });
    for resident in pass.residents.iter() {
        if !facts.contains_key(&resident.id) {
            facts.extend(Facts::read(procfs, resident).map(|of| (resident.id, Arc::new(of))));
        }
    }
    // What was known of a pod stays known when its launcher is gone.
    let mut ghosts: Vec<GhostRecord> = known.rows.iter().map(as_ghost).collect();
    // Nodes without a launcher have none; to arguments they add nothing.
    if has_unnamed(&facts, &ghosts) {
        let (records, errors) = read_ghost_records(host);
        ghosts.extend(records);
        n_errors += errors.len();
    }
    let mut families = families(procfs, &facts, &ghosts);
    for Family { row, .. } in &mut families {
        let before = known.rows.iter().find(|known| (known.pid, known.start_ticks) == (row.pid, row.start_ticks));
        match before.filter(|known| known.libvirt_pid == row.libvirt_pid && known.libvirt_socket.is_some()) {
            Some(known) => {
                row.libvirt_socket.clone_from(&known.libvirt_socket);
                row.cgroups.clone_from(&known.cgroups);
                row.is_nonroot = known.is_nonroot;
            }
            None => complete(row, procfs, host, prefix, &facts),
        }
    }
    // Threads are some forty of a launcher: they are read where there is a reason to.
    let is_close = |family: &&Family| close.as_ref().is_none_or(|uids| uids.contains(&family.row.vmi_uid));
    let closely: BTreeSet<ProcessId> =
        families.iter().filter(is_close).flat_map(|family| [family.monitor, family.launcher]).flatten().collect();
    let mut members = BTreeMap::new();
    member_reader.retain(&facts);
    for of in facts.values().filter(|of| of.resident.kind != ResidentKind::Qemu) {
        match member_reader.read(of, closely.contains(&of.resident.id)) {
            Some(member) => drop(members.insert(of.resident.id, member)),
            None => vms.census.forget(of.resident.id),
        }
    }
    let pods: Vec<String> = families.iter().filter_map(|family| family.row.pod_uid.clone()).collect();
    let marks = pods.iter().filter_map(|pod| Some((pod.clone(), is_marked_unresponsive(host, pod)?))).collect();
    let mut sockets = BTreeMap::new();
    // A launcher that is stopped takes no connection: ours would be one more in its queue.
    let runs = |id: &ProcessId| members.get(id).is_some_and(|member| member.health == Some(Health::Runs));
    let asked = families.iter().filter(|family| tries_sockets && family.launcher.as_ref().is_some_and(runs));
    for pod in asked.filter_map(|family| family.row.pod_uid.as_ref()) {
        match try_command_socket(host, pod) {
            Ok(socket) => sockets.extend(socket.map(|socket| (pod.clone(), socket))),
            Err(_) => n_errors += 1,
        }
    }
    Ok(Seen { facts, families, members, marks, sockets, n_errors })
}

fn as_ghost(row: &Launcher) -> GhostRecord {
    GhostRecord {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        vmi_uid: row.vmi_uid.clone(),
        pod_uid: row.pod_uid.clone(),
    }
}

#[cfg(test)]
mod tests;
