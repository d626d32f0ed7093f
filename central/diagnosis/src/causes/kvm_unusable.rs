//! `KvmUnusable`: `/dev/kvm` opens, and KVM creates no virtual machine.
//!
//! Proof is the answer to `KVM_GET_API_VERSION` (12) and `KVM_CREATE_VM`: `EBUSY` is another hypervisor, `ENOMEM` no memory.

use kulprit_model::{
    FindingCode::{KvmDisabledByFirmware, KvmNotSupported, KvmUnusable},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// /dev/kvm opens on the node, yet KVM cannot create a virtual machine.
pub const KVM_UNUSABLE: Cause = Cause {
    id: "KvmUnusable",
    meaning: "/dev/kvm opens on the node, yet KVM cannot create a virtual machine.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::Unspecified],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::StuckMigrating,
        SymptomId::StoppedUnexpectedly,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::EvacuationBlocked, SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "ioctl",
            strength: Strength::Proof,
            look: Look::Present(KvmUnusable, &[]),
            text: "KVM_CREATE_VM fails or the API version is not 12",
        },
        Clue {
            group: "ioctl",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KvmUnusable),
            text: "KVM creates virtual machines",
        },
        Clue {
            group: "firmware",
            strength: Strength::Some,
            look: Look::Happened(KvmDisabledByFirmware, &[]),
            text: "the kernel log says that the firmware forbids virtualization",
        },
        Clue {
            group: "start",
            strength: Strength::Good,
            look: Look::All(&[Look::Present(KvmUnusable, &[]), Look::Vm(VmFact::FailedToStart)]),
            text: "this VM failed to start while KVM was not to be had",
        },
        Clue {
            group: "runs",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "this VM's QEMU runs under KVM",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ACCESS_KVM]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::BUSY,
                        class::OUT_OF_MEMORY,
                        class::UNSUPPORTED,
                        class::IO_ERROR,
                        class::INVALID,
                        class::INCOMPATIBLE,
                    ],
                ),
                Fact::Not(SIGNATURE, &["virt-type-unsupported", "kvm-invalid-accelerator"]),
            ]),
            text: "KVM was opened and refused to make a virtual machine",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["virt-type-unsupported", "kvm-invalid-accelerator"])]),
            text: "libvirt finds no KVM that it can use",
        },
        Clue {
            group: "support",
            strength: Strength::Some,
            look: Look::Happened(KvmNotSupported, &[]),
            text: "the kernel says that the processor offers no virtualization",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("dmesg | grep -iE 'kvm|vmx|svm' | tail -n 20"),
            Step::Any(
                "lsmod | grep -E 'vboxdrv|vmmon|kvm'   # EBUSY: another hypervisor holds the CPU's \
                 virtualization",
            ),
        ],
        check: &[
            Step::Any(
                "the errno in the evidence: EBUSY another hypervisor, ENOMEM no memory, EINVAL or ENODEV \
                 switched off in the firmware",
            ),
            Step::Any("free -m   # ENOMEM: nothing left"),
        ],
        prevent: &[Step::Any("keep other hypervisors off nodes that run VMs")],
    },
    runbook_item: "KVM acceleration",
};
