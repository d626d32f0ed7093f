//! What one node may take: of central's time, and of its disk.
//!
//! A node's share belongs to the node and not to its stream, so that whoever connects anew has no new one. Of messages beyond it nothing is
//! lost: its stream is not read until there is room again, HTTP/2's window closes, and the agent's spool keeps them. Of the history what is
//! beyond it is left out, and counted.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kulprit_model::StreamId;
use tokio::time::Instant;

/// So much in a time, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Nanoseconds that one takes.
    nanos_each: u64,
    /// How far ahead of its time a node may be.
    ahead: Duration,
}

impl Allowance {
    /// `n` every `per`, and `at_once` after a long rest.
    #[must_use]
    pub fn new(n: u32, per: Duration, at_once: u32) -> Self {
        let nanos_each = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX) / u64::from(n.max(1));
        Self { nanos_each, ahead: Duration::from_nanos(nanos_each.saturating_mul(u64::from(at_once))) }
    }

    fn cost(&self, n: u64) -> Duration {
        Duration::from_nanos(self.nanos_each.saturating_mul(n))
    }
}

/// What one node may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowances {
    /// Messages, by their size: see [`super::batch::cost`].
    pub messages: Allowance,
    /// Rows of the history.
    pub history: Allowance,
}

/// What nodes have taken.
#[derive(Debug)]
pub struct Shares {
    allowances: Allowances,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_node: HashMap<StreamId, Share>,
    /// Nodes whose share is whole are forgotten when there are so many.
    n_sweep: usize,
}

/// What a node has taken is worked off at these times; in the past: its share is whole.
#[derive(Clone, Copy, Debug)]
struct Share {
    messages: Instant,
    history: Instant,
}

const SWEEP_AT_LEAST: usize = 1_024;

impl Shares {
    /// Nobody has taken anything.
    #[must_use]
    pub fn new(allowances: Allowances) -> Self {
        Self { allowances, taken: Mutex::default() }
    }

    /// Takes in what cost `n`; `Some`: when more may be taken.
    pub fn take(&self, node: &StreamId, n: u64, now: Instant) -> Option<Instant> {
        let Allowance { ahead, .. } = self.allowances.messages;
        self.with(node, now, |share| {
            share.messages = share.messages.max(now) + self.allowances.messages.cost(n);
            share.messages.checked_sub(ahead).filter(|again| *again > now)
        })
    }

    /// How many of `n` rows may be kept.
    pub fn keep(&self, node: &StreamId, n: usize, now: Instant) -> usize {
        let allowance = self.allowances.history;
        if allowance.nanos_each == 0 {
            return n;
        }
        self.with(node, now, |share| {
            let room = (now + allowance.ahead).saturating_duration_since(share.history.max(now));
            let fits = room.as_nanos() / u128::from(allowance.nanos_each);
            let n_kept = n.min(usize::try_from(fits).unwrap_or(usize::MAX));
            share.history = share.history.max(now) + allowance.cost(u64::try_from(n_kept).unwrap_or(u64::MAX));
            n_kept
        })
    }

    fn with<T>(&self, node: &StreamId, now: Instant, act: impl FnOnce(&mut Share) -> T) -> T {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = taken.by_node.get_mut(node) {
            return act(share);
        }
        if taken.by_node.len() >= taken.n_sweep.max(SWEEP_AT_LEAST) {
            taken.by_node.retain(|_, share| share.messages > now || share.history > now);
            taken.n_sweep = 2 * taken.by_node.len();
        }
        act(taken.by_node.entry(node.clone()).or_insert(Share { messages: now, history: now }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(per_sec: u32, at_once: u32) -> Shares {
        let messages = Allowance::new(per_sec, Duration::from_secs(1), at_once);
        Shares::new(Allowances { messages, history: Allowance::new(3_600, Duration::from_secs(3_600), 10) })
    }

    fn node(n: u32) -> StreamId {
        StreamId { cluster: "c".to_owned(), node: format!("n{n}") }
    }

    #[test]
    fn so_much_at_once_and_then_so_much_a_second() {
        let (shares, start) = (shares(10, 100), Instant::now());
        assert_eq!(shares.take(&node(1), 100, start), None);
        assert_eq!(shares.take(&node(1), 10, start), Some(start + Duration::from_secs(1)));
        assert_eq!(shares.take(&node(2), 100, start), None, "each node has its own");
        let later = start + Duration::from_secs(6);
        assert_eq!(shares.take(&node(1), 50, later), None, "five seconds' worth is there again");
        assert_eq!(shares.take(&node(1), 1, later), Some(later + Duration::from_millis(100)));
    }

    #[test]
    fn a_share_that_nobody_uses_does_not_grow() {
        let (shares, start) = (shares(10, 100), Instant::now());
        shares.take(&node(1), 1, start);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(shares.take(&node(1), 100, later), None);
        assert!(shares.take(&node(1), 1, later).is_some());
    }

    #[test]
    fn of_the_history_what_fits_is_kept() {
        let (shares, start) = (shares(10, 100), Instant::now());
        assert_eq!(shares.keep(&node(1), 7, start), 7);
        assert_eq!(shares.keep(&node(1), 7, start), 3);
        assert_eq!(shares.keep(&node(1), 7, start), 0);
        assert_eq!(shares.keep(&node(1), 7, start + Duration::from_secs(2)), 2);
    }

    #[test]
    fn nodes_whose_share_is_whole_are_forgotten() {
        let (shares, start) = (shares(1_000, 10), Instant::now());
        for n in 0..100_000 {
            shares.take(&node(n), 1, start + Duration::from_millis(u64::from(n)));
        }
        assert!(shares.taken.lock().unwrap().by_node.len() <= SWEEP_AT_LEAST);
    }
}
