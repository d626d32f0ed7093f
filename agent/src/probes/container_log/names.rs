//! What the names of folders and files below `/var/log/pods` tell.

use kulprit_judge::said::{LogSource, Speaker, speaker_of_pod};

/// Where the kubelet keeps the logs of pods, below the host's root.
pub(crate) const PODS: &str = "/var/log/pods";

/// A pod, by its folder's name: `<namespace>_<name>_<uid>`.
///
/// Source: Kubernetes `pkg/kubelet/kuberuntime/helpers.go` BuildPodLogsDirectory. Static pods have a hash for a UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodName {
    pub(crate) fn parse(folder: &str) -> Option<Self> {
        let mut parts = folder.split('_');
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        let is_well = parts.next().is_none() && [namespace, name, uid].iter().all(|part| !part.is_empty());
        is_well.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
    }

    /// Whether VMs depend on what speaks there.
    pub(crate) fn is_of_interest(&self, container: &str) -> bool {
        match speaker_of_pod(&self.name, container) {
            Speaker::Launcher
            | Speaker::LauncherSidecar
            | Speaker::Handler
            | Speaker::Csi
            | Speaker::Cni
            | Speaker::Cdi => true,
            Speaker::Kubelet
            | Speaker::Runtime
            | Speaker::Controller
            | Speaker::Libvirt
            | Speaker::Qemu
            | Speaker::Scheduler
            | Speaker::ControllerManager
            | Speaker::ApiServer
            | Speaker::Host
            | Speaker::Other => false,
        }
    }

    pub(crate) fn is_launcher(&self) -> bool {
        speaker_of_pod(&self.name, "") == Speaker::Launcher
    }

    pub(crate) fn source(&self, container: &str) -> LogSource {
        LogSource::Pod {
            speaker: speaker_of_pod(&self.name, container),
            namespace: self.namespace.clone(),
            pod: self.name.clone(),
            container: container.to_owned(),
        }
    }
}

/// The logs of a container that are followed: its newest one and the one before, with the restarts in their names, oldest
/// first. What a container said last before it was restarted stands in the one before.
pub(crate) fn newest_logs(names: &[String]) -> Vec<u32> {
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.split_off(numbers.len().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_by_their_folders_name() {
        let pod = PodName::parse("prod_virt-launcher-db-0-x7k2p_1c2c0d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e").unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("prod", "virt-launcher-db-0-x7k2p"));
        assert!(pod.is_launcher() && pod.is_of_interest("compute") && pod.is_of_interest("volumerootdisk"));
        for wrong in ["", "a_b", "a_b_c_d", "_b_c", "a__c", "a_b_"] {
            assert_eq!(PodName::parse(wrong), None, "{wrong}");
        }
        let of_interest = |folder: &str, container| PodName::parse(folder).unwrap().is_of_interest(container);
        assert!(of_interest("kubevirt_virt-handler-4x8rk_u", "virt-handler"));
        assert!(of_interest("rook-ceph_csi-rbdplugin-9xk2p_u", "driver-registrar"));
        assert!(of_interest("kube-system_agent-9xk2p_u", "cilium-agent"), "by its container");
        assert!(!of_interest("prod_db-0_u", "postgres"));
        assert!(!of_interest("kubevirt_virt-controller-6b_u", "virt-controller"));
    }

    #[test]
    fn the_newest_log_of_a_container_and_the_one_before_are_followed() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(newest_logs(&names(&["10.log", "9.log", "8.log", "9.log.20261121-064207", "x.log"])), [9, 10]);
        assert_eq!(newest_logs(&names(&["0.log"])), [0]);
        assert!(newest_logs(&[]).is_empty());
    }
}
