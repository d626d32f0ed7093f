//! The threads that make libvirt calls, for all daemons together.
//!
//! A call that hangs keeps its thread, for libvirt offers no way to cancel it. So the pool counts a thread whose job is out for
//! longer than any that is well as stuck and takes another in its place, up to a bound: a daemon that hangs delays no other.
//! Threads that are not stuck are two, however many daemons there are: a look takes a millisecond.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::clock::mono_usec;

/// Threads that work at a time, beside those that are stuck.
const N_WORKING: usize = 2;
/// Most threads: each daemon can keep three (a look, a question, a second opinion).
const MAX_THREADS: usize = 128;
/// A job that is out for longer counts as stuck, microseconds.
const STUCK_USEC: u64 = 100_000;
/// A thread beyond those that are needed ends after this long without a job.
const IDLE: Duration = Duration::from_secs(30);
/// Room for a thread's stack, bytes. libvirt needs a few KiB; a larger one may be backed by a huge page.
const STACK_BYTES: usize = 512 << 10;

/// Something to do on a thread of the pool.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Since when each thread that has a job has it, by the thread's number.
    running: BTreeMap<u64, u64>,
    n_threads: usize,
    last_number: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

/// The pool. Threads end with the process.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Does the job as soon as a thread is free.
    pub(crate) fn give(&self, job: Job) {
        let mut state = self.lock();
        state.queue.push_back(job);
        self.staff(&mut state, mono_usec());
    }

    /// Takes more threads if jobs wait and those there are stuck; when to call again, if so.
    pub(crate) fn relieve(&self, now_usec: u64) -> Option<u64> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            return None;
        }
        self.staff(&mut state, now_usec);
        Some(now_usec + STUCK_USEC)
    }

    fn staff(&self, state: &mut State, now_usec: u64) {
        let n_stuck = state.running.values().filter(|since| now_usec >= **since + STUCK_USEC).count();
        let n_wanted = (n_stuck + N_WORKING.min(state.queue.len() + state.running.len() - n_stuck)).min(MAX_THREADS);
        while state.n_threads < n_wanted {
            let (pool, number) = (self.clone(), state.last_number + 1);
            let thread = thread::Builder::new().name(format!("call-{number}")).stack_size(STACK_BYTES);
            if thread.spawn(move || pool.work(number)).is_err() {
                // The job waits for those there are.
                break;
            }
            (state.n_threads, state.last_number) = (state.n_threads + 1, number);
        }
        self.shared.woken.notify_one();
    }

    fn work(&self, number: u64) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.running.insert(number, mono_usec());
                drop(state);
                job();
                state = self.lock();
                state.running.remove(&number);
                continue;
            }
            let (held, wait) = self.shared.woken.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = held;
            let n_idle = state.n_threads - state.running.len();
            if wait.timed_out() && state.queue.is_empty() && n_idle > 1 {
                state.n_threads -= 1;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn jobs_that_are_stuck_delay_no_others_up_to_the_bound() {
        let pool = Pool::default();
        let (free, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..20 {
            let held = Arc::clone(&held);
            pool.give(Box::new(move || assert!(held.lock().unwrap().recv().is_err())));
        }
        let (done, is_done) = channel();
        pool.give(Box::new(move || done.send(()).unwrap()));
        let began_usec = mono_usec();
        while is_done.recv_timeout(Duration::from_millis(5)).is_err() {
            pool.relieve(mono_usec());
            assert!(mono_usec() - began_usec < 30_000_000, "it never got a thread");
        }
        drop(free);
    }

    #[test]
    fn jobs_that_are_well_share_two_threads() {
        let pool = Pool::default();
        let (done, is_done) = channel();
        for n in 0..200 {
            let done = done.clone();
            pool.give(Box::new(move || done.send(n).unwrap()));
        }
        let seen: Vec<i32> = is_done.iter().take(200).collect();
        assert_eq!(seen.len(), 200);
        // A busy machine may hold one up for so long that it counts as stuck.
        assert!(pool.lock().n_threads < 10 * N_WORKING);
    }
}
