//! Central's word on the nodes of the cluster: what is decided is written, by the holder of the Lease, and nobody waits for it.
//!
//! What is due is decided purely (`conditions::due`, `taints`) from the engine's last verdicts and what the watches show; here it is
//! written, some nodes at a time, recoveries first. A node whose write fails is tried again later and later, and holds up no other where it is
//! refused for itself; a round in which nobody answers is followed by a longer and longer pause. Each kind of trouble is said when it begins and when it is over, and counted.
//! Events are written beside it (`teller`).

mod desk;
mod rounds;
pub mod teller;
#[cfg(test)]
mod tests;
mod trouble;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kulprit_daemon::{BoxError, CancellationToken, Clock};
use kulprit_model::catalogue::NodeCondition;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
};
use tracing::info;

use self::{
    desk::{Decision, Desk, DueNode},
    rounds::{Rounds, news_of},
    trouble::Troubles,
};
use crate::{
    conditions::{NodeVerdict, NpdMode},
    kubernetes::{Failure, lease::Leading, store::ClusterStore, write::Writes},
    metrics::{CentralMetrics, ReasonLabel, WriteLabels},
    taints::{Policy, TaintChange, Withheld},
};

/// How often it is looked for what is due without a change of a verdict: what time brings, and what others write.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Nodes that are written to at the same time.
const AT_ONCE: usize = 16;

/// What the engine last said of all nodes; `None` before its first word.
pub type Verdicts = Option<Arc<Vec<NodeVerdict>>>;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether conditions are; else those that stand are removed.
    pub conditions: bool,
    /// What is done with node-problem-detector's types.
    pub npd_mode: NpdMode,
    /// Which taints are; those that it does not name are removed.
    pub taints: Policy,
    /// Whether taints are only said.
    pub dry_run: bool,
}

/// What a publisher works with.
pub struct Sources {
    /// What the watches show.
    pub cluster: ClusterStore,
    /// What the engine says.
    pub verdicts: watch::Receiver<Verdicts>,
    /// Whether it may write.
    pub leading: Leading,
    /// How it writes.
    pub writes: Writes,
    /// Central's clock.
    pub clock: Clock,
    /// What it counts.
    pub metrics: CentralMetrics,
}

/// Writes what is due.
pub struct Publisher {
    sources: Sources,
    settings: Settings,
    /// What is remembered of the nodes; nothing while another writes.
    desk: Option<Desk>,
    troubles: Troubles,
}

impl Rounds for Publisher {
    const EVERY: Duration = LOOK_EVERY;

    async fn news(&mut self) {
        news_of(&mut self.sources.verdicts).await;
    }

    async fn look(&mut self) -> Result<(), BoxError> {
        let verdicts = self.sources.verdicts.borrow_and_update().clone();
        let Some(verdicts) = verdicts else { return Ok(()) };
        let now_usec = self.sources.clock.now().wall_usec;
        let mut desk = self.desk.take().unwrap_or_else(|| Desk::new(&self.settings, now_usec));
        let cluster = self.sources.cluster.clone();
        let (desk, decision) = spawn_blocking(move || {
            let decision = desk.decide(now_usec, &cluster, &verdicts);
            (desk, decision)
        })
        .await?;
        self.troubles.keep(|node| desk.knows(node));
        self.desk = Some(desk);
        let Some(Decision { due, taints, withheld, n_tainted, said }) = decision else { return Ok(()) };
        self.sources.metrics.tainted_nodes.set(i64::try_from(n_tainted).unwrap_or(i64::MAX));
        said.iter().for_each(Line::log);
        self.count(&withheld);
        for change in taints {
            if self.troubles.may_try(TAINTS, &change.node) {
                self.set_taints(change).await;
            }
        }
        let mut due: Vec<DueNode> =
            due.into_iter().filter(|due| self.troubles.may_try(CONDITIONS, &due.standing.name)).collect();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(AT_ONCE));
            if !self.apply(due).await {
                break;
            }
            due = rest;
        }
        Ok(())
    }

    fn looked(&mut self, is_leading: bool) {
        self.sources.metrics.leading.set(i64::from(is_leading));
        if !is_leading {
            self.desk = None;
        }
    }
}

impl Publisher {
    /// Writes by these settings.
    #[must_use]
    pub fn new(sources: Sources, settings: Settings) -> Self {
        Self { sources, settings, desk: None, troubles: Troubles::default() }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// If what decides panics.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let leading = self.sources.leading.clone();
        rounds::run(self, leading, stop).await
    }

    /// Writes conditions of some nodes at the same time; whether it makes sense to write more.
    async fn apply(&mut self, due: Vec<DueNode>) -> bool {
        let now_usec = self.sources.clock.now().wall_usec;
        let mut tasks = JoinSet::new();
        for due in due {
            let writes = self.sources.writes.clone();
            tasks.spawn(async move {
                let (node, uid) = (&due.standing.name, &due.standing.uid);
                let written = match writes.remove_conditions(node, uid, &due.retired()).await {
                    Ok(()) => writes.apply_conditions(node, uid, &due.due.conditions, now_usec).await,
                    failed => failed,
                };
                (due, written)
            });
        }
        let mut is_any_answered = false;
        while let Some(joined) = tasks.join_next().await {
            let Ok((due, written)) = joined else { continue };
            self.note(CONDITIONS, &due.standing.name, written.as_ref().err());
            is_any_answered |= is_answered(&written);
            if let Some(desk) = self.desk.as_mut().filter(|_| written.is_ok()) {
                desk.wrote(now_usec, due);
            }
        }
        self.troubles.rest(CONDITIONS, is_any_answered);
        is_any_answered
    }

    async fn set_taints(&mut self, change: TaintChange) {
        let written = self.sources.writes.set_taints(&change).await;
        self.note(TAINTS, &change.node, written.as_ref().err());
        self.troubles.rest(TAINTS, is_answered(&written));
        let now_usec = self.sources.clock.now().wall_usec;
        let Some(desk) = &mut self.desk else { return };
        match written {
            Ok(()) => {
                let taints: Vec<&String> = change.taints.keys().collect();
                info!(node = change.node, ?taints, "our taints of a node are these now");
                desk.tainted(now_usec, change);
            }
            Err(Failure::Status { code: 400..=499, .. }) => {}
            Err(_) => desk.unsure(now_usec, change),
        }
    }

    fn note(&mut self, what: &'static str, node: &str, failure: Option<&Failure>) {
        let outcome = failure.map_or("ok", Failure::outcome);
        self.sources.metrics.writes.get_or_create(&WriteLabels::new(what, outcome)).inc();
        match failure {
            None => self.troubles.worked(what, node),
            Some(failure) => self.troubles.failed(what, node, failure),
        }
    }

    fn count(&self, withheld: &BTreeMap<(String, NodeCondition), Withheld>) {
        for word in ["waits", "taken", "budget", "breaker"] {
            let n_withheld = withheld.values().filter(|why| why.as_str() == word).count();
            let gauge = self.sources.metrics.taints_withheld.get_or_create(&ReasonLabel::new(word));
            gauge.set(i64::try_from(n_withheld).unwrap_or(i64::MAX));
        }
    }
}

/// Whether the API server works, whatever it says of this one node.
fn is_answered(written: &Result<(), Failure>) -> bool {
    written.as_ref().map_or_else(Failure::is_of_one, |()| true)
}

const CONDITIONS: &str = "conditions";
const TAINTS: &str = "taints";

/// Something that a person is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// In a dry run: these taints of ours the node would have now.
    Would(String, Vec<String>),
    /// A taint that is wanted is withheld.
    Withheld(String, NodeCondition, Withheld),
}

impl Line {
    fn log(&self) {
        match self {
            Self::Would(node, taints) => info!(node, ?taints, "dry run: the taints that a node would have"),
            Self::Withheld(node, condition, why) => {
                let detail = match why {
                    Withheld::Taken(detail) => detail.clone(),
                    Withheld::Budget(limit) => format!("{limit} nodes of its zone may be out"),
                    Withheld::Waits | Withheld::Breaker => String::new(),
                };
                info!(node, %condition, reason = why.as_str(), detail, "a node is not tainted");
            }
        }
    }
}
