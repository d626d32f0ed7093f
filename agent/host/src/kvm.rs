//! KVM: is the device there, who may open it, does it answer, and what stands behind it.
//!
//! Each question is asked apart, because each fails for another reason: the node of `/dev/kvm` may be missing, be no device,
//! have no permissions; the device may refuse to open (no module behind it, a device cgroup); it may open and be unable to
//! make a virtual machine (another hypervisor holds the processor, no memory, a filter). We mostly run as root, for whom
//! permissions do not count: so mode and owner are reported beside whether *we* could open it.

mod cpu;
mod device;
mod watch;

pub use cpu::{CpuVirtualization, parse_cpu_flags, read_cpu_virtualization};
pub use device::{KvmCalls, KvmNode, NodeKind, OsError, read_kvm_calls, read_kvm_node};
pub use watch::{KvmChange, KvmWatch};

use crate::{HostRoot, ReadError};

/// Where the device is, under the host's root.
pub const KVM_PATH: &str = "dev/kvm";

/// One of the kernel's KVM modules, loadable or built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvmModule {
    /// `kvm`, and one for the processor: `kvm_intel`, `kvm_amd`, `kvm_pvm`.
    pub name: String,
    /// Whether it is part of the kernel itself: such a module has no load state in sysfs.
    pub is_built_in: bool,
    /// Whether guests may use KVM themselves. `None` for modules without that parameter.
    pub is_nested_enabled: Option<bool>,
}

/// The KVM modules of the running kernel, by name. A built-in one without parameters is not shown by the kernel.
///
/// # Errors
/// See [`ReadError`]; `NotFound` when sysfs is not there.
pub fn read_kvm_modules(root: &HostRoot) -> Result<Vec<KvmModule>, ReadError> {
    let mut modules = Vec::new();
    for name in root.list("sys/module")? {
        let Some(name) = name.to_str().filter(|name| *name == "kvm" || name.starts_with("kvm_")) else { continue };
        let directory = format!("sys/module/{name}");
        let nested = root.read_text_if_any(format!("{directory}/parameters/nested"))?;
        modules.push(KvmModule {
            is_built_in: root.read_text_if_any(format!("{directory}/initstate"))?.is_none(),
            is_nested_enabled: nested.as_deref().and_then(parse_module_bool),
            name: name.to_owned(),
        });
    }
    Ok(modules)
}

/// Whether the running kernel has registered a driver for the device, whatever `/dev` shows. Source: `/proc/misc`.
///
/// # Errors
/// See [`ReadError`].
pub fn is_kvm_registered(root: &HostRoot) -> Result<bool, ReadError> {
    Ok(parse_misc_has_kvm(&root.read_text("proc/misc")?))
}

/// Whether `/proc/misc` (lines of a minor number and a name) lists KVM.
pub fn parse_misc_has_kvm(text: &str) -> bool {
    text.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some("kvm"))
}

/// A yes-or-no parameter of a module: `Y`, `N`, `1`, `0`.
fn parse_module_bool(text: &str) -> Option<bool> {
    match text.trim() {
        "Y" | "y" | "1" => Some(true),
        "N" | "n" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
