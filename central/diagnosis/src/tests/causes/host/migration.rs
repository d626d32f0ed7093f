//! Migration as such: what must name each cause, and what looks alike and must not.

use kulprit_model::{Attributes, FindingCode::*, State, Status, Subject};

use super::{
    Seen::{Is, IsNot, Known, Text},
    SymptomId::*,
    check_rows,
};
use crate::testing::*;

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
            "MigrationBandwidthStarved",
            StuckMigrating,
            &[Is(MigrationSlow, &[("limited_by", "path")])],
            &[Is(MigrationSlow, &[("limited_by", "storage")]), Is(NodeIoStalled, &[])],
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

/// The first cause of a migration from `n1` to `n2` that is slow, and the side it is on: what the source says of its copy, what the
/// target says of what arrives, and the node whose CPUs are wanted.
fn slow(source: &str, target: Option<&str>, busy: &str) -> (&'static str, &'static str) {
    let limited = |code, by: Option<&str>| State {
        attributes: Attributes::new().with_some("limited_by", by),
        ..mk_state(code, Subject::vm(UID), Status::Present, 200)
    };
    let world = World::well().in_kubernetes().migrating("Running", 300);
    let world = world.set_on("n1", limited(MigrationSlow, Some(source)));
    let world = world.set_on("n2", limited(MigrationIncoming, target));
    let world = world.set_on(busy, mk_state(NodeCpuStalled, Subject::Node, Status::Present, 200));
    let answer = world.why_symptom(StuckMigrating, 300);
    (answer.causes[0].id, answer.causes[0].role)
}

#[test]
fn a_slow_copy_is_blamed_on_the_end_that_it_waits_for() {
    assert_eq!(slow("path", Some("target"), "n2"), ("NodeCpuExhausted", "target"));
    assert_eq!(slow("source_cpu", None, "n1"), ("NodeCpuExhausted", "source"));
    // The other end has no CPU to spare, and the copy does not wait for it.
    for (source, target, busy) in [("path", None, "n2"), ("cap", None, "n1"), ("path", Some("target"), "n1")] {
        assert_ne!(slow(source, target, busy).0, "NodeCpuExhausted", "{source} {target:?} {busy}");
    }
    assert_ne!(slow("source_cpu", None, "n2"), ("NodeCpuExhausted", "target"));
}

#[test]
fn a_daemon_that_takes_no_connection_is_told_by_its_port() {
    let score = |server: &'static str| {
        let facts: &'static [(&str, &str)] = Box::leak(Box::new([("server", server)]));
        let answer = super::answer(StuckMigrating, &[Is(ListenQueueFull, facts), Text("libvirt", "monitor", "stuck")]);
        answer.causes.iter().find(|cause| cause.id == "LibvirtDaemonHung").map_or(0.0, |cause| cause.score_db)
    };
    assert!(score("[::]:16514") > score("0.0.0.0:8080"), "{} {}", score("[::]:16514"), score("0.0.0.0:8080"));
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
