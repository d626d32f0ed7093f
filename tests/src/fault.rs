//! Faults of processes, units and devices, as guards that undo themselves. Those of storage are in [`crate::disk`].
//!
//! Each is the real thing: a stopped daemon is stopped by its unit, a hung one by SIGSTOP, a device is missing because it was removed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::guest::Guest;
use crate::node::Node;
use crate::{lab, process};

/// Where kubelet's configuration lies on a node.
const KUBELET_CONFIG: &str = "var/lib/kubelet/config.yaml";

/// A process stopped by SIGSTOP, as one that hangs; goes on when dropped.
#[derive(Debug)]
pub struct Hung(i32);

impl Hung {
    /// Stops a process of this machine.
    ///
    /// # Errors
    /// If there is none.
    pub fn process(pid: i32) -> Result<Self> {
        process::signal(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }

    /// Stops the main process of a unit: `libvirtd.service`, `kubelet.service`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn unit(node: &Node, unit: &str) -> Result<Self> {
        Self::process(node.main_pid(unit)?.with_context(|| format!("{unit} does not run"))?)
    }

    /// Stops a guest's QEMU: its monitor no longer answers.
    ///
    /// # Errors
    /// If it does not run.
    pub fn qemu(guest: &Guest<'_>) -> Result<Self> {
        Self::process(guest.qemu_pid().with_context(|| format!("{} does not run", guest.name()))?)
    }

    /// The stopped process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = process::signal(self.0, Signal::SIGCONT);
    }
}

/// A unit stopped by systemd; started again when dropped.
#[derive(Debug)]
pub struct UnitStopped<'node>(&'node Node, String);

impl<'node> UnitStopped<'node> {
    /// Stops it.
    ///
    /// # Errors
    /// If systemd refuses.
    pub fn new(node: &'node Node, unit: &str) -> Result<Self> {
        node.systemctl(&["stop", unit])?;
        Ok(Self(node, unit.to_owned()))
    }
}

impl Drop for UnitStopped<'_> {
    fn drop(&mut self) {
        undo(self.0.systemctl(&["start", &self.1]).map(drop));
    }
}

/// Kubelet in a restart loop: its configuration is gone, so each start fails and `Restart=always` tries again every second.
/// When dropped the file is back, and the next start succeeds.
#[derive(Debug)]
pub struct KubeletLoops<'node>(&'node Node);

impl<'node> KubeletLoops<'node> {
    /// Takes the configuration away and ends the running kubelet.
    ///
    /// # Errors
    /// If the node has no kubelet.
    pub fn new(node: &'node Node) -> Result<Self> {
        let config = node.root().join(KUBELET_CONFIG);
        fs::rename(&config, config.with_extension("away")).context("failed to take kubelet's configuration away")?;
        let loops = Self(node);
        node.systemctl(&["kill", "--signal=KILL", "kubelet.service"])?;
        Ok(loops)
    }
}

impl Drop for KubeletLoops<'_> {
    fn drop(&mut self) {
        let config = self.0.root().join(KUBELET_CONFIG);
        undo(fs::rename(config.with_extension("away"), &config).context("failed to put kubelet's configuration back"));
    }
}

/// A node whose `/dev/kvm` is gone; made anew when dropped.
#[derive(Debug)]
pub struct KvmMissing<'node>(&'node Node);

impl<'node> KvmMissing<'node> {
    /// Removes it. The node's device node is its own: this machine's stays.
    ///
    /// # Errors
    /// If it has none.
    pub fn new(node: &'node Node) -> Result<Self> {
        node.run(&["rm", "/dev/kvm"])?;
        Ok(Self(node))
    }
}

impl Drop for KvmMissing<'_> {
    fn drop(&mut self) {
        undo(self.0.run(&["sh", "-ec", "mknod -m 0660 /dev/kvm c 10 232; chgrp kvm /dev/kvm"]).map(drop));
    }
}

/// A node whose `/dev/kvm` has another mode; has its own again when dropped.
#[derive(Debug)]
pub struct KvmMode {
    device: PathBuf,
    mode: u32,
}

impl KvmMode {
    /// Sets the mode; with 0 nobody but root opens it, and QEMU is not root.
    ///
    /// # Errors
    /// If there is no device.
    pub fn new(node: &Node, mode: u32) -> Result<Self> {
        let device = node.root().join("dev/kvm");
        let before = fs::metadata(&device).context("no /dev/kvm on the node")?.permissions().mode();
        let changed = Self { device, mode: before };
        fs::set_permissions(&changed.device, fs::Permissions::from_mode(mode))?;
        Ok(changed)
    }
}

impl Drop for KvmMode {
    fn drop(&mut self) {
        undo(
            fs::set_permissions(&self.device, fs::Permissions::from_mode(self.mode))
                .context("failed to restore /dev/kvm"),
        );
    }
}

/// A memory limit on a guest's QEMU; lifted when dropped, if its cgroup is still there.
#[derive(Debug)]
pub struct MemoryLimit {
    limit: PathBuf,
    none: &'static str,
}

impl MemoryLimit {
    /// Allows the QEMU of a guest `spare_mib` MiB more than it uses now. A guest that grows further gets it killed by the kernel, in its
    /// memory cgroup.
    ///
    /// # Errors
    /// If the guest does not run, or not in a memory cgroup of its own.
    pub fn new(guest: &Guest<'_>, spare_mib: u64) -> Result<Self> {
        let pid = guest.qemu_pid().with_context(|| format!("{} does not run", guest.name()))?;
        let (usage, limit) = match process::cgroup(pid, "memory") {
            Ok(v1) => (v1.join("memory.usage_in_bytes"), Self { limit: v1.join("memory.limit_in_bytes"), none: "-1" }),
            Err(_) => {
                // libvirt's cgroups of single threads have no memory of their own.
                let of_thread = process::cgroup(pid, "")?;
                let has_limit = |dir: &&Path| dir.join("memory.max").exists();
                let v2 = of_thread.ancestors().find(has_limit).context("no memory controller")?;
                (v2.join("memory.current"), Self { limit: v2.join("memory.max"), none: "max" })
            }
        };
        let used = fs::read_to_string(&usage).with_context(|| format!("failed to read `{}`", usage.display()))?;
        let bytes = used.trim().parse::<u64>()? + (spare_mib << 20);
        fs::write(&limit.limit, bytes.to_string())
            .with_context(|| format!("failed to write `{}`", limit.limit.display()))?;
        Ok(limit)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::write(&self.limit, self.none);
    }
}

/// Reports an undoing that failed: a drop cannot return it.
fn undo(result: Result<()>) {
    if let Err(error) = result {
        lab::complain(&format!("a fault was not undone: {error:#}"));
    }
}
