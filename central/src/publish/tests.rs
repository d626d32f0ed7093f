//! What reaches the API server, and what does not, on its better and worse days.

mod cleaning;
mod server;
mod telling;

use std::collections::BTreeMap;

use kulprit_daemon::{clock::ManualClock, metrics::Metrics};
use kulprit_model::{FindingCode, Moment, Status};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use self::server::{Server, State};
use super::{
    teller::{self, Teller},
    *,
};
use crate::{
    conditions::{Blame, Truth, judge, testing},
    events::Reports,
    incident::Incidents,
    kubernetes::{kinds::ROWS, lease::Election, watch::Sink as _},
    taints::Effect,
    testing::Log,
};

/// What ends it, and its tasks.
type Central = (CancellationToken, Vec<JoinHandle<Result<(), BoxError>>>);

/// An API server, the watches' store, and centrals that write.
struct World {
    server: Server,
    clock: ManualClock,
    cluster: ClusterStore,
    verdicts: watch::Sender<Verdicts>,
    reports: watch::Sender<Reports>,
    metrics: Metrics,
    counted: CentralMetrics,
    centrals: BTreeMap<&'static str, Central>,
    shows: bool,
}

fn settings() -> Settings {
    let effects = [(NodeCondition::KvmUnavailable, Effect::NoSchedule)].into();
    let policy = Policy {
        effects,
        max_nodes: 2,
        max_percent: 50,
        after_usec: 60_000_000,
        storm_nodes: 3,
        cool_down_usec: 900_000_000,
    };
    Settings { conditions: true, npd_mode: NpdMode::Coexist, taints: policy, dry_run: false }
}

fn conditions_alone() -> Settings {
    let all = settings();
    Settings { taints: Policy { effects: BTreeMap::new(), ..all.taints }, ..all }
}

impl World {
    /// So many nodes, `n0` and on, all well, and no central yet.
    fn new(n_nodes: usize) -> Self {
        let clock = ManualClock::new(Moment { wall_usec: testing::NOW, boottime_usec: 1 });
        let cluster = ClusterStore::new(watch::Sender::new(0), clock.clock());
        let mut metrics = Metrics::new("kulprit-central", "0", &clock.clock());
        let counted = CentralMetrics::register(metrics.section("central"));
        let (server, verdicts, reports) = (Server::default(), watch::Sender::new(None), watch::Sender::new(None));
        (0..n_nodes).for_each(|n| server.add(&format!("n{n}")));
        let centrals = BTreeMap::new();
        let world = Self { server, clock, cluster, verdicts, reports, metrics, counted, centrals, shows: true };
        ROWS.iter().for_each(|row| world.cluster.end_list(row));
        world.show();
        world.judge(&[]);
        world
    }

    fn start(&mut self, name: &'static str, settings: Settings) {
        let (writes, stop) = (Writes::new(self.server.client()), CancellationToken::new());
        let (namespace, clock) = ("kulprit".to_owned(), self.clock.clock());
        let (election, leading) = Election::new(writes.clone(), namespace, name.to_owned(), clock.clone());
        let (cluster, metrics) = (self.cluster.clone(), self.counted.clone());
        let teller = Teller::new(teller::Sources {
            cluster: cluster.clone(),
            reports: self.reports.subscribe(),
            leading: leading.clone(),
            writes: writes.clone(),
            identity: name.to_owned(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        let sources = Sources { cluster, verdicts: self.verdicts.subscribe(), leading, writes, clock, metrics };
        let publisher = Publisher::new(sources, settings);
        let tasks = vec![
            tokio::spawn(election.run(stop.clone())),
            tokio::spawn(publisher.run(stop.clone())),
            tokio::spawn(teller.run(stop.clone())),
        ];
        self.centrals.insert(name, (stop, tasks));
    }

    async fn end(&mut self, name: &str) {
        let (stop, tasks) = self.centrals.remove(name).unwrap();
        stop.cancel();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }

    /// With one central that has written all conditions, and what was asked so far forgotten.
    async fn written(n_nodes: usize, settings: Settings) -> Self {
        let mut world = Self::new(n_nodes);
        world.start("a", settings);
        world.pass(10).await;
        world.server.forget();
        world
    }

    /// The node's finding of KVM; all else is well.
    fn judge(&self, kvm: &[(&str, Status)]) {
        let names: Vec<String> = self.server.set(|state| state.nodes.keys().cloned().collect());
        let views = names.iter().map(|name| {
            let mut node = testing::well(name);
            if let Some((_, status)) = kvm.iter().find(|(sick, _)| sick == name) {
                testing::set(&mut node, FindingCode::KvmDeviceMissing, *status);
            }
            node
        });
        let mut verdicts = judge(&testing::snapshot(views.collect()), &[], &Incidents::default(), NpdMode::Coexist);
        let judged = verdicts.iter_mut().flat_map(|verdict| &mut verdict.judged);
        judged.filter(|own| own.truth == Truth::True).for_each(|own| own.blame = Blame::Own);
        self.verdicts.send_replace(Some(Arc::new(verdicts)));
    }

    /// The watch shows what has changed.
    fn show(&self) {
        let row = ROWS.iter().find(|row| row.name == "Node").unwrap();
        let nodes = self.server.set(State::take_changed);
        nodes.into_iter().for_each(|node| assert!(self.cluster.apply(row, node)));
        let row = ROWS.iter().find(|row| row.name == "Event").unwrap();
        let events = self.server.set(State::take_changed_events);
        events.into_iter().for_each(|event| assert!(self.cluster.apply(row, event)));
    }

    async fn pass(&self, secs: u64) {
        for _ in 0..secs {
            sleep(Duration::from_secs(1)).await;
            self.clock.advance(Duration::from_secs(1));
            if self.shows {
                self.show();
            }
        }
    }

    /// Conditions of ours, `KvmUnavailable=True`, that are not False.
    fn troubles(&self, node: &str) -> Vec<String> {
        let ours = self.conditions(node).into_iter().filter(|(_, status)| status != "False");
        ours.map(|(kind, status)| format!("{kind}={status}")).collect()
    }

    fn conditions(&self, node: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.server.set(|state| {
            let conditions = state.nodes[node]["status"]["conditions"].as_array().unwrap();
            let ours = conditions.iter().filter_map(|own| {
                Some((text(&own["type"]).strip_prefix("kulprit.io/")?.to_owned(), text(&own["status"])))
            });
            ours.collect()
        })
    }

    fn taints(&self, node: &str) -> Vec<String> {
        self.server.set(|state| {
            let taints = state.nodes[node]["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.iter().map(|taint| taint["key"].as_str().unwrap().to_owned()).collect()
        })
    }

    #[track_caller]
    fn check_counted(&self, line: &str) {
        let text = self.metrics.encode();
        assert!(text.lines().any(|own| own == line), "no {line:?} in\n{text}");
    }
}

const STATUS: &str = "/status";
const KVM_TAINT: &str = "kulprit.io/kvm-unavailable";

#[tokio::test(start_paused = true)]
async fn a_fault_becomes_a_condition_and_goes_and_nothing_else_is_touched() {
    let mut world = World::new(2);
    let before = world.server.set(|state| state.nodes.clone());
    world.start("a", conditions_alone());
    world.pass(5).await;
    assert_eq!((world.conditions("n0").len(), world.troubles("n0")), (8, vec![]));
    assert_eq!(world.server.count("PATCH"), 2);
    world.judge(&[("n0", Status::Present)]);
    world.pass(1).await;
    assert_eq!((world.troubles("n0"), world.troubles("n1")), (vec!["KvmUnavailable=True".to_owned()], vec![]));
    assert_eq!(world.server.count("PATCH"), 3, "one write for one change");
    world.judge(&[]);
    world.pass(60).await;
    assert_eq!((world.troubles("n0"), world.server.count("PATCH")), (vec![], 4));
    for (name, node) in world.server.set(|state| state.nodes.clone()) {
        let of_others = |node: &Value| {
            let mut node = node.clone();
            let conditions = node["status"]["conditions"].as_array_mut().unwrap();
            conditions.retain(|own| !own["type"].as_str().unwrap().starts_with(PREFIX));
            node["metadata"]["resourceVersion"] = Value::Null;
            node
        };
        assert_eq!(of_others(&node), of_others(&before[&name]));
    }
    world.check_counted("kulprit_central_writes_total{what=\"conditions\",outcome=\"ok\"} 4");
    world.check_counted("kulprit_central_leading 1");
}

const PREFIX: &str = crate::conditions::PREFIX;

#[tokio::test(start_paused = true)]
async fn nothing_is_written_twice_when_the_watch_is_late() {
    let mut world = World::written(3, conditions_alone()).await;
    world.shows = false;
    world.judge(&[("n0", Status::Present)]);
    world.pass(50).await;
    assert_eq!(world.server.count("PATCH"), 1);
    world.shows = true;
    world.pass(50).await;
    assert_eq!(world.server.count("PATCH"), 1);
}

#[tokio::test(start_paused = true)]
async fn five_hundred_nodes_that_fail_at_once_are_five_hundred_writes() {
    let world = World::written(500, conditions_alone()).await;
    let names: Vec<String> = (0..500).map(|n| format!("n{n}")).collect();
    let sick: Vec<(&str, Status)> = names.iter().map(|name| (name.as_str(), Status::Present)).collect();
    world.judge(&sick);
    world.pass(2).await;
    assert!(names.iter().all(|name| world.troubles(name) == ["KvmUnavailable=True"]));
    assert_eq!(world.server.count("PATCH"), 500);
}

#[tokio::test(start_paused = true)]
async fn of_two_centrals_one_writes_and_the_other_takes_over_at_once() {
    let mut world = World::written(2, conditions_alone()).await;
    world.start("b", conditions_alone());
    world.pass(30).await;
    assert_eq!((world.server.set(|state| state.holder()), world.server.count("PATCH")), ("a".to_owned(), 0));
    world.end("a").await;
    world.judge(&[("n0", Status::Present)]);
    world.pass(6).await;
    assert_eq!(
        (world.server.set(|state| state.holder()), world.troubles("n0")),
        ("b".to_owned(), vec!["KvmUnavailable=True".to_owned()])
    );
    assert_eq!(world.server.count("PATCH"), 1, "what stands is taken over");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_taken_and_no_sooner_than_its_holder_stops() {
    let mut world = World::written(2, conditions_alone()).await;
    // The holder is cut off; what it writes would hang, too.
    world.server.spoil("", None);
    world.judge(&[("n0", Status::Present)]);
    world.pass(11).await;
    world.check_counted("kulprit_central_leading 0");
    let n_tried = world.server.count("PATCH");
    world.pass(60).await;
    assert_eq!(world.server.count("PATCH"), n_tried, "who may not write does not try");
    world.server.heal();
    world.end("a").await;
    world.start("b", conditions_alone());
    world.pass(14).await;
    assert_eq!(world.troubles("n0"), [""; 0], "it may still be another's");
    world.pass(8).await;
    assert_eq!(world.troubles("n0"), ["KvmUnavailable=True"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_lost_in_the_middle_of_a_write_ends_it() {
    let mut world = World::written(40, conditions_alone()).await;
    world.server.spoil(STATUS, None);
    let names: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
    let sick: Vec<(&str, Status)> = names.iter().map(|name| (name.as_str(), Status::Present)).collect();
    world.server.set(|state| state.take_lease("another"));
    world.judge(&sick);
    world.pass(6).await;
    world.check_counted("kulprit_central_leading 0");
    let n_begun = world.server.count("PATCH");
    assert!((1..=AT_ONCE).contains(&n_begun), "{n_begun}");
    world.server.heal();
    // The other renews, as it would.
    for _ in 0..20 {
        world.server.set(|state| state.take_lease("another"));
        world.pass(5).await;
    }
    assert_eq!(world.server.count("PATCH"), n_begun);
    assert!(names.iter().all(|name| world.troubles(name).is_empty()));
    let (_, mut tasks) = world.centrals.remove("a").unwrap();
    let ended = tasks.remove(0).await.unwrap().unwrap_err().to_string();
    assert!(ended.starts_with("the Lease `kulprit/kulprit-central` is another's now"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_the_lease_nothing_is_written_and_little_asked() {
    let mut world = World::new(2);
    world.server.spoil("leases", Some(403));
    world.start("a", settings());
    world.pass(600).await;
    assert_eq!(world.server.count("nodes"), 0);
    let n_asked = world.server.count("leases");
    assert!((20..100).contains(&n_asked), "{n_asked}");
    world.server.heal();
    world.pass(40).await;
    assert_eq!(world.conditions("n0").len(), 8);
}

#[tokio::test(start_paused = true)]
async fn every_refusal_is_counted_and_outlived_without_a_storm() {
    for (spoilt, outcome) in [
        (Some(403), "forbidden"),
        (Some(409), "conflict"),
        (Some(422), "refused"),
        (Some(429), "throttled"),
        (Some(500), "server"),
        (Some(503), "server"),
        (None, "no_answer"),
    ] {
        let mut world = World::new(20);
        world.server.spoil(STATUS, spoilt);
        world.start("a", conditions_alone());
        world.pass(300).await;
        let n_asked = world.server.count(STATUS);
        assert!((20..250).contains(&n_asked), "{outcome}: {n_asked} requests for 20 nodes in five minutes");
        let counted = format!("kulprit_central_writes_total{{what=\"conditions\",outcome=\"{outcome}\"}} {n_asked}");
        world.check_counted(&counted);
        world.server.heal();
        world.pass(330).await;
        assert!((0..20).all(|n| world.conditions(&format!("n{n}")).len() == 8), "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_api_server_says_when_to_come_again() {
    let mut world = World::new(100);
    world.server.set(|state| state.retry_after_secs = 25);
    world.server.spoil(STATUS, Some(429));
    world.start("a", conditions_alone());
    world.pass(100).await;
    let n_asked = world.server.count(STATUS);
    assert!(n_asked <= 5 * AT_ONCE, "{n_asked}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_written_holds_up_no_other() {
    let world = World::written(5, conditions_alone()).await;
    world.server.spoil("n0/status", Some(400));
    for status in [Status::Present, Status::Absent, Status::Present] {
        let names = ["n0", "n1", "n2", "n3", "n4"];
        world.judge(&names.map(|name| (name, status)));
        world.pass(2).await;
        let want: &[&str] = if status == Status::Present { &["KvmUnavailable=True"] } else { &[] };
        assert!(names[1..].iter().all(|name| world.troubles(name) == want));
    }
    assert_eq!(world.troubles("n0"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_rejects_one_node_is_said_once_counted_and_tried_again_more_and_more_seldom() {
    let log = Log::begin();
    let world = World::written(5, conditions_alone()).await;
    let says = "admission webhook \"nodes.example.com\" denied the request: frozen for the audit";
    world.server.set(|state| state.message = says.to_owned());
    world.server.spoil("n0/status", Some(403));
    let names = ["n0", "n1", "n2", "n3", "n4"];
    for round in 0..30 {
        let status = if round % 2 == 0 { Status::Present } else { Status::Absent };
        world.judge(&names.map(|name| (name, status)));
        world.pass(20).await;
        let want: &[&str] = if round % 2 == 0 { &["KvmUnavailable=True"] } else { &[] };
        assert!(names[1..].iter().all(|name| world.troubles(name) == want), "round {round}");
    }
    let n_asked = world.server.count("n0/status");
    assert!((5..20).contains(&n_asked), "{n_asked} tries in ten minutes");
    world
        .check_counted(&format!("kulprit_central_writes_total{{what=\"conditions\",outcome=\"forbidden\"}} {n_asked}"));
    let said = |log: &Log, text: &str| log.lines().iter().filter(|line| line.contains(text)).count();
    assert_eq!(said(&log, "WARN Kubernetes does not take a write"), 1, "{:?}", log.lines());
    world.judge(&names.map(|name| (name, Status::Present)));
    world.server.heal();
    world.pass(330).await;
    assert_eq!(world.troubles("n0"), ["KvmUnavailable=True"]);
    assert_eq!(said(&log, "INFO Kubernetes takes writes again"), 1);
}

#[tokio::test(start_paused = true)]
async fn one_node_alone_that_is_refused_again_and_again_holds_up_no_other() {
    for refused in [403, 422] {
        let world = World::written(2, conditions_alone()).await;
        world.server.spoil("n0/status", Some(refused));
        world.judge(&[("n0", Status::Present)]);
        while world.server.count("n0/status") < 8 {
            world.pass(1).await;
        }
        world.judge(&[("n0", Status::Present), ("n1", Status::Present)]);
        world.pass(1).await;
        assert_eq!(world.troubles("n1"), ["KvmUnavailable=True"], "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_takes_seconds_gets_every_write_once() {
    let world = World::written(100, conditions_alone()).await;
    world.server.set(|state| state.slow = Some((STATUS.to_owned(), Duration::from_secs(3))));
    let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    let sick: Vec<(&str, Status)> = names.iter().map(|name| (name.as_str(), Status::Present)).collect();
    world.judge(&sick);
    world.pass(30).await;
    assert!(names.iter().all(|name| world.troubles(name) == ["KvmUnavailable=True"]));
    assert_eq!(world.server.count("PATCH"), 100);
    // Later than anybody waits: none is known to be written, each is asked again, and no sooner than it makes sense.
    world.server.forget();
    world.server.set(|state| state.slow = Some((STATUS.to_owned(), Duration::from_secs(6))));
    world.judge(&[]);
    world.pass(120).await;
    let n_asked = world.server.count("PATCH");
    assert!(n_asked <= 20 * AT_ONCE, "{n_asked}");
    world.server.set(|state| state.slow = None);
    world.pass(330).await;
    assert!(names.iter().all(|name| world.troubles(name).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_for_longer_than_the_lease_lasts_nothing_is_written_and_nobody_ends() {
    let mut world = World::written(4, conditions_alone()).await;
    // The Lease alone cannot be reached: writes would work.
    world.server.spoil("leases", None);
    world.pass(9).await;
    world.judge(&[("n0", Status::Present)]);
    world.pass(6).await;
    world.check_counted("kulprit_central_leading 0");
    let n_written = world.server.count("PATCH");
    world.judge(&[("n1", Status::Present)]);
    world.pass(300).await;
    assert_eq!(world.server.count("PATCH"), n_written);
    assert_eq!(world.troubles("n1"), [""; 0]);
    // Nobody has taken it: it goes on where it was.
    world.server.heal();
    world.pass(40).await;
    assert_eq!(world.troubles("n1"), ["KvmUnavailable=True"]);
    world.end("a").await;
}

#[tokio::test(start_paused = true)]
async fn another_node_of_the_same_name_is_not_written_to() {
    let mut world = World::written(1, conditions_alone()).await;
    world.shows = false;
    world.server.set(|state| state.change("n0", |node| node["metadata"]["uid"] = "another".into()));
    world.judge(&[("n0", Status::Present)]);
    world.pass(20).await;
    assert_eq!(world.troubles("n0"), [""; 0]);
    world.shows = true;
    // It was tried some times in vain, and waits for longer than that.
    world.pass(60).await;
    assert_eq!(world.troubles("n0"), ["KvmUnavailable=True"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nodes_are_not_seen() {
    let mut world = World::new(1);
    let row = ROWS.iter().find(|row| row.name == "Node").unwrap();
    world.shows = false;
    world.cluster.lost(row, Duration::ZERO, "no answer");
    world.start("a", settings());
    world.pass(600).await;
    assert_eq!(world.server.count("nodes"), 0);
    world.cluster.synced(row);
    world.pass(6).await;
    assert_eq!(world.conditions("n0").len(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_is_switched_off_is_removed() {
    let mut world = World::written(3, settings()).await;
    world.judge(&[("n0", Status::Present)]);
    world.pass(70).await;
    assert_eq!(
        (world.conditions("n0").len(), world.taints("n0")),
        (8, vec!["example.com/x".to_owned(), KVM_TAINT.to_owned()])
    );
    world.end("a").await;
    world.start("b", Settings { conditions: false, ..conditions_alone() });
    world.pass(10).await;
    assert_eq!((world.conditions("n0").len(), world.taints("n0")), (0, vec!["example.com/x".to_owned()]));
    world.server.forget();
    world.pass(600).await;
    assert_eq!(world.server.count("nodes"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_taint_comes_and_goes_and_what_others_do_meanwhile_stays() {
    let world = World::written(4, settings()).await;
    world.server.set(|state| state.n_races = 2);
    world.judge(&[("n0", Status::Present)]);
    world.pass(59).await;
    assert_eq!(world.taints("n0"), ["example.com/x"]);
    world.pass(10).await;
    let others = ["example.com/x", "example.com/race-1", "example.com/race-0"];
    assert_eq!(world.taints("n0"), [&others[..], &[KVM_TAINT]].concat());
    let [gets, patches] = ["GET /api/v1/nodes/n0", "PATCH /api/v1/nodes/n0?"].map(|what| world.server.count(what));
    assert_eq!((gets, patches), (3, 3), "read again after each conflict");
    world.judge(&[]);
    world.pass(2).await;
    assert_eq!(world.taints("n0"), others);
    world.check_counted("kulprit_central_writes_total{what=\"taints\",outcome=\"ok\"} 2");
}

#[tokio::test(start_paused = true)]
async fn a_taint_that_cannot_be_removed_is_tried_again_and_its_node_counts_as_out() {
    let world = World::written(2, settings()).await;
    world.judge(&[("n0", Status::Present)]);
    world.pass(70).await;
    world.server.spoil("PATCH /api/v1/nodes/n0?", Some(500));
    world.judge(&[("n1", Status::Present)]);
    world.pass(400).await;
    assert_eq!((world.taints("n0").len(), world.taints("n1").len()), (2, 1), "half of two nodes is one");
    world.check_counted("kulprit_central_taints_withheld{reason=\"budget\"} 1");
    world.server.heal();
    world.pass(330).await;
    assert_eq!((world.taints("n0").len(), world.taints("n1").len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn trouble_with_taints_holds_up_no_condition() {
    let world = World::written(4, settings()).await;
    world.server.spoil("nodes/n0?", Some(403));
    world.judge(&[("n0", Status::Present)]);
    world.pass(300).await;
    assert_eq!((world.taints("n0").len(), world.troubles("n0")), (1, vec!["KvmUnavailable=True".to_owned()]));
    world.judge(&[("n1", Status::Present)]);
    world.pass(2).await;
    assert_eq!((world.troubles("n0"), world.troubles("n1")), (vec![], vec!["KvmUnavailable=True".to_owned()]));
    assert!(world.server.count("PATCH /api/v1/nodes/n0?") < 20);
}

// Recovery is never limited.
#[tokio::test(start_paused = true)]
async fn a_taint_that_a_webhook_keeps_on_one_node_holds_up_no_other_nodes_removal() {
    for refused in [403, 422] {
        let all = settings();
        let taints = Policy { max_nodes: 3, max_percent: 100, storm_nodes: 9, ..all.taints };
        let world = World::written(4, Settings { taints, ..all }).await;
        let [n0, n1, n2] = ["n0", "n1", "n2"].map(|name| (name, Status::Present));
        let tainted = || ["n0", "n1", "n2"].map(|name| world.taints(name).len() == 2);
        world.judge(&[n0, n1, n2]);
        // Whoever starts sets one first, and sees what happens.
        world.pass(700).await;
        assert_eq!(tainted(), [true; 3]);
        world.server.spoil("PATCH /api/v1/nodes/n0?", Some(refused));
        world.judge(&[n2]);
        world.pass(1).await;
        assert_eq!(tainted(), [true, false, true], "{refused}: due at the same time");
        while world.server.count("PATCH /api/v1/nodes/n0?") < 10 {
            world.pass(1).await;
        }
        world.judge(&[]);
        world.pass(1).await;
        assert_eq!(tainted(), [true, false, false], "{refused}: due later");
        world.server.heal();
        world.pass(330).await;
        assert_eq!(tainted(), [false; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_touches_no_taint_but_says_what_it_would_do() {
    let world = World::written(4, Settings { dry_run: true, ..settings() }).await;
    world.judge(&[("n0", Status::Present)]);
    world.pass(400).await;
    world.judge(&[("n0", Status::Present), ("n1", Status::Present)]);
    world.pass(50).await;
    world.check_counted("kulprit_central_taints_withheld{reason=\"waits\"} 1");
    assert_eq!(world.troubles("n0"), ["KvmUnavailable=True"]);
    assert_eq!(world.server.count("PATCH /api/v1/nodes/n0?") + world.server.count("GET /api/v1/nodes"), 0);
    let mut desk = Desk::new(&Settings { dry_run: true, ..settings() }, testing::NOW);
    let verdicts = world.verdicts.borrow().clone().unwrap();
    let mut said = Vec::new();
    for secs in [0, 60, 120] {
        said.push(desk.decide(testing::NOW + secs * 1_000_000, &world.cluster, &verdicts).unwrap().said);
    }
    let would = Line::Would("n0".to_owned(), vec![format!("{KVM_TAINT}:NoSchedule")]);
    let why = Line::Withheld("n1".to_owned(), NodeCondition::KvmUnavailable, Withheld::Breaker);
    assert_eq!(said, [vec![], vec![would, why], vec![]]);
}
