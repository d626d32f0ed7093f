//! `QuotaExceeded`: a ResourceQuota, LimitRange, PodSecurity or another policy rejects the pod.
//!
//! The API server says so when the pod, the claim or a component's pod is to be created, so there is no pod at all. For
//! a migration the target pod counts as well: the quota must hold the VM twice.

use kulprit_model::{
    FindingCode::{PodImageWaiting, PodUnschedulable},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A ResourceQuota, LimitRange, PodSecurity or admission policy rejects what the VM needs.
pub const QUOTA_EXCEEDED: Cause = Cause {
    id: "QuotaExceeded",
    meaning: "A ResourceQuota, LimitRange, PodSecurity or admission policy rejects what the VM \
needs.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::InError, SymptomId::StuckMigrating, SymptomId::StuckStarting],
    possible: &[SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::StuckStopping, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::NoneOf(ACTOR, &[actor::KUBELET]), Fact::OneOf(CLASS, &[class::QUOTA])]),
            text: "a quota or policy of Kubernetes rejects it",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CREATE_POD]),
                Fact::OneOf(CLASS, &[class::DENIED, class::UNAUTHORIZED, class::NOT_PERMITTED, class::LIMIT]),
            ]),
            text: "the API server forbids the pod",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["webhook-denied"])]),
            text: "an admission webhook refuses the object",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::API_SERVER]),
                Fact::OneOf(OPERATION, &[operation::CREATE_POD, operation::CALL_API]),
                Fact::OneOf(CLASS, &[class::DENIED]),
            ]),
            text: "the API server forbids something",
        },
        // First of its group: the VM's own pod is there, and finds no node where KubeVirt's component is missing.
        Clue {
            group: "pod",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(WHAT, &["virt-handler"]),
                Fact::OneOf(CLASS, &[class::QUOTA, class::DENIED, class::UNAUTHORIZED, class::NOT_PERMITTED]),
            ]),
            text: "a policy rejects the pods of virt-handler, without which no node takes VMs",
        },
        Clue {
            group: "pod",
            strength: Strength::StronglyAgainst,
            look: Look::Present(PodUnschedulable, &[]),
            text: "the pod was created, and only has no node",
        },
        Clue {
            group: "pod",
            strength: Strength::Against,
            look: Look::Present(PodImageWaiting, &[]),
            text: "the pod was created",
        },
    ],
    explains: &["VirtHandlerDown", "DataImportFailed", "VolumeNotFound", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl describe resourcequota,limitrange -n {namespace}; kubectl get ns {namespace} \
--show-labels   # pod-security.kubernetes.io/enforce",
            ),
            Step::KubeVirt(
                "kubectl get events -n {namespace} --field-selector reason=FailedCreate \
--sort-by=.lastTimestamp | tail -n 5",
            ),
            Step::KubeVirt(
                "kubectl edit resourcequota -n {namespace} QUOTA   # twice the VM, plus its overhead, \
where it is to migrate",
            ),
        ],
        check: &[Step::KubeVirt(
            "kubectl get validatingwebhookconfigurations,validatingadmissionpolicies   # other \
policies",
        )],
        prevent: &[Step::Any(
            "quotas that count with the overhead of the launcher and with one migration; alert at \
90 %",
        )],
    },
    runbook_item: "configuration",
};
