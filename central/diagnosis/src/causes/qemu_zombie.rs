//! `QemuZombie`: QEMU has ended and nobody reaps it: the monitor that is its parent is stopped or
//! gone. A zombie leader with a thread in state D is a `QemuBlockedInKernel`: that thread has not
//! ended.

use kulprit_model::{
    FindingCode::{LauncherDefunct, QemuThreadBlocked, QemuZombie},
    attribute::SIGNATURE,
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The VM's QEMU has ended and its parent does not reap it.
pub const QEMU_ZOMBIE: Cause = Cause {
    id: "QemuZombie",
    meaning: "The VM's QEMU has ended and its parent does not reap it.",
    roles: &[Role::Hosting],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckTerminating, SymptomId::StuckStopping],
    possible: &[SymptomId::Unresponsive, SymptomId::StoppedUnexpectedly, SymptomId::Unspecified],
    rare: &[SymptomId::InError, SymptomId::StuckMigrating],
    clues: &[
        Clue {
            group: "zombie",
            strength: Strength::Proof,
            look: Look::Present(QemuZombie, &[]),
            text: "QEMU is a zombie without any thread left",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["launcher-zombie"])]),
            text: "the launcher says that QEMU is a zombie",
        },
        Clue {
            group: "parent",
            strength: Strength::Hint,
            look: Look::Present(LauncherDefunct, &[]),
            text: "the launcher is stopped, blocked or gone",
        },
        Clue {
            group: "zombie",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["launcher-zombie"])]),
                Look::Present(LauncherDefunct, &[]),
            ]),
            text: "the launcher calls QEMU a zombie, and does not move itself",
        },
        Clue {
            group: "zombie",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(QemuZombie),
            text: "QEMU is no zombie",
        },
        Clue {
            group: "thread",
            strength: Strength::StronglyAgainst,
            look: Look::Present(QemuThreadBlocked, &[]),
            text: "a thread of QEMU lives on, blocked in the kernel",
        },
    ],
    explains: &["LauncherUnresponsive"],
    advice: Advice {
        now: &[
            Step::Any(
                "ps -o pid,ppid,stat,comm -p {pid}; ps -o pid,stat,wchan:32,args -p $(ps -o ppid= -p \
                 {pid})   # its parent must reap it: kill -CONT if it is stopped",
            ),
            Step::Any("kill -CHLD $(ps -o ppid= -p {pid})"),
        ],
        check: &[
            Step::Any("ls /proc/{pid}/task   # more than one entry: a thread lives on, and it is no zombie"),
            Step::KubeVirt("kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} -c compute --tail=50"),
        ],
        prevent: &[Step::Any("keep virt-launcher current; do not stop (SIGSTOP) or trace processes of launcher pods")],
    },
    runbook_item: "QEMU process failures",
};
