//! `Unschedulable`: no node fits what the pod asks for: requests, selectors, affinity, taints, topology of volumes.
//!
//! The scheduler says so. If what is missing is KubeVirt's own device (kvm, tun, vhost-net), the nodes are at fault,
//! not the request; if nodes are away or cordoned, the causes of these nodes explain the taint.

use kulprit_model::{
    FindingCode::PodUnschedulable,
    attribute::{CLASS, OBJECT, OPERATION, REASON, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// No node fits the VM's pod: requests, selectors, affinity, taints or volume topology.
pub const UNSCHEDULABLE: Cause = Cause {
    id: "Unschedulable",
    meaning: "No node fits the VM's pod: requests, selectors, affinity, taints or volume topology.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::InError, SymptomId::StuckStarting, SymptomId::StuckMigrating, SymptomId::EvacuationBlocked],
    possible: &[SymptomId::MigrationFailed],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(PodUnschedulable, &[Fact::Not(REASON, &["device", "hugepages", "node-health"])]),
            text: "the scheduler finds no node for the pod",
        },
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(
                PodUnschedulable,
                &[
                    Fact::OneOf(REASON, &["device"]),
                    Fact::NoneOf(
                        OBJECT,
                        &["devices.kubevirt.io/kvm", "devices.kubevirt.io/tun", "devices.kubevirt.io/vhost-net"],
                    ),
                ],
            ),
            text: "no node has the device that the pod asks for",
        },
        Clue {
            group: "state",
            strength: Strength::Good,
            look: Look::Present(PodUnschedulable, &[Fact::OneOf(REASON, &["hugepages"])]),
            text: "no node has the hugepages that the pod asks for",
        },
        Clue {
            group: "health",
            strength: Strength::StronglyAgainst,
            look: Look::Present(PodUnschedulable, &[Fact::OneOf(REASON, &["node-health"])]),
            text: "the scheduler refuses a node for how it is: that is the node's fault",
        },
        Clue {
            group: "state",
            strength: Strength::Hint,
            look: Look::Present(PodUnschedulable, &[]),
            text: "the scheduler finds no node for the pod",
        },
        Clue {
            group: "state",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(PodUnschedulable),
            text: "the pod has a node",
        },
        Clue {
            group: "state",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SCHEDULE]),
                Fact::OneOf(CLASS, &[class::INSUFFICIENT, class::LIMIT, class::OTHER, class::UNAVAILABLE, class::BUSY]),
                Fact::Not(SIGNATURE, &["unschedulable-kvm", "unschedulable-hugepages"]),
            ]),
            text: "the scheduler says that no node fits",
        },
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-target-pod-unschedulable"])]),
            text: "KubeVirt gave the target pod up because no node took it",
        },
        Clue {
            group: "device",
            strength: Strength::StronglyAgainst,
            look: said(&[Fact::OneOf(SIGNATURE, &["unschedulable-kvm"])]),
            text: "what is missing is KubeVirt's own device: that is the nodes' fault",
        },
        Clue {
            group: "device",
            strength: Strength::StronglyAgainst,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(
                    OBJECT,
                    &["devices.kubevirt.io/kvm", "devices.kubevirt.io/tun", "devices.kubevirt.io/vhost-net"],
                )],
            ),
            text: "what is missing is KubeVirt's own device: that is the nodes' fault",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get events -n {namespace} --field-selector reason=FailedScheduling \
--sort-by=.lastTimestamp | tail -n 5",
            ),
            Step::KubeVirt(
                "kubectl get nodes -o \
custom-columns=NAME:.metadata.name,READY:.status.conditions[-1].status,TAINTS:.spec.taints[*].key,CPU:.status.allocatable.cpu,MEM:.status.allocatable.memory,KV:.metadata.labels.kubevirt\\.io/schedulable",
            ),
            Step::KubeVirt(
                "kubectl edit vm -n {namespace} {vm}   # smaller requests, other selectors; or make \
room",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o json | jq \
'.items[].spec | \
{nodeSelector,affinity,tolerations,containers:[.containers[].resources.requests]}'",
            ),
            Step::KubeVirt(
                "kubectl get pv -o json | jq '.items[].spec.nodeAffinity'   # volumes that tie the VM \
to nodes",
            ),
        ],
        prevent: &[Step::Any(
            "room for the largest VM on one node more than is needed (N+1); no hard affinity \
where a soft one is enough",
        )],
    },
    runbook_item: "Unschedulable",
};
