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

use super::{count_message, count_record, hello::MAX_COUNT};
use crate::{
    live::Touched,
    metrics::CentralMetrics,
    state::{Arrived, Epoch, Limits, NodeState, Receipt},
    store::{HistoryRow, RecordsWrite},
};

/// What of a stream is remembered between batches.
#[derive(Clone, Debug, Default)]
pub struct StreamMemory {
    /// Skipped records are named in the log once a stream.
    is_skipping_said: bool,
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
        if wire.epoch == 0 || wire.epoch > MAX_COUNT || wire.seq == 0 || wire.seq > MAX_COUNT || wire.boot_id.is_empty()
        {
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
        let record = match Record::try_from(wire) {
            Ok(record) => record,
            Err(error) => {
                let outcome = if error.is_from_newer_sender() { "unknown" } else { "malformed" };
                self.skip(outcome, error.path(), &error.to_string());
                return;
            }
        };
        self.write.history.push(self.history_row(epoch, &record, Arc::clone(&bytes)));
        count_record(self.metrics, "new");
        let n_changes = self.write.changes.len();
        self.node.apply(Arrived { record, bytes }, self.limits, self.now, &mut self.write.changes);
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
                    self.metrics.missing_records.inc_by(n_missing);
                    error!(node = %self.write.stream.node, n_missing, seq, "records are missing, and the agent did not say why");
                }
                self.watermarks.insert(epoch.clone(), seq);
                true
            }
        }
    }

    fn loss(&mut self, loss: &v1::Loss) {
        let v1::Loss { boot_id, epoch, first_seq, last_seq, count } = loss;
        self.metrics.lost_records.inc_by(*count);
        error!(node = %self.write.stream.node, count, first_seq, last_seq, "the agent had to drop records");
        if boot_id.is_empty() || *epoch == 0 || *epoch > MAX_COUNT || *last_seq == 0 || *last_seq > MAX_COUNT {
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
        if !self.memory.is_skipping_said {
            self.memory.is_skipping_said = true;
            let node = &self.write.stream.node;
            warn!(%node, outcome, path, problem, "skipped a record; further ones of this stream are only counted");
        }
    }
}
