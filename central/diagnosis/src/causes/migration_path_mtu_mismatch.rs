//! `MigrationPathMtuMismatch`: small packets pass between source and target, large ones do not: the
//! MTU differs, or a tunnel takes room that nobody counted. The migration connects and then stands
//! still.

use kulprit_model::FindingCode::{MigrationDirtying, MigrationNoBytes, MigrationProgressing, MtuMismatch};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Look, Role, Scope, Step, Strength},
    symptom::SymptomId,
};

/// Small packets pass between source and target, large ones do not: the MTU does not fit.
pub const MIGRATION_PATH_MTU_MISMATCH: Cause = Cause {
    id: "MigrationPathMtuMismatch",
    meaning: "Small packets pass between source and target, large ones do not: the MTU does not fit.",
    roles: &[Role::Path],
    scope: Scope::Path,
    class: Class::Network,
    usual: &[SymptomId::StuckMigrating],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::ExcessiveMigrations,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "mtu",
            strength: Strength::Proof,
            look: Look::Present(MtuMismatch, &[]),
            text: "the MTU differs between the ends, or large packets are lost",
        },
        Clue {
            group: "mtu",
            strength: Strength::Proof,
            look: Look::All(&[Look::Present(MtuMismatch, &[]), Look::Present(MigrationNoBytes, &[])]),
            text: "the MTU does not fit, and the migration copies nothing",
        },
        Clue {
            group: "bytes",
            strength: Strength::Hint,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "the migration runs and has copied nothing",
        },
        Clue {
            group: "mtu",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MtuMismatch),
            text: "large packets pass as small ones do",
        },
        Clue {
            group: "progress",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationProgressing, &[]),
            text: "the migration gets nearer to its end",
        },
        Clue {
            group: "progress",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationDirtying, &[]),
            text: "the migration copies, the guest dirties its memory as fast",
        },
    ],
    explains: &["MigrationPathUnreachable"],
    advice: Advice {
        now: &[
            Step::Any(
                "ping -c 3 -M do -s 1472 TARGET; ping -c 3 -M do -s 8972 TARGET   # from the source, \
                 over the migration network",
            ),
            Step::Any("ip -br link show; ip route get TARGET   # MTU of each end and of the CNI's tunnel"),
        ],
        check: &[Step::KubeVirt("kubectl get network-attachment-definitions -A -o yaml | grep -i mtu")],
        prevent: &[Step::Any(
            "one MTU for every port of the migration network, switches included; the CNI's MTU below \
                 the link's by its tunnel header",
        )],
    },
    runbook_item: "network connectivity",
};
