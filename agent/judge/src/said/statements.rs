//! What a log said: equal statements are one, with the first and the last line of it.
//!
//! A day of a kubelet's journal repeats one error ten thousand times, a broken disk's kernel log one line a million times.
//! Statements are equal when all their attributes are, the object included; when a log names very many objects, further ones
//! are counted without theirs, so that memory stays bounded.

use std::collections::BTreeMap;

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::OccurrenceVerdict;

/// What stays of a statement when there are too many.
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
pub struct Statements {
    statements: BTreeMap<(FindingCode, Subject, Attributes), Seen>,
    max: usize,
}

#[derive(Debug)]
struct Seen {
    first: (Moment, Vec<Evidence>),
    last: Option<(Moment, Vec<Evidence>)>,
    count: u64,
}

impl Statements {
    /// Keeps at most `max` different statements whole, and a few more without the names in them.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { statements: BTreeMap::new(), max }
    }

    /// How many different statements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Adds what a line says.
    pub fn add(&mut self, verdict: OccurrenceVerdict) {
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

    /// An occurrence for the first time, and one that holds the last time of what came again; `place` completes the
    /// attributes of texts.
    pub fn into_verdicts(self, place: impl Fn(Attributes) -> Attributes) -> impl Iterator<Item = OccurrenceVerdict> {
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
