//! Cgroups: where a process is, which pod and container that says, and what its memory controller has counted.
//!
//! Both versions, often both at once: a hybrid host has a `0::/` line beside the old hierarchies. A pod is recognised by the
//! name the kubelet gives its cgroup, whatever driver and runtime made it. Sources: `cgroups(7)`, `proc_pid_cgroup(5)`,
//! kernel `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.

mod controllers;
mod counters;
mod devices;

use std::path::Path;

pub use controllers::{CpuThrottling, PidsCgroup, controller_directories, parse_cpu_stat, read_pids_cgroup};
pub use counters::MemoryCounters;
pub use devices::{DeviceRule, parse_devices_list};

use crate::kept::KeptBuffer;
use crate::{HostRoot, Malformed, ReadError};

/// One line of `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMembership {
    /// Number of the hierarchy; 0 is version 2.
    pub hierarchy: u32,
    /// Controllers of a version 1 hierarchy, joined by commas (`cpu,cpuacct`, `name=systemd`); empty for version 2.
    pub controllers: String,
    /// Path from the root of the hierarchy as the reader's cgroup namespace shows it; `/../x` lies outside that namespace.
    pub path: String,
}

/// Parses `/proc/PID/cgroup`, keeping the good lines and complaining about the others.
pub fn parse_proc_cgroup(text: &str) -> (Vec<CgroupMembership>, Vec<Malformed>) {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match membership(line) {
            Some(row) => rows.push(row),
            None => errors.push(Malformed::new(index + 1, line)),
        }
    }
    (rows, errors)
}

fn membership(line: &str) -> Option<CgroupMembership> {
    let (hierarchy, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let hierarchy = hierarchy.parse().ok()?;
    path.starts_with('/').then(|| CgroupMembership {
        hierarchy,
        controllers: controllers.to_owned(),
        path: path.to_owned(),
    })
}

/// The version 2 path, if the process shows one.
pub fn v2_path(rows: &[CgroupMembership]) -> Option<&str> {
    rows.iter().find(|row| row.hierarchy == 0 && row.controllers.is_empty()).map(|row| row.path.as_str())
}

/// The path in the version 1 hierarchy of `controller` (`memory`, `name=systemd`), if there is one.
pub fn v1_path<'a>(rows: &'a [CgroupMembership], controller: &str) -> Option<&'a str> {
    let has = |row: &&CgroupMembership| row.hierarchy != 0 && row.controllers.split(',').any(|name| name == controller);
    rows.iter().find(has).map(|row| row.path.as_str())
}

/// The pod and container that a cgroup's path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// The pod's UID with dashes; 32 hex digits without for a static pod.
    pub pod_uid: String,
    /// The container's id, 64 hex digits. `None` for the pod's own cgroup.
    pub container_id: Option<String>,
}

/// The pod a process runs in, from any line of its `cgroup` file. `None` for what is no pod.
pub fn pod_of(rows: &[CgroupMembership]) -> Option<PodCgroup> {
    let mut found: Option<PodCgroup> = None;
    for pod in rows.iter().filter_map(|row| parse_pod_cgroup(&row.path)) {
        if pod.container_id.is_some() {
            return Some(pod);
        }
        found = found.or(Some(pod));
    }
    found
}

/// Finds the pod and container in a cgroup path: systemd and cgroupfs drivers; containerd, CRI-O (crun too), Docker; nested
/// kubelets; sub-cgroups below the container.
pub fn parse_pod_cgroup(path: &str) -> Option<PodCgroup> {
    let mut segments = path.split('/');
    let pod_uid = segments.by_ref().find_map(pod_uid_in_segment)?;
    Some(PodCgroup { pod_uid, container_id: segments.find_map(container_id_in_segment) })
}

/// `pod<UID>`, `kubepods-burstable-pod<UID with _>.slice`, `kubelet-kubepods-pod<UID with _>.slice`.
fn pod_uid_in_segment(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    // The last `pod`, because `kubepods` and QoS classes stand before it; a UID is hex and cannot contain it.
    let (before, uid) = name.rsplit_once("pod")?;
    if !(before.is_empty() || before.ends_with('-')) {
        return None;
    }
    let uid = uid.replace('_', "-");
    (is_uuid(&uid) || is_hex(&uid, 32)).then_some(uid)
}

/// `<64 hex>`, `cri-containerd-<64 hex>.scope`, `crio-<64 hex>`, `docker-<64 hex>.scope`; not `crio-conmon-…`.
fn container_id_in_segment(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
    (is_hex(id, 64) && !runtime.ends_with("conmon")).then(|| id.to_owned())
}

fn is_hex(text: &str, n_digits: usize) -> bool {
    text.len() == n_digits && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let mut parts = text.split('-');
    lengths.iter().all(|length| parts.next().is_some_and(|part| is_hex(part, *length))) && parts.next().is_none()
}

/// What a memory limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// None set here; an ancestor may have one.
    Unlimited,
}

/// What a memory controller has counted for one cgroup and those below it.
///
/// Every field is `None` where this kernel or version has no such counter. Counters only grow until the cgroup is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCgroup {
    /// Processes killed here by the OOM killer. v2 `memory.events:oom_kill`, v1 `memory.oom_control:oom_kill` (≥ 4.13).
    pub oom_kill_total: Option<u64>,
    /// Times the limit was reached and reclaim could not help. v2 `memory.events:oom`.
    pub oom_total: Option<u64>,
    /// Times an allocation met the limit. v2 `memory.events:max`, v1 `memory.failcnt`.
    pub limit_hit_total: Option<u64>,
    /// Times the throttling threshold was crossed. v2 `memory.events:high`.
    pub high_total: Option<u64>,
    /// Whether tasks are waiting in an out-of-memory state now. v1 `memory.oom_control:under_oom`.
    pub is_under_oom: Option<bool>,
    /// Bytes charged now.
    pub current_bytes: Option<u64>,
    /// Limit set on this cgroup itself.
    pub limit: Option<MemoryLimit>,
}

/// Reads the memory controller's files of one cgroup, by the path of its directory under the host's root
/// (`sys/fs/cgroup/memory/kubepods/…`), of either version.
///
/// # Errors
/// `NotFound` when the directory holds none of these files; other [`ReadError`]s when one could not be read.
pub fn read_memory_cgroup(root: &HostRoot, directory: impl AsRef<Path>) -> Result<MemoryCgroup, ReadError> {
    let directory = directory.as_ref();
    let counters = read_memory_counters(root, directory)?;
    // Version 1 alone says whether tasks wait.
    let [current, limit] = match counters.is_under_oom {
        None => ["memory.current", "memory.max"],
        Some(_) => ["memory.usage_in_bytes", "memory.limit_in_bytes"],
    };
    let read = |name: &str| root.read_text_if_any(directory.join(name));
    Ok(MemoryCgroup {
        current_bytes: read(current)?.and_then(|text| text.trim().parse().ok()),
        limit: read(limit)?.and_then(|text| parse_memory_limit(&text)),
        ..counters
    })
}

/// Reads the counters alone: one file of version 2, two of version 1.
///
/// # Errors
/// As [`read_memory_cgroup`].
pub fn read_memory_counters(root: &HostRoot, directory: impl AsRef<Path>) -> Result<MemoryCgroup, ReadError> {
    MemoryCounters::find(root, directory.as_ref(), &mut KeptBuffer::default()).map(|(_, memory)| memory)
}

/// Parses a version 2 `memory.events` file; unknown keys are left out.
pub fn parse_memory_events(text: &str) -> MemoryCgroup {
    let mut memory = MemoryCgroup::default();
    for (key, value) in flat_keyed(text) {
        match key {
            "oom_kill" => memory.oom_kill_total = Some(value),
            "oom" => memory.oom_total = Some(value),
            "max" => memory.limit_hit_total = Some(value),
            "high" => memory.high_total = Some(value),
            _ => {}
        }
    }
    memory
}

/// Parses a version 1 `memory.oom_control` file; unknown keys are left out.
pub fn parse_memory_oom_control(text: &str) -> MemoryCgroup {
    let mut memory = MemoryCgroup::default();
    for (key, value) in flat_keyed(text) {
        match key {
            "oom_kill" => memory.oom_kill_total = Some(value),
            "under_oom" => memory.is_under_oom = Some(value != 0),
            _ => {}
        }
    }
    memory
}

/// Parses `memory.max` or `memory.limit_in_bytes`. `None` when it is neither `max` nor a number.
pub fn parse_memory_limit(text: &str) -> Option<MemoryLimit> {
    // Version 1 says "unlimited" as the largest multiple of the page size below 2^63; pages go up to 64 KiB.
    const V1_UNLIMITED_BYTES: u64 = (i64::MAX as u64) & !0xffff;
    match text.trim() {
        "max" => Some(MemoryLimit::Unlimited),
        number => match number.parse().ok()? {
            bytes if bytes >= V1_UNLIMITED_BYTES => Some(MemoryLimit::Unlimited),
            bytes => Some(MemoryLimit::Bytes(bytes)),
        },
    }
}

/// `key value` lines, of which bad ones are left out.
fn flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key, value.trim().parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "bf9425ec-5840-4979-be30-4f8fba039b75";
    const UID_: &str = "bf9425ec_5840_4979_be30_4f8fba039b75";
    const ID: &str = "b2dedf3d3bd8f07464f5a4ba1be59e92387d19e5b4ec9b2cf85c7042571304d8";
    const OTHER: &str = "44f039c034c3b3d8592e35758778232be7f2901735e0ece92343b9dc687c7c5b";

    #[track_caller]
    fn check(path: &str, container_id: Option<&str>) {
        let want = PodCgroup { pod_uid: UID.to_owned(), container_id: container_id.map(str::to_owned) };
        assert_eq!(parse_pod_cgroup(path), Some(want), "{path}");
    }

    #[test]
    fn every_layout_of_drivers_and_runtimes_names_pod_and_container() {
        // systemd driver: containerd; guaranteed (no class); CRI-O; CRI-O with crun; Docker's shim.
        check(
            &format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope"
            ),
            Some(ID),
        );
        check(&format!("/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"), Some(ID));
        check(
            &format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope"),
            Some(ID),
        );
        check(
            &format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/crio-{ID}.scope/container"
            ),
            Some(ID),
        );
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/docker-{ID}.scope"),
            Some(ID),
        );
        // cgroupfs driver: containerd, CRI-O.
        check(&format!("/kubepods/burstable/pod{UID}/{ID}"), Some(ID));
        check(&format!("/kubepods/pod{UID}/{ID}"), Some(ID));
        check(&format!("/kubepods/burstable/pod{UID}/crio-{ID}"), Some(ID));
        // Nested kubelets: kind, a cgroup root, a node that is itself a container.
        check(
            &format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"
            ),
            Some(ID),
        );
        check(&format!("/system.slice/docker-{OTHER}.scope/kubelet/kubepods/besteffort/pod{UID}/{ID}"), Some(ID));
        check(&format!("/lab/n1/kubepods/burstable/pod{UID}/{ID}"), Some(ID));
        // KubeVirt's sub-cgroup for the emulator; a cgroup namespace elsewhere; the pod's own cgroup; CRI-O's monitor.
        check(&format!("/kubepods/pod{UID}/{ID}/housekeeping"), Some(ID));
        check(&format!("/../../kubepods/burstable/pod{UID}/{ID}"), Some(ID));
        check(&format!("/kubepods/burstable/pod{UID}"), None);
        check(&format!("/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope"), None);
    }

    #[test]
    fn a_static_pod_is_known_by_its_hash() {
        let pod = parse_pod_cgroup(&format!("/kubepods/burstable/pod0123456789abcdef0123456789abcdef/{ID}")).unwrap();
        assert_eq!(pod.pod_uid, "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn what_is_no_pod_is_none() {
        let long = format!("/kubepods/pod{UID}0/{ID}");
        for path in [
            "/",
            "/system.slice/kubelet.service",
            "/user.slice/podman-1.scope",
            "/kubepods/burstable",
            "/machine.slice/machine-qemu",
            &long,
        ] {
            assert_eq!(parse_pod_cgroup(path), None, "{path}");
        }
    }

    #[test]
    fn a_recorded_membership_gives_pod_and_controller_paths() {
        let text = include_str!("../fixtures/kubevirt-1.8.4/proc/3888/cgroup");
        let (rows, errors) = parse_proc_cgroup(text);
        assert!(errors.is_empty());
        assert_eq!(rows.len(), 10);
        let path = format!("/kubepods/burstable/pod{UID}/{ID}");
        assert_eq!((v1_path(&rows, "memory"), v2_path(&rows)), (Some(path.as_str()), Some(path.as_str())));
        assert_eq!(v1_path(&rows, "name=systemd"), Some(path.as_str()));
        assert_eq!(v1_path(&rows, "hugetlb"), None);
        assert_eq!(pod_of(&rows).unwrap().container_id.as_deref(), Some(ID));
    }

    #[test]
    fn a_bad_line_keeps_the_good_ones_and_is_counted() {
        let (rows, errors) = parse_proc_cgroup("0::/a\nrubbish\n4:memory:/b:c\n5:pids:relative\n");
        assert_eq!(rows.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), ["/a", "/b:c"]);
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn memory_of_version_1_is_read_from_a_recorded_pod() {
        let root = HostRoot::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/kubevirt-1.8.4"));
        let memory = read_memory_cgroup(&root, format!("sys/fs/cgroup/memory/kubepods/burstable/pod{UID}")).unwrap();
        assert_eq!(memory.oom_kill_total, Some(0));
        assert_eq!(memory.limit_hit_total, Some(0));
        assert_eq!(memory.is_under_oom, Some(false));
        assert_eq!(memory.current_bytes, Some(64_532_480));
        assert_eq!(memory.limit, Some(MemoryLimit::Unlimited));
        assert_eq!((memory.oom_total, memory.high_total), (None, None), "version 1 does not count these");
    }

    #[test]
    fn memory_of_version_2_is_read_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let events = "low 0\nhigh 3\nmax 40\noom 2\noom_kill 1\noom_group_kill 0\n";
        for (name, text) in [("memory.events", events), ("memory.current", "1000\n"), ("memory.max", "2048\n")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let memory = read_memory_cgroup(&HostRoot::new(dir.path()), "/").unwrap();
        assert_eq!((memory.oom_kill_total, memory.oom_total), (Some(1), Some(2)));
        assert_eq!((memory.limit_hit_total, memory.high_total), (Some(40), Some(3)));
        assert_eq!((memory.current_bytes, memory.limit), (Some(1000), Some(MemoryLimit::Bytes(2048))));
    }

    #[test]
    fn a_cgroup_without_memory_controller_is_not_found_and_not_zero() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_memory_cgroup(&HostRoot::new(dir.path()), "gone").unwrap_err().is_not_found());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,200}", path in "(/?(pod|crio-|[0-9a-f_-]{1,40}|\\.slice|é)){0,12}") {
            let _ = parse_proc_cgroup(&text);
            let _ = parse_pod_cgroup(&path);
            let _ = parse_memory_events(&text);
            let _ = parse_memory_oom_control(&text);
            let _ = parse_memory_limit(&text);
        }
    }
}
