//! The life of incidents, and the properties that hold whatever diagnosis says.

use std::{collections::BTreeSet, sync::Arc};

use kulprit_cluster::{ClusterVm, Life};
use kulprit_diagnosis::{ClusterSight, NodeView, Snapshot};
use kulprit_proto::v1;
use proptest::prelude::*;

use super::{advance::Event, *};

const SEC: i64 = 1_000_000;

fn whom(name: &str) -> Whom {
    Whom { node: "n1".to_owned(), uid: name.to_owned() }
}

fn seen(name: &str, symptom: &str, cause: &str, place: &str) -> Observation {
    Observation {
        key: Key { cause: cause.to_owned(), place: place.to_owned() },
        may_be: Vec::new(),
        node: "n1".to_owned(),
        whom: whom(name),
        namespace: String::new(),
        name: format!("{name}-name"),
        symptom: symptom.to_owned(),
        since_wall_usec: Some(7),
        probability: 0.9,
        chain: vec![cause.to_owned()],
        based_on: vec!["QemuThreadBlocked vm/x".to_owned()],
    }
}

fn stuck(name: &str) -> Observation {
    seen(name, "StuckStopping", "LocalDiskStalled", "node/n1/device/loop3")
}

/// What an observation may be as well.
fn as_well(cause: &str, place: &str) -> Explanation {
    Explanation {
        key: Key { cause: cause.to_owned(), place: place.to_owned() },
        node: String::new(),
        probability: 0.4,
        chain: vec![cause.to_owned()],
    }
}

/// Two causes that are nearly as likely: `first` in this pass, `other` as well.
fn either(symptom: &str, first: &str, other: &str) -> Observation {
    Observation { may_be: vec![as_well(other, "p")], ..seen("a", symptom, first, "p") }
}

#[derive(Default)]
struct Book {
    incidents: Incidents,
    timers: Timers,
}

impl Book {
    /// One pass; says what happened, oldest incident first.
    fn pass(&mut self, sec: i64, seen: &[Observation], looks: &Looks) -> Vec<Event> {
        let changes = advance(&self.incidents, seen, looks, sec * SEC, &self.timers);
        self.incidents.apply(&changes);
        changes.into_iter().flat_map(|change| change.events).collect()
    }

    fn see(&mut self, sec: i64, seen: &[Observation]) -> Vec<Event> {
        self.pass(sec, seen, &Looks::default())
    }

    fn ids(&self) -> Vec<Ulid> {
        self.incidents.iter().map(|incident| incident.id).collect()
    }

    fn causes(&self) -> Vec<&str> {
        self.incidents.open().map(|incident| incident.key.cause.as_str()).collect()
    }
}

#[test]
fn one_cause_at_one_place_is_one_incident_whoever_it_touches() {
    let mut book = Book::default();
    assert_eq!(book.see(1, &[stuck("a"), stuck("b")]), [Event::Opened, Event::MemberJoined, Event::MemberJoined]);
    assert_eq!(book.see(2, &[stuck("a"), stuck("b"), stuck("c")]), [Event::MemberJoined]);
    assert_eq!(book.ids().len(), 1);
    let incident = book.incidents.iter().next().unwrap();
    assert_eq!(incident.members.len(), 3);
    assert_eq!(
        incident.timeline.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>(),
        [
            "opened: LocalDiskStalled",
            "a-name on n1: StuckStopping",
            "b-name on n1: StuckStopping",
            "c-name on n1: StuckStopping"
        ]
    );
}

#[test]
fn it_closes_sixty_seconds_after_the_last_symptom_was_seen_to_be_over() {
    let mut book = Book::default();
    book.see(1, &[stuck("a")]);
    assert_eq!(book.see(100, &[]), [Event::MemberEnded]);
    assert_eq!(book.see(159, &[]), []);
    assert_eq!(book.see(160, &[]), [Event::Closed]);
    assert_eq!(book.see(300, &[]), []);
}

#[test]
fn a_symptom_that_returns_in_time_keeps_it_open() {
    let mut book = Book::default();
    book.see(1, &[stuck("a")]);
    book.see(100, &[]);
    assert_eq!(book.see(159, &[stuck("a")]), [Event::MemberJoined]);
    assert_eq!(book.see(170, &[]), [Event::MemberEnded]);
    assert_eq!(book.see(229, &[]), [], "the time runs anew");
}

#[test]
fn it_reopens_under_the_same_id_for_fifteen_minutes() {
    for (sec, n_incidents) in [(160 + 900, 1), (160 + 901, 2)] {
        let mut book = Book::default();
        book.see(1, &[stuck("a")]);
        book.see(100, &[]);
        book.see(160, &[]);
        let events = book.see(sec, &[stuck("a")]);
        assert_eq!(book.ids().len(), n_incidents, "{sec} s: {events:?}");
        assert_eq!(book.incidents.open().count(), 1);
    }
}

#[test]
fn a_vm_that_no_node_has_taken_is_on_none() {
    let mut unplaced = stuck("a");
    unplaced.whom.node = String::new();
    unplaced.namespace = "prod".to_owned();
    let mut book = Book::default();
    book.see(1, &[unplaced]);
    let incident = book.incidents.iter().next().unwrap();
    assert_eq!(incident.timeline.last().unwrap().text, "prod/a-name: StuckStopping");
}

// Hysteresis: Unknown closes nothing.
#[test]
fn it_stays_open_while_nobody_can_look() {
    let silent = Looks { silent_nodes: BTreeSet::from(["n1".to_owned()]), ..Looks::default() };
    let blind =
        Looks { unknown: BTreeSet::from([("n1".to_owned(), "QemuThreadBlocked vm/x".to_owned())]), ..Looks::default() };
    for looks in [silent, blind] {
        let mut book = Book::default();
        book.see(1, &[stuck("a")]);
        for sec in [10, 100, 10_000] {
            assert_eq!(book.pass(sec, &[], &looks), [], "{sec} s, {looks:?}");
        }
        assert_eq!(book.see(10_001, &[]), [Event::MemberEnded]);
    }
}

#[test]
fn a_vm_of_kubernetes_is_not_seen_to_be_well_while_kubernetes_is_not_seen() {
    let stuck = Observation { namespace: "prod".to_owned(), ..stuck("a") };
    let unseen = Looks { is_cluster_unseen: true, ..Looks::default() };
    let mut book = Book::default();
    book.see(1, &[stuck]);
    assert_eq!(book.pass(10_000, &[], &unseen), []);
    assert_eq!(book.see(10_001, &[]), [Event::MemberEnded]);
}

/// A VM `a` of Kubernetes on the node `n1` that is silent, as Kubernetes has it now.
fn looks_with(vm: Option<(&str, &str)>, change: impl FnOnce(&mut ClusterSight)) -> Looks {
    let of = |(uid, node): (&str, &str)| ClusterVm {
        uid: uid.to_owned(),
        uids: vec![uid.to_owned(), "vm-object".to_owned()],
        namespace: "prod".to_owned(),
        hosting: Some(node.to_owned()),
        life: Life { has_vmi: true, ..Life::default() },
        ..ClusterVm::default()
    };
    let mut cluster_sight = ClusterSight { is_watched: true, ..ClusterSight::default() };
    change(&mut cluster_sight);
    Looks::of(&Snapshot {
        nodes: vec![NodeView { name: "n1".to_owned(), is_reporting: false, ..NodeView::default() }],
        cluster_vms: vm.map(of).map(Arc::new).into_iter().collect(),
        cluster_sight,
        ..Snapshot::default()
    })
}

// The node never comes back; what was its VM is somewhere else, or nowhere.
#[test]
fn a_vm_that_has_left_a_silent_node_is_over_there() {
    let of_kubernetes = Observation { namespace: "prod".to_owned(), ..stuck("a") };
    for (looks, observed, is_over) in [
        (looks_with(Some(("a", "n1")), |_| {}), &of_kubernetes, false),
        (looks_with(Some(("a", "n2")), |_| {}), &of_kubernetes, true),
        (looks_with(Some(("new", "n1")), |_| {}), &of_kubernetes, true),
        (looks_with(None, |_| {}), &of_kubernetes, true),
        (looks_with(None, |_| {}), &stuck("a"), false),
        (looks_with(None, |sight| sight.until_usec = Some(3)), &of_kubernetes, false),
        (looks_with(None, |sight| sight.is_watched = false), &of_kubernetes, false),
    ] {
        let mut book = Book::default();
        book.see(1, std::slice::from_ref(observed));
        let events = book.pass(10, &[], &looks);
        assert_eq!(events == [Event::MemberEnded], is_over, "{looks:?} {:?}", observed.namespace);
    }
}

#[test]
fn what_is_unknown_elsewhere_keeps_nothing_open() {
    let elsewhere = Looks {
        silent_nodes: BTreeSet::from(["n2".to_owned()]),
        unknown: BTreeSet::from([("n1".to_owned(), "KvmUnusable node".to_owned())]),
        // The VM is none of Kubernetes'.
        is_cluster_unseen: true,
        ..Looks::default()
    };
    let mut book = Book::default();
    book.see(1, &[stuck("a")]);
    assert_eq!(book.pass(10, &[], &elsewhere), [Event::MemberEnded]);
}

#[test]
fn a_better_explanation_keeps_the_id() {
    let mut book = Book::default();
    book.see(1, &[seen("a", "StuckStopping", "Unexplained", "node/n1/vm/a")]);
    let ids = book.ids();
    assert_eq!(book.see(5, &[stuck("a")]), [Event::CauseChanged]);
    assert_eq!((book.ids(), book.causes()), (ids, vec!["LocalDiskStalled"]));
    let texts: Vec<_> = book.incidents.iter().next().unwrap().timeline.iter().map(|entry| entry.text.clone()).collect();
    assert_eq!(texts[2], "the cause is now LocalDiskStalled, it was Unexplained");
}

#[test]
fn two_that_turn_out_to_be_one_become_the_older() {
    let mut book = Book::default();
    book.see(1, &[seen("a", "StuckStopping", "Unexplained", "node/n1/vm/a")]);
    book.see(2, &[seen("a", "StuckStopping", "Unexplained", "node/n1/vm/a"), stuck("b")]);
    let ids = book.ids();
    let events = book.see(3, &[stuck("a"), stuck("b")]);
    assert_eq!(events, [Event::CauseChanged, Event::Merged]);
    let [older, younger] = [0, 1].map(|n| book.incidents.get(ids[n]).unwrap());
    assert!(older.is_open() && older.members.len() == 2, "{older:#?}");
    assert_eq!((younger.merged_into, younger.closed_wall_usec), (Some(older.id), Some(3 * SEC)));
    assert_eq!(book.see(4, &[stuck("a"), stuck("b")]), []);
}

#[test]
fn what_turns_out_to_be_shared_is_one_incident_with_the_id_of_the_first() {
    let lost = |name: &str, node: &str, place: &str| Observation {
        whom: Whom { node: node.to_owned(), uid: name.to_owned() },
        ..seen(name, "Unresponsive", "StorageBackendUnreachable", place)
    };
    let both = |first: &str, second: &str| {
        [lost("", "n1", first), lost("a", "n1", first), lost("", "n2", second), lost("b", "n2", second)]
    };
    let mut book = Book::default();
    book.see(1, &both("node/n1", "node/n2")[..2]);
    book.see(2, &both("node/n1", "node/n2"));
    let ids = book.ids();
    assert_eq!(ids.len(), 2);
    let shared = both("shared/nas", "shared/nas");
    assert_eq!(book.see(3, &shared), [Event::CauseChanged, Event::CauseChanged, Event::Merged]);
    let [older, younger] = [0, 1].map(|n| book.incidents.get(ids[n]).unwrap());
    assert!(older.is_open() && older.members.len() == 4, "{older:#?}");
    assert_eq!((older.key.place.as_str(), younger.merged_into), ("shared/nas", Some(older.id)));
    assert!(older.timeline.iter().any(|entry| entry.text == "the place is now shared/nas, it was node/n1"));
    assert_eq!(book.see(4, &shared), []);
}

/// Of those that a backend had taken down, the last one is alone.
#[test]
fn whoever_is_last_stays_in_the_incident_of_what_is_shared() {
    let at = |key: &str| seen("a", "Unresponsive", "StorageBackendUnreachable", key);
    let last = Observation { may_be: vec![as_well("StorageBackendUnreachable", "shared/nas")], ..at("node/n1") };
    let mut book = Book::default();
    book.see(1, &[at("shared/nas"), seen("b", "Unresponsive", "StorageBackendUnreachable", "shared/nas")]);
    assert_eq!(book.see(2, std::slice::from_ref(&last)), [Event::MemberEnded]);
    assert_eq!(book.see(3, &[at("node/n1")]), [Event::CauseChanged], "now it is known to be its own");
    assert_eq!(book.see(4, &[last]), [], "it is in none of what is shared");
    assert_eq!(book.ids().len(), 1);
}

// Hysteresis: of two that are nearly as likely the one that was named stays.
#[test]
fn a_near_tie_does_not_change_what_an_incident_names() {
    let mut book = Book::default();
    book.see(1, &[either("StuckStopping", "QemuMonitorHung", "LocalDiskStalled")]);
    for sec in 2..20 {
        let events = book.see(sec, &[either("StuckStopping", "LocalDiskStalled", "QemuMonitorHung")]);
        assert_eq!((events, book.causes()), (vec![], vec!["QemuMonitorHung"]));
        assert_eq!(book.see(sec, &[either("StuckStopping", "QemuMonitorHung", "LocalDiskStalled")]), []);
    }
    let sure = seen("a", "StuckStopping", "LocalDiskStalled", "p");
    assert_eq!(book.see(30, std::slice::from_ref(&sure)), [Event::CauseChanged], "clearly better");
    assert_eq!((book.ids().len(), book.causes()), (1, vec!["LocalDiskStalled"]));
    let incident = book.incidents.open().next().unwrap();
    let texts: Vec<_> = incident.timeline.iter().map(|entry| entry.text.as_str()).collect();
    let want = "the cause is now LocalDiskStalled, it was QemuMonitorHung";
    assert_eq!(texts, ["opened: QemuMonitorHung", "a-name on n1: StuckStopping", want]);
    assert_eq!((incident.chain.as_slice(), incident.probability), (&["LocalDiskStalled".to_owned()][..], 0.9));
}

#[test]
fn what_an_incident_says_of_its_cause_is_of_the_one_that_it_names() {
    let mut book = Book::default();
    book.see(1, &[Observation { probability: 0.3, ..either("StuckStopping", "QemuMonitorHung", "LocalDiskStalled") }]);
    book.see(2, &[either("StuckStopping", "LocalDiskStalled", "QemuMonitorHung")]);
    let incident = book.incidents.open().next().unwrap();
    assert_eq!((incident.probability, incident.chain.as_slice()), (0.4, &["QemuMonitorHung".to_owned()][..]));
}

#[test]
fn who_shows_the_same_trouble_otherwise_or_again_stays_in_its_incident_by_a_near_tie() {
    let first = || either("StuckStopping", "QemuMonitorHung", "LocalDiskStalled");
    // At once, after it was seen to be over, after the incident closed; and when it cannot be the same any more.
    for (between, sec, n_incidents) in
        [(vec![], 100, 1), (vec![99], 100, 1), (vec![99, 159], 1_059, 1), (vec![99, 159], 1_060, 2)]
    {
        for symptom in ["StuckStopping", "Unresponsive"] {
            let mut book = Book::default();
            book.see(1, &[first()]);
            between.iter().for_each(|sec| drop(book.see(*sec, &[])));
            book.see(sec, &[either(symptom, "LocalDiskStalled", "QemuMonitorHung")]);
            assert_eq!(book.ids().len(), n_incidents, "{symptom} at {sec} s after {between:?}");
            assert_eq!(book.incidents.open().count(), 1);
            // Another VM was in none of them.
            let other = Observation { whom: whom("b"), ..either(symptom, "LocalDiskStalled", "QemuMonitorHung") };
            let events = book.see(sec + 1, &[other]);
            assert_eq!(events.contains(&Event::Opened), n_incidents == 1, "{events:?}");
        }
    }
}

#[test]
fn who_is_in_the_incident_of_the_likelier_one_stays_there() {
    let mut book = Book::default();
    book.see(
        1,
        &[seen("b", "StuckStopping", "QemuMonitorHung", "p"), seen("a", "StuckStopping", "LocalDiskStalled", "p")],
    );
    let both = [
        seen("b", "StuckStopping", "QemuMonitorHung", "p"),
        either("StuckStopping", "LocalDiskStalled", "QemuMonitorHung"),
    ];
    assert_eq!(book.see(2, &both), []);
}

// As recorded: a migration that never ended is given up 0.6 s after it was seen that it would not.
#[test]
fn a_symptom_that_turns_into_another_soon_after_it_began_is_one_incident_with_a_new_cause() {
    for (sec, n_incidents) in [(30, 1), (31, 2)] {
        let mut book = Book::default();
        book.see(1, &[seen("a", "StuckMigrating", "MigrationNotConverging", "node/n1/vm/a")]);
        let aborted = seen("a", "MigrationFailed", "MigrationAborted", "cluster/vm/a");
        let events = book.see(sec, std::slice::from_ref(&aborted));
        assert_eq!(book.ids().len(), n_incidents, "{sec} s: {events:?}");
        assert_eq!(events.contains(&Event::CauseChanged), n_incidents == 1);
        assert_eq!(book.incidents.by_member()[&(&whom("a"), "MigrationFailed")].key.cause, "MigrationAborted");
    }
}

#[test]
fn who_shows_something_else_leaves_the_others_in_their_incident() {
    let mut book = Book::default();
    book.see(1, &[stuck("a"), stuck("b")]);
    let events = book.see(2, &[stuck("a"), seen("b", "Unresponsive", "QemuMonitorHung", "node/n1/vm/b")]);
    assert_eq!(events, [Event::MemberEnded, Event::Opened, Event::MemberJoined]);
    assert_eq!(book.causes(), ["LocalDiskStalled", "QemuMonitorHung"]);
}

#[test]
fn one_that_turns_out_to_have_another_cause_leaves() {
    let mut book = Book::default();
    book.see(1, &[stuck("a"), stuck("b")]);
    let crashed = seen("b", "StuckStopping", "QemuMonitorHung", "node/n1/vm/b");
    assert_eq!(book.see(2, &[stuck("a"), crashed]), [Event::Opened, Event::MemberJoined]);
    let members: Vec<_> = book.incidents.open().map(|incident| incident.members.len()).collect();
    assert_eq!(members, [1, 1]);
    let of = book.incidents.by_member();
    assert_eq!(of[&(&whom("b"), "StuckStopping")].key.cause, "QemuMonitorHung");
    assert!(!of.contains_key(&(&whom("b"), "Unresponsive")));
}

#[test]
fn members_stand_in_the_order_of_onset() {
    let mut book = Book::default();
    let late = Observation { since_wall_usec: Some(9), ..stuck("a") };
    let early = Observation { since_wall_usec: Some(3), ..stuck("b") };
    let unknown = Observation { since_wall_usec: None, ..stuck("0") };
    book.see(1, &[unknown, late, early]);
    let names: Vec<_> = book.incidents.open().next().unwrap().members.iter().map(|m| m.whom.uid.clone()).collect();
    assert_eq!(names, ["b", "a", "0"]);
}

#[test]
fn a_timeline_does_not_grow_without_end() {
    let mut book = Book::default();
    for n in 0..600 {
        book.see(2 * n, &[stuck("a")]);
        book.see(2 * n + 1, &[]);
    }
    let timeline = &book.incidents.iter().next().unwrap().timeline;
    assert_eq!(timeline.len(), Incident::MAX_ENTRIES);
    assert_eq!(timeline.last().unwrap().text, "more has happened than is listed here");
}

#[test]
fn closed_incidents_are_kept_for_the_time_of_retention() {
    let mut book = Book::default();
    book.see(1, &[stuck("a")]);
    book.see(2, &[]);
    book.see(62, &[]);
    book.incidents.drop_closed_before(61 * SEC);
    assert_eq!(book.ids().len(), 1);
    book.incidents.drop_closed_before(62 * SEC);
    assert_eq!(book.ids().len(), 0);
}

/// What diagnosis may say of three VMs, with two causes at two places and blind spots in between.
fn any_pass() -> impl Strategy<Value = (Vec<Observation>, Looks, i64)> {
    let symptom = prop_oneof![Just("StuckStopping"), Just("Unresponsive")];
    let cause = prop_oneof![Just("Unexplained"), Just("LocalDiskStalled"), Just("QemuKilled")];
    let place = prop_oneof![Just("p1"), Just("p2")];
    let other = prop::collection::vec(prop_oneof![Just("LocalDiskStalled"), Just("QemuKilled")], 0..2);
    let one = (symptom, cause, other, place, 0..100_u32).prop_map(|(symptom, cause, other, place, percent)| {
        let may_be: Vec<_> =
            other.into_iter().filter(|other| *other != cause).map(|other| as_well(other, place)).collect();
        (symptom, cause, may_be, place, f64::from(percent) / 100.0)
    });
    let vms = prop::array::uniform3(prop::option::of(one));
    (vms, any::<bool>(), prop_oneof![Just(1_i64), Just(30), Just(61), Just(1_000)]).prop_map(|(vms, is_blind, step)| {
        let observations = vms.into_iter().enumerate().filter_map(|(n, vm)| {
            let (symptom, cause, may_be, place, probability) = vm?;
            Some(Observation { probability, may_be, ..seen(&format!("vm{n}"), symptom, cause, place) })
        });
        let silent_nodes = if is_blind { BTreeSet::from(["n1".to_owned()]) } else { BTreeSet::new() };
        (observations.collect(), Looks { silent_nodes, ..Looks::default() }, step)
    })
}

fn restarted(incidents: &Incidents) -> Incidents {
    let again = |incident: &Arc<Incident>| {
        Incident::restore(v1::Incident::from(&**incident), incident.aside()).expect("what we wrote reads back")
    };
    incidents.iter().map(again).collect()
}

proptest! {
    #[test]
    fn a_pass_is_idempotent_a_restart_changes_nothing_and_keys_stay_unique(passes in prop::collection::vec(any_pass(), 1..30)) {
        let timers = Timers::default();
        let mut incidents = Incidents::default();
        let mut now = 1_800_000_000 * SEC;
        for (observations, looks, step) in passes {
            now += step * SEC;
            let changes = advance(&incidents, &observations, &looks, now, &timers);
            let after_restart = advance(&restarted(&incidents), &observations, &looks, now, &timers);
            prop_assert_eq!(&changes, &after_restart);
            incidents.apply(&changes);
            let once = incidents.clone();
            incidents.apply(&changes);
            prop_assert_eq!(&once, &incidents, "applying twice changes nothing");
            prop_assert_eq!(advance(&incidents, &observations, &looks, now, &timers), vec![], "deciding twice changes nothing");

            let keys: Vec<&Key> = incidents.open().map(|incident| &incident.key).collect();
            prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "one open incident per key");
            for observation in &observations {
                let by_member = incidents.by_member();
                let of = by_member.get(&(&observation.whom, observation.symptom.as_str()));
                let key = of.map(|incident| &incident.key);
                let is_its = key == Some(&observation.key) || observation.may_be.iter().any(|other| key == Some(&other.key));
                prop_assert!(is_its, "every symptom has its incident: {key:?}");
            }
            for incident in incidents.iter() {
                let into = incident.merged_into.map(|id| incidents.get(id));
                prop_assert!(into.is_none_or(|into| into.is_some_and(|into| into.id < incident.id)));
                prop_assert!(incident.timeline.is_sorted_by_key(|entry| entry.at_wall_usec));
            }
        }
    }
}
