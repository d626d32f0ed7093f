//! How far the API server's clock is from central's.
//!
//! Every answer tells the second in which it was given (`Date`, RFC 9110 6.6.1), which lies between the moment of asking and that of
//! reading it: a slow answer says less of the clock, never something wrong. What is applied stays as it is while answers agree with it,
//! so that no snapshot differs from the last for a tick more or less.

/// Clocks that are no further apart than this count as one, microseconds: certificates and leases do not mind.
const TOLERATED_USEC: i64 = 2_000_000;
/// A date is cut to its second. Microseconds.
const SECOND_USEC: i64 = 1_000_000;

/// The estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ApiClock {
    behind_usec: i64,
}

impl ApiClock {
    /// The API server's clock showed this second at some moment between two of central's clock. Says whether what is applied has changed.
    pub(super) fn note(&mut self, date_usec: i64, asked_usec: i64, read_usec: i64) -> bool {
        let least = asked_usec.saturating_sub(date_usec).saturating_sub(SECOND_USEC);
        let most = read_usec.saturating_sub(date_usec);
        let agrees = |behind_usec: i64| {
            (least.saturating_sub(TOLERATED_USEC)..=most.saturating_add(TOLERATED_USEC)).contains(&behind_usec)
        };
        // A clock of ours that was set meanwhile says nothing.
        if least > most || agrees(self.behind_usec) {
            return false;
        }
        self.behind_usec = if agrees(0) { 0 } else { least.midpoint(most) };
        true
    }

    /// What is added to its times to have them on central's clock, microseconds.
    pub(super) const fn behind_usec(self) -> i64 {
        self.behind_usec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: i64 = 60_000_000;
    const NOW: i64 = 1_000_000 * MIN;

    /// The API server is behind by so much; its answer at `NOW` is read `took` later.
    fn note(clock: &mut ApiClock, behind_usec: i64, took_usec: i64) -> bool {
        let date_usec = NOW.saturating_sub(behind_usec).div_euclid(SECOND_USEC) * SECOND_USEC;
        clock.note(date_usec, NOW, NOW + took_usec)
    }

    #[test]
    fn clocks_that_are_minutes_apart_are_told_at_the_first_answer_and_stay_so() {
        for behind_usec in [5 * MIN, -5 * MIN] {
            let mut clock = ApiClock::default();
            assert!(note(&mut clock, behind_usec, 20_000));
            assert!(clock.behind_usec().abs_diff(behind_usec) <= 1_000_000, "{clock:?}");
            assert!(!note(&mut clock, behind_usec + 900_000, 300_000));
            assert!(note(&mut clock, 0, 20_000), "it was set right");
            assert_eq!(clock.behind_usec(), 0);
        }
    }

    #[test]
    fn a_slow_answer_is_no_other_clock() {
        let mut clock = ApiClock::default();
        for took_usec in [0, 5_000_000, 60_000_000] {
            assert!(!note(&mut clock, 0, took_usec) && !note(&mut clock, 1_500_000, took_usec), "{took_usec}");
        }
        assert!(note(&mut clock, 5 * MIN, 30_000_000));
        assert!(note(&mut clock, 5 * MIN, 20_000), "the next one says it better");
        assert!(clock.behind_usec().abs_diff(5 * MIN) <= 1_000_000, "{clock:?}");
    }

    #[test]
    fn a_clock_of_ours_that_was_set_back_meanwhile_says_nothing() {
        let mut clock = ApiClock::default();
        assert!(!clock.note(NOW, NOW, NOW - 10 * MIN));
        assert!(!clock.note(i64::MIN, i64::MAX, i64::MIN));
    }
}
