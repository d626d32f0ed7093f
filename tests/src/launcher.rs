//! A virt-launcher in KubeVirt's shape, without KubeVirt: the process tree, cgroup, folders and logs of a launcher pod.
//!
//! [`Launcher::start`] makes one on any node, without Kubernetes: a container of `runc` in the cgroup, namespaces and volumes that kubelet
//! and containerd would give the pod's `compute` container. [`Cluster::launch`] makes a real pod. In both, process 1
//! is `virt-launcher-monitor` with KubeVirt's flags, below it `virt-launcher` (the program `lab-launcher`), its own libvirt with the
//! socket `/run/libvirt/virtqemud-sock`, and QEMU, a child of the monitor, with the domain `<namespace>_<name>`.
//!
//! Source of the shape: KubeVirt `pkg/virt-controller/services/{template,rendervolumes}.go`, v1.8, with the feature gate `Root`, or, by
//! [`LauncherBuilder::non_root`], without. What is not KubeVirt's: the programs come from the node's `/usr`, libvirt is the monolithic
//! `libvirtd`, and migrations go from pod to pod.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::disk::FileDisk;
use crate::image::{self, Program, SECTOR};
use crate::kubernetes::Cluster;
use crate::node::Node;
use crate::{process, programs, shell, wait};

mod container;
mod domain;

/// Where the domain of a launcher is described, in its container: beside the disk, as a PersistentVolumeClaim's is mounted.
pub const DOMAIN: &str = "/run/kubevirt-private/vmi-disks/rootdisk/domain.xml";
/// The folder of a launcher's command socket, in its container.
pub const COMMAND_SOCKETS: &str = "/run/kubevirt/sockets";
/// The folder of a launcher's libvirt sockets, in its container.
pub const LIBVIRT_RUN: &str = "/run/libvirt";
/// The user of a launcher that is not root, in KubeVirt's image `qemu`.
const QEMU_USER: u32 = 107;
/// Makes the masquerade binding's bridge and the guest's tap for the user `$1`, as virt-handler does (`pkg/network/setup`, phase 1).
const GUEST_NETWORK: &str = "\
ip link add k6t-eth0 type bridge
ip address add 10.0.2.1/24 dev k6t-eth0
ip link set k6t-eth0 up
ip tuntap add tap0 mode tap user $1
ip link set tap0 master k6t-eth0 up
";

/// The pod's `emptyDir` volumes and where its container has them; an outer one before those inside it. KubeVirt's, and `libvirt` for what
/// its image brings.
pub(crate) const EMPTY_DIRS: [(&str, &str); 8] = [
    ("private", "/run/kubevirt-private"),
    ("public", "/run/kubevirt"),
    ("ephemeral-disks", "/run/kubevirt-ephemeral-disks"),
    ("container-disks", "/run/kubevirt/container-disks"),
    ("hotplug-disks", "/run/kubevirt/hotplug-disks"),
    ("libvirt-runtime", LIBVIRT_RUN),
    ("sockets", COMMAND_SOCKETS),
    ("libvirt", "/etc/libvirt"),
];

/// How long a launcher may take until its guest runs; 2 to 4 s are normal.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long its processes may take to go once they are killed.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Size of the guest's (sparse) disk.
const DISK_BYTES: u64 = 16 << 20;

/// How a client in the container connects to a launcher's libvirt: the system's where the launcher is root, else the user's own.
#[must_use]
pub fn libvirt_uri(is_root: bool) -> &'static str {
    if is_root {
        "qemu:///system?socket=/run/libvirt/virtqemud-sock"
    } else {
        "qemu:///session?socket=/run/libvirt/virtqemud-sock"
    }
}

/// A launcher to be started; from [`Launcher::define`].
#[derive(Debug)]
#[must_use]
pub struct LauncherBuilder<'node> {
    pub(crate) node: &'node Node,
    pub(crate) identity: Identity,
    program: Program,
    /// In the node; it becomes the folder of the disk in the container.
    pub(crate) folder: PathBuf,
    pub(crate) memory_limit_mib: Option<u32>,
    waits_for_migration: bool,
}

/// Whose launcher it is, in the words of its flags and paths.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) vmi_uid: String,
    /// Of the pod: `virt-launcher-<name>-<5 letters>`.
    pub(crate) pod_name: String,
    /// Whether its processes are root's.
    pub(crate) is_root: bool,
}

impl Identity {
    fn new(namespace: &str, name: &str) -> Result<Self> {
        let suffix: String = uuid()?.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            vmi_uid: uuid()?,
            pod_name: format!("virt-launcher-{name}-{suffix}"),
            is_root: true,
        })
    }

    pub(crate) fn domain(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }

    /// User and group of its processes.
    pub(crate) fn user(&self) -> u32 {
        if self.is_root { 0 } else { QEMU_USER }
    }

    /// The command line of process 1 (`template.go`, `launcherCommand`).
    pub(crate) fn command_line(&self) -> Vec<String> {
        let words = [
            "/usr/bin/virt-launcher-monitor",
            "--qemu-timeout",
            "279s",
            "--name",
            &self.name,
            "--uid",
            &self.vmi_uid,
            "--namespace",
            &self.namespace,
            "--kubevirt-share-dir",
            "/var/run/kubevirt",
            "--ephemeral-disk-dir",
            "/var/run/kubevirt-ephemeral-disks",
            "--container-disk-dir",
            "/var/run/kubevirt/container-disks",
            "--grace-period-seconds",
            "45",
            "--hook-sidecars",
            "0",
            "--ovmf-path",
            "/usr/share/OVMF",
            "--disk-memory-limit",
            "2097152000",
            "--hypervisor",
            "kvm",
        ];
        let non_root = (!self.is_root).then_some("--run-as-nonroot");
        words.into_iter().chain(non_root).map(str::to_owned).collect()
    }
}

impl<'node> LauncherBuilder<'node> {
    /// What the guest does; nothing otherwise ([`Program::Idle`]).
    pub fn program(self, program: Program) -> Self {
        Self { program, ..self }
    }

    /// Puts the guest's image on a disk that can be broken; without, it lies in the node's `/var/lib/lab-launchers`.
    pub fn disk_on(self, disk: &FileDisk) -> Self {
        Self { folder: disk.path(), ..self }
    }

    /// Runs everything in the container as the user 107 and libvirt as that user's session, as KubeVirt does by default. It is root
    /// otherwise, as with the feature gate `Root`, and libvirt is the system's.
    pub fn non_root(self) -> Self {
        Self { identity: Identity { is_root: false, ..self.identity }, ..self }
    }

    /// The memory limit of the container, MiB; none otherwise. libvirt, launcher and QEMU together need about 130 beside the guest's own.
    pub fn memory_limit_mib(self, mib: u32) -> Self {
        Self { memory_limit_mib: Some(mib), ..self }
    }

    /// Has the VM of another launcher come by migration: the same VMI, a pod of its own, and no domain until then.
    pub fn for_migration_of(self, source: &Launcher<'_>) -> Self {
        let identity = Identity {
            namespace: source.identity.namespace.clone(),
            name: source.identity.name.clone(),
            vmi_uid: source.identity.vmi_uid.clone(),
            is_root: source.identity.is_root,
            ..self.identity
        };
        Self { identity, waits_for_migration: true, ..self }
    }

    /// Starts it as a container of `runc`, and returns when its guest runs, or, for a migration, when it is ready.
    ///
    /// # Errors
    /// If it does not come up: the end of its container log.
    pub fn start(self) -> Result<Launcher<'node>> {
        let pod_uid = uuid()?;
        self.write_files()?;
        let container = container::start(&self, &pod_uid)?;
        self.wait_until_up(Keeper::Container(container), pod_uid)
    }

    /// The program under its two names, and the guest's disk with its domain.
    pub(crate) fn write_files(&self) -> Result<()> {
        let here = |path: &Path| self.node.root().join(path.strip_prefix("/").unwrap_or(path));
        for name in ["virt-launcher-monitor", "virt-launcher"] {
            let path = here(&Path::new("/usr/bin").join(name));
            if !path.exists() {
                let binary = programs::binary("lab-launcher")?;
                fs::copy(&binary, &path).with_context(|| format!("failed to copy `{}`", binary.display()))?;
            }
        }
        let folder = here(&self.folder);
        fs::create_dir_all(&folder)?;
        let image = folder.join("disk.img");
        if !image.exists() {
            File::create(&image)?.set_len(DISK_BYTES)?;
        }
        if !self.waits_for_migration {
            image::write_boot_sector(&image, &self.program.assemble(DISK_BYTES / SECTOR as u64)?)?;
            let xml = domain::to_xml(&self.identity, &uuid()?, self.program.memory_mib());
            fs::write(folder.join("domain.xml"), xml)?;
        }
        // Without a name for its user, a session of libvirt does not start.
        let users = here(Path::new("/etc/passwd"));
        let known = fs::read_to_string(&users)?;
        if !known.lines().any(|line| line.split(':').nth(2) == Some("107")) {
            fs::write(&users, known + "qemu:x:107:107::/:/usr/sbin/nologin\n")?;
        }
        fs::set_permissions(&image, fs::Permissions::from_mode(0o666))?;
        Ok(())
    }

    /// Waits for the processes, the command socket and the guest of a launcher whose pod was started.
    pub(crate) fn wait_until_up(self, keeper: Keeper<'node>, pod_uid: String) -> Result<Launcher<'node>> {
        let mut launcher = Launcher {
            node: self.node,
            identity: self.identity,
            image: self.folder.join("disk.img"),
            pod_uid,
            monitor: 0,
            keeper,
        };
        let up = wait::wait_until("the launcher's command socket", START_LIMIT, || {
            if launcher.monitor == 0 {
                let Some(monitor) = launcher.find_monitor() else { return Ok(false) };
                launcher.monitor = monitor;
                let (of, user) = (format!("--net=/proc/{monitor}/ns/net"), launcher.identity.user().to_string());
                shell::run(&["nsenter", &of, "--", "sh", "-ec", GUEST_NETWORK, "network", &user])?;
            }
            Ok(launcher.empty_dir("sockets").join("launcher-sock").exists())
        });
        let up = up.and_then(|_| {
            if self.waits_for_migration {
                return Ok(());
            }
            wait::wait_until("its guest to run", START_LIMIT, || image::is_up(&launcher.image_here())).map(drop)
        });
        up.with_context(|| format!("launcher of {}; its log ends:\n{}", launcher.domain(), launcher.log_tail()))?;
        launcher.write_ghost_record()?;
        Ok(launcher)
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
        let (program, memory_limit_mib, waits_for_migration) = (Program::Idle, None, false);
        Ok(LauncherBuilder { node, identity, program, folder, memory_limit_mib, waits_for_migration })
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
        let monitor = self.monitor.to_string();
        let user = self.identity.user().to_string();
        let enter = ["nsenter", "--target", &monitor, "--mount", "--pid", "--net", "--uts", "--ipc", "--root"];
        let as_user = ["--setgid", &user, "--setuid", &user, "--"];
        shell::run(&[&enter[..], &as_user, &["timeout", "-k", "2", "20"][..], line].concat())
    }

    /// `virsh` with its own libvirt.
    ///
    /// # Errors
    /// As [`Launcher::run`].
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        self.run(&[&["virsh", "--quiet", "--connect", libvirt_uri(self.identity.is_root)], args].concat())
    }

    /// Migrates its VM to a launcher that waits for it, live and with its memory alone, and returns how long that took.
    ///
    /// # Errors
    /// If libvirt refuses, or the migration does not end within the 20 s of [`Launcher::run`].
    pub fn migrate_to(&self, target: &Launcher<'_>) -> Result<Duration> {
        let clock = wait::Stopwatch::start();
        let address = target.address()?;
        let (to, carry) = (
            format!("qemu+tcp://{address}/{}", if self.identity.is_root { "system" } else { "session" }),
            format!("tcp://{address}"),
        );
        self.virsh(&["migrate", "--live", "--p2p", "--unsafe", &self.domain(), &to, &carry])?;
        Ok(clock.elapsed())
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
