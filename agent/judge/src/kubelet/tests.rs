//! The kubelet's unit, process and endpoint, well and not.

use kulprit_host::systemd::MainExit;
use kulprit_model::Status::{self, Absent, Present, Unknown};
use proptest::prelude::*;

use super::*;

fn second(n: i64) -> Moment {
    Moment::default().offset_usec(n * 1_000_000)
}

fn active() -> UnitObservation {
    let text = |text: &str| Some(text.to_owned());
    UnitObservation {
        name: "kubelet.service".to_owned(),
        load_state: "loaded".to_owned(),
        active_state: text("active"),
        sub_state: text("running"),
        unit_file_state: text("enabled"),
        invocation_id: text("00112233445566778899aabbccddeeff"),
        state_change_usec: Some(1),
        state_change_monotonic_usec: Some(5_000_000),
        result: text("success"),
        n_restarts: Some(0),
        main_pid: Some(7),
        main_exit: None,
    }
}

fn state(active_state: &str) -> UnitObservation {
    UnitObservation { active_state: Some(active_state.to_owned()), ..active() }
}

/// As systemd shows a unit that it has not run since boot.
fn never_run(unit_file_state: Option<&str>) -> UnitObservation {
    UnitObservation {
        unit_file_state: unit_file_state.map(str::to_owned),
        invocation_id: None,
        state_change_usec: None,
        state_change_monotonic_usec: None,
        main_pid: None,
        ..state("inactive")
    }
}

fn status(verdict: &Verdict) -> Status {
    match verdict {
        Verdict::State(state) => state.status,
        Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
    }
}

#[track_caller]
fn check_inactive(unit: &UnitObservation, expectation: Expectation, want: Status) {
    assert_eq!(judge_inactive(second(9), unit, expectation).status, want, "{unit:?}");
}

#[test]
fn only_a_unit_that_does_not_run_is_inactive() {
    for (active_state, want) in [
        ("active", Absent),
        ("activating", Absent),
        ("reloading", Absent),
        ("inactive", Present),
        ("failed", Present),
        ("deactivating", Present),
        ("something-new", Present),
    ] {
        check_inactive(&state(active_state), Expectation::default(), want);
    }
    check_inactive(&UnitObservation { active_state: None, ..active() }, Expectation::default(), Unknown);
}

#[test]
fn a_unit_nobody_wants_may_be_inactive() {
    let expected = Expectation { was_active: true, has_state_on_disk: false };
    let used = Expectation { was_active: false, has_state_on_disk: true };
    for (unit_file_state, want) in [
        (Some("disabled"), Absent),
        (Some("masked"), Absent),
        (None, Absent),
        (Some("enabled"), Present),
        (Some("static"), Present),
    ] {
        check_inactive(&never_run(unit_file_state), Expectation::default(), want);
        check_inactive(&never_run(unit_file_state), expected, Present);
        check_inactive(&never_run(unit_file_state), used, Present);
    }
    // Disabled, and yet it has run in this boot.
    check_inactive(
        &UnitObservation { unit_file_state: Some("disabled".to_owned()), ..state("inactive") },
        Expectation::default(),
        Present,
    );
    check_inactive(
        &UnitObservation { active_state: Some("failed".to_owned()), ..never_run(Some("disabled")) },
        Expectation::default(),
        Present,
    );
}

#[test]
fn a_dead_unit_says_how_and_since_when() {
    let unit = UnitObservation {
        result: Some("signal".to_owned()),
        main_exit: Some(MainExit { code: 2, status: 9 }),
        ..state("failed")
    };
    let verdict = judge_inactive(second(9), &unit, Expectation::default());
    assert_eq!(verdict.since, Some(second(5)));
    assert_eq!(verdict.attributes.get(attribute::RESULT), Some("signal"));
    assert_eq!(
        verdict.evidence[0].text,
        "kubelet.service is failed (running), result signal, its main process was ended by signal 9"
    );
    let later = UnitObservation { state_change_monotonic_usec: Some(u64::MAX), ..state("failed") };
    assert_eq!(judge_inactive(second(9), &later, Expectation::default()).since, Some(second(9)), "never after now");
}

/// Looks at (second, NRestarts).
fn is_loop_after(looks: &[(i64, u32)]) -> Status {
    let mut history = RestartHistory::default();
    let look = |(at, n): &(i64, u32)| {
        judge_loop(second(*at), &UnitObservation { n_restarts: Some(*n), ..active() }, &mut history).status
    };
    looks.iter().map(look).last().expect("looks")
}

#[test]
fn three_restarts_in_ten_minutes_are_a_loop() {
    assert_eq!(is_loop_after(&[(0, 0), (10, 1), (20, 2)]), Absent);
    assert_eq!(is_loop_after(&[(0, 0), (10, 1), (20, 2), (30, 3)]), Present);
    assert_eq!(is_loop_after(&[(0, 0), (30, 3)]), Present, "seen at one look");
    assert_eq!(is_loop_after(&[(0, 0), (10, 1), (20, 2), (609, 3)]), Present);
    assert_eq!(is_loop_after(&[(0, 0), (10, 1), (20, 2), (610, 3)]), Absent);
    assert_eq!(is_loop_after(&[(0, 57), (10, 57)]), Absent, "old restarts are history");
    assert_eq!(is_loop_after(&[(0, 2), (10, 0), (20, 0), (30, 0)]), Absent, "starts by hand");
}

#[test]
fn a_loop_is_over_when_the_kubelet_stays_up_longer_than_between_its_restarts() {
    let every_second = [(0, 0), (10, 1), (11, 2), (12, 3)];
    assert_eq!(is_loop_after(&[&every_second[..], &[(14, 3)]].concat()), Present);
    assert_eq!(is_loop_after(&[&every_second[..], &[(15, 3)]].concat()), Absent);
    let every_three_minutes = [(0, 0), (180, 1), (360, 2), (540, 3)];
    assert_eq!(is_loop_after(&[&every_three_minutes[..], &[(700, 3)]].concat()), Present);
    assert_eq!(is_loop_after(&[(0, 0), (30, 3), (629, 3)]), Present, "how long the runs lasted is not known");
}

#[test]
fn a_loop_from_before_us_is_seen_at_once() {
    for (n_restarts, want) in [(2, Absent), (3, Present)] {
        let unit = UnitObservation {
            n_restarts: Some(n_restarts),
            sub_state: Some("auto-restart".to_owned()),
            ..state("activating")
        };
        assert_eq!(judge_loop(second(0), &unit, &mut RestartHistory::default()).status, want);
    }
}

#[test]
fn without_a_counter_new_runs_are_counted() {
    let mut history = RestartHistory::default();
    let mut look = |at, id: &str| {
        let unit = UnitObservation { n_restarts: None, invocation_id: Some(id.to_owned()), ..active() };
        judge_loop(second(at), &unit, &mut history).status
    };
    assert_eq!(
        [look(0, "a"), look(1, "b"), look(2, "b"), look(3, "c"), look(4, "d")],
        [Absent, Absent, Absent, Absent, Present]
    );
}

#[test]
fn a_process_that_cannot_run_is_stalled() {
    for (task, want) in [
        (TaskState::Running, Absent),
        (TaskState::Sleeping, Absent),
        (TaskState::Stopped, Present),
        (TaskState::Traced, Present),
        (TaskState::Zombie, Present),
        (TaskState::Uninterruptible, Present),
    ] {
        let seen = ProcessSeen::Runs { pid: 7, state: task, wchan: None };
        assert_eq!(status(&judge_process(second(1), "kubelet.service", &seen)), want, "{task:?}");
    }
    assert_eq!(status(&judge_process(second(1), "kubelet.service", &ProcessSeen::None)), Absent);
    assert_eq!(status(&judge_process(second(1), "kubelet.service", &ProcessSeen::Unknown("no".to_owned()))), Unknown);
}

#[test]
fn only_200_is_healthy() {
    let answered = |status| HealthzSeen::Answered { status, body: "ok".to_owned() };
    let refused = HealthzSeen::Failed { failure: attribute::FAILURE_REFUSED, text: "refused".to_owned() };
    for (seen, want) in [
        (answered(200), Absent),
        (answered(201), Present),
        (answered(500), Present),
        (refused, Present),
        (HealthzSeen::NotAsked, Absent),
        (HealthzSeen::Unknown("no".to_owned()), Unknown),
    ] {
        assert_eq!(status(&judge_healthz(second(1), "kubelet.service", &seen)), want, "{seen:?}");
    }
}

#[test]
fn none_of_the_units_is_not_installed() {
    let missing = UnitObservation { load_state: "not-found".to_owned(), ..never_run(None) };
    assert_eq!(status(&judge_installed(second(1), &[missing.clone(), missing.clone()])), Present);
    assert_eq!(status(&judge_installed(second(1), &[missing, active()])), Absent);
}

#[test]
fn every_state_of_a_unit_can_be_unknown() {
    let owned = kulprit_model::catalogue::CATALOGUE
        .iter()
        .filter(|spec| spec.probe == "kubelet" && spec.code != FindingCode::KubeletNotInstalled);
    assert_eq!(unknown_unit("kubelet.service", "no").len(), owned.count());
}

proptest! {
    #[test]
    fn no_sequence_of_observations_makes_it_panic(
        looks in proptest::collection::vec((any::<i32>(), proptest::option::of(any::<u32>()), proptest::option::of(any::<u64>()), ".{0,8}"), 0..8),
    ) {
        let mut history = RestartHistory::default();
        for (at, n_restarts, state_change_monotonic_usec, word) in looks {
            let unit = UnitObservation {
                n_restarts, state_change_monotonic_usec, sub_state: Some("auto-restart".to_owned()), invocation_id: Some(word.clone()), ..state(&word)
            };
            let verdicts = judge_unit(second(at.into()), &unit, Expectation::default(), &mut history);
            prop_assert_eq!(verdicts.len(), 2);
        }
    }
}
