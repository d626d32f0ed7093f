//! Every documented series moves.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kulprit_central::{
    metrics::{CentralMetrics, TABLE},
    store::{RecordsWrite, Store, StoreError, StoreWriter, Write},
};
use kulprit_daemon::{Clock, metrics::Metrics};
use kulprit_model::{FindingCode, Status, StreamId, Subject};
use kulprit_proto::v1::{self, agent_message::Message};
use tokio::time::{sleep, timeout};

use crate::{
    agent::{PATIENCE, kubelet, state},
    app::App,
};

/// Fails its first commit; has one old day to drop.
struct Failing(AtomicBool);

impl Store for Failing {
    fn commit(&mut self, _: &[Write]) -> Result<(), StoreError> {
        if self.0.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(StoreError::NoAnswer) }
    }

    fn drop_history_before(&mut self, _: i64) -> Result<usize, StoreError> {
        Ok(1)
    }
}

/// The series of `text` whose value is not 0, without labels.
fn moved(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0") && !line.ends_with(" 0.0"));
    lines.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[track_caller]
fn check_moved(text: &str, without: &[&str]) {
    let moved = moved(text);
    for row in TABLE.iter().filter(|row| !without.contains(&row.name)) {
        let name = if row.kind == "histogram" { format!("{}_count", row.name) } else { row.name.to_owned() };
        assert!(moved.contains(&name.as_str()), "{name} has not moved:\n{text}");
    }
}

/// What only moves where Kubernetes is watched; this central stands alone (`kubernetes::store` and `publish` have their tests).
const OF_KUBERNETES: [&str; 10] = [
    "kulprit_central_events_waiting",
    "kulprit_central_events_dropped_total",
    "kulprit_central_rights_missing",
    "kulprit_central_standby_refusals_total",
    "kulprit_central_watches",
    "kulprit_central_leading",
    "kulprit_central_writes_total",
    "kulprit_central_taints_withheld",
    "kulprit_central_tainted_nodes",
    "kulprit_central_node_conditions",
];
/// What only a node that is silent and a store that is slow move (`figures` and the test below have theirs).
const OF_PATIENCE: [&str; 2] =
    ["kulprit_central_silent_node_last_heard_timestamp_seconds", "kulprit_central_store_waiting_records"];
/// What only moves where somebody is asked who he is (`access` has its tests).
const OF_ACCESS: [&str; 1] = ["kulprit_central_reviews_total"];
/// What only a store in trouble or of old age moves.
const OF_THE_STORE: [&str; 3] = [
    "kulprit_central_store_failures_total",
    "kulprit_central_store_dropped_days_total",
    "kulprit_central_store_waits_seconds",
];
/// What only a caller who takes too much moves (`limits`).
const OF_LIMITS: [&str; 4] = [
    "kulprit_central_unkept_records_total",
    "kulprit_central_rests_total",
    "kulprit_central_unasked_captures_total",
    "kulprit_central_refused_connections_total",
];

/// What only moves where TLS is spoken (`tls`).
const OF_TLS: [&str; 3] = [
    "kulprit_central_handshakes_total",
    "kulprit_central_certificate_not_after_seconds",
    "kulprit_central_certificate_changes_total",
];

#[tokio::test]
async fn every_series_moves_but_those_of_a_store_in_trouble_of_tls_and_of_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let first = app.agent(1).await;
    let mut agent = app.agent(1).await;
    let blind = Subject::Probe { name: "kvm".to_owned() };
    let said = vec![
        kubelet(Status::Present, app.now()),
        state(FindingCode::ProbeBlind, blind, Status::Present, app.now()),
        state(FindingCode::KvmUnusable, Subject::Node, Status::Unknown, app.now()),
    ];
    agent.snapshot(said, app.now()).await;
    let loss = v1::Loss { boot_id: "boot-1".to_owned(), epoch: 1, first_seq: 4, last_seq: 5, count: 2 };
    agent.send(Message::Loss(loss)).await;
    agent.seq = 7;
    agent.say(kubelet(Status::Present, app.now()), app.now()).await;
    agent.acked(8).await;
    drop(first);
    app.wait_for_open_incidents(1).await;
    let _watch = app.watch(v1::WatchIncidentsRequest::default()).await;
    let waited = timeout(PATIENCE, async {
        // Gauges follow once a second.
        while !app.admin("/metrics").await.contains("kulprit_central_states{status=\"present\"} 2") {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("the gauges follow");
    check_moved(
        &app.admin("/metrics").await,
        &[&OF_THE_STORE[..], &OF_KUBERNETES, &OF_PATIENCE, &OF_LIMITS, &OF_TLS, &OF_ACCESS].concat(),
    );
    app.stop().await;
}

#[tokio::test]
async fn a_store_in_trouble_moves_the_others_and_acks_wait() {
    let clock = Clock::kernel();
    let mut metrics = Metrics::new("x", "0", &clock);
    let central = CentralMetrics::register(metrics.section("central"));
    let (durable, mut is_durable) = tokio::sync::mpsc::unbounded_channel();
    let on_durable = Box::new(move |_: &StreamId, _: &[_]| durable.send(()).expect("the test waits"));
    let (writer, end) = StoreWriter::start(Failing(AtomicBool::new(false)), on_durable, central).unwrap();
    let stream = StreamId { cluster: "c".to_owned(), node: "n".to_owned() };
    assert!(writer.try_queue(Write::Records(RecordsWrite::new(stream, 0))));
    sleep(Duration::from_millis(100)).await;
    assert!(is_durable.try_recv().is_err(), "a failed commit makes nothing durable");
    assert_eq!(writer.n_waiting(), 1);
    timeout(PATIENCE, is_durable.recv()).await.expect("it is tried again").unwrap();
    assert_eq!(writer.n_waiting(), 0);
    writer.drop_history_before(0);
    writer.close();
    end.await.unwrap();
    let text = metrics.encode();
    for name in &OF_THE_STORE[..2] {
        assert!(moved(&text).contains(name), "{name} has not moved:\n{text}");
    }
}
