//! `QemuKilled`: somebody killed QEMU, and neither the kernel's OOM killer nor libvirt nor a shutdown did.
//!
//! A SIGKILL alone cannot tell a person from the OOM killer: only together with a kernel log that was read from before the
//! death on, and has no OOM line, does it name this cause. libvirt's own kill makes the domain `destroyed`, and no symptom.

use kulprit_model::{
    FindingCode::{
        DomainFailed, LauncherEvicted, LauncherOomKilled, MemcgOomKill, NodeOomKill, ProcessCrashed, QemuExited,
    },
    attribute::{ACTOR, CLASS, EXIT_CODE, SIGNAL, SIGNATURE},
    said::{actor, class},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// SIGHUP, SIGINT, SIGKILL, SIGTERM: what one ends a process with (signal(7)).
const KILL_SIGNALS: [&str; 4] = ["1", "2", "9", "15"];

/// QEMU was ended by a signal that neither the OOM killer, libvirt nor a shutdown sent.
pub const QEMU_KILLED: Cause = Cause {
    id: "QemuKilled",
    meaning: "QEMU was ended by a signal that neither the OOM killer, libvirt nor a shutdown sent.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StoppedUnexpectedly, SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StuckMigrating,
        SymptomId::ExcessiveMigrations,
        SymptomId::StuckTerminating,
    ],
    rare: &[SymptomId::Unspecified, SymptomId::StuckStopping, SymptomId::StuckStarting],
    clues: &[
        Clue {
            group: "death",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Happened(QemuExited, &[Fact::Own, Fact::OneOf(SIGNAL, &KILL_SIGNALS)]),
                Look::NotHappened(MemcgOomKill),
                Look::NotHappened(NodeOomKill),
            ]),
            text: "QEMU ended by a kill signal, and the kernel log has no OOM kill",
        },
        Clue {
            group: "death",
            strength: Strength::Some,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::OneOf(SIGNAL, &KILL_SIGNALS)]),
            text: "QEMU ended by a kill signal",
        },
        Clue {
            group: "death",
            strength: Strength::Some,
            look: Look::All(&[
                Look::Happened(DomainFailed, &[Fact::Own]),
                Look::NotHappened(MemcgOomKill),
                Look::NotHappened(NodeOomKill),
                Look::NotHappened(ProcessCrashed),
            ]),
            text: "QEMU vanished, and the kernel log has neither an OOM kill nor a crash",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(MemcgOomKill, &[Fact::Own]),
            text: "the kernel killed QEMU because its memory cgroup was full",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(NodeOomKill, &[Fact::Own]),
            text: "the kernel killed QEMU because the node was out of memory",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::NoneOf(SIGNAL, &KILL_SIGNALS)]),
            text: "QEMU ended by a signal that nobody kills with",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(ProcessCrashed, &[Fact::Own]),
            text: "the kernel logged a fatal fault of QEMU",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::Missing(SIGNAL), Fact::NoneOf(EXIT_CODE, &[])]),
            text: "QEMU ended by itself, not by a signal",
        },
        Clue {
            group: "asked",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::EndedAsAsked),
            text: "it was stopped through libvirt",
        },
        Clue {
            group: "alive",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "its QEMU is alive",
        },
        Clue {
            group: "death",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(ACTOR, &[actor::QEMU]), Fact::OneOf(CLASS, &[class::KILLED])]),
            text: "QEMU says that a signal ended it",
        },
        Clue {
            group: "death",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["qemu-terminated-by-signal"])]),
                Look::NotHappened(MemcgOomKill),
                Look::NotHappened(NodeOomKill),
            ]),
            text: "QEMU says that a signal ended it, and the kernel log has no OOM kill",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LauncherOomKilled, &[]),
            text: "a container of the launcher was killed for memory",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LauncherEvicted, &[]),
            text: "the kubelet evicted the pod",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Standalone("virsh start {vm}"),
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o wide   # a VM with runStrategy Always starts again by \
                 itself",
            ),
            Step::Any(
                "journalctl --since '-1 h' | grep -iE 'kill|oomd|earlyoom|sudo' | tail -n 50   # who was it: \
                 a person, systemd-oomd, earlyoom, a script",
            ),
        ],
        check: &[
            Step::Any("ausearch -sc kill --start recent   # if auditd watches kill"),
            Step::Any(
                "systemctl status systemd-oomd earlyoom   # they kill from user space and leave no kernel \
                 line",
            ),
        ],
        prevent: &[
            Step::Any("audit who may signal QEMU: auditctl -a always,exit -F arch=b64 -S kill -F a1=9"),
            Step::Any("exempt VM cgroups from user-space OOM killers (ManagedOOMPreference=omit)"),
        ],
    },
    runbook_item: "QEMU process failures",
};
