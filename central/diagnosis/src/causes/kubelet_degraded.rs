//! `KubeletDegraded`: the kubelet runs and does not do its work.
//!
//! Three looks of different origin: systemd's restart counter, the healthz endpoint, and the state of the main process. A
//! plain libvirt domain has no pod, so a kubelet fault says nothing about it.
//! A PLEG that stalls is mostly the runtime's doing: `ContainerRuntimeHung` explains this cause where it has evidence
//! of its own.

use kulprit_model::{
    FindingCode::{
        KubeletHealthzFailing, KubeletInactive, KubeletNotInstalled, KubeletProcessStalled, KubeletRestartLoop,
        ListenQueueFull, NodeNotReady, PodUnschedulable,
    },
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SERVER, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The kubelet restarts in a loop, fails its healthz, or its process is stopped or blocked.
pub const KUBELET_DEGRADED: Cause = Cause {
    id: "KubeletDegraded",
    meaning: "The kubelet restarts in a loop, fails its healthz, or its process is stopped or blocked.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::StuckMigrating,
        SymptomId::ExcessiveMigrations,
        SymptomId::Unspecified,
    ],
    possible: &[SymptomId::Unresponsive, SymptomId::MigrationFailed, SymptomId::InError, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StoppedUnexpectedly],
    clues: &[
        Clue {
            group: "restarts",
            strength: Strength::Proof,
            look: Look::Present(KubeletRestartLoop, &[]),
            text: "systemd restarts the kubelet again and again",
        },
        Clue {
            group: "process",
            strength: Strength::Proof,
            look: Look::Present(KubeletProcessStalled, &[]),
            text: "the kubelet's main process is stopped, a zombie, or blocked in the kernel",
        },
        Clue {
            group: "healthz",
            strength: Strength::Strong,
            look: Look::Present(KubeletHealthzFailing, &[]),
            text: "the kubelet's healthz endpoint does not say ok",
        },
        // Its API and its healthz; a process that takes no connection answers no healthz either.
        Clue {
            group: "healthz",
            strength: Strength::Some,
            look: Look::Present(
                ListenQueueFull,
                &[Fact::OneOf(SERVER, &["0.0.0.0:10250", "[::]:10250", "127.0.0.1:10248"])],
            ),
            text: "the kubelet does not take the connections that wait for it",
        },
        Clue {
            group: "well",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[
                Look::Absent(KubeletRestartLoop),
                Look::Absent(KubeletProcessStalled),
                Look::Absent(KubeletHealthzFailing),
            ]),
            text: "the kubelet does not restart, its process runs and its healthz says ok",
        },
        Clue {
            group: "unit",
            strength: Strength::Against,
            look: Look::Present(KubeletInactive, &[]),
            text: "the kubelet does not run at all",
        },
        Clue {
            group: "unit",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KubeletNotInstalled, &[]),
            text: "this host has no kubelet",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no kubelet starts or stops it",
        },
        Clue {
            group: "pleg",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::LIST_PODS]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::UNAVAILABLE, class::STUCK]),
            ]),
            text: "the kubelet cannot keep up with its pods (PLEG)",
        },
        Clue {
            group: "pleg",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(SIGNATURE, &["pleg-unhealthy"])]),
            text: "the kubelet says that its PLEG is not healthy",
        },
        Clue {
            group: "refused",
            strength: Strength::Hint,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["node-health"]), Fact::OneOf(OBJECT, &["node.kubernetes.io/not-ready"])],
            ),
            text: "the scheduler refuses the node because its kubelet is not ready",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["False"])]),
            text: "the kubelet itself says that it is not ready",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::Not(
                    OPERATION,
                    &[
                        operation::MOUNT,
                        operation::MAP,
                        operation::UNMOUNT,
                        operation::CREATE_CONTAINER,
                        operation::PULL,
                        operation::KILL_CONTAINER,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::CRASHED, class::STUCK]),
                Fact::Not(SIGNATURE, &["node-rebooted", "kubelet-silent"]),
            ]),
            text: "the kubelet fails",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("journalctl -u {unit} -b -n 200 --no-pager"),
            Step::Any("systemctl restart {unit}   # after the journal was read: a restart hides what it was"),
        ],
        check: &[
            Step::Any("systemctl show {unit} -p NRestarts,Result,ExecMainStatus,MainPID"),
            Step::Any("curl -sS -m 2 http://127.0.0.1:10248/healthz"),
            Step::Any(
                "state of its process: ps -o pid,stat,wchan:32,cmd -C kubelet   # T: somebody stopped it \
                 (kill -CONT), D: blocked in the kernel",
            ),
        ],
        prevent: &[Step::Any(
            "reserve CPU and memory for the kubelet (systemReserved, kubeReserved); alert on NRestarts \
             and healthz",
        )],
    },
    runbook_item: "NotReady",
};
