//! Whether the node's clock can be trusted, from what its own kernel knows.
//!
//! A clock that nobody disciplines may be right: a virtual machine that reads its host's needs no daemon. So that it is not
//! synchronised counts only where a daemon runs that should have done it, or did before; elsewhere nothing can be said.

use kulprit_host::clock::KernelClock;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::say::{Reading, absent, present, unknown};
use crate::verdict::Verdict;

/// From here on certificates and leases suffer, microseconds.
const MAX_SKEW_USEC: u64 = 5_000_000;
/// A daemon needs some minutes after the boot to trust its servers, microseconds.
const SETTLE_USEC: i64 = 600_000_000;
/// The source of what the kernel says.
const ADJTIMEX: &str = "adjtimex";

/// One look at the clock.
#[derive(Clone, Debug)]
pub struct ClockLook {
    /// When.
    pub at: Moment,
    /// The kernel's answer.
    pub clock: Reading<KernelClock>,
    /// The daemon that is to keep the time, if one runs: `chronyd`.
    pub daemon: Option<String>,
    /// Whether an earlier look of this boot saw the clock synchronised.
    pub was_synchronised: bool,
}

/// Whether a process of this name keeps the time.
#[must_use]
pub fn is_time_daemon(comm: &str) -> bool {
    // Names are cut at 15 bytes.
    ["chronyd", "systemd-timesyn", "ntpd", "ntpsec", "openntpd", "ptp4l", "phc2sys"].contains(&comm)
}

/// `ClockSkewed`.
#[must_use]
pub fn judge(look: &ClockLook) -> Verdict {
    let (code, node) = (FindingCode::ClockSkewed, &Subject::Node);
    let clock = match &look.clock {
        Ok(clock) => clock,
        Err(error) => return Verdict::State(unknown(code, node, error.as_str())),
    };
    let offset_secs = clock.offset_usec as f64 / 1e6;
    Verdict::State(if clock.offset_usec.unsigned_abs() > MAX_SKEW_USEC {
        let facts = Attributes::new().with(attribute::MEASURED, format!("{offset_secs:.1}"));
        present(code, node, look.at, ADJTIMEX, facts, format!("the clock is {offset_secs:.1} s off"))
    } else if clock.is_synchronised {
        let text = format!("the clock is synchronised, {offset_secs:.3} s off");
        absent(code, node, look.at, ADJTIMEX, text)
    } else if look.at.boottime_usec < SETTLE_USEC {
        unknown(code, node, "the clock is not synchronised, and the node has only just booted")
    } else if look.was_synchronised || look.daemon.is_some() {
        let why = match (&look.daemon, look.was_synchronised) {
            (Some(daemon), _) => format!("though {daemon} runs"),
            (None, _) => "any more, and no daemon runs that would do it".to_owned(),
        };
        present(code, node, look.at, ADJTIMEX, Attributes::new(), format!("the clock is not synchronised {why}"))
    } else {
        unknown(
            code,
            node,
            "nothing on this node keeps its clock right (no NTP or PTP daemon): how far it is off cannot be told",
        )
    })
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    fn look(is_synchronised: bool, offset_usec: i64) -> ClockLook {
        ClockLook {
            at: Moment { wall_usec: 0, boottime_usec: SETTLE_USEC },
            clock: Ok(KernelClock { is_synchronised, offset_usec, max_error_usec: 0 }),
            daemon: None,
            was_synchronised: false,
        }
    }

    #[track_caller]
    fn check(look: &ClockLook, want: Status) {
        assert_eq!(statuses(&[judge(look)]), [want], "{look:?}");
    }

    #[test]
    fn five_seconds_are_the_limit_both_ways() {
        for (offset_usec, want) in [(0, Absent), (5_000_000, Absent), (5_000_001, Present), (-5_000_001, Present)] {
            check(&look(true, offset_usec), want);
        }
        check(&look(false, 6_000_000), Present);
        check(&look(true, i64::MIN), Present);
    }

    #[test]
    fn not_synchronised_counts_only_where_somebody_should_have_done_it() {
        check(&look(false, 0), Unknown);
        check(&ClockLook { daemon: Some("chronyd".to_owned()), ..look(false, 0) }, Present);
        check(&ClockLook { was_synchronised: true, ..look(false, 0) }, Present);
        check(&ClockLook { at: Moment::default(), was_synchronised: true, ..look(false, 0) }, Unknown);
        check(&ClockLook { clock: Err("EPERM".to_owned()), ..look(true, 0) }, Unknown);
    }
}
