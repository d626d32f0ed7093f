//! The store in one SQLite file.
//!
//! WAL with `synchronous=FULL`: a commit that returned is on disk. Dates are days of central's clock at receipt, one table
//! each, so that retention drops a table instead of searching rows. `application_id` and `user_version` tell our files from
//! others and newer from older; what cannot be read is refused with the reason, never repaired in silence.

mod load;
mod migrations;
mod schema;

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use kulprit_model::StreamId;
use kulprit_proto::v1;
use prost::Message as _;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, named_params, params};

use super::{
    CaptureWrite, History, HistoryEntry, HistoryPosition, HistoryQuery, Loaded, NodeWrite, RecordsWrite, Store,
    StoreError, Write,
};
use crate::{incident::Incident, state::Change};

/// Name of the file in the data folder.
pub const FILE_NAME: &str = "central.db";
const LOCK_NAME: &str = "central.lock";
const USEC_PER_DAY: i64 = 86_400_000_000;

/// The writing end.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Connection,
    streams: HashMap<StreamId, i64>,
    days: BTreeSet<i64>,
    /// Held for as long as the store is open.
    _lock: File,
}

/// The reading end; sees what was committed.
#[derive(Debug)]
pub struct SqliteHistory {
    path: PathBuf,
    connection: Connection,
}

impl SqliteStore {
    /// Opens the store in `folder`, made if it is not there, and reads what a restart needs.
    ///
    /// # Errors
    /// If the folder or file cannot be used; each variant says what to do.
    pub fn open(folder: &Path) -> Result<(Self, Loaded), StoreError> {
        let at_folder = |source| StoreError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(at_folder)?;
        let lock = File::create(folder.join(LOCK_NAME)).map_err(at_folder)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse { path: folder.to_owned() },
            TryLockError::Error(source) => at_folder(source),
        })?;
        let path = folder.join(FILE_NAME);
        let was_empty = fs::metadata(&path).is_ok_and(|file| file.len() == 0);
        let mut connection = Connection::open(&path).map_err(|error| classify(error, "open the file", &path))?;
        schema::prepare(&mut connection, &path)?;
        let days = schema::days(&connection).map_err(|error| classify(error, "list the days", &path))?;
        let (mut loaded, streams) =
            load::load(&connection).map_err(|error| classify(error, "read what holds now", &path))?;
        loaded.was_empty = was_empty;
        Ok((Self { path, connection, streams, days, _lock: lock }, loaded))
    }

    /// A reading end of its own.
    ///
    /// # Errors
    /// If the file cannot be opened once more.
    pub fn history(&self) -> Result<SqliteHistory, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags).and_then(|connection| {
            connection.busy_timeout(Duration::from_secs(1))?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| classify(error, "open the file for reading", &self.path))?;
        Ok(SqliteHistory { path: self.path.clone(), connection })
    }
}

impl Store for SqliteStore {
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut new_days = BTreeSet::new();
        let mut new_streams = HashMap::new();
        let mut run = || {
            let transaction = self.connection.transaction()?;
            for write in writes {
                match write {
                    Write::Node(node) => {
                        let id = stream_id(&transaction, &self.streams, &mut new_streams, &node.stream)?;
                        write_node(&transaction, id, node)?;
                    }
                    Write::Records(records) => {
                        let id = stream_id(&transaction, &self.streams, &mut new_streams, &records.stream)?;
                        let day = records.received_wall_usec.div_euclid(USEC_PER_DAY);
                        if !records.history.is_empty() && !self.days.contains(&day) && new_days.insert(day) {
                            schema::create_day(&transaction, day)?;
                        }
                        write_records(&transaction, id, day, records)?;
                    }
                    Write::Forget(stream) => {
                        let id = stream_id(&transaction, &self.streams, &mut new_streams, stream)?;
                        forget_node(&transaction, id)?;
                    }
                    Write::Incidents(incidents) => {
                        for incident in incidents {
                            write_incident(&transaction, incident)?;
                        }
                    }
                    Write::Migrations(write) => migrations::write(&transaction, write)?,
                    Write::Capture(capture) => write_capture(&transaction, capture)?,
                }
            }
            transaction.commit()
        };
        run().map_err(|error| classify(error, "commit records", &self.path))?;
        self.days.extend(new_days);
        self.streams.extend(new_streams);
        Ok(())
    }

    fn drop_history_before(&mut self, oldest_wall_usec: i64) -> Result<usize, StoreError> {
        let first_kept = oldest_wall_usec.div_euclid(USEC_PER_DAY);
        let dropped: Vec<i64> = self.days.range(..first_kept).copied().collect();
        for day in &dropped {
            schema::drop_day(&self.connection, *day)
                .map_err(|error| classify(error, "drop an old day of history", &self.path))?;
            self.days.remove(day);
        }
        self.connection
            .execute("DELETE FROM incident WHERE closed_wall_usec BETWEEN 1 AND ?1", params![oldest_wall_usec])
            .and_then(|_| {
                self.connection.execute("DELETE FROM timeline WHERE incident NOT IN (SELECT id FROM incident)", [])?;
                self.connection.execute("DELETE FROM capture WHERE incident NOT IN (SELECT id FROM incident)", [])
            })
            .map_err(|error| classify(error, "drop old incidents", &self.path))?;
        Ok(dropped.len())
    }
}

impl History for SqliteHistory {
    fn read(&mut self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
        self.read_days(query).map_err(|error| classify(error, "read the history", &self.path))
    }

    fn captures(&mut self, incident_id: &str) -> Result<Vec<v1::Capture>, StoreError> {
        self.read_captures(incident_id).map_err(|error| classify(error, "read captures", &self.path))
    }
}

impl SqliteHistory {
    fn read_captures(&self, incident_id: &str) -> rusqlite::Result<Vec<v1::Capture>> {
        let mut statement = self
            .connection
            .prepare("SELECT node, body FROM capture WHERE incident = ?1 ORDER BY node, vm_uid, is_early DESC")?;
        let mut rows = statement.query([incident_id])?;
        let mut captures = Vec::new();
        while let Some(row) = rows.next()? {
            let Ok(result) = v1::CaptureResult::decode(row.get_ref(1)?.as_blob()?) else { continue };
            captures.push(v1::Capture { node: row.get(0)?, result: Some(result) });
        }
        Ok(captures)
    }

    fn read_days(&self, query: &HistoryQuery) -> rusqlite::Result<Vec<HistoryEntry>> {
        let mut entries = Vec::new();
        for day in schema::days(&self.connection)? {
            self.read_day(day, query, &mut entries)?;
        }
        entries.sort_by_key(|entry| entry.position);
        entries.truncate(query.limit);
        Ok(entries)
    }

    fn read_day(&self, day: i64, query: &HistoryQuery, entries: &mut Vec<HistoryEntry>) -> rusqlite::Result<()> {
        let table = schema::day_table(day);
        let mut statement = self.connection.prepare(&format!(
            "SELECT h.at_wall_usec, h.id, s.node, h.body FROM {table} h JOIN stream s ON s.id = h.stream
             WHERE h.at_wall_usec BETWEEN :from AND :to AND h.kind IN ('state', 'occurrence')
               AND (:node = '' OR s.node = :node) AND (:code = '' OR h.code = :code)
               AND (:subject = '' OR h.subject = :subject) AND (:absent OR NOT h.is_absent)
               AND (h.at_wall_usec > :after_at OR h.at_wall_usec = :after_at AND (:day, h.id) > (:after_day, :after_row))
             ORDER BY h.at_wall_usec, h.id LIMIT :limit"
        ))?;
        let after = query.after.unwrap_or(HistoryPosition { at_wall_usec: i64::MIN, day: i64::MIN, row: i64::MIN });
        let mut rows = statement.query(named_params! {
            ":from": query.from_wall_usec.max(after.at_wall_usec),
            ":to": query.to_wall_usec,
            ":node": query.node,
            ":code": query.code,
            ":subject": query.subject,
            ":absent": query.include_absent,
            ":after_at": after.at_wall_usec,
            ":after_day": after.day,
            ":after_row": after.row,
            ":day": day,
            ":limit": i64::try_from(query.limit).unwrap_or(i64::MAX),
        })?;
        while let Some(row) = rows.next()? {
            let position = HistoryPosition { at_wall_usec: row.get(0)?, day, row: row.get(1)? };
            // A row that this version cannot read was counted when it came; the others are still worth showing.
            let Ok(record) = v1::Record::decode(row.get_ref(3)?.as_blob()?) else { continue };
            entries.push(HistoryEntry { position, node: row.get(2)?, record });
        }
        Ok(())
    }
}

/// The row of the stream, made if there is none. New ones count only once the transaction is committed.
fn stream_id(
    transaction: &Transaction<'_>,
    known: &HashMap<StreamId, i64>,
    new: &mut HashMap<StreamId, i64>,
    stream: &StreamId,
) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(stream).or_else(|| new.get(stream)) {
        return Ok(*id);
    }
    transaction.execute("INSERT INTO stream (cluster, node) VALUES (?1, ?2)", params![stream.cluster, stream.node])?;
    let id = transaction.last_insert_rowid();
    new.insert(stream.clone(), id);
    Ok(id)
}

fn write_node(transaction: &Transaction<'_>, id: i64, node: &NodeWrite) -> rusqlite::Result<()> {
    let NodeWrite { stream: _, hello, applied_offset_usec, is_silent } = node;
    transaction.execute(
        "UPDATE stream SET hello = ?2, applied_offset_usec = ?3, is_silent = ?4 WHERE id = ?1",
        params![id, hello, applied_offset_usec, is_silent],
    )?;
    Ok(())
}

/// A row without a Hello is that of a node that is gone: `load` makes no node of it.
fn forget_node(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM current WHERE stream = ?1", params![id])?;
    transaction.execute("DELETE FROM watermark WHERE stream = ?1", params![id])?;
    transaction
        .execute("UPDATE stream SET hello = x'', applied_offset_usec = 0, is_silent = 1 WHERE id = ?1", params![id])?;
    Ok(())
}

fn write_records(transaction: &Transaction<'_>, id: i64, day: i64, records: &RecordsWrite) -> rusqlite::Result<()> {
    let RecordsWrite { stream: _, received_wall_usec: _, history, changes, watermarks, gone } = records;
    if !history.is_empty() {
        let mut insert = transaction.prepare_cached(&schema::insert_history(day))?;
        for row in history {
            insert.execute(params![
                id,
                row.epoch.boot_id,
                to_i64(row.epoch.epoch),
                to_i64(row.seq),
                row.at_wall_usec,
                row.kind,
                row.code,
                row.subject,
                row.is_absent,
                &row.body[..],
            ])?;
        }
    }
    write_changes(transaction, id, changes)?;
    for (epoch, seq) in watermarks {
        transaction
            .prepare_cached(
                "INSERT INTO watermark (stream, boot_id, epoch, seq) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
            )?
            .execute(params![id, epoch.boot_id, to_i64(epoch.epoch), to_i64(*seq)])?;
    }
    for epoch in gone {
        transaction
            .prepare_cached("DELETE FROM watermark WHERE stream = ?1 AND boot_id = ?2 AND epoch = ?3")?
            .execute(params![id, epoch.boot_id, to_i64(epoch.epoch)])?;
    }
    Ok(())
}

fn write_changes(transaction: &Transaction<'_>, id: i64, changes: &[Change]) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(
        "INSERT INTO current (stream, key, body) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET body = excluded.body, forgotten_because = NULL",
    )?;
    let mut forget = transaction.prepare_cached(
        "UPDATE current SET forgotten_wall_usec = ?3, forgotten_boottime_usec = ?4, forgotten_because = ?5
         WHERE stream = ?1 AND key = ?2",
    )?;
    let mut remove = transaction.prepare_cached("DELETE FROM current WHERE stream = ?1 AND key = ?2")?;
    for change in changes {
        match change {
            Change::Put(key, body) => put.execute(params![id, key.to_string(), &body[..]])?,
            Change::Forget(key, forgotten) => forget.execute(params![
                id,
                key.to_string(),
                forgotten.since.wall_usec,
                forgotten.since.boottime_usec,
                forgotten.because
            ])?,
            Change::Remove(key) => remove.execute(params![id, key.to_string()])?,
        };
    }
    Ok(())
}

fn write_incident(transaction: &Transaction<'_>, incident: &Incident) -> rusqlite::Result<()> {
    let mut wire = v1::Incident::from(incident);
    let timeline = std::mem::take(&mut wire.timeline);
    let aside = incident.aside();
    transaction.execute(
        "INSERT INTO incident (id, place, closed_wall_usec, quiet_wall_usec, based_on, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET place = excluded.place, closed_wall_usec = excluded.closed_wall_usec,
           quiet_wall_usec = excluded.quiet_wall_usec, based_on = excluded.based_on, body = excluded.body",
        params![
            wire.id,
            aside.place,
            wire.closed_wall_usec,
            aside.quiet_since_wall_usec,
            aside.based_on,
            wire.encode_to_vec()
        ],
    )?;
    let mut insert = transaction
        .prepare_cached("INSERT OR IGNORE INTO timeline (incident, n, at_wall_usec, text) VALUES (?1, ?2, ?3, ?4)")?;
    let n_kept: i64 = transaction
        .prepare_cached("SELECT count(*) FROM timeline WHERE incident = ?1")?
        .query_row(params![wire.id], |row| row.get(0))?;
    for (n, entry) in (0_i64..).zip(&timeline).skip(usize::try_from(n_kept).unwrap_or(0)) {
        insert.execute(params![wire.id, n, entry.at_wall_usec, entry.text])?;
    }
    Ok(())
}

fn write_capture(transaction: &Transaction<'_>, capture: &CaptureWrite) -> rusqlite::Result<()> {
    let CaptureWrite { node, result, is_early } = capture;
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO capture (incident, node, vm_uid, is_early, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![result.incident_id, node, result.vm_uid, is_early, result.encode_to_vec()])?;
    Ok(())
}

/// Sequence numbers beyond this are refused at the door.
fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Tells a damaged and a foreign file from a database that refuses for another reason.
fn classify(error: rusqlite::Error, doing: &'static str, path: &Path) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { path, found: "it is no SQLite database".to_owned() },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, problem: error.to_string() },
        _ => StoreError::Database { doing, path, source: error },
    }
}
