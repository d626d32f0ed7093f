//! `GuestIgnoresShutdown`: the guest was asked to shut down and does not, and the host has no part in it.
//!
//! Only a host that was looked at and is well names this cause: that somebody asked is the symptom itself and says little. A
//! QEMU that is blocked, stopped, killed or paused leaves the guest no chance to react.

use kulprit_model::{
    FindingCode::{
        DomainControlError, DomainControlOccupied, DomainIoError, GuestShutdownRequested, LauncherDefunct,
        LibvirtUnresponsive, QemuStopped, QemuTerminationPending, QemuThreadBlocked, StopGraceRunning, VmDiskStalled,
    },
    attribute::{ACTOR, CLASS, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The guest was asked to shut down and does not react; its host is well.
pub const GUEST_IGNORES_SHUTDOWN: Cause = Cause {
    id: "GuestIgnoresShutdown",
    meaning: "The guest was asked to shut down and does not react; its host is well.",
    roles: &[Role::Cluster],
    scope: Scope::Vm,
    class: Class::Outside,
    usual: &[SymptomId::StuckStopping],
    possible: &[SymptomId::StuckTerminating],
    rare: &[SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "request",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(GuestShutdownRequested, &[]),
                Look::Absent(QemuThreadBlocked),
                Look::Absent(QemuStopped),
                Look::Absent(DomainControlOccupied),
                Look::Absent(DomainIoError),
                Look::Vm(VmFact::QemuLives),
            ]),
            text: "the guest was asked to shut down and runs on, while its QEMU, monitor and disks are well",
        },
        Clue {
            group: "request",
            strength: Strength::Some,
            look: Look::Present(GuestShutdownRequested, &[]),
            text: "the guest was asked to shut down and still runs",
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
            look: Look::Present(VmDiskStalled, &[]),
            text: "its disk is stalled",
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
            strength: Strength::StronglyAgainst,
            look: Look::Present(DomainControlError, &[]),
            text: "libvirt has lost its monitor",
        },
        Clue {
            group: "host",
            strength: Strength::StronglyAgainst,
            look: Look::Present(DomainIoError, &[]),
            text: "it is paused by a disk error",
        },
        Clue {
            group: "killed",
            strength: Strength::StronglyAgainst,
            look: Look::Present(QemuTerminationPending, &[]),
            text: "its QEMU was killed and cannot end: the guest has no say any more",
        },
        Clue {
            group: "request",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(StopGraceRunning, &[]),
                Look::Absent(QemuThreadBlocked),
                Look::Absent(QemuStopped),
                Look::Vm(VmFact::QemuLives),
            ]),
            text: "the guest was asked to stop, its grace period is not over, and its QEMU runs well",
        },
        Clue {
            group: "request",
            strength: Strength::Strong,
            look: Look::All(&[Look::Present(StopGraceRunning, &[]), Look::Absent(DomainControlOccupied)]),
            text: "the guest was asked to stop, its grace period is not over, and its QEMU answers its monitor",
        },
        Clue {
            group: "request",
            strength: Strength::Strong,
            look: Look::Present(StopGraceRunning, &[Fact::OneOf(REASON, &["ShuttingDown"])]),
            text: "the request to shut down reached the guest, and its grace period is not over",
        },
        Clue {
            group: "request",
            strength: Strength::Good,
            look: Look::Present(StopGraceRunning, &[]),
            text: "the guest was asked to stop, and its grace period is not over",
        },
        Clue {
            group: "request",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["launcher-grace-period-over"])]),
            text: "the grace period of the guest ran out",
        },
        Clue {
            group: "host",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LauncherDefunct, &[]),
            text: "the launcher that would ask it is dead",
        },
        Clue {
            group: "host",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LibvirtUnresponsive, &[]),
            text: "libvirt, which asks it, does not answer",
        },
        Clue {
            group: "host",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LAUNCHER, actor::LIBVIRT, actor::QEMU, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::SHUTDOWN_DOMAIN, operation::DESTROY_DOMAIN]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK]),
            ]),
            text: "the request did not get through",
        },
        Clue {
            group: "teardown",
            strength: Strength::Against,
            look: said(&[Fact::OneOf(OPERATION, &[operation::UNMOUNT, operation::KILL_CONTAINER, operation::DETACH])]),
            text: "what hangs is the end of the pod",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::Standalone(
                "virsh shutdown {vm} --mode agent   # if the guest agent runs; else log in and shut it down \
                 from inside",
            ),
            Step::Standalone("virsh destroy {vm}   # last resort: power off; the guest loses what it has not written"),
            Step::KubeVirt("virtctl console -n {namespace} {vm}   # log in and shut it down from inside"),
            Step::KubeVirt(
                "virtctl stop --force --grace-period 0 -n {namespace} {vm}   # last resort: power off; the \
                 guest loses what it has not written",
            ),
        ],
        check: &[Step::Any(
            "does the guest handle the ACPI power button (acpid, systemd-logind HandlePowerKey)? is it \
             updating, waiting for a user, or hung itself?",
        )],
        prevent: &[
            Step::Any("install the guest agent, and let the guest react to the power button"),
            Step::KubeVirt("set terminationGracePeriodSeconds to what the guest really needs"),
        ],
    },
    runbook_item: "-",
};
