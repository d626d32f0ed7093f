//! Rows of the causes that sit in the node, its kubelet, its runtime and its network.

use kulprit_model::{
    FindingCode::*,
    attribute::{INITIATOR, REASON, SERVER, WHAT},
    said::{actor::*, class::*, operation::*},
};

use super::{
    Row,
    Seen::{Happened, Is, IsNot, NodeText, Own, Text},
    SymptomId::*,
    check_rows,
};

#[test]
fn resources_of_the_node() {
    let rows: &[Row] = &[
        (
            "NodeCpuExhausted",
            StuckStarting,
            &[Is(NodeCpuStalled, &[]), Text(HANDLER, SYNC_VMI, TIMEOUT)],
            &[Is(NodeCpuStalled, &[])],
        ),
        (
            "NodeCpuExhausted",
            Unresponsive,
            &[Is(NodeCpuStalled, &[("measured", "97")])],
            &[Is(VmCpuThrottled, &[]), Text(HANDLER, SYNC_VMI, TIMEOUT)],
        ),
        (
            "NodeCpuExhausted",
            Unresponsive,
            &[Is(NodeCpuStalled, &[]), Is(VmStalled, &[(WHAT, "cpu")])],
            &[Is(NodeCpuStalled, &[]), Is(VmStalled, &[(WHAT, "memory")])],
        ),
        ("NodeMemoryExhausted", StoppedUnexpectedly, &[Own(NodeOomKill, &[])], &[Own(MemcgOomKill, &[])]),
        (
            "NodeMemoryExhausted",
            InError,
            &[Is(LauncherEvicted, &[(WHAT, "memory")])],
            &[Is(LauncherEvicted, &[(WHAT, "disk")])],
        ),
        (
            "NodeHugepagesExhausted",
            InError,
            &[Is(HugepagesExhausted, &[]), Text(QEMU, START_DOMAIN, OUT_OF_MEMORY)],
            &[IsNot(HugepagesExhausted), Text(QEMU, START_DOMAIN, OUT_OF_MEMORY)],
        ),
        (
            "NodeHugepagesExhausted",
            StuckStarting,
            &[Is(HugepagesExhausted, &[]), Is(PodUnschedulable, &[(REASON, "hugepages")])],
            &[Is(PodUnschedulable, &[(REASON, "memory")])],
        ),
        ("NodeDiskFull", StuckStarting, &[Text(RUNTIME, UNPACK, NO_SPACE)], &[Text(QEMU, READ_WRITE, NO_SPACE)]),
        ("NodeDiskFull", InError, &[Is(FilesystemFull, &[])], &[Is(VmFilesystemFull, &[])]),
        ("NodeDiskFull", InError, &[Is(NodePressureReported, &[(WHAT, "disk")])], &[Text(CSI, PROVISION, NO_SPACE)]),
        (
            "NodePidsExhausted",
            InError,
            &[Is(PidsExhausted, &[])],
            &[IsNot(PidsExhausted), Text(QEMU, FORK, LIMIT), Is(LauncherLimitReached, &[(WHAT, "pids")])],
        ),
        ("NodePidsExhausted", StuckStarting, &[Text(RUNTIME, FORK, LIMIT)], &[NodeText(SYSTEMD, FORK, NOT_FOUND)]),
        ("NodeKernelLimitReached", InError, &[Text(LAUNCHER, WATCH_FILES, LIMIT)], &[Text(LAUNCHER, FORK, LIMIT)]),
        (
            "NodeKernelLimitReached",
            StuckStarting,
            &[Is(KernelLimitReached, &[(WHAT, "inotify-instances")])],
            &[Is(KernelLimitReached, &[(WHAT, "conntrack")])],
        ),
        (
            "NodeFilesystemReadOnly",
            StuckStarting,
            &[Text(RUNTIME, CREATE_SANDBOX, READ_ONLY)],
            &[Text(QEMU, READ_WRITE, READ_ONLY)],
        ),
        (
            "NodeFilesystemReadOnly",
            StuckTerminating,
            &[Happened(FilesystemRemountedReadOnly, &[]), Is(FilesystemReadOnly, &[])],
            &[IsNot(FilesystemReadOnly), Happened(FilesystemError, &[])],
        ),
    ];
    check_rows(rows);
}

#[test]
fn the_node_as_a_whole() {
    let rows: &[Row] = &[
        (
            "KernelFault",
            Unresponsive,
            &[Happened(KernelOops, &[]), Own(HungTask, &[])],
            &[Own(HungTask, &[]), Happened(StorageConnectionLost, &[])],
        ),
        ("KernelFault", StuckTerminating, &[Happened(KernelStalled, &[])], &[Happened(HungTask, &[])]),
        (
            "NodeDown",
            StuckTerminating,
            &[Is(NodeNotReady, &[(WHAT, "Unknown")]), Is(VirtHandlerHeartbeatStale, &[])],
            &[Is(NodeNotReady, &[(WHAT, "Unknown")]), IsNot(VirtHandlerHeartbeatStale)],
        ),
        ("NodeDown", StoppedUnexpectedly, &[Happened(NodeBooted, &[])], &[IsNot(NodeNotReady)]),
        (
            "NodeDown",
            Unresponsive,
            &[Is(NodeUnreachableTaint, &[]), Is(VirtHandlerHeartbeatStale, &[])],
            &[Is(NodeUnreachableTaint, &[]), Is(KubeletInactive, &[])],
        ),
        (
            "NodeUnderMaintenance",
            ExcessiveMigrations,
            &[Is(MigrationsMany, &[(INITIATOR, "evacuation")])],
            &[Is(MigrationsMany, &[(INITIATOR, "user")]), Is(NodeCordoned, &[])],
        ),
        (
            "NodeUnderMaintenance",
            EvacuationBlocked,
            &[Is(NodeCordoned, &[]), Is(EvictionPending, &[])],
            &[IsNot(NodeCordoned), Is(EvictionPending, &[])],
        ),
        ("NodeClockSkewed", InError, &[Is(ClockSkewed, &[("measured", "120")])], &[Is(ClockSkewed, &[])]),
        ("NodeClockSkewed", InError, &[Is(ClockSkewed, &[("measured", "120")])], &[Text(RUNTIME, PULL, EXPIRED)]),
        (
            "NodeDiskFull",
            InError,
            &[Is(PodUnschedulable, &[(REASON, "node-health"), ("object", "node.kubernetes.io/disk-pressure")])],
            &[Is(PodUnschedulable, &[(REASON, "taint"), ("object", "node.kubernetes.io/disk-pressure")])],
        ),
        (
            "NodeNetworkDegraded",
            StuckStarting,
            &[NodeText(KUBELET, REPORT_STATUS, NAME), Is(NodeNotReady, &[(WHAT, "Unknown")])],
            &[NodeText(KUBELET, REPORT_STATUS, REFUSED), Is(NodeNotReady, &[(WHAT, "Unknown")])],
        ),
        (
            "NodeCertificateExpired",
            StuckTerminating,
            &[Is(KubeletCertificateExpired, &[])],
            &[IsNot(KubeletCertificateExpired), NodeText(KUBELET, CALL_API, TIMEOUT)],
        ),
        (
            "NodeCertificateExpired",
            StuckTerminating,
            &[NodeText(KUBELET, CALL_API, EXPIRED), Is(NodeNotReady, &[(WHAT, "Unknown")])],
            &[NodeText(KUBELET, PULL, EXPIRED), Is(ClockSkewed, &[])],
        ),
    ];
    check_rows(rows);
}

#[test]
fn kubelet_and_runtime() {
    let rows: &[Row] = &[
        (
            "KubeletDown",
            StuckTerminating,
            &[Is(NodeNotReady, &[(WHAT, "Unknown")]), IsNot(VirtHandlerHeartbeatStale)],
            &[Is(NodeNotReady, &[(WHAT, "Unknown")]), Is(VirtHandlerHeartbeatStale, &[])],
        ),
        (
            "KubeletDown",
            StuckStarting,
            &[Is(KubeletInactive, &[])],
            &[IsNot(KubeletInactive), Is(RuntimeInactive, &[])],
        ),
        (
            "KubeletDegraded",
            StuckTerminating,
            &[NodeText(KUBELET, LIST_PODS, UNAVAILABLE), Is(NodeNotReady, &[(WHAT, "False")])],
            &[Is(NodeNotReady, &[(WHAT, "False")])],
        ),
        (
            "KubeletRestarted",
            InError,
            &[Happened(KubeletRestarted, &[]), Text(KUBELET, ALLOCATE_DEVICE, UNAVAILABLE)],
            &[Is(KvmDeviceMissing, &[]), Text(KUBELET, ALLOCATE_DEVICE, UNAVAILABLE)],
        ),
        (
            "KubeletRestarted",
            InError,
            &[Is(LauncherRejected, &[(REASON, "UnexpectedAdmissionError")])],
            &[Is(LauncherRejected, &[(REASON, "OutOfmemory")])],
        ),
        (
            "KubeletRestarted",
            StuckStarting,
            &[Happened(KubeletRestarted, &[]), Is(DevicesNotAllocatable, &[])],
            &[Is(DevicesNotAllocatable, &[])],
        ),
        (
            "KubeletMisconfigured",
            InError,
            &[Is(KubeletMisconfigured, &[(WHAT, "root-dir")]), Text(LAUNCHER, ACCESS_KVM, DENIED)],
            &[Text(LAUNCHER, ACCESS_KVM, DENIED)],
        ),
        (
            "KubeletMisconfigured",
            InError,
            &[Is(LauncherRejected, &[(REASON, "TopologyAffinityError")])],
            &[Is(LauncherRejected, &[(REASON, "UnexpectedAdmissionError")])],
        ),
        (
            "ContainerRuntimeDown",
            StuckStarting,
            &[Text(KUBELET, CREATE_SANDBOX, REFUSED)],
            &[Text(CNI, CREATE_SANDBOX, REFUSED)],
        ),
        ("ContainerRuntimeDown", StuckTerminating, &[Is(RuntimeInactive, &[])], &[Is(RuntimeUnresponsive, &[])]),
        (
            "ContainerRuntimeHung",
            StuckStarting,
            &[Text(KUBELET, CREATE_CONTAINER, EXISTS)],
            &[Text(KUBELET, CREATE_CONTAINER, NOT_FOUND)],
        ),
        (
            "ContainerRuntimeHung",
            StuckTerminating,
            &[Is(RuntimeUnresponsive, &[]), NodeText(KUBELET, LIST_PODS, TIMEOUT)],
            &[Text(KUBELET, KILL_CONTAINER, TIMEOUT), Is(QemuThreadBlocked, &[])],
        ),
    ];
    check_rows(rows);
}

#[test]
fn networks() {
    let rows: &[Row] = &[
        (
            "PodNetworkSetupFailed",
            StuckStarting,
            &[Text(CNI, CREATE_SANDBOX, TIMEOUT)],
            &[Text(KUBELET, CREATE_SANDBOX, EXISTS)],
        ),
        (
            "PodNetworkSetupFailed",
            InError,
            &[Text(HANDLER, SETUP_NETWORK, UNSUPPORTED)],
            &[Text(HANDLER, SYNC_VMI, UNSUPPORTED)],
        ),
        (
            "NodeNetworkDegraded",
            InError,
            &[Happened(KernelLimitHit, &[(WHAT, "conntrack")])],
            &[Happened(KernelLimitHit, &[(WHAT, "files")])],
        ),
        (
            "NodeNetworkDegraded",
            StuckStarting,
            &[Is(NetworkUnreachable, &[])],
            &[IsNot(NetworkUnreachable), Text(RUNTIME, PULL, NAME)],
        ),
        (
            "NodeNetworkDegraded",
            StuckMigrating,
            &[Is(LinkErrors, &[]), Is(MigrationSlow, &[])],
            &[IsNot(LinkErrors), Is(MigrationSlow, &[])],
        ),
        (
            "PodNetworkSetupFailed",
            StuckMigrating,
            &[Is(VmLinkLost, &[(WHAT, "carrier")])],
            &[IsNot(VmLinkLost), Is(LinkDown, &[])],
        ),
        (
            "KubeletDegraded",
            StuckStarting,
            &[Is(ListenQueueFull, &[(SERVER, "[::]:10250")]), Text(KUBELET, LIST_PODS, STUCK)],
            &[Is(ListenQueueFull, &[(SERVER, "[::]:10250")])],
        ),
        (
            "NodeNetworkDegraded",
            ExcessiveMigrations,
            &[Is(LinkFlapping, &[]), IsNot(LinkDown), IsNot(NetworkUnreachable)],
            &[IsNot(LinkFlapping), IsNot(LinkDown), IsNot(NetworkUnreachable), Happened(NetworkLinkDown, &[])],
        ),
        ("NodeNetworkDegraded", StuckMigrating, &[Is(LinkDown, &[])], &[IsNot(LinkDown), Text(RUNTIME, PULL, TIMEOUT)]),
        ("MigrationPathUnreachable", StuckMigrating, &[Is(MigrationNoBytes, &[])], &[Is(MigrationDirtying, &[])]),
        (
            "MigrationPathUnreachable",
            MigrationFailed,
            &[Is(MigrationPeerSilent, &[]), IsNot(MigrationNoBytes), Text(LIBVIRT, MIGRATE, RESET)],
            &[IsNot(MigrationPeerSilent), Text(LIBVIRT, MIGRATE, RESET)],
        ),
        (
            "MigrationPathUnreachable",
            MigrationFailed,
            &[Text(LIBVIRT, CONNECT_PEER, UNREACHABLE)],
            &[Text(LIBVIRT, MIGRATE, CANCELLED)],
        ),
        (
            "MigrationPathUnreachable",
            StuckMigrating,
            &[Is(MigrationPeerSilent, &[]), Is(PacketFilterDrops, &[])],
            &[Is(PacketFilterDrops, &[]), Is(MigrationProgressing, &[])],
        ),
        (
            "NodeNetworkDegraded",
            StuckStarting,
            &[Is(NetworkUnreachable, &[(WHAT, "peer")]), Text(RUNTIME, PULL, TIMEOUT)],
            &[Is(NetworkUnreachable, &[(WHAT, "peer")])],
        ),
        (
            "MigrationPathUnreachable",
            StuckMigrating,
            &[Is(NetworkUnreachable, &[(WHAT, "peer")]), Is(MigrationNoBytes, &[])],
            &[Is(NetworkUnreachable, &[(WHAT, "peer")]), Is(MigrationProgressing, &[])],
        ),
        (
            "MigrationPathMtuMismatch",
            StuckMigrating,
            &[Is(MtuMismatch, &[]), Is(MigrationNoBytes, &[])],
            &[IsNot(MtuMismatch), Is(MigrationNoBytes, &[])],
        ),
        (
            "MigrationTlsFailed",
            MigrationFailed,
            &[Text(HANDLER, HANDSHAKE, UNTRUSTED)],
            &[Text(RUNTIME, PULL, UNTRUSTED)],
        ),
        (
            "MigrationTlsFailed",
            StuckMigrating,
            &[Text(HANDLER, CONNECT_PEER, EXPIRED)],
            &[Text(HANDLER, CONNECT_PEER, REFUSED)],
        ),
    ];
    check_rows(rows);
}
