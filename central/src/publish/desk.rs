//! What is remembered of all nodes between two looks, and what is due now. No I/O but the look at the watches' store.

use std::collections::BTreeMap;

use kulprit_cluster::{StandingNode, StandingTaint};
use kulprit_model::catalogue::NodeCondition;

use super::{Line, Settings};
use crate::{
    conditions::{
        NodeVerdict, NpdMode, PREFIX,
        due::{Due, NodeMemory, Wanted},
        npd,
    },
    kubernetes::store::ClusterStore,
    taints::{Plan, Planner, Policy, TaintChange, Taints, Withheld},
};

/// A node to whose conditions something is due.
#[derive(Debug)]
pub(super) struct DueNode {
    /// The node as it was decided on.
    pub(super) standing: StandingNode,
    pub(super) due: Due,
}

impl DueNode {
    /// Conditions without our prefix that we wrote and do not want any more. That they go from what we apply does not remove them where
    /// another wrote them before us: of his he still owns the name.
    pub(super) fn retired(&self) -> Vec<&str> {
        let is_wanted = |kind: &str| self.due.conditions.iter().any(|own| own.kind == kind);
        let kinds = self.standing.conditions.iter().map(|own| own.kind.as_str());
        kinds.filter(|kind| !kind.starts_with(PREFIX) && !is_wanted(kind)).collect()
    }
}

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// The most urgent first.
    pub(super) due: Vec<DueNode>,
    /// Removals first.
    pub(super) taints: Vec<TaintChange>,
    pub(super) withheld: BTreeMap<(String, NodeCondition), Withheld>,
    /// Nodes that have a taint of ours.
    pub(super) n_tainted: usize,
    /// What is news to a person.
    pub(super) said: Vec<Line>,
}

pub(super) struct Desk {
    conditions: bool,
    npd_mode: NpdMode,
    memories: BTreeMap<String, NodeMemory>,
    planner: Planner,
    dry: Option<DryRun>,
    /// What of a withheld taint was said.
    said: BTreeMap<(String, NodeCondition), &'static str>,
}

/// Taints that are planned as if they were set.
struct DryRun {
    planner: Planner,
    taints: BTreeMap<String, Vec<StandingTaint>>,
}

impl Desk {
    pub(super) fn new(settings: &Settings, now_usec: i64) -> Self {
        let planner = |policy: Policy| Planner::new(policy, now_usec);
        let nothing = Policy { effects: BTreeMap::new(), ..settings.taints.clone() };
        let real = if settings.dry_run { nothing } else { settings.taints.clone() };
        let dry =
            settings.dry_run.then(|| DryRun { planner: planner(settings.taints.clone()), taints: BTreeMap::new() });
        Self {
            conditions: settings.conditions,
            npd_mode: settings.npd_mode,
            memories: BTreeMap::new(),
            planner: planner(real),
            dry,
            said: BTreeMap::new(),
        }
    }

    /// `None` while nodes are not seen.
    pub(super) fn decide(
        &mut self,
        now_usec: i64,
        cluster: &ClusterStore,
        verdicts: &[NodeVerdict],
    ) -> Option<Decision> {
        let verdicts: BTreeMap<&str, &NodeVerdict> =
            verdicts.iter().map(|verdict| (verdict.node.as_str(), verdict)).collect();
        // Where no agent is, node-problem-detector may be.
        let is_taken_over = |node: &str, kind: &str| {
            self.conditions && self.npd_mode == NpdMode::Replace && npd::is_type(kind) && verdicts.contains_key(node)
        };
        let nodes = cluster.standing(PREFIX, is_taken_over)?;
        let Plan { changes, mut withheld } = self.planner.plan(now_usec, &nodes, &verdicts);
        let mut said = Vec::new();
        if let Some(dry) = &mut self.dry {
            withheld = dry.run(now_usec, &nodes, &verdicts, &mut said);
        }
        self.say(&withheld, &mut said);
        let n_tainted = nodes.iter().filter(|node| !node.taints.is_empty()).count();
        let mut memories = std::mem::take(&mut self.memories);
        let mut due = Vec::new();
        for standing in nodes {
            let wanted = match verdicts.get(standing.name.as_str()).copied() {
                _ if !self.conditions => Wanted::Nothing,
                Some(verdict) => Wanted::Verdict(verdict),
                None => Wanted::NoWord,
            };
            let memory = memories.remove(&standing.name);
            let mut memory = memory.unwrap_or_else(|| NodeMemory::new(&standing.name, now_usec));
            let is_due = memory.due(now_usec, wanted, &standing);
            self.memories.insert(standing.name.clone(), memory);
            due.extend(is_due.map(|due| DueNode { standing, due }));
        }
        due.sort_by_key(|due| due.due.urgency);
        Some(Decision { due, taints: changes, withheld, n_tainted, said })
    }

    pub(super) fn knows(&self, node: &str) -> bool {
        self.memories.contains_key(node)
    }

    pub(super) fn wrote(&mut self, now_usec: i64, DueNode { standing, due }: DueNode) {
        if let Some(memory) = self.memories.get_mut(&standing.name) {
            memory.wrote(now_usec, due, &standing);
        }
    }

    pub(super) fn tainted(&mut self, now_usec: i64, change: TaintChange) {
        self.planner.wrote(now_usec, change);
    }

    pub(super) fn unsure(&mut self, now_usec: i64, change: TaintChange) {
        self.planner.unsure(now_usec, change);
    }

    /// Says of each withheld taint why, once for each reason; that it waits is no news.
    fn say(&mut self, withheld: &BTreeMap<(String, NodeCondition), Withheld>, said: &mut Vec<Line>) {
        self.said.retain(|which, _| withheld.contains_key(which));
        for (which, why) in withheld.iter().filter(|(_, why)| **why != Withheld::Waits) {
            if self.said.insert(which.clone(), why.as_str()) != Some(why.as_str()) {
                said.push(Line::Withheld(which.0.clone(), which.1, why.clone()));
            }
        }
    }
}

impl DryRun {
    fn run(
        &mut self,
        now_usec: i64,
        nodes: &[StandingNode],
        verdicts: &BTreeMap<&str, &NodeVerdict>,
        said: &mut Vec<Line>,
    ) -> BTreeMap<(String, NodeCondition), Withheld> {
        self.taints.retain(|name, _| nodes.iter().any(|node| node.name == *name));
        let as_if = |node: &StandingNode| StandingNode {
            taints: self.taints.get(&node.name).cloned().unwrap_or_default(),
            ..node.clone()
        };
        let nodes: Vec<StandingNode> = nodes.iter().map(as_if).collect();
        let Plan { changes, withheld } = self.planner.plan(now_usec, &nodes, verdicts);
        for TaintChange { node, taints, .. } in changes {
            let words = taints.iter().map(|(key, effect)| format!("{key}:{}", effect.as_str())).collect();
            said.push(Line::Would(node.clone(), words));
            self.taints.insert(node, standing(&taints));
        }
        withheld
    }
}

fn standing(taints: &Taints) -> Vec<StandingTaint> {
    let one = |(key, effect): (&String, &crate::taints::Effect)| StandingTaint {
        key: key.clone(),
        effect: effect.as_str().to_owned(),
    };
    taints.iter().map(one).collect()
}
