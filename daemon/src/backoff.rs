//! How long to wait before the next try: exponential, capped, full jitter.
//!
//! Full jitter (a uniform draw from zero to the ceiling) spreads a fleet that failed at one moment best:
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>. The draw is a pure function of the seed,
//! so that a test sees the same delays each time, and two tasks with different names do not beat together.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// The bounds of a [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Ceiling of the first delay.
    pub base: Duration,
    /// No delay is longer; the ceiling doubles with each failure until here.
    pub cap: Duration,
}

impl Default for BackoffPolicy {
    /// 500 ms (a restarted peer needs about that) to 30 s (what a person accepts to wait after a repair).
    fn default() -> Self {
        Self { base: Duration::from_millis(500), cap: Duration::from_secs(30) }
    }
}

/// The delays of one retried thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    n_failures: u32,
    random_state: u64,
}

impl Backoff {
    /// Starts without a failure. Take `seed` from [`random_seed`] or [`stable_seed`].
    #[must_use]
    pub const fn new(policy: BackoffPolicy, seed: u64) -> Self {
        Self { policy, n_failures: 0, random_state: seed }
    }

    /// Counts one more failure; returns how long to wait now, 0 to the ceiling.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling_usec = self.ceiling().as_micros();
        self.n_failures = self.n_failures.saturating_add(1);
        let draw = u128::from(self.next_random());
        // Multiply and shift: uniform over 0..=ceiling without the bias of a modulo.
        let delay_usec = (draw * (ceiling_usec + 1)) >> 64;
        Duration::from_micros(u64::try_from(delay_usec).unwrap_or(u64::MAX))
    }

    /// It worked: the next failure starts from the base again.
    pub const fn reset(&mut self) {
        self.n_failures = 0;
    }

    /// Failures since the start or the last [`Backoff::reset`].
    #[must_use]
    pub const fn n_failures(&self) -> u32 {
        self.n_failures
    }

    fn ceiling(&self) -> Duration {
        let doubled = 2_u32.checked_pow(self.n_failures).and_then(|factor| self.policy.base.checked_mul(factor));
        doubled.unwrap_or(self.policy.cap).min(self.policy.cap).min(Duration::from_micros(u64::MAX - 1))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): one word of state, good enough for jitter.
    const fn next_random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random_state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A seed from the operating system, different in each process.
#[must_use]
pub fn random_seed() -> u64 {
    // `RandomState` is the one source of OS randomness that std offers.
    RandomState::new().build_hasher().finish()
}

/// A seed that depends on the names only, for example node and probe: FNV-1a, the same on every machine and version.
///
/// Also what a poll takes its hashed offset from.
#[must_use]
pub fn stable_seed(names: &[&str]) -> u64 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy { base: Duration::from_millis(100), cap: Duration::from_secs(10) };

    fn delays(seed: u64, n: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(POLICY, seed);
        (0..n).map(|_| backoff.next_delay()).collect()
    }

    #[test]
    fn one_seed_gives_one_series_and_another_seed_another() {
        assert_eq!(delays(7, 20), delays(7, 20));
        assert_ne!(delays(7, 20), delays(8, 20));
    }

    #[test]
    fn ceilings_double_up_to_the_cap() {
        for seed in 0..2_000 {
            for (n, delay) in delays(seed, 12).into_iter().enumerate() {
                let ceiling = POLICY.cap.min(POLICY.base * (1 << n));
                assert!(delay <= ceiling, "seed {seed}, failure {n}: {delay:?} > {ceiling:?}");
            }
        }
    }

    #[test]
    fn jitter_is_full_and_uniform() {
        // 4,000 draws under a ceiling of 10 s: each tenth gets about 400, none of them 300 or 500 (5 sigma).
        let mut per_tenth = [0; 10];
        for seed in 0..4_000 {
            let delay = delays(stable_seed(&[&seed.to_string()]), 9)[8];
            per_tenth[usize::try_from(delay.as_millis() / 1_000).unwrap().min(9)] += 1;
        }
        assert!(per_tenth.iter().all(|n| (300..500).contains(n)), "{per_tenth:?}");
    }

    #[test]
    fn reset_starts_from_the_base_again() {
        let mut backoff = Backoff::new(POLICY, 1);
        for _ in 0..10 {
            backoff.next_delay();
        }
        assert_eq!(backoff.n_failures(), 10);
        backoff.reset();
        assert!(backoff.next_delay() <= POLICY.base);
        assert_eq!(backoff.n_failures(), 1);
    }

    #[test]
    fn ten_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(BackoffPolicy { base: Duration::MAX, cap: Duration::MAX }, 1);
        for _ in 0..10_000 {
            backoff.next_delay();
        }
        assert_eq!(backoff.n_failures(), 10_000);
    }

    #[test]
    fn names_are_kept_apart() {
        assert_ne!(stable_seed(&["ab", "c"]), stable_seed(&["a", "bc"]));
        assert_eq!(stable_seed(&["n1", "kvm"]), stable_seed(&["n1", "kvm"]));
    }

    #[test]
    fn random_seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
