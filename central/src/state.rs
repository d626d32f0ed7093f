//! What is known now, in memory: the ground of every verdict.
//!
//! Pure: records, snapshots and the time come in, what changed comes out (for the store), and [`CurrentState::snapshot`]
//! gives diagnosis an immutable picture. No clock, no I/O, no async; `live` shares it between tasks.

mod key;
mod node;
mod offset;
mod progress;
mod states;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;

use kulprit_diagnosis::{Settings, Snapshot};
use kulprit_model::{Moment, StreamId};

pub use key::CurrentKey;
pub(crate) use key::LAST_QEMU_PREFIX;
pub use node::{Arrived, Change, Forgotten, NodeState};
pub use offset::ClockOffset;
pub use progress::{Epoch, Progress, Receipt};

/// A silent node that Kubernetes has no more is forgotten after this, microseconds: as long as an incident may come back.
const FORGET_AFTER_USEC: i64 = 15 * 60_000_000;

/// What bounds the memory of a node, and when silence becomes Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nothing heard for longer: the node's states are Unknown. Microseconds; four heartbeats.
    pub silence_usec: i64,
    /// How long an occurrence is kept in memory after its last time, microseconds. The history has it for longer.
    pub keep_occurrences_usec: i64,
    /// How many occurrences of one node are kept, the newest first.
    pub n_occurrences: usize,
    /// How many states of one node are kept. Present or not, all count: a node with 200 VMs has some thousands.
    pub n_states: usize,
    /// How much they may be in all as encoded records, bytes.
    pub states_bytes: usize,
    /// How many libvirt domains of one node are kept, and how many QEMUs.
    pub n_domains: usize,
    /// How many nodes are known.
    pub n_nodes: usize,
    /// How long a VM is shown after it has gone from its node, microseconds: long enough to explain why.
    pub keep_gone_vms_usec: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence_usec: 20_000_000,
            keep_occurrences_usec: 24 * 3_600_000_000,
            n_occurrences: 1_024,
            n_states: 16_384,
            states_bytes: 16 << 20,
            n_domains: 2_048,
            n_nodes: 12_000,
            keep_gone_vms_usec: 15 * 60_000_000,
        }
    }
}

/// Every node that ever reported, but for those that are gone for good.
#[derive(Clone, Debug)]
pub struct CurrentState {
    nodes: BTreeMap<StreamId, NodeState>,
    limits: Limits,
    started: Moment,
}

impl CurrentState {
    /// Knows nothing yet, since `started` (central's clock).
    #[must_use]
    pub const fn new(limits: Limits, started: Moment) -> Self {
        Self { nodes: BTreeMap::new(), limits, started }
    }

    /// The limits it was made with.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The node, made if nobody has heard of it.
    pub fn node_mut(&mut self, id: &StreamId) -> &mut NodeState {
        if !self.nodes.contains_key(id) {
            self.nodes.insert(id.clone(), NodeState::new(id.clone()));
        }
        self.nodes.get_mut(id).expect("it was inserted above if it was missing")
    }

    /// The node, if it is known.
    pub fn known_mut(&mut self, id: &StreamId) -> Option<&mut NodeState> {
        self.nodes.get_mut(id)
    }

    /// Forgets nodes that are silent for long and of which `is_there` says no; which they were.
    pub fn forget_gone(&mut self, now: Moment, is_there: impl Fn(&StreamId) -> bool) -> Vec<StreamId> {
        let started = self.started;
        let is_gone = |(id, node): &(&StreamId, &NodeState)| {
            let last = node.last_heard.unwrap_or(started);
            node.is_silent() && now.usec_since(last) >= FORGET_AFTER_USEC && !is_there(id)
        };
        let gone: Vec<StreamId> = self.nodes.iter().filter(is_gone).map(|(id, _)| id.clone()).collect();
        for id in &gone {
            self.nodes.remove(id);
        }
        gone
    }

    /// Whether a node can be taken in: it is known, or there is room.
    #[must_use]
    pub fn has_room(&self, id: &StreamId) -> bool {
        self.nodes.contains_key(id) || self.nodes.len() < self.limits.n_nodes
    }

    /// Puts a node back as the store has it.
    pub fn restore(&mut self, node: NodeState) {
        self.nodes.insert(node.id.clone(), node);
    }

    /// All nodes, by cluster and name.
    pub fn nodes(&self) -> impl Iterator<Item = (&StreamId, &NodeState)> {
        self.nodes.iter()
    }

    /// Nodes that fell silent just now.
    pub fn check_silence(&mut self, now: Moment) -> Vec<StreamId> {
        let (started, limit_usec) = (self.started, self.limits.silence_usec);
        let fallen = self
            .nodes
            .iter_mut()
            .filter_map(|(id, node)| node.check_silence(started, limit_usec, now).then(|| id.clone()));
        fallen.collect()
    }

    /// Lets go of what is old, node by node.
    pub fn expire(&mut self, now: Moment) -> Vec<(StreamId, Vec<Change>)> {
        let limits = self.limits;
        let expired = self.nodes.iter_mut().map(|(id, node)| (id.clone(), node.expire(&limits, now)));
        expired.filter(|(_, changes)| !changes.is_empty()).collect()
    }

    /// Everything a diagnosis may look at.
    #[must_use]
    pub fn snapshot(&self, settings: Settings, now: Moment) -> Snapshot {
        let mut nodes: Vec<_> = self.nodes.values().map(NodeState::view).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Snapshot { reference_wall_usec: now.wall_usec, nodes, settings, ..Snapshot::default() }
    }

    /// How many states of all nodes are Present and how many Unknown, as shown.
    #[must_use]
    pub fn count_states(&self) -> StateCounts {
        self.nodes.values().map(NodeState::count_states).fold(StateCounts::default(), |all, of_node| StateCounts {
            n_present: all.n_present + of_node.n_present,
            n_absent: all.n_absent + of_node.n_absent,
            n_unknown: all.n_unknown + of_node.n_unknown,
        })
    }
}

/// States of all nodes by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Present now.
    pub n_present: i64,
    /// Seen not to be there.
    pub n_absent: i64,
    /// Nobody could look.
    pub n_unknown: i64,
}
