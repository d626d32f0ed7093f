//! What a tree shows of the node itself: pressure, limits, KVM, hardware, file systems, network, its services.

use std::path::PathBuf;

use kulprit_host::captured::{CapturedProcess, Descriptor, read_captured_descriptors, read_captured_threads};
use kulprit_host::captured::{CapturedThread, read_captured_leader};
use kulprit_host::cgroup::{PidsCgroup, controller_directories, read_pids_cgroup};
use kulprit_host::cpu::{read_proc_stat, read_task_count};
use kulprit_host::hardware::{read_edac, read_iommu_group_count, read_pci_devices, read_vfio_ids};
use kulprit_host::hugepages::read_hugepages;
use kulprit_host::kubelet_files::{
    KUBELET_ROOT, ResourceManager, hides_arguments, parse_kubelet_args, read_k3s_args, read_kubelet_config,
    read_manager_policies,
};
use kulprit_host::kvm::{KvmModule, NodeKind, parse_cpu_flags, parse_misc_has_kvm, read_kvm_modules, read_kvm_node};
use kulprit_host::limits::{Usage, read_aio_usage, read_conntrack_usage, read_file_usage, read_number};
use kulprit_host::memory::read_meminfo;
use kulprit_host::mount::{DeviceNumber, Mount, is_read_only_option, parse_mountinfo};
use kulprit_host::network::{read_links, read_tcp};
use kulprit_host::pressure::read_pressure;
use kulprit_host::process::TaskState;
use kulprit_host::volume::{read_iscsi_sessions, read_nvme_controllers, read_recorded_layers};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::kvm::KvmLook;
use kulprit_judge::limits::{KernelLimit, NodeLimitsLook};
use kulprit_judge::network::Owner;
use kulprit_judge::pressure::PressureLook;
use kulprit_judge::qemu::BlockedThread;
use kulprit_judge::recorded::Health;
use kulprit_judge::services::{KubeletSetup, Service, service_of};
use kulprit_judge::{
    Reading, StateVerdict, Verdict, filesystem, hardware, kvm, launcher, limits, network, pressure, services, volumes,
};
use kulprit_model::{FindingCode, Moment, Subject};

use super::Tree;
use super::family::Processes;

/// Most of `/proc/cpuinfo` that is read, bytes: some 1.5 KiB for each processor.
const CPUINFO_LIMIT_BYTES: usize = 8 << 20;

/// Sets the node's own clock: the time since its boot.
pub(super) fn read_boot(tree: &mut Tree<'_>) {
    let boot = tree.reading_of(read_proc_stat).ok().and_then(|stat| stat.boot_unix_sec);
    let since_boot = boot.and_then(|sec| tree.at.wall_usec.checked_sub(sec.checked_mul(1_000_000)?));
    let boottime_usec = since_boot.filter(|usec| *usec >= 0).unwrap_or(tree.at.wall_usec);
    tree.at = Moment { boottime_usec, ..tree.at };
    tree.say(hardware::judge_boot(tree.at, boot));
}

/// All states of the node.
pub(super) fn read(tree: &mut Tree<'_>, processes: &Processes) {
    read_pressures(tree);
    read_limits(tree, processes);
    read_kvm(tree, processes);
    read_hardware(tree);
    read_filesystems(tree);
    read_network(tree, processes);
    read_services(tree, processes);
}

impl Tree<'_> {
    /// As [`Tree::reading`], of a reader that takes the root alone.
    fn reading_of<T>(&mut self, read: impl FnOnce(&HostRoot) -> Result<T, ReadError>) -> Reading<T> {
        let result = read(self.root);
        self.reading(result)
    }
}

fn read_pressures(tree: &mut Tree<'_>) {
    let no_cpu_line = || "`root/proc/stat` has no line of all processors".to_owned();
    let look = PressureLook {
        at: tree.at,
        cpu: tree.reading_of(|root| read_pressure(root, "proc/pressure/cpu")),
        memory: tree.reading_of(|root| read_pressure(root, "proc/pressure/memory")),
        io: tree.reading_of(|root| read_pressure(root, "proc/pressure/io")),
        times: tree.reading_of(read_proc_stat).and_then(|stat| stat.cpu.ok_or_else(no_cpu_line)),
        // Since the boot: nothing of the last minute.
        tells_idle: false,
        meminfo: tree.reading_of(read_meminfo),
    };
    tree.say(pressure::judge(&look));
}

fn read_limits(tree: &mut Tree<'_>, processes: &Processes) {
    let pid_max = tree.reading_of(|root| read_number(root, "proc/sys/kernel/pid_max"));
    let threads_max = tree.reading_of(|root| read_number(root, "proc/sys/kernel/threads-max")).ok();
    let n_tasks = tree.reading_of(read_task_count);
    let limit = pid_max.map(|pid_max| threads_max.map_or(pid_max, |threads_max| threads_max.min(pid_max)));
    let mut kernel = vec![
        KernelLimit { what: "files", usage: tree.reading_of(read_file_usage), is_lower_bound: false },
        KernelLimit { what: "aio", usage: tree.reading_of(read_aio_usage), is_lower_bound: false },
        KernelLimit { what: "conntrack", usage: tree.reading_of(read_conntrack_usage), is_lower_bound: false },
    ];
    if kernel.iter().all(|row| row.usage.is_err()) {
        kernel.clear();
    }
    kernel.extend(read_inotify(tree, processes));
    let look = NodeLimitsLook {
        at: tree.at,
        hugepages: tree.reading_of(read_hugepages),
        tasks: n_tasks.and_then(|used| limit.map(|limit| Usage { used, limit })),
        kubepods: read_kubepods(tree, processes),
        kernel,
        userfaultfd: tree.reading_of(|root| read_number(root, "proc/sys/vm/unprivileged_userfaultfd")),
    };
    tree.say(limits::judge_node(&look));
}

/// What the captured processes of one user hold: others may hold more.
fn read_inotify(tree: &mut Tree<'_>, processes: &Processes) -> Option<KernelLimit> {
    let limit = tree.reading_of(|root| read_number(root, "proc/sys/fs/inotify/max_user_instances")).ok()?;
    let mut by_user = std::collections::BTreeMap::new();
    for process in &processes.rows {
        let Some(uid) = process.status.as_ref().and_then(|status| status.uid) else { continue };
        let files =
            tree.reading_of(|root| read_captured_descriptors(root, process.pid)).ok().flatten().unwrap_or_default();
        let is_inotify = |row: &&Descriptor| matches!(&*row.target, "anon_inode:inotify" | "anon_inode:[inotify]");
        *by_user.entry(uid).or_insert(0_u64) += files.iter().filter(is_inotify).count() as u64;
    }
    let used = by_user.into_values().max()?;
    Some(KernelLimit { what: "inotify-instances", usage: Ok(Usage { used, limit }), is_lower_bound: true })
}

/// The kubelet's cgroups above the pods, found on the way up from any pod's process.
fn read_kubepods(tree: &Tree<'_>, processes: &Processes) -> Vec<(String, PidsCgroup)> {
    let mut found: Vec<(String, PidsCgroup)> = Vec::new();
    let mut tried: Vec<PathBuf> = Vec::new();
    for process in &processes.rows {
        for directory in controller_directories(&process.cgroups, None, "pids") {
            let is_kubepods = |path: &&std::path::Path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.contains("kubepods") && !name.contains("-pod")
            };
            for above in directory.ancestors().filter(is_kubepods) {
                if tried.iter().any(|path| path == above) {
                    continue;
                }
                tried.push(above.to_path_buf());
                if let Ok(pids) = read_pids_cgroup(tree.root, above) {
                    found.push((above.display().to_string(), pids));
                }
            }
        }
    }
    found
}

fn read_kvm(tree: &mut Tree<'_>, processes: &Processes) {
    // A guest that runs on KVM proves the driver, whatever is left of a list.
    let has_guest = processes.families.values().flat_map(|family| &family.qemus).chain(&processes.strays).any(|qemu| {
        let (threads, _) = read_captured_threads(tree.root, qemu.process.pid);
        threads.iter().any(|row| row.thread.comm.starts_with("CPU ") && row.thread.comm.ends_with("/KVM"))
    });
    let is_registered = if has_guest { Ok(true) } else { tree.reading_of(read_misc) };
    let mut modules = tree.reading_of(read_kvm_modules);
    if let Ok(text) = tree.root.read_text("proc/modules") {
        let loaded = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
        let loaded = loaded.filter(|name| *name == "kvm" || name.starts_with("kvm_"));
        let known = modules.get_or_insert_empty();
        for name in loaded {
            if !known.iter().any(|module| module.name == name) {
                known.push(KvmModule { name: name.to_owned(), is_built_in: false, is_nested_enabled: None });
            }
        }
    } else if is_registered.is_ok() {
        // The driver registers itself: where it has not, no module of a processor is at work.
        modules.get_or_insert_empty();
    }
    let says_nested = matches!(&modules, Ok(rows) if rows.iter().any(|module| module.is_nested_enabled.is_some()));
    let cpu = tree.reading_of(|root| {
        let path = "proc/cpuinfo";
        let text = root.read_bytes(path, CPUINFO_LIMIT_BYTES)?;
        let flags = parse_cpu_flags(&String::from_utf8_lossy(&text));
        flags.map_err(|malformed| malformed.at(root.display_path(path)))
    });
    let cpu = cpu.and_then(|flags| flags.ok_or_else(|| "`root/proc/cpuinfo` has no flags".to_owned()));
    // A copy of a tree has device nodes only where root made it: anything else in their place is no answer.
    let node = match read_kvm_node(tree.root) {
        Ok(Some(node)) if matches!(node.kind, NodeKind::CharacterDevice(_)) => Ok(Some(node)),
        Ok(_) | Err(_) => Err("`root/dev/kvm` was not recorded".to_owned()),
    };
    let look = KvmLook { at: tree.at, node, calls: None, modules, is_registered, cpu };
    let mut verdicts = kvm::judge(&look);
    for verdict in &mut verdicts {
        if let Verdict::State(state) = verdict
            && state.code == FindingCode::KvmNestedDisabled
            && !says_nested
        {
            *state = StateVerdict::unknown(
                state.code,
                Subject::Node,
                "`root/sys/module/kvm_*/parameters/nested` was not recorded",
            );
        }
    }
    verdicts.extend(hardware::judge_cpu(tree.at, &look.cpu, &look.is_registered));
    tree.say(verdicts);
}

/// Whether `/proc/misc` has KVM. That it has not counts only of a whole list: lines of a number and a name, the last one ended.
fn read_misc(root: &HostRoot) -> Result<bool, ReadError> {
    let path = "proc/misc";
    let text = root.read_text(path)?;
    let is_row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        fields.next().is_some_and(|number| number.parse::<u32>().is_ok()) && fields.next().is_some()
    };
    let has_kvm = parse_misc_has_kvm(&text);
    let is_whole = text.ends_with('\n') && text.lines().all(is_row);
    if has_kvm || is_whole {
        return Ok(has_kvm);
    }
    Err(ReadError::Malformed {
        path: root.display_path(path),
        line: text.lines().count(),
        text: text.lines().last().unwrap_or_default().chars().take(120).collect(),
    })
}

/// A list that may be started where it could not be read.
trait OrEmpty<T> {
    fn get_or_insert_empty(&mut self) -> &mut Vec<T>;
}

impl<T> OrEmpty<T> for Reading<Vec<T>> {
    fn get_or_insert_empty(&mut self) -> &mut Vec<T> {
        if self.is_err() {
            *self = Ok(Vec::new());
        }
        self.as_mut().expect("was made a list above")
    }
}

fn read_hardware(tree: &mut Tree<'_>) {
    let at = tree.at;
    let n_groups = tree.reading_of(read_iommu_group_count);
    tree.say([hardware::judge_iommu(at, &n_groups)]);
    if let Ok(devices) = tree.reading_of(read_pci_devices) {
        let ids = read_vfio_ids(tree.root);
        tree.say(hardware::judge_vfio(at, &devices, &ids));
    }
    if let Ok(controllers) = tree.reading_of(read_edac) {
        tree.say(hardware::judge_memory_errors(at, &controllers));
    }
    let (sessions, controllers) = (read_iscsi_sessions(tree.root), read_nvme_controllers(tree.root));
    tree.say(volumes::judge_recorded_paths(at, &read_recorded_layers(tree.root), &sessions, &controllers));
}

fn read_filesystems(tree: &mut Tree<'_>) {
    for path in ["proc/1/mountinfo", "proc/self/mountinfo"] {
        let text = tree.reading_of(|root| root.read_text_if_any(path));
        if let Ok(Some(text)) = text {
            let (mounts, _) = parse_mountinfo(&text);
            return tree.say(filesystem::judge_mounts(tree.at, &mounts));
        }
    }
    let text = tree.reading_of(|root| root.read_text_if_any("proc/mounts"));
    if let Ok(Some(text)) = text {
        let mounts: Vec<Mount> = text.lines().filter_map(mount_from_line).collect();
        tree.say(filesystem::judge_mounts(tree.at, &mounts));
    }
}

/// `source point type options 0 0`. Source: `fstab(5)`.
fn mount_from_line(line: &str) -> Option<Mount> {
    let mut fields = line.split_ascii_whitespace();
    let (source, point, fs_type, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Mount {
        mount_id: 0,
        device: DeviceNumber { major: 0, minor: 0 },
        fs_root: PathBuf::from("/"),
        mount_point: PathBuf::from(point.replace("\\040", " ")),
        fs_type: fs_type.to_owned(),
        source: Some(source.to_owned()),
        is_read_only: options.split(',').any(is_read_only_option),
    })
}

fn read_network(tree: &mut Tree<'_>, processes: &Processes) {
    let at = tree.at;
    if let Ok(links) = tree.reading_of(read_links) {
        tree.say(network::judge_links(at, &links));
    }
    let node = tree.reading_of(|root| read_tcp(root, "proc/net")).ok();
    if let Some(sockets) = &node {
        tree.say(network::judge_connections(at, Owner::Node, sockets));
    }
    let mut of_pods = None;
    let is_kubevirt = |process: &&CapturedProcess| process.comm.starts_with("virt-");
    for process in processes.rows.iter().filter(is_kubevirt) {
        let table = tree.reading_of(|root| read_tcp(root, format!("proc/{}/net", process.pid)));
        // A process of the node's own namespace shows the node's connections.
        if let Ok(sockets) =
            table.map_err(drop).and_then(|sockets| if node.as_ref() == Some(&sockets) { Err(()) } else { Ok(sockets) })
        {
            of_pods.get_or_insert_with(Vec::new).extend(sockets);
        }
    }
    if let Some(sockets) = of_pods {
        tree.say(network::judge_connections(at, Owner::KubeVirt, &sockets));
    }
}

fn read_services(tree: &mut Tree<'_>, processes: &Processes) {
    for process in &processes.rows {
        let Some(service) = service_of(&process.comm) else { continue };
        let health = health_of(tree, process);
        let verdict = services::judge_process(tree.at, service, process, health.as_ref());
        tree.say([verdict]);
        if service == Service::Kubelet && !process.args.is_empty() {
            read_kubelet(tree, process);
        }
    }
    for process in &processes.host_libvirt {
        let member = member_of(tree, process);
        let subject = Subject::Libvirt { uri: "qemu:///system".to_owned() };
        let states = launcher::judge_daemon(tree.at, &subject, &member);
        tree.say(states.into_iter().map(Verdict::State));
    }
}

fn read_kubelet(tree: &mut Tree<'_>, process: &CapturedProcess) {
    let unit = services::unit_of(process, "kubelet.service");
    let (args, missing) = match hides_arguments(&process.args) {
        None => (parse_kubelet_args(&process.args), None),
        Some("k3s") => read_k3s_args(tree.root, &unit),
        // RKE2 starts the kubelet as a process of its own, which has the flags.
        Some(_) => return,
    };
    let seen = tree.reading(missing.map_or(Ok(()), Err));
    let config = tree.reading_of(|root| read_kubelet_config(root, &args));
    let unseen = seen.err().or_else(|| config.as_ref().err().cloned());
    let config = config.unwrap_or_default();
    let mut policies = |manager| {
        let read = tree.reading_of(|root| read_manager_policies(root, &args, config.as_ref(), manager));
        read.unwrap_or_default()
    };
    let (cpu, memory) = (policies(ResourceManager::Cpu), policies(ResourceManager::Memory));
    let link = tree.root.read_link(KUBELET_ROOT).ok().map(|link| link.to_string_lossy().into_owned());
    let setup = KubeletSetup { args, link, config, unseen, cpu, memory };
    tree.say([services::judge_setup(tree.at, &unit, &setup)]);
}

/// A process of a launcher, or a daemon, with how it does.
pub(super) fn member_of(tree: &mut Tree<'_>, process: &CapturedProcess) -> launcher::Member {
    launcher::Member { pid: process.pid, name: process.program().to_owned(), health: health_of(tree, process) }
}

fn health_of(tree: &mut Tree<'_>, process: &CapturedProcess) -> Option<Health> {
    let (threads, _) = threads_of(tree, process);
    Some(Health::of(process.state?, &blocked(&threads)))
}

/// The threads of a process, and whether they are all: else its leader alone.
pub(super) fn threads_of(tree: &mut Tree<'_>, process: &CapturedProcess) -> (Vec<CapturedThread>, bool) {
    let (threads, errors) = read_captured_threads(tree.root, process.pid);
    for error in &errors {
        tree.problem(error);
    }
    match threads.is_empty() {
        true => (read_captured_leader(tree.root, process).into_iter().collect(), false),
        false => (threads, true),
    }
}

/// Those in D state, for the judges.
pub(super) fn blocked(threads: &[CapturedThread]) -> Vec<BlockedThread> {
    let waiting = threads.iter().filter(|row| row.thread.state == TaskState::Uninterruptible);
    waiting
        .map(|row| BlockedThread { thread: row.thread.clone(), frames: row.frames.clone(), switches_total: None })
        .collect()
}
