//! `KvmDeviceMissing`: there is no `/dev/kvm`.
//!
//! Proof is a look at the node's `/dev`. A QEMU that already runs keeps its open descriptor, so a living QEMU speaks against.
//! That the node offers no KVM to pods proves nothing: after a restart of kubelet or virt-handler the device is there
//! (`KubeletRestarted`, `KvmNotAdvertised`).

use kulprit_model::{
    FindingCode::{
        DevicesNotAllocatable, KvmDeviceMissing, KvmDisabledByFirmware, KvmModuleNotLoaded, KvmNotAllocatable,
        KvmNotSupported, PodUnschedulable,
    },
    attribute::{CLASS, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// There is no /dev/kvm on the node.
pub const KVM_DEVICE_MISSING: Cause = Cause {
    id: "KvmDeviceMissing",
    meaning: "There is no /dev/kvm on the node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::MigrationFailed, SymptomId::Unspecified],
    possible: &[SymptomId::StuckMigrating, SymptomId::StoppedUnexpectedly, SymptomId::ExcessiveMigrations],
    rare: &[SymptomId::Unresponsive, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "device",
            strength: Strength::Proof,
            look: Look::Present(KvmDeviceMissing, &[]),
            text: "/dev/kvm does not exist or is no character device",
        },
        Clue {
            group: "module",
            strength: Strength::Some,
            look: Look::Present(KvmModuleNotLoaded, &[]),
            text: "neither kvm_intel nor kvm_amd is loaded",
        },
        Clue {
            group: "firmware",
            strength: Strength::Hint,
            look: Look::Happened(KvmDisabledByFirmware, &[]),
            text: "the kernel log says that the firmware forbids virtualization",
        },
        Clue {
            group: "device",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KvmDeviceMissing),
            text: "/dev/kvm exists",
        },
        Clue {
            group: "start",
            strength: Strength::Good,
            look: Look::All(&[Look::Present(KvmDeviceMissing, &[]), Look::Vm(VmFact::FailedToStart)]),
            text: "this VM failed to start while KVM was not to be had",
        },
        Clue {
            group: "runs",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "this VM's QEMU runs, and opened /dev/kvm when it started",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(OPERATION, &[operation::ACCESS_KVM]), Fact::OneOf(CLASS, &[class::NOT_FOUND])]),
            text: "whoever wanted /dev/kvm did not find it",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["device-plugin-gone"])]),
            text: "virt-handler says that the device disappeared",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["virt-type-unsupported", "kvm-invalid-accelerator"])]),
            text: "libvirt finds no KVM on the node",
        },
        Clue {
            group: "node",
            strength: Strength::Good,
            look: Look::Present(KvmNotAllocatable, &[Fact::OneOf(WHAT, &["zero"])]),
            text: "the node had KVM to offer and has none now",
        },
        Clue {
            group: "others",
            strength: Strength::Some,
            look: Look::All(&[Look::Present(KvmNotAllocatable, &[]), Look::Absent(DevicesNotAllocatable)]),
            text: "the node offers KubeVirt's other devices, and no KVM",
        },
        Clue {
            group: "node",
            strength: Strength::Hint,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["device"]), Fact::OneOf(OBJECT, &["devices.kubevirt.io/kvm"])],
            ),
            text: "no node offers KVM",
        },
        Clue {
            group: "node",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(SIGNATURE, &["unschedulable-kvm"])]),
            text: "no node offers KVM",
        },
        Clue {
            group: "device",
            strength: Strength::Against,
            look: Look::Absent(KvmNotAllocatable),
            text: "the node offers KVM",
        },
        Clue {
            group: "all",
            strength: Strength::Against,
            look: Look::Present(DevicesNotAllocatable, &[]),
            text: "the node offers none of KubeVirt's devices, not only no KVM",
        },
        Clue {
            group: "support",
            strength: Strength::Some,
            look: Look::Happened(KvmNotSupported, &[]),
            text: "the kernel says that the processor offers no virtualization",
        },
    ],
    explains: &["KvmNotAdvertised", "Unschedulable", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("modprobe kvm_intel || modprobe kvm_amd"),
            Step::Any("ls -l /dev/kvm; lsmod | grep kvm; dmesg | grep -i kvm"),
        ],
        check: &[
            Step::Any(
                "grep -m1 -oE 'vmx|svm' /proc/cpuinfo   # nothing: no virtualization in this CPU, or hidden \
                 by the hypervisor above",
            ),
            Step::Any("dmesg | grep -i 'disabled by bios'   # then switch VT-x/AMD-V on in the firmware"),
            Step::KubeVirt(
                "kubectl get node {node} -o jsonpath='{.status.allocatable.devices\\.kubevirt\\.io/kvm}'   # \
                 0: KubeVirt has noticed",
            ),
        ],
        prevent: &[Step::Any(
            "load the module at boot: echo kvm_intel > /etc/modules-load.d/kvm.conf (kvm_amd on AMD)",
        )],
    },
    runbook_item: "KVM acceleration",
};
