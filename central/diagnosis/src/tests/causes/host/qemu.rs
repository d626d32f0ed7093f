//! Rows of the causes that sit in KVM, the hardware, QEMU and its launcher's limits.

use kulprit_model::{
    FindingCode::*,
    attribute::{COMM, CONTAINER, OBJECT, REASON, SIGNAL, WHAT},
    said::{actor::*, class::*, operation::*},
};

use super::{
    Row,
    Seen::{Happened, Is, IsNot, Known, Own, Text},
    SymptomId::*,
    check_rows,
};

#[test]
fn kvm() {
    let rows: &[Row] = &[
        ("KvmDeviceMissing", InError, &[Text(QEMU, ACCESS_KVM, NOT_FOUND)], &[Text(QEMU, ACCESS_KVM, DENIED)]),
        (
            "KvmDeviceMissing",
            StuckStarting,
            &[Is(KvmDeviceMissing, &[]), Is(KvmNotAllocatable, &[(WHAT, "zero")])],
            &[IsNot(KvmDeviceMissing), Is(KvmNotAllocatable, &[(WHAT, "zero")])],
        ),
        (
            "KvmDisabledInFirmware",
            InError,
            &[Happened(KvmDisabledByFirmware, &[]), Is(KvmDeviceMissing, &[])],
            &[Happened(KvmDisabledByFirmware, &[]), IsNot(KvmDeviceMissing), IsNot(KvmUnusable)],
        ),
        ("KvmDeviceInaccessible", StuckStarting, &[Is(KvmDeviceInaccessible, &[])], &[IsNot(KvmDeviceInaccessible)]),
        (
            "KvmDeviceInaccessible",
            InError,
            &[Known(LIBVIRT, ACCESS_KVM, UNSUPPORTED, "virt-type-unsupported"), IsNot(KvmNotAllocatable)],
            &[Text(QEMU, ACCESS_KVM, BUSY)],
        ),
        ("KvmUnusable", InError, &[Text(QEMU, ACCESS_KVM, BUSY)], &[Text(QEMU, ACCESS_KVM, NOT_FOUND)]),
        (
            "KvmNotAdvertised",
            StuckStarting,
            &[Is(KvmNotAllocatable, &[(WHAT, "absent")]), IsNot(KvmDeviceMissing)],
            &[Is(KvmNotAllocatable, &[(WHAT, "zero")]), Is(KvmDeviceMissing, &[])],
        ),
        (
            "KvmNotAdvertised",
            StuckStarting,
            &[
                Is(PodUnschedulable, &[(REASON, "device"), (OBJECT, "devices.kubevirt.io/kvm")]),
                Is(DevicePluginMissing, &[]),
            ],
            &[Is(PodUnschedulable, &[(REASON, "device"), (OBJECT, "devices.kubevirt.io/kvm")])],
        ),
        (
            "NestedVirtualizationDisabled",
            InError,
            &[Happened(KvmNotSupported, &[]), Is(KvmDeviceMissing, &[])],
            &[Happened(KvmDisabledByFirmware, &[]), Is(KvmDeviceMissing, &[])],
        ),
        (
            "NestedVirtualizationDisabled",
            InError,
            &[Is(KvmNestedDisabled, &[]), Known(LIBVIRT, START_DOMAIN, INCOMPATIBLE, "cpu-incompatible")],
            &[IsNot(KvmNestedDisabled), Known(LIBVIRT, START_DOMAIN, INCOMPATIBLE, "cpu-incompatible")],
        ),
    ];
    check_rows(rows);
}

#[test]
fn hardware() {
    let rows: &[Row] = &[
        (
            "CpuIncompatible",
            MigrationFailed,
            &[Known(LIBVIRT, MIGRATE_PREPARE, INCOMPATIBLE, "cpu-missing-features")],
            &[Known(QEMU, LOAD_STATE, INCOMPATIBLE, "load-state-features")],
        ),
        (
            "CpuIncompatible",
            MigrationFailed,
            &[Known(QEMU, LOAD_STATE, INCOMPATIBLE, "kvm-registers-refused")],
            &[Text(QEMU, LOAD_STATE, INCOMPATIBLE), Is(CpuModelsDiffer, &[])],
        ),
        (
            "HardwareMemoryError",
            PausedUnexpectedly,
            &[Happened(HardwareMemoryError, &[])],
            &[Is(DomainIoError, &[]), Happened(BlockIoError, &[])],
        ),
        ("HardwareMemoryError", StoppedUnexpectedly, &[Own(HardwareMemoryError, &[])], &[Own(ProcessCrashed, &[])]),
        ("HostDeviceUnavailable", InError, &[Text(QEMU, ALLOCATE_DEVICE, BUSY)], &[Text(QEMU, ALLOCATE_DEVICE, LIMIT)]),
        (
            "HostDeviceUnavailable",
            StuckStarting,
            &[
                Is(PodUnschedulable, &[(REASON, "device"), (OBJECT, "nvidia.com/T4")]),
                Is(HostDeviceNotAllocatable, &[]),
            ],
            &[Is(PodUnschedulable, &[(REASON, "device"), (OBJECT, "devices.kubevirt.io/kvm")])],
        ),
    ];
    check_rows(rows);
}

#[test]
fn the_end_of_a_qemu() {
    let rows: &[Row] = &[
        (
            "QemuCrashed",
            StoppedUnexpectedly,
            &[Known(QEMU, RUN_GUEST, CRASHED, "kvm-internal-error")],
            &[Known(QEMU, RUN_GUEST, CRASHED, "domain-crash-assumed")],
        ),
        ("QemuCrashed", InError, &[Own(ProcessCrashed, &[])], &[Own(MemcgOomKill, &[])]),
        (
            "QemuKilled",
            StoppedUnexpectedly,
            &[Known(QEMU, RUN_GUEST, KILLED, "qemu-terminated-by-signal")],
            &[Is(LauncherEvicted, &[(WHAT, "memory")]), Known(QEMU, RUN_GUEST, KILLED, "qemu-terminated-by-signal")],
        ),
        (
            "QemuOutOfMemory",
            StoppedUnexpectedly,
            &[Own(MemcgOomKill, &[(COMM, "qemu-kvm")]), Own(QemuExited, &[(SIGNAL, "9")])],
            &[Own(MemcgOomKill, &[(COMM, "virt-launcher")])],
        ),
        (
            "QemuOutOfMemory",
            InError,
            &[Is(LauncherOomKilled, &[(CONTAINER, "compute")])],
            &[Is(LauncherOomKilled, &[(CONTAINER, "hook-sidecar-0")])],
        ),
        (
            "LauncherOutOfMemory",
            InError,
            &[Own(MemcgOomKill, &[(COMM, "virt-launcher")]), Is(LauncherOomKilled, &[(CONTAINER, "compute")])],
            &[Own(MemcgOomKill, &[(COMM, "qemu-kvm")])],
        ),
        (
            "QemuOutOfMemory",
            InError,
            &[Is(LauncherContainerFailed, &[(CONTAINER, "compute"), (REASON, "OOMKilled")])],
            &[Is(LauncherContainerFailed, &[(CONTAINER, "compute"), (REASON, "Error")])],
        ),
        (
            "LauncherOutOfMemory",
            StuckStarting,
            &[Is(LauncherContainerFailed, &[(CONTAINER, "virtiofs-data"), (REASON, "OOMKilled")])],
            &[Is(LauncherContainerFailed, &[(CONTAINER, "virtiofs-data"), (REASON, "Error")])],
        ),
        (
            "LauncherOutOfMemory",
            StuckStarting,
            &[Is(LauncherOomKilled, &[(CONTAINER, "virtiofs-data")])],
            &[Is(LauncherContainerNotReady, &[(CONTAINER, "virtiofs-data")])],
        ),
        (
            "LauncherLimitReached",
            InError,
            &[Known(QEMU, ALLOCATE_DEVICE, OUT_OF_MEMORY, "locked-memory-limit")],
            &[Text(QEMU, START_DOMAIN, OUT_OF_MEMORY), Is(HugepagesExhausted, &[])],
        ),
        (
            "LauncherLimitReached",
            StuckStarting,
            &[Is(LauncherLimitReached, &[(WHAT, "pids")])],
            &[Is(PidsExhausted, &[])],
        ),
        (
            "QemuZombie",
            StuckTerminating,
            &[Is(QemuZombie, &[])],
            &[Is(QemuThreadBlocked, &[]), Is(QemuTerminationPending, &[])],
        ),
    ];
    check_rows(rows);
}

#[test]
fn a_qemu_that_lives_and_does_not_move() {
    let rows: &[Row] = &[
        (
            "QemuBlockedInKernel",
            StuckTerminating,
            &[Known(QEMU, DESTROY_DOMAIN, STUCK, "process-not-terminated"), Is(LauncherTerminating, &[])],
            &[Text(LIBVIRT, DESTROY_DOMAIN, NOT_FOUND), Is(LauncherTerminating, &[])],
        ),
        (
            "QemuBlockedInKernel",
            StuckStopping,
            &[Is(QemuThreadBlocked, &[]), Text(KUBELET, KILL_CONTAINER, TIMEOUT)],
            &[IsNot(QemuThreadBlocked), Text(KUBELET, KILL_CONTAINER, TIMEOUT)],
        ),
        (
            "QemuMonitorHung",
            StuckStopping,
            &[Text(LIBVIRT, MONITOR, TIMEOUT), Is(DomainControlOccupied, &[])],
            &[Is(LibvirtUnresponsive, &[]), Text(HANDLER, SHUTDOWN_DOMAIN, TIMEOUT)],
        ),
    ];
    check_rows(rows);
}

#[test]
fn devices_and_the_state_that_comes_in() {
    let rows: &[Row] = &[
        (
            "DeviceCgroupDenied",
            InError,
            &[Text(LIBVIRT, OPEN_IMAGE, NOT_PERMITTED)],
            &[Text(LIBVIRT, OPEN_IMAGE, DENIED)],
        ),
        (
            "DeviceCgroupDenied",
            PausedUnexpectedly,
            &[Text(QEMU, READ_WRITE, NOT_PERMITTED), Is(DomainIoError, &[])],
            &[Text(QEMU, READ_WRITE, IO_ERROR), Is(DomainIoError, &[])],
        ),
        (
            "DeviceCgroupDenied",
            StuckStarting,
            &[Text(QEMU, OPEN_IMAGE, NOT_PERMITTED)],
            &[Text(HANDLER, SET_OWNERSHIP, NOT_PERMITTED)],
        ),
        (
            "QemuLoadStateFailed",
            MigrationFailed,
            &[Known(QEMU, LOAD_STATE, INCOMPATIBLE, "load-state-device"), IsNot(LauncherVersionsDiffer)],
            &[Known(QEMU, LOAD_STATE, INCOMPATIBLE, "load-state-features"), Is(LauncherVersionsDiffer, &[])],
        ),
        (
            "QemuLoadStateFailed",
            MigrationFailed,
            &[Text(QEMU, LOAD_STATE, INVALID), IsNot(LauncherVersionsDiffer)],
            &[Known(QEMU, LOAD_STATE, RESET, "load-state-stream-broken")],
        ),
    ];
    check_rows(rows);
}
