//! `NodePidsExhausted`: the node, or the slice of all pods, has no process id
//! left: fork fails with EAGAIN. A limit of the one pod is
//! `LauncherLimitReached`.

use kulprit_model::{
    FindingCode::{
        ForkRejected, LauncherEvicted, LauncherLimitReached, NodePressureReported, PidsExhausted, PodUnschedulable,
    },
    attribute::{ACTOR, CLASS, MEMCG, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The node has no process ids left: new processes are refused.
pub const NODE_PIDS_EXHAUSTED: Cause = Cause {
    id: "NodePidsExhausted",
    meaning: "The node has no process ids left: new processes are refused.",
    roles: &[Role::Hosting],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::InError],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StoppedUnexpectedly,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unspecified,
        SymptomId::StuckTerminating,
    ],
    rare: &[SymptomId::StuckStopping],
    clues: &[
        Clue {
            group: "pids",
            strength: Strength::Proof,
            look: Look::Present(PidsExhausted, &[]),
            text: "the node has hardly any process ids left",
        },
        Clue {
            group: "fork",
            strength: Strength::Strong,
            look: Look::Happened(ForkRejected, &[Fact::Missing(MEMCG)]),
            text: "the kernel refused a new process",
        },
        Clue {
            group: "fork",
            strength: Strength::Some,
            look: Look::Happened(ForkRejected, &[]),
            text: "the kernel refused a cgroup a new process",
        },
        Clue {
            group: "refused",
            strength: Strength::Strong,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["node-health"]), Fact::OneOf(OBJECT, &["node.kubernetes.io/pid-pressure"])],
            ),
            text: "the scheduler refuses the node for its lack of process ids",
        },
        Clue {
            group: "reported",
            strength: Strength::Strong,
            look: Look::Present(NodePressureReported, &[Fact::OneOf(WHAT, &["pids"])]),
            text: "the kubelet reports that process ids run out",
        },
        Clue {
            group: "eviction",
            strength: Strength::Strong,
            look: Look::Present(LauncherEvicted, &[Fact::OneOf(WHAT, &["pids"])]),
            text: "the kubelet evicted the launcher pod because process ids ran out",
        },
        Clue {
            group: "eviction",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["evicted-pids"])]),
            text: "the kubelet evicted the pod because process ids ran out",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(
                    ACTOR,
                    &[
                        actor::KUBELET,
                        actor::RUNTIME,
                        actor::SYSTEMD,
                        actor::KERNEL,
                        actor::HANDLER,
                        actor::CNI,
                        actor::CSI,
                    ],
                ),
                Fact::OneOf(OPERATION, &[operation::FORK]),
                Fact::OneOf(CLASS, &[class::LIMIT, class::OUT_OF_MEMORY]),
                Fact::Not(SIGNATURE, &["container-pids-limit"]),
            ]),
            text: "a program of the node could not start a process",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::FORK]),
                Fact::OneOf(CLASS, &[class::LIMIT, class::OUT_OF_MEMORY]),
                Fact::Not(SIGNATURE, &["container-pids-limit"]),
            ]),
            text: "a process could not be started",
        },
        Clue {
            group: "pids",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(PidsExhausted),
            text: "the node has process ids left",
        },
        Clue {
            group: "pids",
            strength: Strength::Against,
            look: Look::Absent(NodePressureReported),
            text: "the kubelet reports no pressure",
        },
        Clue {
            group: "own",
            strength: Strength::Against,
            look: Look::Present(LauncherLimitReached, &[Fact::OneOf(WHAT, &["pids"])]),
            text: "it is the pod's own limit that is reached",
        },
    ],
    explains: &["ContainerRuntimeHung", "KubeletDegraded", "LauncherContainerFailed"],
    advice: Advice {
        now: &[
            Step::Any("ps -eLo comm --no-headers | sort | uniq -c | sort -rn | head   # who has so many threads"),
            Step::Any("cat /proc/loadavg /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max"),
        ],
        check: &[Step::Any(
            "grep . /sys/fs/cgroup/kubepods*/pids.max /sys/fs/cgroup/kubepods*/pids.current \
                 2>/dev/null; dmesg -T | grep 'fork rejected'",
        )],
        prevent: &[Step::Any("podPidsLimit and systemReserved pid in kubelet's configuration; kernel.pid_max=4194304")],
    },
    runbook_item: "node resource exhaustion",
};
