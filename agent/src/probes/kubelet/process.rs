//! Finds a unit's main process in our procfs and looks at it.
//!
//! systemd names it by the number in its own pid namespace. That is ours on a node; where systemd runs in a namespace below
//! ours (a node in a container), the process is found by its number there, among the node's own.

use std::time::Duration;

use kulprit_host::ReadError;
use kulprit_host::process::{CgroupFilter, ProcessId, Procfs, TaskState};
use kulprit_judge::kubelet::ProcessSeen;

use crate::probes::blocking::{Blocking, Late};
use crate::probes::{ProbeConfig, chain};

/// Reading `stat` of one process takes microseconds; searching all takes some ms.
const DEADLINE: Duration = Duration::from_secs(2);

pub(in crate::probes) struct ProcessFinder {
    procfs: Procfs,
    filter: CgroupFilter,
    blocking: Blocking,
    /// systemd's number, and the process it was found to be.
    found: Option<(u32, ProcessId)>,
}

impl ProcessFinder {
    pub(in crate::probes) fn new(config: &ProbeConfig, blocking: Blocking) -> Self {
        Self { procfs: Procfs::new(&config.procfs), filter: config.cgroup_filter(), blocking, found: None }
    }

    pub(in crate::probes) async fn look(&mut self, main_pid: u32) -> ProcessSeen {
        let (procfs, filter) = (self.procfs.clone(), self.filter.clone());
        let known = self.found.filter(|(pid, _)| *pid == main_pid).map(|(_, id)| id);
        let read = self.blocking.run(DEADLINE, move || look(&procfs, &filter, main_pid, known)).await;
        match read {
            Ok(Ok((id, seen))) => {
                self.found = Some((main_pid, id));
                seen
            }
            Ok(Err(error)) => ProcessSeen::Unknown(chain(&error)),
            Err(Late { for_secs }) => ProcessSeen::Unknown(format!("reading procfs has not returned for {for_secs} s")),
        }
    }
}

fn look(
    procfs: &Procfs,
    filter: &CgroupFilter,
    main_pid: u32,
    known: Option<ProcessId>,
) -> Result<(ProcessId, ProcessSeen), ReadError> {
    let stat = match known.map(|id| (id, procfs.stat(id.pid))) {
        Some((id, Ok(stat))) if stat.id() == id => stat,
        _ => procfs.stat(find(procfs, filter, main_pid)?)?,
    };
    let wchan = (stat.state == TaskState::Uninterruptible).then(|| procfs.wchan(stat.pid, stat.pid)).flatten();
    Ok((stat.id(), ProcessSeen::Runs { pid: stat.pid, state: stat.state, wchan }))
}

fn find(procfs: &Procfs, filter: &CgroupFilter, main_pid: u32) -> Result<u32, ReadError> {
    let CgroupFilter::Under(_) = filter else { return Ok(main_pid) };
    let is_it = |pid: &u32| {
        let Ok(status) = procfs.status(*pid) else { return false };
        status.ns_pids.last() == Some(&main_pid) && procfs.cgroups(*pid).is_ok_and(|rows| filter.matches(&rows))
    };
    let not_found = || ReadError::NotFound { path: procfs.path().join(format!("NSpid:{main_pid}")) };
    procfs.pids()?.into_iter().find(is_it).ok_or_else(not_found)
}
