//! `HardwareMemoryError`: the node's memory or CPU reported an uncorrected error: machine check, EDAC UE, memory
//! failure that is sent to QEMU. Corrected errors are no fault, and the `Hardware Error` of a virtual disk's sense data
//! is none of memory. Who touches a broken page gets SIGBUS; SIGKILL only where the page cannot be unmapped, and then the
//! kernel names the process (Linux mm/memory-failure.c, `kill_procs`).

use kulprit_model::{
    FindingCode::{HardwareMemoryError, QemuExited},
    attribute::{ACTOR, CLASS, OPERATION, SIGNAL},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The hardware of the node reported an uncorrected memory error.
pub const HARDWARE_MEMORY_ERROR: Cause = Cause {
    id: "HardwareMemoryError",
    meaning: "The hardware of the node reported an uncorrected memory error.",
    roles: &[Role::Hosting],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::InError, SymptomId::PausedUnexpectedly, SymptomId::StoppedUnexpectedly],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unspecified,
        SymptomId::StuckTerminating,
    ],
    rare: &[SymptomId::StuckStarting, SymptomId::StuckStopping, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "mce",
            strength: Strength::Proof,
            look: Look::Happened(HardwareMemoryError, &[Fact::Own]),
            text: "the hardware reported a memory error in this VM's memory",
        },
        Clue {
            group: "mce",
            strength: Strength::Proof,
            look: Look::Happened(HardwareMemoryError, &[]),
            text: "the hardware reported an uncorrected memory error",
        },
        Clue {
            group: "signal",
            strength: Strength::Good,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::OneOf(SIGNAL, &["7"])]),
            text: "its QEMU died by SIGBUS: it touched memory that is not there or broken",
        },
        Clue {
            group: "signal",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::NoneOf(SIGNAL, &["7"])]),
            text: "its QEMU ended by another signal: a broken page ends who touches it by SIGBUS",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KERNEL, actor::QEMU]),
                Fact::OneOf(OPERATION, &[operation::RUN_GUEST]),
                Fact::OneOf(CLASS, &[class::IO_ERROR]),
            ]),
            text: "QEMU or the kernel tells of broken memory",
        },
        Clue {
            group: "mce",
            strength: Strength::StronglyAgainst,
            look: Look::NotHappened(HardwareMemoryError),
            text: "the kernel log has no uncorrected memory error",
        },
    ],
    explains: &["QemuCrashed", "QemuKilled", "KernelFault", "NodeDown"],
    advice: Advice {
        now: &[
            Step::Any(
                "dmesg -T | grep -iE 'mce|machine check|edac|memory failure|hardware error' | tail -n \
                 40; ras-mc-ctl --summary",
            ),
            Step::KubeVirt(
                "kubectl cordon {node}; virtctl migrate -n {namespace} {vm}   # move its VMs, then have \
                 the module replaced",
            ),
        ],
        check: &[Step::Any(
            "grep . /sys/devices/system/edac/mc/mc*/ue_count \
                 /sys/devices/system/edac/mc/mc*/dimm*/dimm_label 2>/dev/null; grep HardwareCorrupted \
                 /proc/meminfo",
        )],
        prevent: &[Step::Any(
            "ECC memory, rasdaemon on every node, an alert on rising corrected errors: they come \
                 first",
        )],
    },
    runbook_item: "hardware compatibility",
};
