//! What the kernel remembers of NFS, Ceph and DRBD, and multipathd of its maps.
#![no_main]

use kulprit_host::volume::{
    parse_ceph_requests, parse_ceph_status, parse_drbd_frozen, parse_drbd_line, parse_mountstats, parse_multipath_maps,
    parse_proc_drbd,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (mounts, errors) = parse_mountstats(&text);
    assert!(
        mounts.len() + errors.len() <= text.lines().count(),
        "a line is a mount, an error, or something of a mount"
    );
    let pending = parse_ceph_requests(&text);
    assert_eq!(pending.n > 0, pending.oldest.is_some());
    parse_ceph_status(&text);
    let _ = parse_multipath_maps(&text);
    parse_drbd_frozen(&text);
    parse_drbd_line(&text);
    assert!(parse_proc_drbd(&text).len() <= text.lines().count());
});
