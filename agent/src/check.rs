//! `kulprit-agent check`: every probe looks once, and a person or a script reads what it saw.
//!
//! A state that is held before it is raised may be seen at one look and be nothing (a thread in state D for a millisecond), so
//! its probe looks again, once a second, until the hold is over or the state is; what is still held when the time is up is
//! Unknown. Who has less time says so, as node-problem-detector, which kills a plugin that is late: then what is not known by
//! then is Unknown. Faults win over blindness in the exit code: a fault that was found needs a person, whatever else could not be
//! seen.

mod print;

use std::time::Duration;

use kulprit_daemon::{Clock, telemetry::Chain};
use kulprit_judge::{StateVerdict, Verdict};
use kulprit_model::catalogue::CATALOGUE;
use kulprit_model::{Finding, FindingCode, Moment, Severity, Status, Subject};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    look::Look,
    probes::{ProbeContext, ProbeSpec},
    tracker::{Memory, ProbeRow, Tracker},
};

pub use print::{human, json, npd_line};

/// A probe that has not answered by then is blind.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// What a hold is waited for beyond its end: a look, and what it takes.
const HOLD_SLACK: Duration = Duration::from_secs(2);
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// Occurrences older than this do not count, microseconds.
const RECENT_USEC: i64 = 900_000_000;
const N_LOOKS: usize = 16;

/// What one probe saw.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Name of the probe.
    pub name: &'static str,
    /// Whether it could look.
    pub outcome: Outcome,
    /// How long the first look took, milliseconds.
    pub duration_ms: u64,
    /// What is present, what could not be looked at, and what happened in the last 15 min.
    pub findings: Vec<Finding>,
}

/// Whether a probe could look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// At everything.
    Ok,
    /// Not at everything.
    Partial,
    /// At nothing.
    Blind,
}

/// Runs every probe of `specs` once. `context` makes what a probe is given, with the channel for its looks. Returns `within` that
/// time where one is given.
pub async fn check(
    specs: &'static [ProbeSpec],
    context: impl Fn(mpsc::Sender<Look>) -> ProbeContext,
    clock: &Clock,
    within: Option<Duration>,
) -> Vec<Checked> {
    let until = within.map(|within| Instant::now() + within);
    let answer_within = within.map_or(ANSWER_WITHIN, |within| within.min(ANSWER_WITHIN));
    let rows: Vec<_> = specs.iter().map(|spec| ProbeRow { name: spec.name, look_every: spec.look_every }).collect();
    let mut tracker = Tracker::new(&rows, "", Memory::default(), clock.now());
    let mut durations_ms = Vec::new();
    let mut first_looks = Vec::new();
    for spec in specs {
        let (out, looks) = mpsc::channel(N_LOOKS);
        let probe = tokio::spawn((spec.spawn)(context(out)));
        first_looks.push((spec, tokio::spawn(watch(spec.name, probe, looks, clock.clone(), answer_within))));
    }
    for (spec, watched) in first_looks {
        let Watched { looks, failed, took_usec } = watched.await.unwrap_or_else(|error| Watched {
            looks: Vec::new(),
            failed: Some(Chain(&error).to_string()),
            took_usec: 0,
        });
        durations_ms.push(took_usec.div_ceil(1_000));
        take_in(&mut tracker, spec.name, looks, failed, clock.now());
    }
    let began = Instant::now();
    loop {
        let awaited = awaited(&tracker);
        let longest = awaited.iter().map(|code| hold(*code)).max();
        if longest.is_none_or(|longest| began.elapsed() >= longest + HOLD_SLACK) {
            break;
        }
        let again_at = Instant::now() + LOOK_AGAIN_EVERY;
        if until.is_some_and(|until| again_at >= until) {
            break;
        }
        sleep_until(again_at).await;
        for spec in specs.iter().filter(|spec| awaited.iter().any(|code| code.spec().probe == spec.name)) {
            let (out, looks) = mpsc::channel(N_LOOKS);
            let probe = tokio::spawn((spec.spawn)(context(out)));
            let watched = watch(spec.name, probe, looks, clock.clone(), ANSWER_WITHIN);
            let watched = match until {
                Some(until) => timeout_at(until, watched).await,
                None => Ok(watched.await),
            };
            // Cut short it takes nothing back of what the looks before saw.
            let Ok(Watched { looks, failed, .. }) = watched else { break };
            // Occurrences were counted at the first look.
            let looks = looks.into_iter().map(|look| Look { verdicts: states_only(look.verdicts), ..look }).collect();
            take_in(&mut tracker, spec.name, looks, failed, clock.now());
        }
    }
    let now = clock.now();
    leave_open(&mut tracker, now);
    specs.iter().zip(durations_ms).map(|(spec, duration_ms)| checked(&tracker, spec.name, duration_ms, now)).collect()
}

fn hold(code: FindingCode) -> Duration {
    Duration::from_millis(code.spec().raise_after_ms.into())
}

/// The codes of the states whose holds are waited for: none for longer than a fault may be held, some notices are held for minutes.
fn awaited(tracker: &Tracker) -> Vec<FindingCode> {
    let faults = CATALOGUE.iter().filter(|spec| spec.severity == Severity::Fault);
    let longest = faults.map(|spec| hold(spec.code)).max().unwrap_or_default();
    tracker.held_back().map(|(code, _)| code).filter(|code| hold(*code) <= longest).collect()
}

/// What was seen and is still held: whether it lasts, nobody has seen.
fn leave_open(tracker: &mut Tracker, now: Moment) {
    let held: Vec<_> = tracker.held_back().map(|(code, subject)| (code, subject.clone())).collect();
    for (code, subject) in held {
        let because = format!("it is there, but was not seen for the {} s after which it counts", hold(code).as_secs());
        tracker.look(Look {
            probe: code.spec().probe,
            at: now,
            took_usec: 0,
            blind_because: None,
            verdicts: vec![Verdict::State(StateVerdict::unknown(code, subject, because))],
            sightings: Vec::new(),
            position: None,
        });
    }
}

struct Watched {
    looks: Vec<Look>,
    failed: Option<String>,
    took_usec: u64,
}

/// Waits for the end of a probe that looks once, and aborts it when it is late.
async fn watch(
    name: &str,
    mut probe: tokio::task::JoinHandle<()>,
    mut out: mpsc::Receiver<Look>,
    clock: Clock,
    answer_within: Duration,
) -> Watched {
    let began = clock.now();
    let answer_by = Instant::now() + answer_within;
    let mut looks = Vec::new();
    while let Ok(Some(look)) = timeout_at(answer_by, out.recv()).await {
        looks.push(look);
    }
    let failed = match timeout_at(answer_by, &mut probe).await {
        Ok(Ok(())) if looks.is_empty() => Some(format!("probe `{name}` ended without a look")),
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Chain(&error).to_string()),
        Err(_) => {
            probe.abort();
            Some(format!("no answer within {} s", answer_within.as_secs_f64()))
        }
    };
    Watched { looks, failed, took_usec: u64::try_from(clock.now().usec_since(began)).unwrap_or(0) }
}

fn take_in(tracker: &mut Tracker, probe: &str, looks: Vec<Look>, failed: Option<String>, now: Moment) {
    for look in looks {
        tracker.look(look);
    }
    if let Some(because) = failed {
        tracker.probe_ended(probe, &because, now);
    }
}

fn states_only(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    verdicts.into_iter().filter(|verdict| matches!(verdict, Verdict::State(_))).collect()
}

fn checked(tracker: &Tracker, probe: &'static str, duration_ms: u64, now: Moment) -> Checked {
    let own = Subject::Probe { name: probe.to_owned() };
    let is_own = |code: FindingCode, subject: &Subject| code.spec().probe == probe || *subject == own;
    let states = tracker.states().filter(|state| state.status != Status::Absent && is_own(state.code, &state.subject));
    let mut findings: Vec<Finding> = states.cloned().map(Finding::State).collect();
    let recent =
        tracker.occurrences().filter(|one| now.usec_since(one.last) <= RECENT_USEC && is_own(one.code, &one.subject));
    findings.extend(recent.cloned().map(Finding::Occurrence));
    let is_blind = findings.iter().any(|finding| finding.code() == FindingCode::ProbeBlind);
    let is_partial = findings.iter().any(is_unknown);
    let outcome = match (is_blind, is_partial) {
        (true, _) => Outcome::Blind,
        (false, true) => Outcome::Partial,
        (false, false) => Outcome::Ok,
    };
    Checked { name: probe, outcome, duration_ms, findings }
}

fn is_unknown(finding: &Finding) -> bool {
    matches!(finding, Finding::State(state) if state.status == Status::Unknown)
}

/// 0 healthy, 1 a fault was found, 2 no fault was found but not everything could be looked at.
#[must_use]
pub fn exit_code(checked: &[Checked]) -> u8 {
    let mut findings = checked.iter().flat_map(|probe| &probe.findings);
    if findings.any(|finding| finding.code().spec().severity == Severity::Fault && !is_unknown(finding)) {
        1
    } else if checked.iter().any(|probe| probe.outcome != Outcome::Ok) {
        2
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
