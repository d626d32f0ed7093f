//! What the probes count; the metrics read it.
//!
//! Plain atomics, so that a probe needs no registry and tests can look at them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the agent.
#[derive(Debug, Default)]
pub struct ProbeCounters {
    /// Things a probe could not read or understand while the rest of its look was good.
    pub errors: AtomicU64,
    /// Kernel log records read.
    pub kernel_log_records: AtomicU64,
    /// Starts of the libvirt worker, the first included.
    pub worker_starts: AtomicU64,
    /// Reconnects to the system bus, the first included.
    pub bus_connects: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// See [`ProbeCounters::errors`].
    pub errors: u64,
    /// See [`ProbeCounters::kernel_log_records`].
    pub kernel_log_records: u64,
    /// See [`ProbeCounters::worker_starts`].
    pub worker_starts: u64,
    /// See [`ProbeCounters::bus_connects`].
    pub bus_connects: u64,
}

impl ProbeCounters {
    /// What they show now.
    pub fn read(&self) -> ProbeCounts {
        ProbeCounts {
            errors: self.errors.load(Ordering::Relaxed),
            kernel_log_records: self.kernel_log_records.load(Ordering::Relaxed),
            worker_starts: self.worker_starts.load(Ordering::Relaxed),
            bus_connects: self.bus_connects.load(Ordering::Relaxed),
        }
    }
}

/// Counts `n` more.
pub(super) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
