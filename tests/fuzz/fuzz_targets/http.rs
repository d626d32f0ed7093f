//! The answer of a kubelet's `/healthz`: whatever listens on that port may answer anything.
#![no_main]

use kulprit_host::http::parse_http_answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = parse_http_answer(data);
});
