//! `NodeHugepagesExhausted`: a VM with hugepages finds too few free ones of its size on the node, or on one NUMA node
//! of it. The node's counters prove it; QEMU's `unable to map backing store` alone may be a cgroup's hugetlb limit too.
//! Hugepages that no node has at all are `Unschedulable`.

use kulprit_model::{
    FindingCode::{HugepagesExhausted, NodeMemoryStalled, PodUnschedulable},
    attribute::{ACTOR, CLASS, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Not enough free hugepages of the VM's size on the node.
pub const NODE_HUGEPAGES_EXHAUSTED: Cause = Cause {
    id: "NodeHugepagesExhausted",
    meaning: "Not enough free hugepages of the VM's size on the node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::MigrationFailed, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "pages",
            strength: Strength::Good,
            look: Look::Present(HugepagesExhausted, &[]),
            text: "hardly any hugepage of a size is free on the node",
        },
        Clue {
            group: "pages",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(HugepagesExhausted, &[]),
                said(&[
                    Fact::OneOf(
                        ACTOR,
                        &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER, actor::SCHEDULER, actor::KUBELET],
                    ),
                    Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY, class::INSUFFICIENT]),
                ]),
            ]),
            text: "hardly any hugepage of a size is free, and the VM was refused memory",
        },
        Clue {
            group: "pages",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(HugepagesExhausted, &[]),
                Look::Present(PodUnschedulable, &[Fact::OneOf(REASON, &["hugepages"])]),
            ]),
            text: "hardly any hugepage of a size is free, and the pod finds no node with enough",
        },
        Clue {
            group: "start",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["hugepages-missing"])]),
            text: "QEMU could not map the guest's memory",
        },
        Clue {
            group: "start",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN]),
                Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY]),
            ]),
            text: "QEMU was refused memory when it started",
        },
        Clue {
            group: "schedule",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["unschedulable-hugepages"])]),
            text: "no node has enough hugepages for the pod",
        },
        Clue {
            group: "schedule",
            strength: Strength::Good,
            look: Look::Present(PodUnschedulable, &[Fact::OneOf(REASON, &["hugepages"])]),
            text: "no node has enough hugepages for the pod",
        },
        Clue {
            group: "pages",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(HugepagesExhausted),
            text: "hugepages of every size are free",
        },
        Clue {
            group: "memory",
            strength: Strength::Against,
            look: Look::Present(NodeMemoryStalled, &[]),
            text: "the node is short of ordinary memory",
        },
    ],
    explains: &["MigrationTargetPodFailed", "Unschedulable"],
    advice: Advice {
        now: &[
            Step::Any(
                "grep -i huge /proc/meminfo; grep . \
                 /sys/devices/system/node/node*/hugepages/hugepages-*/free_hugepages",
            ),
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o jsonpath='{.spec.domain.memory}'   # size and \
                 number it asks for",
            ),
        ],
        check: &[
            Step::KubeVirt("kubectl get node {node} -o jsonpath='{.status.allocatable}'"),
            Step::Any(
                "grep . /sys/fs/cgroup/kubepods*/*/hugetlb.*.max 2>/dev/null   # a cgroup's limit below \
                 what is free",
            ),
        ],
        prevent: &[Step::Any(
            "set hugepages aside at boot (hugepagesz=1G hugepages=N): later the memory is \
                 fragmented; on every NUMA node alike",
        )],
    },
    runbook_item: "node resource exhaustion",
};
