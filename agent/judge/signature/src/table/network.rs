//! Texts about networks: CNI plugins, name resolution, TLS, connections.
//!
//! Sources: containernetworking/plugins v1.x, multus v4, calico v3.2x, cilium v1.1x, ovn-kubernetes, kube-ovn, flannel,
//! Go net and crypto/x509.

use kulprit_model::said::{actor::*, class::*, operation::*};

use super::{ANY, Row, rows};

pub(super) const ROWS: &[Row] = rows! {
    "cni-not-initialized", "cni plugin not initialized", "", CNI, SETUP_NETWORK, UNAVAILABLE, None, "containerd internal/cri/server/status.go",
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
    "cni-not-initialized", "networkpluginnotready", "", CNI, SETUP_NETWORK, UNAVAILABLE, None, "kubernetes pkg/kubelet",
        "Network plugin returns error: NetworkPluginNotReady";
    "cni-config-missing", "no networks found in", "", CNI, SETUP_NETWORK, NOT_FOUND, None, "go-cni, ocicni: /etc/cni/net.d is empty",
        "no networks found in /etc/cni/net.d";
    "cni-config-missing", "no cni configuration file", "", CNI, SETUP_NETWORK, NOT_FOUND, None, "ocicni",
        "No CNI configuration file in /etc/kubernetes/cni/net.d/. Has your network provider started?";
    "cni-plugin-missing", "failed to find plugin", "", CNI, SETUP_NETWORK, NOT_FOUND, None, "containernetworking libcni: the binary is not in /opt/cni/bin",
        "plugin type=\"bridge\" failed (add): failed to find plugin \"bridge\" in path [/opt/cni/bin]";
    "cni-addresses-exhausted", "no ip addresses available", "", CNI, SETUP_NETWORK, INSUFFICIENT, None, "plugins/ipam/host-local",
        "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.254";
    "cni-addresses-exhausted", "no more ip", r"no more ips?|no available ip|ip pool.*exhausted|address (?:pool|range).*exhausted|all ips.*allocated|insufficient ip", CNI, SETUP_NETWORK, INSUFFICIENT, None, "whereabouts, kube-ovn, cloud CNIs",
        "AcquireAddress failed: no more IPs in subnet ovn-default";
    "cni-address-taken", "duplicate allocation", r"duplicate allocation|already allocated.*ip|requested ip .* in use", CNI, SETUP_NETWORK, EXISTS, None, "plugins/ipam/host-local",
        "failed to allocate: duplicate allocation is not allowed for 10.0.0.9";
    "cni-daemon-down", "cni", r"cni(?:\.|-)?(?:server|daemon)?.*(?:\.sock|status 50\d|status 400).*|cni request failed", CNI, SETUP_NETWORK, ANY, None, "multus v4, ovn-kubernetes, kube-ovn: thin plugin and daemon",
        "CNI request failed with status 400: pod prod/virt-launcher-db-0 failed";
    "cni-daemon-down", "unable to connect to cilium", "", CNI, SETUP_NETWORK, UNAVAILABLE, None, "cilium plugins/cilium-cni",
        "unable to connect to Cilium agent: failed to create cilium agent client after 30s timeout: Get \"http://localhost/v1/config\": dial unix /var/run/cilium/cilium.sock: no such file";
    "cni-daemon-down", "calico/node container is running", "", CNI, SETUP_NETWORK, UNAVAILABLE, None, "calico cni-plugin: /var/lib/calico/nodename",
        "stat /var/lib/calico/nodename: no such file or directory: check that the calico/node container is running and has mounted /var/lib/calico/";
    "cni-daemon-down", "subnet.env", "", CNI, SETUP_NETWORK, NOT_FOUND, None, "flannel cni-plugin: flanneld has not run",
        "loadFlannelSubnetEnv failed: open /run/flannel/subnet.env: no such file or directory";
    "cni-unauthorized", "error getting clusterinformation", "", CNI, SETUP_NETWORK, ANY, None, "calico: token or API server",
        "error getting ClusterInformation: connection is unauthorized: Unauthorized";
    "cni-annotation-timeout", "timed out waiting for annotations", "", CNI, SETUP_NETWORK, TIMEOUT, None, "ovn-kubernetes",
        "failed to get pod annotation: timed out waiting for annotations: context deadline exceeded";
    "cni-annotation-timeout", "timed out waiting for ovs port", r"timed out waiting for ovs port", CNI, SETUP_NETWORK, TIMEOUT, None, "ovn-kubernetes pkg/cni/ovs.go",
        "timed out waiting for OVS port binding (ovn-installed) for 0a:58:0a:80:02:0b";
    "network-attachment-missing", "network-attachment-definition", r"cannot find a network-attachment-definition|network-attachment-definition.*not found", CNI, SETUP_NETWORK, NOT_FOUND, None, "multus",
        "cannot find a network-attachment-definition (vlan10) in namespace (prod)";
    "network-bridge-missing", "could not find bridge", r"(?:could not|failed to) (?:find|lookup) (?:master |bridge |link )", CNI, SETUP_NETWORK, NOT_FOUND, None, "plugins/main/bridge, ovs-cni",
        "failed to lookup bridge: could not find bridge br-vlan10";
    "network-link-missing", "link not found", "", CNI, SETUP_NETWORK, NOT_FOUND, None, "vishvananda/netlink: the node's interface is not there",
        "failed to lookup master \"ens5f0\": Link not found";
    "network-vf-missing", "sriov", r"sr-?iov.{0,100}(?:failed|not found|no vf|cannot|error)", CNI, SETUP_NETWORK, ANY, None, "sriov-cni",
        "SRIOV-CNI failed to load netconf: VF pci addr is required";
    "network-interface-exists", "container veth name", r"container veth name .* already exists", CNI, SETUP_NETWORK, EXISTS, None, "plugins pkg/ip",
        "container veth name provided (eth0) already exists";
    "sandbox-network-failed", "setup network for sandbox", "", CNI, SETUP_NETWORK, ANY, None, "containerd internal/cri/server/sandbox_run.go",
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox \"1c2c\": boom";
    "sandbox-network-teardown-failed", "destroy network for sandbox", "", CNI, SETUP_NETWORK, ANY, None, "containerd internal/cri/server/sandbox_stop.go",
        "failed to destroy network for sandbox \"1c2c\": boom";
    "sandbox-network-failed", "plugin type=", r"plugin type=\S+ .*failed \((?:add|delete|check)\)", CNI, SETUP_NETWORK, ANY, None, "containernetworking libcni",
        "plugin type=\"calico\" failed (add): boom";
    "sandbox-network-failed", "error adding pod", r"error adding pod \S+ to cni network", CNI, SETUP_NETWORK, ANY, None, "ocicni (CRI-O, Multus)",
        "error adding pod prod_virt-launcher-db-0 to CNI network \"multus-cni-network\": boom";

    // Names.
    "dns-no-such-host", "no such host", "", ANY, ANY, NAME, None, "Go net",
        "dial tcp: lookup registry.example on 10.0.0.2:53: no such host";
    "dns-server-failed", "server misbehaving", "", ANY, ANY, NAME, None, "Go net: SERVFAIL or refused",
        "dial tcp: lookup registry.example on 10.0.0.2:53: server misbehaving";
    "dns-timeout", "lookup", r"lookup \S+(?: on \S+)?: (?:read udp .*: |dial udp .*: )?(?:i/o timeout|connection refused|network is unreachable|no route to host)|lookup \S+ on \S+ .*(?:i/o timeout|connection refused)", ANY, ANY, NAME, None, "Go net: the name server does not answer",
        "dial tcp: lookup registry.example on 10.0.0.2:53: read udp 10.0.0.7:40000->10.0.0.2:53: i/o timeout";
    "dns-timeout", "temporary failure in name resolution", "", ANY, ANY, NAME, None, "glibc getaddrinfo EAI_AGAIN",
        "Could not connect: Temporary failure in name resolution";

    // TLS.
    "tls-certificate-not-yet-valid", "is not yet valid", r"is not yet valid: current time \S+ is before", ANY, ANY, EXPIRED, None, "Go crypto/x509 verify.go: the clock of whoever looks is behind",
        "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2025-12-31T00:00:00Z is before 2026-01-01T00:00:00Z";
    "tls-certificate-expired", "certificate has expired or is not yet valid", "", ANY, ANY, EXPIRED, None, "Go crypto/x509: an old certificate, or a wrong clock",
        "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-01-01T00:00:00Z is after 2025-12-31T00:00:00Z";
    "tls-certificate-expired", "expired certificate", "", ANY, ANY, EXPIRED, None, "Go crypto/tls alert",
        "remote error: tls: expired certificate";
    "tls-unknown-authority", "signed by unknown authority", "", ANY, ANY, UNTRUSTED, None, "Go crypto/x509",
        "x509: certificate signed by unknown authority";
    "tls-wrong-name", "certificate is valid for", "", ANY, ANY, UNTRUSTED, None, "Go crypto/x509",
        "x509: certificate is valid for 10.0.0.5, not 10.0.0.6";
    "tls-bad-certificate", "remote error: tls", "", ANY, ANY, UNTRUSTED, None, "Go crypto/tls: the peer refuses our certificate",
        "remote error: tls: bad certificate";
    "tls-handshake-timeout", "tls handshake timeout", "", ANY, ANY, TIMEOUT, None, "Go net/http: the path loses large packets, or the peer is overloaded",
        "net/http: TLS handshake timeout";
    "tls-handshake-failed", "tls handshake", r"tls handshake (?:error|failed|failure)|handshake failure", ANY, HANDSHAKE, ANY, None, "Go crypto/tls, GnuTLS",
        "http: TLS handshake error from 10.0.0.7:40000: EOF";

    // The node's own network.
    "conntrack-full", "nf_conntrack", r"nf_conntrack: table full", KERNEL, ANY, LIMIT, None, "net/netfilter/nf_conntrack_core.c",
        "nf_conntrack: table full, dropping packet";
    "firewall-program-failed", "iptables", r"(?:iptables|ip6tables|nft)(?:-restore)?.*(?:failed|fatal|error|lock)|(?:failed|error|unable).*(?:iptables|nft )", ANY, SETUP_NETWORK, ANY, None, "kube-proxy, CNI plugins",
        "iptables-restore: line 5 failed: exit status 4 (Another app is currently holding the xtables lock)";
    "nftables-unsupported", "could not process rule", "", KERNEL, SETUP_NETWORK, UNSUPPORTED, None, "nft: the kernel lacks a feature",
        "Error: Could not process rule: Operation not supported add rule ip nat KUBEVIRT_POSTINBOUND counter snat";
};
