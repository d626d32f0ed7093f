//! What central asks of an API server of which all kinds are served and nothing changes: one in memory counts, and its hours pass as fast
//! as this machine runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Response, Uri},
    response::IntoResponse as _,
};
use kube::Client;
use kulprit_central::kubernetes::{
    kinds::Row,
    watch::{Sink, watch},
};
use kulprit_daemon::CancellationToken;
use serde_json::Value;
use tokio::{
    runtime::Builder,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

/// Until everything is listed and all streams stand.
const SETTLING: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3_600);
const EMPTY: &str = r#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;

/// Requests of an hour.
#[derive(Clone, Default)]
pub(crate) struct Requests {
    lists: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

impl Requests {
    /// Counts those of an hour of steady state: pages of lists, and streams that are continued.
    pub(crate) fn of_an_hour() -> (usize, usize) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime starts");
        runtime.block_on(async {
            let (requests, stop) = (Self::default(), CancellationToken::new());
            let server = requests.clone();
            let router = Router::new().fallback(move |uri: Uri| async move { server.answer(&uri) });
            let watching = tokio::spawn(watch(Client::new(router, "default"), Arc::new(Nobody), stop.clone()));
            sleep(SETTLING).await;
            let before = requests.count();
            sleep(HOUR).await;
            let after = requests.count();
            stop.cancel();
            timeout(HOUR, watching).await.expect("it stops").expect("it does not panic").expect("it ends well");
            (after.0 - before.0, after.1 - before.1)
        })
    }

    fn count(&self) -> (usize, usize) {
        (self.lists.load(Ordering::Relaxed), self.streams.load(Ordering::Relaxed))
    }

    fn answer(&self, uri: &Uri) -> Response<Body> {
        let pairs = || uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let value = |key: &str| pairs().find(|pair| pair.0 == key).map(|pair| pair.1);
        if value("watch").is_none() {
            self.lists.fetch_add(1, Ordering::Relaxed);
            return EMPTY.into_response();
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        let secs = value("timeoutSeconds").and_then(|secs| secs.parse().ok()).expect("streams have an end");
        let (stream, lines) = mpsc::channel::<Result<String, std::io::Error>>(1);
        tokio::spawn(async move {
            sleep(Duration::from_secs(secs)).await;
            drop(stream);
        });
        Body::from_stream(ReceiverStream::new(lines)).into_response()
    }
}

/// Takes everything in and keeps nothing.
struct Nobody;

impl Sink for Nobody {
    fn begin_list(&self, _: &'static Row) {}

    fn apply(&self, _: &'static Row, _: Value) -> bool {
        true
    }

    fn delete(&self, _: &'static Row, _: &str, _: &str) {}

    fn end_list(&self, _: &'static Row) {}

    fn synced(&self, _: &'static Row) {}

    fn lost(&self, row: &'static Row, _: Duration, why: &str) {
        panic!("the watch on {} broke: {why}", row.name);
    }

    fn refused(&self, row: &'static Row, why: &str) {
        panic!("the watch on {} was refused: {why}", row.name);
    }

    fn not_served(&self, row: &'static Row) {
        panic!("{} are served", row.name);
    }

    fn told_time(&self, _: i64, _: Duration) {}
}
