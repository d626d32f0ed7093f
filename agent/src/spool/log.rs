//! The log: segments in order, what is acked of them, and how much may be kept.
//!
//! Records get their sequence number here. Acked segments go from the front; when the limit is reached the oldest segment goes
//! unacked and a [`v1::Loss`] with the exact gap takes its place in the stream, before the records that follow the gap. What
//! such a segment says of states is said anew by the next snapshot, so that what is really lost are the oldest occurrences.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use kulprit_daemon::UsageError;
use kulprit_model::{Moment, Record};
use kulprit_proto::v1;
use prost::Message as _;
use tracing::{error, warn};

use super::{
    Span, SpoolStatus,
    fold::Fold,
    frame::{self, Frame, MAX_PAYLOAD_BYTES, Position},
    segment::{self, At, OpenError, Segment},
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

    pub(super) const fn status(&self) -> SpoolStatus {
        self.status
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

    fn read_all(&mut self, dir: &Path, notes: &mut Vec<String>) -> Result<(), UsageError> {
        let failed = |path: &Path, error: io::Error| {
            UsageError::new(format!("failed to read the spool `{}`", path.display()))
                .because(error)
                .fix("make it readable for the agent, or choose another with --state-dir")
        };
        let mut ids = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
            let entry = entry.map_err(|error| failed(dir, error))?;
            ids.extend(entry.file_name().to_str().and_then(segment::id_of));
        }
        ids.sort_unstable();
        for id in ids {
            let path = segment::path(dir, id);
            let mut segment = match Segment::open(dir, id) {
                Ok(Some(segment)) => segment,
                Ok(None) => continue,
                Err(OpenError::Foreign) => {
                    return Err(UsageError::new(format!("`{}` is not a spool segment of this agent", path.display()))
                        .fix("move it away, or choose another folder with --state-dir"));
                }
                Err(OpenError::Io(error)) => return Err(failed(&path, error)),
            };
            self.scan(&mut segment, notes).map_err(|error| failed(&path, error))?;
            self.segments.push_back(segment);
        }
        Ok(())
    }

    /// Takes in all frames of a segment; cuts it where they end.
    fn scan(&mut self, segment: &mut Segment, notes: &mut Vec<String>) -> io::Result<()> {
        let mut offset = Segment::start();
        loop {
            match segment.read(offset)? {
                At::Frame(frame, next) => {
                    self.learn(segment.id, frame, offset == Segment::start());
                    offset = next;
                }
                At::End => return Ok(()),
                At::Damage => {
                    let n_bytes = segment.len - offset;
                    warn!(segment = segment.id, offset, n_bytes, "the spool ends in a torn write, cutting it off");
                    if n_bytes > SPLIT_BYTES as u64 {
                        notes.push(format!("{n_bytes} bytes of the spool were damaged and are lost"));
                    }
                    return segment.truncate(offset);
                }
            }
        }
    }

    /// `is_head`: it is the first frame, which says all that outlives the segments before it.
    fn learn(&mut self, segment: u64, frame: Frame, is_head: bool) {
        let Frame { records, positions, losses, acks, memory } = frame;
        if is_head {
            self.losses.clear();
        }
        self.losses.extend(losses);
        for record in &memory {
            self.fold.add(record);
        }
        for record in &records {
            self.fold.add(record);
            let stream = (record.boot_id.clone(), record.epoch);
            self.ends.entry(segment).or_default().insert(stream.clone(), record.seq);
            let before = Progress { last_seq: 0, done_seq: record.seq.saturating_sub(1) };
            self.streams.entry(stream).or_insert(before).last_seq = record.seq;
        }
        for v1::Ack { boot_id, epoch, seq } in acks {
            let progress = self.streams.entry((boot_id, epoch)).or_default();
            progress.done_seq = progress.done_seq.max(seq);
            progress.last_seq = progress.last_seq.max(seq);
        }
        self.positions.extend(positions.into_iter().map(|Position { probe, text }| (probe, text)));
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

    /// Only streams that still have records: the others will never be read again.
    fn acks(&self) -> Vec<v1::Ack> {
        let is_kept = |stream: &Stream| self.ends.values().any(|ends| ends.contains_key(stream));
        let streams = self.streams.iter().filter(|(stream, progress)| progress.done_seq > 0 && is_kept(stream));
        streams
            .map(|((boot_id, epoch), progress)| v1::Ack {
                boot_id: boot_id.clone(),
                epoch: *epoch,
                seq: progress.done_seq,
            })
            .collect()
    }

    /// Removes segments from the front of which all is acked; never the one that is written.
    fn drop_acked(&mut self) {
        while self.segments.len() > 1 {
            let Some(oldest) = self.segments.front() else { return };
            let ends = self.ends.get(&oldest.id);
            let is_acked = ends.is_none_or(|ends| {
                ends.iter()
                    .all(|(stream, seq)| self.streams.get(stream).is_some_and(|progress| progress.done_seq >= *seq))
            });
            if !is_acked {
                return;
            }
            self.remove_oldest();
        }
    }

    /// Removes unacked segments from the front while there is too much, and says what is lost before it is.
    fn drop_surplus(&mut self) {
        while self.segments.len() > 1 && self.is_too_much() {
            let Some(oldest) = self.segments.front() else { return };
            let losses = self.losses_of(oldest.id);
            let n_lost: u64 = losses.iter().map(|loss| loss.count).sum();
            error!(n_lost, "the spool is full, dropping its oldest records: central has not taken any for too long");
            self.status.n_lost += n_lost;
            for loss in &losses {
                if let Some(progress) = self.streams.get_mut(&(loss.boot_id.clone(), loss.epoch)) {
                    progress.done_seq = loss.last_seq;
                }
            }
            let mut bytes = Vec::new();
            if !losses.is_empty() {
                self.losses.extend(losses.iter().cloned());
                frame::encode(&Frame { losses, acks: self.acks(), ..Frame::default() }, &mut bytes);
            }
            if let Some(active) = self.segments.back_mut()
                && let Err(error) = active.commit(&bytes)
            {
                error!(%error, "cannot write down what the spool lost");
            }
            self.remove_oldest();
        }
    }

    /// The unacked records of a segment. Sequence numbers have no gaps, so each stream loses one range.
    fn losses_of(&self, id: u64) -> Vec<v1::Loss> {
        let ends = self.ends.get(&id).into_iter().flatten();
        ends.filter_map(|((boot_id, epoch), last_seq)| {
            let done_seq = self.streams.get(&(boot_id.clone(), *epoch)).map_or(0, |progress| progress.done_seq);
            (*last_seq > done_seq).then(|| v1::Loss {
                boot_id: boot_id.clone(),
                epoch: *epoch,
                first_seq: done_seq + 1,
                last_seq: *last_seq,
                count: last_seq - done_seq,
            })
        })
        .collect()
    }

    fn remove_oldest(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        self.ends.remove(&segment.id);
        let current = (self.boot_id.clone(), self.epoch);
        let ends = &self.ends;
        self.streams.retain(|stream, _| *stream == current || ends.values().any(|end| end.contains_key(stream)));
        let id = segment.id;
        if let Err(error) = segment.remove() {
            warn!(segment = id, %error, "cannot remove a spool segment");
        }
    }

    fn total_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// After the disk failed there are segments of both kinds.
    fn is_too_much(&self) -> bool {
        let bytes_of = |is_durable: bool| -> u64 {
            self.segments.iter().filter(|one| one.is_durable() == is_durable).map(|one| one.len).sum()
        };
        bytes_of(true) > self.limits.disk_bytes || bytes_of(false) > self.limits.memory_bytes
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
