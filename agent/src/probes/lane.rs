//! The lane: calls that may wait in the kernel, one after another on one thread of the runtime's pool.
//!
//! Most calls take microseconds, and waking a thread for each of them and the runtime for each result costs more than they do. So the
//! calls of a beat are gathered, run in turn, and what the short ones returned is handed over together. Nobody waits long for another's
//! call: whoever has waited for [`PATIENCE`] leaves the thread to the call under way, and what waits behind it gets threads of its own.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// How long a call waits for those before it, and its result for those behind it: several times what a beat with ten VMs takes.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);
/// What a longer call returned is handed over at once.
const SHORT: Duration = Duration::from_millis(1);

/// A call; what it returns hands its result over.
pub(super) type Call = Box<dyn FnOnce() -> Answer + Send>;
/// Hands a result over; does not wait and does not panic.
pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// See the module. Cheap to clone; of one runtime.
#[derive(Clone, Debug, Default)]
pub struct Lane(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// How many threads were left to a call: a thread that is not of this number ends after its call.
    n_left: u64,
    is_under_way: bool,
    waiting: VecDeque<Call>,
    /// Of short calls, until the last of them is over.
    answers: Vec<Answer>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("n_left", &self.n_left)
            .field("n_waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a call; returns what [`Self::leave`] wants to know when it is late.
    pub(super) fn push(&self, call: Call) -> u64 {
        let mut inner = self.lock();
        inner.waiting.push_back(call);
        let number = inner.n_left;
        if !std::mem::replace(&mut inner.is_under_way, true) {
            let lane = self.clone();
            // A task of its own comes after all that woke with us: their calls are then there as well. What it hands over wakes the
            // runtime once.
            tokio::spawn(async move {
                if let Ok(answers) = spawn_blocking(move || lane.follow(number)).await {
                    hand_over(answers);
                }
            });
        }
        number
    }

    /// Runs what waits, until nothing does or the lane has left us; returns what is still to be handed over.
    fn follow(&self, number: u64) -> Vec<Answer> {
        loop {
            let mut inner = self.lock();
            if inner.n_left != number {
                return Vec::new();
            }
            let Some(call) = inner.waiting.pop_front() else {
                inner.is_under_way = false;
                return take(&mut inner.answers);
            };
            drop(inner);
            let began = Instant::now();
            let answer = call();
            let is_short = began.elapsed() < SHORT;
            let mut inner = self.lock();
            if inner.n_left != number {
                return vec![answer];
            }
            inner.answers.push(answer);
            if !is_short {
                let answers = take(&mut inner.answers);
                drop(inner);
                hand_over(answers);
            }
        }
    }

    /// A call that was pushed under `number` has waited long enough: the thread is left to what it does, and everybody else goes on.
    pub(super) fn leave(&self, number: u64) {
        let mut inner = self.lock();
        if inner.n_left != number {
            return;
        }
        inner.n_left += 1;
        inner.is_under_way = false;
        let (waiting, answers) = (take(&mut inner.waiting), take(&mut inner.answers));
        drop(inner);
        hand_over(answers);
        for call in waiting {
            drop(spawn_blocking(move || call()()));
        }
    }
}

fn hand_over(answers: Vec<Answer>) {
    answers.into_iter().for_each(|answer| answer());
}
