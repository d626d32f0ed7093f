//! `MigrationsRequested`: users, a descheduler, workload updates or pipelines ask for the migrations.
//!
//! Told by who made them. Many that succeed are no fault of a node; those that drains and evictions ask for are the
//! node's matter, and many that fail are made again after each failure.

use kulprit_model::{
    FindingCode::{KubeletRestartLoop, MigrationsMany, NodePressureReported},
    attribute::{INITIATOR, WHAT},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength},
    symptom::SymptomId,
};

/// Whoever asks for migrations, but for drains and evictions.
const ON_PURPOSE: &[&str] = &["user", "descheduler", "workload-update", "hot-plug"];

/// The many migrations were asked for: by users, a descheduler, workload updates or a pipeline.
pub const MIGRATIONS_REQUESTED: Cause = Cause {
    id: "MigrationsRequested",
    meaning: "The many migrations were asked for: by users, a descheduler, workload updates or a \
pipeline.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::ExcessiveMigrations],
    possible: &[SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StuckMigrating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "who",
            strength: Strength::Proof,
            look: Look::Present(
                MigrationsMany,
                &[Fact::OneOf(INITIATOR, ON_PURPOSE), Fact::OneOf(WHAT, &["succeeded"])],
            ),
            text: "the VM was migrated many times because somebody asked for it, and it went well",
        },
        Clue {
            group: "who",
            strength: Strength::Strong,
            look: Look::Present(MigrationsMany, &[Fact::OneOf(INITIATOR, ON_PURPOSE)]),
            text: "the VM was migrated many times because somebody asked for it",
        },
        Clue {
            group: "who",
            strength: Strength::Some,
            look: Look::Present(MigrationsMany, &[Fact::Missing(INITIATOR)]),
            text: "the VM was migrated many times",
        },
        Clue {
            group: "who",
            strength: Strength::Hint,
            look: Look::Present(MigrationsMany, &[]),
            text: "the VM was migrated many times",
        },
        Clue {
            group: "who",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationsMany),
            text: "the VM was not migrated many times",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Present(KubeletRestartLoop, &[]),
            text: "the kubelet of its node restarts again and again",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Present(NodePressureReported, &[]),
            text: "its node is under pressure",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get vmim -n {namespace} -o json | jq -r '.items[] | \
[.metadata.creationTimestamp,.metadata.name,(.metadata.annotations // {} | keys | \
join(\",\")),.metadata.managedFields[0].manager] | @tsv'   # who makes them",
            ),
            Step::KubeVirt(
                "stop whoever asks: the pipeline, the descheduler policy (LowNodeUtilization \
thresholds), a workload update that is repeated",
            ),
        ],
        check: &[Step::KubeVirt(
            "kubectl get kubedescheduler -A -o yaml; kubectl get kubevirt -A -o \
jsonpath='{.items[*].spec.workloadUpdateStrategy}'",
        )],
        prevent: &[Step::Any(
            "descheduler profiles made for VMs, with an eviction limit; a pause between \
migrations of one VM",
        )],
    },
    runbook_item: "excessive",
};
