//! Which captured processes belong to which VM.
//!
//! The launcher's monitor and virt-launcher name the VMI's UID in their arguments. Others are found by their parents, by the pod of
//! their cgroup, by virt-handler's ghost records, and last by the domain's name; a QEMU that none of these tells of keeps the UUID
//! of its command line.

use std::collections::BTreeMap;

use kulprit_host::captured::{CapturedProcess, read_captured};
use kulprit_host::cgroup::pod_of;
use kulprit_host::launcher::{LauncherArgs, is_libvirt_daemon, parse_launcher_args, read_ghost_records};
use kulprit_host::qemu::{CommandLine, is_qemu_name, parse_command_line};
use kulprit_judge::services::service_of;

use super::Tree;
use crate::gathered::{LauncherSeen, Problem};

/// How far up parents are followed: QEMU, monitor; libvirt, launcher, monitor; a shell or init between.
const MAX_PARENTS: usize = 6;

/// The processes of a tree that anybody asks about.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// All of them, ascending by pid.
    pub(super) rows: Vec<CapturedProcess>,
    /// Those of VMs, by the VMI's UID.
    pub(super) families: BTreeMap<String, Family>,
    /// QEMUs whose VM is not known.
    pub(super) strays: Vec<QemuProcess>,
    /// libvirt's daemons outside of launchers.
    pub(super) host_libvirt: Vec<CapturedProcess>,
}

/// The processes of one VM on this node.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) monitor: Option<CapturedProcess>,
    pub(super) launcher: Option<CapturedProcess>,
    pub(super) libvirt: Option<CapturedProcess>,
    pub(super) qemus: Vec<QemuProcess>,
    /// UID of the pod, from any member's cgroup or a ghost record.
    pub(super) pod_uid: Option<String>,
}

impl Family {
    /// Its members, QEMU first.
    pub(super) fn members(&self) -> impl Iterator<Item = &CapturedProcess> {
        let qemus = self.qemus.iter().map(|qemu| &qemu.process);
        qemus.chain(&self.launcher).chain(&self.monitor).chain(&self.libvirt)
    }
}

/// A QEMU and what it was started with.
#[derive(Debug)]
pub(super) struct QemuProcess {
    pub(super) process: CapturedProcess,
    /// `None` when it has no arguments, or none were saved.
    pub(super) command_line: Option<CommandLine>,
}

fn is_wanted(name: &str) -> bool {
    // A comm is cut at 15 bytes: `virt-launcher-m`.
    is_qemu_name(name)
        || is_libvirt_daemon(name)
        || name.starts_with("virt-launcher")
        || name == "virt-handler"
        || service_of(name).is_some()
}

/// Who somebody is, as far as a process or file tells.
struct Identities {
    by_pid: BTreeMap<u32, LauncherArgs>,
    by_pod: BTreeMap<String, String>,
    /// Domain's name to UID; `None` where two VMIs had that name.
    by_domain: BTreeMap<String, Option<String>>,
}

/// Reads the processes and sorts them by VM. Launchers are told to the tree.
pub(super) fn read_processes(tree: &mut Tree<'_>) -> Processes {
    let captured = match read_captured(tree.root, is_wanted) {
        Ok(captured) => captured,
        Err(error) => {
            tree.problem(&error);
            return Processes::default();
        }
    };
    for error in &captured.errors {
        tree.problem(error);
    }
    if captured.is_cut {
        let why = format!("only the first {} processes were read", captured.processes.len());
        tree.note(Problem { file: "root/proc".into(), line: None, why });
    }
    let identities = identify(tree, &captured.processes);
    let parents: BTreeMap<u32, u32> =
        captured.processes.iter().filter_map(|process| Some((process.pid, process.ppid?))).collect();
    let mut processes = Processes::default();
    for process in &captured.processes {
        let is_qemu = is_qemu_name(&process.comm) || is_qemu_name(process.program());
        let is_libvirt = is_libvirt_daemon(&process.comm);
        // Its arguments tell whose it is; its name, that it is there at all.
        let is_launcher = process.comm.starts_with("virt-launcher") || identities.by_pid.contains_key(&process.pid);
        if !is_qemu && !is_libvirt && !is_launcher {
            continue;
        }
        let command_line = (is_qemu && !process.args.is_empty()).then(|| parse_command_line(&process.args));
        if is_capability_probe(command_line.as_ref()) {
            continue;
        }
        let uid = uid_of(process, command_line.as_ref(), &identities, &parents);
        let Some(uid) = uid else {
            if is_launcher {
                continue;
            }
            if is_qemu {
                processes.strays.push(QemuProcess { process: process.clone(), command_line });
            } else if pod_of(&process.cgroups).is_none() {
                processes.host_libvirt.push(process.clone());
            }
            continue;
        };
        let family = processes.families.entry(uid.clone()).or_default();
        let pod_of_it = pod_of(&process.cgroups).map(|pod| pod.pod_uid);
        family.pod_uid = family.pod_uid.take().or(pod_of_it);
        let process = process.clone();
        let is_monitor = match identities.by_pid.get(&process.pid) {
            Some(args) => args.is_monitor,
            None => process.comm.starts_with("virt-launcher-"),
        };
        match () {
            () if is_qemu => family.qemus.push(QemuProcess { process, command_line }),
            () if is_libvirt => family.libvirt = newest(family.libvirt.take(), process),
            () if is_monitor => family.monitor = newest(family.monitor.take(), process),
            () => family.launcher = newest(family.launcher.take(), process),
        }
    }
    for (uid, family) in &mut processes.families {
        let by_record = || identities.by_pod.iter().find(|(_, of)| *of == uid).map(|(pod, _)| pod.clone());
        family.pod_uid = family.pod_uid.take().or_else(by_record);
        let first = family.monitor.iter().chain(&family.launcher);
        let args = first.filter_map(|process| Some((process.pid, identities.by_pid.get(&process.pid)?))).next();
        tree.gathered.launchers.extend(args.map(|(pid, args)| LauncherSeen {
            pid,
            namespace: args.namespace.clone(),
            name: args.name.clone(),
            vmi_uid: uid.clone(),
            pod_uid: family.pod_uid.clone(),
        }));
    }
    processes.rows = captured.processes;
    processes
}

/// Of two pods of one VMI the younger one counts: the older one is on its way out.
fn newest(known: Option<CapturedProcess>, other: CapturedProcess) -> Option<CapturedProcess> {
    match known {
        Some(known) if known.start_time_ticks > other.start_time_ticks => Some(known),
        _ => Some(other),
    }
}

fn identify(tree: &mut Tree<'_>, processes: &[CapturedProcess]) -> Identities {
    let mut identities = Identities { by_pid: BTreeMap::new(), by_pod: BTreeMap::new(), by_domain: BTreeMap::new() };
    let (records, errors) = read_ghost_records(tree.root);
    for error in &errors {
        tree.problem(error);
    }
    for record in records.into_iter().filter(|record| is_uuid(&record.vmi_uid)) {
        identities.add(&record.namespace, &record.name, &record.vmi_uid, record.pod_uid);
    }
    for process in processes {
        // Half a command line may hold half a UID.
        let args = parse_launcher_args(&process.args).filter(|args| is_uuid(&args.vmi_uid));
        let Some(args) = args else { continue };
        let pod_uid = pod_of(&process.cgroups).map(|pod| pod.pod_uid);
        identities.add(&args.namespace, &args.name, &args.vmi_uid, pod_uid);
        identities.by_pid.insert(process.pid, args);
    }
    identities
}

impl Identities {
    fn add(&mut self, namespace: &str, name: &str, vmi_uid: &str, pod_uid: Option<String>) {
        if let Some(pod_uid) = pod_uid {
            self.by_pod.insert(pod_uid, vmi_uid.to_owned());
        }
        let known = self.by_domain.entry(format!("{namespace}_{name}")).or_insert_with(|| Some(vmi_uid.to_owned()));
        if known.as_deref() != Some(vmi_uid) {
            *known = None;
        }
    }
}

fn uid_of(
    process: &CapturedProcess,
    command_line: Option<&CommandLine>,
    identities: &Identities,
    parents: &BTreeMap<u32, u32>,
) -> Option<String> {
    let mut pid = process.pid;
    for _ in 0..MAX_PARENTS {
        if let Some(args) = identities.by_pid.get(&pid) {
            return Some(args.vmi_uid.clone());
        }
        let Some(parent) = parents.get(&pid) else { break };
        pid = *parent;
    }
    let by_pod = || identities.by_pod.get(&pod_of(&process.cgroups)?.pod_uid).cloned();
    let by_domain = || identities.by_domain.get(command_line?.name.as_ref()?).cloned().flatten();
    by_pod().or_else(by_domain)
}

fn is_uuid(text: &str) -> bool {
    let is_part = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, length)| is_part(part, length))
}

/// libvirt starts QEMUs that run no machine, to learn what they can.
fn is_capability_probe(command_line: Option<&CommandLine>) -> bool {
    command_line.is_some_and(|line| line.machine.as_deref() == Some("none") && line.uuid.is_none())
}
