//! `/proc/diskstats` and a disk's `inflight`.
#![no_main]

use kulprit_host::block::{parse_diskstats, parse_inflight};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (disks, errors) = parse_diskstats(&text);
    assert!(disks.len() + errors.len() <= text.lines().count(), "a line is a row, an error, or nothing");
    parse_inflight(&text);
});
