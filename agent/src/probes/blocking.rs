//! Calls that may wait in the kernel, away from the runtime, one at a time for each source.
//!
//! They share a thread as long as they are quick (`lane`). A call that is late is abandoned to its thread and no second is made
//! until it has returned: so a hung disk or driver costs one thread, never the pool, and never the probe.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::lane::{Answer, Lane, PATIENCE};

/// One source of blocking calls; by default on a lane of its own.
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    lane: Lane,
    /// A call that was late: when it began, and what lives until it has returned.
    late: Option<(Instant, Weak<()>)>,
}

/// The call, or the one before it, has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// For how long, seconds.
    pub(crate) for_secs: u64,
}

impl Blocking {
    /// A source that shares a thread with others.
    pub(crate) fn on(lane: &Lane) -> Self {
        Self { lane: lane.clone(), late: None }
    }

    /// Runs `call` and waits at most `deadline` for its result, those before it on the lane included.
    ///
    /// # Panics
    /// If `call` does.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        if let Some((since, _)) = self.late.as_ref().filter(|(_, running)| running.strong_count() > 0) {
            return Err(Late { for_secs: since.elapsed().as_secs() });
        }
        self.late = None;
        let began = Instant::now();
        let (give, mut take) = oneshot::channel();
        let alive = Arc::new(());
        let running = Arc::downgrade(&alive);
        let number = self.lane.push(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(call));
            drop(alive);
            Box::new(move || drop(give.send(result))) as Answer
        }));
        let mut answered = timeout(PATIENCE.min(deadline), &mut take).await;
        if answered.is_err() {
            self.lane.leave(number);
            answered = timeout_at(began + deadline, take).await;
        }
        match answered {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(panic))) => resume_unwind(panic),
            // The runtime ends, and the call was dropped.
            Ok(Err(_)) => Err(Late { for_secs: 0 }),
            Err(_) => {
                self.late = Some((began, running));
                Err(Late { for_secs: began.elapsed().as_secs() })
            }
        }
    }

    /// As [`Self::run`], of a call that goes on with what the one before it left in `kept`. One that is late keeps it, and the next
    /// begins with a `new` one.
    ///
    /// # Panics
    /// If `call` does.
    pub(crate) async fn run_with<K: Send + 'static, T: Send + 'static>(
        &mut self,
        deadline: Duration,
        kept: &mut Option<K>,
        new: impl FnOnce() -> K,
        call: impl FnOnce(&mut K) -> T + Send + 'static,
    ) -> Result<T, Late> {
        let mut state = kept.take().unwrap_or_else(new);
        let (result, state) = self.run(deadline, move || (call(&mut state), state)).await?;
        *kept = Some(state);
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    const SECS: Duration = Duration::from_secs(5);
    const SOON: Duration = Duration::from_millis(20);

    impl Blocking {
        async fn has_returned(&self) {
            while self.late.as_ref().is_some_and(|(_, running)| running.strong_count() > 0) {
                yield_now().await;
            }
        }
    }

    /// A call that hangs until what is returned with it is dropped.
    fn hang() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (free, hold) = mpsc::channel();
        (free, move || assert!(hold.recv().is_err()))
    }

    #[tokio::test]
    async fn what_a_call_leaves_is_the_next_ones_and_a_late_one_keeps_it() {
        let (mut blocking, mut kept) = (Blocking::default(), None);
        let count = |n: &mut u32| {
            *n += 1;
            *n
        };
        assert_eq!(blocking.run_with(SECS, &mut kept, || 10, count).await, Ok(11));
        assert_eq!(blocking.run_with(SECS, &mut kept, || 10, count).await, Ok(12));
        let (free, hang) = hang();
        assert!(blocking.run_with(SOON, &mut kept, || 10, move |_: &mut u32| hang()).await.is_err());
        assert_eq!(kept, None);
        drop(free);
        blocking.has_returned().await;
        assert_eq!(blocking.run_with(SECS, &mut kept, || 20, count).await, Ok(21));
    }

    #[tokio::test]
    async fn a_late_call_keeps_its_place_until_it_returns() {
        let mut blocking = Blocking::default();
        assert_eq!(blocking.run(SECS, || 1).await, Ok(1));
        let (free, hang) = hang();
        assert_eq!(blocking.run(SOON, hang).await, Err(Late { for_secs: 0 }));
        assert_eq!(blocking.run(SECS, || 2).await, Err(Late { for_secs: 0 }), "no second thread");
        drop(free);
        blocking.has_returned().await;
        assert_eq!(blocking.run(SECS, || 3).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_one_moment_run_in_their_order_on_one_thread() {
        let lane = Lane::default();
        let n_run = Arc::new(AtomicUsize::new(0));
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let (mut blocking, n_run) = (Blocking::on(&lane), Arc::clone(&n_run));
            let call = move || (n_run.fetch_add(1, Ordering::SeqCst), thread::current().id());
            calls.spawn(async move { blocking.run(SECS, call).await.unwrap() });
        }
        // Their results come in the order in which they were made.
        let done = calls.join_all().await;
        let (order, threads): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
        assert!(threads.iter().all(|id| *id == threads[0]), "{threads:?}");
    }

    #[tokio::test]
    async fn who_waits_behind_a_call_that_hangs_goes_on_without_it() {
        let lane = Lane::default();
        let (mut before, mut hung, mut behind) = (Blocking::on(&lane), Blocking::on(&lane), Blocking::on(&lane));
        let (free, hang) = hang();
        let (before, hung_first, behind_it) =
            tokio::join!(before.run(SECS, || 1), hung.run(PATIENCE * 2, hang), behind.run(SECS, || 2));
        assert_eq!((before, behind_it), (Ok(1), Ok(2)));
        assert_eq!(hung_first, Err(Late { for_secs: 0 }));
        // While it still hangs.
        for n in 0..10 {
            assert_eq!(behind.run(SECS, move || n).await, Ok(n));
        }
        drop(free);
        hung.has_returned().await;
        assert_eq!(hung.run(SECS, || 3).await, Ok(3));
    }

    #[tokio::test]
    async fn sources_that_all_hang_have_one_call_each_and_hold_up_nobody() {
        let lane = Lane::default();
        let n_begun = Arc::new(AtomicUsize::new(0));
        let mut hung: Vec<Blocking> = (0..20).map(|_| Blocking::on(&lane)).collect();
        let mut frees = Vec::new();
        for round in 0..3 {
            for blocking in &mut hung {
                let (free, hang) = hang();
                frees.push(free);
                let n_begun = Arc::clone(&n_begun);
                let call = move || {
                    n_begun.fetch_add(1, Ordering::SeqCst);
                    hang();
                };
                assert!(blocking.run(Duration::from_millis(1), call).await.is_err());
            }
            assert_eq!(Blocking::on(&lane).run(SECS, move || round).await, Ok(round));
        }
        drop(frees);
        for blocking in &mut hung {
            blocking.has_returned().await;
            assert_eq!(blocking.run(SECS, || 1).await, Ok(1));
        }
        assert_eq!(n_begun.load(Ordering::SeqCst), 20);
    }

    #[tokio::test]
    async fn a_panic_is_that_callers_alone() {
        let lane = Lane::default();
        let (mut one, mut other) = (Blocking::on(&lane), Blocking::on(&lane));
        let panics = tokio::spawn(async move { one.run(SECS, || panic!("as told")).await });
        let (panicked, answered) = tokio::join!(panics, other.run(SECS, || 1));
        assert!(panicked.unwrap_err().is_panic());
        assert_eq!(answered, Ok(1));
        assert_eq!(other.run(SECS, || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_its_call_and_nobody_waits_for_that() {
        let lane = Lane::default();
        let (mut gone, mut other) = (Blocking::on(&lane), Blocking::on(&lane));
        let (free, hang) = hang();
        assert!(timeout(SOON, gone.run(SECS, hang)).await.is_err());
        assert_eq!(other.run(SECS, || 1).await, Ok(1));
        drop(free);
        assert_eq!(gone.run(SECS, || 2).await, Ok(2));
    }
}
