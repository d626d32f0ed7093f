//! How many tokens that are nobody's one address may show before it is asked of no more: each of them costs the API server a question, and whoever
//! waits behind it for a turn his time.
//!
//! Only what the API server did not accept counts, so that any number of agents may share an address (host network behind a NAT).

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::remembered::Remembered;

/// So many at once.
pub(super) const BURST: u32 = 20;
/// And one more after so long: ten a second.
const EVERY: Duration = Duration::from_millis(100);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 8_192;

/// Buckets by address, as [`crate::connections`] tells addresses apart.
#[derive(Debug)]
pub(super) struct Guesses {
    /// When the bucket of each is full again.
    full_at: Mutex<Remembered<IpAddr, Instant>>,
}

impl Guesses {
    pub(super) fn new() -> Self {
        Self { full_at: Mutex::new(Remembered::new(ADDRESSES_MAX)) }
    }

    /// Whether that address has shown too many.
    pub(super) fn are_too_many(&self, address: IpAddr, now: Instant) -> bool {
        let full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner).get(&address, now);
        full_at.is_some_and(|full_at| full_at.duration_since(now) > EVERY * (BURST - 1))
    }

    /// It has shown one. Those that are asked about already when there are too many count as well.
    pub(super) fn note(&self, address: IpAddr, now: Instant) {
        let mut all = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = all.get(&address, now).unwrap_or(now) + EVERY;
        all.put(address, full_at, full_at);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_is_refilled_with_time_and_its_own() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        let [a, b] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        for n in 0..BURST {
            assert!(!guesses.are_too_many(a, now), "{n}");
            guesses.note(a, now);
        }
        assert!(guesses.are_too_many(a, now) && !guesses.are_too_many(b, now));
        assert!(guesses.are_too_many(a, now + EVERY - Duration::from_millis(1)));
        assert!(!guesses.are_too_many(a, now + EVERY));
        guesses.note(a, now + EVERY);
        assert!(guesses.are_too_many(a, now + EVERY));
        for n in 0..BURST {
            assert!(!guesses.are_too_many(a, now + EVERY * 100), "{n}: full is full");
            guesses.note(a, now + EVERY * 100);
        }
        assert!(guesses.are_too_many(a, now + EVERY * 100));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_addresses_are_remembered_and_no_more() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        for n in 0..100_000 {
            guesses.note(Ipv4Addr::from_bits(n).into(), now);
        }
        assert!(guesses.full_at.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
