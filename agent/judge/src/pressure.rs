//! Whether tasks of the node, or of one VM, wait for what they need: CPU, memory, I/O.
//!
//! Thresholds as the finding catalogue has them. Pressure alone explains no symptom: a migration finished in seconds on a
//! node with 16 busy loops on 2 processors, so these states say what is, and causes weigh them.

mod vm;
mod window;

use kulprit_host::cgroup::CpuThrottling;
use kulprit_host::cpu::CpuTimes;
use kulprit_host::memory::MemInfo;
use kulprit_host::pressure::Pressure;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

pub use vm::{VmPressureLook, judge_limit_kills, judge_vm_pressure, new_limit_hits, new_limit_kills};
pub use window::{StallWindow, ThrottleWindow, TimesWindow};

use crate::say::{CGROUP, PROCFS, Reading, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

/// `some avg60` of the CPU, percent.
const CPU_SOME_AVG60_PCT: f64 = 60.0;
/// With so much of the processors' time idle, percent of all, what waits is held back by limits of cgroups and not by the node.
const IDLE_PCT: f64 = 20.0;
/// Time that a hypervisor gave to others, percent of all.
const STEAL_PCT: f64 = 20.0;
/// `full avg10` of memory, percent.
const MEMORY_FULL_AVG10_PCT: f64 = 10.0;
/// Memory available, percent of all that is not set aside as hugepages.
const MEMORY_AVAILABLE_PCT: f64 = 2.0;
/// `full avg60` of I/O, percent.
const IO_FULL_AVG60_PCT: f64 = 40.0;
/// Throttled periods, percent of those with something to run.
const THROTTLED_PCT: f64 = 50.0;
/// Periods before the share means something: 10 s of work at the usual 100 ms, as long as the state is held before it is raised.
/// The start of any container throttles half of its first few.
const MIN_PERIODS: u64 = 100;

/// One look at the node.
#[derive(Clone, Debug)]
pub struct PressureLook {
    /// When.
    pub at: Moment,
    /// `/proc/pressure/cpu`.
    pub cpu: Reading<Pressure>,
    /// `/proc/pressure/memory`.
    pub memory: Reading<Pressure>,
    /// `/proc/pressure/io`.
    pub io: Reading<Pressure>,
    /// Processor time: since the boot, or of the last seconds.
    pub times: Reading<CpuTimes>,
    /// Whether `cpu` is the machine's and `times` are of the last seconds. A task that its cgroup's limit throttles counts as one that
    /// waits for a CPU, though CPUs are idle (kernel `kernel/sched/psi.c`: throttled tasks stay runnable).
    pub tells_idle: bool,
    /// `/proc/meminfo`.
    pub meminfo: Reading<MemInfo>,
}

/// The three states of the node.
#[must_use]
pub fn judge(look: &PressureLook) -> Vec<Verdict> {
    [judge_cpu(look), judge_memory(look), judge_io(look)].map(Verdict::State).to_vec()
}

fn judge_cpu(look: &PressureLook) -> StateVerdict {
    let code = FindingCode::NodeCpuStalled;
    let steal = look.times.as_ref().ok().and_then(|times| percent(times.steal_ticks, times.total_ticks));
    let some = match &look.cpu {
        Ok(pressure) => {
            pressure.some.map(|line| line.avg60_pct).ok_or_else(|| "no `some` line of cpu pressure".to_owned())
        }
        Err(error) => Err(error.clone()),
    };
    let idle = look.times.as_ref().ok().filter(|_| look.tells_idle);
    let idle = idle.and_then(|times| percent(times.idle_ticks, times.total_ticks)).filter(|idle| *idle >= IDLE_PCT);
    match (some, steal) {
        (Ok(some), _) if some >= CPU_SOME_AVG60_PCT && idle.is_none() => {
            measured(look, code, "pressure", some, CPU_SOME_AVG60_PCT, format!("cpu pressure some avg60={some:.2}"))
        }
        (_, Some(steal)) if steal >= STEAL_PCT => {
            measured(look, code, "steal", steal, STEAL_PCT, format!("{steal:.1} % of the processors' time was stolen"))
        }
        (Ok(some), _) => {
            let text = match idle {
                Some(idle) if some >= CPU_SOME_AVG60_PCT => format!(
                    "cpu pressure some avg60={some:.2}, and {idle:.0} % of the processors' time is idle: limits of cgroups"
                ),
                _ => format!("cpu pressure some avg60={some:.2}"),
            };
            absent(code, &Subject::Node, look.at, PROCFS, text)
        }
        (Err(error), _) => unknown(code, &Subject::Node, error),
    }
}

fn judge_memory(look: &PressureLook) -> StateVerdict {
    let code = FindingCode::NodeMemoryStalled;
    let available = look.meminfo.as_ref().ok().and_then(|info| {
        // A pool's pages are never among what is available, and a node may be hugepages nearly whole.
        percent(info.available_bytes?, info.total_bytes.saturating_sub(info.hugetlb_bytes))
    });
    let full = match &look.memory {
        Ok(pressure) => {
            pressure.full.map(|line| line.avg10_pct).ok_or_else(|| "no `full` line of memory pressure".to_owned())
        }
        Err(error) => Err(error.clone()),
    };
    match (full, available) {
        (Ok(full), _) if full >= MEMORY_FULL_AVG10_PCT => measured(
            look,
            code,
            "pressure",
            full,
            MEMORY_FULL_AVG10_PCT,
            format!("memory pressure full avg10={full:.2}"),
        ),
        (_, Some(share)) if share <= MEMORY_AVAILABLE_PCT => {
            let text = format!("{share:.1} % of the memory is available");
            measured(look, code, "available", share, MEMORY_AVAILABLE_PCT, text)
        }
        (Ok(full), _) => {
            let rest = available.map(|share| format!(", {share:.0} % of the memory available")).unwrap_or_default();
            absent(code, &Subject::Node, look.at, PROCFS, format!("memory pressure full avg10={full:.2}{rest}"))
        }
        (Err(error), _) => unknown(code, &Subject::Node, error),
    }
}

fn judge_io(look: &PressureLook) -> StateVerdict {
    let code = FindingCode::NodeIoStalled;
    match &look.io {
        Ok(Pressure { full: Some(line), .. }) => {
            let text = format!("io pressure full avg60={:.2}", line.avg60_pct);
            if line.avg60_pct >= IO_FULL_AVG60_PCT {
                measured(look, code, "pressure", line.avg60_pct, IO_FULL_AVG60_PCT, text)
            } else {
                absent(code, &Subject::Node, look.at, PROCFS, text)
            }
        }
        Ok(Pressure { full: None, .. }) => unknown(code, &Subject::Node, "no `full` line of io pressure"),
        Err(error) => unknown(code, &Subject::Node, error.as_str()),
    }
}

fn measured(look: &PressureLook, code: FindingCode, what: &str, value: f64, limit: f64, text: String) -> StateVerdict {
    let facts = Attributes::new()
        .with(attribute::WHAT, what)
        .with(attribute::MEASURED, format!("{value:.1}"))
        .with(attribute::LIMIT, format!("{limit:.0}"));
    present(code, &Subject::Node, look.at, PROCFS, facts, text)
}

/// Whether the CPU limit of a VM's container throttles it; from what was counted in a time, or since the container was made.
#[must_use]
pub fn judge_throttling(subject: &Subject, at: Moment, cpu: &Reading<CpuThrottling>) -> Verdict {
    let code = FindingCode::VmCpuThrottled;
    let CpuThrottling { n_periods, n_throttled } = match cpu {
        Ok(cpu) => *cpu,
        Err(error) => return Verdict::State(unknown(code, subject, error.as_str())),
    };
    let share = percent(n_throttled, n_periods).unwrap_or(0.0);
    let text = format!("the container was throttled in {n_throttled} of {n_periods} periods");
    Verdict::State(if n_periods >= MIN_PERIODS && share >= THROTTLED_PCT {
        let facts = Attributes::new().with(attribute::PERCENT, format!("{share:.0}"));
        present(code, subject, at, CGROUP, facts, text)
    } else {
        absent(code, subject, at, CGROUP, text)
    })
}

/// `None` of nothing.
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use kulprit_host::pressure::PressureLine;
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    fn line(avg10_pct: f64, avg60_pct: f64) -> Option<PressureLine> {
        Some(PressureLine { avg10_pct, avg60_pct, avg300_pct: 0.0, total_usec: 0 })
    }

    fn well() -> PressureLook {
        let quiet = Ok(Pressure { some: line(0.0, 0.0), full: line(0.0, 0.0) });
        PressureLook {
            at: Moment::default(),
            cpu: quiet.clone(),
            memory: quiet.clone(),
            io: quiet,
            times: Ok(CpuTimes { total_ticks: 1000, idle_ticks: 0, steal_ticks: 0 }),
            tells_idle: true,
            meminfo: meminfo(1000, 0, 900),
        }
    }

    fn meminfo(total_bytes: u64, hugetlb_bytes: u64, available_bytes: u64) -> Reading<MemInfo> {
        Ok(MemInfo { total_bytes, available_bytes: Some(available_bytes), hugetlb_bytes, hugepages: None })
    }

    #[track_caller]
    fn check(look: &PressureLook, want: [Status; 3]) {
        assert_eq!(statuses(&judge(look)), want, "{look:?}");
    }

    #[test]
    fn a_quiet_node_is_well() {
        check(&well(), [Absent; 3]);
    }

    #[test]
    fn each_threshold_is_met_from_both_sides() {
        let psi = |some60, full10, full60| Ok(Pressure { some: line(0.0, some60), full: line(full10, full60) });
        check(&PressureLook { cpu: psi(59.99, 0.0, 0.0), ..well() }, [Absent; 3]);
        check(&PressureLook { cpu: psi(60.0, 0.0, 0.0), ..well() }, [Present, Absent, Absent]);
        check(&PressureLook { memory: psi(99.0, 9.99, 0.0), ..well() }, [Absent; 3]);
        check(&PressureLook { memory: psi(0.0, 10.0, 0.0), ..well() }, [Absent, Present, Absent]);
        check(&PressureLook { io: psi(99.0, 99.0, 39.99), ..well() }, [Absent; 3]);
        check(&PressureLook { io: psi(0.0, 0.0, 40.0), ..well() }, [Absent, Absent, Present]);
        for (steal_ticks, want) in [(199, Absent), (200, Present)] {
            let times = Ok(CpuTimes { total_ticks: 1000, idle_ticks: 0, steal_ticks });
            check(&PressureLook { times, ..well() }, [want, Absent, Absent]);
        }
        for (available, want) in [(21, Absent), (20, Present)] {
            check(&PressureLook { meminfo: meminfo(1000, 0, available), ..well() }, [Absent, want, Absent]);
        }
    }

    /// Hugepages are set aside for VMs: a node of 512 GiB of which 496 are hugepages never has more than 16 to give.
    #[test]
    fn memory_set_aside_as_hugepages_is_none_that_could_be_available() {
        for (available, want) in [(9_000, Absent), (321, Absent), (320, Present)] {
            let meminfo = meminfo(512_000, 496_000, available);
            check(&PressureLook { meminfo, ..well() }, [Absent, want, Absent]);
        }
    }

    /// A VM that its CPU limit throttles waits all the time, on a node with CPUs to spare.
    #[test]
    fn a_node_whose_processors_are_idle_has_not_run_out_of_them() {
        let starved = || PressureLook { cpu: Ok(Pressure { some: line(0.0, 97.0), full: None }), ..well() };
        let idle = |idle_ticks| Ok(CpuTimes { total_ticks: 1000, idle_ticks, steal_ticks: 0 });
        check(&PressureLook { times: idle(199), ..starved() }, [Present, Absent, Absent]);
        check(&PressureLook { times: idle(200), ..starved() }, [Absent; 3]);
        check(&PressureLook { times: idle(200), tells_idle: false, ..starved() }, [Present, Absent, Absent]);
        check(&PressureLook { times: Err("gone".to_owned()), ..starved() }, [Present, Absent, Absent]);
    }

    #[test]
    fn what_could_not_be_read_is_unknown_unless_the_other_measure_proves_it() {
        let no = || Err("`proc/pressure/cpu` does not exist".to_owned());
        let blind = PressureLook { cpu: no(), memory: no(), io: no(), ..well() };
        check(&blind, [Unknown; 3]);
        let times = Ok(CpuTimes { total_ticks: 10, idle_ticks: 0, steal_ticks: 9 });
        check(&PressureLook { times, ..blind }, [Present, Unknown, Unknown]);
        let half = Ok(Pressure { some: line(0.0, 0.0), full: None });
        check(&PressureLook { io: half, ..well() }, [Absent, Absent, Unknown]);
    }

    #[test]
    fn a_node_that_waits_for_io_says_how_much() {
        let io = Ok(Pressure { some: None, full: line(0.0, 40.0) });
        let verdicts = judge(&PressureLook { io, ..well() });
        let [_, _, Verdict::State(state)] = verdicts.as_slice() else { panic!("three states") };
        assert_eq!((state.code, state.status), (FindingCode::NodeIoStalled, Present));
        assert_eq!(state.attributes.get(attribute::MEASURED), Some("40.0"));
    }

    #[test]
    fn throttling_counts_from_half_of_enough_periods() {
        for (n_throttled, n_periods, want) in [
            (0, 0, Absent),
            (99, 99, Absent),
            (49, 100, Absent),
            (50, 100, Present),
            (491, 493, Present),
            (4, 10, Absent),
        ] {
            let verdict =
                judge_throttling(&Subject::vm("u"), Moment::default(), &Ok(CpuThrottling { n_periods, n_throttled }));
            assert_eq!(statuses(&[verdict]), [want], "{n_throttled}/{n_periods}");
        }
        let verdict = judge_throttling(&Subject::vm("u"), Moment::default(), &Err("gone".to_owned()));
        assert_eq!(statuses(&[verdict]), [Unknown]);
    }
}
