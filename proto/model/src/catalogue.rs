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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeCondition {
    /// `kulprit.io/KvmUnavailable`
    KvmUnavailable,
    /// `kulprit.io/VirtStackUnresponsive`
    VirtStackUnresponsive,
    /// `kulprit.io/VmStorageStalled`
    VmStorageStalled,
    /// `kulprit.io/HostPressure`
    HostPressure,
    /// `kulprit.io/KubeletDegraded`
    KubeletDegraded,
}

impl NodeCondition {
    /// The condition type without its prefix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KvmUnavailable => "KvmUnavailable",
            Self::VirtStackUnresponsive => "VirtStackUnresponsive",
            Self::VmStorageStalled => "VmStorageStalled",
            Self::HostPressure => "HostPressure",
            Self::KubeletDegraded => "KubeletDegraded",
        }
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

use NodeCondition::{HostPressure, KubeletDegraded, KvmUnavailable, VirtStackUnresponsive, VmStorageStalled};

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
    KernelLogLost, Occurrence, "kernel-log", Node, Notice, raise 0, clear 0, "",
        None, "Kernel log lines were overwritten before they could be read.";

    ProbeBlind, State, "agent", Probe, Notice, raise 0, clear 0, "",
        None, "A probe could not look; what it owns is unknown.";
}

impl FindingCode {
    /// Its row in the catalogue.
    #[must_use]
    pub const fn spec(self) -> &'static FindingSpec {
        &CATALOGUE[self as usize]
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
    fn every_meaning_is_a_sentence() {
        for spec in CATALOGUE {
            assert!(spec.meaning.ends_with('.') && spec.meaning.len() > 20, "{}", spec.code);
        }
    }
}
