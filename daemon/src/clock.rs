//! The only place that reads a clock.
//!
//! Decisions never ask for the time: a loop takes a [`Moment`] here and hands it on as data. The wall clock may jump, so
//! intervals are measured on `CLOCK_BOOTTIME` (it never jumps and counts suspend, clock_gettime(2)). Tests and recorded
//! cases use a [`ManualClock`]; how long to *sleep* is tokio's business, so that tests can pause it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kulprit_model::time::Moment;
use nix::{sys::time::TimeSpec, time::ClockId};

/// Where the kernel says which boot this is (`Documentation/admin-guide/sysctl/kernel.rst`, `random`).
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// Gives the [`Moment`] it is; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Kernel,
    Manual(Arc<Mutex<Moment>>),
}

impl Clock {
    /// The clocks of the running kernel.
    #[must_use]
    pub const fn kernel() -> Self {
        Self(Source::Kernel)
    }

    /// What both clocks show now. They are read one after the other, less than a microsecond apart unless preempted.
    ///
    /// # Panics
    /// If the kernel has no `CLOCK_BOOTTIME` (before Linux 2.6.39).
    #[must_use]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::Kernel => Moment {
                wall_usec: read_usec(ClockId::CLOCK_REALTIME),
                boottime_usec: read_usec(ClockId::CLOCK_BOOTTIME),
            },
            Source::Manual(moment) => *moment.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Moment>>);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Moment) -> Self {
        Self(Arc::new(Mutex::new(start)))
    }

    /// The reading end; all of them follow this clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(Arc::clone(&self.0)))
    }

    /// Lets time pass: both clocks move.
    pub fn advance(&self, by: Duration) {
        let by_usec = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.change(|moment| *moment = moment.offset_usec(by_usec));
    }

    /// Sets the wall clock to `wall_usec` (Unix time, microseconds), as an administrator or NTP does; boot time goes on.
    pub fn set_wall(&self, wall_usec: i64) {
        self.change(|moment| moment.wall_usec = wall_usec);
    }

    fn change(&self, change: impl FnOnce(&mut Moment)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Why there is no boot id.
#[derive(Debug, thiserror::Error)]
pub enum BootIdError {
    /// `/proc` is not mounted there, or must not be read.
    #[error("failed to read the boot id from `{path}`")]
    Io {
        /// The file asked for.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The file is not the one of the kernel.
    #[error("`{path}` holds no boot id: {text:?}")]
    Malformed {
        /// The file asked for.
        path: PathBuf,
        /// The first 80 characters found instead.
        text: String,
    },
}

/// Reads which boot this is, lower case with dashes, from `path` (usually [`BOOT_ID_PATH`]).
///
/// # Errors
/// If the file cannot be read or holds no UUID.
pub fn boot_id(path: &Path) -> Result<String, BootIdError> {
    let text = fs::read_to_string(path).map_err(|source| BootIdError::Io { path: path.to_owned(), source })?;
    let id = text.trim().to_ascii_lowercase();
    if is_uuid(&id) {
        Ok(id)
    } else {
        Err(BootIdError::Malformed { path: path.to_owned(), text: id.chars().take(80).collect() })
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

fn read_usec(clock: ClockId) -> i64 {
    let now: TimeSpec = clock.now().expect("Linux has had these clocks since 2.6.39");
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_clocks_move_forward_and_lie_apart() {
        let clock = Clock::kernel();
        let first = clock.now();
        let second = clock.now();
        assert!(second.boottime_usec >= first.boottime_usec);
        assert!(first.wall_usec > 1_700_000_000_000_000, "wall clock is Unix time in microseconds: {first:?}");
        assert!(first.boottime_usec > 0 && first.boottime_usec < first.wall_usec);
    }

    #[test]
    fn boot_time_is_what_proc_uptime_says() {
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime_sec: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let Ok(now) = u32::try_from(Clock::kernel().now().boottime_usec / 1_000_000) else { panic!("136 years up") };
        assert!((f64::from(now) - uptime_sec).abs() < 2.0, "{now} {uptime_sec}");
    }

    #[test]
    fn a_step_of_the_wall_clock_leaves_intervals_alone() {
        let manual = ManualClock::new(Moment { wall_usec: 5_000_000, boottime_usec: 1_000_000 });
        let clock = manual.clock();
        let before = clock.now();
        manual.advance(Duration::from_millis(1_500));
        manual.set_wall(0);
        assert_eq!(clock.now(), Moment { wall_usec: 0, boottime_usec: 2_500_000 });
        assert_eq!(clock.now().usec_since(before), 1_500_000);
    }

    #[test]
    fn this_kernel_has_a_boot_id_and_keeps_it() {
        let id = boot_id(Path::new(BOOT_ID_PATH)).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(boot_id(Path::new(BOOT_ID_PATH)).unwrap(), id);
    }

    #[test]
    fn a_file_that_is_no_boot_id_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "hello\n", "0f3cf9c2-91e1-4a5b-8d5c-1f0b7bbd33e", "0f3cf9c2-91e1-4a5b-8d5c-1f0b7bbd33zz"] {
            let path = dir.path().join("boot_id");
            fs::write(&path, text).unwrap();
            let error = boot_id(&path).unwrap_err().to_string();
            assert!(error.contains("boot_id` holds no boot id"), "{text:?}: {error}");
        }
        assert!(matches!(boot_id(&dir.path().join("none")), Err(BootIdError::Io { .. })));
    }
}
