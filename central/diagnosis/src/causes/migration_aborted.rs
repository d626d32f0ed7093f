//! `MigrationAborted`: a user or a controller cancelled the migration on purpose.
//!
//! Proof is the abort request, or the migration object that somebody deleted; where libvirt alone runs the VM, libvirt's
//! own word. An abort by KubeVirt's own time limit is not meant: that has a cause of its own.

use kulprit_model::{
    FindingCode::{MigrationAbortRequested, MigrationNotCompleted, MigrationTimedOut},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The migration was cancelled on purpose.
pub const MIGRATION_ABORTED: Cause = Cause {
    id: "MigrationAborted",
    meaning: "The migration was cancelled on purpose.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::MigrationFailed],
    possible: &[SymptomId::StuckMigrating, SymptomId::EvacuationBlocked, SymptomId::ExcessiveMigrations],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "request",
            strength: Strength::Strong,
            look: Look::Present(MigrationAbortRequested, &[]),
            text: "the migration's abort was asked for, or its object deleted",
        },
        Clue {
            group: "request",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationAbortRequested),
            text: "nobody asked to abort the migration",
        },
        // Where no KubeVirt has time limits of its own, only a person or a tool of his cancels.
        Clue {
            group: "request",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["migration-cancelled"])]),
                Look::Happened(MigrationNotCompleted, &[Fact::Own]),
                Look::Vm(VmFact::Standalone),
            ]),
            text: "a client of libvirt cancelled the migration",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(OPERATION, &[operation::MIGRATE]), Fact::OneOf(CLASS, &[class::CANCELLED])]),
            text: "the migration was cancelled",
        },
        // libvirt says of its own job that a client cancelled it, when it is libvirt that gives it up.
        Clue {
            group: "text",
            strength: Strength::StronglyAgainst,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE]),
                Fact::OneOf(
                    CLASS,
                    &[class::NO_SPACE, class::IO_ERROR, class::DENIED, class::NOT_FOUND, class::TIMEOUT],
                ),
            ]),
            text: "something failed, and the migration was given up for it",
        },
        Clue {
            group: "limit",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationTimedOut, &[]),
            text: "KubeVirt itself ended it because of a time limit",
        },
        Clue {
            group: "limit",
            strength: Strength::Against,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &["migration-completion-timeout", "migration-no-progress", "migration-downtime-too-long"],
            )]),
            text: "KubeVirt itself ended it because of a time limit",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[Step::KubeVirt("virtctl migrate -n {namespace} {vm}   # if it is still wanted")],
        check: &[Step::KubeVirt(
            "kubectl get vmim -n {namespace} -o yaml | grep -iE \
\"abort|deletionTimestamp|managedFields\" -A 2; who deleted it stands in the audit \
log of the API server",
        )],
        prevent: &[Step::Any("tell apart in tooling: cancelling a migration and a failed migration")],
    },
    runbook_item: "cancelling",
};
