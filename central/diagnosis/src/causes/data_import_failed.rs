//! `DataImportFailed`: the import, clone or upload that fills the VM's disk fails.
//!
//! Told by the DataVolume's phase and by the importer. A quota that forbids the importer is QuotaExceeded. As long as
//! it makes progress it is only slow.

use kulprit_model::{
    FindingCode::{DataVolumeFailing, DataVolumeProgressing},
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// CDI does not get the VM's disk filled: import, clone or upload fails.
pub const DATA_IMPORT_FAILED: Cause = Cause {
    id: "DataImportFailed",
    meaning: "CDI does not get the VM's disk filled: import, clone or upload fails.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[],
    rare: &[SymptomId::StuckMigrating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "object",
            strength: Strength::Strong,
            look: Look::Present(DataVolumeFailing, &[]),
            text: "a DataVolume of the VM does not get filled",
        },
        Clue {
            group: "object",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(DataVolumeFailing),
            text: "no DataVolume of the VM fails",
        },
        Clue {
            group: "object",
            strength: Strength::Against,
            look: Look::Present(DataVolumeProgressing, &[]),
            text: "the DataVolume is being filled",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::NoneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME, actor::SCHEDULER]),
                Fact::OneOf(OPERATION, &[operation::IMPORT]),
                Fact::Not(CLASS, &[class::QUOTA]),
            ]),
            text: "importing, cloning or uploading the disk fails",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CDI]),
                Fact::NoneOf(OPERATION, &[operation::PROVISION]),
                Fact::Not(CLASS, &[class::QUOTA]),
            ]),
            text: "CDI reports an error",
        },
        Clue {
            group: "text",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::IMPORT, operation::PROVISION, operation::CREATE_POD]),
                Fact::OneOf(CLASS, &[class::QUOTA]),
            ]),
            text: "a quota forbids it",
        },
    ],
    explains: &["VolumeNotFound"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl describe dv -n {namespace} DATAVOLUME; kubectl logs -n {namespace} -l \
cdi.kubevirt.io=importer --tail=50",
            ),
            Step::KubeVirt(
                "curl -sSI URL_OF_THE_SOURCE   # from a pod of the cluster: there, right certificate, \
right checksum?",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n {namespace} -l cdi.kubevirt.io=importer   # starts the import \
again",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get storageprofile -o yaml; kubectl get pvc -n {namespace}   # size with \
file system overhead, access modes, scratch space",
            ),
            Step::KubeVirt("kubectl logs -n cdi deploy/cdi-deployment --tail=100"),
        ],
        prevent: &[Step::Any("golden images in the cluster (DataImportCron), clones instead of downloads")],
    },
    runbook_item: "DataVolumeError",
};
