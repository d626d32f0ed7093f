//! A launcher before it is started: whose it is, what its guest does, and the files it needs on its node.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Keeper, Launcher, container, domain, uuid};
use crate::disk::FileDisk;
use crate::export::Export;
use crate::image::{self, Program, SECTOR};
use crate::node::Node;
use crate::{programs, shell, wait};

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
/// How long a launcher may take until its guest runs; 2 to 4 s are normal.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Size of the guest's (sparse) disk.
pub(crate) const DISK_BYTES: u64 = 16 << 20;

/// A launcher to be started; from [`Launcher::define`].
#[derive(Debug)]
#[must_use]
pub struct LauncherBuilder<'node> {
    pub(crate) node: &'node Node,
    pub(crate) identity: Identity,
    pub(super) program: Program,
    /// In the node; it becomes the folder of the disk in the container.
    pub(crate) folder: PathBuf,
    pub(crate) memory_limit_mib: Option<u32>,
    pub(super) waits_for_migration: bool,
    /// Of the pod's object, where that was made before.
    pub(super) pod_uid: Option<String>,
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
    pub(super) fn new(namespace: &str, name: &str) -> Result<Self> {
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

    /// Puts the guest's image on an export.
    pub fn disk_of(self, export: &Export) -> Self {
        Self { folder: export.folder().to_owned(), ..self }
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

    /// Makes it the launcher of a VMI whose object is there already.
    pub fn of_vmi(self, vmi_uid: &str) -> Self {
        Self { identity: Identity { vmi_uid: vmi_uid.to_owned(), ..self.identity }, ..self }
    }

    /// As [`LauncherBuilder::of_vmi`], where the pod's object is there too, by its name and UID, and nobody runs it.
    pub fn of_pod(self, vmi_uid: &str, (pod_name, pod_uid): (&str, &str)) -> Self {
        let this = self.of_vmi(vmi_uid);
        let identity = Identity { pod_name: pod_name.to_owned(), ..this.identity };
        Self { identity, pod_uid: Some(pod_uid.to_owned()), ..this }
    }

    /// Starts it as a container of `runc`, and returns when its guest runs, or, for a migration, when it is ready.
    ///
    /// # Errors
    /// If it does not come up: the end of its container log.
    pub fn start(self) -> Result<Launcher<'node>> {
        let pod_uid = self.pod_uid.clone().map_or_else(uuid, Ok)?;
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
