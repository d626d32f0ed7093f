//! `GuestFault`: the guest itself is at fault: its kernel panicked, its agent is gone, it hangs inside; the host is
//! clean.
//!
//! Proof is the panic that the guest reported. An agent that is lost is only a hint unless QEMU, its monitor and its
//! disks were looked at and are well. A vCPU that KVM cannot run is not the guest's fault.

use kulprit_model::{
    FindingCode::{
        DomainControlOccupied, DomainIoError, GuestAgentLost, GuestPanicked, KvmGuestFault, QemuStopped,
        QemuThreadBlocked, VmLinkLost,
    },
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The guest itself is at fault: panic, hang inside, agent gone; its host is well.
pub const GUEST_FAULT: Cause = Cause {
    id: "GuestFault",
    meaning: "The guest itself is at fault: panic, hang inside, agent gone; its host is well.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::Unresponsive, SymptomId::InError, SymptomId::StuckStarting, SymptomId::StoppedUnexpectedly],
    possible: &[SymptomId::PausedUnexpectedly, SymptomId::StuckStopping, SymptomId::StuckTerminating],
    rare: &[SymptomId::MigrationFailed, SymptomId::StuckMigrating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "guest",
            strength: Strength::Proof,
            look: Look::Happened(GuestPanicked, &[]),
            text: "the guest's kernel panicked",
        },
        Clue {
            group: "guest",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(ACTOR, &[actor::GUEST]), Fact::OneOf(OPERATION, &[operation::RUN_GUEST])]),
            text: "the guest reports its own failure",
        },
        Clue {
            group: "guest",
            strength: Strength::Good,
            look: Look::All(&[
                Look::Present(GuestAgentLost, &[]),
                Look::Absent(QemuThreadBlocked),
                Look::Absent(QemuStopped),
                Look::Absent(DomainControlOccupied),
            ]),
            text: "the guest agent is gone while QEMU, its monitor and its disks are well",
        },
        Clue {
            group: "guest",
            strength: Strength::Good,
            look: Look::All(&[Look::Present(GuestAgentLost, &[]), Look::Absent(DomainControlOccupied)]),
            text: "the guest agent is gone while QEMU answers its monitor",
        },
        Clue {
            group: "guest",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::RUN_GUEST_AGENT]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::RESET, class::STUCK, class::CRASHED]),
            ]),
            text: "the guest agent does not answer",
        },
        Clue {
            group: "guest",
            strength: Strength::Hint,
            look: Look::Present(GuestAgentLost, &[]),
            text: "the guest agent is gone",
        },
        Clue {
            group: "host",
            strength: Strength::StronglyAgainst,
            look: Look::Present(QemuThreadBlocked, &[]),
            text: "its QEMU is blocked in the kernel",
        },
        Clue {
            group: "host",
            strength: Strength::StronglyAgainst,
            look: Look::Present(QemuStopped, &[]),
            text: "its QEMU is stopped",
        },
        Clue {
            group: "host",
            strength: Strength::StronglyAgainst,
            look: Look::Present(DomainControlOccupied, &[]),
            text: "its QEMU does not answer its monitor",
        },
        Clue {
            group: "host",
            strength: Strength::Against,
            look: Look::Happened(KvmGuestFault, &[]),
            text: "KVM could not run a vCPU of it",
        },
        Clue {
            group: "host",
            strength: Strength::Against,
            look: Look::Present(VmLinkLost, &[]),
            text: "it is cut off from the network on its own node",
        },
        Clue {
            group: "host",
            strength: Strength::Against,
            look: Look::Present(DomainIoError, &[]),
            text: "it is paused by a disk error",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "virtctl console -n {namespace} {vm}; virtctl vnc -n {namespace} {vm}   # what stands \
on its screen",
            ),
            Step::KubeVirt(
                "virtctl restart -n {namespace} {vm}   # after the screen and, if wanted, a memory \
dump were taken: virtctl memory-dump",
            ),
            Step::Standalone("virsh console {vm}; virsh screenshot {vm}; virsh dump {vm} FILE --memory-only"),
        ],
        check: &[
            Step::Any(
                "logs inside the guest around the onset; did it update, run out of memory, lose its \
disk?",
            ),
            Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.conditions}'"),
        ],
        prevent: &[Step::Any(
            "a panic device and a watchdog in the VM; the guest agent; probes that look at the \
service",
        )],
    },
    runbook_item: "VM configuration",
};
