//! Which directory of cgroupfs a process's controller is in, and what the cpu and pids controllers say there.
//!
//! Sources: kernel `Documentation/admin-guide/cgroup-v2.rst`, `scheduler/sched-bwc.rst` (`cpu.stat` of version 1),
//! `cgroup-v1/pids.rst`.

use std::path::{Path, PathBuf};

use super::{CgroupMembership, v1_path, v2_path};
use crate::{HostRoot, Malformed, ReadError};

/// Directories in which `controller` may keep this process's files, most likely first; not all exist.
///
/// `prefix` is where the node's own root lies in our view of the hierarchies, if not at theirs: a node in a container. A hybrid host
/// has the controller in version 1 and an empty version 2 hierarchy beside it.
pub fn controller_directories(rows: &[CgroupMembership], prefix: Option<&str>, controller: &str) -> Vec<PathBuf> {
    let base = Path::new("sys/fs/cgroup");
    let below = |top: PathBuf, path: &str| {
        let path = prefix.and_then(|prefix| path.strip_prefix(prefix.trim_end_matches('/'))).unwrap_or(path);
        // From another cgroup namespace the path begins with `/..`; the tree is of the host's.
        let inner = path.split('/').filter(|part| !part.is_empty() && *part != "..");
        inner.fold(top, |directory, part| directory.join(part))
    };
    let mut directories = Vec::new();
    if let Some(path) = v1_path(rows, controller) {
        let joint = rows.iter().map(|row| row.controllers.as_str());
        let names = joint.filter(|names| names.split(',').any(|name| name == controller));
        directories.extend(names.map(|names| below(base.join(names), path)));
        directories.push(below(base.join(controller), path));
    }
    if let Some(path) = v2_path(rows) {
        directories.push(below(base.to_path_buf(), path));
        directories.push(below(base.join("unified"), path));
    }
    directories.dedup();
    directories
}

/// What the CPU limit of a cgroup did since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuThrottling {
    /// Periods (100 ms unless set otherwise) in which something ran under a limit. 0 without a limit.
    pub n_periods: u64,
    /// Those in which the limit was used up.
    pub n_throttled: u64,
}

/// Parses `cpu.stat` of either version.
///
/// # Errors
/// When the counters are not in it, as in version 2 without the cpu controller.
pub fn parse_cpu_stat(text: &str) -> Result<CpuThrottling, Malformed> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok())
    };
    match (value("nr_periods"), value("nr_throttled")) {
        (Some(n_periods), Some(n_throttled)) => Ok(CpuThrottling { n_periods, n_throttled }),
        _ => Err(Malformed::new(1, text.lines().next().unwrap_or_default())),
    }
}

/// Tasks of a cgroup and those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidsCgroup {
    /// Tasks now.
    pub n_current: u64,
    /// The most there may be; `None` without a limit here.
    pub limit: Option<u64>,
    /// Forks refused because of this limit. `None` where it is not counted.
    pub refused_total: Option<u64>,
}

/// Reads the pids controller's files in one directory.
///
/// # Errors
/// `NotFound` when they are not there; `Malformed` when `pids.current` is no number.
pub fn read_pids_cgroup(root: &HostRoot, directory: impl AsRef<Path>) -> Result<PidsCgroup, ReadError> {
    let directory = directory.as_ref();
    let n_current = crate::limits::read_number(root, directory.join("pids.current"))?;
    let limit = root.read_text(directory.join("pids.max"))?.trim().parse().ok();
    let events = root.read_text_if_any(directory.join("pids.events"))?;
    let refused_total =
        events.and_then(|text| text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok()));
    Ok(PidsCgroup { n_current, limit, refused_total })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cgroup::parse_proc_cgroup;

    #[test]
    fn version_1_version_2_and_hybrid_hosts_have_their_places() {
        let places = |text: &str, controller: &str| -> Vec<String> {
            let found = controller_directories(&parse_proc_cgroup(text).0, None, controller);
            found.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            places("0::/kubepods/a\n", "memory"),
            ["sys/fs/cgroup/kubepods/a", "sys/fs/cgroup/unified/kubepods/a"]
        );
        let hybrid = places("4:cpu,cpuacct:/a/b\n0::/a/b\n", "cpu");
        assert_eq!(hybrid[..2], ["sys/fs/cgroup/cpu,cpuacct/a/b", "sys/fs/cgroup/cpu/a/b"]);
        let rows = parse_proc_cgroup("2:cpu:/lab/n1/a\n0::/other\n").0;
        let inside = controller_directories(&rows, Some("/lab/n1/"), "cpu");
        assert_eq!(
            inside,
            ["cpu/a", "other", "unified/other"].map(|path| Path::new("sys/fs/cgroup").join(path)),
            "as the node itself has them"
        );
        assert_eq!(
            places("0::/../../kubepods/a\n", "pids")[0],
            "sys/fs/cgroup/kubepods/a",
            "never above the hierarchy"
        );
    }

    #[test]
    fn throttling_and_tasks_are_read() {
        let want = CpuThrottling { n_periods: 493, n_throttled: 491 };
        assert_eq!(parse_cpu_stat("nr_periods 493\nnr_throttled 491\nthrottled_time 5\n"), Ok(want));
        assert_eq!(parse_cpu_stat("usage_usec 5\nnr_periods 493\nnr_throttled 491\n"), Ok(want));
        assert!(parse_cpu_stat("usage_usec 5\n").is_err(), "version 2 without the controller");
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        for (name, text) in [("pids.current", "45\n"), ("pids.max", "max\n"), ("pids.events", "max 3\n")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let want = PidsCgroup { n_current: 45, limit: None, refused_total: Some(3) };
        assert_eq!(read_pids_cgroup(&root, "").unwrap(), want);
        assert!(read_pids_cgroup(&root, "gone").unwrap_err().is_not_found());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(nr_periods|nr_throttled)?( [0-9]{0,24})?\\PC{0,30}") {
            let _ = parse_cpu_stat(&text);
            let _ = controller_directories(&parse_proc_cgroup(&text).0, None, "cpu");
        }
    }
}
