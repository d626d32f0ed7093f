//! A VM gets into trouble: its agent is told to look closer, makes a capture, and the incident shows it. Or somebody asks.

use std::{path::Path, time::Duration};

use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1::{self, agent_message::Message, central_message, node_capture::Outcome};
use tonic::{Code, Request};

use crate::{
    agent::{Agent, domain, hello, state},
    app::App,
};

const VM: &str = "00000000-0000-4000-8000-00000000000a";

async fn next_wish(agent: &mut Agent) -> central_message::Message {
    loop {
        match agent.next_message().await.unwrap() {
            central_message::Message::Ack(_) => {}
            wish => return wish,
        }
    }
}

fn capture(incident_id: &str, text: &str) -> v1::CaptureResult {
    let section = v1::CaptureSection { name: "threads".to_owned(), text: text.to_owned(), lacks: String::new() };
    let series = v1::CaptureSeries {
        name: "node io full".to_owned(),
        unit: "percent".to_owned(),
        end: Some(v1::Moment { wall_usec: 1, boottime_usec: 1 }),
        values: vec![0.0, 40.5],
    };
    v1::CaptureResult {
        incident_id: incident_id.to_owned(),
        vm_uid: VM.to_owned(),
        at: Some(v1::Moment { wall_usec: 1, boottime_usec: 1 }),
        took_usec: 900,
        sections: vec![section],
        series: vec![series],
    }
}

#[tokio::test]
async fn a_vm_in_trouble_is_a_suspect_and_its_capture_is_kept_with_the_incident() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let now = app.now();
    let mut agent = app.agent(1).await;
    let stalled = |status| state(FindingCode::QemuStopped, Subject::vm(VM), status, now);
    agent.snapshot(vec![domain(VM, "db-0", now), stalled(Status::Present)], now).await;
    let suspects = next_wish(&mut agent).await;
    let want = v1::Suspects { vm_uids: vec![VM.to_owned()] };
    assert_eq!(suspects, central_message::Message::Suspects(want));
    let request = match next_wish(&mut agent).await {
        central_message::Message::CaptureRequest(request) => request,
        other => panic!("{other:?}"),
    };
    let incident = app.wait_for_open_incidents(1).await.remove(0);
    assert_eq!((&request.incident_id, request.vm_uid.as_str()), (&incident.id, VM));

    agent.send(Message::CaptureResult(capture(&incident.id, "first"))).await;
    agent.send(Message::CaptureResult(capture(&incident.id, "second"))).await;
    agent.send(Message::CaptureResult(capture("no ulid", "dropped"))).await;
    let mut query = app.query.clone();
    let shown = loop {
        let request = v1::GetIncidentRequest { id: incident.id.clone() };
        let shown = query.get_incident(request).await.unwrap().into_inner();
        if !shown.captures.is_empty() {
            break shown;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let want = v1::Capture { node: "n1".to_owned(), result: Some(capture(&incident.id, "first")) };
    assert_eq!(shown.captures, [want], "the first of two is nearer to what happened");

    agent.say(stalled(Status::Absent), app.now()).await;
    let over = next_wish(&mut agent).await;
    assert_eq!(over, central_message::Message::Suspects(v1::Suspects { vm_uids: Vec::new() }));
    app.stop().await;
}

/// What a suspect shows before it is in trouble may be gone when it is.
#[tokio::test]
async fn a_suspect_is_captured_at_once_and_its_incident_gets_that_too() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let now = app.now();
    let mut agent = app.agent(1).await;
    let is = |code| state(code, Subject::vm(VM), Status::Present, now);
    // A fault of the VM, and the VM shows no symptom.
    agent.snapshot(vec![domain(VM, "db-0", now), is(FindingCode::LauncherLimitReached)], now).await;
    let before = asked(&mut agent).await;
    assert_eq!(before.vm_uid, VM);
    assert_eq!(app.wait_for_open_incidents(0).await, []);
    agent.send(Message::CaptureResult(capture(&before.incident_id, "before"))).await;
    agent.say(is(FindingCode::QemuStopped), now).await;
    let own = asked(&mut agent).await;
    let incident = app.wait_for_open_incidents(1).await.remove(0);
    assert_eq!(own.incident_id, incident.id);
    agent.send(Message::CaptureResult(capture(&own.incident_id, "own"))).await;
    let mut query = app.query.clone();
    let shown = loop {
        let request = v1::GetIncidentRequest { id: incident.id.clone() };
        let shown = query.get_incident(request).await.unwrap().into_inner();
        if shown.captures.len() == 2 {
            break shown;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let of = |text| v1::Capture { node: "n1".to_owned(), result: Some(capture(&incident.id, text)) };
    assert_eq!(shown.captures, [of("before"), of("own")]);
    app.stop().await;
}

/// The next request for a capture.
async fn asked(agent: &mut Agent) -> v1::CaptureRequest {
    loop {
        if let central_message::Message::CaptureRequest(request) = next_wish(agent).await {
            return request;
        }
    }
}

/// What came of asking each node.
fn outcomes(answer: v1::CaptureVmResponse) -> Vec<(String, Outcome)> {
    assert_eq!(answer.vm_uid, VM);
    answer.nodes.into_iter().map(|node| (node.node, node.outcome.expect("it is set"))).collect()
}

fn of_vm(vm: &str, node: &str, within: Duration) -> Request<v1::CaptureVmRequest> {
    let mut request = Request::new(v1::CaptureVmRequest { vm: vm.to_owned(), node: node.to_owned() });
    request.set_timeout(within);
    request
}

const LONG: Duration = Duration::from_secs(30);

/// Central, and the agent of a node with a VM that is well.
async fn with_vm(folder: &Path) -> (App, Agent) {
    let app = App::start(folder).await;
    let now = app.now();
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![domain(VM, "db-0", now)], now).await;
    agent.acked(1).await;
    (app, agent)
}

#[tokio::test]
async fn whoever_asks_gets_what_the_node_shows_now_and_it_is_kept_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (app, mut agent) = with_vm(folder.path()).await;
    let mut query = app.query.clone();
    let answering = async {
        let request = asked(&mut agent).await;
        assert_eq!(request.vm_uid, VM);
        let made = capture(&request.incident_id, "now");
        agent.send(Message::CaptureResult(made.clone())).await;
        // Nobody waits for the second.
        agent.send(Message::CaptureResult(made.clone())).await;
        made
    };
    let (answer, made) = tokio::join!(query.capture(of_vm("db-0", "", LONG)), answering);
    assert_eq!(outcomes(answer.unwrap().into_inner()), [("n1".to_owned(), Outcome::Result(made))]);
    app.stop().await;
}

#[tokio::test]
async fn a_node_that_shows_nothing_is_said_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (app, mut agent) = with_vm(folder.path()).await;
    let mut query = app.query.clone();
    let why_not = |answer: Result<tonic::Response<v1::CaptureVmResponse>, tonic::Status>| {
        let mut outcomes = outcomes(answer.unwrap().into_inner());
        match outcomes.remove(0) {
            (node, Outcome::WhyNot(why_not)) => format!("{node}: {why_not}"),
            (_, Outcome::Result(result)) => panic!("{result:?}"),
        }
    };

    let late = why_not(query.capture(of_vm(VM, "n1", Duration::from_secs(2))).await);
    assert_eq!(late, "n1: its agent has not answered within 1750 ms; captures are made one after the other");

    asked(&mut agent).await;
    let mut newer = None;
    let replacing = async {
        asked(&mut agent).await;
        newer = Some(Agent::connect(app.grpc(), hello("n1", 2, app.now())).await);
    };
    let (lost, ()) = tokio::join!(query.capture(of_vm(VM, "", LONG)), replacing);
    assert_eq!(why_not(lost), "n1: its agent's connection was lost");

    drop((agent, newer));
    let gone = loop {
        let gone = why_not(query.capture(of_vm(VM, "", LONG)).await);
        if !gone.ends_with("was lost") {
            break gone;
        }
    };
    assert_eq!(gone, "n1: its agent does not report");
    app.stop().await;
}

#[tokio::test]
async fn a_capture_that_cannot_be_asked_for_is_refused_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut query = app.query.clone();
    for (vm, node, want) in [("", "", "vm: missing"), ("x", "", "no VM `x`; VMs known: 0, on nodes: 0")] {
        assert_eq!(query.capture(of_vm(vm, node, LONG)).await.unwrap_err().message(), want);
    }
    app.stop().await;
}

#[tokio::test]
async fn only_so_many_captures_are_waited_for_and_the_end_of_central_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let (app, mut agent) = with_vm(folder.path()).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut query = app.query.clone();
        waiting.push(tokio::spawn(async move { query.capture(of_vm(VM, "", LONG)).await }));
        asked(&mut agent).await;
    }
    let status = app.query.clone().capture(of_vm(VM, "", LONG)).await.unwrap_err();
    let want = "8 captures are waited for already; ask again in some seconds";
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, want));
    app.stop().await;
    for answer in waiting {
        let status = answer.await.unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "central is ending"));
    }
}
