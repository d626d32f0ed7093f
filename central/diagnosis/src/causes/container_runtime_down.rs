//! `ContainerRuntimeDown`: containerd or CRI-O does not run: its socket refuses or
//! is not there. One that takes connections and does not answer is
//! `ContainerRuntimeHung`.

use kulprit_model::{
    FindingCode::{NodeNotReady, RuntimeInactive, RuntimeUnresponsive},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The container runtime of the node does not run.
pub const CONTAINER_RUNTIME_DOWN: Cause = Cause {
    id: "ContainerRuntimeDown",
    meaning: "The container runtime of the node does not run.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckTerminating],
    possible: &[
        SymptomId::StuckStopping,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unresponsive,
        SymptomId::InError,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "unit",
            strength: Strength::Proof,
            look: Look::Present(RuntimeInactive, &[]),
            text: "systemd says that the runtime's unit does not run",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::LIST_PODS,
                        operation::CREATE_SANDBOX,
                        operation::CREATE_CONTAINER,
                        operation::KILL_CONTAINER,
                        operation::PULL,
                        operation::REPORT_STATUS,
                        operation::RECLAIM,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::REFUSED, class::RESET]),
                Fact::Not(SIGNATURE, &["api-server-unreachable", "node-lease-not-sent", "node-status-not-sent"]),
            ]),
            text: "nobody listens on the runtime's socket",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::LIST_PODS, operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND, class::UNREACHABLE]),
                Fact::Not(SIGNATURE, &["kubelet-exited", "kubelet-config-invalid", "kubelet-certificate-expired"]),
                Fact::Not(SIGNATURE, &["api-server-unreachable", "node-lease-not-sent", "node-status-not-sent"]),
            ]),
            text: "the runtime's socket is not there",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["runtime-down", "runtime-socket-dead"])]),
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["False"])]),
            ]),
            text: "the kubelet says that the runtime is down, and that its node is not ready",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["runtime-down", "runtime-socket-dead"])]),
            text: "the kubelet says that the runtime is down",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::RUNTIME, actor::SYSTEMD]),
                Fact::OneOf(OPERATION, &[operation::FORK, operation::REPORT_STATUS, operation::LIST_PODS]),
                Fact::OneOf(CLASS, &[class::CRASHED, class::KILLED]),
            ]),
            text: "the runtime ended",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["False"])]),
            text: "the kubelet says that the node is not ready",
        },
        Clue {
            group: "unit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(RuntimeInactive),
            text: "the runtime's unit is active",
        },
        Clue {
            group: "hung",
            strength: Strength::Against,
            look: Look::Present(RuntimeUnresponsive, &[]),
            text: "the runtime takes calls and does not answer",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &["KubeletDegraded", "VirtHandlerDown", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "systemctl restart containerd || systemctl restart crio   # running containers and QEMUs \
                 stay",
            ),
            Step::Any("journalctl -u containerd -u crio -b -n 200 --no-pager"),
        ],
        check: &[
            Step::Any("systemctl status containerd crio; crictl version"),
            Step::Any("df -h /var/lib/containerd /var/lib/containers /run   # a full disk ends it"),
        ],
        prevent: &[Step::Any(
            "Restart=always in its unit; alert on its state; do not upgrade it without draining the \
                 node",
        )],
    },
    runbook_item: "container runtime",
};
