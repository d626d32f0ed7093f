//! Events: who is told what, once, whatever the API server and other centrals do.

use serde_json::json;
use ulid::Ulid;

use super::*;
use crate::events::{
    About, Report,
    budget::{OBJECT_BURST, WHOLE_BURST},
};

const EVENTS: &str = "/events";
const CAUSE: &str = "LocalDiskStalled";

fn report(vm: &str, incident: u128) -> Report {
    Report {
        about: About::Vm {
            namespace: "prod".to_owned(),
            name: vm.to_owned(),
            uid: format!("vmi-{vm}"),
            migration: None,
        },
        incident: Ulid::from(incident),
        cause: CAUSE.to_owned(),
        node: "n0".to_owned(),
        is_verdict: true,
        is_quiet: false,
        is_over: false,
        note: format!("a disk of {vm} hangs"),
    }
}

fn over(report: &Report) -> Report {
    Report { is_over: true, ..report.clone() }
}

impl World {
    /// With the VM and the VMI of each name.
    fn add_vms(&self, names: &[&str]) {
        for name in names {
            for (kind, prefix) in [("VirtualMachine", "vm"), ("VirtualMachineInstance", "vmi")] {
                let row = ROWS.iter().find(|row| row.name == kind).unwrap();
                let object = json!({"apiVersion": "kubevirt.io/v1", "kind": kind,
                    "metadata": {"name": name, "namespace": "prod", "uid": format!("{prefix}-{name}")},
                    "status": {"phase": "Running"}});
                assert!(self.cluster.apply(row, object));
            }
        }
    }

    fn report(&self, reports: &[Report]) {
        self.reports.send_replace(Some(Arc::new(reports.to_vec())));
    }

    /// `kind/name reason type count`, sorted, without those about conditions of nodes.
    fn told(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut told = self.server.set(|state| {
            let events = state.events.values().filter(|event| event["action"] != "Report");
            let line = |event: &Value| {
                let about = &event["regarding"];
                let count = event["series"]["count"].as_u64().unwrap_or(1);
                let [kind, name, reason, kind_of] =
                    [&about["kind"], &about["name"], &event["reason"], &event["type"]].map(text);
                let kind: String = kind.chars().filter(char::is_ascii_uppercase).collect();
                format!("{kind}/{name} {reason} {kind_of} {count}")
            };
            events.map(line).collect::<Vec<_>>()
        });
        told.sort();
        told
    }

    async fn telling(n_nodes: usize, vms: &[&str]) -> Self {
        let world = Self::written(n_nodes, conditions_alone()).await;
        world.add_vms(vms);
        world.report(&[]);
        world.pass(5).await;
        assert_eq!(world.told(), [""; 0]);
        world
    }
}

const WARNED: [&str; 2] = ["VM/db LocalDiskStalled Warning 1", "VMI/db LocalDiskStalled Warning 1"];

#[tokio::test(start_paused = true)]
async fn an_incident_is_told_to_the_vm_and_its_vmi_once_and_its_end_too() {
    let world = World::telling(1, &["db", "web"]).await;
    let incident = report("db", 7);
    world.report(std::slice::from_ref(&incident));
    world.pass(1).await;
    assert_eq!(world.told(), WARNED);
    world.server.set(|state| {
        let event = state.events.values().find(|event| event["regarding"]["uid"] == "vmi-db").unwrap();
        assert_eq!(event["note"], "a disk of db hangs");
        assert_eq!(
            (&event["reportingController"], &event["reportingInstance"]),
            (&json!("kulprit.io/central"), &json!("a"))
        );
        assert_eq!(event["related"], json!({"apiVersion": "v1", "kind": "Node", "name": "n0", "uid": "uid-of-n0"}));
        assert_eq!(event["metadata"]["labels"]["kulprit.io/incident"], Ulid::from(7_u128).to_string());
    });
    world.pass(600).await;
    assert_eq!(world.server.count(EVENTS), 2, "what was said is not said again");
    world.report(&[over(&incident)]);
    world.pass(1).await;
    let ended = ["VM/db Recovered Normal 1", "VMI/db Recovered Normal 1"];
    assert_eq!(world.told(), [WARNED[0], ended[0], WARNED[1], ended[1]]);
    world.report(&[]);
    world.pass(600).await;
    assert_eq!(world.server.count(EVENTS), 4);
    world.check_counted("kulprit_central_writes_total{what=\"events\",outcome=\"ok\"} 4");
}

#[tokio::test(start_paused = true)]
async fn an_incident_that_comes_back_goes_on_with_its_series() {
    let world = World::telling(1, &["db"]).await;
    let incident = report("db", 7);
    for _ in 0..3 {
        world.report(std::slice::from_ref(&incident));
        world.pass(60).await;
        world.report(&[over(&incident)]);
        world.pass(60).await;
    }
    assert!(world.told().contains(&"VMI/db LocalDiskStalled Warning 3".to_owned()), "{:?}", world.told());
    assert!(world.told().contains(&"VMI/db Recovered Normal 3".to_owned()), "{:?}", world.told());
    assert_eq!(world.told().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_lasts_outlives_the_hour_that_events_are_kept() {
    let world = World::telling(1, &["db"]).await;
    world.report(&[report("db", 7)]);
    world.pass(3_700).await;
    let again = ["VM/db LocalDiskStalled Warning 3", "VMI/db LocalDiskStalled Warning 3"];
    assert_eq!(world.told(), again);
    // The API server was away and let all go; the watch has not told yet.
    world.server.set(|state| state.events.clear());
    world.pass(1_900).await;
    assert_eq!(world.told(), WARNED, "made anew");
}

#[tokio::test(start_paused = true)]
async fn a_restart_another_central_and_a_late_watch_make_no_doubles() {
    let mut world = World::telling(1, &["db"]).await;
    let incident = report("db", 7);
    world.shows = false;
    world.report(std::slice::from_ref(&incident));
    world.pass(3).await;
    world.end("a").await;
    // The watch has not shown what was written: the names are the same.
    world.start("b", conditions_alone());
    world.pass(10).await;
    assert_eq!(world.told(), WARNED);
    world.check_counted("kulprit_central_writes_total{what=\"events\",outcome=\"conflict\"} 2");
    world.end("b").await;
    // Another central, with a store of its own, has another incident of the same.
    world.shows = true;
    world.pass(1).await;
    world.report(&[report("db", 8)]);
    world.start("c", conditions_alone());
    world.pass(30).await;
    assert_eq!(world.told(), WARNED);
    world.report(&[over(&report("db", 8))]);
    world.pass(3).await;
    assert_eq!(world.told().len(), 4, "it ends it as well: {:?}", world.told());
    world.end("c").await;
    world.start("d", conditions_alone());
    world.pass(30).await;
    assert_eq!(world.told().len(), 4, "and once");
}

#[tokio::test(start_paused = true)]
async fn a_central_that_never_saw_the_incident_does_not_say_that_it_is_over() {
    let mut world = World::telling(1, &["db"]).await;
    world.report(&[report("db", 7)]);
    world.pass(3).await;
    world.end("a").await;
    world.report(&[]);
    world.start("b", conditions_alone());
    world.pass(60).await;
    assert_eq!(world.told(), WARNED);
}

#[tokio::test(start_paused = true)]
async fn another_cause_is_another_event_and_one_that_is_not_sure_waits() {
    let world = World::telling(1, &["db"]).await;
    let unsure = Report { is_verdict: false, cause: "Unexplained".to_owned(), node: String::new(), ..report("db", 7) };
    world.report(std::slice::from_ref(&unsure));
    world.pass(2).await;
    assert_eq!(world.told(), [""; 0], "agents may know more in a moment");
    world.report(&[report("db", 7)]);
    world.pass(2).await;
    assert_eq!(world.told(), WARNED);
    world.report(&[Report { cause: "DiskIoError".to_owned(), ..report("db", 7) }]);
    world.pass(2).await;
    assert_eq!(world.told().len(), 4);
    world.report(&[unsure]);
    world.pass(60).await;
    assert!(world.told().contains(&"VMI/db Unexplained Warning 1".to_owned()), "{:?}", world.told());
}

#[tokio::test(start_paused = true)]
async fn what_nothing_explained_for_a_moment_is_not_told() {
    let world = World::telling(1, &["db"]).await;
    let unsure = Report { is_verdict: false, cause: "Unexplained".to_owned(), node: String::new(), ..report("db", 7) };
    world.report(std::slice::from_ref(&unsure));
    world.pass(2).await;
    world.report(&[Report { is_quiet: true, ..unsure.clone() }]);
    world.pass(58).await;
    world.report(&[over(&unsure)]);
    world.pass(5).await;
    assert_eq!(world.told(), [""; 0], "its incident lasted on for a minute, its trouble did not");
    // Of an incident that is old as well.
    world.report(&[report("db", 7)]);
    world.pass(120).await;
    world.report(std::slice::from_ref(&unsure));
    world.pass(2).await;
    world.report(&[report("db", 7)]);
    world.pass(60).await;
    assert_eq!(world.told(), WARNED);
    world.report(std::slice::from_ref(&unsure));
    world.pass(29).await;
    assert_eq!(world.told(), WARNED);
    world.pass(5).await;
    assert_eq!(world.told().len(), 4, "{:?}", world.told());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_objects_that_are_gone() {
    let world = World::telling(1, &["db"]).await;
    let row = ROWS.iter().find(|row| row.name == "VirtualMachineInstance").unwrap();
    let anew = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "db", "namespace": "prod", "uid": "another"}, "status": {"phase": "Running"}});
    assert!(world.cluster.apply(row, anew));
    let of_gone_node =
        Report { about: About::Node { name: "n9".to_owned() }, node: "n9".to_owned(), ..report("gone", 9) };
    world.report(&[report("db", 7), report("gone", 8), of_gone_node]);
    world.pass(5).await;
    assert_eq!(world.told(), ["VM/db LocalDiskStalled Warning 1"]);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_and_outlived_without_a_storm_and_hold_no_condition_up() {
    for (spoilt, outcome) in [
        (Some(403), "forbidden"),
        (Some(422), "refused"),
        (Some(429), "throttled"),
        (Some(500), "server"),
        (None, "no_answer"),
    ] {
        let vms = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let world = World::telling(2, &vms).await;
        world.server.spoil(EVENTS, spoilt);
        let reports: Vec<Report> = vms.iter().zip(1..).map(|(vm, id)| report(vm, id)).collect();
        world.report(&reports);
        world.pass(5).await;
        world.judge(&[("n0", Status::Present)]);
        world.pass(1).await;
        assert_eq!(world.troubles("n0"), ["KvmUnavailable=True"], "{outcome}: conditions wait for nobody");
        world.pass(600).await;
        while world.server.is_asked() {
            world.pass(1).await;
        }
        // Batches of 8, 15 s apart in the mean: nearly 320. Without a pause it would be one every two seconds.
        let n_asked = world.server.count(EVENTS);
        assert!((8..800).contains(&n_asked), "{outcome}: {n_asked} requests for 20 Events in ten minutes");
        world
            .check_counted(&format!("kulprit_central_writes_total{{what=\"events\",outcome=\"{outcome}\"}} {n_asked}"));
        world.server.heal();
        world.server.forget();
        // The longest pause between two tries, and no budget that was spent on them in vain.
        world.pass(40).await;
        let n_told = world.told().len();
        match spoilt {
            // Given up: it would be refused again.
            Some(422) => {
                assert_eq!(n_told, 0);
                world.check_counted("kulprit_central_events_dropped_total{reason=\"refused\"} 21");
            }
            Some(403) => assert!(n_told <= 20),
            _ => assert_eq!(n_told, 20, "{outcome}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_namespace_that_is_being_deleted_nothing_is_said_and_others_are_told() {
    let world = World::telling(1, &["db"]).await;
    world.server.set(|state| state.terminating.insert("prod".to_owned()));
    let node = Report { about: About::Node { name: "n0".to_owned() }, ..report("db", 7) };
    world.report(&[report("db", 7), node]);
    world.pass(300).await;
    assert_eq!(world.told(), ["N/n0 LocalDiskStalled Warning 1"]);
    assert_eq!(world.server.count("prod/events"), 2, "once each");
    world.check_counted("kulprit_central_events_dropped_total{reason=\"refused\"} 2");
}

#[tokio::test(start_paused = true)]
async fn a_storm_keeps_within_the_budget_and_is_told_all_the_same() {
    let names: Vec<String> = (0..1_000).map(|n| format!("vm-{n}")).collect();
    let vms: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::telling(1, &vms).await;
    let reports: Vec<Report> = vms.iter().map(|vm| report(vm, 7)).collect();
    world.report(&reports);
    world.pass(10).await;
    let n_first = i64::try_from(world.told().len()).unwrap();
    assert!((WHOLE_BURST..=WHOLE_BURST + 10 * 10 + 1).contains(&n_first), "{n_first}");
    assert!(world.told().iter().all(|told| told.starts_with("VMI/")), "what runs comes first");
    world.pass(200).await;
    assert_eq!((world.told().len(), world.server.count(EVENTS)), (2_000, 2_000));
    world.check_counted("kulprit_central_events_waiting 0");
    world.check_counted("kulprit_central_events_dropped_total{reason=\"budget\"} 0");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_flaps_is_not_told_each_time() {
    let world = World::telling(1, &["db"]).await;
    for n in 0..100 {
        let incident = report("db", n + 1);
        world.report(std::slice::from_ref(&incident));
        world.pass(2).await;
        world.report(&[over(&incident)]);
        world.pass(2).await;
    }
    let n_of_vmi = world.told().iter().filter(|told| told.starts_with("VMI/")).count();
    let allowed = usize::try_from(OBJECT_BURST).unwrap() + 2;
    assert!((8..=allowed).contains(&n_of_vmi), "{n_of_vmi} in 400 s");
    let text = world.metrics.encode();
    let dropped =
        text.lines().find_map(|line| line.strip_prefix("kulprit_central_events_dropped_total{reason=\"budget\"} "));
    assert!(dropped.unwrap().parse::<u32>().unwrap() > 50, "{dropped:?}");
}

#[tokio::test(start_paused = true)]
async fn flips_of_conditions_are_told_once_in_the_words_of_node_problem_detector() {
    let mut world = World::telling(2, &[]).await;
    let flips = |world: &World| {
        world.server.set(|state| {
            let events = state.events.values().filter(|event| event["action"] == "Report");
            let mut told: Vec<(String, String)> = events
                .map(|event| {
                    (event["eventTime"].as_str().unwrap().to_owned(), event["note"].as_str().unwrap().to_owned())
                })
                .collect();
            told.sort();
            told.into_iter().map(|(_, note)| note).collect::<Vec<_>>()
        })
    };
    world.pass(30).await;
    assert_eq!(flips(&world), [""; 0], "what was so when central began is no news");
    world.judge(&[("n0", Status::Present)]);
    world.pass(5).await;
    let told = flips(&world);
    assert_eq!(told.len(), 1);
    let want = "Node condition kulprit.io/KvmUnavailable is now: True, reason: KvmDeviceMissing, message: ";
    assert!(told[0].starts_with(want), "{told:?}");
    world.end("a").await;
    world.start("b", conditions_alone());
    world.pass(30).await;
    assert_eq!(flips(&world).len(), 1, "another central says nothing again");
    world.judge(&[]);
    world.pass(5).await;
    let told = flips(&world);
    assert!(told.len() == 2 && told[1].contains("is now: False, reason: KvmIsAvailable"), "{told:?}");
    world.pass(600).await;
    assert_eq!(flips(&world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_lease_says_nothing_more() {
    let world = World::telling(1, &["db"]).await;
    world.server.spoil(EVENTS, None);
    world.server.set(|state| state.take_lease("another"));
    world.report(&[report("db", 7)]);
    world.pass(20).await;
    world.server.heal();
    let n_begun = world.server.count(EVENTS);
    for _ in 0..20 {
        world.server.set(|state| state.take_lease("another"));
        world.pass(5).await;
    }
    assert_eq!((world.server.count(EVENTS), world.told().len()), (n_begun, 0));
}
