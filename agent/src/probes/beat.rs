//! The beat: polls of all probes share their wake-ups.
//!
//! Waking up costs more than a small read (0.2 ms against microseconds on the project's machine), so what polls does so at
//! whole multiples of its period on one time line of the process: periods of 1, 2, 10 and 60 s then wake together, not 73 times.
//! Where on the second the line lies is hashed from the node's name, so that nodes do not beat together.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The process's time line. Cheap to clone.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    origin: Instant,
}

impl Beat {
    /// A line that begins now; `seed` says how far into its first second.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { origin: Instant::now() + Duration::from_millis(seed % 1_000) }
    }

    /// The next multiple of `period`; at least a quarter of it away, so that a look that was late is not followed at once.
    ///
    /// A period of zero counts as 1 ms.
    #[must_use]
    pub fn next(&self, period: Duration) -> Instant {
        let period = period.max(Duration::from_millis(1));
        let earliest = Instant::now() + period / 4;
        let past = earliest.saturating_duration_since(self.origin);
        let n_periods = past.as_nanos().div_ceil(period.as_nanos());
        let nanos = n_periods.saturating_mul(period.as_nanos());
        self.origin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
    }

    /// Waits for [`Self::next`]. Cancel-safe.
    pub async fn wait(&self, period: Duration) {
        sleep_until(self.next(period)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn periods_that_divide_each_other_wake_together() {
        let beat = Beat::new(0);
        tokio::time::advance(Duration::from_millis(9_100)).await;
        let minute = Duration::from_secs(60);
        assert_eq!(beat.next(Duration::from_secs(1)) - beat.origin, Duration::from_secs(10));
        assert_eq!(beat.next(Duration::from_secs(10)) - beat.origin, Duration::from_secs(20), "not at once again");
        assert_eq!(beat.next(minute) - beat.origin, minute);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_on_the_line() {
        let beat = Beat::new(2_700);
        let began = Instant::now();
        beat.wait(Duration::from_secs(5)).await;
        assert_eq!(Instant::now() - began, Duration::from_millis(5_700));
        beat.wait(Duration::from_secs(5)).await;
        assert_eq!(Instant::now() - began, Duration::from_millis(10_700));
    }

    #[tokio::test(start_paused = true)]
    async fn no_period_is_a_busy_loop() {
        let beat = Beat::new(0);
        assert!(beat.next(Duration::ZERO) > Instant::now());
    }
}
