//! What the `filesystem` probe reads, on its blocking thread: the mount table, where disks lie, and local file systems.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use kulprit_host::mount::{DeviceNumber, Mount, follow_links, mount_of, read_node_mounts};
use kulprit_host::process::Procfs;
use kulprit_host::qemu::{OpenFile, parse_command_line};
use kulprit_host::space::{Space, is_local, read_space};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Reading;
use kulprit_judge::filesystem::DiskPlace;

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

/// The mount table of a QEMU is read at so many looks once, each time while its VM is a suspect: to read one takes 0.2 ms, and nobody can
/// wait for its change who must not pin its mounts.
const LOOKS_A_TABLE: u8 = 5;

/// Where the disks of one QEMU lie.
#[derive(Debug)]
pub(super) struct VmDisks {
    uid: String,
    /// libvirt's disks when this was read.
    sources: Vec<String>,
    /// Their files, every link followed, and what holds each.
    on: Vec<(PathBuf, Mount)>,
    /// At how many more looks the table is not read.
    looks_left: u8,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) mounts: Vec<Mount>,
    pub(super) places: Vec<Place>,
    /// The disks of each VM that are files, by its UID.
    pub(super) disks: BTreeMap<String, Reading<Vec<DiskPlace>>>,
    pub(super) vms: BTreeMap<u32, VmDisks>,
    pub(super) n_errors: u64,
}

/// `running`: pid, UID and libvirt's disks of each VM; `is_suspect` by its UID.
pub(super) fn read(
    host: &HostRoot,
    config: &ProbeConfig,
    running: &[(u32, String, Vec<String>)],
    mut known: BTreeMap<u32, VmDisks>,
    is_suspect: impl Fn(&str) -> bool,
) -> Result<Seen, ReadError> {
    let procfs = Procfs::new(&config.procfs);
    let mounts = read_node_mounts(host, &procfs)?;
    let mut n_errors = 0;
    let mut vms = BTreeMap::new();
    let mut disks: BTreeMap<String, Reading<Vec<DiskPlace>>> = BTreeMap::new();
    for (pid, uid, sources) in running {
        let fresh = known.remove(pid).filter(|row| row.uid == *uid && row.sources == *sources);
        let found = match fresh {
            Some(row) if row.looks_left > 0 && !is_suspect(uid) => {
                Ok(VmDisks { looks_left: row.looks_left - 1, ..row })
            }
            Some(row) => read_anew(&procfs, *pid, row),
            None => find_disks(&procfs, *pid, uid, sources),
        };
        match found {
            Ok(row) => drop(vms.insert(*pid, row)),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                n_errors += 1;
                disks.insert(uid.clone(), Err(chain(&error)));
            }
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
        let mut seen: Vec<DeviceNumber> = Vec::new();
        for (_, mount) in row.on.iter().filter(|(_, mount)| is_asked(mount)) {
            if seen.contains(&mount.device) {
                continue;
            }
            seen.push(mount.device);
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
    for (pid, row) in &vms {
        let Ok(own) = disks.entry(row.uid.clone()).or_insert_with(|| Ok(Vec::new())) else { continue };
        own.extend(look_at_disks(&procfs, *pid, row.on.clone(), &answers));
    }
    Ok(Seen { mounts, places, disks, vms, n_errors })
}

/// The same disks, by the mount table of now.
fn read_anew(procfs: &Procfs, pid: u32, row: VmDisks) -> Result<VmDisks, ReadError> {
    let table = procfs.mounts(pid)?;
    let paths = row.on.into_iter().map(|(path, _)| path);
    Ok(VmDisks { on: on_mounts(&table, paths), looks_left: LOOKS_A_TABLE - 1, ..row })
}

fn on_mounts(table: &[Mount], paths: impl IntoIterator<Item = PathBuf>) -> Vec<(PathBuf, Mount)> {
    let on = |path: PathBuf| mount_of(table, &path).cloned().map(|mount| (path, mount));
    paths.into_iter().filter_map(on).collect()
}

/// Whether disks can be written to. What a QEMU has open is read only where a file system takes no writes.
fn look_at_disks(
    procfs: &Procfs,
    pid: u32,
    on: Vec<(PathBuf, Mount)>,
    answers: &HashMap<DeviceNumber, Reading<Space>>,
) -> Vec<DiskPlace> {
    let place = |(path, mount): (PathBuf, Mount)| {
        let answer = answers.get(&mount.device).filter(|_| mount.fs_type == "xfs");
        let is_shut_down = answer.map_or(Ok(false), |space| space.clone().map(|space| space.is_shut_down));
        DiskPlace { path, mount, is_shut_down, is_written: None }
    };
    let mut places: Vec<DiskPlace> = on.into_iter().map(place).collect();
    let shut = || places.iter().any(DiskPlace::takes_no_writes);
    let Some(open) = shut().then(|| procfs.open_files(pid).map_err(|error| chain(&error))) else { return places };
    for place in places.iter_mut().filter(|place| place.takes_no_writes()) {
        place.is_written = Some(open.as_ref().map_err(Clone::clone).and_then(|open| is_written(open, &place.path)));
    }
    places
}

fn is_written(open: &[OpenFile], path: &Path) -> Reading<bool> {
    let own = || open.iter().filter(|file| file.path == path);
    match own().find(|file| file.is_writable.is_none()) {
        Some(file) => Err(format!("the kernel did not say how descriptor {} of QEMU was opened", file.fd)),
        None => Ok(own().any(|file| file.is_writable == Some(true))),
    }
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

/// The disks of a QEMU that are files, from its command line and what libvirt tells; of their paths only links are read.
fn find_disks(procfs: &Procfs, pid: u32, uid: &str, sources: &[String]) -> Result<VmDisks, ReadError> {
    let table = procfs.mounts(pid)?;
    let line = parse_command_line(&procfs.command_line(pid)?);
    let named = line.disks.into_iter().filter(|disk| disk.is_read_only != Some(true)).filter_map(|disk| disk.path);
    let root = HostRoot::new(root_of(procfs, pid));
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in named.chain(sources.iter().cloned()).filter(|path| path.starts_with('/')) {
        let real = follow_links(&root, &table, Path::new(&path));
        if !real.starts_with("/dev") && !paths.contains(&real) {
            paths.push(real);
        }
    }
    let on = on_mounts(&table, paths);
    Ok(VmDisks { uid: uid.to_owned(), sources: sources.to_vec(), on, looks_left: LOOKS_A_TABLE - 1 })
}
