//! Calls that may wait in the kernel, on a thread of their own, one at a time for each source.
//!
//! A call that is late is abandoned to its thread and no second is made until it has returned: so a hung disk or driver costs
//! one thread, never the pool, and never the probe.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

/// One source of blocking calls.
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    late: Option<(Instant, JoinHandle<()>)>,
}

/// The call, or the one before it, has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// For how long, seconds.
    pub(crate) for_secs: u64,
}

impl Blocking {
    /// Runs `call` and waits at most `deadline` for its result.
    ///
    /// # Panics
    /// If `call` does.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        if let Some((since, task)) = self.late.take_if(|(_, task)| !task.is_finished()) {
            let for_secs = since.elapsed().as_secs();
            self.late = Some((since, task));
            return Err(Late { for_secs });
        }
        self.late = None;
        let began = Instant::now();
        let (give, take) = tokio::sync::oneshot::channel();
        let task = tokio::task::spawn_blocking(move || drop(give.send(call())));
        match tokio::time::timeout(deadline, take).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => match task.await {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Ok(()) | Err(_) => Err(Late { for_secs: 0 }),
            },
            Err(_) => {
                self.late = Some((began, task));
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
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_a_call_leaves_is_the_next_ones_and_a_late_one_keeps_it() {
        let (mut blocking, mut kept) = (Blocking::default(), None);
        let count = |n: &mut u32| {
            *n += 1;
            *n
        };
        let secs = Duration::from_secs(5);
        assert_eq!(blocking.run_with(secs, &mut kept, || 10, count).await, Ok(11));
        assert_eq!(blocking.run_with(secs, &mut kept, || 10, count).await, Ok(12));
        let (free, hold) = mpsc::channel::<()>();
        let hang = move |_: &mut u32| hold.recv().is_ok();
        assert!(blocking.run_with(Duration::from_millis(20), &mut kept, || 10, hang).await.is_err());
        assert_eq!(kept, None);
        free.send(()).unwrap();
        while !blocking.late.as_ref().is_some_and(|(_, task)| task.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(blocking.run_with(secs, &mut kept, || 20, count).await, Ok(21));
    }

    #[tokio::test]
    async fn a_late_call_keeps_its_place_until_it_returns() {
        let mut blocking = Blocking::default();
        assert_eq!(blocking.run(Duration::from_secs(5), || 1).await, Ok(1));
        let (free, hold) = mpsc::channel::<()>();
        let (told, done) = tokio::sync::oneshot::channel();
        let hung = blocking
            .run(Duration::from_millis(20), move || {
                let _ = hold.recv();
                let _ = told.send(());
            })
            .await;
        assert_eq!(hung, Err(Late { for_secs: 0 }));
        assert_eq!(blocking.run(Duration::from_secs(5), || 2).await, Err(Late { for_secs: 0 }), "no second thread");
        free.send(()).unwrap();
        done.await.unwrap();
        while !blocking.late.as_ref().is_some_and(|(_, task)| task.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(blocking.run(Duration::from_secs(5), || 3).await, Ok(3));
    }
}
