//! Hugepages by size, for the node and for each NUMA node.
//!
//! Sources: `/sys/kernel/mm/hugepages`, `/sys/devices/system/node/node*/hugepages`, kernel
//! `Documentation/admin-guide/mm/hugetlbpage.rst`; where only `/proc/meminfo` is there, the default size from it.

use crate::memory::read_meminfo;
use crate::{HostRoot, ReadError};

/// The pool of one size, of the whole node or of one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HugepagePool {
    /// Size of a page, KiB: 2048, 1048576.
    pub size_kib: u64,
    /// The NUMA node; `None` for all of them together.
    pub numa_node: Option<u32>,
    /// Pages in the pool.
    pub n_total: u64,
    /// Pages not in use.
    pub n_free: u64,
    /// Free pages that are promised already. `None` for a NUMA node: the kernel counts promises for the whole only.
    pub n_reserved: Option<u64>,
}

/// The pools there are, sorted; a size without pages is a pool of none.
///
/// # Errors
/// `NotFound` when neither sysfs nor meminfo has hugepages; otherwise see [`ReadError`].
pub fn read_hugepages(root: &HostRoot) -> Result<Vec<HugepagePool>, ReadError> {
    let mut pools = read_pools(root, "sys/kernel/mm/hugepages", None)?;
    if pools.is_empty() {
        let default = read_meminfo(root)?.hugepages;
        pools.extend(default.map(|pages| HugepagePool {
            size_kib: pages.size_kib,
            numa_node: None,
            n_total: pages.n_total,
            n_free: pages.n_free,
            n_reserved: Some(pages.n_reserved),
        }));
    }
    for name in list_if_any(root, "sys/devices/system/node")? {
        let Some(number) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
        pools.extend(read_pools(root, &format!("sys/devices/system/node/{name}/hugepages"), Some(number))?);
    }
    if pools.is_empty() {
        return Err(ReadError::NotFound { path: root.display_path("sys/kernel/mm/hugepages") });
    }
    pools.sort();
    Ok(pools)
}

fn read_pools(root: &HostRoot, directory: &str, numa_node: Option<u32>) -> Result<Vec<HugepagePool>, ReadError> {
    let mut pools = Vec::new();
    for name in list_if_any(root, directory)? {
        let size = name.strip_prefix("hugepages-").and_then(|size| size.strip_suffix("kB")?.parse().ok());
        let Some(size_kib) = size else { continue };
        let number = |file: &str| {
            let text = root.read_text_if_any(format!("{directory}/{name}/{file}"))?;
            Ok::<_, ReadError>(text.and_then(|text| text.trim().parse::<u64>().ok()))
        };
        if let (Some(n_total), Some(n_free)) = (number("nr_hugepages")?, number("free_hugepages")?) {
            let n_reserved = number("resv_hugepages")?;
            pools.push(HugepagePool { size_kib, numa_node, n_total, n_free, n_reserved });
        }
    }
    Ok(pools)
}

fn list_if_any(root: &HostRoot, directory: &str) -> Result<Vec<String>, ReadError> {
    match root.list(directory) {
        Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &std::path::Path, pool: &str, files: &[(&str, &str)]) {
        std::fs::create_dir_all(dir.join(pool)).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(pool).join(name), text).unwrap();
        }
    }

    #[test]
    fn sizes_and_numa_nodes_are_read_apart() {
        let dir = tempfile::tempdir().unwrap();
        let all = [("nr_hugepages", "8\n"), ("free_hugepages", "3\n"), ("resv_hugepages", "1\n")];
        write(dir.path(), "sys/kernel/mm/hugepages/hugepages-1048576kB", &all);
        write(
            dir.path(),
            "sys/kernel/mm/hugepages/hugepages-2048kB",
            &[("nr_hugepages", "0\n"), ("free_hugepages", "0\n")],
        );
        write(dir.path(), "sys/devices/system/node/node1/hugepages/hugepages-1048576kB", &all[..2]);
        let pools = read_hugepages(&HostRoot::new(dir.path())).unwrap();
        let shown: Vec<_> =
            pools.iter().map(|pool| (pool.size_kib, pool.numa_node, pool.n_free, pool.n_reserved)).collect();
        assert_eq!(shown, [(2048, None, 0, None), (1_048_576, None, 3, Some(1)), (1_048_576, Some(1), 3, None)]);
    }

    #[test]
    fn meminfo_alone_tells_of_the_default_size() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert!(read_hugepages(&root).unwrap_err().is_not_found());
        let text = "MemTotal: 99 kB\nHugePages_Total: 4\nHugePages_Free: 0\nHugePages_Rsvd: 0\nHugepagesize: 2048 kB\n";
        write(dir.path(), "proc", &[("meminfo", text)]);
        assert_eq!(read_hugepages(&root).unwrap()[0].n_total, 4);
    }
}
