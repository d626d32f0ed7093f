//! Migrations between two plain libvirt hosts: what the agents of both say, joined, and the side named.

use kulprit_model::{
    Attributes, FindingCode, Status, Subject,
    attribute::{RAN_SECS, SIDE, SIGNAL, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{Attribution, Place, SymptomId, VmView, libvirt, testing::*};

/// `db-0` on `n1` leaves for `n2`, where its QEMU waits for it, since so many seconds; nothing is known of its copy yet.
fn migrating(secs: i64) -> World {
    let mut world = two_nodes().vm_has(FindingCode::MigrationOutgoing, secs);
    world.snapshot.nodes[1].vms.push(arriving(secs));
    let unknown = mk_state(FindingCode::MigrationProgressing, Subject::vm(UID), Status::Unknown, secs);
    let arrives = mk_state(FindingCode::MigrationIncoming, Subject::vm(UID), Status::Present, secs);
    world.set(unknown).set_on("n2", arrives)
}

fn two_nodes() -> World {
    let mut world = World::well().with_second_node();
    world.snapshot.cluster_nodes.clear();
    world
}

fn arriving(secs: i64) -> VmView {
    let mut qemu = mk_qemu(UID, 99, "loop3", "7:3");
    qemu.since = ago(secs);
    VmView {
        uid: UID.to_owned(),
        name: "db-0".to_owned(),
        domain: Some(mk_domain(UID, libvirt::PAUSED, libvirt::PAUSED_MIGRATION, secs)),
        qemu: Some(qemu),
        ..VmView::default()
    }
}

/// It ended so many seconds ago, after half a minute; the target's QEMU is gone.
fn failed(world: World, secs: i64, what: &str) -> World {
    let mut world = world;
    let view = &mut world.snapshot.nodes[1].vms[0];
    view.last_qemu = view.qemu.take();
    view.domain = None;
    world.snapshot.nodes[1].states.retain(|state| state.subject.vm_uid().is_none());
    let attributes = Attributes::new().with(WHAT, what).with(RAN_SECS, 30);
    let absent = mk_state(FindingCode::MigrationOutgoing, Subject::vm(UID), Status::Absent, secs);
    world.set(absent).happened(FindingCode::MigrationNotCompleted, Subject::vm(UID), secs, attributes)
}

#[track_caller]
fn check(world: &World, want: Option<SymptomId>) {
    let found: Vec<_> = world.symptoms().into_iter().map(|symptom| (symptom.subject, symptom.id)).collect();
    assert_eq!(found, want.map(|id| (vm_subject(), id)).into_iter().collect::<Vec<_>>());
}

#[track_caller]
fn check_cause(why: &Attribution, id: &str, place: &Place) {
    let first = why.causes.first().expect("there is always an answer");
    assert_eq!((first.id, &first.place), (id, place), "{}", table(why));
    assert!(first.probability >= 0.6, "{}", table(why));
}

fn path() -> Place {
    Place::Path { from: "n1".to_owned(), to: "n2".to_owned() }
}

#[test]
fn a_migration_that_comes_on_shows_nothing_however_long_it_takes() {
    check(&migrating(3_000).vm_has(FindingCode::MigrationProgressing, 2_990), None);
}

#[test]
fn a_migration_that_gets_no_nearer_to_its_end_for_half_a_minute_is_stuck() {
    let stands = |secs| {
        let state = mk_state(FindingCode::MigrationProgressing, Subject::vm(UID), Status::Absent, secs);
        migrating(secs).set(state)
    };
    check(&stands(29), None);
    check(&stands(30), Some(SymptomId::StuckMigrating));
}

#[test]
fn a_migration_that_nobody_can_see_into_is_stuck_only_after_five_minutes() {
    check(&migrating(299), None);
    check(&migrating(300), Some(SymptomId::StuckMigrating));
}

#[test]
fn a_guest_that_dirties_as_fast_as_it_is_copied_is_the_cause_at_once() {
    let world = migrating(12).vm_has(FindingCode::MigrationDirtying, 2);
    check(&world, Some(SymptomId::StuckMigrating));
    let symptom = world.symptom();
    assert_eq!(symptom.since_wall_usec, Some(ago(12).wall_usec));
    assert!(symptom.text.contains("its migration to n2 has run for 12 s"), "{}", symptom.text);
    check_cause(&world.why(), "MigrationNotConverging", &Place::Vm { node: "n1".to_owned(), uid: UID.to_owned() });
}

#[test]
fn nothing_copied_is_the_path_between_the_two() {
    let world = migrating(25).vm_has(FindingCode::MigrationNoBytes, 25);
    check_cause(&world.why(), "MigrationPathUnreachable", &path());
    let world = world.vm_has(FindingCode::MigrationPeerSilent, 20);
    let why = world.why();
    check_cause(&why, "MigrationPathUnreachable", &path());
    assert_eq!(why.causes[0].role, "path");
}

/// A target that takes nothing in acknowledges what its buffers hold: the path is well, and what keeps it is not known.
#[test]
fn nothing_copied_to_a_node_that_answers_is_not_the_path() {
    let answers = mk_state(FindingCode::MigrationPeerSilent, Subject::Node, Status::Absent, 20);
    let why = migrating(25).vm_has(FindingCode::MigrationNoBytes, 25).set(answers).why();
    assert_eq!(why.causes[0].id, "Unexplained", "{}", table(&why));
}

#[test]
fn what_is_wrong_on_the_target_is_the_targets() {
    let silent = mk_state(FindingCode::QemuStopped, Subject::vm(UID), Status::Present, 40);
    let stands = mk_state(FindingCode::MigrationProgressing, Subject::vm(UID), Status::Absent, 40);
    let world = migrating(60).set(stands).set_on("n2", silent);
    let why = attribute_of(&world);
    let first = &why.causes[0];
    assert_eq!(
        (first.id, first.role, first.node.as_deref()),
        ("QemuMonitorHung", "target", Some("n2")),
        "{}",
        table(&why)
    );
}

fn attribute_of(world: &World) -> Attribution {
    let symptom = world.symptoms().into_iter().find(|symptom| symptom.id == SymptomId::StuckMigrating);
    crate::attribute(&world.snapshot, &symptom.expect("it is stuck"))
}

#[test]
fn a_migration_that_ended_with_the_vm_still_there_is_a_failed_one_for_a_while() {
    let at = |secs| failed(migrating(secs + 30), secs, "progressing");
    check(&at(5), Some(SymptomId::MigrationFailed));
    check(&at(900), Some(SymptomId::MigrationFailed));
    check(&at(901), None);
    let symptom = at(5).symptom();
    assert_eq!(symptom.text, "its migration to n2 ended 5 s ago, and it is still on n1");
    assert_eq!(symptom.since_wall_usec, Some(ago(5).wall_usec));
}

#[test]
fn the_end_remembers_how_the_copy_went() {
    let place = Place::Vm { node: "n1".to_owned(), uid: UID.to_owned() };
    check_cause(&failed(migrating(40), 10, "dirtying").why(), "MigrationNotConverging", &place);
    check_cause(&failed(migrating(40), 10, "no-bytes").why(), "MigrationPathUnreachable", &path());
}

#[test]
fn a_qemu_that_was_killed_on_the_target_is_the_cause_and_no_symptom_of_its_own() {
    let mut world = failed(migrating(40), 10, "progressing");
    let target = &mut world.snapshot.nodes[1];
    target.occurrences.push(mk_occurrence(
        FindingCode::QemuExited,
        Subject::vm(UID),
        11,
        Attributes::new().with(SIGNAL, 11),
    ));
    target.occurrences.push(mk_occurrence(FindingCode::DomainFailed, Subject::vm(UID), 10, Attributes::new()));
    check(&world, Some(SymptomId::MigrationFailed));
    let why = world.why();
    let first = &why.causes[0];
    assert_eq!((first.id, first.role, first.node.as_deref()), ("QemuCrashed", "target", Some("n2")), "{}", table(&why));
}

/// Two migrations left one node within minutes; libvirt names nobody in what it says of either.
#[test]
fn what_libvirt_said_of_the_migration_before_is_not_of_this_one() {
    let refused = |secs| {
        let facts = said(actor::LIBVIRT, operation::MIGRATE_PREPARE, class::INCOMPATIBLE);
        let facts = facts.with(SIGNATURE, "cpu-missing-features").with(SIDE, "target");
        failed(migrating(40), 10, "").node_said("n1", secs, facts).why()
    };
    assert_eq!(refused(15).causes[0].id, "CpuIncompatible", "{}", table(&refused(15)));
    assert_eq!(refused(120).causes[0].id, "Unexplained", "{}", table(&refused(120)));
}

/// libvirt on the source says what the copy met on the target; QEMU's warning at the guest's start, an hour ago or now, says nothing.
#[test]
fn a_disk_that_finds_no_space_is_the_targets() {
    let full = said(actor::LIBVIRT, operation::MIGRATE, class::NO_SPACE);
    let full = full.with(SIGNATURE, "migration-disk-no-space").with(SIDE, "target");
    let warned = said(actor::QEMU, operation::START_DOMAIN, class::INCOMPATIBLE);
    let warned = warned.with(SIGNATURE, "cpu-feature-dropped");
    // libvirt says so of the job that it gives up itself, as often as not.
    let given_up = said(actor::LIBVIRT, operation::MIGRATE, class::CANCELLED).with(SIGNATURE, "migration-cancelled");
    let mut world = failed(migrating(40), 10, "").node_said("n1", 11, full).node_said("n1", 45, warned);
    world = world.node_said("n1", 11, given_up);
    // The copy of no disk pauses a guest, and the file system that is too small for a disk need not be full.
    for node in ["n1", "n2"] {
        let well = |code| mk_state(code, Subject::vm(UID), Status::Absent, 20);
        world = world.set_on(node, well(FindingCode::DomainIoError)).set_on(node, well(FindingCode::VmFilesystemFull));
    }
    let why = world.why();
    let first = &why.causes[0];
    assert_eq!(
        (first.id, first.role, first.node.as_deref()),
        ("VolumeOutOfSpace", "target", Some("n2")),
        "{}",
        table(&why)
    );
    assert!(first.probability >= 0.6, "{}", table(&why));
}

/// libvirt names nobody; at the end of the only migration it can only mean that one.
#[test]
fn what_libvirt_says_of_a_migration_is_surer_of_the_only_one() {
    let refused = said(actor::LIBVIRT, operation::MIGRATE, class::NO_SPACE);
    let refused = refused.with(SIGNATURE, "migration-disk-no-space").with(SIDE, "target");
    let world = || failed(migrating(40), 10, "").node_said("n1", 11, refused.clone());
    let score =
        |world: &World| world.why().causes.iter().find(|cause| cause.id == "VolumeOutOfSpace").map(|c| c.score_db);
    let alone = score(&world()).unwrap();
    let beside = |secs| {
        let attributes = Attributes::new().with(RAN_SECS, 30);
        world().happened(FindingCode::MigrationNotCompleted, Subject::vm("another"), secs, attributes)
    };
    assert!(score(&beside(12)).unwrap() < alone, "of two it may be either");
    assert_eq!(score(&beside(300)), Some(alone), "that one was over before");
    let runs = mk_state(FindingCode::MigrationOutgoing, Subject::vm("another"), Status::Present, 20);
    assert!(score(&world().set(runs)).unwrap() < alone, "of two it may be either");
}

/// As recorded: the target says what it makes of a stream that breaks off.
#[test]
fn a_migration_that_a_client_cancelled_failed_for_no_other_reason() {
    let cancelled = said(actor::LIBVIRT, operation::MIGRATE, class::CANCELLED).with(SIGNATURE, "migration-cancelled");
    let broken = said(actor::LIBVIRT, operation::LOAD_STATE, class::INVALID).with(SIDE, "target");
    let why = failed(migrating(40), 10, "slow").node_said("n1", 9, cancelled).node_said("n1", 9, broken).why();
    let first = &why.causes[0];
    assert_eq!(first.chain, ["MigrationAborted"], "{}", table(&why));
    assert!(first.probability >= 0.6, "{}", table(&why));
}

/// As recorded: somebody gives up what never ends. Why it was given up is the cause, that it was given up is in the chain.
#[test]
fn a_migration_that_was_cancelled_as_it_never_ended_did_not_converge() {
    let cancelled = said(actor::LIBVIRT, operation::MIGRATE, class::CANCELLED).with(SIGNATURE, "migration-cancelled");
    let why = failed(migrating(40), 10, "dirtying").node_said("n1", 9, cancelled).why();
    let first = &why.causes[0];
    assert_eq!(first.chain, ["MigrationNotConverging", "MigrationAborted"], "{}", table(&why));
    assert!(first.probability >= 0.9, "{}", table(&why));
}

#[test]
fn a_migration_that_was_cancelled_before_is_not_why_this_one_is_stuck() {
    let cancelled = said(actor::LIBVIRT, operation::MIGRATE, class::CANCELLED).with(SIGNATURE, "migration-cancelled");
    let world = migrating(12).vm_has(FindingCode::MigrationDirtying, 2).node_said("n1", 120, cancelled);
    let before = Attributes::new().with(WHAT, "slow").with(RAN_SECS, 30);
    let why = world.happened(FindingCode::MigrationNotCompleted, Subject::vm(UID), 121, before).why();
    check_cause(&why, "MigrationNotConverging", &Place::Vm { node: "n1".to_owned(), uid: UID.to_owned() });
}

/// What a virt-controller would say of a target pod, libvirt says of a target: no pod is behind it.
#[test]
fn a_target_that_refuses_has_no_pod_that_failed() {
    let refused = said(actor::LIBVIRT, operation::MIGRATE_PREPARE, class::INCOMPATIBLE);
    let refused = refused.with(SIGNATURE, "cpu-missing-features").with(SIDE, "target");
    let unavailable = said(actor::LIBVIRT, operation::MIGRATE_PREPARE, class::UNAVAILABLE).with(SIDE, "target");
    let mut world = failed(migrating(40), 10, "").node_said("n1", 11, refused).node_said("n1", 11, unavailable);
    // It never got far enough to be shown there.
    world.snapshot.nodes[1].vms.clear();
    let why = world.why();
    assert_eq!(why.causes[0].chain, ["CpuIncompatible"], "{}", table(&why));
}

/// A migration's end is several records, and the end of its progress may be the first.
#[test]
fn a_progress_that_ended_in_this_moment_is_no_standstill() {
    for (secs, id) in [(2, None), (3, Some(SymptomId::StuckMigrating))] {
        let ended = mk_state(FindingCode::MigrationProgressing, Subject::vm(UID), Status::Absent, secs);
        check(&migrating(60).set(ended), id);
    }
}

#[test]
fn what_befell_the_target_is_not_explained_by_what_sits_on_the_source() {
    let mut world = failed(migrating(40), 10, "");
    let exit = mk_occurrence(FindingCode::QemuExited, Subject::vm(UID), 11, Attributes::new().with(SIGNAL, 9));
    world.snapshot.nodes[1].occurrences.push(exit);
    world.snapshot.nodes[1].vms[0].qemu = None;
    let error = mk_occurrence(FindingCode::HardwareMemoryError, Subject::Node, 12, Attributes::new());
    world.snapshot.nodes[0].occurrences.push(error);
    let why = world.why();
    assert_eq!(why.causes[0].chain, ["QemuKilled"], "{}", table(&why));
}

/// The guest is shut down at home after a migration was aborted: the copy that ended with the migration did not stop then.
#[test]
fn a_copy_that_ended_with_its_migration_never_stopped_however_the_vm_went_on() {
    let aborted = |copy_ended_secs| {
        let mut world = failed(migrating(100), 60, "dirtying");
        let source = &mut world.snapshot.nodes[0].vms[0];
        source.last_qemu = source.qemu.take();
        source.domain = None;
        let copy_failed =
            mk_occurrence(FindingCode::DomainFailed, Subject::vm(UID), copy_ended_secs, Attributes::new());
        world.snapshot.nodes[1].occurrences.push(copy_failed);
        world
    };
    check(&aborted(60), None);
    let stopped = aborted(20).symptoms();
    assert!(stopped.iter().any(|symptom| symptom.id == SymptomId::StoppedUnexpectedly), "{stopped:?}");
}

#[test]
fn a_vm_that_has_arrived_is_well_and_so_is_what_it_left() {
    let mut world = failed(migrating(40), 10, "progressing");
    // A second try brought it over.
    let source = &mut world.snapshot.nodes[0].vms[0];
    source.last_qemu = source.qemu.take();
    source.domain = None;
    world.snapshot.nodes[0].occurrences.push(mk_occurrence(
        FindingCode::QemuExited,
        Subject::vm(UID),
        3,
        Attributes::new().with(SIGNAL, 11),
    ));
    let mut arrived = arriving(8);
    arrived.domain = Some(mk_domain(UID, libvirt::RUNNING, 2, 3));
    world.snapshot.nodes[1].vms = vec![arrived].into();
    check(&world, None);
}

#[test]
fn a_source_that_dies_while_its_target_waits_did_stop() {
    let world = migrating(20).qemu_ended(15, Attributes::new().with(SIGNAL, 11));
    let symptoms = world.symptoms();
    assert!(symptoms.iter().any(|symptom| symptom.id == SymptomId::StoppedUnexpectedly), "{symptoms:?}");
}

fn no_migration(world: World) -> World {
    [FindingCode::MigrationOutgoing, FindingCode::MigrationIncoming].into_iter().fold(world, |world, code| {
        let absent = mk_state(code, Subject::vm(UID), Status::Absent, 70);
        world.set_on("n1", absent.clone()).set_on("n2", absent)
    })
}

#[test]
fn two_qemus_without_a_migration_are_its_leftover_after_a_minute() {
    let two = |secs| {
        let mut world = no_migration(migrating(secs));
        world.snapshot.nodes[1].vms[0].domain = Some(mk_domain(UID, libvirt::RUNNING, 2, secs));
        world
    };
    check(&two(60), None);
    let world = two(61);
    check(&world, Some(SymptomId::Unresponsive));
    assert_eq!(world.why().causes[0].id, "MigrationLeftover", "{}", table(&world.why()));
    // Where nobody could look for a migration, nothing is said of one.
    let unknown = mk_state(FindingCode::MigrationIncoming, Subject::vm(UID), Status::Unknown, 5);
    check(&two(61).set_on("n2", unknown), None);
}

#[test]
fn a_source_that_was_paused_for_a_migration_and_left_so_is_its_leftover() {
    let mut world = no_migration(two_nodes().domain(libvirt::PAUSED, libvirt::PAUSED_MIGRATION, 61));
    check(&world, Some(SymptomId::Unresponsive));
    world.snapshot.nodes[0].vms[0].domain = Some(mk_domain(UID, libvirt::PAUSED, libvirt::PAUSED_MIGRATION, 60));
    check(&world, None);
}

#[test]
fn a_target_that_nobody_shows_may_be_any_other_node() {
    let mut world = migrating(25).vm_has(FindingCode::MigrationNoBytes, 25);
    world.snapshot.nodes[1].vms.clear();
    world.snapshot.nodes[1].states.retain(|state| state.subject.vm_uid().is_none());
    check_cause(&world.why(), "MigrationPathUnreachable", &path());
    let mut third = world.snapshot.nodes[1].clone();
    third.name = "n3".to_owned();
    world.snapshot.nodes.push(third);
    let why = world.why();
    assert_eq!(why.causes[0].id, "MigrationPathUnreachable", "{}", table(&why));
}

#[test]
fn a_clock_that_was_set_back_makes_no_migration_old() {
    let mut world = migrating(20);
    world.snapshot.reference_wall_usec = ago(30).wall_usec;
    check(&world, None);
}
