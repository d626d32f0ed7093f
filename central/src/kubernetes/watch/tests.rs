//! The watches against an API server that does what a real one does on its worse days.

mod bad_days;
mod server;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use kulprit_daemon::CancellationToken;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::server::Server;
use super::{Sink, watch_rows};
use crate::kubernetes::kinds::{ROWS, Row};

/// Writes down what it is told.
#[derive(Default)]
struct Recorder {
    told: Mutex<Vec<String>>,
    objects: Mutex<BTreeSet<String>>,
    /// Since when the last `lost` was so.
    unseen_for: Mutex<Duration>,
    date: Mutex<Option<(i64, Duration)>>,
}

impl Recorder {
    fn tell(&self, what: impl Into<String>) {
        self.told.lock().unwrap().push(what.into());
    }
}

impl Sink for Recorder {
    fn begin_list(&self, _: &'static Row) {
        self.tell("begin");
    }

    fn apply(&self, row: &'static Row, object: Value) -> bool {
        assert_eq!(object["kind"], row.kind.as_str());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.tell(format!("apply {name}"));
        self.objects.lock().unwrap().insert(name.clone());
        name != "unwanted"
    }

    fn delete(&self, _: &'static Row, namespace: &str, name: &str) {
        self.tell(format!("delete {namespace}/{name}"));
        self.objects.lock().unwrap().remove(name);
    }

    fn end_list(&self, _: &'static Row) {
        self.tell("end");
    }

    fn synced(&self, _: &'static Row) {
        self.tell("synced");
    }

    fn lost(&self, _: &'static Row, unseen_for: Duration, why: &str) {
        *self.unseen_for.lock().unwrap() = unseen_for;
        self.tell(format!("lost: {why}"));
    }

    fn refused(&self, _: &'static Row, why: &str) {
        self.tell(format!("refused: {why}"));
    }

    fn not_served(&self, _: &'static Row) {
        self.tell("not served");
    }

    fn told_time(&self, date_usec: i64, within: Duration) {
        *self.date.lock().unwrap() = Some((date_usec, within));
    }
}

/// VirtualMachines, or other rows, watched.
struct World {
    server: Server,
    recorder: Arc<Recorder>,
    stop: CancellationToken,
}

impl World {
    fn new(server: Server) -> Self {
        Self::of(&ROWS[1..2], server)
    }

    fn of(rows: &'static [Row], server: Server) -> Self {
        let (recorder, stop) = (Arc::new(Recorder::default()), CancellationToken::new());
        let watching = watch_rows(rows, server.client(), Arc::clone(&recorder), stop.clone());
        tokio::spawn(async { watching.await.unwrap() });
        Self { server, recorder, stop }
    }

    /// With `a` and `b`, in sync, and what was told so far forgotten.
    async fn in_sync() -> Self {
        let world = Self::new(Server::with(&["a", "b"]));
        world.until_told("end").await;
        sleep(Duration::from_secs(20)).await;
        world.forget();
        world
    }

    fn told(&self) -> Vec<String> {
        self.recorder.told.lock().unwrap().clone()
    }

    fn forget(&self) {
        self.recorder.told.lock().unwrap().clear();
        self.server.forget();
    }

    fn objects(&self) -> Vec<String> {
        self.recorder.objects.lock().unwrap().iter().cloned().collect()
    }

    /// Waits, and answers how long it took.
    async fn until_told(&self, begin: &str) -> Duration {
        let since = Instant::now();
        while !self.told().iter().any(|told| told.starts_with(begin)) {
            assert!(since.elapsed() < Duration::from_secs(300), "{begin:?} was not told: {:?}", self.told());
            sleep(Duration::from_millis(10)).await;
        }
        since.elapsed()
    }

    fn n_told(&self, begin: &str) -> usize {
        self.told().iter().filter(|told| told.starts_with(begin)).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_page_by_page_and_then_followed() {
    let server = Server::with(&["a", "b", "c", "d", "e"]);
    server.set(|state| state.n_per_page = 2);
    let world = World::new(server);
    world.until_told("end").await;
    assert_eq!(world.told(), ["begin", "apply a", "apply b", "apply c", "apply d", "apply e", "end"]);
    sleep(Duration::from_millis(100)).await;
    world.server.put("f", json!({}));
    world.server.remove("a");
    world.until_told("delete ns/a").await;
    assert_eq!(world.objects(), ["b", "c", "d", "e", "f"]);
    let requests = world.server.requests();
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert!(requests[..3].iter().all(|request| request.contains("limit=250")));
    assert!(requests[3].contains("watch=true") && requests[3].contains("allowWatchBookmarks=true"), "{requests:?}");
    assert!(requests[3].ends_with("resourceVersion=5"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn one_bad_object_costs_only_itself() {
    let server = Server::with(&["a", "z"]);
    let deep =
        format!(r#"{{"metadata":{{"name":"deep","namespace":"ns"}},"spec":{}{}}}"#, "[".repeat(900), "]".repeat(900));
    for bad in ["null", "[]", "{}", r#"{"metadata":"x"}"#, r#"{"metadata":{"name":[]}}"#, &deep] {
        server.set(|state| state.bad.push(bad.to_owned()));
    }
    let world = World::new(server);
    world.until_told("end").await;
    assert_eq!(world.objects(), ["a", "deep", "z"]);
    sleep(Duration::from_secs(5)).await;
    world.forget();
    world.server.line(r#"{"type":"MODIFIED","object":{"metadata":7}}"#);
    world.server.line(&format!(r#"{{"type":"ADDED","object":{deep}}}"#));
    world.server.put("b", json!({"metadata": {"future": {"x": [null]}}}));
    world.until_told("apply b").await;
    assert_eq!(world.told(), ["apply deep", "apply b"]);
    assert!(world.server.requests().is_empty(), "the stream goes on");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_served_is_told_once_and_found_later() {
    let server = Server::with(&["a"]);
    server.fail(404, "page not found");
    let world = World::new(server);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.told(), ["not served"]);
    let n = world.server.requests().len();
    assert!((20..=24).contains(&n), "every 30 s: {n}");
    world.server.heal();
    assert!(world.until_told("end").await <= Duration::from_secs(30));
    assert_eq!(world.told(), ["not served", "begin", "apply a", "end"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_served_no_more_is_unknown_first_and_then_gone() {
    let world = World::in_sync().await;
    world.server.fail(404, "page not found");
    world.server.cut();
    world.until_told("lost: 404").await;
    let took = world.until_told("not served").await;
    assert!((Duration::from_secs(28)..Duration::from_secs(65)).contains(&took), "{took:?}");
    assert_eq!(world.objects(), [""; 0]);
    assert_eq!(world.n_told("lost"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_told_once_with_the_missing_right() {
    let server = Server::with(&["a"]);
    server.fail(403, "User \"k\" cannot list resource");
    let world = World::new(server);
    sleep(Duration::from_secs(600)).await;
    let want = "refused: may not list virtualmachines.kubevirt.io: User \"k\" cannot list resource";
    assert_eq!(world.told(), [want]);
    let n = world.server.requests().len();
    assert!((10..=14).contains(&n), "every 60 s: {n}");
    world.server.heal();
    assert!(world.until_told("end").await <= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_forgotten_means_a_new_list_and_what_is_gone_is_gone() {
    let world = World::in_sync().await;
    world.server.set(|state| {
        state.objects.remove("a");
    });
    world.server.line(r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old resource version: 1 (9)"}}"#);
    world.until_told("end").await;
    assert_eq!(world.told(), ["begin", "apply b", "delete ns/a", "end"]);
    sleep(Duration::from_secs(20)).await;
    world.forget();
    world.server.fail(410, "Expired");
    world.server.cut();
    sleep(Duration::from_millis(1)).await;
    world.server.heal();
    world.until_told("end").await;
    assert_eq!(world.told(), ["begin", "apply b", "end"], "the same if it is not even a stream");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_and_nothing_is_forgotten() {
    for code in [429, 500, 503, 401] {
        let world = World::in_sync().await;
        world.server.fail(code, "not today");
        world.server.cut();
        world.until_told("lost").await;
        sleep(Duration::from_secs(180)).await;
        assert_eq!(world.told(), [format!("lost: {code}: not today")]);
        let n = world.server.requests().len();
        assert!((6..40).contains(&n), "{code}: {n} requests in three minutes");
        world.server.heal();
        let took = world.until_told("synced").await;
        assert!(took <= Duration::from_secs(33), "{took:?}");
        assert_eq!(world.n_told("begin"), 0, "no list: what was missed comes by the stream");
        world.server.put("c", json!({}));
        world.until_told("apply c").await;
        assert_eq!(world.objects(), ["a", "b", "c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_versions_from_before_are_forgotten_and_all_is_listed_at_once() {
    let world = World::in_sync().await;
    world.server.fail(503, "not today");
    world.server.cut();
    world.until_told("lost").await;
    sleep(Duration::from_secs(180)).await;
    world.server.fail(410, "too old resource version");
    world.server.forget();
    while world.server.requests().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    world.server.heal();
    assert!(world.until_told("end").await <= Duration::from_secs(1));
    assert_eq!(world.told(), ["lost: 503: not today", "begin", "apply a", "apply b", "end"]);
}

#[tokio::test(start_paused = true)]
async fn when_one_row_is_over_an_outage_the_others_do_not_wait_for_their_turn() {
    let world = World::of(&ROWS, Server::with(&["a"]));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.n_told("end"), ROWS.len());
    let first = world.server.requests().iter().position(|request| request.contains("watch=true")).unwrap();
    assert!(first < ROWS.len(), "a row that is listed does not wait for the others");
    world.forget();
    world.server.fail(503, "not today");
    world.server.cut();
    sleep(Duration::from_secs(180)).await;
    assert_eq!(world.n_told("lost"), ROWS.len());
    world.server.heal();
    world.until_told("synced").await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.n_told("synced"), ROWS.len());
}

#[tokio::test(start_paused = true)]
async fn the_api_server_says_when_to_come_again() {
    let world = World::in_sync().await;
    world.server.set(|state| state.retry_after_secs = 25);
    world.server.fail(429, "too many");
    world.server.cut();
    world.until_told("lost").await;
    sleep(Duration::from_secs(100)).await;
    assert!(world.server.requests().len() <= 6, "{:?}", world.server.requests());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_goes_on_where_it_was() {
    let world = World::in_sync().await;
    world.server.put("c", json!({}));
    world.until_told("apply c").await;
    world.server.line(r#"{"type":"BOOKMARK","object":{"kind":"VirtualMachine","metadata":{"resourceVersion":"77"}}}"#);
    sleep(Duration::from_millis(10)).await;
    world.server.cut();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.told(), ["apply c"]);
    let requests = world.server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].ends_with("resourceVersion=77"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_kind_stays_in_sync() {
    let world = World::in_sync().await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.told(), [""; 0]);
    let n = world.server.requests().len();
    assert!((9..=11).contains(&n), "one a minute: {n}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed_within_65_s() {
    let world = World::in_sync().await;
    world.server.set(|state| state.is_dead = true);
    let took = world.until_told("lost: nothing came for").await;
    assert!(took <= Duration::from_secs(65), "{took:?}");
    let took = world.until_told("synced").await;
    assert!(took <= Duration::from_secs(3), "by another one: {took:?}");
    assert_eq!(world.n_told("begin"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_an_outage() {
    let world = World::in_sync().await;
    world.server.set(|state| state.hangs = true);
    world.server.cut();
    let took = world.until_told("lost: no answer within 65 s").await;
    assert!(took <= Duration::from_secs(66), "{took:?}");
    world.server.set(|state| state.hangs = false);
    world.until_told("synced").await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_at_once_are_an_outage_and_no_storm() {
    let world = World::in_sync().await;
    world.server.set(|state| state.cuts = true);
    world.server.cut();
    world.until_told("lost: each stream").await;
    sleep(Duration::from_secs(300)).await;
    assert!(world.server.requests().len() < 60, "{}", world.server.requests().len());
    assert_eq!(world.n_told("synced"), 0);
    world.server.set(|state| state.cuts = false);
    world.until_told("synced").await;
}

#[tokio::test(start_paused = true)]
async fn answers_of_somebody_else_are_an_outage() {
    let world = World::in_sync().await;
    for line in ["<html>", r#"{"type":"ERROR","object":{"code":500,"message":"cannot decode"}}"#] {
        world.server.line(line);
        world.until_told("end").await;
        assert_eq!(world.n_told("lost"), 0, "one broken line costs a list");
        world.forget();
        sleep(Duration::from_secs(20)).await;
    }
    world.server.set(|state| state.page = Some("<html>log in</html>".to_owned()));
    world.server.line(r#"{"type":"FUTURE","object":{}}"#);
    world.until_told("lost: an answer that is none of Kubernetes").await;
    world.server.set(|state| state.page = Some(r#"{"items":[]}"#.to_owned()));
    world.until_told("lost: an answer that is none of Kubernetes: a list without a resourceVersion").await;
    assert_eq!(world.objects(), ["a", "b"], "nothing is gone by that");
    world.server.set(|state| state.page = None);
    world.until_told("end").await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_removes_nothing() {
    let world = World::in_sync().await;
    world.server.put("c", json!({}));
    world.until_told("apply c").await;
    world.server.set(|state| (state.n_per_page, state.n_pages) = (1, Some(1)));
    world.server.line(r#"{"type":"ERROR","object":{"code":410}}"#);
    world.until_told("lost: 500").await;
    assert_eq!((world.objects().len(), world.n_told("delete")), (3, 0));
    world.server.set(|state| {
        state.objects.remove("b");
        state.n_pages = None;
    });
    world.until_told("end").await;
    assert_eq!(world.objects(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_sink_does_not_keep_is_not_deleted_by_a_list() {
    let world = World::new(Server::with(&["a", "unwanted"]));
    world.until_told("end").await;
    sleep(Duration::from_secs(5)).await;
    world.forget();
    world.server.set(|state| state.objects.clear());
    world.server.line(r#"{"type":"ERROR","object":{"code":410}}"#);
    world.until_told("end").await;
    assert_eq!(world.told(), ["begin", "delete ns/a", "end"]);
}

#[tokio::test]
async fn a_sink_that_panics_ends_the_watches_with_an_error() {
    struct Broken;
    impl Sink for Broken {
        fn begin_list(&self, _: &'static Row) {
            panic!("broken");
        }
        fn apply(&self, _: &'static Row, _: Value) -> bool {
            true
        }
        fn delete(&self, _: &'static Row, _: &str, _: &str) {}
        fn end_list(&self, _: &'static Row) {}
        fn synced(&self, _: &'static Row) {}
        fn lost(&self, _: &'static Row, _: Duration, _: &str) {}
        fn refused(&self, _: &'static Row, _: &str) {}
        fn not_served(&self, _: &'static Row) {}
        fn told_time(&self, _: i64, _: Duration) {}
    }
    let client = Server::with(&["a"]).client();
    let ended = watch_rows(&ROWS[1..2], client, Arc::new(Broken), CancellationToken::new()).await;
    assert!(ended.is_err());
}
