//! One node as central knows it: what its agent says, and what became of that.
//!
//! Rules held here: a record acts only if it comes from the boot and the start of the agent that is connected now (what was
//! kept from before is history); what a snapshot does not name becomes Unknown, never Absent; a silent node keeps what it
//! said, it is only *shown* as Unknown; occurrences happened and are kept until they are old, whoever says them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kulprit_model::{
    Body, Domain, FindingCode, Moment, Occurrence, Qemu, Record, Stamp, State, Status, StreamId, Subject,
};
use kulprit_proto::v1;
use prost::Message as _;

use super::{
    ClockOffset, CurrentKey, Epoch, Limits, Progress,
    states::{HeldState, Said, States},
    view::Shown,
};

/// A value and the stamp of the record that said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held<T> {
    pub(super) stamp: Stamp,
    pub(super) value: T,
}

/// A state was Present or Absent and nobody can vouch for it any more: it is Unknown. What it was stays with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Since when, by the node's clocks.
    pub since: Moment,
    /// Why, one sentence.
    pub because: String,
}

/// A change of what holds now, as the store is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key holds this encoded `v1.Record` now; it is not forgotten.
    Put(CurrentKey, Arc<[u8]>),
    /// The key holds what it held, and nobody vouches for it.
    Forget(CurrentKey, Forgotten),
    /// The key is gone.
    Remove(CurrentKey),
}

/// A record with the bytes it came as.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    /// The record.
    pub record: Record,
    /// The same as an encoded `v1.Record`.
    pub bytes: Arc<[u8]>,
}

impl Arrived {
    /// Encodes a record of our own making, as if it had come over the wire.
    #[must_use]
    pub fn new(record: Record) -> Self {
        let bytes = v1::Record::from(record.clone()).encode_to_vec().into();
        Self { record, bytes }
    }
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeState {
    pub(super) id: StreamId,
    pub(super) hello: v1::Hello,
    pub(super) epoch: Arc<Epoch>,
    pub(super) offset: ClockOffset,
    pub(super) last_heard: Option<Moment>,
    pub(super) is_silent: bool,
    pub(super) states: States,
    pub(super) occurrences: BTreeMap<(FindingCode, Subject, Moment), Occurrence>,
    pub(super) domains: BTreeMap<String, Held<Domain>>,
    pub(super) qemus: BTreeMap<String, Held<Qemu>>,
    pub(super) last_qemus: BTreeMap<String, Held<Qemu>>,
    /// How far each start of the agent has come.
    pub progress: Progress,
    /// Keys named by the snapshot that is being received.
    snapshot: Option<BTreeSet<CurrentKey>>,
    /// Set from Hello until the end of the snapshot: when (central's clock) the Hello came.
    awaiting_snapshot: Option<Moment>,
    /// Highest sequence number that the last snapshot of this epoch includes.
    snapshot_seq: u64,
    /// To be emptied with every change of what is shown.
    pub(super) shown: Shown,
}

impl NodeState {
    /// A node that nobody has heard of.
    #[must_use]
    pub fn new(id: StreamId) -> Self {
        Self {
            id,
            hello: v1::Hello::default(),
            epoch: Epoch { boot_id: String::new(), epoch: 0 }.into(),
            offset: ClockOffset::default(),
            last_heard: None,
            is_silent: true,
            states: States::default(),
            occurrences: BTreeMap::new(),
            domains: BTreeMap::new(),
            qemus: BTreeMap::new(),
            last_qemus: BTreeMap::new(),
            progress: Progress::default(),
            snapshot: None,
            awaiting_snapshot: None,
            snapshot_seq: 0,
            shown: Shown::default(),
        }
    }

    /// As the store has it: what the node said last, and whether it had fallen silent.
    #[must_use]
    pub fn restored(id: StreamId, hello: v1::Hello, applied_offset_usec: i64, is_silent: bool) -> Self {
        Self {
            epoch: Epoch { boot_id: hello.boot_id.clone(), epoch: hello.epoch }.into(),
            hello,
            offset: ClockOffset::from_applied(applied_offset_usec),
            is_silent,
            ..Self::new(id)
        }
    }

    /// Puts back one row of the store's `current` table; `n_bytes` is its size there.
    pub fn restore(&mut self, record: Record, n_bytes: usize, is_last_qemu: bool, forgotten: Option<Forgotten>) {
        self.shown = Shown::default();
        let Record { stamp, body } = record;
        match body {
            Body::State(state) => {
                let said = Said::new(stamp, &self.epoch);
                let (forgotten, n_bytes) = (forgotten.map(Box::new), to_u32(n_bytes));
                self.states.insert(HeldState { state: state.into(), said, forgotten, n_bytes });
            }
            Body::Occurrence(occurrence) => {
                let key = (occurrence.code, occurrence.subject.clone(), occurrence.first);
                self.occurrences.insert(key, occurrence);
            }
            Body::Domain(domain) => {
                self.domains.insert(domain.uid.clone(), Held { stamp, value: domain });
            }
            Body::Qemu(qemu) => {
                let qemus = if is_last_qemu { &mut self.last_qemus } else { &mut self.qemus };
                qemus.insert(qemu.uid.clone(), Held { stamp, value: qemu });
            }
            Body::SubjectGone { .. } => {}
        }
    }

    /// The start of the agent that reports now; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Its agent has called, on a new stream. After a reboot nobody vouches for what was seen before it.
    pub fn hello(&mut self, hello: v1::Hello, now: Moment) -> Vec<Change> {
        self.shown = Shown::default();
        let mut changes = Vec::new();
        let epoch = Epoch { boot_id: hello.boot_id.clone(), epoch: hello.epoch };
        let sent = hello.sent.map(Moment::from);
        if let Some(sent) = sent {
            self.offset.note(sent, now);
        }
        if epoch != *self.epoch {
            self.snapshot_seq = 0;
        }
        if epoch.boot_id != self.epoch.boot_id {
            let at = sent.unwrap_or(now);
            self.forget_all_but(
                &BTreeSet::new(),
                at,
                "the node has rebooted, and nobody has looked since",
                &mut changes,
            );
            self.drop_domains_but(&BTreeSet::new(), &mut changes);
        }
        self.epoch = epoch.into();
        self.hello = hello;
        self.progress.begin_stream();
        self.snapshot = None;
        self.awaiting_snapshot = Some(now);
        self.last_heard = Some(now);
        changes
    }

    /// Its agent has sent something. A node that was silent is believed again only once a snapshot is complete. Says
    /// whether it is heard again after a silence.
    pub fn heard(&mut self, now: Moment) -> bool {
        if self.is_silent {
            self.shown = Shown::default();
        }
        self.last_heard = Some(now);
        self.awaiting_snapshot.is_none() && std::mem::replace(&mut self.is_silent, false)
    }

    /// Takes in the clocks of a heartbeat. Says whether the times shown move.
    pub fn note_clock(&mut self, sent: Moment, now: Moment) -> bool {
        let has_moved = self.offset.note(sent, now);
        if has_moved {
            self.shown = Shown::default();
        }
        has_moved
    }

    /// A full snapshot follows.
    pub fn begin_snapshot(&mut self) {
        self.snapshot = Some(BTreeSet::new());
    }

    /// Whether a snapshot is being received.
    #[must_use]
    pub const fn is_in_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// A snapshot holds a record that has acted already: what it says still holds.
    pub fn repeat(&mut self, arrived: Arrived, changes: &mut Vec<Change>) {
        let Arrived { record, bytes } = arrived;
        let is_of_this_epoch = self.is_of_this_epoch(&record.stamp);
        let (Some(seen), Some(key), true) = (&mut self.snapshot, CurrentKey::of(&record), is_of_this_epoch) else {
            return;
        };
        self.shown = Shown::default();
        let is_kept = match &record.body {
            Body::State(state) => self.states.get_mut(state.code, &state.subject).is_some(),
            Body::Domain(domain) => self.domains.contains_key(&domain.uid),
            Body::Qemu(qemu) => self.qemus.contains_key(&qemu.uid),
            // Nothing is asked of a snapshot about these.
            Body::Occurrence(_) | Body::SubjectGone { .. } => false,
        };
        if !is_kept {
            return;
        }
        if let Body::State(state) = &record.body
            && let Some(held) = self.states.get_mut(state.code, &state.subject)
            && held.said.is(&record.stamp)
            && held.forgotten.take().is_some()
        {
            changes.push(Change::Put(key.clone(), bytes));
        }
        seen.insert(key);
    }

    /// The snapshot is complete: what it did not name becomes Unknown, and processes it did not name are gone.
    pub fn end_snapshot(&mut self, seq: u64, now: Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(seen) = self.snapshot.take() else { return changes };
        self.shown = Shown::default();
        let at = self.offset.on_node(now);
        self.forget_all_but(&seen, at, "the agent no longer says anything about it", &mut changes);
        if self.libvirt_answers(&seen) {
            self.drop_domains_but(&seen, &mut changes);
        }
        self.snapshot_seq = self.snapshot_seq.max(seq);
        self.awaiting_snapshot = None;
        changes
    }

    /// How many records up to `seq` were neither received nor covered by a snapshot, given that `n_missing` were skipped.
    #[must_use]
    pub fn n_unaccounted(&self, epoch: &Epoch, seq: u64, n_missing: u64) -> u64 {
        let covered = if *epoch == *self.epoch { self.snapshot_seq } else { 0 };
        n_missing.min(seq.saturating_sub(1).saturating_sub(covered))
    }

    /// Lets one record act, if it is not history; false if the node has as much as is kept of one, so that it cannot.
    pub fn apply(&mut self, arrived: Arrived, limits: &Limits, now: Moment, changes: &mut Vec<Change>) -> bool {
        self.shown = Shown::default();
        let Arrived { record, bytes } = arrived;
        let key = CurrentKey::of(&record);
        let Record { stamp, body } = record;
        let is_of_this_epoch = self.is_of_this_epoch(&stamp);
        let is_current = is_of_this_epoch && (self.snapshot.is_some() || stamp.seq > self.snapshot_seq);
        match body {
            Body::Occurrence(occurrence) => {
                self.apply_occurrence(occurrence, bytes, limits, now, changes);
                return true;
            }
            _ if !is_current => return true,
            Body::State(state) => {
                if !self.states.has_room(state.code, &state.subject, bytes.len(), limits) {
                    self.forget_outgrown(&state, &stamp, changes);
                    return false;
                }
                let (said, n_bytes) = (Said::new(stamp, &self.epoch), to_u32(bytes.len()));
                self.states.insert(HeldState { state: state.into(), said, forgotten: None, n_bytes });
            }
            Body::Domain(domain) => {
                if !self.domains.contains_key(&domain.uid) && self.domains.len() >= limits.n_domains {
                    return false;
                }
                self.domains.insert(domain.uid.clone(), Held { stamp, value: domain });
            }
            Body::Qemu(qemu) => {
                let uid = qemu.uid.clone();
                let has_room = self.qemus.len() < limits.n_domains && self.last_qemus.len() < 2 * limits.n_domains;
                if !self.qemus.contains_key(&uid) && !has_room {
                    return false;
                }
                let is_another = self.qemus.get(&uid).is_some_and(|held| !is_same_process(&held.value, &qemu));
                if is_another {
                    self.retire_qemu(&uid, &stamp, changes);
                }
                self.qemus.insert(uid, Held { stamp, value: qemu });
            }
            Body::SubjectGone { subject, at: _ } => {
                self.apply_gone(&subject, &stamp, changes);
                return true;
            }
        }
        if let Some(key) = key {
            if let Some(seen) = &mut self.snapshot {
                seen.insert(key.clone());
            }
            changes.push(Change::Put(key, bytes));
        }
        true
    }

    /// What it says now of a state is too much to keep, so what it said before no longer stands.
    fn forget_outgrown(&mut self, state: &State, stamp: &Stamp, changes: &mut Vec<Change>) {
        if let Some(held) = self.states.get_mut(state.code, &state.subject)
            && held.forgotten.is_none()
        {
            let because = "the node says more than is kept of one".to_owned();
            let forgotten = Forgotten { since: stamp.at, because };
            held.forgotten = Some(forgotten.clone().into());
            changes.push(Change::Forget(CurrentKey::State(state.code, state.subject.clone()), forgotten));
        }
    }

    /// Lets go of what is old: occurrences, and VMs that have been gone for a while. `now` is central's clock.
    pub fn expire(&mut self, limits: &Limits, now: Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        let node_now = self.offset.on_node(now).wall_usec;
        let oldest = node_now.saturating_sub(limits.keep_occurrences_usec);
        self.occurrences.retain(|(code, subject, first), occurrence| {
            let is_kept = occurrence.last.wall_usec >= oldest;
            if !is_kept {
                changes.push(Change::Remove(CurrentKey::Occurrence(*code, subject.clone(), *first)));
            }
            is_kept
        });
        let gone_since = node_now.saturating_sub(limits.keep_gone_vms_usec);
        let (domains, qemus) = (&self.domains, &self.qemus);
        self.last_qemus.retain(|uid, held| {
            let is_gone = !domains.contains_key(uid) && !qemus.contains_key(uid);
            let is_kept = !is_gone || held.stamp.at.wall_usec >= gone_since;
            if !is_kept {
                changes.push(Change::Remove(CurrentKey::LastQemu(uid.clone())));
            }
            is_kept
        });
        if !changes.is_empty() {
            self.shown = Shown::default();
        }
        changes
    }

    /// Falls silent if nothing was heard since `limit_usec` before `now`, or a snapshot is due for thrice as long. Says
    /// whether it fell silent just now. `started` stands in for the last word until the first one.
    pub fn check_silence(&mut self, started: Moment, limit_usec: i64, now: Moment) -> bool {
        let last = self.last_heard.unwrap_or(started);
        let is_late = |since: Moment| now.usec_since(since) > limit_usec;
        // A snapshot may stand behind a long spool.
        let is_stuck = self.awaiting_snapshot.is_some_and(|since| now.usec_since(since) > 3 * limit_usec);
        let is_silent = is_late(last) || is_stuck;
        let has_fallen = is_silent && !std::mem::replace(&mut self.is_silent, true);
        if has_fallen {
            self.shown = Shown::default();
        }
        has_fallen
    }

    fn is_of_this_epoch(&self, stamp: &Stamp) -> bool {
        stamp.boot_id == self.epoch.boot_id && stamp.epoch == self.epoch.epoch
    }

    fn apply_occurrence(
        &mut self,
        occurrence: Occurrence,
        bytes: Arc<[u8]>,
        limits: &Limits,
        now: Moment,
        changes: &mut Vec<Change>,
    ) {
        let node_now = self.offset.on_node(now).wall_usec;
        if occurrence.last.wall_usec < node_now.saturating_sub(limits.keep_occurrences_usec) {
            return;
        }
        let key = (occurrence.code, occurrence.subject.clone(), occurrence.first);
        // A replay may bring an earlier count of the same burst: counts never shrink.
        if self.occurrences.get(&key).is_some_and(|known| known.count > occurrence.count) {
            return;
        }
        changes.push(Change::Put(CurrentKey::Occurrence(key.0, key.1.clone(), key.2), bytes));
        self.occurrences.insert(key, occurrence);
        if self.occurrences.len() > limits.n_occurrences {
            let oldest =
                self.occurrences.iter().min_by_key(|(_, occurrence)| occurrence.last).map(|(key, _)| key.clone());
            if let Some((code, subject, first)) = oldest {
                self.occurrences.remove(&(code, subject.clone(), first));
                changes.push(Change::Remove(CurrentKey::Occurrence(code, subject, first)));
            }
        }
    }

    fn apply_gone(&mut self, subject: &Subject, stamp: &Stamp, changes: &mut Vec<Change>) {
        self.states.retain(|held| {
            let is_kept = held.state.subject != *subject;
            if !is_kept {
                changes.push(Change::Remove(CurrentKey::State(held.state.code, subject.clone())));
            }
            is_kept
        });
        match subject {
            Subject::Vm { uid } => {
                self.retire_qemu(uid, stamp, changes);
                if self.domains.remove(uid).is_some() {
                    changes.push(Change::Remove(CurrentKey::Domain(uid.clone())));
                }
            }
            Subject::Process { pid, start_ticks } => {
                let is_it = |held: &Held<Qemu>| held.value.pid == *pid && held.value.start_ticks == *start_ticks;
                let uid = self.qemus.iter().find(|(_, held)| is_it(held)).map(|(uid, _)| uid.clone());
                if let Some(uid) = uid {
                    self.retire_qemu(&uid, stamp, changes);
                }
            }
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Device { .. }
            | Subject::Mount { .. }
            | Subject::Problem { .. }
            | Subject::Libvirt { .. }
            | Subject::Probe { .. } => {}
        }
    }

    /// The QEMU of the VM is gone: it is the one that ran last now. `stamp` tells when that was known.
    fn retire_qemu(&mut self, uid: &str, stamp: &Stamp, changes: &mut Vec<Change>) {
        let Some(Held { value, .. }) = self.qemus.remove(uid) else { return };
        let record = Record { stamp: stamp.clone(), body: Body::Qemu(value.clone()) };
        changes.push(Change::Remove(CurrentKey::Qemu(uid.to_owned())));
        changes.push(Change::Put(CurrentKey::LastQemu(uid.to_owned()), Arrived::new(record).bytes));
        self.last_qemus.insert(uid.to_owned(), Held { stamp: stamp.clone(), value });
    }

    fn forget_all_but(&mut self, seen: &BTreeSet<CurrentKey>, at: Moment, because: &str, changes: &mut Vec<Change>) {
        for held in self.states.iter_mut() {
            let key = CurrentKey::State(held.state.code, held.state.subject.clone());
            if held.forgotten.is_none() && !seen.contains(&key) {
                let forgotten = Forgotten { since: at, because: because.to_owned() };
                held.forgotten = Some(forgotten.clone().into());
                changes.push(Change::Forget(key, forgotten));
            }
        }
        let gone: Vec<String> =
            self.qemus.keys().filter(|uid| !seen.contains(&CurrentKey::Qemu((*uid).clone()))).cloned().collect();
        let stamp = Stamp { boot_id: self.epoch.boot_id.clone(), epoch: self.epoch.epoch, seq: self.snapshot_seq, at };
        for uid in gone {
            self.retire_qemu(&uid, &stamp, changes);
        }
    }

    fn drop_domains_but(&mut self, seen: &BTreeSet<CurrentKey>, changes: &mut Vec<Change>) {
        self.domains.retain(|uid, _| {
            let key = CurrentKey::Domain(uid.clone());
            let is_kept = seen.contains(&key);
            if !is_kept {
                changes.push(Change::Remove(key));
            }
            is_kept
        });
    }

    /// Whether the snapshot says that libvirt answers, so that a domain it does not name is really gone.
    fn libvirt_answers(&self, seen: &BTreeSet<CurrentKey>) -> bool {
        let mut states = self.states.iter().filter(|HeldState { state, .. }| {
            state.code == FindingCode::LibvirtUnresponsive
                && seen.contains(&CurrentKey::State(state.code, state.subject.clone()))
        });
        states.any(|held| held.forgotten.is_none() && held.state.status == Status::Absent)
    }
}

const fn is_same_process(a: &Qemu, b: &Qemu) -> bool {
    a.pid == b.pid && a.start_ticks == b.start_ticks
}

/// A record is far below 4 GiB.
fn to_u32(n_bytes: usize) -> u32 {
    u32::try_from(n_bytes).unwrap_or(u32::MAX)
}
