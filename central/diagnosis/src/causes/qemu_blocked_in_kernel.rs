//! `QemuBlockedInKernel`: a thread of QEMU waits in the kernel and nothing can end it.
//!
//! Proof is a thread in state D with one wchan for as long as the catalogue's hold. Usually the storage under it is the root,
//! and this is the link between the disk and the VM.

use kulprit_model::{
    FindingCode::{HungTask, LauncherTerminating, QemuTerminationPending, QemuThreadBlocked, VmDiskStalled},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// A thread of QEMU is blocked in the kernel: it does not run and cannot be killed.
pub const QEMU_BLOCKED_IN_KERNEL: Cause = Cause {
    id: "QemuBlockedInKernel",
    meaning: "A thread of QEMU is blocked in the kernel: it does not run and cannot be killed.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStopping, SymptomId::StuckTerminating, SymptomId::Unresponsive],
    possible: &[
        SymptomId::PausedUnexpectedly,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::Unspecified, SymptomId::StoppedUnexpectedly, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "blocked",
            strength: Strength::Proof,
            look: Look::Present(QemuThreadBlocked, &[]),
            text: "a thread of QEMU is in state D and does not come out",
        },
        Clue {
            group: "blocked",
            strength: Strength::Strong,
            look: Look::Present(VmDiskStalled, &[]),
            text: "a thread of QEMU waits in the kernel's storage code",
        },
        Clue {
            group: "blocked",
            strength: Strength::Good,
            look: Look::Happened(HungTask, &[Fact::Own]),
            text: "the kernel says that a task of QEMU has been blocked for minutes",
        },
        Clue {
            group: "unkillable",
            strength: Strength::Some,
            look: Look::Present(QemuTerminationPending, &[]),
            text: "QEMU was killed and cannot end",
        },
        Clue {
            group: "blocked",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(QemuThreadBlocked),
            text: "no thread of QEMU is blocked in the kernel",
        },
        Clue {
            group: "gone",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuGone),
            text: "there is no QEMU that could be blocked",
        },
        Clue {
            group: "kill",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::DESTROY_DOMAIN]),
                Fact::OneOf(CLASS, &[class::BUSY, class::TIMEOUT, class::STUCK]),
                Fact::Not(SIGNATURE, &["launcher-zombie"]),
            ]),
            text: "libvirt cannot end QEMU, not even by a signal",
        },
        Clue {
            group: "kill",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(OPERATION, &[operation::DESTROY_DOMAIN]),
                    Fact::OneOf(CLASS, &[class::BUSY, class::TIMEOUT, class::STUCK]),
                    Fact::Not(SIGNATURE, &["launcher-zombie"]),
                ]),
                Look::Present(LauncherTerminating, &[]),
            ]),
            text: "libvirt cannot end QEMU, and its pod does not go",
        },
        Clue {
            group: "pod",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::KILL_CONTAINER]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK, class::BUSY]),
            ]),
            text: "a container of the pod cannot be ended",
        },
        Clue {
            group: "blocked",
            strength: Strength::Some,
            look: Look::Happened(HungTask, &[]),
            text: "tasks of the node have been blocked for minutes",
        },
    ],
    explains: &["QemuMonitorHung", "ContainerRuntimeHung", "LauncherUnresponsive", "VolumeTeardownStuck"],
    advice: Advice {
        now: &[
            Step::Any(
                "do not force anything: no signal ends this process until the kernel lets go; free what it \
                 waits for",
            ),
            Step::Any(
                "for t in /proc/{pid}/task/*; do echo \"$(cat $t/comm) $(cut -d' ' -f3 $t/stat) $(cat \
                 $t/wchan)\"; done",
            ),
            Step::Any("cat /proc/{pid}/task/*/stack   # as root: what each thread waits in"),
        ],
        check: &[
            Step::Any("dmesg -T | grep -A 20 'blocked for more than' | tail -n 60"),
            Step::Any("cat /proc/{pid}/mountinfo; grep . /sys/block/*/inflight   # requests that never come back"),
            Step::KubeVirt(
                "do not delete the pod with --force: the volume may still be written when the kernel lets go",
            ),
        ],
        prevent: &[Step::Any(
            "give network storage timeouts that end (soft mounts, queue_if_no_path with a limit); watch \
             latency of the disk",
        )],
    },
    runbook_item: "QEMU hangs",
};
