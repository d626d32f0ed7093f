//! libvirt's file about a running domain, and the times of a thread: what the `migration` probe reads.
#![no_main]

use kulprit_host::migration::{parse_domain_status, parse_schedstat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Ok(status) = parse_domain_status(&text) {
        assert!(!status.name.is_empty() && !status.uuid.is_empty(), "a domain has a name");
    }
    let _ = parse_schedstat(&text);
});
