//! Which VM a QEMU runs, and where its disks lie.
//!
//! The VM's UID is the VMI's in a KubeVirt launcher (told by its pod, or by the command line of its parent), else the machine's
//! UUID, else that of the domain whose pidfile names the process. Disks are those of the command line and those libvirt knows (plugged in later);
//! where each lies comes from QEMU's own open files and mount table, without touching the file systems themselves.

use std::path::{Component, Path, PathBuf};

use kulprit_host::HostRoot;
use kulprit_host::block::read_block_device;
use kulprit_host::cgroup::pod_of;
use kulprit_host::launcher::parse_launcher_args;
use kulprit_host::mount::{DeviceNumber, Mount, mount_of};
use kulprit_host::process::{ProcessId, Procfs};
use kulprit_host::qemu::{CommandLine, OpenFile, parse_command_line, read_pidfiles};
use kulprit_judge::qemu::QemuDisk;
use kulprit_model::Disk;

use crate::probes::{DiskTarget, Launcher, Launchers, VmIndex};

/// How far up parents are followed: QEMU, libvirt until it has let go of it, launcher, monitor.
const MAX_PARENTS: usize = 4;
/// Links followed below `/dev`: udev makes one, device mapper another.
const MAX_LINKS: usize = 8;

/// What a QEMU is.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    /// Of the VM; `None`: nobody said.
    pub(super) uid: Option<String>,
    /// Of the guest: `namespace/name` in a launcher, else libvirt's.
    pub(super) name: Option<String>,
    pub(super) disks: Vec<QemuDisk>,
}

/// Reads who it is, and with which of libvirt's disks that was found; `None` for a QEMU without a VM. May wait for the process.
pub(super) fn identify(
    procfs: &Procfs,
    host: &HostRoot,
    vms: &VmIndex,
    launchers: &Launchers,
    id: ProcessId,
) -> Option<(Identity, Vec<DiskTarget>)> {
    let of_launcher = in_launcher(procfs, launchers, id).map(of_launcher).or_else(|| of_parents(procfs, id.pid));
    let args = procfs.command_line(id.pid).unwrap_or_default();
    if args.is_empty() {
        return Some((of_launcher.unwrap_or_else(|| from_pidfile(host, vms, id)), Vec::new()));
    }
    let line = parse_command_line(&args);
    // libvirt starts such ones to ask what QEMU can.
    if line.machine.as_deref() == Some("none") {
        return None;
    }
    let Identity { uid, name, disks: _ } = of_launcher.unwrap_or_else(|| {
        let own = line.uuid.as_deref().map(str::to_ascii_lowercase);
        Identity { uid: own.or_else(|| from_pidfile(host, vms, id).uid), name: line.name.clone(), disks: Vec::new() }
    });
    let targets = uid.as_deref().map(|uid| vms.disks(uid)).unwrap_or_default();
    let disks = place_disks(procfs, host, id.pid, &line, &targets);
    Some((Identity { uid, name, disks }, targets))
}

/// The launcher whose pod this QEMU is in. Never waits for the process.
pub(super) fn in_launcher<'a>(procfs: &Procfs, launchers: &'a Launchers, id: ProcessId) -> Option<&'a Launcher> {
    let by_pod = || launchers.by_pod(&pod_of(&procfs.cgroups(id.pid).ok()?)?.pod_uid);
    launchers.by_qemu(id.pid).or_else(by_pod)
}

/// Who a launcher's QEMU is.
pub(super) fn of_launcher(launcher: &Launcher) -> Identity {
    let name = Some(launcher.display_name());
    Identity { uid: Some(launcher.vmi_uid.clone()), name, disks: Vec::new() }
}

/// What libvirt's pidfile says of a process that cannot be asked.
pub(super) fn from_pidfile(host: &HostRoot, vms: &VmIndex, id: ProcessId) -> Identity {
    let pidfiles = read_pidfiles(host).map(|(files, _)| files).unwrap_or_default();
    let name = pidfiles.into_iter().find(|file| file.pid == id.pid).map(|file| file.domain);
    Identity { uid: name.as_deref().and_then(|name| vms.by_name(name)), name, disks: Vec::new() }
}

/// The same from the command line of virt-launcher-monitor, which is QEMU's parent in its container: a QEMU that is younger than the
/// snapshot of launchers.
fn of_parents(procfs: &Procfs, pid: u32) -> Option<Identity> {
    let mut pid = pid;
    for _ in 0..MAX_PARENTS {
        pid = procfs.stat(pid).ok()?.ppid;
        // Only the arguments of launchers are read: reading those of a process may wait for it.
        if procfs.stat(pid).ok()?.comm.starts_with("virt-launcher") {
            let args = parse_launcher_args(&procfs.command_line(pid).ok()?)?;
            let (namespace, name, vmi_uid) = (args.namespace, args.name, args.vmi_uid.to_ascii_lowercase());
            return Some(of_launcher(&Launcher { vmi_uid, namespace, name, ..Launcher::default() }));
        }
    }
    None
}

fn place_disks(
    procfs: &Procfs,
    host: &HostRoot,
    pid: u32,
    line: &CommandLine,
    targets: &[DiskTarget],
) -> Vec<QemuDisk> {
    let mounts = procfs.mounts(pid).unwrap_or_default();
    let open_files = procfs.open_files(pid).unwrap_or_default();
    let mut paths: Vec<String> = Vec::new();
    let named = line.disks.iter().filter_map(|disk| disk.path.clone());
    for path in named.chain(targets.iter().filter_map(|disk| disk.source.clone())) {
        if path.starts_with('/') && !paths.contains(&path) {
            paths.push(path);
        }
    }
    let row = |path: String| QemuDisk {
        target: targets.iter().find(|disk| disk.source.as_ref() == Some(&path)).map(|disk| disk.target.clone()),
        disk: place(host, &mounts, &open_files, path),
    };
    paths.into_iter().map(row).collect()
}

fn place(host: &HostRoot, mounts: &[Mount], open_files: &[OpenFile], path: String) -> Disk {
    let real = if path.starts_with("/dev/") { follow_links(host, Path::new(&path)) } else { PathBuf::from(&path) };
    let open = open_files.iter().find(|file| file.path == real || file.path == Path::new(&path));
    let (device, fstype, mount_point) = match open {
        Some(OpenFile { is_block_device: true, device, .. }) => (*device, None, None),
        Some(file) => (file.device, file.fs_type.clone(), file.mount_point.clone()),
        None if path.starts_with("/dev/") => (None, None, None),
        None => {
            let mount = mount_of(mounts, &real);
            (
                mount.map(|mount| mount.device),
                mount.map(|mount| mount.fs_type.clone()),
                mount.map(|mount| mount.mount_point.clone()),
            )
        }
    };
    // Major 0: a file system without a disk behind it.
    let device: Option<DeviceNumber> = device.filter(|device| device.major != 0);
    Disk {
        path,
        device: device.map(|device| device.to_string()),
        device_name: device.and_then(|device| read_block_device(host, device).ok()).map(|device| device.name),
        fstype,
        mount_point: mount_point.map(|point| point.to_string_lossy().into_owned()),
    }
}

/// Follows links below `/dev`, which is a memory file system and never waits.
fn follow_links(host: &HostRoot, path: &Path) -> PathBuf {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(target) = host.read_link(&path) else { break };
        let joined = path.parent().unwrap_or(Path::new("/")).join(target);
        let mut real = PathBuf::new();
        for part in joined.components() {
            match part {
                Component::ParentDir => drop(real.pop()),
                Component::CurDir => {}
                other @ (Component::RootDir | Component::Normal(_) | Component::Prefix(_)) => real.push(other),
            }
        }
        if !real.starts_with("/dev") {
            break;
        }
        path = real;
    }
    path
}
