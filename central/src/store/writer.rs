//! The one thread that commits, in groups.
//!
//! The first write of a group waits at most [`GROUP_FOR`] for others, so that a thousand streams share one fsync. Writes of
//! records take permits, given back after their commit: when the disk hangs, permits run out, streams go on without the
//! store, and nothing is acked. A commit that fails is tried again until it succeeds or the process ends. [`StoreWriter::trouble`] says how
//! it stands, also while the disk has the thread.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, Thread},
    time::Duration,
};

use kulprit_daemon::Chain;
use kulprit_model::StreamId;
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};
use tracing::{error, info, warn};

use super::{Store, Write};
use crate::{metrics::CentralMetrics, state::Epoch};

/// How long the first write of a group waits for others. Well under the 5 ms that an ack may cost.
const GROUP_FOR: Duration = Duration::from_millis(2);
/// Most writes of one group: bounds the transaction.
const GROUP_MAX: usize = 4_096;
/// How long after a failed commit it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A commit that takes longer is worth a remark: a thousand times what it takes on a healthy disk.
const LATE_AFTER: Duration = Duration::from_secs(5);
/// Records that may wait for their commit, about 20 MiB; of large ones fewer, 64 MiB at most. When so many wait, streams wait too.
pub const MAX_WAITING: usize = 65_536;

/// Called from the store's thread for each batch of records that became durable.
pub type OnDurable = Box<dyn Fn(&StreamId, &[(Epoch, u64)]) + Send>;

enum Command {
    Write(Write, OwnedSemaphorePermit),
    DropHistoryBefore(i64),
    Stop,
}

/// The way to the store's thread; clones share it.
#[derive(Clone, Debug)]
pub struct StoreWriter {
    commands: Sender<Command>,
    permits: Arc<Semaphore>,
    is_closing: Arc<AtomicBool>,
    commit: Arc<Mutex<Option<Commit>>>,
    thread: Thread,
}

/// A group on its way to the disk.
#[derive(Debug)]
struct Commit {
    began: Instant,
    /// Why it failed last.
    failure: Option<String>,
}

/// Resolves when the store's thread has ended; an error if it panicked.
pub type StoreEnd = oneshot::Receiver<()>;

impl StoreWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start<S: Store>(
        store: S,
        on_durable: OnDurable,
        metrics: CentralMetrics,
    ) -> std::io::Result<(Self, StoreEnd)> {
        let (commands, received) = mpsc::channel();
        let (is_over, over) = oneshot::channel();
        let is_closing = Arc::new(AtomicBool::new(false));
        let commit = Arc::new(Mutex::new(None));
        let (closing, under_way) = (Arc::clone(&is_closing), Arc::clone(&commit));
        let worker = Worker { store, received, on_durable, metrics, is_closing: closing, under_way };
        let joiner = thread::Builder::new().name("store".to_owned()).spawn(move || {
            worker.run();
            let _ = is_over.send(());
        })?;
        let permits = Arc::new(Semaphore::new(MAX_WAITING));
        Ok((Self { commands, permits, is_closing, commit, thread: joiner.thread().clone() }, over))
    }

    /// What a write of records takes before it is queued; wait for it with a limit.
    #[must_use]
    pub fn permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.permits)
    }

    /// Rows that were queued, or are about to be, and are not durable yet.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        MAX_WAITING - self.permits.available_permits()
    }

    /// How many permits a write of that weight takes: never more than there are.
    #[must_use]
    pub fn n_permits(weight: usize) -> u32 {
        u32::try_from(weight.clamp(1, MAX_WAITING / 4)).unwrap_or(u32::MAX)
    }

    /// Queues a write; never blocks. After [`StoreWriter::close`] it is dropped, and so is never acked.
    pub fn queue(&self, write: Write, permit: OwnedSemaphorePermit) {
        let _ = self.commands.send(Command::Write(write, permit));
    }

    /// Queues a write if few enough wait; false if not, and the write is dropped: make it again later.
    #[must_use]
    pub fn try_queue(&self, write: Write) -> bool {
        let weight = if let Write::Capture(capture) = &write { capture.result.encoded_len() / 1024 } else { 1 };
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(Self::n_permits(weight));
        permit.is_ok_and(|permit| {
            self.queue(write, permit);
            true
        })
    }

    /// Asks for the history before `oldest_wall_usec` to be dropped.
    pub fn drop_history_before(&self, oldest_wall_usec: i64) {
        let _ = self.commands.send(Command::DropHistoryBefore(oldest_wall_usec));
    }

    /// How long a commit has been under way, and what is wrong with it, if anything is.
    #[must_use]
    pub fn trouble(&self) -> (Duration, Option<String>) {
        let commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Commit { began, failure }) = &*commit else { return (Duration::ZERO, None) };
        let waits = began.elapsed();
        let why = match failure {
            Some(failure) => Some(failure.as_str()),
            None => (waits >= LATE_AFTER).then_some("the disk does not answer"),
        };
        (waits, why.map(|why| format!("takes nothing for {} s, acks wait, verdicts do not: {why}", waits.as_secs())))
    }

    /// Tells the thread to commit what is queued and to end.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        let _ = self.commands.send(Command::Stop);
        self.thread.unpark();
    }
}

struct Worker<S> {
    store: S,
    received: Receiver<Command>,
    on_durable: OnDurable,
    metrics: CentralMetrics,
    is_closing: Arc<AtomicBool>,
    under_way: Arc<Mutex<Option<Commit>>>,
}

impl<S: Store> Worker<S> {
    fn note(&self, commit: Option<Commit>) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = commit;
    }

    fn run(mut self) {
        while let Ok(first) = self.received.recv() {
            let mut group = Group::default();
            let until = Instant::now() + GROUP_FOR;
            let mut next = Some(first);
            while let Some(command) = next.take() {
                group.add(command);
                if group.is_last || group.writes.len() >= GROUP_MAX {
                    break;
                }
                next = self.received.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
            }
            let is_last = group.is_last;
            if !self.commit(group) || is_last {
                return;
            }
        }
    }

    /// Commits until it succeeds; false if the process ends first.
    fn commit(&mut self, group: Group) -> bool {
        let Group { writes, permits, drop_before, is_last: _ } = group;
        let started = Instant::now();
        let mut n_failures = 0_u64;
        if !writes.is_empty() {
            self.note(Some(Commit { began: started, failure: None }));
            while let Err(error) = self.store.commit(&writes) {
                self.metrics.store_failures.inc();
                if n_failures == 0 {
                    error!(error = %Chain(&error), fix = error.fix(), "the store takes nothing; acks wait, verdicts do not");
                }
                n_failures += 1;
                self.note(Some(Commit { began: started, failure: Some(Chain(&error).to_string()) }));
                if self.is_closing.load(Ordering::Acquire) {
                    warn!(
                        n_writes = writes.len(),
                        "ending without having stored everything; agents will send it again"
                    );
                    return false;
                }
                thread::park_timeout(RETRY_AFTER);
            }
            self.note(None);
            if n_failures > 0 {
                info!(n_failures, "the store takes writes again");
            }
            self.metrics.store_commits.inc();
            self.metrics.store_commit_seconds.observe(started.elapsed().as_secs_f64());
            drop(permits);
            for write in &writes {
                if let Write::Records(records) = write {
                    self.metrics.store_records.inc_by(u64::try_from(records.history.len()).unwrap_or(u64::MAX));
                    (self.on_durable)(&records.stream, &records.watermarks);
                }
            }
        }
        if let Some(oldest) = drop_before {
            match self.store.drop_history_before(oldest) {
                Ok(n_days) => {
                    self.metrics.store_dropped_days.inc_by(u64::try_from(n_days).unwrap_or(u64::MAX));
                }
                Err(error) => warn!(error = %Chain(&error), "old history could not be dropped; tried again in an hour"),
            }
        }
        true
    }
}

#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    permits: Vec<OwnedSemaphorePermit>,
    drop_before: Option<i64>,
    is_last: bool,
}

impl Group {
    fn add(&mut self, command: Command) {
        match command {
            Command::Write(write, permit) => {
                self.writes.push(write);
                self.permits.push(permit);
            }
            Command::DropHistoryBefore(oldest) => self.drop_before = Some(oldest),
            Command::Stop => self.is_last = true,
        }
    }
}
