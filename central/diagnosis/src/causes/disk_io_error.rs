//! `DiskIoError`: the device under the VM's disk answers with an error.
//!
//! Proof is QEMU's own report through libvirt; the kernel's lines count fully only for a device under this VM's disk and since
//! this QEMU runs: a name such as `loop3` may have been another disk before.

use kulprit_model::{
    FindingCode::{
        BlockDeviceGone, BlockIoError, DomainIoError, DomainIoErrorReported, FilesystemError,
        FilesystemRemountedReadOnly, VmFilesystemReadOnly, VmiPausedBy,
    },
    attribute::{ACTOR, CLASS, IO_ERROR, IO_NO_SPACE, IO_OTHER, OPERATION, REASON},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The storage under the VM's disk answers I/O with errors.
pub const DISK_IO_ERROR: Cause = Cause {
    id: "DiskIoError",
    meaning: "The storage under the VM's disk answers I/O with errors.",
    roles: &[Role::Hosting, Role::Source],
    scope: Scope::Device,
    class: Class::Storage,
    usual: &[SymptomId::PausedUnexpectedly, SymptomId::InError],
    possible: &[
        SymptomId::StoppedUnexpectedly,
        SymptomId::StuckStopping,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::StuckStarting,
    ],
    rare: &[SymptomId::Unresponsive, SymptomId::StuckTerminating, SymptomId::EvacuationBlocked, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "qemu",
            strength: Strength::Proof,
            look: Look::Present(DomainIoError, &[Fact::OneOf(IO_ERROR, &[IO_OTHER])]),
            text: "QEMU has paused the guest because of an I/O error of its disk",
        },
        Clue {
            group: "qemu",
            strength: Strength::Good,
            look: Look::Present(DomainIoError, &[Fact::Missing(IO_ERROR)]),
            text: "QEMU has paused the guest because of a disk error, of which kind is not known",
        },
        Clue {
            group: "qemu",
            strength: Strength::Strong,
            look: Look::Happened(DomainIoErrorReported, &[Fact::Own, Fact::OneOf(IO_ERROR, &[IO_OTHER])]),
            text: "QEMU reported an I/O error of the guest's disk",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Happened(BlockIoError, &[Fact::Own, Fact::Not(IO_ERROR, &[IO_NO_SPACE])]),
            text: "the block device under this VM's disk answered with errors",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Happened(FilesystemError, &[Fact::Own, Fact::Not(IO_ERROR, &[IO_NO_SPACE])]),
            text: "the file system under this VM's disk reported errors",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Present(VmFilesystemReadOnly, &[]),
            text: "the file system under a disk of the VM takes writes no more: read-only or shut down, as after an error",
        },
        Clue {
            group: "device",
            strength: Strength::Some,
            look: Look::Happened(BlockIoError, &[Fact::Not(IO_ERROR, &[IO_NO_SPACE])]),
            text: "a block device of the node answered with errors",
        },
        Clue {
            group: "device",
            strength: Strength::Some,
            look: Look::Happened(FilesystemError, &[Fact::Not(IO_ERROR, &[IO_NO_SPACE])]),
            text: "a file system of the node reported errors",
        },
        Clue {
            group: "space",
            strength: Strength::StronglyAgainst,
            look: Look::Present(DomainIoError, &[Fact::OneOf(IO_ERROR, &[IO_NO_SPACE])]),
            text: "the error is that there is no space left",
        },
        Clue {
            group: "well",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[
                Look::Absent(DomainIoError),
                Look::NotHappened(BlockIoError),
                Look::NotHappened(FilesystemError),
            ]),
            text: "QEMU reports no disk error, and the kernel log has none",
        },
        Clue {
            group: "qemu",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::IO_ERROR]),
            ]),
            text: "QEMU has paused the guest because of an I/O error",
        },
        Clue {
            group: "qemu",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::OPEN_IMAGE, operation::LOCK_IMAGE]),
                Fact::OneOf(CLASS, &[class::IO_ERROR]),
            ]),
            text: "opening the disk gives an I/O error",
        },
        Clue {
            group: "qemu",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(VmiPausedBy, &[Fact::OneOf(REASON, &["PausedIOError"])]),
                Look::Happened(BlockIoError, &[Fact::Not(IO_ERROR, &[IO_NO_SPACE])]),
            ]),
            text: "the guest is paused because of a disk error, and a block device of its node answered with errors",
        },
        Clue {
            group: "qemu",
            strength: Strength::Some,
            look: Look::Present(VmiPausedBy, &[Fact::OneOf(REASON, &["PausedIOError"])]),
            text: "KubeVirt says that the guest is paused because of a disk error, of whatever kind",
        },
        Clue {
            group: "qemu",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::OTHER, class::CORRUPT]),
            ]),
            text: "a disk of the VM gives errors",
        },
        Clue {
            group: "space",
            strength: Strength::StronglyAgainst,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::READ_WRITE, operation::OPEN_IMAGE]),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
            ]),
            text: "the error is that there is no space left",
        },
        Clue {
            group: "device",
            strength: Strength::Good,
            look: Look::Happened(BlockDeviceGone, &[Fact::Own]),
            text: "the device under this VM's disk was taken away",
        },
        Clue {
            group: "device",
            strength: Strength::Hint,
            look: Look::Happened(FilesystemRemountedReadOnly, &[]),
            text: "a file system of the node was made read-only",
        },
    ],
    explains: &["QemuBlockedInKernel"],
    advice: Advice {
        now: &[
            Step::Any("dmesg -T | grep -E 'I/O error|EXT4-fs|XFS|BTRFS|rejecting I/O' | tail -n 30"),
            Step::Any("repair or replace what the evidence names, then resume:"),
            Step::Standalone("virsh domblkerror {vm}; virsh resume {vm}"),
            Step::KubeVirt("virtctl unpause vm -n {namespace} {vm}"),
        ],
        check: &[
            Step::Any("smartctl -a /dev/{device}; lsblk -o NAME,TYPE,SIZE,STATE,MOUNTPOINTS; losetup -a"),
            Step::Any("copy the data off before anything else if the device itself fails"),
        ],
        prevent: &[Step::Any(
            "watch SMART and the kernel log; use redundant storage; keep error_policy=stop so that guests \
             pause and do not see the error",
        )],
    },
    runbook_item: "storage backend",
};
