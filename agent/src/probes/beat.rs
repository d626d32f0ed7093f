//! The beat: polls of all probes share their wake-ups.
//!
//! Waking up costs more than a small read (0.2 ms against microseconds on the project's machine), so what polls does so at
//! whole multiples of its period on one time line of the process: periods of 1, 2, 10 and 60 s then wake together, not 73 times.
//! Where on the second the line lies is hashed from the node's name, so that nodes do not beat together.
//!
//! The runtime's timers are kept in slots of 64 ms (tokio 1.54, `runtime/time/wheel`): for one in the midst of a slot the process
//! wakes twice, where the slot begins and when it is due. So a beat is up to 64 ms late, where a slot begins.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The width of a timer's slot.
const SLOT_MS: u64 = 64;
const SLOT: Duration = Duration::from_millis(SLOT_MS);
/// Periods below this are worth a wake-up more.
const SHORT: Duration = Duration::from_secs(1);

/// The process's time line. Cheap to clone.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    origin: Instant,
}

impl Beat {
    /// A line that begins within a second of when the runtime `started`, to the millisecond; `seed` says where.
    #[must_use]
    pub fn new(seed: u64, started: Instant) -> Self {
        let n_slots = seed % (1_000 / SLOT_MS);
        Self { origin: started + Duration::from_millis(n_slots * SLOT_MS) }
    }

    /// The next multiple of `period`, or where the first slot after it begins; at least a quarter of the period away, so that a look
    /// that was late is not followed at once.
    ///
    /// A period of zero counts as 1 ms. Those below a second are kept to the millisecond.
    #[must_use]
    pub fn next(&self, period: Duration) -> Instant {
        let period = period.max(Duration::from_millis(1));
        let earliest = Instant::now() + period / 4;
        let past = earliest.saturating_duration_since(self.origin);
        let n_periods = past.as_nanos().div_ceil(period.as_nanos());
        let nanos = n_periods.saturating_mul(period.as_nanos());
        let nanos = if period < SHORT { nanos } else { nanos.next_multiple_of(SLOT.as_nanos()) };
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

    fn beat(seed: u64) -> Beat {
        Beat::new(seed, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn periods_that_divide_each_other_wake_together() {
        let beat = beat(0);
        tokio::time::advance(Duration::from_millis(9_100)).await;
        let (minute, tenth) = (Duration::from_secs(60), Duration::from_millis(10_048));
        assert_eq!(beat.next(Duration::from_secs(1)) - beat.origin, tenth, "the slot after 10 s");
        assert_eq!(beat.next(Duration::from_secs(2)) - beat.origin, tenth);
        assert_eq!(
            beat.next(Duration::from_secs(10)) - beat.origin,
            Duration::from_millis(20_032),
            "not at once again"
        );
        assert_eq!(beat.next(minute) - beat.origin, Duration::from_millis(60_032));
        assert_eq!(beat.next(Duration::from_millis(300)) - beat.origin, Duration::from_millis(9_300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_on_the_line() {
        let beat = beat(17);
        let began = Instant::now();
        beat.wait(Duration::from_secs(5)).await;
        assert_eq!(Instant::now() - began, Duration::from_millis(5_056 + 2 * 64));
        beat.wait(Duration::from_secs(5)).await;
        assert_eq!(Instant::now() - began, Duration::from_millis(10_048 + 2 * 64));
    }

    #[tokio::test(start_paused = true)]
    async fn no_period_is_a_busy_loop() {
        assert!(beat(0).next(Duration::ZERO) > Instant::now());
    }
}
