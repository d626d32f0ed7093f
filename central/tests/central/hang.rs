//! A disk that hangs: acks stop, verdicts do not, and what was not acked is asked for again.

use std::{sync::mpsc, time::Duration};

use kulprit_central::{
    access::{Access, Guarded, Service},
    config::Config,
    ingest::IngestService,
    live::Live,
    metrics::CentralMetrics,
    state::{CurrentState, Limits},
    store::{Store, StoreError, StoreWriter, Write},
};
use kulprit_daemon::{CancellationToken, Clock, metrics::Metrics};
use kulprit_diagnosis::Settings;
use kulprit_model::Status;
use kulprit_proto::v1::ingest_server::IngestServer;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, transport::Server};

use crate::agent::{Agent, PATIENCE, hello, kubelet};

/// Commits nothing until it is let go.
struct Hanging(mpsc::Receiver<()>);

impl Store for Hanging {
    fn commit(&mut self, _: &[Write]) -> Result<(), StoreError> {
        // An error means that it was let go for good.
        let _ = self.0.recv();
        Ok(())
    }

    fn drop_history_before(&mut self, _: i64) -> Result<usize, StoreError> {
        Ok(0)
    }
}

fn status_of_kubelet(live: &Live) -> Option<Status> {
    live.snapshot().nodes.first().and_then(|node| node.states.first()).map(|state| state.status)
}

async fn wait_for(live: &Live, want: Status) {
    let waited = timeout(PATIENCE, async {
        while status_of_kubelet(live) != Some(want) {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("the kubelet stays {:?}, wanted {want}", status_of_kubelet(live)));
}

// Invariant 7: a recovery is never held back, by a store that hangs neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_stops_acks_and_no_verdict() {
    let (clock, stop) = (Clock::kernel(), CancellationToken::new());
    let mut metrics = Metrics::new("x", "0", &clock);
    let central = CentralMetrics::register(metrics.section("central"));
    let live = Live::new(CurrentState::new(Limits::default(), clock.now()), clock.clone(), Settings::default(), false);
    let (let_go, hanging) = mpsc::channel();
    let on_durable = live.clone();
    let on_durable = Box::new(move |stream: &_, marks: &[_]| on_durable.on_durable(stream, marks));
    let (writer, end) = StoreWriter::start(Hanging(hanging), on_durable, central.clone()).unwrap();
    let (access, allowances) = (Access::open(Clock::kernel(), central.clone()), Config::default().allowances());
    let own = "lab".to_owned();
    let ingest =
        IngestService::new(live.clone(), writer.clone(), central, access.clone(), own, allowances, stop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_service(Guarded::new(IngestServer::new(ingest), access, Service::Ingest))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
    let server = tokio::spawn(server);

    let now = clock.now();
    let mut agent = Agent::connect(address, hello("n1", 1, now)).await;
    agent.snapshot(vec![kubelet(Status::Present, now)], now).await;
    wait_for(&live, Status::Present).await;
    // More rows than may wait: the stream goes on without the store.
    for _ in 0..40_000 {
        agent.say(kubelet(Status::Present, now), now).await;
    }
    agent.say(kubelet(Status::Absent, now), now).await;
    wait_for(&live, Status::Absent).await;
    agent.say(kubelet(Status::Present, now), now).await;
    wait_for(&live, Status::Present).await;
    let no_ack = timeout(Duration::from_millis(100), agent.next_ack()).await;
    assert!(no_ack.is_err(), "nothing is durable, and yet {no_ack:?}");

    drop(let_go);
    let told = agent.end().await;
    assert_eq!(
        (told.code(), told.message()),
        (Code::Unavailable, "the store was behind; send again what was not acked")
    );
    let mut again = Agent::connect(address, hello("n1", 1, now)).await;
    let last = agent.seq;
    let acked = again.next_ack().await.unwrap().seq;
    assert!(acked < last, "what was not queued is not acked");
    again.seq = acked;
    while again.seq < last {
        again.say(kubelet(Status::Absent, now), now).await;
    }
    again.acked(last).await;
    stop.cancel();
    server.await.unwrap().unwrap();
    writer.close();
    end.await.unwrap();
}
