//! What one log said: equal statements are one, with the first and the last line of it.
//!
//! A day of a kubelet's journal repeats one error ten thousand times, a broken disk's kernel log one line a million times.
//! Statements are equal when all their attributes are, the object included; when a log names very many objects, further ones
//! are counted without theirs, and what all logs of a case keep together has a bound too, so that memory stays bounded.

use std::collections::BTreeMap;

use kulprit_judge::OccurrenceVerdict;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

/// Different statements of one log.
const MAX_OF_LOG: usize = 5_000;
/// Different statements of all logs together: with two lines of evidence each about 60 MB.
pub(super) const MAX_OF_CASE: usize = 40_000;
/// One log may take such a part of what is left, so that a talkative one leaves room for the others.
const SHARE: usize = 4;
/// What stays of a statement beyond that.
const ESSENTIAL: [&str; 6] = [
    attribute::ACTOR,
    attribute::OPERATION,
    attribute::CLASS,
    attribute::SIGNATURE,
    attribute::UNDATED,
    attribute::IO_ERROR,
];

/// What was said so far.
#[derive(Debug)]
pub(super) struct Said {
    statements: BTreeMap<(FindingCode, Subject, Attributes), Seen>,
    max: usize,
}

#[derive(Debug)]
struct Seen {
    first: (Moment, Vec<Evidence>),
    last: Option<(Moment, Vec<Evidence>)>,
    count: u64,
}

impl Said {
    /// `n_left` statements may still be kept of the case.
    pub(super) fn new(n_left: usize) -> Self {
        Self { statements: BTreeMap::new(), max: MAX_OF_LOG.min(n_left / SHARE) }
    }

    /// How many different statements there are.
    pub(super) fn len(&self) -> usize {
        self.statements.len()
    }

    pub(super) fn add(&mut self, verdict: OccurrenceVerdict) {
        let OccurrenceVerdict { code, subject, at, count, attributes, evidence } = verdict;
        let mut key = (code, subject, attributes);
        if self.statements.len() >= self.max && !self.statements.contains_key(&key) {
            key = (code, Subject::Node, key.2.iter().filter(|(key, _)| ESSENTIAL.contains(key)).collect());
        }
        match self.statements.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Seen { first: (at, evidence), last: None, count });
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let seen = entry.get_mut();
                seen.count = seen.count.saturating_add(count);
                // Rotated and merged files are not always in order.
                if at < seen.first.0 {
                    let earlier = std::mem::replace(&mut seen.first, (at, evidence));
                    seen.last.get_or_insert(earlier);
                } else if seen.last.as_ref().is_none_or(|(last, _)| at >= *last) {
                    seen.last = Some((at, evidence));
                }
            }
        }
    }

    /// An occurrence for the first time, and one that holds the last time of what came again.
    pub(super) fn into_verdicts(
        self,
        place: impl Fn(Attributes) -> Attributes,
    ) -> impl Iterator<Item = OccurrenceVerdict> {
        self.statements
            .into_iter()
            .flat_map(move |((code, subject, attributes), seen)| {
                // What the kernel says is placed by what it says alone.
                let attributes = if code == FindingCode::ErrorSaid { place(attributes) } else { attributes };
                let verdict = |(at, evidence), count| OccurrenceVerdict {
                    code,
                    subject: subject.clone(),
                    at,
                    count,
                    attributes: attributes.clone(),
                    evidence,
                };
                match seen.last {
                    None => [Some(verdict(seen.first, seen.count)), None],
                    Some(last) => {
                        let again = seen.count.saturating_sub(1).max(1);
                        [Some(verdict(seen.first, 1)), Some(verdict(last, again))]
                    }
                }
            })
            .flatten()
    }
}
