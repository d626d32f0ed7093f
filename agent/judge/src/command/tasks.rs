//! `ps`: how QEMUs, launchers, libvirt daemons, the kubelet and the runtime's shims are, and whose a QEMU is.
//!
//! A QEMU is its VM's by the launcher above it (`--uid`), else by the guest's name. A single look: a thread in D state counts
//! where its wait is one of storage, and is `Unknown` elsewhere. A dead leader whose threads live is a QEMU that cannot end
//! (KubeVirt's recordings: after SIGKILL the leader is a zombie and a thread is in D).

use std::collections::{BTreeMap, BTreeSet};

use kulprit_host::command::ps::{TaskRow, TaskTable};
use kulprit_host::kubelet_files::parse_kubelet_args;
use kulprit_host::process::{TaskState, Thread};
use kulprit_host::qemu::is_qemu_name;
use kulprit_model::{Attributes, FindingCode, Moment, Status, Subject, attribute};

use super::{absent, present};
use crate::kubelet::{ProcessSeen, judge_process};
use crate::qemu::{self, BlockedThread, QemuLook, ThreadHistory};
use crate::services::{KubeletSetup, judge_setup};
use crate::verdict::Verdict;
use crate::wait;

const SOURCE: &str = "ps";
/// Steps from QEMU up to its launcher's monitor.
const MAX_PARENTS: usize = 8;

/// A QEMU of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuTask {
    /// Its pid.
    pub pid: u32,
    /// The VM as subjects name it: the VMI's UID, `namespace/name`, or the domain's UUID. `None` where nothing tells.
    pub vm_uid: Option<String>,
    /// `-name guest=`.
    pub guest: Option<String>,
    /// Whether it is more than a zombie.
    pub is_alive: bool,
    /// Its command line, cut at spaces.
    pub args: Vec<String>,
}

/// A virt-launcher of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherTask {
    /// Pid of virt-launcher-monitor, or of the launcher where that is not listed.
    pub pid: u32,
    /// `--namespace`.
    pub namespace: String,
    /// `--name`.
    pub name: String,
    /// `--uid`.
    pub vmi_uid: String,
}

/// What a table tells.
#[derive(Clone, Debug, Default)]
pub struct TasksSeen {
    /// States.
    pub verdicts: Vec<Verdict>,
    /// QEMUs.
    pub qemus: Vec<QemuTask>,
    /// Launchers, one for each VM and container.
    pub launchers: Vec<LauncherTask>,
}

struct Group<'a> {
    leader: &'a TaskRow,
    rows: Vec<&'a TaskRow>,
}

/// Judges a table.
#[must_use]
pub fn judge(at: Moment, table: &TaskTable) -> TasksSeen {
    let mut groups: BTreeMap<u32, Group<'_>> = BTreeMap::new();
    for row in &table.rows {
        let group = groups.entry(row.pid).or_insert(Group { leader: row, rows: Vec::new() });
        group.rows.push(row);
        if row.is_leader() {
            group.leader = row;
        }
    }
    let mut seen = TasksSeen::default();
    let mut monitors: BTreeSet<(String, u32)> = BTreeSet::new();
    for (pid, group) in &groups {
        if let Some(launcher) = launcher_of(group.leader)
            && !is_below_launcher(&groups, group.leader)
            && monitors.insert((launcher.vmi_uid.clone(), *pid))
        {
            seen.launchers.push(LauncherTask { pid: *pid, ..launcher });
        }
    }
    for (pid, group) in &groups {
        let program = group.leader.program();
        let comm = group.leader.comm.as_str();
        if is_qemu_name(program) || is_qemu_name(comm) {
            qemu(at, *pid, group, &groups, table.has_threads, &mut seen);
        } else if is_libvirt(program) {
            libvirt(at, group, &groups, &mut seen.verdicts);
        } else if program == "virt-launcher" {
            launcher(at, group, &mut seen.verdicts);
        } else if program.starts_with("containerd-shim") || comm.starts_with("containerd-shim") || program == "conmon" {
            shim(at, group, &mut seen.verdicts);
        } else if matches!(program, "kubelet" | "k3s" | "k3s-server" | "k3s-agent" | "rke2" | "hyperkube") {
            seen.verdicts.extend(kubelet(at, *pid, program, group));
            seen.verdicts.extend(kubelet_setup(at, kubelet_unit(program), &group.leader.args));
        } else if matches!(program, "containerd" | "crio" | "cri-o" | "dockerd") {
            runtime(at, program, group, &mut seen.verdicts);
        } else if program == "virt-handler" && is_stopped(group.leader) {
            let facts = task_facts(group.leader).with(attribute::REASON, "Stopped");
            let text = format!("virt-handler ({pid}) is stopped by a signal (state T)");
            seen.verdicts.push(present(FindingCode::VirtHandlerNotReady, Subject::Node, at, SOURCE, facts, text));
        }
    }
    missing(at, &groups, table, &mut seen);
    seen
}

fn launcher_of(row: &TaskRow) -> Option<LauncherTask> {
    let is_launcher = matches!(row.program(), "virt-launcher-monitor" | "virt-launcher")
        || row
            .args
            .split_whitespace()
            .take(4)
            .any(|word| word.ends_with("/virt-launcher") || word.ends_with("/virt-launcher-monitor"));
    if !is_launcher {
        return None;
    }
    Some(LauncherTask {
        pid: row.pid,
        namespace: row.option("--namespace")?.to_owned(),
        name: row.option("--name")?.to_owned(),
        vmi_uid: row.option("--uid")?.to_owned(),
    })
}

fn above<'a>(groups: &'a BTreeMap<u32, Group<'a>>, row: &TaskRow) -> impl Iterator<Item = &'a TaskRow> + use<'a> {
    let mut next = row.ppid;
    std::iter::from_fn(move || {
        let parent = groups.get(&next.filter(|pid| *pid > 1)?)?.leader;
        next = parent.ppid;
        Some(parent)
    })
    .take(MAX_PARENTS)
}

fn is_below_launcher(groups: &BTreeMap<u32, Group<'_>>, row: &TaskRow) -> bool {
    above(groups, row).any(|parent| launcher_of(parent).is_some())
}

fn launcher_above(groups: &BTreeMap<u32, Group<'_>>, row: &TaskRow) -> Option<LauncherTask> {
    above(groups, row).find_map(launcher_of)
}

fn is_libvirt(program: &str) -> bool {
    matches!(program, "virtqemud" | "libvirtd")
}

fn is_stopped(row: &TaskRow) -> bool {
    matches!(row.state, Some(TaskState::Stopped | TaskState::Traced))
}

fn is_dead(row: &TaskRow) -> bool {
    matches!(row.state, Some(TaskState::Zombie | TaskState::Dead))
}

fn is_blocked(row: &TaskRow) -> bool {
    row.state == Some(TaskState::Uninterruptible)
}

fn task_facts(row: &TaskRow) -> Attributes {
    Attributes::new()
        .with(attribute::PID, row.pid)
        .with(attribute::COMM, &row.comm)
        .with_some(attribute::PROCESS_STATE, row.state.map(TaskState::letter))
        .with_some(attribute::WCHAN, row.wchan.as_deref())
}

fn qemu(
    at: Moment,
    pid: u32,
    group: &Group<'_>,
    groups: &BTreeMap<u32, Group<'_>>,
    has_threads: bool,
    seen: &mut TasksSeen,
) {
    let args: Vec<String> = group.leader.args.split_whitespace().map(str::to_owned).collect();
    let line = kulprit_host::qemu::parse_command_line(&args);
    let vm_uid = launcher_above(groups, group.leader).map(|launcher| launcher.vmi_uid).or_else(|| {
        // KubeVirt's domains are `namespace_name`; what has no launcher above it may have lost it.
        let kubevirt =
            line.name.as_deref().and_then(|name| name.split_once('_')).filter(|_| !seen.launchers.is_empty());
        kubevirt.map(|(namespace, name)| format!("{namespace}/{name}")).or_else(|| line.uuid.clone())
    });
    let subject = vm_uid.clone().map_or(Subject::Process { pid, start_ticks: 0 }, Subject::vm);
    let thread = |row: &&TaskRow| Thread {
        tid: row.tid.unwrap_or(row.pid),
        comm: row.comm.clone(),
        state: row.state.unwrap_or(TaskState::Other('?')),
        wchan: row.wchan.clone(),
        start_time_ticks: None,
        utime_ticks: None,
        stime_ticks: None,
    };
    let threads: Vec<Thread> = group.rows.iter().map(thread).collect();
    let is_leader_dead = is_dead(group.leader);
    if group.leader.state.is_some() {
        let blocked: Vec<BlockedThread> = threads
            .iter()
            .filter(|thread| thread.state == TaskState::Uninterruptible)
            .map(|thread| BlockedThread { thread: thread.clone(), frames: None, switches_total: None })
            .collect();
        let look = QemuLook {
            at,
            subject: &subject,
            pid,
            leader: threads[group.rows.iter().position(|row| row.is_leader()).unwrap_or(0)].state,
            threads: &threads,
            blocked: &blocked,
            pending: None,
            disks: &[],
        };
        let verdicts = qemu::judge(&look, &mut ThreadHistory::default());
        seen.verdicts
            .extend(verdicts.into_iter().filter_map(|verdict| single_look(verdict, has_threads, is_leader_dead)));
    }
    emulation(at, &subject, group, &mut seen.verdicts);
    let is_alive = !is_leader_dead || group.rows.iter().any(|row| !is_dead(row));
    seen.qemus.push(QemuTask { pid, vm_uid, guest: line.name, is_alive, args });
}

/// What a single look does not tell becomes `Unknown`, and what `ps` cannot tell at all is not said.
fn single_look(verdict: Verdict, has_threads: bool, is_leader_dead: bool) -> Option<Verdict> {
    use FindingCode::{QemuTerminationPending, QemuThreadBlocked, QemuZombie, VmDiskStalled};
    let Verdict::State(mut state) = verdict else { return Some(verdict) };
    match (state.code, state.status) {
        (QemuTerminationPending, Status::Unknown) => return None,
        // Without the threads, a dead leader may hide one that is blocked; and a leader that sleeps says nothing of the others.
        (QemuZombie, Status::Present) | (QemuThreadBlocked | VmDiskStalled, Status::Absent) if !has_threads => {
            let because = if is_leader_dead {
                "the leader of QEMU is dead, and its threads are not listed"
            } else {
                "the threads of QEMU are not listed"
            };
            state = crate::StateVerdict::unknown(state.code, state.subject, because);
        }
        (QemuThreadBlocked, Status::Present) => {
            let wait = state.attributes.get(attribute::WAIT).unwrap_or_default();
            let is_storage = matches!(wait, attribute::WAIT_LOCAL_STORAGE | attribute::WAIT_NETWORK_STORAGE);
            if !is_storage && !is_leader_dead {
                let text = state.evidence.first().map(|line| line.text.clone()).unwrap_or_default();
                let because = format!("seen once, which may be a moment of normal life: {text}");
                state = crate::StateVerdict::unknown(state.code, state.subject, because);
            }
        }
        _ => {}
    }
    if state.status == Status::Present {
        state.attributes = state.attributes.with(attribute::FIRST_LOOK, true);
        state.since = None;
        for line in &mut state.evidence {
            line.source = SOURCE.to_owned();
        }
    }
    Some(Verdict::State(state))
}

fn emulation(at: Moment, subject: &Subject, group: &Group<'_>, out: &mut Vec<Verdict>) {
    let code = FindingCode::SoftwareEmulation;
    let vcpu = |suffix: &str| group.rows.iter().find(|row| row.comm.starts_with("CPU ") && row.comm.ends_with(suffix));
    if let Some(row) = vcpu("/TCG") {
        out.push(present(
            code,
            subject.clone(),
            at,
            SOURCE,
            task_facts(row),
            format!("a vCPU thread of QEMU {} is called {}", row.pid, row.comm),
        ));
    } else if vcpu("/KVM").is_some() {
        out.push(absent(code, subject.clone()));
    }
}

/// A process that is stopped, dead, or blocked on storage; in words.
fn defunct_words(row: &TaskRow) -> Option<&'static str> {
    match row.state? {
        TaskState::Stopped => Some("stopped by a signal"),
        TaskState::Traced => Some("stopped by a debugger"),
        TaskState::Zombie | TaskState::Dead => Some("dead and not reaped"),
        TaskState::Uninterruptible if wait::classify(row.wchan.as_deref(), &[]).storage.is_some() => {
            Some("blocked in the kernel")
        }
        _ => None,
    }
}

fn text_of(row: &TaskRow, words: &str) -> String {
    let wchan =
        row.wchan.as_deref().filter(|_| is_blocked(row)).map(|wchan| format!(" in {wchan}")).unwrap_or_default();
    let letter = row.state.map(TaskState::letter).unwrap_or('?');
    format!("{} ({}) is {words}{wchan} (state {letter})", row.program(), row.pid)
}

fn libvirt(at: Moment, group: &Group<'_>, groups: &BTreeMap<u32, Group<'_>>, out: &mut Vec<Verdict>) {
    let uri = launcher_above(groups, group.leader)
        .map_or_else(|| "qemu:///system".to_owned(), |launcher| format!("launcher/{}", launcher.vmi_uid));
    let vmi = launcher_above(groups, group.leader).map(|launcher| launcher.vmi_uid);
    let subject = Subject::Libvirt { uri };
    // Systemd reaps the host's own daemon: a dead one that stays is of a pod nobody knows, which may be gone.
    if vmi.is_none() && is_dead(group.leader) {
        return;
    }
    let Some(words) = defunct_words(group.leader) else {
        if group.leader.state.is_some() && !is_blocked(group.leader) {
            out.push(absent(FindingCode::LibvirtUnreachable, subject));
        }
        return;
    };
    let code = if is_dead(group.leader) { FindingCode::LibvirtUnreachable } else { FindingCode::LibvirtUnresponsive };
    let facts = task_facts(group.leader).with_some(attribute::VMI, vmi);
    out.push(present(code, subject, at, SOURCE, facts, text_of(group.leader, words)));
}

fn launcher(at: Moment, group: &Group<'_>, out: &mut Vec<Verdict>) {
    let Some(launcher) = launcher_of(group.leader) else { return };
    let subject = Subject::vm(launcher.vmi_uid);
    match defunct_words(group.leader) {
        Some(words) => {
            let text = text_of(group.leader, words);
            out.push(present(FindingCode::LauncherDefunct, subject, at, SOURCE, task_facts(group.leader), text));
        }
        None if group.leader.state.is_some() => out.push(absent(FindingCode::LauncherDefunct, subject)),
        None => {}
    }
}

fn shim(at: Moment, group: &Group<'_>, out: &mut Vec<Verdict>) {
    let stuck = group.rows.iter().find(|row| is_blocked(row) || is_stopped(row)).copied();
    let Some(row) = stuck.or_else(|| is_dead(group.leader).then_some(group.leader)) else { return };
    let words = if is_blocked(row) { "blocked in the kernel" } else { defunct_words(row).unwrap_or("stuck") };
    let subject = Subject::Process { pid: row.pid, start_ticks: 0 };
    let facts = task_facts(row).with_some(attribute::CONTAINER, group.leader.option("-id"));
    out.push(present(FindingCode::RuntimeShimStuck, subject, at, SOURCE, facts, text_of(row, words)));
}

fn kubelet_unit(program: &str) -> &'static str {
    match program {
        "k3s" | "k3s-server" => "k3s.service",
        "k3s-agent" => "k3s-agent.service",
        "rke2" => "rke2-agent.service",
        _ => "kubelet.service",
    }
}

/// A kubelet's command line that shows a setup which KubeVirt cannot use. A command line without a word about it proves nothing:
/// the configuration file was not seen.
#[must_use]
pub fn kubelet_setup(at: Moment, unit: &str, command_line: &str) -> Option<Verdict> {
    let words: Vec<String> = command_line.split_whitespace().map(str::to_owned).collect();
    let setup = KubeletSetup { args: parse_kubelet_args(&words), ..KubeletSetup::default() };
    let verdict = judge_setup(at, unit, &setup);
    matches!(&verdict, Verdict::State(state) if state.status == Status::Present).then_some(verdict)
}

fn kubelet(at: Moment, pid: u32, program: &str, group: &Group<'_>) -> Option<Verdict> {
    let unit = kubelet_unit(program);
    let state = group.leader.state?;
    // Blocked at one look is no stall unless on storage.
    if is_blocked(group.leader) && defunct_words(group.leader).is_none() {
        return None;
    }
    let mut verdict = judge_process(at, unit, &ProcessSeen::Runs { pid, state, wchan: group.leader.wchan.clone() });
    if let Verdict::State(state) = &mut verdict
        && state.status == Status::Present
    {
        state.attributes = std::mem::take(&mut state.attributes).with(attribute::FIRST_LOOK, true);
    }
    Some(verdict)
}

fn runtime(at: Moment, program: &str, group: &Group<'_>, out: &mut Vec<Verdict>) {
    let Some(words) = defunct_words(group.leader) else { return };
    let unit = if program.starts_with("cri") { "crio.service" } else { "containerd.service" };
    let text = text_of(group.leader, words);
    out.push(present(
        FindingCode::RuntimeUnresponsive,
        Subject::unit(unit),
        at,
        SOURCE,
        task_facts(group.leader),
        text,
    ));
}

/// What a complete table does not have and should: a launcher's libvirt daemon, its virt-launcher; and what it has twice.
fn missing(at: Moment, groups: &BTreeMap<u32, Group<'_>>, table: &TaskTable, seen: &mut TasksSeen) {
    let TasksSeen { verdicts, qemus, launchers } = seen;
    for launcher in launchers.iter().filter(|_| table.is_complete) {
        let has_qemu = qemus.iter().any(|qemu| qemu.is_alive && qemu.vm_uid.as_deref() == Some(&launcher.vmi_uid));
        let below = |is_wanted: &dyn Fn(&TaskRow) -> bool| {
            groups
                .values()
                .any(|group| is_wanted(group.leader) && above(groups, group.leader).any(|row| row.pid == launcher.pid))
        };
        let is_monitor =
            groups.get(&launcher.pid).is_some_and(|group| group.leader.program() == "virt-launcher-monitor");
        if !has_qemu {
            continue;
        }
        if !below(&|row| is_libvirt(row.program())) {
            let subject = Subject::Libvirt { uri: format!("launcher/{}", launcher.vmi_uid) };
            let facts = Attributes::new().with(attribute::VMI, &launcher.vmi_uid);
            let text = format!(
                "no libvirt daemon below the launcher of {}/{}, whose QEMU lives",
                launcher.namespace, launcher.name
            );
            verdicts.push(present(FindingCode::LibvirtUnreachable, subject, at, SOURCE, facts, text));
        }
        if is_monitor && !below(&|row| row.program() == "virt-launcher") {
            let subject = Subject::vm(launcher.vmi_uid.as_str());
            let text = format!("virt-launcher of {}/{} is gone and QEMU lives", launcher.namespace, launcher.name);
            verdicts.push(present(FindingCode::LauncherDefunct, subject, at, SOURCE, Attributes::new(), text));
        }
    }
    let mut by_vm: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for qemu in qemus.iter().filter(|qemu| qemu.is_alive) {
        if let Some(uid) = &qemu.vm_uid {
            by_vm.entry(uid).or_default().push(qemu.pid);
        }
    }
    for (uid, pids) in by_vm {
        let code = FindingCode::TwoQemus;
        if pids.len() > 1 {
            let text = format!("QEMUs {} and {} are of one VM", pids[0], pids[1]);
            verdicts.push(present(code, Subject::vm(uid), at, SOURCE, Attributes::new(), text));
        } else if table.is_complete {
            verdicts.push(absent(code, Subject::vm(uid)));
        }
    }
}
