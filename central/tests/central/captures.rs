//! A VM gets into trouble: its agent is told to look closer, makes a capture, and the incident shows it.

use std::time::Duration;

use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1::{self, agent_message::Message, central_message};

use crate::{
    agent::{Agent, domain, state},
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
