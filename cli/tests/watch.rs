//! `kulprit incidents --watch` as a process: it outlives a central that goes and comes back, and ends when it is told to.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics; clippy only knows the test functions themselves"
)]

use std::{convert::Infallible, net::SocketAddr, pin::Pin, process::Stdio, task, time::Duration};

use kulprit_proto::v1::{self, IncidentEvent, watch_incidents_response::Message};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::{broadcast, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{
    StreamExt as _,
    wrappers::{BroadcastStream, TcpListenerStream},
};
use tonic::{
    Response, Status,
    body::Body,
    codegen::http,
    server::{Grpc, NamedService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::Service;

/// Nothing in a test takes longer, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = Result<v1::WatchIncidentsResponse, Status>;

/// A central that has one open incident, and tells what it is given. It answers one question only.
#[derive(Clone)]
struct Fake {
    told: broadcast::Sender<Answer>,
}

impl NamedService for Fake {
    const NAME: &'static str = "kulprit.v1.Query";
}

impl Service<http::Request<Body>> for Fake {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let later = BroadcastStream::new(self.told.subscribe()).filter_map(Result::ok);
        let begin = [change(&[]), answer(Message::Complete(v1::WatchComplete {}))];
        let mut answers = Some(tokio_stream::iter(begin).chain(later));
        let watch = tower::service_fn(move |_: tonic::Request<v1::WatchIncidentsRequest>| {
            let answers = answers.take().expect("a request is answered once");
            async move { Ok(Response::new(answers)) }
        });
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).server_streaming(watch, request).await) })
    }
}

fn answer(message: Message) -> Answer {
    Ok(v1::WatchIncidentsResponse { message: Some(message) })
}

fn change(events: &[IncidentEvent]) -> Answer {
    let incident = v1::Incident { id: "01M7YSKCYD8SWMVF0B912FFEW5".to_owned(), is_open: true, ..Default::default() };
    let events = events.iter().map(|event| i32::from(*event)).collect();
    answer(Message::Change(v1::IncidentChange { incident: Some(incident), events, at_wall_usec: 1 }))
}

struct Central {
    address: SocketAddr,
    told: broadcast::Sender<Answer>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Central {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let ((told, _), (stop, stopped)) = (broadcast::channel(8), oneshot::channel());
        let fake = Fake { told: told.clone() };
        let task = tokio::spawn(async move {
            let served = Server::builder().add_service(fake).serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                async {
                    let _ = stopped.await;
                },
            );
            served.await.unwrap();
        });
        Self { address, told, stop, task }
    }

    fn tell(&self, answer: Answer) {
        self.told.send(answer).expect("somebody watches");
    }

    async fn end(self) {
        self.tell(Err(Status::unavailable("central is ending")));
        drop(self.told);
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// The command, and what it prints.
struct Watching {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Watching {
    fn start(address: SocketAddr) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit"));
        command.args(["--central", &format!("http://{address}"), "incidents", "--watch", "-o", "json"]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("it was built");
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err }
    }

    /// The kind of the next line.
    async fn kind(&mut self) -> String {
        let line = timeout(PATIENCE, self.out.next_line()).await.expect("a line comes").unwrap().expect("it goes on");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON was asked for");
        line["kind"].as_str().unwrap().to_owned()
    }

    async fn noted(&mut self) -> String {
        timeout(PATIENCE, self.err.next_line()).await.expect("a line comes").unwrap().expect("it goes on")
    }

    async fn ended(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }
}

#[tokio::test]
async fn a_watch_goes_on_with_a_central_that_comes_back_and_ends_with_ctrl_c() {
    let central = Central::start("127.0.0.1:0").await;
    let address = central.address;
    let mut watching = Watching::start(address);
    assert_eq!(
        [watching.kind().await, watching.kind().await, watching.kind().await],
        ["begin", "incident", "complete"]
    );
    central.tell(change(&[IncidentEvent::MemberJoined]));
    assert_eq!(watching.kind().await, "incident");

    central.end().await;
    assert_eq!(watching.noted().await, "the connection to central is lost, trying again: central is ending");
    let central = Central::start(&address.to_string()).await;
    assert_eq!(
        [watching.kind().await, watching.kind().await, watching.kind().await],
        ["begin", "incident", "complete"]
    );
    assert_eq!(watching.noted().await, "central answers again");

    let pid = i32::try_from(watching.child.id().expect("it runs")).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    assert_eq!(watching.ended().await, Some(0));
    drop(central);
}

#[tokio::test]
async fn a_watch_ends_when_nobody_reads_it_any_more() {
    let central = Central::start("127.0.0.1:0").await;
    let mut watching = Watching::start(central.address);
    for _ in 0..3 {
        watching.kind().await;
    }
    let Watching { mut child, out, err } = watching;
    drop(out);
    central.tell(change(&[IncidentEvent::MemberJoined]));
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    drop(err);
}

#[tokio::test]
async fn a_watch_that_was_never_answered_does_not_go_on() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut watching = Watching::start(address);
    assert!(watching.noted().await.starts_with("error: central does not answer at"));
    assert_eq!(watching.ended().await, Some(2));
}
