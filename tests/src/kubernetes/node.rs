//! What makes a lab node a node of the cluster: containerd and kubelet with their files, as kubeadm lays them out.
//!
//! Both are units of the node's systemd with the settings of the packaged ones; containerd's is in [`runtime`]. What kubelet needs on a lab
//! node beyond that: swap and cgroup v1 allowed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Cluster, certificates, images, runtime};
use crate::node::Node;

/// As kubeadm's unit, but for the pause between two starts (10 s).
const KUBELET_UNIT: &str = "\
[Unit]
Description=kubelet: The Kubernetes Node Agent
After=containerd.service
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml --node-ip=@ADDRESS@
Restart=always
RestartSec=1
";

const KUBELET_CONFIG: &str = "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
# The node's file system is this machine's: how full that is, is nothing of the lab's.
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, pid.available: 0%}
imageGCHighThresholdPercent: 100
# Four renewals within what the control plane takes for silence.
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
";

/// Where kubelet keeps its client certificate; `kubelet-client-current.pem` names the newest.
const KUBELET_PEM: &str = "var/lib/kubelet/pki/kubelet-client-2026-01-01-00-00-00.pem";

/// Writes the files, starts containerd, imports the images, and starts kubelet.
pub(super) fn join(cluster: &Cluster, node: &Node) -> Result<()> {
    let root = node.root();
    let name = node.name();
    let identity =
        cluster.authority.client(&format!("node-{name}"), &format!("/O=system:nodes/CN=system:node:{name}"))?;
    let current = Path::new("/var/lib/kubelet/pki/kubelet-client-current.pem");
    let kubeconfig = certificates::kubeconfig(Path::new("/etc/kubernetes/pki/ca.crt"), current, current);
    for (path, text) in [
        // containerd gives pods the node's, where nobody listens; on the node itself there is one (`names`).
        ("etc/resolv.conf", "nameserver 127.0.0.1\n".to_owned()),
        ("etc/systemd/system/kubelet.service", KUBELET_UNIT.replace("@ADDRESS@", node.address())),
        ("etc/kubernetes/kubelet.conf", kubeconfig),
        ("etc/kubernetes/pki/ca.crt", fs::read_to_string(cluster.authority.certificate())?),
        ("var/lib/kubelet/config.yaml", KUBELET_CONFIG.to_owned()),
        (KUBELET_PEM, identity.pem()?),
    ] {
        runtime::write(&root, path, &text)?;
    }
    symlink(Path::new("/").join(KUBELET_PEM), root.join(current.strip_prefix("/")?))?;
    runtime::copy_program(&cluster.binaries, "kubelet", &root)?;
    fs::copy(images::archive(&cluster.folder)?, root.join("var/lib/lab-images.tar"))?;
    cluster.lab.route_pods(node)?;
    runtime::start(node, &cluster.binaries)?;
    let script = "\
ctr --namespace k8s.io images import /var/lib/lab-images.tar
systemctl start kubelet.service
";
    node.run(&["sh", "-ec", script]).map(drop).with_context(|| super::journal_tail(node))
}
