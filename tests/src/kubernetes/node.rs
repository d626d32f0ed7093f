//! What makes a lab node a node of the cluster: containerd and kubelet with their files, as kubeadm lays them out.
//!
//! Both are units of the node's systemd with the settings of the packaged ones. What a lab node needs beyond that: containerd's folder on
//! a tmpfs (an overlay on an overlay fails), no lowering of the OOM score (the lab may lack CAP_SYS_RESOURCE), swap and cgroup v1 allowed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Cluster, certificates, images, pod_subnet};
use crate::node::Node;

const CONTAINERD_UNIT: &str = "\
[Unit]
Description=containerd container runtime
After=network.target lab-node.service
[Service]
ExecStart=/usr/local/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNOFILE=infinity
TasksMax=infinity
OOMScoreAdjust=-999
";

const CONTAINERD_CONFIG: &str = "\
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '@PAUSE@'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni', '/usr/libexec/cni', '/opt/cni/bin']
    conf_dir = '/etc/cni/net.d'
";

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
    let subnet = pod_subnet(node);
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [{
            "type": "ptp",
            "mtu": 1500,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": format!("{subnet}.0/24")}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    for (path, text) in [
        // containerd gives pods the node's; there is no name server, which is found out at once this way.
        ("etc/resolv.conf", "nameserver 127.0.0.1\n".to_owned()),
        ("etc/systemd/system/containerd.service", CONTAINERD_UNIT.to_owned()),
        ("etc/containerd/config.toml", CONTAINERD_CONFIG.replace("@PAUSE@", images::PAUSE)),
        ("etc/cni/net.d/10-lab.conflist", network.to_string()),
        ("etc/systemd/system/kubelet.service", KUBELET_UNIT.replace("@ADDRESS@", node.address())),
        ("etc/kubernetes/kubelet.conf", kubeconfig),
        ("etc/kubernetes/pki/ca.crt", fs::read_to_string(cluster.authority.certificate())?),
        ("var/lib/kubelet/config.yaml", KUBELET_CONFIG.to_owned()),
        (KUBELET_PEM, identity.pem()?),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    symlink(Path::new("/").join(KUBELET_PEM), root.join(current.strip_prefix("/")?))?;
    for program in ["containerd", "containerd-shim-runc-v2", "ctr", "kubelet"] {
        let (from, to) = (cluster.binaries.join(program), root.join("usr/local/bin").join(program));
        fs::copy(&from, to).with_context(|| format!("failed to copy `{}`", from.display()))?;
    }
    fs::copy(images::archive(&cluster.folder)?, root.join("var/lib/lab-images.tar"))?;
    cluster.lab.route_pods(node)?;
    let script = "\
mkdir -p /var/lib/containerd
mount -t tmpfs -o mode=0711 tmpfs /var/lib/containerd
systemctl daemon-reload
systemctl start containerd.service
ctr --namespace k8s.io images import /var/lib/lab-images.tar
systemctl start kubelet.service
";
    node.run(&["sh", "-ec", script]).map(drop).with_context(|| super::journal_tail(node))
}
