//! Every spawned task has a name, an owner, and an end that somebody notices.
//!
//! A *core* task (uplink, spool, engine, leader) must not end before the process does: whatever way it ends, the process
//! drains the others and ends too, naming it; half a process is worse than none. A *restartable* task (a probe) may panic or
//! fail: that is counted, told to `on_end` (so that its findings become Unknown), and it starts again after a back-off.
//! When the token is cancelled all are given the drain deadline; the late ones are aborted and named.

mod end;

use std::{collections::HashMap, fmt, future::Future, panic, pin::Pin, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    BoxError, Chain,
    backoff::{Backoff, BackoffPolicy, stable_seed},
    metrics::ClosedName,
    shutdown::Drain,
};

pub use end::{EarlyEnd, End, Outcome};

/// A task that ran this long was well: its next failure is waited for like the first.
const WELL_AFTER: Duration = Duration::from_secs(60);

type TaskResult = Result<(), BoxError>;
type Start = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = TaskResult> + Send>> + Send + Sync>;
type OnEnd = Box<dyn FnMut(&'static str, &End) + Send>;

/// Owns the tasks of a process.
pub struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<TaskResult>,
    known: HashMap<Id, Task>,
    policy: BackoffPolicy,
    seed: u64,
    on_end: OnEnd,
    metrics: SupervisorMetrics,
}

struct Task {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    Core,
    Restartable { start: Start, backoff: Backoff, started: Instant },
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.known.values().map(|task| task.name).collect();
        names.sort_unstable();
        f.debug_struct("Supervisor").field("tasks", &names).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Owns nothing yet. Its tasks are told to end by `stop`; `registry` is a section named `task`. `seed` spreads the
    /// restarts of a fleet; take it from [`crate::backoff::random_seed`].
    #[must_use]
    pub fn new(stop: CancellationToken, registry: &mut Registry, seed: u64) -> Self {
        Self {
            stop,
            tasks: JoinSet::new(),
            known: HashMap::new(),
            policy: BackoffPolicy::default(),
            seed,
            on_end: Box::new(|_, _| ()),
            metrics: SupervisorMetrics::register(registry),
        }
    }

    /// Restarts with other delays than [`BackoffPolicy::default`].
    #[must_use]
    pub fn with_backoff(mut self, policy: BackoffPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Calls `on_end` with the name of each task that ends before it was told to, before its restart. It must not block.
    #[must_use]
    pub fn with_on_end(mut self, on_end: impl FnMut(&'static str, &End) + Send + 'static) -> Self {
        self.on_end = Box::new(on_end);
        self
    }

    /// Starts a task without which the process makes no sense. Once told to end it has to end with `Ok`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn core<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = TaskResult> + Send + 'static,
    {
        let id = self.tasks.spawn(task).id();
        self.metrics.begin(name);
        self.metrics.is_up(name).set(1);
        self.known.insert(id, Task { name, kind: Kind::Core });
    }

    /// Starts a task that is started again when it ends too early. `start` itself may panic as well.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn restartable<S, F>(&mut self, name: &'static str, start: S)
    where
        S: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = TaskResult> + Send + 'static,
    {
        let start: Start = Arc::new(move || Box::pin(start()));
        let backoff = Backoff::new(self.policy, self.seed ^ stable_seed(&[name]));
        self.metrics.begin(name);
        self.spawn_restartable(name, start, backoff, Duration::ZERO);
    }

    /// Watches the tasks until `stop` is cancelled or a core task ends; then drains. Not cancel-safe: dropping the future
    /// aborts all tasks.
    ///
    /// # Errors
    /// If a core task ended before it was told to.
    pub async fn run(mut self, drain_deadline: Duration) -> Result<Drain, EarlyEnd> {
        let mut failed = Vec::new();
        let early = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break None,
                Some(joined) = self.tasks.join_next_with_id() => {
                    let (task, end) = self.take(joined);
                    if self.stop.is_cancelled() {
                        // It ended as told; we only heard of the end before the order.
                        failed.extend(end.into_error().map(|error| (task.name, error)));
                        break None;
                    }
                    if let Some(early) = self.ended_early(task, end) {
                        break Some(early);
                    }
                }
            }
        };
        self.stop.cancel();
        let drain = self.drain(drain_deadline, failed).await;
        match early {
            Some((task, end)) => Err(EarlyEnd { task, end, drain }),
            None => Ok(drain),
        }
    }

    /// Restarts the task, or returns the core task that must end the process.
    fn ended_early(&mut self, task: Task, end: End) -> Option<(&'static str, End)> {
        let Task { name, kind } = task;
        self.metrics.ended(name, end.outcome());
        (self.on_end)(name, &end);
        match kind {
            Kind::Core => {
                error!(task = name, outcome = end.outcome().as_str(), reason = %end, "core task ended early, ending the process");
                Some((name, end))
            }
            Kind::Restartable { start, mut backoff, started } => {
                if Instant::now().saturating_duration_since(started) >= WELL_AFTER {
                    backoff.reset();
                }
                let delay = backoff.next_delay();
                warn!(task = name, outcome = end.outcome().as_str(), reason = %end, ?delay, "task ended, will start again");
                self.spawn_restartable(name, start, backoff, delay);
                None
            }
        }
    }

    fn spawn_restartable(&mut self, name: &'static str, start: Start, backoff: Backoff, delay: Duration) {
        let (stop, is_up) = (self.stop.clone(), self.metrics.is_up(name));
        let run = Arc::clone(&start);
        let spawned = self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(delay) => {}
            }
            is_up.set(1);
            run().await
        });
        let kind = Kind::Restartable { start, backoff, started: Instant::now() + delay };
        self.known.insert(spawned.id(), Task { name, kind });
    }

    /// Waits for all tasks to end; aborts and names those that do not.
    async fn drain(&mut self, deadline: Duration, mut failed: Vec<(&'static str, BoxError)>) -> Drain {
        let began = Instant::now();
        while let Ok(Some(joined)) = timeout_at(began + deadline, self.tasks.join_next_with_id()).await {
            let (task, end) = self.take(joined);
            if let Some(error) = end.into_error() {
                error!(task = task.name, error = %Chain(error.as_ref()), "task failed while ending");
                failed.push((task.name, error));
            }
        }
        let took = began.elapsed();
        let mut late: Vec<_> = self.known.values().map(|task| task.name).collect();
        late.sort_unstable();
        if late.is_empty() {
            info!(?took, "drained");
        } else {
            error!(?deadline, tasks = late.join(", "), "tasks did not end in time, aborting them");
            self.tasks.abort_all();
        }
        Drain { took, deadline, late, failed }
    }

    fn take(&mut self, joined: Result<(Id, TaskResult), JoinError>) -> (Task, End) {
        let (id, end) = match joined {
            Ok((id, Ok(()))) => (id, End::Returned),
            Ok((id, Err(error))) => (id, End::Failed(error)),
            Err(error) => (error.id(), End::from(error)),
        };
        let task = self.known.remove(&id).expect("every task in the set was entered when it was spawned");
        self.metrics.is_up(task.name).set(0);
        (task, end)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: ClosedName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    task: ClosedName,
    outcome: ClosedName,
}

struct SupervisorMetrics {
    ends: Family<EndLabels, Counter>,
    up: Family<TaskLabels, Gauge>,
}

impl SupervisorMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self { ends: Family::default(), up: Family::default() };
        registry.register("ends", "Tasks that ended before they were told to", metrics.ends.clone());
        registry.register("up", "1 while the task runs, 0 while it waits for its restart", metrics.up.clone());
        metrics
    }

    /// Shows every series of the task as zero: `increase()` does not see a counter that is born with 1.
    fn begin(&self, task: &'static str) {
        for outcome in [Outcome::Returned, Outcome::Failed, Outcome::Panicked] {
            self.ends(task, outcome);
        }
    }

    fn ended(&self, task: &'static str, outcome: Outcome) {
        self.ends(task, outcome).inc();
    }

    fn ends(&self, task: &'static str, outcome: Outcome) -> Counter {
        let labels = EndLabels { task: ClosedName(task), outcome: ClosedName(outcome.as_str()) };
        self.ends.get_or_create(&labels).clone()
    }

    fn is_up(&self, task: &'static str) -> Gauge {
        self.up.get_or_create(&TaskLabels { task: ClosedName(task) }).clone()
    }
}

#[cfg(test)]
mod tests;
