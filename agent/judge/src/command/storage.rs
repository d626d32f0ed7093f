//! `df`, `mount`, `lsblk`, `multipath`, `drbdadm`, `dmsetup`: full, read-only, claimed, without paths, without quorum.

use kulprit_host::command::block::{BlockRow, DrbdRow, MultipathRow, ThinPool};
use kulprit_host::command::files::{Counted, DfRow, MountRow};
use kulprit_host::command::open_files::OpenFile;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use super::{absent, present};
use crate::verdict::{OccurrenceVerdict, Verdict};

/// As the catalogue's row.
const NODE_FULL_PCT: u32 = 97;
const VM_FULL_PCT: u32 = 99;
/// Folders in which kubelet, the runtime and KubeVirt write.
const STATE_FOLDERS: [&str; 9] = [
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/rancher",
    "/var/lib/libvirt",
    "/var/run/kubevirt",
    "/run",
    "/var/log",
];
/// File systems that are full by nature, or hold nothing.
const FULL_BY_NATURE: [&str; 9] =
    ["squashfs", "iso9660", "erofs", "cramfs", "devtmpfs", "efivarfs", "configfs", "overlay", "fuse.snapfuse"];

/// Whether what the node's programs write lands on a file system mounted there.
fn is_of_the_node(mount_point: &str) -> bool {
    let below = |folder: &str, path: &str| {
        path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    mount_point == "/"
        || STATE_FOLDERS.iter().any(|folder| below(mount_point, folder) || *folder == mount_point)
        || (below("/var/lib/kubelet", mount_point) && !mount_point.contains("/volumes/"))
}

/// The UID of the pod whose volume is mounted there.
fn pod_of(mount_point: &str) -> Option<&str> {
    let (_, rest) = mount_point.split_once("/pods/")?;
    rest.split('/').next().filter(|uid| uid.len() == 36)
}

/// Open devices of QEMU whose name is gone. `of_qemu`: what was listed is known to be a QEMU's.
#[must_use]
pub fn judge_open_files(at: Moment, files: &[OpenFile], of_qemu: bool) -> Vec<Verdict> {
    let in_memory = ["/dev/shm/", "/dev/hugepages", "/dev/mqueue/", "/dev/zero"];
    let is_device = |path: &str| path.starts_with("/dev/") && !in_memory.iter().any(|prefix| path.starts_with(prefix));
    files
        .iter()
        .filter(|file| file.is_deleted && is_device(&file.path))
        .map(|file| {
            let text = format!("QEMU has {} open, which is gone (deleted)", file.path);
            stale_device(at, file.pid, is_qemus(file) || of_qemu, &file.path, text)
        })
        .collect()
}

/// A descriptor whose device is another one than the name of it leads to today; absent where they are one.
#[must_use]
pub fn judge_device_numbers(at: Moment, pid: u32, of_descriptor: (u32, u32), path: &str, today: (u32, u32)) -> Verdict {
    if of_descriptor == today {
        return absent(FindingCode::StaleDevice, Subject::Process { pid, start_ticks: 0 });
    }
    let (major, minor) = of_descriptor;
    let (new_major, new_minor) = today;
    let text = format!("process {pid} has device {major}:{minor} open; {path} is {new_major}:{new_minor} today");
    stale_device(at, Some(pid), true, path, text)
}

/// KubeVirt's QEMU runs as user 107, `qemu` in its image; Debian calls it `libvirt-qemu`.
fn is_qemus(file: &OpenFile) -> bool {
    file.owner.as_deref().is_some_and(|owner| matches!(owner, "107" | "qemu" | "libvirt-qemu"))
        || file.comm.as_deref().is_some_and(|comm| comm.starts_with("qemu") || comm.contains("/KVM"))
}

fn stale_device(at: Moment, pid: Option<u32>, is_qemu: bool, path: &str, text: String) -> Verdict {
    let subject = pid.map_or(Subject::Node, |pid| Subject::Process { pid, start_ticks: 0 });
    let facts = Attributes::new().with(attribute::PATH, path).with_some(attribute::COMM, is_qemu.then_some("qemu"));
    present(FindingCode::StaleDevice, subject, at, "proc", facts, text)
}

/// A file system under a disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    /// Any name of the VM: its UID, or `pod/` and the UID or name of its pod.
    pub vm: String,
    /// Path of the disk's image, or of a folder of it, as `df` was asked to see it.
    pub path: String,
}

/// File systems under disks of VMs: volumes of pods, by the UID in kubelet's path; and where `disks` lie.
///
/// A pod that is no VM's is nobody here, and what is said of it is read by nobody.
#[must_use]
pub fn judge_vm_df(at: Moment, rows: &[DfRow], disks: &[DiskPlace]) -> Vec<Verdict> {
    let code = FindingCode::VmFilesystemFull;
    let is_below = |path: &str, point: &str| {
        point == "/" || path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // Of nested mounts the nearest one holds the disk.
    let lies_on = |disk: &DiskPlace, row: &DfRow| {
        let holders = rows.iter().filter(|other| is_below(&disk.path, &other.mount_point));
        holders.map(|other| other.mount_point.len()).max() == Some(row.mount_point.len())
            && is_below(&disk.path, &row.mount_point)
    };
    let mut verdicts = Vec::new();
    for row in rows {
        let (Some(pct), Some(_)) = (row.used_pct, row.size.filter(|size| *size > 0)) else { continue };
        let of_pod = pod_of(&row.mount_point).filter(|_| is_volume_with_data(row));
        let owners = disks.iter().filter(|disk| lies_on(disk, row)).map(|disk| disk.vm.as_str());
        let what = match row.counted {
            Counted::Bytes => "bytes",
            Counted::Inodes => "inodes",
        };
        let of_pod_name = of_pod.map(|uid| format!("pod/{uid}"));
        for vm in of_pod_name.as_deref().into_iter().chain(owners) {
            if pct < VM_FULL_PCT {
                verdicts.push(absent(code, Subject::vm(vm)));
                continue;
            }
            let facts = Attributes::new()
                .with(attribute::WHAT, what)
                .with(attribute::PERCENT, pct)
                .with(attribute::MOUNT_POINT, &row.mount_point)
                .with_some(attribute::FSTYPE, row.fs_type.as_deref())
                .with_some(attribute::POD_UID, of_pod);
            let text = format!("df: {} on {} has {pct} % of its {what} used", row.source, row.mount_point);
            verdicts.push(present(code, Subject::vm(vm), at, "df", facts, text));
        }
    }
    verdicts
}

/// A pod's volume that data is written to: not its secrets, tokens and configuration.
fn is_volume_with_data(row: &DfRow) -> bool {
    let small = [
        "kubernetes.io~projected/",
        "kubernetes.io~secret/",
        "kubernetes.io~configmap/",
        "kubernetes.io~downward-api/",
    ];
    row.mount_point.contains("/volumes/")
        && row.fs_type.as_deref() != Some("tmpfs")
        && row.source != "tmpfs"
        && !small.iter().any(|kind| row.mount_point.contains(kind))
}

/// Rows of `df`: bytes or inodes. What is full under a pod's volume is the pod's ([`judge_vm_df`]).
#[must_use]
pub fn judge_df(at: Moment, rows: &[DfRow]) -> Vec<Verdict> {
    let code = FindingCode::FilesystemFull;
    let mut verdicts = Vec::new();
    for row in rows {
        let is_overlay_root = row.fs_type.as_deref() == Some("overlay") && row.mount_point == "/";
        let is_nature = row.fs_type.as_deref().is_some_and(|kind| FULL_BY_NATURE.contains(&kind)) && !is_overlay_root;
        let is_snap = row.source.starts_with("/dev/loop") && row.mount_point.contains("/snap");
        let (Some(pct), Some(_)) = (row.used_pct, row.size.filter(|size| *size > 0)) else { continue };
        // Secrets and tokens of a pod, its own layers, its volumes.
        let is_pods = pod_of(&row.mount_point).is_some();
        if is_nature || is_snap || is_pods || !is_of_the_node(&row.mount_point) {
            continue;
        }
        let subject = Subject::Mount { point: row.mount_point.clone() };
        let what = match row.counted {
            Counted::Bytes => "bytes",
            Counted::Inodes => "inodes",
        };
        if pct < NODE_FULL_PCT {
            // Half a look (bytes without inodes) is enough to say that it is not full in that; the other half adds to it.
            verdicts.push(absent(code, subject));
            continue;
        }
        let facts = Attributes::new()
            .with(attribute::WHAT, what)
            .with(attribute::PERCENT, pct)
            .with(attribute::MOUNT_POINT, &row.mount_point)
            .with_some(attribute::FSTYPE, row.fs_type.as_deref());
        let text = format!("df: {} on {} has {pct} % of its {what} used", row.source, row.mount_point);
        verdicts.push(present(code, subject, at, "df", facts, text));
    }
    verdicts
}

/// Rows of `mount`.
#[must_use]
pub fn judge_mounts(at: Moment, rows: &[MountRow]) -> Vec<Verdict> {
    let code = FindingCode::FilesystemReadOnly;
    let mut verdicts = Vec::new();
    for row in rows {
        let is_local = matches!(row.fs_type.as_str(), "ext4" | "ext3" | "xfs" | "btrfs" | "f2fs");
        let subject = || Subject::Mount { point: row.mount_point.clone() };
        // `errors=remount-ro` and `ro` together: not asked for, if the distribution's root is not read-only by design.
        let asks_for_it = row.options.iter().any(|option| option == "errors=remount-ro");
        let is_state = is_of_the_node(&row.mount_point) && row.mount_point != "/";
        let is_fallen = row.is_after_error() || (row.is_read_only() && is_local && (asks_for_it || is_state));
        if is_fallen {
            let facts = Attributes::new()
                .with(attribute::MOUNT_POINT, &row.mount_point)
                .with(attribute::FSTYPE, &row.fs_type)
                .with_some(attribute::POD_UID, pod_of(&row.mount_point));
            let text = format!("mount: {} on {} ({}) is read-only", row.source, row.mount_point, row.fs_type);
            verdicts.push(present(code, subject(), at, "mount", facts, text));
        } else if is_local && is_of_the_node(&row.mount_point) && !row.is_read_only() {
            verdicts.push(absent(code, subject()));
        }
    }
    verdicts
}

/// The tree of `lsblk`, or of sysfs (`source`): multipath with a single path, or LVM, over a disk that came over the network.
#[must_use]
pub fn judge_block_tree(at: Moment, source: &str, rows: &[BlockRow]) -> Vec<Verdict> {
    let is_kind = |row: &BlockRow, kind: &str| row.kind.as_deref() == Some(kind);
    let is_volume = |name: &str| ["rbd", "drbd", "nbd"].iter().any(|prefix| name.starts_with(prefix));
    let mut verdicts = Vec::new();
    for row in rows {
        let Some(parent) = row.parent.as_deref() else { continue };
        // One device with several paths stands below each of them.
        let n_paths = rows.iter().filter(|other| other.name == row.name).count();
        let has_use = |name: &str| {
            rows.iter().any(|other| {
                other.parent.as_deref() == Some(name) || (other.name == name && other.mount_point.is_some())
            })
        };
        let by = match () {
            () if is_kind(row, "mpath") && n_paths == 1 && !has_use(&row.name) => "multipath",
            () if is_kind(row, "lvm") && is_volume(parent) => "lvm",
            () if row.kind.as_deref().is_some_and(|kind| kind.starts_with("raid")) && is_volume(parent) => "md",
            () => continue,
        };
        let facts = Attributes::new()
            .with(attribute::WHAT, by)
            .with(attribute::OBJECT, &row.name)
            .with(attribute::DEVICE_NAME, parent);
        let text = format!("{source}: {} ({by}) holds {parent}", row.name);
        verdicts.push(present(
            FindingCode::DeviceClaimed,
            Subject::Device { name: parent.to_owned() },
            at,
            source,
            facts,
            text,
        ));
    }
    verdicts
}

/// The maps of `multipath -ll`.
#[must_use]
pub fn judge_multipath(at: Moment, maps: &[MultipathRow]) -> Vec<Verdict> {
    let judge = |map: &MultipathRow| {
        let subject = Subject::Device { name: map.dm_name.clone().unwrap_or_else(|| map.name.clone()) };
        let failed: Vec<&str> =
            map.paths.iter().filter(|path| path.is_failed()).map(|path| path.device.as_str()).collect();
        if failed.is_empty() {
            return absent(FindingCode::PathsFailed, subject);
        }
        let what = if failed.len() == map.paths.len() { "all" } else { "some" };
        let facts = Attributes::new()
            .with(attribute::WHAT, what)
            .with(attribute::BACKEND, "multipath")
            .with(attribute::MEASURED, failed.len())
            .with(attribute::LIMIT, map.paths.len())
            .with_some(attribute::DEVICE_NAME, map.dm_name.as_deref());
        let text = format!(
            "multipath: {} of {} paths of {} failed: {}",
            failed.len(),
            map.paths.len(),
            map.name,
            failed.join(", ")
        );
        present(FindingCode::PathsFailed, subject, at, "multipath", facts, text)
    };
    maps.iter().filter(|map| !map.paths.is_empty()).map(judge).collect()
}

/// The resources of `drbdadm status`, or of the kernel's own files (`source`).
#[must_use]
pub fn judge_drbd(at: Moment, source: &str, rows: &[DrbdRow]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for row in rows {
        let subject = || Subject::Device { name: row.name.clone() };
        let facts = || Attributes::new().with(attribute::BACKEND, "drbd").with(attribute::VOLUME, &row.name);
        let suspended = row.suspended.as_deref().filter(|why| *why != "no");
        let why = suspended.or(row.is_quorum_lost.then_some("quorum"));
        verdicts.push(match why {
            Some(why) => {
                let text = format!("{source}: {} suspends I/O or lacks quorum ({why})", row.name);
                present(
                    FindingCode::ReplicationSuspended,
                    subject(),
                    at,
                    source,
                    facts().with(attribute::REASON, why),
                    text,
                )
            }
            None => absent(FindingCode::ReplicationSuspended, subject()),
        });
        if let Some((peer, state)) = row.lost_peers.first() {
            let facts = facts().with(attribute::WHAT, "some").with(attribute::OTHER_NODE, peer);
            let text = format!("{source}: {} has lost {peer} ({state})", row.name);
            verdicts.push(present(FindingCode::PathsFailed, subject(), at, source, facts, text));
        }
    }
    verdicts
}

/// Who watches an image, of `rbd status`. `own`: addresses of the node on which it was asked, empty where they are not known.
///
/// A watcher is a client that has the image open: on this node that is what runs here; elsewhere, or who knows where, it holds the
/// image, which matters to a VM that is to start here.
#[must_use]
pub fn judge_rbd_watchers(at: Moment, image: Option<&str>, watchers: &[String], own: &[String]) -> Option<Verdict> {
    // `10.0.0.1:0/3012034728`, `[fd00::1]:0/3012034728`.
    let address = |watcher: &str| {
        let host = watcher.rsplit_once(":0/").map_or(watcher, |(host, _)| host);
        host.trim_matches(['[', ']']).to_owned()
    };
    let watchers: Vec<String> = watchers.iter().map(|watcher| address(watcher)).collect();
    let first = watchers.first()?;
    if watchers.iter().any(|watcher| own.contains(watcher)) {
        return None;
    }
    let attributes = Attributes::new()
        .with(attribute::BACKEND, "ceph")
        .with_some(attribute::VOLUME, image)
        .with_some(attribute::OTHER_NODE, (!own.is_empty()).then_some(first))
        .with_some(attribute::WHAT, own.is_empty().then_some("watched"))
        .with(attribute::UNDATED, true);
    let name = image.unwrap_or("rbd").to_owned();
    let text = format!("rbd status: {first} has {} open", image.unwrap_or("the image"));
    Some(Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::BlockDeviceHeld,
        subject: Subject::Device { name },
        at,
        count: 1,
        attributes,
        evidence: vec![Evidence::new("rbd", at, text)],
    }))
}

/// The pools of `dmsetup status`. A full one is an occurrence, as the kernel's log says it.
#[must_use]
pub fn judge_thin_pools(at: Moment, pools: &[ThinPool]) -> Vec<Verdict> {
    let is_full = |pair: Option<(u64, u64)>| pair.is_some_and(|(used, all)| all > 0 && used >= all);
    pools
        .iter()
        .filter(|pool| {
            matches!(pool.mode.as_deref(), Some("out_of_data_space" | "Fail" | "ro"))
                || is_full(pool.data)
                || is_full(pool.metadata)
        })
        .map(|pool| {
            let text = format!("dmsetup: thin pool {} is {}", pool.name, pool.mode.as_deref().unwrap_or("full"));
            Verdict::Occurrence(OccurrenceVerdict {
                code: FindingCode::ThinPoolFull,
                subject: Subject::Device { name: pool.name.clone() },
                at,
                count: 1,
                attributes: Attributes::new().with(attribute::DEVICE_NAME, &pool.name).with(attribute::UNDATED, true),
                evidence: vec![Evidence::new("dmsetup", at, text)],
            })
        })
        .collect()
}
