//! Files of systemd's journal: a disk may give anything, and journald writes while we read.
#![no_main]

use kulprit_host::journal::{parse_journal, parse_journal_position};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let units = ["kubelet.service".to_owned(), "containerd.service".to_owned()];
    let _ = parse_journal(data, &units, |entry| {
        assert!(entry.message.len() <= 64 * 1024, "a message is cut");
        assert!(entry.priority.is_none_or(|priority| priority < 8));
    });
    if let Some(position) = parse_journal_position(&String::from_utf8_lossy(data)) {
        assert_eq!(parse_journal_position(&position.to_string()), Some(position));
    }
});
