//! What the probes look at and how often: the `probes:` section of the agent's file. Every default has a unit and a reason.

use std::path::PathBuf;

use kulprit_daemon::config::HumanDuration;
use kulprit_host::cri::RUNTIME_SOCKETS;
use kulprit_host::process::CgroupFilter;
use kulprit_judge::filesystem::STATE_FOLDERS;
use serde::{Deserialize, Serialize};

/// What VMs depend on beside the kubelet. Sources: containerd, CRI-O, cri-dockerd, open-iscsi, multipath-tools, libvirt,
/// Longhorn's and Ceph's requirements for a node.
const JOURNAL_UNITS: [&str; 12] = [
    "containerd",
    "crio",
    "docker",
    "cri-docker",
    "iscsid",
    "multipathd",
    "rpc-statd",
    "openvswitch",
    "ovs-vswitchd",
    "virtqemud",
    "virtlogd",
    "libvirtd",
];

/// Settings of the probes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// Units that are a kubelet, or have one inside. Those systemd does not know are passed over.
    /// Default: kubeadm's and the distributions', k3s's and rke2's.
    pub kubelet_units: Vec<String>,
    /// The kubelet's health endpoint. Default `http://127.0.0.1:10248/healthz`: `--healthz-port`'s own default.
    pub healthz_url: String,
    /// How often to ask it and to look at the kubelet's process. Default 10 s: the finding is held for 10 s.
    pub healthz_every: HumanDuration,
    /// How long it may take to answer. Default 2 s: well answers in a few ms.
    pub healthz_deadline: HumanDuration,
    /// How often to look at the units though systemd signals changes. Default 30 s: only signals that were lost wait so long.
    pub units_every: HumanDuration,
    /// Address of the system bus. Default: `unix:path=` and `run/dbus/system_bus_socket` below the host's root.
    pub dbus_address: Option<String>,
    /// The procfs whose processes are the node's. Default `/proc`: the agent runs in the host's pid namespace.
    pub procfs: PathBuf,
    /// Only processes in this cgroup or below it are the node's. Default: all of that procfs.
    pub cgroup_prefix: Option<String>,
    /// How often to try KVM though inotify shows changes of the device. Default 60 s: creating a VM costs about 1 ms.
    pub kvm_every: HumanDuration,
    /// How often to look at QEMU's threads, and for new QEMUs. Default 4 s: two or three looks within the hold of 10 s;
    /// an end is told by its pidfd at once.
    pub qemu_every: HumanDuration,
    /// The same for a QEMU with a blocked thread. Default 1 s: the end of the block shows at once.
    pub blocked_every: HumanDuration,
    /// How far the first start of all looks back in the kernel's log. Default 15 m: as long as an occurrence counts in full.
    pub kmsg_look_back: HumanDuration,
    /// The same for the journal and the logs of pods. Default 15 m.
    pub log_look_back: HumanDuration,
    /// How often to look for new lines of them. Default 4 s: in step with `qemu_every`, and what they say is seldom a second's
    /// matter.
    pub log_every: HumanDuration,
    /// Units whose journal is read beside the kubelet's: runtime, storage, libvirt. Those that write nothing cost nothing.
    pub journal_units: Vec<String>,
    /// The kubelet's folder below the host's root, for logs of QEMU inside launchers. Default `/var/lib/kubelet`.
    pub kubelet_folder: PathBuf,
    /// Sockets of the container runtime below the host's root. Those that are not there are passed over. Default: containerd's,
    /// CRI-O's, that of k3s and rke2, cri-dockerd's.
    pub runtime_sockets: Vec<PathBuf>,
    /// node-problem-detector rule files and custom plugin files, as they are; paths as the agent sees them. Default: none.
    pub npd_files: Vec<PathBuf>,
    /// The libvirt daemons.
    pub libvirt: LibvirtConfig,
    /// Mounts and block devices under VMs.
    pub volumes: VolumesConfig,
    /// Links, names and connections.
    pub network: NetworkConfig,
    /// Pressure of the node and its VMs.
    pub pressure: PressureConfig,
    /// Limits of the node and its VMs.
    pub limits: LimitsConfig,
    /// Room of file systems.
    pub filesystem: FilesystemConfig,
}

/// How often the network is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// How often to read links, routes and connections. Default 10 s: a link that is down is held for 5 s.
    pub every: HumanDuration,
    /// How often to ask the name servers while they answer. Default 60 s: a query is some 60 bytes; while they do not, and for
    /// a suspect VM, they are asked at each look.
    pub names_every: HumanDuration,
}

/// How often the storage under VMs is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumesConfig {
    /// How often to read counters and states of sessions. Default 10 s: what hangs is raised after 15 s to 25 s.
    pub every: HumanDuration,
    /// How often to read which files and devices each QEMU has open and what they stand on; at every look of a suspect VM.
    /// Default 30 s: disks are plugged in seldom, and this is the dear part (some 0.2 ms for each VM).
    pub files_every: HumanDuration,
    /// How long a child process that looks at a mount may take. Default 5 s: the finding's threshold.
    pub ask_deadline: HumanDuration,
    /// How often to ask about one mount while there is reason to. Default 30 s: a child costs some 2 ms.
    pub ask_every: HumanDuration,
}

/// Where libvirt is and who speaks to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LibvirtConfig {
    /// URI of the daemon, for libvirt and as its name in findings. Default `qemu:///system`.
    pub uri: String,
    /// Sockets below the host's root, in the order of preference. Default: virtqemud's (modular, libvirt >= 9 on most
    /// distributions), then libvirtd's. The writable ones: requests to shut down are shown to writable connections only.
    pub sockets: Vec<PathBuf>,
    /// Units that are a libvirt daemon or its socket. Default: virtqemud's and libvirtd's.
    pub units: Vec<String>,
    /// The worker's binary. Default: `kulprit-agent-libvirt` beside our own.
    pub worker: Option<PathBuf>,
    /// How often the worker looks at all domains, whole seconds. Default 5 s: events tell of changes at once, and libvirt says
    /// itself since when a monitor command is unanswered; a look takes 0.2 ms for 20 domains and no domain's job.
    pub poll_every: HumanDuration,
}

impl ProbeConfig {
    /// Which processes of [`Self::procfs`] are the node's.
    #[must_use]
    pub fn cgroup_filter(&self) -> CgroupFilter {
        self.cgroup_prefix.clone().map_or(CgroupFilter::All, CgroupFilter::Under)
    }
}

impl Default for ProbeConfig {
    fn default() -> Self {
        let units = ["kubelet", "k3s", "k3s-agent", "rke2-agent", "rke2-server"];
        Self {
            kubelet_units: units.iter().map(|unit| format!("{unit}.service")).collect(),
            healthz_url: "http://127.0.0.1:10248/healthz".to_owned(),
            healthz_every: HumanDuration::from_secs(10),
            healthz_deadline: HumanDuration::from_secs(2),
            units_every: HumanDuration::from_secs(30),
            dbus_address: None,
            procfs: "/proc".into(),
            cgroup_prefix: None,
            kvm_every: HumanDuration::from_secs(60),
            qemu_every: HumanDuration::from_secs(4),
            blocked_every: HumanDuration::from_secs(1),
            kmsg_look_back: HumanDuration::from_mins(15),
            log_look_back: HumanDuration::from_mins(15),
            log_every: HumanDuration::from_secs(4),
            journal_units: JOURNAL_UNITS.map(|unit| format!("{unit}.service")).to_vec(),
            kubelet_folder: "/var/lib/kubelet".into(),
            runtime_sockets: RUNTIME_SOCKETS.iter().map(|socket| PathBuf::from("/").join(socket.path)).collect(),
            npd_files: Vec::new(),
            libvirt: LibvirtConfig::default(),
            volumes: VolumesConfig::default(),
            network: NetworkConfig::default(),
            pressure: PressureConfig::default(),
            limits: LimitsConfig::default(),
            filesystem: FilesystemConfig::default(),
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { every: HumanDuration::from_secs(10), names_every: HumanDuration::from_secs(60) }
    }
}

impl Default for VolumesConfig {
    fn default() -> Self {
        Self {
            every: HumanDuration::from_secs(10),
            files_every: HumanDuration::from_secs(30),
            ask_deadline: HumanDuration::from_secs(5),
            ask_every: HumanDuration::from_secs(30),
        }
    }
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            sockets: vec!["/run/libvirt/virtqemud-sock".into(), "/run/libvirt/libvirt-sock".into()],
            units: ["virtqemud.service", "virtqemud.socket", "libvirtd.service", "libvirtd.socket"]
                .map(str::to_owned)
                .to_vec(),
            worker: None,
            poll_every: HumanDuration::from_secs(5),
        }
    }
}

/// Settings of the `filesystem` probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesystemConfig {
    /// Folders of the host that must not be full. Default: those of the kubelet, the runtimes, KubeVirt, libvirt and logs.
    pub folders: Vec<PathBuf>,
    /// How often file systems that answer over a network are asked. Default 5 m: each costs a process, some 3 ms.
    pub remote_every: HumanDuration,
    /// How long such a process may take. Default 5 s: a server that is well answers in milliseconds.
    pub remote_deadline: HumanDuration,
}

impl Default for FilesystemConfig {
    fn default() -> Self {
        let more = ["/", "/var/lib/libvirt", "/var/lib/crio"];
        Self {
            folders: STATE_FOLDERS.iter().chain(&more).map(PathBuf::from).collect(),
            remote_every: HumanDuration::from_mins(5),
            remote_deadline: HumanDuration::from_secs(5),
        }
    }
}

/// Settings of the `limits` probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// How often inotify instances and watches are counted. Default 5 m: it reads every descriptor of the node, some 20 ms.
    pub inotify_every: HumanDuration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { inotify_every: HumanDuration::from_mins(5) }
    }
}

/// Settings of the `pressure` probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PressureConfig {
    /// The version 2 cgroup below the host's root whose pressure is the node's. Default: none, all of `/proc/pressure`; for
    /// nodes that share their kernel with others.
    pub cgroup: Option<PathBuf>,
    /// How often stall times are read while one has just begun. Default 50 ms: five samples in the quarter of a second within
    /// which it shall show.
    pub close_every: HumanDuration,
    /// How long. Default 30 s: as long as a migration's last rounds, or a suspect's capture, need.
    pub close_for: HumanDuration,
    /// How long after that the next stall is read so closely again. Default 5 m: a node that always stalls costs a tenth of
    /// that.
    pub close_again_after: HumanDuration,
    /// How often the CPU limits of VMs are read. Default 10 s: three times in the 30 s that are judged.
    pub vms_every: HumanDuration,
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self {
            cgroup: None,
            close_every: HumanDuration::from_millis(50),
            close_for: HumanDuration::from_secs(30),
            close_again_after: HumanDuration::from_mins(5),
            vms_every: HumanDuration::from_secs(10),
        }
    }
}
