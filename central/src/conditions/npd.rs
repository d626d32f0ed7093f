//! The conditions of node-problem-detector that our findings come to, for clusters that put Kulprit in its place.
//!
//! They are its names, reasons and polarity (True is bad), so that what reads them goes on as it did. Written only with
//! `npd_mode: replace`: where node-problem-detector runs its types are its own. What it knows and our findings do not say in its sense
//! (`XfsShutdown`, `NTPProblem`, the restarts of containerd, Docker and network devices) nobody writes then.
//! Source: node-problem-detector `config/kernel-monitor.json`, `readonly-monitor.json`, `health-checker-kubelet.json`,
//! `health-checker-containerd.json`, `systemd-monitor-counter.json`.

use kulprit_model::{
    FindingCode::{
        self, FilesystemReadOnly, FilesystemRemountedReadOnly, HardwareMemoryError, KernelStalled,
        KubeletHealthzFailing, KubeletInactive, KubeletProcessStalled, KubeletRestartLoop, RuntimeInactive,
        RuntimeUnresponsive,
    },
    catalogue::ONLY_RECORDED,
};
use serde::{Deserialize, Serialize};

/// What is done with node-problem-detector's condition types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NpdMode {
    /// They are never written.
    #[default]
    Coexist,
    /// They are written, as far as our findings come to them.
    Replace,
}

/// A condition type of node-problem-detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NpdCondition {
    /// The kernel does not get on.
    KernelDeadlock,
    /// A file system that the node writes to is read-only.
    ReadonlyFilesystem,
    /// The hardware reported an error that it could not correct.
    CperHardwareErrorFatal,
    /// The kubelet does not run or does not answer.
    KubeletUnhealthy,
    /// The kubelet is restarted again and again.
    FrequentKubeletRestart,
    /// The container runtime does not run or does not answer.
    ContainerRuntimeUnhealthy,
}

/// What feeds each; a finding feeds one at most.
const FEEDS: &[(FindingCode, NpdCondition)] = &[
    (KernelStalled, NpdCondition::KernelDeadlock),
    (FilesystemReadOnly, NpdCondition::ReadonlyFilesystem),
    (FilesystemRemountedReadOnly, NpdCondition::ReadonlyFilesystem),
    (HardwareMemoryError, NpdCondition::CperHardwareErrorFatal),
    (KubeletInactive, NpdCondition::KubeletUnhealthy),
    (KubeletHealthzFailing, NpdCondition::KubeletUnhealthy),
    (KubeletProcessStalled, NpdCondition::KubeletUnhealthy),
    (KubeletRestartLoop, NpdCondition::FrequentKubeletRestart),
    (RuntimeInactive, NpdCondition::ContainerRuntimeUnhealthy),
    (RuntimeUnresponsive, NpdCondition::ContainerRuntimeUnhealthy),
];

impl NpdCondition {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KernelDeadlock,
        Self::ReadonlyFilesystem,
        Self::CperHardwareErrorFatal,
        Self::KubeletUnhealthy,
        Self::FrequentKubeletRestart,
        Self::ContainerRuntimeUnhealthy,
    ];

    /// The type as Kubernetes has it; it has no prefix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KernelDeadlock => "KernelDeadlock",
            Self::ReadonlyFilesystem => "ReadonlyFilesystem",
            Self::CperHardwareErrorFatal => "CperHardwareErrorFatal",
            Self::KubeletUnhealthy => "KubeletUnhealthy",
            Self::FrequentKubeletRestart => "FrequentKubeletRestart",
            Self::ContainerRuntimeUnhealthy => "ContainerRuntimeUnhealthy",
        }
    }

    /// The reason while it is `False`.
    #[must_use]
    pub const fn well(self) -> &'static str {
        match self {
            Self::KernelDeadlock => "KernelHasNoDeadlock",
            Self::ReadonlyFilesystem => "FilesystemIsNotReadOnly",
            Self::CperHardwareErrorFatal => "CperHardwareHasNoFatalError",
            Self::KubeletUnhealthy => "KubeletIsHealthy",
            Self::FrequentKubeletRestart => "NoFrequentKubeletRestart",
            Self::ContainerRuntimeUnhealthy => "ContainerRuntimeIsHealthy",
        }
    }

    /// The reason while it is `True`. node-problem-detector's own for a kernel names Docker, and its own for a runtime containerd, which
    /// may be another here: there it is the kernel's and the type.
    #[must_use]
    pub const fn fault(self) -> &'static str {
        match self {
            Self::KernelDeadlock => "KernelStalled",
            Self::ReadonlyFilesystem => "FilesystemIsReadOnly",
            Self::CperHardwareErrorFatal => "CperHardwareErrorFatal",
            Self::KubeletUnhealthy => "KubeletUnhealthy",
            Self::FrequentKubeletRestart => "FrequentKubeletRestart",
            Self::ContainerRuntimeUnhealthy => "ContainerRuntimeUnhealthy",
        }
    }

    /// What feeds it.
    pub fn findings(self) -> impl Iterator<Item = FindingCode> {
        FEEDS.iter().filter(move |(_, fed)| *fed == self).map(|(code, _)| *code)
    }

    /// What a finding feeds.
    pub(super) fn fed_by(code: FindingCode) -> Option<Self> {
        FEEDS.iter().find(|(own, _)| *own == code).map(|(_, fed)| *fed)
    }

    /// The agent's probes that look for what feeds it, each once.
    pub(super) fn probes(self) -> Vec<&'static str> {
        let mut probes: Vec<&str> = self.findings().map(|code| code.spec().probe).collect();
        probes.retain(|probe| !ONLY_RECORDED.contains(probe));
        probes.sort_unstable();
        probes.dedup();
        probes
    }
}

/// Whether it is the type of one of these.
#[must_use]
pub fn is_type(name: &str) -> bool {
    NpdCondition::ALL.into_iter().any(|condition| condition.as_str() == name)
}
