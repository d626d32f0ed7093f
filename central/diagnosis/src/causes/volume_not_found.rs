//! `VolumeNotFound`: a claim or DataVolume of the VM does not exist, or is not bound for a reason outside the node.
//!
//! Proof is the object that is not there. A claim that waits for its first consumer is bound once the pod has a node; a
//! claim that an import still fills is DataImportFailed's.

use kulprit_model::{
    FindingCode::{DataVolumeProgressing, VolumeClaimMissing, VolumeClaimUnbound},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, VOLUME},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A claim or DataVolume of the VM does not exist or does not get bound.
pub const VOLUME_NOT_FOUND: Cause = Cause {
    id: "VolumeNotFound",
    meaning: "A claim or DataVolume of the VM does not exist or does not get bound.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "object",
            strength: Strength::Proof,
            look: Look::Present(VolumeClaimMissing, &[]),
            text: "a claim or DataVolume of the VM does not exist",
        },
        Clue {
            group: "object",
            strength: Strength::Good,
            look: Look::Present(VolumeClaimUnbound, &[]),
            text: "a claim of the VM is not bound",
        },
        Clue {
            group: "object",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[Look::Absent(VolumeClaimMissing), Look::Absent(VolumeClaimUnbound)]),
            text: "every claim of the VM exists and is bound",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["volume-claim-missing", "import-pvc-spec-incomplete"])]),
            text: "the claim does not exist, or cannot be made as it is asked for",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PROVISION]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::NOT_FOUND,
                        class::INVALID,
                        class::NO_SPACE,
                        class::INSUFFICIENT,
                        class::OTHER,
                        class::TIMEOUT,
                        class::UNAUTHORIZED,
                        class::DENIED,
                        class::UNAVAILABLE,
                        class::LIMIT,
                        class::UNSUPPORTED,
                        class::REFUSED,
                        class::UNREACHABLE,
                    ],
                ),
                Fact::Not(SIGNATURE, &["replica-no-space", "replica-not-scheduled"]),
            ]),
            text: "a volume cannot be made or bound",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SCHEDULE, operation::CREATE_POD, operation::SYNC_VMI]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND]),
                Fact::NoneOf(VOLUME, &[]),
            ]),
            text: "the pod names a claim that does not exist",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI, actor::ATTACHER]),
                Fact::OneOf(OPERATION, &[operation::ATTACH, operation::MAP, operation::MOUNT]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND]),
            ]),
            text: "the storage system does not know the volume",
        },
        Clue {
            group: "import",
            strength: Strength::Against,
            look: Look::Present(DataVolumeProgressing, &[]),
            text: "the volume is being filled",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pvc,dv,pv -n {namespace}; kubectl get vm -n {namespace} {vm} -o \
jsonpath='{.spec.template.spec.volumes}'",
            ),
            Step::KubeVirt("kubectl describe pvc -n {namespace} CLAIM | sed -n '/^Events/,$p'"),
            Step::KubeVirt("create the claim, or correct its name in the VM: kubectl edit vm -n {namespace} {vm}"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get storageclass; kubectl get csistoragecapacity -A   # class, default \
class, room in the pool",
            ),
            Step::KubeVirt(
                "kubectl logs -n STORAGE_NAMESPACE deploy/CSI_CONTROLLER -c csi-provisioner \
--tail=100",
            ),
        ],
        prevent: &[Step::Any(
            "dataVolumeTemplates in the VM, so that volume and VM live together; alert on unbound \
claims",
        )],
    },
    runbook_item: "missing PVC",
};
