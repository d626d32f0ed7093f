//! The history of migrations: a row each, as [`MigrationRecord`] has it.

use kulprit_cluster::{MigrationRecord, Watched};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, named_params, params};

use crate::store::MigrationsWrite;

pub(super) fn write(transaction: &Transaction<'_>, write: &MigrationsWrite) -> rusqlite::Result<()> {
    let MigrationsWrite { changes, watched } = write;
    let mut put = transaction.prepare_cached(
        "INSERT OR REPLACE INTO migration
           (namespace, vm, uid, name, vmi_uid, source, target, created_usec, started_usec, ended_usec, deleted_usec,
            gone_usec, has_succeeded, is_abort_requested, reason, initiator)
         VALUES (:namespace, :vm, :uid, :name, :vmi_uid, :source, :target, :created_usec, :started_usec, :ended_usec,
            :deleted_usec, :gone_usec, :has_succeeded, :is_abort_requested, :reason, :initiator)",
    )?;
    for record in &changes.put {
        let MigrationRecord {
            namespace,
            vm,
            uid,
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
        } = record;
        put.execute(named_params! {
            ":namespace": namespace, ":vm": vm, ":uid": uid, ":name": name, ":vmi_uid": vmi_uid, ":source": source,
            ":target": target, ":created_usec": created_usec, ":started_usec": started_usec, ":ended_usec": ended_usec,
            ":deleted_usec": deleted_usec, ":gone_usec": gone_usec, ":has_succeeded": has_succeeded,
            ":is_abort_requested": is_abort_requested, ":reason": reason,
            ":initiator": initiator.map(|initiator| initiator.as_str()),
        })?;
    }
    let mut drop = transaction.prepare_cached("DELETE FROM migration WHERE (namespace, vm, uid) = (?1, ?2, ?3)")?;
    for (namespace, vm, uid) in &changes.drop {
        drop.execute(params![namespace, vm, uid])?;
    }
    if let Some(Watched { since_usec, until_usec }) = watched {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO migrations_kept (id, since_usec, until_usec) VALUES (0, ?1, ?2)")?
            .execute(params![since_usec, until_usec])?;
    }
    Ok(())
}

/// All records, and over which time every migration was seen.
pub(super) fn load(
    connection: &Connection,
    n_unreadable: &mut usize,
) -> rusqlite::Result<(Vec<MigrationRecord>, Option<Watched>)> {
    let mut records = Vec::new();
    let mut statement = connection.prepare("SELECT * FROM migration")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let initiator: Option<String> = row.get("initiator")?;
        let Ok(initiator) = initiator.map(|word| word.parse()).transpose() else {
            *n_unreadable += 1;
            continue;
        };
        records.push(MigrationRecord {
            namespace: row.get("namespace")?,
            vm: row.get("vm")?,
            uid: row.get("uid")?,
            name: row.get("name")?,
            vmi_uid: row.get("vmi_uid")?,
            source: row.get("source")?,
            target: row.get("target")?,
            created_usec: row.get("created_usec")?,
            started_usec: row.get("started_usec")?,
            ended_usec: row.get("ended_usec")?,
            deleted_usec: row.get("deleted_usec")?,
            gone_usec: row.get("gone_usec")?,
            has_succeeded: row.get("has_succeeded")?,
            is_abort_requested: row.get("is_abort_requested")?,
            reason: row.get("reason")?,
            initiator,
        });
    }
    let read = |row: &Row<'_>| Ok(Watched { since_usec: row.get("since_usec")?, until_usec: row.get("until_usec")? });
    let watched = connection.query_row("SELECT * FROM migrations_kept", [], read).optional()?;
    Ok((records, watched))
}
