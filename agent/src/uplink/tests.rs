//! The uplink against a central that does as it is told, over real HTTP/2 on port 0.

use std::pin::Pin;

use kulprit_judge::{StateVerdict, Verdict};
use kulprit_model::{FindingCode, Subject};
use kulprit_proto::v1::ingest_server::{Ingest, IngestServer};
use tokio::net::TcpListener;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::{
    look::Look,
    spool::Limits,
    tracker::{Memory, ProbeRow, Tracker, run as tracker_run},
};

const BOOT: &str = "3a0ef6f9-32b5-4c1c-a2c2-9f3e0d0b7a11";

/// What the fake central hands to the test, and what the test lets it answer.
struct FakeCentral {
    calls: mpsc::Sender<Call>,
}

struct Call {
    messages: Streaming<AgentMessage>,
    answers: mpsc::Sender<Result<CentralMessage, Status>>,
}

impl Call {
    async fn next(&mut self) -> Message {
        self.messages.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The next that is no heartbeat.
    async fn next_said(&mut self) -> Message {
        loop {
            match self.next().await {
                Message::Heartbeat(_) => {}
                said => return said,
            }
        }
    }

    async fn ack(&self, epoch: u64, seq: u64) {
        self.tell(central_message::Message::Ack(v1::Ack { boot_id: BOOT.to_owned(), epoch, seq })).await;
    }

    async fn tell(&self, message: central_message::Message) {
        self.answers.send(Ok(CentralMessage { message: Some(message) })).await.unwrap();
    }

    /// Records until the snapshot ends, and its last number.
    async fn snapshot(&mut self) -> (Vec<v1::Record>, u64) {
        assert!(matches!(self.next_said().await, Message::Hello(_)));
        assert!(matches!(self.next_said().await, Message::SnapshotBegin(_)));
        let mut records = Vec::new();
        loop {
            match self.next_said().await {
                Message::Record(record) => records.push(record),
                Message::SnapshotEnd(v1::SnapshotEnd { seq }) => return (records, seq),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tonic::async_trait]
impl Ingest for FakeCentral {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<CentralMessage, Status>> + Send>>;

    async fn report(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::ReportStream>, Status> {
        let (answers, outgoing) = mpsc::channel(4);
        let call = Call { messages: request.into_inner(), answers };
        self.calls.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

struct Agent {
    looks: mpsc::Sender<Look>,
    suspects: Arc<watch::Sender<Arc<Suspects>>>,
    captures_asked: mpsc::Receiver<v1::CaptureRequest>,
    captures_made: mpsc::Sender<v1::CaptureResult>,
    state: watch::Receiver<UplinkState>,
    spool: Spool,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

fn start_agent(address: &str) -> Agent {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::kernel();
    let stop = CancellationToken::new();
    let opened = Spool::open(Some(dir.path()), Limits::default(), BOOT, &clock).unwrap();
    let hello =
        v1::Hello { boot_id: BOOT.to_owned(), epoch: opened.epoch, node: "n1".to_owned(), ..Default::default() };
    let rows = [ProbeRow { name: "kvm", look_every: Duration::from_secs(60) }];
    let tracker = Tracker::new(&rows, BOOT, Memory::default(), clock.now());
    let (looks, look_end) = mpsc::channel(8);
    let (asks, ask_end) = mpsc::channel(8);
    let ends = tracker_run::Ends { looks: look_end, asks: ask_end };
    let ready = kulprit_daemon::Readiness::new().block_on("looked");
    let metrics = AgentMetrics::default();
    tokio::spawn(tracker_run::run(
        tracker,
        ends,
        opened.spool.clone(),
        clock.clone(),
        metrics.clone(),
        ready,
        stop.clone(),
    ));
    let (state, seen) = watch::channel(UplinkState::default());
    let central = format!("http://{address}");
    let suspects = Arc::<watch::Sender<Arc<Suspects>>>::default();
    let (capture_asks, captures_asked) = mpsc::channel(1);
    let (captures_made, captures) = mpsc::channel(1);
    let uplink = Uplink {
        central,
        hello: HelloSource::new(hello),
        spool: opened.spool.clone(),
        tracker: asks,
        state,
        suspects: Arc::clone(&suspects),
        capture_asks,
        captures: Mutex::new(captures),
        beat: Beat::new(0, Instant::now()),
        metrics,
        clock,
    };
    tokio::spawn(uplink.run(stop.clone()));
    Agent { looks, state: seen, spool: opened.spool, suspects, captures_asked, captures_made, stop, _dir: dir }
}

async fn see(agent: &Agent, is_missing: bool) {
    let verdict = StateVerdict::seen(FindingCode::KvmDeviceMissing, Subject::Node, is_missing);
    let look = Look {
        probe: "kvm",
        at: Clock::kernel().now(),
        took_usec: 1,
        blind_because: None,
        verdicts: vec![Verdict::State(verdict)],
        sightings: Vec::new(),
        position: None,
    };
    agent.looks.send(look).await.unwrap();
}

async fn start_central(listener: TcpListener) -> mpsc::Receiver<Call> {
    let (calls, received) = mpsc::channel(1);
    let server = Server::builder().add_service(IngestServer::new(FakeCentral { calls }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    received
}

fn status_of(record: &v1::Record) -> Option<(&str, i32)> {
    match &record.body {
        Some(v1::record::Body::State(state)) => Some((state.code.as_str(), state.status)),
        _ => None,
    }
}

#[tokio::test]
async fn a_stream_opens_with_hello_and_snapshot_and_goes_on_with_deltas() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut calls = start_central(listener).await;
    let agent = start_agent(&address);
    see(&agent, false).await;
    let mut call = calls.recv().await.unwrap();
    let (records, end_seq) = call.snapshot().await;
    assert_eq!(records.last().unwrap().seq, end_seq);
    assert!(records.iter().map(|record| record.seq).eq(1..=end_seq), "no gaps, from the first");
    assert!(records.iter().filter_map(status_of).any(|said| said == ("KvmDeviceMissing", v1::Status::Absent.into())));
    see(&agent, true).await;
    let Message::Record(delta) = call.next_said().await else { panic!("a delta is due") };
    assert_eq!((delta.seq, status_of(&delta)), (end_seq + 1, Some(("KvmDeviceMissing", v1::Status::Present.into()))));
    assert!(agent.state.borrow().is_connected);
    call.ack(1, delta.seq).await;
    agent.spool.status().wait_for(|status| status.n_waiting == 0).await.unwrap();
    agent.stop.cancel();
}

#[tokio::test]
async fn what_was_not_acked_is_sent_again_and_what_was_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut calls = start_central(listener).await;
    let agent = start_agent(&address);
    see(&agent, false).await;
    let mut call = calls.recv().await.unwrap();
    let (_, end_seq) = call.snapshot().await;
    call.ack(1, end_seq - 1).await;
    agent.spool.status().wait_for(|status| status.acked_seq == end_seq - 1).await.unwrap();
    drop(call);
    let mut again = calls.recv().await.unwrap();
    let (records, again_seq) = again.snapshot().await;
    assert_eq!(records[0].seq, end_seq, "the one that was not acked comes first");
    assert!(again_seq > end_seq, "the snapshot is said anew");
    assert!(records.iter().map(|record| record.seq).eq(end_seq..=again_seq));
    agent.stop.cancel();
}

#[tokio::test]
async fn a_central_that_comes_late_gets_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut agent = start_agent(&address);
    see(&agent, true).await;
    agent.state.wait_for(|state| state.error.is_some()).await.unwrap();
    let error = agent.state.borrow().error.clone().unwrap();
    assert!(error.starts_with(&format!("failed to connect to central at http://{address}")), "{error}");
    assert!(error.contains("refused"), "{error}");
    let mut calls = start_central(TcpListener::bind(&address).await.unwrap()).await;
    let (records, _) = calls.recv().await.unwrap().snapshot().await;
    assert!(records.iter().filter_map(status_of).any(|said| said == ("KvmDeviceMissing", v1::Status::Present.into())));
    agent.stop.cancel();
}

#[test]
fn addresses_are_checked_before_the_start() {
    assert_eq!(check_address("http://127.0.0.1:7443"), Ok(()));
    for bad in ["", "127.0.0.1:7443", "https://central:7443", "http://", "http://a b"] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_central_wants_reaches_the_probes_and_captures_reach_central() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut calls = start_central(listener).await;
    let mut agent = start_agent(&address);
    see(&agent, false).await;
    let mut call = calls.recv().await.unwrap();
    call.snapshot().await;
    let mut suspects = agent.suspects.subscribe();
    let vm_uids = vec!["a".to_owned()];
    call.tell(central_message::Message::Suspects(v1::Suspects { vm_uids })).await;
    suspects.wait_for(|known| known.contains("a")).await.unwrap();
    let request = v1::CaptureRequest { incident_id: "i".to_owned(), vm_uid: "a".to_owned() };
    call.tell(central_message::Message::CaptureRequest(request.clone())).await;
    assert_eq!(agent.captures_asked.recv().await, Some(request));
    let made = v1::CaptureResult { incident_id: "i".to_owned(), ..v1::CaptureResult::default() };
    agent.captures_made.send(made.clone()).await.unwrap();
    assert_eq!(call.next_said().await, Message::CaptureResult(made));
    call.tell(central_message::Message::Suspects(v1::Suspects::default())).await;
    suspects.wait_for(|known| known.is_empty()).await.unwrap();
    agent.stop.cancel();
}
