//! The rules for migrations: stuck, failed, too many, or wanted and not happening.
//!
//! `printableStatus` says `Migrating` only while QEMU copies; everything before shows the VM as plain `Running`, so the migration's own
//! phase is what counts. A copy that gets nearer to its end is left alone however long it takes.

use kulprit_cluster::{GONE, MigrationLife};
use kulprit_model::{FindingCode, Status, attribute::WHAT};

use super::{
    SymptomId,
    kubevirt::{Clocks, Found, SUSPECT_USEC, earliest, found},
};

/// So many migrations in 24 h are too many.
const MANY_MIGRATIONS: u32 = 12;

/// What says by itself that a migration does not get done.
pub(super) const HAS_STALLED: [FindingCode; 3] =
    [FindingCode::MigrationNoBytes, FindingCode::MigrationDirtying, FindingCode::MigrationPeerSilent];

/// KubeVirt keeps the newest five finished migrations of a VM: where nobody watched, one with that many may have had any number.
const KEPT_MIGRATIONS: u32 = 5;

/// A failed migration is news for so long.
const FAILED_IS_NEWS_USEC: i64 = 24 * 3_600 * 1_000_000;

impl Clocks<'_> {
    /// What the objects show of a migration that is under way or wanted. Asked after the host's own word on a VM that stopped or
    /// paused.
    pub(super) fn of_this_migration(&self) -> Option<Found> {
        self.stuck_migrating().or_else(|| self.evacuation_blocked())
    }

    /// What the objects show of migrations that are over. Asked after the host's word on a VM that is hung now.
    pub(super) fn of_past_migrations(&self) -> Option<Found> {
        self.too_many_migrations().or_else(|| self.failed(self.life.migration.as_ref()?))
    }

    /// The symptom of a migration that was named. `None`: it progresses or has succeeded.
    pub(super) fn of_named_migration(&self, name: &str) -> Option<Found> {
        let Some(migration) = &self.life.migration else {
            return Some(found(SymptomId::StuckMigrating, None, format!("nothing is known of the migration {name}")));
        };
        if migration.outcome.is_none() && migration.phase.is_none() && migration.failure_reason.is_none() {
            let since = migration.created_usec;
            return Some(found(SymptomId::StuckMigrating, since, format!("no phase of the migration {name} is known")));
        }
        if migration.phase.as_deref() == Some(GONE) {
            let text =
                format!("the migration {name} is over, and its object was removed before anybody saw how it ended");
            return Some(of_migration(SymptomId::Unspecified, migration.ended_usec, text, migration));
        }
        self.failed(migration).or_else(|| self.stuck_migrating())
    }

    fn stuck_migrating(&self) -> Option<Found> {
        let migration = self.life.migration.as_ref()?;
        if migration.outcome.is_some() {
            return None;
        }
        let phase = migration.phase.as_deref()?;
        let created = earliest([migration.created_usec, migration.phase_since_usec]);
        let since = match phase {
            "Succeeded" | "Failed" | GONE => return None,
            "Running" => {
                let since = migration.started_usec.or(migration.phase_since_usec);
                let stalled = self.has_stalled();
                let progresses = self.present_since(FindingCode::MigrationProgressing).is_some();
                let age = since.map(|since| self.now_usec.saturating_sub(since));
                // Nobody who lets a migration take minutes calls it stuck; without a look at its job only long ones are.
                let is_long = age.map_or(self.is_named, |age| {
                    let limit = if self.is_named { SUSPECT_USEC } else { 10 * SUSPECT_USEC };
                    age >= limit
                });
                if !stalled && (progresses || !is_long) {
                    return None;
                }
                since
            }
            // Everything before: the clock runs from the request, and each phase starts it anew.
            _ => {
                let since = migration.phase_since_usec.or(migration.created_usec);
                let is_asked_long_ago = created
                    .is_some_and(|created| self.is_named && self.now_usec.saturating_sub(created) >= SUSPECT_USEC);
                if !is_asked_long_ago && !self.is_beyond(since, self.settings.migration_phase_usec) {
                    return None;
                }
                since
            }
        };
        let onset = earliest([created, since]);
        let text = format!("{} is {phase}{}", migration_name(migration), self.for_so_long(since));
        Some(of_migration(SymptomId::StuckMigrating, onset, text, migration))
    }

    fn has_stalled(&self) -> bool {
        HAS_STALLED.into_iter().any(|code| self.present_since(code).is_some())
    }

    /// Whether a VM that is to leave its node is on its way, however long that takes: its copy progresses, or others go first and it has
    /// no migration yet. Who names one that waits for its turn is told what it waits for.
    fn gets_on(&self) -> bool {
        if self.is_migrating() {
            return self.present_since(FindingCode::MigrationProgressing).is_some() && !self.has_stalled();
        }
        !self.is_named && self.do_others_go_first()
    }

    /// Whether the slots that it waits for are taken by migrations of which one is not stuck; from the end of one to the begin of the
    /// next they are free for a moment.
    fn do_others_go_first(&self) -> bool {
        let Some(slots) = self.states(FindingCode::MigrationWaitsForSlot).next() else { return false };
        let is_full = slots.status == Status::Present;
        let is_of_node = slots.attributes.get(WHAT) == Some("node");
        let others = self.snapshot.migrating().filter(|vm| vm.uid != self.vm.uid);
        let others = others.filter(|vm| !is_full || !is_of_node || vm.source == self.vm.hosting);
        others.map(|vm| Clocks::new(self.snapshot, vm, false)).any(|other| {
            let has_ended = other.life.migration.as_ref().is_some_and(|migration| migration.outcome.is_some());
            has_ended || is_full && other.is_on_its_way()
        })
    }

    fn is_on_its_way(&self) -> bool {
        let phase = self.life.migration.as_ref().and_then(|migration| migration.phase.as_deref());
        self.is_migrating() && phase.is_some_and(|phase| phase != GONE) && self.stuck_migrating().is_none()
    }

    fn failed(&self, migration: &MigrationLife) -> Option<Found> {
        let is_failed = migration.outcome == Some(false)
            || migration.outcome.is_none()
                && (migration.phase.as_deref() == Some("Failed") || migration.failure_reason.is_some());
        let ended = migration.ended_usec.or(migration.phase_since_usec);
        let is_news = ended.is_none_or(|ended| self.now_usec.saturating_sub(ended) <= FAILED_IS_NEWS_USEC);
        (is_failed && is_news).then(|| {
            let why = migration.failure_reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let text = format!("{} failed{}{why}", migration_name(migration), self.ago(ended));
            of_migration(SymptomId::MigrationFailed, ended, text, migration)
        })
    }

    fn too_many_migrations(&self) -> Option<Found> {
        let n = self.life.n_migrations_24h.total();
        let is_whole = self.life.knows_all_migrations;
        let is_many = n >= MANY_MIGRATIONS
            || self.present_since(FindingCode::MigrationsMany).is_some()
            || self.is_named && !is_whole && n >= KEPT_MIGRATIONS;
        is_many.then(|| {
            let known = if is_whole { "" } else { " are known" };
            let text = format!("{n} migrations in 24 h{known}: {}", self.life.n_migrations_24h.words());
            found(SymptomId::ExcessiveMigrations, None, text)
        })
    }

    fn evacuation_blocked(&self) -> Option<Found> {
        let (node, since) = match &self.life.evacuation {
            Some((node, since)) => (node.as_str(), *since),
            None => ("its node", self.present_since(FindingCode::EvictionPending)?),
        };
        let has_left = self.vm.hosting.as_deref().is_some_and(|hosting| node != "its node" && hosting != node);
        let migration = self.life.migration.as_ref();
        let is_new = self.is_migrating() && !self.is_beyond(since, self.settings.pending_usec);
        if has_left || is_new || !self.is_beyond(since, self.settings.scheduling_usec) || self.gets_on() {
            return None;
        }
        let text = format!("it is to leave {node}{}, and is still there", self.for_so_long(since));
        let name =
            migration.filter(|migration| migration.outcome != Some(true)).map(|migration| migration.name.clone());
        Some(Found { id: SymptomId::EvacuationBlocked, since_usec: since, text, migration: name })
    }
}

fn migration_name(migration: &MigrationLife) -> String {
    if migration.name.is_empty() { "the migration".to_owned() } else { format!("the migration {}", migration.name) }
}

fn of_migration(id: SymptomId, since_usec: Option<i64>, text: String, migration: &MigrationLife) -> Found {
    Found { id, since_usec, text, migration: Some(migration.name.clone()) }
}
