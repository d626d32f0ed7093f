//! The node's processors over time: `/proc/stat` and `/proc/loadavg`.
//!
//! Counters since boot, the moment of the boot, and how many tasks there are. Source: `proc_stat(5)`, `proc_loadavg(5)`.

use crate::{HostRoot, Malformed, ReadError};

/// Processor time of all processors since boot, clock ticks (1/100 s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    /// All of it, idle included. Guest time is a part of user time and not counted twice.
    pub total_ticks: u64,
    /// Time in which nothing wanted to run, waits for disks included.
    pub idle_ticks: u64,
    /// Time that a hypervisor gave to others while we wanted to run.
    pub steal_ticks: u64,
}

/// What `/proc/stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcStat {
    /// Times of all processors together. `None` when the line is missing or no numbers.
    pub cpu: Option<CpuTimes>,
    /// When the kernel booted, Unix seconds, by the wall clock as it is now.
    pub boot_unix_sec: Option<i64>,
}

/// Parses `/proc/stat`; what is missing or no number is `None`.
pub fn parse_proc_stat(text: &str) -> ProcStat {
    let mut stat = ProcStat::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("cpu", times)) => stat.cpu = parse_times(times),
            Some(("btime", seconds)) => stat.boot_unix_sec = seconds.trim().parse().ok().filter(|seconds| *seconds > 0),
            _ => {}
        }
    }
    stat
}

/// user nice system idle iowait irq softirq steal guest `guest_nice`.
fn parse_times(times: &str) -> Option<CpuTimes> {
    let mut ticks = [0_u64; 8];
    let mut fields = times.split_ascii_whitespace();
    for slot in &mut ticks {
        *slot = fields.next()?.parse().ok()?;
    }
    let total_ticks = ticks.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks))?;
    Some(CpuTimes { total_ticks, idle_ticks: ticks[3].checked_add(ticks[4])?, steal_ticks: ticks[7] })
}

/// Reads `/proc/stat`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_proc_stat(root: &HostRoot) -> Result<ProcStat, ReadError> {
    Ok(parse_proc_stat(&root.read_text("proc/stat")?))
}

/// How many tasks (threads) there are, from `/proc/loadavg`: the number after the slash.
///
/// # Errors
/// When there is no such number.
pub fn parse_loadavg_tasks(text: &str) -> Result<u64, Malformed> {
    let field = text.split_ascii_whitespace().nth(3).and_then(|field| field.split_once('/'));
    field
        .and_then(|(_, total)| total.parse().ok())
        .ok_or_else(|| Malformed::new(1, text.lines().next().unwrap_or_default()))
}

/// How many tasks (threads) the node has.
///
/// # Errors
/// See [`ReadError`].
pub fn read_task_count(root: &HostRoot) -> Result<u64, ReadError> {
    let path = "proc/loadavg";
    parse_loadavg_tasks(&root.read_text(path)?).map_err(|malformed| malformed.at(root.display_path(path)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_boot_and_tasks_are_read() {
        let stat = parse_proc_stat("cpu  100 0 50 800 20 0 10 20 7 0\ncpu0 1 2 3\nintr 5 0\nbtime 1795236445\n");
        assert_eq!(
            stat.cpu,
            Some(CpuTimes { total_ticks: 1000, idle_ticks: 820, steal_ticks: 20 }),
            "guest time is user time already"
        );
        assert_eq!(stat.boot_unix_sec, Some(1_795_236_445));
        assert_eq!(parse_loadavg_tasks("2.00 1.99 1.78 4/408 15337\n"), Ok(408));
    }

    #[test]
    fn what_is_missing_is_none() {
        assert_eq!(parse_proc_stat(""), ProcStat::default());
        assert_eq!(parse_proc_stat("cpu 1 2 3\nbtime 0\n"), ProcStat::default());
        assert!(parse_loadavg_tasks("2.00 1.99 1.78 408 1").is_err());
    }

    #[test]
    fn this_machine_says_when_it_booted_and_how_many_tasks_it_has() {
        let root = HostRoot::new("/");
        assert!(read_proc_stat(&root).unwrap().boot_unix_sec.is_some());
        assert!(read_task_count(&root).unwrap() > 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(cpu|btime)?( [0-9]{1,22}){0,12}\\PC{0,30}") {
            let _ = parse_proc_stat(&text);
            let _ = parse_loadavg_tasks(&text);
        }
    }
}
