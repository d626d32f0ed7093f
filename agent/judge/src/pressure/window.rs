//! Our own averages, from counters that only grow.
//!
//! The kernel's `avg60` is an exponential mean: a processor that is wanted without a break shows 60 % after 55 s, a plain mean
//! of the last minute after 36 s, and it forgets as fast. So stall times are averaged here from `total=`, exactly over their
//! windows; until those have been watched, the kernel's averages stand. Throttling and steal are shares of what happened since
//! a look some time ago, because counters since the start of a container say nothing of now.

use std::collections::VecDeque;

use kulprit_host::cgroup::CpuThrottling;
use kulprit_host::cpu::CpuTimes;
use kulprit_host::pressure::{Pressure, PressureLine};
use kulprit_model::Moment;

const SEC_USEC: i64 = 1_000_000;
/// The longest window, microseconds.
const LONGEST_USEC: i64 = 60 * SEC_USEC;
/// Samples closer together than this replace each other, microseconds: 120 of them are a minute.
const APART_USEC: i64 = SEC_USEC / 2;
/// Throttling is judged over at least so long, microseconds: a container that works has 300 periods by then.
const THROTTLING_USEC: i64 = 30 * SEC_USEC;
/// Steal is judged over so long, microseconds.
const STEAL_USEC: i64 = 10 * SEC_USEC;

/// Stall times of a pressure file, microseconds: `some` and `full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Totals {
    some: Option<u64>,
    full: Option<u64>,
}

/// Which of the two.
type Which = fn(&Totals) -> Option<u64>;

/// Counters of one thing over the last minute, oldest first.
#[derive(Clone, Debug)]
struct Past<T> {
    rows: VecDeque<(i64, T)>,
}

impl<T: Copy> Past<T> {
    const fn new() -> Self {
        Self { rows: VecDeque::new() }
    }

    /// Keeps a sample; an earlier time than the last one is left out.
    fn push(&mut self, at: Moment, value: T) {
        let at_usec = at.boottime_usec;
        if self.rows.back().is_some_and(|(last, _)| at_usec <= *last) {
            return;
        }
        // The last but one is far enough away: then the last was only a moment on the way.
        if let [.., (before, _), (_, _)] = self.rows.make_contiguous()
            && at_usec - *before < APART_USEC
        {
            self.rows.pop_back();
        }
        self.rows.push_back((at_usec, value));
        // One row that is older than the window stays, so that the window is spanned.
        while self.rows.get(1).is_some_and(|(second, _)| at_usec - second >= LONGEST_USEC) {
            self.rows.pop_front();
        }
    }

    /// The newest sample that is at least `age_usec` older than the last, and the last.
    fn span(&self, age_usec: i64) -> Option<((i64, T), (i64, T))> {
        let last = *self.rows.back()?;
        let first = self.rows.iter().rev().find(|(at, _)| last.0 - at >= age_usec)?;
        Some((*first, last))
    }
}

/// Stall times of one resource.
#[derive(Clone, Debug)]
pub struct StallWindow {
    past: Past<Totals>,
    /// The last two samples, however close together.
    newest: [Option<(i64, Option<u64>)>; 2],
}

impl Default for StallWindow {
    fn default() -> Self {
        Self { past: Past::new(), newest: [None; 2] }
    }
}

impl StallWindow {
    /// Keeps what was read at `at`. Totals that went back (the cgroup is another one) begin anew.
    pub fn push(&mut self, at: Moment, pressure: &Pressure) {
        let total = |line: Option<PressureLine>| line.map(|line| line.total_usec);
        let totals = Totals { some: total(pressure.some), full: total(pressure.full) };
        if self.past.rows.back().is_some_and(|(_, last)| totals.some < last.some || totals.full < last.full) {
            *self = Self::default();
        }
        self.past.push(at, totals);
        self.newest = [self.newest[1], Some((at.boottime_usec, totals.some))];
    }

    /// `pressure`, as it was read last, with averages of our own where the window has been watched.
    #[must_use]
    pub fn averaged(&self, pressure: &Pressure) -> Pressure {
        let line = |line: Option<PressureLine>, total: Which| {
            line.map(|line| PressureLine {
                avg10_pct: self.share(10 * SEC_USEC, total).unwrap_or(line.avg10_pct),
                avg60_pct: self.share(LONGEST_USEC, total).unwrap_or(line.avg60_pct),
                ..line
            })
        };
        Pressure { some: line(pressure.some, |row| row.some), full: line(pressure.full, |row| row.full) }
    }

    /// Share of the time between the last two samples in which tasks (`some`) stalled, percent.
    #[must_use]
    pub fn newest_pct(&self) -> Option<f64> {
        let [Some((first_at, first)), Some((last_at, last))] = self.newest else { return None };
        share_of(last?.checked_sub(first?)?, last_at - first_at)
    }

    fn share(&self, age_usec: i64, total: Which) -> Option<f64> {
        let ((first_at, first), (last_at, last)) = self.past.span(age_usec)?;
        share_of(total(&last)?.checked_sub(total(&first)?)?, last_at - first_at)
    }
}

fn share_of(stall_usec: u64, usec: i64) -> Option<f64> {
    (usec > 0).then(|| (stall_usec as f64 * 100.0 / usec as f64).min(100.0))
}

/// Processor times over the last seconds.
#[derive(Clone, Debug)]
pub struct TimesWindow(Past<CpuTimes>);

impl Default for TimesWindow {
    fn default() -> Self {
        Self(Past::new())
    }
}

impl TimesWindow {
    /// Keeps what was read at `at`.
    pub fn push(&mut self, at: Moment, times: CpuTimes) {
        self.0.push(at, times);
    }

    /// The times of the last 10 s. `None` until then, and when they went back (a processor was taken away).
    #[must_use]
    pub fn recent(&self) -> Option<CpuTimes> {
        let ((_, first), (_, last)) = self.0.span(STEAL_USEC)?;
        Some(CpuTimes {
            total_ticks: last.total_ticks.checked_sub(first.total_ticks)?,
            // The kernel lets it go back by a tick or two.
            idle_ticks: last.idle_ticks.saturating_sub(first.idle_ticks),
            steal_ticks: last.steal_ticks.checked_sub(first.steal_ticks)?,
        })
    }
}

/// Throttling of one cgroup over the last half minute.
#[derive(Clone, Debug)]
pub struct ThrottleWindow(Past<CpuThrottling>);

impl Default for ThrottleWindow {
    fn default() -> Self {
        Self(Past::new())
    }
}

impl ThrottleWindow {
    /// Keeps what was read at `at`; counters that went back begin anew.
    pub fn push(&mut self, at: Moment, seen: CpuThrottling) {
        if self.0.rows.back().is_some_and(|(_, last)| seen.n_periods < last.n_periods) {
            self.0.rows.clear();
        }
        self.0.push(at, seen);
    }

    /// What was counted in the last 30 s to a minute. `None` until so long has been watched.
    #[must_use]
    pub fn recent(&self) -> Option<CpuThrottling> {
        let ((_, first), (_, last)) = self.0.span(THROTTLING_USEC)?;
        Some(CpuThrottling {
            n_periods: last.n_periods.checked_sub(first.n_periods)?,
            n_throttled: last.n_throttled.checked_sub(first.n_throttled)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Moment {
        Moment::default().offset_usec(ms * 1_000)
    }

    fn read(some: u64, full: u64) -> Pressure {
        let line = |total_usec| Some(PressureLine { avg10_pct: 1.0, avg60_pct: 2.0, avg300_pct: 3.0, total_usec });
        Pressure { some: line(some), full: line(full) }
    }

    /// Samples every `step_ms` until `until_ms` of a resource that stalls all the time from `from_ms` on.
    fn watched(step_ms: usize, from_ms: i64, until_ms: i64) -> (StallWindow, Pressure) {
        let mut window = StallWindow::default();
        let mut last = read(0, 0);
        for ms in (0..=until_ms).step_by(step_ms) {
            let stalled = u64::try_from((ms - from_ms).max(0) * 1_000).unwrap();
            last = read(stalled, stalled / 2);
            window.push(at(ms), &last);
        }
        let averaged = window.averaged(&last);
        (window, averaged)
    }

    #[test]
    fn a_stall_without_a_break_is_60_percent_of_a_minute_after_36_s() {
        for step_ms in [1_000, 50] {
            let (_, pressure) = watched(step_ms, 120_000, 155_000);
            assert!(pressure.some.unwrap().avg60_pct < 60.0, "35 s, every {step_ms} ms: {pressure:?}");
            let (window, pressure) = watched(step_ms, 120_000, 157_000);
            assert!(pressure.some.unwrap().avg60_pct >= 60.0, "37 s, every {step_ms} ms: {pressure:?}");
            assert!((pressure.full.unwrap().avg10_pct - 50.0).abs() < 0.1, "{pressure:?}");
            assert!(window.past.rows.len() <= 140, "{} rows", window.past.rows.len());
        }
    }

    #[test]
    fn until_a_window_was_watched_the_kernels_average_stands() {
        let (_, pressure) = watched(1_000, 0, 9_000);
        assert_eq!((pressure.some.unwrap().avg10_pct, pressure.some.unwrap().avg60_pct), (1.0, 2.0));
        let (_, pressure) = watched(1_000, 0, 10_000);
        assert_eq!((pressure.some.unwrap().avg10_pct, pressure.some.unwrap().avg60_pct), (100.0, 2.0));
    }

    #[test]
    fn the_newest_share_is_that_of_the_last_two_samples() {
        let mut window = StallWindow::default();
        assert_eq!(window.newest_pct(), None);
        window.push(at(0), &read(0, 0));
        assert_eq!(window.newest_pct(), None);
        window.push(at(50), &read(5_000, 0));
        assert_eq!(window.newest_pct(), Some(10.0));
        window.push(at(100), &read(5_000, 0));
        assert_eq!(window.newest_pct(), Some(0.0));
    }

    #[test]
    fn totals_that_go_back_are_another_cgroup_and_time_that_goes_back_nothing() {
        let (mut window, _) = watched(1_000, 0, 20_000);
        window.push(at(20_000), &read(20_000_000, 10_000_000));
        window.push(at(21_000), &read(7, 7));
        assert_eq!(window.past.rows.len(), 1);
        assert_eq!(window.newest_pct(), None);
        let full_missing = Pressure { full: None, ..read(8, 8) };
        window.push(at(22_000), &full_missing);
        assert_eq!(window.averaged(&full_missing).full, None);
    }

    #[test]
    fn steal_is_that_of_the_last_ten_seconds() {
        let mut window = TimesWindow::default();
        let times = |total_ticks, steal_ticks| CpuTimes { total_ticks, idle_ticks: 0, steal_ticks };
        window.push(at(0), times(1_000_000, 500_000));
        assert_eq!(window.recent(), None);
        window.push(at(10_000), times(1_002_000, 500_100));
        assert_eq!(window.recent(), Some(times(2_000, 100)));
        window.push(at(20_000), times(1_000_100, 500_200));
        assert_eq!(window.recent(), None, "a processor was taken away");
    }

    #[test]
    fn throttling_is_that_of_the_last_half_minute() {
        let mut window = ThrottleWindow::default();
        let seen = |n_periods, n_throttled| CpuThrottling { n_periods, n_throttled };
        window.push(at(0), seen(10_000, 9_000));
        window.push(at(20_000), seen(10_200, 9_000));
        assert_eq!(window.recent(), None, "not watched long enough");
        window.push(at(30_000), seen(10_300, 9_010));
        assert_eq!(window.recent(), Some(seen(300, 10)), "the start of the container is past");
        window.push(at(40_000), seen(5, 5));
        assert_eq!(window.recent(), None, "the container is another one");
    }
}
