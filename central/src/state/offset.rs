//! How far a node's wall clock is from central's.
//!
//! Each Hello and Heartbeat carries the node's clocks at sending. Received minus sent is the offset plus the time on the
//! way, which is never negative, so the least of the recent differences is the best estimate. A step of either wall clock
//! shows against its own boot clock and starts the estimate anew.
//!
//! What is applied to the node's times is coarser on purpose: offsets below [`TOLERATED_USEC`] cannot be told from delay,
//! and times that moved a little with each heartbeat would make each snapshot differ from the last.

use std::collections::VecDeque;

use kulprit_model::Moment;

/// Offsets up to this are taken for delay, microseconds.
const TOLERATED_USEC: i64 = 1_000_000;
/// How many differences are kept: 160 s at one heartbeat every 5 s.
const N_SAMPLES: usize = 32;
/// A wall clock that moved this much against its boot clock between two messages was set, microseconds.
const STEP_USEC: i64 = 500_000;

/// The estimate of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset {
    differences: VecDeque<i64>,
    last: Option<(Moment, Moment)>,
    applied_usec: i64,
}

impl ClockOffset {
    /// Starts from what was applied before a restart of central.
    #[must_use]
    pub fn from_applied(applied_usec: i64) -> Self {
        Self { applied_usec, ..Self::default() }
    }

    /// Takes in one message: the node's clocks when it was sent, central's when it was received. Says whether what is
    /// applied has changed.
    pub fn note(&mut self, sent: Moment, received: Moment) -> bool {
        let is_stepped = self
            .last
            .is_some_and(|(last_sent, last_received)| is_step(last_sent, sent) || is_step(last_received, received));
        if is_stepped {
            self.differences.clear();
        }
        self.last = Some((sent, received));
        if self.differences.len() == N_SAMPLES {
            self.differences.pop_front();
        }
        self.differences.push_back(received.wall_usec.saturating_sub(sent.wall_usec));
        let estimate = self.estimate_usec();
        if estimate.abs_diff(self.applied_usec) <= TOLERATED_USEC.unsigned_abs() {
            return false;
        }
        self.applied_usec = if estimate.unsigned_abs() <= TOLERATED_USEC.unsigned_abs() { 0 } else { estimate };
        true
    }

    /// Central's clock minus the node's, microseconds, delay included; what is applied if nothing was heard yet.
    #[must_use]
    pub fn estimate_usec(&self) -> i64 {
        self.differences.iter().min().copied().unwrap_or(self.applied_usec)
    }

    /// The same instant on the node's clocks. Its boot time is only known once the node was heard, else central's stands in.
    #[must_use]
    pub fn on_node(&self, central: Moment) -> Moment {
        let boottime_usec = self.last.map_or(central.boottime_usec, |(sent, received)| {
            sent.boottime_usec.saturating_add(central.usec_since(received))
        });
        Moment { wall_usec: central.wall_usec.saturating_sub(self.applied_usec), boottime_usec }
    }

    /// What is added to the node's wall times, microseconds.
    #[must_use]
    pub const fn applied_usec(&self) -> i64 {
        self.applied_usec
    }
}

/// Whether the wall clock was set between two moments of one boot.
fn is_step(earlier: Moment, later: Moment) -> bool {
    let by_wall = later.wall_usec.saturating_sub(earlier.wall_usec);
    by_wall.abs_diff(later.usec_since(earlier)) > STEP_USEC.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn at(wall_usec: i64, boottime_usec: i64) -> Moment {
        Moment { wall_usec, boottime_usec }
    }

    #[test]
    fn the_least_difference_counts_and_delay_alone_is_no_offset() {
        let mut offset = ClockOffset::default();
        for (sent, delay) in [(0, 300_000), (5_000_000, 200), (10_000_000, 90_000)] {
            assert!(!offset.note(at(sent, sent), at(sent + delay, sent + delay)), "delay {delay}");
        }
        assert_eq!((offset.estimate_usec(), offset.applied_usec()), (200, 0));
    }

    #[test]
    fn a_clock_an_hour_behind_is_corrected_at_the_first_message_and_stays_put() {
        let mut offset = ClockOffset::default();
        assert!(offset.note(at(HOUR, 7), at(2 * HOUR + 400, 9)));
        assert!(!offset.note(at(HOUR + 5_000_000, 5_000_007), at(2 * HOUR + 5_000_100, 5_000_009)));
        assert_eq!((offset.estimate_usec(), offset.applied_usec()), (HOUR + 100, HOUR + 400));
    }

    #[test]
    fn a_step_backwards_of_the_node_is_seen_at_the_next_message() {
        let mut offset = ClockOffset::default();
        offset.note(at(10 * HOUR, 0), at(10 * HOUR, 0));
        assert!(offset.note(at(9 * HOUR, 5_000_000), at(10 * HOUR + 5_000_000, 5_000_000)));
        assert_eq!(offset.applied_usec(), HOUR + 5_000_000);
        // And back again.
        assert!(offset.note(at(10 * HOUR + 10_000_000, 10_000_000), at(10 * HOUR + 10_000_100, 10_000_000)));
        assert_eq!(offset.applied_usec(), 0);
    }

    #[test]
    fn a_restart_of_central_keeps_what_was_applied() {
        let mut offset = ClockOffset::from_applied(HOUR);
        assert!(!offset.note(at(0, 0), at(HOUR + 20, 0)));
        assert_eq!(offset.applied_usec(), HOUR);
    }
}
