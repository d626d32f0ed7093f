//! What kind of machine this is, for an agent to say of itself when it connects.
//!
//! Processors and memory come from sysinfo, as the kernel tells the running agent; the rest from the host's root. Memory is
//! the machine's: in a container or a lab node that is more than the node may use.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::{HostRoot, ReadError};

/// Which cgroup hierarchies the host has mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Version 1 only.
    V1,
    /// Version 1, with an empty version 2 tree at `/sys/fs/cgroup/unified`.
    Hybrid,
    /// Version 2 only.
    V2,
}

/// What kind of machine this is. `None` for what could not be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Kernel release, as `uname -r` prints it.
    pub kernel_release: Option<String>,
    /// Distribution, as it calls itself (`PRETTY_NAME` of `os-release(5)`).
    pub os_pretty_name: Option<String>,
    /// Processors that are online.
    pub n_cpus: Option<u32>,
    /// Memory of the machine, bytes.
    pub memory_bytes: Option<u64>,
    /// Cgroup hierarchies.
    pub cgroup_version: Option<CgroupVersion>,
}

/// Looks at everything, and leaves out what does not answer.
pub fn read_inventory(root: &HostRoot) -> Inventory {
    let machine =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(machine).ok();
    Inventory {
        kernel_release: root.kernel_release().ok(),
        os_pretty_name: read_os_pretty_name(root).ok().flatten(),
        n_cpus: system.as_ref().and_then(|system| u32::try_from(system.cpus().len()).ok()).filter(|n_cpus| *n_cpus > 0),
        memory_bytes: system.as_ref().map(System::total_memory).filter(|bytes| *bytes > 0),
        cgroup_version: cgroup_version(root),
    }
}

/// The distribution's name. `None` when its file says none.
///
/// # Errors
/// See [`ReadError`]; `NotFound` when neither place has the file.
pub fn read_os_pretty_name(root: &HostRoot) -> Result<Option<String>, ReadError> {
    let text = match root.read_text("etc/os-release") {
        Err(error) if error.is_not_found() => root.read_text("usr/lib/os-release")?,
        result => result?,
    };
    Ok(parse_os_pretty_name(&text))
}

/// Finds `PRETTY_NAME` in an `os-release` file and takes its quotes off. `None` when it is not there or empty.
pub fn parse_os_pretty_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?.trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let name = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    (!name.is_empty()).then(|| name.to_owned())
}

/// `cgroup.controllers` exists only in the root of a version 2 tree.
fn cgroup_version(root: &HostRoot) -> Option<CgroupVersion> {
    let has = |path: &str| root.stat(path).is_ok();
    match (has("sys/fs/cgroup/cgroup.controllers"), has("sys/fs/cgroup/unified/cgroup.controllers")) {
        (true, _) => Some(CgroupVersion::V2),
        (false, true) => Some(CgroupVersion::Hybrid),
        (false, false) => has("sys/fs/cgroup/memory").then_some(CgroupVersion::V1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_machine_knows_itself() {
        let seen = read_inventory(&HostRoot::new("/"));
        assert_eq!(seen.kernel_release.as_deref(), rustix::system::uname().release().to_str().ok());
        assert!(seen.n_cpus.unwrap() >= 1);
        assert!(seen.memory_bytes.unwrap() > 64 << 20);
        assert!(seen.os_pretty_name.is_some());
    }

    #[test]
    fn an_empty_root_is_unknown_and_not_version_1() {
        let dir = tempfile::tempdir().unwrap();
        let seen = read_inventory(&HostRoot::new(dir.path()));
        assert_eq!((seen.kernel_release, seen.os_pretty_name, seen.cgroup_version), (None, None, None));
    }

    #[test]
    fn each_cgroup_layout_is_told_apart() {
        for (files, want) in [
            (vec!["memory/x", "unified/cgroup.controllers"], CgroupVersion::Hybrid),
            (vec!["memory/x"], CgroupVersion::V1),
            (vec!["cgroup.controllers"], CgroupVersion::V2),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                let path = dir.path().join("sys/fs/cgroup").join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            assert_eq!(cgroup_version(&HostRoot::new(dir.path())), Some(want));
        }
    }

    #[test]
    fn names_lose_their_quotes() {
        assert_eq!(parse_os_pretty_name("ID=debian\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(parse_os_pretty_name("PRETTY_NAME=Alpine\n").as_deref(), Some("Alpine"));
        assert_eq!(parse_os_pretty_name("PRETTY_NAME=\"\"\nNAME=x\n"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(PRETTY_NAME=)?[\"'é\\PC]{0,20}\n?\\PC{0,40}") {
            let _ = parse_os_pretty_name(&text);
        }
    }
}
