//! How a running migration goes, from samples of its numbers: copies nothing, never gets done, slow, or nearer to its end.
//!
//! Samples are virt-launcher's lines (every 4 s), `virsh domjobinfo`, and live the job's statistics at the begin of each round and
//! once a second. Only the last migration is judged: samples of an earlier one are told by another UID, or by a clock that went
//! back. Where two rounds were seen whole, what each had to send decides ([`rounds`]). Else the rates do, which are those of QEMU's
//! last round: a guest that writes the same pages again and again never shows a dirty rate above the copy rate (recorded: 0.9 of
//! it while the migration never converged), so what counts is that the rest does not shrink although everything was copied once.
//!
//! [`book`] follows the migrations of a node from their begin to their end; [`limit`] says what a copy waits for.

pub mod book;
pub mod limit;
mod rounds;

use std::borrow::Borrow;

use kulprit_host::command::job::JobInfo;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

/// As the catalogue's rows.
const NO_BYTES_MS: u64 = 20_000;
/// A copy that has stood so long when the migration ends had stopped before. Between two rounds it stands for less.
const STOPPED_USEC: i64 = 10_000_000;
/// The word for it in `MigrationNotCompleted`.
const STOPPED: &str = "stopped";
const SLOW_BYTES_PER_SEC: f64 = 16.0 * 1_048_576.0;
/// The dirty rate matters from this share of the copy rate on, where the rest was seen not to shrink.
const DIRTY_SHARE: f64 = 0.5;
/// At a single look: the rest cannot be compared.
const DIRTY_SHARE_ONE_LOOK: f64 = 0.8;
/// Rounds over which the rest must not have shrunk.
const N_ROUNDS: u64 = 2;
/// The pause in which the last rest is sent. Source: QEMU's `downtime-limit`, 300 ms unless set otherwise.
const DOWNTIME_SECS: f64 = 0.3;
/// Auto-converge goes no further than 99 %; the step before may be this.
const MAX_THROTTLE_PCT: u64 = 90;
/// A rest below this share of the smallest before it has shrunk.
const SHRUNK: f64 = 0.9;
/// Without a new minimum of the rest for so long, it does not get nearer to its end.
const PROGRESS_USEC: i64 = 30_000_000;
/// Samples between which a rate is taken lie so far apart, microseconds.
const RATE_LEAST_USEC: i64 = 3_000_000;
const RATE_MOST_USEC: i64 = 10_000_000;
/// A copy that has just begun has no rate yet.
const MIN_ELAPSED_MS: u64 = 3_000;

/// The numbers at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Moment,
    /// The numbers.
    pub job: JobInfo,
    /// `domjobinfo`, `launcher`, `libvirt`: what said so.
    pub source: &'static str,
    /// Whether it was taken when the round began: then the rest is all that the round has to send.
    pub is_round_begin: bool,
}

/// The states of the last migration among `samples`, in any order. Empty where no sample shows one running.
#[must_use]
pub fn judge(subject: &Subject, samples: &[Sample]) -> Vec<Verdict> {
    let mut running: Vec<&Sample> = samples.iter().filter(|sample| sample.job.is_outgoing()).collect();
    running.sort_by_key(|sample| sample.at);
    let start = (1..running.len()).rev().find(|index| is_other(running[index - 1], running[*index])).unwrap_or(0);
    let running = &running[start..];
    let Some(last) = running.last() else { return Vec::new() };
    let facts = facts(last);
    let state = |code, is_present: bool, text: String| {
        let mut verdict = StateVerdict::seen(code, subject.clone(), is_present);
        verdict.attributes = facts.clone();
        if is_present {
            verdict.since = Some(running[0].at);
            verdict.evidence = vec![Evidence::new(last.source, last.at, text)];
        }
        Verdict::State(verdict)
    };
    let moved = moved_bytes(running);
    let is_still = is_still(running, moved);
    let mut verdicts = Vec::new();
    if let Some(is_still) = is_still {
        let secs = last.job.elapsed_ms.unwrap_or_default() / 1000;
        verdicts.push(state(
            FindingCode::MigrationNoBytes,
            is_still,
            format!("{secs} s after its start the migration copies nothing"),
        ));
    }
    let is_dirtying = is_dirtying(running);
    if let Some(is_dirtying) = is_dirtying {
        verdicts.push(state(FindingCode::MigrationDirtying, is_dirtying, in_words(last)));
    }
    let is_moving = moved.is_none_or(|bytes| bytes > 0)
        && last.job.processed_bytes.is_some_and(|bytes| bytes > 0)
        && !has_stopped(running);
    if let Some(rate) =
        copy_rate(running).filter(|_| is_moving && last.job.elapsed_ms.is_some_and(|ms| ms >= MIN_ELAPSED_MS))
    {
        let is_slow = rate < SLOW_BYTES_PER_SEC;
        verdicts.push(state(
            FindingCode::MigrationSlow,
            is_slow,
            format!("the migration copies {:.1} MiB/s", rate / 1_048_576.0),
        ));
    }
    if let Some(is_progressing) = is_progressing(running) {
        verdicts.push(state(
            FindingCode::MigrationProgressing,
            is_progressing && is_still != Some(true) && is_dirtying != Some(true),
            in_words(last),
        ));
    }
    verdicts
}

/// The same of a migration that ended at `at`, by its launcher's words: a copy that stood then is neither slow nor nearer to its end.
#[must_use]
pub fn judge_ended(subject: &Subject, samples: &[Sample], at: Moment) -> Vec<Verdict> {
    let mut verdicts = judge(subject, samples);
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by_key(|sample| sample.at);
    if !has_stopped(&sorted) {
        return verdicts;
    }
    for verdict in &mut verdicts {
        if let Verdict::State(state) = verdict
            && state.code == FindingCode::MigrationProgressing
        {
            *state = StateVerdict::seen(state.code, subject.clone(), false);
        }
    }
    let evidence: Vec<Evidence> =
        sorted.last().map(|last| Evidence::new(last.source, last.at, in_words(last))).into_iter().collect();
    verdicts.push(Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::MigrationNotCompleted,
        subject: subject.clone(),
        at,
        count: 1,
        attributes: Attributes::new().with(attribute::WHAT, STOPPED),
        evidence,
    }));
    verdicts
}

/// Whether `later` is of another migration than `earlier`.
fn is_other(earlier: &Sample, later: &Sample) -> bool {
    let is_other_uid = match (&earlier.job.migration_uid, &later.job.migration_uid) {
        (Some(earlier), Some(later)) => earlier != later,
        _ => false,
    };
    is_other_uid || later.job.elapsed_ms.zip(earlier.job.elapsed_ms).is_some_and(|(later, earlier)| later < earlier)
}

fn facts(last: &Sample) -> Attributes {
    let whole = |rate: f64| format!("{rate:.0}");
    Attributes::new()
        .with_some(attribute::MEASURED, last.job.copy_bytes_per_sec.map(whole))
        .with_some(attribute::LIMIT, last.job.dirty_bytes_per_sec.map(whole))
        .with_some(attribute::DETAIL, last.job.remaining_bytes)
        .with(attribute::READ_UNTIL_USEC, last.at.wall_usec)
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes / 1_048_576).to_string())
}

fn in_words(last: &Sample) -> String {
    let job = &last.job;
    let rate = |rate: Option<f64>| rate.map_or_else(|| "?".to_owned(), |rate| format!("{:.1}", rate / 1_048_576.0));
    format!(
        "{} s: {} of {} MiB copied, {} MiB to go, copies {} MiB/s, the guest dirties {} MiB/s, round {}",
        job.elapsed_ms.unwrap_or_default() / 1000,
        mib(job.processed_bytes),
        mib(job.total_bytes),
        mib(job.remaining_bytes),
        rate(job.copy_bytes_per_sec),
        rate(job.dirty_bytes_per_sec),
        job.iteration.map_or_else(|| "?".to_owned(), |round| round.to_string()),
    )
}

/// Bytes copied over the samples of the last 20 s or more; `None` where there is only one sample, or they are closer together.
fn moved_bytes(running: &[&Sample]) -> Option<u64> {
    let last = running.last()?;
    let long_ago =
        |sample: &&&Sample| last.at.usec_since(sample.at) >= i64::try_from(NO_BYTES_MS * 1000).unwrap_or(i64::MAX);
    let before = running.iter().rev().find(long_ago)?;
    Some(last.job.processed_bytes.unwrap_or(0).saturating_sub(before.job.processed_bytes.unwrap_or(0)))
}

fn is_still(running: &[&Sample], moved: Option<u64>) -> Option<bool> {
    let last = &running.last()?.job;
    if let Some(moved) = moved {
        return Some(moved == 0);
    }
    match (last.processed_bytes.unwrap_or(0), last.elapsed_ms?) {
        (0, elapsed_ms) => (elapsed_ms >= NO_BYTES_MS).then_some(true),
        // Copied something once; a single look does not tell whether it still does, unless a rate is there.
        (_, _) => last.copy_bytes_per_sec.filter(|rate| *rate > 0.0).map(|_| false),
    }
}

/// Whether a copy that had begun stood at its last samples. What came after them nobody knows.
fn has_stopped(samples: &[impl Borrow<Sample>]) -> bool {
    let Some(last) = samples.last().map(Borrow::borrow) else { return false };
    let Some(processed) = last.job.processed_bytes.filter(|bytes| *bytes > 0) else { return false };
    let is_same = |sample: &&Sample| sample.job.processed_bytes == Some(processed);
    let standing = samples.iter().rev().map(Borrow::borrow).take_while(is_same);
    standing.last().is_some_and(|first| last.at.usec_since(first.at) >= STOPPED_USEC)
}

fn is_dirtying(running: &[&Sample]) -> Option<bool> {
    let last = &running.last()?.job;
    // In post-copy the guest runs on the target; and a guest that is slowed down more with each round may still be overtaken.
    if last.n_postcopy_requests.is_some_and(|n| n > 0) || is_throttle_rising(running) {
        return Some(false);
    }
    if let Some((sent, left)) = rounds::sent_and_left(running) {
        return Some(rounds::is_standing(sent, left) && !is_within_reach(left, running));
    }
    let (copy, dirty) = (last.copy_bytes_per_sec?, last.dirty_bytes_per_sec?);
    let (processed, total, remaining) = (last.processed_bytes?, last.total_bytes?, last.remaining_bytes?);
    // The first round copies everything, whatever the guest does.
    let round = last.iteration?;
    if round <= 1 || copy <= 0.0 {
        return None;
    }
    // Zero pages are not sent: a second round with the rest of the memory copied or skipped counts as all copied once.
    let is_once_over = processed.saturating_add(remaining) >= total || round > N_ROUNDS;
    let earlier: Vec<&JobInfo> = running
        .iter()
        .map(|sample| &sample.job)
        .filter(|job| job.iteration.is_some_and(|r| r > 1 && r + N_ROUNDS <= round))
        .collect();
    let least = earlier.iter().filter_map(|job| job.remaining_bytes).min();
    let Some(least) = least else {
        return Some(is_once_over && round > N_ROUNDS && dirty >= DIRTY_SHARE_ONE_LOOK * copy);
    };
    let has_shrunk = as_f64(remaining) < SHRUNK * as_f64(least);
    Some(is_once_over && !has_shrunk && dirty >= DIRTY_SHARE * copy)
}

/// Whether the last round left so little that QEMU stops the guest and sends it: then it is no matter that as much was left before.
fn is_within_reach(left_bytes: u64, running: &[&Sample]) -> bool {
    copy_rate(running).is_some_and(|rate| as_f64(left_bytes) <= DOWNTIME_SECS * rate)
}

/// Whether auto-converge has slowed the guest further over the last rounds, and has room left.
fn is_throttle_rising(running: &[&Sample]) -> bool {
    let Some(last) = running.last().map(|sample| &sample.job) else { return false };
    let (Some(throttle_pct), Some(round)) = (last.throttle_pct, last.iteration) else { return false };
    let before = running.iter().rev().find(|sample| sample.job.iteration.is_some_and(|r| r + N_ROUNDS <= round));
    throttle_pct < MAX_THROTTLE_PCT && throttle_pct > before.and_then(|sample| sample.job.throttle_pct).unwrap_or(0)
}

fn as_f64(bytes: u64) -> f64 {
    // Exact up to 2^52 bytes, and a share is what counts.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let float = bytes as f64;
    float
}

/// The rate over the last seconds; where samples are missing the one that QEMU measures, which jumps (measured: 2 to 40 MiB/s while
/// the copy went on at 38).
fn copy_rate(running: &[&Sample]) -> Option<f64> {
    let last = running.last()?;
    let is_near = |sample: &&&Sample| (RATE_LEAST_USEC..=RATE_MOST_USEC).contains(&last.at.usec_since(sample.at));
    let measured = running.iter().find(is_near).and_then(|before| rate_between(before, last));
    let of_qemu = || last.job.copy_bytes_per_sec.filter(|rate| *rate > 0.0);
    measured.or_else(of_qemu).or_else(|| rate_between(running.first()?, last))
}

/// Pages that are zero are done without being sent: where they were skipped, the rest shrank by more than was sent.
fn rate_between(before: &Sample, last: &Sample) -> Option<f64> {
    let usec = last.at.usec_since(before.at);
    let sent = last.job.processed_bytes?.checked_sub(before.job.processed_bytes?)?;
    let done = match (before.job.remaining_bytes, last.job.remaining_bytes) {
        (Some(before), Some(last)) => before.saturating_sub(last),
        _ => 0,
    };
    (usec > 0).then(|| as_f64(sent.max(done)) * 1e6 / as_f64(u64::try_from(usec).unwrap_or(u64::MAX)))
}

/// Whether the rest has lately come nearer to its end: to a new minimum, or within a round that began with clearly less than the one
/// before. At the end of each round nearly nothing is left, so minutes may pass in the next before there is a new minimum. `None` with
/// fewer than two samples.
fn is_progressing(running: &[&Sample]) -> Option<bool> {
    let mut least: Option<u64> = None;
    let mut round = RoundSeen::default();
    let mut stepped: Option<Moment> = None;
    let mut n_samples = 0;
    for sample in running {
        let Some(remaining) = sample.job.remaining_bytes else { continue };
        n_samples += 1;
        let is_least = least.is_none_or(|least| is_step(remaining, least));
        if round.is_nearer(sample.job.iteration, remaining) || is_least {
            stepped = Some(sample.at);
        }
        least = if is_least { Some(remaining) } else { least };
    }
    let since = stepped.filter(|_| n_samples > 1)?;
    let is_first = running.first().is_some_and(|first| first.at == since);
    Some(!is_first && running.last()?.at.usec_since(since) < PROGRESS_USEC)
}

/// A step of 1 % and more is a step.
fn is_step(remaining: u64, least: u64) -> bool {
    as_f64(remaining) < 0.99 * as_f64(least)
}

/// The rest as it was seen in one round.
#[derive(Clone, Copy, Debug, Default)]
struct RoundSeen {
    number: Option<u64>,
    most: u64,
    least: u64,
    /// The most of the round before; `None`: not seen.
    before: Option<u64>,
}

impl RoundSeen {
    /// Takes the next sample; whether it is a step in a round that has less to send than the one before had.
    fn is_nearer(&mut self, number: Option<u64>, remaining: u64) -> bool {
        if number.is_none() || number != self.number {
            let before = self.number.is_some().then_some(self.most);
            *self = Self { number, most: remaining, least: u64::MAX, before };
        }
        self.most = self.most.max(remaining);
        let is_smaller = self.before.is_some_and(|before| as_f64(self.most) < SHRUNK * as_f64(before));
        let is_nearer = is_smaller && is_step(remaining, self.least);
        self.least = self.least.min(remaining);
        is_nearer
    }
}

#[cfg(test)]
mod tests;
