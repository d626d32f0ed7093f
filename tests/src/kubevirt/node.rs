//! A Node object kept Ready by hand, for a machine of the lab on which no kubelet runs, or for none at all.
//!
//! It says what kubelet, virt-handler and KubeVirt's device plugins say of a node that is well, and its lease is renewed by a thread until
//! [`RegisteredNode::fall_silent`] or its drop: then the real controller-manager finds it NotReady, as it does where kubelet is down.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Api, Kind, Place};
use super::object::stamp;
use crate::wait::wait_until;

/// kubelet's pace in the lab; the control plane takes 8 s for silence.
const RENEWAL: Duration = Duration::from_secs(2);
/// After so many renewals virt-handler's heartbeat is written too: every 30 s.
const HEARTBEAT_EVERY: u32 = 15;
/// How long the node and its virt-handler have been up already.
const UP_FOR: Duration = Duration::from_secs(3600);
pub(super) const HEARTBEAT: &str = "kubevirt.io/heartbeat";
/// A new node is tainted until the controller-manager has seen it Ready.
const TAINT_LIMIT: Duration = Duration::from_secs(30);
const LEASES: &str = "kube-node-lease";

/// A node of the cluster without a kubelet. Its object stays when this is dropped, and falls silent.
#[derive(Debug)]
pub struct RegisteredNode {
    name: String,
    address: String,
    renewal: Option<(Sender<()>, JoinHandle<()>)>,
}

impl RegisteredNode {
    pub(super) fn new(api: &Arc<Api>, name: &str, address: &str) -> Result<Self> {
        api.ensure(Kind::NODE, "", &node(name, address))?;
        api.ensure(Kind::LEASE, LEASES, &lease(name))?;
        api.ensure(Kind::POD, super::NAMESPACE, &handler(name))?;
        let handler = Place::new(Kind::POD, super::NAMESPACE, &handler_name(name));
        api.update_status(&handler, |pod| super::pod::run(pod, address, Timestamp::now() - UP_FOR))?;
        let place = Place::new(Kind::NODE, "", name);
        wait_until(&format!("{name} to take pods"), TAINT_LIMIT, || {
            Ok(api.get(&place)?.is_some_and(|node| node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)))
        })?;
        let (stop, stopped) = mpsc::channel();
        let (api, lease) = (Arc::clone(api), Place::new(Kind::LEASE, LEASES, name));
        let node = Place::new(Kind::NODE, "", name);
        let thread = std::thread::spawn(move || {
            let mut n_renewals: u32 = 0;
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                // While the API server is away nothing is renewed, as with kubelet.
                let _ = api.update(&lease, |lease| lease["spec"]["renewTime"] = micros(Timestamp::now()).into());
                n_renewals = n_renewals.wrapping_add(1);
                if n_renewals.is_multiple_of(HEARTBEAT_EVERY) {
                    let now = stamp(Timestamp::now());
                    let _ = api.update(&node, |node| node["metadata"]["annotations"][HEARTBEAT] = now.as_str().into());
                }
            }
        });
        Ok(Self { name: name.to_owned(), address: address.to_owned(), renewal: Some((stop, thread)) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Stops its heartbeat, as when kubelet is stopped.
    pub fn fall_silent(&mut self) {
        if let Some((stop, thread)) = self.renewal.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drop for RegisteredNode {
    fn drop(&mut self) {
        self.fall_silent();
    }
}

/// A time as leases have it.
fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASES},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 8, "renewTime": micros(Timestamp::now())},
    })
}

fn node(name: &str, address: &str) -> Value {
    let (now, up) = (stamp(Timestamp::now()), stamp(Timestamp::now() - UP_FOR));
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": reason,
            "lastHeartbeatTime": now, "lastTransitionTime": up,
        })
    };
    let resources = json!({
        "cpu": "4", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi", "hugepages-2Mi": "0",
    });
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubevirt.io/schedulable": "true",
                "cpu-model.node.kubevirt.io/qemu64": "true",
            },
            "annotations": {HEARTBEAT: now},
        },
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "capacity": resources,
            "allocatable": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.4.2",
                "kernelVersion": "6.18.0", "kubeProxyVersion": "", "kubeletVersion": "v1.36.3", "machineID": "",
                "operatingSystem": "linux", "osImage": "Debian GNU/Linux", "systemUUID": "",
            },
        },
    });
    offer_devices(&mut node);
    node
}

/// Has a node offer what KubeVirt's device plugins register.
pub(super) fn offer_devices(node: &mut Value) {
    for list in ["capacity", "allocatable"] {
        for device in ["kvm", "tun", "vhost-net"] {
            node["status"][list][format!("devices.kubevirt.io/{device}")] = "1k".into();
        }
    }
}

fn handler_name(node: &str) -> String {
    format!("virt-handler-{node}")
}

/// The node's virt-handler, ready. Without its DaemonSet as owner, which is not there and would have it collected.
fn handler(node: &str) -> Value {
    let image = format!("registry.example/kubevirt/virt-handler:{}", super::VERSION);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": handler_name(node),
            "namespace": super::NAMESPACE,
            "labels": {"kubevirt.io": "virt-handler", "app.kubernetes.io/component": "kubevirt"},
        },
        "spec": {
            "nodeName": node,
            "hostPID": true,
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "virt-handler", "image": image}],
        },
    })
}
