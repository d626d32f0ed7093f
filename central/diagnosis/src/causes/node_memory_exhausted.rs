//! `NodeMemoryExhausted`: the node as a whole ran out of memory. Proof is an OOM kill with
//! `constraint=CONSTRAINT_NONE`, or a kubelet that evicted the pod for memory. A kill by the pod's own limit is
//! `QemuOutOfMemory` or `LauncherOutOfMemory`.

use kulprit_model::{
    FindingCode::{
        LauncherEvicted, LauncherOomKilled, MemcgOomKill, NodeMemoryStalled, NodeOomKill, NodePressureReported,
        PodUnschedulable,
    },
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The node ran out of memory: its kernel killed or its kubelet evicted what ran there.
pub const NODE_MEMORY_EXHAUSTED: Cause = Cause {
    id: "NodeMemoryExhausted",
    meaning: "The node ran out of memory: its kernel killed or its kubelet evicted what ran there.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[
        SymptomId::InError,
        SymptomId::MigrationFailed,
        SymptomId::Unresponsive,
        SymptomId::ExcessiveMigrations,
        SymptomId::StoppedUnexpectedly,
    ],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::EvacuationBlocked,
        SymptomId::Unspecified,
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
    ],
    rare: &[SymptomId::PausedUnexpectedly],
    clues: &[
        Clue {
            group: "oom",
            strength: Strength::Proof,
            look: Look::Happened(NodeOomKill, &[Fact::Own]),
            text: "the kernel killed a process of this VM because the node was out of memory",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: Look::Happened(NodeOomKill, &[]),
            text: "the kernel killed a process because the node was out of memory",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KERNEL, actor::KUBELET]),
                Fact::OneOf(
                    OPERATION,
                    &[operation::RUN_GUEST, operation::FORK, operation::RECLAIM, operation::REPORT_STATUS],
                ),
                Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY, class::KILLED]),
            ]),
            text: "Kubernetes was told of an OOM kill of the node",
        },
        Clue {
            group: "refused",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN, operation::FORK]),
                Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY]),
                Fact::Not(SIGNATURE, &["hugepages-missing"]),
            ]),
            text: "memory was refused when the VM started",
        },
        Clue {
            group: "eviction",
            strength: Strength::Proof,
            look: Look::Present(LauncherEvicted, &[Fact::OneOf(WHAT, &["memory"])]),
            text: "the kubelet evicted the launcher pod because the node was low on memory",
        },
        Clue {
            group: "eviction",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(SIGNATURE, &["evicted-memory"])]),
            text: "the kubelet evicted the pod because the node was low on memory",
        },
        Clue {
            group: "oom",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["unit-killed-oom"])]),
            text: "a unit of the node was killed for memory",
        },
        Clue {
            group: "eviction",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::EVICT_POD, operation::RECLAIM]),
                Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY]),
            ]),
            text: "the kubelet evicts pods",
        },
        Clue {
            group: "refused",
            strength: Strength::Strong,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["node-health"]), Fact::OneOf(OBJECT, &["node.kubernetes.io/memory-pressure"])],
            ),
            text: "the scheduler refuses the node for its memory pressure",
        },
        Clue {
            group: "reported",
            strength: Strength::Strong,
            look: Look::Present(NodePressureReported, &[Fact::OneOf(WHAT, &["memory"])]),
            text: "the kubelet reports memory pressure",
        },
        Clue {
            group: "pressure",
            strength: Strength::Good,
            look: Look::Present(NodeMemoryStalled, &[]),
            text: "tasks of the node wait for memory",
        },
        Clue {
            group: "pressure",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(NodeMemoryStalled, &[]),
                said(&[Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY])]),
            ]),
            text: "tasks of the node wait for memory, and something was refused memory",
        },
        Clue {
            group: "pressure",
            strength: Strength::Against,
            look: Look::Absent(NodeMemoryStalled),
            text: "no task of the node waits for memory",
        },
        Clue {
            group: "pressure",
            strength: Strength::Against,
            look: Look::Absent(NodePressureReported),
            text: "the kubelet reports no pressure",
        },
        Clue {
            group: "oom",
            strength: Strength::StronglyAgainst,
            look: Look::NotHappened(NodeOomKill),
            text: "the kernel log has no OOM kill of the node",
        },
        Clue {
            group: "limit",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(MemcgOomKill, &[Fact::Own]),
            text: "it was the VM's own cgroup that was full, not the node",
        },
        Clue {
            group: "limit",
            strength: Strength::Against,
            look: Look::Present(LauncherOomKilled, &[]),
            text: "its container says OOMKilled: its own limit",
        },
    ],
    explains: &[
        "KubeletDegraded",
        "ContainerRuntimeHung",
        "QemuCrashed",
        "LauncherUnresponsive",
        "LibvirtDaemonDown",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "dmesg -T | grep -B 40 'global_oom' | tail -n 80   # what used the memory, and who was \
                 killed",
            ),
            Step::KubeVirt(
                "kubectl get pods -A --field-selector spec.nodeName={node} -o wide   # move or stop what \
                 is not needed",
            ),
            Step::Any("free -m; ps -eo pid,rss,comm --sort=-rss | head -n 20"),
        ],
        check: &[
            Step::Any(
                "cat /proc/pressure/memory; grep -E \
                 'MemAvailable|Committed_AS|HugePages_Total|Hugepagesize' /proc/meminfo   # memory set \
                 aside for hugepages is not there for pods",
            ),
            Step::KubeVirt("kubectl describe node {node} | sed -n '/Allocated resources/,/Events/p'"),
        ],
        prevent: &[Step::Any(
            "reserve memory for the system (systemReserved, evictionHard memory.available) and do \
                 not overcommit guests (memory.overcommitPercent)",
        )],
    },
    runbook_item: "node resource exhaustion",
};
