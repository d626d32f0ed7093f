//! Sessions and clients of storage: is anything left that leads to the server?
//!
//! A target or subsystem is reached while one of its sessions is; that some are lost is `PathsFailed`. A session that is down
//! holds I/O back until its recovery time is over and fails it then; both are a backend that is not reached. An image of RBD
//! has no session: its client's oldest request tells, where the image itself has requests that wait.

use std::collections::BTreeMap;

use kulprit_host::volume::{CephClient, IscsiSession, Layer, NvmeController, RbdImage};
use kulprit_model::{FindingCode, Moment, Subject, attribute};

use super::{Backend, NO_ANSWER_USEC, backend_of_target, top_of};
use crate::say::{Reading, SYSFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

const CODE: FindingCode = FindingCode::BackendUnreachable;

/// `BackendUnreachable` of each iSCSI target; its subject is the target's name.
#[must_use]
pub fn judge_iscsi_sessions(at: Moment, sessions: &[IscsiSession], layers: &BTreeMap<String, Layer>) -> Vec<Verdict> {
    let mut by_target: BTreeMap<&str, Vec<&IscsiSession>> = BTreeMap::new();
    for session in sessions {
        if let Some(target) = &session.target {
            by_target.entry(target).or_default().push(session);
        }
    }
    let judge = |(target, rows): (&str, Vec<&IscsiSession>)| {
        let rows: Vec<(&str, &str, Option<&str>)> = rows
            .into_iter()
            .filter_map(|row| Some((row.name.as_str(), row.state.as_deref()?, row.portal.as_deref())))
            .collect();
        let disk = layers.values().find(|layer| {
            layer.session.as_deref().is_some_and(|session| rows.iter().any(|(name, _, _)| *name == session))
        });
        let is_up = |state: &str| state == "LOGGED_IN";
        judge_group(at, backend_of_target(target), target, &rows, is_up, disk.map(|disk| top_of(layers, &disk.name)))
    };
    by_target.into_iter().filter_map(judge).collect()
}

/// `BackendUnreachable` of each NVMe subsystem; its subject is the subsystem's name.
#[must_use]
pub fn judge_nvme_controllers(
    at: Moment,
    controllers: &[NvmeController],
    layers: &BTreeMap<String, Layer>,
) -> Vec<Verdict> {
    /// Name, state and portal of a session.
    type Row<'a> = (&'a str, &'a str, Option<&'a str>);
    let mut by_subsystem: BTreeMap<&str, Vec<Row<'_>>> = BTreeMap::new();
    for row in controllers {
        if let (Some(subsystem), Some(state)) = (&row.subsystem, &row.state) {
            by_subsystem.entry(subsystem).or_default().push((&row.name, state, row.portal.as_deref()));
        }
    }
    let judge = |(subsystem, rows): (&str, Vec<Row<'_>>)| {
        let disk = layers.values().find(|layer| layer.subsystem.as_deref() == Some(subsystem));
        judge_group(at, "nvme", subsystem, &rows, |state| state == "live", disk.map(|disk| top_of(layers, &disk.name)))
    };
    by_subsystem.into_iter().filter_map(judge).collect()
}

/// `rows`: name, state and portal of each way. `None` when none says its state.
fn judge_group(
    at: Moment,
    kind: &'static str,
    export: &str,
    rows: &[(&str, &str, Option<&str>)],
    is_up: impl Fn(&str) -> bool,
    device: Option<&str>,
) -> Option<Verdict> {
    if rows.is_empty() {
        return None;
    }
    let mut portals: Vec<&str> = rows.iter().filter_map(|(_, _, portal)| *portal).collect();
    portals.sort_unstable();
    portals.dedup();
    let server = (!portals.is_empty()).then(|| portals.join(","));
    let facts = Backend { kind: Some(kind), server, export: Some(export.to_owned()) }
        .facts()
        .with_some(attribute::DEVICE_NAME, device);
    let subject = Subject::Mount { point: export.to_owned() };
    let shown: Vec<String> = rows.iter().map(|(name, state, _)| format!("{name} is {state}")).collect();
    let text = format!("{export}: {}", shown.join(", "));
    Some(Verdict::State(if rows.iter().any(|(_, state, _)| is_up(state)) {
        StateVerdict { attributes: facts, ..absent(CODE, &subject, at, SYSFS, text) }
    } else {
        present(CODE, &subject, at, SYSFS, facts.with(attribute::FAILURE, "not_connected"), text)
    }))
}

/// What is remembered of Ceph's clients: the oldest request of each, and since when it has been that.
#[derive(Clone, Debug, Default)]
pub struct CephHistory(BTreeMap<String, (u64, Moment)>);

/// An image of RBD under a VM.
#[derive(Clone, Debug)]
pub struct RbdSeen {
    /// Its disk, `rbd0`.
    pub disk: String,
    /// What it is.
    pub image: RbdImage,
    /// Requests that wait in the disk. `None` where that is not known.
    pub n_inflight: Option<u64>,
}

/// `BackendUnreachable` of each image; its subject is `pool/image`.
#[must_use]
pub fn judge_rbd_images(
    at: Moment,
    images: &[RbdSeen],
    clients: &Reading<Vec<CephClient>>,
    layers: &BTreeMap<String, Layer>,
    history: &mut CephHistory,
) -> Vec<Verdict> {
    let mut waits: BTreeMap<&str, (u64, Moment, &str)> = BTreeMap::new();
    if let Ok(clients) = clients {
        let mut now = BTreeMap::new();
        for client in clients {
            let Some(osd) = &client.osd else { continue };
            let Some(oldest) = osd.oldest else { continue };
            let since =
                history.0.get(&client.client).filter(|(known, _)| *known == oldest).map_or(at, |(_, since)| *since);
            now.insert(client.client.clone(), (oldest, since));
            waits.insert(&client.client, (oldest, since, osd.server.as_deref().unwrap_or("anybody")));
        }
        history.0 = now;
    }
    let judge = |seen: &RbdSeen| {
        let backend =
            Backend { kind: Some("ceph"), server: seen.image.fsid.clone(), export: Some(seen.image.name.clone()) };
        let facts = backend.facts().with(attribute::DEVICE_NAME, top_of(layers, &seen.disk));
        let subject = Subject::Mount { point: seen.image.name.clone() };
        let name = &seen.image.name;
        let client = match (clients, &seen.image.client) {
            (Err(error), _) => return unknown(CODE, &subject, error.as_str()),
            (Ok(clients), Some(id)) => clients.iter().find(|client| client.client == *id),
            (Ok(clients), None) => clients.first().filter(|_| clients.len() == 1),
        };
        let Some(client) = client.filter(|client| client.osd.is_some()) else {
            return unknown(CODE, &subject, format!("the requests of the client of {name} are not shown"));
        };
        match waits.get(client.client.as_str()) {
            Some((oldest, since, server)) if at.usec_since(*since) >= NO_ANSWER_USEC && seen.n_inflight != Some(0) => {
                let text = format!(
                    "request {oldest} of Ceph to {server} has no answer for {} s, and {name} waits",
                    at.usec_since(*since) / 1_000_000
                );
                let state = present(
                    CODE,
                    &subject,
                    at,
                    SYSFS,
                    facts.with(attribute::FAILURE, attribute::FAILURE_TIMEOUT),
                    text,
                );
                StateVerdict { since: Some(*since), ..state }
            }
            _ => {
                let text = format!("no request of {name} waits for Ceph");
                StateVerdict { attributes: facts, ..absent(CODE, &subject, at, SYSFS, text) }
            }
        }
    };
    images.iter().map(|seen| Verdict::State(judge(seen))).collect()
}
