//! What the reason of an event or a condition tells where the text does not.
//!
//! Reasons of kubelet, scheduler and controllers: kubernetes pkg/kubelet/events, pkg/controller, node-problem-detector;
//! of KubeVirt: api core/v1 and the recorders of virt-controller and virt-handler; of CDI: pkg/controller.

use kulprit_model::said::{actor::*, class::*, operation::*};

/// What a reason means by itself.
pub(crate) struct Reason {
    pub(crate) name: &'static str,
    pub(crate) actor: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) class: &'static str,
}

macro_rules! reasons {
    ($($($name:literal)+ => $actor:expr, $operation:expr, $class:expr;)*) => {
        &[$($(Reason { name: $name, actor: $actor, operation: $operation, class: $class },)+)*]
    };
}

/// Reasons that say a failure.
const REASONS: &[Reason] = reasons! {
    "FailedScheduling" "Unschedulable" "migrationTargetPodUnschedulable" => SCHEDULER, SCHEDULE, INSUFFICIENT;
    "NoSuitableNodesForHostModelMigration" => SCHEDULER, SCHEDULE, INCOMPATIBLE;
    "FailedMount" "VolumeFailedMount" "FailedMountOnFilesystemMismatch" "VolumeResizeFailed" "FileSystemResizeFailed" => KUBELET, MOUNT, OTHER;
    "FailedMapVolume" => KUBELET, MAP, OTHER;
    "FailedUnMount" "FailedUnmapDevice" "VolumeUnmountFailed" => KUBELET, UNMOUNT, OTHER;
    "FailedAttachVolume" => ATTACHER, ATTACH, OTHER;
    "FailedDetachVolume" => ATTACHER, DETACH, OTHER;
    "AlreadyMountedVolume" => KUBELET, MOUNT, BUSY;
    "FailedCreatePodSandBox" => RUNTIME, CREATE_SANDBOX, OTHER;
    "FailedPodSandBoxStatus" "ContainerdUnhealthy" "ContainerRuntimeUnhealthy" => RUNTIME, LIST_PODS, UNAVAILABLE;
    "NetworkNotReady" => CNI, SETUP_NETWORK, UNAVAILABLE;
    "FailedKillPod" => RUNTIME, KILL_CONTAINER, OTHER;
    "ExceededGracePeriod" => RUNTIME, KILL_CONTAINER, TIMEOUT;
    "FailedPreStopHook" => KUBELET, KILL_CONTAINER, OTHER;
    "FailedPostStartHook" => KUBELET, CREATE_CONTAINER, OTHER;
    "Failed" "FailedSync" "FailedCreatePodContainer" "CreateContainerError" "RunContainerError" "ContainerCannotRun" "StartError" => RUNTIME, CREATE_CONTAINER, OTHER;
    "CreateContainerConfigError" => KUBELET, CREATE_CONTAINER, NOT_FOUND;
    "CrashLoopBackOff" => RUNTIME, CREATE_CONTAINER, CRASHED;
    "BackOff" => KUBELET, CREATE_CONTAINER, OTHER;
    "ErrImagePull" "ImagePullBackOff" "InspectFailed" "ImageInspectError" "RegistryUnavailable" => RUNTIME, PULL, OTHER;
    "ErrImageNeverPull" => KUBELET, PULL, NOT_FOUND;
    "InvalidImageName" => KUBELET, PULL, INVALID;
    "OOMKilled" "OOMKilling" "SystemOOM" => KERNEL, RUN_GUEST, OUT_OF_MEMORY;
    "Unhealthy" "ProbeWarning" => KUBELET, CREATE_CONTAINER, UNAVAILABLE;
    "Evicted" "EvictionThresholdMet" "Preempting" => KUBELET, EVICT_POD, OTHER;
    "TaintManagerEviction" => CONTROLLER_MANAGER, EVICT_POD, CANCELLED;
    "NodeHasDiskPressure" "DiskPressure" => KUBELET, EVICT_POD, NO_SPACE;
    "NodeHasInsufficientMemory" "MemoryPressure" => KUBELET, EVICT_POD, OUT_OF_MEMORY;
    "NodeHasInsufficientPID" "PIDPressure" => KUBELET, EVICT_POD, LIMIT;
    "UnexpectedAdmissionError" "NodeAffinity" "Admission" "FailedToAdmit" "PodOSNotSupported" => KUBELET, ADMIT_POD, OTHER;
    "OutOfcpu" "OutOfmemory" "OutOfpods" "OutOfephemeral-storage" "TopologyAffinityError" "SMTAlignmentError" => KUBELET, ADMIT_POD, INSUFFICIENT;
    "HostPortConflict" => KUBELET, ADMIT_POD, EXISTS;
    "ContainerGCFailed" "ImageGCFailed" => KUBELET, RECLAIM, OTHER;
    "FreeDiskSpaceFailed" => KUBELET, RECLAIM, NO_SPACE;
    "NodeNotReady" "NodeStatusUnknown" "KubeletNotReady" "KubeletUnhealthy" => KUBELET, REPORT_STATUS, UNAVAILABLE;
    "Rebooted" => KUBELET, REPORT_STATUS, CRASHED;
    "NodeUnresponsive" => HANDLER, REPORT_STATUS, TIMEOUT;
    "TaskHung" => KERNEL, READ_WRITE, STUCK;
    "KernelOops" "KernelDeadlock" => KERNEL, RUN_GUEST, CRASHED;
    "ReadonlyFilesystem" "FilesystemIsReadOnly" => KERNEL, READ_WRITE, READ_ONLY;
    "Ext4Error" "Ext4Warning" "XfsCorruption" "FilesystemCorruptionProblem" => KERNEL, READ_WRITE, CORRUPT;
    "IOError" "IOerror" "PausedIOError" => QEMU, READ_WRITE, IO_ERROR;
    "SyncFailed" "Synchronizing with the Domain failed." => HANDLER, SYNC_VMI, OTHER;
    "FailedCreate" "FailedPodPatch" => CONTROLLER, CREATE_POD, OTHER;
    "FailedDelete" => CONTROLLER, KILL_CONTAINER, OTHER;
    "FailedMigration" "MigrationFailed" => CONTROLLER, MIGRATE, OTHER;
    "MigrationBackoff" => CONTROLLER, MIGRATE, RATE_LIMITED;
    "FailedHandOver" => CONTROLLER, MIGRATE_PREPARE, OTHER;
    "FailedGuaranteeResources" "FailedBackendStorageCreate" "FailedBackendStorageProbe" => CONTROLLER, CREATE_POD, OTHER;
    "FailedPvcNotFound" => CONTROLLER, PROVISION, NOT_FOUND;
    "FailedDataVolumeImport" "FailedDataVolumeCreate" "ImportFailed" "CloneFailed" "UploadFailed" "Error" => CDI, IMPORT, OTHER;
    "CloneSourceInUse" "SmartCloneSourceInUse" "CSICloneSourceInUse" => CDI, IMPORT, BUSY;
    "CloneValidationFailed" "CloneWithoutSource" => CDI, IMPORT, INVALID;
    "ErrClaimNotValid" "ErrDataVolumeSpec" => CDI, PROVISION, INVALID;
    "ErrExceededQuota" => CDI, PROVISION, QUOTA;
    "ProvisioningFailed" "FailedBinding" "ClaimLost" "ClaimMisbound" => CSI, PROVISION, OTHER;
    "HotplugFailed" "FailedHotplugSync" "MissingAttachmentPod" => HANDLER, HOTPLUG, OTHER;
    "NotifyServerFailure" => HANDLER, CONNECT_LAUNCHER, OTHER;
    "GuestPanicked" => GUEST, RUN_GUEST, CRASHED;
    "FailedDaemonPod" => CONTROLLER_MANAGER, CREATE_POD, CRASHED;
};

/// Reasons of warnings that healthy clusters have.
const HEALTHY_REASONS: [&str; 3] = ["DNSConfigForming", "InvalidDiskCapacity", "HostModelIsObsolete"];

/// What `name` says by itself, if it says a failure.
pub(crate) fn reason(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| reason.name == name)
}

/// Whether `name` is a warning of healthy clusters.
pub(crate) fn is_healthy(name: &str) -> bool {
    HEALTHY_REASONS.contains(&name)
}
