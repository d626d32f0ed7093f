//! `NestedVirtualizationDisabled`: virtualization inside virtualization is missing: the node is itself a guest whose
//! hypervisor hides VMX/SVM, or the node's module does not pass it on to a guest that needs it. A physical node with
//! the switch off is `KvmDisabledInFirmware`.

use kulprit_model::{
    FindingCode::{KvmDeviceMissing, KvmDisabledByFirmware, KvmNestedDisabled, KvmNotSupported, SoftwareEmulation},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Nested virtualization is missing: the node is a guest without it, or does not give it to guests that need it.
pub const NESTED_VIRTUALIZATION_DISABLED: Cause = Cause {
    id: "NestedVirtualizationDisabled",
    meaning: "Nested virtualization is missing: the node is a guest without it, or does not give it \
                 to guests that need it.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::Unspecified,
        SymptomId::StoppedUnexpectedly,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::Unresponsive, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "nested",
            strength: Strength::Good,
            look: Look::Present(KvmNestedDisabled, &[]),
            text: "the KVM module does not let guests run virtual machines",
        },
        Clue {
            group: "nested",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(KvmNestedDisabled, &[]),
                said(&[Fact::OneOf(SIGNATURE, &["cpu-incompatible"])]),
            ]),
            text: "the KVM module does not let guests run virtual machines, and the guest asks for it",
        },
        Clue {
            group: "support",
            strength: Strength::Good,
            look: Look::Happened(KvmNotSupported, &[Fact::Not(WHAT, &["cpu"])]),
            text: "the kernel says that the processor, as the node sees it, offers no virtualization",
        },
        Clue {
            group: "support",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Happened(KvmNotSupported, &[Fact::Not(WHAT, &["cpu"])]),
                Look::Present(KvmDeviceMissing, &[]),
            ]),
            text: "the node has no /dev/kvm because its processor, as it sees it, offers no virtualization",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(ACTOR, &[actor::GUEST]), Fact::OneOf(OPERATION, &[operation::ACCESS_KVM])]),
            text: "inside the guest KVM is not to be had",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ACCESS_KVM]),
                Fact::OneOf(CLASS, &[class::UNSUPPORTED]),
                Fact::Not(SIGNATURE, &["kvm-invalid-accelerator"]),
            ]),
            text: "KVM is not supported on the node",
        },
        Clue {
            group: "emulated",
            strength: Strength::Some,
            look: Look::Present(SoftwareEmulation, &[]),
            text: "QEMU runs without KVM",
        },
        Clue {
            group: "nested",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KvmNestedDisabled),
            text: "the KVM module lets guests run virtual machines",
        },
        Clue {
            group: "firmware",
            strength: Strength::Against,
            look: Look::Happened(KvmDisabledByFirmware, &[]),
            text: "it is the firmware that forbids it",
        },
    ],
    explains: &["KvmDeviceMissing", "Unschedulable", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "cat /sys/module/kvm_intel/parameters/nested /sys/module/kvm_amd/parameters/nested \
                 2>/dev/null; systemd-detect-virt; grep -m1 -oE 'vmx|svm|hypervisor' /proc/cpuinfo",
            ),
            Step::Any("modprobe -r kvm_intel && modprobe kvm_intel nested=1   # kvm_amd on AMD; no VM may run"),
            Step::Any(
                "node is a VM: give it host-passthrough or \"expose hardware assisted virtualization\" \
                 in the hypervisor above",
            ),
        ],
        check: &[Step::KubeVirt(
            "kubectl get vmi -n {namespace} {vm} -o jsonpath='{.spec.domain.cpu}'   # does it ask \
                 for vmx or svm",
        )],
        prevent: &[Step::Any(
            "options kvm_intel nested=1 in /etc/modprobe.d on every node alike: a guest with vmx can \
                 only move to nodes that have it",
        )],
    },
    runbook_item: "nested virtualization",
};
