//! The local socket for real: mode, stale files, answers.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use hyper_util::rt::TokioIo;
use kulprit_proto::v1::agent_status_client::AgentStatusClient;
use tonic::transport::Endpoint;

use super::*;
use crate::tracker::{Memory, ProbeRow, Tracker};

async fn ask(path: &Path) -> GetStatusResponse {
    let path = path.to_owned();
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector(connect).await.unwrap();
    AgentStatusClient::new(channel).get_status(GetStatusRequest {}).await.unwrap().into_inner()
}

fn service() -> (StatusService, mpsc::Receiver<Ask>) {
    let (tracker, asks) = mpsc::channel(1);
    let uplink = UplinkState { is_connected: false, error: Some("refused".to_owned()) };
    let service = StatusService {
        hello: HelloSource::new(v1::Hello { node: "n1".to_owned(), ..Default::default() }),
        central: "http://127.0.0.1:1".to_owned(),
        tracker,
        uplink: watch::channel(uplink).1,
        spool: watch::channel(SpoolStatus { n_waiting: 7, ..SpoolStatus::default() }).1,
        clock: Clock::kernel(),
    };
    (service, asks)
}

async fn answer_one(asks: &mut mpsc::Receiver<Ask>) {
    let rows = [ProbeRow { name: "kvm", look_every: Duration::from_secs(60) }];
    let mut tracker = Tracker::new(&rows, "b", Memory::default(), Clock::kernel().now());
    tracker.probe_ended("kvm", "planted", Clock::kernel().now());
    let Some(Ask::View(reply)) = asks.recv().await else { panic!("a view is asked for") };
    reply.send(View { bodies: tracker.bodies(), probes: tracker.probes().cloned().collect() }).unwrap();
}

#[tokio::test]
async fn it_answers_its_owner_only_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/agent.sock");
    let socket = listen(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (service, mut asks) = service();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(service.serve(socket, stop.clone()));
    let (answer, ()) = tokio::join!(ask(&path), answer_one(&mut asks));
    assert_eq!(answer.hello.unwrap().node, "n1");
    assert_eq!((answer.probes[0].outcome.as_str(), answer.probes[0].blind_because.as_str()), ("blind", "planted"));
    assert!(
        answer.states.iter().any(|state| state.code == "KvmDeviceMissing" && state.status() == v1::Status::Unknown)
    );
    let uplink = answer.uplink.unwrap();
    assert_eq!((uplink.error.as_str(), uplink.n_spooled), ("refused", 7));
    stop.cancel();
    serving.await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_left_by_a_killed_agent_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let live = listen(&path).await.unwrap();
    let error = listen(&path).await.unwrap_err();
    assert!(error.to_string().contains("another agent answers"), "{error}");
    drop(live);
    fs::write(&path, "not a socket").unwrap();
    let error = listen(&path).await.unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert!(path.exists(), "what is not ours is not removed");
}
