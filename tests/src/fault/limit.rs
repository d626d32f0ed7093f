//! Limits that are too low: of a guest's QEMU or of a whole node, in their cgroups. Lifted when dropped, if the cgroup is still there.
//!
//! The lab's machine may have the cgroups of version 1 or 2; each limit knows both files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::guest::Guest;
use crate::node::{Node, Running};
use crate::process;

/// The period over which processor time is counted, microseconds: the kernel's default.
const CPU_PERIOD_USEC: u64 = 100_000;

/// A file of a cgroup that is set back when dropped.
#[derive(Debug)]
struct Set {
    file: PathBuf,
    back: String,
}

impl Set {
    /// Writes a value; `back` is what there was without a limit.
    fn new(file: PathBuf, value: &str, back: &str) -> Result<Self> {
        fs::write(&file, value).with_context(|| format!("failed to write {value} to `{}`", file.display()))?;
        Ok(Self { file, back: back.to_owned() })
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // The cgroup goes with its last process, which the limit may have ended.
        let _ = fs::write(&self.file, &self.back);
    }
}

/// A memory limit.
#[derive(Debug)]
pub struct MemoryLimit(#[expect(dead_code, reason = "undone when dropped")] Set);

impl MemoryLimit {
    /// Allows the QEMU of a guest `spare_mib` MiB more than it uses now. A guest that grows further gets it killed by the kernel, in its
    /// memory cgroup.
    ///
    /// # Errors
    /// If the guest does not run, or not in a memory cgroup of its own.
    pub fn new(guest: &Guest<'_>, spare_mib: u64) -> Result<Self> {
        let pid = guest.qemu_pid().with_context(|| format!("{} does not run", guest.name()))?;
        match process::cgroup(pid, "memory") {
            Ok(v1) => Self::of_v1(&v1, spare_mib),
            Err(_) => {
                // libvirt's cgroups of single threads have no memory of their own.
                let of_thread = process::cgroup(pid, "")?;
                let has_limit = |dir: &&Path| dir.join("memory.max").exists();
                Self::of_v2(of_thread.ancestors().find(has_limit).context("no memory controller")?, spare_mib)
            }
        }
    }

    /// Allows everything on a node together `spare_mib` MiB more than it uses now: the kernel kills what is biggest there.
    ///
    /// # Errors
    /// If there is no memory controller.
    pub fn of_node(node: &Node, spare_mib: u64) -> Result<Self> {
        match node.cgroup("memory") {
            Some(v1) => Self::of_v1(v1, spare_mib),
            None => Self::of_v2(node.cgroup("").context("no memory controller")?, spare_mib),
        }
    }

    fn of_v1(dir: &Path, spare_mib: u64) -> Result<Self> {
        let bytes = read_number(&dir.join("memory.usage_in_bytes"))? + (spare_mib << 20);
        Set::new(dir.join("memory.limit_in_bytes"), &bytes.to_string(), "-1").map(Self)
    }

    fn of_v2(dir: &Path, spare_mib: u64) -> Result<Self> {
        let bytes = read_number(&dir.join("memory.current"))? + (spare_mib << 20);
        Set::new(dir.join("memory.max"), &bytes.to_string(), "max").map(Self)
    }
}

/// A share of processor time that is too small.
#[derive(Debug)]
pub struct CpuLimit(#[expect(dead_code, reason = "undone when dropped")] Set);

impl CpuLimit {
    /// Allows a guest's QEMU, all its threads together, `percent` of one core.
    ///
    /// # Errors
    /// If the guest does not run, or not in a cgroup of its own.
    pub fn of_guest(guest: &Guest<'_>, percent: u64) -> Result<Self> {
        let pid = guest.qemu_pid().with_context(|| format!("{} does not run", guest.name()))?;
        let of_threads = process::cgroup(pid, "cpu").or_else(|_| process::cgroup(pid, ""))?;
        let is_machine = |dir: &&Path| {
            dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("machine-qemu"))
        };
        Self::of(of_threads.ancestors().find(is_machine).context("QEMU is in no cgroup of its machine")?, percent)
    }

    /// Allows everything on a node together `percent` of one core.
    ///
    /// # Errors
    /// If there is no processor controller.
    pub fn of_node(node: &Node, percent: u64) -> Result<Self> {
        Self::of(node.cgroup("cpu").or_else(|| node.cgroup("")).context("no cpu controller")?, percent)
    }

    fn of(dir: &Path, percent: u64) -> Result<Self> {
        let quota_usec = CPU_PERIOD_USEC * percent / 100;
        let v1 = dir.join("cpu.cfs_quota_us");
        let set = if v1.exists() {
            Set::new(v1, &quota_usec.to_string(), "-1")
        } else {
            Set::new(dir.join("cpu.max"), &format!("{quota_usec} {CPU_PERIOD_USEC}"), "max")
        };
        set.map(Self)
    }
}

/// A node whose processors are taken: it has little processor time, and others want it too.
#[derive(Debug)]
pub struct CpuStarved {
    _busy: BusyLoops,
    _limit: CpuLimit,
}

impl CpuStarved {
    /// Gives the node `percent` of one core, and lets `loops` busy loops on it want all of it. Nothing outside the node gets slower.
    ///
    /// # Errors
    /// As [`CpuLimit::of_node`].
    pub fn new(node: &Node, percent: u64, loops: usize) -> Result<Self> {
        let busy = BusyLoops::new(node, loops)?;
        Ok(Self { _busy: busy, _limit: CpuLimit::of_node(node, percent)? })
    }
}

/// Processes on a node that use all the processor time they get.
#[derive(Debug)]
pub struct BusyLoops(#[expect(dead_code, reason = "ended when dropped")] Vec<Running>);

impl BusyLoops {
    /// Starts `loops` of them.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn new(node: &Node, loops: usize) -> Result<Self> {
        (0..loops).map(|_| spin(node)).collect::<Result<_>>().map(Self)
    }
}

/// Joins the node's cgroup first: who enters a node's namespaces stays in the cgroup he came from.
fn spin(node: &Node) -> Result<Running> {
    let script = "for c in /sys/fs/cgroup/cpu /sys/fs/cgroup/unified /sys/fs/cgroup; do \
        [ ! -e $c/cgroup.procs ] || echo $$ > $c/cgroup.procs || true; done; while :; do :; done";
    node.spawn(&["bash", "-c", script])
}

/// A node on which no more processes may be started.
#[derive(Debug)]
pub struct PidsLimit(#[expect(dead_code, reason = "undone when dropped")] Set);

impl PidsLimit {
    /// Allows `spare` more tasks than the node has now; the kernel logs what it refuses.
    ///
    /// # Errors
    /// If there is no pids controller.
    pub fn of_node(node: &Node, spare: u64) -> Result<Self> {
        let dir = node.cgroup("pids").or_else(|| node.cgroup("")).context("no pids controller")?;
        let most = read_number(&dir.join("pids.current"))? + spare;
        Set::new(dir.join("pids.max"), &most.to_string(), "max").map(Self)
    }
}

fn read_number(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    text.trim().parse().with_context(|| format!("no number in `{}`: {text}", file.display()))
}
