//! Whether a file system is full: of the node's, of those under a VM's disks.
//!
//! The kubelet evicts and collects images from 85 % to 95 % on; from 97 % on whoever writes fails soon. Under a disk of a VM,
//! whose image grows as the guest writes, only the last percent counts: QEMU pauses the guest at the end of it.

use kulprit_host::space::Space;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::say::{Reading, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

/// Used of bytes or inodes, percent, by `df`'s count.
const NODE_FULL_PCT: f64 = 97.0;
/// The same under a disk of a VM.
const VM_FULL_PCT: f64 = 99.0;
/// The source of what `statfs` says.
const STATFS: &str = "statfs";

/// A file system that was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Where it is mounted: on the node, or in QEMU's own root.
    pub mount_point: String,
    /// Its type.
    pub fs_type: String,
    /// What it answered.
    pub space: Reading<Space>,
}

impl Asked {
    /// What is full of it: the word of the finding and how much is used, percent.
    fn full(&self, limit_pct: f64) -> Option<(&'static str, f64)> {
        let space = self.space.as_ref().ok()?;
        let rows = [("bytes", space.used_bytes_pct()), ("inodes", space.used_inodes_pct())];
        rows.into_iter().find_map(|(what, used)| Some((what, used.filter(|used| *used >= limit_pct)?)))
    }

    fn shown(&self) -> String {
        let Self { mount_point, fs_type, space } = self;
        let part = |share: Option<f64>, what: &str| share.map(|share| format!("{share:.0} % of {what}"));
        let shown = space.as_ref().ok().map(|space| {
            [part(space.used_bytes_pct(), "bytes"), part(space.used_inodes_pct(), "inodes")]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", ")
        });
        format!("{mount_point} ({fs_type}): {} used", shown.filter(|text| !text.is_empty()).unwrap_or("nothing".into()))
    }
}

/// `FilesystemFull` of a file system that the node writes to; the subject is its mount point.
#[must_use]
pub fn judge_space(at: Moment, asked: &Asked) -> Verdict {
    let subject = Subject::Mount { point: asked.mount_point.clone() };
    Verdict::State(judge_one(FindingCode::FilesystemFull, &subject, at, asked, NODE_FULL_PCT))
}

/// `VmFilesystemFull`, from all file systems under the VM's disks; nothing when it has none of its own.
///
/// One that is full decides; else one that did not answer.
#[must_use]
pub fn judge_vm_space(at: Moment, subject: &Subject, asked: &[Asked]) -> Option<Verdict> {
    let code = FindingCode::VmFilesystemFull;
    let full = asked.iter().find(|row| row.full(VM_FULL_PCT).is_some());
    let decides = full.or_else(|| asked.iter().find(|row| row.space.is_err())).or(asked.first())?;
    Some(Verdict::State(judge_one(code, subject, at, decides, VM_FULL_PCT)))
}

fn judge_one(code: FindingCode, subject: &Subject, at: Moment, asked: &Asked, limit_pct: f64) -> StateVerdict {
    if let Err(error) = &asked.space {
        return unknown(code, subject, error.as_str());
    }
    match asked.full(limit_pct) {
        Some((what, used)) => {
            let facts = Attributes::new()
                .with(attribute::WHAT, what)
                .with(attribute::MOUNT_POINT, &asked.mount_point)
                .with(attribute::FSTYPE, &asked.fs_type)
                .with(attribute::MEASURED, format!("{used:.1}"))
                .with(attribute::LIMIT, format!("{limit_pct:.0}"));
            present(code, subject, at, STATFS, facts, asked.shown())
        }
        None => absent(code, subject, at, STATFS, asked.shown()),
    }
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    fn asked(used_bytes: u64, used_inodes: u64) -> Asked {
        let space = Space {
            total_bytes: 10_000,
            free_bytes: 10_000 - used_bytes,
            available_bytes: 10_000 - used_bytes,
            total_inodes: 10_000,
            free_inodes: 10_000 - used_inodes,
            is_read_only: false,
            is_shut_down: false,
        };
        Asked { mount_point: "/var".to_owned(), fs_type: "ext4".to_owned(), space: Ok(space) }
    }

    #[test]
    fn bytes_and_inodes_count_from_both_sides() {
        for (bytes, inodes, node, vm) in [
            (9_699, 9_699, Absent, Absent),
            (9_700, 0, Present, Absent),
            (0, 9_700, Present, Absent),
            (9_899, 0, Present, Absent),
            (9_900, 0, Present, Present),
            (0, 9_900, Present, Present),
        ] {
            let row = asked(bytes, inodes);
            assert_eq!(statuses(&[judge_space(Moment::default(), &row)]), [node], "{bytes} {inodes}");
            let verdict = judge_vm_space(Moment::default(), &Subject::vm("u"), &[asked(0, 0), row]).unwrap();
            assert_eq!(statuses(&[verdict]), [vm], "{bytes} {inodes}");
        }
    }

    #[test]
    fn what_is_full_is_named() {
        let Verdict::State(state) = judge_space(Moment::default(), &asked(1, 9_800)) else { panic!("a state") };
        assert_eq!((state.code, state.attributes.get(attribute::WHAT)), (FindingCode::FilesystemFull, Some("inodes")));
        let vm = judge_vm_space(Moment::default(), &Subject::vm("u"), &[asked(10_000, 0)]);
        let Some(Verdict::State(state)) = vm else { panic!("a state") };
        assert_eq!((state.code, state.attributes.get(attribute::WHAT)), (FindingCode::VmFilesystemFull, Some("bytes")));
    }

    #[test]
    fn who_does_not_answer_is_unknown_unless_another_is_full() {
        let silent = Asked { space: Err("late".to_owned()), ..asked(0, 0) };
        assert_eq!(statuses(&[judge_space(Moment::default(), &silent)]), [Unknown]);
        let judge = |rows: &[Asked]| judge_vm_space(Moment::default(), &Subject::vm("u"), rows);
        assert_eq!(statuses(&[judge(&[asked(0, 0), silent.clone()]).unwrap()]), [Unknown]);
        assert_eq!(statuses(&[judge(&[silent, asked(10_000, 0)]).unwrap()]), [Present]);
        assert_eq!(judge(&[]), None, "disks on devices and servers have no file system here");
    }
}
