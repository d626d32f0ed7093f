//! Migration as such: what must name each cause, and what looks alike and must not.

use kulprit_model::FindingCode::*;

use super::{
    Seen::{Is, IsNot, Known, Text},
    SymptomId::*,
    check_rows,
};

#[test]
fn copying() {
    check_rows(&[
        (
            "MigrationNotConverging",
            StuckMigrating,
            &[Is(MigrationDirtying, &[])],
            &[Is(MigrationNoBytes, &[]), IsNot(MigrationDirtying)],
        ),
        (
            "MigrationNotConverging",
            MigrationFailed,
            &[
                Known("launcher", "migrate", "timeout", "migration-completion-timeout"),
                Is(MigrationTimedOut, &[("what", "completion")]),
                Is(MigrationDirtying, &[]),
            ],
            &[
                Known("launcher", "migrate", "timeout", "migration-completion-timeout"),
                Is(MigrationTimedOut, &[("what", "completion")]),
                Is(MigrationProgressing, &[]),
            ],
        ),
        (
            "MigrationBandwidthStarved",
            StuckMigrating,
            &[Is(MigrationSlow, &[]), Is(MigrationCapped, &[])],
            &[IsNot(MigrationSlow), Is(MigrationCapped, &[])],
        ),
        (
            "MigrationBandwidthStarved",
            MigrationFailed,
            &[Is(MigrationSlow, &[])],
            &[Is(MigrationSlow, &[]), Is(MigrationNoBytes, &[])],
        ),
        (
            "MigrationTimeoutTooShort",
            MigrationFailed,
            &[Is(MigrationTimedOut, &[("what", "completion")]), Is(MigrationProgressing, &[])],
            &[Is(MigrationTimedOut, &[("what", "completion")]), Is(MigrationDirtying, &[])],
        ),
        (
            "MigrationSettingMissing",
            MigrationFailed,
            &[Is(UserfaultfdForbidden, &[]), Text("qemu", "migrate", "unsupported")],
            &[Is(UserfaultfdForbidden, &[])],
        ),
    ]);
}

#[test]
fn targets_and_leftovers() {
    check_rows(&[
        (
            "MigrationTargetPodFailed",
            StuckMigrating,
            &[Is(MigrationTargetFailed, &[])],
            &[Is(MigrationTargetFailed, &[]), Text("runtime", "pull", "timeout")],
        ),
        (
            "MigrationTargetPodFailed",
            MigrationFailed,
            &[Known("controller", "migrate-prepare", "timeout", "migration-target-pod-timeout")],
            &[Known("launcher", "migrate-prepare", "reset", "migration-target-sync-failed")],
        ),
        ("MigrationLeftover", StuckTerminating, &[Is(TwoQemus, &[])], &[IsNot(TwoQemus), Is(LauncherTerminating, &[])]),
        (
            "MigrationLeftover",
            StuckMigrating,
            &[Known("controller", "migrate", "busy", "migration-other-running")],
            &[Known("launcher", "migrate", "exists", "migration-executed-already")],
        ),
    ]);
}
