//! `MigrationBandwidthStarved`: the migration copies far slower than its link could.
//!
//! Proof is a copy rate of some MiB/s while bytes do flow. A cap of KubeVirt's configuration or a policy, a link that
//! others fill, many migrations at once. What does not converge at such a rate does so because of it.

use kulprit_model::{
    FindingCode::{
        MigrationCapped, MigrationIncoming, MigrationNoBytes, MigrationNotCompleted, MigrationSlow,
        MigrationWaitsForSlot,
    },
    attribute::{
        LIMITED_BY, LIMITED_BY_CAP, LIMITED_BY_PATH, LIMITED_BY_SOURCE_CPU, LIMITED_BY_STORAGE, LIMITED_BY_TARGET, WHAT,
    },
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength},
    symptom::SymptomId,
};

/// The migration copies far slower than the link could: capped, or the link is shared with others.
pub const MIGRATION_BANDWIDTH_STARVED: Cause = Cause {
    id: "MigrationBandwidthStarved",
    meaning: "The migration copies far slower than the link could: capped, or the link is shared \
with others.",
    roles: &[Role::Source, Role::Target, Role::Path],
    scope: Scope::Path,
    class: Class::Migration,
    usual: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed],
    possible: &[SymptomId::EvacuationBlocked, SymptomId::ExcessiveMigrations],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "rate",
            strength: Strength::Strong,
            look: Look::Present(MigrationSlow, &[]),
            text: "the migration copies slowly, and steadily",
        },
        Clue {
            group: "rate",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationSlow),
            text: "the migration copies fast",
        },
        Clue {
            group: "rate",
            strength: Strength::Strong,
            look: Look::Happened(MigrationNotCompleted, &[Fact::OneOf(WHAT, &["slow"])]),
            text: "the migration ended and had copied slowly until then",
        },
        Clue {
            group: "cap",
            strength: Strength::Some,
            look: Look::Present(MigrationSlow, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_CAP])]),
            text: "the migration copies as fast as the limit allows that was set for it",
        },
        Clue {
            group: "cap",
            strength: Strength::Hint,
            look: Look::Present(MigrationSlow, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_PATH])]),
            text: "what was sent waits for the path",
        },
        Clue {
            group: "cap",
            strength: Strength::Against,
            look: Look::Present(MigrationSlow, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_SOURCE_CPU])]),
            text: "the migration waits for a CPU of the source, not for the path",
        },
        Clue {
            group: "cap",
            strength: Strength::Against,
            look: Look::Present(MigrationIncoming, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_TARGET])]),
            text: "the migration waits for a CPU of the target, not for the path",
        },
        Clue {
            group: "cap",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationSlow, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_STORAGE])]),
            text: "the migration waits for the disks that it copies, and the path takes what there is to send",
        },
        Clue {
            group: "cap",
            strength: Strength::Some,
            look: Look::Present(MigrationCapped, &[]),
            text: "KubeVirt's configuration or a policy caps the bandwidth",
        },
        Clue {
            group: "bytes",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "nothing at all was copied: that is the path, not its width",
        },
        Clue {
            group: "many",
            strength: Strength::Hint,
            look: Look::Present(MigrationWaitsForSlot, &[]),
            text: "as many migrations run as are allowed",
        },
    ],
    explains: &["MigrationNotConverging", "MigrationTimeoutTooShort"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get kubevirt -A -o jsonpath='{.items[*].spec.configuration.migrations}'; \
kubectl get migrationpolicy -o yaml | grep -i -B 8 bandwidth",
            ),
            Step::KubeVirt(
                "kubectl patch kubevirt -n kubevirt kubevirt --type merge -p \
'{\"spec\":{\"configuration\":{\"migrations\":{\"bandwidthPerMigration\":\"0\",\"parallelOutboundMigrationsPerNode\":1}}}}'   \
# 0: no cap; fewer at a time",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl logs -n {namespace} SOURCE_POD -c compute | grep 'Migration info' | tail -n \
20   # MemoryBandwidth",
            ),
            Step::Any("sar -n DEV 1 5; ethtool LINK | grep Speed   # on {node}: who fills the link"),
            Step::Any("iperf3 between the two nodes on the migration network"),
        ],
        prevent: &[Step::Any(
            "a network of its own for migrations (spec.configuration.migrations.network); caps \
that fit the link",
        )],
    },
    runbook_item: "migration failures",
};
