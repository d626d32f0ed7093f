//! containerd on a lab node: the real one, as a unit, with a network for pods.
//!
//! With the settings of the packaged unit. What a lab node needs beyond that: containerd's folder on a tmpfs (an overlay on an overlay
//! fails), and no lowering of the OOM score (the lab may lack CAP_SYS_RESOURCE). Part of every node of a [`Cluster`](super::Cluster); a
//! node without kubelet's control plane gets it by [`ensure_runtime`].

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{binaries, images, pod_subnet};
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

/// Gives a node that is in no cluster containerd and starts it, if it has none yet; it stays for as long as the node.
///
/// # Errors
/// If it is not built, or does not start.
pub fn ensure_runtime(node: &Node) -> Result<()> {
    if node.root().join("etc/systemd/system/containerd.service").exists() {
        return Ok(());
    }
    start(node, &binaries()?)
}

/// Writes containerd's files and starts it.
pub(super) fn start(node: &Node, binaries: &Path) -> Result<()> {
    let root = node.root();
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
    write(&root, "etc/systemd/system/containerd.service", CONTAINERD_UNIT)?;
    write(&root, "etc/containerd/config.toml", &CONTAINERD_CONFIG.replace("@PAUSE@", images::PAUSE))?;
    write(&root, "etc/cni/net.d/10-lab.conflist", &network.to_string())?;
    for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        copy_program(binaries, program, &root)?;
    }
    let script = "\
mkdir -p /var/lib/containerd
mount -t tmpfs -o mode=0711 tmpfs /var/lib/containerd
systemctl daemon-reload
systemctl start containerd.service
";
    node.run(&["sh", "-ec", script]).map(drop).with_context(|| super::journal_tail(node))
}

/// Writes a file of a node, and the folders above it.
pub(super) fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))
}

/// Copies a program to where a node finds it.
pub(super) fn copy_program(binaries: &Path, program: &str, root: &Path) -> Result<()> {
    let (from, to) = (binaries.join(program), root.join("usr/local/bin").join(program));
    fs::copy(&from, to).map(drop).with_context(|| format!("failed to copy `{}`", from.display()))
}
