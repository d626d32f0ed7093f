//! A virt-launcher in KubeVirt's shape, without KubeVirt: the process tree, cgroup, folders and logs of a launcher pod.
//!
//! [`Launcher::start`] makes one on any node, without Kubernetes: a container of `runc` in the cgroup, namespaces and volumes that kubelet
//! and containerd would give the pod's `compute` container. [`Cluster::launch`] makes a real pod. In both, process 1
//! is `virt-launcher-monitor` with KubeVirt's flags, below it `virt-launcher` (the program `lab-launcher`), its own libvirt with the
//! socket `/run/libvirt/virtqemud-sock`, and QEMU, a child of the monitor, with the domain `<namespace>_<name>`.
//!
//! Source of the shape: KubeVirt `pkg/virt-controller/services/{template,rendervolumes}.go`, v1.8, with the feature gate `Root`, or, by
//! [`LauncherBuilder::non_root`], without. What is not KubeVirt's: the programs come from the node's `/usr`, libvirt is the monolithic
//! `libvirtd`. Migrations go through the virt-handlers of both nodes ([`Handler`](crate::Handler)).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::image::Program;
use crate::kubernetes::Cluster;
use crate::node::{Node, Running};
use crate::{handler, process, programs, shell, wait};

mod builder;
mod container;
mod domain;

pub use builder::LauncherBuilder;
pub(crate) use builder::{DISK_BYTES, Identity};
pub(crate) use container::make_network;

/// Where the domain of a launcher is described, in its container: beside the disk, as a PersistentVolumeClaim's is mounted.
pub const DOMAIN: &str = "/run/kubevirt-private/vmi-disks/rootdisk/domain.xml";
/// The folder that a launcher shares with virt-handler, in its container.
pub const PUBLIC: &str = "/run/kubevirt";
/// The folder of a launcher's command socket, in its container.
pub const COMMAND_SOCKETS: &str = "/run/kubevirt/sockets";
/// The folder of a launcher's libvirt sockets, in its container.
pub const LIBVIRT_RUN: &str = "/run/libvirt";
/// The pod's `emptyDir` volumes and where its container has them; an outer one before those inside it. KubeVirt's, and `libvirt` for what
/// its image brings.
pub(crate) const EMPTY_DIRS: [(&str, &str); 8] = [
    ("private", "/run/kubevirt-private"),
    ("public", PUBLIC),
    ("ephemeral-disks", "/run/kubevirt-ephemeral-disks"),
    ("container-disks", "/run/kubevirt/container-disks"),
    ("hotplug-disks", "/run/kubevirt/hotplug-disks"),
    ("libvirt-runtime", LIBVIRT_RUN),
    ("sockets", COMMAND_SOCKETS),
    ("libvirt", "/etc/libvirt"),
];

/// How long its processes may take to go once they are killed.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How a client in the container connects to a launcher's libvirt: the system's where the launcher is root, else the user's own.
#[must_use]
pub fn libvirt_uri(is_root: bool) -> &'static str {
    if is_root {
        "qemu:///system?socket=/run/libvirt/virtqemud-sock"
    } else {
        "qemu:///session?socket=/run/libvirt/virtqemud-sock"
    }
}

/// What holds a launcher up and ends it.
#[derive(Debug)]
pub(crate) enum Keeper<'node> {
    /// A container of `runc`, by [`Launcher::start`].
    Container(container::Container),
    /// A pod, by [`Cluster::launch`].
    Pod(&'node Cluster),
}

/// A running launcher; ended, and its pod removed, when dropped. See the module.
#[derive(Debug)]
pub struct Launcher<'node> {
    node: &'node Node,
    identity: Identity,
    image: PathBuf,
    pod_uid: String,
    monitor: i32,
    keeper: Keeper<'node>,
}

impl<'node> Launcher<'node> {
    /// A launcher of the VM `namespace/name`, to be given a guest and started.
    ///
    /// # Errors
    /// If the kernel gives no random UUID.
    pub fn define(node: &'node Node, namespace: &str, name: &str) -> Result<LauncherBuilder<'node>> {
        let identity = Identity::new(namespace, name)?;
        let folder = Path::new("/var/lib/lab-launchers").join(identity.domain());
        Ok(LauncherBuilder {
            node,
            identity,
            program: Program::Idle,
            folder,
            memory_limit_mib: None,
            waits_for_migration: false,
            pod_uid: None,
        })
    }

    /// A launcher with an idle guest, running.
    ///
    /// # Errors
    /// As [`LauncherBuilder::start`].
    pub fn start(node: &'node Node, namespace: &str, name: &str) -> Result<Self> {
        Self::define(node, namespace, name)?.start()
    }

    /// The node it runs on.
    #[must_use]
    pub fn node(&self) -> &'node Node {
        self.node
    }

    /// Name of its domain: `<namespace>_<name>`.
    #[must_use]
    pub fn domain(&self) -> String {
        self.identity.domain()
    }

    /// UID of the VMI.
    #[must_use]
    pub fn vmi_uid(&self) -> &str {
        &self.identity.vmi_uid
    }

    /// UID of its pod.
    #[must_use]
    pub fn pod_uid(&self) -> &str {
        &self.pod_uid
    }

    /// Name of its pod.
    #[must_use]
    pub fn pod_name(&self) -> &str {
        &self.identity.pod_name
    }

    /// Pid on this machine of `virt-launcher-monitor`, process 1 of the container.
    #[must_use]
    pub fn monitor_pid(&self) -> i32 {
        self.monitor
    }

    /// Pid on this machine of `virt-launcher`; `None` if it is gone.
    #[must_use]
    pub fn launcher_pid(&self) -> Option<i32> {
        programs::child_of(self.monitor, "virt-launcher")
    }

    /// Pid on this machine of its libvirt; `None` while there is none.
    #[must_use]
    pub fn libvirt_pid(&self) -> Option<i32> {
        programs::child_of(self.launcher_pid()?, "libvirtd")
    }

    /// Pid on this machine of its QEMU; `None` while there is none.
    #[must_use]
    pub fn qemu_pid(&self) -> Option<i32> {
        programs::child_of(self.monitor, "qemu-system")
    }

    /// Its container's root as seen from this machine: `/proc/<monitor>/root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.monitor))
    }

    /// The same as its node's own processes see it.
    pub(crate) fn root_in_node(&self) -> Result<String> {
        let inner = process::in_node(self.monitor).context("the launcher has ended")?;
        Ok(format!("/proc/{inner}/root"))
    }

    /// The folder of the container's cgroup on this machine, for a v1 controller (`memory`) or in the v2 tree (``).
    ///
    /// # Errors
    /// If it has ended, or there is no such hierarchy.
    pub fn cgroup(&self, controller: &str) -> Result<PathBuf> {
        process::cgroup(self.monitor, controller)
    }

    /// One of its `emptyDir` volumes (`sockets`, `libvirt-runtime`, `private`) as seen from this machine.
    #[must_use]
    pub fn empty_dir(&self, name: &str) -> PathBuf {
        self.node.root().join(empty_dir(&self.pod_uid, name).trim_start_matches('/'))
    }

    /// The CRI log of its container `compute` as seen from this machine.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        let folder = log_folder(&self.identity, &self.pod_uid);
        self.node.root().join(folder.trim_start_matches('/')).join("0.log")
    }

    /// The guest's disk image as seen from this machine.
    #[must_use]
    pub fn image_here(&self) -> PathBuf {
        self.node.root().join(self.image.strip_prefix("/").unwrap_or(&self.image))
    }

    /// The address of its pod, which every other pod and the lab reach.
    ///
    /// # Errors
    /// If it has ended.
    pub fn address(&self) -> Result<String> {
        let line = self.run(&["ip", "-4", "-brief", "address", "show", "dev", "eth0"])?;
        let address = line.split_whitespace().nth(2).and_then(|address| address.split('/').next());
        Ok(address.with_context(|| format!("no address in `{line}`"))?.to_owned())
    }

    /// Runs a command in its container, as its user, to its end and returns its output.
    ///
    /// # Errors
    /// If it fails, or does not end within 20 s.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let line = self.in_container(&[&["timeout", "-k", "2", "20"], line].concat());
        shell::run(&line.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `virsh` with its own libvirt.
    ///
    /// # Errors
    /// As [`Launcher::run`].
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        self.run(&[&["virsh", "--quiet", "--connect", libvirt_uri(self.identity.is_root)], args].concat())
    }

    /// Migrates its VM to a launcher that waits for it, live and with its memory alone, and returns how long that took. The way there is
    /// [`Handler::carry`](crate::Handler::carry)'s.
    ///
    /// # Errors
    /// If libvirt refuses, or the migration does not end within the 20 s of [`Launcher::run`].
    pub fn migrate_to(&self, target: &Launcher<'_>) -> Result<Duration> {
        let clock = wait::Stopwatch::start();
        let words = self.words_of_migration();
        let migrated = self.virsh(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let took = clock.elapsed();
        // The launcher ends with its VM, and whatever runs in its process namespace is killed: virsh before it can say so, or its daemon
        // before it.
        let is_there = || target.qemu_pid().is_some() && !process::is_alive(self.monitor_pid());
        match migrated {
            Err(_) if wait::wait_until("the launcher to end", END_LIMIT, || Ok(is_there())).is_ok() => Ok(took),
            answer => answer.map(|_| took),
        }
    }

    /// As [`Launcher::migrate_to`], at that many MiB/s at most, and without waiting; ended when dropped.
    ///
    /// # Errors
    /// If `virsh` does not start.
    pub fn begin_migration(&self, mib_per_sec: u32) -> Result<Running> {
        let words = self.words_of_migration();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let bandwidth = mib_per_sec.to_string();
        let line = [&["virsh", "--quiet", "--connect", libvirt_uri(self.identity.is_root)], &words[..]].concat();
        let line = [&line[..], &["--bandwidth", &bandwidth]].concat();
        Running::start(&mut shell::command(&self.in_container(&line).iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// As virt-launcher asks libvirt (`pkg/virt-launcher/virtwrap/live-migration-source.go`).
    fn words_of_migration(&self) -> Vec<String> {
        let of_whom = if self.identity.is_root { "system" } else { "session" };
        let to = format!("qemu+unix:///{of_whom}?socket={}", handler::socket(self.vmi_uid(), 0));
        let memory = format!("unix://{}", handler::socket(self.vmi_uid(), 49_152));
        let flags = ["migrate", "--live", "--p2p", "--unsafe"].map(str::to_owned);
        [&flags[..], &[self.domain(), to, memory]].concat()
    }

    /// A command line that enters its container, as its user.
    fn in_container(&self, line: &[&str]) -> Vec<String> {
        let monitor = self.monitor.to_string();
        let user = self.identity.user().to_string();
        let enter = ["nsenter", "--target", &monitor, "--mount", "--pid", "--net", "--uts", "--ipc", "--root"];
        let as_user = ["--setgid", &user, "--setuid", &user, "--"];
        [&enter[..], &as_user, line].concat().into_iter().map(str::to_owned).collect()
    }

    /// The end of its log, to be shown with a failure.
    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    fn find_monitor(&self) -> Option<i32> {
        let is_ours = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "virt-launcher-m")
                && fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&self.pod_uid))
        };
        let entries = fs::read_dir("/proc").ok()?.flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_ours)
    }

    fn ghost_record(&self) -> PathBuf {
        self.node.root().join("run/kubevirt-private/ghost-records").join(&self.identity.vmi_uid)
    }

    /// What virt-handler notes of a launcher it has talked to (`pkg/virt-handler/cache/cache.go`).
    fn write_ghost_record(&self) -> Result<()> {
        let path = self.ghost_record();
        fs::create_dir_all(path.parent().context("a record lies in a folder")?)?;
        let socket = format!("/pods/{}/volumes/kubernetes.io~empty-dir/sockets/launcher-sock", self.pod_uid);
        let (name, namespace, uid) = (&self.identity.name, &self.identity.namespace, &self.identity.vmi_uid);
        let record = serde_json::json!({"name": name, "namespace": namespace, "socketFile": socket, "uid": uid});
        Ok(fs::write(path, record.to_string())?)
    }
}

impl Drop for Launcher<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.ghost_record());
        if self.monitor != 0 {
            // Process 1 takes its whole pid namespace with it, QEMU included; libvirt may be what is broken.
            let _ = process::signal(self.monitor, Signal::SIGKILL);
            let _ = wait::wait_until("the launcher to end", END_LIMIT, || Ok(!process::is_alive(self.monitor)));
        }
        if process::is_alive(self.node.leader()) {
            match &self.keeper {
                Keeper::Container(container) => container.remove(self.node),
                Keeper::Pod(cluster) => cluster.delete_pod(&self.identity.namespace, &self.identity.pod_name),
            }
        }
    }
}

/// The next number of a pod in the lab, for its address.
pub(crate) fn next_number() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 2
}

/// The folder of an `emptyDir` volume in the node.
pub(crate) fn empty_dir(pod_uid: &str, name: &str) -> String {
    format!("/var/lib/kubelet/pods/{pod_uid}/volumes/kubernetes.io~empty-dir/{name}")
}

/// The folder of the logs of a pod's container `compute` in the node.
pub(crate) fn log_folder(identity: &Identity, pod_uid: &str) -> String {
    format!("/var/log/pods/{}_{}_{pod_uid}/compute", identity.namespace, identity.pod_name)
}

pub(crate) fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
