//! `MigrationTimeoutTooShort`: a healthy migration that was making progress was cut by KubeVirt's time limit.
//!
//! Two looks together: the limit ended it, and what remained was falling. Without progress the limit was right, and the
//! dirtying guest or the path is the cause.

use kulprit_model::{
    FindingCode::{MigrationDirtying, MigrationNoBytes, MigrationProgressing, MigrationTimedOut},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A migration that was making progress was ended by completionTimeoutPerGiB or progressTimeout.
pub const MIGRATION_TIMEOUT_TOO_SHORT: Cause = Cause {
    id: "MigrationTimeoutTooShort",
    meaning: "A migration that was making progress was ended by completionTimeoutPerGiB or \
progressTimeout.",
    roles: &[Role::Source],
    scope: Scope::Cluster,
    class: Class::Migration,
    usual: &[SymptomId::MigrationFailed, SymptomId::ExcessiveMigrations],
    possible: &[SymptomId::EvacuationBlocked, SymptomId::StuckMigrating],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "limit",
            strength: Strength::Strong,
            look: Look::All(&[Look::Present(MigrationTimedOut, &[]), Look::Present(MigrationProgressing, &[])]),
            text: "a time limit ended the migration, and it was getting nearer to its end",
        },
        Clue {
            group: "limit",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(OPERATION, &[operation::MIGRATE]),
                    Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK, class::CANCELLED]),
                ]),
                Look::Present(MigrationProgressing, &[]),
            ]),
            text: "the migration was cut by its time limit while it was getting nearer to its end",
        },
        Clue {
            group: "limit",
            strength: Strength::Hint,
            look: Look::Present(MigrationTimedOut, &[]),
            text: "a time limit of the configuration ended the migration",
        },
        Clue {
            group: "limit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationTimedOut),
            text: "no time limit ended the migration",
        },
        Clue {
            group: "bytes",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "nothing was copied: no limit would have been long enough",
        },
        Clue {
            group: "dirty",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationDirtying, &[]),
            text: "it did not converge: no limit would have been long enough",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl patch kubevirt -n kubevirt kubevirt --type merge -p \
'{\"spec\":{\"configuration\":{\"migrations\":{\"completionTimeoutPerGiB\":800}}}}'   \
# seconds per GiB; or in a MigrationPolicy for such VMs",
            ),
            Step::KubeVirt("virtctl migrate -n {namespace} {vm}"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl logs -n {namespace} SOURCE_POD -c compute | grep 'Migration info' | tail -n \
20   # DataRemaining falls; how long would the rest have taken?",
            ),
            Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.migrationState}' | jq ."),
        ],
        prevent: &[Step::Any(
            "a limit from what the link really copies: GiB of the largest VM ÷ measured rate, \
doubled",
        )],
    },
    runbook_item: "MigrationConfiguration",
};
