//! A runtime that runs, answers and is ready, and one that is not; thresholds from both sides.

use kulprit_host::cri::ContainerExit;
use kulprit_model::Status::{self, Absent, Present, Unknown};
use proptest::prelude::*;

use super::*;

fn second(n: i64) -> Moment {
    Moment::default().offset_usec(n * 1_000_000)
}

fn unit(active_state: &str, unit_file_state: &str, has_run: bool) -> UnitObservation {
    let text = |text: &str| Some(text.to_owned());
    UnitObservation {
        name: "containerd.service".to_owned(),
        load_state: "loaded".to_owned(),
        active_state: text(active_state),
        sub_state: text("any"),
        unit_file_state: text(unit_file_state),
        invocation_id: text("00112233445566778899aabbccddeeff").filter(|_| has_run),
        state_change_usec: has_run.then_some(1),
        state_change_monotonic_usec: has_run.then_some(5_000_000),
        result: text("success"),
        n_restarts: Some(0),
        main_pid: None,
        main_exit: None,
    }
}

fn answered() -> Answer {
    Answer::Answered { words: "containerd 2.4.2".to_owned() }
}

fn state_of(verdict: Verdict) -> StateVerdict {
    match verdict {
        Verdict::State(state) => {
            assert!(state.code.spec().subject.allows(&state.subject), "{} of {}", state.code, state.subject);
            assert_eq!(state.unknown_because.is_some(), state.status == Unknown, "{state:?}");
            state
        }
        Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
    }
}

#[test]
fn runtime_inactive_is_a_unit_that_somebody_wants_and_that_does_not_run() {
    for (active_state, unit_file_state, has_run, was_active, want) in [
        ("active", "enabled", true, true, Absent),
        ("activating", "enabled", true, false, Absent),
        ("inactive", "enabled", true, true, Present),
        ("failed", "disabled", true, false, Present),
        ("deactivating", "enabled", true, true, Present),
        ("inactive", "enabled", false, false, Present),
        ("inactive", "disabled", false, false, Absent),
        ("inactive", "disabled", false, true, Present),
    ] {
        let state = state_of(judge_unit(second(9), &unit(active_state, unit_file_state, has_run), was_active));
        assert_eq!(state.status, want, "{active_state} {unit_file_state} run={has_run} active={was_active}");
        assert_eq!(
            (state.code, state.subject.to_string().as_str()),
            (FindingCode::RuntimeInactive, "unit/containerd.service")
        );
    }
    let stopped = state_of(judge_unit(second(9), &unit("inactive", "enabled", true), true));
    assert_eq!(stopped.since, Some(second(5)), "since the unit changed");
    let silent = UnitObservation { active_state: None, ..unit("active", "enabled", true) };
    assert_eq!(state_of(judge_unit(second(9), &silent, true)).status, Unknown);
}

#[test]
fn runtime_unresponsive_is_a_late_or_wrong_answer_and_not_one_that_was_not_asked_for() {
    let late = |process| Answer::Late { call: "Status", since: second(3), process };
    let failed = |failure| Answer::Failed { failure, text: "it broke".to_owned(), since: second(4) };
    for (answer, want, text) in [
        (answered(), Absent, "it answers: containerd 2.4.2"),
        (Answer::NotAsked("containerd.service is inactive".to_owned()), Absent, "not asked"),
        (Answer::Unknown("no permission".to_owned()), Unknown, ""),
        (late(None), Present, "no answer for 6 s"),
        (late(Some(TaskState::Stopped)), Present, "stopped (state T)"),
        (late(Some(TaskState::Uninterruptible)), Present, "state D"),
        (failed(attribute::FAILURE_REFUSED), Present, "it broke"),
    ] {
        let state = state_of(judge_answer(second(9), "containerd.service", &answer));
        assert_eq!(state.status, want, "{answer:?}");
        assert!(state.evidence.iter().any(|row| row.text.contains(text)) || want == Unknown, "{state:?}");
    }
    let state = state_of(judge_answer(second(9), "crio.service", &late(None)));
    assert_eq!(state.since, Some(second(3)), "the wait counts from the call");
    assert_eq!(state.attributes.get(attribute::WHAT), Some("Status"));
}

#[test]
fn without_systemd_the_socket_tells_whether_the_runtime_runs() {
    let failed = |failure| Answer::Failed { failure, text: "nobody listens".to_owned(), since: second(1) };
    for (answer, want) in [
        (answered(), Absent),
        (Answer::Late { call: "Status", since: second(1), process: None }, Absent),
        (failed(attribute::FAILURE_REFUSED), Present),
        (failed(attribute::FAILURE_RESET), Unknown),
        (Answer::Unknown("no permission".to_owned()), Unknown),
    ] {
        let verdict = judge_inactive_by_socket(second(9), "containerd.service", &answer, "no bus");
        assert_eq!(state_of(verdict).status, want, "{answer:?}");
    }
}

#[test]
fn runtime_network_not_ready_is_the_runtimes_own_word() {
    let info = |is_network_ready| RuntimeInfo {
        is_network_ready,
        network_message: Some("cni plugin not initialized".to_owned()),
        ..RuntimeInfo::default()
    };
    let judged = |ready| judge_network(second(9), "crio.service", CRI, &info(ready)).map(state_of);
    assert_eq!(judged(Some(true)).unwrap().status, Absent);
    assert_eq!(judged(None), None);
    let state = judged(Some(false)).unwrap();
    assert_eq!((state.code, state.status), (FindingCode::RuntimeNetworkNotReady, Present));
    assert_eq!(state.attributes.get(attribute::REASON), Some("cni plugin not initialized"));
}

#[test]
fn a_runtime_that_says_it_is_not_ready_does_not_answer_for_its_engine() {
    let info = |is_ready| RuntimeInfo { is_ready, ..RuntimeInfo::default() };
    let answer = |ready| answer_of(&info(ready), "containerd 2.4.2", second(1));
    assert_eq!((answer(Some(true)), answer(None)), (answered(), answered()));
    assert!(matches!(answer(Some(false)), Answer::Failed { .. }));
}

#[test]
fn runtime_shim_stuck_is_a_shim_in_d_or_z() {
    let id = ProcessId { pid: 12, start_time_ticks: 34 };
    let of = |tid, state, wchan| state_of(judge_shim(second(9), id, "containerd-shim", tid, state, wchan));
    let judged = |state, wchan| of(12, state, wchan);
    for (state, want) in [
        (TaskState::Sleeping, Absent),
        (TaskState::Running, Absent),
        (TaskState::Stopped, Absent),
        (TaskState::Uninterruptible, Present),
        (TaskState::Zombie, Present),
    ] {
        assert_eq!(judged(state, None).status, want, "{state:?}");
    }
    let one = judged(TaskState::Uninterruptible, Some("io_schedule"));
    let other = judged(TaskState::Uninterruptible, Some("rpc_wait_bit_killable"));
    assert_eq!((one.code, one.subject.to_string().as_str()), (FindingCode::RuntimeShimStuck, "process/12@34"));
    assert_ne!(one.hold_key, other.hold_key, "a shim that waits for one thing after the other is not stuck");
    let thread = |tid| of(tid, TaskState::Uninterruptible, Some("io_schedule"));
    let (this, that) = (thread(15), thread(16));
    assert_eq!((this.status, this.attributes.get(attribute::TID)), (Present, Some("15")));
    assert_eq!(
        this.evidence[0].text,
        "containerd-shim 12 has a thread that is blocked in the kernel in io_schedule (state D)"
    );
    assert_ne!(this.hold_key, that.hold_key, "nor is one whose threads wait in turn");
}

fn container(name: &str, n_attempts: u32, state: ContainerState) -> Container {
    Container {
        id: format!("{name}-{n_attempts}"),
        sandbox_id: "s".to_owned(),
        name: name.to_owned(),
        n_attempts,
        state,
        created_usec: 0,
        exit: None,
    }
}

fn ended(name: &str, n_attempts: u32, exit_code: i32, reason: &str) -> Container {
    let exit = ContainerExit { exit_code, reason: reason.to_owned(), ..ContainerExit::default() };
    Container { exit: Some(exit), ..container(name, n_attempts, ContainerState::Exited) }
}

#[track_caller]
fn check(at: i64, containers: &[Container], want: Status, facts: [Option<&str>; 3]) {
    let state = state_of(judge_containers(second(at), &Subject::vm("u"), SandboxSeen::Ready, containers));
    assert_eq!((state.code, state.status), (FindingCode::LauncherContainerFailed, want), "{containers:?}");
    let seen = [attribute::CONTAINER, attribute::REASON, attribute::EXIT_CODE].map(|key| state.attributes.get(key));
    assert_eq!(seen, facts, "{containers:?}");
}

#[test]
fn launcher_container_failed_is_an_end_with_an_error_that_no_later_attempt_made_good() {
    use ContainerState::{Created, Running, Unknown as Lost};
    let init = || ended("container-disk-binary", 0, 0, "Completed");
    let compute = || container("compute", 0, Running);
    check(9, &[init(), compute()], Absent, [None; 3]);
    check(9, &[], Unknown, [None; 3]);
    let proxy = |n| ended("istio-proxy", n, 255, "Error");
    check(9, &[compute(), proxy(3)], Present, [Some("istio-proxy"), Some("Error"), Some("255")]);
    check(9, &[compute(), proxy(3), container("istio-proxy", 4, Running)], Absent, [None; 3]);
    let killed = || ended("compute", 0, 137, "OOMKilled");
    check(9, &[proxy(3), killed()], Present, [Some("compute"), Some("OOMKilled"), Some("137")]);
    check(9, &[container("compute", 0, Lost)], Present, [Some("compute"), Some("Unknown"), None]);
    check(119, &[container("compute", 0, Created)], Absent, [None; 3]);
    check(120, &[container("compute", 0, Created)], Present, [Some("compute"), Some("Created"), None]);
    // How it ended could not be asked: no error is known.
    check(9, &[container("virtiofs-data", 0, ContainerState::Exited)], Absent, [None; 3]);
}

#[test]
fn what_ended_with_its_pod_counts_for_a_while_and_not_when_it_was_told_to_end() {
    let status = |at: i64, row: &Container| {
        let rows = std::slice::from_ref(row);
        state_of(judge_containers(second(at), &Subject::vm("u"), SandboxSeen::Ended, rows)).status
    };
    for (row, want) in [
        (ended("compute", 0, 0, "Completed"), Absent),
        (ended("compute", 0, 1, "Error"), Present),
        (ended("compute", 0, 137, "OOMKilled"), Present),
        (ended("compute", 0, 137, "Error"), Absent),
        (ended("compute", 0, 143, "Error"), Absent),
        (container("compute", 0, ContainerState::Created), Absent),
    ] {
        assert_eq!(status(899, &row), want, "{row:?}");
        assert_eq!(status(900, &row), Absent, "{row:?}");
    }
    let none = judge_containers(second(9), &Subject::vm("u"), SandboxSeen::Ended, &[]);
    assert_eq!(state_of(none).status, Absent);
}

proptest! {
    #[test]
    fn no_container_makes_the_judge_panic(
        rows in proptest::collection::vec(("[a-c]{1,2}", any::<u32>(), 0..4_u8, any::<i64>(), proptest::option::of(any::<i32>())), 0..6),
        at in any::<i64>(),
    ) {
        let rows: Vec<_> = rows.into_iter().map(|(name, n_attempts, state, created_usec, code)| {
            let state = [ContainerState::Created, ContainerState::Running, ContainerState::Exited, ContainerState::Unknown][usize::from(state)];
            let exit = code.map(|exit_code| ContainerExit { exit_code, ..ContainerExit::default() });
            Container { created_usec, exit, ..container(&name, n_attempts, state) }
        }).collect();
        for sandbox in [SandboxSeen::Ready, SandboxSeen::Ended] {
            let _ = judge_containers(Moment { wall_usec: at, boottime_usec: at }, &Subject::vm("u"), sandbox, &rows);
        }
    }
}
