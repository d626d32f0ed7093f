//! Storage and images: what must name each cause, and what looks alike and must not.

use kulprit_model::{Attributes, FindingCode::*, State, Status, Subject};

use super::{
    Seen::{Happened, Is, IsNot, Known, Own, Text},
    SymptomId::*,
    check_rows,
};
use crate::{Attribution, testing::*};

#[test]
fn backends_and_disks() {
    check_rows(&[
        (
            "StorageBackendUnreachable",
            StuckTerminating,
            &[Is(VmDiskStalled, &[("wait", "network_storage")]), Is(QemuThreadBlocked, &[])],
            &[Is(VmDiskStalled, &[("wait", "local_storage")]), Is(QemuThreadBlocked, &[])],
        ),
        (
            "StorageBackendUnreachable",
            StuckTerminating,
            &[Is(DeviceStalled, &[("what", "no-completion"), ("device", "7:3"), ("backend", "ceph")])],
            &[Is(DeviceStalled, &[("what", "no-completion"), ("device", "7:3")])],
        ),
        (
            "StorageBackendUnreachable",
            StuckTerminating,
            &[
                Is(DeviceStalled, &[("what", "no-completion"), ("device", "7:3"), ("backend", "iscsi")]),
                Is(VmDiskStalled, &[("wait", "local_storage"), ("wchan", "io_schedule")]),
            ],
            &[Is(VmDiskStalled, &[("wait", "local_storage"), ("wchan", "io_schedule")])],
        ),
        (
            "StorageBackendUnreachable",
            StuckStarting,
            &[Text("csi", "mount", "timeout")],
            &[Known("kubelet", "mount", "timeout", "volumes-wait-timeout")],
        ),
        (
            "StorageBackendUnreachable",
            PausedUnexpectedly,
            &[Happened(StorageConnectionLost, &[("backend", "iscsi")]), Text("qemu", "read-write", "io-error")],
            &[Text("qemu", "read-write", "io-error")],
        ),
        (
            "StorageBackendUnreachable",
            StuckStarting,
            &[Text("csi", "map", "unreachable")],
            &[Known("csi", "map", "unreachable", "iscsi-portal-unreachable")],
        ),
        (
            "StorageBackendUnreachable",
            StuckStopping,
            &[Is(BackendUnreachable, &[("backend", "nfs")])],
            &[IsNot(BackendUnreachable), Text("handler", "shutdown-domain", "timeout")],
        ),
        (
            "DiskIoError",
            PausedUnexpectedly,
            &[Text("qemu", "read-write", "io-error")],
            &[Text("qemu", "read-write", "no-space")],
        ),
        ("DiskIoError", PausedUnexpectedly, &[Is(VmFilesystemReadOnly, &[])], &[Is(FilesystemReadOnly, &[])]),
        ("DiskIoError", InError, &[Text("qemu", "open-image", "io-error")], &[Text("qemu", "open-image", "denied")]),
        (
            "LocalDiskStalled",
            StuckTerminating,
            &[Is(VmDiskStalled, &[("wait", "local_storage")])],
            &[Is(VmDiskStalled, &[("wait", "network_storage")])],
        ),
        (
            "LocalDiskStalled",
            Unresponsive,
            &[Is(DeviceStalled, &[("what", "no-completion"), ("device", "7:3")]), IsNot(VmDiskStalled)],
            &[IsNot(DeviceStalled), IsNot(VmDiskStalled)],
        ),
        (
            "LocalDiskStalled",
            StuckTerminating,
            &[Is(DeviceStalled, &[("what", "suspended"), ("device", "7:3"), ("backend", "iscsi")])],
            &[Is(DeviceStalled, &[("what", "no-completion"), ("device", "7:3"), ("backend", "iscsi")])],
        ),
        (
            "LocalDiskStalled",
            Unresponsive,
            &[Happened(BlockDeviceStalled, &[("device_name", "sda")])],
            &[Happened(BlockDeviceStalled, &[("device_name", "sdb"), ("backend", "iscsi")])],
        ),
        (
            "StaleBlockDevice",
            PausedUnexpectedly,
            &[Is(StaleDevice, &[]), Text("qemu", "read-write", "no-space")],
            &[IsNot(StaleDevice), Text("qemu", "read-write", "no-space")],
        ),
        (
            "StaleBlockDevice",
            StuckTerminating,
            &[Text("kernel", "unmount", "stale")],
            &[Text("kernel", "unmount", "busy")],
        ),
        (
            "VolumeOutOfSpace",
            PausedUnexpectedly,
            &[Text("qemu", "read-write", "no-space"), Is(VmiPausedBy, &[("reason", "PausedIOError")])],
            &[Text("qemu", "read-write", "io-error"), Is(VmiPausedBy, &[("reason", "PausedIOError")])],
        ),
        ("VolumeOutOfSpace", PausedUnexpectedly, &[Is(VmFilesystemFull, &[])], &[Is(FilesystemFull, &[])]),
        (
            "VolumeOutOfSpace",
            StuckStarting,
            &[Text("csi", "provision", "no-space")],
            &[Text("csi", "provision", "invalid")],
        ),
    ]);
}

#[test]
fn mounting_and_attaching() {
    check_rows(&[
        (
            "VolumeMountFailed",
            StuckStarting,
            &[Text("kubelet", "mount", "corrupt")],
            &[Known("kubelet", "mount", "timeout", "volumes-wait-timeout")],
        ),
        (
            "VolumeMountFailed",
            StuckStarting,
            &[Known("kernel", "mount", "busy", "device-claimed"), Is(DeviceClaimed, &[])],
            &[Text("csi", "mount", "held")],
        ),
        ("VolumeMountFailed", StuckMigrating, &[Text("csi", "mount", "invalid")], &[Text("csi", "mount", "timeout")]),
        (
            "VolumePermissionDenied",
            InError,
            &[Text("handler", "set-ownership", "not-permitted")],
            &[Text("libvirt", "open-image", "not-permitted")],
        ),
        (
            "VolumePermissionDenied",
            StuckStarting,
            &[Text("libvirt", "open-image", "denied")],
            &[Text("libvirt", "open-image", "denied"), Own(SecurityDenied, &[("comm", "qemu-kvm")])],
        ),
        (
            "VolumeAttachTimeout",
            StuckStarting,
            &[Is(VolumeNotAttached, &[])],
            &[Is(VolumeNotAttached, &[]), Is(VolumeAttachedElsewhere, &[("other_node", "n9")])],
        ),
        (
            "VolumeAttachTimeout",
            StuckStarting,
            &[Text("attacher", "attach", "timeout")],
            &[Text("attacher", "attach", "timeout"), IsNot(VolumeNotAttached)],
        ),
        (
            "VolumeHeldElsewhere",
            StuckStarting,
            &[Known("attacher", "attach", "held", "multi-attach")],
            &[Text("attacher", "attach", "timeout")],
        ),
        (
            "VolumeHeldElsewhere",
            StuckStarting,
            &[Text("csi", "mount", "held"), Text("kubelet", "mount", "other")],
            &[Known("csi", "mount", "busy", "csi-operation-pending")],
        ),
        (
            "VolumeTeardownStuck",
            StuckTerminating,
            &[Text("kubelet", "unmount", "busy")],
            &[Text("runtime", "kill-container", "timeout")],
        ),
        (
            "VolumeTeardownStuck",
            StuckTerminating,
            &[Is(VolumeDetachPending, &[])],
            &[IsNot(VolumeDetachPending), Is(LauncherTerminating, &[])],
        ),
        (
            "ImageLockHeld",
            StuckStarting,
            &[Known("qemu", "lock-image", "held", "image-lock-held")],
            &[Text("qemu", "open-image", "denied")],
        ),
        (
            "ImageLockHeld",
            MigrationFailed,
            &[Known("qemu", "lock-image", "held", "image-lock-held")],
            &[Text("qemu", "load-state", "incompatible")],
        ),
        (
            "StorageDriverDown",
            StuckStarting,
            &[Is(StorageDriverMissing, &[]), Text("kubelet", "mount", "other")],
            &[IsNot(StorageDriverMissing), Text("kubelet", "mount", "other")],
        ),
        (
            "StorageDriverDown",
            StuckStarting,
            &[Known("kubelet", "register-plugin", "not-found", "driver-not-registered")],
            &[Known("handler", "register-plugin", "not-found", "device-plugin-gone")],
        ),
    ]);
}

#[test]
fn images() {
    check_rows(&[
        (
            "ImagePullFailedOnNode",
            InError,
            &[Text("runtime", "pull", "name"), Is(PodImageWaiting, &[("reason", "ErrImagePull")])],
            &[Text("runtime", "pull", "not-found"), Is(PodImageWaiting, &[("reason", "ErrImagePull")])],
        ),
        (
            "ImagePullFailedOnNode",
            StuckStarting,
            &[Is(PodImageWaiting, &[("reason", "ImagePullBackOff")]), Is(ImagePresentElsewhere, &[])],
            &[Is(PodImageWaiting, &[("reason", "ImagePullBackOff")])],
        ),
        (
            "ImagePullFailedOnNode",
            StuckStarting,
            &[Text("runtime", "pull", "timeout")],
            &[Text("runtime", "pull", "timeout"), IsNot(PodImageWaiting)],
        ),
        (
            "ImageCacheCorrupted",
            InError,
            &[Text("runtime", "unpack", "corrupt")],
            &[Text("runtime", "unpack", "no-space")],
        ),
        (
            "ImageCacheCorrupted",
            StuckStarting,
            &[Known("runtime", "create-container", "corrupt", "image-binary-damaged")],
            &[Text("runtime", "create-container", "denied")],
        ),
        (
            "ImageNotFound",
            InError,
            &[Known("runtime", "pull", "not-found", "image-not-found")],
            &[Known("runtime", "pull", "not-found", "image-not-found"), IsNot(PodImageWaiting)],
        ),
        (
            "ImageNotFound",
            StuckStarting,
            &[Text("runtime", "pull", "unauthorized")],
            &[Text("runtime", "pull", "reset")],
        ),
    ]);
}

const OWN_IMAGE: &str = "registry.example/kubevirt/virt-launcher:v1.6.0";

#[test]
fn a_registry_that_the_node_was_tried_on_and_does_not_reach() {
    check_rows(&[
        (
            "ImagePullFailedOnNode",
            StuckStarting,
            &[Is(NetworkUnreachable, &[("what", "tls"), ("image", OWN_IMAGE), ("server", "registry.example:443")])],
            &[Is(
                NetworkUnreachable,
                &[("what", "tls"), ("image", "other.example/a"), ("server", "other.example:443")],
            )],
        ),
        (
            "ImagePullFailedOnNode",
            InError,
            &[Is(NetworkUnreachable, &[("what", "tcp"), ("image", OWN_IMAGE)]), Text("runtime", "pull", "timeout")],
            &[Is(NetworkUnreachable, &[("what", "dns")]), Text("runtime", "pull", "timeout")],
        ),
        (
            "ImageNotFound",
            StuckStarting,
            &[Is(PodImageWaiting, &[("reason", "ErrImagePull"), ("container", "volumerootdisk")])],
            &[
                Is(PodImageWaiting, &[("reason", "ErrImagePull"), ("container", "volumerootdisk")]),
                Is(NetworkUnreachable, &[("what", "registry"), ("image", OWN_IMAGE)]),
            ],
        ),
    ]);
}

/// `n1` was tried on the registry of the VM's image, `n2` on this one or on another, and neither reaches it.
fn tried(of_n2: Option<&str>) -> Attribution {
    let tried = |image: &str| {
        let facts = Attributes::new()
            .with("what", "tcp")
            .with("server", format!("{}:443", &image[..image.find('/').unwrap()]))
            .with("image", image);
        let state = mk_state(NetworkUnreachable, Subject::Node, Status::Present, 250);
        State { attributes: facts, ..state }
    };
    let world = World::well().in_kubernetes().with_second_node().starting("Scheduling", 300);
    let world = world.cluster_has(PodImageWaiting, 200, Attributes::new()).set_on("n1", tried(OWN_IMAGE));
    let world = of_n2.map(tried).into_iter().fold(world, |world, state| world.set_on("n2", state));
    world.why_symptom(StuckStarting, 300)
}

#[test]
fn a_registry_that_two_nodes_do_not_reach_is_what_they_share() {
    let answer = tried(Some("registry.example/other:1"));
    assert_eq!(answer.causes[0].id, "ImageRegistryUnavailable", "{}", table(&answer));
    assert!(answer.causes[0].probability >= 0.6, "{}", table(&answer));
    for of_n2 in [None, Some("elsewhere.example/other:1")] {
        let answer = tried(of_n2);
        assert_eq!(answer.causes[0].id, "ImagePullFailedOnNode", "{of_n2:?}: {}", table(&answer));
        assert!(answer.causes[0].probability >= 0.6, "{of_n2:?}: {}", table(&answer));
    }
}

/// The VM waits on `n1` for an image; `n2` pulled at the same time, with or without the same error.
fn pulls(class: &str, fails_on_n2: bool) -> Attribution {
    let text = || said("runtime", "pull", class);
    let world = World::well().in_kubernetes().with_second_node().starting("Scheduling", 300);
    let world = world.vm_said(None, Some("n1"), 200, text()).cluster_has(PodImageWaiting, 200, Attributes::new());
    let world = if fails_on_n2 { world.node_said("n2", 250, text()) } else { world };
    world.why_symptom(StuckStarting, 300)
}

#[test]
fn the_registry_is_blamed_when_another_node_fails_as_well_and_only_then() {
    for class in ["timeout", "refused", "unavailable"] {
        let answer = pulls(class, true);
        assert_eq!(answer.causes[0].id, "ImageRegistryUnavailable", "{class}: {}", table(&answer));
        assert!(answer.causes[0].probability >= 0.6, "{class}: {}", table(&answer));
        let answer = pulls(class, false);
        assert_ne!(answer.causes[0].id, "ImageRegistryUnavailable", "{class}: {}", table(&answer));
    }
}

#[test]
fn no_denial_is_claimed_only_where_all_looked_that_one_would_show() {
    let is_claimed = |blind: &[&str]| {
        let said = said("libvirt", "open-image", "denied");
        let well = World::well().in_kubernetes().starting("Scheduled", 300).vm_said(None, None, 300, said);
        let answer = blind.iter().fold(well, |world, probe| world.blind(probe)).why_symptom(StuckStarting, 300);
        let cause = answer.causes.iter().find(|cause| cause.id == "VolumePermissionDenied").expect("it is said");
        cause.evidence.iter().any(|line| line.text == "no LSM denial was logged")
    };
    assert!(is_claimed(&[]) && is_claimed(&["journal"]), "by both logs");
    assert!(!is_claimed(&["kernel-log"]));
    assert!(!is_claimed(&["container-log"]), "auditd's log holds the denials where it runs, and was not read");
}
