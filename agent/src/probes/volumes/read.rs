//! Reads what the `volumes` probe looks at, on a thread that may wait.
//!
//! Two paces: which files a QEMU has open, what they stand on and the table of mounts change seldom and are the dear part
//! ([`Structure`]); the counters and states of what is known are a few small files. No file of a volume is opened or looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kulprit_host::block::{DiskCounters, read_diskstats};
use kulprit_host::mount::{DeviceNumber, Mount, mount_of, read_node_mounts};
use kulprit_host::process::{ProcessId, Procfs};
use kulprit_host::qemu::OpenFile;
use kulprit_host::volume::{
    CephClient, DrbdDevice, FcRemotePort, IscsiSession, Layer, NfsMount, NvmeController, PodDevice, RbdImage,
    is_multipathd_running, read_ceph_clients, read_drbd_device, read_fc_remote_ports, read_fuse_waiting,
    read_iscsi_sessions, read_layers, read_nfs_mounts, read_nvme_controllers, read_pod_devices, read_rbd_image,
    refresh_layer,
};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Reading;
use kulprit_judge::volumes::{OpenDevice, VolumeDisk, remote_backend};

use crate::probes::chain;
use crate::probes::descriptors::ByDescriptors;

/// Looks at which a QEMU's files are taken for the same as long as they are as many: five minutes.
const MAX_LOOKS: u32 = 10;
/// Most mounts that are watched.
const MAX_MOUNTS: usize = 512;

/// A QEMU to look at.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) id: ProcessId,
    /// UID of its VM.
    pub(super) uid: String,
    pub(super) pod_uid: Option<String>,
    pub(super) is_suspect: bool,
}

/// What one VM has open.
#[derive(Clone, Debug)]
pub(super) struct VmFiles {
    pub(super) uid: String,
    pub(super) open: Reading<Vec<OpenDevice>>,
    pub(super) pod: Reading<Vec<PodDevice>>,
    /// Super blocks that its files lie on.
    devices: BTreeSet<DeviceNumber>,
}

/// What changes seldom.
#[derive(Clone, Debug, Default)]
pub(super) struct Structure {
    /// Mounts over the network under VMs and in pods.
    pub(super) mounts: Vec<Mount>,
    /// Why the table of mounts could not be read.
    pub(super) blind_to_mounts: Option<String>,
    pub(super) vms: Vec<VmFiles>,
    pub(super) layers: BTreeMap<String, Layer>,
    /// Names of the devices on which something of a VM lies.
    pub(super) tops: Vec<String>,
    pub(super) disks: Vec<VolumeDisk>,
    /// Devices that are mounted or that a QEMU has open.
    pub(super) used: Vec<DeviceNumber>,
    images: Vec<(String, RbdImage)>,
    drbd_minors: Vec<u32>,
    pub(super) n_errors: u64,
}

impl Structure {
    /// Whether a suspect VM has something on this mount.
    pub(super) fn is_suspect(&self, mount: &Mount, targets: &[Target]) -> bool {
        targets.iter().filter(|target| target.is_suspect).any(|target| {
            let is_pods = target.pod_uid.as_deref().is_some_and(|uid| is_of_pod(mount, Some(uid)));
            is_pods || self.vms.iter().any(|vm| vm.uid == target.uid && vm.devices.contains(&mount.device))
        })
    }
}

/// What one look read.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) structure: Arc<Structure>,
    /// As in the structure, with today's states.
    pub(super) layers: BTreeMap<String, Layer>,
    pub(super) counters: Reading<Vec<DiskCounters>>,
    pub(super) nfs: Vec<NfsMount>,
    /// By minor number of the mount's device.
    pub(super) fuse_waiting: BTreeMap<u32, u64>,
    pub(super) ceph: Reading<Vec<CephClient>>,
    pub(super) images: Vec<(String, RbdImage)>,
    pub(super) sessions: Vec<IscsiSession>,
    pub(super) controllers: Vec<NvmeController>,
    pub(super) fc_ports: Vec<FcRemotePort>,
    pub(super) drbd: Vec<DrbdDevice>,
    /// Whether there are multipath devices, and multipathd runs.
    pub(super) has_multipathd: bool,
    pub(super) n_errors: u64,
}

/// Remembers what it need not read again.
#[derive(Debug)]
pub(super) struct Reader {
    procfs: Procfs,
    host: HostRoot,
    structure: Arc<Structure>,
    files: ByDescriptors<Vec<OpenFile>>,
    /// Which disk a QEMU's device was when it was first seen.
    first_sequences: BTreeMap<(ProcessId, DeviceNumber), u64>,
}

impl Reader {
    pub(super) fn new(procfs: Procfs, host: HostRoot) -> Self {
        Self {
            procfs,
            host,
            structure: Arc::default(),
            files: ByDescriptors::new(MAX_LOOKS),
            first_sequences: BTreeMap::new(),
        }
    }

    /// Reads; `is_full`: the structure too.
    pub(super) fn read(&mut self, targets: &[Target], is_full: bool) -> Seen {
        if is_full {
            self.structure = Arc::new(self.read_structure(targets));
        }
        let structure = Arc::clone(&self.structure);
        let host = &self.host;
        let mut n_errors = if is_full { structure.n_errors } else { 0 };
        let mut layers = structure.layers.clone();
        layers.values_mut().for_each(|layer| refresh_layer(host, layer));
        let is_kind = |kind: &str| structure.mounts.iter().any(|mount| remote_backend(mount) == Some(kind));
        let nfs =
            if is_kind("nfs") { counted(read_nfs_mounts(host), &mut n_errors).unwrap_or_default() } else { Vec::new() };
        let needs_ceph = is_kind("ceph") || !structure.images.is_empty();
        let ceph = if needs_ceph { read_ceph_clients(host).map_err(|error| chain(&error)) } else { Ok(Vec::new()) };
        let mut fuse_waiting = BTreeMap::new();
        for mount in structure.mounts.iter().filter(|mount| mount.fs_type.starts_with("fuse")) {
            let waiting = counted(read_fuse_waiting(host, mount.device.minor), &mut n_errors);
            fuse_waiting.extend(waiting.flatten().map(|waiting| (mount.device.minor, waiting)));
        }
        let mut drbd = Vec::new();
        for minor in &structure.drbd_minors {
            drbd.push(match counted(read_drbd_device(host, *minor), &mut n_errors) {
                Some(Some(device)) => device,
                // It is there, and nothing says how it does.
                Some(None) | None => DrbdDevice { minor: *minor, ..DrbdDevice::default() },
            });
        }
        let has_multipathd = layers.values().any(Layer::is_multipath)
            && counted(is_multipathd_running(host, &self.procfs), &mut n_errors) == Some(true);
        let counters = if structure.tops.is_empty() && structure.images.is_empty() {
            Ok(Vec::new())
        } else {
            read_diskstats(host).map_err(|error| chain(&error))
        };
        let has_fc = layers.values().any(|layer| layer.remote_port.is_some());
        Seen {
            fc_ports: if has_fc { read_fc_remote_ports(host) } else { Vec::new() },
            sessions: read_iscsi_sessions(host),
            controllers: read_nvme_controllers(host),
            images: structure.images.clone(),
            structure,
            layers,
            counters,
            nfs,
            fuse_waiting,
            ceph,
            drbd,
            has_multipathd,
            n_errors,
        }
    }

    fn read_structure(&mut self, targets: &[Target]) -> Structure {
        let mut found = Structure::default();
        let mounts = match read_node_mounts(&self.host, &self.procfs) {
            Ok(mounts) => mounts,
            Err(error) => {
                found.blind_to_mounts = Some(chain(&error));
                found.n_errors += 1;
                Vec::new()
            }
        };
        let mut tops = BTreeSet::new();
        for target in targets {
            if let Some(vm) = self.read_vm(target, &mounts, &mut found, &mut tops) {
                found.vms.push(vm);
            }
        }
        self.files.retain(|id| targets.iter().any(|target| target.id == *id));
        self.first_sequences.retain(|(id, _), _| targets.iter().any(|target| target.id == *id));
        found.tops = tops.into_iter().collect();
        found.mounts = watched(&mounts, &found.vms);
        let opened = found.vms.iter().flat_map(|vm| vm.open.iter().flatten().map(|row| row.device));
        found.used = mounts.iter().map(|mount| mount.device).chain(opened).collect();
        self.read_disks(&mut found);
        found
    }

    /// `None` when the process has ended.
    fn read_vm(
        &mut self,
        target: &Target,
        mounts: &[Mount],
        found: &mut Structure,
        tops: &mut BTreeSet<String>,
    ) -> Option<VmFiles> {
        let mut vm = VmFiles {
            uid: target.uid.clone(),
            open: Ok(Vec::new()),
            pod: match &target.pod_uid {
                Some(uid) => counted_text(read_pod_devices(&self.host, uid), &mut found.n_errors),
                None => Ok(Vec::new()),
            },
            devices: BTreeSet::new(),
        };
        let files = match self.open_files(target) {
            Ok(files) => files,
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                found.n_errors += 1;
                vm.open = Err(chain(&error));
                // Of a process whose leader has ended, and a thread of it has not, the kernel shows no files: it lies where it lay.
                let before = self.structure.vms.iter().find(|known| known.uid == target.uid);
                vm.devices = before.map(|known| known.devices.clone()).unwrap_or_default();
                return Some(vm);
            }
        };
        let mut open: Vec<OpenDevice> = Vec::new();
        for file in files {
            let Some(device) = file.device else { continue };
            let is_known = open.iter().any(|row| row.device == device && (!file.is_deleted || row.is_deleted));
            if file.is_block_device && is_known || !file.is_block_device && !vm.devices.insert(device) {
                continue;
            }
            let name = self.stack(device, mounts, found, &mut vm.devices);
            tops.extend(name.clone().ok().flatten());
            if file.is_block_device {
                let of = |name: &String| self.sequences(target.id, device, name, &found.layers);
                let sequences = name.iter().flatten().next().and_then(of);
                let path = file.path.to_string_lossy().into_owned();
                open.push(OpenDevice { fd: file.fd, path, device, is_deleted: file.is_deleted, name, sequences });
            }
        }
        vm.open = Ok(open);
        Some(vm)
    }

    /// The files of a QEMU; as long as it has as many, only whether the names of its block devices are still there.
    fn open_files(&mut self, target: &Target) -> Result<Vec<OpenFile>, ReadError> {
        let (procfs, id) = (&self.procfs, target.id);
        if target.is_suspect {
            self.files.forget(id);
        }
        let read = || procfs.open_files(id.pid);
        let mut files = self.files.get(procfs, id, read)?;
        for file in files.iter_mut().filter(|file| file.is_block_device) {
            match procfs.is_deleted_by_now(id.pid, file) {
                Some(is_deleted) => file.is_deleted = is_deleted,
                None => {
                    self.files.forget(id);
                    return self.files.get(procfs, id, read);
                }
            }
        }
        Ok(files)
    }

    /// Adds what the device stands on, through loop devices too; its name, `None` when no disk has this number.
    fn stack(
        &self,
        device: DeviceNumber,
        mounts: &[Mount],
        found: &mut Structure,
        devices: &mut BTreeSet<DeviceNumber>,
    ) -> Reading<Option<String>> {
        if device.major == 0 {
            return Ok(None);
        }
        let read = read_layers(&self.host, device, &mut found.layers);
        let Some(name) = counted_text(read, &mut found.n_errors)? else { return Ok(None) };
        let file = found.layers.get(&name).and_then(|layer| layer.loop_file.clone());
        // The file system below a loop device is one more that the VM lies on.
        if let Some(mount) = file.and_then(|file| mount_of(mounts, Path::new(&file)))
            && devices.insert(mount.device)
            && let Ok(Some(below)) = self.stack(mount.device, mounts, found, devices)
            && let Some(layer) = found.layers.get_mut(&name)
            && below != name
        {
            layer.below = vec![below];
        }
        Ok(Some(name))
    }

    fn sequences(
        &mut self,
        id: ProcessId,
        device: DeviceNumber,
        name: &str,
        layers: &BTreeMap<String, Layer>,
    ) -> Option<(u64, u64)> {
        // A medium that is changed in its drive is a new disk to the kernel.
        let layer = layers.get(name).filter(|layer| !layer.name.starts_with("sr"))?;
        let whole = layer.below.first().and_then(|below| layers.get(below)).filter(|_| layer.dm.is_none());
        let now = layer.sequence.or_else(|| whole.and_then(|whole| whole.sequence))?;
        Some((*self.first_sequences.entry((id, device)).or_insert(now), now))
    }

    /// Disks that are volumes by themselves, with what stands on them.
    fn read_disks(&self, found: &mut Structure) {
        let has_longhorn = read_iscsi_sessions(&self.host)
            .iter()
            .any(|session| session.target.as_deref().is_some_and(|target| target.contains("io.longhorn")));
        let sessions = if has_longhorn { read_iscsi_sessions(&self.host) } else { Vec::new() };
        let is_longhorn = |name: &str| {
            let link = self.host.read_link(format!("sys/class/block/{name}"));
            let part = link.ok().and_then(|link| {
                link.iter().filter_map(|part| part.to_str()).find(|part| part.starts_with("session")).map(str::to_owned)
            });
            part.is_some_and(|part| {
                let own = sessions.iter().find(|session| session.name == part);
                own.and_then(|own| own.target.as_deref()).is_some_and(|target| target.contains("io.longhorn"))
            })
        };
        let names = self.host.list("sys/class/block").unwrap_or_default();
        for name in names.iter().filter_map(|name| name.to_str()) {
            let is_whole = |prefix: &str| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
            };
            let is_disk = is_whole("rbd")
                || is_whole("drbd")
                || is_whole("nbd") && self.host.read_text(format!("sys/class/block/{name}/pid")).is_ok()
                || has_longhorn
                    && name.starts_with("sd")
                    && !name.ends_with(|c: char| c.is_ascii_digit())
                    && is_longhorn(name);
            if !is_disk {
                continue;
            }
            self.read_named(name, found);
            let holders = found.layers.get(name).map(|layer| layer.holders.clone()).unwrap_or_default();
            holders.iter().for_each(|holder| self.read_named(holder, found));
            found.disks.push(VolumeDisk { name: name.to_owned() });
            found.images.extend(read_rbd_image(&self.host, name).map(|image| (name.to_owned(), image)));
            let minor = found.layers.get(name).and_then(|layer| layer.device).map(|device| device.minor);
            found.drbd_minors.extend(minor.filter(|_| is_whole("drbd")));
        }
    }

    fn read_named(&self, name: &str, found: &mut Structure) {
        let number = self.host.read_text(format!("sys/class/block/{name}/dev")).ok();
        if let Some(device) = number.and_then(|number| DeviceNumber::parse(&number)) {
            let _ = counted(read_layers(&self.host, device, &mut found.layers), &mut found.n_errors);
        }
    }
}

/// Whether it is a volume of a pod, of this one if given.
fn is_of_pod(mount: &Mount, uid: Option<&str>) -> bool {
    let mut parts = mount.mount_point.iter().filter_map(|part| part.to_str()).skip_while(|part| *part != "pods");
    let is_one = parts.next().is_some() && parts.next().is_some_and(|own| uid.is_none_or(|uid| uid == own));
    is_one && parts.next() == Some("volumes")
}

/// The mounts over the network that pods have, and those that VMs' files lie on.
fn watched(mounts: &[Mount], vms: &[VmFiles]) -> Vec<Mount> {
    let remote: Vec<&Mount> = mounts.iter().filter(|mount| remote_backend(mount).is_some()).collect();
    let of_pods: Vec<&Mount> = remote.iter().copied().filter(|mount| is_of_pod(mount, None)).collect();
    let is_under_vm = |mount: &&&Mount| {
        !is_of_pod(mount, None)
            && !of_pods.iter().any(|other| other.device == mount.device)
            && vms.iter().any(|vm| vm.devices.contains(&mount.device))
    };
    let mut watched: Vec<Mount> = Vec::new();
    // The last mount at a point covers the others.
    for mount in of_pods.iter().chain(remote.iter().filter(is_under_vm)).rev() {
        if !watched.iter().any(|known| known.mount_point == mount.mount_point) && watched.len() < MAX_MOUNTS {
            watched.push((*mount).clone());
        }
    }
    watched
}

fn counted<T>(result: Result<T, ReadError>, n_errors: &mut u64) -> Option<T> {
    result.inspect_err(|_| *n_errors += 1).ok()
}

fn counted_text<T>(result: Result<T, ReadError>, n_errors: &mut u64) -> Reading<T> {
    result.map_err(|error| {
        *n_errors += 1;
        chain(&error)
    })
}
