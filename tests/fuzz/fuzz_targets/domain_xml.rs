//! A domain's XML, of which the worker takes the disks: in KubeVirt it comes out of a pod that may have been broken into.
#![no_main]

// The worker is a program and links libvirt; these files of it are taken as they are, without both.
#[allow(dead_code, reason = "the worker uses all of it")]
#[path = "../../../agent/libvirt/src/disks.rs"]
mod disks;
#[allow(dead_code, reason = "the worker uses all of it")]
#[path = "../../../agent/libvirt/src/text.rs"]
mod text;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let cleaned = text::clean(data, 64);
    assert!(cleaned.len() <= 64 && !cleaned.contains('\0'));
    let Ok(disks) = disks::parse_disks(&String::from_utf8_lossy(data)) else { return };
    for disk in disks {
        assert!(disk.source.is_none_or(|source| source.len() <= text::MAX_NAME));
    }
});
