//! What the processors say about virtualization, from `/proc/cpuinfo`.

use crate::{HostRoot, Malformed, ReadError};

/// Flags of the first processor that bear on virtualization; the others have the same ones on any machine that boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuVirtualization {
    /// Intel VT-x. The flag is missing also when the firmware has locked it off.
    pub has_vmx: bool,
    /// AMD-V.
    pub has_svm: bool,
    /// We run in a virtual machine ourselves.
    pub has_hypervisor: bool,
}

/// Reads the processors' flags.
///
/// # Errors
/// `Unsupported` where the processor has no such list (it is an x86 matter); otherwise see [`ReadError`].
pub fn read_cpu_virtualization(root: &HostRoot) -> Result<CpuVirtualization, ReadError> {
    let path = "proc/cpuinfo";
    match parse_cpu_flags(&root.read_text(path)?) {
        Ok(Some(flags)) => Ok(flags),
        Ok(None) => Err(ReadError::Unsupported { path: root.display_path(path) }),
        Err(malformed) => Err(malformed.at(root.display_path(path))),
    }
}

/// Parses `/proc/cpuinfo`. `None` when no processor has a `flags` line.
///
/// # Errors
/// When there is no processor in it at all.
pub fn parse_cpu_flags(text: &str) -> Result<Option<CpuVirtualization>, Malformed> {
    let field = |name: &str| {
        let has_name = |line: &&str| line.split(':').next().is_some_and(|key| key.trim_end() == name);
        text.lines().find(has_name).and_then(|line| line.split_once(':')).map(|(_, value)| value)
    };
    if field("processor").is_none() {
        return Err(Malformed::new(1, text.lines().next().unwrap_or_default()));
    }
    Ok(field("flags").map(|flags| {
        let has = |name: &str| flags.split_ascii_whitespace().any(|flag| flag == name);
        CpuVirtualization { has_vmx: has("vmx"), has_svm: has("svm"), has_hypervisor: has("hypervisor") }
    }))
}
