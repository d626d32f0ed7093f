//! What survives a restart: watermarks, what holds now, the history, incidents, migrations.
//!
//! [`Store`] is the border to a database: one commit makes records, watermarks and the current state durable together.
//! [`writer`] owns the one thread that commits, in groups; [`reader`] owns the one that answers questions about history, so
//! that a long question never delays an ack. [`sqlite`] is the default; PostgreSQL for fleet-wide history comes behind the
//! same traits.

pub mod reader;
pub mod sqlite;
#[cfg(test)]
mod tests;
pub mod writer;

use std::{path::PathBuf, sync::Arc};

use kulprit_cluster::{MigrationChanges, MigrationRecord, Watched};
use kulprit_model::StreamId;
use kulprit_proto::v1;

use crate::{
    incident::Incident,
    state::{Change, Epoch, NodeState},
};

pub use reader::HistoryReader;
pub use writer::StoreWriter;

/// Keeps what was decided to be kept. All calls may block for as long as a disk does.
pub trait Store: Send + 'static {
    /// Makes all of `writes` durable, or none.
    ///
    /// # Errors
    /// If the database does not take them; the same writes may be tried again.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;

    /// Drops the history of days before `oldest_wall_usec` (Unix time). Says how many days.
    ///
    /// # Errors
    /// If the database does not let go.
    fn drop_history_before(&mut self, oldest_wall_usec: i64) -> Result<usize, StoreError>;
}

/// Answers questions about history.
pub trait History: Send + 'static {
    /// Rows by (time, id), oldest first, at most `query.limit` of them.
    ///
    /// # Errors
    /// If the database does not answer.
    fn read(&mut self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError>;

    /// The captures of an incident, by node and VM.
    ///
    /// # Errors
    /// If the database does not answer.
    fn captures(&mut self, incident_id: &str) -> Result<Vec<v1::Capture>, StoreError>;
}

/// One thing to make durable.
#[derive(Clone, Debug)]
pub enum Write {
    /// What a node is, and whether it has fallen silent.
    Node(NodeWrite),
    /// Records of a node and what they changed.
    Records(RecordsWrite),
    /// A node is gone for good: what holds of it is dropped. Its name stays with its history.
    Forget(StreamId),
    /// Incidents as they are now.
    Incidents(Vec<Arc<Incident>>),
    /// Migrations of VMs as they are known now.
    Migrations(MigrationsWrite),
    /// What a node showed of a VM. Of two of one incident, VM and node the first is kept: it is nearer to what happened. One from before
    /// the incident is kept beside it.
    Capture(CaptureWrite),
}

/// What became of the history of migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationsWrite {
    /// Records that changed, and those that are kept no longer.
    pub changes: MigrationChanges,
    /// Over which time every migration was seen, if that is news.
    pub watched: Option<Watched>,
}

/// A capture to keep for as long as its incident.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptureWrite {
    /// The node that made it.
    pub node: String,
    /// What it showed, times on the node's clock.
    pub result: v1::CaptureResult,
    /// Whether it was made before the incident, when the VM became a suspect.
    pub is_early: bool,
}

/// A node as it is to be found after a restart.
#[derive(Clone, Debug)]
pub struct NodeWrite {
    /// Which.
    pub stream: StreamId,
    /// What its agent said of itself last, an encoded `v1.Hello`.
    pub hello: Vec<u8>,
    /// Added to its times, microseconds.
    pub applied_offset_usec: i64,
    /// Whether it has fallen silent.
    pub is_silent: bool,
}

/// What one batch of a stream brought.
#[derive(Clone, Debug)]
pub struct RecordsWrite {
    /// Of which node.
    pub stream: StreamId,
    /// Central's clock, Unix time in microseconds: chooses the day of the history.
    pub received_wall_usec: i64,
    /// Rows for the history.
    pub history: Vec<HistoryRow>,
    /// What holds now.
    pub changes: Vec<Change>,
    /// How far each epoch has come with this batch.
    pub watermarks: Vec<(Epoch, u64)>,
    /// Epochs that are too many to be kept: the oldest.
    pub gone: Vec<Epoch>,
}

impl RecordsWrite {
    /// Nothing of `stream` yet.
    #[must_use]
    pub const fn new(stream: StreamId, received_wall_usec: i64) -> Self {
        Self {
            stream,
            received_wall_usec,
            history: Vec::new(),
            changes: Vec::new(),
            watermarks: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.n_rows() == 0
    }

    /// What it takes of the room for what waits: its rows, and one more for each KiB.
    #[must_use]
    pub fn weight(&self) -> usize {
        let put = |change: &Change| if let Change::Put(_, body) = change { body.len() } else { 0 };
        let n_bytes = self.history.iter().map(|row| row.body.len()).sum::<usize>();
        self.n_rows() + (n_bytes + self.changes.iter().map(put).sum::<usize>()) / 1024
    }

    const fn n_rows(&self) -> usize {
        self.history.len() + self.changes.len() + self.watermarks.len() + self.gone.len()
    }
}

/// One record as the history keeps it.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// Which start of the agent wrote it.
    pub epoch: Epoch,
    /// Its sequence number there.
    pub seq: u64,
    /// When it was written, Unix time of central in microseconds.
    pub at_wall_usec: i64,
    /// `state`, `occurrence`, `domain`, `qemu`, `gone` or `loss`.
    pub kind: &'static str,
    /// Finding code; empty where there is none.
    pub code: &'static str,
    /// Subject key; empty where there is none.
    pub subject: String,
    /// A state that is Absent.
    pub is_absent: bool,
    /// The encoded `v1.Record` (`v1.Loss` for a loss).
    pub body: Arc<[u8]>,
}

/// Which part of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// First and last time, Unix time in microseconds, both inclusive.
    pub from_wall_usec: i64,
    /// See `from_wall_usec`.
    pub to_wall_usec: i64,
    /// Node name; empty for all.
    pub node: String,
    /// Finding code; empty for all.
    pub code: String,
    /// Subject key; empty for all.
    pub subject: String,
    /// States that are Absent too.
    pub include_absent: bool,
    /// Only what comes after this row.
    pub after: Option<HistoryPosition>,
    /// At most this many rows.
    pub limit: usize,
}

/// Where a row stands in the order of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPosition {
    /// Its time, Unix time in microseconds.
    pub at_wall_usec: i64,
    /// The day it was received.
    pub day: i64,
    /// Its number within the day.
    pub row: i64,
}

/// A row of the history, a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// Where it stands.
    pub position: HistoryPosition,
    /// Who said it.
    pub node: String,
    /// What was said.
    pub record: v1::Record,
}

/// What the store had when it was opened.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every node with its current state and watermarks.
    pub nodes: Vec<NodeState>,
    /// Every incident kept.
    pub incidents: Vec<Incident>,
    /// The migrations of the last day.
    pub migrations: Vec<MigrationRecord>,
    /// Over which time every migration was seen; `None`: never yet.
    pub migrations_watched: Option<Watched>,
    /// Rows that this version cannot read and has left where they are.
    pub n_unreadable: usize,
    /// The file was there and held nothing: somebody emptied it, or central was ended while it made it.
    pub was_empty: bool,
}

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder is not there and cannot be made, or cannot be written.
    #[error("failed to use the data folder `{path}`")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
    /// Another central has it open.
    #[error("the data folder `{path}` is in use by another kulprit-central")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The file is damaged: cut short, or overwritten.
    #[error("the store `{path}` is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database says.
        problem: String,
    },
    /// The file is not a store of ours.
    #[error("`{path}` is not a store of kulprit-central: {found}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// A newer central wrote it.
    #[error("the store `{path}` has schema version {found}, and this kulprit-central knows versions up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest we know.
        known: i64,
    },
    /// The database refused.
    #[error("failed to {doing} in the store `{path}`")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: rusqlite::Error,
    },
    /// The thread that serves the database has ended or does not answer in time.
    #[error("the store does not answer")]
    NoAnswer,
}

impl StoreError {
    /// What a person can do about it.
    #[must_use]
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "create it writable for this user, or choose another with --data-dir",
            Self::InUse { .. } => {
                "stop the other one, or choose another folder with --data-dir; with several replicas give each a volume of its own (emptyDir, or one claim each)"
            }
            Self::Damaged { .. } => {
                "move it away and start again (agents send what holds now; history and incidents are lost), or restore it from a backup"
            }
            Self::Foreign { .. } => "move it away, or choose another folder with --data-dir",
            Self::Newer { .. } => "run the newer version again, or choose another folder with --data-dir",
            Self::Database { .. } | Self::NoAnswer => "look at the disk under it (space, health), then start again",
        }
    }
}
