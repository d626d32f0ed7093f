//! `VolumeAttachTimeout`: a volume is not attached to the node in time, or with an error.
//!
//! Proof is the VolumeAttachment that stays unattached, with the attacher's own error. A volume that another node still
//! holds is VolumeHeldElsewhere and explains it; a driver that is not there is StorageDriverDown.

use kulprit_model::{
    FindingCode::{PodUnschedulable, VolumeNotAttached},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A volume of the VM does not get attached to its node.
pub const VOLUME_ATTACH_TIMEOUT: Cause = Cause {
    id: "VolumeAttachTimeout",
    meaning: "A volume of the VM does not get attached to its node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Vm,
    class: Class::Storage,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckMigrating],
    possible: &[SymptomId::InError, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(VolumeNotAttached, &[]),
            text: "a volume of the VM is not attached to its node",
        },
        Clue {
            group: "state",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(VolumeNotAttached),
            text: "the volumes of the VM are attached",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::ATTACHER, actor::CSI]),
                Fact::OneOf(OPERATION, &[operation::ATTACH]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "attaching a volume takes too long",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ATTACH]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::TIMEOUT,
                        class::OTHER,
                        class::UNAVAILABLE,
                        class::INVALID,
                        class::LIMIT,
                        class::NOT_FOUND,
                        class::UNREACHABLE,
                        class::REFUSED,
                        class::RESET,
                        class::IO_ERROR,
                        class::CRASHED,
                        class::UNAUTHORIZED,
                        class::DENIED,
                        class::RATE_LIMITED,
                        class::EXISTS,
                        class::NO_SPACE,
                        class::STUCK,
                    ],
                ),
                Fact::Not(SIGNATURE, &["volume-not-attached-yet", "driver-not-on-node"]),
            ]),
            text: "attaching a volume fails",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(OPERATION, &[operation::ATTACH])]),
            text: "a volume is not attached",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "volumes of the pod were not there in time",
        },
        Clue {
            group: "node",
            strength: Strength::StronglyAgainst,
            look: Look::Present(PodUnschedulable, &[]),
            text: "the pod has no node yet, so nothing is attached for it",
        },
    ],
    explains: &["VolumeMountFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt("kubectl get volumeattachment -o wide | grep {node}"),
            Step::KubeVirt(
                "kubectl get volumeattachment -o json | jq '.items[] | \
select(.status.attached==false) | \
{name:.metadata.name,node:.spec.nodeName,error:.status.attachError}'",
            ),
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} -l vm.kubevirt.io/name={vm} | sed -n \
'/^Events/,$p'",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl logs -n STORAGE_NAMESPACE deploy/CSI_CONTROLLER -c csi-attacher --tail=100   \
# the attacher and the controller of the driver",
            ),
            Step::KubeVirt(
                "kubectl get csinode {node} -o yaml   # is the driver registered, is its volume limit \
reached?",
            ),
        ],
        prevent: &[Step::Any(
            "alert on VolumeAttachments that stay unattached for minutes; keep under the volume \
limit of a node",
        )],
    },
    runbook_item: "volume attachment timeouts",
};
