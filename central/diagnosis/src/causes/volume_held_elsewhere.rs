//! `VolumeHeldElsewhere`: another node or a dead pod still holds the volume: Multi-Attach, a watcher, a primary.
//!
//! Proof is the VolumeAttachment of another node, or the text that says who has it. The node that reports is not the
//! one at fault: look at the holder. An image lock between two QEMUs is ImageLockHeld.

use kulprit_model::{
    FindingCode::{BlockDeviceHeld, VolumeAttachedElsewhere, VolumeDetachPending},
    attribute::{ACTOR, BACKEND, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Another node or a dead pod still holds a volume of the VM.
pub const VOLUME_HELD_ELSEWHERE: Cause = Cause {
    id: "VolumeHeldElsewhere",
    meaning: "Another node or a dead pod still holds a volume of the VM.",
    roles: &[Role::Hosting, Role::Target, Role::Shared],
    scope: Scope::Vm,
    class: Class::Storage,
    usual: &[SymptomId::StuckStarting],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::InError,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::StuckTerminating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(VolumeAttachedElsewhere, &[]),
            text: "a volume of the VM is still attached to another node",
        },
        Clue {
            group: "state",
            strength: Strength::Against,
            look: Look::Absent(VolumeAttachedElsewhere),
            text: "no other node has a volume of the VM attached",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::ATTACH, operation::MOUNT, operation::MAP, operation::READ_WRITE, operation::DETACH],
                ),
                Fact::OneOf(CLASS, &[class::HELD]),
            ]),
            text: "another node or pod holds the volume",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ATTACH, operation::MAP]),
                Fact::OneOf(CLASS, &[class::BUSY]),
                Fact::Not(
                    SIGNATURE,
                    &["ceph-operation-pending", "csi-operation-pending", "device-map-failed", "device-claimed"],
                ),
            ]),
            text: "the volume is in use somewhere else",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI]),
                Fact::OneOf(OPERATION, &[operation::MOUNT]),
                Fact::OneOf(CLASS, &[class::BUSY]),
                Fact::Not(SIGNATURE, &["device-claimed", "ceph-operation-pending", "csi-operation-pending"]),
                Fact::NoneOf(BACKEND, &[]),
            ]),
            text: "the backend says that the volume is in use",
        },
        Clue {
            group: "kernel",
            strength: Strength::Strong,
            look: Look::Happened(BlockDeviceHeld, &[Fact::Not(WHAT, &["watched"])]),
            text: "the kernel is refused the device, which another node or client holds",
        },
        Clue {
            group: "kernel",
            strength: Strength::Some,
            look: Look::Happened(BlockDeviceHeld, &[Fact::OneOf(WHAT, &["watched"])]),
            text: "somebody, it is not known on which node, has the volume's image open",
        },
        Clue {
            group: "detach",
            strength: Strength::Some,
            look: Look::Present(VolumeDetachPending, &[]),
            text: "detaching the volume from a node does not finish",
        },
    ],
    explains: &["VolumeAttachTimeout", "VolumeMountFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get volumeattachment -o wide   # which node holds the PersistentVolume of \
the claim",
            ),
            Step::KubeVirt(
                "kubectl get pod -A -o wide --field-selector spec.nodeName=HOLDER | grep -e \
virt-launcher -e hp-volume",
            ),
            Step::Any(
                "make certain that no QEMU lives on the holder (power it off if it does not answer), \
only then:",
            ),
            Step::KubeVirt(
                "kubectl delete volumeattachment NAME   # or: kubectl taint node HOLDER \
node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
            ),
        ],
        check: &[
            Step::Any(
                "rbd status POOL/IMAGE (watchers); iscsiadm -m session; drbdadm status   # on the \
holder: who has it open",
            ),
            Step::KubeVirt(
                "kubectl get volumeattachment -o json | jq -r '.items[].spec.nodeName' | sort -u   # \
nodes that do not exist any more?",
            ),
        ],
        prevent: &[Step::Any(
            "shut nodes down through drain; the out-of-service taint for nodes that are off; \
ReadWriteMany block volumes for VMs that migrate",
        )],
    },
    runbook_item: "volume attachment timeouts",
};
