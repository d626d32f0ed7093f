//! Subject keys and finding codes: what reads back is what was written.
#![no_main]

use kulprit_model::{FindingCode, Subject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(subject) = text.parse::<Subject>() {
        assert_eq!(subject.to_string().parse(), Ok(subject));
    }
    if let Ok(code) = text.parse::<FindingCode>() {
        assert_eq!(code.as_str(), text);
    }
});
