//! `KvmDisabledInFirmware`: the processor can virtualize and the firmware forbids it: the kernel says `disabled by
//! bios` when the module is loaded, and there is no /dev/kvm. A KVM that works proves the line to be old or about
//! something else.

use kulprit_model::FindingCode::{KvmDeviceMissing, KvmDisabledByFirmware, KvmNotAllocatable, KvmUnusable};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Look, Role, Scope, Step, Strength, VmFact},
    symptom::SymptomId,
};

/// The processor can virtualize, and the firmware of the node forbids it.
pub const KVM_DISABLED_IN_FIRMWARE: Cause = Cause {
    id: "KvmDisabledInFirmware",
    meaning: "The processor can virtualize, and the firmware of the node forbids it.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStarting, SymptomId::InError],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::StuckMigrating,
        SymptomId::Unspecified,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "firmware",
            strength: Strength::Strong,
            look: Look::Happened(KvmDisabledByFirmware, &[]),
            text: "the kernel log says that the firmware forbids virtualization",
        },
        Clue {
            group: "firmware",
            strength: Strength::Proof,
            look: Look::All(&[Look::Happened(KvmDisabledByFirmware, &[]), Look::Present(KvmDeviceMissing, &[])]),
            text: "the kernel log says that the firmware forbids virtualization, and there is no /dev/kvm",
        },
        Clue {
            group: "firmware",
            strength: Strength::Proof,
            look: Look::All(&[Look::Happened(KvmDisabledByFirmware, &[]), Look::Present(KvmNotAllocatable, &[])]),
            text: "the kernel log says that the firmware forbids virtualization, and the node offers no KVM",
        },
        Clue {
            group: "works",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KvmDeviceMissing),
            text: "/dev/kvm exists",
        },
        Clue {
            group: "works",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[Look::Absent(KvmDeviceMissing), Look::Absent(KvmUnusable)]),
            text: "KVM creates virtual machines",
        },
        Clue {
            group: "runs",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "this VM's QEMU runs, and got what it needed when it started",
        },
    ],
    explains: &["KvmDeviceMissing", "KvmUnusable", "Unschedulable", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "switch VT-x/VMX (Intel) or SVM (AMD) on in the firmware setup of {node}, then power it \
                 off and on",
            ),
            Step::KubeVirt("kubectl cordon {node}   # until then no VM should be sent there"),
        ],
        check: &[Step::Any(
            "dmesg | grep -iE 'kvm|disabled by bios'; grep -m1 -oE 'vmx|svm' /proc/cpuinfo; rdmsr \
                 0x3a   # bit 0 locked, bit 2 VMX allowed",
        )],
        prevent: &[Step::Any(
            "check new nodes with virt-host-validate before they join; firmware updates can reset \
                 the switch",
        )],
    },
    runbook_item: "KVM acceleration",
};
