//! Symptoms of KubeVirt's VMs: each clock from both sides, what a name adds, and a normal life that shows nothing.

use kulprit_cluster::{Life, MigrationCounts, MigrationLife};
use kulprit_model::{Attributes, FindingCode, Status};

use crate::{Symptom, SymptomId, symptom_of, testing::*};

fn of(world: &World, is_named: bool) -> Symptom {
    symptom_of(&world.snapshot, UID, None, is_named)
}

#[track_caller]
fn check(world: &World, unnamed: SymptomId, named: SymptomId) {
    let (not_asked, asked) = (of(world, false), of(world, true));
    assert_eq!((not_asked.id, asked.id), (unnamed, named), "{} / {}", not_asked.text, asked.text);
    let shown = world.symptoms().into_iter().find(|symptom| symptom.subject == vm_subject()).map(|symptom| symptom.id);
    let want = Some(unnamed).filter(|id| *id != Unspecified);
    assert_eq!(shown, want);
}

#[track_caller]
fn check_life(change: impl FnOnce(&mut Life), unnamed: SymptomId, named: SymptomId) {
    check(&World::well().in_kubernetes().life(change), unnamed, named);
}

fn at(secs: i64) -> Option<i64> {
    Some(ago(secs).wall_usec)
}

use SymptomId::{
    EvacuationBlocked, ExcessiveMigrations, InError, MigrationFailed, PausedUnexpectedly, StoppedUnexpectedly,
    StuckMigrating, StuckStarting, StuckStopping, StuckTerminating, Unresponsive, Unspecified,
};

#[test]
fn a_running_vm_shows_nothing() {
    check_life(|_| {}, Unspecified, Unspecified);
    check_life(|life| life.n_migrations_24h.succeeded = 4, Unspecified, Unspecified);
    check_life(|life| life.paused_reason = Some("PausedByUser".to_owned()), Unspecified, Unspecified);
}

#[test]
fn each_phase_of_a_start_has_its_clock() {
    for (phase, limit) in [("Pending", 300), ("", 300), ("Scheduling", 120), ("Scheduled", 60)] {
        let starting = |secs| World::well().in_kubernetes().starting(phase, secs);
        check(&starting(limit), StuckStarting, StuckStarting);
        check(&starting(limit - 1), Unspecified, StuckStarting);
        check(&starting(29), Unspecified, Unspecified);
    }
}

#[test]
fn a_vm_whose_volumes_are_being_filled_is_not_stuck_until_one_fails() {
    for status in ["Provisioning", "WaitingForVolumeBinding", "Pending"] {
        let waits = || {
            World::well().in_kubernetes().starting("Pending", 7_200).life(|life| {
                if status != "Pending" {
                    (life.has_vmi, life.phase, life.launcher_phase) = (false, None, None);
                    life.printable_status = Some(status.to_owned());
                }
            })
        };
        let in_phase = |phase: &str| {
            let attributes = Attributes::new().with("reason", phase);
            waits().cluster_has(FindingCode::DataVolumeProgressing, 7_200, attributes)
        };
        let fills = || in_phase("ImportInProgress");
        check(&in_phase("ImportScheduled"), StuckStarting, StuckStarting);
        check(&waits(), StuckStarting, StuckStarting);
        check(&fills(), Unspecified, StuckStarting);
        check(
            &fills().cluster_has(FindingCode::DataVolumeFailing, 60, Attributes::new()),
            StuckStarting,
            StuckStarting,
        );
    }
    let scheduling = World::well().in_kubernetes().starting("Scheduling", 120);
    let fills = Attributes::new().with("reason", "ImportInProgress");
    check(&scheduling.cluster_has(FindingCode::DataVolumeProgressing, 7_200, fills), StuckStarting, StuckStarting);
}

#[test]
fn the_clock_of_a_vm_that_waited_for_its_volumes_runs_from_when_they_were_full() {
    let full = |since: i64| {
        let world = World::well().in_kubernetes().starting("Pending", 7_200);
        world.shown(None, None, FindingCode::DataVolumeProgressing, Status::Absent, since, Attributes::new())
    };
    check(&full(299), Unspecified, StuckStarting);
    check(&full(300), StuckStarting, StuckStarting);
    assert_eq!(of(&full(300), false).since_wall_usec, at(300));
    // Since when is not known: it is looked at now.
    check(&full(1), StuckStarting, StuckStarting);
}

// A watch that is lost says nothing of how a VM went on.
#[test]
fn no_clock_of_a_vm_runs_while_its_objects_are_not_seen() {
    for (until, found) in [(31, StuckStarting), (32, Unspecified)] {
        let mut world = World::well().in_kubernetes().starting("Scheduling", 151);
        world.snapshot.cluster_sight.until_usec = at(until);
        assert_eq!(of(&world, false).id, found, "seen until {until} s ago");
    }
}

#[test]
fn a_start_is_stuck_from_the_beginning_of_its_phase() {
    let symptom = of(&World::well().in_kubernetes().starting("Scheduling", 500), false);
    assert_eq!(symptom.since_wall_usec, at(500));
}

#[test]
fn without_times_a_name_is_enough() {
    for (status, id) in [
        ("Starting", StuckStarting),
        ("WaitingForVolumeBinding", StuckStarting),
        ("Stopping", StuckStopping),
        ("Terminating", StuckTerminating),
        ("Paused", PausedUnexpectedly),
    ] {
        let only_status = |life: &mut Life| {
            *life = Life { has_vm: true, printable_status: Some(status.to_owned()), ..Life::default() };
        };
        check_life(only_status, Unspecified, id);
    }
}

#[test]
fn every_error_status_that_the_docs_name_is_one_at_once() {
    let runbooks = include_str!("../../../../docs/runbooks.md");
    let named = runbooks.split_once("InError (").and_then(|(_, rest)| rest.split_once(')')).expect("they are named").0;
    let statuses: Vec<&str> = named.split(", ").collect();
    assert!(statuses.len() == 7 && statuses.contains(&"DataVolumeError"), "{statuses:?}");
    for status in statuses {
        check_life(|life| life.printable_status = Some(status.to_owned()), InError, InError);
    }
    let by_pod = |status: &str| {
        let status = status.to_owned();
        World::well().in_kubernetes().starting("Scheduling", 10).life(|life| life.launcher_status = Some(status))
    };
    check(&by_pod("Init:ImagePullBackOff"), InError, InError);
    check(&by_pod("ContainerCreating"), Unspecified, Unspecified);
}

#[test]
fn a_vm_that_is_to_run_and_has_no_vmi_is_stuck() {
    let halted = |wants: bool| {
        move |life: &mut Life| {
            *life = Life {
                has_vm: true,
                wants_to_run: Some(wants),
                printable_status: Some("Stopped".to_owned()),
                created_usec: at(400),
                ..Life::default()
            };
        }
    };
    check_life(halted(true), StuckStarting, StuckStarting);
    check_life(halted(false), Unspecified, Unspecified);
}

#[test]
fn a_stop_has_the_grace_period_and_a_margin() {
    let stopping = |secs: i64| {
        move |life: &mut Life| {
            life.vmi_deleted_usec = at(secs);
            life.printable_status = Some("Stopping".to_owned());
            life.grace_secs = Some(120);
        }
    };
    check_life(stopping(150), StuckStopping, StuckStopping);
    check_life(stopping(149), Unspecified, StuckStopping);
    check_life(stopping(20), Unspecified, Unspecified);
    let not_ready = |life: &mut Life| {
        stopping(20)(life);
        life.not_ready_reason = Some("PodTerminating".to_owned());
    };
    check_life(not_ready, Unspecified, Unspecified);
    let deleted = |life: &mut Life| {
        life.vm_deleted_usec = at(61);
        life.vmi_deleted_usec = at(60);
    };
    check_life(deleted, StuckTerminating, StuckTerminating);
}

// virt-controller calls a VMI ready a moment after virt-handler has called it Running: 18 to 45 ms in recordings, longer where it is busy.
#[test]
fn a_guest_that_has_just_come_up_may_be_called_ready_late() {
    let up = |secs: i64| {
        move |life: &mut Life| {
            life.phase_since_usec = at(secs);
            life.not_ready_reason = Some("GuestNotRunning".to_owned());
        }
    };
    check_life(up(0), Unspecified, Unspecified);
    check_life(up(29), Unspecified, Unspecified);
    check_life(up(30), Unresponsive, Unresponsive);
}

// As a drain does to a VM that it does not migrate: nobody deletes the VMI, and the guest has its grace period.
#[test]
fn a_vm_whose_launcher_is_asked_to_go_has_the_grace_period() {
    let evicted = |secs: i64, outcome: Option<bool>| {
        move |life: &mut Life| {
            life.launcher_phase = Some("Terminating".to_owned());
            life.launcher_since_usec = at(secs);
            life.not_ready_reason = Some("PodTerminating".to_owned());
            life.grace_secs = Some(120);
            life.migration = outcome.map(|_| MigrationLife {
                outcome,
                phase: Some("Succeeded".to_owned()),
                ..MigrationLife::default()
            });
        }
    };
    for (moved_before, late) in [(None, StuckTerminating), (Some(true), Unresponsive)] {
        check_life(evicted(20, moved_before), Unspecified, Unspecified);
        check_life(evicted(149, moved_before), Unspecified, late);
        check_life(evicted(150, moved_before), late, late);
    }
    check_life(|life| life.not_ready_reason = Some("PodTerminating".to_owned()), Unresponsive, Unresponsive);
}

// KubeVirt ends a guest that does not shut down in its grace period, and calls its VMI Failed.
#[test]
fn a_stop_that_was_asked_for_may_end_as_failed() {
    let stopped = |asked: Option<i64>, ended: i64| {
        move |life: &mut Life| {
            (life.phase, life.phase_since_usec) = (Some("Failed".to_owned()), at(ended));
            (life.has_run, life.vmi_deleted_usec) = (Some(true), asked.and_then(at));
            life.printable_status = Some("Stopping".to_owned()).filter(|_| asked.is_some());
        }
    };
    check_life(stopped(Some(20), 1), Unspecified, Unspecified);
    check_life(stopped(Some(31), 1), Unspecified, StuckStopping);
    check_life(stopped(Some(1), 20), StoppedUnexpectedly, StoppedUnexpectedly);
    check_life(stopped(None, 20), StoppedUnexpectedly, StoppedUnexpectedly);
    let deleted = |life: &mut Life| {
        stopped(None, 1)(life);
        life.vm_deleted_usec = at(20);
    };
    check_life(deleted, Unspecified, Unspecified);
}

#[test]
fn a_guest_that_ended_well_is_in_no_error_by_a_helper_of_its_launcher() {
    let ended = |phase: &str| {
        let phase = phase.to_owned();
        move |life: &mut Life| {
            (life.phase, life.has_run) = (Some(phase), Some(true));
            (life.launcher_phase, life.launcher_status) = (Some("Failed".to_owned()), Some("Error".to_owned()));
            (life.printable_status, life.wants_to_run) = (Some("Stopped".to_owned()), None);
        }
    };
    check_life(ended("Succeeded"), Unspecified, Unspecified);
    check_life(ended("Failed"), InError, InError);
}

// The receiver of a migration from another cluster waits for a person until there is a migration.
#[test]
fn a_receiver_without_a_migration_is_not_stuck() {
    let waits = || {
        World::well().in_kubernetes().starting("WaitingForSync", 400).life(|life| {
            life.printable_status = Some("WaitingForReceiver".to_owned());
            (life.launcher_phase, life.wants_to_run) = (None, None);
        })
    };
    check(&waits(), Unspecified, StuckStarting);
    let receiving = waits().life(|life| {
        life.migration = Some(MigrationLife {
            phase: Some("WaitingForSync".to_owned()),
            phase_since_usec: at(10),
            ..MigrationLife::default()
        });
    });
    check(&receiving, StuckStarting, StuckStarting);
}

#[test]
fn a_launcher_that_does_not_go_is_terminating_unless_a_migration_left_it() {
    let left = |outcome: Option<bool>| {
        move |life: &mut Life| {
            life.launcher_phase = Some("Terminating".to_owned());
            life.launcher_since_usec = at(100);
            life.migration = outcome.map(|_| MigrationLife {
                outcome,
                phase: Some("Succeeded".to_owned()),
                ..MigrationLife::default()
            });
        }
    };
    check_life(left(None), StuckTerminating, StuckTerminating);
    check_life(left(Some(true)), Unspecified, Unspecified);
}

#[test]
fn an_end_that_nobody_asked_for_is_unexpected() {
    let ended = |phase: &str, wants: bool| {
        let phase = phase.to_owned();
        move |life: &mut Life| {
            life.phase = Some(phase);
            life.printable_status = Some("Stopped".to_owned());
            life.wants_to_run = Some(wants);
        }
    };
    check_life(ended("Failed", true), StoppedUnexpectedly, StoppedUnexpectedly);
    check_life(ended("Failed", false), Unspecified, StoppedUnexpectedly);
    check_life(ended("Succeeded", true), Unspecified, StoppedUnexpectedly);
    check_life(ended("Succeeded", false), Unspecified, Unspecified);
}

#[test]
fn paused_by_an_error_is_unexpected() {
    let paused = |life: &mut Life| life.paused_reason = Some("PausedIOError".to_owned());
    check_life(paused, PausedUnexpectedly, PausedUnexpectedly);
}

#[test]
fn a_migration_before_running_has_a_minute() {
    for phase in ["Pending", "Scheduling", "Scheduled", "PreparingTarget", "TargetReady"] {
        check(&World::well().in_kubernetes().migrating(phase, 60), StuckMigrating, StuckMigrating);
        check(&World::well().in_kubernetes().migrating(phase, 59), Unspecified, StuckMigrating);
    }
}

#[test]
fn a_migration_that_progresses_is_left_alone() {
    let running = |secs| World::well().in_kubernetes().migrating("Running", secs);
    let progressing = |secs| running(secs).cluster_has(FindingCode::MigrationProgressing, secs, Attributes::new());
    check(&progressing(3_000), Unspecified, Unspecified);
    check(&running(10), Unspecified, StuckMigrating);
    let dirtying = running(10).cluster_has(FindingCode::MigrationDirtying, 5, Attributes::new());
    check(&dirtying, StuckMigrating, StuckMigrating);
}

#[test]
fn a_failed_migration_is_news_for_a_day() {
    check(&World::well().in_kubernetes().migrating("Failed", 60), MigrationFailed, MigrationFailed);
    check(&World::well().in_kubernetes().migrating("Failed", 25 * 3_600), Unspecified, Unspecified);
    let succeeded = World::well().in_kubernetes().migrating("Succeeded", 60).life(|life| {
        life.migration.as_mut().expect("it migrates").outcome = Some(true);
    });
    check(&succeeded, Unspecified, Unspecified);
}

#[test]
fn a_named_migration_is_what_is_asked_about() {
    let world = World::well().in_kubernetes().migrating("Failed", 60).life(|life| {
        life.paused_reason = Some("PausedIOError".to_owned());
    });
    let symptom = symptom_of(&world.snapshot, UID, Some("db-0-mig-1"), true);
    assert_eq!((symptom.id, symptom.migration.as_deref()), (MigrationFailed, Some("db-0-mig-1")));
    let nobody_knows = symptom_of(&World::well().in_kubernetes().snapshot, UID, Some("mig-9"), true);
    assert_eq!((nobody_knows.id, nobody_knows.migration.as_deref()), (StuckMigrating, Some("mig-9")));
}

#[test]
fn twelve_migrations_in_a_day_are_too_many() {
    let ended = |succeeded, failed, aborted, unknown| {
        move |life: &mut Life| life.n_migrations_24h = MigrationCounts { succeeded, failed, aborted, unknown }
    };
    check_life(ended(7, 3, 1, 1), ExcessiveMigrations, ExcessiveMigrations);
    check_life(ended(5, 0, 0, 0), Unspecified, ExcessiveMigrations);
    check_life(ended(4, 0, 0, 0), Unspecified, Unspecified);
}

#[test]
fn whoever_watched_all_day_counts_and_suspects_nothing() {
    for (n, want) in [(11, Unspecified), (12, ExcessiveMigrations)] {
        let whole = |life: &mut Life| (life.n_migrations_24h.failed, life.knows_all_migrations) = (n, true);
        check_life(whole, want, want);
    }
}

#[test]
fn migrations_of_the_day_belong_to_the_answer_where_they_are_too_many() {
    for (n, n_told) in [(12, 1), (2, 0)] {
        let world = World::well().in_kubernetes().life(|life| {
            life.n_migrations_24h.succeeded = n;
            life.past_migrations = vec![kulprit_cluster::MigrationRecord::default()];
        });
        assert_eq!(of(&world, true).past_migrations(&world.snapshot).len(), n_told, "{n}");
    }
}

#[test]
fn a_vm_that_is_to_leave_its_node_and_stays_is_blocked() {
    let asked = |node: &str, secs| {
        let node = node.to_owned();
        move |life: &mut Life| life.evacuation = Some((node, at(secs)))
    };
    check_life(asked("n1", 200), EvacuationBlocked, EvacuationBlocked);
    check_life(asked("n1", 20), Unspecified, Unspecified);
    check_life(asked("n9", 200), Unspecified, Unspecified);
}

#[test]
fn a_vm_whose_copy_progresses_is_not_blocked_however_long_it_takes() {
    let leaving = |secs| {
        let to_leave = move |life: &mut Life| life.evacuation = Some(("n1".to_owned(), at(secs)));
        World::well().in_kubernetes().migrating("Running", secs).life(to_leave)
    };
    let progressing = |secs| leaving(secs).cluster_has(FindingCode::MigrationProgressing, secs, Attributes::new());
    check(&progressing(3_000), Unspecified, Unspecified);
    let stalled = progressing(3_000).cluster_has(FindingCode::MigrationNoBytes, 40, Attributes::new());
    check(&stalled, StuckMigrating, StuckMigrating);
}

/// `db-0` is to leave `n1` since 10 minutes and has no migration; another VM has, and the slots are or are not all taken.
fn waits_for_its_turn(slots: Status, other: MigrationLife) -> World {
    let mut world = World::well().in_kubernetes().life(|life| life.evacuation = Some(("n1".to_owned(), at(600))));
    let slots = mk_state(FindingCode::MigrationWaitsForSlot, kulprit_model::Subject::vm(UID), slots, 600);
    let mut other_vm = kulprit_cluster::ClusterVm::clone(world.cluster_vm());
    let slots = kulprit_model::State { attributes: Attributes::new().with("what", "node"), ..slots };
    let finding = kulprit_model::Finding::State(slots);
    world.cluster_vm().findings.push(kulprit_cluster::ClusterFinding { side: None, node: None, finding });
    (other_vm.uid, other_vm.uids, other_vm.name) = (OTHER_UID.to_owned(), Vec::new(), "db-1".to_owned());
    (other_vm.source, other_vm.life.evacuation, other_vm.life.migration) = (Some("n1".to_owned()), None, Some(other));
    world.snapshot.cluster_vms.push(other_vm.into());
    world
}

#[test]
fn a_vm_that_waits_for_its_turn_is_not_blocked_while_another_gets_on() {
    let other = |phase: &str, secs| MigrationLife {
        name: "db-1-mig".to_owned(),
        phase: Some(phase.to_owned()),
        phase_since_usec: at(secs),
        started_usec: at(secs),
        ..MigrationLife::default()
    };
    let ended = |secs| MigrationLife { outcome: Some(true), ended_usec: at(secs), ..other("Succeeded", secs) };
    for (slots, other, id) in [
        (Status::Present, other("Running", 299), Unspecified),
        (Status::Present, other("Running", 300), EvacuationBlocked),
        (Status::Present, other("Scheduling", 59), Unspecified),
        (Status::Present, other("Scheduling", 60), EvacuationBlocked),
        (Status::Absent, ended(119), Unspecified),
        (Status::Absent, ended(120), EvacuationBlocked),
        (Status::Absent, other("Running", 30), EvacuationBlocked),
    ] {
        let text = format!("{slots:?} {other:?}");
        let world = waits_for_its_turn(slots, other);
        let (unnamed, named) = (of(&world, false), of(&world, true));
        assert_eq!((unnamed.id, named.id), (id, EvacuationBlocked), "{text}");
    }
    let world = waits_for_its_turn(Status::Present, other("Running", 299));
    let why = world.why_named(None);
    assert_eq!(why.causes[0].id, "MigrationLimitReached", "{}", table(&why));
    let mut elsewhere = waits_for_its_turn(Status::Present, other("Running", 299));
    std::sync::Arc::make_mut(&mut elsewhere.snapshot.cluster_vms[1]).source = Some("n7".to_owned());
    assert_eq!(of(&elsewhere, false).id, EvacuationBlocked, "the slots of its node are what it waits for");
}

#[test]
fn a_vm_whose_node_is_not_ready_is_unresponsive() {
    let lost =
        |secs| World::well().in_kubernetes().node_shown("n1", FindingCode::NodeNotReady, secs, Attributes::new());
    check(&lost(60), Unresponsive, Unresponsive);
    check(&lost(59), Unspecified, Unresponsive);
}

// What failed hours ago is news for a day, and hides nothing that is now: nor do many migrations.
#[test]
fn a_vm_that_is_down_now_is_not_told_by_a_migration_of_the_past() {
    let failed = |secs| World::well().in_kubernetes().migrating("Failed", secs);
    let many = || World::well().in_kubernetes().life(|life| life.n_migrations_24h.failed = 12);
    for (past, id) in
        [(failed(20 * 3_600), MigrationFailed), (failed(60), MigrationFailed), (many(), ExcessiveMigrations)]
    {
        check(&past, id, id);
        let is_down = |change: fn(World) -> World| change(World { snapshot: past.snapshot.clone() });
        check(
            &is_down(|world| world.node_shown("n1", FindingCode::NodeNotReady, 90, Attributes::new())),
            Unresponsive,
            Unresponsive,
        );
        check(&is_down(|world| world.life(|life| life.phase = Some("Unknown".to_owned()))), Unresponsive, Unresponsive);
        check(
            &is_down(|world| world.cluster_has(FindingCode::LauncherGone, 30, Attributes::new())),
            Unresponsive,
            Unresponsive,
        );
        let elsewhere = is_down(|world| {
            let world = if world.snapshot.nodes.len() < 2 { world.with_second_node() } else { world };
            world.node_shown("n2", FindingCode::NodeNotReady, 90, Attributes::new())
        });
        check(&elsewhere, id, id);
    }
}

// virt-handler of the target speaks of the launcher that it takes down.
#[test]
fn what_is_said_of_a_launcher_hides_no_migration_that_failed_just_now() {
    for (failed_secs, said_secs, want) in [
        (60, 50, MigrationFailed),
        (600, 50, MigrationFailed),
        (601, 50, Unresponsive),
        // Before the migration was asked for: it is what the migration failed by.
        (60, 290, Unresponsive),
    ] {
        let dead = Attributes::new().with("signature", "launcher-socket-unresponsive").with("vmi", "prod/db-0");
        let world = World::well().in_kubernetes().migrating("Failed", failed_secs).vm_said(None, None, said_secs, dead);
        let world = world.life(|life| life.migration.as_mut().expect("it migrates").outcome = Some(false));
        assert_eq!(of(&world, false).id, want, "failed {failed_secs} s ago, said {said_secs} s ago");
    }
}

#[test]
fn a_guest_agent_that_is_away_is_told_after_a_migration_that_failed() {
    let away = |world: World| world.cluster_has(FindingCode::GuestAgentLost, 30, Attributes::new());
    check(&away(World::well().in_kubernetes()), Unspecified, Unresponsive);
    check(&away(World::well().in_kubernetes().migrating("Failed", 60)), MigrationFailed, MigrationFailed);
}

#[test]
fn what_the_host_sees_of_a_kubevirt_vm_counts_as_for_any() {
    for (code, id) in [(FindingCode::QemuStopped, Unresponsive), (FindingCode::DomainControlOccupied, Unresponsive)] {
        check(&World::well().in_kubernetes().vm_has(code, 30), id, id);
    }
    let paused = World::well().in_kubernetes().domain(3, 5, 60);
    check(&paused, PausedUnexpectedly, PausedUnexpectedly);
}

#[test]
fn a_vm_is_one_subject_under_whatever_name_its_host_knows_it() {
    let mut world = World::well().in_kubernetes().vm_has(FindingCode::QemuStopped, 30);
    let view = world.vm();
    view.uid = "firmware-uuid".to_owned();
    view.name = "prod_db-0".to_owned();
    view.namespace = None;
    let state = mk_state(FindingCode::QemuStopped, kulprit_model::Subject::vm("firmware-uuid"), Status::Present, 30);
    let world = world.set(state);
    check(&world, Unresponsive, Unresponsive);
    assert_eq!(world.why().causes[0].id, "QemuMonitorHung", "{}", table(&world.why()));
}

#[test]
fn a_vm_of_which_nothing_is_known_is_unspecified() {
    let mut world = World::well().in_kubernetes();
    world.snapshot.nodes.clear();
    let vm = world.cluster_vm();
    vm.life = Life::default();
    vm.hosting = None;
    vm.pods.clear();
    let answer = world.why_named(None);
    assert_eq!((answer.symptom.id, answer.causes[0].id), (Unspecified, "Unexplained"));
    assert!(answer.unknown.iter().any(|text| text == "the VM's objects: nothing recorded"), "{:?}", answer.unknown);
    assert_eq!(symptom_of(&world.snapshot, "stranger", None, true).id, Unspecified);
}
