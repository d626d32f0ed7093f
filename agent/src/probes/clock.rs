//! The `clock` probe: the kernel's own view of its clock, once a minute.
//!
//! One system call. Who should keep the clock right is looked for among the processes only while nobody does, and rarely. How
//! far two nodes are apart is central's to say, which sees both.

use std::time::Duration;

use kulprit_host::clock::read_kernel_clock;
use kulprit_host::process::Procfs;
use kulprit_judge::clock::{ClockLook, is_time_daemon, judge};
use tokio::time::Instant;

use super::blocking::Late;
use super::counters::count;
use super::{ProbeContext, ProbeSpec};

const NAME: &str = "clock";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the node's clock is synchronised.",
    sources: "adjtimex(2); names of processes in /proc while the clock is not synchronised",
    needs: "adjtimex(2), reading only: no privilege",
    lost_without: "whether it is synchronised where seccomp forbids the call",
    look_every: Duration::from_secs(60),
    spawn: |context| Box::pin(run(context)),
};
/// How often a daemon is looked for: it reads the state of every process, some ms.
const FIND_EVERY: Duration = Duration::from_secs(600);
/// Reading procfs takes some ms.
const DEADLINE: Duration = Duration::from_secs(5);

async fn run(context: ProbeContext) {
    let mut reading = context.blocking();
    let mut daemon = None;
    let mut find_at: Option<Instant> = None;
    let mut was_synchronised = false;
    loop {
        let draft = context.begin(NAME);
        let clock = read_kernel_clock().map_err(|error| format!("adjtimex failed: {error}"));
        count(&context.counters.errors, u64::from(clock.is_err()));
        let is_synchronised = matches!(clock, Ok(clock) if clock.is_synchronised);
        let now = Instant::now();
        if clock.is_ok() && !is_synchronised && find_at.is_none_or(|due| now >= due) {
            find_at = Some(now + FIND_EVERY);
            let config = std::sync::Arc::clone(&context.config);
            match reading.run(DEADLINE, move || find_daemon(&config)).await {
                Ok(found) => daemon = found,
                // What was found before stands.
                Err(Late { .. }) => count(&context.counters.errors, 1),
            }
        }
        let look = ClockLook { at: context.clock.now(), clock, daemon: daemon.clone(), was_synchronised };
        was_synchronised |= is_synchronised;
        if !context.send_and_rest(draft.verdicts([judge(&look)]).end(&context.clock), SPEC.look_every).await {
            return;
        }
    }
}

/// The daemon that keeps the time, if one of the node's processes is one.
fn find_daemon(config: &super::ProbeConfig) -> Option<String> {
    let (found, _) =
        Procfs::new(&config.procfs).scan(&config.cgroup_filter(), |stat| is_time_daemon(&stat.comm)).ok()?;
    found.into_iter().next().map(|stat| stat.comm)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kulprit_host::HostRoot;
    use kulprit_model::{FindingCode, Status};

    use super::*;
    use crate::probes::testing::{Probe, status_of};

    #[tokio::test]
    async fn this_machines_clock_is_judged_as_its_kernel_says() {
        let clock = read_kernel_clock().unwrap();
        let look = Probe::once(&SPEC, HostRoot::new("/")).await;
        let status = status_of(&look, FindingCode::ClockSkewed).unwrap();
        if clock.is_synchronised {
            assert_eq!(status, Status::Absent);
        } else {
            assert_ne!(status, Status::Absent, "nobody knows whether it is right");
        }
    }

    #[tokio::test]
    async fn a_daemon_is_found_by_its_name_and_a_procfs_that_is_missing_has_none() {
        let root = tempfile::tempdir().unwrap();
        let mut config = super::super::ProbeConfig { procfs: root.path().to_owned(), ..Default::default() };
        assert_eq!(find_daemon(&config), None);
        let zeros = "0 ".repeat(44);
        std::fs::create_dir(root.path().join("7")).unwrap();
        std::fs::write(root.path().join("7/stat"), format!("7 (chronyd) S 1 {zeros}\n")).unwrap();
        assert_eq!(find_daemon(&config).as_deref(), Some("chronyd"));
        config.procfs = "/none".into();
        let look = Probe::once_with(&SPEC, HostRoot::new("/"), |context| context.config = Arc::new(config)).await;
        assert!(status_of(&look, FindingCode::ClockSkewed).is_some());
    }
}
