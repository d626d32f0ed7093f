//! `MigrationLimitReached`: the migration waits for its turn: as many run as the configuration allows.
//!
//! KubeVirt counts them per cluster and per source node. It is not stuck: the ones before it are what to look at. The
//! same goes for a migration that KubeVirt holds back for a backup or a utility volume.

use kulprit_model::{
    FindingCode::{MigrationTargetFailed, MigrationTargetPending, MigrationWaitsForSlot, MigrationWaitsForSync},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The migration waits for its turn: KubeVirt's limits of parallel migrations are reached.
pub const MIGRATION_LIMIT_REACHED: Cause = Cause {
    id: "MigrationLimitReached",
    meaning: "The migration waits for its turn: KubeVirt's limits of parallel migrations are \
reached.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::StuckMigrating, SymptomId::EvacuationBlocked],
    possible: &[SymptomId::ExcessiveMigrations, SymptomId::MigrationFailed],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "limit",
            strength: Strength::Strong,
            look: Look::Present(MigrationWaitsForSlot, &[]),
            text: "as many migrations run as the configuration allows",
        },
        Clue {
            group: "limit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationWaitsForSlot),
            text: "there is a free slot for a migration",
        },
        Clue {
            group: "wait",
            strength: Strength::Strong,
            look: Look::Present(MigrationWaitsForSync, &[]),
            text: "KubeVirt holds the migration back: a backup, a utility volume or another cluster",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE]),
                Fact::OneOf(CLASS, &[class::LIMIT, class::RATE_LIMITED]),
            ]),
            text: "migrations are held back",
        },
        Clue {
            group: "target",
            strength: Strength::Against,
            look: Look::Present(MigrationTargetPending, &[]),
            text: "its target pod exists already: it has its slot",
        },
        Clue {
            group: "target",
            strength: Strength::Against,
            look: Look::Present(MigrationTargetFailed, &[]),
            text: "its target pod failed: it had its slot",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get vmim -A --sort-by=.metadata.creationTimestamp | grep -vE \
'Succeeded|Failed'   # who has the slots: is one of these stuck?",
            ),
            Step::KubeVirt(
                "kubectl get kubevirt -A -o jsonpath='{.items[*].spec.configuration.migrations}'   # \
parallelMigrationsPerCluster, parallelOutboundMigrationsPerNode",
            ),
        ],
        check: &[Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.migrationState}' | jq .")],
        prevent: &[Step::Any("limits that fit the network; drain one node at a time")],
    },
    runbook_item: "MigrationConfiguration",
};
