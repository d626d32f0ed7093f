//! The cluster as the watches tell it, and each VM of it described: what a snapshot takes from Kubernetes.
//!
//! A description is made anew when an object that it reads has changed ([`Cluster::take_touched`]), while its VM is on its way from one
//! phase to the next, and every few minutes at the latest, because words such as "of the last day" change with time alone. Time
//! stands still for all of them while a watch is lost: what nobody saw did not go on. Objects are asked by the API server's clock and
//! told by central's, on which everything that nodes say is.
//!
//! What concerns every VM makes all descriptions old at once, seconds of work in a large cluster. It is done a slice at a time, so
//! that watches are taken in meanwhile and nobody who asks waits for it.

mod sight;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kulprit_cluster::{
    Asked, Cluster, ClusterNode, ClusterVm, Kind, MigrationRecord, Preflight, StandingNode, Watched,
};
use kulprit_daemon::Clock;
use kulprit_diagnosis::{ClusterSight, is_at_rest};
use kulprit_signature::Signatures;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::sight::{RowSight, is_of_nodes};
use super::{
    clock::ApiClock,
    kinds::{ROWS, Row},
    watch::Sink,
};
use crate::store::MigrationsWrite;

/// A VM on its way, and a node, are described anew after so long. Microseconds.
const RESTLESS_EVERY_USEC: i64 = 1_000_000;
/// Every VM is described anew after so long. Microseconds.
const ALL_EVERY_USEC: i64 = 300_000_000;
/// So many VMs are described before others get their turn: some 10 ms.
const SLICE: usize = 64;
/// Who asks later may get his turn first: so little earlier is now all the same. Microseconds.
const SAME_TIME_USEC: i64 = 10_000_000;
/// Migrations that ended a day ago are let go of so often. Microseconds.
const EXPIRE_EVERY_USEC: i64 = 60_000_000;
/// So many records of migrations are stored at once.
const SAVED_AT_ONCE: usize = 1_000;
/// Until when every migration was seen is stored so often: central that ends without a word was away for so much longer. Microseconds.
const WATCHED_SAVED_EVERY_USEC: i64 = 60_000_000;

/// Namespace and name.
type Key = (String, String);

/// What the watches told; clones share it.
#[derive(Clone, Debug)]
pub struct ClusterStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Held while waiting for `inner`: who has just had it goes behind whoever waits.
    turn: Mutex<()>,
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
    /// VMs that were never described: without them a view is not whole.
    new: BTreeSet<Key>,
    /// VMs whose description is old, for what concerns all of them or for time alone.
    old: BTreeSet<Key>,
    /// Until when all was seen when it was described last.
    seen_usec: Option<i64>,
    /// When old migrations were let go of last.
    expired_usec: i64,
    /// Over which time every migration was seen, as the store has it.
    saved_watched: Option<Watched>,
    /// Objects tell the times of the API server; what is said of them is on central's clock.
    api_clock: ApiClock,
    /// Whether it was another one when they were described last.
    has_clock_moved: bool,
    /// Whether changes of VMs were passed over, because VMs were not described at all.
    has_left_vms: bool,
}

#[derive(Debug)]
struct Described<T> {
    what: Arc<T>,
    at_usec: i64,
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
        let rows = ROWS.iter().map(|row| (row.name, RowSight::Coming(None, String::new()))).collect();
        let inner = Inner {
            cluster,
            signatures: Signatures::new(),
            rows,
            vms: BTreeMap::new(),
            nodes: BTreeMap::new(),
            new: BTreeSet::new(),
            old: BTreeSet::new(),
            seen_usec: None,
            expired_usec: 0,
            saved_watched: None,
            api_clock: ApiClock::default(),
            has_clock_moved: false,
            has_left_vms: false,
        };
        Self(Arc::new(Shared { inner: Mutex::new(inner), turn: Mutex::new(()), changed, clock }))
    }

    /// The cluster as far as it can be seen at `now_usec`, Unix time in microseconds. Until everything was listed once there are no VMs in it:
    /// half of a cluster would be taken for all of it. Nodes need none of KubeVirt's kinds.
    #[must_use]
    pub fn view(&self, now_usec: i64) -> ClusterView {
        self.view_of(now_usec, true)
    }

    /// The same for somebody who waits: VMs whose description is old, not by a change of their own, may be shown as they were.
    #[must_use]
    pub fn view_at_once(&self, now_usec: i64) -> ClusterView {
        self.view_of(now_usec, false)
    }

    fn view_of(&self, now_usec: i64, is_waited_for: bool) -> ClusterView {
        // How many are still to be described. Not until none is old: others who ask find more that is, and it would never end.
        let mut n_left: Option<usize> = None;
        loop {
            let mut inner = self.lock();
            let sight = inner.sight(now_usec);
            if !inner.is_listed(now_usec) {
                inner.describe_only_nodes(now_usec);
                let nodes = inner.nodes.values().map(|node| Arc::clone(&node.what)).collect();
                return ClusterView { sight, nodes, ..ClusterView::default() };
            }
            inner.describe(now_usec, sight.until_usec, n_left.is_none());
            let n_old = inner.old.len();
            let left = n_left.get_or_insert(if is_waited_for { n_old } else { 0 });
            if inner.new.is_empty() && (*left == 0 || n_old == 0) {
                return ClusterView {
                    vms: inner.vms.values().map(|vm| Arc::clone(&vm.what)).collect(),
                    nodes: inner.nodes.values().map(|node| Arc::clone(&node.what)).collect(),
                    sight,
                };
            }
            *left = left.saturating_sub(SLICE);
        }
    }

    /// Every migration of that name, or `namespace/name`, or UID: its name, and its VM described with it in question. Those of the last day
    /// whose objects are gone are told by the history.
    #[must_use]
    pub fn migrations(&self, text: &str, now_usec: i64) -> Vec<(String, ClusterVm)> {
        let inner = self.lock();
        let at_usec = inner.sight(now_usec).until_usec.unwrap_or(now_usec);
        let (wanted, name) = text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
        let found = inner.cluster.migrations_named(name);
        let in_namespace = found.filter(|(namespace, ..)| wanted.is_none_or(|wanted| wanted == *namespace));
        let described = in_namespace.map(|(namespace, migration, vm)| {
            let asked = Asked { migration: Some(migration.to_owned()), ..inner.asked(at_usec) };
            (migration.to_owned(), inner.described(namespace, vm, &asked))
        });
        let past = inner.cluster.past_migrations_named(name).into_iter();
        let in_namespace = past.filter(|record| wanted.is_none_or(|wanted| wanted == record.namespace));
        described.chain(in_namespace.map(|record| inner.described_past(record, at_usec))).collect()
    }

    /// What the objects say of a migration of a VM that nobody has asked for. `None` until everything was listed once: half of a
    /// cluster would be taken for all of it.
    #[must_use]
    pub fn preflight(&self, namespace: &str, name: &str, now_usec: i64) -> Option<Preflight> {
        let inner = self.lock();
        let at_usec = inner.sight(now_usec).until_usec.unwrap_or(now_usec);
        inner.is_listed(now_usec).then(|| {
            let mut found = inner.cluster.preflight(namespace, name, inner.asked(at_usec).at_usec);
            // What nothing else reads is said here alone.
            found
                .notes
                .extend(inner.rows(|kind| !kind.is_described()).filter_map(|(name, row)| row.unseen(name, now_usec)));
            found
        })
    }

    /// Puts back the migrations that were stored. To be called before anything is watched.
    pub fn restore_migrations(&self, records: Vec<MigrationRecord>, watched: Option<Watched>) {
        let mut inner = self.lock();
        inner.cluster.history_mut().restore(records, watched);
        inner.saved_watched = watched;
    }

    /// Offers what became of migrations to `save`, which answers whether it took it; what it did not take is offered again.
    pub fn save_migrations(&self, save: impl FnOnce(MigrationsWrite) -> bool) {
        let now_usec = self.0.clock.now().wall_usec;
        let mut inner = self.lock();
        let now_usec = inner.by_api_clock(now_usec);
        if now_usec.abs_diff(inner.expired_usec) >= EXPIRE_EVERY_USEC.unsigned_abs() {
            inner.expired_usec = now_usec;
            inner.cluster.history_mut().expire(now_usec);
        }
        if inner.is_seen(Kind::VirtualMachineInstanceMigration) {
            inner.cluster.history_mut().watch_until(now_usec);
        }
        let saved = inner.saved_watched;
        let is_saved = |now: &Watched| {
            let age_usec = saved.map(|saved| now.until_usec.saturating_sub(saved.until_usec));
            saved.is_some_and(|saved| saved.since_usec == now.since_usec) && age_usec < Some(WATCHED_SAVED_EVERY_USEC)
        };
        let watched = inner.cluster.history().watched().filter(|now| !is_saved(now));
        let changes = inner.cluster.history().unsaved(SAVED_AT_ONCE);
        let is_news = !changes.is_empty() || watched.is_some();
        if is_news && save(MigrationsWrite { changes: changes.clone(), watched }) {
            inner.cluster.history_mut().set_saved(&changes);
            inner.saved_watched = watched.or(inner.saved_watched);
        }
    }

    /// What stands on each node of marks that begin with `prefix` or are ours otherwise ([`kulprit_cluster::Cluster::standing`]), by name. `None`
    /// while nodes are not seen, and until all was listed once that nodes are described with: what is decided of half of it may be wrong.
    #[must_use]
    pub fn standing(&self, prefix: &str, is_taken_over: impl Fn(&str, &str) -> bool) -> Option<Vec<StandingNode>> {
        let inner = self.lock();
        let is_whole = inner.is_seen(Kind::Node) && inner.are_nodes_listed();
        is_whole.then(|| inner.cluster.standing(prefix, is_taken_over).collect())
    }

    /// Name of every node that Kubernetes has. `None` while nodes are not seen, or if there is none.
    #[must_use]
    pub fn nodes(&self) -> Option<BTreeSet<String>> {
        let inner = self.lock();
        let names: BTreeSet<String> = inner.cluster.nodes_with_object().map(ToOwned::to_owned).collect();
        (inner.is_seen(Kind::Node) && !names.is_empty()).then_some(names)
    }

    /// Looks at the objects themselves, once everything was listed as far as it can be. `look` must not block.
    pub fn look<T>(&self, look: impl FnOnce(&Cluster) -> T) -> Option<T> {
        let now_usec = self.0.clock.now().wall_usec;
        let inner = self.lock();
        inner.is_listed(now_usec).then(|| look(&inner.cluster))
    }

    /// Whether everything was listed once, as far as it can be.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        let now_usec = self.0.clock.now().wall_usec;
        self.lock().is_listed(now_usec)
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
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A panic while it was held leaves at most one object half applied; the next list puts that right.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Those whose kind is meant, by name.
    fn rows(&self, is_meant: fn(Kind) -> bool) -> impl Iterator<Item = (&'static str, &RowSight)> {
        let is_meant = move |name: &str| ROWS.iter().any(|row| row.name == name && is_meant(row.kind));
        self.rows.iter().map(|(name, row)| (*name, row)).filter(move |(name, _)| is_meant(name))
    }

    /// Whether every object of a kind is as it is here, as far as there are any.
    fn is_seen(&self, kind: Kind) -> bool {
        ROWS.iter().filter(|row| row.kind == kind).all(|row| self.rows.get(row.name) == Some(&RowSight::Seen))
    }

    /// Whether all was listed that VMs are described with.
    fn is_listed(&self, now_usec: i64) -> bool {
        !self.rows(Kind::is_described).any(|(name, sight)| sight.is_waited_for(name, now_usec))
    }

    /// Whether all was listed that nodes are described with: nothing of KubeVirt's own kinds.
    fn are_nodes_listed(&self) -> bool {
        !self.rows(is_of_nodes).any(|(_, sight)| matches!(sight, RowSight::Coming(..)))
    }

    /// Until when all was seen that nodes are described with; `None`: until now.
    fn nodes_seen_until(&self) -> Option<i64> {
        let lost = self.rows(is_of_nodes).filter_map(|(_, sight)| match sight {
            RowSight::Lost(since_usec, _) => Some(*since_usec),
            RowSight::Coming(..) => Some(0),
            RowSight::Seen | RowSight::Refused(_) | RowSight::NotServed => None,
        });
        lost.min()
    }

    fn sight(&self, now_usec: i64) -> ClusterSight {
        let mut sight = ClusterSight { is_watched: true, ..ClusterSight::default() };
        for (name, row) in self.rows(Kind::is_described) {
            match row {
                RowSight::Coming(..) if row.is_waited_for(name, now_usec) => sight.until_usec = Some(0),
                RowSight::Seen | RowSight::NotServed | RowSight::Refused(_) | RowSight::Coming(..) => {}
                RowSight::Lost(since_usec, _) => {
                    sight.until_usec = Some(sight.until_usec.map_or(*since_usec, |until| until.min(*since_usec)));
                }
            }
            sight.unseen.extend(row.unseen(name, now_usec));
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

    /// Describes anew what has changed, and a slice of what is new or old; what time has made old counts if it `is_first`.
    fn describe(&mut self, now_usec: i64, until_usec: Option<i64>, is_first: bool) {
        let last = self.seen_usec;
        let since_last = |last: &i64| (0..SAME_TIME_USEC).contains(&last.saturating_sub(now_usec));
        let at_usec = until_usec.unwrap_or_else(|| last.filter(since_last).unwrap_or(now_usec));
        // Time that went on again after an outage: what was described while it stood still is not what is now.
        let has_leapt = self.seen_usec.replace(at_usec).is_none_or(|last| at_usec < last);
        let has_leapt =
            std::mem::take(&mut self.has_clock_moved) || has_leapt || std::mem::take(&mut self.has_left_vms);
        let mut touched = self.cluster.take_touched();
        if touched.everything || has_leapt {
            self.old.extend(self.vms.keys().cloned());
            let keys = self.cluster.vm_keys();
            self.new.extend(keys.filter(|key| !self.vms.contains_key(key)));
            touched.nodes.extend(self.cluster.node_names().into_iter().map(ToOwned::to_owned));
            self.nodes.clear();
        }
        let is_due = |vm: &Described<ClusterVm>| {
            let age_usec = at_usec.saturating_sub(vm.at_usec);
            age_usec >= ALL_EVERY_USEC || age_usec >= RESTLESS_EVERY_USEC && !is_at_rest(&vm.what.life)
        };
        if is_first {
            self.old.extend(self.vms.iter().filter(|(_, vm)| is_due(vm)).map(|(key, _)| key.clone()));
        }
        for key in touched.vms {
            self.describe_vm(key, at_usec);
        }
        for _ in 0..SLICE {
            let Some(key) = self.new.pop_first().or_else(|| self.old.pop_first()) else { break };
            self.describe_vm(key, at_usec);
        }
        let nodes_at_usec = self.nodes_seen_until().unwrap_or(if until_usec.is_none() { at_usec } else { now_usec });
        self.describe_nodes(touched.nodes, nodes_at_usec);
    }

    /// The same for nodes alone, while it is not known what there is of KubeVirt.
    fn describe_only_nodes(&mut self, now_usec: i64) {
        if !self.are_nodes_listed() {
            return;
        }
        let mut touched = self.cluster.take_touched();
        self.has_left_vms = true;
        if touched.everything {
            touched.nodes.extend(self.cluster.node_names().into_iter().map(ToOwned::to_owned));
            self.nodes.clear();
        }
        let at_usec = self.nodes_seen_until().unwrap_or(now_usec);
        self.describe_nodes(touched.nodes, at_usec);
    }

    /// Describes anew the nodes that `touched` names, and those whose description is old.
    fn describe_nodes(&mut self, mut touched: BTreeSet<String>, at_usec: i64) {
        let is_old = |node: &Described<ClusterNode>| at_usec.saturating_sub(node.at_usec) >= RESTLESS_EVERY_USEC;
        touched.extend(self.nodes.iter().filter(|(_, node)| is_old(node)).map(|(name, _)| name.clone()));
        let known = self.cluster.node_names();
        for name in touched {
            if known.contains(name.as_str()) {
                let by_api_clock = self.asked(at_usec).at_usec;
                let node = self.cluster.describe_node(&name, by_api_clock, &self.signatures);
                let node = node.later_by(self.api_clock.behind_usec());
                self.nodes.insert(name, Described { what: Arc::new(node), at_usec });
            } else {
                self.nodes.remove(&name);
            }
        }
    }

    /// A moment of central's clock, by that of the objects.
    const fn by_api_clock(&self, at_usec: i64) -> i64 {
        at_usec.saturating_sub(self.api_clock.behind_usec())
    }

    /// Asks objects at a moment of central's clock, by theirs.
    fn asked(&self, at_usec: i64) -> Asked {
        Asked { at_usec: self.by_api_clock(at_usec), ..Asked::default() }
    }

    fn described(&self, namespace: &str, name: &str, asked: &Asked) -> ClusterVm {
        self.cluster.describe(namespace, name, asked, &self.signatures).later_by(self.api_clock.behind_usec())
    }

    /// Name and VM of a migration whose object is gone.
    fn described_past(&self, record: &MigrationRecord, at_usec: i64) -> (String, ClusterVm) {
        let vm = self.cluster.describe_past(record, &self.asked(at_usec), &self.signatures);
        let name = vm.life.migration.as_ref().map(|migration| migration.name.clone()).unwrap_or_default();
        (name, vm.later_by(self.api_clock.behind_usec()))
    }

    fn describe_vm(&mut self, key: Key, at_usec: i64) {
        let vm = self.described(&key.0, &key.1, &self.asked(at_usec));
        self.new.remove(&key);
        self.old.remove(&key);
        // Of a VM that is gone its events stay for an hour.
        if vm.life.has_vm || vm.life.has_vmi || !vm.pods.is_empty() {
            self.vms.insert(key, Described { what: Arc::new(vm), at_usec });
        } else {
            self.vms.remove(&key);
        }
    }
}

impl Sink for ClusterStore {
    fn begin_list(&self, _: &'static Row) {}

    fn apply(&self, row: &'static Row, object: Value) -> bool {
        let mut inner = self.lock();
        match inner.cluster.add(&object) {
            Ok(added) => {
                let is_news = inner.cluster.is_touched();
                drop(inner);
                let is_kept = added.n_kept > 0;
                // Heartbeats only tell something when they stay away.
                if is_kept && is_news && row.kind != Kind::Lease {
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
        let now_usec = self.0.clock.now().wall_usec;
        let mut inner = self.lock();
        let gone_usec = inner.by_api_clock(now_usec);
        let was_there = inner.cluster.remove(row.kind, namespace, name, gone_usec);
        drop(inner);
        if was_there {
            self.bump();
        }
    }

    fn end_list(&self, row: &'static Row) {
        if row.kind == Kind::VirtualMachineInstanceMigration {
            let now_usec = self.0.clock.now().wall_usec;
            let mut inner = self.lock();
            let now_usec = inner.by_api_clock(now_usec);
            inner.cluster.end_vanished_migrations(now_usec);
            inner.cluster.history_mut().watch_since(now_usec);
        }
        self.set(row, RowSight::Seen);
    }

    fn synced(&self, row: &'static Row) {
        if row.kind == Kind::VirtualMachineInstanceMigration {
            let now_usec = self.0.clock.now().wall_usec;
            let mut inner = self.lock();
            let now_usec = inner.by_api_clock(now_usec);
            inner.cluster.history_mut().watch_until(now_usec);
        }
        self.set(row, RowSight::Seen);
    }

    fn lost(&self, row: &'static Row, unseen_for: Duration, why: &str) {
        let seen_usec = self.0.clock.now().wall_usec.saturating_sub(usec(unseen_for));
        let sight = match self.lock().rows.get(row.name) {
            Some(RowSight::Coming(since_usec, _)) => {
                RowSight::Coming(since_usec.or_else(|| Some(self.0.clock.now().wall_usec)), why.to_owned())
            }
            None => RowSight::Coming(None, why.to_owned()),
            Some(RowSight::Lost(since_usec, _)) => RowSight::Lost(*since_usec, why.to_owned()),
            Some(RowSight::Seen | RowSight::Refused(_) | RowSight::NotServed) => {
                RowSight::Lost(seen_usec, why.to_owned())
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

    fn told_time(&self, date_usec: i64, within: Duration) {
        let read_usec = self.0.clock.now().wall_usec;
        let mut inner = self.lock();
        if !inner.api_clock.note(date_usec, read_usec.saturating_sub(usec(within)), read_usec) {
            return;
        }
        inner.has_clock_moved = true;
        let behind_secs = inner.api_clock.behind_usec() / 1_000_000;
        drop(inner);
        if behind_secs == 0 {
            info!("the API server's clock and ours are together again");
        } else {
            warn!(behind_secs, "the API server's clock is not as ours: its times are taken by ours");
        }
        self.bump();
    }
}

fn usec(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
