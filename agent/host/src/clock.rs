//! What the kernel itself knows of its clock: whether somebody disciplines it, and how far off it may be.
//!
//! The kernel cannot know the right time. It knows what the last NTP or PTP daemon told it, and lets the possible error grow by
//! 500 ppm from then on; at 16 s it calls the clock unsynchronised. Source: `adjtimex(2)`, kernel `kernel/time/ntp.c`.

#![allow(unsafe_code, reason = "adjtimex has no safe wrapper in the crates that are used here")]

use std::io;

/// `STA_UNSYNC`: nobody has disciplined the clock, or not for hours.
const STA_UNSYNC: i32 = 0x0040;
/// `STA_NANO`: the offset is in nanoseconds.
const STA_NANO: i32 = 0x2000;
/// `TIME_ERROR`: the clock is not synchronised.
const TIME_ERROR: i32 = 5;

/// The kernel's clock, as it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelClock {
    /// Whether a daemon disciplines it.
    pub is_synchronised: bool,
    /// What is still to be corrected of the offset that the daemon saw last, microseconds, with sign.
    pub offset_usec: i64,
    /// The most that the clock can be off if the daemon was right, microseconds; 16 s when nobody ever was.
    pub max_error_usec: i64,
}

/// Asks the kernel. Changes nothing, and needs no privilege.
///
/// # Errors
/// What the kernel said; a seccomp profile may forbid the call.
pub fn read_kernel_clock() -> io::Result<KernelClock> {
    let mut timex = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the structure is plain numbers, for which zeros are valid; `modes` 0 asks to change nothing, and the kernel
    // writes to nothing but the structure, which lives through the call.
    let state = unsafe { libc::adjtimex(timex.as_mut_ptr()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and filled by the kernel.
    let timex = unsafe { timex.assume_init() };
    Ok(from_parts(state, timex.status, timex.offset, timex.maxerror))
}

fn from_parts(state: i32, status: i32, offset: i64, max_error_usec: i64) -> KernelClock {
    KernelClock {
        is_synchronised: state != TIME_ERROR && status & STA_UNSYNC == 0,
        offset_usec: if status & STA_NANO == 0 { offset } else { offset / 1_000 },
        max_error_usec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_answers() {
        let clock = read_kernel_clock().unwrap();
        assert!(clock.max_error_usec >= 0, "{clock:?}");
    }

    #[test]
    fn states_and_units_of_the_kernel_are_understood() {
        assert!(from_parts(0, 0x2001, 0, 1_000).is_synchronised);
        assert!(!from_parts(TIME_ERROR, 0, 0, 0).is_synchronised);
        assert!(!from_parts(0, STA_UNSYNC, 0, 16_000_000).is_synchronised);
        assert_eq!(from_parts(0, STA_NANO, -7_000_000, 0).offset_usec, -7_000);
        assert_eq!(from_parts(0, 0, -7, 0).offset_usec, -7);
    }
}
