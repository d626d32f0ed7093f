//! Disks that answer with errors, and disks that are full.

use kulprit_model::{
    Attributes, FindingCode, Subject,
    attribute::{IO_ERROR, IO_NO_SPACE, IO_OTHER},
};

use super::*;

#[test]
fn an_io_error_pause_is_a_disk_error() {
    let answer = paused(Some(IO_OTHER)).why();
    check(&answer, &["DiskIoError"]);
    assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "VolumeOutOfSpace"), "{:?}", answer.ruled_out);
}

#[test]
fn an_enospc_pause_is_out_of_space() {
    let answer = paused(Some(IO_NO_SPACE)).why();
    check(&answer, &["VolumeOutOfSpace"]);
    assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "DiskIoError"), "{:?}", answer.ruled_out);
}

#[test]
fn an_error_pause_of_unknown_kind_is_not_decided_without_the_kernel_log() {
    let answer = paused(None).why();
    assert_ne!(answer.confidence, Confidence::Verdict, "{}", table(&answer));
    let logged = paused(None).happened(
        FindingCode::BlockIoError,
        Subject::Device { name: "loop3".to_owned() },
        62,
        Attributes::new(),
    );
    check(&logged.why(), &["DiskIoError"]);
}

#[test]
fn an_io_error_of_a_device_counts_by_whose_disk_it_is() {
    let with = |name: &str, secs| {
        let device = Subject::Device { name: name.to_owned() };
        let answer = paused(None).happened(FindingCode::BlockIoError, device, secs, Attributes::new()).why();
        answer.causes.iter().find(|cause| cause.id == "DiskIoError").expect("a candidate").score_db
    };
    let nothing = paused(None).why();
    let nothing = nothing.causes.iter().find(|cause| cause.id == "DiskIoError").expect("a candidate").score_db;
    assert!((with("loop3", 62) - nothing - 20.0).abs() < 1e-9, "its own disk");
    assert!((with("loop4", 62) - nothing).abs() < 1e-9, "another VM's disk");
    assert!((with("sdx", 62) - nothing - 4.2).abs() < 1e-9, "a disk of the node");
    assert!(with("loop3", 4_000) - nothing < 4.2, "before this QEMU ran, the name was another disk's");
}

#[test]
fn vms_on_one_device_share_the_incident_of_its_errors() {
    let place = Place::Device { node: "n1".to_owned(), device: "7:3".to_owned() };
    for (io_error, cause) in [(IO_OTHER, "DiskIoError"), (IO_NO_SPACE, "VolumeOutOfSpace")] {
        assert_eq!(incident_key(&paused(Some(io_error)).why()), Some((cause, place.clone())));
    }
    let mut two_devices = paused(Some(IO_OTHER));
    let qemu = two_devices.vm().qemu.as_mut().expect("it runs");
    let second = kulprit_model::Disk { device: Some("8:0".to_owned()), ..qemu.disks[0].clone() };
    qemu.disks.push(second);
    let vm = Place::Vm { node: "n1".to_owned(), uid: UID.to_owned() };
    assert_eq!(incident_key(&two_devices.why()).map(|key| key.1), Some(vm));
}

#[test]
fn a_full_thin_pool_is_no_io_error() {
    let device = Subject::Device { name: "loop3".to_owned() };
    let attributes = Attributes::new().with(IO_ERROR, IO_NO_SPACE);
    check(&paused(None).happened(FindingCode::BlockIoError, device, 62, attributes).why(), &["VolumeOutOfSpace"]);
}

#[test]
fn an_io_error_of_the_disk_under_a_partition_is_the_vms_own() {
    let mut world = paused(None);
    let qemu = world.vm().qemu.as_mut().expect("it runs");
    qemu.disks[0].device_name = Some("sdb2".to_owned());
    let world =
        world.happened(FindingCode::BlockIoError, Subject::Device { name: "sdb".to_owned() }, 62, Attributes::new());
    check(&world.why(), &["DiskIoError"]);
}

#[test]
fn errors_that_were_over_before_a_stall_began_are_not_its_work() {
    let with_errors = |secs| {
        let device = || Subject::Device { name: "loop3".to_owned() };
        let mut world = frozen_disk(60)
            .happened(FindingCode::BlockIoError, device(), secs, Attributes::new())
            .happened(FindingCode::FilesystemError, device(), secs, Attributes::new());
        // It is younger than any of the errors: the name was another disk's then.
        world.vm().qemu.as_mut().expect("it runs").since = ago(65);
        world.why()
    };
    check(&with_errors(100), &["LocalDiskStalled", "QemuBlockedInKernel"]);
    check(&with_errors(70), &["LocalDiskStalled", "QemuBlockedInKernel", "DiskIoError"]);
}
