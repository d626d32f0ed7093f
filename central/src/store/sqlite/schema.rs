//! Tables, their version, and the check that a file is ours.
//!
//! Versions only grow; [`MIGRATIONS`] holds the step from each version to the next. A file of a newer version is refused:
//! what we would write into it, its own program could misread.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, Transaction, params};

use super::classify;
use crate::store::StoreError;

/// `KLPR`, in the header of each file of ours (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x4b4c_5052;

/// The step from version n to n + 1 stands at index n.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE stream (
        id INTEGER PRIMARY KEY, cluster TEXT NOT NULL, node TEXT NOT NULL,
        hello BLOB NOT NULL DEFAULT x'', applied_offset_usec INTEGER NOT NULL DEFAULT 0,
        is_silent INTEGER NOT NULL DEFAULT 0, UNIQUE (cluster, node)
    ) STRICT;
    CREATE TABLE watermark (
        stream INTEGER NOT NULL, boot_id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (stream, boot_id, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE current (
        stream INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
        forgotten_wall_usec INTEGER, forgotten_boottime_usec INTEGER, forgotten_because TEXT,
        PRIMARY KEY (stream, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE incident (
        id TEXT PRIMARY KEY, place TEXT NOT NULL, closed_wall_usec INTEGER NOT NULL, quiet_wall_usec INTEGER,
        based_on TEXT NOT NULL, body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE timeline (
        incident TEXT NOT NULL, n INTEGER NOT NULL, at_wall_usec INTEGER NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (incident, n)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE capture (
        incident TEXT NOT NULL, node TEXT NOT NULL, vm_uid TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (incident, node, vm_uid)
    ) STRICT;
",
    "
    CREATE TABLE migration (
        namespace TEXT NOT NULL, vm TEXT NOT NULL, uid TEXT NOT NULL, name TEXT NOT NULL, vmi_uid TEXT,
        source TEXT, target TEXT, created_usec INTEGER, started_usec INTEGER, ended_usec INTEGER,
        deleted_usec INTEGER, gone_usec INTEGER, has_succeeded INTEGER, is_abort_requested INTEGER NOT NULL,
        reason TEXT, initiator TEXT, PRIMARY KEY (namespace, vm, uid)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE migrations_kept (id INTEGER PRIMARY KEY CHECK (id = 0), since_usec INTEGER NOT NULL) STRICT;
",
    "
    ALTER TABLE migrations_kept ADD COLUMN until_usec INTEGER NOT NULL DEFAULT 0;
",
    "
    CREATE TABLE capture_with_early (
        incident TEXT NOT NULL, node TEXT NOT NULL, vm_uid TEXT NOT NULL, is_early INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (incident, node, vm_uid, is_early)
    ) STRICT;
    INSERT INTO capture_with_early SELECT incident, node, vm_uid, 0, body FROM capture;
    DROP TABLE capture;
    ALTER TABLE capture_with_early RENAME TO capture;
",
];

/// Checks that the file is ours or empty, and brings it to the newest version.
pub(super) fn prepare(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| classify(error, "read the header", path);
    let application_id = pragma(connection, "application_id").map_err(failed)?;
    let version = pragma(connection, "user_version").map_err(failed)?;
    let n_tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let is_new = application_id == 0 && version == 0 && n_tables == 0;
    if !is_new && application_id != APPLICATION_ID {
        let found =
            format!("a SQLite database of another program (application id {application_id:#x}, {n_tables} tables)");
        return Err(StoreError::Foreign { path: path.to_owned(), found });
    }
    if version > known {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known });
    }
    let n_done = usize::try_from(version).map_err(|_| StoreError::Foreign {
        path: path.to_owned(),
        found: format!("its schema version is {version}"),
    })?;
    let failed = |error| classify(error, "prepare the tables", path);
    // WAL: readers do not wait for commits. FULL: a commit is on disk when it returns (sqlite.org/pragma.html#pragma_synchronous).
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;")
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(32);
    let transaction = connection.transaction().map_err(failed)?;
    for step in MIGRATIONS.iter().skip(n_done) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction
        .execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known};"))
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Name of the table of one day (days since 1970-01-01 UTC).
pub(super) fn day_table(day: i64) -> String {
    if day < 0 { format!("history_m{}", day.unsigned_abs()) } else { format!("history_{day}") }
}

/// Makes the table of one day.
pub(super) fn create_day(transaction: &Transaction<'_>, day: i64) -> rusqlite::Result<()> {
    let table = day_table(day);
    transaction.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {table} (
            id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, boot_id TEXT NOT NULL, epoch INTEGER NOT NULL,
            seq INTEGER NOT NULL, at_wall_usec INTEGER NOT NULL, kind TEXT NOT NULL, code TEXT NOT NULL,
            subject TEXT NOT NULL, is_absent INTEGER NOT NULL, body BLOB NOT NULL
         ) STRICT;
         CREATE INDEX IF NOT EXISTS {table}_at ON {table} (at_wall_usec);"
    ))
}

/// The statement that adds a row to the table of one day.
pub(super) fn insert_history(day: i64) -> String {
    let table = day_table(day);
    format!(
        "INSERT INTO {table} (stream, boot_id, epoch, seq, at_wall_usec, kind, code, subject, is_absent, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    )
}

/// Drops the table of one day.
pub(super) fn drop_day(connection: &Connection, day: i64) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", day_table(day)))
}

/// The days there are tables of.
pub(super) fn days(connection: &Connection) -> rusqlite::Result<BTreeSet<i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'history\\_%' ESCAPE '\\'",
    )?;
    let names = statement.query_map(params![], |row| row.get::<_, String>(0))?;
    let mut days = BTreeSet::new();
    for name in names {
        days.extend(day_of(&name?));
    }
    Ok(days)
}

fn day_of(table: &str) -> Option<i64> {
    let day = table.strip_prefix("history_")?;
    match day.strip_prefix('m') {
        Some(before_1970) => before_1970.parse::<i64>().ok().map(|day| -day),
        None => day.parse().ok(),
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}
