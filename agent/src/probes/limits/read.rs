//! What the `limits` probe reads, on its blocking thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kulprit_host::cgroup::{PidsCgroup, controller_directories, read_pids_cgroup};
use kulprit_host::cpu::read_task_count;
use kulprit_host::hugepages::read_hugepages;
use kulprit_host::limits::{InotifyCounter, Usage, read_aio_usage, read_conntrack_usage, read_file_usage, read_number};
use kulprit_host::process::Procfs;
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Reading;
use kulprit_judge::limits::{KernelLimit, NodeLimitsLook, ProcessUse};
use kulprit_model::Moment;

use crate::probes::{ProbeConfig, ProbeContext, chain};

/// Inotify of the user that has used most of each limit.
pub(super) type InotifyRows = Vec<KernelLimit>;

/// Where the kubelet puts all pods, below a hierarchy's root; nested ones are found by their launchers.
const KUBEPODS: [&str; 4] = ["kubepods", "kubepods.slice", "kubelet/kubepods", "kubelet.slice/kubelet-kubepods.slice"];
/// Hierarchies that have the pids controller.
const HIERARCHIES: [&str; 3] = ["sys/fs/cgroup/pids", "sys/fs/cgroup", "sys/fs/cgroup/unified"];

/// Looks between two at all cgroups around a VM's: a pod gets its limit when it is made.
const LOOKS_OF_CGROUP: u32 = 10;

/// One VM and where it is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VmPlace {
    pub(super) uid: String,
    /// Cgroups with the pids controller, as its launcher's row says; empty on a plain host.
    directories: Vec<PathBuf>,
    /// QEMU first.
    pub(super) pids: Vec<u32>,
}

#[cfg(test)]
impl VmPlace {
    pub(super) fn of(uid: &str) -> Self {
        Self { uid: uid.to_owned(), directories: Vec::new(), pids: Vec::new() }
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its `at` is not set; inotify is not in it.
    pub(super) node: NodeLimitsLook,
    /// `None` when it was not due.
    pub(super) inotify: Option<InotifyRows>,
    pub(super) vms: Vec<VmSeen>,
    pub(super) n_errors: u64,
}

/// What was read of one VM.
#[derive(Debug)]
pub(super) struct VmSeen {
    pub(super) place: VmPlace,
    pub(super) pids: Reading<(String, PidsCgroup)>,
    pub(super) processes: Vec<ProcessUse>,
    /// Why nothing could be read.
    pub(super) error: Option<String>,
}

/// The VMs that run now.
pub(super) fn places(context: &ProbeContext) -> Vec<VmPlace> {
    let launchers = context.launchers.borrow().clone();
    let mut places: Vec<VmPlace> = Vec::new();
    for (pid, process) in context.vms.running() {
        if places.iter().any(|place| place.uid == process.uid) {
            continue;
        }
        let row = launchers.by_qemu(pid);
        let is_pids = |controller: &str| controller.is_empty() || controller.split(',').any(|name| name == "pids");
        let directories = row.map(|row| {
            row.cgroups.iter().filter(|row| is_pids(&row.controller)).map(|row| row.directory.clone()).collect()
        });
        let others = row.map(|row| row.libvirt_pid.into_iter().chain([row.pid]).collect::<Vec<_>>());
        let pids = std::iter::once(pid).chain(others.unwrap_or_default()).collect();
        places.push(VmPlace { uid: process.uid.clone(), directories: directories.unwrap_or_default(), pids });
    }
    places
}

/// Remembers where each VM's limits are.
#[derive(Debug)]
pub(super) struct Reader {
    host: HostRoot,
    procfs: Procfs,
    prefix: Option<String>,
    inotify: InotifyCounter,
    by_uid: BTreeMap<String, Known>,
}

/// What is known of one VM.
#[derive(Debug)]
struct Known {
    place: VmPlace,
    /// Its cgroup whose limit counts.
    pids: Option<PathBuf>,
    n_looks: u32,
}

impl Reader {
    pub(super) fn new(host: &HostRoot, config: &ProbeConfig) -> Self {
        let (procfs, prefix) = (Procfs::new(&config.procfs), config.cgroup_prefix.clone());
        let inotify = InotifyCounter::new(&procfs);
        Self { host: host.clone(), procfs, prefix, inotify, by_uid: BTreeMap::new() }
    }

    pub(super) fn read(&mut self, places: &[VmPlace], is_inotify_due: bool) -> Seen {
        let mut n_errors = 0;
        let node = read_node(&self.host, places, &mut n_errors);
        let inotify = is_inotify_due.then(|| read_inotify(&self.host, &mut self.inotify));
        self.by_uid.retain(|_, known| places.contains(&known.place));
        Seen { node, inotify, vms: places.iter().filter_map(|place| self.read_vm(place)).collect(), n_errors }
    }

    /// `None` when its QEMU has ended.
    fn read_vm(&mut self, place: &VmPlace) -> Option<VmSeen> {
        let mut seen = VmSeen {
            place: place.clone(),
            pids: Err("its cgroup has no `pids.current`".to_owned()),
            processes: Vec::new(),
            error: None,
        };
        let qemu = *place.pids.first()?;
        match self.read_pids(place, qemu) {
            Ok(Some(row)) => seen.pids = Ok(row),
            Ok(None) => {}
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                seen.error = Some(chain(&error));
                return Some(seen);
            }
        }
        for pid in &place.pids {
            match process_use(&self.procfs, *pid) {
                Ok(process) => seen.processes.push(process),
                Err(error) if error.is_not_found() && *pid == qemu => return None,
                Err(error) if error.is_not_found() => {}
                Err(error) => seen.error = Some(chain(&error)),
            }
        }
        Some(seen)
    }

    /// The cgroup whose limit counts; which one that is is found out every so many looks, and when it is gone.
    fn read_pids(&mut self, place: &VmPlace, qemu: u32) -> Result<Option<(String, PidsCgroup)>, ReadError> {
        if let Some(known) = self.by_uid.get_mut(&place.uid).filter(|known| known.n_looks < LOOKS_OF_CGROUP) {
            known.n_looks += 1;
            match &known.pids {
                None => return Ok(None),
                Some(path) => {
                    if let Ok(pids) = read_pids_cgroup(&self.host, path) {
                        return Ok(Some((shown(path), pids)));
                    }
                }
            }
        }
        let found = self.find_pids(place, qemu)?;
        let pids = found.as_ref().map(|(path, _)| path.clone());
        self.by_uid.insert(place.uid.clone(), Known { place: place.clone(), pids, n_looks: 0 });
        Ok(found.map(|(path, pids)| (shown(&path), pids)))
    }

    /// Where only something around has a limit (podPidsLimit, a machine's scope), that counts.
    fn find_pids(&self, place: &VmPlace, qemu: u32) -> Result<Option<(PathBuf, PidsCgroup)>, ReadError> {
        let own = match place.directories.as_slice() {
            [] => controller_directories(&self.procfs.cgroups(qemu)?, self.prefix.as_deref(), "pids"),
            known => known.to_vec(),
        };
        let around = own.iter().flat_map(|directory| directory.ancestors().take(4)).map(Path::to_path_buf);
        let rows: Vec<(PathBuf, PidsCgroup)> =
            around.filter_map(|path| read_pids_cgroup(&self.host, &path).ok().map(|pids| (path, pids))).collect();
        let limited = rows.iter().position(|(path, pids)| pids.limit.is_some() && !is_above_pods(&shown(path)));
        Ok(rows.into_iter().nth(limited.unwrap_or(0)))
    }
}

fn read_node(host: &HostRoot, places: &[VmPlace], n_errors: &mut u64) -> NodeLimitsLook {
    let mut note = |error: ReadError| {
        *n_errors += 1;
        chain(&error)
    };
    let pid_max = read_number(host, "proc/sys/kernel/pid_max").map_err(&mut note);
    let threads_max = read_number(host, "proc/sys/kernel/threads-max").ok();
    let limit = pid_max.map(|pid_max| threads_max.map_or(pid_max, |threads_max| threads_max.min(pid_max)));
    let tasks = read_task_count(host).map_err(&mut note);
    let mut kernel = Vec::new();
    let mut push = |what, usage: Result<Usage, ReadError>| {
        kernel.push(KernelLimit { what, usage: usage.map_err(&mut note), is_lower_bound: false });
    };
    push("files", read_file_usage(host));
    push("aio", read_aio_usage(host));
    match read_conntrack_usage(host) {
        // Not loaded: nothing is tracked, and nothing limited.
        Err(error) if error.is_not_found() => {}
        usage => push("conntrack", usage),
    }
    NodeLimitsLook {
        at: Moment::default(),
        hugepages: read_hugepages(host).map_err(&mut note),
        tasks: tasks.and_then(|used| limit.map(|limit| Usage { used, limit })),
        kubepods: read_kubepods(host, places),
        kernel,
        userfaultfd: read_number(host, "proc/sys/vm/unprivileged_userfaultfd").map_err(&mut note),
    }
}

/// The kubelet's cgroups above the pods.
fn read_kubepods(host: &HostRoot, places: &[VmPlace]) -> Vec<(String, PidsCgroup)> {
    let usual = HIERARCHIES.iter().flat_map(|top| KUBEPODS.iter().map(|name| Path::new(top).join(name)));
    let is_kubepods = |path: &&Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.contains("kubepods") && !name.contains("-pod")
    };
    let above = places
        .iter()
        .flat_map(|place| &place.directories)
        .flat_map(|directory| directory.ancestors().filter(is_kubepods).map(Path::to_path_buf).collect::<Vec<_>>());
    let mut directories: Vec<PathBuf> = usual.chain(above).collect();
    directories.sort();
    directories.dedup();
    let read = |path: PathBuf| Some((shown(&path), read_pids_cgroup(host, &path).ok()?));
    directories.into_iter().filter_map(read).collect()
}

/// Of each limit the user that has used most of it: limits are each user's, and root's is reached first.
fn read_inotify(host: &HostRoot, counter: &mut InotifyCounter) -> InotifyRows {
    let users = match counter.count() {
        Ok(users) => users,
        Err(error) => {
            return vec![KernelLimit { what: "inotify-instances", usage: Err(chain(&error)), is_lower_bound: true }];
        }
    };
    let row = |what, file: &str, used: u64| {
        let limit = read_number(host, format!("proc/sys/fs/inotify/{file}")).ok()?;
        // Whoever is not seen may use more.
        Some(KernelLimit { what, usage: Ok(Usage { used, limit }), is_lower_bound: users.n_denied > 0 })
    };
    let most = |of: fn(&kulprit_host::limits::InotifyUse) -> u64| users.by_uid.values().map(of).max().unwrap_or(0);
    let instances = row("inotify-instances", "max_user_instances", most(|user| user.n_instances));
    let watches = row("inotify-watches", "max_user_watches", most(|user| user.n_watches));
    instances.into_iter().chain(watches).collect()
}

/// The kubelet's own cgroups and slices hold other pods too.
fn is_above_pods(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    (name.contains("kubepods") && !name.contains("-pod"))
        || matches!(name, "" | "burstable" | "besteffort" | "machine.slice" | "machine")
}

fn process_use(procfs: &Procfs, pid: u32) -> Result<ProcessUse, ReadError> {
    Ok(ProcessUse {
        name: procfs.stat(pid)?.comm,
        pid,
        limits: procfs.limits(pid)?,
        n_open_files: procfs.open_file_count(pid).ok(),
        memory: procfs.memory(pid)?,
    })
}

/// A cgroup as it is called in findings: from below the mount on.
fn shown(place: &Path) -> String {
    place.strip_prefix("sys/fs/cgroup").unwrap_or(place).display().to_string()
}
