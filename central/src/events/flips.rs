//! What became of nodes' conditions, as node-problem-detector says it: `Node condition X is now: True, reason: R`.
//!
//! Pure. Read off the conditions as they stand on the nodes, whoever wrote them last. Several that become the same at the same moment, as
//! when an agent falls silent, are one Event. What stood there before central looked is news only while it is new and True.

use std::collections::BTreeMap;

use kulprit_cluster::{StandingCondition, StandingNode};

use super::{
    MAX_NOTE_BYTES, Object, ObjectKind,
    due::{Mode, Saying},
};
use crate::conditions::{PREFIX, shortened};

/// How long a flip is tried to be told, microseconds.
const TOLD_WITHIN_USEC: i64 = 300_000_000;
const TRUE: &str = "True";

/// What is remembered of nodes' conditions.
#[derive(Clone, Debug, Default)]
pub struct Flips {
    /// Status by UID of the node and type.
    last: BTreeMap<String, BTreeMap<String, String>>,
    /// Until when each is tried to be told, Unix microseconds.
    recent: Vec<(i64, Saying)>,
}

impl Flips {
    /// What flipped in the last minutes, of these nodes.
    pub fn sayings(&mut self, now_usec: i64, nodes: &[StandingNode]) -> Vec<Saying> {
        self.recent.retain(|(until_usec, _)| now_usec < *until_usec);
        let mut last = std::mem::take(&mut self.last);
        for node in nodes.iter().filter(|node| !node.uid.is_empty()) {
            let before = last.remove(&node.uid).unwrap_or_default();
            let mut groups: BTreeMap<(&str, String), Vec<&StandingCondition>> = BTreeMap::new();
            for condition in &node.conditions {
                let is_new = |since: i64| now_usec.saturating_sub(since) < TOLD_WITHIN_USEC;
                let is_flip = match before.get(&condition.kind) {
                    Some(status) => *status != condition.status,
                    None => condition.status == TRUE && condition.since_usec.is_some_and(is_new),
                };
                if is_flip {
                    // What is True has a reason of its own.
                    let reason = if condition.status == TRUE { condition.kind.clone() } else { String::new() };
                    groups.entry((&condition.status, reason)).or_default().push(condition);
                }
            }
            let until_usec = now_usec.saturating_add(TOLD_WITHIN_USEC);
            self.recent.extend(groups.into_values().map(|flipped| (until_usec, saying(node, &flipped))));
            let now = node.conditions.iter().map(|one| (one.kind.clone(), one.status.clone()));
            self.last.insert(node.uid.clone(), now.collect());
        }
        self.recent.iter().map(|(_, saying)| saying.clone()).collect()
    }
}

/// Of conditions of a node that are the same now, at least one.
fn saying(node: &StandingNode, flipped: &[&StandingCondition]) -> Saying {
    let first = flipped.first().copied().cloned().unwrap_or_default();
    let types: Vec<&str> = flipped.iter().map(|one| one.kind.as_str()).collect();
    let is_one_reason = flipped.iter().all(|one| one.reason == first.reason);
    let reason = if is_one_reason { first.reason.clone() } else { format!("ConditionsAre{}", first.status) };
    let word = if types.len() == 1 { "condition" } else { "conditions" };
    let is = if types.len() == 1 { "is" } else { "are" };
    let note = format!("Node {word} {} {is} now: {}, reason: {reason}", types.join(", "), first.status);
    let message = if types.len() == 1 { format!(", message: {}", first.message) } else { String::new() };
    let (namespace, name, uid) = (String::new(), node.name.clone(), node.uid.clone());
    let since = flipped.iter().filter_map(|one| one.since_usec).max().unwrap_or_default();
    let short: Vec<&str> = types.iter().map(|kind| kind.trim_start_matches(PREFIX)).collect();
    Saying {
        object: Object { kind: ObjectKind::Node, namespace, name, uid },
        topic: format!("{}={}", short.join(","), first.status),
        mode: Mode::Once,
        episode: since.to_string(),
        begins_after_usec: Some(0),
        reason,
        note: shortened(&format!("{note}{message}"), MAX_NOTE_BYTES),
        over_note: String::new(),
        incident: None,
        related: None,
    }
}
