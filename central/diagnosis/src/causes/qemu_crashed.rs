//! `QemuCrashed`: QEMU ended by a fault of its own.
//!
//! Proof is a fatal signal in its exit status (pidfd, kernel 6.15 and later) or the kernel's own line about it (`segfault at`,
//! `traps:`). An abort leaves no kernel line, so a clean log is only weakly against.

use kulprit_model::{
    FindingCode::{DomainFailed, KvmGuestFault, LauncherOomKilled, MemcgOomKill, ProcessCrashed, QemuExited},
    attribute::{ACTOR, CLASS, EXIT_CODE, OPERATION, SIGNAL, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: what a program's own fault looks like (signal(7)).
const FATAL_SIGNALS: [&str; 8] = ["3", "4", "5", "6", "7", "8", "11", "31"];

/// QEMU crashed: a segmentation fault, an abort, or an exit with an error.
pub const QEMU_CRASHED: Cause = Cause {
    id: "QemuCrashed",
    meaning: "QEMU crashed: a segmentation fault, an abort, or an exit with an error.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StoppedUnexpectedly, SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StuckMigrating,
        SymptomId::StuckStarting,
        SymptomId::ExcessiveMigrations,
        SymptomId::StuckTerminating,
        SymptomId::PausedUnexpectedly,
    ],
    rare: &[SymptomId::Unspecified, SymptomId::StuckStopping, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "death",
            strength: Strength::Proof,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::OneOf(SIGNAL, &FATAL_SIGNALS)]),
            text: "QEMU ended by a signal that means a fault of the program",
        },
        Clue {
            group: "death",
            strength: Strength::Proof,
            look: Look::Happened(ProcessCrashed, &[Fact::Own]),
            text: "the kernel logged a fatal fault of QEMU",
        },
        Clue {
            group: "death",
            strength: Strength::Strong,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::Missing(SIGNAL), Fact::NoneOf(EXIT_CODE, &["0"])]),
            text: "QEMU ended by itself with an error code",
        },
        Clue {
            group: "libvirt",
            strength: Strength::Hint,
            look: Look::Happened(DomainFailed, &[Fact::Own]),
            text: "libvirt saw the domain crash or its QEMU vanish",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::OneOf(SIGNAL, &["9", "15"])]),
            text: "QEMU was killed from outside",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(MemcgOomKill, &[Fact::Own]),
            text: "the kernel killed QEMU for memory",
        },
        Clue {
            group: "start",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::FailedToStart),
            text: "it never ran: QEMU refused to start",
        },
        Clue {
            group: "log",
            strength: Strength::Against,
            look: Look::NotHappened(ProcessCrashed),
            text: "the kernel log has no segfault or trap of QEMU",
        },
        Clue {
            group: "alive",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "its QEMU is alive",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU]),
                Fact::OneOf(OPERATION, &[operation::RUN_GUEST, operation::LOAD_STATE, operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::CRASHED]),
                Fact::Not(SIGNATURE, &["domain-crash-assumed", "vmi-crashed"]),
            ]),
            text: "QEMU's own last words tell of a fault",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(SIGNATURE, &["kvm-registers-refused"]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN, operation::SYNC_VMI]),
            ]),
            text: "KVM refuses the vCPU's registers, and QEMU aborts",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT]),
                Fact::OneOf(
                    OPERATION,
                    &[operation::MONITOR, operation::RUN_GUEST, operation::MIGRATE, operation::MIGRATE_PREPARE],
                ),
                Fact::OneOf(CLASS, &[class::CRASHED]),
                Fact::Not(SIGNATURE, &["vmi-crashed"]),
            ]),
            text: "QEMU ended without a word of why",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(SIGNATURE, &["vmi-crashed", "launcher-dirty-exit"])]),
            text: "KubeVirt found the domain gone",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT]),
                Fact::OneOf(OPERATION, &[operation::MONITOR]),
                Fact::OneOf(CLASS, &[class::RESET]),
            ]),
            text: "the connection to QEMU's monitor broke",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN]),
                Fact::OneOf(CLASS, &[class::CRASHED]),
            ]),
            text: "QEMU ended when it started",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &["kvm-internal-error", "qemu-assertion", "kvm-run-failed", "kvm-entry-failed"],
            )]),
            text: "QEMU or KVM could not go on with the guest",
        },
        Clue {
            group: "kvm",
            strength: Strength::Strong,
            look: Look::Happened(KvmGuestFault, &[]),
            text: "KVM could not run a vCPU of a guest",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LauncherOomKilled, &[]),
            text: "a container of the launcher was killed for memory",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Standalone("virsh start {vm}"),
            Step::Standalone("tail -n 50 /var/log/libvirt/qemu/{vm}.log   # QEMU's last words"),
            Step::KubeVirt(
                "kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} -c compute --tail=100   # QEMU's \
                 last words",
            ),
            Step::Any("coredumpctl info {pid}   # if a core was kept"),
        ],
        check: &[
            Step::Any("dmesg -T | grep -E 'segfault|traps|general protection' | tail"),
            Step::Any("did the same QEMU build crash on other nodes? then it is the build, not the node"),
            Step::Any("memory errors of the hardware: dmesg -T | grep -iE 'mce|edac|hardware error'"),
        ],
        prevent: &[Step::Any("keep cores (systemd-coredump) and report the crash with its backtrace; update QEMU")],
    },
    runbook_item: "QEMU process failures",
};
