//! What a restart needs, read back: nodes with what they said last, watermarks, incidents, migrations.

use std::collections::{HashMap, HashSet};

use kulprit_model::{Moment, Record, StreamId};
use kulprit_proto::v1;
use prost::Message as _;
use rusqlite::Connection;

use super::migrations;
use crate::{
    incident::{Aside, Incident},
    state::{Epoch, Forgotten, LAST_QEMU_PREFIX, NodeState},
    store::Loaded,
};

/// Reads everything but the history, and the row of each stream.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<(Loaded, HashMap<StreamId, i64>)> {
    let mut loaded = Loaded::default();
    let mut nodes = load_streams(connection, &mut loaded.n_unreadable)?;
    load_watermarks(connection, &mut nodes)?;
    load_current(connection, &mut nodes, &mut loaded.n_unreadable)?;
    loaded.incidents = load_incidents(connection, &mut loaded.n_unreadable)?;
    (loaded.migrations, loaded.migrations_watched) = migrations::load(connection, &mut loaded.n_unreadable)?;
    let streams = nodes.iter().map(|(row, (id, _))| (id.clone(), *row)).collect();
    let forgotten = load_forgotten(connection)?;
    loaded.nodes = nodes.into_iter().filter(|(row, _)| !forgotten.contains(row)).map(|(_, (_, node))| node).collect();
    Ok((loaded, streams))
}

type Nodes = HashMap<i64, (StreamId, NodeState)>;

fn load_streams(connection: &Connection, n_unreadable: &mut usize) -> rusqlite::Result<Nodes> {
    let mut nodes = Nodes::new();
    let mut statement =
        connection.prepare("SELECT id, cluster, node, hello, applied_offset_usec, is_silent FROM stream")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = StreamId { cluster: row.get(1)?, node: row.get(2)? };
        let hello = v1::Hello::decode(row.get_ref(3)?.as_blob()?).unwrap_or_else(|_| {
            *n_unreadable += 1;
            v1::Hello::default()
        });
        let node = NodeState::restored(id.clone(), hello, row.get(4)?, row.get(5)?);
        nodes.insert(row.get(0)?, (id, node));
    }
    Ok(nodes)
}

/// Rows of nodes that are gone for good, of which only the name is kept.
fn load_forgotten(connection: &Connection) -> rusqlite::Result<HashSet<i64>> {
    let mut statement = connection.prepare(
        "SELECT id FROM stream WHERE hello = x'' AND NOT EXISTS (SELECT 1 FROM current WHERE current.stream = stream.id)
           AND NOT EXISTS (SELECT 1 FROM watermark WHERE watermark.stream = stream.id)",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn load_watermarks(connection: &Connection, nodes: &mut Nodes) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT stream, boot_id, epoch, seq FROM watermark")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let epoch = Epoch { boot_id: row.get(1)?, epoch: to_u64(row.get(2)?) };
        if let Some((_, node)) = nodes.get_mut(&row.get(0)?) {
            node.progress.restore(epoch, to_u64(row.get(3)?));
        }
    }
    Ok(())
}

fn load_current(connection: &Connection, nodes: &mut Nodes, n_unreadable: &mut usize) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT stream, key, body, forgotten_because, forgotten_wall_usec, forgotten_boottime_usec FROM current",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some((_, node)) = nodes.get_mut(&row.get(0)?) else { continue };
        let body = row.get_ref(2)?.as_blob()?;
        let record = v1::Record::decode(body).ok().and_then(|wire| Record::try_from(wire).ok());
        let Some(record) = record else {
            *n_unreadable += 1;
            continue;
        };
        let forgotten = match row.get::<_, Option<String>>(3)? {
            Some(because) => {
                Some(Forgotten { because, since: Moment { wall_usec: row.get(4)?, boottime_usec: row.get(5)? } })
            }
            None => None,
        };
        let is_last_qemu = row.get_ref(1)?.as_str()?.starts_with(LAST_QEMU_PREFIX);
        node.restore(record, body.len(), is_last_qemu, forgotten);
    }
    Ok(())
}

fn load_incidents(connection: &Connection, n_unreadable: &mut usize) -> rusqlite::Result<Vec<Incident>> {
    let mut incidents = Vec::new();
    let mut statement =
        connection.prepare("SELECT id, place, quiet_wall_usec, based_on, body FROM incident ORDER BY id")?;
    let mut timeline = connection.prepare("SELECT at_wall_usec, text FROM timeline WHERE incident = ?1 ORDER BY n")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let Ok(mut wire) = v1::Incident::decode(row.get_ref(4)?.as_blob()?) else {
            *n_unreadable += 1;
            continue;
        };
        let entries =
            timeline.query_map([&id], |row| Ok(v1::TimelineEntry { at_wall_usec: row.get(0)?, text: row.get(1)? }))?;
        wire.timeline = entries.collect::<rusqlite::Result<_>>()?;
        let aside = Aside { place: row.get(1)?, quiet_since_wall_usec: row.get(2)?, based_on: row.get(3)? };
        match Incident::restore(wire, aside) {
            Some(incident) => incidents.push(incident),
            None => *n_unreadable += 1,
        }
    }
    Ok(incidents)
}

/// What was written came from a `u64` below `i64::MAX`.
fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
