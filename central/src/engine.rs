//! The engine: diagnose again whenever something changed, and while something is open as time passes.
//!
//! A change is waited out for [`DEBOUNCE`] so that one fault's many records are one pass; where changes never end and a pass
//! takes long, for as long as keeps passes to a fifth of a core. Symptoms also begin and incidents end by the clock alone, so
//! while anything is Present or open a pass follows every second at best, every 10 s at worst, in proportion to what a pass
//! costs. Everything is decided from one snapshot, on a thread where it may take its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kulprit_daemon::{BoxError, CancellationToken};
use kulprit_diagnosis::{Attribution, Indexed, Snapshot};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, info, warn};
use ulid::Ulid;

use crate::{
    conditions::{NpdMode, judge},
    events::{self, Reports},
    figures::Figures,
    incident::{Event, IncidentChange, Incidents, Looks, Timers, advance, observe::observe},
    kubernetes::store::ClusterStore,
    live::Live,
    metrics::{CentralMetrics, EventLabel},
    publish::Verdicts,
    store::{StoreWriter, Write},
    wishes::{CaptureBook, early::EarlyCaptures, places, suspects},
};

/// How long a change waits for others of the same fault.
pub const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often time passes: silence, expiry, and the earliest next pass.
const TICK: Duration = Duration::from_secs(1);
/// The longest time between two passes while something is open.
const PASS_AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// A pass for the clock's sake may take this share of one core: one part in so many.
const COST_DIVISOR: u32 = 50;
/// After a pass the next one for a change's sake waits so many times as long as it took, [`PASS_AT_LEAST_EVERY`] at most.
const REST_AFTER_PASS: u32 = 4;
/// How long a start waits for Kubernetes to be listed.
const LISTED_WITHIN: Duration = Duration::from_secs(10);
/// How often retention is applied.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);

/// What the engine decided last; clones share it.
#[derive(Clone, Debug)]
pub struct Decided(watch::Sender<Arc<Incidents>>);

impl Decided {
    /// Starts from what the store has.
    #[must_use]
    pub fn new(incidents: Incidents) -> Self {
        Self(watch::Sender::new(Arc::new(incidents)))
    }

    /// All incidents as they are.
    #[must_use]
    pub fn incidents(&self) -> Arc<Incidents> {
        Arc::clone(&self.0.borrow())
    }

    /// Told whenever one of them has changed.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Incidents>> {
        self.0.subscribe()
    }

    fn replace(&self, incidents: Incidents) {
        self.0.send_replace(Arc::new(incidents));
    }
}

/// Decides, and hands on what was decided.
#[derive(Debug)]
pub struct Engine {
    live: Live,
    store: StoreWriter,
    decided: Decided,
    metrics: CentralMetrics,
    timers: Timers,
    retention: Duration,
    /// Incidents whose row in the store is out of date.
    unsaved: BTreeSet<Ulid>,
    captures: CaptureBook,
    early: EarlyCaptures,
    /// Who writes what nodes come to, if anybody does.
    verdicts: Option<(watch::Sender<Verdicts>, NpdMode)>,
    /// Who says why objects of Kubernetes are in trouble, if anybody does.
    reports: Option<watch::Sender<Reports>>,
}

/// One pass: what was seen and what follows from it.
#[derive(Debug)]
pub struct Pass {
    /// One for each symptom, with the causes alone.
    pub attributions: Vec<Attribution>,
    /// What becomes of incidents.
    pub changes: Vec<IncidentChange>,
    /// VMs to look closer at, by node.
    pub suspects: BTreeMap<String, BTreeSet<String>>,
    /// Nodes on which there is something to see of a VM with a symptom, by its UID.
    pub places: BTreeMap<String, BTreeSet<String>>,
}

/// Diagnoses a snapshot and moves incidents on. Pure.
#[must_use]
pub fn pass(snapshot: &Snapshot, incidents: &Incidents, timers: &Timers) -> Pass {
    let indexed = Indexed::new(snapshot);
    let symptoms = indexed.symptoms();
    let attributions: Vec<Attribution> = symptoms.iter().map(|symptom| indexed.attribute_causes(symptom)).collect();
    let observations = observe(&indexed, &attributions);
    let changes = advance(incidents, &observations, &Looks::of(snapshot), snapshot.reference_wall_usec, timers);
    let places = places(&indexed, &attributions);
    let suspects = suspects(&indexed, &places);
    Pass { attributions, changes, suspects, places }
}

impl Engine {
    /// Decides from `live`; history and incidents older than `retention` are dropped.
    #[must_use]
    pub fn new(
        live: Live,
        store: StoreWriter,
        decided: Decided,
        metrics: CentralMetrics,
        timers: Timers,
        retention: Duration,
    ) -> Self {
        Self {
            live,
            store,
            decided,
            metrics,
            timers,
            retention,
            unsaved: BTreeSet::new(),
            captures: CaptureBook::default(),
            early: EarlyCaptures::default(),
            verdicts: None,
            reports: None,
        }
    }

    /// Tells `verdicts` what nodes come to, whenever that is something else.
    #[must_use]
    pub fn with_verdicts(self, verdicts: watch::Sender<Verdicts>, npd_mode: NpdMode) -> Self {
        Self { verdicts: Some((verdicts, npd_mode)), ..self }
    }

    /// Tells `reports` what there is to be said of the open incidents, whenever that is something else.
    #[must_use]
    pub fn with_reports(self, reports: watch::Sender<Reports>) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// If a pass panics.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut changed = self.live.subscribe();
        // All that is known is news to an engine that begins: one that takes over from another central may see no change for long.
        changed.mark_changed();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut last_retention: Option<Instant> = None;
        let mut next_pass = Instant::now();
        let mut rested = next_pass;
        // Decided from half a cluster, incidents of the other half would be thought over.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = self.cluster_listed() => {}
        }
        loop {
            let is_due = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {
                    for fallen in self.live.tick(&self.store, &self.metrics) {
                        info!(node = %fallen.node, "a node has fallen silent; what it said is unknown now");
                    }
                    if last_retention.is_none_or(|last| last.elapsed() >= RETENTION_EVERY) {
                        last_retention = Some(Instant::now());
                        self.apply_retention();
                    }
                    self.save();
                    self.metrics.store_waiting.set(i64::try_from(self.store.n_waiting()).unwrap_or(i64::MAX));
                    Instant::now() >= next_pass && self.is_anything_open()
                }
                () = settled(&mut changed, rested) => true,
            };
            if is_due {
                let began = Instant::now();
                self.pass().await?;
                let cost = began.elapsed();
                let rest = |times: u32| Instant::now() + (cost * times).min(PASS_AT_LEAST_EVERY);
                (rested, next_pass) = (rest(REST_AFTER_PASS), rest(COST_DIVISOR));
            }
        }
    }

    /// Waits until Kubernetes was listed, and not for ever: hosts are seen without it.
    async fn cluster_listed(&self) {
        let Some(cluster) = self.live.cluster() else { return };
        let mut changed = self.live.subscribe();
        let listed = async { while !cluster.is_listed() && changed.changed().await.is_ok() {} };
        if timeout(LISTED_WITHIN, listed).await.is_err() {
            warn!("Kubernetes was not listed yet; hosts are explained without it");
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let began = Instant::now();
        let (live, timers, incidents) = (self.live.clone(), self.timers, self.decided.incidents());
        let (verdicts, of_objects) = (self.verdicts.clone(), self.reports.clone());
        let (done, incidents, figures) = spawn_blocking(move || {
            let snapshot = live.snapshot();
            let done = pass(&snapshot, &incidents, &timers);
            let mut next = (*incidents).clone();
            next.apply(&done.changes);
            // Without Kubernetes' nodes there is nothing to write on, and what they say would be missed.
            let is_seen = !snapshot.cluster_nodes.is_empty();
            let verdicts = verdicts.filter(|_| is_seen);
            let judged =
                verdicts.as_ref().map(|(_, npd_mode)| Arc::new(judge(&snapshot, &done.attributions, &next, *npd_mode)));
            let figures = Figures::of(&snapshot, &done.attributions, &next, judged.as_deref().map(Vec::as_slice));
            if let Some((verdicts, _)) = verdicts {
                tell(&verdicts, judged);
            }
            if let Some(of_objects) = of_objects.filter(|_| is_seen) {
                let (now_usec, after_usec) = (snapshot.reference_wall_usec, timers.close_after_usec);
                let reports = events::reports(&done.attributions, &next, now_usec, after_usec);
                tell(&of_objects, Some(Arc::new(reports)));
            }
            (done, next, figures)
        })
        .await?;
        figures.show(&self.metrics);
        self.metrics.diagnosis_passes.inc();
        self.metrics.diagnosis_seconds.observe(began.elapsed().as_secs_f64());
        let early = self.early.follow(&done.suspects, &incidents, |node, uid| self.live.ask_capture(node, uid).ok());
        for capture in early {
            if !self.store.try_queue(Write::Capture(capture)) {
                warn!("the store has no room for a capture; it is lost");
            }
        }
        self.live.wish(done.suspects, self.captures.want(&incidents, &done.places));
        if !done.changes.is_empty() {
            self.decided.replace(incidents);
        }
        for change in &done.changes {
            self.report(change);
            self.unsaved.insert(change.incident.id);
        }
        self.save();
        Ok(())
    }

    fn report(&self, change: &IncidentChange) {
        for event in &change.events {
            self.metrics.incident_events.get_or_create(&EventLabel::new(event.as_str())).inc();
            let incident = &change.incident;
            let (id, cause, node) = (incident.id.to_string(), &incident.key.cause, &incident.node);
            match event {
                Event::Opened | Event::Reopened | Event::Closed | Event::CauseChanged | Event::Merged => {
                    info!(incident = id, %cause, %node, event = event.as_str(), "an incident changed");
                }
                Event::MemberJoined | Event::MemberEnded => {
                    debug!(incident = id, %cause, %node, event = event.as_str(), "an incident changed");
                }
            }
        }
    }

    /// Queues what became of incidents and migrations; what the store has no room for waits for the next tick.
    fn save(&mut self) {
        if let Some(cluster) = self.live.cluster() {
            cluster.save_migrations(|write| self.store.try_queue(Write::Migrations(write)));
        }
        self.save_incidents();
    }

    fn save_incidents(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        let incidents = self.decided.incidents();
        let changed = self.unsaved.iter().filter_map(|id| incidents.get(*id).cloned()).collect();
        if self.store.try_queue(Write::Incidents(changed)) {
            self.unsaved.clear();
        }
    }

    fn apply_retention(&self) {
        let kept_usec = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let oldest = self.live.clock().now().wall_usec.saturating_sub(kept_usec);
        self.store.drop_history_before(oldest);
        let mut incidents = (*self.decided.incidents()).clone();
        incidents.drop_closed_before(oldest);
        self.decided.replace(incidents);
    }

    /// Whether anything can begin or end by the clock alone.
    fn is_anything_open(&self) -> bool {
        self.decided.incidents().open().next().is_some()
            || self.live.look(|state| state.count_states().n_present > 0)
            || self.live.cluster().is_some_and(ClusterStore::is_restless)
    }
}

impl Event {
    /// The word used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Closed => "closed",
            Self::CauseChanged => "cause_changed",
            Self::Merged => "merged",
            Self::MemberJoined => "member_joined",
            Self::MemberEnded => "member_ended",
        }
    }
}

/// Tells whoever wants to know, if it is something else than was told last.
fn tell<T: PartialEq>(whom: &watch::Sender<T>, now: T) {
    whom.send_if_modified(|known| {
        *known != now && {
            *known = now;
            true
        }
    });
}

/// Resolves [`DEBOUNCE`] after the next change, and not before `rested`. Not cancel-safe in full: a change waited out by a cancelled call is seen by
/// the next one, because only the end of the wait marks it as seen.
async fn settled(changed: &mut watch::Receiver<u64>, rested: Instant) {
    if !changed.has_changed().unwrap_or(false) && changed.clone().changed().await.is_err() {
        // The engine itself holds the sender.
        return std::future::pending().await;
    }
    sleep_until(rested.max(Instant::now() + DEBOUNCE)).await;
    changed.borrow_and_update();
}
