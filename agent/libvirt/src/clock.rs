//! The two clocks of the worker.
//!
//! Ages and deadlines count on CLOCK_MONOTONIC, which stands still while the machine is suspended: a call that was under
//! way over a suspend is not late. Stamps are CLOCK_BOOTTIME, as the agent's are. tokio's `Instant` is no use here: the
//! worker has no runtime.

use nix::time::{ClockId, clock_gettime};

/// Microseconds on a clock that only moves forward, from an arbitrary start.
pub(crate) fn mono_usec() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Microseconds since the machine booted, suspended time included.
pub(crate) fn boot_usec() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("Linux has both clocks since 2.6.39");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_move_forward() {
        let (mono, boot) = (mono_usec(), boot_usec());
        assert!(mono > 0 && mono_usec() >= mono);
        assert!(boot >= mono, "time since boot includes the time not suspended");
    }
}
