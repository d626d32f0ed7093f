//! Delivery: snapshots, deltas, replays, gaps, garbage, two streams of one node, silence, restarts.

use std::time::Duration;

use kulprit_model::{Body, Status, Subject};
use kulprit_proto::v1::{self, agent_message::Message};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    agent::{Agent, hello, kubelet, record},
    app::App,
};

const PRESENT: &str = "KubeletInactive unit/kubelet.service Present";
const ABSENT: &str = "KubeletInactive unit/kubelet.service Absent";
const UNKNOWN: &str = "KubeletInactive unit/kubelet.service Unknown";

async fn history(app: &App) -> Vec<String> {
    let request = v1::ListFindingsRequest {
        include_absent: true,
        to_wall_usec: i64::MAX,
        page_size: 1_000,
        ..v1::ListFindingsRequest::default()
    };
    let findings = app.query.clone().list_findings(request).await.unwrap().into_inner().findings;
    findings.iter().map(crate::app::line).collect()
}

#[tokio::test]
async fn a_snapshot_and_deltas_are_acked_and_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Absent, app.now())], app.now()).await;
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    agent.acked(2).await;
    app.wait_for_findings(&[PRESENT]).await;
    let before = app.query.clone().list_findings(v1::ListFindingsRequest::default()).await.unwrap().into_inner();
    let at = app.now();
    app.stop().await;

    // Invariant 3.
    let app = App::start_at(folder.path(), at).await;
    let after = app.query.clone().list_findings(v1::ListFindingsRequest::default()).await.unwrap().into_inner();
    assert_eq!(before, after);
    assert_eq!(history(&app).await, [ABSENT, PRESENT]);
    app.stop().await;
}

#[tokio::test]
async fn a_replay_is_acked_and_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Absent, app.now())], app.now()).await;
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    agent.acked(2).await;
    drop(agent);
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Absent, app.now()), kubelet(Status::Present, app.now())], app.now()).await;
    agent.acked(2).await;
    app.wait_for_findings(&[PRESENT]).await;
    assert_eq!(history(&app).await, [ABSENT, PRESENT]);
    app.stop().await;
}

#[tokio::test]
async fn a_replay_on_the_same_stream_is_acked_again() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    agent.acked(1).await;
    agent.seq = 0;
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    agent.acked(1).await;
    app.stop().await;
}

#[tokio::test]
async fn garbage_is_skipped_counted_and_acked() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    let mut newer = record(1, 2, kubelet(Status::Present, app.now()), app.now());
    if let Some(v1::record::Body::State(state)) = &mut newer.body {
        state.code = "FindingOfTheNextVersion".to_owned();
    }
    let mut broken = record(1, 3, kubelet(Status::Present, app.now()), app.now());
    if let Some(v1::record::Body::State(state)) = &mut broken.body {
        state.subject = "planet/earth".to_owned();
    }
    let empty = v1::Record { body: None, ..record(1, 4, kubelet(Status::Present, app.now()), app.now()) };
    let stampless = v1::Record { seq: 0, ..record(1, 1, kubelet(Status::Present, app.now()), app.now()) };
    for one in [newer, broken, empty, stampless] {
        agent.send(Message::Record(one)).await;
    }
    agent.acked(4).await;
    let metrics = app.admin("/metrics").await;
    assert!(metrics.contains("kulprit_central_records_total{outcome=\"unknown\"} 2\n"), "{metrics}");
    assert!(metrics.contains("kulprit_central_records_total{outcome=\"malformed\"} 2\n"), "{metrics}");
    app.wait_for_findings(&[PRESENT]).await;
    app.stop().await;
}

#[tokio::test]
async fn a_gap_is_counted_as_lost_or_as_missing() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    let loss = v1::Loss { boot_id: "boot-1".to_owned(), epoch: 1, first_seq: 2, last_seq: 10, count: 9 };
    agent.send(Message::Loss(loss)).await;
    agent.acked(10).await;
    agent.seq = 13;
    agent.say(kubelet(Status::Absent, app.now()), app.now()).await;
    agent.acked(14).await;
    let metrics = app.admin("/metrics").await;
    assert!(metrics.contains("kulprit_central_lost_records_total 9\n"), "{metrics}");
    assert!(metrics.contains("kulprit_central_missing_records_total 3\n"), "{metrics}");
    app.stop().await;
}

#[tokio::test]
async fn a_newer_stream_of_the_node_replaces_the_older() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut older = app.agent(1).await;
    older.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    older.acked(1).await;
    let mut newer = app.agent(2).await;
    newer.snapshot(vec![kubelet(Status::Absent, app.now())], app.now()).await;
    let end = older.end().await;
    assert_eq!((end.code(), end.message()), (Code::Aborted, "a newer stream of node n1 has replaced this one"));
    app.wait_for_findings(&[ABSENT]).await;
    let other = Agent::connect(app.grpc(), hello("n2", 1, app.now())).await;
    newer.say(kubelet(Status::Present, app.now()), app.now()).await;
    newer.acked(2).await;
    drop(other);
    app.stop().await;
}

#[tokio::test]
async fn who_does_not_say_who_he_is_is_refused_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut nameless = Agent::connect(app.grpc(), hello("", 1, app.now())).await;
    let end = nameless.end().await;
    assert_eq!((end.code(), end.message()), (Code::InvalidArgument, "hello.node: missing"));
    let mut impatient = Agent::open(app.grpc(), Message::SnapshotBegin(v1::SnapshotBegin {})).await;
    assert_eq!(impatient.end().await.message(), "hello: missing; it must be the first message of a stream");
    for reason in ["no_hello", "bad_hello"] {
        app.wait_for_metric(&format!("kulprit_central_stream_ends_total{{reason=\"{reason}\"}} 1")).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn who_opens_a_stream_and_says_nothing_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let (opened, mut silent) = (Instant::now(), Agent::open_silent(app.grpc()).await);
    let end = silent.end().await;
    assert_eq!((end.code(), end.message()), (Code::DeadlineExceeded, "hello: none within 10 s"));
    let waited = opened.elapsed();
    assert!((9..20).contains(&waited.as_secs()), "{waited:?}");
    app.wait_for_metric("kulprit_central_stream_ends_total{reason=\"late_hello\"} 1").await;
    app.stop().await;
}

// Invariant 2.
#[tokio::test]
async fn silence_becomes_unknown_and_a_heartbeat_brings_back_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    agent.acked(1).await;
    app.clock.advance(Duration::from_secs(19));
    app.wait_for_findings(&[PRESENT]).await;
    app.clock.advance(Duration::from_secs(2));
    app.wait_for_findings(&[UNKNOWN]).await;
    agent.send(Message::Heartbeat(v1::Heartbeat { sent: Some(app.now().into()), n_spooled: 0 })).await;
    app.wait_for_findings(&[PRESENT]).await;
    app.stop().await;
}

#[tokio::test]
async fn a_restart_of_central_makes_nobody_unknown_who_comes_back_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    agent.acked(1).await;
    let mut later = app.now();
    app.stop().await;
    later = later.offset_usec(3_600_000_000);
    let app = App::start_at(folder.path(), later).await;
    assert_eq!(app.findings().await, [PRESENT], "central was away, not the node");
    app.clock.advance(Duration::from_secs(21));
    app.wait_for_findings(&[UNKNOWN]).await;
    let at = app.now();
    app.stop().await;
    let app = App::start_at(folder.path(), at).await;
    assert_eq!(app.findings().await, [UNKNOWN], "it was silent before the restart");
    app.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_agent_forgets_only_what_it_no_longer_says() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let node = |status| crate::agent::state(kulprit_model::FindingCode::KvmUnusable, Subject::Node, status, app.now());
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, app.now()), node(Status::Absent)], app.now()).await;
    agent.acked(2).await;
    let mut agent = app.agent(2).await;
    agent.snapshot(vec![node(Status::Absent)], app.now()).await;
    agent.acked(1).await;
    app.wait_for_findings(&[UNKNOWN, "KvmUnusable node Absent"]).await;
    app.stop().await;
}

#[tokio::test]
async fn an_incident_opens_closes_and_reopens_by_the_clock_of_central() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    let opened = app.wait_for_open_incidents(1).await;
    assert_eq!((opened[0].cause.as_str(), opened[0].node.as_str()), ("KubeletDown", "n1"), "{opened:#?}");
    agent.say(kubelet(Status::Absent, app.now()), app.now()).await;
    agent.acked(2).await;
    app.wait_for_findings(&[ABSENT]).await;
    // Heartbeats go on while the clock does.
    let mut closed = Vec::new();
    for _ in 0..20 {
        app.clock.advance(Duration::from_secs(5));
        agent.send(Message::Heartbeat(v1::Heartbeat { sent: Some(app.now().into()), n_spooled: 0 })).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let request = v1::ListIncidentsRequest { include_closed: true, ..Default::default() };
        closed = app.query.clone().list_incidents(request).await.unwrap().into_inner().incidents;
        if !closed[0].is_open {
            break;
        }
    }
    let lasted = app.wait_for_open_incidents(0).await[0].closed_wall_usec - opened[0].opened_wall_usec;
    assert!((60_000_000..=120_000_000).contains(&lasted), "{lasted} {closed:#?}");
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    let reopened = app.wait_for_open_incidents(1).await;
    assert_eq!(reopened.iter().map(|incident| &incident.id).collect::<Vec<_>>(), [&opened[0].id]);
    let at = app.now();
    app.stop().await;
    let app = App::start_at(folder.path(), at).await;
    assert_eq!(app.wait_for_open_incidents(1).await, reopened, "a restart changes no incident");
    app.stop().await;
}

#[tokio::test]
async fn a_subject_that_has_gone_takes_its_states_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, app.now())], app.now()).await;
    agent.say(Body::SubjectGone { subject: Subject::unit("kubelet.service"), at: app.now() }, app.now()).await;
    agent.acked(2).await;
    app.wait_for_findings(&[]).await;
    app.stop().await;
}
