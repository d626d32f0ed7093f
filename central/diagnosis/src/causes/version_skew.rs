//! `VersionSkew`: source and target run versions of QEMU, libvirt, KubeVirt or the kernel that do not fit together.
//!
//! The target refuses a state that a newer or older side made: feature bits, a machine type, an unknown section. It
//! meets every VM that was started before an update, whatever the node; CPU features that one node lacks are
//! CpuIncompatible.

use kulprit_model::{
    FindingCode::{KernelsDiffer, LauncherVersionsDiffer},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The versions of QEMU, libvirt, KubeVirt or kernels on the two ends do not fit together; the nodes are well.
pub const VERSION_SKEW: Cause = Cause {
    id: "VersionSkew",
    meaning: "The versions of QEMU, libvirt, KubeVirt or kernels on the two ends do not fit \
together; the nodes are well.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::MigrationFailed, SymptomId::InError],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::StuckStarting,
        SymptomId::EvacuationBlocked,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::StuckStopping, SymptomId::Unresponsive, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["load-state-features"])]),
            text: "the target's QEMU does not know what the source's negotiated",
        },
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(OPERATION, &[operation::LOAD_STATE, operation::MIGRATE, operation::MIGRATE_PREPARE]),
                    Fact::OneOf(CLASS, &[class::INCOMPATIBLE, class::INVALID, class::UNSUPPORTED]),
                    Fact::Not(
                        SIGNATURE,
                        &[
                            "cpu-missing-features",
                            "cpu-incompatible",
                            "tsc-frequency-mismatch",
                            "kvm-registers-refused",
                        ],
                    ),
                ]),
                Look::Present(LauncherVersionsDiffer, &[]),
            ]),
            text: "the target refuses the state, and the two ends run different versions",
        },
        Clue {
            group: "state",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["load-state-section", "machine-type-unknown"])]),
            text: "one side does not know a part of the state or the machine type",
        },
        Clue {
            group: "state",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOAD_STATE]),
                Fact::OneOf(CLASS, &[class::INCOMPATIBLE]),
                Fact::Not(SIGNATURE, &["kvm-registers-refused", "cpu-missing-features"]),
            ]),
            text: "the target's QEMU refuses the state as not fitting",
        },
        Clue {
            group: "state",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::MIGRATE,
                        operation::MIGRATE_PREPARE,
                        operation::START_DOMAIN,
                        operation::DEFINE_DOMAIN,
                        operation::CALL_API,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::INCOMPATIBLE]),
                Fact::Not(SIGNATURE, &["cpu-missing-features", "cpu-incompatible", "tsc-frequency-mismatch"]),
            ]),
            text: "two versions do not fit together",
        },
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["libvirt-parameter-unknown"])]),
            text: "KubeVirt asks libvirt for something that this version of it does not know",
        },
        Clue {
            group: "version",
            strength: Strength::Some,
            look: Look::Present(LauncherVersionsDiffer, &[]),
            text: "the two ends, or launcher and control plane, run different versions",
        },
        Clue {
            group: "version",
            strength: Strength::Against,
            look: Look::Absent(LauncherVersionsDiffer),
            text: "both ends run the same version",
        },
        Clue {
            group: "kernel",
            strength: Strength::Hint,
            look: Look::Present(KernelsDiffer, &[]),
            text: "the two nodes run different kernels",
        },
        Clue {
            group: "cpu",
            strength: Strength::Against,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &["cpu-missing-features", "cpu-incompatible", "tsc-frequency-mismatch", "migration-no-node-for-cpu"],
            )]),
            text: "what does not fit is the CPU",
        },
    ],
    explains: &["QemuLoadStateFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o jsonpath='{range \
.items[*]}{.metadata.name} {.spec.nodeName} \
{.spec.containers[?(@.name==\"compute\")].image}{\"\\n\"}{end}'; kubectl get nodes \
-o wide",
            ),
            Step::KubeVirt(
                "virtctl restart -n {namespace} {vm}   # a VM started anew negotiates what every node \
of today offers",
            ),
            Step::KubeVirt("kubectl get kubevirt -A -o jsonpath='{.items[*].status}'   # is an update half done?"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get vmi -A -l kubevirt.io/outdatedLauncherImage   # VMs that run an older \
launcher",
            ),
            Step::Any(
                "do other VMs that were started before the update fail alike, on every node? then it \
is the versions",
            ),
        ],
        prevent: &[Step::Any(
            "finish an update before migrating; the same kernel and runtime on all nodes; follow \
the supported update path",
        )],
    },
    runbook_item: "KubeVirt components",
};
