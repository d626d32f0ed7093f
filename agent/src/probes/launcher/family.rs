//! Which processes belong to which launcher.
//!
//! The monitor and virt-launcher name the VMI in their arguments; a libvirt daemon and QEMU belong to the launcher of their pod, told
//! by the cgroup, or else to the one they descend from. Where the arguments cannot be read (they wait for the process's memory
//! map), virt-handler's ghost record tells whose pod it is. What never changes of a process is read once.
//! The same for recorded trees, which lack any of this: `kulprit_case`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kulprit_host::HostRoot;
use kulprit_host::cgroup::{CgroupMembership, PodCgroup, controller_directories, pod_of};
use kulprit_host::launcher::{GhostRecord, LauncherArgs, find_libvirt_socket};
use kulprit_host::process::{ProcessId, Procfs};

use super::census::{Resident, ResidentKind};
use crate::probes::{Launcher, LauncherCgroup};

/// Controllers whose directories others ask for.
const CONTROLLERS: [&str; 7] = ["memory", "cpu", "cpuset", "pids", "blkio", "devices", "hugetlb"];
/// How far up parents are followed: libvirt, launcher, monitor; a shell or init between.
const MAX_PARENTS: usize = 6;

/// What never changes of a process.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) resident: Resident,
    /// Its pod and container; `None` where the path shows none.
    pod: Option<PodCgroup>,
    cgroups: Vec<CgroupMembership>,
    /// Of a launcher, once they were read.
    pub(super) args: Option<LauncherArgs>,
}

impl Facts {
    /// Reads all but the arguments: never waits for the process. `None` when it has ended.
    pub(super) fn read(procfs: &Procfs, resident: &Resident) -> Option<Self> {
        let cgroups = match procfs.cgroups(resident.id.pid) {
            Ok(cgroups) => cgroups,
            Err(error) if error.is_not_found() => return None,
            // It is there, and its place is not known.
            Err(_) => Vec::new(),
        };
        Some(Self { resident: resident.clone(), pod: pod_of(&cgroups), cgroups, args: None })
    }

    pub(super) fn wants_args(&self) -> bool {
        self.resident.kind == ResidentKind::Launcher && self.args.is_none()
    }
}

/// Facts by process; shared, as each look hands them to its thread and back.
pub(super) type AllFacts = BTreeMap<ProcessId, Arc<Facts>>;

/// Whether there is a pod whose VMI neither the arguments of its launcher nor these records tell.
pub(super) fn has_unnamed(facts: &AllFacts, ghosts: &[GhostRecord]) -> bool {
    let named: Vec<&PodCgroup> =
        facts.values().filter(|of| of.args.is_some()).filter_map(|of| of.pod.as_ref()).collect();
    let is_named = |pod: &PodCgroup| {
        named.iter().any(|known| known.pod_uid == pod.pod_uid)
            || ghosts.iter().any(|ghost| ghost.pod_uid.as_ref() == Some(&pod.pod_uid))
    };
    facts.values().filter_map(|of| of.pod.as_ref()).any(|pod| !is_named(pod))
}

/// One launcher and its processes.
#[derive(Clone, Debug)]
pub(super) struct Family {
    pub(super) row: Launcher,
    pub(super) monitor: Option<ProcessId>,
    pub(super) launcher: Option<ProcessId>,
    pub(super) libvirt: Option<ProcessId>,
}

/// Sorts the processes by launcher, by the VMI's UID and the oldest pid. Those of nobody's pod are left out.
pub(super) fn families(procfs: &Procfs, facts: &AllFacts, ghosts: &[GhostRecord]) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for of in facts.values().filter(|of| of.resident.kind == ResidentKind::Launcher) {
        let Some(identity) = identity(of, ghosts) else { continue };
        let found = families.iter_mut().find(|family| is_same(family, &identity, of.pod.as_ref()));
        let family = match found {
            Some(family) => family,
            None => {
                families.push(new_family(&identity, of));
                families.last_mut().expect("just pushed")
            }
        };
        let is_monitor = of.args.as_ref().map_or(of.resident.comm != "virt-launcher", |args| args.is_monitor);
        *if is_monitor { &mut family.monitor } else { &mut family.launcher } = Some(of.resident.id);
    }
    for of in facts.values().filter(|of| of.resident.kind != ResidentKind::Launcher) {
        let by_pod =
            |family: &Family| of.pod.is_some() && family.row.pod_uid == of.pod.as_ref().map(|pod| pod.pod_uid.clone());
        let mut at = families.iter().position(by_pod);
        if at.is_none() && of.pod.is_some() {
            // Its launcher is gone: virt-handler may still know whose pod it is.
            at = identity(of, ghosts).map(|identity| {
                families.push(new_family(&identity, of));
                families.len() - 1
            });
        } else if at.is_none() {
            at = by_parents(procfs, of.resident.id.pid, &families);
        }
        let Some(family) = at.map(|at| &mut families[at]) else { continue };
        match of.resident.kind {
            ResidentKind::Qemu => family.row.qemu_pids.push(of.resident.id.pid),
            // The older one: a child of it that becomes QEMU has its name for a moment.
            ResidentKind::Libvirt if family.libvirt.is_none_or(|known| older(of.resident.id, known)) => {
                family.libvirt = Some(of.resident.id);
            }
            ResidentKind::Libvirt | ResidentKind::Launcher => {}
        }
    }
    for family in &mut families {
        let members = family.monitor.iter().chain(&family.launcher).chain(&family.libvirt);
        let oldest = members.copied().reduce(|one, other| if older(other, one) { other } else { one });
        if let Some(oldest) = family.monitor.or(family.launcher).or(oldest) {
            (family.row.pid, family.row.start_ticks) = (oldest.pid, oldest.start_time_ticks);
        }
        family.row.libvirt_pid = family.libvirt.map(|id| id.pid);
    }
    families.sort_by(|one, other| (&one.row.vmi_uid, one.row.pid).cmp(&(&other.row.vmi_uid, other.row.pid)));
    families
}

fn older(one: ProcessId, other: ProcessId) -> bool {
    (one.start_time_ticks, one.pid) < (other.start_time_ticks, other.pid)
}

/// The same pod; where cgroups show none, the same VMI.
fn is_same(family: &Family, identity: &LauncherArgs, pod: Option<&PodCgroup>) -> bool {
    family.row.vmi_uid == identity.vmi_uid && family.row.pod_uid.as_ref() == pod.map(|pod| &pod.pod_uid)
}

fn new_family(identity: &LauncherArgs, of: &Facts) -> Family {
    let row = Launcher {
        vmi_uid: identity.vmi_uid.to_ascii_lowercase(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        pod_uid: of.pod.as_ref().map(|pod| pod.pod_uid.clone()),
        container_id: of.pod.as_ref().and_then(|pod| pod.container_id.clone()),
        pid: of.resident.id.pid,
        start_ticks: of.resident.id.start_time_ticks,
        is_nonroot: identity.is_nonroot,
        ..Launcher::default()
    };
    Family { row, monitor: None, launcher: None, libvirt: None }
}

/// Whose it is: by its arguments, else by the ghost record of its pod.
fn identity(of: &Facts, ghosts: &[GhostRecord]) -> Option<LauncherArgs> {
    of.args.clone().or_else(|| {
        let pod = &of.pod.as_ref()?.pod_uid;
        let ghost = ghosts.iter().find(|ghost| ghost.pod_uid.as_ref() == Some(pod))?;
        Some(LauncherArgs {
            is_monitor: of.resident.comm != "virt-launcher",
            namespace: ghost.namespace.clone(),
            name: ghost.name.clone(),
            vmi_uid: ghost.vmi_uid.clone(),
            // Its libvirt's owner will tell, see [`complete`].
            is_nonroot: false,
        })
    })
}

/// The family of a process outside of pods that descends from a launcher.
fn by_parents(procfs: &Procfs, pid: u32, families: &[Family]) -> Option<usize> {
    if families.is_empty() {
        return None;
    }
    let mut pid = pid;
    for _ in 0..MAX_PARENTS {
        pid = procfs.stat(pid).ok()?.ppid;
        let is_member = |id: &Option<ProcessId>| id.is_some_and(|id| id.pid == pid);
        let found = families.iter().position(|family| is_member(&family.monitor) || is_member(&family.launcher));
        if found.is_some() || pid <= 1 {
            return found;
        }
    }
    None
}

/// Where the launcher's libvirt listens, and the directories of its container's cgroup. Looks into the container's file systems.
pub(super) fn complete(row: &mut Launcher, procfs: &Procfs, host: &HostRoot, prefix: Option<&str>, facts: &AllFacts) {
    let of = facts.get(&ProcessId { pid: row.pid, start_time_ticks: row.start_ticks });
    if let Some(libvirt) = row.libvirt_pid {
        if of.is_none_or(|of| of.args.is_none()) {
            row.is_nonroot = procfs.status(libvirt).is_ok_and(|status| status.uid != Some(0));
        }
        row.libvirt_socket = find_libvirt_socket(&HostRoot::new(procfs.path().join(row.pid.to_string()).join("root")));
    }
    if let Some(of) = of {
        row.cgroups = cgroups(host, &of.cgroups, prefix);
    }
}

/// Of each controller the directory that is there. `prefix` is where the node's own root lies in our view of the hierarchies.
fn cgroups(host: &HostRoot, rows: &[CgroupMembership], prefix: Option<&str>) -> Vec<LauncherCgroup> {
    let is_there = |directory: &Path| host.list(directory).is_ok();
    let first = |rows: &[CgroupMembership], controller: &str| {
        controller_directories(rows, prefix, controller).into_iter().find(|directory| is_there(directory))
    };
    let (v2, v1): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(|row| row.hierarchy == 0);
    let named = CONTROLLERS.iter().filter_map(|controller| Some(((*controller).to_owned(), first(&v1, controller)?)));
    let unified = first(&v2, "").map(|directory| (String::new(), directory));
    named.chain(unified).map(|(controller, directory)| LauncherCgroup { controller, directory }).collect()
}
