//! Every migration of the last day, one record each by the UID of its object.
//!
//! KubeVirt keeps the objects of a VM's newest five finished migrations, a user's cancel removes the object at once, and what a VMI says of
//! its migration is overwritten by the next: how often a VM was migrated can only be told by whoever kept it. What is told of one migration is
//! merged so that neither order nor repetition matters: a list after a restart counts nothing twice. Times are the objects' own; a
//! moment of the watcher's clock stands only where an object vanished. Source: KubeVirt
//! `pkg/virt-controller/watch/migration/migration.go` (`garbageCollectFinalizedMigrations`).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::Key,
    initiator::Initiator,
    objects::{Meta, Migration, MigrationState, Vmi},
};

/// For so long a migration is kept after its end.
pub(crate) const DAY_USEC: i64 = 24 * 3_600 * 1_000_000;
/// In the place of a UID that is not told, before the object's name.
const NAMELESS: &str = "name/";
/// In the place of a phase of KubeVirt's: the object is gone, and nobody saw how the migration ended.
pub const GONE: &str = "Gone";
/// While nobody watches for longer, migrations may have come and gone of which no list tells: KubeVirt keeps the newest five of a VM, and six of one
/// VM do not end within this but in a loop.
const UNWATCHED_USEC: i64 = 300_000_000;
/// So many records of one VM, and of all, are kept, the newest.
const MAX_OF_VM: usize = 500;
const MAX: usize = 50_000;

/// What is known of one migration. Times are Unix microseconds; `None`: not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationRecord {
    /// Namespace.
    pub namespace: String,
    /// Name of its VM.
    pub vm: String,
    /// UID of the VirtualMachineInstanceMigration; of an object that tells none `name/` and its name.
    pub uid: String,
    /// Name of the object; empty if only the VMI tells of it.
    pub name: String,
    /// UID of the VMI that was migrated.
    pub vmi_uid: Option<String>,
    /// The node that it left, or was to leave.
    pub source: Option<String>,
    /// The node that it went to, or was to.
    pub target: Option<String>,
    /// When it was asked for.
    pub created_usec: Option<i64>,
    /// When copying started.
    pub started_usec: Option<i64>,
    /// When it ended.
    pub ended_usec: Option<i64>,
    /// When its object was asked to be deleted.
    pub deleted_usec: Option<i64>,
    /// When its object was found to be gone, on the clock of whoever watched.
    pub gone_usec: Option<i64>,
    /// Whether it succeeded, if its object or the VMI told how it ended.
    pub has_succeeded: Option<bool>,
    /// Whether its abort was asked for.
    pub is_abort_requested: bool,
    /// `failureReason`.
    pub reason: Option<String>,
    /// Who asked for it.
    pub initiator: Option<Initiator>,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MigrationOutcome {
    /// It has not, as far as is known.
    UnderWay,
    /// The VM arrived.
    Succeeded,
    /// It failed by itself.
    Failed,
    /// Somebody cancelled it.
    Aborted,
    /// Its object vanished before anybody saw how it ended.
    Unknown,
}

impl MigrationOutcome {
    /// The word in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnderWay => "under-way",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        }
    }
}

impl MigrationRecord {
    /// How it ended. Whoever tells wins over what is concluded from the object's absence.
    #[must_use]
    pub fn outcome(&self) -> MigrationOutcome {
        let was_deleted_before =
            |ended: Option<i64>| self.deleted_usec.is_some_and(|deleted| ended.is_none_or(|ended| deleted <= ended));
        match self.has_succeeded {
            Some(true) => MigrationOutcome::Succeeded,
            Some(false) if self.is_abort_requested || was_deleted_before(self.ended_usec) => MigrationOutcome::Aborted,
            Some(false) => MigrationOutcome::Failed,
            None if self.gone_usec.is_none() => MigrationOutcome::UnderWay,
            None if self.is_abort_requested || was_deleted_before(None) => MigrationOutcome::Aborted,
            None => MigrationOutcome::Unknown,
        }
    }

    /// When it ended; of one that vanished, when that was found. `None` while it is under way, or if nobody told.
    #[must_use]
    pub fn over_usec(&self) -> Option<i64> {
        match self.outcome() {
            MigrationOutcome::UnderWay => None,
            _ => self.ended_usec.or(self.gone_usec),
        }
    }

    /// The last moment that is told of it.
    pub(crate) fn at_usec(&self) -> Option<i64> {
        self.over_usec().or(self.started_usec).or(self.created_usec)
    }

    /// Whether its object told no UID.
    pub(crate) fn is_nameless(&self) -> bool {
        self.uid.starts_with(NAMELESS)
    }

    fn key(&self) -> RecordKey {
        (self.namespace.clone(), self.vm.clone(), self.uid.clone())
    }

    /// The object as it may have been last, as far as it is known: what a question about the migration is answered from once its own is gone.
    pub(crate) fn object(&self) -> Migration {
        let phase = match self.outcome() {
            MigrationOutcome::Succeeded => "Succeeded",
            MigrationOutcome::Failed | MigrationOutcome::Aborted => "Failed",
            MigrationOutcome::UnderWay | MigrationOutcome::Unknown => GONE,
        };
        let state = MigrationState {
            uid: Some(self.uid.clone()).filter(|_| !self.is_nameless()),
            source_node: self.source.clone(),
            target_node: self.target.clone(),
            started_usec: self.started_usec,
            ended_usec: self.over_usec(),
            is_completed: self.has_succeeded.is_some(),
            is_failed: phase == "Failed",
            is_abort_requested: self.is_abort_requested,
            failure_reason: self.reason.clone(),
            ..MigrationState::default()
        };
        Migration {
            meta: Meta {
                namespace: self.namespace.clone(),
                name: if self.name.is_empty() { self.uid.clone() } else { self.name.clone() },
                uid: state.uid.clone(),
                created_usec: self.created_usec,
                deleted_usec: self.deleted_usec,
                ..Meta::default()
            },
            vmi_name: Some(self.vm.clone()),
            phase: Some(phase.to_owned()),
            phase_times: self.over_usec().map(|over| (phase.to_owned(), over)).into_iter().collect(),
            state: Some(state),
            ..Migration::default()
        }
    }

    /// What a migration's own object tells.
    fn of_object(migration: &Migration, vm: Key) -> Self {
        let meta = &migration.meta;
        let has_succeeded = migration.outcome();
        let of_state = migration.state.as_ref().map(|state| Self::of_state(state, vm.clone())).unwrap_or_default();
        // The mark of an evacuation names the node that is to be left.
        let left = meta.annotation("kubevirt.io/evacuationMigration").filter(|node| !node.is_empty());
        let is_abort_requested = of_state.is_abort_requested || migration.conditions.is_true("migrationAbortRequested");
        Self {
            uid: meta.uid.clone().unwrap_or_else(|| format!("{NAMELESS}{}", meta.name)),
            name: meta.name.clone(),
            source: of_state.source.clone().or_else(|| left.map(ToOwned::to_owned)),
            created_usec: migration.created_usec(),
            ended_usec: migration.ended_usec().filter(|_| has_succeeded.is_some()),
            deleted_usec: meta.deleted_usec,
            has_succeeded,
            is_abort_requested,
            initiator: Some(Initiator::of(migration)),
            namespace: vm.0,
            vm: vm.1,
            ..of_state
        }
    }

    /// What a state tells, of a VMI or of the migration's own.
    fn of_state(state: &MigrationState, (namespace, vm): Key) -> Self {
        let has_succeeded = state.outcome();
        Self {
            namespace,
            vm,
            uid: state.uid.clone().unwrap_or_default(),
            source: state.source_node.clone(),
            target: state.target_node.clone(),
            started_usec: state.started_usec,
            ended_usec: state.ended_usec.filter(|_| has_succeeded.is_some()),
            has_succeeded,
            is_abort_requested: state.is_abort_requested,
            reason: state.failure_reason.clone(),
            ..Self::default()
        }
    }

    /// Adds what else was told of the same migration. Of two times the first counts, of two ends the bad one; a name, a node, a reason
    /// does not change in a migration's life.
    fn merge(&mut self, told: Self) {
        let Self {
            namespace: _,
            vm: _,
            uid: _,
            name,
            vmi_uid,
            source,
            target,
            created_usec,
            started_usec,
            ended_usec,
            deleted_usec,
            gone_usec,
            has_succeeded,
            is_abort_requested,
            reason,
            initiator,
        } = told;
        if self.name.is_empty() {
            self.name = name;
        }
        for (own, told) in [
            (&mut self.vmi_uid, vmi_uid),
            (&mut self.source, source),
            (&mut self.target, target),
            (&mut self.reason, reason),
        ] {
            *own = own.take().or(told);
        }
        for (own, told) in [
            (&mut self.created_usec, created_usec),
            (&mut self.started_usec, started_usec),
            (&mut self.ended_usec, ended_usec),
            (&mut self.deleted_usec, deleted_usec),
            (&mut self.gone_usec, gone_usec),
        ] {
            *own = own.iter().copied().chain(told).min();
        }
        self.has_succeeded = self.has_succeeded.into_iter().chain(has_succeeded).min();
        self.is_abort_requested |= is_abort_requested;
        self.initiator = self.initiator.max(initiator);
    }
}

/// Namespace, VM, UID of the migration.
pub type RecordKey = (String, String, String);

/// A time over which every migration was seen, Unix microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// From when on.
    pub since_usec: i64,
    /// Until when, as far as is known.
    pub until_usec: i64,
}

/// The records, and which of them are not stored yet as they are.
#[derive(Clone, Debug, Default)]
pub struct MigrationHistory {
    records: BTreeMap<RecordKey, MigrationRecord>,
    changed: BTreeSet<RecordKey>,
    dropped: BTreeSet<RecordKey>,
    stored: BTreeSet<RecordKey>,
    watched: Option<Watched>,
}

/// What is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationChanges {
    /// Records as they are now.
    pub put: Vec<MigrationRecord>,
    /// Records that are kept no longer.
    pub drop: Vec<RecordKey>,
}

impl MigrationChanges {
    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.put.is_empty() && self.drop.is_empty()
    }
}

impl MigrationHistory {
    /// Puts back what was stored.
    pub fn restore(&mut self, records: Vec<MigrationRecord>, watched: Option<Watched>) {
        self.records.extend(records.into_iter().map(|record| (record.key(), record)));
        self.stored.extend(self.records.keys().cloned());
        self.watched = watched;
    }

    /// Over which time, up to the last moment that is known of, every migration was seen. `None`: nobody watches.
    #[must_use]
    pub const fn watched(&self) -> Option<Watched> {
        self.watched
    }

    /// All migrations were listed at `at_usec`. What came and went since the last moment of watching is not known: after a long absence every
    /// migration is seen from now on only.
    pub fn watch_since(&mut self, at_usec: i64) {
        let goes_on = |watched: &Watched| at_usec.saturating_sub(watched.until_usec) <= UNWATCHED_USEC;
        let since_usec = self.watched.filter(goes_on).map_or(at_usec, |watched| watched.since_usec);
        self.watched = Some(Watched { since_usec, until_usec: at_usec });
    }

    /// Nothing was missed between the last list and `at_usec`.
    pub fn watch_until(&mut self, at_usec: i64) {
        if let Some(watched) = &mut self.watched {
            watched.until_usec = watched.until_usec.max(at_usec);
        }
    }

    /// All records, by VM.
    pub fn records(&self) -> impl Iterator<Item = &MigrationRecord> {
        self.records.values()
    }

    /// What is to be stored, at most so many records.
    #[must_use]
    pub fn unsaved(&self, max: usize) -> MigrationChanges {
        let put = self.changed.iter().take(max).filter_map(|key| self.records.get(key)).cloned();
        MigrationChanges { put: put.collect(), drop: self.dropped.iter().take(max).cloned().collect() }
    }

    /// That is stored, or will be.
    pub fn set_saved(&mut self, changes: &MigrationChanges) {
        for key in changes.put.iter().map(MigrationRecord::key) {
            self.changed.remove(&key);
            self.stored.insert(key);
        }
        for key in &changes.drop {
            self.dropped.remove(key);
            self.stored.remove(key);
        }
    }

    /// Lets go of what ended more than a day before `at_usec`, and of the oldest where there are too many. A time that is more than a day
    /// ahead is nonsense.
    pub fn expire(&mut self, at_usec: i64) {
        let mut by_age: Vec<(i64, RecordKey)> = Vec::new();
        let mut old: Vec<RecordKey> = Vec::new();
        for (key, record) in &self.records {
            match record.at_usec() {
                Some(usec) if at_usec.abs_diff(usec) <= DAY_USEC.unsigned_abs() => by_age.push((usec, key.clone())),
                Some(_) | None => old.push(key.clone()),
            }
        }
        by_age.sort_unstable_by(|a, b| b.cmp(a));
        let mut n_of_vm: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (n, (_, key)) in by_age.iter().enumerate() {
            let n_of_vm = n_of_vm.entry((&key.0, &key.1)).or_default();
            *n_of_vm += 1;
            if n >= MAX || *n_of_vm > MAX_OF_VM {
                old.push(key.clone());
            }
        }
        for key in old {
            self.records.remove(&key);
            self.changed.remove(&key);
            if self.stored.contains(&key) {
                self.dropped.insert(key);
            }
        }
    }

    /// The records of a VM's name, by UID.
    pub(crate) fn of(&self, vm: &Key) -> impl Iterator<Item = &MigrationRecord> + use<'_> {
        let vm = vm.clone();
        let first = (vm.0.clone(), vm.1.clone(), String::new());
        let next = self.records.range(first..);
        next.take_while(move |(key, _)| (&key.0, &key.1) == (&vm.0, &vm.1)).map(|(_, record)| record)
    }

    /// A migration's object is as it is. `vmi` is its VM's, if it is known.
    pub(crate) fn see(&mut self, migration: &Migration, vmi: Option<&Vmi>) {
        let Some(vm) = migration.vm_key() else { return };
        self.add(MigrationRecord::of_object(migration, vm.clone()));
        if let Some(vmi) = vmi {
            self.join(&vm, vmi);
        }
    }

    /// A VMI is as it is: what it tells of a migration, by whose UID, and which migrations of its name are its own.
    pub(crate) fn see_vmi(&mut self, vmi: &Vmi) {
        let vm = (vmi.meta.namespace.clone(), vmi.meta.name.clone());
        if let Some(state) = vmi.migration.as_ref().filter(|state| state.uid.is_some()) {
            let told = MigrationRecord::of_state(state, vm.clone());
            self.add(MigrationRecord { vmi_uid: vmi.meta.uid.clone(), ..told });
        }
        self.join(&vm, vmi);
    }

    /// A VMI that was there before a migration of its name was asked for is the one that migrates, and tells who wants it while it is
    /// under way.
    fn join(&mut self, vm: &Key, vmi: &Vmi) {
        let is_its = |record: &&MigrationRecord| {
            vmi.meta.created_usec.zip(record.created_usec).is_some_and(|(vmi, asked)| vmi <= asked)
        };
        for record in self.of(vm).filter(is_its).cloned().collect::<Vec<_>>() {
            let is_under_way = record.outcome() == MigrationOutcome::UnderWay;
            let wanted_by = record.initiator.filter(|_| is_under_way).map(|initiator| initiator.told_by(Some(vmi)));
            self.add(MigrationRecord { vmi_uid: vmi.meta.uid.clone(), initiator: wanted_by, ..record });
        }
    }

    /// A migration's object is gone.
    pub(crate) fn see_gone(&mut self, migration: &Migration, at_usec: i64) {
        let Some(vm) = migration.vm_key() else { return };
        self.add(MigrationRecord { gone_usec: Some(at_usec), ..MigrationRecord::of_object(migration, vm) });
    }

    /// Records under way of which `is_there` does not hold are over: their objects vanished while nobody looked. Whose they are. Those of
    /// which only a VMI told are left: their object may only be late.
    pub(crate) fn end_vanished(&mut self, is_there: impl Fn(&MigrationRecord) -> bool, at_usec: i64) -> BTreeSet<Key> {
        let is_vanished = |record: &&MigrationRecord| {
            record.outcome() == MigrationOutcome::UnderWay && !record.name.is_empty() && !is_there(record)
        };
        let vanished: Vec<MigrationRecord> = self.records.values().filter(is_vanished).cloned().collect();
        let vms = vanished.iter().map(|record| (record.namespace.clone(), record.vm.clone())).collect();
        for record in vanished {
            self.add(MigrationRecord { gone_usec: Some(at_usec), ..record });
        }
        vms
    }

    fn add(&mut self, told: MigrationRecord) {
        let key = told.key();
        let known = self.records.get(&key);
        let mut record = known.cloned().unwrap_or_else(|| {
            let (namespace, vm, uid) = key.clone();
            MigrationRecord { namespace, vm, uid, ..MigrationRecord::default() }
        });
        record.merge(told);
        if known != Some(&record) {
            self.dropped.remove(&key);
            self.changed.insert(key.clone());
            self.records.insert(key, record);
        }
    }
}
