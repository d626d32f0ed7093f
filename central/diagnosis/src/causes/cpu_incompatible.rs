//! `CpuIncompatible`: the target of a migration lacks a CPU feature, model, microcode or TSC frequency with which the
//! guest runs. Proof is libvirt's `guest CPU doesn't match specification: missing features`. Device state and virtio
//! feature bits that do not fit are `VersionSkew`, and so are *extra* features.

use kulprit_model::{
    FindingCode::{CpuModelsDiffer, MigrationProgressing},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// What is incompatible there is something else, or did not matter.
const NOT_THE_CPU: &[&str] =
    &["load-state-features", "machine-type-unknown", "libvirt-parameter-unknown", "cpu-feature-dropped"];

/// The target node lacks CPU features, a model or a TSC frequency with which the guest runs.
pub const CPU_INCOMPATIBLE: Cause = Cause {
    id: "CpuIncompatible",
    meaning: "The target node lacks CPU features, a model or a TSC frequency with which the guest \
                 runs.",
    roles: &[Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::MigrationFailed, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::ExcessiveMigrations,
        SymptomId::EvacuationBlocked,
        SymptomId::InError,
        SymptomId::Unspecified,
        SymptomId::StuckStarting,
    ],
    rare: &[SymptomId::StoppedUnexpectedly],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(SIGNATURE, &["cpu-missing-features"])]),
            text: "the target's CPU lacks features that the guest runs with",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &[
                    "migration-no-node-for-cpu",
                    "cpu-incompatible",
                    "tsc-frequency-mismatch",
                    "kvm-registers-refused",
                    "cpu-model-unavailable",
                ],
            )]),
            text: "no other node has the guest's CPU",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::Not(ACTOR, &[actor::CONTROLLER, actor::API_SERVER]),
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE, operation::MIGRATE_FINISH]),
                Fact::OneOf(CLASS, &[class::INCOMPATIBLE]),
                Fact::Not(SIGNATURE, NOT_THE_CPU),
            ]),
            text: "the migration failed because source and target do not fit",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::QEMU, actor::CONTROLLER]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN, operation::DEFINE_DOMAIN, operation::SCHEDULE]),
                Fact::OneOf(CLASS, &[class::INCOMPATIBLE]),
                Fact::Not(SIGNATURE, NOT_THE_CPU),
            ]),
            text: "the node's CPU does not fit what the VM asks for",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(SIGNATURE, &["cpu-feature-dropped"])]),
            text: "QEMU warned that it runs without CPU features that were asked for",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["cpu-mode-unsupported"])]),
            text: "the node cannot give the CPU mode that the VM asks for",
        },
        Clue {
            group: "models",
            strength: Strength::Some,
            look: Look::Present(CpuModelsDiffer, &[]),
            text: "source and target offer different CPU models or features",
        },
        Clue {
            group: "state",
            strength: Strength::StronglyAgainst,
            look: said(&[Fact::OneOf(SIGNATURE, &["load-state-features"])]),
            text: "it is a device's features that do not fit, not the CPU's",
        },
        Clue {
            group: "state",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOAD_STATE]),
                Fact::Not(SIGNATURE, &["kvm-registers-refused"]),
            ]),
            text: "the target's QEMU refused the state of a device",
        },
        Clue {
            group: "models",
            strength: Strength::Against,
            look: Look::Absent(CpuModelsDiffer),
            text: "source and target offer the same CPU models",
        },
        Clue {
            group: "progress",
            strength: Strength::Against,
            look: Look::Present(MigrationProgressing, &[]),
            text: "the migration copies: the CPU was accepted",
        },
    ],
    explains: &["QemuLoadStateFailed", "MigrationTargetPodFailed", "Unschedulable"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get nodes -L host-model-cpu.node.kubevirt.io -o json | jq -r \
                 '.items[]|[.metadata.name,(.metadata.labels|keys[]|select(test(\"host-model-cpu|host-model-required\")))]|@tsv'",
            ),
            Step::KubeVirt(
                "kubectl patch vm -n {namespace} {vm} --type merge -p \
                 '{\"spec\":{\"template\":{\"spec\":{\"domain\":{\"cpu\":{\"model\":\"COMMON_MODEL\"}}}}}}'   \
                 # then restart it: a model that every node has",
            ),
        ],
        check: &[
            Step::Any(
                "virsh domcapabilities | sed -n '/<mode name=.host-model/,/<\\/mode>/p'; grep -m1 \
                 microcode /proc/cpuinfo   # on both nodes",
            ),
            Step::KubeVirt(
                "kubectl get nodes -L \
                 cpu-timer.node.kubevirt.io/tsc-frequency,cpu-timer.node.kubevirt.io/tsc-scalable",
            ),
        ],
        prevent: &[Step::Any(
            "set defaultCPUModel in KubeVirt's configuration to the oldest model of the cluster; the \
                 same microcode and mitigations on all nodes; label generations and keep migrations \
                 inside one",
        )],
    },
    runbook_item: "hardware compatibility",
};
