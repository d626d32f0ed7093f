//! How the kubelet is, from its systemd unit, its main process and its health endpoint.
//!
//! A unit that nobody wants to run is well when it does not: one that is disabled or masked, was not seen to run, and has left
//! no state on the host. Distributions and images bring such units along. [`RestartHistory`] counts what systemd restarts by
//! itself; a restart by hand is no fault.

use std::collections::VecDeque;

use kulprit_host::process::TaskState;
use kulprit_host::systemd::UnitObservation;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{StateVerdict, Verdict};

/// Restarts in [`WINDOW_USEC`] that make a loop.
const N_RESTARTS_OF_LOOP: usize = 3;
const WINDOW_USEC: i64 = 10 * 60 * 1_000_000;
/// A loop is over when the unit has stayed up so many times longer than it did between its restarts.
const LOOP_OVER_AFTER_GAPS: i64 = 2;

/// What else tells whether a unit should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// It was active at an earlier look.
    pub was_active: bool,
    /// A kubelet has left its state on the host's disk.
    pub has_state_on_disk: bool,
}

/// Restarts of one unit by systemd.
#[derive(Clone, Debug, Default)]
pub struct RestartHistory {
    last: Option<(Option<u32>, Option<String>)>,
    restarts: VecDeque<Moment>,
}

/// How the main process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessSeen {
    /// There is one.
    Runs {
        /// Its pid on the host.
        pid: u32,
        /// What its main thread does.
        state: TaskState,
        /// Kernel function it waits in, for state D.
        wchan: Option<String>,
    },
    /// There is none, as the unit does not run.
    None,
    /// Nobody could look, and why.
    Unknown(String),
}

/// What the health endpoint said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthzSeen {
    /// An answer.
    Answered {
        /// HTTP status.
        status: u16,
        /// Its text.
        body: String,
    },
    /// No answer.
    Failed {
        /// One of the `FAILURE_*` values.
        failure: &'static str,
        /// In words.
        text: String,
    },
    /// It was not asked, as the unit does not run.
    NotAsked,
    /// Our side failed.
    Unknown(String),
}

/// Whether the unit runs as far as systemd is concerned.
#[must_use]
pub fn is_active(unit: &UnitObservation) -> bool {
    matches!(unit.active_state.as_deref(), Some("active" | "activating" | "reloading" | "refreshing"))
}

/// Unit and restarts.
#[must_use]
pub fn judge_unit(
    at: Moment,
    unit: &UnitObservation,
    expectation: Expectation,
    history: &mut RestartHistory,
) -> Vec<Verdict> {
    vec![Verdict::State(judge_inactive(at, unit, expectation)), Verdict::State(judge_loop(at, unit, history))]
}

fn judge_inactive(at: Moment, unit: &UnitObservation, expectation: Expectation) -> StateVerdict {
    let (code, subject) = (FindingCode::KubeletInactive, Subject::unit(unit.name.as_str()));
    let Some(active_state) = unit.active_state.as_deref() else {
        return StateVerdict::unknown(code, subject, format!("systemd gave no ActiveState of {}", unit.name));
    };
    let is_unwanted = active_state == "inactive" && !is_wanted(unit) && expectation == Expectation::default();
    let mut text = format!("{} is {active_state} ({})", unit.name, unit.sub_state.as_deref().unwrap_or("no SubState"));
    if let Some(result) = unit.result.as_deref() {
        text += &format!(", result {result}");
    }
    if let Some(exit) = unit.main_exit {
        text += &match exit.code {
            1 => format!(", its main process exited with code {}", exit.status),
            _ => format!(", its main process was ended by signal {}", exit.status),
        };
    }
    let mut verdict = StateVerdict {
        attributes: unit_facts(unit),
        ..StateVerdict::seen(code, subject, !is_active(unit) && !is_unwanted)
    };
    if !is_active(unit) {
        verdict.evidence.push(Evidence::new("systemd", changed_at(at, unit), text));
        if !is_unwanted {
            verdict.since = Some(changed_at(at, unit));
        }
    }
    verdict
}

/// Enabled, or run in this boot.
pub(crate) fn is_wanted(unit: &UnitObservation) -> bool {
    let is_off = matches!(unit.unit_file_state.as_deref(), Some("disabled" | "masked" | "masked-runtime") | None);
    !is_off || unit.invocation_id.is_some() || unit.state_change_usec.is_some()
}

fn judge_loop(at: Moment, unit: &UnitObservation, history: &mut RestartHistory) -> StateVerdict {
    let (code, subject) = (FindingCode::KubeletRestartLoop, Subject::unit(unit.name.as_str()));
    history.take(at, unit);
    let is_loop = history.is_loop(at);
    let mut verdict = StateVerdict { attributes: unit_facts(unit), ..StateVerdict::seen(code, subject, is_loop) };
    if let Some(first) = history.restarts.front().filter(|_| is_loop) {
        let secs = at.usec_since(*first) / 1_000_000;
        let text = format!("systemd restarted {} {} times in the last {secs} s", unit.name, history.restarts.len());
        verdict.evidence.push(Evidence::new("systemd", at, text));
    }
    verdict
}

impl RestartHistory {
    /// Enough restarts, and not yet longer up than between them: a crash every other minute is a loop as well as one a second.
    fn is_loop(&self, at: Moment) -> bool {
        let (Some(first), Some(last)) = (self.restarts.front(), self.restarts.back()) else { return false };
        let gaps = self.restarts.iter().zip(self.restarts.iter().skip(1)).map(|(one, next)| next.usec_since(*one));
        // All seen at one look: how long each run lasted is not known, the whole window at worst.
        let longest = gaps.max().filter(|_| first != last).unwrap_or(WINDOW_USEC);
        self.restarts.len() >= N_RESTARTS_OF_LOOP && at.usec_since(*last) <= LOOP_OVER_AFTER_GAPS * longest
    }

    fn take(&mut self, at: Moment, unit: &UnitObservation) {
        let now = (unit.n_restarts, unit.invocation_id.clone());
        let n_new = match (&self.last, unit.n_restarts) {
            // We came into a loop that was there before us.
            (None, Some(n)) if unit.sub_state.as_deref() == Some("auto-restart") => {
                usize::try_from(n).unwrap_or(usize::MAX)
            }
            (None, _) => 0,
            // A start by hand sets the counter back.
            (Some((Some(before), _)), Some(n)) => usize::try_from(n.saturating_sub(*before)).unwrap_or(usize::MAX),
            (Some((None, _)), Some(_)) => 0,
            // systemd before 235 does not count; a new run is all there is.
            (Some((_, before)), None) => {
                usize::from(unit.invocation_id.is_some() && before.is_some() && *before != unit.invocation_id)
            }
        };
        self.last = Some(now);
        self.restarts.extend(std::iter::repeat_n(at, n_new.min(100)));
        while self.restarts.front().is_some_and(|moment| at.usec_since(*moment) >= WINDOW_USEC)
            || self.restarts.len() > 100
        {
            self.restarts.pop_front();
        }
    }
}

/// The main process.
#[must_use]
pub fn judge_process(at: Moment, unit: &str, seen: &ProcessSeen) -> Verdict {
    let (code, subject) = (FindingCode::KubeletProcessStalled, Subject::unit(unit));
    let (pid, state, wchan) = match seen {
        ProcessSeen::None => return Verdict::State(StateVerdict::seen(code, subject, false)),
        ProcessSeen::Unknown(because) => return Verdict::State(StateVerdict::unknown(code, subject, because.as_str())),
        ProcessSeen::Runs { pid, state, wchan } => (*pid, *state, wchan.as_deref()),
    };
    let words = match state {
        TaskState::Stopped => "stopped by a signal",
        TaskState::Traced => "stopped by a debugger",
        TaskState::Zombie => "dead and not reaped",
        TaskState::Uninterruptible => "blocked in the kernel",
        TaskState::Running | TaskState::Sleeping | TaskState::Dead | TaskState::Idle | TaskState::Other(_) => {
            return Verdict::State(StateVerdict::seen(code, subject, false));
        }
    };
    let at_wchan = wchan.map(|wchan| format!(" in {wchan}")).unwrap_or_default();
    let text = format!("main process {pid} of {unit} is {words}{at_wchan} (state {})", state.letter());
    Verdict::State(StateVerdict {
        hold_key: Some(format!("{pid} {} {}", state.letter(), wchan.unwrap_or_default())),
        attributes: Attributes::new()
            .with(attribute::PID, pid)
            .with(attribute::PROCESS_STATE, state.letter())
            .with_some(attribute::WCHAN, wchan),
        evidence: vec![Evidence::new("procfs", at, text)],
        ..StateVerdict::seen(code, subject, true)
    })
}

/// The health endpoint.
#[must_use]
pub fn judge_healthz(at: Moment, unit: &str, seen: &HealthzSeen) -> Verdict {
    let (code, subject) = (FindingCode::KubeletHealthzFailing, Subject::unit(unit));
    let failing = |attributes, text: String| StateVerdict {
        attributes,
        evidence: vec![Evidence::new("healthz", at, text)],
        ..StateVerdict::seen(code, subject.clone(), true)
    };
    Verdict::State(match seen {
        HealthzSeen::Answered { status: 200, .. } | HealthzSeen::NotAsked => StateVerdict::seen(code, subject, false),
        HealthzSeen::Answered { status, body } => {
            failing(Attributes::new().with(attribute::HTTP_STATUS, status), format!("healthz answers {status}: {body}"))
        }
        HealthzSeen::Failed { failure, text } => {
            failing(Attributes::new().with(attribute::FAILURE, failure), format!("healthz: {text}"))
        }
        HealthzSeen::Unknown(because) => StateVerdict::unknown(code, subject, because.as_str()),
    })
}

/// Whether any of the units exists.
#[must_use]
pub fn judge_installed(at: Moment, units: &[UnitObservation]) -> Verdict {
    let is_missing = units.iter().all(|unit| !unit.is_found());
    let mut verdict = StateVerdict::seen(FindingCode::KubeletNotInstalled, Subject::Node, is_missing);
    if is_missing {
        let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        verdict.evidence.push(Evidence::new("systemd", at, format!("systemd knows none of {}", names.join(", "))));
    }
    Verdict::State(verdict)
}

/// What a unit's states become when nobody can look.
#[must_use]
pub fn unknown_unit(unit: &str, because: &str) -> Vec<Verdict> {
    use FindingCode::{KubeletHealthzFailing, KubeletInactive, KubeletProcessStalled, KubeletRestartLoop};
    [KubeletInactive, KubeletRestartLoop, KubeletHealthzFailing, KubeletProcessStalled]
        .map(|code| Verdict::State(StateVerdict::unknown(code, Subject::unit(unit), because)))
        .to_vec()
}

pub(crate) fn unit_facts(unit: &UnitObservation) -> Attributes {
    Attributes::new()
        .with_some(attribute::ACTIVE_STATE, unit.active_state.as_deref())
        .with_some(attribute::SUB_STATE, unit.sub_state.as_deref())
        .with_some(attribute::RESULT, unit.result.as_deref())
        .with_some(attribute::UNIT_FILE_STATE, unit.unit_file_state.as_deref())
        .with_some(attribute::N_RESTARTS, unit.n_restarts)
}

/// When the unit's state changed: by the clock that does not jump, where systemd says so, but not after now.
pub(crate) fn changed_at(at: Moment, unit: &UnitObservation) -> Moment {
    let Some(changed_usec) = unit.state_change_monotonic_usec.and_then(|usec| i64::try_from(usec).ok()) else {
        return at;
    };
    at.offset_usec(changed_usec.saturating_sub(at.boottime_usec).min(0))
}

#[cfg(test)]
mod tests;
