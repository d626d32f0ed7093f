//! The migration in question: the one that is named, else the newest that is under way, else the newest of the day.
//!
//! `status.migrationState` of a VMI is overwritten by the next migration, and a migration's own copy is only filled at its end: which
//! of them speaks of it is told by UIDs, else by times. Source: KubeVirt `pkg/virt-controller/watch/migration/migration.go`.

use crate::{
    cluster::Cluster,
    history::{MigrationOutcome, MigrationRecord},
    initiator::Initiator,
    objects::{Migration, MigrationState, Pod},
    parts::{Asked, Parts},
};

/// A finished migration is in question for so long.
const MIGRATION_IS_NEWS_USEC: i64 = 24 * 3_600 * 1_000_000;

/// The migration in question.
#[derive(Clone, Debug, Default)]
pub(crate) struct InQuestion<'c> {
    pub(crate) name: String,
    pub(crate) is_named: bool,
    pub(crate) object: Option<&'c Migration>,
    /// What tells of it, the surest first: its own state, the VMI's.
    pub(crate) states: Vec<&'c MigrationState>,
    /// Who asked for it, where its object is gone and the history knows.
    pub(crate) initiator: Option<Initiator>,
}

/// A migration whose object is gone.
pub(crate) struct Past<'c> {
    /// What the history has of it.
    pub(crate) record: &'c MigrationRecord,
    /// The same in the form of its object.
    pub(crate) object: &'c Migration,
}

impl<'c> InQuestion<'c> {
    pub(crate) fn pick<T>(&self, field: impl Fn(&'c MigrationState) -> Option<T>) -> Option<T> {
        self.states.iter().find_map(|state| field(state))
    }

    pub(crate) fn any(&self, is: impl Fn(&'c MigrationState) -> bool) -> bool {
        self.states.iter().any(|state| is(state))
    }

    /// How it ended; `None` while it runs, or if nobody tells.
    pub(crate) fn outcome(&self) -> Option<bool> {
        let of_object = self.object.and_then(Migration::outcome);
        of_object.or_else(|| self.states.iter().find_map(|state| state.outcome()))
    }

    pub(crate) fn uid(&self) -> Option<&'c str> {
        let own = self.object.and_then(|object| object.meta.uid.as_deref());
        own.or_else(|| self.states.iter().find_map(|state| state.uid.as_deref()))
    }

    pub(crate) fn created_usec(&self) -> Option<i64> {
        self.object.and_then(Migration::created_usec)
    }

    pub(crate) fn ended_usec(&self) -> Option<i64> {
        let own = self.object.and_then(Migration::ended_usec);
        own.or_else(|| self.pick(|state| state.ended_usec)).filter(|_| self.outcome().is_some())
    }

    /// Phase as KubeVirt writes it; `Running` where only the VMI tells of a copy that is under way.
    pub(crate) fn phase(&self) -> Option<&'c str> {
        if let Some(object) = self.object {
            return object.phase.as_deref().or(match object.outcome() {
                Some(true) => Some("Succeeded"),
                Some(false) => Some("Failed"),
                None => None,
            });
        }
        match self.outcome() {
            Some(true) => Some("Succeeded"),
            Some(false) => Some("Failed"),
            None => self.any(|state| state.started_usec.is_some() && state.ended_usec.is_none()).then_some("Running"),
        }
    }

    /// Whether a pod is its target.
    pub(crate) fn is_of(&self, pod: &Pod) -> bool {
        let uid = pod.meta.label("kubevirt.io/migrationJobUID");
        let name = pod.meta.annotation("kubevirt.io/migrationJobName");
        uid.is_some() && uid == self.uid()
            || !self.name.is_empty() && name == Some(self.name.as_str())
            || self.any(|state| state.target_pod.as_deref() == Some(pod.meta.name.as_str()))
    }
}

impl Cluster {
    /// Namespace, name and VM of every migration of that name or UID, sorted.
    pub fn migrations_named(&self, name: &str) -> impl Iterator<Item = (&str, &str, &str)> {
        let is_it =
            move |named: &str, migration: &Migration| named == name || migration.meta.uid.as_deref() == Some(name);
        let found = self.migrations.iter().filter(move |((_, named), migration)| is_it(named, migration));
        found.filter_map(|(key, migration)| Some((key.0.as_str(), key.1.as_str(), migration.vmi_name.as_deref()?)))
    }

    /// The migrations of that name or UID whose objects are gone, by VM, of one name the newest of each VM; none where there is an object of
    /// that name.
    #[must_use]
    pub fn past_migrations_named(&self, name: &str) -> Vec<&MigrationRecord> {
        let is_it = |record: &&MigrationRecord| {
            let has_object = self.migrations.contains_key(&(record.namespace.clone(), record.name.clone()));
            let is_named = record.name == name && !has_object || record.uid == name;
            is_named && record.outcome() != MigrationOutcome::UnderWay
        };
        let mut found: Vec<&MigrationRecord> = Vec::new();
        for record in self.history.records().filter(is_it) {
            match found.last_mut().filter(|last| (&last.namespace, &last.vm) == (&record.namespace, &record.vm)) {
                Some(last) if record.at_usec() > last.at_usec() => *last = record,
                Some(_) => {}
                None => found.push(record),
            }
        }
        found
    }
}

impl<'c> Parts<'c> {
    /// Every migration of the VM that an object tells of, and was asked for before the moment of asking.
    pub(crate) fn migrations(&self) -> impl Iterator<Item = &'c Migration> + '_ {
        let born = self.born_usec();
        self.cluster.migrations_of(&self.key).filter(move |migration| {
            let is_its = |created: i64| created <= self.at_usec && born.is_none_or(|born| created >= born);
            migration.created_usec().is_none_or(is_its)
        })
    }

    /// When the VM was made: before that, another had its name. Of a recorded case the VM's object may be missing.
    pub(crate) fn born_usec(&self) -> Option<i64> {
        let of_vmi = || self.vmi.filter(|_| self.cluster.is_live()).and_then(|vmi| vmi.meta.created_usec);
        self.vm.map_or_else(of_vmi, |vm| vm.meta.created_usec)
    }

    /// When the migration in question was asked for, by its object or its first event.
    pub(crate) fn migration_created_usec(&self) -> Option<i64> {
        let migration = self.migration.as_ref()?;
        let told = || {
            let kind = "VirtualMachineInstanceMigration";
            let events = self.cluster.events(kind, &self.key.0, &migration.name);
            events.filter_map(|event| event.first_usec).min().filter(|_| !migration.name.is_empty())
        };
        migration.created_usec().or_else(told)
    }

    pub(crate) fn find_migration(&self, asked: &Asked, past: Option<&Past<'c>>) -> Option<InQuestion<'c>> {
        let of_vmi = self.vmi.and_then(|vmi| vmi.migration.as_ref());
        if let Some(Past { record, object }) = past {
            let is_its = |state: &&MigrationState| state.uid.is_some() && state.uid == object.meta.uid;
            return Some(InQuestion {
                name: object.meta.name.clone(),
                is_named: true,
                object: Some(object),
                states: object.state.iter().chain(of_vmi.filter(is_its)).collect(),
                initiator: record.initiator,
            });
        }
        let is_known = |uid: &str| self.migrations().any(|migration| migration.meta.uid.as_deref() == Some(uid));
        if let Some(name) = asked.migration.as_ref().filter(|name| !name.is_empty()) {
            let object = self.cluster.migrations.get(&(self.key.0.clone(), name.clone()));
            let mut states: Vec<_> = object.and_then(|object| object.state.as_ref()).into_iter().collect();
            let is_its =
                |state: &&MigrationState| match (object.and_then(|object| object.meta.uid.as_deref()), &state.uid) {
                    (Some(own), Some(uid)) => own == uid,
                    (None, Some(uid)) => !is_known(uid),
                    (_, None) => object.is_none_or(|object| is_state_of(state, object)),
                };
            states.extend(of_vmi.filter(is_its));
            return Some(InQuestion { name: name.clone(), is_named: true, object, states, initiator: None });
        }
        // One that the VMI is in comes before a newer one, which waits for it.
        let own = of_vmi.filter(|state| state.outcome().is_none()).and_then(|state| state.uid.as_deref());
        let newest = self.migrations().max_by_key(|migration| {
            let is_under_way = !migration.is_final();
            let is_own = is_under_way && own.is_some() && migration.meta.uid.as_deref() == own;
            (is_under_way, is_own, migration.created_usec())
        });
        let stray = of_vmi.filter(|state| {
            let is_unknown = state.uid.as_deref().is_none_or(|uid| !is_known(uid));
            let is_newer = newest.is_none_or(|newest| {
                newest.is_final()
                    && state.uid.is_some()
                    && state.started_usec > newest.ended_usec().max(newest.created_usec())
            });
            is_unknown && is_newer
        });
        let found = match (stray, newest) {
            (Some(state), _) => InQuestion { states: vec![state], ..InQuestion::default() },
            (None, Some(object)) => {
                let mut states: Vec<_> = object.state.as_ref().into_iter().collect();
                states.extend(of_vmi.filter(|state| match (&object.meta.uid, &state.uid) {
                    (Some(own), Some(uid)) => own == uid,
                    (None, _) | (_, None) => is_state_of(state, object),
                }));
                let name = object.meta.name.clone();
                InQuestion { name, is_named: false, object: Some(object), states, initiator: None }
            }
            (None, None) => return None,
        };
        let ended = found.ended_usec();
        let is_news = ended.is_none_or(|ended| self.at_usec.saturating_sub(ended) <= MIGRATION_IS_NEWS_USEC);
        let is_told =
            found.object.is_some() || found.phase().is_some() || found.any(|state| state.target_node.is_some());
        (is_news && is_told).then_some(found)
    }
}

/// Whether a state without a UID can be a migration's: it began after the migration was asked for.
fn is_state_of(state: &MigrationState, migration: &Migration) -> bool {
    match (state.started_usec, migration.created_usec()) {
        (Some(started), Some(created)) => started >= created,
        (None, _) | (_, None) => true,
    }
}
