//! What a block device is built of, down to the disks, and the device nodes that the kubelet keeps for pods.
//!
//! A VM's disk may be a file on a partition of a multipath device over four iSCSI disks, or a loop device over a file on NFS;
//! sysfs knows all of it. Sources: kernel `Documentation/ABI/testing/sysfs-block` (`diskseq`), `sysfs-block-dm`, `slaves/`
//! and `holders/` of `block/holder.c`; kubelet `pkg/volume/util/volumepathhandler` (layout of `volumeDevices`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{listed, names, word};
use crate::kubelet_files::KUBELET_ROOT;
use crate::mount::DeviceNumber;
use crate::{HostRoot, ReadError};

/// How deep devices may stand on each other; real ones are five or six deep.
const MAX_DEPTH: usize = 16;
/// Most layers that are read of one device; a multipath device has one for each path.
const MAX_LAYERS: usize = 256;
/// Most layers that are read of all devices of a node: a thousand LUNs of seven paths.
pub const MAX_LAYERS_OF_ALL: usize = 8192;

/// One device of a stack. Each value is `None` where it was not there or could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Name in sysfs: `dm-0`, `sda`, `nvme0n1`.
    pub name: String,
    /// Its number.
    pub device: Option<DeviceNumber>,
    /// What it stands on: its whole disk for a partition, `slaves` for device mapper and md.
    pub below: Vec<String>,
    /// What stands on it.
    pub holders: Vec<String>,
    /// File behind a loop device, ` (deleted)` and all.
    pub loop_file: Option<String>,
    /// State of the SCSI device or NVMe controller: `running`, `offline`, `live`.
    pub state: Option<String>,
    /// Of a device of device mapper.
    pub dm: Option<DmState>,
    /// The iSCSI session it came over: `session1`.
    pub session: Option<String>,
    /// The remote port of Fibre Channel it came over: `rport-7:0-2`.
    pub remote_port: Option<String>,
    /// What every node knows the SCSI disk by: `naa.6…`, `eui.…`.
    pub wwid: Option<String>,
    /// Name of the NVMe subsystem (NQN).
    pub subsystem: Option<String>,
    /// A number that no other disk of this boot has had (Linux ≥ 5.15).
    pub sequence: Option<u64>,
}

/// What device mapper says of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DmState {
    /// Who made it and what it is: `mpath-3600…`, `LVM-…`, `CRYPT-…`.
    pub uuid: Option<String>,
    /// Whether it holds all I/O back.
    pub is_suspended: Option<bool>,
    /// How many devices its table names.
    pub n_below: Option<usize>,
}

impl Layer {
    /// Whether device mapper calls it a multipath device.
    pub fn is_multipath(&self) -> bool {
        self.dm.as_ref().and_then(|dm| dm.uuid.as_deref()).is_some_and(|uuid| uuid.starts_with("mpath-"))
    }
}

/// Adds the device and everything below it to `layers`, which is by name; returns its name, `None` when there is no such
/// device any more. Nothing is added to [`MAX_LAYERS_OF_ALL`].
///
/// # Errors
/// When sysfs cannot be read, or is not there. A layer below that vanishes meanwhile is left out.
pub fn read_layers(
    root: &HostRoot,
    device: DeviceNumber,
    layers: &mut BTreeMap<String, Layer>,
) -> Result<Option<String>, ReadError> {
    let target = match root.read_link(format!("sys/dev/block/{device}")) {
        Ok(target) => target,
        // Only a list without it tells that it is gone: there is none where sysfs is not mounted.
        Err(error) if error.is_not_found() && root.list("sys/dev/block").is_ok() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    let limit = MAX_LAYERS_OF_ALL.min(layers.len() + MAX_LAYERS);
    add(root, name, &format!("sys/dev/block/{device}"), &target, 0, limit, layers);
    Ok(Some(name.to_owned()))
}

/// All disks of a recorded tree, by name, with what stands on what as both `slaves` and `holders` tell it.
///
/// A copy of sysfs has often lost its links, and with them `sys/dev`, what stands below a device, and which session it came over:
/// what is missing is `None`, and a list that is empty is none.
pub fn read_recorded_layers(root: &HostRoot) -> BTreeMap<String, Layer> {
    let mut layers = BTreeMap::new();
    for name in names(root, "sys/block") {
        let directory = format!("sys/block/{name}");
        let target = root.read_link(&directory).unwrap_or_else(|_| PathBuf::from(&name));
        add(root, &name, &directory, &target, 0, MAX_LAYERS_OF_ALL, &mut layers);
    }
    let held =
        |layer: &Layer| layer.holders.iter().map(|above| (above.clone(), layer.name.clone())).collect::<Vec<_>>();
    for (above, below) in layers.values().flat_map(held).collect::<Vec<_>>() {
        if let Some(above) = layers.get_mut(&above).filter(|above| !above.below.contains(&below)) {
            above.below.push(below);
        }
    }
    for dm in layers.values_mut().filter_map(|layer| layer.dm.as_mut()) {
        dm.n_below = dm.n_below.filter(|n| *n > 0);
    }
    layers
}

fn add(
    root: &HostRoot,
    name: &str,
    directory: &str,
    target: &Path,
    depth: usize,
    limit: usize,
    layers: &mut BTreeMap<String, Layer>,
) {
    if depth >= MAX_DEPTH || layers.len() >= limit || layers.contains_key(name) {
        return;
    }
    let text = |file: &str| word(root, format!("{directory}/{file}"));
    let is_partition = text("partition").is_some();
    let parent = target.parent().and_then(Path::file_name).and_then(|name| name.to_str()).filter(|_| is_partition);
    let slaves = if parent.is_none() { listed(root, &format!("{directory}/slaves")) } else { None };
    let n_below = slaves.as_ref().map(Vec::len);
    let below = parent.map_or_else(|| slaves.unwrap_or_default(), |parent| vec![parent.to_owned()]);
    let part = |prefix: &str| {
        let found = target.iter().filter_map(|part| part.to_str()).find(|part| {
            part.strip_prefix(prefix).is_some_and(|rest| rest.bytes().next().is_some_and(|byte| byte.is_ascii_digit()))
        });
        found.map(str::to_owned)
    };
    let dm = name.starts_with("dm-").then(|| DmState {
        uuid: text("dm/uuid"),
        is_suspended: text("dm/suspended").map(|word| word == "1"),
        n_below,
    });
    let is_nvme = name.starts_with("nvme");
    let layer = Layer {
        device: text("dev").and_then(|text| DeviceNumber::parse(&text)),
        holders: names(root, &format!("{directory}/holders")),
        loop_file: if name.starts_with("loop") { text("loop/backing_file") } else { None },
        state: if parent.is_none() && dm.is_none() { text("device/state") } else { None },
        session: part("session"),
        remote_port: part("rport-"),
        wwid: text("device/wwid").filter(|_| !is_nvme),
        subsystem: if is_nvme { text("device/subsysnqn") } else { None },
        sequence: text("diskseq").and_then(|text| text.parse().ok()),
        name: name.to_owned(),
        dm,
        below: below.clone(),
    };
    layers.insert(name.to_owned(), layer);
    for name in below {
        let directory = format!("sys/class/block/{name}");
        if let Ok(target) = root.read_link(&directory) {
            add(root, &name, &directory, &target, depth + 1, limit, layers);
        }
    }
}

/// Reads again what changes while a device stands: its state, and whether device mapper holds it back.
pub fn refresh_layer(root: &HostRoot, layer: &mut Layer) {
    let name = &layer.name;
    if layer.state.is_some() {
        layer.state = word(root, format!("sys/class/block/{name}/device/state"));
    }
    if let Some(dm) = &mut layer.dm {
        dm.is_suspended = word(root, format!("sys/class/block/{name}/dm/suspended")).map(|word| word == "1");
    }
}

/// A raw block volume of a pod, as the kubelet keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDevice {
    /// Name of the persistent volume.
    pub volume: String,
    /// What is there today.
    pub node: PodNode,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNode {
    /// A block device.
    Block(DeviceNumber),
    /// Something that is no block device, for example a regular file in its place.
    Other,
    /// Nothing: the link leads nowhere.
    Gone,
}

/// The raw block volumes of a pod; empty where it has none. Follows links: only where waiting is allowed.
///
/// # Errors
/// When the folder cannot be listed, or a node in it cannot be looked at.
pub fn read_pod_devices(root: &HostRoot, pod_uid: &str) -> Result<Vec<PodDevice>, ReadError> {
    // A UID from a cgroup's name; nothing that leads out of the folder.
    if pod_uid.contains('/') || pod_uid.contains("..") {
        return Ok(Vec::new());
    }
    let base = format!("{KUBELET_ROOT}/pods/{pod_uid}/volumeDevices");
    let plugins = match root.list(&base) {
        Ok(plugins) => plugins,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut devices = Vec::new();
    for plugin in plugins.into_iter().filter_map(|name| name.into_string().ok()) {
        for volume in names(root, &format!("{base}/{plugin}")) {
            let path = format!("{base}/{plugin}/{volume}");
            let node = match root.stat(&path) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice => {
                    PodNode::Block(DeviceNumber::from_raw(stat.st_rdev))
                }
                Ok(_) => PodNode::Other,
                Err(rustix::io::Errno::NOENT) => PodNode::Gone,
                Err(errno) => return Err(ReadError::from_io(root.display_path(&path), errno.into())),
            };
            devices.push(PodDevice { volume, node });
        }
    }
    Ok(devices)
}
