//! File systems that the node writes to, and the paths to its disks.
//!
//! A mount that is read-only is normal: images of the operating system, ConfigMaps, CD-ROMs. It is a fault under what the
//! kubelet, the runtime and KubeVirt keep their state in, on a file system that can be written to; that also holds for immutable
//! systems, which mount `/var` apart. The states of paths are those of `drivers/scsi/scsi_sysfs.c`, `drivers/nvme/host/sysfs.c`
//! and `drivers/scsi/scsi_transport_iscsi.c`.

mod space;
mod vm_read_only;

use std::collections::BTreeMap;
use std::path::Path;

use kulprit_host::hardware::StoragePath;
use kulprit_host::mount::{Mount, mount_of};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

pub use space::{Asked, judge_space, judge_vm_space};
pub use vm_read_only::{DiskPlace, judge_vm_read_only};

use crate::say::{PROCFS, SYSFS, absent, counted, present};
use crate::verdict::Verdict;

/// Folders that a node with VMs writes to.
pub const STATE_FOLDERS: [&str; 8] = [
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/rancher",
    "/var/lib/cni",
    "/var/log",
    "/var/run/kubevirt",
    "/run",
];
/// File systems that become read-only by themselves; an image (squashfs, erofs, iso9660) is so by nature.
const WRITABLE_TYPES: [&str; 8] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "overlay", "zfs"];

/// `FilesystemReadOnly` of each mount that holds a folder of state.
///
/// `mounts` in the order of the kernel's list. Nothing for an empty list.
#[must_use]
pub fn judge_mounts(at: Moment, mounts: &[Mount]) -> Vec<Verdict> {
    let code = FindingCode::FilesystemReadOnly;
    let mut by_point: BTreeMap<&Path, (&Mount, &str)> = BTreeMap::new();
    for folder in STATE_FOLDERS {
        let Some(mount) = mount_of(mounts, Path::new(folder)) else { continue };
        if WRITABLE_TYPES.contains(&mount.fs_type.as_str()) {
            by_point.entry(mount.mount_point.as_path()).or_insert((mount, folder));
        }
    }
    let judged = by_point.into_values().map(|(mount, folder)| {
        let point = mount.mount_point.to_string_lossy().into_owned();
        let subject = Subject::Mount { point: point.clone() };
        let place = format!("{} ({}) at {point}", mount.source.as_deref().unwrap_or("a file system"), mount.fs_type);
        Verdict::State(if mount.is_read_only {
            let facts = Attributes::new()
                .with(attribute::MOUNT_POINT, &point)
                .with(attribute::FSTYPE, &mount.fs_type)
                .with(attribute::DEVICE, mount.device);
            present(code, &subject, at, PROCFS, facts, format!("{place} is mounted read-only and holds {folder}"))
        } else {
            absent(code, &subject, at, PROCFS, format!("{place} is mounted read-write"))
        })
    });
    judged.collect()
}

/// The state of a path that multipathd does not use, whatever the disk itself says.
pub(crate) const FAILED_IN_MULTIPATH: &str = "failed for multipath";

/// How a path is by its state's word; `None` for a word that is not known, or says nothing (`created`).
pub(crate) fn is_path_up(state: &str) -> Option<bool> {
    match state {
        "running" | "live" | "LOGGED_IN" => Some(true),
        "offline" | "transport-offline" | "blocked" | "quiesce" | "deleting" | "cancel" | "connecting"
        | "resetting" | "dead" | "FAILED" | "FREE" | FAILED_IN_MULTIPATH => Some(false),
        _ => None,
    }
}

/// `PathsFailed` of each device whose paths say their state, and `BlockDeviceGone` for those that were taken away.
///
/// Paths with one thing above them are judged together, as that thing.
#[must_use]
pub fn judge_paths(at: Moment, paths: &[StoragePath]) -> Vec<Verdict> {
    let mut by_device: BTreeMap<&str, Vec<(&StoragePath, bool)>> = BTreeMap::new();
    for path in paths {
        let Some(is_up) = is_path_up(&path.state) else { continue };
        by_device.entry(path.multipath.as_deref().unwrap_or(&path.name)).or_default().push((path, is_up));
    }
    let mut verdicts = Vec::new();
    for (device, rows) in by_device {
        let code = FindingCode::PathsFailed;
        let subject = Subject::Device { name: device.to_owned() };
        let shown: Vec<String> = rows.iter().map(|(path, _)| format!("{} is {}", path.name, path.state)).collect();
        let down = || rows.iter().filter(|(_, is_up)| !is_up);
        let n_down = down().count();
        let text = shown.join(", ");
        verdicts.push(Verdict::State(if n_down > 0 {
            let facts = Attributes::new()
                .with(attribute::WHAT, if n_down == rows.len() { "all" } else { "some" })
                .with(attribute::DEVICE_NAME, device)
                .with_some(attribute::BACKEND, backend_of(&rows))
                .with_some(attribute::SERVER, down().find_map(|(path, _)| path.target.as_deref()));
            present(code, &subject, at, SYSFS, facts, text)
        } else {
            absent(code, &subject, at, SYSFS, text)
        }));
        for (path, _) in rows.iter().filter(|(path, _)| matches!(&*path.state, "offline" | "dead" | "deleting")) {
            let subject = Subject::Device { name: path.name.clone() };
            let facts = Attributes::new().with(attribute::DEVICE_NAME, &path.name);
            let text = format!("the state of {} is {}", path.name, path.state);
            verdicts.push(counted(FindingCode::BlockDeviceGone, &subject, at, 1, SYSFS, facts, text));
        }
    }
    verdicts
}

fn backend_of(rows: &[(&StoragePath, bool)]) -> Option<&'static str> {
    let (path, _) = rows.first()?;
    match () {
        () if path.multipath.as_deref().is_some_and(|above| above.starts_with("dm-")) => Some("multipath"),
        () if path.name.starts_with("session") => Some("iscsi"),
        () if path.name.starts_with("nvme") => Some("nvme"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use kulprit_host::mount::parse_mountinfo;
    use kulprit_model::Status::{Absent, Present};

    use super::*;
    use crate::testing::status_of;

    fn judged(mountinfo: &str) -> Vec<(String, bool)> {
        let (mounts, errors) = parse_mountinfo(mountinfo);
        assert!(errors.is_empty(), "{errors:?}");
        let row = |verdict: &Verdict| match verdict {
            Verdict::State(state) => (state.subject.to_string(), state.status == Present),
            Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
        };
        judge_mounts(Moment::default(), &mounts).iter().map(row).collect()
    }

    #[test]
    fn a_root_that_became_read_only_is_a_fault() {
        let text = "22 1 254:1 / / ro,relatime shared:1 - ext4 /dev/vda1 ro,errors=remount-ro\n";
        assert_eq!(judged(text), [("mount//".to_owned(), true)]);
        assert_eq!(judged(&text.replace("ro,", "rw,")), [("mount//".to_owned(), false)]);
    }

    #[test]
    fn an_immutable_system_with_a_var_of_its_own_is_well() {
        let text = "22 1 254:0 / / ro,relatime - ext4 /dev/dm-0 ro\n\
            23 22 254:3 / /var rw,relatime - xfs /dev/vda3 rw\n\
            24 22 0:5 / /run rw,nosuid - tmpfs tmpfs rw\n\
            25 22 254:4 / /boot ro - ext4 /dev/vda2 ro\n";
        assert_eq!(judged(text), [("mount//var".to_owned(), false)]);
        let broken = text.replace("/var rw,relatime - xfs /dev/vda3 rw", "/var rw,relatime - xfs /dev/vda3 ro");
        assert_eq!(judged(&broken), [("mount//var".to_owned(), true)]);
    }

    #[test]
    fn images_are_read_only_by_nature() {
        assert!(judged("22 1 7:0 / / ro - squashfs /dev/loop0 ro\n").is_empty());
        assert!(judge_mounts(Moment::default(), &[]).is_empty());
    }

    fn path(name: &str, state: &str, multipath: Option<&str>) -> StoragePath {
        StoragePath {
            name: name.to_owned(),
            state: state.to_owned(),
            multipath: multipath.map(str::to_owned),
            target: None,
        }
    }

    #[test]
    fn paths_of_one_device_are_judged_together() {
        for (states, want, what) in [
            (["running", "running"], Absent, None),
            (["running", "offline"], Present, Some("some")),
            (["transport-offline", "offline"], Present, Some("all")),
            (["blocked", "blocked"], Present, Some("all")),
        ] {
            let paths = [path("sda", states[0], Some("dm-0")), path("sdb", states[1], Some("dm-0"))];
            let verdicts = judge_paths(Moment::default(), &paths);
            assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), Some(want), "{states:?}");
            let Verdict::State(state) = &verdicts[0] else { panic!("{verdicts:?}") };
            assert_eq!(
                (state.subject.to_string().as_str(), state.attributes.get(attribute::WHAT)),
                ("device/dm-0", what)
            );
            let n_gone = states.iter().filter(|state| **state == "offline").count();
            assert_eq!(verdicts.len(), 1 + n_gone, "each device that was taken away is told");
            let is_gone = |verdict: &&Verdict| matches!(verdict, Verdict::Occurrence(gone) if gone.code == FindingCode::BlockDeviceGone);
            assert_eq!(verdicts.iter().filter(is_gone).count(), n_gone, "{states:?}");
        }
    }

    #[test]
    fn a_session_that_failed_is_iscsi_and_an_unknown_word_says_nothing() {
        let verdicts =
            judge_paths(Moment::default(), &[path("session1", "FAILED", None), path("sdc", "created", None)]);
        let Verdict::State(state) = &verdicts[0] else { panic!("{verdicts:?}") };
        assert_eq!(state.attributes.get(attribute::BACKEND), Some("iscsi"));
        assert_eq!(verdicts.len(), 1);
    }
}
