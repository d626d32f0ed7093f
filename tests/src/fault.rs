//! Faults of processes, units and devices, as guards that undo themselves. Those of storage are in
//! [`crate::disk`], of the network in [`network`], limits in [`limit`].
//!
//! Each is the real thing: a stopped daemon is stopped by its unit, a hung one by SIGSTOP, a device is missing because it was removed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::guest::Guest;
use crate::node::Node;
use crate::{lab, process};

pub mod limit;
pub mod network;

pub use limit::MemoryLimit;

/// Where kubelet's configuration lies on a node.
const KUBELET_CONFIG: &str = "var/lib/kubelet/config.yaml";
/// Where libvirt describes the one CPU model whose features nested KVM gives completely.
const CPU_MODEL: &str = "usr/share/libvirt/cpu_map/x86_pentium3.xml";

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

/// A fault that a shell line begins and another one ends, when dropped.
#[derive(Debug)]
pub struct Scripted<'node> {
    node: &'node Node,
    ends: String,
}

impl<'node> Scripted<'node> {
    /// Runs the line that begins it. The other one is run as well where this one fails midway.
    ///
    /// # Errors
    /// If the line fails.
    pub fn new(node: &'node Node, begins: &str, ends: &str) -> Result<Self> {
        let fault = Self { node, ends: ends.to_owned() };
        node.run(&["bash", "-ec", begins])?;
        Ok(fault)
    }
}

impl Drop for Scripted<'_> {
    fn drop(&mut self) {
        undo(self.node.run(&["bash", "-ec", &self.ends]).map(drop));
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

/// A target that lacks a processor feature which the guest was given elsewhere; has it again when dropped.
///
/// libvirt on the node is told that a CPU model includes the feature; KVM does not give it, and the check that libvirt makes of every guest
/// that arrives finds it missing, as it does where microcode or hardware differ. Only for guests with a checked CPU
/// ([`GuestBuilder::with_checked_cpu`](crate::guest::GuestBuilder::with_checked_cpu)).
#[derive(Debug)]
pub struct CpuFeatureMissing<'node>(&'node Node);

impl<'node> CpuFeatureMissing<'node> {
    /// Adds the feature to what the node's libvirt expects of the model, and restarts that libvirt.
    ///
    /// # Errors
    /// If libvirt's list of models is not where Debian has it.
    pub fn new(node: &'node Node, feature: &str) -> Result<Self> {
        let file = node.root().join(CPU_MODEL);
        let text = fs::read_to_string(&file).context("failed to read libvirt's CPU model")?;
        fs::write(file.with_extension("kept"), &text)?;
        let missing = Self(node);
        let with_feature = text.replace("</model>", &format!("<feature name='{feature}'/></model>"));
        fs::write(&file, with_feature).context("failed to write libvirt's CPU model")?;
        missing.forget_capabilities()?;
        Ok(missing)
    }

    /// libvirt reads its models at a start, and keeps what it knows of QEMU in a cache.
    fn forget_capabilities(&self) -> Result<()> {
        self.0.run(&["sh", "-ec", "rm -rf /var/cache/libvirt/qemu/capabilities; systemctl restart libvirtd"]).map(drop)
    }
}

impl Drop for CpuFeatureMissing<'_> {
    fn drop(&mut self) {
        let file = self.0.root().join(CPU_MODEL);
        undo(fs::rename(file.with_extension("kept"), &file).context("failed to put libvirt's CPU model back"));
        undo(self.forget_capabilities());
    }
}

/// Reports an undoing that failed: a drop cannot return it.
fn undo(result: Result<()>) {
    if let Err(error) = result {
        lab::complain(&format!("a fault was not undone: {error:#}"));
    }
}
