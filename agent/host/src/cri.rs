//! What a container runtime says over the Container Runtime Interface, in the words of this crate.
//!
//! Only the observations: the calls are made where gRPC is (the agent's `runtime` probe), so that nothing of the wire comes into
//! this crate or the judges. Where the sockets are: containerd's and CRI-O's own defaults, k3s and rke2
//! (`--container-runtime-endpoint` of their kubelets), cri-dockerd. Source: k8s.io/cri-api v0.36, `runtime/v1/api.proto`.

/// A place where a runtime listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeSocket {
    /// Below the host's root.
    pub path: &'static str,
    /// Units that run it; the first one that the host has.
    pub units: &'static [&'static str],
}

/// Where runtimes listen by default.
pub const RUNTIME_SOCKETS: [RuntimeSocket; 4] = [
    RuntimeSocket { path: "run/containerd/containerd.sock", units: &["containerd.service"] },
    RuntimeSocket { path: "run/crio/crio.sock", units: &["crio.service", "cri-o.service"] },
    // rke2 has its containerd in the same place as k3s.
    RuntimeSocket {
        path: "run/k3s/containerd/containerd.sock",
        units: &["k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"],
    },
    RuntimeSocket { path: "run/cri-dockerd.sock", units: &["cri-docker.service"] },
];

/// What the runtime thinks of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `RuntimeReady`.
    pub is_ready: Option<bool>,
    /// Why it is not.
    pub ready_message: Option<String>,
    /// `NetworkReady`.
    pub is_network_ready: Option<bool>,
    /// Why the network is not ready.
    pub network_message: Option<String>,
}

/// A pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id, 64 hex digits.
    pub id: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// `SANDBOX_READY`; a sandbox that is not has ended.
    pub is_ready: bool,
    /// UID of the VMI whose launcher it is, from the pod's label `kubevirt.io/created-by`.
    pub vmi_uid: Option<String>,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Started, not ended.
    Running,
    /// Ended.
    Exited,
    /// The runtime itself does not know.
    Unknown,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id, 64 hex digits.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// How often it was made before.
    pub n_attempts: u32,
    /// What it is doing.
    pub state: ContainerState,
    /// When it was made, Unix time in microseconds.
    pub created_usec: i64,
    /// How it ended; `None` unless it has, or when that could not be asked.
    pub exit: Option<ContainerExit>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerExit {
    /// Exit code; 128 and the signal's number for one that a signal ended.
    pub exit_code: i32,
    /// The runtime's word: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// The runtime's text, often empty.
    pub message: String,
    /// When, Unix time in microseconds; 0 when the runtime does not say.
    pub finished_usec: i64,
}
