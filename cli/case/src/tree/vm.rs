//! What a tree shows of each VM: its QEMU, its launcher, and the limits of its container.

use std::path::{Path, PathBuf};

use kulprit_host::block::{DiskCounters, read_diskstats};
use kulprit_host::captured::{
    CapturedProcess, CapturedThread, Descriptor, read_captured_descriptors, read_captured_mounts,
};
use kulprit_host::cgroup::{
    CpuThrottling, PidsCgroup, controller_directories, parse_cpu_stat, read_memory_cgroup, read_pids_cgroup,
};
use kulprit_host::launcher::is_marked_unresponsive;
use kulprit_host::limits::parse_process_limits;
use kulprit_host::memory::parse_process_memory;
use kulprit_host::mount::{Mount, mount_of};
use kulprit_host::process::{TaskState, Thread};
use kulprit_host::qemu::{CommandLine, Disk as HostDisk};
use kulprit_judge::launcher::{self as launchers, LauncherLook, judge_emulation, judge_open_devices};
use kulprit_judge::limits::{LauncherLimitsLook, ProcessUse, judge_launcher, judge_memory_cgroup};
use kulprit_judge::pressure::judge_throttling;
use kulprit_judge::qemu::{PendingSignals, QemuDisk, QemuLook};
use kulprit_judge::{Reading, recorded};
use kulprit_model::{Disk, Moment, Qemu, Subject};

use super::Tree;
use super::family::{Family, Processes, QemuProcess};
use super::machine::{blocked, member_of, threads_of};

/// Start times are counted in 1/100 s, microseconds.
const TICK_USEC: i64 = 10_000;

/// All VMs of the node.
pub(super) fn read(tree: &mut Tree<'_>, processes: &Processes) {
    let disks = read_diskstats(tree.root).unwrap_or_default();
    for (uid, family) in &processes.families {
        let subject = Subject::vm(uid);
        let mut alive = Vec::new();
        for qemu in &family.qemus {
            let mounts = mounts_of(tree, family, qemu);
            if read_qemu(tree, &subject, Some(uid), qemu, &mounts, &disks) {
                alive.push(qemu.process.pid);
            }
        }
        read_family(tree, uid, family, &alive);
        read_cgroups(tree, &subject, family);
    }
    for qemu in &processes.strays {
        let own_uuid =
            qemu.command_line.as_ref().and_then(|line| line.uuid.clone()).map(|uuid| uuid.to_ascii_lowercase());
        let subject = match &own_uuid {
            Some(uuid) => Subject::vm(uuid),
            None => Subject::Process {
                pid: qemu.process.pid,
                start_ticks: qemu.process.start_time_ticks.unwrap_or_default(),
            },
        };
        let mounts = tree_mounts(tree, qemu.process.pid);
        read_qemu(tree, &subject, own_uuid.as_deref(), qemu, &mounts, &disks);
    }
}

fn read_family(tree: &mut Tree<'_>, uid: &str, family: &Family, alive: &[u32]) {
    let mut member = |process: &Option<CapturedProcess>| process.as_ref().map(|process| member_of(tree, process));
    let (monitor, launcher, libvirt) = (member(&family.monitor), member(&family.launcher), member(&family.libvirt));
    let is_marked_unresponsive = family.pod_uid.as_ref().and_then(|pod| is_marked_unresponsive(tree.root, pod));
    let look = LauncherLook {
        at: tree.at,
        vmi_uid: uid,
        monitor,
        launcher,
        libvirt,
        qemus: alive,
        is_marked_unresponsive,
        ..LauncherLook::default()
    };
    tree.say(launchers::judge(&look));
}

/// One QEMU; returns whether it lives.
fn read_qemu(
    tree: &mut Tree<'_>,
    subject: &Subject,
    uid: Option<&str>,
    qemu: &QemuProcess,
    mounts: &[Mount],
    diskstats: &[DiskCounters],
) -> bool {
    let QemuProcess { process, command_line } = qemu;
    let none = CommandLine::default();
    let line = command_line.as_ref().unwrap_or(&none);
    let disks: Vec<Disk> = line.disks.iter().filter_map(|disk| disk_from(disk, mounts, diskstats)).collect();
    let (rows, are_threads_known) = threads_of(tree, process);
    let threads: Vec<Thread> = rows.iter().map(|row| row.thread.clone()).collect();
    let is_dead = |state| matches!(state, TaskState::Zombie | TaskState::Dead);
    let is_alive = match process.state {
        Some(state) => !is_dead(state) || threads.iter().any(|thread| !is_dead(thread.state)),
        None => true,
    };
    match process.state {
        Some(leader) => {
            let disks: Vec<QemuDisk> = disks.iter().map(|disk| QemuDisk { disk: disk.clone(), target: None }).collect();
            let look = QemuLook {
                at: tree.at,
                subject,
                pid: process.pid,
                leader,
                threads: &threads,
                blocked: &blocked(&rows),
                pending: pending(process, &rows),
                disks: &disks,
            };
            tree.say(recorded::judge_qemu(&look, are_threads_known));
        }
        None => tree.say(kulprit_judge::qemu::unknown(subject, "the state of QEMU was not recorded")),
    }
    let descriptors = descriptors_of(tree, process.pid);
    let is_device = |disk: &&HostDisk| disk.driver.as_deref() == Some("host_device");
    let devices: Vec<String> = line.disks.iter().filter(is_device).filter_map(|disk| disk.path.clone()).collect();
    tree.say([
        judge_emulation(subject, tree.at, &threads, &descriptors, &line.accelerators),
        judge_open_devices(subject, tree.at, &descriptors, &devices),
    ]);
    if let Some(uid) = uid.filter(|_| is_alive) {
        tree.gathered.qemus.push(Qemu {
            uid: uid.to_owned(),
            name: line.name.clone(),
            pid: process.pid,
            start_ticks: process.start_time_ticks.unwrap_or_default(),
            since: started(tree.at, process.start_time_ticks),
            disks,
        });
    }
    is_alive
}

/// When a process started; the moment of the look where that is not known.
fn started(at: Moment, start_time_ticks: Option<u64>) -> Moment {
    let ticks = start_time_ticks.and_then(|ticks| i64::try_from(ticks).ok()?.checked_mul(TICK_USEC));
    // Without the time of the boot the two clocks are one, and ticks since the boot tell nothing.
    match ticks.filter(|_| at.boottime_usec != at.wall_usec) {
        Some(usec) if usec <= at.boottime_usec => at.offset_usec(usec - at.boottime_usec),
        _ => at,
    }
}

/// `None` when no `status` was saved.
fn pending(process: &CapturedProcess, threads: &[CapturedThread]) -> Option<PendingSignals> {
    let mut pending = PendingSignals::default();
    pending.add(process.status.as_ref()?);
    for status in threads.iter().filter_map(|row| row.status.as_ref()) {
        pending.add(status);
    }
    Some(pending)
}

fn disk_from(disk: &HostDisk, mounts: &[Mount], diskstats: &[DiskCounters]) -> Option<Disk> {
    let path = disk.path.clone()?;
    // `/var/run` is a link to `/run` in the launcher's image.
    let real = path.strip_prefix("/var/run/").map_or_else(|| PathBuf::from(&path), |rest| Path::new("/run").join(rest));
    let is_device = disk.driver.as_deref() == Some("host_device") || path.starts_with("/dev/");
    let mount = mount_of(mounts, &real).filter(|_| !is_device);
    let device = mount.map(|mount| mount.device);
    let name = device.and_then(|device| diskstats.iter().find(|row| row.device == device));
    Some(Disk {
        device: device.map(|device| device.to_string()),
        device_name: name.map(|row| row.name.clone()),
        fstype: mount.map(|mount| mount.fs_type.clone()),
        mount_point: mount.map(|mount| mount.mount_point.to_string_lossy().into_owned()),
        path,
    })
}

/// The mounts of the container: all its processes see the same ones, and a tree may have them of one only.
fn mounts_of(tree: &mut Tree<'_>, family: &Family, qemu: &QemuProcess) -> Vec<Mount> {
    let own = tree_mounts(tree, qemu.process.pid);
    if !own.is_empty() {
        return own;
    }
    let others: Vec<u32> = family.members().map(|process| process.pid).collect();
    others.into_iter().map(|pid| tree_mounts(tree, pid)).find(|mounts| !mounts.is_empty()).unwrap_or_default()
}

fn tree_mounts(tree: &mut Tree<'_>, pid: u32) -> Vec<Mount> {
    let mounts = read_captured_mounts(tree.root, pid);
    tree.reading(mounts).unwrap_or_default()
}

fn descriptors_of(tree: &mut Tree<'_>, pid: u32) -> Reading<Option<Vec<Descriptor>>> {
    let descriptors = read_captured_descriptors(tree.root, pid);
    tree.reading(descriptors)
}

/// CPU limit, memory limit and process limits of the container, and of the pod around it.
fn read_cgroups(tree: &mut Tree<'_>, subject: &Subject, family: &Family) {
    let Some(member) = family.members().find(|process| !process.cgroups.is_empty()) else { return };
    let cpu = read_throttling(tree, member);
    tree.say([judge_throttling(subject, tree.at, &cpu)]);
    let memory = places(member, "memory").into_iter();
    let kills = memory.filter_map(|place| {
        let memory = read_memory_cgroup(tree.root, &place).ok()?;
        judge_memory_cgroup(subject, tree.at, &shown(&place), &memory)
    });
    // The pod's counter includes its containers' in version 2: the first that counts is enough.
    let kill = kills.into_iter().next();
    tree.say(kill);
    let pids = read_pids(tree, member);
    let processes: Vec<ProcessUse> = family.members().filter_map(|process| process_use(tree, process)).collect();
    tree.say(judge_launcher(&LauncherLimitsLook { at: tree.at, subject, pids, processes: &processes }));
}

/// Directories of a controller: the container's, then the pod's around it.
fn places(process: &CapturedProcess, controller: &str) -> Vec<PathBuf> {
    let own = controller_directories(&process.cgroups, None, controller);
    let pods = own.iter().filter_map(|path| {
        let above = path.ancestors().skip(1).find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("pod") || name.contains("-pod")
        });
        above.map(Path::to_path_buf)
    });
    let pods: Vec<PathBuf> = pods.collect();
    own.into_iter().chain(pods).collect()
}

fn read_throttling(tree: &mut Tree<'_>, process: &CapturedProcess) -> Reading<CpuThrottling> {
    let mut found = None;
    for place in places(process, "cpu") {
        let text = tree.root.read_text_if_any(place.join("cpu.stat"));
        let stat = tree.reading(text)?.and_then(|text| parse_cpu_stat(&text).ok());
        // A limit may be the container's or the pod's: the one that throttles more counts.
        found = found.max_by_throttled(stat);
    }
    found.ok_or_else(|| "`cpu.stat` of the launcher's container was not recorded".to_owned())
}

/// The more throttled of two readings.
trait MaxByThrottled {
    fn max_by_throttled(self, other: Self) -> Self;
}

impl MaxByThrottled for Option<CpuThrottling> {
    fn max_by_throttled(self, other: Self) -> Self {
        self.into_iter().chain(other).max_by_key(|stat| stat.n_throttled)
    }
}

/// The container's tasks, or the pod's where only the pod has a limit (`podPidsLimit`).
fn read_pids(tree: &mut Tree<'_>, process: &CapturedProcess) -> Reading<(String, PidsCgroup)> {
    let rows: Vec<(String, PidsCgroup)> = places(process, "pids")
        .into_iter()
        .filter_map(|place| Some((shown(&place), read_pids_cgroup(tree.root, &place).ok()?)))
        .collect();
    let limited = rows.iter().position(|(_, pids)| pids.limit.is_some()).unwrap_or(0);
    rows.into_iter()
        .nth(limited)
        .ok_or_else(|| "`pids.current` of the launcher's container was not recorded".to_owned())
}

/// `None` when neither its limits nor its status were saved.
fn process_use(tree: &Tree<'_>, process: &CapturedProcess) -> Option<ProcessUse> {
    let text = |name: &str| tree.root.read_text(format!("proc/{}/{name}", process.pid)).ok();
    let limits = parse_process_limits(&text("limits")?).ok()?;
    let descriptors = read_captured_descriptors(tree.root, process.pid).ok().flatten();
    Some(ProcessUse {
        name: process.program().to_owned(),
        pid: process.pid,
        limits,
        n_open_files: descriptors.map(|rows| rows.len() as u64),
        memory: text("status").map(|text| parse_process_memory(&text)).unwrap_or_default(),
    })
}

/// A cgroup as it is called in findings: from below the mount on.
pub(super) fn shown(place: &Path) -> String {
    place.strip_prefix("sys/fs/cgroup").unwrap_or(place).display().to_string()
}
