//! `KernelFault`: the kernel itself is at fault: oops, BUG, soft or hard lockup, RCU stall. Proof is its own log. Tasks
//! that hang because storage does not answer are `StorageBackendUnreachable` or `LocalDiskStalled`; what a broken
//! memory module does is `HardwareMemoryError`.

use kulprit_model::{
    FindingCode::{BlockDeviceStalled, HungTask, KernelOops, KernelStalled, StorageConnectionLost},
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The node's kernel has a fault of its own: oops, BUG, lockup or stall.
pub const KERNEL_FAULT: Cause = Cause {
    id: "KernelFault",
    meaning: "The node's kernel has a fault of its own: oops, BUG, lockup or stall.",
    roles: &[Role::Hosting],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::Unresponsive, SymptomId::StuckTerminating, SymptomId::StoppedUnexpectedly],
    possible: &[
        SymptomId::StuckStopping,
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::InError,
        SymptomId::Unspecified,
        SymptomId::PausedUnexpectedly,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "oops",
            strength: Strength::Proof,
            look: Look::Happened(KernelOops, &[]),
            text: "the kernel logged an oops, BUG or panic",
        },
        Clue {
            group: "stall",
            strength: Strength::Proof,
            look: Look::Happened(KernelStalled, &[]),
            text: "the kernel logged a lockup or an RCU stall",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KERNEL]),
                Fact::Not(
                    OPERATION,
                    &[operation::READ_WRITE, operation::MOUNT, operation::UNMOUNT, operation::SETUP_NETWORK],
                ),
                Fact::OneOf(CLASS, &[class::CRASHED, class::STUCK]),
            ]),
            text: "Kubernetes was told of a fault of the kernel",
        },
        Clue {
            group: "hang",
            strength: Strength::Hint,
            look: Look::Happened(HungTask, &[]),
            text: "tasks have been blocked for minutes",
        },
        Clue {
            group: "oops",
            strength: Strength::Against,
            look: Look::All(&[Look::NotHappened(KernelOops), Look::NotHappened(KernelStalled)]),
            text: "the kernel log has neither an oops nor a stall",
        },
        Clue {
            group: "storage",
            strength: Strength::Against,
            look: Look::Happened(StorageConnectionLost, &[]),
            text: "the kernel lost a storage backend: tasks wait for that",
        },
        Clue {
            group: "storage",
            strength: Strength::Against,
            look: Look::Happened(BlockDeviceStalled, &[]),
            text: "a block device does not answer: tasks wait for that",
        },
    ],
    explains: &[
        "NodeDown",
        "QemuBlockedInKernel",
        "QemuCrashed",
        "KubeletDegraded",
        "ContainerRuntimeHung",
        "LauncherUnresponsive",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "dmesg -T | grep -A 40 -E 'BUG:|Oops|soft lockup|rcu.*stall|Kernel panic' | tail -n \
                 120   # module and function of the trace",
            ),
            Step::KubeVirt(
                "kubectl cordon {node}   # then move its VMs and reboot it: after an oops nothing of the \
                 kernel can be trusted",
            ),
        ],
        check: &[
            Step::Any("uname -r; cat /proc/sys/kernel/tainted; did it come with a new kernel or module?"),
            Step::Any("ls /var/crash /sys/fs/pstore   # a dump of a panic"),
        ],
        prevent: &[Step::Any(
            "kdump on every node; kernel.panic_on_oops=1 so that a broken node ends and its VMs \
                 restart elsewhere; same kernel on all nodes",
        )],
    },
    runbook_item: "node-specific issues (kernel panic)",
};
