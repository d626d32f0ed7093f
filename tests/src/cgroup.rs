//! The lab's own cgroups, in every hierarchy of this machine.
//!
//! A node gets `<hierarchy>/kulprit-lab/<node>` and is started inside, so that its cgroup namespace is rooted there: its libvirt and
//! kubelet make theirs below, it has a pressure of its own, and nothing outside is touched. The cgroups are also how every process of the
//! lab is found again, whoever its parent is. Works with the v1 hierarchies, the hybrid of both, and v2 alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Name of the lab's cgroup at the top of each hierarchy.
const LAB: &str = "kulprit-lab";

/// The mounted hierarchies: `/sys/fs/cgroup` itself where there is only v2, else each folder in it. Symlinks (`cpu` → `cpu,cpuacct`) are
/// left out.
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return Ok(vec![top.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(top).context("failed to list `/sys/fs/cgroup`")? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Makes the cgroup `kulprit-lab/<name>` in every hierarchy and returns their paths.
pub(crate) fn create(name: &str) -> Result<Vec<PathBuf>> {
    hierarchies()?
        .into_iter()
        .map(|hierarchy| {
            let lab = hierarchy.join(LAB);
            let group = lab.join(name);
            for dir in [&lab, &group] {
                fs::create_dir_all(dir).with_context(|| format!("failed to make cgroup `{}`", dir.display()))?;
                // A new v1 cpuset allows no CPU and no memory until it is told which.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let from = hierarchy.join(file);
                    if from.exists() && hierarchy.join("cpuset.cpu_exclusive").exists() {
                        fs::write(dir.join(file), fs::read(&from)?)?;
                    }
                }
            }
            enable_controllers(&[&hierarchy, &lab]);
            Ok(group)
        })
        .collect()
}

/// On v2, passes every controller on to the children of these cgroups. Best effort: a controller may be in use by a v1 hierarchy.
fn enable_controllers(cgroups: &[&Path]) {
    for dir in cgroups {
        let Ok(controllers) = fs::read_to_string(dir.join("cgroup.controllers")) else { continue };
        for controller in controllers.split_whitespace() {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// A node's cgroup as `/proc/PID/cgroup` shows it to this machine.
pub(crate) fn path_of(name: &str) -> String {
    format!("/{LAB}/{name}")
}

/// Every process in any cgroup of the lab.
pub(crate) fn processes() -> Vec<i32> {
    let mut pids: Vec<i32> = all()
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes the lab's cgroups; those that still hold a process stay.
pub(crate) fn remove_all() {
    for dir in all() {
        let _ = fs::remove_dir(dir);
    }
}

/// All cgroups of the lab, children before parents.
pub(crate) fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        collect(&hierarchy.join(LAB), &mut found);
    }
    found
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), into);
    }
    into.push(dir.to_owned());
}
