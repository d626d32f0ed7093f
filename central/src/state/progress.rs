//! How far each (boot, epoch) of a node has come: what was taken in, what is durable.
//!
//! Records of one (boot id, epoch) come in order, so one number each says what was already counted: that is the whole
//! deduplication. An agent sends its spool in order, so a hole is a loss and never a delay.

use std::collections::BTreeMap;

/// Epochs kept of one node. An agent replays what was not acked before its restarts; it does not come back to older ones.
const N_EPOCHS: usize = 64;

/// One agent's start on one boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Boot id.
    pub boot_id: String,
    /// The agent's start counter.
    pub epoch: u64,
}

/// The highest sequence numbers of one [`Epoch`]; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    received: u64,
    queued: u64,
    durable: u64,
    order: u64,
}

/// All epochs of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    epochs: BTreeMap<Epoch, Marks>,
    n_seen: u64,
    /// Those that were let go of, until the store is told.
    gone: Vec<Epoch>,
}

/// What became of a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Not seen before. `n_missing` numbers between it and the last one were never sent.
    New {
        /// How many; 0 if it follows on the last.
        n_missing: u64,
    },
    /// Counted already.
    Duplicate,
}

impl Progress {
    /// As the store has it after a start: everything in it is durable.
    pub fn restore(&mut self, epoch: Epoch, seq: u64) {
        let order = self.next_order();
        self.epochs.insert(epoch, Marks { received: seq, queued: seq, durable: seq, order });
    }

    /// Takes in a sequence number.
    pub fn receive(&mut self, epoch: &Epoch, seq: u64) -> Receipt {
        let marks = self.marks(epoch);
        if seq <= marks.received {
            return Receipt::Duplicate;
        }
        let n_missing = seq - marks.received - 1;
        marks.received = seq;
        Receipt::New { n_missing }
    }

    /// Everything up to `seq` was handed to the store.
    pub fn queued(&mut self, epoch: &Epoch, seq: u64) {
        let marks = self.marks(epoch);
        marks.queued = marks.queued.max(seq);
    }

    /// Everything up to `seq` is on disk.
    pub fn durable(&mut self, epoch: &Epoch, seq: u64) {
        let marks = self.marks(epoch);
        marks.durable = marks.durable.max(seq);
    }

    /// A new stream begins: what was taken in but never handed to the store is sent again.
    pub fn begin_stream(&mut self) {
        for marks in self.epochs.values_mut() {
            marks.received = marks.queued;
        }
    }

    /// The epochs that were let go of since this was asked last, for the store to forget.
    pub fn take_gone(&mut self) -> Vec<Epoch> {
        std::mem::take(&mut self.gone)
    }

    /// What may be acked, by epoch; epochs with nothing durable are left out.
    pub fn durable_marks(&self) -> impl Iterator<Item = (&Epoch, u64)> {
        self.epochs.iter().filter(|(_, marks)| marks.durable > 0).map(|(epoch, marks)| (epoch, marks.durable))
    }

    fn marks(&mut self, epoch: &Epoch) -> &mut Marks {
        if !self.epochs.contains_key(epoch) {
            if self.epochs.len() >= N_EPOCHS {
                let oldest = self.epochs.iter().min_by_key(|(_, marks)| marks.order).map(|(epoch, _)| epoch.clone());
                if let Some(oldest) = oldest {
                    self.epochs.remove(&oldest);
                    self.gone.push(oldest);
                }
            }
            let order = self.next_order();
            self.epochs.insert(epoch.clone(), Marks { order, ..Marks::default() });
        }
        self.epochs.get_mut(epoch).expect("it was inserted above if it was missing")
    }

    const fn next_order(&mut self) -> u64 {
        self.n_seen += 1;
        self.n_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u64) -> Epoch {
        Epoch { boot_id: "b".to_owned(), epoch }
    }

    #[test]
    fn a_number_counts_once_and_a_hole_is_told() {
        let mut progress = Progress::default();
        assert_eq!(progress.receive(&epoch(1), 1), Receipt::New { n_missing: 0 });
        assert_eq!(progress.receive(&epoch(1), 1), Receipt::Duplicate);
        assert_eq!(progress.receive(&epoch(1), 5), Receipt::New { n_missing: 3 });
        assert_eq!(progress.receive(&epoch(1), 4), Receipt::Duplicate);
        assert_eq!(progress.receive(&epoch(2), 1), Receipt::New { n_missing: 0 }, "another start of the agent");
    }

    #[test]
    fn what_never_reached_the_store_is_taken_again_on_the_next_stream() {
        let mut progress = Progress::default();
        for seq in 1..=3 {
            progress.receive(&epoch(1), seq);
        }
        progress.queued(&epoch(1), 2);
        progress.begin_stream();
        assert_eq!(progress.receive(&epoch(1), 2), Receipt::Duplicate);
        assert_eq!(progress.receive(&epoch(1), 3), Receipt::New { n_missing: 0 });
    }

    #[test]
    fn only_what_is_durable_may_be_acked() {
        let mut progress = Progress::default();
        progress.receive(&epoch(1), 1);
        progress.queued(&epoch(1), 1);
        assert_eq!(progress.durable_marks().count(), 0);
        progress.durable(&epoch(1), 1);
        assert_eq!(progress.durable_marks().collect::<Vec<_>>(), [(&epoch(1), 1)]);
    }

    #[test]
    fn ten_thousand_epochs_keep_the_newest() {
        let mut progress = Progress::default();
        for n in 1..=10_000 {
            progress.receive(&epoch(n), 7);
        }
        assert_eq!(progress.epochs.len(), N_EPOCHS);
        assert_eq!(progress.take_gone().len(), 10_000 - N_EPOCHS);
        assert_eq!(progress.receive(&epoch(10_000), 7), Receipt::Duplicate);
    }
}
