//! Occurrences: what happens again within a minute is one burst that counts; a text, within five.
//!
//! A burst keeps its `first` for ever, it is part of its key: a later record of it replaces the earlier one, so that a count
//! never doubles. Growth is sent at most once a second; the first time at once.

use kulprit_judge::OccurrenceVerdict;
use kulprit_model::{Evidence, FindingCode, Moment, Occurrence};

/// What follows within this time of the last belongs to the burst, microseconds.
pub(super) const BURST_USEC: i64 = 60_000_000;
/// The same for texts: what fails is tried again every few minutes.
const TEXT_BURST_USEC: i64 = 300_000_000;
/// Growth of one burst is sent at most this often, microseconds.
const GROWTH_EVERY_USEC: i64 = 1_000_000;
/// Pieces of evidence kept of a burst: the first, and the last ones.
const N_EVIDENCE: usize = 4;

/// The newest burst of one (code, subject).
#[derive(Clone, Debug)]
pub(super) struct Burst {
    pub(super) occurrence: Occurrence,
    pub(super) is_waiting: bool,
    sent_usec: i64,
}

impl Burst {
    pub(super) fn new(verdict: OccurrenceVerdict) -> Self {
        let OccurrenceVerdict { code, subject, at, count, attributes, mut evidence } = verdict;
        evidence.truncate(N_EVIDENCE);
        let occurrence = Occurrence { code, subject, first: at, last: at, count: count.max(1), attributes, evidence };
        Self { occurrence, is_waiting: true, sent_usec: i64::MIN }
    }

    /// Sent by an earlier run of the agent in this boot; may still grow.
    pub(super) const fn restored(occurrence: Occurrence) -> Self {
        Self { occurrence, is_waiting: false, sent_usec: i64::MIN }
    }

    /// Whether something that happened at `at` belongs to this burst.
    pub(super) fn takes(&self, at: Moment) -> bool {
        let burst_usec = if self.occurrence.code == FindingCode::ErrorSaid { TEXT_BURST_USEC } else { BURST_USEC };
        at.usec_since(self.occurrence.last) <= burst_usec && self.occurrence.first.usec_since(at) <= burst_usec
    }

    /// It happened again.
    pub(super) fn grow(&mut self, verdict: OccurrenceVerdict) {
        let OccurrenceVerdict { code: _, subject: _, at, count, attributes, evidence } = verdict;
        let occurrence = &mut self.occurrence;
        occurrence.count = occurrence.count.saturating_add(count.max(1));
        if at.usec_since(occurrence.last) >= 0 {
            occurrence.last = at;
            occurrence.attributes = attributes;
        }
        keep_first_and_last(&mut occurrence.evidence, evidence);
        self.is_waiting = true;
    }

    /// When it may be sent, boot time in microseconds. `None`: nothing new.
    pub(super) fn due_usec(&self) -> Option<i64> {
        self.is_waiting.then(|| self.sent_usec.saturating_add(GROWTH_EVERY_USEC))
    }

    pub(super) fn take(&mut self, now: Moment) -> Occurrence {
        self.is_waiting = false;
        self.sent_usec = now.boottime_usec;
        self.occurrence.clone()
    }
}

fn keep_first_and_last(kept: &mut Vec<Evidence>, new: Vec<Evidence>) {
    kept.extend(new);
    let n_surplus = kept.len().saturating_sub(N_EVIDENCE);
    if n_surplus > 0 {
        kept.drain(1..=n_surplus);
    }
}
