//! The rules for migrations of VMs that libvirt alone runs: stuck, or ended and the VM still there.
//!
//! No object says in which phase a migration is: its source's agent does, with how the copy goes. A copy that gets nearer to its end
//! is left alone however long it takes; one of which nothing can be seen only counts once it has taken unusually long.

use kulprit_model::{FindingCode, State, Status, attribute::WHAT};

use super::{SymptomId, kubevirt::Found, migration::HAS_STALLED};
use crate::{
    snapshot::{NodeView, Snapshot},
    standalone::DomainMigration,
    words,
};

/// So many times the clock of progress counts where nobody sees whether there is any.
const UNSEEN_FACTOR: i64 = 10;

/// The end of a migration and that of its progress are told by several records; what comes between them is no standstill.
const END_SETTLE_USEC: i64 = 3_000_000;

/// The symptom of a migration that runs and does not get nearer to its end.
pub(super) fn stuck_migrating(snapshot: &Snapshot, uid: &str, migration: &DomainMigration<'_>) -> Option<Found> {
    if migration.failed.is_some() {
        return None;
    }
    let age_usec = snapshot.reference_wall_usec.saturating_sub(migration.began_usec);
    let nodes = || std::iter::once(migration.source).chain(migration.target);
    let has_stalled =
        nodes().any(|node| HAS_STALLED.into_iter().any(|code| status(node, code, uid) == Some(Status::Present)));
    let limit_usec = snapshot.settings.migration_progress_usec;
    let is_late = match status(migration.source, FindingCode::MigrationProgressing, uid) {
        Some(Status::Present) => false,
        Some(Status::Absent) => age_usec >= limit_usec && !has_just_ended(snapshot, migration, uid),
        Some(Status::Unknown) | None => age_usec >= limit_usec.saturating_mul(UNSEEN_FACTOR),
    };
    if !has_stalled && !is_late {
        return None;
    }
    let text = format!("its migration{} has run for {} and gets nowhere", way(migration), words::duration(age_usec));
    Some(found(SymptomId::StuckMigrating, migration.began_usec, text))
}

/// Whether its progress ended in this moment: so it does with the migration itself, whose end comes in records of its own.
fn has_just_ended(snapshot: &Snapshot, migration: &DomainMigration<'_>, uid: &str) -> bool {
    state(migration.source, FindingCode::MigrationProgressing, uid)
        .is_some_and(|state| snapshot.reference_wall_usec.saturating_sub(state.since.wall_usec) < END_SETTLE_USEC)
}

/// The symptom of a migration that ended, with the VM where it was.
pub(super) fn migration_failed(snapshot: &Snapshot, migration: &DomainMigration<'_>) -> Option<Found> {
    let failed = migration.failed?;
    let how = match failed.attributes.get(WHAT) {
        Some("no-bytes") => "; nothing was copied",
        Some("stopped") => "; the copy had stopped before",
        Some("dirtying") => "; the guest dirtied its memory as fast as it was copied",
        _ => "",
    };
    let ended_usec = failed.last.wall_usec;
    let ago = words::duration(snapshot.reference_wall_usec.saturating_sub(ended_usec));
    let text =
        format!("its migration{} ended {ago} ago, and it is still on {}{how}", way(migration), migration.source.name);
    Some(found(SymptomId::MigrationFailed, ended_usec, text))
}

fn found(id: SymptomId, since_usec: i64, text: String) -> Found {
    // Empty: a migration without an object.
    Found { id, since_usec: Some(since_usec), text, migration: Some(String::new()) }
}

fn way(migration: &DomainMigration<'_>) -> String {
    migration.target.map(|target| format!(" to {}", target.name)).unwrap_or_default()
}

fn status(node: &NodeView, code: FindingCode, uid: &str) -> Option<Status> {
    state(node, code, uid).map(|state| state.status)
}

fn state<'a>(node: &'a NodeView, code: FindingCode, uid: &str) -> Option<&'a State> {
    node.states.iter().find(|state| state.code == code && state.subject.vm_uid() == Some(uid))
}
