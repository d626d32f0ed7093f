//! `MigrationTargetPodFailed`: the target pod of the migration did not get ready, or died.
//!
//! It is a step, rarely a root: whatever keeps a pod from starting on the target explains it and is named instead, as
//! soon as it has evidence of its own. It stands alone where the target is not seen.

use kulprit_model::{
    FindingCode::{MigrationDirtying, MigrationProgressing, MigrationTargetFailed, MigrationTargetPending},
    attribute::{ACTOR, CLASS, OPERATION, SIDE, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The migration's target pod did not get ready, failed or was deleted.
pub const MIGRATION_TARGET_POD_FAILED: Cause = Cause {
    id: "MigrationTargetPodFailed",
    meaning: "The migration's target pod did not get ready, failed or was deleted.",
    roles: &[Role::Target],
    scope: Scope::Vm,
    class: Class::Migration,
    usual: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed],
    possible: &[SymptomId::EvacuationBlocked, SymptomId::ExcessiveMigrations],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(MigrationTargetFailed, &[]),
            text: "the target pod failed, ended or was deleted",
        },
        Clue {
            group: "state",
            strength: Strength::Good,
            look: Look::Present(MigrationTargetPending, &[]),
            text: "the target pod is not ready",
        },
        Clue {
            group: "state",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[Look::Absent(MigrationTargetFailed), Look::Absent(MigrationTargetPending)]),
            text: "the target pod is ready",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-target-pod-gone", "migration-target-pod-timeout"])]),
            text: "virt-controller gave the target pod up",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CONTROLLER]),
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE, operation::CREATE_POD]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::UNAVAILABLE,
                        class::KILLED,
                        class::NOT_FOUND,
                        class::TIMEOUT,
                        class::CRASHED,
                        class::STUCK,
                    ],
                ),
            ]),
            text: "virt-controller gave the target pod up",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE_PREPARE]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::CRASHED,
                        class::KILLED,
                        class::UNAVAILABLE,
                        class::NOT_FOUND,
                        class::STUCK,
                        class::OTHER,
                        class::TIMEOUT,
                    ],
                ),
            ]),
            text: "preparing the migration's target failed",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(OPERATION, &[operation::MIGRATE_PREPARE])]),
            text: "preparing the migration's target failed",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE]),
                Fact::OneOf(CLASS, &[class::CRASHED, class::KILLED]),
                Fact::OneOf(SIDE, &["target"]),
            ]),
            text: "the target end of the migration died",
        },
        Clue {
            group: "bytes",
            strength: Strength::Against,
            look: Look::Present(MigrationProgressing, &[]),
            text: "the migration copies",
        },
        Clue {
            group: "dirty",
            strength: Strength::Against,
            look: Look::Present(MigrationDirtying, &[]),
            text: "the migration copies",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l kubevirt.io/migrationJobUID -o wide   # the newest \
is the target",
            ),
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} TARGET_POD | sed -n '/^Events/,$p'; kubectl logs \
-n {namespace} TARGET_POD -c compute --tail=100",
            ),
        ],
        check: &[
            Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.migrationState}' | jq ."),
            Step::KubeVirt("kulprit node {node}   # the same question about the target node"),
        ],
        prevent: &[Step::Any(
            "nodes alike: images, storage drivers, networks, devices; leave room on other nodes \
for every VM that is to move",
        )],
    },
    runbook_item: "migration failures",
};
