//! What the watches say, and what a view of the cluster makes of it.

use kulprit_daemon::clock::ManualClock;
use kulprit_model::{Finding, FindingCode, Moment};
use serde_json::json;

use super::*;

const SEC: i64 = 1_000_000;

fn row(kind: &str) -> &'static Row {
    ROWS.iter().find(|row| row.kind.as_str() == kind).expect("a kind that is watched")
}

fn vmi(name: &str, phase: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"namespace": "prod", "name": name, "uid": format!("uid-of-{name}")},
        "status": {"phase": phase}})
}

struct World {
    clock: ManualClock,
    store: ClusterStore,
    changed: watch::Receiver<u64>,
}

impl World {
    /// Everything was listed, and there is nothing but a VM that runs.
    fn listed() -> Self {
        let world = Self::new();
        world.store.apply(row("VirtualMachineInstance"), vmi("db-0", "Running"));
        ROWS.iter().for_each(|row| world.store.end_list(row));
        world
    }

    fn new() -> Self {
        let (clock, changed) =
            (ManualClock::new(Moment { wall_usec: 1_000 * SEC, boottime_usec: 0 }), watch::Sender::new(0));
        let store = ClusterStore::new(changed.clone(), clock.clock());
        Self { clock, store, changed: changed.subscribe() }
    }

    fn view(&self) -> ClusterView {
        self.store.view(self.clock.clock().now().wall_usec)
    }

    fn phases(&self) -> Vec<(String, Option<String>)> {
        self.view().vms.iter().map(|vm| (vm.name.clone(), vm.life.phase.clone())).collect()
    }
}

fn phase(name: &str, phase: &str) -> (String, Option<String>) {
    (name.to_owned(), Some(phase.to_owned()))
}

#[test]
fn half_a_cluster_is_none() {
    let world = World::new();
    world.store.apply(row("VirtualMachineInstance"), vmi("db-0", "Running"));
    for row in &ROWS[1..] {
        world.store.end_list(row);
    }
    assert_eq!(world.phases(), []);
    assert_eq!(world.view().sight.until_usec, Some(0));
    world.store.end_list(&ROWS[0]);
    assert_eq!(world.phases(), [phase("db-0", "Running")]);
    assert_eq!(world.view().sight, ClusterSight { is_watched: true, ..ClusterSight::default() });
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {}})
}

#[test]
fn nodes_are_described_without_any_kind_of_kubevirts() {
    let world = World::new();
    let (vmis, is_kubevirts) = (&ROWS[0], |row: &&Row| row.kind.group().ends_with("kubevirt.io"));
    world.store.apply(row("Node"), node("n1"));
    let names = || world.view().nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    world.store.lost(vmis, Duration::ZERO, "conversion webhook failed");
    assert_eq!((names(), world.store.standing("x", |_, _| false).is_some()), (vec![], false), "half of them are none");
    ROWS.iter().filter(|row| !is_kubevirts(row)).for_each(|row| world.store.end_list(row));
    assert_eq!((names(), world.store.standing("x", |_, _| false).is_some()), (vec!["n1".to_owned()], true));
    world.store.apply(row("Node"), node("n2"));
    world.store.apply(vmis, vmi("db-0", "Running"));
    world.clock.advance(Duration::from_secs(600));
    assert_eq!((names().len(), world.phases(), world.view().sight.until_usec), (2, vec![], Some(0)));
    assert!(!world.store.is_listed(), "VMs are waited for however long");
    ROWS.iter().for_each(|row| world.store.end_list(row));
    assert_eq!((names().len(), world.phases()), (2, vec![phase("db-0", "Running")]));
}

#[test]
fn kubernetes_has_the_nodes_that_were_listed_and_is_asked_only_while_they_are_seen() {
    let world = World::new();
    world.store.apply(row("Node"), node("n1"));
    assert_eq!(world.store.nodes(), None, "half of them");
    world.store.end_list(row("Node"));
    assert_eq!(world.store.nodes(), Some(BTreeSet::from(["n1".to_owned()])));
    world.store.lost(row("Node"), Duration::ZERO, "gone away");
    assert_eq!(world.store.nodes(), None, "nobody looks");
    let empty = World::new();
    empty.store.end_list(row("Node"));
    assert_eq!(empty.store.nodes(), None, "a cluster has nodes");
}

#[test]
fn vms_are_described_without_what_configures_them_once_its_list_has_failed_for_long() {
    let world = World::new();
    let volumes = row("DataVolume");
    world.store.apply(&ROWS[0], vmi("db-0", "Running"));
    ROWS.iter().filter(|row| row.kind != volumes.kind).for_each(|row| world.store.end_list(row));
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.phases(), [], "it may only be late");
    world.store.lost(volumes, Duration::ZERO, "500");
    world.clock.advance(Duration::from_secs(29));
    world.store.lost(volumes, Duration::ZERO, "conversion webhook failed");
    assert_eq!(world.phases(), []);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.phases(), [phase("db-0", "Running")]);
    let sight = world.view().sight;
    assert_eq!(sight.until_usec, None);
    assert_eq!(
        sight.unseen,
        ["Kubernetes: DataVolume: not listed yet since central started: conversion webhook failed"]
    );
}

#[test]
fn what_changes_and_goes_is_told_and_shown() {
    let mut world = World::listed();
    world.changed.mark_unchanged();
    world.store.apply(row("VirtualMachineInstance"), vmi("db-0", "Failed"));
    assert!(world.changed.has_changed().unwrap());
    assert_eq!(world.phases(), [phase("db-0", "Failed")]);
    world.changed.mark_unchanged();
    world.store.delete(row("VirtualMachineInstance"), "prod", "db-0");
    assert!(world.changed.has_changed().unwrap());
    assert_eq!(world.phases(), []);
}

#[test]
fn a_bad_object_costs_only_itself() {
    let world = World::listed();
    for bad in [json!(null), json!({"kind": "VirtualMachineInstance"}), json!({"kind": 7, "metadata": "x"})] {
        assert!(!world.store.apply(row("VirtualMachineInstance"), bad));
    }
    assert!(world.store.apply(row("VirtualMachineInstance"), vmi("web-1", "Running")));
    assert_eq!(world.phases(), [phase("db-0", "Running"), phase("web-1", "Running")]);
}

#[test]
fn a_vm_is_not_described_anew_while_nothing_of_it_changes() {
    let world = World::listed();
    let before = world.view().vms;
    world.store.apply(row("VirtualMachineInstance"), vmi("web-1", "Scheduling"));
    let shown = world.view().vms;
    assert!(Arc::ptr_eq(&before[0], &shown[0]), "another VM changed");
    world.clock.advance(Duration::from_secs(2));
    let later = world.view().vms;
    assert!(Arc::ptr_eq(&before[0], &later[0]));
    assert!(!Arc::ptr_eq(&shown[1], &later[1]), "a VM on its way is another one every second");
    world.clock.advance(Duration::from_secs(300));
    assert!(!Arc::ptr_eq(&before[0], &world.view().vms[0]));
}

#[test]
fn what_concerns_every_vm_is_done_by_slices_and_who_waits_sees_the_others_as_they_were() {
    let world = World::new();
    let n = 3 * SLICE;
    for vm in 0..n {
        world.store.apply(row("VirtualMachineInstance"), vmi(&format!("vm-{vm}"), "Running"));
    }
    ROWS.iter().for_each(|row| world.store.end_list(row));
    let at_once = || world.store.view_at_once(world.clock.clock().now().wall_usec).vms;
    let before = at_once();
    assert_eq!(before.len(), n, "those that were never described are not left out");
    let n_same = |vms: &[Arc<ClusterVm>]| vms.iter().zip(&before).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    world.store.lost(row("Node"), Duration::ZERO, "connection refused");
    world.store.synced(row("Node"));
    let own = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"namespace": "prod", "name": "vm-99", "uid": "uid-of-vm-99"}, "status": {"phase": "Failed"}});
    let shown = at_once();
    assert_eq!((shown.len(), n_same(&shown)), (n, n - SLICE));
    world.store.apply(row("VirtualMachineInstance"), own);
    let phase_of = |vms: &[Arc<ClusterVm>]| {
        let vm = vms.iter().find(|vm| vm.name == "vm-99").expect("it is there");
        vm.life.phase.clone()
    };
    let shown = at_once();
    assert_eq!(phase_of(&shown).as_deref(), Some("Failed"), "a change of its own is seen at once");
    assert_eq!(n_same(&world.view().vms), 0);
}

#[test]
fn who_asked_first_and_gets_his_turn_later_makes_nothing_old() {
    let world = World::listed();
    let now_usec = world.clock.clock().now().wall_usec;
    let first = world.store.view(now_usec + SEC).vms;
    assert!(Arc::ptr_eq(&first[0], &world.store.view(now_usec).vms[0]));
    assert!(!Arc::ptr_eq(&first[0], &world.store.view(now_usec - 60 * SEC).vms[0]), "a clock that was set back");
}

#[test]
fn a_change_of_what_nobody_reads_is_no_news() {
    let mut world = World::listed();
    world.view();
    world.changed.mark_unchanged();
    let mut same = vmi("db-0", "Running");
    same["metadata"]["resourceVersion"] = json!("4711");
    assert!(world.store.apply(row("VirtualMachineInstance"), same));
    assert!(!world.changed.has_changed().unwrap());
}

#[test]
fn time_stands_still_from_the_first_watch_that_is_lost_until_the_last_is_back() {
    let world = World::listed();
    let lost_usec = world.clock.clock().now().wall_usec;
    world.store.lost(row("Node"), Duration::ZERO, "connection refused");
    world.clock.advance(Duration::from_secs(3));
    world.store.lost(row("Event"), Duration::ZERO, "connection refused");
    world.store.lost(row("Node"), Duration::ZERO, "still refused");
    let sight = world.view().sight;
    assert_eq!(sight.until_usec, Some(lost_usec));
    assert_eq!(sight.unseen, [] as [String; 0], "too short to be told");
    world.clock.advance(Duration::from_secs(9));
    let unseen = world.view().sight.unseen;
    assert!(unseen.contains(&"Kubernetes: Node: not seen for 12 s: still refused".to_owned()), "{unseen:?}");
    assert_eq!(world.phases(), [phase("db-0", "Running")], "what was seen is still known");
    world.store.synced(row("Node"));
    assert_eq!(world.view().sight.until_usec, Some(lost_usec + 3 * SEC));
    world.store.end_list(row("Event"));
    assert_eq!(world.view().sight.until_usec, None);
}

#[test]
fn time_stands_still_from_the_last_moment_at_which_all_was_seen() {
    let world = World::listed();
    let now_usec = world.clock.clock().now().wall_usec;
    world.store.lost(row("Node"), Duration::from_secs(40), "nothing came for 65 s");
    let sight = world.view().sight;
    assert_eq!(sight.until_usec, Some(now_usec - 40 * SEC));
    assert!(sight.unseen[0].contains("not seen for 40 s"), "{:?}", sight.unseen);
}

// A VM that began to be scheduled a minute ago, by an API server whose clock is not as ours.
#[test]
fn times_of_objects_are_told_by_the_clock_of_central() {
    for behind in [0, 300 * SEC, -300 * SEC] {
        let world = World::listed();
        let now_usec = world.clock.clock().now().wall_usec;
        let theirs = |usec: i64| json!(jiff::Timestamp::from_microsecond(usec - behind).unwrap().to_string());
        let began = theirs(now_usec - 60 * SEC);
        let mut starting = vmi("web-1", "Scheduling");
        starting["metadata"]["creationTimestamp"] = began.clone();
        starting["status"]["phaseTransitionTimestamps"] =
            json!([{"phase": "Scheduling", "phaseTransitionTimestamp": began}]);
        let migration = json!({"kind": "VirtualMachineInstanceMigration", "metadata": {"namespace": "prod", "name": "m",
            "creationTimestamp": theirs(now_usec - 60 * SEC)}, "spec": {"vmiName": "web-1"}, "status": {"phase": "Pending"}});
        let node = json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": theirs(now_usec - 60 * SEC)}]}});
        world.store.apply(row("VirtualMachineInstance"), starting);
        world.store.apply(row("VirtualMachineInstanceMigration"), migration);
        world.store.apply(row("Node"), node);
        world.view();
        world.store.told_time(now_usec - behind, Duration::from_millis(20));
        let view = world.view();
        let is_a_minute_ago =
            |at: Option<i64>| at.is_some_and(|at| at.abs_diff(now_usec - 60 * SEC) <= SEC.unsigned_abs());
        let life = &view.vms.iter().find(|vm| vm.name == "web-1").unwrap().life;
        assert!(is_a_minute_ago(life.phase_since_usec) && is_a_minute_ago(life.created_usec), "{behind}: {life:?}");
        let (_, asked) = world.store.migrations("m", now_usec).remove(0);
        assert!(is_a_minute_ago(asked.life.migration.unwrap().created_usec), "{behind}");
        let since = view.nodes[0].findings.iter().find_map(|finding| match finding {
            Finding::State(state) if state.code == FindingCode::NodeNotReady => Some(state.since.wall_usec),
            Finding::State(_) | Finding::Occurrence(_) => None,
        });
        assert!(is_a_minute_ago(since), "{behind}: {since:?}");
        world.store.told_time(now_usec, Duration::from_millis(20));
        let life = world.view().vms.iter().find(|vm| vm.name == "web-1").unwrap().life.clone();
        assert_eq!(life.created_usec, Some(now_usec - 60 * SEC - behind), "a clock that was set is taken as it is");
    }
}

#[test]
fn what_may_not_be_seen_is_told_and_holds_nothing_up() {
    let world = World::new();
    for row in &ROWS {
        match row.kind {
            Kind::Event => world.store.refused(row, "events is forbidden"),
            Kind::DataVolume => world.store.not_served(row),
            _ => world.store.end_list(row),
        }
    }
    let sight = world.view().sight;
    assert_eq!(sight.until_usec, None);
    assert_eq!(sight.unseen, ["Kubernetes: Event: not allowed to be seen: events is forbidden"]);
    let n_seen = i64::try_from(ROWS.len()).unwrap() - 2;
    let counts = [("coming", 0), ("lost", 0), ("not_served", 1), ("refused", 1), ("seen", n_seen)];
    assert_eq!(world.store.count_rows(), counts.into());
}

#[test]
fn what_only_the_pre_flight_reads_holds_nothing_else_up_and_is_said_there() {
    let world = World::new();
    let namespaces = row("Namespace");
    world.store.apply(row("VirtualMachineInstance"), vmi("db-0", "Running"));
    ROWS.iter().filter(|row| row.name != namespaces.name).for_each(|row| world.store.end_list(row));
    let notes = || {
        let now_usec = world.clock.clock().now().wall_usec;
        world.store.preflight("prod", "db-0", now_usec).expect("everything else was listed").notes
    };
    let check = |want: Option<&str>| {
        assert_eq!(world.phases(), [phase("db-0", "Running")]);
        assert_eq!(world.view().sight, ClusterSight { is_watched: true, ..ClusterSight::default() });
        let said: Vec<String> = notes().into_iter().filter(|note| note.contains("Namespace:")).collect();
        assert_eq!(said, Vec::from_iter(want.map(ToOwned::to_owned)));
    };
    check(Some("Kubernetes: Namespace: not listed yet since central started"));
    world.store.refused(namespaces, "may not list namespaces");
    check(Some("Kubernetes: Namespace: not allowed to be seen: may not list namespaces"));
    world.store.end_list(namespaces);
    check(None);
    world.store.lost(namespaces, Duration::ZERO, "gone");
    world.clock.advance(Duration::from_secs(60));
    check(Some("Kubernetes: Namespace: not seen for 60 s: gone"));
}

#[test]
fn a_heartbeat_is_no_news() {
    let mut world = World::listed();
    world.changed.mark_unchanged();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": "kube-node-lease", "name": "n1"}, "spec": {"renewTime": "2026-03-01T10:15:00Z"}});
    assert!(world.store.apply(row("Lease"), lease));
    assert!(!world.changed.has_changed().unwrap());
}

#[test]
fn a_migration_that_is_asked_about_is_the_one_in_question() {
    let world = World::listed();
    for (name, created) in [("first", "2026-03-01T10:00:00Z"), ("second", "2026-03-01T11:00:00Z")] {
        let migration = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"namespace": "prod", "name": name, "creationTimestamp": created},
            "spec": {"vmiName": "db-0"}, "status": {"phase": "Failed"}});
        world.store.apply(row("VirtualMachineInstanceMigration"), migration);
    }
    for text in ["first", "prod/first"] {
        let found = world.store.migrations(text, world.clock.clock().now().wall_usec);
        let [(name, vm)] = found.as_slice() else { panic!("{found:?}") };
        let of_vm = vm.life.migration.as_ref().map(|migration| migration.name.as_str());
        assert_eq!((name.as_str(), of_vm), ("first", Some("first")));
    }
    assert!(world.store.migrations("test/first", 0).is_empty());
    assert!(world.store.migrations("third", 0).is_empty());
}

#[test]
fn a_migration_whose_object_is_gone_is_told_by_the_history() {
    let row = row("VirtualMachineInstanceMigration");
    let world = World::listed();
    let migration = |name: &str, uid: &str, status: Value| {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"namespace": "prod", "name": name, "uid": uid, "creationTimestamp": "1970-01-01T00:15:00Z"},
            "spec": {"vmiName": "db-0"}, "status": status})
    };
    let failed = json!({"phase": "Failed", "migrationState": {"migrationUid": "u1", "failed": true, "completed": true,
        "sourceNode": "n1", "targetNode": "n2", "startTimestamp": "1970-01-01T00:15:10Z",
        "endTimestamp": "1970-01-01T00:16:00Z", "failureReason": "client socket is closed"}});
    world.store.apply(row, migration("first", "u1", failed));
    world.store.apply(row, migration("second", "u2", json!({"phase": "Running"})));
    let found = |text: &str| {
        let found = world.store.migrations(text, world.clock.clock().now().wall_usec);
        let told =
            found.into_iter().map(|(name, vm)| (name, vm.source, vm.target, vm.life.migration.expect("in question")));
        told.collect::<Vec<_>>()
    };
    let before = found("first");
    world.store.delete(row, "prod", "first");
    world.store.delete(row, "prod", "second");
    for text in ["first", "prod/first", "u1"] {
        let [(name, source, target, life)] = &found(text)[..] else { panic!("{text}") };
        assert_eq!((name.as_str(), source.as_deref(), target.as_deref()), ("first", Some("n1"), Some("n2")));
        assert_eq!(*life, before[0].3, "as while it was there");
    }
    assert_eq!(found("test/first").len(), 0);
    let [(_, _, _, unseen)] = &found("second")[..] else { panic!("a migration") };
    assert_eq!((unseen.outcome, unseen.phase.as_deref()), (None, Some(kulprit_cluster::GONE)));
    // Another of the same name is asked about by its name, the old one by its UID.
    world.store.apply(row, migration("first", "u3", json!({"phase": "Running"})));
    let uids = |text: &str| found(text).into_iter().map(|(.., life)| life.uid).collect::<Vec<_>>();
    assert_eq!(uids("first"), [Some("u3".to_owned())]);
    assert_eq!(uids("u1"), [Some("u1".to_owned())]);
}

#[test]
fn a_day_in_which_nobody_watched_for_long_is_not_known_whole() {
    let row = row("VirtualMachineInstanceMigration");
    let knows_all = |away_secs: i64| {
        let world = World::new();
        let until_usec = (1_000 - away_secs) * SEC;
        let watched = Watched { since_usec: until_usec - 2 * 86_400 * SEC, until_usec };
        world.store.restore_migrations(Vec::new(), Some(watched));
        world.store.apply(&ROWS[0], vmi("db-0", "Running"));
        ROWS.iter().for_each(|row| world.store.end_list(row));
        let by_store = world.view().vms[0].life.knows_all_migrations;
        // A watch that is lost and goes on where it was has missed nothing, however long that took.
        world.store.lost(row, Duration::ZERO, "connection refused");
        world.clock.advance(Duration::from_secs(3_600));
        world.store.synced(row);
        world.store.save_migrations(|_| true);
        world.store.end_list(row);
        assert_eq!(world.view().vms[0].life.knows_all_migrations, by_store);
        // A list that comes after an hour in the dark has.
        world.store.lost(row, Duration::ZERO, "connection refused");
        world.clock.advance(Duration::from_secs(3_600));
        world.store.end_list(row);
        assert!(!world.view().vms[0].life.knows_all_migrations);
        by_store
    };
    assert!(knows_all(300));
    assert!(!knows_all(301));
}

#[test]
fn migrations_are_offered_to_the_store_until_it_takes_them() {
    let row = row("VirtualMachineInstanceMigration");
    let world = World::listed();
    let migration = |name: &str, created: &str| {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"namespace": "prod", "name": name, "uid": name, "creationTimestamp": created},
            "spec": {"vmiName": "db-0"}, "status": {"phase": "Running"}})
    };
    world.store.apply(row, migration("a", "1970-01-01T00:16:00Z"));
    let offered = |takes: bool| {
        let mut offered = None;
        world.store.save_migrations(|write| {
            let watched = write.watched.map(|watched| (watched.since_usec / SEC, watched.until_usec / SEC));
            offered = Some((write.changes.put.len(), write.changes.drop.len(), watched));
            takes
        });
        offered
    };
    assert_eq!(offered(false), Some((1, 0, Some((1_000, 1_000)))));
    assert_eq!(offered(true), Some((1, 0, Some((1_000, 1_000)))));
    assert_eq!(offered(true), None);
    world.store.delete(row, "prod", "a");
    assert_eq!(offered(true), Some((1, 0, None)));
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(offered(true), None);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(offered(true), Some((0, 0, Some((1_000, 1_060)))), "how long it goes on is told once a minute");
    world.clock.advance(Duration::from_secs(86_341));
    assert_eq!(offered(true), Some((0, 1, Some((1_000, 87_401)))), "a day later");
}

#[test]
fn a_list_ends_what_vanished_and_a_lost_watch_does_not() {
    let (vmis, row) = (row("VirtualMachineInstance"), row("VirtualMachineInstanceMigration"));
    let record = || MigrationRecord {
        namespace: "prod".to_owned(),
        vm: "db-0".to_owned(),
        uid: "m".to_owned(),
        name: "m".to_owned(),
        created_usec: Some(900 * SEC),
        ..MigrationRecord::default()
    };
    let world = World::new();
    world.store.restore_migrations(vec![record()], Some(Watched { since_usec: 0, until_usec: 900 * SEC }));
    world.store.apply(vmis, vmi("db-0", "Running"));
    ROWS.iter().filter(|other| other.kind != row.kind).for_each(|other| world.store.end_list(other));
    world.store.lost(row, Duration::ZERO, "connection refused");
    world.store.refused(row, "forbidden");
    let n_unknown = || world.view().vms.iter().map(|vm| vm.life.n_migrations_24h.unknown).sum::<u32>();
    assert_eq!(n_unknown(), 0);
    world.store.synced(row);
    assert_eq!(n_unknown(), 0);
    world.store.end_list(row);
    assert_eq!(n_unknown(), 1);
}
