//! When too many nodes want a taint at once: nothing is added for a while, then one to see what happens, then freely again.
//!
//! Many nodes that fall ill together have something in common, whatever each of them shows: taking them away one by one would take
//! the cluster away. Pure; times are Unix microseconds.

use std::collections::{BTreeSet, VecDeque};

/// Nodes that begin to want a taint within so long belong together, and so long is waited after the trial. Microseconds.
const WINDOW_USEC: i64 = 300_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    storm_nodes: usize,
    cool_down_usec: i64,
    state: State,
    /// Who began to want one, and when; of the last window.
    begun: VecDeque<(i64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Nothing is added until then.
    Open(i64),
    /// One is let by; closed at that moment, if there was no storm until then.
    HalfOpen {
        closes_at_usec: i64,
        is_used: bool,
    },
}

impl Breaker {
    /// Half open: after a start everybody seems to begin.
    pub(super) const fn new(storm_nodes: usize, cool_down_usec: i64, now_usec: i64) -> Self {
        Self { storm_nodes, cool_down_usec, state: State::half_open(now_usec), begun: VecDeque::new() }
    }

    /// Time passes, and these nodes begin to want a taint.
    pub(super) fn pass(&mut self, now_usec: i64, begun: BTreeSet<String>) {
        while self.begun.front().is_some_and(|(at, _)| now_usec.saturating_sub(*at) >= WINDOW_USEC) {
            self.begun.pop_front();
        }
        match self.state {
            State::Open(until_usec) if now_usec >= until_usec => self.state = State::half_open(now_usec),
            State::HalfOpen { closes_at_usec, .. } if now_usec >= closes_at_usec => self.state = State::Closed,
            State::Closed | State::Open(_) | State::HalfOpen { .. } => {}
        }
        if begun.is_empty() {
            return;
        }
        self.begun.extend(begun.into_iter().map(|node| (now_usec, node)));
        let n_nodes = self.begun.iter().map(|(_, node)| node).collect::<BTreeSet<_>>().len();
        if n_nodes >= self.storm_nodes {
            self.state = State::Open(now_usec.saturating_add(self.cool_down_usec));
        }
    }

    pub(super) const fn lets_by(&self) -> bool {
        match self.state {
            State::Closed => true,
            State::Open(_) => false,
            State::HalfOpen { is_used, .. } => !is_used,
        }
    }

    /// A taint was added.
    pub(super) const fn added(&mut self, now_usec: i64) {
        if let State::HalfOpen { .. } = self.state {
            self.state = State::HalfOpen { closes_at_usec: now_usec.saturating_add(WINDOW_USEC), is_used: true };
        }
    }
}

impl State {
    const fn half_open(now_usec: i64) -> Self {
        Self::HalfOpen { closes_at_usec: now_usec.saturating_add(WINDOW_USEC), is_used: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: i64 = 1_000_000;
    const COOL_DOWN: i64 = 900 * SEC;

    fn closed() -> Breaker {
        let mut breaker = Breaker::new(3, COOL_DOWN, 0);
        breaker.pass(WINDOW_USEC, BTreeSet::new());
        breaker
    }

    fn begin(breaker: &mut Breaker, at_secs: i64, names: &[&str]) -> bool {
        breaker.pass(WINDOW_USEC + at_secs * SEC, names.iter().map(|name| (*name).to_owned()).collect());
        breaker.lets_by()
    }

    #[test]
    fn after_a_start_one_is_let_by_until_five_minutes_were_calm() {
        let mut breaker = Breaker::new(3, COOL_DOWN, 0);
        assert!(breaker.lets_by());
        breaker.added(10 * SEC);
        breaker.pass(WINDOW_USEC + 9 * SEC, BTreeSet::new());
        assert!(!breaker.lets_by());
        breaker.pass(WINDOW_USEC + 10 * SEC, BTreeSet::new());
        assert!(breaker.lets_by());
        breaker.added(0);
        assert!(breaker.lets_by(), "it is closed");
    }

    #[test]
    fn a_storm_opens_it_and_fewer_nodes_do_not() {
        let mut breaker = closed();
        assert!(begin(&mut breaker, 0, &["a", "b"]));
        assert!(begin(&mut breaker, 1, &["a"]), "the same node again");
        assert!(begin(&mut breaker, 301, &["c", "d"]), "five minutes later");
        assert!(!begin(&mut breaker, 302, &["e"]));
    }

    #[test]
    fn it_stays_open_while_the_storm_goes_on_and_for_the_cool_down_after_it() {
        let mut breaker = closed();
        begin(&mut breaker, 0, &["a", "b", "c"]);
        assert!(!begin(&mut breaker, 899, &[]));
        assert!(begin(&mut breaker, 900, &[]));
        let mut breaker = closed();
        begin(&mut breaker, 0, &["a", "b", "c"]);
        begin(&mut breaker, 100, &["d"]);
        assert!(!begin(&mut breaker, 999, &[]));
        assert!(begin(&mut breaker, 1_000, &[]));
    }

    #[test]
    fn a_storm_after_the_trial_opens_it_again() {
        let mut breaker = closed();
        begin(&mut breaker, 0, &["a", "b", "c"]);
        assert!(begin(&mut breaker, 900, &[]));
        breaker.added(WINDOW_USEC + 900 * SEC);
        assert!(!begin(&mut breaker, 1_000, &["d", "e"]));
        assert!(!begin(&mut breaker, 1_100, &["f"]));
        assert!(!begin(&mut breaker, 1_300, &[]), "open, not closed");
    }
}
