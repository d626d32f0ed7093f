//! How fast findings become durable: the whole path, from gRPC over memory to the fsync and back to the ack.
//!
//! One round sends [`N_RECORDS`] state records on each of [`N_STREAMS`] streams and waits until the last is acked. Criterion's
//! throughput is findings acked per second.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kulprit_central::{
    app::{Addresses, run_on},
    config::{Config, LimitConfig},
};
use kulprit_daemon::{CancellationToken, Clock};
use kulprit_model::{
    Attributes, Body, Evidence, FindingCode, Moment, Record, Stamp, State, Status, Subject, attribute,
};
use kulprit_proto::v1::{
    self, AgentMessage, CentralMessage, agent_message::Message, central_message, ingest_client::IngestClient,
};
use tokio::{runtime::Runtime, sync::mpsc, sync::oneshot, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

const N_STREAMS: u64 = 8;
const N_RECORDS: u64 = 2_000;

struct Agent {
    to_central: mpsc::Sender<AgentMessage>,
    acks: Streaming<CentralMessage>,
    seq: u64,
    now: Moment,
}

impl Agent {
    async fn connect(addresses: Addresses, node: u64, now: Moment) -> Self {
        let (to_central, messages) = mpsc::channel(1_024);
        let hello = v1::Hello {
            node: format!("n{node}"),
            boot_id: "boot".to_owned(),
            epoch: 1,
            sent: Some(now.into()),
            ..v1::Hello::default()
        };
        to_central.send(AgentMessage { message: Some(Message::Hello(hello)) }).await.expect("the stream is open");
        let endpoint = Endpoint::from_shared(format!("http://{}", addresses.grpc)).expect("it is a URL");
        let mut client = IngestClient::new(endpoint.connect().await.expect("central listens"));
        let acks = client.report(ReceiverStream::new(messages)).await.expect("central accepts").into_inner();
        Self { to_central, acks, seq: 0, now }
    }

    async fn round(mut self) -> Self {
        let last = self.seq + N_RECORDS;
        let (to_central, now, first) = (self.to_central.clone(), self.now, self.seq + 1);
        let sending = tokio::spawn(async move {
            for seq in first..=last {
                let message = AgentMessage { message: Some(Message::Record(record(seq, now))) };
                to_central.send(message).await.expect("the stream is open");
            }
        });
        while self.seq < last {
            let message = self.acks.message().await.expect("the stream is open").expect("it goes on");
            if let Some(central_message::Message::Ack(ack)) = message.message {
                self.seq = ack.seq;
            }
        }
        sending.await.expect("sending does not panic");
        self
    }
}

/// A state as an agent sends it: with an attribute and a line of evidence. A hundred subjects in turn.
fn record(seq: u64, at: Moment) -> v1::Record {
    let state = State {
        code: FindingCode::QemuThreadBlocked,
        subject: Subject::vm(format!("00000000-0000-4000-8000-{:012}", seq % 100)),
        status: if seq.is_multiple_of(2) { Status::Present } else { Status::Absent },
        since: at,
        looked: at,
        unknown_because: None,
        attributes: Attributes::new().with(attribute::WCHAN, "io_schedule").with(attribute::TID, seq),
        evidence: vec![Evidence::new("procfs", at, "thread 4711 (CPU 0/KVM) in state D, waits in io_schedule")],
    };
    Record { stamp: Stamp { boot_id: "boot".to_owned(), epoch: 1, seq, at }, body: Body::State(state) }.into()
}

fn ingest(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    // What is measured is what all agents may say together.
    let limits = LimitConfig { messages_per_second: u32::MAX, history_at_once: u32::MAX, ..LimitConfig::default() };
    let config = Config {
        limits,
        listen: "127.0.0.1:0".parse().expect("an address"),
        admin_listen: "127.0.0.1:0".parse().expect("an address"),
        data_dir: folder.path().to_owned(),
        ..Config::default()
    };
    let (clock, stop) = (Clock::kernel(), CancellationToken::new());
    let now = clock.now();
    let (started, starting) = oneshot::channel();
    let central = runtime.spawn(run_on(config, stop.clone(), clock, Some(started)));
    let mut agents: Vec<Agent> = runtime.block_on(async {
        let addresses = starting.await.expect("central starts");
        let mut agents = Vec::new();
        for node in 0..N_STREAMS {
            agents.push(Agent::connect(addresses, node, now).await);
        }
        agents
    });
    let mut group = criterion.benchmark_group("ingest");
    group.throughput(Throughput::Elements(N_STREAMS * N_RECORDS)).sample_size(20);
    group.measurement_time(Duration::from_secs(15));
    group.bench_function("findings_acked_after_fsync", |bencher| {
        bencher.iter(|| {
            agents = runtime.block_on(async {
                let mut rounds = JoinSet::new();
                for agent in agents.drain(..) {
                    rounds.spawn(agent.round());
                }
                rounds.join_all().await
            });
            black_box(agents.len())
        });
    });
    group.finish();
    drop(agents);
    stop.cancel();
    runtime.block_on(central).expect("central does not panic").expect("central ends well");
}

criterion_group!(benches, ingest);
criterion_main!(benches);
