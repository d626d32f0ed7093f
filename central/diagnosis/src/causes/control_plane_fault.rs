//! `ControlPlaneFault`: virt-controller, virt-api, the API server or a webhook is at fault, or KubeVirt has a bug; the
//! hosts are clean.
//!
//! Told by a component that is not ready or by calls that fail on their side. A node that alone does not reach the API
//! server is a matter of that node.

use kulprit_model::{
    FindingCode::{ControlPlaneNotReady, LauncherGone},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A part of the control plane does not work: virt-controller, virt-api, virt-operator, API server or a webhook.
pub const CONTROL_PLANE_FAULT: Cause = Cause {
    id: "ControlPlaneFault",
    meaning: "A part of the control plane does not work: virt-controller, virt-api, virt-operator, \
API server or a webhook.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::InError,
    ],
    possible: &[SymptomId::ExcessiveMigrations, SymptomId::Unresponsive],
    rare: &[SymptomId::PausedUnexpectedly, SymptomId::StoppedUnexpectedly, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "component",
            strength: Strength::Strong,
            look: Look::Present(ControlPlaneNotReady, &[]),
            text: "a part of the control plane is not ready",
        },
        Clue {
            group: "component",
            strength: Strength::Against,
            look: Look::Absent(ControlPlaneNotReady),
            text: "the control plane is ready",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CONTROLLER, actor::API_SERVER, actor::CONTROLLER_MANAGER]),
                Fact::OneOf(CLASS, &[class::CRASHED]),
            ]),
            text: "a part of the control plane crashed",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::API_SERVER, actor::CONTROLLER, actor::CONTROLLER_MANAGER]),
                Fact::OneOf(OPERATION, &[operation::CREATE_POD]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::TIMEOUT,
                        class::UNAVAILABLE,
                        class::REFUSED,
                        class::RESET,
                        class::NOT_FOUND,
                        class::UNTRUSTED,
                        class::EXPIRED,
                        class::UNREACHABLE,
                    ],
                ),
            ]),
            text: "objects cannot be made because an API server or webhook does not answer",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(
                    ACTOR,
                    &[actor::API_SERVER, actor::CONTROLLER, actor::CONTROLLER_MANAGER, actor::SCHEDULER],
                ),
                Fact::OneOf(OPERATION, &[operation::CALL_API]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::TIMEOUT,
                        class::UNAVAILABLE,
                        class::REFUSED,
                        class::RESET,
                        class::UNTRUSTED,
                        class::EXPIRED,
                        class::STUCK,
                    ],
                ),
            ]),
            text: "calls of the Kubernetes API fail on the side of the control plane",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["webhook-unreachable", "etcd-slow", "leader-lost"])]),
            text: "a webhook, etcd or a leader of the control plane does not answer",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::NoneOf(ACTOR, &[actor::GUEST]),
                Fact::OneOf(OPERATION, &[operation::CALL_API]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::UNAVAILABLE, class::RATE_LIMITED]),
            ]),
            text: "calls of the Kubernetes API fail",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::REFUSED]),
            ]),
            text: "nobody listens where a node expects the API server",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(ACTOR, &[actor::KUBELET, actor::HANDLER]),
                    Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                    Fact::OneOf(CLASS, &[class::REFUSED]),
                ]),
                Look::Elsewhere(&said(&[
                    Fact::OneOf(ACTOR, &[actor::KUBELET, actor::HANDLER]),
                    Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                    Fact::OneOf(CLASS, &[class::REFUSED]),
                ])),
            ]),
            text: "nobody listens where several nodes expect the API server",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["handler-record-lost"])]),
            text: "virt-handler cannot clean up what it never made",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-state-cleared"])]),
            text: "KubeVirt lost the migration's state",
        },
        Clue {
            group: "orphan",
            strength: Strength::Some,
            look: Look::Present(LauncherGone, &[]),
            text: "the VM is shown running and has no launcher pod",
        },
    ],
    explains: &["VirtHandlerDown", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n kubevirt -o wide; kubectl get kubevirt -A -o \
jsonpath='{.items[*].status.conditions}'; kubectl get --raw=/readyz?verbose | grep \
-v ok",
            ),
            Step::KubeVirt(
                "kubectl logs -n kubevirt deploy/virt-controller --tail=200 | grep -iE 'error|panic'; \
kubectl logs -n kubevirt deploy/virt-api --tail=100",
            ),
            Step::KubeVirt(
                "kubectl rollout restart -n kubevirt deploy/virt-controller   # when it hangs; \
running VMs are not touched",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations; kubectl \
get apiservices | grep False",
            ),
            Step::KubeVirt("kubectl get events -A --sort-by=.lastTimestamp | tail -n 30"),
        ],
        prevent: &[Step::Any(
            "two replicas of each component on different nodes; alert on VirtControllerDown, \
VirtApiDown, NoReadyVirtController",
        )],
    },
    runbook_item: "KubeVirt components",
};
