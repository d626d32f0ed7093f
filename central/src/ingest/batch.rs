//! What each message of a stream does to its node: the rules of delivery.
//!
//! Pure but for counters: messages and the time come in, a [`RecordsWrite`] for the store comes out. Every record counts
//! once, by its sequence number, and goes into the history; it acts if it is news. What cannot be understood is skipped,
//! counted and acked, so that a newer or broken agent does not block its own spool.

use std::{collections::BTreeMap, sync::Arc};

use kulprit_model::{Body, FindingCode, Moment, Record, Status};
use kulprit_proto::v1::{self, agent_message::Message};
use prost::Message as _;
use tracing::{error, info, warn};

use super::{
    count_message, count_record,
    hello::{MAX_COUNT, MAX_NAME_BYTES},
};
use crate::{
    live::Touched,
    metrics::CentralMetrics,
    state::{Arrived, Epoch, Limits, NodeState, Receipt},
    store::{HistoryRow, RecordsWrite},
};

/// Largest record that is taken, bytes. With 16 lines of evidence one is below 20 KiB.
const MAX_RECORD_BYTES: usize = 24 * 1024;
/// What one message may add to the counters of lost and missing records: more than any spool holds.
const MAX_LOST: u64 = 1 << 24;

/// What of a stream is remembered between batches: each kind of trouble is said once.
#[derive(Clone, Debug, Default)]
pub struct StreamMemory {
    is_skipping_said: bool,
    is_missing_said: bool,
    is_loss_said: bool,
    is_excess_said: bool,
}

/// What a message takes of its node's share: 1, and 1 more for each KiB.
#[must_use]
pub fn cost(message: &v1::AgentMessage) -> u64 {
    1 + u64::try_from(message.encoded_len() / 1024).unwrap_or(u64::MAX)
}

/// Takes in `messages` of the node in their order; adds to `write` what the store has to keep.
pub fn take_in(
    node: &mut NodeState,
    messages: Vec<v1::AgentMessage>,
    now: Moment,
    limits: &Limits,
    metrics: &CentralMetrics,
    memory: &mut StreamMemory,
    write: &mut RecordsWrite,
) -> Touched {
    let mut batch =
        Batch { node, now, limits, metrics, memory, write, watermarks: BTreeMap::new(), touched: Touched::default() };
    for message in messages {
        batch.message(message);
    }
    if batch.node.heard(now) {
        batch.touched = Touched { is_shown_otherwise: true, is_node_row_old: true };
        info!(node = %batch.write.stream.node, "the node is heard again");
    }
    let (touched, watermarks) = (batch.touched, batch.watermarks);
    write.gone = node.progress.take_gone();
    write.gone.retain(|epoch| !watermarks.contains_key(epoch));
    write.watermarks.extend(watermarks);
    touched
}

struct Batch<'a> {
    node: &'a mut NodeState,
    now: Moment,
    limits: &'a Limits,
    metrics: &'a CentralMetrics,
    memory: &'a mut StreamMemory,
    write: &'a mut RecordsWrite,
    watermarks: BTreeMap<Epoch, u64>,
    touched: Touched,
}

impl Batch<'_> {
    fn message(&mut self, message: v1::AgentMessage) {
        match message.message {
            Some(Message::Record(record)) => {
                count_message(self.metrics, "record");
                self.record(record);
            }
            Some(Message::Heartbeat(v1::Heartbeat { sent, n_spooled: _ })) => {
                count_message(self.metrics, "heartbeat");
                if let Some(sent) = sent
                    && self.node.note_clock(sent.into(), self.now)
                {
                    self.touched = Touched { is_shown_otherwise: true, is_node_row_old: true };
                }
            }
            Some(Message::SnapshotBegin(v1::SnapshotBegin {})) => {
                count_message(self.metrics, "snapshot");
                self.node.begin_snapshot();
            }
            Some(Message::SnapshotEnd(v1::SnapshotEnd { seq })) => {
                self.write.changes.extend(self.node.end_snapshot(seq, self.now));
                self.touched.is_shown_otherwise = true;
            }
            Some(Message::Loss(loss)) => {
                count_message(self.metrics, "loss");
                self.loss(&loss);
            }
            // A second Hello changes nothing: another agent would have opened another stream. Captures went to the store before.
            Some(Message::Hello(_) | Message::CaptureResult(_)) | None => count_message(self.metrics, "unknown"),
        }
    }

    fn record(&mut self, wire: v1::Record) {
        if !is_epoch(&wire.boot_id, wire.epoch) || wire.seq == 0 || wire.seq > MAX_COUNT {
            // Without a stamp there is nothing to ack.
            self.skip("malformed", "record", "has no stamp: boot_id, epoch and seq are due");
            return;
        }
        let epoch = Epoch { boot_id: wire.boot_id.clone(), epoch: wire.epoch };
        let seq = wire.seq;
        if !self.is_new(&epoch, seq) {
            // It counts for nothing, and yet a snapshot that holds it names its key.
            if self.node.is_in_snapshot()
                && let Ok(record) = Record::try_from(wire)
            {
                self.node.repeat(Arrived::new(record), &mut self.write.changes);
            }
            return;
        }
        let bytes: Arc<[u8]> = wire.encode_to_vec().into();
        if bytes.len() > MAX_RECORD_BYTES {
            self.skip("malformed", "record", "is larger than 24 KiB");
            return;
        }
        let record = match Record::try_from(wire) {
            Ok(record) => record,
            Err(error) => {
                let outcome = if error.is_from_newer_sender() { "unknown" } else { "malformed" };
                self.skip(outcome, error.path(), &error.to_string());
                return;
            }
        };
        self.write.history.push(self.history_row(epoch, &record, Arc::clone(&bytes)));
        let n_changes = self.write.changes.len();
        let arrived = Arrived { record, bytes };
        if self.node.apply(arrived, self.limits, self.now, &mut self.write.changes) {
            count_record(self.metrics, "new");
        } else {
            count_record(self.metrics, "excess");
            if !std::mem::replace(&mut self.memory.is_excess_said, true) {
                let (node, limits) = (&self.write.stream.node, self.limits);
                warn!(%node, n_states = limits.n_states, n_domains = limits.n_domains,
                    "the node has as many states, domains or QEMUs as are kept of one; further ones do not act and are only counted");
            }
        }
        self.touched.is_shown_otherwise |= self.write.changes.len() > n_changes;
    }

    /// Counts a sequence number; false if it was counted before.
    fn is_new(&mut self, epoch: &Epoch, seq: u64) -> bool {
        match self.node.progress.receive(epoch, seq) {
            Receipt::Duplicate => {
                count_record(self.metrics, "duplicate");
                false
            }
            Receipt::New { n_missing } => {
                let n_missing = self.node.n_unaccounted(epoch, seq, n_missing);
                if n_missing > 0 {
                    self.metrics.missing_records.inc_by(n_missing.min(MAX_LOST));
                    if !std::mem::replace(&mut self.memory.is_missing_said, true) {
                        error!(node = %self.write.stream.node, n_missing, seq,
                            "records are missing, and the agent did not say why; further ones of this stream are only counted");
                    }
                }
                self.watermarks.insert(epoch.clone(), seq);
                true
            }
        }
    }

    fn loss(&mut self, loss: &v1::Loss) {
        let v1::Loss { boot_id, epoch, first_seq, last_seq, count } = loss;
        self.metrics.lost_records.inc_by((*count).min(MAX_LOST));
        if !std::mem::replace(&mut self.memory.is_loss_said, true) {
            error!(node = %self.write.stream.node, count, first_seq, last_seq,
                "the agent had to drop records; further losses of this stream are only counted");
        }
        if !is_epoch(boot_id, *epoch) || *last_seq == 0 || *last_seq > MAX_COUNT {
            return;
        }
        let epoch = Epoch { boot_id: boot_id.clone(), epoch: *epoch };
        if self.node.progress.receive(&epoch, *last_seq) == Receipt::Duplicate {
            return;
        }
        self.watermarks.insert(epoch.clone(), *last_seq);
        self.write.history.push(HistoryRow {
            epoch,
            seq: *last_seq,
            at_wall_usec: self.now.wall_usec,
            kind: "loss",
            code: "",
            subject: String::new(),
            is_absent: false,
            body: loss.encode_to_vec().into(),
        });
    }

    fn history_row(&self, epoch: Epoch, record: &Record, body: Arc<[u8]>) -> HistoryRow {
        let (kind, code, subject) = match &record.body {
            Body::State(state) => ("state", Some(state.code), state.subject.to_string()),
            Body::Occurrence(occurrence) => ("occurrence", Some(occurrence.code), occurrence.subject.to_string()),
            Body::Domain(domain) => ("domain", None, format!("vm/{}", domain.uid)),
            Body::Qemu(qemu) => ("qemu", None, format!("vm/{}", qemu.uid)),
            Body::SubjectGone { subject, .. } => ("gone", None, subject.to_string()),
        };
        HistoryRow {
            epoch,
            seq: record.stamp.seq,
            at_wall_usec: record.stamp.at.wall_usec.saturating_add(self.node.applied_offset_usec()),
            kind,
            code: code.map_or("", FindingCode::as_str),
            subject,
            is_absent: matches!(&record.body, Body::State(state) if state.status == Status::Absent),
            body,
        }
    }

    fn skip(&mut self, outcome: &'static str, path: &str, problem: &str) {
        count_record(self.metrics, outcome);
        if !std::mem::replace(&mut self.memory.is_skipping_said, true) {
            let node = &self.write.stream.node;
            warn!(%node, outcome, path, problem, "skipped a record; further ones of this stream are only counted");
        }
    }
}

fn is_epoch(boot_id: &str, epoch: u64) -> bool {
    (1..=MAX_NAME_BYTES).contains(&boot_id.len()) && (1..=MAX_COUNT).contains(&epoch)
}
