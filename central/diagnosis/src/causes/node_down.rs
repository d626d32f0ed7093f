//! `NodeDown`: the node stopped answering, was powered off, or rebooted under its VMs. A silent kubelet alone is
//! `KubeletDown`: virt-handler's heartbeat stops too when the node is down, and goes on when only the kubelet is. A
//! look at the host itself that works speaks against.

use kulprit_model::{
    FindingCode::{
        KubeletInactive, LauncherRejected, NodeBooted, NodeNotReady, NodeObjectMissing, NodeUnreachableTaint,
        PodUnschedulable, VirtHandlerHeartbeatStale, VirtHandlerNotReady,
    },
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The node does not answer any more, was powered off, or rebooted under its VMs.
pub const NODE_DOWN: Cause = Cause {
    id: "NodeDown",
    meaning: "The node does not answer any more, was powered off, or rebooted under its VMs.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[
        SymptomId::StuckTerminating,
        SymptomId::StuckStopping,
        SymptomId::InError,
        SymptomId::Unresponsive,
        SymptomId::MigrationFailed,
        SymptomId::ExcessiveMigrations,
        SymptomId::StoppedUnexpectedly,
    ],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::EvacuationBlocked,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::PausedUnexpectedly],
    clues: &[
        Clue {
            group: "kubelet",
            strength: Strength::Good,
            look: Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
            text: "the node's kubelet tells nothing any more",
        },
        Clue {
            group: "silence",
            strength: Strength::Good,
            look: Look::All(&[
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
                Look::Vm(VmFact::HostNotSeen),
            ]),
            text: "the kubelet tells nothing any more, and nothing else shows that the node lives",
        },
        Clue {
            group: "refused",
            strength: Strength::Good,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["node-health"]), Fact::OneOf(OBJECT, &["node.kubernetes.io/unreachable"])],
            ),
            text: "the scheduler refuses the node because nobody reaches it",
        },
        Clue {
            group: "kubelet",
            strength: Strength::Good,
            look: Look::Present(NodeUnreachableTaint, &[]),
            text: "Kubernetes cannot reach the node",
        },
        Clue {
            group: "kubelet",
            strength: Strength::Strong,
            look: Look::Present(NodeObjectMissing, &[]),
            text: "Kubernetes does not know the node any more",
        },
        Clue {
            group: "kubelet",
            strength: Strength::Hint,
            look: Look::Present(NodeNotReady, &[Fact::Not(WHAT, &["Unknown"])]),
            text: "the node is not ready",
        },
        Clue {
            group: "handler",
            strength: Strength::Good,
            look: Look::Present(VirtHandlerHeartbeatStale, &[]),
            text: "virt-handler of the node is silent too",
        },
        Clue {
            group: "handler",
            strength: Strength::Some,
            look: Look::Present(VirtHandlerNotReady, &[]),
            text: "virt-handler of the node is not ready",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CONTROLLER, actor::CONTROLLER_MANAGER]),
                Fact::OneOf(OPERATION, &[operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::UNREACHABLE]),
            ]),
            text: "Kubernetes says that the node is unresponsive",
        },
        Clue {
            group: "kubelet",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["kubelet-silent"])]),
            text: "Kubernetes hears nothing from the kubelet any more",
        },
        Clue {
            group: "kubelet",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["node-not-ready"])]),
            text: "Kubernetes says that the node is not ready",
        },
        Clue {
            group: "handler",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["node-virt-handler-silent"])]),
            text: "KubeVirt hears nothing from virt-handler of the node any more",
        },
        Clue {
            group: "boot",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["node-rebooted"])]),
            text: "the node was rebooted",
        },
        Clue {
            group: "boot",
            strength: Strength::Strong,
            look: Look::Happened(NodeBooted, &[]),
            text: "the node booted",
        },
        Clue {
            group: "boot",
            strength: Strength::Proof,
            look: Look::All(&[Look::Happened(NodeBooted, &[]), Look::Vm(VmFact::QemuGone)]),
            text: "the node booted, and the VM's QEMU is gone",
        },
        Clue {
            group: "kubelet",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(NodeNotReady),
            text: "Kubernetes says that the node is ready",
        },
        Clue {
            group: "unit",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KubeletInactive, &[]),
            text: "the node answers; it is its kubelet that does not run",
        },
        Clue {
            group: "handler",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(VirtHandlerHeartbeatStale),
            text: "virt-handler of the node still gives signs of life",
        },
        Clue {
            group: "alive",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LauncherRejected, &[]),
            text: "the node's kubelet refused the launcher pod, so it lives",
        },
        Clue {
            group: "alive",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                Fact::OneOf(
                    CLASS,
                    &[class::UNREACHABLE, class::NAME, class::REFUSED, class::UNAUTHORIZED, class::UNTRUSTED],
                ),
                Fact::Not(SIGNATURE, &["kubelet-silent", "node-not-ready"]),
            ]),
            text: "the kubelet lives, and says that it cannot report",
        },
        Clue {
            group: "alive",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "the VM's QEMU is seen alive on it",
        },
        Clue {
            group: "boot",
            strength: Strength::Hint,
            look: Look::All(&[Look::Happened(NodeBooted, &[]), Look::Present(NodeNotReady, &[])]),
            text: "the node booted and is not ready yet",
        },
    ],
    explains: &[
        "VolumeHeldElsewhere",
        "VolumeTeardownStuck",
        "KubeletRestarted",
        "MigrationTargetPodFailed",
        "VirtHandlerDown",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "ping -c 3 {node}; ssh {node} uptime   # or its management board: is it powered, what is \
                 on its console",
            ),
            Step::KubeVirt(
                "kubectl get node {node} -o wide; kubectl get lease -n kube-node-lease {node} -o \
                 jsonpath='{.spec.renewTime}'",
            ),
            Step::KubeVirt(
                "kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute   # \
                 ONLY when it is certainly off: its VMs start elsewhere, and two QEMUs on one disk \
                 destroy it",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get events -A --field-selector \
                 involvedObject.kind=Node,involvedObject.name={node} --sort-by=.lastTimestamp",
            ),
            Step::Any(
                "last -x reboot shutdown | head; journalctl -b -1 -n 100 --no-pager   # after it is \
                 back: how its last life ended",
            ),
        ],
        prevent: &[Step::Any(
            "fencing (Medik8s self-node-remediation or fence-agents) so that VMs of a dead node \
                 restart by themselves; kdump; redundant power and network",
        )],
    },
    runbook_item: "NotReady",
};
