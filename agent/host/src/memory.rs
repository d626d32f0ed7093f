//! The node's memory: `/proc/meminfo`, and what a process has locked and mapped.
//!
//! Hugepages are a matter of their own: see [`crate::hugepages`]. Source: `proc_meminfo(5)`, `proc_pid_status(5)`.

use crate::{HostRoot, Malformed, ReadError};

/// What `/proc/meminfo` says, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemInfo {
    /// All memory that the kernel manages, bytes.
    pub total_bytes: u64,
    /// What could be given to new programs without swapping, bytes. `None` before Linux 3.14.
    pub available_bytes: Option<u64>,
    /// What the pools of hugepages of all sizes hold, in use or free, bytes; never available to programs without them. Before
    /// Linux 4.16 (no `Hugetlb`) the default size's alone; 0 on a kernel without hugepages.
    pub hugetlb_bytes: u64,
    /// Hugepages of the default size. `None` on a kernel without them.
    pub hugepages: Option<DefaultHugepages>,
}

/// Hugepages of the default size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultHugepages {
    /// Size of one, KiB.
    pub size_kib: u64,
    /// Pages in the pool.
    pub n_total: u64,
    /// Pages not in use.
    pub n_free: u64,
    /// Free pages that are promised already.
    pub n_reserved: u64,
}

/// Parses `/proc/meminfo`.
///
/// # Errors
/// When there is no `MemTotal`.
pub fn parse_meminfo(text: &str) -> Result<MemInfo, Malformed> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()
    };
    let bytes = |name: &str| value(name).and_then(|kib| kib.checked_mul(1024));
    let default_hugepages = || {
        Some(DefaultHugepages {
            size_kib: value("Hugepagesize")?,
            n_total: value("HugePages_Total")?,
            n_free: value("HugePages_Free")?,
            n_reserved: value("HugePages_Rsvd").unwrap_or(0),
        })
    };
    let hugepages = default_hugepages();
    let of_default_size = || hugepages.map(|pages| pages.size_kib.saturating_mul(1024).saturating_mul(pages.n_total));
    let total_bytes = bytes("MemTotal").ok_or_else(|| Malformed::new(1, text.lines().next().unwrap_or_default()))?;
    let hugetlb_bytes = bytes("Hugetlb").or_else(of_default_size).unwrap_or(0);
    Ok(MemInfo { total_bytes, available_bytes: bytes("MemAvailable"), hugetlb_bytes, hugepages })
}

/// Reads `/proc/meminfo`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_meminfo(root: &HostRoot) -> Result<MemInfo, ReadError> {
    let path = "proc/meminfo";
    parse_meminfo(&root.read_text(path)?).map_err(|malformed| malformed.at(root.display_path(path)))
}

/// Memory of one process that a limit may apply to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Locked by `mlock` or by a driver (VFIO), bytes: `VmLck`.
    pub locked_bytes: Option<u64>,
    /// Address space, bytes: `VmSize`.
    pub size_bytes: Option<u64>,
}

/// Parses the memory lines of `/proc/PID/status`; each is `None` where it is missing.
pub fn parse_process_memory(text: &str) -> ProcessMemory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    ProcessMemory { locked_bytes: bytes("VmLck"), size_bytes: bytes("VmSize") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_recorded_meminfo_is_read() {
        let text = "MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:   19453296 kB\nHugePages_Total:      16\nHugePages_Free:        4\nHugePages_Rsvd:        3\nHugepagesize:       2048 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!((memory.total_bytes, memory.available_bytes), (24_684_092 * 1024, Some(19_453_296 * 1024)));
        let want = DefaultHugepages { size_kib: 2048, n_total: 16, n_free: 4, n_reserved: 3 };
        assert_eq!(memory.hugepages, Some(want));
    }

    #[test]
    fn hugepages_of_all_sizes_are_counted_where_the_kernel_does() {
        let before_4_16 = "MemTotal: 24684092 kB\nHugePages_Total: 16\nHugePages_Free: 4\nHugepagesize: 2048 kB\n";
        assert_eq!(parse_meminfo(before_4_16).unwrap().hugetlb_bytes, 16 * 2048 * 1024);
        let gigabyte_pages_too = format!("{before_4_16}Hugetlb:         8421376 kB\n");
        assert_eq!(parse_meminfo(&gigabyte_pages_too).unwrap().hugetlb_bytes, 8_421_376 * 1024);
        assert_eq!(parse_meminfo("MemTotal: 10 kB\n").unwrap().hugetlb_bytes, 0);
    }

    #[test]
    fn a_file_without_a_total_is_malformed_and_an_old_kernel_has_gaps() {
        assert!(parse_meminfo("").is_err());
        assert!(parse_meminfo("MemTotal: many kB\n").is_err());
        let memory = parse_meminfo("MemTotal: 10 kB\n").unwrap();
        assert_eq!((memory.available_bytes, memory.hugepages), (None, None));
    }

    #[test]
    fn locked_and_mapped_memory_of_a_process_are_told_apart() {
        let memory =
            parse_process_memory("Name:\tqemu-kvm\nVmSize:\t 1417796 kB\nVmLck:\t    8192 kB\nVmPin:\t 4 kB\n");
        assert_eq!((memory.locked_bytes, memory.size_bytes), (Some(8192 * 1024), Some(1_417_796 * 1024)));
        assert_eq!(parse_process_memory("Name: kthreadd\n"), ProcessMemory::default());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(MemTotal|VmLck|Hugepagesize)?:? {0,3}[0-9]{0,24}( kB)?\\PC{0,30}") {
            let _ = parse_meminfo(&text);
            let _ = parse_process_memory(&text);
        }
    }
}
