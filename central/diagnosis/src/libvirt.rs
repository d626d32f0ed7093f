//! libvirt's numbers of domain states and reasons, named once.
//!
//! Source: `libvirt-domain.h` (`virDomainState`, `virDomain*Reason`), libvirt 11.3. Numbers that a later libvirt adds have no
//! name here and are shown as numbers; no rule fires on them.

/// `VIR_DOMAIN_RUNNING`
pub const RUNNING: i32 = 1;
/// `VIR_DOMAIN_BLOCKED`
pub const BLOCKED: i32 = 2;
/// `VIR_DOMAIN_PAUSED`
pub const PAUSED: i32 = 3;
/// `VIR_DOMAIN_SHUTDOWN`: the guest has shut down, QEMU is about to end.
pub const SHUTTING_DOWN: i32 = 4;
/// `VIR_DOMAIN_SHUTOFF`
pub const SHUTOFF: i32 = 5;
/// `VIR_DOMAIN_CRASHED`
pub const CRASHED: i32 = 6;
/// `VIR_DOMAIN_PMSUSPENDED`
pub const SUSPENDED: i32 = 7;

/// `VIR_DOMAIN_PAUSED_MIGRATION`
pub const PAUSED_MIGRATION: i32 = 2;
/// `VIR_DOMAIN_PAUSED_IOERROR`
pub const PAUSED_IO_ERROR: i32 = 5;
/// `VIR_DOMAIN_PAUSED_WATCHDOG`
pub const PAUSED_WATCHDOG: i32 = 6;
/// `VIR_DOMAIN_PAUSED_CRASHED`
pub const PAUSED_CRASHED: i32 = 10;
/// `VIR_DOMAIN_PAUSED_STARTING_UP`
pub const PAUSED_STARTING_UP: i32 = 11;
/// `VIR_DOMAIN_PAUSED_POSTCOPY_FAILED`
pub const PAUSED_POSTCOPY_FAILED: i32 = 13;
/// `VIR_DOMAIN_PAUSED_API_ERROR`
pub const PAUSED_API_ERROR: i32 = 14;

/// `VIR_DOMAIN_SHUTOFF_SHUTDOWN`
pub const SHUTOFF_SHUTDOWN: i32 = 1;
/// `VIR_DOMAIN_SHUTOFF_DESTROYED`
pub const SHUTOFF_DESTROYED: i32 = 2;
/// `VIR_DOMAIN_SHUTOFF_CRASHED`
pub const SHUTOFF_CRASHED: i32 = 3;
/// `VIR_DOMAIN_SHUTOFF_MIGRATED`
pub const SHUTOFF_MIGRATED: i32 = 4;
/// `VIR_DOMAIN_SHUTOFF_SAVED`
pub const SHUTOFF_SAVED: i32 = 5;
/// `VIR_DOMAIN_SHUTOFF_FAILED`: it could not be started.
pub const SHUTOFF_FAILED: i32 = 6;
/// `VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT`
pub const SHUTOFF_FROM_SNAPSHOT: i32 = 7;

/// Index = number; the reasons of a state stand behind its word, index = number as well.
const STATES: &[(&str, &[&str])] = &[
    ("no state", &["unknown"]),
    (
        "running",
        &[
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from snapshot",
            "unpaused",
            "migration canceled",
            "save canceled",
            "event wakeup",
            "crashed",
            "post-copy",
            "post-copy failed",
        ],
    ),
    ("blocked", &["unknown"]),
    (
        "paused",
        &[
            "unknown",
            "user",
            "migrating",
            "saving",
            "dumping",
            "I/O error",
            "watchdog",
            "from snapshot",
            "shutting down",
            "creating snapshot",
            "crashed",
            "starting up",
            "post-copy",
            "post-copy failed",
            "API error",
        ],
    ),
    ("in shutdown", &["unknown", "user"]),
    (
        "shut off",
        &["unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon"],
    ),
    ("crashed", &["unknown", "panicked"]),
    ("pmsuspended", &["unknown", "disk"]),
];

/// The word for a state, as `virsh domstate` has it; `None` for a number that this table does not know.
#[must_use]
pub fn state_word(state: i32) -> Option<&'static str> {
    Some(STATES.get(usize::try_from(state).ok()?)?.0)
}

/// The words for a reason of a state; `None` for a number that this table does not know.
#[must_use]
pub fn reason_word(state: i32, reason: i32) -> Option<&'static str> {
    let reasons = STATES.get(usize::try_from(state).ok()?)?.1;
    reasons.get(usize::try_from(reason).ok()?).copied()
}

/// Whether a domain is off because somebody wanted that.
#[must_use]
pub const fn is_off_as_asked(state: i32, reason: i32) -> bool {
    state == SHUTOFF
        && matches!(
            reason,
            SHUTOFF_SHUTDOWN | SHUTOFF_DESTROYED | SHUTOFF_MIGRATED | SHUTOFF_SAVED | SHUTOFF_FROM_SNAPSHOT
        )
}

/// State and reason for a sentence: `paused (I/O error)`, `shut off (reason 42)`.
#[must_use]
pub fn describe(state: i32, reason: i32) -> String {
    let state_text = state_word(state).map_or_else(|| format!("state {state}"), ToOwned::to_owned);
    match reason_word(state, reason) {
        Some("unknown") => state_text,
        Some(word) => format!("{state_text} ({word})"),
        None => format!("{state_text} (reason {reason})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_numbers_and_words_agree() {
        for (state, reason, want) in [
            (RUNNING, 1, "running (booted)"),
            (PAUSED, PAUSED_IO_ERROR, "paused (I/O error)"),
            (PAUSED, PAUSED_WATCHDOG, "paused (watchdog)"),
            (PAUSED, PAUSED_CRASHED, "paused (crashed)"),
            (PAUSED, PAUSED_STARTING_UP, "paused (starting up)"),
            (PAUSED, PAUSED_POSTCOPY_FAILED, "paused (post-copy failed)"),
            (PAUSED, PAUSED_API_ERROR, "paused (API error)"),
            (SHUTTING_DOWN, 1, "in shutdown (user)"),
            (SHUTOFF, SHUTOFF_CRASHED, "shut off (crashed)"),
            (SHUTOFF, SHUTOFF_FAILED, "shut off (failed)"),
            (SHUTOFF, SHUTOFF_SHUTDOWN, "shut off (shutdown)"),
            (SHUTOFF, SHUTOFF_DESTROYED, "shut off (destroyed)"),
            (SHUTOFF, SHUTOFF_MIGRATED, "shut off (migrated)"),
            (SHUTOFF, SHUTOFF_SAVED, "shut off (saved)"),
            (SHUTOFF, SHUTOFF_FROM_SNAPSHOT, "shut off (from snapshot)"),
            (CRASHED, 1, "crashed (panicked)"),
        ] {
            assert_eq!(describe(state, reason), want);
        }
    }

    #[test]
    fn numbers_of_a_later_libvirt_are_shown_as_numbers() {
        assert_eq!(describe(SHUTOFF, 42), "shut off (reason 42)");
        assert_eq!(describe(99, -1), "state 99 (reason -1)");
        assert_eq!(state_word(-1), None);
    }
}
