//! What the host knows of a process: enough to prove that a fault is real.
//!
//! Source: `/proc/<pid>`, on the host's side: pids are the host's. Kept apart from the readers under test on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One thread of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Thread id on the host.
    pub tid: i32,
    /// Its name, at most 15 bytes: `CPU 0/KVM`, `worker`.
    pub comm: String,
    /// State letter of `proc(5)`: `R`, `S`, `D`, `T`, `Z`.
    pub state: char,
    /// Kernel function it sleeps in; `0` if it does not sleep.
    pub wchan: String,
}

/// The threads of a process; empty if it is gone.
#[must_use]
pub fn threads(pid: i32) -> Vec<Thread> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let (comm, state) = comm_and_state(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
            Some(Thread {
                tid: entry.file_name().to_str()?.parse().ok()?,
                comm,
                state,
                wchan: fs::read_to_string(entry.path().join("wchan")).unwrap_or_default(),
            })
        })
        .collect()
}

/// State letter of a process' main thread; `None` if it is gone.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    comm_and_state(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|(_, state)| state)
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Bytes the process has caused to be written to storage.
///
/// # Errors
/// If it is gone.
pub fn written_bytes(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{path}`"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
        .with_context(|| format!("no write_bytes in `{path}`"))
}

/// Sends a signal.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("failed to send {signal} to {pid}"))
}

/// The host's pid of the process that is `inner` in the pid namespace of `leader`; `None` if there is none.
#[must_use]
pub fn on_host(leader: i32, inner: i32) -> Option<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(leader)?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let innermost: i32 = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?
            .split_whitespace()
            .next_back()?
            .parse()
            .ok()?;
        (innermost == inner && namespace(pid)? == wanted).then_some(pid)
    })
}

/// The pid that a process of this machine has on its node, one pid namespace further in; `None` if it is gone or on none.
pub(crate) fn in_node(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// The cgroup folder of a process for a v1 controller (`memory`), or in the v2 tree (``).
///
/// # Errors
/// If it is gone, or in no such hierarchy.
pub fn cgroup(pid: i32, controller: &str) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{path}`"))?;
    // Lines are `id:controllers:path`.
    let of = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
    };
    let in_hierarchy =
        text.lines().find_map(of).with_context(|| format!("no controller `{controller}` in `{path}`"))?;
    let top = Path::new("/sys/fs/cgroup");
    let is_hybrid = !top.join("cgroup.controllers").exists();
    let hierarchy = if controller.is_empty() && is_hybrid { "unified" } else { controller };
    Ok(top.join(hierarchy).join(in_hierarchy))
}

/// One line for a person: pid, command, state, and where its threads are stuck.
pub(crate) fn describe(pid: i32) -> String {
    let stuck: Vec<String> = threads(pid)
        .into_iter()
        .filter(|thread| thread.state == 'D')
        .map(|thread| format!("{} in {}", thread.comm, thread.wchan))
        .collect();
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({}, state {}, blocked: {stuck:?})", comm.trim(), state(pid).unwrap_or('?'))
}

/// `stat` is `pid (comm) state …`, and the name may hold spaces and brackets.
fn comm_and_state(stat: &str) -> Option<(String, char)> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, comm) = head.split_once('(')?;
    Some((comm.to_owned(), tail.chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read_whole() {
        assert_eq!(comm_and_state("7 (a) b (c)) S 1 2"), Some(("a) b (c)".to_owned(), 'S')));
    }

    #[test]
    fn a_cut_line_is_nothing() {
        assert_eq!(comm_and_state("7 (a"), None);
    }

    #[test]
    fn finds_this_process_in_its_own_namespace() {
        let own = i32::try_from(std::process::id()).unwrap();
        let inner = fs::read_to_string("/proc/self/status").unwrap();
        let inner = inner.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        let inner = inner.split_whitespace().next_back().unwrap().parse().unwrap();
        assert_eq!(on_host(own, inner), Some(own));
    }
}
