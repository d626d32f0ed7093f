//! `StaleBlockDevice`: QEMU or the kubelet holds a block device that was removed or replaced underneath.
//!
//! Proof is QEMU's open file that points to a deleted or another device. The backend may answer again and everything
//! look healthy, yet this QEMU never recovers: it must be started anew. QEMU's own words mislead then (I/O error, even
//! "no space").

use kulprit_model::{
    FindingCode::{BlockDeviceGone, StaleDevice},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// QEMU or the kubelet holds a block device or mount that was removed or replaced underneath it.
pub const STALE_BLOCK_DEVICE: Cause = Cause {
    id: "StaleBlockDevice",
    meaning: "QEMU or the kubelet holds a block device or mount that was removed or replaced \
underneath it.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Device,
    class: Class::Storage,
    usual: &[SymptomId::PausedUnexpectedly, SymptomId::StuckTerminating],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::InError,
        SymptomId::MigrationFailed,
        SymptomId::StuckMigrating,
        SymptomId::Unresponsive,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::EvacuationBlocked, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "device",
            strength: Strength::Proof,
            look: Look::Present(StaleDevice, &[]),
            text: "QEMU holds a block device that is not there any more",
        },
        Clue {
            group: "device",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(StaleDevice),
            text: "the block devices that QEMU holds are those of today",
        },
        Clue {
            group: "kernel",
            strength: Strength::Strong,
            look: Look::Happened(BlockDeviceGone, &[Fact::Own]),
            text: "the kernel took the device under this VM's disk away",
        },
        Clue {
            group: "kernel",
            strength: Strength::Some,
            look: Look::Happened(BlockDeviceGone, &[]),
            text: "the kernel took a block device away",
        },
        Clue {
            group: "kernel",
            strength: Strength::Against,
            look: Look::NotHappened(BlockDeviceGone),
            text: "the kernel took no block device away",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::OPEN_IMAGE, operation::READ_WRITE, operation::LOCK_IMAGE, operation::UNMOUNT],
                ),
                Fact::OneOf(CLASS, &[class::STALE]),
            ]),
            text: "a disk or mount is stale: it was taken away underneath",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::MOUNT, operation::MAP, operation::CREATE_CONTAINER, operation::SET_OWNERSHIP],
                ),
                Fact::OneOf(CLASS, &[class::STALE]),
            ]),
            text: "a mount is stale or its transport is gone",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::READ_WRITE, operation::OPEN_IMAGE]),
                Fact::OneOf(CLASS, &[class::UNSUPPORTED]),
            ]),
            text: "the device node is there, and no device behind it",
        },
    ],
    explains: &[
        "DiskIoError",
        "QemuBlockedInKernel",
        "VolumeTeardownStuck",
        "VolumeMountFailed",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "ls -l /proc/{pid}/fd | grep -E 'deleted|/dev/'; for f in /proc/{pid}/fd/*; do stat \
-Lc '%n %t:%T' $f; done 2>/dev/null   # on {node}: compare with stat -Lc %t:%T of \
the volume's device today",
            ),
            Step::KubeVirt(
                "virtctl restart -n {namespace} {vm}   # only a new QEMU opens the new device; \
resuming does not help",
            ),
            Step::Standalone("virsh destroy {vm} && virsh start {vm}   # only a new QEMU opens the new device"),
        ],
        check: &[
            Step::Any("dmesg -T | grep -iE 'offline|detach|removed|stale' | tail -n 30   # on {node}"),
            Step::Any(
                "why the device was replaced: the log of the storage engine of that volume around the \
onset",
            ),
        ],
        prevent: &[Step::Any(
            "more than one replica, so that an engine does not have to restart; do not restart \
the storage engine of attached volumes",
        )],
    },
    runbook_item: "storage backend",
};
