//! Error texts of anybody: peeled by whoever speaks, with and without a reason beside them.
#![no_main]

use std::sync::LazyLock;

use kulprit_model::attribute;
use kulprit_signature::{Peeled, Signatures, Speaker, Text};
use libfuzzer_sys::fuzz_target;

static SIGNATURES: LazyLock<Signatures> = LazyLock::new(Signatures::new);

const SPEAKERS: [(Speaker, Option<&str>); 5] = [
    (Speaker::Kubelet, None),
    (Speaker::Launcher, None),
    (Speaker::Csi, None),
    (Speaker::Kubelet, Some("FailedMount")),
    (Speaker::Other, Some("FailedScheduling")),
];

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for (speaker, reason) in SPEAKERS {
        if let Peeled::Said(attributes) = SIGNATURES.peel(&Text { speaker, reason, text: &text }) {
            for key in [attribute::ACTOR, attribute::OPERATION, attribute::CLASS] {
                assert!(attributes.get(key).is_some(), "what was said has {key}");
            }
            assert!(reason.is_some() || SIGNATURES.is_candidate(data) || text.as_bytes() != data, "logs would miss it");
        }
    }
});
