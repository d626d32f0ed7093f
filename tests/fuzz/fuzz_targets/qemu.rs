//! QEMU's command line, pidfiles, `/proc/PID/fdinfo` and `/proc/PID/net/dev`: a domain's owner names disks and aliases.
#![no_main]

use kulprit_host::launcher::{parse_net_dev, parse_tun_fdinfo};
use kulprit_host::qemu::{parse_command_line, parse_fdinfo, parse_pid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // One argument a line, which a fuzzer finds sooner than NUL.
    let args: Vec<String> = text.lines().map(str::to_owned).collect();
    parse_command_line(&args);
    let _ = parse_pid(&text);
    parse_fdinfo(&text);
    parse_tun_fdinfo(&text);
    let _ = parse_net_dev(&text);
});
