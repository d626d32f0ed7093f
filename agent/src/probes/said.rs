//! What the two probes that read texts share: times of lines, and when a position is worth keeping.

use std::time::Duration;

use kulprit_host::log::Clock;
use kulprit_model::Moment;
use tokio::time::Instant;

/// A position that passes lines which said nothing is kept this often: what a restart reads again is bounded, and the disk is
/// left alone.
const KEEP_EVERY: Duration = Duration::from_mins(10);

/// What completes stamps of lines that are read at `now`.
pub(super) const fn clock_of(now: Moment) -> Clock {
    Clock { at_usec: now.wall_usec, btime_usec: Some(now.wall_usec.saturating_sub(now.boottime_usec)) }
}

/// The moment of a wall time on both clocks; nothing is later than `now`.
pub(super) fn moment_at(now: Moment, wall_usec: i64) -> Moment {
    now.offset_usec(wall_usec.saturating_sub(now.wall_usec).min(0))
}

/// When the next look is due, and whether its position is to be kept.
#[derive(Debug)]
pub(super) struct Rhythm {
    look_every: Duration,
    looked: Option<Instant>,
    kept: Instant,
    was_blind: Option<String>,
}

impl Rhythm {
    pub(super) fn new(look_every: Duration) -> Self {
        Self { look_every, looked: None, kept: Instant::now(), was_blind: None }
    }

    /// Whether a look is to be sent now: it says something, the last one is long ago, or what it cannot see has changed.
    pub(super) fn is_due(&mut self, has_news: bool, blind: Option<&str>) -> bool {
        // Beats come a little early and late.
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() + Duration::from_secs(1) >= self.look_every);
        let is_due = has_news || is_time || self.was_blind.as_deref() != blind;
        if is_due {
            self.looked = Some(Instant::now());
            self.was_blind = blind.map(str::to_owned);
        }
        is_due
    }

    /// Whether the position of this look is to be kept.
    pub(super) fn keeps(&mut self, has_news: bool) -> bool {
        let keeps = has_news || self.kept.elapsed() >= KEEP_EVERY;
        if keeps {
            self.kept = Instant::now();
        }
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_is_sent_with_news_on_time_and_when_blindness_changes() {
        let mut rhythm = Rhythm::new(Duration::from_secs(30));
        assert!(rhythm.is_due(false, None), "the first");
        assert!(!rhythm.is_due(false, None));
        assert!(rhythm.is_due(true, None));
        assert!(rhythm.is_due(false, Some("no journal")));
        assert!(!rhythm.is_due(false, Some("no journal")));
        assert!(rhythm.is_due(false, None));
        tokio::time::advance(Duration::from_secs(28)).await;
        assert!(!rhythm.is_due(false, None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rhythm.is_due(false, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_is_kept_with_news_and_every_ten_minutes() {
        let mut rhythm = Rhythm::new(Duration::from_secs(30));
        assert!(rhythm.keeps(true) && !rhythm.keeps(false));
        tokio::time::advance(Duration::from_secs(599)).await;
        assert!(!rhythm.keeps(false));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rhythm.keeps(false) && !rhythm.keeps(false));
    }

    #[test]
    fn a_line_is_as_old_as_its_stamp_and_never_of_the_future() {
        let now = Moment { wall_usec: 1_000, boottime_usec: 500 };
        assert_eq!(moment_at(now, 900), Moment { wall_usec: 900, boottime_usec: 400 });
        assert_eq!(moment_at(now, 2_000), now);
        assert_eq!(clock_of(now).btime_usec, Some(500));
    }
}
