//! `/proc/PID/{stat,status,stack,cmdline}`: a process may call itself anything, and brackets, line breaks and NUL are anything.
#![no_main]

use kulprit_host::process::{parse_apparmor, parse_cmdline, parse_kernel_stack, parse_stat, parse_status};
use kulprit_host::qemu::parse_command_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(stat) = parse_stat(data) {
        // A letter reads back as the state that it stands for.
        let state = kulprit_host::process::TaskState::from_letter(stat.state.letter());
        assert_eq!(state, stat.state);
    }
    let args = parse_cmdline(data);
    assert!(args.len() <= data.len());
    parse_command_line(&args);
    let text = String::from_utf8_lossy(data);
    let _ = parse_status(&text);
    let _ = parse_apparmor(&text);
    parse_kernel_stack(&text);
});
