//! The migrations of a node, from their begin to their end: which domains leave, which arrive, and how the copy of each goes.
//!
//! That a migration runs comes from libvirt's own file about the domain, which costs nobody anything; the figures come from the
//! job's statistics, where QEMU could be asked. libvirt 11.3 has no event for a migration that failed or was cancelled (measured):
//! the job is gone from the file, and the domain is not. How the copy went until then stays with that.
//! Every known domain is answered for: at each look while it migrates, else once a minute.

use std::collections::BTreeMap;

use kulprit_host::command::job::JobInfo;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Status, Subject, attribute};

use super::limit::{Around, arrival_limited_by, limited_by};
use super::{NO_BYTES_MS, STOPPED, Sample, copy_rate, has_stopped, judge};
use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

const SOURCE: &str = "libvirt";
/// All domains are answered for so often, microseconds.
const ALL_EVERY_USEC: i64 = 60_000_000;
/// Samples kept of one migration; the oldest half goes then. At one a second the last 5 to 10 min.
const MAX_SAMPLES: usize = 600;
/// Looks around a copy that are kept.
const MAX_AROUND: usize = 8;

/// The states of a copy, in the order of the catalogue.
const OF_COPY: [FindingCode; 4] = [
    FindingCode::MigrationDirtying,
    FindingCode::MigrationNoBytes,
    FindingCode::MigrationSlow,
    FindingCode::MigrationProgressing,
];

/// Which way a domain goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It leaves this node.
    Out,
    /// It arrives here.
    In,
}

/// A migration job as libvirt's file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationSeen {
    /// Which way.
    pub direction: Direction,
    /// libvirt's word: `begin3`, `perform3`, `prepare`, `postcopy_failed` …
    pub phase: String,
    /// When the job began; `None` where the file does not tell.
    pub began: Option<Moment>,
    /// The bandwidth limit that was set for it, bytes per second.
    pub cap_bytes_per_sec: Option<u64>,
}

/// One running domain of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    /// UID of the VM.
    pub uid: String,
    /// Its migration; `None`: it does not migrate.
    pub migration: Option<MigrationSeen>,
}

#[derive(Clone, Debug)]
struct Running {
    began: Moment,
    /// The begin as the file has it, Unix time in microseconds: what tells two migrations apart.
    told_begin_usec: Option<i64>,
    direction: Direction,
    phase: String,
    cap_bytes_per_sec: Option<u64>,
    samples: Vec<Sample>,
    around: Vec<Around>,
    /// Since when libvirt waits for an answer of QEMU, and nothing else was heard of the copy.
    unanswered: Option<Moment>,
    /// Where its QEMU's connection gets no answer.
    silent_peer: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    running: Option<Running>,
    is_told: bool,
}

/// What is known of all migrations of this node.
#[derive(Clone, Debug, Default)]
pub struct MigrationBook {
    by_uid: BTreeMap<String, Known>,
    all_told: Option<Moment>,
}

impl MigrationBook {
    /// A look at every running domain of the node. Unless `is_complete`, one that is not among them may still be there.
    pub fn look(&mut self, at: Moment, seen: &[JobSeen], is_complete: bool) -> Vec<Verdict> {
        let is_for_all = self.all_told.is_none_or(|told| at.usec_since(told) >= ALL_EVERY_USEC);
        if is_for_all {
            self.all_told = Some(at);
        }
        self.by_uid.retain(|uid, _| !is_complete || seen.iter().any(|domain| domain.uid == *uid));
        let mut verdicts = Vec::new();
        for JobSeen { uid, migration } in seen {
            let known = self.by_uid.entry(uid.clone()).or_default();
            let subject = Subject::vm(uid.as_str());
            let before = known.running.take();
            let is_over = before.as_ref().is_some_and(|before| !before.goes_on_as(migration.as_ref()));
            if let Some(over) = before.as_ref().filter(|before| is_over && before.direction == Direction::Out) {
                verdicts.push(Verdict::Occurrence(over.not_completed(at, &subject)));
            }
            known.running = migration.clone().map(|seen| match before.filter(|_| !is_over) {
                Some(before) => Running { phase: seen.phase, cap_bytes_per_sec: seen.cap_bytes_per_sec, ..before },
                None => Running::new(at, seen),
            });
            if is_for_all || is_over || known.running.is_some() || !known.is_told {
                verdicts.extend(known.states(at, &subject));
                known.is_told = true;
            }
        }
        verdicts
    }

    /// Figures of a job, asked for at the begin of a round or between. Nothing comes of those of a domain that is not known to leave.
    pub fn sample(&mut self, at: Moment, uid: &str, job: JobInfo, is_round_begin: bool) -> Vec<Verdict> {
        let Some(known) = self.by_uid.get_mut(uid) else { return Vec::new() };
        let Some(running) = known.running.as_mut().filter(|running| running.direction == Direction::Out) else {
            return Vec::new();
        };
        if !job.is_outgoing() {
            return Vec::new();
        }
        running.unanswered = None;
        if job.processed_bytes.is_some() {
            running.silent_peer = None;
        }
        if running.samples.len() >= MAX_SAMPLES {
            running.samples.drain(..MAX_SAMPLES / 2);
        }
        // The judge orders by wall time, which may jump.
        let at = running.began.offset_usec(at.usec_since(running.began));
        running.samples.push(Sample { at, job, source: SOURCE, is_round_begin });
        known.states(at, &Subject::vm(uid))
    }

    /// Whether libvirt waits for QEMU's answer to a command, as control info has it. While it does, nobody can be asked for figures.
    pub fn set_unanswered(&mut self, at: Moment, uid: &str, is_unanswered: bool) {
        let Some(running) = self.running_mut(uid) else { return };
        running.unanswered = is_unanswered.then(|| running.unanswered.unwrap_or(at));
    }

    /// What stood around the copy, at the end that is here.
    pub fn set_around(&mut self, uid: &str, around: Around, silent_peer: Option<String>) {
        let Some(running) = self.running_mut(uid) else { return };
        if running.around.len() >= MAX_AROUND {
            running.around.remove(0);
        }
        running.around.push(around);
        running.silent_peer = silent_peer;
    }

    /// The VMs that leave this node, sorted.
    pub fn leaving(&self) -> impl Iterator<Item = &str> {
        self.going(Direction::Out)
    }

    /// The VMs that arrive here, sorted.
    pub fn arriving(&self) -> impl Iterator<Item = &str> {
        self.going(Direction::In)
    }

    fn going(&self, direction: Direction) -> impl Iterator<Item = &str> {
        let is_going =
            move |known: &Known| known.running.as_ref().is_some_and(|running| running.direction == direction);
        self.by_uid.iter().filter(move |(_, known)| is_going(known)).map(|(uid, _)| uid.as_str())
    }

    /// Whether any migration runs here.
    #[must_use]
    pub fn is_any_running(&self) -> bool {
        self.by_uid.values().any(|known| known.running.is_some())
    }

    fn running_mut(&mut self, uid: &str) -> Option<&mut Running> {
        self.by_uid.get_mut(uid)?.running.as_mut()
    }
}

impl Known {
    fn states(&self, at: Moment, subject: &Subject) -> Vec<Verdict> {
        let of_copy = self.running.as_ref().filter(|running| running.direction == Direction::Out);
        let copy = of_copy.map_or_else(Vec::new, |running| running.copy(at, subject));
        let limited_by = self.running.as_ref().and_then(|running| running.limited_by(&copy));
        let way = |code, direction: Direction, words: &str| {
            let Some(running) = self.running.as_ref().filter(|running| running.direction == direction) else {
                return Verdict::State(StateVerdict::seen(code, subject.clone(), false));
            };
            let text = format!("libvirt: {words}, phase {}", running.phase);
            Verdict::State(StateVerdict {
                since: Some(running.began),
                attributes: running.facts().with_some(attribute::LIMITED_BY, limited_by),
                evidence: vec![Evidence::new(SOURCE, at, text)],
                ..StateVerdict::seen(code, subject.clone(), true)
            })
        };
        let mut verdicts = vec![
            way(FindingCode::MigrationOutgoing, Direction::Out, "the domain migrates to another host"),
            way(FindingCode::MigrationIncoming, Direction::In, "the domain arrives from another host"),
        ];
        for code in OF_COPY {
            let of_code = copy.iter().find(|state| state.code == code).cloned();
            let verdict = match (of_code, of_copy) {
                (Some(state), _) => {
                    StateVerdict { attributes: state.attributes.with_some(attribute::LIMITED_BY, limited_by), ..state }
                }
                (None, None) => StateVerdict::seen(code, subject.clone(), false),
                (None, Some(_)) => {
                    StateVerdict::unknown(code, subject.clone(), "the copy has not shown enough of itself yet")
                }
            };
            verdicts.push(Verdict::State(verdict));
        }
        verdicts
    }
}

impl Running {
    fn new(at: Moment, seen: MigrationSeen) -> Self {
        // A job cannot have begun after it was seen; a wall clock that was set back says so.
        let began = seen.began.filter(|began| began.boottime_usec <= at.boottime_usec).unwrap_or(at);
        Self {
            began,
            told_begin_usec: seen.began.map(|began| began.wall_usec),
            direction: seen.direction,
            phase: seen.phase,
            cap_bytes_per_sec: seen.cap_bytes_per_sec,
            samples: Vec::new(),
            around: Vec::new(),
            unanswered: None,
            silent_peer: None,
        }
    }

    /// Whether what is seen now is this migration, not its end or another one.
    fn goes_on_as(&self, seen: Option<&MigrationSeen>) -> bool {
        seen.is_some_and(|seen| {
            seen.direction == self.direction && seen.began.map(|began| began.wall_usec) == self.told_begin_usec
        })
    }

    fn facts(&self) -> Attributes {
        let job = self.samples.last().map(|sample| &sample.job);
        // Until the first round is over it is the limit (recorded: 300); QEMU `migration/migration.c`, `expected_downtime`.
        let estimated = job.filter(|job| job.iteration.is_some_and(|round| round > 1));
        Attributes::new()
            .with(attribute::PHASE, &self.phase)
            .with_some(attribute::ROUND, job.and_then(|job| job.iteration))
            .with_some(attribute::THROTTLE_PCT, job.and_then(|job| job.throttle_pct).filter(|pct| *pct > 0))
            .with_some(attribute::EXPECTED_DOWNTIME_MS, estimated.and_then(|job| job.expected_downtime_ms))
            .with_some(attribute::SERVER, self.silent_peer.as_deref())
    }

    /// How the copy goes, as far as that can be told.
    fn copy(&self, at: Moment, subject: &Subject) -> Vec<StateVerdict> {
        let states = judge(subject, &self.samples).into_iter().filter_map(|verdict| match verdict {
            Verdict::State(state) => Some(state),
            Verdict::Occurrence(_) => None,
        });
        let mut states: Vec<StateVerdict> = states.collect();
        let has_copied = self.samples.iter().any(|sample| sample.job.processed_bytes.is_some_and(|bytes| bytes > 0));
        let waited_usec = self.unanswered.map_or(0, |since| at.usec_since(since));
        let is_too_long = waited_usec >= i64::try_from(NO_BYTES_MS).unwrap_or(i64::MAX).saturating_mul(1_000);
        if is_too_long && !has_copied {
            let secs = waited_usec / 1_000_000;
            let text = format!("libvirt has waited {secs} s for QEMU to begin the copy; nothing was copied");
            states.retain(|state| state.code != FindingCode::MigrationNoBytes);
            states.push(StateVerdict {
                since: Some(self.began),
                attributes: self.facts(),
                evidence: vec![Evidence::new(SOURCE, at, text)],
                ..StateVerdict::seen(FindingCode::MigrationNoBytes, subject.clone(), true)
            });
        }
        if let Some(peer) = &self.silent_peer {
            for state in states
                .iter_mut()
                .filter(|state| state.code == FindingCode::MigrationNoBytes && state.status == Status::Present)
            {
                let text = format!("its QEMU's connection to {peer} gets no answer (SYN-SENT)");
                state.attributes = std::mem::take(&mut state.attributes).with(attribute::SERVER, peer);
                state.evidence.push(Evidence::new("procfs", at, text));
            }
        }
        states
    }

    fn limited_by(&self, copy: &[StateVerdict]) -> Option<&'static str> {
        if self.direction == Direction::In {
            return arrival_limited_by(&self.around);
        }
        let is_dirtying =
            copy.iter().any(|state| state.code == FindingCode::MigrationDirtying && state.status == Status::Present);
        let samples: Vec<&Sample> = self.samples.iter().collect();
        let is_copying_disks = samples.last().is_some_and(|sample| sample.job.is_copying_disks());
        limited_by(copy_rate(&samples), self.cap_bytes_per_sec, is_dirtying, is_copying_disks, &self.around)
    }

    /// The migration ended, and the domain runs on here.
    fn not_completed(&self, at: Moment, subject: &Subject) -> OccurrenceVerdict {
        let copy = self.copy(at, subject);
        let is = |code| copy.iter().any(|state| state.code == code && state.status == Status::Present);
        let (what, words) = if is(FindingCode::MigrationNoBytes) {
            ("no-bytes", "nothing was copied")
        } else if has_stopped(&self.samples) {
            (STOPPED, "the copy had begun and stood still")
        } else if is(FindingCode::MigrationDirtying) {
            ("dirtying", "the guest dirtied its memory as fast as it was copied")
        } else if is(FindingCode::MigrationSlow) {
            ("slow", "the copy was slow")
        } else if is(FindingCode::MigrationProgressing) {
            ("progressing", "the copy was getting nearer to its end")
        } else {
            ("unknown", "how the copy went is not known")
        };
        let secs = at.usec_since(self.began) / 1_000_000;
        let text =
            format!("a migration ended after {secs} s in phase {} and the domain runs on here; {words}", self.phase);
        let of_copy = copy.into_iter().filter(|state| state.status == Status::Present).flat_map(|state| state.evidence);
        OccurrenceVerdict {
            code: FindingCode::MigrationNotCompleted,
            subject: subject.clone(),
            at,
            count: 1,
            attributes: self
                .facts()
                .with(attribute::WHAT, what)
                .with(attribute::RAN_SECS, secs)
                .with_some(attribute::LIMITED_BY, self.limited_by(&self.copy(at, subject))),
            evidence: std::iter::once(Evidence::new(SOURCE, at, text)).chain(of_copy).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
