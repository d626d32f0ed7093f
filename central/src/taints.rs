//! Which nodes are tainted: few, for what is surely their own fault, and never for longer than that.
//!
//! Pure. [`Planner::plan`] gets all nodes as they stand and as they were judged, and the time; it answers with whole sets of our taints
//! of some nodes, and with what it withheld. A taint is added only within the budget of its zone and while the breaker lets it; it is
//! removed as soon as its condition is seen to be over, whatever else holds. Foreign taints are never read but as signs, nor written.

mod breaker;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use kulprit_cluster::{StandingNode, StandingTaint};
use kulprit_model::catalogue::NodeCondition;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::breaker::Breaker;
use crate::conditions::{Blame, Judged, NodeVerdict, PREFIX, Truth};

/// The watch may be so late with what was written, microseconds.
const UNSEEN_USEC: i64 = 60_000_000;

/// What a taint does. There is no third: `NoExecute` deletes pods behind the back of the webhook that turns evictions of VMs into
/// migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Effect {
    /// Pods go elsewhere where they can.
    PreferNoSchedule,
    /// No pod comes that does not tolerate it.
    NoSchedule,
}

impl Effect {
    /// The word of Kubernetes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoSchedule => "NoSchedule",
        }
    }
}

/// What may be tainted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Conditions that taint, and how.
    pub effects: BTreeMap<NodeCondition, Effect>,
    /// Nodes of a zone that may be out at the same time.
    pub max_nodes: usize,
    /// The same, percent of the zone's nodes for VMs, rounded down.
    pub max_percent: usize,
    /// How long a condition has to be `True` for its own fault, microseconds.
    pub after_usec: i64,
    /// Nodes that come to want a taint within five minutes: so many are a storm.
    pub storm_nodes: usize,
    /// How long nothing is added after a storm, microseconds.
    pub cool_down_usec: i64,
}

/// Our taints of a node, by key.
pub type Taints = BTreeMap<String, Effect>;

/// A node whose taints of ours are to be others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaintChange {
    /// Its name.
    pub node: String,
    /// Its UID.
    pub uid: String,
    /// All taints of ours that it is to have.
    pub taints: Taints,
    /// Whether one is among them that it did not have.
    pub adds: bool,
    /// What the watch shows of it.
    pub over: Taints,
}

/// Why a taint that is wanted is not added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The condition is not `True` for long enough.
    Waits,
    /// Somebody else has the node in hand, and why.
    Taken(String),
    /// As many nodes of its zone are out as may be; how many that is.
    Budget(usize),
    /// Too many nodes at once.
    Breaker,
}

impl Withheld {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Taken(_) => "taken",
            Self::Budget(_) => "budget",
            Self::Breaker => "breaker",
        }
    }
}

/// What is to be done, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By node; removals alone come first.
    pub changes: Vec<TaintChange>,
    /// Wanted and not added, by node and condition.
    pub withheld: BTreeMap<(String, NodeCondition), Withheld>,
}

/// The key of the taint of a condition.
#[must_use]
pub fn key_of(condition: NodeCondition) -> String {
    let mut key = String::from(PREFIX);
    for (at, letter) in condition.as_str().char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            key.push('-');
        }
        key.push(letter.to_ascii_lowercase());
    }
    key
}

/// `spec.taints` of a node with ours as wanted; all others stay as and where they are.
#[must_use]
pub fn with_ours(taints: &[Value], wanted: &Taints) -> Vec<Value> {
    let text = |taint: &Value, name: &str| taint.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_wanted =
        |taint: &Value| wanted.get(&text(taint, "key")).is_some_and(|effect| effect.as_str() == text(taint, "effect"));
    let is_kept = |taint: &&Value| !text(taint, "key").starts_with(PREFIX) || is_wanted(taint);
    let mut after: Vec<Value> = taints.iter().filter(is_kept).cloned().collect();
    for (key, effect) in wanted {
        if !after.iter().any(|taint| text(taint, "key") == *key) {
            after.push(json!({"key": key, "effect": effect.as_str()}));
        }
    }
    after
}

/// Decides over time.
#[derive(Clone, Debug)]
pub struct Planner {
    policy: Policy,
    breaker: Breaker,
    /// Since when a taint is wanted without a break, by node and condition, Unix microseconds.
    wanted_since: BTreeMap<(String, NodeCondition), i64>,
    written: BTreeMap<String, Written>,
}

#[derive(Clone, Debug)]
struct Written {
    at_usec: i64,
    taints: Taints,
    /// What the watch may still show: what was there before, and what was written on the way.
    over: Vec<Taints>,
    /// Whether the write is known to have been done.
    is_sure: bool,
}

impl Planner {
    /// Begins with a breaker that lets one by at a time.
    #[must_use]
    pub fn new(policy: Policy, now_usec: i64) -> Self {
        let breaker = Breaker::new(policy.storm_nodes, policy.cool_down_usec, now_usec);
        Self { policy, breaker, wanted_since: BTreeMap::new(), written: BTreeMap::new() }
    }

    /// What is to be done now. `nodes` are all that Kubernetes has; `verdicts` those whose agent has reported, by name.
    pub fn plan(&mut self, now_usec: i64, nodes: &[StandingNode], verdicts: &BTreeMap<&str, &NodeVerdict>) -> Plan {
        self.written.retain(|_, written| now_usec.saturating_sub(written.at_usec) < UNSEEN_USEC);
        let mut after: BTreeMap<&str, Taints> = BTreeMap::new();
        // A removal may fail: a node is out until it is done.
        let mut out: BTreeSet<&str> = BTreeSet::new();
        let mut wishes = Vec::new();
        for node in nodes {
            let verdict = verdicts.get(node.name.as_str()).copied();
            let before = self.ours(node);
            if !before.is_empty() || node.is_for_vms && node.is_out {
                out.insert(&node.name);
            }
            after.insert(&node.name, self.kept(&before, verdict));
            wishes.extend(self.wishes(node, verdict));
        }
        self.note(now_usec, &wishes, &after);
        wishes.sort_by_key(|(node, condition)| (self.since(&node.name, *condition), &node.name, *condition));
        let mut withheld = BTreeMap::new();
        for (node, condition) in wishes {
            let ours = after.get(node.name.as_str()).cloned().unwrap_or_default();
            if ours.contains_key(&key_of(condition)) {
                continue;
            }
            match self.may_add(now_usec, node, condition, &ours, nodes, &out) {
                Ok(effect) => {
                    self.breaker.added(now_usec);
                    out.insert(&node.name);
                    after.entry(&node.name).or_default().insert(key_of(condition), effect);
                }
                Err(why) => {
                    withheld.insert((node.name.clone(), condition), why);
                }
            }
        }
        let changes = nodes.iter().filter_map(|node| self.change(node, after.remove(node.name.as_str())?));
        let mut changes: Vec<TaintChange> = changes.collect();
        changes.sort_by_key(|change| change.adds);
        Plan { changes, withheld }
    }

    /// Nobody knows whether the change was made: what was there and what was to be there counts as there.
    pub fn unsure(&mut self, now_usec: i64, mut change: TaintChange) {
        let before = self.written.get(&change.node).filter(|before| before.over.contains(&change.over));
        let before = before.map_or_else(|| change.over.clone(), |before| before.taints.clone());
        for (key, effect) in before {
            change.taints.entry(key).or_insert(effect);
        }
        self.remember(now_usec, change, false);
    }

    /// The change was made.
    pub fn wrote(&mut self, now_usec: i64, change: TaintChange) {
        self.remember(now_usec, change, true);
    }

    fn remember(&mut self, now_usec: i64, change: TaintChange, is_sure: bool) {
        let TaintChange { node, taints, over, .. } = change;
        let before = self.written.remove(&node).filter(|before| before.over.contains(&over));
        let on_the_way = before.map_or_else(Vec::new, |before| [before.over, vec![before.taints]].concat());
        let over = [on_the_way, vec![over]].concat();
        self.written.insert(node, Written { at_usec: now_usec, taints, over, is_sure });
    }

    /// The taints of ours that a node has, those written last among them.
    fn ours(&self, node: &StandingNode) -> Taints {
        match self.written.get(&node.name) {
            Some(written) if written.over.contains(&read(&node.taints)) => written.taints.clone(),
            Some(_) | None => read(&node.taints),
        }
    }

    /// Whether the node surely has what [`Planner::ours`] says, not only perhaps.
    fn is_sure(&self, node: &StandingNode) -> bool {
        let unseen = self.written.get(&node.name).filter(|written| written.over.contains(&read(&node.taints)));
        unseen.is_none_or(|written| written.is_sure)
    }

    /// Those that stay: named by the policy, and not seen to be over or to be shared.
    fn kept(&self, before: &Taints, verdict: Option<&NodeVerdict>) -> Taints {
        let stays = |judged: &Judged| match (judged.truth, judged.blame) {
            (Truth::True, Blame::Own | Blame::Unsure) | (Truth::Unknown, _) => true,
            (Truth::True, Blame::Shared) | (Truth::False, _) => false,
        };
        let mut kept = Taints::new();
        for (condition, effect) in &self.policy.effects {
            let judged = verdict.and_then(|verdict| verdict.judged.iter().find(|own| own.condition == *condition));
            let key = key_of(*condition);
            if before.contains_key(&key) && judged.is_none_or(stays) {
                kept.insert(key, *effect);
            }
        }
        kept
    }

    /// The conditions for which a node is to be tainted, if nothing speaks against it.
    fn wishes<'n>(
        &self,
        node: &'n StandingNode,
        verdict: Option<&NodeVerdict>,
    ) -> Vec<(&'n StandingNode, NodeCondition)> {
        let is_wish = |own: &&Judged| {
            own.truth == Truth::True && own.blame == Blame::Own && self.policy.effects.contains_key(&own.condition)
        };
        let judged = verdict.filter(|_| node.is_for_vms).into_iter().flat_map(|verdict| &verdict.judged);
        judged.filter(is_wish).map(|own| (node, own.condition)).collect()
    }

    /// Remembers since when each is wished for, and tells the breaker of those that begin.
    fn note(&mut self, now_usec: i64, wishes: &[(&StandingNode, NodeCondition)], after: &BTreeMap<&str, Taints>) {
        let now: BTreeSet<(String, NodeCondition)> =
            wishes.iter().map(|(node, condition)| (node.name.clone(), *condition)).collect();
        self.wanted_since.retain(|wish, _| now.contains(wish));
        let mut begun = BTreeSet::new();
        for (name, condition) in now {
            let has_it = after.get(name.as_str()).is_some_and(|ours| ours.contains_key(&key_of(condition)));
            if let Entry::Vacant(entry) = self.wanted_since.entry((name.clone(), condition)) {
                entry.insert(now_usec);
                if !has_it {
                    begun.insert(name);
                }
            }
        }
        self.breaker.pass(now_usec, begun);
    }

    fn since(&self, node: &str, condition: NodeCondition) -> i64 {
        self.wanted_since.get(&(node.to_owned(), condition)).copied().unwrap_or(i64::MAX)
    }

    fn may_add(
        &self,
        now_usec: i64,
        node: &StandingNode,
        condition: NodeCondition,
        ours: &Taints,
        nodes: &[StandingNode],
        out: &BTreeSet<&str>,
    ) -> Result<Effect, Withheld> {
        let effect = self.policy.effects.get(&condition).copied().ok_or(Withheld::Waits)?;
        if now_usec.saturating_sub(self.since(&node.name, condition)) < self.policy.after_usec {
            return Err(Withheld::Waits);
        }
        if let Some(why) = &node.taken {
            return Err(Withheld::Taken(why.clone()));
        }
        // A node that surely has one of ours is out already.
        if ours.is_empty() || !self.is_sure(node) {
            let in_zone = || nodes.iter().filter(|other| other.zone == node.zone);
            let is_out = |other: &&StandingNode| other.name == node.name || out.contains(other.name.as_str());
            let limit = self.limit(in_zone().filter(|other| other.is_for_vms).count());
            if in_zone().filter(is_out).count() > limit {
                return Err(Withheld::Budget(limit));
            }
        }
        if self.breaker.lets_by() { Ok(effect) } else { Err(Withheld::Breaker) }
    }

    /// How many of so many nodes may be out.
    const fn limit(&self, n_nodes: usize) -> usize {
        let share = n_nodes.saturating_mul(self.policy.max_percent) / 100;
        if share < self.policy.max_nodes { share } else { self.policy.max_nodes }
    }

    fn change(&self, node: &StandingNode, taints: Taints) -> Option<TaintChange> {
        let before = self.ours(node);
        // The same key may stand there twice, with two effects.
        let is_doubled = before.len() != node.taints.len() && !self.written.contains_key(&node.name);
        if before == taints && !is_doubled {
            return None;
        }
        let adds = taints.keys().any(|key| !before.contains_key(key));
        let (name, uid, over) = (node.name.clone(), node.uid.clone(), read(&node.taints));
        Some(TaintChange { node: name, uid, taints, adds, over })
    }
}

/// What stands, by key. An effect that is none of ours is taken for the strongest that we know: it is to go.
fn read(standing: &[StandingTaint]) -> Taints {
    let effect = |taint: &StandingTaint| {
        if taint.effect == Effect::PreferNoSchedule.as_str() { Effect::PreferNoSchedule } else { Effect::NoSchedule }
    };
    standing.iter().map(|taint| (taint.key.clone(), effect(taint))).collect()
}
