//! `/proc/PID/mountinfo`, and the mount that holds a path.
#![no_main]

use std::path::{Component, Path};

use kulprit_host::mount::{DeviceNumber, mount_of, parse_mountinfo};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (mounts, errors) = parse_mountinfo(&text);
    assert!(mounts.len() + errors.len() <= text.lines().count(), "a line is a row, an error, or nothing");
    mount_of(&mounts, Path::new("/var/lib/libvirt/images/db.qcow2"));
    for point in mounts.iter().map(|mount| &mount.mount_point) {
        let can_be_asked = point.is_absolute() && point.components().all(|part| part != Component::ParentDir);
        assert_eq!(mount_of(&mounts, point).is_some(), can_be_asked, "{}", point.display());
    }
    let _ = DeviceNumber::parse(&text);
});
