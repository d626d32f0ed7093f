//! `LocalDiskStalled`: a local disk or file system answers nothing, and gives no error either.
//!
//! Seen through QEMU, a thread that waits in the kernel's storage code for a local device, and in the device itself, whose
//! requests are not finished: with asynchronous I/O no thread waits. A wait for a server over the network
//! is another cause's matter and speaks strongly against this one; so do errors, a little: then it is no silent stall.

use kulprit_model::{
    FindingCode::{
        BlockDeviceStalled, BlockIoError, DeviceStalled, NodeIoStalled, StorageConnectionLost, VmDiskStalled,
    },
    attribute::{
        ACTOR, BACKEND, CLASS, OPERATION, SIGNATURE, WAIT, WAIT_LOCAL_STORAGE, WAIT_MEMORY, WAIT_NETWORK_STORAGE,
        WAIT_OTHER, WCHAN, WHAT,
    },
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    causes::storage_backend_unreachable::{ANY_BLOCK_DEVICE, LOST_BACKEND, OVER_THE_NETWORK},
    symptom::SymptomId,
};

/// A local block device or file system under the VM answers no I/O, without an error.
pub const LOCAL_DISK_STALLED: Cause = Cause {
    id: "LocalDiskStalled",
    meaning: "A local block device or file system under the VM answers no I/O, without an error.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Device,
    class: Class::Storage,
    usual: &[SymptomId::Unresponsive, SymptomId::StuckTerminating, SymptomId::StuckStarting],
    possible: &[
        SymptomId::StuckStopping,
        SymptomId::PausedUnexpectedly,
        SymptomId::StuckMigrating,
        SymptomId::InError,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "stall",
            strength: Strength::Proof,
            look: Look::Present(VmDiskStalled, &[Fact::OneOf(WAIT, &[WAIT_LOCAL_STORAGE])]),
            text: "I/O of this VM waits in the kernel for a local disk",
        },
        Clue {
            group: "stall",
            strength: Strength::Proof,
            look: Look::Present(
                DeviceStalled,
                &[Fact::OneOf(WHAT, &["no-completion"]), Fact::Not(BACKEND, OVER_THE_NETWORK)],
            ),
            text: "a local block device has requests waiting and finishes none",
        },
        // Whatever lies below: it is this node that holds the requests back.
        Clue {
            group: "stall",
            strength: Strength::Proof,
            look: Look::Present(DeviceStalled, &[Fact::OneOf(WHAT, &["suspended"])]),
            text: "device mapper holds all I/O of a device back",
        },
        Clue {
            group: "stall",
            strength: Strength::StronglyAgainst,
            look: Look::Present(VmDiskStalled, &[Fact::OneOf(WAIT, &[WAIT_NETWORK_STORAGE, WAIT_MEMORY, WAIT_OTHER])]),
            text: "what this VM waits for in the kernel is no local disk",
        },
        Clue {
            group: "stall",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(VmDiskStalled),
            text: "no I/O of this VM waits in the kernel's storage code",
        },
        Clue {
            group: "errors",
            strength: Strength::Against,
            look: Look::Happened(BlockIoError, &[Fact::Own]),
            text: "the device does answer, with errors",
        },
        Clue {
            group: "kernel",
            strength: Strength::Strong,
            look: Look::Happened(BlockDeviceStalled, &[Fact::Not(BACKEND, OVER_THE_NETWORK)]),
            text: "a local disk or its controller does not answer: timeouts, aborts, resets",
        },
        Clue {
            group: "kernel",
            strength: Strength::Some,
            look: Look::Happened(BlockDeviceStalled, &[]),
            text: "a block device does not answer",
        },
        Clue {
            group: "kernel",
            strength: Strength::Against,
            look: Look::NotHappened(BlockDeviceStalled),
            text: "the kernel log tells of no disk that does not answer",
        },
        Clue {
            group: "pressure",
            strength: Strength::Some,
            look: Look::Present(NodeIoStalled, &[]),
            text: "tasks of the node wait for I/O",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KERNEL, actor::SYSTEMD]),
                Fact::OneOf(OPERATION, &[operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK]),
                Fact::Not(BACKEND, OVER_THE_NETWORK),
            ]),
            text: "the kernel waits for a disk of the node",
        },
        Clue {
            group: "backend",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[
                Look::Present(VmDiskStalled, &[Fact::OneOf(WCHAN, ANY_BLOCK_DEVICE)]),
                Look::Happened(StorageConnectionLost, &[]),
            ]),
            text: "it waits for a block device, and the node lost a storage backend",
        },
        Clue {
            group: "backend",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[
                Look::Present(VmDiskStalled, &[Fact::OneOf(WCHAN, ANY_BLOCK_DEVICE)]),
                said(&[Fact::OneOf(SIGNATURE, LOST_BACKEND)]),
            ]),
            text: "it waits for a block device, and its paths, session or quorum are told to be lost",
        },
        Clue {
            group: "backend",
            strength: Strength::StronglyAgainst,
            look: Look::Present(
                DeviceStalled,
                &[Fact::OneOf(WHAT, &["no-completion"]), Fact::OneOf(BACKEND, OVER_THE_NETWORK)],
            ),
            text: "the block device that finishes no request is one over the network",
        },
        Clue {
            group: "backend",
            strength: Strength::Against,
            look: Look::Happened(StorageConnectionLost, &[]),
            text: "what was lost is storage over the network",
        },
    ],
    explains: &[
        "QemuBlockedInKernel",
        "DiskIoError",
        "VolumeTeardownStuck",
        "VolumeMountFailed",
        "KubeletDegraded",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "findmnt {mount}; grep -H . /sys/block/*/inflight /sys/block/*/device/state 2>/dev/null   # \
                 requests in flight that never come back",
            ),
            Step::Any("fsfreeze --unfreeze {mount}   # if a backup or snapshot left the file system frozen"),
            Step::Any("dmsetup info -c   # a suspended device: dmsetup resume NAME"),
            Step::Any(
                "QEMU cannot be killed before its I/O returns; when it does, a pending kill takes effect at \
                 once",
            ),
        ],
        check: &[
            Step::Any("dmesg -T | grep -iE 'reset|timeout|abort|offline|blocked for more than' | tail -n 40"),
            Step::Any("smartctl -a /dev/{device}"),
            Step::Any("who froze it: ps -eo pid,lstart,cmd | grep -E 'fsfreeze|xfs_freeze|snapshot|backup'"),
        ],
        prevent: &[Step::Any(
            "let backup scripts thaw in a trap; watch disk latency; replace disks and controllers that \
             reset in loops",
        )],
    },
    runbook_item: "insufficient/failed storage on the node",
};
