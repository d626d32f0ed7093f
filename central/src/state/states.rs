//! The states of one node, by (code, subject), as they were said.
//!
//! A node has hundreds, a cluster a million, and hardly ever a new one: a sorted list of boxes takes less than half of what a map takes,
//! whose keys would be in it twice.

use std::sync::Arc;

use kulprit_model::{FindingCode, Moment, Stamp, State, Subject};

use super::{Epoch, Forgotten, Limits};

/// A state, who said it, and why nobody can vouch for it any more, if so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldState {
    pub(super) state: Box<State>,
    pub(super) said: Said,
    pub(super) forgotten: Option<Box<Forgotten>>,
    /// Of the encoded record that said it.
    pub(super) n_bytes: u32,
}

/// The stamp of the record that said it; what is said by one start of an agent shares its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    by: Arc<Epoch>,
    seq: u64,
    pub(super) at: Moment,
}

impl Said {
    /// `known` stands in for an equal epoch.
    pub(super) fn new(stamp: Stamp, known: &Arc<Epoch>) -> Self {
        let Stamp { boot_id, epoch, seq, at } = stamp;
        let by = Epoch { boot_id, epoch };
        Self { by: if by == **known { Arc::clone(known) } else { Arc::new(by) }, seq, at }
    }

    /// Whether that is the record of this stamp.
    pub(super) fn is(&self, stamp: &Stamp) -> bool {
        let Stamp { boot_id, epoch, seq, at } = stamp;
        (&self.by.boot_id, self.by.epoch, self.seq, self.at) == (boot_id, *epoch, *seq, *at)
    }
}

/// Sorted by (code, subject), each once.
#[derive(Clone, Debug, Default)]
pub(super) struct States {
    held: Vec<HeldState>,
    n_bytes: usize,
}

impl States {
    fn position(&self, code: FindingCode, subject: &Subject) -> Result<usize, usize> {
        self.held.binary_search_by(|held| (held.state.code, &held.state.subject).cmp(&(code, subject)))
    }

    pub(super) fn get_mut(&mut self, code: FindingCode, subject: &Subject) -> Option<&mut HeldState> {
        let index = self.position(code, subject).ok()?;
        self.held.get_mut(index)
    }

    /// Takes in a state in place of what was held of the same.
    pub(super) fn insert(&mut self, held: HeldState) {
        match self.position(held.state.code, &held.state.subject) {
            Ok(index) => {
                self.n_bytes -= size(&self.held[index]);
                self.n_bytes += size(&held);
                self.held[index] = held;
            }
            Err(index) => {
                self.n_bytes += size(&held);
                self.held.insert(index, held);
            }
        }
    }

    /// Whether a state of that size can be taken in.
    pub(super) fn has_room(&self, code: FindingCode, subject: &Subject, n_bytes: usize, limits: &Limits) -> bool {
        let known = self.position(code, subject).ok().map(|index| size(&self.held[index]));
        (known.is_some() || self.held.len() < limits.n_states)
            && self.n_bytes - known.unwrap_or(0) + n_bytes <= limits.states_bytes
    }

    pub(super) fn retain(&mut self, is_kept: impl FnMut(&HeldState) -> bool) {
        self.held.retain(is_kept);
        self.n_bytes = self.held.iter().map(size).sum();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldState> {
        self.held.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut HeldState> {
        self.held.iter_mut()
    }
}

fn size(held: &HeldState) -> usize {
    usize::try_from(held.n_bytes).unwrap_or(usize::MAX)
}
