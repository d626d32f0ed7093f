//! Images whose pull fails, as the probes that hear of it say: the reason to try a registry.
//!
//! Bounded: while it is full further images are left out, since one registry is most often behind them all.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use kulprit_judge::Verdict;
use kulprit_model::{FindingCode, attribute, said::operation};
use tokio::sync::Notify;

/// Most images that wait to be looked at.
const MAX_IMAGES: usize = 16;
/// Longest name of an image that is taken, bytes.
const MAX_NAME_BYTES: usize = 512;

/// See the module. Shared by the probes.
#[derive(Debug, Default)]
pub struct PullFailures {
    images: Mutex<BTreeSet<String>>,
    reported: Notify,
}

impl PullFailures {
    /// A pull of `image` has failed, or waits. Costs nothing when it was said before.
    pub fn report(&self, image: &str) {
        if image.is_empty() || image.len() > MAX_NAME_BYTES {
            return;
        }
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if images.len() < MAX_IMAGES && images.insert(image.to_owned()) {
            drop(images);
            self.reported.notify_one();
        }
    }

    /// Takes note of the pulls among what a look heard: error texts of the runtime and the kubelet that name an image.
    pub(in crate::probes) fn hear(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            if let Verdict::Occurrence(said) = verdict
                && said.code == FindingCode::ErrorSaid
                && said.attributes.get(attribute::OPERATION) == Some(operation::PULL)
                && let Some(image) = said.attributes.get(attribute::IMAGE)
            {
                self.report(image);
            }
        }
    }

    /// Those reported since the last call, sorted.
    pub(super) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.images.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when one was reported. Cancel-safe.
    pub(super) async fn reported(&self) {
        self.reported.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use kulprit_judge::OccurrenceVerdict;
    use kulprit_model::{Attributes, Moment, Subject};

    use super::*;

    #[test]
    fn only_a_text_about_a_pull_that_names_its_image_is_heard() {
        let said = |facts: &[(&str, &str)]| {
            Verdict::Occurrence(OccurrenceVerdict {
                code: FindingCode::ErrorSaid,
                subject: Subject::Node,
                at: Moment::default(),
                count: 1,
                attributes: facts.iter().copied().collect::<Attributes>(),
                evidence: Vec::new(),
            })
        };
        let failures = PullFailures::default();
        failures.hear(&[
            said(&[(attribute::OPERATION, operation::PULL), (attribute::IMAGE, "a/b:1")]),
            said(&[(attribute::OPERATION, operation::UNPACK), (attribute::IMAGE, "a/b:2")]),
            said(&[(attribute::OPERATION, operation::PULL)]),
        ]);
        assert_eq!(failures.take().into_iter().collect::<Vec<_>>(), ["a/b:1"]);
    }

    #[tokio::test]
    async fn images_are_told_once_and_their_number_is_bounded() {
        let failures = PullFailures::default();
        failures.report("a/b:1");
        failures.report("a/b:1");
        failures.report("");
        failures.report(&"x".repeat(MAX_NAME_BYTES + 1));
        failures.reported().await;
        assert_eq!(failures.take().into_iter().collect::<Vec<_>>(), ["a/b:1"]);
        assert!(failures.take().is_empty());
        (0..100).for_each(|n| failures.report(&format!("a/b:{n}")));
        assert_eq!(failures.take().len(), MAX_IMAGES);
    }
}
