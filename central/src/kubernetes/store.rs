//! The cluster as the watches tell it, and each VM of it described: what a snapshot takes from Kubernetes.
//!
//! A description is made anew when an object that it reads has changed ([`Cluster::take_touched`]), while its VM is on its way from one
//! phase to the next, and every few minutes at the latest, because words such as "of the last day" change with time alone. Time
//! stands still for all of them while a watch is lost: what nobody saw did not go on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kulprit_cluster::{Asked, Cluster, ClusterNode, ClusterVm, Kind};
use kulprit_daemon::Clock;
use kulprit_diagnosis::{ClusterSight, is_at_rest};
use kulprit_signature::Signatures;
use serde_json::Value;
use tokio::sync::watch;
use tracing::debug;

use super::{
    kinds::{ROWS, Row},
    watch::Sink,
};

/// A VM on its way, and a node, are described anew after so long. Microseconds.
const RESTLESS_EVERY_USEC: i64 = 1_000_000;
/// Every VM is described anew after so long. Microseconds.
const ALL_EVERY_USEC: i64 = 300_000_000;
/// An outage is said of VMs after so long: a watch that comes back within it missed nothing that a person would ask about.
const SAID_AFTER_USEC: i64 = 5_000_000;

/// Namespace and name.
type Key = (String, String);

/// What the watches told; clones share it.
#[derive(Clone, Debug)]
pub struct ClusterStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Counts changes that a diagnosis may see.
    changed: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    signatures: Signatures,
    rows: BTreeMap<&'static str, RowSight>,
    vms: BTreeMap<Key, Described<ClusterVm>>,
    nodes: BTreeMap<String, Described<ClusterNode>>,
    /// Until when all was seen when it was described last.
    seen_usec: Option<i64>,
}

#[derive(Debug)]
struct Described<T> {
    what: Arc<T>,
    at_usec: i64,
}

/// What is known of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RowSight {
    /// Not listed yet, and why.
    Coming(String),
    /// All its objects are as they are here.
    Seen,
    /// They were, until that moment; Unix time in microseconds.
    Lost(i64, String),
    /// The API server does not allow to see them, and why.
    Refused(String),
    /// There is no such kind.
    NotServed,
}

impl RowSight {
    const fn word(&self) -> &'static str {
        match self {
            Self::Coming(_) => "coming",
            Self::Seen => "seen",
            Self::Lost(..) => "lost",
            Self::Refused(_) => "refused",
            Self::NotServed => "not_served",
        }
    }
}

/// What a snapshot takes from Kubernetes.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Every VM, by namespace and name.
    pub vms: Vec<Arc<ClusterVm>>,
    /// Every node, by name.
    pub nodes: Vec<Arc<ClusterNode>>,
    /// How much of it can be seen.
    pub sight: ClusterSight,
}

impl ClusterStore {
    /// An empty cluster, of which nothing is seen yet. `changed` is told of changes.
    #[must_use]
    pub fn new(changed: watch::Sender<u64>, clock: Clock) -> Self {
        let mut cluster = Cluster::new();
        cluster.set_live();
        let rows = ROWS.iter().map(|row| (row.name, RowSight::Coming(String::new()))).collect();
        let inner = Inner {
            cluster,
            signatures: Signatures::new(),
            rows,
            vms: BTreeMap::new(),
            nodes: BTreeMap::new(),
            seen_usec: None,
        };
        Self(Arc::new(Shared { inner: Mutex::new(inner), changed, clock }))
    }

    /// The cluster as far as it can be seen at `now_usec`, Unix time in microseconds. Until everything was listed once it is empty:
    /// half of a cluster would be taken for all of it.
    #[must_use]
    pub fn view(&self, now_usec: i64) -> ClusterView {
        let mut inner = self.lock();
        let sight = inner.sight(now_usec);
        if !inner.is_listed() {
            return ClusterView { sight, ..ClusterView::default() };
        }
        inner.describe(sight.until_usec.unwrap_or(now_usec));
        ClusterView {
            vms: inner.vms.values().map(|vm| Arc::clone(&vm.what)).collect(),
            nodes: inner.nodes.values().map(|node| Arc::clone(&node.what)).collect(),
            sight,
        }
    }

    /// Every migration of that name, or `namespace/name`, or UID: its name, and its VM described with it in question.
    #[must_use]
    pub fn migrations(&self, text: &str, now_usec: i64) -> Vec<(String, ClusterVm)> {
        let inner = self.lock();
        let at_usec = inner.sight(now_usec).until_usec.unwrap_or(now_usec);
        let (wanted, name) = text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
        let found = inner.cluster.migrations_named(name);
        let in_namespace = found.filter(|(namespace, ..)| wanted.is_none_or(|wanted| wanted == *namespace));
        let described = in_namespace.map(|(namespace, migration, vm)| {
            let asked = Asked { migration: Some(migration.to_owned()), at_usec, ..Asked::default() };
            (migration.to_owned(), inner.cluster.describe(namespace, vm, &asked, &inner.signatures))
        });
        described.collect()
    }

    /// Whether everything was listed once, as far as it can be.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.lock().is_listed()
    }

    /// Whether a VM is on its way from one phase to the next: then something may begin by the clock alone.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        self.lock().vms.values().any(|vm| !is_at_rest(&vm.what.life))
    }

    /// How many rows are in which state, by its word in metrics.
    #[must_use]
    pub fn count_rows(&self) -> BTreeMap<&'static str, i64> {
        let words = ["coming", "lost", "not_served", "refused", "seen"];
        let mut counts: BTreeMap<&str, i64> = words.into_iter().map(|word| (word, 0)).collect();
        for sight in self.lock().rows.values() {
            *counts.entry(sight.word()).or_default() += 1;
        }
        counts
    }

    fn set(&self, row: &'static Row, sight: RowSight) {
        let mut inner = self.lock();
        let is_whole = matches!(sight, RowSight::Seen | RowSight::NotServed);
        let old = inner.rows.insert(row.name, sight);
        inner.set_listed(row, is_whole);
        let is_news = old.as_ref() != inner.rows.get(row.name);
        drop(inner);
        if is_news {
            self.bump();
        }
    }

    fn bump(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves at most one object half applied; the next list puts that right.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_listed(&self) -> bool {
        !self.rows.values().any(|sight| matches!(sight, RowSight::Coming(_)))
    }

    fn sight(&self, now_usec: i64) -> ClusterSight {
        let mut sight = ClusterSight { is_watched: true, ..ClusterSight::default() };
        for (name, row) in &self.rows {
            match row {
                RowSight::Seen | RowSight::NotServed => {}
                RowSight::Coming(why) => {
                    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                    sight.until_usec = Some(0);
                    sight.unseen.push(format!("Kubernetes: {name}: not listed yet since central started{why}"));
                }
                RowSight::Lost(since_usec, why) => {
                    sight.until_usec = Some(sight.until_usec.map_or(*since_usec, |until| until.min(*since_usec)));
                    let age_usec = now_usec.saturating_sub(*since_usec);
                    if age_usec >= SAID_AFTER_USEC {
                        let secs = age_usec / 1_000_000;
                        sight.unseen.push(format!("Kubernetes: {name}: not seen for {secs} s: {why}"));
                    }
                }
                RowSight::Refused(why) => {
                    sight.unseen.push(format!("Kubernetes: {name}: not allowed to be seen: {why}"));
                }
            }
        }
        sight
    }

    /// All objects of the row's kind are known if all of every row of that kind are.
    fn set_listed(&mut self, row: &Row, is_whole: bool) {
        let mut rows = ROWS.iter().filter(|other| other.kind == row.kind);
        let is_seen = |row: &Row| matches!(self.rows.get(row.name), Some(RowSight::Seen | RowSight::NotServed));
        let is_listed = is_whole && rows.all(is_seen);
        self.cluster.set_listed(row.kind, is_listed);
    }

    fn describe(&mut self, at_usec: i64) {
        // Time that went on again after an outage: what was described while it stood still is not what is now.
        let has_leapt = self.seen_usec.replace(at_usec).is_none_or(|last| at_usec < last);
        let mut touched = self.cluster.take_touched();
        if touched.everything || has_leapt {
            touched.vms.extend(self.cluster.vm_keys());
            touched.nodes.extend(self.cluster.node_names().into_iter().map(ToOwned::to_owned));
            self.vms.clear();
            self.nodes.clear();
        }
        let is_due = |vm: &Described<ClusterVm>| {
            let age_usec = at_usec.saturating_sub(vm.at_usec);
            age_usec >= ALL_EVERY_USEC || age_usec >= RESTLESS_EVERY_USEC && !is_at_rest(&vm.what.life)
        };
        touched.vms.extend(self.vms.iter().filter(|(_, vm)| is_due(vm)).map(|(key, _)| key.clone()));
        let is_old = |node: &Described<ClusterNode>| at_usec.saturating_sub(node.at_usec) >= RESTLESS_EVERY_USEC;
        touched.nodes.extend(self.nodes.iter().filter(|(_, node)| is_old(node)).map(|(name, _)| name.clone()));
        let asked = Asked { at_usec, ..Asked::default() };
        for key in touched.vms {
            let vm = self.cluster.describe(&key.0, &key.1, &asked, &self.signatures);
            // Of a VM that is gone its events stay for an hour.
            if vm.life.has_vm || vm.life.has_vmi || !vm.pods.is_empty() {
                self.vms.insert(key, Described { what: Arc::new(vm), at_usec });
            } else {
                self.vms.remove(&key);
            }
        }
        let known = self.cluster.node_names();
        for name in touched.nodes {
            if known.contains(name.as_str()) {
                let node = self.cluster.describe_node(&name, at_usec, &self.signatures);
                self.nodes.insert(name, Described { what: Arc::new(node), at_usec });
            } else {
                self.nodes.remove(&name);
            }
        }
    }
}

impl Sink for ClusterStore {
    fn begin_list(&self, _: &'static Row) {}

    fn apply(&self, row: &'static Row, object: Value) -> bool {
        let mut inner = self.lock();
        match inner.cluster.add(&object) {
            Ok(added) => {
                drop(inner);
                let is_kept = added.n_kept > 0;
                // Heartbeats only tell something when they stay away.
                if is_kept && row.kind != Kind::Lease {
                    self.bump();
                }
                is_kept
            }
            Err(error) => {
                debug!(row = row.name, %error, "an object of Kubernetes is left out");
                false
            }
        }
    }

    fn delete(&self, row: &'static Row, namespace: &str, name: &str) {
        if self.lock().cluster.remove(row.kind, namespace, name) {
            self.bump();
        }
    }

    fn end_list(&self, row: &'static Row) {
        self.set(row, RowSight::Seen);
    }

    fn synced(&self, row: &'static Row) {
        self.set(row, RowSight::Seen);
    }

    fn lost(&self, row: &'static Row, why: &str) {
        let now_usec = self.0.clock.now().wall_usec;
        let sight = match self.lock().rows.get(row.name) {
            Some(RowSight::Coming(_)) | None => RowSight::Coming(why.to_owned()),
            Some(RowSight::Lost(since_usec, _)) => RowSight::Lost(*since_usec, why.to_owned()),
            Some(RowSight::Seen | RowSight::Refused(_) | RowSight::NotServed) => {
                RowSight::Lost(now_usec, why.to_owned())
            }
        };
        self.set(row, sight);
    }

    fn refused(&self, row: &'static Row, why: &str) {
        self.set(row, RowSight::Refused(why.to_owned()));
    }

    fn not_served(&self, row: &'static Row) {
        self.set(row, RowSight::NotServed);
    }
}

#[cfg(test)]
mod tests {
    use kulprit_daemon::clock::ManualClock;
    use kulprit_model::Moment;
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
        world.clock.advance(std::time::Duration::from_secs(2));
        let later = world.view().vms;
        assert!(Arc::ptr_eq(&before[0], &later[0]));
        assert!(!Arc::ptr_eq(&shown[1], &later[1]), "a VM on its way is another one every second");
        world.clock.advance(std::time::Duration::from_secs(300));
        assert!(!Arc::ptr_eq(&before[0], &world.view().vms[0]));
    }

    #[test]
    fn time_stands_still_from_the_first_watch_that_is_lost_until_the_last_is_back() {
        let world = World::listed();
        let lost_usec = world.clock.clock().now().wall_usec;
        world.store.lost(row("Node"), "connection refused");
        world.clock.advance(std::time::Duration::from_secs(3));
        world.store.lost(row("Event"), "connection refused");
        world.store.lost(row("Node"), "still refused");
        let sight = world.view().sight;
        assert_eq!(sight.until_usec, Some(lost_usec));
        assert_eq!(sight.unseen, [] as [String; 0], "too short to be told");
        world.clock.advance(std::time::Duration::from_secs(9));
        let unseen = world.view().sight.unseen;
        assert!(unseen.contains(&"Kubernetes: Node: not seen for 12 s: still refused".to_owned()), "{unseen:?}");
        assert_eq!(world.phases(), [phase("db-0", "Running")], "what was seen is still known");
        world.store.synced(row("Node"));
        assert_eq!(world.view().sight.until_usec, Some(lost_usec + 3 * SEC));
        world.store.end_list(row("Event"));
        assert_eq!(world.view().sight.until_usec, None);
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
}
