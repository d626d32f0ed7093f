//! `VolumeOutOfSpace`: there is no space left under the VM's disk.
//!
//! Proof is QEMU's own report (`enospc`): file system, thin pool or backend full. The guest is paused and loses nothing.

use kulprit_model::{
    FindingCode::{BlockIoError, DomainIoError, DomainIoErrorReported},
    attribute::{IO_ERROR, IO_NO_SPACE, IO_OTHER},
};

use crate::{
    catalogue::{Advice, Cause, Clue, Fact, Look, Role, Scope, Step, Strength},
    symptom::SymptomId,
};

/// There is no space left under the VM's disk: file system, thin pool or backend is full.
pub const VOLUME_OUT_OF_SPACE: Cause = Cause {
    id: "VolumeOutOfSpace",
    meaning: "There is no space left under the VM's disk: file system, thin pool or backend is full.",
    roles: &[Role::Hosting],
    scope: Scope::Device,
    usual: &[SymptomId::PausedUnexpectedly],
    possible: &[],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "qemu",
            strength: Strength::Proof,
            look: Look::Present(DomainIoError, &[Fact::OneOf(IO_ERROR, &[IO_NO_SPACE])]),
            text: "QEMU has paused the guest because there is no space left",
        },
        Clue {
            group: "qemu",
            strength: Strength::Strong,
            look: Look::Happened(DomainIoErrorReported, &[Fact::Own, Fact::OneOf(IO_ERROR, &[IO_NO_SPACE])]),
            text: "QEMU reported that there is no space left under a disk",
        },
        Clue {
            group: "qemu",
            strength: Strength::Good,
            look: Look::Present(DomainIoError, &[Fact::Missing(IO_ERROR)]),
            text: "QEMU has paused the guest because of a disk error, of which kind is not known",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Happened(BlockIoError, &[Fact::Own, Fact::OneOf(IO_ERROR, &[IO_NO_SPACE])]),
            text: "the block device under this VM's disk has no space left: a full thin pool",
        },
        Clue {
            group: "other",
            strength: Strength::StronglyAgainst,
            look: Look::Present(DomainIoError, &[Fact::OneOf(IO_ERROR, &[IO_OTHER])]),
            text: "the error is an I/O error, not a lack of space",
        },
        Clue {
            group: "well",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(DomainIoError),
            text: "QEMU has not paused the guest for a disk error",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::Any("df -h {mount}; df -i {mount}; lvs -o lv_name,data_percent,metadata_percent"),
            Step::Any("make room or grow the volume, then resume; the guest has lost nothing:"),
            Step::Standalone("virsh resume {vm}"),
            Step::KubeVirt("virtctl unpause vm -n {namespace} {vm}"),
            Step::KubeVirt(
                "kubectl patch pvc -n {namespace} PVC --type merge -p \
                 '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"NEW\"}}}}'   # if the class can \
                 expand",
            ),
        ],
        check: &[
            Step::Any("du -xsh {mount}/* 2>/dev/null | sort -h | tail   # what filled it"),
            Step::Standalone("virsh domblkerror {vm}; virsh domblkinfo {vm} --all --human"),
        ],
        prevent: &[Step::Any(
            "alert before it is full; do not overcommit thin pools without autoextend; give the guest \
             discard and use fstrim",
        )],
    },
    runbook_item: "insufficient storage",
};
