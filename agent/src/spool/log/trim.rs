//! What goes from the front of the log: segments that central has, and, when there is too much, the oldest that it has not.
//!
//! Before unacked records go, a [`v1::Loss`] with the exact gap is written behind them, so that a crash in between loses no
//! word about the loss.

use kulprit_proto::v1;
use tracing::{error, warn};

use super::{Log, Stream};
use crate::spool::frame::{self, Frame};

impl Log {
    /// Removes segments from the front of which all is acked; never the one that is written.
    pub(super) fn drop_acked(&mut self) {
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
    pub(super) fn drop_surplus(&mut self) {
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

    /// Only streams that still have records: the others will never be read again.
    pub(super) fn acks(&self) -> Vec<v1::Ack> {
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

    /// After the disk failed there are segments of both kinds.
    fn is_too_much(&self) -> bool {
        let bytes_of = |is_durable: bool| -> u64 {
            self.segments.iter().filter(|one| one.is_durable() == is_durable).map(|one| one.len).sum()
        };
        bytes_of(true) > self.limits.disk_bytes || bytes_of(false) > self.limits.memory_bytes
    }
}
