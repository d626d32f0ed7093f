//! Not the host: what must name each cause, and what looks alike and must not.

use kulprit_model::FindingCode::*;

use super::{
    Seen::{Is, IsNot, Known, Own, Text},
    SymptomId::*,
    check_rows,
};

#[test]
fn specification_volumes_and_scheduling() {
    check_rows(&[
        (
            "VmMisconfigured",
            StuckStarting,
            &[Known("libvirt", "define-domain", "invalid", "domain-xml-invalid")],
            &[Known("libvirt", "define-domain", "exists", "domain-exists")],
        ),
        (
            "VmMisconfigured",
            InError,
            &[Known("qemu", "start-domain", "invalid", "guest-address-space-too-small")],
            &[Known("qemu", "start-domain", "out-of-memory", "guest-memory-not-allocated")],
        ),
        (
            "VmMisconfigured",
            InError,
            &[Text("libvirt", "open-image", "not-found")],
            &[Text("libvirt", "open-image", "stale")],
        ),
        (
            "VolumeNotFound",
            InError,
            &[Is(VolumeClaimMissing, &[("volume", "root")])],
            &[IsNot(VolumeClaimMissing), IsNot(VolumeClaimUnbound), Text("csi", "mount", "not-found")],
        ),
        (
            "VolumeNotFound",
            StuckStarting,
            &[Known("cdi", "provision", "invalid", "import-pvc-spec-incomplete")],
            &[Text("csi", "provision", "no-space")],
        ),
        (
            "DataImportFailed",
            StuckStarting,
            &[Is(DataVolumeFailing, &[]), Is(VolumeClaimUnbound, &[])],
            &[IsNot(DataVolumeFailing), Is(VolumeClaimUnbound, &[])],
        ),
        ("DataImportFailed", InError, &[Text("cdi", "import", "refused")], &[Text("cdi", "import", "quota")]),
        (
            "Unschedulable",
            StuckStarting,
            &[Is(PodUnschedulable, &[("reason", "memory")])],
            &[Is(PodUnschedulable, &[("reason", "device"), ("object", "devices.kubevirt.io/kvm")])],
        ),
        (
            "Unschedulable",
            StuckMigrating,
            &[Known("scheduler", "schedule", "insufficient", "migration-target-pod-unschedulable")],
            &[Known("scheduler", "schedule", "insufficient", "unschedulable-kvm")],
        ),
        (
            "QuotaExceeded",
            StuckStarting,
            &[Known("api-server", "create-pod", "quota", "quota-exceeded")],
            &[Known("kubelet", "evict-pod", "quota", "evicted-own-limit")],
        ),
        (
            "QuotaExceeded",
            StuckMigrating,
            &[Text("api-server", "create-pod", "denied")],
            &[Text("api-server", "evict-pod", "denied")],
        ),
    ]);
}

#[test]
fn what_kubevirt_or_somebody_decided_about_a_migration() {
    check_rows(&[
        (
            "NotLiveMigratable",
            EvacuationBlocked,
            &[Is(VmiNotMigratable, &[("reason", "DisksNotLiveMigratable")])],
            &[IsNot(VmiNotMigratable), Text("controller", "migrate", "other")],
        ),
        (
            "VersionSkew",
            MigrationFailed,
            &[Known("qemu", "load-state", "incompatible", "load-state-features")],
            &[Known("qemu", "load-state", "incompatible", "kvm-registers-refused")],
        ),
        (
            "VersionSkew",
            MigrationFailed,
            &[Text("qemu", "load-state", "incompatible"), Is(LauncherVersionsDiffer, &[])],
            &[Text("qemu", "load-state", "incompatible"), IsNot(LauncherVersionsDiffer)],
        ),
        (
            "VersionSkew",
            MigrationFailed,
            &[Known("qemu", "load-state", "incompatible", "load-state-section")],
            &[
                Known("libvirt", "migrate-prepare", "incompatible", "cpu-missing-features"),
                Is(LauncherVersionsDiffer, &[]),
            ],
        ),
        (
            "MigrationLimitReached",
            StuckMigrating,
            &[Is(MigrationWaitsForSlot, &[("what", "node")])],
            &[Is(MigrationWaitsForSlot, &[("what", "node")]), Is(MigrationTargetFailed, &[])],
        ),
        (
            "MigrationAborted",
            MigrationFailed,
            &[Is(MigrationAbortRequested, &[]), Known("launcher", "migrate", "cancelled", "migration-aborted")],
            &[Is(MigrationTimedOut, &[]), Known("launcher", "migrate", "cancelled", "migration-aborted")],
        ),
        (
            "MigrationsRequested",
            ExcessiveMigrations,
            &[Is(MigrationsMany, &[("initiator", "user")])],
            &[Is(MigrationsMany, &[("initiator", "evacuation")])],
        ),
    ]);
}

#[test]
fn guest_and_control_plane() {
    check_rows(&[
        (
            "GuestIgnoresShutdown",
            StuckStopping,
            &[Is(StopGraceRunning, &[])],
            &[Is(StopGraceRunning, &[]), Is(LibvirtUnresponsive, &[])],
        ),
        (
            "GuestFault",
            StoppedUnexpectedly,
            &[Own(GuestPanicked, &[])],
            &[Known("qemu", "run-guest", "crashed", "qemu-assertion")],
        ),
        (
            "GuestFault",
            Unresponsive,
            &[Is(GuestAgentLost, &[]), IsNot(QemuThreadBlocked), IsNot(QemuStopped), IsNot(DomainControlOccupied)],
            &[Is(GuestAgentLost, &[]), Is(DomainControlOccupied, &[])],
        ),
        (
            "GuestFault",
            Unresponsive,
            &[Is(GuestAgentLost, &[]), IsNot(DomainControlOccupied), IsNot(VmLinkLost)],
            &[Is(GuestAgentLost, &[]), IsNot(DomainControlOccupied), Is(VmLinkLost, &[("what", "tap")])],
        ),
        (
            "ControlPlaneFault",
            StuckStarting,
            &[Is(ControlPlaneNotReady, &[("what", "virt-controller")])],
            &[IsNot(ControlPlaneNotReady), Text("handler", "call-api", "timeout")],
        ),
        (
            "ControlPlaneFault",
            StuckMigrating,
            &[Known("api-server", "call-api", "refused", "webhook-unreachable")],
            &[Text("kubelet", "call-api", "unreachable")],
        ),
    ]);
}
