//! `QemuMonitorHung`: QEMU lives and does not answer its monitor.
//!
//! libvirt's control info (`occupied`, `error`) is a look that takes no job and disturbs nobody. It says `ok` for as long as
//! nobody asks QEMU anything, so `ok` is weak; a QEMU that is stopped by a signal cannot answer, and is seen in procfs at once.

use kulprit_model::{
    FindingCode::{DomainControlError, DomainControlOccupied, LibvirtUnresponsive, MigrationProgressing, QemuStopped},
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// QEMU is alive and does not answer libvirt's monitor commands.
pub const QEMU_MONITOR_HUNG: Cause = Cause {
    id: "QemuMonitorHung",
    meaning: "QEMU is alive and does not answer libvirt's monitor commands.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStopping, SymptomId::Unresponsive, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::StuckTerminating,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::StuckStarting,
    ],
    rare: &[SymptomId::PausedUnexpectedly, SymptomId::Unspecified, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "monitor",
            strength: Strength::Proof,
            look: Look::Present(QemuStopped, &[]),
            text: "QEMU is stopped by a signal or a debugger and cannot answer",
        },
        Clue {
            group: "monitor",
            strength: Strength::Proof,
            look: Look::Present(DomainControlOccupied, &[]),
            text: "a monitor command to QEMU stays without an answer",
        },
        Clue {
            group: "monitor",
            strength: Strength::Strong,
            look: Look::Present(DomainControlError, &[]),
            text: "libvirt has lost the monitor of QEMU",
        },
        Clue {
            group: "stopped",
            strength: Strength::Against,
            look: Look::Absent(QemuStopped),
            text: "QEMU is not stopped by a signal",
        },
        Clue {
            group: "control",
            strength: Strength::Against,
            look: Look::Absent(DomainControlOccupied),
            text: "no monitor command waits",
        },
        Clue {
            group: "gone",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuGone),
            text: "there is no QEMU that could answer",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::LAUNCHER, actor::QEMU]),
                Fact::OneOf(OPERATION, &[operation::MONITOR]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK, class::HELD]),
            ]),
            text: "a command to QEMU's monitor waits without an answer",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER, actor::LAUNCHER]),
                Fact::OneOf(OPERATION, &[operation::SYNC_VMI, operation::SHUTDOWN_DOMAIN, operation::MONITOR]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "the launcher does not answer virt-handler in time",
        },
        Clue {
            group: "migration",
            strength: Strength::Against,
            look: Look::Present(MigrationProgressing, &[]),
            text: "its migration gets nearer to its end: QEMU answers, and the job is the migration's",
        },
        Clue {
            group: "daemon",
            strength: Strength::Against,
            look: Look::Present(LibvirtUnresponsive, &[]),
            text: "the libvirt daemon itself does not answer",
        },
    ],
    explains: &["LauncherUnresponsive"],
    advice: Advice {
        now: &[
            Step::Any(
                "grep -E 'State|TracerPid' /proc/{pid}/status   # T: kill -CONT {pid}; TracerPid: somebody \
                 debugs it",
            ),
            Step::Standalone(
                "virsh domcontrol {vm}   # takes no job; do not run domstats or dumpxml: they wait for the \
                 monitor too",
            ),
            Step::KubeVirt(
                "kubectl exec -n {namespace} $(kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o \
                 name) -c compute -- virsh domcontrol {namespace}_{vm}",
            ),
            Step::Standalone("virsh destroy {vm}   # last resort: the guest loses what it has not written"),
            Step::KubeVirt(
                "virtctl stop --force --grace-period 0 -n {namespace} {vm}   # last resort: the guest loses \
                 what it has not written",
            ),
        ],
        check: &[
            Step::Any("cat /proc/{pid}/task/*/wchan | sort | uniq -c   # busy main thread or waiting for something"),
            Step::Any(
                "journalctl -u libvirtd -u virtqemud -n 100 --no-pager | grep -i 'state change lock'   # who \
                 holds the job",
            ),
        ],
        prevent: &[Step::Any(
            "do not attach debuggers or stop signals to QEMU in production; update QEMU if its main loop \
             hangs",
        )],
    },
    runbook_item: "QEMU hangs",
};
