//! What the history keeps of migrations: outcomes, initiators, and that order, repetition and restarts change nothing.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    Cluster, Kind,
    tests::{AT, SIGNATURES, asked, cluster, event, usec, vmi, vmim, with},
};

const VMIM: Kind = Kind::VirtualMachineInstanceMigration;

fn live() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.set_live();
    cluster
}

/// The only record of these objects.
#[track_caller]
fn record_of(objects: &[Value]) -> MigrationRecord {
    only(&cluster(objects))
}

#[track_caller]
fn only(cluster: &Cluster) -> MigrationRecord {
    let records: Vec<_> = cluster.history().records().cloned().collect();
    let [record] = records.as_slice() else { panic!("{records:#?}") };
    record.clone()
}

fn state(change: &Value) -> Value {
    let state = json!({"migrationUid": "mig-uid", "sourceNode": "n1", "targetNode": "n2",
        "startTimestamp": "2026-03-01T10:10:10Z"});
    with(state, change)
}

/// The VMI, telling that of its migration.
fn vmi_telling(change: &Value) -> Value {
    with(vmi(), &json!({"status": {"migrationState": state(change)}}))
}

fn ended(change: &Value) -> Value {
    let mut change = change.clone();
    change["endTimestamp"] = "2026-03-01T10:11:00Z".into();
    change
}

#[test]
fn a_record_tells_who_what_where_and_when() {
    let told = ended(&json!({"failed": true, "failureReason": "client socket is closed"}));
    let failed = with(
        vmim("Failed"),
        &json!({"metadata": {"annotations": {"kubevirt.io/evacuationMigration": "n1"}}, "status": {"migrationState": state(&told)}}),
    );
    let want = MigrationRecord {
        namespace: "prod".to_owned(),
        vm: "db-0".to_owned(),
        uid: "mig-uid".to_owned(),
        name: "mig-1".to_owned(),
        vmi_uid: Some("vmi-1".to_owned()),
        source: Some("n1".to_owned()),
        target: Some("n2".to_owned()),
        created_usec: Some(usec("2026-03-01T10:10:00Z")),
        started_usec: Some(usec("2026-03-01T10:10:10Z")),
        ended_usec: Some(usec("2026-03-01T10:11:00Z")),
        has_succeeded: Some(false),
        reason: Some("client socket is closed".to_owned()),
        initiator: Some(Initiator::Evacuation),
        ..MigrationRecord::default()
    };
    assert_eq!(record_of(&[vmi(), failed.clone()]), want);
    assert_eq!(record_of(&[failed, vmi()]), want, "whichever came first");
}

#[test]
fn an_end_is_told_by_the_object_the_vmi_or_its_absence() {
    use MigrationOutcome::{Aborted, Failed, Succeeded, UnderWay, Unknown};
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-03-01T10:10:30Z"}});
    let deleted_late = json!({"metadata": {"deletionTimestamp": "2026-03-01T11:10:30Z"}});
    let (well, bad) = (ended(&json!({"completed": true})), ended(&json!({"completed": true, "failed": true})));
    let cancelled = ended(&json!({"failed": true, "abortRequested": true}));
    for (objects, while_there, gone) in [
        (vec![vmim("Running")], UnderWay, Unknown),
        (vec![vmim("Running"), vmi_telling(&json!({}))], UnderWay, Unknown),
        (vec![vmim("Running"), vmi_telling(&well)], Succeeded, Succeeded),
        (vec![vmim("Running"), vmi_telling(&bad)], Failed, Failed),
        (vec![vmim("Running"), vmi_telling(&cancelled)], Aborted, Aborted),
        (vec![vmim("Succeeded")], Succeeded, Succeeded),
        (vec![with(vmim("Succeeded"), &deleted)], Succeeded, Succeeded),
        (vec![vmim("Failed")], Failed, Failed),
        (vec![with(vmim("Failed"), &deleted)], Aborted, Aborted),
        (vec![with(vmim("Failed"), &deleted_late)], Failed, Failed),
        (vec![with(vmim("Pending"), &deleted)], UnderWay, Aborted),
        (vec![vmim("Failed"), vmi_telling(&well)], Failed, Failed),
    ] {
        let mut cluster = cluster(&objects);
        assert_eq!(only(&cluster).outcome(), while_there, "{objects:#?}");
        cluster.remove(VMIM, "prod", "mig-1", usec(AT));
        assert_eq!(only(&cluster).outcome(), gone, "{objects:#?}");
    }
}

#[test]
fn an_object_s_own_time_counts_before_the_watchers() {
    for (phase, over) in [("Running", AT), ("Failed", "2026-03-01T10:11:00Z")] {
        let mut cluster = cluster(&[vmim(phase)]);
        cluster.remove(VMIM, "prod", "mig-1", usec(AT));
        assert_eq!(only(&cluster).over_usec(), Some(usec(over)), "{phase}");
    }
}

#[test]
fn an_excerpt_and_the_whole_object_are_one_migration() {
    let excerpt = json!({"kind": "VirtualMachineInstanceMigration", "metadata": {"name": "mig-1", "namespace": "prod"},
        "spec": {"vmiName": "db-0"}, "status": {"phase": "Failed"}});
    for objects in [[excerpt.clone(), vmim("Failed")], [vmim("Failed"), excerpt.clone()]] {
        assert_eq!(n_of(&cluster(&objects)), 1);
    }
    assert_eq!(n_of(&cluster(&[excerpt])), 1);
}

#[test]
fn events_count_what_nobody_else_told_and_nothing_twice() {
    let migrated = |count: u64, kind: &str| {
        let told =
            event("VirtualMachineInstance", "db-0", "Migrated", "The VirtualMachineInstance migrated to node n2.");
        with(told, &json!({"type": kind, "count": count}))
    };
    for (count, kind, n) in [(1, "Normal", 1), (1, "Warning", 1), (8, "Normal", 6), (3, "Warning", 3)] {
        let mut cluster = cluster(&[vmi(), vmim("Running"), migrated(count, kind)]);
        cluster.remove(VMIM, "prod", "mig-1", usec(AT));
        assert_eq!(n_of(&cluster), n, "one that was not seen to end, and {count} {kind}");
    }
}

#[test]
fn a_name_that_is_used_again_is_another_migration() {
    let again = with(
        vmim("Pending"),
        &json!({"metadata": {"uid": "other", "creationTimestamp": "2026-03-01T10:12:00Z"}, "status": {"phaseTransitionTimestamps": []}}),
    );
    let cluster = cluster(&[vmim("Running"), again]);
    let ends: Vec<_> = cluster.history().records().map(|record| (record.uid.as_str(), record.over_usec())).collect();
    assert_eq!(ends, [("mig-uid", Some(usec("2026-03-01T10:12:00Z"))), ("other", None)]);
}

#[test]
fn who_asks_is_told_by_marks_and_by_the_vmi_while_it_is_under_way() {
    let marked = |phase: &str, annotation: &str, priority: &str| {
        with(vmim(phase), &json!({"metadata": {"annotations": {annotation: ""}}, "spec": {"priority": priority}}))
    };
    let by_descheduler = json!({"metadata": {"annotations": {"kubevirt.io/eviction-source": "descheduler"}}});
    let resized = json!({"status": {"conditions": [{"type": "HotMemoryChange", "status": "True"}]}});
    let (evacuation, update) = ("kubevirt.io/evacuationMigration", "kubevirt.io/workloadUpdateMigration");
    for (migration, change, want) in [
        (vmim("Running"), by_descheduler.clone(), Initiator::User),
        (marked("Running", evacuation, "system-critical"), json!({}), Initiator::Evacuation),
        (marked("Running", evacuation, "system-maintenance"), json!({}), Initiator::Descheduler),
        (marked("Running", evacuation, ""), by_descheduler.clone(), Initiator::Descheduler),
        (marked("Succeeded", evacuation, ""), by_descheduler, Initiator::Evacuation),
        (marked("Running", update, ""), json!({}), Initiator::WorkloadUpdate),
        (marked("Running", update, ""), resized, Initiator::HotPlug),
    ] {
        for objects in [[with(vmi(), &change), migration.clone()], [migration.clone(), with(vmi(), &change)]] {
            assert_eq!(record_of(&objects).initiator, Some(want), "{objects:#?}");
        }
    }
    for initiator in Initiator::ALL {
        assert_eq!(initiator.as_str().parse(), Ok(initiator));
    }
    assert!("nobody".parse::<Initiator>().is_err());
}

#[test]
fn a_vmi_tells_of_a_migration_whose_object_nobody_saw() {
    let told = ended(&json!({"failed": true, "abortRequested": true}));
    let record = record_of(&[vmi_telling(&told)]);
    assert_eq!((record.name.as_str(), record.outcome()), ("", MigrationOutcome::Aborted));
    assert_eq!(
        cluster(&[vmi_telling(&told)]).describe("prod", "db-0", &asked(), &SIGNATURES).life.n_migrations_24h.aborted,
        1
    );
    // What tells no UID tells of any; an object without one may be the one that is meant.
    assert_eq!(cluster(&[vmi_telling(&json!({"migrationUid": null}))]).history().records().count(), 0);
    let nameless = with(vmim("Failed"), &json!({"metadata": {"uid": null}}));
    let life = cluster(&[nameless, vmi_telling(&told)]).describe("prod", "db-0", &asked(), &SIGNATURES).life;
    assert_eq!(life.n_migrations_24h.total(), 1);
}

/// How many migrations of `prod/db-0` are known to have ended.
fn n_of(cluster: &Cluster) -> u32 {
    cluster.describe("prod", "db-0", &asked(), &SIGNATURES).life.n_migrations_24h.total()
}

#[test]
fn a_vm_made_anew_under_a_name_has_none_of_the_old_ones_migrations() {
    let vm = |created: &str| json!({"kind": "VirtualMachine", "metadata": {"name": "db-0", "namespace": "prod", "uid": created, "creationTimestamp": created}});
    let mut cluster = live();
    for object in [vm("2026-03-01T08:00:00Z"), vmi(), vmim("Failed")] {
        cluster.add(&object).unwrap();
    }
    assert_eq!(n_of(&cluster), 1);
    // Stopped and started it is the same VM.
    cluster
        .add(&with(vmi(), &json!({"metadata": {"uid": "vmi-2", "creationTimestamp": "2026-03-01T10:13:00Z"}})))
        .unwrap();
    assert_eq!(n_of(&cluster), 1);
    cluster.add(&vm("2026-03-01T10:13:00Z")).unwrap();
    assert_eq!(n_of(&cluster), 0);
    cluster.remove(Kind::VirtualMachine, "prod", "db-0", usec(AT));
    assert_eq!(n_of(&cluster), 0, "the VMI alone is as old");
}

#[test]
fn what_vanished_while_nobody_looked_is_over_and_what_a_lost_watch_hides_is_not() {
    let mut before = live();
    for object in [vmi(), vmim("Running"), with(vmim("Running"), &json!({"metadata": {"name": "mig-2", "uid": "two"}}))]
    {
        before.add(&object).unwrap();
    }
    before.set_listed(VMIM, false);
    assert_eq!(n_of(&before), 0);

    let mut after = live();
    after.history_mut().restore(before.history().records().cloned().collect(), None);
    after.add(&vmim("Running")).unwrap();
    assert_eq!(n_of(&after), 0, "they are not listed yet");
    _ = after.take_touched();
    after.end_vanished_migrations(usec(AT));
    assert_eq!(
        after.history().records().map(MigrationRecord::outcome).collect::<Vec<_>>(),
        [MigrationOutcome::UnderWay, MigrationOutcome::Unknown]
    );
    assert_eq!((n_of(&after), after.is_touched()), (1, true));
}

#[test]
fn events_of_a_migration_that_is_recorded_count_nothing_twice() {
    let told = event("VirtualMachineInstanceMigration", "mig-1", "SuccessfulMigration", "to virt-launcher-db-0-fghij");
    let mut cluster = cluster(&[vmi(), vmim("Succeeded"), told]);
    cluster.remove(VMIM, "prod", "mig-1", usec(AT));
    assert_eq!(n_of(&cluster), 1);
}

#[test]
fn a_day_later_it_is_forgotten_and_dropped_from_what_is_stored() {
    let mut cluster = cluster(&[vmim("Succeeded")]);
    let history = cluster.history_mut();
    let ended = usec("2026-03-01T10:11:00Z");
    history.expire(ended + DAY_USEC);
    let changes = history.unsaved(10);
    assert_eq!((changes.put.len(), changes.drop.len()), (1, 0));
    history.set_saved(&changes);
    assert!(history.unsaved(10).is_empty());
    history.expire(ended + DAY_USEC + 1);
    let changes = history.unsaved(10);
    assert_eq!((changes.put.len(), changes.drop.len(), history.records().count()), (0, 1, 0));
}

#[test]
fn an_object_that_ended_days_ago_is_not_stored_at_every_start() {
    let mut cluster = cluster(&[vmim("Succeeded")]);
    cluster.history_mut().expire(usec(AT) + 3 * DAY_USEC);
    assert!(cluster.history().unsaved(10).is_empty());
}

#[test]
fn the_newest_of_too_many_are_kept_and_times_of_nowhere_are_not() {
    let mut history = MigrationHistory::default();
    let at = usec(AT);
    let record = |vm: &str, n: usize, created_usec: i64| MigrationRecord {
        vm: vm.to_owned(),
        uid: format!("{n:06}"),
        created_usec: Some(created_usec),
        ..MigrationRecord::default()
    };
    let many = (0..MAX_OF_VM + 5).map(|n| record("db-0", n, at - i64::try_from(n).unwrap()));
    history.restore(
        many.chain([record("db-1", 0, at - 1), record("db-2", 0, i64::MAX), record("db-3", 0, at + 60)]).collect(),
        None,
    );
    history.expire(at);
    let n_of = |vm: &str| history.of(&(String::new(), vm.to_owned())).count();
    assert_eq!((n_of("db-0"), n_of("db-1"), n_of("db-2"), n_of("db-3")), (MAX_OF_VM, 1, 0, 1));
    assert!(history.records().all(|record| record.uid < format!("{MAX_OF_VM:06}")), "the oldest went");
}

/// A migration from beginning to end: what its object and the VMI are, in their order.
#[derive(Clone, Debug)]
struct Course {
    n: usize,
    end: &'static str,
    is_removed: bool,
}

fn course() -> impl Strategy<Value = (&'static str, bool)> {
    (prop_oneof![Just("Succeeded"), Just("Failed"), Just("cancelled")], any::<bool>())
}

impl Course {
    fn object(&self, change: &Value) -> Value {
        let n = self.n;
        let own = json!({"metadata": {"name": format!("mig-{n}"), "uid": format!("uid-{n}"),
            "creationTimestamp": format!("2026-03-01T09:{n:02}:00Z")}});
        with(with(vmim("Pending"), &own), change)
    }

    fn state(&self, change: &Value) -> Value {
        let state = json!({"migrationUid": format!("uid-{}", self.n), "sourceNode": "n1", "targetNode": "n2"});
        with(state, change)
    }

    /// What its object is, step by step; nothing: it is gone.
    fn objects(&self) -> Vec<Option<Value>> {
        let time = format!("2026-03-01T09:{:02}:30Z", self.n);
        let phase = |name: &str| json!({"status": {"phase": name, "phaseTransitionTimestamps": [{"phase": name, "phaseTransitionTimestamp": time}]}});
        let mut objects = vec![Some(self.object(&json!({}))), Some(self.object(&phase("Running")))];
        let deleted = json!({"metadata": {"deletionTimestamp": time}});
        objects.push(Some(match self.end {
            "cancelled" => self.object(&with(phase("Running"), &deleted)),
            end => self.object(&phase(end)),
        }));
        if self.is_removed || self.end == "cancelled" {
            objects.push(None);
        }
        objects
    }

    /// What the VMI says of it, step by step.
    fn vmis(&self) -> Vec<Value> {
        let time = format!("2026-03-01T09:{:02}:30Z", self.n);
        let end = match self.end {
            "Succeeded" => json!({"completed": true, "endTimestamp": time}),
            "Failed" => json!({"failed": true, "endTimestamp": time}),
            _ => json!({"abortRequested": true}),
        };
        let states = [self.state(&json!({})), self.state(&json!({"startTimestamp": time})), self.state(&end)];
        states.into_iter().map(|state| with(vmi(), &json!({"metadata": {"creationTimestamp": "2026-03-01T08:00:00Z"}, "status": {"migrationState": state}}))).collect()
    }
}

proptest! {
    /// The watches of migrations and of VMIs are two; what each tells comes in its order, once or again and again, and central starts anew
    /// at any time, whereupon all that is there is listed. One whose end a VMI did not tell in time is told by its object.
    #[test]
    fn order_repetition_and_restarts_change_no_count(
        ends in proptest::collection::vec(course(), 1..8),
        turns in proptest::collection::vec((any::<bool>(), 0..8_u8), 64),
    ) {
        let courses: Vec<Course> =
            ends.into_iter().enumerate().map(|(n, (end, is_removed))| Course { n, end, is_removed }).collect();
        let mut objects = courses.iter().flat_map(|course| course.objects().into_iter().map(move |object| (course.n, object)));
        let mut vmis = courses.iter().flat_map(Course::vmis);
        let mut there: BTreeMap<usize, Value> = BTreeMap::new();
        let mut shown: Option<Value> = None;
        let mut cluster = live();
        let mut stored: BTreeMap<RecordKey, MigrationRecord> = BTreeMap::new();
        for (is_vmi, what) in turns.into_iter().chain((0..64).map(|n| (n % 2 == 0, 7))) {
            let next_vmi = if is_vmi { vmis.next() } else { None };
            let next_object = if is_vmi { None } else { objects.next() };
            if let Some(vmi) = next_vmi {
                cluster.add(&vmi).unwrap();
                shown = Some(vmi);
            }
            if let Some((n, object)) = next_object {
                match object {
                    Some(object) => {
                        cluster.add(&object).unwrap();
                        there.insert(n, object);
                    }
                    None => {
                        cluster.remove(VMIM, "prod", &format!("mig-{n}"), usec(AT));
                        there.remove(&n);
                    }
                }
            }
            let changes = cluster.history().unsaved(usize::MAX);
            cluster.history_mut().set_saved(&changes);
            stored.extend(changes.put.into_iter().map(|record| (record.key(), record)));
            if what == 0 {
                cluster = live();
                cluster.history_mut().restore(stored.values().cloned().collect(), None);
            }
            if what <= 1 {
                // A list, of either kind first.
                let listed = there.values().chain(&shown);
                let listed: Vec<&Value> = if is_vmi { listed.collect() } else { listed.collect::<Vec<_>>().into_iter().rev().collect() };
                listed.into_iter().for_each(|object| _ = cluster.add(object).unwrap());
                cluster.end_vanished_migrations(usec(AT));
            }
        }
        let n_of = |word: &str| u32::try_from(courses.iter().filter(|course| course.end == word).count()).unwrap();
        let life = cluster.describe("prod", "db-0", &asked(), &SIGNATURES).life;
        let counts = life.n_migrations_24h;
        prop_assert_eq!(
            (counts.succeeded, counts.failed, counts.aborted, counts.unknown),
            (n_of("Succeeded"), n_of("Failed"), n_of("cancelled"), 0)
        );
        prop_assert_eq!(life.past_migrations.len(), courses.len());
        prop_assert!(life.past_migrations.iter().all(|record| record.vmi_uid.as_deref() == Some("vmi-1")));
    }
}
