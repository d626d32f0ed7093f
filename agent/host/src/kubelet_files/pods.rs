//! The kubelet's folders of pods, and which pods have a container: what a pod left behind is a folder with volumes and no container.
//!
//! A container is seen by its cgroup, a child of its pod's, whoever made it; the kubelet keeps the pod's own cgroup for as long as
//! there are volumes. A pod that only waits for its volumes has never had a container, which the folder `containers` shows. No folder
//! of a volume is opened, only listed. Sources: kubelet `pkg/kubelet/kubelet_getters.go`, `kubelet_pods.go`
//! (`cleanupOrphanedPodCgroups`).

use std::collections::BTreeMap;

use super::{KUBELET_ROOT, KubeletArgs};
use crate::cgroup::parse_pod_cgroup;
use crate::{HostRoot, ReadError};

/// Hierarchies in which pods have their cgroups: version 2, and those of version 1 that every kubelet uses.
const HIERARCHIES: [&str; 5] =
    ["sys/fs/cgroup", "sys/fs/cgroup/systemd", "sys/fs/cgroup/memory", "sys/fs/cgroup/pids", "sys/fs/cgroup/unified"];
/// The kubelet's own cgroup there: both drivers, and those of nested kubelets (kind, minikube).
const KUBEPODS: [&str; 4] = ["kubepods", "kubepods.slice", "kubelet/kubepods", "kubelet.slice/kubelet-kubepods.slice"];
/// Most pods that are looked at: kubelet's own limit is 110, large nodes have 500.
const MAX_PODS: usize = 2048;

/// A pod without a container that has volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLeftover {
    /// UID of the pod, the folder's name.
    pub pod_uid: String,
    /// `kubernetes.io~csi/pvc-1`.
    pub volumes: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFolders {
    /// Number of pod folders.
    pub n_pods: usize,
    /// Those of pods that ran, have no container any more and still have volumes; by UID.
    pub leftovers: Vec<PodLeftover>,
}

/// Looks at the folders of pods; `None` when there are none.
///
/// # Errors
/// `NotFound` when there is no kubelet's cgroup to compare them with. What vanishes while it is read is not there.
pub fn read_pod_folders(root: &HostRoot, args: &KubeletArgs) -> Result<Option<PodFolders>, ReadError> {
    let folder = format!("{}/pods", args.root_dir.as_deref().unwrap_or(KUBELET_ROOT));
    let Some(uids) = list(root, &folder)? else { return Ok(None) };
    let alive = read_container_counts(root)?;
    let mut found = PodFolders { n_pods: uids.len(), leftovers: Vec::new() };
    for pod_uid in uids.into_iter().take(MAX_PODS) {
        if alive.get(&pod_uid).is_some_and(|n_containers| *n_containers > 0) {
            continue;
        }
        let has_run = list(root, &format!("{folder}/{pod_uid}/containers"))?.is_some_and(|names| !names.is_empty());
        let mut volumes = Vec::new();
        for kind in ["volumes", "volumeDevices"] {
            for plugin in list(root, &format!("{folder}/{pod_uid}/{kind}"))?.unwrap_or_default() {
                let names = list(root, &format!("{folder}/{pod_uid}/{kind}/{plugin}"))?.unwrap_or_default();
                volumes.extend(names.into_iter().map(|name| format!("{plugin}/{name}")));
            }
        }
        if has_run && !volumes.is_empty() {
            found.leftovers.push(PodLeftover { pod_uid, volumes });
        }
    }
    Ok(Some(found))
}

/// How many containers each pod has, by its UID.
fn read_container_counts(root: &HostRoot) -> Result<BTreeMap<String, usize>, ReadError> {
    for hierarchy in HIERARCHIES {
        for kubepods in KUBEPODS {
            let top = format!("{hierarchy}/{kubepods}");
            let Some(names) = list(root, &top)? else { continue };
            let mut counts = BTreeMap::new();
            for name in names {
                let path = format!("{top}/{name}");
                if let Some(pod) = parse_pod_cgroup(&format!("/{name}")) {
                    counts.insert(pod.pod_uid, count_containers(root, &path)?);
                } else if name.contains("burstable") || name.contains("besteffort") {
                    for pod_name in list(root, &path)?.unwrap_or_default() {
                        if let Some(pod) = parse_pod_cgroup(&format!("/{pod_name}")) {
                            counts.insert(pod.pod_uid, count_containers(root, &format!("{path}/{pod_name}"))?);
                        }
                    }
                }
            }
            return Ok(counts);
        }
    }
    Err(ReadError::NotFound { path: root.display_path(HIERARCHIES[0]).join(KUBEPODS[0]) })
}

/// Child cgroups that are a container's: their name ends in 64 hex digits, or is CRI-O's for its helper.
fn count_containers(root: &HostRoot, pod: &str) -> Result<usize, ReadError> {
    let names = list(root, pod)?.unwrap_or_default();
    let is_container = |name: &&String| {
        let id = name.strip_suffix(".scope").unwrap_or(name).rsplit('-').next().unwrap_or_default();
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    Ok(names.iter().filter(is_container).count())
}

fn list(root: &HostRoot, path: &str) -> Result<Option<Vec<String>>, ReadError> {
    match root.list(path) {
        Ok(names) => Ok(Some(names.into_iter().filter_map(|name| name.into_string().ok()).collect())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "bf9425ec-5840-4979-be30-4f8fba039b75";
    const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(layout: &str, container: Option<&str>, has_run: bool, volume: Option<&str>, want: usize) {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: String| std::fs::create_dir_all(dir.path().join(path)).unwrap();
        make(format!("sys/fs/cgroup/{layout}"));
        if let Some(container) = container {
            make(format!("sys/fs/cgroup/{layout}/{container}"));
        }
        make(format!("var/lib/kubelet/pods/{UID}/volumes"));
        if has_run {
            make(format!("var/lib/kubelet/pods/{UID}/containers/compute"));
        }
        if let Some(volume) = volume {
            make(format!("var/lib/kubelet/pods/{UID}/volumes/{volume}"));
        }
        let found = read_pod_folders(&HostRoot::new(dir.path()), &KubeletArgs::default()).unwrap().unwrap();
        assert_eq!((found.n_pods, found.leftovers.len()), (1, want), "{layout} {container:?} {has_run} {volume:?}");
    }

    #[test]
    fn what_a_pod_left_behind_is_volumes_without_a_container_on_every_layout() {
        let csi = Some("kubernetes.io~csi/pvc-1");
        let (v1, v1_container) = (format!("memory/kubepods/burstable/pod{UID}"), CONTAINER.to_owned());
        let underscored = UID.replace('-', "_");
        let slice = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice");
        let guaranteed = format!("systemd/kubepods.slice/kubepods-pod{underscored}.slice");
        for (layout, container) in [
            (&v1, v1_container.as_str()),
            (&slice, &format!("cri-containerd-{CONTAINER}.scope")),
            (&guaranteed, &format!("crio-{CONTAINER}.scope")),
        ] {
            check(layout, Some(container), true, csi, 0);
            check(layout, None, true, csi, 1);
            check(layout, None, true, None, 0);
            check(layout, None, false, csi, 0);
            check(layout, Some("housekeeping"), true, csi, 1);
        }
        check("kubepods", None, true, csi, 1);
    }

    #[test]
    fn without_a_kubelets_cgroup_or_its_folder_nobody_knows() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(read_pod_folders(&root, &KubeletArgs::default()).unwrap(), None);
        std::fs::create_dir_all(dir.path().join("var/lib/kubelet/pods").join(UID)).unwrap();
        let error = read_pod_folders(&root, &KubeletArgs::default()).unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("kubepods"), "{error}");
    }
}
