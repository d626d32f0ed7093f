//! Objects as Kubernetes and KubeVirt write them, of a cluster in which everything is well, as far as a diagnosis reads them.
//!
//! VM number `n` is on node `n / 10`. Each has a launcher and the pod that it had before its last migration. Source of the
//! forms: KubeVirt v1.6, `kubectl get … -o json`.

use serde_json::{Value, json};

const BEGAN: &str = "2026-03-01T09:00:00Z";
const IMAGE: &str = "registry.example/kubevirt/virt-launcher:v1.6.0";

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node:04}")
}

pub(crate) fn namespace(vm: usize) -> String {
    format!("team-{:02}", vm % 50)
}

pub(crate) fn vm_name(vm: usize) -> String {
    format!("vm-{vm:05}")
}

pub(crate) fn uid(vm: usize) -> String {
    format!("0b2c0b2c-0000-4000-8000-{vm:012}")
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "lastTransitionTime": BEGAN})
}

pub(crate) fn node(node: usize, heartbeat: usize) -> Value {
    let images: Vec<Value> = (0..20)
        .map(|image| json!({"names": [format!("registry.example/image-{image}:v1")], "sizeBytes": 100_000_000}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(node), "uid": format!("uid-of-{node}"),
            "labels": {"kubernetes.io/hostname": node_name(node), "kubevirt.io/schedulable": "true"},
            "annotations": {"kubevirt.io/heartbeat": heartbeat.to_string()}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "64", "memory": "256Gi", "devices.kubevirt.io/kvm": "1k", "pods": "250"},
            "capacity": {"cpu": "64", "memory": "256Gi", "devices.kubevirt.io/kvm": "1k", "pods": "250"},
            "nodeInfo": {"kernelVersion": "6.12.0"}, "images": images,
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"),
                condition("DiskPressure", "False"), condition("PIDPressure", "False")]}})
}

pub(crate) fn lease(node: usize, renewed: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": "kube-node-lease", "name": node_name(node)},
        "spec": {"holderIdentity": node_name(node), "leaseDurationSeconds": 40, "renewTime": renewed}})
}

pub(crate) fn vm(vm: usize) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"namespace": namespace(vm), "name": vm_name(vm), "uid": format!("vm-{}", uid(vm)),
            "creationTimestamp": BEGAN},
        "spec": {"runStrategy": "Always", "template": {"spec": {"terminationGracePeriodSeconds": 180,
            "volumes": volumes(vm)}}},
        "status": {"printableStatus": "Running", "conditions": [condition("Ready", "True")]}})
}

fn claim_name(vm: usize) -> String {
    format!("{}-rootdisk", vm_name(vm))
}

fn volumes(vm: usize) -> Value {
    json!([{"name": "rootdisk", "persistentVolumeClaim": {"claimName": claim_name(vm)}}, {"name": "cloudinit"}])
}

/// `phase` is `Running` or what became of it; `is_migratable` is of no consequence while nobody migrates it.
pub(crate) fn vmi(vm: usize, phase: &str, is_migratable: bool) -> Value {
    let migratable = if is_migratable { "True" } else { "False" };
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"namespace": namespace(vm), "name": vm_name(vm), "uid": uid(vm), "creationTimestamp": BEGAN,
            "labels": {"kubevirt.io/nodeName": node_name(vm / 10)}},
        "spec": {"volumes": volumes(vm), "domain": {"cpu": {"model": "host-model"}, "memory": {"guest": "4Gi"}}},
        "status": {"phase": phase, "nodeName": node_name(vm / 10),
            "activePods": {format!("pod-{}", uid(vm)): node_name(vm / 10)},
            "phaseTransitionTimestamps": [{"phase": "Running", "phaseTransitionTimestamp": BEGAN}],
            "conditions": [condition("Ready", "True"), condition("LiveMigratable", migratable),
                condition("AgentConnected", "True")]}})
}

/// The VM's launcher, or the one before its last migration.
pub(crate) fn launcher(vm: usize, is_past: bool) -> Value {
    let (suffix, node, phase) =
        if is_past { ("aaaaa", vm / 10 + 1, "Succeeded") } else { ("bbbbb", vm / 10, "Running") };
    let state = if is_past {
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": BEGAN}})
    } else {
        json!({"running": {"startedAt": BEGAN}})
    };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace(vm), "name": format!("virt-launcher-{}-{suffix}", vm_name(vm)),
            "uid": format!("pod-{}{}", if is_past { "old-" } else { "" }, uid(vm)), "creationTimestamp": BEGAN,
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid(vm), "vm.kubevirt.io/name": vm_name(vm)},
            "annotations": {"kubevirt.io/domain": vm_name(vm)},
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": vm_name(vm),
                "uid": uid(vm), "controller": true}]},
        "spec": {"nodeName": node_name(node),
            "volumes": [{"name": "rootdisk", "persistentVolumeClaim": {"claimName": claim_name(vm)}}],
            "containers": [{"name": "compute", "image": IMAGE, "resources": {"limits": {"memory": "4500Mi"}}}]},
        "status": {"phase": phase, "startTime": BEGAN,
            "conditions": [condition("Ready", if is_past { "False" } else { "True" }), condition("PodScheduled", "True")],
            "containerStatuses": [{"name": "compute", "image": IMAGE, "imageID": IMAGE, "ready": !is_past,
                "restartCount": 0, "state": state}]}})
}

pub(crate) fn handler(node: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "kubevirt", "name": format!("virt-handler-{node:05}"), "uid": format!("handler-{node}"),
            "creationTimestamp": BEGAN, "labels": {"kubevirt.io": "virt-handler"}},
        "spec": {"nodeName": node_name(node), "containers": [{"name": "virt-handler", "image": "registry.example/kubevirt/virt-handler:v1.6.0"}]},
        "status": {"phase": "Running", "startTime": BEGAN, "conditions": [condition("Ready", "True")],
            "containerStatuses": [{"name": "virt-handler", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": BEGAN}}}]}})
}

pub(crate) fn claim(vm: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": namespace(vm), "name": claim_name(vm), "uid": format!("claim-{}", uid(vm)),
            "creationTimestamp": BEGAN},
        "spec": {"volumeName": format!("pvc-{}", uid(vm)), "accessModes": ["ReadWriteMany"], "storageClassName": "nfs"},
        "status": {"phase": "Bound"}})
}

pub(crate) fn volume(vm: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("pvc-{}", uid(vm)), "creationTimestamp": BEGAN},
        "spec": {"csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": format!("nas.example#export#pvc-{}", uid(vm))},
            "claimRef": {"namespace": namespace(vm), "name": claim_name(vm)}},
        "status": {"phase": "Bound"}})
}

/// What tells of nothing that goes wrong.
pub(crate) fn event(vm: usize, count: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": namespace(vm), "name": format!("{}.{:x}", vm_name(vm), vm)},
        "involvedObject": {"kind": "VirtualMachineInstance", "namespace": namespace(vm), "name": vm_name(vm)},
        "type": "Normal", "reason": "Synced", "message": "in order", "count": count,
        "firstTimestamp": BEGAN, "lastTimestamp": BEGAN})
}
