//! `VirtHandlerDown`: virt-handler of the node is missing, not ready, or crashes.
//!
//! Proof is its pod. Without it nobody starts, stops or migrates the VMs of the node; they run on. Its heartbeat alone
//! may be late because the API server is. A node that is down takes it along; a quota or policy that forbids its pod is
//! the root then.

use kulprit_model::{
    FindingCode::{NodeNotReady, VirtHandlerHeartbeatStale, VirtHandlerNotReady},
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// virt-handler of the node is missing, not ready or crashing: the VMs of the node run on unmanaged.
pub const VIRT_HANDLER_DOWN: Cause = Cause {
    id: "VirtHandlerDown",
    meaning: "virt-handler of the node is missing, not ready or crashing: the VMs of the node run \
on unmanaged.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::VirtStack,
    usual: &[
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::StuckMigrating,
    ],
    possible: &[SymptomId::InError, SymptomId::MigrationFailed, SymptomId::Unresponsive, SymptomId::EvacuationBlocked],
    rare: &[
        SymptomId::ExcessiveMigrations,
        SymptomId::PausedUnexpectedly,
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
    ],
    clues: &[
        Clue {
            group: "pod",
            strength: Strength::Proof,
            look: Look::Present(VirtHandlerNotReady, &[]),
            text: "virt-handler of the node is missing, not ready or crashing",
        },
        Clue {
            group: "pod",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(VirtHandlerNotReady),
            text: "virt-handler of the node is ready",
        },
        Clue {
            group: "heartbeat",
            strength: Strength::Good,
            look: Look::Present(VirtHandlerHeartbeatStale, &[]),
            text: "virt-handler's heartbeat on the node is old, or KubeVirt marks the node \
unschedulable",
        },
        Clue {
            group: "heartbeat",
            strength: Strength::Against,
            look: Look::Absent(VirtHandlerHeartbeatStale),
            text: "virt-handler's heartbeat is fresh",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER, actor::CONTROLLER]),
                Fact::OneOf(OPERATION, &[operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::UNAVAILABLE, class::TIMEOUT, class::STUCK, class::NOT_FOUND]),
            ]),
            text: "KubeVirt says that virt-handler of the node does not respond",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER]),
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::CREATE_CONTAINER,
                        operation::CREATE_SANDBOX,
                        operation::CALL_API,
                        operation::WATCH_FILES,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::CRASHED, class::LIMIT, class::OUT_OF_MEMORY]),
            ]),
            text: "virt-handler ended or cannot work",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Present(NodeNotReady, &[]),
            text: "the node itself is not ready",
        },
    ],
    explains: &["VirtHandlerRestarted", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n kubevirt -l kubevirt.io=virt-handler -o wide --field-selector \
spec.nodeName={node}",
            ),
            Step::KubeVirt(
                "kubectl describe pod -n kubevirt -l kubevirt.io=virt-handler --field-selector \
spec.nodeName={node} | tail -n 30; kubectl logs -n kubevirt -l \
kubevirt.io=virt-handler --field-selector spec.nodeName={node} --previous --tail=100",
            ),
            Step::KubeVirt("kubectl rollout status -n kubevirt daemonset/virt-handler"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get node {node} -o jsonpath='{.metadata.annotations.kubevirt\\.io/heartbeat} \
{.metadata.labels.kubevirt\\.io/schedulable}'",
            ),
            Step::KubeVirt("kubectl get events -n kubevirt --field-selector involvedObject.kind=DaemonSet"),
        ],
        prevent: &[Step::Any(
            "alert on VirtHandlerDaemonSetRolloutFailing; system-node-critical priority; memory \
enough for nodes with many VMs",
        )],
    },
    runbook_item: "KubeVirt component malfunction",
};
