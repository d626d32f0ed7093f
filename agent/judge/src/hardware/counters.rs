//! Counters of the hardware, live: what they grew by since the look before has happened since then.
//!
//! Also the source of the kernel's time, which it leaves by itself when the processor's clock proves wrong.

use kulprit_host::hardware::{EdacCounters, Heat, MachineChecks};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::say::{Reading, SYSFS, absent, present, unknown};
use crate::verdict::{OccurrenceVerdict, Verdict};

/// Sources that the kernel falls back to: reading one leaves the processor, and every guest's timer waits for it.
const SLOW_SOURCES: [&str; 5] = ["hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies"];

/// Counters of the machine at one moment, since its boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HardwareCounters {
    /// Uncorrected memory errors; `None` where no controller counts.
    pub memory_errors: Option<u64>,
    /// Times the processors were too hot; `None` where they do not count.
    pub heat: Option<Heat>,
    /// Machine check exceptions, summed over the processors; `None` where they are not counted or were not read.
    pub machine_checks: Option<u64>,
}

impl HardwareCounters {
    /// From what was read.
    #[must_use]
    pub fn of(controllers: Option<&[EdacCounters]>, heat: Option<Heat>, machine_checks: Option<MachineChecks>) -> Self {
        let memory_errors = controllers
            .filter(|rows| !rows.is_empty())
            .map(|rows| rows.iter().fold(0_u64, |sum, row| sum.saturating_add(row.uncorrected_total)));
        // Polls look for corrected errors whether there are any or not.
        Self { memory_errors, heat, machine_checks: machine_checks.map(|checks| checks.exceptions_total) }
    }
}

/// What happened between two looks of one boot.
///
/// The kernel's log tells of machine checks and uncorrected memory errors by itself, at their time: they count here only when it
/// cannot be read. An exception that most processors saw is one: which of those counted are the same nobody can say.
#[must_use]
pub fn judge_counters(
    at: Moment,
    before: &HardwareCounters,
    now: &HardwareCounters,
    is_log_readable: bool,
) -> Vec<Verdict> {
    let grown = |before: Option<u64>, now: Option<u64>| now?.checked_sub(before?).filter(|n_new| *n_new > 0);
    let happened = |code, count, facts, text| {
        Verdict::Occurrence(OccurrenceVerdict {
            code,
            subject: Subject::Node,
            at,
            count,
            attributes: facts,
            evidence: vec![Evidence::new(SYSFS, at, text)],
        })
    };
    let mut verdicts = Vec::new();
    if let Some(n_new) = grown(before.memory_errors, now.memory_errors).filter(|_| !is_log_readable) {
        let text = format!("the memory controllers counted {n_new} uncorrected errors since the last look");
        verdicts.push(happened(FindingCode::HardwareMemoryError, n_new, Attributes::new(), text));
    }
    if let Some(n_new) = grown(before.machine_checks, now.machine_checks).filter(|_| !is_log_readable) {
        let facts = Attributes::new().with(attribute::WHAT, "machine-check");
        let text = format!("MCE of /proc/interrupts grew by {n_new} over all processors since the last look");
        verdicts.push(happened(FindingCode::HardwareMemoryError, 1, facts, text));
    }
    let package = grown(before.heat.map(|heat| heat.package_total), now.heat.map(|heat| heat.package_total));
    let core = grown(before.heat.map(|heat| heat.core_total), now.heat.map(|heat| heat.core_total));
    if let Some((n_new, what)) = package.map(|n_new| (n_new, "package")).or(core.map(|n_new| (n_new, "core"))) {
        let facts = Attributes::new().with(attribute::WHAT, what);
        let text = format!("{what}_throttle_count grew by {n_new} since the last look");
        verdicts.push(happened(FindingCode::CpuOverheated, n_new, facts, text));
    }
    verdicts
}

/// `ClocksourceSlow`, from the name of the kernel's source of time.
#[must_use]
pub fn judge_clocksource(at: Moment, source: &Reading<String>) -> Verdict {
    let code = FindingCode::ClocksourceSlow;
    Verdict::State(match source {
        Ok(name) if SLOW_SOURCES.contains(&name.as_str()) => {
            let facts = Attributes::new().with(attribute::WHAT, name);
            let text = format!("the kernel takes its time from {name}, not from the processor");
            present(code, &Subject::Node, at, SYSFS, facts, text)
        }
        Ok(name) => absent(code, &Subject::Node, at, SYSFS, format!("the kernel takes its time from {name}")),
        Err(error) => unknown(code, &Subject::Node, error.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    fn counters(memory_errors: u64, core_total: u64, package_total: u64) -> HardwareCounters {
        HardwareCounters {
            memory_errors: Some(memory_errors),
            heat: Some(Heat { core_total, package_total }),
            machine_checks: None,
        }
    }

    fn told(before: &HardwareCounters, now: &HardwareCounters, is_log_readable: bool) -> Vec<(FindingCode, u64)> {
        let row = |verdict: Verdict| match verdict {
            Verdict::Occurrence(one) => (one.code, one.count),
            Verdict::State(state) => panic!("{state:?}"),
        };
        judge_counters(Moment::default(), before, now, is_log_readable).into_iter().map(row).collect()
    }

    #[test]
    fn what_grew_has_happened_and_memory_errors_are_the_kernel_logs_where_it_can_be_read() {
        use FindingCode::{CpuOverheated, HardwareMemoryError};
        let before = counters(1, 4, 2);
        assert_eq!(told(&before, &before, false), []);
        assert_eq!(told(&before, &counters(3, 4, 2), false), [(HardwareMemoryError, 2)]);
        assert_eq!(told(&before, &counters(3, 4, 2), true), []);
        assert_eq!(told(&before, &counters(1, 10, 5), true), [(CpuOverheated, 3)]);
        assert_eq!(told(&before, &counters(1, 5, 2), true), [(CpuOverheated, 1)]);
        assert_eq!(told(&before, &counters(0, 0, 0), false), [], "counters that went back say nothing");
        assert_eq!(told(&HardwareCounters::default(), &before, false), [], "nor does a first look");
    }

    #[test]
    fn machine_checks_that_grew_are_one_error_where_the_kernels_log_does_not_tell_and_polls_are_none() {
        let counted = |exceptions_total, polls_total| {
            HardwareCounters::of(None, None, Some(MachineChecks { exceptions_total, polls_total }))
        };
        let error = [(FindingCode::HardwareMemoryError, 1)];
        assert_eq!(told(&counted(2, 9), &counted(66, 9), false), error, "64 processors saw it");
        assert_eq!(told(&counted(2, 9), &counted(3, 9), true), []);
        assert_eq!(told(&counted(2, 9), &counted(2, 90), false), []);
        assert_eq!(told(&HardwareCounters::of(None, None, None), &counted(2, 9), false), []);
    }

    #[test]
    fn a_processor_whose_clock_was_given_up_is_told() {
        for (source, want) in [
            (Ok("tsc"), Absent),
            (Ok("kvm-clock"), Absent),
            (Ok("hpet"), Present),
            (Ok("acpi_pm"), Present),
            (Err("gone"), Unknown),
        ] {
            let source = source.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(statuses(&[judge_clocksource(Moment::default(), &source)]), [want], "{source:?}");
        }
    }
}
