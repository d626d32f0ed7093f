//! The log: segments in order, what is acked of them, and how much may be kept.
//!
//! Records get their sequence number here. Acked segments go from the front; when the limit is reached the oldest segment goes
//! unacked and a [`v1::Loss`] with the exact gap takes its place in the stream, before the records that follow the gap. What
//! such a segment says of states is said anew by the next snapshot, so that what is really lost are the oldest occurrences.
//! `replay` reads what earlier starts left, `trim` takes from the front.

mod replay;
mod trim;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use kulprit_daemon::UsageError;
use kulprit_model::{Moment, Record};
use kulprit_proto::v1;
use prost::Message as _;
use tracing::error;

use super::{
    Span, SpoolStatus,
    fold::Fold,
    frame::{self, Frame, MAX_PAYLOAD_BYTES, Position},
    segment::{At, Segment},
};
use crate::tracker::{Batch, Memory};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All segments on disk, bytes.
    pub disk_bytes: u64,
    /// All segments in memory, bytes, where there is no disk.
    pub memory_bytes: u64,
}

impl Default for Limits {
    /// 64 MiB on disk: about 300,000 records, days of a node in trouble. 2 MiB in memory: a quarter of the agent's budget.
    fn default() -> Self {
        Self { disk_bytes: 64 << 20, memory_bytes: 2 << 20 }
    }
}

/// A segment is this part of the limit: so much goes at once when it is reached.
const N_SEGMENTS: u64 = 16;
/// One answer to a reader holds at most about so much, bytes.
const READ_BYTES: usize = 64 * 1024;
/// A frame is split above this, bytes; a snapshot of 1,000 states has about 300 KiB.
const SPLIT_BYTES: usize = MAX_PAYLOAD_BYTES / 4;

/// A place in the log for a reader; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    segment: u64,
    offset: u64,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A record that is not acked.
    Record(Box<v1::Record>),
    /// Records that were dropped here.
    Loss(v1::Loss),
}

/// (boot id, epoch)
type Stream = (String, u64);

/// How far one stream is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    last_seq: u64,
    /// Acked or dropped up to here.
    done_seq: u64,
}

#[derive(Debug)]
pub(super) struct Log {
    dir: Option<PathBuf>,
    limits: Limits,
    boot_id: String,
    epoch: u64,
    next_seq: u64,
    segments: VecDeque<Segment>,
    /// The last record of each stream in each segment, by segment id.
    ends: BTreeMap<u64, BTreeMap<Stream, u64>>,
    streams: BTreeMap<Stream, Progress>,
    fold: Fold,
    positions: BTreeMap<String, String>,
    /// What was dropped and central does not know of yet.
    losses: Vec<v1::Loss>,
    /// Bytes before the first record of the active segment.
    head_bytes: u64,
    pending: Vec<u8>,
    is_ack_pending: bool,
    status: SpoolStatus,
}

#[derive(Debug)]
pub(super) struct OpenedLog {
    pub(super) log: Log,
    pub(super) memory: Memory,
    pub(super) notes: Vec<String>,
}

impl Log {
    /// Reads what earlier starts left, and begins a new segment for this one. `least_epoch` grows above what is found.
    pub(super) fn open(
        state_dir: Option<&Path>,
        limits: Limits,
        boot_id: &str,
        least_epoch: u64,
    ) -> Result<OpenedLog, UsageError> {
        let mut log = Self {
            dir: state_dir.map(super::spool_dir),
            limits,
            boot_id: boot_id.to_owned(),
            epoch: least_epoch,
            next_seq: 1,
            segments: VecDeque::new(),
            ends: BTreeMap::new(),
            streams: BTreeMap::new(),
            fold: Fold::default(),
            positions: BTreeMap::new(),
            losses: Vec::new(),
            head_bytes: 0,
            pending: Vec::new(),
            is_ack_pending: false,
            status: SpoolStatus::default(),
        };
        let mut notes = Vec::new();
        if let Some(dir) = log.dir.clone() {
            log.read_all(&dir, &mut notes)?;
        }
        let found = log.streams.keys().map(|(_, epoch)| epoch.saturating_add(1)).max();
        log.epoch = log.epoch.max(found.unwrap_or(1));
        let records = log.fold.records().into_iter().filter_map(|record| Record::try_from(record).ok()).collect();
        let memory = Memory { records, positions: log.positions.clone() };
        let id = log.segments.back().map_or(1, |segment| segment.id + 1);
        log.begin_segment(id);
        log.drop_acked();
        log.update_status();
        Ok(OpenedLog { log, memory, notes })
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn status(&self) -> SpoolStatus {
        let end = self.segments.back().map(|last| Cursor { segment: last.id, offset: last.len }).unwrap_or_default();
        SpoolStatus { end, ..self.status }
    }

    /// Stamps and encodes a batch; it counts after [`Log::commit`].
    pub(super) fn append(&mut self, batch: Batch, at: Moment) -> Span {
        let first_seq = self.next_seq;
        let Batch { bodies, positions } = batch;
        let mut frame = Frame::default();
        let mut frame_bytes = 0;
        for body in bodies {
            let record = v1::Record {
                boot_id: self.boot_id.clone(),
                epoch: self.epoch,
                seq: self.next_seq,
                at: Some(at.into()),
                body: Some(body.into()),
            };
            self.next_seq += 1;
            self.fold.add(&record);
            frame_bytes += record.encoded_len();
            frame.records.push(record);
            if frame_bytes >= SPLIT_BYTES {
                frame::encode(&std::mem::take(&mut frame), &mut self.pending);
                frame_bytes = 0;
            }
        }
        for (probe, text) in positions {
            self.positions.insert(probe.clone(), text.clone());
            frame.positions.push(Position { probe, text });
        }
        if self.is_ack_pending {
            // Acks ride along with what is written anyway.
            frame.acks = self.acks();
            self.is_ack_pending = false;
        }
        if frame != Frame::default() {
            frame::encode(&frame, &mut self.pending);
        }
        Span { first_seq, last_seq: self.next_seq - 1 }
    }

    /// Makes everything appended durable, or keeps it in memory if the disk fails.
    pub(super) fn commit(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.pending);
        let active = self.segments.back_mut().expect("a segment is begun at the opening and before any is removed");
        if let Err(error) = active.commit(&bytes) {
            error!(%error, "cannot write the spool, keeping records in memory until the agent starts again");
            self.dir = None;
            let mut segment = Segment::in_memory(active.id + 1);
            self.head_bytes = segment.len;
            segment.commit(&bytes).expect("memory takes it");
            self.segments.push_back(segment);
        }
        let active = self.segments.back().expect("one was there");
        let stream = (self.boot_id.clone(), self.epoch);
        if self.next_seq > 1 {
            self.ends.entry(active.id).or_default().insert(stream.clone(), self.next_seq - 1);
            self.streams.entry(stream).or_default().last_seq = self.next_seq - 1;
        }
        if active.len - self.head_bytes >= self.limit() / N_SEGMENTS {
            let id = active.id + 1;
            self.begin_segment(id);
            self.drop_acked();
        }
        self.drop_surplus();
        self.update_status();
    }

    /// Central has everything up to here. Acks of what was never sent are ignored.
    pub(super) fn ack(&mut self, ack: &v1::Ack) {
        let is_known =
            |loss: &v1::Loss| loss.boot_id == ack.boot_id && loss.epoch == ack.epoch && loss.last_seq <= ack.seq;
        self.losses.retain(|loss| !is_known(loss));
        let Some(progress) = self.streams.get_mut(&(ack.boot_id.clone(), ack.epoch)) else { return };
        let seq = ack.seq.min(progress.last_seq);
        if seq > progress.done_seq {
            progress.done_seq = seq;
            self.is_ack_pending = true;
            self.drop_acked();
            self.update_status();
        }
    }

    /// Writes what is pending, acks included.
    pub(super) fn close(&mut self) {
        self.append(Batch::default(), Moment::default());
        self.commit();
    }

    /// What is not acked from `from` on.
    pub(super) fn read(&mut self, from: Cursor) -> (Vec<Item>, Cursor) {
        let mut items = Vec::new();
        let mut n_bytes = 0;
        let mut cursor = from;
        if self.segments.front().is_some_and(|oldest| from.segment < oldest.id) {
            // The reader has not seen what was dropped, if anything was.
            items.extend(self.losses.iter().cloned().map(Item::Loss));
        }
        while n_bytes < READ_BYTES {
            let Some(segment) = self.segments.iter().find(|segment| segment.id >= cursor.segment) else { break };
            let offset = if segment.id == cursor.segment { cursor.offset } else { 0 }.max(Segment::start());
            cursor = Cursor { segment: segment.id, offset };
            match segment.read(offset) {
                Ok(At::Frame(frame, next)) => {
                    n_bytes += usize::try_from(next - offset).unwrap_or(usize::MAX);
                    cursor.offset = next;
                    self.take_items(frame, &mut items);
                }
                Ok(At::End) if Some(segment.id) == self.segments.back().map(|last| last.id) => break,
                Ok(At::End) => cursor = Cursor { segment: segment.id + 1, offset: 0 },
                Ok(At::Damage) => self.skip_damaged(&mut cursor, "its bytes have changed"),
                Err(error) => self.skip_damaged(&mut cursor, &error.to_string()),
            }
        }
        (items, cursor)
    }

    fn take_items(&self, frame: Frame, items: &mut Vec<Item>) {
        let mut stream: Stream = Default::default();
        let mut done_seq = 0;
        for record in frame.records {
            if (record.boot_id.as_str(), record.epoch) != (stream.0.as_str(), stream.1) {
                stream = (record.boot_id.clone(), record.epoch);
                done_seq = self.streams.get(&stream).map_or(0, |progress| progress.done_seq);
            }
            if record.seq > done_seq {
                items.push(Item::Record(Box::new(record)));
            }
        }
    }

    /// What cannot be read is skipped to the next segment, and said.
    fn skip_damaged(&mut self, cursor: &mut Cursor, because: &str) {
        error!(
            segment = cursor.segment,
            offset = cursor.offset,
            because,
            "cannot read the spool, skipping to its next segment"
        );
        self.status.n_damaged += 1;
        if Some(cursor.segment) == self.segments.back().map(|last| last.id) {
            let id = cursor.segment + 1;
            self.begin_segment(id);
        }
        *cursor = Cursor { segment: cursor.segment + 1, offset: 0 };
    }

    /// Begins a segment with all that must outlive the ones before it.
    fn begin_segment(&mut self, id: u64) {
        let created = self.dir.as_deref().map(|dir| Segment::create(dir, id));
        let mut segment = match created {
            Some(Ok(segment)) => segment,
            Some(Err(error)) => {
                error!(%error, "cannot begin a spool segment, keeping records in memory until the agent starts again");
                self.dir = None;
                Segment::in_memory(id)
            }
            None => Segment::in_memory(id),
        };
        if segment.is_durable() {
            let positions = self.positions.iter();
            let positions = positions.map(|(probe, text)| Position { probe: probe.clone(), text: text.clone() });
            let mut bytes = Vec::new();
            let head = Frame {
                records: Vec::new(),
                positions: positions.collect(),
                losses: self.losses.clone(),
                acks: self.acks(),
                memory: self.fold.records(),
            };
            if head != Frame::default() {
                frame::encode(&head, &mut bytes);
            }
            if let Err(error) = segment.commit(&bytes) {
                error!(%error, "cannot write the spool, keeping records in memory until the agent starts again");
                self.dir = None;
                segment = Segment::in_memory(id);
            }
        }
        self.head_bytes = segment.len;
        self.segments.push_back(segment);
    }

    fn total_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    fn limit(&self) -> u64 {
        if self.dir.is_some() { self.limits.disk_bytes } else { self.limits.memory_bytes }
    }

    /// One commit took so long.
    pub(super) fn count_commit(&mut self, took_usec: u64) {
        self.status.n_commits += 1;
        self.status.commit_usec += took_usec;
    }

    fn update_status(&mut self) {
        let waiting = self.streams.values().map(|progress| progress.last_seq.saturating_sub(progress.done_seq));
        let current = self.streams.get(&(self.boot_id.clone(), self.epoch)).copied().unwrap_or_default();
        self.status = SpoolStatus {
            last_seq: current.last_seq,
            acked_seq: current.done_seq,
            n_waiting: waiting.sum(),
            bytes: self.total_bytes(),
            is_durable: self.dir.is_some(),
            ..self.status
        };
    }
}
