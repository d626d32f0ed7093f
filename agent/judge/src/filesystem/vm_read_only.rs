//! Whether a file system that a VM writes to takes writes no more.
//!
//! A disk may lie on a read-only file system on purpose: a CD-ROM, a ConfigMap, a volume that its pod mounts read-only, an image
//! below an overlay. Of those none can be opened for writing. So a disk that QEMU has open for writing tells that its file system
//! took writes once, and became read-only, or was shut down, after that: by an error, or by somebody's force.

use std::path::PathBuf;

use kulprit_host::mount::Mount;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::say::{PROCFS, Reading, absent, present, unknown};
use crate::verdict::Verdict;

/// A disk of a VM, and what it lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    /// Its file, in QEMU's own root, every link followed.
    pub path: PathBuf,
    /// The mount that holds it, as QEMU sees it.
    pub mount: Mount,
    /// Whether the file system has given up all work, where its mount does not tell (XFS).
    pub is_shut_down: Reading<bool>,
    /// Whether QEMU has it open for writing. `None`: not looked at, for its file system takes writes.
    pub is_written: Option<Reading<bool>>,
}

impl DiskPlace {
    /// Whether nothing can be written here, on purpose or not.
    #[must_use]
    pub fn takes_no_writes(&self) -> bool {
        self.mount.is_read_only || self.is_shut_down == Ok(true)
    }
}

/// `VmFilesystemReadOnly`, from all file systems under the VM's disks; nothing when it has none of its own.
///
/// One disk that QEMU cannot write to any more decides; else one of which nobody knows.
#[must_use]
pub fn judge_vm_read_only(at: Moment, subject: &Subject, disks: &Reading<Vec<DiskPlace>>) -> Option<Verdict> {
    let code = FindingCode::VmFilesystemReadOnly;
    let disks = match disks {
        Ok(disks) => disks,
        Err(why) => return Some(Verdict::State(unknown(code, subject, why.as_str()))),
    };
    let shut = || disks.iter().filter(|disk| disk.takes_no_writes());
    if let Some(disk) = shut().find(|disk| disk.is_written == Some(Ok(true))) {
        let DiskPlace { path, mount, .. } = disk;
        let what = if mount.is_read_only { "read-only" } else { "shut-down" };
        let facts = Attributes::new()
            .with(attribute::WHAT, what)
            .with(attribute::MOUNT_POINT, mount.mount_point.display())
            .with(attribute::FSTYPE, &mount.fs_type)
            .with(attribute::DEVICE, mount.device)
            .with(attribute::PATH, path.display());
        let how = if mount.is_read_only { "has become read-only" } else { "was shut down after an error" };
        let text = format!(
            "{} ({}) {how}, and QEMU has {} on it open for writing",
            mount.mount_point.display(),
            mount.fs_type,
            path.display()
        );
        return Some(Verdict::State(present(code, subject, at, PROCFS, facts, text)));
    }
    let unread = shut().find_map(|disk| disk.is_written.as_ref()?.as_ref().err());
    if let Some(why) = unread.or_else(|| disks.iter().find_map(|disk| disk.is_shut_down.as_ref().err())) {
        return Some(Verdict::State(unknown(code, subject, why.as_str())));
    }
    let n_shut = shut().count();
    let text = match (disks.len(), n_shut) {
        (0, _) => return None,
        (_, 0) => "the file systems under its disks take writes".to_owned(),
        (_, n_shut) => {
            format!("of its disks {n_shut} lie on read-only file systems, and QEMU has none of those open for writing")
        }
    };
    Some(Verdict::State(absent(code, subject, at, PROCFS, text)))
}

#[cfg(test)]
mod tests {
    use kulprit_host::mount::parse_mountinfo;
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;

    fn disk(options: &str, is_shut_down: Reading<bool>, is_written: Option<Reading<bool>>) -> DiskPlace {
        let (mounts, _) = parse_mountinfo(&format!("2 1 8:2 / /disks {options} - xfs /dev/sdb1 rw\n"));
        DiskPlace { path: "/disks/a.img".into(), mount: mounts[0].clone(), is_shut_down, is_written }
    }

    #[track_caller]
    fn check(disks: Reading<Vec<DiskPlace>>, want: Option<(Status, Option<&str>)>) {
        let verdict = judge_vm_read_only(Moment::default(), &Subject::vm("u"), &disks);
        let got = verdict.map(|verdict| match verdict {
            Verdict::State(state) => (state.status, state.attributes.get(attribute::WHAT).map(str::to_owned)),
            Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
        });
        assert_eq!(got, want.map(|(status, what)| (status, what.map(str::to_owned))), "{disks:?}");
    }

    fn why() -> String {
        "no permission".to_owned()
    }

    #[test]
    fn only_what_is_open_for_writing_was_not_meant_read_only() {
        let read_only = |is_written| disk("ro", Ok(false), Some(is_written));
        check(Ok(vec![read_only(Ok(true))]), Some((Present, Some("read-only"))));
        check(Ok(vec![read_only(Ok(false))]), Some((Absent, None)));
        check(Ok(vec![read_only(Err(why()))]), Some((Unknown, None)));
        check(Ok(vec![read_only(Err(why())), read_only(Ok(true))]), Some((Present, Some("read-only"))));
        check(Ok(vec![disk("rw", Ok(false), None), read_only(Ok(false))]), Some((Absent, None)));
        check(Ok(vec![disk("rw", Ok(false), None)]), Some((Absent, None)));
    }

    #[test]
    fn a_file_system_that_was_shut_down_is_none_to_write_to_and_one_that_was_not_asked_is_unknown() {
        check(Ok(vec![disk("rw", Ok(true), Some(Ok(true)))]), Some((Present, Some("shut-down"))));
        check(Ok(vec![disk("rw", Ok(true), Some(Ok(false)))]), Some((Absent, None)));
        check(Ok(vec![disk("rw", Err(why()), None)]), Some((Unknown, None)));
        check(
            Ok(vec![disk("rw", Err(why()), None), disk("ro", Ok(false), Some(Ok(true)))]),
            Some((Present, Some("read-only"))),
        );
    }

    #[test]
    fn a_vm_without_files_has_nothing_of_the_kind_and_one_that_was_not_read_is_unknown() {
        check(Ok(Vec::new()), None);
        check(Err(why()), Some((Unknown, None)));
    }
}
