//! Launcher pods as virt-controller makes them, and their status as kubelet writes it.
//!
//! Objects only: bound to a node on which no kubelet runs them. Labels, annotations, containers, volumes and readiness gate are those of
//! a pod that KubeVirt v1.8.4 made (`pkg/virt-controller/services/template.go`), without what no diagnosis could read.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{set_condition, stamp};
use super::vm::VmSpec;
use crate::launcher::EMPTY_DIRS;

/// The gate that KubeVirt closes while a guest is paused.
const UNPAUSED: &str = "kubevirt.io/virtual-machine-unpaused";

/// Whose target a pod is: UID and name of the migration.
pub(super) struct TargetOf<'a> {
    pub(super) uid: &'a str,
    pub(super) name: &'a str,
}

/// The launcher pod of a VMI, on a node or, without one, for the scheduler.
pub(super) fn launcher(spec: &VmSpec, vmi_uid: &str, node: Option<&str>, target_of: Option<&TargetOf<'_>>) -> Value {
    let (namespace, name) = (&spec.namespace, &spec.name);
    let grace = spec.grace_secs + 15;
    let mut volumes: Vec<Value> = EMPTY_DIRS.iter().map(|(name, _)| json!({"name": name, "emptyDir": {}})).collect();
    let mut mounts: Vec<Value> = EMPTY_DIRS.iter().map(|(name, at)| json!({"name": name, "mountPath": at})).collect();
    for claim in &spec.claims {
        volumes.push(json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
        mounts.push(json!({"name": claim, "mountPath": format!("/var/run/kubevirt-private/vmi-disks/{claim}")}));
    }
    let mut selector = json!({"kubernetes.io/arch": "amd64", "kubevirt.io/schedulable": "true"});
    for (key, value) in &spec.node_selector {
        selector[key] = value.as_str().into();
    }
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("virt-launcher-{name}-"),
            "namespace": namespace,
            "labels": {
                "kubevirt.io": "virt-launcher",
                "kubevirt.io/created-by": vmi_uid,
                "vm.kubevirt.io/name": name,
                "vmi.kubevirt.io/id": name,
            },
            "annotations": {
                "kubectl.kubernetes.io/default-container": "compute",
                "kubevirt.io/domain": name,
                "kubevirt.io/migrationTransportUnix": "true",
            },
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": name, "uid": vmi_uid,
                "blockOwnerDeletion": true, "controller": true,
            }],
        },
        "spec": {
            "hostname": name,
            "nodeSelector": selector,
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace + 15,
            "readinessGates": [{"conditionType": UNPAUSED}],
            "containers": [{
                "name": "compute",
                "image": image(),
                "command": [
                    "/usr/bin/virt-launcher-monitor", "--qemu-timeout", "279s", "--name", name, "--uid", vmi_uid,
                    "--namespace", namespace, "--grace-period-seconds", grace.to_string(), "--run-as-nonroot",
                ],
                "resources": {
                    "limits": {"devices.kubevirt.io/kvm": "1"},
                    "requests": {"cpu": "50m", "memory": "300Mi", "devices.kubevirt.io/kvm": "1"},
                },
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    if let Some(TargetOf { uid, name }) = target_of {
        pod["metadata"]["labels"]["kubevirt.io/migrationJobUID"] = (*uid).into();
        pod["metadata"]["annotations"]["kubevirt.io/migrationJobName"] = (*name).into();
    }
    pod
}

pub(super) fn image() -> String {
    format!("registry.example/kubevirt/virt-launcher:{}", super::VERSION)
}

/// What kubelet says of a pod it has taken and whose containers are yet to come.
pub(super) fn begin(pod: &mut Value, address: &str, at: Timestamp) {
    pod["status"]["startTime"] = stamp(at).into();
    pod["status"]["hostIP"] = address.into();
    pod["status"]["hostIPs"] = json!([{"ip": address}]);
    set_condition(pod, "PodScheduled", true, None, at);
    let unready = format!("containers with unready status: {:?}", container_names(pod)).replace('"', "");
    for kind in ["Ready", "ContainersReady"] {
        set_condition(pod, kind, false, Some(("ContainersNotReady", &unready)), at);
    }
    set_condition(pod, "Initialized", true, None, at);
    set_containers(pod, &json!({"waiting": {"reason": "ContainerCreating"}}), false);
}

/// What kubelet says of a pod whose containers run; a gate of its readiness is open.
pub(super) fn run(pod: &mut Value, address: &str, at: Timestamp) {
    begin(pod, address, at);
    pod["status"]["phase"] = "Running".into();
    for kind in ["Ready", "ContainersReady", "PodReadyToStartContainers"] {
        set_condition(pod, kind, true, None, at);
    }
    if pod["spec"]["readinessGates"].is_array() {
        set_condition(pod, UNPAUSED, true, Some(("NotPaused", "the virtual machine is not paused")), at);
    }
    set_containers(pod, &json!({"running": {"startedAt": stamp(at)}}), true);
}

/// What kubelet says of a pod whose containers have ended well.
pub(super) fn complete(pod: &mut Value, at: Timestamp) {
    pod["status"]["phase"] = "Succeeded".into();
    for kind in ["Ready", "ContainersReady"] {
        set_condition(pod, kind, false, Some(("PodCompleted", "")), at);
    }
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": stamp(at)}});
    set_containers(pod, &ended, false);
}

fn container_names(pod: &Value) -> Vec<String> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
}

fn set_containers(pod: &mut Value, state: &Value, is_ready: bool) {
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let status = |container: &Value| {
        json!({
            "name": container["name"], "image": container["image"], "imageID": "", "ready": is_ready,
            "started": is_ready, "restartCount": 0, "state": state, "lastState": {},
        })
    };
    pod["status"]["containerStatuses"] = containers.iter().map(status).collect();
}
