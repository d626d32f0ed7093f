//! Logs of every form: whoever may write to a pod's output writes these lines.
#![no_main]

use kulprit_host::log::{Clock, LogReader, MAX_LINE_BYTES, parse_line, parse_stamp};
use libfuzzer_sys::fuzz_target;

const CLOCK: Clock = Clock { at_usec: 1_795_243_350_000_000, btime_usec: None };

fuzz_target!(|data: &[u8]| {
    let mut n_given = 0;
    let mut last_number = 0;
    let span = LogReader::new(CLOCK)
        .read(
            data,
            |_| Some(0),
            |line| {
                assert!(line.number > last_number, "lines come in order");
                assert!(line.raw.len() <= 3 * MAX_LINE_BYTES, "a line is cut");
                last_number = line.number;
                n_given += 1;
            },
        )
        .expect("a slice can be read");
    assert!(n_given <= span.n_lines);
    let text = String::from_utf8_lossy(data);
    let _ = parse_line(&text, CLOCK);
    let _ = parse_stamp(&text, CLOCK.at_usec);
});
