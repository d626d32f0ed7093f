//! The tracker: what is said and remembered of everything the probes see.
//!
//! A pure core: looks and the time come in as data, [`Batch`]es of records come out, and the same input gives the same output.
//! Holds and edges of one state are in `hold`, bursts in `burst`, VMs in `vms`; here they meet the probes. A probe that is
//! blind, or silent for three times its interval, makes what it owns `Unknown`, never `Absent` (`silence`); what ends takes
//! what was said of it along (`lifetime`).
//! [`run`] is the thin async loop around it.
//!
//! After a restart within the same boot it goes on from what it had said ([`Memory`]), so that a restart changes no status.

mod burst;
mod hold;
mod lifetime;
pub mod run;
mod silence;
mod vms;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use kulprit_judge::{OccurrenceVerdict, StateVerdict, Verdict};
use kulprit_model::catalogue::{Kind, TEXT, TEXT_PROBES};
use kulprit_model::{Attributes, Body, Domain, FindingCode, Moment, Occurrence, Qemu, Record, State, Subject};

use crate::look::Look;
use burst::Burst;
use hold::{Change, Early, Track};
use vms::{Seen, Vms};

/// Looks that a probe may leave out before it counts as silent.
const N_MISSED_LOOKS: i64 = 3;
/// A restored word whose look is older than this (and the time limit of its probe) is `Unknown` at once, microseconds; it is
/// longer than the slowest refresh.
const STALE_USEC: i64 = 660_000_000;
/// Occurrences are remembered so long, microseconds: for the snapshot after central lost its memory, and for people.
const REMEMBER_USEC: i64 = 3_600_000_000;
/// So many are remembered at most, the newest.
const N_REMEMBERED: usize = 512;
/// If the tracker itself was held up by this much (suspend, SIGSTOP), the probes were too, microseconds.
const HELD_UP_USEC: i64 = 5_000_000;
/// A tick comes at least this often, microseconds.
const LONGEST_SLEEP_USEC: i64 = 10_000_000;

/// A probe as the tracker knows it.
#[derive(Clone, Copy, Debug)]
pub struct ProbeRow {
    /// Its name, as in the catalogue's `probe` column.
    pub name: &'static str,
    /// It looks at least this often.
    pub look_every: Duration,
}

/// What is to be spooled in one piece: all of it becomes durable, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The records, in order.
    pub bodies: Vec<Body>,
    /// Positions of probes up to which everything is in this batch or was in an earlier one.
    pub positions: Vec<(String, String)>,
}

impl Batch {
    /// Whether there is nothing to spool.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.positions.is_empty()
    }

    /// Takes in what comes after it.
    pub fn extend(&mut self, later: Self) {
        let Self { bodies, positions } = later;
        self.bodies.extend(bodies);
        self.positions.extend(positions);
    }
}

/// What an earlier run left: the newest record of each key, and the positions of the probes.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The records, of any boot.
    pub records: Vec<Record>,
    /// Probe name and position.
    pub positions: BTreeMap<String, String>,
}

/// One probe's own state.
#[derive(Clone, Debug)]
pub struct ProbeView {
    /// Its name.
    pub name: &'static str,
    /// Its last look, blind ones included.
    pub looked: Option<Moment>,
    /// The last look that saw something.
    pub last_success: Option<Moment>,
    /// How long the last look took, microseconds.
    pub took_usec: u64,
    /// Why it is blind.
    pub blind_because: Option<String>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes of a status.
    pub edges: u64,
    /// Changes that were overtaken by the next one before they were sent.
    pub edges_coalesced: u64,
    /// Verdicts that the catalogue forbids (another probe's code, another type of subject): a bug of a probe.
    pub verdicts_refused: u64,
    /// Occurrences, bursts counted out.
    pub occurrences: u64,
}

type Key = (FindingCode, Subject);
/// What belongs to one burst: for texts what they say, too, because a node's logs say many things of it.
type BurstKey = (FindingCode, Subject, Option<Attributes>);

#[derive(Debug)]
struct Probe {
    view: ProbeView,
    limit_usec: i64,
    /// Silence counts from here.
    heard: Moment,
    n_good_looks: u32,
    /// The position of its newest look.
    position: Option<String>,
    /// Whether that position is not yet in a batch.
    is_position_waiting: bool,
}

/// When the first of all states is to be said, boot time in microseconds, or earlier: so that a look at one VM asks only its own.
#[derive(Clone, Copy, Debug)]
struct Due {
    news_usec: i64,
    /// Of what is only said again.
    refresh_usec: i64,
}

impl Due {
    /// Not known: all are to be asked.
    const NOW: Self = Self { news_usec: i64::MIN, refresh_usec: i64::MIN };
    const NEVER: Self = Self { news_usec: i64::MAX, refresh_usec: i64::MAX };

    fn see(&mut self, track: &Track, early: Early) {
        self.news_usec = self.news_usec.min(track.due_usec());
        self.refresh_usec = self.refresh_usec.min(track.refresh_due_usec(early));
    }
}

/// See the module.
#[derive(Debug)]
pub struct Tracker {
    probes: Vec<Probe>,
    states: BTreeMap<Key, Track>,
    due: Due,
    early: Early,
    bursts: BTreeMap<BurstKey, Burst>,
    vms: Vms,
    counts: Counts,
    started: Moment,
    last_tick: Moment,
    is_reconciled: bool,
}

impl Tracker {
    /// Starts at `now` in boot `boot_id`, with what an earlier run left of the same boot.
    #[must_use]
    pub fn new(rows: &[ProbeRow], boot_id: &str, memory: Memory, now: Moment) -> Self {
        let probe = |row: &ProbeRow| Probe {
            view: ProbeView { name: row.name, looked: None, last_success: None, took_usec: 0, blind_because: None },
            limit_usec: i64::try_from(row.look_every.as_micros()).unwrap_or(i64::MAX).saturating_mul(N_MISSED_LOOKS),
            heard: now,
            n_good_looks: 0,
            position: memory.positions.get(row.name).cloned(),
            is_position_waiting: false,
        };
        let mut tracker = Self {
            probes: rows.iter().map(probe).collect(),
            states: BTreeMap::new(),
            due: Due::NOW,
            early: Early::of(boot_id),
            bursts: BTreeMap::new(),
            vms: Vms::default(),
            counts: Counts::default(),
            started: now,
            last_tick: now,
            is_reconciled: false,
        };
        for record in memory.records.into_iter().filter(|record| record.stamp.boot_id == boot_id) {
            tracker.restore(record, now);
        }
        tracker
    }

    fn restore(&mut self, record: Record, now: Moment) {
        match record.body {
            Body::State(state) => {
                let limit = STALE_USEC.saturating_add(self.limit_usec(state.code));
                let age_usec = now.usec_since(record.stamp.at);
                let key = (state.code, state.subject.clone());
                let mut track = Track::restored(state);
                if age_usec > limit {
                    let because = format!("the agent did not run for {} s", age_usec / 1_000_000);
                    track.lose(key.0, &key.1, because, now);
                }
                self.states.insert(key, track);
            }
            Body::Occurrence(occurrence) if now.usec_since(occurrence.last) <= REMEMBER_USEC => {
                let key = burst_key(occurrence.code, &occurrence.subject, &occurrence.attributes);
                self.bursts.insert(key, Burst::restored(occurrence));
            }
            Body::Domain(what) => {
                self.vms.domains.insert(what.uid.clone(), Seen { what, looked: None });
            }
            Body::Qemu(what) => {
                self.vms.qemus.insert((what.pid, what.start_ticks), Seen { what, looked: None });
            }
            Body::Occurrence(_) | Body::SubjectGone { .. } => {}
        }
    }

    /// One look came in.
    pub fn look(&mut self, look: Look) -> Batch {
        let Look { probe, at, took_usec, blind_because, verdicts, sightings, position } = look;
        let mut batch = Batch::default();
        let Some(index) = self.probes.iter().position(|known| known.view.name == probe) else {
            self.counts.verdicts_refused += 1;
            return batch;
        };
        let known = &mut self.probes[index];
        known.heard = at;
        known.view.looked = Some(at);
        known.view.took_usec = took_usec;
        if let Some(position) = position {
            known.position = Some(position);
            known.is_position_waiting = true;
        }
        match blind_because {
            Some(because) => self.blind(index, &because, at),
            None => {
                let known = &mut self.probes[index];
                known.n_good_looks = known.n_good_looks.saturating_add(1);
                known.view.last_success = Some(at);
                self.can_see(index, at);
            }
        }
        for sighting in sightings {
            self.see(sighting, at, &mut batch);
        }
        for verdict in verdicts {
            match verdict {
                Verdict::State(verdict) => self.state(probe, verdict, at),
                Verdict::Occurrence(verdict) => self.occurrence(probe, verdict, at, &mut batch),
            }
        }
        self.flush(at, &mut batch);
        batch
    }

    /// A probe's task ended (a panic, an error); it will start again.
    pub fn probe_ended(&mut self, name: &str, because: &str, now: Moment) -> Batch {
        let mut batch = Batch::default();
        if let Some(index) = self.probes.iter().position(|known| known.view.name == name) {
            self.probes[index].heard = now;
            self.blind(index, because, now);
            self.flush(now, &mut batch);
        }
        batch
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) -> Batch {
        let mut batch = Batch::default();
        if now.usec_since(self.last_tick) > HELD_UP_USEC.saturating_add(LONGEST_SLEEP_USEC) {
            self.woke_up(now);
        }
        self.last_tick = now;
        self.mark_silent(now);
        self.reconcile(now, &mut batch);
        self.forget(now);
        self.flush(now, &mut batch);
        batch
    }

    /// When [`Tracker::tick`] has something to do next, boot time in microseconds.
    #[must_use]
    pub fn due_usec(&self) -> i64 {
        let silent = self.probes.iter().filter(|probe| probe.view.blind_because.is_none());
        let silent = silent.map(|probe| probe.heard.boottime_usec.saturating_add(probe.limit_usec));
        let states = self.due.news_usec;
        let bursts = self.bursts.values().filter_map(Burst::due_usec);
        let latest = self.last_tick.boottime_usec.saturating_add(LONGEST_SLEEP_USEC);
        silent.chain([states]).chain(bursts).fold(latest, i64::min)
    }

    /// Everything that holds now, for a central that knows nothing: states, VMs, and the occurrences of the last hour.
    pub fn snapshot(&mut self, now: Moment) -> Batch {
        for track in self.states.values_mut() {
            track.mark_sent(now);
        }
        for burst in self.bursts.values_mut() {
            burst.is_waiting = false;
        }
        let mut batch = Batch { bodies: self.bodies(), positions: Vec::new() };
        self.take_positions(&mut batch);
        batch
    }

    /// What waits for its turn goes out at once: the agent ends.
    pub fn drain(&mut self, now: Moment) -> Batch {
        let waiting = self.states.values_mut().filter_map(|track| track.take_waiting(now)).map(Body::State);
        let mut batch = Batch { bodies: waiting.collect(), positions: Vec::new() };
        for burst in self.bursts.values_mut().filter(|burst| burst.is_waiting) {
            batch.bodies.push(Body::Occurrence(burst.take(now)));
        }
        self.take_positions(&mut batch);
        batch
    }

    /// Everything that holds now, nothing marked as sent: VMs first, then states and occurrences by key.
    #[must_use]
    pub fn bodies(&self) -> Vec<Body> {
        let domains = self.vms.domains.values().map(|seen| Body::Domain(seen.what.clone()));
        let qemus = self.vms.qemus.values().map(|seen| Body::Qemu(seen.what.clone()));
        let states = self.states().cloned().map(Body::State);
        let occurrences = self.occurrences().cloned().map(Body::Occurrence);
        domains.chain(qemus).chain(states).chain(occurrences).collect()
    }

    /// What is said of every state, by key.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.states.values().filter_map(|track| track.state.as_ref())
    }

    /// The occurrences of the last hour, by key.
    pub fn occurrences(&self) -> impl Iterator<Item = &Occurrence> {
        self.bursts.values().map(|burst| &burst.occurrence)
    }

    /// The domains, by UID.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.vms.domains.values().map(|seen| &seen.what)
    }

    /// The QEMU processes, by pid.
    pub fn qemus(&self) -> impl Iterator<Item = &Qemu> {
        self.vms.qemus.values().map(|seen| &seen.what)
    }

    /// The probes, in table order.
    pub fn probes(&self) -> impl Iterator<Item = &ProbeView> {
        self.probes.iter().map(|probe| &probe.view)
    }

    /// Where the probe is to go on: the position of its newest look, of this run or an earlier one.
    #[must_use]
    pub fn position(&self, probe: &str) -> Option<&str> {
        self.probes.iter().find(|known| known.view.name == probe)?.position.as_deref()
    }

    /// Counters since the start.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether every probe has looked, or has been called blind or silent.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.probes().all(|probe| probe.looked.is_some() || probe.blind_because.is_some())
    }

    /// The states that are seen present while their hold still runs, by key.
    pub fn held_back(&self) -> impl Iterator<Item = (FindingCode, &Subject)> {
        self.states.iter().filter(|(_, track)| track.is_held_back()).map(|((code, subject), _)| (*code, subject))
    }

    fn limit_usec(&self, code: FindingCode) -> i64 {
        let owner = code.spec().probe;
        self.probes.iter().find(|probe| probe.view.name == owner).map_or(i64::MAX, |probe| probe.limit_usec)
    }

    fn count(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Edge => self.counts.edges += 1,
            Change::Coalesced => {
                self.counts.edges += 1;
                self.counts.edges_coalesced += 1;
            }
        }
    }

    fn state(&mut self, probe: &str, verdict: StateVerdict, at: Moment) {
        if !is_allowed(probe, Kind::State, verdict.code, &verdict.subject) {
            self.counts.verdicts_refused += 1;
            return;
        }
        self.see_state(verdict, at);
    }

    fn see_state(&mut self, verdict: StateVerdict, at: Moment) {
        let key = (verdict.code, verdict.subject.clone());
        let track = self.states.entry(key).or_insert_with(Track::new);
        let change = track.see(verdict, at);
        self.due.see(track, self.early);
        self.count(change);
    }

    fn occurrence(&mut self, probe: &str, verdict: OccurrenceVerdict, now: Moment, batch: &mut Batch) {
        if !is_allowed(probe, Kind::Occurrence, verdict.code, &verdict.subject) {
            self.counts.verdicts_refused += 1;
            return;
        }
        self.counts.occurrences = self.counts.occurrences.saturating_add(verdict.count.max(1));
        let key = burst_key(verdict.code, &verdict.subject, &verdict.attributes);
        match self.bursts.get_mut(&key) {
            Some(burst) if burst.takes(verdict.at) => burst.grow(verdict),
            over => {
                // The last growth of the burst that is over must not wait any longer.
                let last_word = over.filter(|burst| burst.is_waiting).map(|burst| burst.take(now));
                batch.bodies.extend(last_word.map(Body::Occurrence));
                let first = self.free_first(&verdict);
                self.bursts.insert(key, Burst::new(OccurrenceVerdict { at: first, ..verdict }));
            }
        }
    }

    /// A burst is known to central by code, subject and first time: of two texts written in one microsecond one is later.
    fn free_first(&self, verdict: &OccurrenceVerdict) -> Moment {
        let is_taken = |at: Moment| {
            let mut same = self.bursts.values().map(|burst| &burst.occurrence);
            same.any(|known| known.first == at && known.code == verdict.code && known.subject == verdict.subject)
        };
        let mut at = verdict.at;
        while verdict.code == FindingCode::ErrorSaid && is_taken(at) {
            at = at.offset_usec(1);
        }
        at
    }

    fn forget(&mut self, now: Moment) {
        self.bursts.retain(|_, burst| burst.is_waiting || now.usec_since(burst.occurrence.last) <= REMEMBER_USEC);
        let n_surplus = self.bursts.len().saturating_sub(N_REMEMBERED);
        if n_surplus > 0 {
            let sent = self.bursts.iter().filter(|(_, burst)| !burst.is_waiting);
            let mut by_age: Vec<(Moment, BurstKey)> =
                sent.map(|(key, burst)| (burst.occurrence.last, key.clone())).collect();
            by_age.sort();
            for (_, key) in by_age.into_iter().take(n_surplus) {
                self.bursts.remove(&key);
            }
        }
    }

    /// Takes what is due into the batch; positions when nothing of their probe waits any more.
    fn flush(&mut self, now: Moment, batch: &mut Batch) {
        self.flush_states(now, batch);
        for burst in self.bursts.values_mut() {
            if burst.due_usec().is_some_and(|due_usec| due_usec <= now.boottime_usec) {
                batch.bodies.push(Body::Occurrence(burst.take(now)));
            }
        }
        self.take_positions(batch);
    }

    fn flush_states(&mut self, now: Moment, batch: &mut Batch) {
        let refreshes = (self.due.refresh_usec <= now.boottime_usec).then_some(self.early);
        if self.due.news_usec > now.boottime_usec && refreshes.is_none() {
            return;
        }
        self.due = Due::NEVER;
        for track in self.states.values_mut() {
            batch.bodies.extend(track.take_due(now, refreshes).map(Body::State));
            self.due.see(track, self.early);
        }
    }

    fn take_positions(&mut self, batch: &mut Batch) {
        for probe in &mut self.probes {
            let name = probe.view.name;
            let mut bursts = self.bursts.iter();
            let is_of = |code: FindingCode| {
                let owner = code.spec().probe;
                owner == name || owner == TEXT && TEXT_PROBES.contains(&name)
            };
            let is_waiting = bursts.any(|((code, ..), burst)| burst.is_waiting && is_of(*code));
            if probe.is_position_waiting && !is_waiting {
                probe.is_position_waiting = false;
                batch.positions.extend(probe.position.clone().map(|position| (name.to_owned(), position)));
            }
        }
    }
}

fn burst_key(code: FindingCode, subject: &Subject, attributes: &Attributes) -> BurstKey {
    (code, subject.clone(), (code == FindingCode::ErrorSaid).then(|| attributes.clone()))
}

fn is_allowed(probe: &str, kind: Kind, code: FindingCode, subject: &Subject) -> bool {
    let spec = code.spec();
    // Who may say that a state holds no more is one probe; what happened, anybody may have seen.
    let is_owned = spec.probe == probe || kind == Kind::Occurrence;
    is_owned && spec.kind == kind && spec.subject.allows(subject)
}
