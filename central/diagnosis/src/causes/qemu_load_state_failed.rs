//! `QemuLoadStateFailed`: the target's QEMU refused the state that came in: device state, section, machine type. When
//! the two ends run different versions, or virtio feature bits do not fit, `VersionSkew` is behind it; when registers
//! or MSRs are refused, the CPU (`CpuIncompatible`). A stream that broke is the source's or the path's doing.

use kulprit_model::{
    FindingCode::{KernelsDiffer, LauncherVersionsDiffer, MigrationNoBytes},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The target's QEMU refused the guest's state that came in.
pub const QEMU_LOAD_STATE_FAILED: Cause = Cause {
    id: "QemuLoadStateFailed",
    meaning: "The target's QEMU refused the guest's state that came in.",
    roles: &[Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::MigrationFailed],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::ExcessiveMigrations,
        SymptomId::EvacuationBlocked,
        SymptomId::InError,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::StoppedUnexpectedly],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOAD_STATE]),
                Fact::Not(CLASS, &[class::RESET, class::KILLED, class::CRASHED]),
            ]),
            text: "the target's QEMU could not load the state",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOAD_STATE]),
                Fact::OneOf(CLASS, &[class::INVALID, class::CORRUPT, class::INCOMPATIBLE, class::UNSUPPORTED]),
                Fact::Not(SIGNATURE, &["load-state-features", "machine-type-unknown"]),
            ]),
            text: "the target's QEMU did not accept the state",
        },
        Clue {
            group: "text",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOAD_STATE]),
                Fact::OneOf(CLASS, &[class::RESET, class::KILLED, class::CRASHED]),
            ]),
            text: "the stream broke, the state was not refused",
        },
        Clue {
            group: "versions",
            strength: Strength::Against,
            look: Look::Present(LauncherVersionsDiffer, &[]),
            text: "source and target run different versions",
        },
        Clue {
            group: "skew",
            strength: Strength::Against,
            look: said(&[Fact::OneOf(SIGNATURE, &["load-state-features", "machine-type-unknown"])]),
            text: "feature bits of a device do not fit between two versions",
        },
        Clue {
            group: "models",
            strength: Strength::Hint,
            look: Look::Present(KernelsDiffer, &[]),
            text: "source and target run different kernels",
        },
        Clue {
            group: "progress",
            strength: Strength::Against,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "nothing was copied at all",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl logs -n {namespace} TARGET_POD -c compute | grep -E 'load|Features|qemu' | tail \
                 -n 30   # the device and its instance",
            ),
            Step::KubeVirt(
                "virtctl restart -n {namespace} {vm}   # a fresh QEMU has no old state; until then it \
                 stays where it is",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o jsonpath='{range \
                 .items[*]}{.spec.nodeName} {.spec.containers[0].image}{\"\\n\"}{end}'   # same launcher \
                 image?",
            ),
            Step::Any("uname -r   # on both nodes: tun and vhost offer features by kernel version"),
        ],
        prevent: &[Step::Any(
            "update one version at a time and migrate everything before the next; the same kernel \
                 and microcode on nodes between which VMs move",
        )],
    },
    runbook_item: "hardware compatibility",
};
