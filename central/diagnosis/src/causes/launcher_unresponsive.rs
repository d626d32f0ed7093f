//! `LauncherUnresponsive`: virt-launcher hangs, or its command socket is dead, while QEMU lives.
//!
//! Proof is the process itself: stopped, blocked or gone, or virt-handler's mark beside its socket. A call that times
//! out alone says less: libvirt, QEMU's monitor or a disk that does not answer make the launcher wait.

use kulprit_model::{
    FindingCode::{DomainControlOccupied, LauncherDefunct, LauncherGone, LibvirtUnresponsive},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// virt-launcher hangs, is gone, or its command socket is dead, while the VM may still run.
pub const LAUNCHER_UNRESPONSIVE: Cause = Cause {
    id: "LauncherUnresponsive",
    meaning: "virt-launcher hangs, is gone, or its command socket is dead, while the VM may still \
run.",
    roles: &[Role::Hosting, Role::Source],
    scope: Scope::Vm,
    class: Class::VirtStack,
    usual: &[SymptomId::StuckStopping, SymptomId::Unresponsive],
    possible: &[
        SymptomId::StuckTerminating,
        SymptomId::StuckMigrating,
        SymptomId::InError,
        SymptomId::StuckStarting,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "process",
            strength: Strength::Proof,
            look: Look::Present(LauncherDefunct, &[]),
            text: "virt-launcher is stopped, blocked or gone, or its socket is marked unresponsive",
        },
        Clue {
            group: "process",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(LauncherDefunct),
            text: "virt-launcher lives",
        },
        Clue {
            group: "pod",
            strength: Strength::Good,
            look: Look::Present(LauncherGone, &[]),
            text: "the VM is shown running and has no launcher pod",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["launcher-socket-unresponsive", "launcher-mark-failed"])]),
            text: "virt-handler finds the launcher's command socket dead",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_LAUNCHER]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::TIMEOUT,
                        class::REFUSED,
                        class::RESET,
                        class::UNAVAILABLE,
                        class::NOT_FOUND,
                        class::STALE,
                        class::STUCK,
                    ],
                ),
                Fact::Not(
                    SIGNATURE,
                    &["launcher-socket-refused", "domain-notify-failed", "launcher-not-found", "launcher-command-lost"],
                ),
            ]),
            text: "virt-handler does not reach the launcher's command socket",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_LAUNCHER]),
                Fact::OneOf(CLASS, &[class::RESET, class::REFUSED, class::TIMEOUT]),
            ]),
            text: "the connection to the launcher broke",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SYNC_VMI, operation::SHUTDOWN_DOMAIN]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::UNAVAILABLE, class::RESET]),
            ]),
            text: "the launcher does not answer virt-handler in time",
        },
        Clue {
            group: "served",
            strength: Strength::Against,
            look: said(&[Fact::OneOf(SIGNATURE, &["launcher-shutdown-cancelled"])]),
            text: "the launcher's server lives: it ended a request at its deadline",
        },
        Clue {
            group: "libvirt",
            strength: Strength::Against,
            look: Look::Present(LibvirtUnresponsive, &[]),
            text: "libvirt does not answer, and the launcher waits for it",
        },
        Clue {
            group: "monitor",
            strength: Strength::Against,
            look: Look::Present(DomainControlOccupied, &[]),
            text: "QEMU does not answer its monitor, and the launcher waits for it",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::Any(
                "ps -eo pid,stat,wchan:32,args | grep -e '[v]irt-launcher'   # on {node}: T is \
stopped, D waits in the kernel",
            ),
            Step::KubeVirt("kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} -c compute --tail=200"),
            Step::KubeVirt(
                "virtctl stop -n {namespace} {vm}   # in order, if the guest can be reached; deleting \
the pod ends QEMU",
            ),
        ],
        check: &[
            Step::Any(
                "ls -l /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/sockets/   # on \
{node}: launcher-sock, launcher-unresponsive",
            ),
            Step::KubeVirt(
                "kubectl logs -n kubevirt -l kubevirt.io=virt-handler --field-selector \
spec.nodeName={node} --tail=200 | grep -i unresponsive",
            ),
        ],
        prevent: &[Step::Any(
            "no tools that stop or debug processes of launcher pods; memory enough for the \
launcher itself",
        )],
    },
    runbook_item: "virt-launcher stuck",
};
