//! Answers of the API server: asked for once, also where many wait for the same, and remembered for a while.
//!
//! Who wants an answer that is not there takes one of [`TURNS`] turns, chosen by what he asks: so two that ask the same ask once, and no more than
//! that many questions are under way, however many come.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Mutex as Turn,
    time::{Instant, timeout},
};

use super::{Refusal, remembered::Remembered};

/// Questions under way at once.
const TURNS: usize = 32;
/// How long one may wait for its turn: with the answer itself less than a person's usual 10 s.
const TURN_WITHIN: Duration = Duration::from_secs(3);

/// Answers by what was asked.
#[derive(Debug)]
pub(super) struct Asked<K, V> {
    remembered: Mutex<Remembered<K, V>>,
    turns: Vec<Turn<()>>,
    hasher: RandomState,
    what: &'static str,
}

impl<K: Hash + Eq + Clone, V: Clone> Asked<K, V> {
    /// Remembers at most `max`. `what` is to be verified.
    pub(super) fn new(what: &'static str, max: usize) -> Self {
        let turns = (0..TURNS).map(|_| Turn::new(())).collect();
        Self { remembered: Mutex::new(Remembered::new(max)), turns, hasher: RandomState::new(), what }
    }

    /// Whether an answer is remembered.
    pub(super) fn knows(&self, key: &K) -> bool {
        self.lock().get(key, Instant::now()).is_some()
    }

    /// The answer that is remembered, else that of `ask`, which says how long it may be.
    pub(super) async fn get_or_ask(
        &self,
        key: K,
        ask: impl Future<Output = Result<(V, Duration), Refusal>>,
    ) -> Result<V, Refusal> {
        if let Some(known) = self.lock().get(&key, Instant::now()) {
            return Ok(known);
        }
        let n_turns = u64::try_from(self.turns.len()).unwrap_or(u64::MAX);
        let turn = usize::try_from(self.hasher.hash_one(&key) % n_turns).unwrap_or_default();
        let too_many =
            |_| Refusal::CannotVerify { what: self.what, why: "too much is asked of Kubernetes already".to_owned() };
        let _turn = timeout(TURN_WITHIN, self.turns[turn].lock()).await.map_err(too_many)?;
        if let Some(known) = self.lock().get(&key, Instant::now()) {
            return Ok(known);
        }
        let (value, keep) = ask.await?;
        self.lock().put(key, value.clone(), Instant::now() + keep);
        Ok(value)
    }

    fn lock(&self) -> MutexGuard<'_, Remembered<K, V>> {
        // Nothing panics with it; a half-done change would cost one more question.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_who_ask_the_same_at_once_ask_once() {
        let (asked, n_asked) = (Asked::new("this", 8), AtomicUsize::new(0));
        let one = || {
            asked.get_or_ask(1, async {
                n_asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
                Ok((7, Duration::from_secs(10)))
            })
        };
        let all = (0..100).map(|_| one());
        let mut waiting: Vec<_> = all.map(Box::pin).collect();
        for one in &mut waiting {
            // Each has begun before the first has its answer.
            assert!(timeout(Duration::from_millis(1), one).await.is_err());
        }
        for one in waiting {
            assert_eq!(one.await, Ok(7));
        }
        assert_eq!(n_asked.load(Ordering::Relaxed), 1);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(one().await, Ok(7));
        assert_eq!(n_asked.load(Ordering::Relaxed), 2, "what is due is asked anew");
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_not_remembered_and_nobody_waits_for_ever() {
        let asked: Asked<u8, u8> = Asked::new("this", 8);
        let nothing = || Refusal::CannotVerify { what: "this", why: "no".to_owned() };
        assert_eq!(asked.get_or_ask(1, async { Err(nothing()) }).await, Err(nothing()));
        assert_eq!(asked.get_or_ask(1, async { Ok((2, Duration::from_secs(1))) }).await, Ok(2));
        let hangs = asked.get_or_ask(3, std::future::pending());
        let late = async {
            tokio::task::yield_now().await;
            asked.get_or_ask(3, async { Ok((4, Duration::from_secs(1))) }).await
        };
        let late = tokio::select! {
            biased;
            _ = hangs => None,
            late = late => Some(late),
        };
        let text = late.map(|late| late.map_err(|refusal| refusal.to_string()));
        let want = "cannot verify this: too much is asked of Kubernetes already; try again";
        assert_eq!(text, Some(Err(want.to_owned())));
    }
}
