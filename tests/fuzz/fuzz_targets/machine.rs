//! What a machine says of itself: `/proc/cpuinfo`, `/proc/misc`, `/proc/interrupts`, `os-release`.
#![no_main]

use kulprit_host::hardware::{parse_machine_checks, parse_processor, parse_qemu_capabilities};
use kulprit_host::inventory::parse_os_pretty_name;
use kulprit_host::kvm::{parse_cpu_flags, parse_misc_has_kvm};
use kulprit_host::limits::parse_inotify_watches;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = parse_cpu_flags(&text);
    parse_misc_has_kvm(&text);
    parse_processor(&text);
    let _ = parse_machine_checks(&text);
    let _ = parse_qemu_capabilities(&text);
    assert!(parse_inotify_watches(&text) <= text.lines().count() as u64);
    if let Some(name) = parse_os_pretty_name(&text) {
        assert!(name.len() <= text.len());
    }
});
