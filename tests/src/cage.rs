//! A cgroup as small as a DaemonSet's limits, for an agent; its worker in one beside it, without limits.
//!
//! The worker is apart because libvirt's library alone takes 17 to 19 MB, as a second container of the pod would be. Version 1
//! controllers, as the lab's machine has them. Gone with the lab.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{cgroup, programs};

/// The period over which processor time is counted, microseconds.
const CPU_PERIOD_USEC: u64 = 100_000;

/// The two cgroups.
#[derive(Debug)]
pub struct Cage {
    agent: Vec<PathBuf>,
    worker: Vec<PathBuf>,
    /// Where the binaries of agent and worker lie.
    binaries: [PathBuf; 2],
}

/// What the kernel says of the agent's cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Kills by the kernel, for want of memory.
    pub oom_kills: u64,
    /// How often memory had to be given back to stay within the limit: files read count until then.
    pub reclaims: u64,
    /// Most memory at any time, files read included, bytes.
    pub most_bytes: u64,
    /// Its own memory now, bytes.
    pub anonymous_bytes: u64,
    /// Processor time, nanoseconds.
    pub cpu_nsec: u64,
    /// Periods in which it had to wait for processor time.
    pub throttled: u64,
}

impl Cage {
    /// Makes them for the binaries in the folder `binaries`; without, for those beside this test.
    ///
    /// # Errors
    /// Without version 1 controllers for processor and memory, or if a binary is not built.
    pub fn new(cpu_millis: u64, memory_mib: u64, binaries: Option<&Path>) -> Result<Self> {
        let find = |name| binaries.map_or_else(|| programs::binary(name), |folder| Ok(folder.join(name)));
        let binaries = [find("kulprit-agent")?, find("kulprit-agent-libvirt")?];
        let cage = Self { agent: cgroup::create("agent")?, worker: cgroup::create("worker")?, binaries };
        cage.write("cpu", "cpu.cfs_period_us", CPU_PERIOD_USEC)?;
        cage.write("cpu", "cpu.cfs_quota_us", CPU_PERIOD_USEC * cpu_millis / 1000)?;
        cage.write("memory", "memory.limit_in_bytes", memory_mib << 20)?;
        Ok(cage)
    }

    /// What its limits have led to.
    ///
    /// # Errors
    /// If a file of it cannot be read.
    pub fn figures(&self) -> Result<Figures> {
        Ok(Figures {
            oom_kills: self.read("memory", "memory.oom_control", "oom_kill ")?,
            reclaims: self.read("memory", "memory.failcnt", "")?,
            most_bytes: self.read("memory", "memory.max_usage_in_bytes", "")?,
            anonymous_bytes: self.read("memory", "memory.stat", "rss ")?,
            cpu_nsec: self.read("cpuacct", "cpuacct.usage", "")?,
            throttled: self.read("cpu", "cpu.stat", "nr_throttled ")?,
        })
    }

    /// Words of `sh` that join the agent's cgroup and become the agent.
    pub(crate) fn agent_words(&self) -> Vec<String> {
        vec!["-ec".to_owned(), script(&self.agent, "\"$0\""), self.binaries[0].to_string_lossy().into_owned()]
    }

    /// Writes the program that joins the worker's cgroup and becomes the worker, and returns its path.
    pub(crate) fn write_worker(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("worker");
        let text = script(&self.worker, &self.binaries[1].to_string_lossy());
        fs::write(&path, format!("#!/bin/sh\nset -e\n{text}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn file(&self, controller: &str, name: &str) -> Result<PathBuf> {
        // Some controllers share a hierarchy: `cpu,cpuacct`.
        let is_of = |group: &&PathBuf| {
            let hierarchy = group.ancestors().nth(2).and_then(|path| path.file_name()?.to_str());
            hierarchy.is_some_and(|hierarchy| hierarchy.split(',').any(|part| part == controller))
        };
        let group = self.agent.iter().find(is_of);
        Ok(group.with_context(|| format!("no version 1 controller `{controller}` here"))?.join(name))
    }

    fn write(&self, controller: &str, name: &str, value: u64) -> Result<()> {
        let path = self.file(controller, name)?;
        fs::write(&path, value.to_string()).with_context(|| format!("failed to write {value} to `{}`", path.display()))
    }

    /// The number after `key` at the start of a line.
    fn read(&self, controller: &str, name: &str, key: &str) -> Result<u64> {
        let path = self.file(controller, name)?;
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        value.with_context(|| format!("no `{key}` in `{}`: {text}", path.display()))
    }
}

fn script(groups: &[PathBuf], program: &str) -> String {
    let join: String = groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display())).collect();
    format!("{join}exec {program} \"$@\"")
}
