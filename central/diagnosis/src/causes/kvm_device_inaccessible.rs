//! `KvmDeviceInaccessible`: `/dev/kvm` is there and cannot be opened.
//!
//! Proof is a mode that lets nobody in, or an open that fails (`EACCES`: mode, owner, security module; `EPERM` is the agent's own cgroup).
//! KubeVirt's device plugin only looks whether the file exists, so the node still offers KVM. With another kubelet root
//! directory virt-handler never gives the pod its device, and the text is the same: `KubeletMisconfigured`.

use kulprit_model::{
    FindingCode::{KvmDeviceInaccessible, KvmDeviceMissing, KvmNotAllocatable, SecurityDenied},
    attribute::{CLASS, OBJECT, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// /dev/kvm exists on the node and cannot be opened.
pub const KVM_DEVICE_INACCESSIBLE: Cause = Cause {
    id: "KvmDeviceInaccessible",
    meaning: "/dev/kvm exists on the node and cannot be opened.",
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
            group: "open",
            strength: Strength::Proof,
            look: Look::Present(KvmDeviceInaccessible, &[]),
            text: "/dev/kvm cannot be opened, or its mode lets nobody read and write",
        },
        Clue {
            group: "open",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KvmDeviceInaccessible),
            text: "/dev/kvm opens",
        },
        Clue {
            group: "open",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KvmDeviceMissing, &[]),
            text: "there is no /dev/kvm to open",
        },
        Clue {
            group: "start",
            strength: Strength::Good,
            look: Look::All(&[Look::Present(KvmDeviceInaccessible, &[]), Look::Vm(VmFact::FailedToStart)]),
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
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ACCESS_KVM]),
                Fact::OneOf(CLASS, &[class::DENIED, class::NOT_PERMITTED]),
            ]),
            text: "whoever opened /dev/kvm was refused",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["virt-type-unsupported", "kvm-invalid-accelerator"])]),
            text: "libvirt finds no KVM that it may use, on a node that was to have it",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["virt-type-unsupported", "kvm-invalid-accelerator"])]),
                Look::Absent(KvmNotAllocatable),
            ]),
            text: "libvirt finds no KVM that it may use, though the node offers it to pods",
        },
        Clue {
            group: "lsm",
            strength: Strength::Good,
            look: Look::Happened(SecurityDenied, &[Fact::OneOf(OBJECT, &["/dev/kvm"])]),
            text: "a security module refused /dev/kvm",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("chmod 0660 /dev/kvm && chgrp kvm /dev/kvm   # 0666 where the distribution has it so"),
            Step::Any("ls -lZ /dev/kvm; getfacl /dev/kvm"),
        ],
        check: &[
            Step::Any(
                "udevadm info /dev/kvm; grep -r kvm /etc/udev/rules.d /usr/lib/udev/rules.d   # who sets \
                 owner and mode",
            ),
            Step::Any("dmesg | grep -iE 'avc|apparmor' | grep kvm   # a security module says no"),
            Step::KubeVirt(
                "launcher pods keep the mode /dev/kvm had when their container was made: restart the VM after \
                 the repair",
            ),
        ],
        prevent: &[Step::Any(
            "fix owner and mode in a udev rule, not by hand: KERNEL==\"kvm\", GROUP=\"kvm\", \
             MODE=\"0660\"",
        )],
    },
    runbook_item: "KVM acceleration",
};
