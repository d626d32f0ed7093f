//! The current state, shared: ingest changes it, the engine and queries look at it, the store says what is durable.
//!
//! One lock, held for the in-memory work of one batch and never across an await. Everything that must keep an order goes
//! through here: a record acts in memory first and is queued for the store afterwards, and a stream that was replaced by a
//! newer one of the same node changes nothing any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kulprit_daemon::{CancellationToken, Clock};
use kulprit_diagnosis::{Settings, Snapshot};
use kulprit_model::{Moment, StreamId};
use kulprit_proto::v1;
use prost::Message as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot, watch};
use tracing::info;
use ulid::Ulid;

use crate::{
    kubernetes::store::{ClusterStore, ClusterView},
    metrics::{CentralMetrics, StatusLabel},
    state::{CurrentState, Epoch, NodeState},
    store::{NodeWrite, RecordsWrite, StoreWriter, Write},
    wishes::{AskedBook, WantedCapture, Wishes},
};

/// How often what is old is looked for, microseconds: nothing old does harm for a minute.
const EXPIRE_EVERY_USEC: i64 = 60_000_000;

/// What is known now; clones share it.
#[derive(Clone, Debug)]
pub struct Live(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Counts changes; the engine waits on it.
    changed: watch::Sender<u64>,
    /// Kubernetes, if it is watched.
    cluster: Option<ClusterStore>,
    clock: Clock,
    settings: Settings,
}

#[derive(Debug)]
struct Inner {
    state: CurrentState,
    sessions: BTreeMap<StreamId, SessionEntry>,
    /// What is wanted of each node, by its name.
    wishes: BTreeMap<String, Wishes>,
    /// Who waits for a capture.
    asked: AskedBook,
    n_sessions: u64,
    /// Nodes whose row in the store is out of date.
    unsaved: BTreeSet<StreamId>,
    last_expiry: Moment,
}

#[derive(Debug)]
struct SessionEntry {
    number: u64,
    durable: Arc<Notify>,
    wished: Arc<Notify>,
    replaced: CancellationToken,
}

/// The right of one stream to change its node, until a newer stream of the node takes it away.
#[derive(Debug)]
pub struct Session {
    live: Live,
    /// Which node.
    pub stream: StreamId,
    number: u64,
    /// Told when more of the node became durable.
    pub durable: Arc<Notify>,
    /// Told when something else is wanted of the node.
    pub wished: Arc<Notify>,
    /// Cancelled when a newer stream of the node has come.
    pub replaced: CancellationToken,
}

impl Live {
    /// Shares `state`, and a cluster if one is watched.
    #[must_use]
    pub fn new(state: CurrentState, clock: Clock, settings: Settings, is_cluster_watched: bool) -> Self {
        let inner = Inner {
            state,
            sessions: BTreeMap::new(),
            wishes: BTreeMap::new(),
            asked: AskedBook::default(),
            n_sessions: 0,
            unsaved: BTreeSet::new(),
            last_expiry: clock.now(),
        };
        let changed = watch::Sender::new(0);
        let cluster = is_cluster_watched.then(|| ClusterStore::new(changed.clone(), clock.clone()));
        Self(Arc::new(Shared { inner: Mutex::new(inner), changed, cluster, clock, settings }))
    }

    /// Central's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Told of each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Everything a diagnosis may look at, now. Where something that concerns every VM has just changed, this takes its time.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_of(ClusterStore::view)
    }

    /// The same for somebody who waits: VMs that are to be described anew for what concerns every VM, or for time alone, may be
    /// shown as they were.
    #[must_use]
    pub fn snapshot_at_once(&self) -> Snapshot {
        self.snapshot_of(ClusterStore::view_at_once)
    }

    fn snapshot_of(&self, view: impl FnOnce(&ClusterStore, i64) -> ClusterView) -> Snapshot {
        let now = self.0.clock.now();
        let mut snapshot = self.look(|state| state.snapshot(self.0.settings, now));
        if let Some(cluster) = &self.0.cluster {
            let view = view(cluster, now.wall_usec);
            snapshot.cluster_vms = view.vms;
            snapshot.cluster_nodes = view.nodes;
            snapshot.cluster_sight = view.sight;
        }
        snapshot
    }

    /// Kubernetes, if it is watched.
    #[must_use]
    pub fn cluster(&self) -> Option<&ClusterStore> {
        self.0.cluster.as_ref()
    }

    /// Looks at the current state. `look` must not block.
    pub fn look<T>(&self, look: impl FnOnce(&CurrentState) -> T) -> T {
        look(&self.lock().state)
    }

    /// A stream of the node begins; an older one of the same node ends.
    ///
    /// # Errors
    /// If a later start of the agent on the same boot reports now, or no more nodes are taken in.
    pub fn connect(
        &self,
        stream: StreamId,
        hello: v1::Hello,
        store: &StoreWriter,
    ) -> Result<(Session, RecordsWrite), NotConnected> {
        let now = self.0.clock.now();
        let mut inner = self.lock();
        if !inner.state.has_room(&stream) {
            return Err(NotConnected::TooManyNodes { most: inner.state.limits().n_nodes });
        }
        let known = inner.state.node_mut(&stream).epoch();
        let is_older = known.boot_id == hello.boot_id && hello.epoch < known.epoch;
        if is_older && inner.sessions.contains_key(&stream) {
            let reports = inner.state.node_mut(&stream).epoch().epoch;
            return Err(NotConnected::OldEpoch { node: stream.node, epoch: hello.epoch, reports });
        }
        inner.n_sessions += 1;
        let number = inner.n_sessions;
        let session = Session {
            live: self.clone(),
            stream: stream.clone(),
            number,
            durable: Arc::new(Notify::new()),
            wished: Arc::new(Notify::new()),
            replaced: CancellationToken::new(),
        };
        let entry = SessionEntry {
            number,
            durable: Arc::clone(&session.durable),
            wished: Arc::clone(&session.wished),
            replaced: session.replaced.clone(),
        };
        if let Some(older) = inner.sessions.insert(stream.clone(), entry) {
            older.replaced.cancel();
            inner.asked.lose(&stream.node);
        }
        let mut write = RecordsWrite::new(stream.clone(), now.wall_usec);
        write.changes = inner.state.node_mut(&stream).hello(hello, now);
        inner.unsaved.insert(stream);
        save_nodes(&mut inner, store);
        drop(inner);
        self.bump();
        Ok((session, write))
    }

    /// Some of a node's records became durable. Called from the store's thread.
    pub fn on_durable(&self, stream: &StreamId, watermarks: &[(Epoch, u64)]) {
        let mut inner = self.lock();
        let Some(node) = inner.state.known_mut(stream) else { return };
        for (epoch, seq) in watermarks {
            node.progress.durable(epoch, *seq);
        }
        if let Some(entry) = inner.sessions.get(stream) {
            entry.durable.notify_one();
        }
    }

    /// Replaces the suspects of every node, and adds captures to ask for.
    pub fn wish(
        &self,
        mut suspects: BTreeMap<String, BTreeSet<String>>,
        mut captures: BTreeMap<String, Vec<WantedCapture>>,
    ) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for (stream, entry) in &inner.sessions {
            let node = &stream.node;
            let (suspects, captures) = (suspects.remove(node).unwrap_or_default(), captures.remove(node));
            let wishes = inner.wishes.entry(node.clone()).or_default();
            let is_new = wishes.suspects != suspects || captures.is_some();
            wishes.suspects = suspects;
            // What does not fit is left out: the node is busy with captures, and what else there is to know is in its findings.
            wishes.add(captures.unwrap_or_default());
            if is_new {
                entry.wished.notify_one();
            }
        }
        // Their agents are away, and asked when they are back.
        for (node, captures) in captures {
            inner.wishes.entry(node).or_default().add(captures);
        }
    }

    /// Asks the agent of a node for a capture of a VM, now.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn ask_capture(&self, node: &str, vm_uid: &str) -> Result<AskedCapture, NotAsked> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let entry = inner.sessions.iter().find(|(stream, _)| stream.node == node);
        let (_, entry) = entry.ok_or(NotAsked::NoAgent)?;
        let (number, answer) = inner.asked.ask(node);
        let wanted = WantedCapture { incident: number, vm_uid: vm_uid.to_owned() };
        if !inner.wishes.entry(node.to_owned()).or_default().add(vec![wanted]) {
            inner.asked.forget(node, number);
            return Err(NotAsked::Busy);
        }
        entry.wished.notify_one();
        Ok(AskedCapture { answer, live: self.clone(), node: node.to_owned(), number })
    }

    /// Lets time pass: silence becomes Unknown, what is old goes, rows of nodes are brought up to date.
    pub fn tick(&self, store: &StoreWriter, metrics: &CentralMetrics) -> Vec<StreamId> {
        let now = self.0.clock.now();
        let mut inner = self.lock();
        let fallen = inner.state.check_silence(now);
        inner.unsaved.extend(fallen.iter().cloned());
        let is_expiry_due = now.usec_since(inner.last_expiry) >= EXPIRE_EVERY_USEC;
        let expired = if is_expiry_due { inner.state.expire(now) } else { Vec::new() };
        if is_expiry_due {
            inner.last_expiry = now;
        }
        for (stream, changes) in expired {
            let write = RecordsWrite { changes, ..RecordsWrite::new(stream, now.wall_usec) };
            // If the store has no room, a row too many is found after a restart, and goes then.
            let _ = store.try_queue(Write::Records(write));
        }
        save_nodes(&mut inner, store);
        let (silent, all) = inner
            .state
            .nodes()
            .fold((0_i64, 0_i64), |(silent, all), (_, node)| (silent + i64::from(node.is_silent()), all + 1));
        let counts = inner.state.count_states();
        drop(inner);
        let has_forgotten = is_expiry_due
            && self.0.cluster.as_ref().and_then(ClusterStore::nodes).is_some_and(|names| {
                // Kubernetes is asked before, and without the lock: it may be busy.
                forget_gone(&mut self.lock(), &names, store, now)
            });
        if !fallen.is_empty() || has_forgotten {
            self.bump();
        }
        for (word, count) in self.0.cluster.iter().flat_map(ClusterStore::count_rows) {
            metrics.watches.get_or_create(&StatusLabel::new(word)).set(count);
        }
        metrics.nodes.get_or_create(&StatusLabel::new("silent")).set(silent);
        metrics.nodes.get_or_create(&StatusLabel::new("reporting")).set(all - silent);
        metrics.states.get_or_create(&StatusLabel::new("present")).set(counts.n_present);
        metrics.states.get_or_create(&StatusLabel::new("absent")).set(counts.n_absent);
        metrics.states.get_or_create(&StatusLabel::new("unknown")).set(counts.n_unknown);
        fallen
    }

    /// Something changed that a diagnosis may see.
    pub fn bump(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves at most one batch half applied; the next snapshot of the node puts that right.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets nodes that are silent for long and not among `names`; whether there was one. What the store has no room to forget is found
/// after a restart, and goes then.
fn forget_gone(inner: &mut Inner, names: &BTreeSet<String>, store: &StoreWriter, now: Moment) -> bool {
    let Inner { state, sessions, .. } = inner;
    let gone = state.forget_gone(now, |id| names.contains(&id.node) || sessions.contains_key(id));
    let is_any = !gone.is_empty();
    for stream in gone {
        info!(node = %stream.node, "a silent node that Kubernetes has no more is forgotten");
        inner.wishes.remove(&stream.node);
        inner.unsaved.remove(&stream);
        let _ = store.try_queue(Write::Forget(stream));
    }
    is_any
}

/// Queues the rows of nodes that are out of date, as many as the store takes.
fn save_nodes(inner: &mut Inner, store: &StoreWriter) {
    while let Some(stream) = inner.unsaved.first().cloned() {
        let node = inner.state.node_mut(&stream);
        let write = NodeWrite {
            hello: node.hello_message().encode_to_vec(),
            applied_offset_usec: node.applied_offset_usec(),
            is_silent: node.is_silent(),
            stream: stream.clone(),
        };
        if !store.try_queue(Write::Node(write)) {
            return;
        }
        inner.unsaved.remove(&stream);
    }
}

impl Session {
    /// Changes the node; `None` if a newer stream has taken over. `change` must not block.
    pub fn change(&self, store: &StoreWriter, change: impl FnOnce(&mut NodeState) -> Touched) -> Option<()> {
        let mut inner = self.live.lock();
        if inner.sessions.get(&self.stream)?.number != self.number {
            return None;
        }
        let touched = change(inner.state.node_mut(&self.stream));
        if touched.is_node_row_old {
            // Before the records of the same batch: what is acked is never found with an older row.
            inner.unsaved.insert(self.stream.clone());
            save_nodes(&mut inner, store);
        }
        drop(inner);
        if touched.is_shown_otherwise {
            self.live.bump();
        }
        Some(())
    }

    /// Queues what a batch changed, in the order of the batches; false if a newer stream has taken over.
    pub fn queue(&self, store: &StoreWriter, write: RecordsWrite, permit: OwnedSemaphorePermit) -> bool {
        let mut inner = self.live.lock();
        if inner.sessions.get(&self.stream).is_none_or(|entry| entry.number != self.number) {
            return false;
        }
        let node = inner.state.node_mut(&self.stream);
        for (epoch, seq) in &write.watermarks {
            node.progress.queued(epoch, *seq);
        }
        store.queue(Write::Records(write), permit);
        true
    }

    /// What is wanted of the node: all suspects, and at most `n_captures` of the captures that were not taken before.
    #[must_use]
    pub fn take_wishes(&self, n_captures: usize) -> Wishes {
        let mut inner = self.live.lock();
        inner.wishes.get_mut(&self.stream.node).map_or_else(Wishes::default, |wishes| wishes.take(n_captures))
    }

    /// Whether the node was asked for that capture, on this stream or an earlier one; once.
    #[must_use]
    pub fn was_asked(&self, number: Ulid, vm_uid: &str) -> bool {
        let mut inner = self.live.lock();
        inner.wishes.get_mut(&self.stream.node).is_some_and(|wishes| wishes.answer(number, vm_uid))
    }

    /// Hands a capture to whoever asked for it.
    pub fn answer_capture(&self, number: Ulid, result: v1::CaptureResult) {
        self.live.lock().asked.answer(&self.stream.node, number, result);
    }

    /// What is durable, by epoch.
    #[must_use]
    pub fn durable_marks(&self) -> Vec<(Epoch, u64)> {
        let mut inner = self.live.lock();
        let node = inner.state.node_mut(&self.stream);
        node.progress.durable_marks().map(|(epoch, seq)| (epoch.clone(), seq)).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut inner = self.live.lock();
        if inner.sessions.get(&self.stream).is_some_and(|entry| entry.number == self.number) {
            inner.sessions.remove(&self.stream);
            inner.asked.lose(&self.stream.node);
        }
    }
}

/// A capture that was asked for; nobody waits for it any more when this is dropped.
#[derive(Debug)]
pub struct AskedCapture {
    /// What the node shows; an error if its agent has gone.
    pub answer: oneshot::Receiver<v1::CaptureResult>,
    live: Live,
    node: String,
    number: Ulid,
}

impl Drop for AskedCapture {
    fn drop(&mut self) {
        self.live.lock().asked.forget(&self.node, self.number);
    }
}

/// Why a node cannot be asked for a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// No stream of its agent is there.
    #[error("its agent does not report")]
    NoAgent,
    /// As many captures as may wait for one node do.
    #[error("its agent has as many captures to make as may wait")]
    Busy,
}

/// Why a stream is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotConnected {
    /// A later start of the agent reports.
    #[error(
        "hello.epoch: {epoch}, and start {reports} of the agent of node {node} reports already; two agents say they are this node: stop one, or give each its --node-name"
    )]
    OldEpoch {
        /// Of which node.
        node: String,
        /// Of the stream.
        epoch: u64,
        /// Of the one that reports.
        reports: u64,
    },
    /// There are as many nodes as there may be.
    #[error("hello.node: {most} nodes are known, and no more are taken in; raise limits.nodes of central")]
    TooManyNodes {
        /// How many.
        most: usize,
    },
}

impl NotConnected {
    /// The word in metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::OldEpoch { .. } => "old_epoch",
            Self::TooManyNodes { .. } => "too_many_nodes",
        }
    }
}

/// What a change of a node calls for afterwards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touched {
    /// A diagnosis may see a difference.
    pub is_shown_otherwise: bool,
    /// The node's row in the store is out of date.
    pub is_node_row_old: bool,
}

#[cfg(test)]
pub(crate) mod testing {
    use kulprit_daemon::clock::ManualClock;

    use super::*;
    use crate::state::Limits;

    /// Agents that are asked for captures, and answer when they are told to.
    pub(crate) struct Asking {
        live: Live,
        asked: Vec<(String, Ulid)>,
    }

    impl Default for Asking {
        fn default() -> Self {
            let clock = ManualClock::new(Moment { wall_usec: 1, boottime_usec: 1 }).clock();
            let state = CurrentState::new(Limits::default(), clock.now());
            Self { live: Live::new(state, clock, Settings::default(), false), asked: Vec::new() }
        }
    }

    impl Asking {
        pub(crate) fn ask(&mut self, node: &str, vm_uid: &str) -> Option<AskedCapture> {
            let (number, answer) = self.live.lock().asked.ask(node);
            self.asked.push((format!("{node} {vm_uid}"), number));
            Some(AskedCapture { answer, live: self.live.clone(), node: node.to_owned(), number })
        }

        /// Node and VM of all who were asked.
        pub(crate) fn asked(&self) -> Vec<&str> {
            self.asked.iter().map(|(whom, _)| whom.as_str()).collect()
        }

        pub(crate) fn answer(&self, whom: &str, took_usec: u64) {
            let (_, number) = self.asked.iter().find(|(asked, _)| asked == whom).expect("it was asked");
            let (node, vm_uid) = whom.split_once(' ').expect("a node and a VM");
            let result = v1::CaptureResult { vm_uid: vm_uid.to_owned(), took_usec, ..Default::default() };
            self.live.lock().asked.answer(node, *number, result);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kulprit_daemon::{clock::ManualClock, metrics::Metrics};
    use serde_json::json;

    use super::*;
    use crate::{
        kubernetes::{kinds::ROWS, watch::Sink as _},
        state::Limits,
        store::sqlite::SqliteStore,
    };

    // A node that was deleted for good, or replaced under another name: nobody is to look for its agent for ever.
    #[tokio::test]
    async fn a_silent_node_that_kubernetes_has_no_more_is_forgotten() {
        let clock = ManualClock::new(Moment { wall_usec: 1_800_000_000_000_000, boottime_usec: 0 });
        let mut metrics = Metrics::new("x", "0", &clock.clock());
        let central = CentralMetrics::register(metrics.section("central"));
        let mut state = CurrentState::new(Limits::default(), clock.clock().now());
        let stream = |node: &str| StreamId { cluster: "c".to_owned(), node: node.to_owned() };
        for node in ["n1", "gone"] {
            state.node_mut(&stream(node));
        }
        let live = Live::new(state, clock.clock(), Settings::default(), true);
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = SqliteStore::open(folder.path()).unwrap();
        let (writer, end) = StoreWriter::start(store, Box::new(|_, _| {}), central.clone()).unwrap();
        let names = || live.look(|state| state.nodes().map(|(id, _)| id.node.clone()).collect::<Vec<_>>());
        let nodes = ROWS.iter().find(|row| row.kind.as_str() == "Node").unwrap();
        let cluster = live.cluster().unwrap();
        cluster.apply(nodes, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
        clock.advance(Duration::from_secs(2_000));
        live.tick(&writer, &central);
        assert_eq!(names(), ["gone", "n1"], "not all nodes were listed yet");
        cluster.end_list(nodes);
        clock.advance(Duration::from_secs(60));
        live.tick(&writer, &central);
        assert_eq!(names(), ["n1"]);
        live.on_durable(&stream("gone"), &[]);
        assert_eq!(names(), ["n1"], "what the store says of it afterwards makes no node");
        writer.close();
        end.await.unwrap();
    }
}
