//! When something was seen: two clocks, and the stamp that orders records.
//!
//! The wall clock is for people and for joining nodes; it may jump. `CLOCK_BOOTTIME` orders events of one boot and never
//! jumps. Only `kulprit-daemon::clock` reads them; everything else takes a [`Moment`] as data.

use std::fmt;

/// One instant on both clocks of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Unix time, microseconds.
    pub wall_usec: i64,
    /// `CLOCK_BOOTTIME`, microseconds since boot, suspend included.
    pub boottime_usec: i64,
}

impl Moment {
    /// The moment `usec` microseconds later (earlier if negative) on both clocks; saturates.
    #[must_use]
    pub const fn offset_usec(self, usec: i64) -> Self {
        Self { wall_usec: self.wall_usec.saturating_add(usec), boottime_usec: self.boottime_usec.saturating_add(usec) }
    }

    /// Microseconds from `earlier` to `self` by the clock that does not jump; negative if `earlier` is later.
    #[must_use]
    pub const fn usec_since(self, earlier: Self) -> i64 {
        self.boottime_usec.saturating_sub(earlier.boottime_usec)
    }
}

/// What makes a record unique and orders it: (boot id, epoch, sequence), with the moment it was written.
///
/// The epoch grows with each start of the agent, so that a restart never collides with what was sent before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// `/proc/sys/kernel/random/boot_id`, lower-case with dashes.
    pub boot_id: String,
    /// Start counter of the agent, kept in its state folder; 1 at the first start.
    pub epoch: u64,
    /// Counts records of one (boot id, epoch) from 1, without gaps.
    pub seq: u64,
    /// When the record was written to the spool.
    pub at: Moment,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.boot_id, self.epoch, self.seq)
    }
}
