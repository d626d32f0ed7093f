//! `KubeletDown`: the kubelet's unit is not active.
//!
//! Proof is systemd's `ActiveState`, over D-Bus. A VM keeps running without its kubelet, but no pod of it starts, and none is
//! torn down. A plain libvirt domain has no pod, so a kubelet fault says nothing about it.
//! Seen from Kubernetes a dead kubelet and a dead node look alike: virt-handler's heartbeat tells them apart
//! (`NodeDown`).

use kulprit_model::{
    FindingCode::{KubeletInactive, KubeletNotInstalled, KubeletRestartLoop, NodeNotReady, VirtHandlerHeartbeatStale},
    attribute::{ACTOR, SIGNATURE, WHAT},
    said::actor,
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The kubelet's unit is not active on the node.
pub const KUBELET_DOWN: Cause = Cause {
    id: "KubeletDown",
    meaning: "The kubelet's unit is not active on the node.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStopping, SymptomId::StuckStarting, SymptomId::StuckTerminating, SymptomId::Unspecified],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StuckMigrating,
        SymptomId::ExcessiveMigrations,
        SymptomId::StoppedUnexpectedly,
        SymptomId::InError,
    ],
    rare: &[SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "unit",
            strength: Strength::Proof,
            look: Look::Present(KubeletInactive, &[]),
            text: "systemd says that the kubelet's unit does not run",
        },
        Clue {
            group: "unit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KubeletInactive),
            text: "the kubelet's unit is active",
        },
        Clue {
            group: "unit",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KubeletRestartLoop, &[]),
            text: "systemd starts it again and again",
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
            group: "node",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
                Look::Absent(VirtHandlerHeartbeatStale),
            ]),
            text: "the kubelet tells nothing any more while virt-handler of the same node does",
        },
        Clue {
            group: "node",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
                Look::Vm(VmFact::QemuLives),
            ]),
            text: "the kubelet tells nothing any more while the VM's QEMU lives on the node",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
            text: "the node's kubelet tells nothing any more",
        },
        Clue {
            group: "unit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(NodeNotReady),
            text: "Kubernetes hears from the kubelet",
        },
        Clue {
            group: "handler",
            strength: Strength::Against,
            look: Look::Present(VirtHandlerHeartbeatStale, &[]),
            text: "virt-handler is silent too: more than the kubelet is down",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::SYSTEMD, actor::KUBELET]),
                Fact::OneOf(SIGNATURE, &["kubelet-exited", "kubelet-config-invalid"]),
            ]),
            text: "the kubelet ended with an error",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["kubelet-silent"])]),
            text: "Kubernetes hears nothing from the kubelet any more",
        },
        Clue {
            group: "node",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["kubelet-silent"])]),
                Look::Absent(VirtHandlerHeartbeatStale),
            ]),
            text: "the kubelet tells nothing any more while virt-handler of the same node does",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[Step::Any("systemctl start {unit}"), Step::Any("journalctl -u {unit} -b -n 200 --no-pager")],
        check: &[
            Step::Any(
                "systemctl status {unit}: did somebody stop it, or did it fail? `Result` and the last journal \
                 lines say which",
            ),
            Step::KubeVirt("kubectl get node {node} -o wide: NotReady about 45 s after the kubelet stopped"),
        ],
        prevent: &[Step::Any(
            "alert on the unit's state; keep Restart=always in its unit file; drain the node before \
             maintenance",
        )],
    },
    runbook_item: "NotReady",
};
