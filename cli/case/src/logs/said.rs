//! What one log said of failures: equal texts are one, with the first and the last line of it.
//!
//! A day of a kubelet's journal repeats one error ten thousand times. Errors are equal when all their attributes are, the
//! object included; when a log names very many objects, further ones are counted without theirs, so that memory stays bounded.

use std::collections::BTreeMap;

use kulprit_judge::OccurrenceVerdict;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

/// Different errors of one log.
const MAX_ERRORS: usize = 5_000;
/// What stays of an error beyond that.
const ESSENTIAL: [&str; 5] =
    [attribute::ACTOR, attribute::OPERATION, attribute::CLASS, attribute::SIGNATURE, attribute::UNDATED];

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    errors: BTreeMap<Attributes, Seen>,
}

#[derive(Debug)]
struct Seen {
    first: (Moment, Evidence),
    last: Option<(Moment, Evidence)>,
    count: u64,
}

impl Said {
    pub(super) fn add(&mut self, attributes: Attributes, at: Moment, line: Evidence) {
        let key = if self.errors.len() >= MAX_ERRORS && !self.errors.contains_key(&attributes) {
            attributes.iter().filter(|(key, _)| ESSENTIAL.contains(key)).collect()
        } else {
            attributes
        };
        match self.errors.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Seen { first: (at, line), last: None, count: 1 });
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let seen = entry.get_mut();
                seen.count = seen.count.saturating_add(1);
                // Rotated and merged files are not always in order.
                if at < seen.first.0 {
                    let earlier = std::mem::replace(&mut seen.first, (at, line));
                    seen.last.get_or_insert(earlier);
                } else if seen.last.as_ref().is_none_or(|(last, _)| at >= *last) {
                    seen.last = Some((at, line));
                }
            }
        }
    }

    /// An occurrence for the first time, and one that holds the last time of what came again.
    pub(super) fn into_verdicts(
        self,
        place: impl Fn(Attributes) -> Attributes,
    ) -> impl Iterator<Item = OccurrenceVerdict> {
        self.errors
            .into_iter()
            .flat_map(move |(attributes, seen)| {
                let attributes = place(attributes);
                let verdict = |(at, line): (Moment, Evidence), count| OccurrenceVerdict {
                    code: FindingCode::ErrorSaid,
                    subject: Subject::Node,
                    at,
                    count,
                    attributes: attributes.clone(),
                    evidence: vec![line],
                };
                let again = seen.count - 1;
                [Some(verdict(seen.first, 1)), seen.last.map(|last| verdict(last, again.max(1)))]
            })
            .flatten()
    }
}
