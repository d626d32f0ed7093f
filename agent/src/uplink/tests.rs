//! The uplink against a central that does as it is told, over real HTTP/2 on port 0.

use std::pin::Pin;

use kulprit_judge::{StateVerdict, Verdict};
use kulprit_model::{FindingCode, Subject};
use kulprit_proto::v1::ingest_server::{Ingest, IngestServer};
use kulprit_tls::{
    Clients, server_config,
    testing::{Authority, Issued},
};
use rustls::{ServerConfig, time_provider::DefaultTimeProvider};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::{
    config::TlsConfig,
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
    /// What came as `authorization`.
    authorization: Option<String>,
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
        let authorization = request.metadata().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let call = Call { authorization, messages: request.into_inner(), answers };
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
    start_agent_of(Central { address: format!("http://{address}"), tls: TlsConfig::default(), token: None })
}

fn start_agent_of(central: Central) -> Agent {
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

/// What is wrong with an address and the keys beside it; empty: nothing.
#[track_caller]
fn check(address: &str, tls: TlsConfig, token: Option<&str>, want: &str) {
    let central = Central { address: address.to_owned(), tls, token: token.map(Into::into) };
    let said = central.check().err().unwrap_or_default();
    assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{address}: {said}");
}

#[test]
fn addresses_are_checked_before_the_start() {
    let none = TlsConfig::default;
    let ca = || TlsConfig { ca: Some("ca.crt".into()), ..none() };
    for address in ["http://127.0.0.1:7443", "http://localhost:7443", "http://[::1]:7443"] {
        check(address, none(), None, "");
        check(address, none(), Some("token"), "");
    }
    for bad in ["", "127.0.0.1:7443", "http://", "http://a b", "unix:///a", "https://"] {
        assert!(Central { address: bad.to_owned(), tls: none(), token: None }.check().is_err(), "{bad}");
    }
    check("https://central:7443", ca(), None, "");
    check("https://central:7443", ca(), Some("token"), "");
    check("https://central:7443", none(), None, "`tls.ca` is missing");
    check("http://10.0.0.1:7443", none(), None, "plaintext is for loopback alone");
    check("http://central:7443", none(), Some("token"), "the token would be sent in plaintext");
    check("http://127.0.0.1:7443", ca(), None, "write https://");
    let half = TlsConfig { certificate: Some("a".into()), ..ca() };
    check("https://central:7443", half, None, "go together");
}

/// A central by TLS, which hands over what it gets.
async fn start_tls_central(config: Arc<ServerConfig>) -> (String, mpsc::Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (calls, received) = mpsc::channel(1);
    let (connections, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connections) = (TlsAcceptor::from(Arc::clone(&config)), connections.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let (mut near, far) = tokio::io::duplex(1 << 16);
                connections.send(Ok::<_, std::io::Error>(far)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut near).await;
            });
        }
    });
    let server = Server::builder().add_service(IngestServer::new(FakeCentral { calls }));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
    (address, received)
}

fn tls_server(issued: &Issued, clients: Clients<'_>) -> Arc<ServerConfig> {
    server_config(issued.identity(), clients, Arc::new(DefaultTimeProvider)).unwrap()
}

#[tokio::test]
async fn by_tls_each_stream_shows_the_token_and_trusts_the_ca_of_its_own_time() {
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (address, mut calls) =
        start_tls_central(tls_server(&second.issue("central", &["central.example"]), Clients::Anyone)).await;
    let told = |files: [&std::path::Path; 2], text: &str| {
        files.iter().fold(text.to_owned(), |text, file| text.replace(&file.display().to_string(), "FILE"))
    };
    let tls = TlsConfig { ca: Some(ca_file.clone()), ..TlsConfig::default() };
    let central = Central { address: address.clone(), tls, token: Some(token.clone()) };
    let fault = async |central: &Central| {
        let error = central.connect().await.map(drop).unwrap_err();
        told([&ca_file, &token], &Chain(&error).to_string()).replace(&address, "ADDRESS")
    };
    assert!(
        fault(&central)
            .await
            .starts_with("cannot connect to central at ADDRESS by TLS: failed to read `FILE`: No such file")
    );
    std::fs::write(&ca_file, first.text()).unwrap();
    assert!(fault(&central).await.starts_with("cannot read the token `FILE` for central: No such file"));
    std::fs::write(&token, "  \n").unwrap();
    assert_eq!(fault(&central).await, "cannot read the token `FILE` for central: it is empty");
    std::fs::write(&token, "one\n").unwrap();
    let untrusted = fault(&central).await;
    assert!(untrusted.starts_with("failed to connect to central at ADDRESS: "), "{untrusted}");
    assert!(untrusted.contains("the server's certificate is of no CA in `FILE`"), "{untrusted}");
    std::fs::write(&ca_file, second.text()).unwrap();
    let wrong_name = fault(&central).await;
    assert!(wrong_name.contains("is for central.example and not for 127.0.0.1"), "{wrong_name}");

    let tls = TlsConfig { name: Some("central.example".to_owned()), ..central.tls.clone() };
    let agent = start_agent_of(Central { tls, ..central });
    see(&agent, false).await;
    let mut call = calls.recv().await.unwrap();
    assert_eq!(call.authorization.as_deref(), Some("Bearer one"));
    call.snapshot().await;
    std::fs::write(&token, "two").unwrap();
    drop(call);
    let again = calls.recv().await.unwrap();
    assert_eq!(again.authorization.as_deref(), Some("Bearer two"));
    assert!(!format!("{:?}", agent.state.borrow()).contains("two"));
    agent.stop.cancel();
}

#[tokio::test]
async fn a_central_that_speaks_tls_and_is_asked_in_plaintext_is_said() {
    let config = tls_server(&Authority::new("ca").issue("central", &["127.0.0.1"]), Clients::Anyone);
    let (address, _calls) = start_tls_central(config).await;
    let mut agent = start_agent(address.trim_start_matches("https://"));
    agent.state.wait_for(|state| state.error.is_some()).await.unwrap();
    let error = agent.state.borrow().error.clone().unwrap();
    assert!(error.contains("does it speak TLS there"), "{error}");
    agent.stop.cancel();
}

#[tokio::test]
async fn a_central_that_wants_a_certificate_is_shown_it_and_says_so_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let trusted = clients.pem();
    let config = tls_server(&ca.issue("central", &["127.0.0.1"]), Clients::Must(&trusted));
    let (address, mut calls) = start_tls_central(config).await;
    let ca_file = folder.path().join("ca.crt");
    std::fs::write(&ca_file, ca.text()).unwrap();
    let tls = TlsConfig { ca: Some(ca_file), ..TlsConfig::default() };
    let mut agent = start_agent_of(Central { address: address.clone(), tls: tls.clone(), token: None });
    agent.state.wait_for(|state| state.error.is_some()).await.unwrap();
    let error = agent.state.borrow().error.clone().unwrap();
    assert!(error.contains("the server wants a certificate of its clients"), "{error}");
    agent.stop.cancel();
    let (certificate, key) = clients.issue("n1", &["n1"]).write(folder.path(), "n1");
    let tls = TlsConfig { certificate: Some(certificate), key: Some(key), ..tls };
    let agent = start_agent_of(Central { address, tls, token: None });
    see(&agent, false).await;
    calls.recv().await.unwrap().snapshot().await;
    agent.stop.cancel();
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
