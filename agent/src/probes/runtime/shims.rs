//! The runtime's shims in procfs: one is the parent of each container's first process, so one that hangs holds its pod for ever.
//!
//! Only those that were once seen stuck are spoken of, until they end: a node has hundreds that are well. Their leaders are looked at
//! each time, their threads, a dozen each, only when asked for: some 0.1 ms a shim.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kulprit_host::ReadError;
use kulprit_host::process::{Births, CgroupFilter, ProcessId, Procfs, TaskState};
use kulprit_judge::services::{Service, service_of};

use crate::probes::ProbeConfig;
use crate::probes::blocking::{Blocking, Late};
use crate::probes::stuck_threads::StuckThreads;

/// Reading `stat` of some hundred processes takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(2);
/// Every so many looks all pids are read again, for one that was taken by another process between two looks: some ten minutes.
const N_LOOKS_OF_FULL: u32 = 40;

/// Finds shims and keeps them.
#[derive(Debug)]
pub(super) struct Shims {
    procfs: Procfs,
    filter: CgroupFilter,
    blocking: Blocking,
    known: Known,
    /// Those that were seen stuck and have not ended.
    spoken_of: BTreeSet<ProcessId>,
}

/// What is remembered between passes.
#[derive(Debug, Default)]
struct Known {
    shims: BTreeMap<u32, ProcessId>,
    stuck: StuckThreads,
    /// Pids that are no shim. A process is what it is by the second look: `runc` and the like live shorter.
    others: BTreeSet<u32>,
    young: BTreeSet<u32>,
    n_looks: u32,
    births: Option<Births>,
    /// The newest task when the pids were last listed.
    listed_at: Option<u32>,
}

impl Known {
    /// The shims, and what may yet become one.
    fn worth_a_look(&self) -> Vec<u32> {
        self.shims.keys().chain(&self.young).copied().collect()
    }

    /// Forgets all but `pids`, which ascend.
    fn forget_ended(&mut self, pids: &[u32]) {
        let is_there = |pid: &u32| pids.binary_search(pid).is_ok();
        self.others.retain(is_there);
        self.young.retain(is_there);
    }
}

/// One shim that is, or was, stuck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shim {
    pub(super) id: ProcessId,
    pub(super) comm: String,
    /// The thread that has been blocked for longest; else the leader.
    pub(super) tid: u32,
    /// Its state.
    pub(super) state: TaskState,
    pub(super) wchan: Option<String>,
}

/// What a pass found.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Those to speak of.
    pub(super) shims: Vec<Shim>,
    /// Those that were spoken of and have ended.
    pub(super) ended: Vec<ProcessId>,
}

impl Shims {
    pub(super) fn new(config: &ProbeConfig, blocking: Blocking) -> Self {
        Self {
            procfs: Procfs::new(&config.procfs),
            filter: config.cgroup_filter(),
            blocking,
            known: Known::default(),
            spoken_of: BTreeSet::new(),
        }
    }

    /// Looks at all; `closely` at all of their threads as well.
    pub(super) async fn look(&mut self, closely: bool) -> Result<Pass, String> {
        let (procfs, filter) = (self.procfs.clone(), self.filter.clone());
        // Lost when the call is late: the next one finds them anew, and which of them had a blocked thread nobody knows.
        let known = std::mem::take(&mut self.known);
        let maybe_stuck = if known.n_looks == 0 { self.spoken_of.clone() } else { BTreeSet::new() };
        let is_close = move |id| closely || maybe_stuck.contains(&id);
        let read = self.blocking.run(DEADLINE, move || scan(&procfs, &filter, known, is_close)).await;
        let (known, shims) = match read {
            Ok(result) => result.map_err(|error| crate::probes::chain(&error))?,
            Err(Late { for_secs }) => return Err(format!("reading procfs has not returned for {for_secs} s")),
        };
        self.known = known;
        let is_alive = |id: &ProcessId| self.known.shims.get(&id.pid) == Some(id);
        let ended: Vec<ProcessId> = self.spoken_of.iter().filter(|id| !is_alive(id)).copied().collect();
        self.spoken_of.retain(|id| !ended.contains(id));
        let is_stuck = |shim: &Shim| matches!(shim.state, TaskState::Uninterruptible | TaskState::Zombie);
        self.spoken_of.extend(shims.iter().filter(|shim| is_stuck(shim)).map(|shim| shim.id));
        let shims = shims.into_iter().filter(|shim| self.spoken_of.contains(&shim.id)).collect();
        Ok(Pass { shims, ended })
    }
}

fn scan(
    procfs: &Procfs,
    filter: &CgroupFilter,
    mut known: Known,
    is_close: impl Fn(ProcessId) -> bool,
) -> Result<(Known, Vec<Shim>), ReadError> {
    known.n_looks += 1;
    let is_full = known.n_looks.is_multiple_of(N_LOOKS_OF_FULL);
    let newest = known.births.get_or_insert_with(|| Births::new(procfs)).newest();
    let is_nothing_new = newest.is_some() && newest == known.listed_at && !is_full;
    let pids = if is_nothing_new { known.worth_a_look() } else { procfs.pids()? };
    known.listed_at = newest;
    if is_full {
        known.others.clear();
    }
    if !is_nothing_new {
        known.forget_ended(&pids);
    }
    let mut shims = Vec::new();
    let mut alive = BTreeMap::new();
    for pid in &pids {
        if known.others.contains(pid) {
            continue;
        }
        let Ok(stat) = procfs.stat(*pid) else { continue };
        let is_known = known.shims.get(pid) == Some(&stat.id());
        let is_ours = || *filter == CgroupFilter::All || procfs.cgroups(*pid).is_ok_and(|rows| filter.matches(&rows));
        if !(is_known || service_of(&stat.comm) == Some(Service::Shim) && is_ours()) {
            if !known.young.insert(*pid) {
                known.young.remove(pid);
                known.others.insert(*pid);
            }
            continue;
        }
        let id = stat.id();
        alive.insert(*pid, id);
        let is_stuck = matches!(stat.state, TaskState::Uninterruptible | TaskState::Zombie);
        let thread = if is_stuck { Ok(None) } else { known.stuck.look(procfs, id, is_close(id)) };
        let shim = match thread {
            Ok(Some(thread)) => Shim { id, comm: stat.comm, tid: thread.tid, state: thread.state, wchan: thread.wchan },
            Err(error) if !error.is_not_found() => continue,
            Ok(None) | Err(_) => {
                let wchan = (stat.state == TaskState::Uninterruptible).then(|| procfs.wchan(*pid, *pid)).flatten();
                Shim { id, comm: stat.comm, tid: *pid, state: stat.state, wchan }
            }
        };
        shims.push(shim);
    }
    known.stuck.retain(|id| alive.get(&id.pid) == Some(&id));
    known.shims = alive;
    Ok((known, shims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::testing::put_thread;

    /// A procfs of stat files alone.
    fn write(dir: &std::path::Path, pid: u32, comm: &str, state: char, start: u64) {
        let folder = dir.join(pid.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let zeros = "0 ".repeat(15);
        std::fs::write(
            folder.join("stat"),
            format!("{pid} ({comm}) {state} 1 1 1 {zeros}{start} {}\n", "0 ".repeat(30)),
        )
        .unwrap();
    }

    fn shims(dir: &std::path::Path) -> Shims {
        Shims::new(&ProbeConfig { procfs: dir.to_owned(), ..ProbeConfig::default() }, Blocking::default())
    }

    #[tokio::test]
    async fn only_a_shim_that_was_stuck_is_spoken_of_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 7, "containerd-shim", 'S', 70);
        write(dir.path(), 8, "containerd-shim", 'D', 80);
        write(dir.path(), 9, "bash", 'D', 90);
        let mut shims = shims(dir.path());
        let states = |pass: &Pass| pass.shims.iter().map(|shim| (shim.id.pid, shim.state)).collect::<Vec<_>>();
        assert_eq!(states(&shims.look(false).await.unwrap()), [(8, TaskState::Uninterruptible)]);
        write(dir.path(), 8, "containerd-shim", 'S', 80);
        write(dir.path(), 7, "containerd-shim", 'Z', 70);
        let pass = shims.look(false).await.unwrap();
        assert_eq!(states(&pass), [(7, TaskState::Zombie), (8, TaskState::Sleeping)]);
        assert!(pass.ended.is_empty());
        std::fs::remove_dir_all(dir.path().join("8")).unwrap();
        let pass = shims.look(false).await.unwrap();
        assert_eq!(pass.ended, [ProcessId { pid: 8, start_time_ticks: 80 }]);
        assert_eq!(states(&pass), [(7, TaskState::Zombie)]);
    }

    #[tokio::test]
    async fn a_thread_in_d_of_a_shim_whose_leader_sleeps_is_seen_when_looked_at_closely_and_until_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let put = |tid, state| put_thread(dir.path(), 8, tid, "containerd-shim", state);
        put(8, 'S');
        put(9, 'D');
        let mut shims = shims(dir.path());
        let seen = |pass: Pass| pass.shims.iter().map(|shim| (shim.tid, shim.state)).collect::<Vec<_>>();
        assert_eq!(seen(shims.look(false).await.unwrap()), []);
        assert_eq!(seen(shims.look(true).await.unwrap()), [(9, TaskState::Uninterruptible)]);
        assert_eq!(seen(shims.look(false).await.unwrap()), [(9, TaskState::Uninterruptible)], "it had one");
        shims.known = Known::default();
        assert_eq!(
            seen(shims.look(false).await.unwrap()),
            [(9, TaskState::Uninterruptible)],
            "the look before was late"
        );
        put(9, 'S');
        assert_eq!(seen(shims.look(false).await.unwrap()), [(8, TaskState::Sleeping)]);
    }

    #[tokio::test]
    async fn a_pid_that_becomes_a_shim_is_found_and_another_process_of_its_number_is_another() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 8, "containerd", 'S', 80);
        let mut shims = shims(dir.path());
        shims.look(false).await.unwrap();
        write(dir.path(), 8, "conmon", 'D', 80);
        assert_eq!(shims.look(false).await.unwrap().shims.len(), 1, "exec keeps pid and start");
        write(dir.path(), 8, "conmon", 'D', 81);
        let pass = shims.look(false).await.unwrap();
        assert_eq!(pass.ended, [ProcessId { pid: 8, start_time_ticks: 80 }]);
        assert_eq!(pass.shims[0].id.start_time_ticks, 81);
    }

    #[tokio::test]
    async fn pids_are_listed_when_something_was_started_and_known_shims_are_looked_at_each_time() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(std::process::id().to_string(), dir.path().join("self")).unwrap();
        let started = |newest: u32| {
            std::fs::write(dir.path().join("loadavg"), format!("0.00 0.00 0.00 1/9 {newest}\n")).unwrap();
        };
        started(7);
        write(dir.path(), 7, "containerd-shim", 'S', 70);
        let mut shims = shims(dir.path());
        assert!(shims.look(false).await.unwrap().shims.is_empty());
        write(dir.path(), 7, "containerd-shim", 'D', 70);
        write(dir.path(), 8, "containerd-shim", 'D', 80);
        assert_eq!(shims.look(false).await.unwrap().shims.len(), 1, "nothing was started");
        started(8);
        assert_eq!(shims.look(false).await.unwrap().shims.len(), 2);
    }

    #[tokio::test]
    async fn a_procfs_that_cannot_be_read_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let error = shims(&dir.path().join("none")).look(false).await.unwrap_err();
        assert!(error.contains("none"), "{error}");
    }
}
