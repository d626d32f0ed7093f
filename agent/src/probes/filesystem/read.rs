//! What the `filesystem` probe reads, on its blocking thread: the mount table, where disks lie, and local file systems.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use kulprit_host::mount::{DeviceNumber, Mount, follow_links, mount_of, read_node_mounts};
use kulprit_host::process::Procfs;
use kulprit_host::qemu::parse_command_line;
use kulprit_host::space::{Space, is_local, read_space};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Reading;

use crate::probes::{ProbeConfig, chain};

/// What has no room that could be used up: the kernel's own, devices, images.
const NOT_ASKED: [&str; 14] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devtmpfs",
    "devpts",
    "mqueue",
    "hugetlbfs",
    "securityfs",
    "squashfs",
    "erofs",
    "iso9660",
    "autofs",
    "nsfs",
];

/// A file system, and whose it is.
#[derive(Debug)]
pub(super) struct Place {
    /// The VM with a disk on it; `None` for one that the node needs.
    pub(super) vm_uid: Option<String>,
    /// The root below which its mount point is: the host's, or QEMU's own.
    pub(super) root: PathBuf,
    pub(super) mount_point: String,
    pub(super) mount_id: u32,
    pub(super) fs_type: String,
    pub(super) device: DeviceNumber,
    /// What it answered; `None` where only a child may ask.
    pub(super) space: Option<Reading<Space>>,
}

/// Where the disks of one QEMU lie.
#[derive(Debug)]
pub(super) struct VmDisks {
    uid: String,
    /// libvirt's disks when this was read.
    sources: Vec<String>,
    mounts: Vec<Mount>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) mounts: Vec<Mount>,
    pub(super) places: Vec<Place>,
    pub(super) vms: BTreeMap<u32, VmDisks>,
    pub(super) n_errors: u64,
}

/// `running`: pid, UID and libvirt's disks of each VM.
pub(super) fn read(
    host: &HostRoot,
    config: &ProbeConfig,
    running: &[(u32, String, Vec<String>)],
    mut known: BTreeMap<u32, VmDisks>,
) -> Result<Seen, ReadError> {
    let procfs = Procfs::new(&config.procfs);
    let mounts = read_node_mounts(host, &procfs)?;
    let mut n_errors = 0;
    let mut vms = BTreeMap::new();
    for (pid, uid, sources) in running {
        let fresh = known.remove(pid).filter(|row| row.uid == *uid && row.sources == *sources);
        match fresh.map_or_else(|| find_disks(&procfs, *pid, uid, sources), Ok) {
            Ok(row) => drop(vms.insert(*pid, row)),
            Err(error) => n_errors += u64::from(!error.is_not_found()),
        }
    }
    let mut places = Vec::new();
    for folder in &config.filesystem.folders {
        let real = follow_links(host, &mounts, folder);
        let Some(mount) = mount_of(&mounts, &real).filter(|mount| is_asked(mount)) else { continue };
        let is_known = |place: &Place| place.device == mount.device;
        if !places.iter().any(is_known) {
            places.push(place(None, host.path(), mount));
        }
    }
    for (pid, row) in &vms {
        let root = root_of(&procfs, *pid);
        for mount in row.mounts.iter().filter(|mount| is_asked(mount)) {
            // What the host sees too is asked there: a container's mount is nobody's business but in passing.
            let on_host =
                mounts.iter().find(|host_mount| host_mount.device == mount.device && !is_local(&mount.fs_type));
            let mut of_vm = place(Some(row.uid.clone()), &root, mount);
            if let Some(on_host) = on_host {
                of_vm.root = host.path().to_path_buf();
                of_vm.mount_point = on_host.mount_point.to_string_lossy().into_owned();
                of_vm.mount_id = on_host.mount_id;
            }
            places.push(of_vm);
        }
    }
    let mut answers: HashMap<DeviceNumber, Reading<Space>> = HashMap::new();
    for place in places.iter_mut().filter(|place| is_local(&place.fs_type)) {
        let ask = || read_space(&HostRoot::new(&place.root), &place.mount_point).map_err(|error| chain(&error));
        place.space = Some(answers.entry(place.device).or_insert_with(ask).clone());
    }
    n_errors += answers.values().filter(|space| space.is_err()).count() as u64;
    Ok(Seen { mounts, places, vms, n_errors })
}

fn is_asked(mount: &Mount) -> bool {
    !NOT_ASKED.contains(&mount.fs_type.as_str())
}

fn place(vm_uid: Option<String>, root: &Path, mount: &Mount) -> Place {
    Place {
        vm_uid,
        root: root.to_path_buf(),
        mount_point: mount.mount_point.to_string_lossy().into_owned(),
        mount_id: mount.mount_id,
        fs_type: mount.fs_type.clone(),
        device: mount.device,
        space: None,
    }
}

/// Where the `/` of a process is for us.
fn root_of(procfs: &Procfs, pid: u32) -> PathBuf {
    procfs.path().join(pid.to_string()).join("root")
}

/// The mounts that hold the disks of a QEMU, from its command line and what libvirt tells; of their paths only links are read.
fn find_disks(procfs: &Procfs, pid: u32, uid: &str, sources: &[String]) -> Result<VmDisks, ReadError> {
    let table = procfs.mounts(pid)?;
    let line = parse_command_line(&procfs.command_line(pid)?);
    let named = line.disks.into_iter().filter(|disk| disk.is_read_only != Some(true)).filter_map(|disk| disk.path);
    let root = HostRoot::new(root_of(procfs, pid));
    let mut mounts: Vec<Mount> = Vec::new();
    for path in named.chain(sources.iter().cloned()).filter(|path| path.starts_with('/')) {
        let real = follow_links(&root, &table, Path::new(&path));
        let Some(mount) = mount_of(&table, &real).filter(|_| !real.starts_with("/dev")) else { continue };
        if !mounts.iter().any(|known| known.device == mount.device) {
            mounts.push(mount.clone());
        }
    }
    Ok(VmDisks { uid: uid.to_owned(), sources: sources.to_vec(), mounts })
}
