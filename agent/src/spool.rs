//! The spool: what the tracker says, kept until central has it durably.
//!
//! One thread owns the files, so that a disk that hangs blocks nobody else. Appends are committed in groups: while one
//! `fdatasync` runs the next group gathers, so no append waits for more than two of them and nothing waits on purpose. A batch is
//! one frame: its records and the probe positions that belong to them become durable together or not at all.
//!
//! In the state folder lie `epoch` (the start counter), `lock`, and `spool/*.seg`. Without a writable folder everything is
//! kept in memory in the same form: nothing but the durability is different.

mod epoch;
mod fold;
mod frame;
mod log;
mod segment;
mod thread;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use kulprit_daemon::{Clock, UsageError};
use kulprit_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

use crate::tracker::{Batch, Memory};

pub use log::{Cursor, Item, Limits};

/// Appends that may wait for the disk; then the tracker waits.
const N_QUEUED: usize = 64;

/// The records that one batch became, first and last sequence number, both inclusive; empty when `last_seq < first_seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Sequence number of the first record.
    pub first_seq: u64,
    /// Sequence number of the last record.
    pub last_seq: u64,
}

/// How the spool stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Highest committed sequence number of this epoch.
    pub last_seq: u64,
    /// Highest sequence number of this epoch that central has acked.
    pub acked_seq: u64,
    /// Records that central has not acked.
    pub n_waiting: u64,
    /// Records dropped since the start because the spool was full.
    pub n_lost: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Commits since the start.
    pub n_commits: u64,
    /// Duration of all commits, microseconds.
    pub commit_usec: u64,
    /// Records that can no longer be read: damaged frames.
    pub n_damaged: u64,
    /// Where a reader has read everything that is committed.
    pub end: Cursor,
    /// Whether what is appended now survives a crash.
    pub is_durable: bool,
}

/// The spool's thread has ended; so must the agent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the spool's thread has ended")]
pub struct SpoolEnded;

/// What was found when the spool was opened.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub spool: Spool,
    /// The epoch of this start.
    pub epoch: u64,
    /// What earlier runs said last.
    pub memory: Memory,
    /// What the administrator should know, one sentence each; goes into Hello.
    pub notes: Vec<String>,
}

/// A handle to the spool. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<SpoolStatus>,
}

#[derive(Debug)]
enum Command {
    Append { batch: Batch, reply: oneshot::Sender<Span> },
    Read { from: Cursor, reply: oneshot::Sender<(Vec<Item>, Cursor)> },
    Ack(v1::Ack),
    Close(oneshot::Sender<()>),
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub struct Appended(oneshot::Receiver<Span>);

impl Appended {
    /// Waits until the batch is durable.
    ///
    /// # Errors
    /// If the spool's thread ended before.
    pub async fn committed(self) -> Result<Span, SpoolEnded> {
        self.0.await.map_err(|_| SpoolEnded)
    }
}

impl Spool {
    /// Opens the spool in `state_dir`, or in memory, and starts its thread.
    ///
    /// # Errors
    /// If the folder is in use by another agent or holds files that are not ours. A folder that cannot be written is no
    /// error: see [`Opened::notes`].
    pub fn open(state_dir: Option<&Path>, limits: Limits, boot_id: &str, clock: &Clock) -> Result<Opened, UsageError> {
        let start = epoch::Start::of(state_dir, clock)?;
        let opened = log::Log::open(start.dir.as_deref(), limits, boot_id, start.epoch)?;
        let (commands, requests) = mpsc::channel(N_QUEUED);
        let (status, seen) = watch::channel(opened.log.status());
        let epoch = opened.log.epoch();
        let mut notes = start.notes;
        notes.extend(opened.notes);
        epoch::keep(start.dir.as_deref(), epoch, &mut notes);
        thread::start(opened.log, start.lock, clock.clone(), requests, status)
            .map_err(|error| UsageError::new("failed to start the spool's thread").because(error))?;
        Ok(Opened { spool: Self { commands, status: seen }, epoch, memory: opened.memory, notes })
    }

    /// Hands a batch over; waits while the queue is full. It becomes durable even if the result is dropped.
    ///
    /// # Errors
    /// If the spool's thread has ended.
    pub async fn append(&self, batch: Batch) -> Result<Appended, SpoolEnded> {
        let (reply, committed) = oneshot::channel();
        self.send(Command::Append { batch, reply }).await?;
        Ok(Appended(committed))
    }

    /// Committed records from `from` on that are not acked, some at a time, with where to go on. Empty: no more now.
    ///
    /// # Errors
    /// If the spool's thread has ended.
    pub async fn read(&self, from: Cursor) -> Result<(Vec<Item>, Cursor), SpoolEnded> {
        let (reply, items) = oneshot::channel();
        self.send(Command::Read { from, reply }).await?;
        items.await.map_err(|_| SpoolEnded)
    }

    /// Central has everything up to here.
    ///
    /// # Errors
    /// If the spool's thread has ended.
    pub async fn ack(&self, ack: v1::Ack) -> Result<(), SpoolEnded> {
        self.send(Command::Ack(ack)).await
    }

    /// Writes what is queued and ends the thread.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.send(Command::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// How it stands, and when that changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<SpoolStatus> {
        self.status.clone()
    }

    async fn send(&self, command: Command) -> Result<(), SpoolEnded> {
        self.commands.send(command).await.map_err(|_| SpoolEnded)
    }
}

/// The folder of the segments within the state folder.
fn spool_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("spool")
}
