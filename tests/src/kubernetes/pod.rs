//! A launcher as a pod of the cluster, as virt-controller makes it.
//!
//! Labels, annotations, volumes and restart policy are KubeVirt's (`pkg/virt-controller/services/template.go`, v1.8). The container is
//! privileged, because KubeVirt's device plugins are not here; the node's `/usr` and `/etc` stand for the launcher's image.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Cluster, images};
use crate::launcher::{EMPTY_DIRS, Keeper, Launcher, LauncherBuilder};
use crate::wait;

/// How long a namespace may take to have its service account, and a pod until its container runs; one second and three are normal.
const POD_LIMIT: Duration = Duration::from_secs(60);

/// A launcher's pod that was asked for, and that nobody waits for; deleted when dropped.
#[derive(Debug)]
pub struct Requested<'cluster> {
    cluster: &'cluster Cluster,
    namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) address: String,
}

impl Drop for Requested<'_> {
    fn drop(&mut self) {
        self.cluster.delete_pod(&self.namespace, &self.name);
    }
}

impl Cluster {
    /// Asks for a launcher as a real pod with that image, which its node is to pull if it has it not, and returns at once.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn request(&self, launcher: &LauncherBuilder<'_>, image: &str) -> Result<Requested<'_>> {
        let (namespace, name) = (launcher.identity.namespace.clone(), launcher.identity.pod_name.clone());
        let mut pod = manifest(launcher);
        let compute = &mut pod["spec"]["containers"][0];
        compute["image"] = image.into();
        compute["imagePullPolicy"] = "IfNotPresent".into();
        self.ask_for(launcher, &pod)?;
        let object = self.get(&["pod", "--namespace", &namespace, &name])?;
        let uid = object["metadata"]["uid"].as_str().context("the API server gives a UID")?.to_owned();
        let (node, address) = (launcher.node.name().to_owned(), launcher.node.address().to_owned());
        Ok(Requested { cluster: self, namespace, name, uid, node, address })
    }

    /// Runs a launcher as a real pod on its node, and returns when its guest runs, or, for a migration, when it is ready.
    ///
    /// # Errors
    /// If the pod does not come up: its status, or the end of its log.
    pub fn launch<'node>(&'node self, launcher: LauncherBuilder<'node>) -> Result<Launcher<'node>> {
        let (namespace, pod) = (launcher.identity.namespace.clone(), launcher.identity.pod_name.clone());
        self.ask_for(&launcher, &manifest(&launcher))?;
        let keeper = Keeper::Pod(self);
        let ran = wait::wait_for(&format!("pod {pod} to run"), POD_LIMIT, || {
            let object = self.get(&["pod", "--namespace", &namespace, &pod])?;
            let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
            Ok(uid.filter(|_| object["status"]["phase"] == "Running"))
        });
        match ran {
            Ok((pod_uid, _)) => launcher.wait_until_up(keeper, pod_uid),
            Err(error) => {
                let status = self.kubectl(&["describe", "pod", "--namespace", &namespace, &pod]).unwrap_or_default();
                self.delete_pod(&namespace, &pod);
                Err(error).context(status)
            }
        }
    }

    /// Has a launcher's files written, and its pod created.
    fn ask_for(&self, launcher: &LauncherBuilder<'_>, pod: &Value) -> Result<()> {
        launcher.write_files()?;
        self.ensure_namespace(&launcher.identity.namespace)?;
        self.create(pod)
    }

    /// Deletes a pod without grace; what is gone already is as good.
    pub(crate) fn delete_pod(&self, namespace: &str, pod: &str) {
        let _ = self.kubectl(&[
            "delete",
            "pod",
            "--namespace",
            namespace,
            pod,
            "--grace-period=0",
            "--force",
            "--wait=false",
        ]);
    }

    /// Makes a namespace that pods are admitted to; one that is there is as good.
    ///
    /// # Errors
    /// If the API server refuses, or its service account does not come.
    pub fn ensure_namespace(&self, name: &str) -> Result<()> {
        if self.get(&["namespace", name]).is_err() {
            self.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        }
        // Without it no pod is admitted.
        let has_account = || Ok(self.get(&["serviceaccount", "--namespace", name, "default"]).is_ok());
        wait::wait_until("the namespace's service account", POD_LIMIT, has_account).map(drop)
    }
}

fn manifest(launcher: &LauncherBuilder<'_>) -> Value {
    let user = launcher.identity.user();
    // Who may open `/dev/kvm`; KubeVirt's virt-handler gives the device in the container to the user instead.
    let kvm_group = fs::metadata(launcher.node.root().join("dev/kvm")).map_or(user, |device| device.gid());
    let identity = &launcher.identity;
    let mount =
        |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only});
    let host_path = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    let mut mounts = vec![mount("usr", "/usr", true), mount("etc", "/etc", true)];
    let mut volumes = vec![
        host_path("usr", "/usr"),
        host_path("etc", "/etc"),
        host_path("rootdisk", &launcher.folder.to_string_lossy()),
    ];
    mounts.extend(EMPTY_DIRS.map(|(name, path)| mount(name, path, false)));
    volumes.extend(EMPTY_DIRS.map(|(name, _)| json!({"name": name, "emptyDir": {}})));
    mounts.push(mount("rootdisk", "/run/kubevirt-private/vmi-disks/rootdisk", false));
    let mut resources = json!({"requests": {"cpu": "10m", "memory": "64Mi"}});
    if let Some(mib) = launcher.memory_limit_mib {
        resources["limits"] = json!({"memory": format!("{mib}Mi")});
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": identity.pod_name,
            "namespace": identity.namespace,
            "labels": {
                "kubevirt.io": "virt-launcher",
                "kubevirt.io/created-by": identity.vmi_uid,
                "kubevirt.io/nodeName": launcher.node.name(),
                "vm.kubevirt.io/name": identity.name,
            },
            "annotations": {
                "kubevirt.io/domain": identity.name,
                "kubectl.kubernetes.io/default-container": "compute",
            },
        },
        "spec": {
            "hostname": identity.name,
            "nodeSelector": {"kubernetes.io/hostname": launcher.node.name()},
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 60,
            "securityContext": {"runAsUser": user, "runAsGroup": user, "fsGroup": user, "supplementalGroups": [kvm_group]},
            "containers": [{
                "name": "compute",
                "image": images::LAUNCHER,
                "imagePullPolicy": "Never",
                "command": identity.command_line(),
                "env": [{"name": "PATH", "value": "/usr/sbin:/usr/bin:/sbin:/bin"}],
                "resources": resources,
                "securityContext": {"privileged": true},
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}
