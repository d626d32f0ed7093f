//! The catalogue of findings: one row per thing that an agent can say about its node.
//!
//! Docs, metrics, holds and tests come from [`CATALOGUE`]. Codes are a contract: rows are added, never renamed. A *state* is
//! three-valued and held ([`FindingSpec::raise_after_ms`]) before it is raised; an *occurrence* happened, is counted, and
//! only ages.

use std::{fmt, str::FromStr};

use crate::subject::SubjectType;

/// Whether a finding is a state or an occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Present, absent or unknown at every look.
    State,
    /// Happened at a time, a number of times.
    Occurrence,
}

impl Kind {
    /// The word used in the generated catalogue.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Occurrence => "occurrence",
        }
    }
}

/// Whether a finding is a fault or only something worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something is wrong on this node.
    Fault,
    /// Normal by itself; evidence when something else is wrong.
    Notice,
}

impl Severity {
    /// The word used in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Notice => "notice",
        }
    }
}

/// The node condition a finding feeds (`kulprit.io/<name>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeCondition {
    /// KVM is missing, forbidden or broken: no VM can start here.
    KvmUnavailable,
    /// libvirt, QEMU or what controls them does not answer.
    VirtStackUnresponsive,
    /// I/O of VMs fails or waits.
    VmStorageStalled,
    /// What migrations go over loses or refuses packets.
    MigrationPathDegraded,
    /// CPU, memory, I/O or a limit of the node is used up.
    HostPressure,
    /// The kubelet does not run, or not as it should.
    KubeletDegraded,
    /// The container runtime does not run, answer, or do its work.
    ContainerRuntimeDegraded,
    /// The hardware reported an error that it could not correct.
    HardwareFault,
}

impl NodeCondition {
    /// All of them. No more: each is a part of every Node object that is watched anywhere.
    pub const ALL: [Self; 8] = [
        Self::KvmUnavailable,
        Self::VirtStackUnresponsive,
        Self::VmStorageStalled,
        Self::MigrationPathDegraded,
        Self::HostPressure,
        Self::KubeletDegraded,
        Self::ContainerRuntimeDegraded,
        Self::HardwareFault,
    ];

    /// The condition type without its prefix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KvmUnavailable => "KvmUnavailable",
            Self::VirtStackUnresponsive => "VirtStackUnresponsive",
            Self::VmStorageStalled => "VmStorageStalled",
            Self::MigrationPathDegraded => "MigrationPathDegraded",
            Self::HostPressure => "HostPressure",
            Self::KubeletDegraded => "KubeletDegraded",
            Self::ContainerRuntimeDegraded => "ContainerRuntimeDegraded",
            Self::HardwareFault => "HardwareFault",
        }
    }

    /// The findings that feed it, in the order of the catalogue.
    pub fn findings(self) -> impl Iterator<Item = &'static FindingSpec> {
        CATALOGUE.iter().filter(move |spec| spec.condition == Some(self))
    }
}

impl fmt::Display for NodeCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct FindingSpec {
    /// The finding.
    pub code: FindingCode,
    /// State or occurrence.
    pub kind: Kind,
    /// Which probe says it.
    pub probe: &'static str,
    /// What it is about.
    pub subject: SubjectType,
    /// Fault or notice.
    pub severity: Severity,
    /// How long a state must be seen without a break before it is raised, milliseconds. 0 for occurrences.
    pub raise_after_ms: u32,
    /// How long a state must be seen absent before it is cleared, milliseconds. 0 for occurrences.
    pub clear_after_ms: u32,
    /// The threshold and its unit in words, or empty if a look alone decides.
    pub threshold: &'static str,
    /// The node condition it feeds.
    pub condition: Option<NodeCondition>,
    /// What it means, one sentence.
    pub meaning: &'static str,
}

macro_rules! catalogue {
    ($($code:ident, $kind:ident, $probe:literal, $subject:ident, $severity:ident, raise $raise:literal, clear $clear:literal,
       $threshold:literal, $condition:expr, $meaning:literal;)*) => {
        /// The findings, in the order of the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingCode {
            $(#[doc = $meaning] $code,)*
        }

        /// Every finding there is, in the order of [`FindingCode`].
        pub const CATALOGUE: &[FindingSpec] = &[
            $(FindingSpec {
                code: FindingCode::$code, kind: Kind::$kind, probe: $probe, subject: SubjectType::$subject,
                severity: Severity::$severity, raise_after_ms: $raise, clear_after_ms: $clear, threshold: $threshold,
                condition: $condition, meaning: $meaning,
            },)*
        ];

        impl FindingCode {
            /// The code as it is written everywhere.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)* }
            }
        }
    };
}

use NodeCondition::{
    ContainerRuntimeDegraded, HardwareFault, HostPressure, KubeletDegraded, KvmUnavailable, MigrationPathDegraded,
    VirtStackUnresponsive, VmStorageStalled,
};

catalogue! {
    KubeletInactive, State, "kubelet", Unit, Fault, raise 0, clear 0, "ActiveState is not active, activating or reloading",
        Some(KubeletDegraded), "The kubelet's systemd unit is installed and does not run.";
    KubeletRestartLoop, State, "kubelet", Unit, Fault, raise 0, clear 30_000, "3 restarts in 10 min",
        Some(KubeletDegraded), "systemd restarts the kubelet again and again.";
    KubeletHealthzFailing, State, "kubelet", Unit, Fault, raise 10_000, clear 10_000, "no 200 from /healthz within 2 s",
        Some(KubeletDegraded), "The kubelet's unit is active and its healthz endpoint does not say ok.";
    KubeletProcessStalled, State, "kubelet", Unit, Fault, raise 3_000, clear 0, "main process in state T, t, Z or D",
        Some(KubeletDegraded), "The kubelet's main process is stopped, a zombie, or blocked in the kernel.";
    KubeletNotInstalled, State, "kubelet", Node, Notice, raise 0, clear 0, "",
        None, "systemd knows none of the kubelet units: this host is no Kubernetes node, or runs its kubelet in another way.";

    KvmDeviceMissing, State, "kvm", Node, Fault, raise 0, clear 0, "",
        Some(KvmUnavailable), "/dev/kvm does not exist or is no character device.";
    KvmDeviceInaccessible, State, "kvm", Node, Fault, raise 0, clear 0, "open fails, or the mode lets nobody read and write",
        Some(KvmUnavailable), "/dev/kvm exists and cannot be opened.";
    KvmUnusable, State, "kvm", Node, Fault, raise 0, clear 0, "API version is not 12, or KVM_CREATE_VM fails",
        Some(KvmUnavailable), "/dev/kvm opens, yet KVM cannot create a virtual machine.";
    KvmModuleNotLoaded, State, "kvm", Node, Notice, raise 0, clear 0, "",
        None, "Neither kvm_intel nor kvm_amd is loaded or built in.";
    KvmNestedDisabled, State, "kvm", Node, Notice, raise 0, clear 0, "",
        None, "The KVM module does not let guests run virtual machines of their own.";

    QemuThreadBlocked, State, "qemu", Vm, Fault, raise 10_000, clear 0, "a thread in state D with one wchan for 10 s",
        Some(VmStorageStalled), "A thread of the VM's QEMU is blocked in the kernel and cannot be killed.";
    VmDiskStalled, State, "qemu", Vm, Fault, raise 10_000, clear 0, "a blocked QEMU thread waits in a storage function for 10 s",
        Some(VmStorageStalled), "I/O of the VM's QEMU has waited in the kernel's storage code without an answer.";
    QemuStopped, State, "qemu", Vm, Fault, raise 3_000, clear 0, "state T or t",
        Some(VirtStackUnresponsive), "The VM's QEMU is stopped by a signal or a debugger.";
    QemuZombie, State, "qemu", Vm, Fault, raise 10_000, clear 0, "state Z with no thread left",
        Some(VirtStackUnresponsive), "The VM's QEMU has ended and its parent does not reap it.";
    QemuTerminationPending, State, "qemu", Vm, Notice, raise 2_000, clear 0, "SIGKILL pending, or the leader dead and a thread alive",
        None, "Somebody has killed the VM's QEMU and it cannot end.";
    QemuExited, Occurrence, "qemu", Vm, Notice, raise 0, clear 0, "",
        None, "The QEMU process of the VM ended.";

    LibvirtUnreachable, State, "domain", Libvirt, Fault, raise 3_000, clear 0, "connection refused or no socket where a daemon is expected",
        Some(VirtStackUnresponsive), "The libvirt daemon does not run.";
    LibvirtUnresponsive, State, "domain", Libvirt, Fault, raise 0, clear 0, "no answer to a keepalive or call within its deadline",
        Some(VirtStackUnresponsive), "The libvirt daemon accepts connections and does not answer.";
    LibvirtNotInstalled, State, "domain", Node, Notice, raise 0, clear 0, "",
        None, "There is no libvirt daemon on this host to ask.";
    DomainControlOccupied, State, "domain", Vm, Fault, raise 3_000, clear 0, "control state occupied for 3 s",
        Some(VirtStackUnresponsive), "QEMU does not answer libvirt's monitor command.";
    DomainControlError, State, "domain", Vm, Fault, raise 3_000, clear 0, "control state error for 3 s: a domain that ends normally shows it for a moment",
        Some(VirtStackUnresponsive), "libvirt has lost the monitor of the VM's QEMU.";
    DomainIoError, State, "domain", Vm, Fault, raise 0, clear 0, "paused with reason I/O error",
        Some(VmStorageStalled), "QEMU has paused the guest because of a disk error.";
    DomainIoErrorReported, Occurrence, "domain", Vm, Fault, raise 0, clear 0, "",
        None, "QEMU reported a disk error of the guest.";
    DomainFailed, Occurrence, "domain", Vm, Fault, raise 0, clear 0, "lifecycle event stopped with crashed or failed, or crashed",
        None, "libvirt saw the domain crash or its QEMU vanish.";
    GuestShutdownRequested, State, "domain", Vm, Notice, raise 0, clear 0, "",
        None, "Somebody has asked the guest to shut down (ACPI power button), and it still runs.";

    NodeOomKill, Occurrence, "kernel-log", Process, Fault, raise 0, clear 0, "",
        Some(HostPressure), "The kernel killed a process because the node ran out of memory.";
    MemcgOomKill, Occurrence, "kernel-log", Process, Fault, raise 0, clear 0, "",
        None, "The kernel killed a process because its memory cgroup reached its limit.";
    HungTask, Occurrence, "kernel-log", Process, Fault, raise 0, clear 0, "120 s (kernel.hung_task_timeout_secs)",
        Some(VmStorageStalled), "The kernel says that a task has been blocked for minutes.";
    ProcessCrashed, Occurrence, "kernel-log", Process, Fault, raise 0, clear 0, "",
        None, "The kernel logged a fatal fault of a process (segfault, general protection, trap).";
    BlockIoError, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A block device answered I/O with an error.";
    FilesystemError, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A file system reported an error or shut itself down.";
    KvmDisabledByFirmware, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(KvmUnavailable), "The kernel says that the firmware forbids virtualization.";
    HardwareMemoryError, Occurrence, "kernel-log", NodeOrVm, Fault, raise 0, clear 0, "",
        Some(HardwareFault), "The hardware reported an uncorrected memory error (machine check, EDAC, memory failure).";
    KernelOops, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(VirtStackUnresponsive), "The kernel logged a fault of its own: oops, BUG, panic.";
    KernelStalled, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(VirtStackUnresponsive), "The kernel logged a soft lockup, a hard lockup or an RCU stall.";
    NodeBooted, Occurrence, "kernel-log", Node, Notice, raise 0, clear 0, "",
        None, "The node booted: its kernel log begins anew.";
    StorageConnectionLost, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "The kernel lost a storage backend (NFS, Ceph, iSCSI, NVMe-oF, multipath, DRBD): `backend` says which, `server` where.";
    StorageConnectionBack, Occurrence, "kernel-log", Node, Notice, raise 0, clear 0, "",
        None, "The kernel reached a storage backend again that it had lost.";
    BlockDeviceStalled, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A block device or its controller does not answer: timeouts, aborts, resets.";
    BlockDeviceGone, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A block device was taken offline or removed.";
    BlockDeviceHeld, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A replicated or shared block device refuses this node: another node or client holds it.";
    FilesystemRemountedReadOnly, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A file system was made read-only because of an error.";
    ThinPoolFull, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A thin pool ran out of data or metadata space.";
    ForkRejected, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(HostPressure), "The kernel refused a new process: pids limit of a cgroup (`memcg` names it) or of the node.";
    KernelLimitHit, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(HostPressure), "A kernel-wide limit was hit: `what` is conntrack, files, neighbours, inotify or aio.";
    NetworkLinkDown, Occurrence, "kernel-log", Device, Fault, raise 0, clear 0, "",
        Some(MigrationPathDegraded), "A network link went down, or its card hung.";
    SecurityDenied, Occurrence, "kernel-log", Process, Fault, raise 0, clear 0, "",
        None, "SELinux, AppArmor or seccomp refused something, and enforced it: `what` is which, `comm` whom, `object` what.";
    KvmGuestFault, Occurrence, "kernel-log", NodeOrVm, Fault, raise 0, clear 0, "",
        None, "KVM could not run a guest's vCPU.";
    KvmNotSupported, Occurrence, "kernel-log", Node, Fault, raise 0, clear 0, "",
        Some(KvmUnavailable), "The kernel says that the processor offers no virtualization: none, or the host is itself a guest without it.";
    KernelLogLost, Occurrence, "kernel-log", Node, Notice, raise 0, clear 0, "",
        None, "Kernel log lines were overwritten before they could be read.";

    // What texts say: logs of the host and of pods, events, conditions. `actor`, `operation` and `class` are words of `said`.
    ErrorSaid, Occurrence, "text", NodeOrVm, Fault, raise 0, clear 0, "",
        None, "A log line, an event or a condition says that something failed.";

    // Logs that are followed: what was not read of them. What their lines say is an `ErrorSaid`.
    JournalLost, Occurrence, "journal", Node, Notice, raise 0, clear 0, "",
        None, "Entries of the systemd journal could not be read: removed before they were, broken, or compressed with xz or lz4.";
    LogLinesSkipped, Occurrence, "container-log", Node, Notice, raise 0, clear 0, "",
        None, "Lines of pods, QEMU or libvirt were not read: more came than is read, or the file was gone before.";

    // The node: looked at by the probe that is named.
    KubeletRestarted, Occurrence, "kubelet-setup", Unit, Notice, raise 0, clear 0, "",
        None, "The kubelet started, or was started again.";
    KubeletMisconfigured, State, "kubelet-setup", Unit, Fault, raise 0, clear 0, "",
        Some(KubeletDegraded), "The kubelet is set up in a way that KubeVirt cannot use; `what` is root-dir, cpu-manager-state, memory-manager-state or feature-gate.";
    KubeletCertificateExpired, State, "kubelet-setup", Unit, Fault, raise 0, clear 0, "",
        Some(KubeletDegraded), "The kubelet's client certificate is expired or not yet valid.";
    DevicePluginMissing, State, "kubelet-setup", Node, Fault, raise 10_000, clear 0, "10 s: plugins come back by themselves after a kubelet's start",
        None, "No socket of KubeVirt's device plugins is in kubelet's folder.";
    OrphanedPodVolumes, State, "kubelet-setup", Node, Notice, raise 600_000, clear 0, "10 min",
        None, "Pods that ran here and have no container any more left volumes in kubelet's folder; `pod_uid` is the first, `measured` their number.";
    RuntimeInactive, State, "runtime", Unit, Fault, raise 0, clear 0, "ActiveState is not active, activating or reloading",
        Some(ContainerRuntimeDegraded), "The container runtime's unit is installed and does not run.";
    RuntimeUnresponsive, State, "runtime", Unit, Fault, raise 5_000, clear 0, "no answer to a CRI call in 5 s",
        Some(ContainerRuntimeDegraded), "The container runtime does not answer.";
    RuntimeNetworkNotReady, State, "runtime", Unit, Fault, raise 10_000, clear 0, "",
        Some(ContainerRuntimeDegraded), "The container runtime says that the pod network is not ready.";
    RuntimeShimStuck, State, "runtime", Process, Fault, raise 30_000, clear 0, "state D or Z for 30 s",
        Some(ContainerRuntimeDegraded), "A shim of the container runtime is blocked in the kernel or a zombie.";
    LauncherContainerFailed, State, "runtime", Vm, Fault, raise 10_000, clear 0, "exit code not 0 and no later attempt, or made 2 min ago and not started",
        None, "A container of the VM's launcher failed, as the runtime says; `container`, `reason` and `exit_code` are the runtime's.";
    NodeCpuStalled, State, "pressure", Node, Fault, raise 10_000, clear 30_000, "PSI cpu some avg60 of 60 %, or 20 % steal",
        Some(HostPressure), "Tasks of the node wait for a CPU.";
    NodeMemoryStalled, State, "pressure", Node, Fault, raise 10_000, clear 30_000, "PSI memory full avg10 of 10 %, or 2 % of memory available (without hugepages)",
        Some(HostPressure), "Tasks of the node wait for memory.";
    NodeIoStalled, State, "pressure", Node, Fault, raise 10_000, clear 30_000, "PSI io full avg60 of 40 %",
        Some(HostPressure), "Tasks of the node wait for I/O.";
    VmCpuThrottled, State, "pressure", Vm, Fault, raise 10_000, clear 30_000, "throttled in half of its periods",
        None, "The CPU limit of the launcher's container throttles the VM.";
    VmStalled, State, "pressure", Vm, Notice, raise 30_000, clear 30_000, "some avg10 of its cgroup: memory 20 %, io or cpu 80 %",
        None, "Processes of the VM wait most of the time; `what` is memory, io, cpu, or oom (version 1: stopped at the memory limit).";
    HugepagesExhausted, State, "limits", Node, Notice, raise 0, clear 0, "less than 10 % of a size left that nobody was promised",
        None, "Hardly any hugepage of a size is left, as on a node that is full by plan; `what` is the size.";
    PidsExhausted, State, "limits", Node, Fault, raise 0, clear 0, "90 % of pid_max, or of a kubepods pids limit",
        Some(HostPressure), "The node has hardly any process ids left.";
    KernelLimitReached, State, "limits", Node, Fault, raise 0, clear 0, "90 % of the limit",
        Some(HostPressure), "A kernel-wide limit is nearly used up: `what` is files, inotify-instances, inotify-watches, aio or conntrack.";
    LauncherLimitReached, State, "limits", Vm, Fault, raise 0, clear 0, "at the limit",
        None, "A limit of the launcher or QEMU is reached: `what` is pids, files, locked-memory or address-space.";
    UserfaultfdForbidden, State, "limits", Node, Notice, raise 0, clear 0, "vm.unprivileged_userfaultfd is 0",
        None, "Unprivileged processes get no full userfaultfd by its system call: post-copy arrives only at a QEMU that may open /dev/userfaultfd or has CAP_SYS_PTRACE.";
    FilesystemFull, State, "filesystem", Mount, Fault, raise 0, clear 30_000, "97 % of bytes or inodes used",
        Some(HostPressure), "A file system that kubelet, the runtime or KubeVirt uses is full; `what` is bytes or inodes.";
    VmFilesystemFull, State, "filesystem", Vm, Fault, raise 0, clear 30_000, "99 % of bytes or inodes used",
        Some(VmStorageStalled), "The file system under a disk of the VM is full.";
    VmFilesystemReadOnly, State, "filesystem", Vm, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "A file system under a disk that QEMU has open for writing became read-only or was shut down, as after an error; `what` is read-only or shut-down.";
    FilesystemReadOnly, State, "filesystem", Mount, Fault, raise 0, clear 0, "",
        Some(HostPressure), "A file system that the node writes to is mounted read-only after an error.";
    BackendUnreachable, State, "volumes", Mount, Fault, raise 10_000, clear 0, "no answer in 5 s",
        Some(VmStorageStalled), "The server behind a mount or device does not answer; `backend` and `server` say which.";
    PathsFailed, State, "volumes", Device, Fault, raise 5_000, clear 0, "",
        Some(VmStorageStalled), "Paths of a multipath, NVMe-oF, iSCSI or DRBD device are down; `what` is all or some, `queueing` what I/O of a multipath device does without one.";
    DeviceClaimed, State, "volumes", Device, Fault, raise 0, clear 0, "",
        None, "multipath, LVM or md holds a device that a volume needs for itself.";
    StaleDevice, State, "volumes", Vm, Fault, raise 0, clear 0, "",
        Some(VmStorageStalled), "QEMU holds a block device that was removed or replaced.";
    ReplicationSuspended, State, "volumes", Device, Fault, raise 5_000, clear 0, "",
        Some(VmStorageStalled), "A replicated device suspended I/O: quorum lost, no up-to-date replica.";
    DeviceStalled, State, "volumes", Device, Fault, raise 5_000, clear 0, "requests wait and none was finished for 5 s, or device mapper has suspended it",
        Some(VmStorageStalled), "A block device under a VM has requests waiting and finishes none.";
    LinkDown, State, "network", Device, Fault, raise 5_000, clear 5_000, "",
        Some(MigrationPathDegraded), "A network link of the node is down.";
    LinkFlapping, State, "network", Device, Fault, raise 0, clear 600_000, "lost its carrier 3 times in 2 min",
        Some(MigrationPathDegraded), "A network link of the node comes and goes; `measured` is how often it lost its carrier.";
    BridgeMtuDiffers, State, "network", Device, Notice, raise 60_000, clear 0, "",
        None, "The ports of a bridge of the node have different MTUs: it drops what is too large for the port it leaves by, and tells nobody; `device_name` is the port with the smallest, `mtu` that, `limit` the largest.";
    LinkErrors, State, "network", Device, Fault, raise 10_000, clear 60_000, "1 % of the packets of a look, at least 100 packets",
        None, "A network link of the node receives or sends broken packets.";
    ListenQueueFull, State, "network", Node, Notice, raise 0, clear 60_000, "TcpExt ListenOverflows grew",
        None, "A server of the node takes its connections too slowly, and some were dropped; `server` is where one waits.";
    NetworkUnreachable, State, "network", Node, Fault, raise 10_000, clear 10_000, "all packets of a ping lost, or a DNS lookup fails",
        None, "The node does not reach a peer, a name server, the API server or an image's registry; `what` is peer, route, dns, or how far a registry was reached: tcp, tls.";
    MtuMismatch, State, "network", Node, Notice, raise 0, clear 0, "",
        None, "The MTU of a migration's path differs between its ends, or large packets are lost.";
    MigrationPeerSilent, State, "network", NodeOrVm, Notice, raise 5_000, clear 0, "",
        None, "Connections to the other node of a migration get no answer (SYN-SENT, retransmissions); `host_answers` where its host answers to other packets: only the port is silent.";
    PacketFilterDrops, State, "network", Node, Fault, raise 0, clear 0, "",
        Some(MigrationPathDegraded), "A packet filter rule of the node drops or rejects what a migration needs.";
    ClockSkewed, State, "clock", Node, Fault, raise 10_000, clear 30_000, "more than 5 s off, or not synchronised",
        None, "The node's clock is off.";
    IommuMissing, State, "cpu-hardware", Node, Notice, raise 0, clear 0, "",
        None, "The node has no IOMMU groups: no host device can be passed through.";
    DeviceNotBoundToVfio, State, "cpu-hardware", Node, Fault, raise 0, clear 0, "",
        None, "A device that VMs are to get is bound to another driver than vfio-pci.";
    CpuOverheated, Occurrence, "cpu-hardware", Node, Fault, raise 0, clear 0, "",
        Some(HostPressure), "The processors were slowed down because they were too hot; `what` is package or core.";
    ClocksourceSlow, State, "cpu-hardware", Node, Notice, raise 0, clear 0, "hpet, acpi_pm, pit or jiffies",
        None, "The kernel has given up the processor's own clock: every reading of the time is slow, in guests too.";
    SelinuxNotEnforcing, State, "security", Node, Notice, raise 0, clear 0, "",
        None, "SELinux is off or permissive on the node: it denies nothing; `mode` says which.";
    DeviceForbidden, State, "security", Vm, Fault, raise 0, clear 0, "",
        None, "The device cgroup of the VM's container does not allow a device that QEMU needs; `object` is which (version 1 only: version 2 cannot be read).";
    QemuUnconfined, State, "security", Vm, Notice, raise 0, clear 0, "",
        None, "No AppArmor profile, SELinux label or seccomp filter can refuse the VM's QEMU anything; present or absent, `apparmor`, `selinux_label` and `seccomp` say what it has.";
    SoftwareEmulation, State, "launcher", Vm, Notice, raise 0, clear 0, "",
        None, "The VM's QEMU runs without KVM (threads CPU n/TCG).";
    LauncherDefunct, State, "launcher", Vm, Fault, raise 30_000, clear 0, "",
        Some(VirtStackUnresponsive), "virt-launcher is stopped, blocked or gone while the VM's QEMU lives; or its command socket is marked unresponsive or takes no connection.";
    TwoQemus, State, "launcher", Vm, Fault, raise 60_000, clear 0, "",
        None, "Two QEMUs of one VM live and no migration runs.";
    VmLinkLost, State, "launcher", Vm, Fault, raise 10_000, clear 0, "",
        None, "The VM is cut off on its own node: `what` is tap (a tap device that its QEMU has open is gone) or carrier (a link of its pod has none); `device_name` is which link.";
    MigrationOutgoing, State, "migration", Vm, Notice, raise 0, clear 0, "",
        None, "A job of libvirt moves the VM to another node; `phase` is libvirt's, `limited_by` what its copy waits for.";
    MigrationIncoming, State, "migration", Vm, Notice, raise 0, clear 0, "",
        None, "The VM is to arrive from another node: its QEMU waits for a migration or takes one in; `limited_by` is target where it gets no CPU for that.";
    MigrationNotCompleted, Occurrence, "migration", Vm, Fault, raise 0, clear 0, "",
        None, "A migration of the VM ended, and the VM is still on its node; `what` is how the copy went: dirtying, no-bytes, stopped (10 s before the end at least), slow, progressing or unknown.";
    MigrationDirtying, State, "migration", Vm, Fault, raise 0, clear 0, "a round leaves 90 % of what it sent to be sent again, or dirty rate at or above the copy rate over two rounds, remaining not falling",
        None, "The guest dirties memory faster than the migration copies it.";
    MigrationNoBytes, State, "migration", Vm, Fault, raise 20_000, clear 0, "nothing copied in 20 s",
        None, "A migration runs and has copied nothing.";
    MigrationSlow, State, "migration", Vm, Notice, raise 0, clear 0, "below 16 MiB/s",
        None, "A migration copies slowly.";
    MigrationProgressing, State, "migration", Vm, Notice, raise 0, clear 0, "",
        None, "A migration gets nearer to its end.";

    // What Kubernetes' objects show of a VM. Subject: the VM that the object belongs to.
    PodUnschedulable, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "No node fits the pod; `reason` is device, cpu, memory, hugepages, taint, affinity, volume, ports or other, `object` the resource.";
    PodImageWaiting, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A container of the launcher pod waits for its image; `reason` and `image` as the pod says.";
    ImagePresentElsewhere, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "Another node has, or pulled, the image that this pod waits for.";
    LauncherContainerNotReady, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A container of the launcher pod waits, restarts or failed; `container`, `reason`, `exit_code` as the pod says.";
    LauncherRejected, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "The kubelet rejected the launcher pod; `reason` is the pod's (UnexpectedAdmissionError, OutOfcpu, NodeAffinity …).";
    LauncherEvicted, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "The kubelet evicted the launcher pod; `what` is memory, disk, pids or other.";
    LauncherOomKilled, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A container of the launcher pod says OOMKilled; `container` is which.";
    LauncherTerminating, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The launcher pod is being deleted, and is still there.";
    LauncherGone, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "The VMI is shown running and has no launcher pod.";
    VolumeClaimMissing, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A claim or DataVolume of the VM does not exist; `volume` is which.";
    VolumeClaimUnbound, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A claim of the VM is not bound; `volume` is which, `reason` its phase.";
    DataVolumeFailing, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A DataVolume of the VM does not get filled; `volume` is which, `reason` its phase.";
    DataVolumeProgressing, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "A DataVolume of the VM is being filled.";
    VolumeNotAttached, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A volume of the VM is not attached to its node; `detail` is the attacher's error.";
    VolumeAttachedElsewhere, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A volume of the VM is still attached to another node, `other_node`.";
    VolumeDetachPending, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "The detaching of a volume of the VM does not finish.";
    StorageDriverMissing, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The node has no registered CSI driver that a volume of the VM needs, or its node pod is not ready.";
    NodeNotReady, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "Kubernetes says that the node is not ready; `reason` is the condition's, `what` False or Unknown.";
    NodeUnreachableTaint, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The node has the taint node.kubernetes.io/unreachable, or its lease is stale.";
    NodeCordoned, State, "cluster", Node, Notice, raise 0, clear 0, "",
        None, "The node is cordoned, drained or marked for maintenance.";
    NodePressureReported, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The kubelet reports pressure: `what` is memory, disk or pids.";
    NodeNetworkReportedDown, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The node's NetworkUnavailable condition is true.";
    NodeObjectMissing, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The VM is on a node that Kubernetes does not know (any more).";
    KvmNotAllocatable, State, "cluster", Node, Fault, raise 0, clear 0, "",
        Some(KvmUnavailable), "The node offers no devices.kubevirt.io/kvm; `what` is zero (capacity there) or absent (never registered).";
    DevicesNotAllocatable, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The node offers none of KubeVirt's devices (kvm, tun, vhost-net) at all.";
    HostDeviceNotAllocatable, State, "cluster", Node, Fault, raise 0, clear 0, "",
        None, "The node does not offer a host device that the VM asks for; `object` is the resource.";
    VirtHandlerNotReady, State, "cluster", Node, Fault, raise 0, clear 0, "",
        Some(VirtStackUnresponsive), "virt-handler of the node is missing, not ready or crash-looping; `reason` says which.";
    VirtHandlerRestarted, Occurrence, "cluster", Node, Notice, raise 0, clear 0, "",
        None, "virt-handler of the node was started anew.";
    VirtHandlerHeartbeatStale, State, "cluster", Node, Fault, raise 0, clear 0, "5 min without kubevirt.io/heartbeat",
        None, "virt-handler's heartbeat on the node is old, or the node is marked unschedulable for KubeVirt.";
    ControlPlaneNotReady, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "A part of the control plane (virt-controller, virt-api, virt-operator, API server) is not ready; `what` is which.";
    VmiNotMigratable, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The VMI's LiveMigratable condition is false; `reason` is its.";
    VmiPausedBy, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The VMI's Paused condition is true; `reason` is its (PausedByUser, PausedIOError …).";
    VmiFailed, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The VMI's phase is Failed; `reason` is its.";
    GuestAgentLost, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The guest agent was connected and is not any more.";
    GuestPanicked, Occurrence, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "The guest's kernel panicked.";
    StopGraceRunning, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The VM was asked to stop and its grace period is not over.";
    MigrationAbortRequested, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The migration's abort was requested, or its object deleted.";
    MigrationWaitsForSlot, State, "cluster", Vm, Notice, raise 0, clear 0, "the parallel-migration limits of KubeVirt's configuration",
        None, "As many migrations run as KubeVirt's configuration allows; `what` is cluster or node.";
    MigrationWaitsForSync, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The migration waits for utility volumes, a backup or another cluster.";
    MigrationTargetFailed, State, "cluster", Vm, Fault, raise 0, clear 0, "",
        None, "The migration's target pod failed, ended or was deleted.";
    MigrationTargetPending, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The migration's target pod is not ready.";
    MigrationTimedOut, State, "cluster", Vm, Notice, raise 0, clear 0, "completionTimeoutPerGiB or progressTimeout",
        None, "KubeVirt ended the migration because a time limit of its configuration was over; `what` is completion or progress.";
    MigrationCapped, State, "cluster", Vm, Notice, raise 0, clear 0, "bandwidthPerMigration below 64 MiB/s",
        None, "KubeVirt's configuration or a MigrationPolicy caps the migration's bandwidth.";
    MigrationsMany, State, "cluster", Vm, Notice, raise 0, clear 0, "12 in 24 h",
        None, "The VM was migrated many times; `initiator` is who asked for most of them.";
    LauncherVersionsDiffer, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "Source and target, or launcher and control plane, run different KubeVirt images.";
    CpuModelsDiffer, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "Source and target node offer different CPU models or features, or none fits the VM's.";
    KernelsDiffer, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "Source and target node run different kernels.";
    LimitNearGuestMemory, State, "cluster", Vm, Notice, raise 0, clear 0, "memory limit below guest memory and 100 MiB",
        None, "The launcher's memory limit leaves no room for QEMU beside the guest's memory.";
    EvictionPending, State, "cluster", Vm, Notice, raise 0, clear 0, "",
        None, "The VM is to leave its node (evacuation) and is still there.";

    ProblemCondition, State, "npd", Problem, Notice, raise 0, clear 0, "as the rule file says",
        None, "A condition of an own node-problem-detector rule holds; `reason` is the rule's.";
    ProblemEvent, Occurrence, "npd", Problem, Notice, raise 0, clear 0, "",
        None, "A temporary rule of an own node-problem-detector file matched; `reason` is the rule's.";

    ProbeBlind, State, "agent", Probe, Notice, raise 0, clear 0, "",
        None, "A probe could not look; what it owns is unknown.";
}

/// Probes whose findings come from recorded cases only so far: no agent looks for them yet.
pub const ONLY_RECORDED: &[&str] = &["cluster"];

/// The probe of what texts say in a recorded case, where it matters little which log a line stood in.
pub const TEXT: &str = "text";

/// The probes of an agent that read texts: what is looked for in [`TEXT`] is looked for by them.
pub const TEXT_PROBES: [&str; 2] = ["journal", "container-log"];

impl FindingCode {
    /// Its row in the catalogue.
    #[must_use]
    pub const fn spec(self) -> &'static FindingSpec {
        &CATALOGUE[self as usize]
    }

    /// The probes that show it, each where the others cannot see it: it did not happen only where all of them looked.
    pub fn shown_by(self) -> impl Iterator<Item = &'static str> {
        // Where auditd runs, denials go to its file, and to `/dev/kmsg` no more.
        let other = (self == Self::SecurityDenied).then_some("container-log");
        [self.spec().probe].into_iter().chain(other)
    }
}

impl fmt::Display for FindingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text is no code of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not in the finding catalogue of this version")]
pub struct UnknownFindingCode(String);

impl FromStr for FindingCode {
    type Err = UnknownFindingCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        CATALOGUE
            .iter()
            .find(|spec| spec.code.as_str() == text)
            .map(|spec| spec.code)
            .ok_or_else(|| UnknownFindingCode(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_at_its_own_index_and_reads_back() {
        for (index, spec) in CATALOGUE.iter().enumerate() {
            assert_eq!(spec.code as usize, index, "{}", spec.code);
            assert_eq!(spec.code.as_str().parse(), Ok(spec.code));
        }
    }

    #[test]
    fn occurrences_have_no_holds() {
        for spec in CATALOGUE.iter().filter(|spec| spec.kind == Kind::Occurrence) {
            assert_eq!((spec.raise_after_ms, spec.clear_after_ms), (0, 0), "{}", spec.code);
        }
    }

    #[test]
    fn every_condition_is_fed_by_what_an_agent_looks_for() {
        for condition in NodeCondition::ALL {
            assert!(condition.findings().any(|spec| !ONLY_RECORDED.contains(&spec.probe)), "{condition}");
        }
    }

    #[test]
    fn every_meaning_is_a_sentence() {
        for spec in CATALOGUE {
            assert!(spec.meaning.ends_with('.') && spec.meaning.len() > 20, "{}", spec.code);
        }
    }
}
