//! Cluster addresses on a node: the real kube-proxy, as a unit.
//!
//! Only what runs in pods needs them, so a node has none until it is asked for. It writes no setting of the kernel that is not its node's
//! own: connection tracking is the whole machine's.

use anyhow::{Context as _, Result};

use super::{Cluster, certificates, runtime};
use crate::node::Node;

const UNIT: &str = "\
[Unit]
Description=kube-proxy
After=containerd.service
[Service]
ExecStart=/usr/local/bin/kube-proxy --config=/var/lib/kube-proxy/config.yaml
Restart=always
RestartSec=1
";

const CONFIG: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig}
hostnameOverride: @NAME@
mode: iptables
iptables: {localhostNodePorts: false}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
";

/// Where its client certificate is on a node.
const PEM: &str = "/var/lib/kube-proxy/client.pem";

impl Cluster {
    /// Starts kube-proxy on a node: services have addresses for whatever runs there.
    ///
    /// # Errors
    /// If the unit does not start.
    pub fn serve_services(&self, node: &Node) -> Result<()> {
        let root = node.root();
        let identity = self.authority.client(&format!("proxy-{}", node.name()), "/CN=system:kube-proxy")?;
        let kubeconfig = certificates::kubeconfig("/etc/kubernetes/pki/ca.crt".as_ref(), PEM.as_ref(), PEM.as_ref());
        for (path, text) in [
            ("etc/systemd/system/kube-proxy.service", UNIT.to_owned()),
            ("var/lib/kube-proxy/config.yaml", CONFIG.replace("@NAME@", node.name())),
            ("var/lib/kube-proxy/kubeconfig", kubeconfig),
            (PEM.trim_start_matches('/'), identity.pem()?),
        ] {
            runtime::write(&root, path, &text)?;
        }
        runtime::copy_program(&self.binaries, "kube-proxy", &root)?;
        let start = "systemctl daemon-reload; systemctl start kube-proxy.service";
        node.run(&["sh", "-ec", start]).map(drop).context("failed to start kube-proxy")
    }
}
