//! The newest record of each key, folded from the stream of records.
//!
//! Each new segment begins with it, so that the tracker of the next start finds what was said last even when all older segments
//! are acked and gone. Kept encoded: a thousand states are some 300 KiB.

use std::collections::BTreeMap;

use kulprit_model::FindingCode;
use kulprit_proto::v1::{self, record::Body};
use prost::Message as _;

/// Occurrences older than this, by the newest record, are dropped, microseconds: longer than the tracker remembers.
const REMEMBER_USEC: i64 = 7_200_000_000;
/// The number of occurrences at which the old ones are looked for.
const N_OCCURRENCES: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Fold {
    states: BTreeMap<(String, String), Vec<u8>>,
    occurrences: BTreeMap<(String, String), (i64, Vec<u8>)>,
    domains: BTreeMap<String, Vec<u8>>,
    qemus: BTreeMap<String, Vec<u8>>,
}

impl Fold {
    /// One record more, in order.
    pub(super) fn add(&mut self, record: &v1::Record) {
        let bytes = || record.encode_to_vec();
        match &record.body {
            Some(Body::State(state)) => {
                self.states.insert((state.subject.clone(), state.code.clone()), bytes());
            }
            Some(Body::Occurrence(occurrence)) => {
                let last_usec = occurrence.last.map_or(0, |last| last.boottime_usec);
                // A node's logs say many things of it: texts are told apart by what they say, as the tracker does.
                let mut what = occurrence.code.clone();
                if what == FindingCode::ErrorSaid.as_str() {
                    occurrence.attributes.iter().for_each(|fact| what.extend(["\n", &fact.key, "=", &fact.value]));
                }
                let key = (occurrence.subject.clone(), what);
                self.occurrences.insert(key, (last_usec, bytes()));
                if self.occurrences.len() >= N_OCCURRENCES {
                    self.forget(last_usec);
                }
            }
            Some(Body::Domain(domain)) => {
                self.domains.insert(domain.uid.clone(), bytes());
            }
            Some(Body::Qemu(qemu)) => {
                self.qemus.insert(format!("process/{}@{}", qemu.pid, qemu.start_ticks), bytes());
            }
            Some(Body::SubjectGone(gone)) => {
                self.states.retain(|(subject, _), _| *subject != gone.subject);
                self.qemus.remove(&gone.subject);
                if let Some(uid) = gone.subject.strip_prefix("vm/") {
                    self.domains.remove(uid);
                }
            }
            None => {}
        }
    }

    /// All of it.
    pub(super) fn records(&self) -> Vec<v1::Record> {
        let occurrences = self.occurrences.values().map(|(_, bytes)| bytes);
        let all = self.states.values().chain(occurrences).chain(self.domains.values()).chain(self.qemus.values());
        all.filter_map(|bytes| v1::Record::decode(bytes.as_slice()).ok()).collect()
    }

    /// The oldest go when there are too many, however young.
    fn forget(&mut self, now_usec: i64) {
        self.occurrences.retain(|_, (last_usec, _)| now_usec.saturating_sub(*last_usec) <= REMEMBER_USEC);
        if self.occurrences.len() >= N_OCCURRENCES {
            let mut ages: Vec<i64> = self.occurrences.values().map(|(last_usec, _)| *last_usec).collect();
            ages.sort_unstable();
            let median = ages[ages.len() / 2];
            self.occurrences.retain(|_, (last_usec, _)| *last_usec > median);
        }
    }
}
