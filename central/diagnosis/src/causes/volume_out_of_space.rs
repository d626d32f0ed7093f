//! `VolumeOutOfSpace`: there is no space left under the VM's disk.
//!
//! Proof is QEMU's own report (`enospc`): file system, thin pool or backend full. The guest is paused and loses nothing.

use kulprit_model::{
    FindingCode::{
        BlockIoError, DomainIoError, DomainIoErrorReported, StaleDevice, ThinPoolFull, VmFilesystemFull, VmiPausedBy,
    },
    attribute::{ACTOR, CLASS, IO_ERROR, IO_NO_SPACE, IO_OTHER, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// There is no space left under the VM's disk: file system, thin pool or backend is full.
pub const VOLUME_OUT_OF_SPACE: Cause = Cause {
    id: "VolumeOutOfSpace",
    meaning: "There is no space left under the VM's disk: file system, thin pool or backend is full.",
    roles: &[Role::Hosting, Role::Source, Role::Target, Role::Shared],
    scope: Scope::Device,
    class: Class::Storage,
    usual: &[SymptomId::PausedUnexpectedly],
    possible: &[
        SymptomId::InError,
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::StuckStopping, SymptomId::Unresponsive, SymptomId::EvacuationBlocked, SymptomId::Unspecified],
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
        // A copy that finds no room pauses nobody.
        Clue {
            group: "well",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-disk-no-space"])]),
            text: "the target has no space left for the disk that is copied there",
        },
        Clue {
            group: "well",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(DomainIoError),
            text: "QEMU has not paused the guest for a disk error",
        },
        Clue {
            group: "qemu",
            strength: Strength::Proof,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
            ]),
            text: "QEMU or KubeVirt say that the guest is paused because no space is left",
        },
        Clue {
            group: "qemu",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::OPEN_IMAGE, operation::READ_WRITE, operation::LOCK_IMAGE, operation::SET_OWNERSHIP],
                ),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
                Fact::Not(SIGNATURE, &["host-disk-too-small"]),
            ]),
            text: "there is no space left under a disk",
        },
        Clue {
            group: "qemu",
            strength: Strength::Some,
            look: Look::Present(VmiPausedBy, &[Fact::OneOf(REASON, &["PausedIOError"])]),
            text: "KubeVirt says that the guest is paused because of a disk error, of whatever kind",
        },
        Clue {
            group: "pool",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(OPERATION, &[operation::PROVISION]), Fact::OneOf(CLASS, &[class::NO_SPACE])]),
            text: "the backend has no room for the volume or a replica of it",
        },
        Clue {
            group: "pool",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["replica-no-space", "replica-not-scheduled", "backend-pool-full"])]),
            text: "the backend has no room for the volume or a replica of it",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Present(VmFilesystemFull, &[]),
            text: "the file system under a disk of the VM is full",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Happened(ThinPoolFull, &[]),
            text: "a thin pool is out of space",
        },
        Clue {
            group: "device",
            strength: Strength::Against,
            look: Look::Absent(VmFilesystemFull),
            text: "the file systems under its disks have space",
        },
        Clue {
            group: "other",
            strength: Strength::StronglyAgainst,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::IO_ERROR]),
            ]),
            text: "the error is an I/O error, not a lack of space",
        },
        Clue {
            group: "stale",
            strength: Strength::StronglyAgainst,
            look: Look::Present(StaleDevice, &[]),
            text: "QEMU holds a device that is not there any more, and its words mislead",
        },
    ],
    explains: &["VolumeNotFound", "VolumeAttachTimeout"],
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
