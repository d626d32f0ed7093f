//! Writes Events: what is due is decided purely (`events::due`), by the holder of the Lease, beside conditions and taints, which never
//! wait for it.
//!
//! Some are written at a time. A round in which nothing works is followed by a longer and longer pause; an Event that is refused again and
//! again is given up and counted, one whose namespace or object is going at once.

use std::time::Duration;

use kulprit_cluster::{SPEAKER, StandingNode, TOPIC};
use kulprit_daemon::{BoxError, CancellationToken, Clock};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
};

use super::{
    rounds::{self, Rounds, news_of},
    trouble::Troubles,
};
use crate::{
    conditions::PREFIX,
    events::{
        Object, Report, Reports,
        due::{Book, Decision, Due, Outcome},
        flips::Flips,
        sayings,
    },
    kubernetes::{
        Failure,
        lease::Leading,
        store::ClusterStore,
        write::{Writes, micro_time},
    },
    metrics::{CentralMetrics, ReasonLabel, WriteLabels},
};

/// How often it is looked for what is due without news of the engine: conditions that flipped, and what time brings.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Events that are written at the same time.
const AT_ONCE: usize = 8;
const EVENTS: &str = "events";
/// The API server keeps Events about what has no namespace here.
const OF_CLUSTER: &str = "default";

/// What a teller works with.
pub struct Sources {
    /// What the watches show.
    pub cluster: ClusterStore,
    /// What the engine has to say.
    pub reports: watch::Receiver<Reports>,
    /// Whether it may write.
    pub leading: Leading,
    /// How it writes.
    pub writes: Writes,
    /// `reportingInstance`: what no other central calls itself.
    pub identity: String,
    /// Central's clock.
    pub clock: Clock,
    /// What it counts.
    pub metrics: CentralMetrics,
}

/// Writes Events.
pub struct Teller {
    sources: Sources,
    /// What is remembered of what was said; nothing while another says it.
    memory: Option<Memory>,
    troubles: Troubles,
}

#[derive(Default)]
struct Memory {
    book: Book,
    flips: Flips,
}

impl Memory {
    /// `None` while the cluster is not seen.
    fn decide(&mut self, now_usec: i64, cluster: &ClusterStore, reports: &[Report]) -> Option<Decision> {
        let nodes: Vec<StandingNode> = cluster.standing(PREFIX, |_, _| false)?;
        let looked = cluster.look(|cluster| {
            let spoken: Vec<_> = cluster.spoken().cloned().collect();
            (sayings(reports, cluster, &nodes), spoken)
        });
        let (mut sayings, spoken) = looked?;
        sayings.extend(self.flips.sayings(now_usec, &nodes));
        Some(self.book.decide(now_usec, sayings, spoken.iter()))
    }
}

impl Rounds for Teller {
    const EVERY: Duration = LOOK_EVERY;

    async fn news(&mut self) {
        news_of(&mut self.sources.reports).await;
    }

    async fn look(&mut self) -> Result<(), BoxError> {
        let reports = self.sources.reports.borrow_and_update().clone();
        let Some(reports) = reports.filter(|_| !self.troubles.is_resting(EVENTS)) else { return Ok(()) };
        let now_usec = self.sources.clock.now().wall_usec;
        let mut memory = self.memory.take().unwrap_or_default();
        let cluster = self.sources.cluster.clone();
        let (memory, decision) = spawn_blocking(move || {
            let decision = memory.decide(now_usec, &cluster, &reports);
            (memory, decision)
        })
        .await?;
        self.memory = Some(memory);
        let Some(Decision { mut due, n_waiting, n_dropped }) = decision else { return Ok(()) };
        let metrics = &self.sources.metrics;
        metrics.events_waiting.set(i64::try_from(n_waiting).unwrap_or(i64::MAX));
        let n_dropped = u64::try_from(n_dropped).unwrap_or(u64::MAX);
        metrics.events_dropped.get_or_create(&ReasonLabel::new("budget")).inc_by(n_dropped);
        let has_refused = self.memory.as_ref().is_some_and(|memory| memory.book.has_refused());
        self.troubles.keep(|name| has_refused || due.iter().any(|due| due.name == name));
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(AT_ONCE));
            if !self.write(due).await {
                self.put_off(&rest);
                break;
            }
            due = rest;
        }
        Ok(())
    }

    fn looked(&mut self, is_leading: bool) {
        if !is_leading {
            self.memory = None;
        }
    }
}

impl Teller {
    /// Writes from these.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self { sources, memory: None, troubles: Troubles::default() }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// If what decides panics.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let leading = self.sources.leading.clone();
        rounds::run(self, leading, stop).await
    }

    /// Writes some at the same time; whether the API server took any.
    async fn write(&mut self, due: Vec<Due>) -> bool {
        let now_usec = self.sources.clock.now().wall_usec;
        let mut tasks = JoinSet::new();
        for due in due {
            let (writes, identity) = (self.sources.writes.clone(), self.sources.identity.clone());
            tasks.spawn(async move {
                let namespace = namespace_of(&due.saying.object);
                let written = match due.count {
                    0 | 1 => writes.create_event(namespace, &event(&due, &identity, now_usec)).await,
                    count => writes.observe_event(namespace, &due.name, count, now_usec).await,
                };
                (due, written)
            });
        }
        let mut is_any_done = false;
        while let Some(joined) = tasks.join_next().await {
            let Ok((due, written)) = joined else { continue };
            let outcome = outcome(&due, written.as_ref().err());
            is_any_done |= !matches!(outcome, Outcome::Unanswered | Outcome::Refused);
            self.note(&due, written.as_ref().err(), outcome);
            if let Some(memory) = &mut self.memory
                && memory.book.wrote(now_usec, &due, outcome)
            {
                self.sources.metrics.events_dropped.get_or_create(&ReasonLabel::new("refused")).inc();
            }
        }
        self.troubles.rest(EVENTS, is_any_done);
        is_any_done
    }

    /// These are not tried now.
    fn put_off(&mut self, due: &[Due]) {
        let now_usec = self.sources.clock.now().wall_usec;
        let Some(memory) = &mut self.memory else { return };
        for due in due {
            memory.book.wrote(now_usec, due, Outcome::Unanswered);
        }
    }

    fn note(&mut self, due: &Due, failure: Option<&Failure>, outcome: Outcome) {
        let word = failure.map_or("ok", Failure::outcome);
        self.sources.metrics.writes.get_or_create(&WriteLabels::new(EVENTS, word)).inc();
        match failure.filter(|_| matches!(outcome, Outcome::Unanswered | Outcome::Refused)) {
            None => self.troubles.worked(EVENTS, &due.name),
            Some(failure) => self.troubles.failed(EVENTS, &due.name, failure),
        }
    }
}

fn namespace_of(object: &Object) -> &str {
    if object.namespace.is_empty() { OF_CLUSTER } else { &object.namespace }
}

/// What an answer means for an Event.
fn outcome(due: &Due, failure: Option<&Failure>) -> Outcome {
    let is_new = due.count < 2;
    match failure {
        None => Outcome::Said,
        Some(Failure::Status { code: 409, .. }) if is_new => Outcome::Said,
        Some(Failure::Status { code: 404, .. }) if !is_new => Outcome::Vanished,
        // The words of the admission plugin NamespaceLifecycle.
        Some(Failure::Status { code: 403, message, .. }) if message.contains("being terminated") => Outcome::Hopeless,
        Some(Failure::Status { code: 400 | 404 | 413 | 422, .. }) => Outcome::Hopeless,
        Some(Failure::Status { code: 429 | 500..=599, .. }) => Outcome::Unanswered,
        Some(Failure::Status { .. }) => Outcome::Refused,
        Some(Failure::NoAnswer(_) | Failure::Garbled(_) | Failure::Cut) => Outcome::Unanswered,
    }
}

/// An Event of `events.k8s.io/v1` as it is made.
fn event(due: &Due, identity: &str, now_usec: i64) -> Value {
    let Due { name, is_warning, action, saying, .. } = due;
    let namespace = namespace_of(&saying.object);
    let note = if *is_warning || saying.over_note.is_empty() { &saying.note } else { &saying.over_note };
    let reason = if *is_warning || saying.over_note.is_empty() { saying.reason.as_str() } else { "Recovered" };
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace, "annotations": {TOPIC: saying.topic}},
        "eventTime": micro_time(now_usec),
        "reportingController": SPEAKER,
        "reportingInstance": identity.chars().take(128).collect::<String>(),
        "action": action,
        "reason": reason,
        "type": if *is_warning { "Warning" } else { "Normal" },
        "note": note,
        "regarding": reference(&saying.object),
    });
    if let Some(incident) = &saying.incident {
        event["metadata"]["labels"] =
            json!({format!("{PREFIX}incident"): incident.to_string(), format!("{PREFIX}cause"): saying.reason});
    }
    if let Some(related) = &saying.related {
        event["related"] = reference(related);
    }
    event
}

fn reference(object: &Object) -> Value {
    let Object { kind, namespace, name, uid } = object;
    let (version, kind) = kind.words();
    let mut reference = json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid});
    if !namespace.is_empty() {
        reference["namespace"] = json!(namespace);
    }
    reference
}
