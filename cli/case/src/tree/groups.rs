//! Cgroups of pods whose processes were not saved: people copy `cpu.stat` and `memory.events` and nothing of `/proc`.
//!
//! The directory's name tells the pod, and the case's objects whose pod that is; a pod that no object names is nobody's. What a
//! family of processes was read for is not read again. Source: the paths of `kulprit_host::cgroup`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kulprit_host::cgroup::{CpuThrottling, parse_cpu_stat, parse_pod_cgroup, read_memory_cgroup, read_pids_cgroup};
use kulprit_judge::limits::{LauncherLimitsLook, judge_launcher, judge_memory_cgroup};
use kulprit_judge::pressure::judge_throttling;
use kulprit_model::Subject;

use super::Tree;
use super::vm::shown;

/// Levels below `sys/fs/cgroup`: a controller, two slices of the kubelet, a class, the pod, the container, what is in it.
const MAX_DEPTH: usize = 8;
/// Directories that are looked at: a node of 250 pods has some 2,000 in each of a dozen hierarchies.
const MAX_DIRECTORIES: usize = 40_000;

/// Judges the cgroups of every pod that is not among `known`, by its UID.
pub(super) fn read(tree: &mut Tree<'_>, known: &BTreeSet<&str>) {
    let mut pods: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut queue = vec![(PathBuf::from("sys/fs/cgroup"), 0)];
    let mut n_seen = 0;
    while let Some((directory, depth)) = queue.pop() {
        n_seen += 1;
        if n_seen > MAX_DIRECTORIES {
            break;
        }
        // What cannot be listed is a file, or was not saved.
        let Ok(names) = tree.root.list(&directory) else { continue };
        if let Some(pod) = parse_pod_cgroup(&directory.to_string_lossy())
            && !known.contains(pod.pod_uid.as_str())
        {
            pods.entry(pod.pod_uid).or_default().push(directory.clone());
        }
        if depth < MAX_DEPTH {
            // Files of cgroupfs have a dot in their name and directories of pods none but before `slice` and `scope`.
            let is_directory = |name: &&std::ffi::OsString| {
                let name = name.to_string_lossy();
                !name.contains('.') || name.ends_with(".slice") || name.ends_with(".scope")
            };
            queue.extend(names.iter().filter(is_directory).map(|name| (directory.join(name), depth + 1)));
        }
    }
    for (pod, mut directories) in pods {
        directories.sort();
        judge(tree, &Subject::vm(format!("pod/{pod}")), &directories);
    }
}

fn judge(tree: &mut Tree<'_>, subject: &Subject, directories: &[PathBuf]) {
    let text =
        |tree: &Tree<'_>, directory: &Path| tree.root.read_text_if_any(directory.join("cpu.stat")).ok().flatten();
    let stats = directories.iter().filter_map(|directory| parse_cpu_stat(&text(tree, directory)?).ok());
    let throttling: Option<CpuThrottling> = stats.max_by_key(|stat| stat.n_throttled);
    if let Some(throttling) = throttling {
        tree.say([judge_throttling(subject, tree.at, &Ok(throttling))]);
    }
    // The pod's counter includes its containers': the first that counts is enough.
    let kill = directories.iter().find_map(|directory| {
        let memory = read_memory_cgroup(tree.root, directory).ok()?;
        judge_memory_cgroup(subject, tree.at, &shown(directory), &memory)
    });
    tree.say(kill);
    let pids = directories.iter().find_map(|directory| {
        let pids = read_pids_cgroup(tree.root, directory).ok().filter(|pids| pids.limit.is_some())?;
        Some((shown(directory), pids))
    });
    if let Some(pids) = pids {
        tree.say(judge_launcher(&LauncherLimitsLook { at: tree.at, subject, pids: Ok(pids), processes: &[] }));
    }
}
