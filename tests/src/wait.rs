//! Waiting for something real to happen.
//!
//! The lab waits for kernels, daemons and guests, which know nothing of tokio's paused time: this file alone reads the monotonic clock and
//! sleeps for real. Callers on an async runtime use a multi-threaded one, or `spawn_blocking`.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "waits for processes outside, in real time")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// A running clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Waits until `look` returns `Some`, and returns what it saw and how long that took.
///
/// # Errors
/// After `limit`, naming `what` was waited for; at once, if `look` fails.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<(T, Duration)> {
    let clock = Stopwatch::start();
    loop {
        if let Some(seen) = look()? {
            return Ok((seen, clock.elapsed()));
        }
        if clock.elapsed() >= limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        pause(PERIOD);
    }
}

/// Waits until `is_true` is, and returns how long that took.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, limit: Duration, mut is_true: impl FnMut() -> Result<bool>) -> Result<Duration> {
    wait_for(what, limit, || Ok(is_true()?.then_some(()))).map(|((), took)| took)
}

/// Lets real time pass: to show that something does *not* happen, and for nothing else.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_it_saw() {
        let mut looks = 0;
        let (seen, _) = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some("here"))
        })
        .unwrap();
        assert_eq!(seen, "here");
    }

    #[test]
    fn gives_up_and_names_what_it_waited_for() {
        let error = wait_until("godot", Duration::from_millis(30), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("godot"), "{error}");
    }
}
