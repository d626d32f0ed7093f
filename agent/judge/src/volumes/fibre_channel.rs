//! LUNs of Fibre Channel: is a way left to them?
//!
//! Every node counts its adapters and ports for itself. What all of them know a LUN by is its `wwid`, and an array by the node name
//! of its ports, through whichever of them a node reaches it: by these two nodes are seen to share one. Of ports that stay lost the
//! kernel takes the disks away (`dev_loss_tmo`), and with them both names: so a LUN is remembered while its multipath device stands.

use std::collections::{BTreeMap, BTreeSet};

use kulprit_host::volume::{FcRemotePort, Layer};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use super::{Backend, top_of};
use crate::filesystem::is_path_up;
use crate::say::{SYSFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

const CODE: FindingCode = FindingCode::BackendUnreachable;

/// What is remembered of each LUN, by its `wwid`.
#[derive(Clone, Debug, Default)]
pub struct FcHistory(BTreeMap<String, Lun>);

#[derive(Clone, Debug, Default)]
struct Lun {
    /// Device mapper's identity of the multipath device over it.
    map: Option<String>,
    /// Arrays, or ports of one that does not name itself, that it was ever reached by.
    targets: BTreeSet<String>,
}

/// `BackendUnreachable` of each LUN; its subject is the LUN's `wwid`.
#[must_use]
pub fn judge_fc_luns(
    at: Moment,
    layers: &BTreeMap<String, Layer>,
    ports: &[FcRemotePort],
    history: &mut FcHistory,
) -> Vec<Verdict> {
    let mut ways: BTreeMap<&str, Vec<&Layer>> = BTreeMap::new();
    for layer in layers.values().filter(|layer| layer.remote_port.is_some()) {
        if let Some(wwid) = &layer.wwid {
            ways.entry(wwid).or_default().push(layer);
        }
    }
    let uuid = |layer: &Layer| layer.dm.as_ref().and_then(|dm| dm.uuid.clone());
    for (wwid, rows) in &ways {
        let lun = history.0.entry((*wwid).to_owned()).or_default();
        let is_above = |above: &&Layer| above.is_multipath() && rows.iter().any(|row| above.below.contains(&row.name));
        lun.map = layers.values().find(is_above).and_then(uuid).or(lun.map.take());
        let own = ports.iter().filter(|port| rows.iter().any(|row| row.remote_port.as_ref() == Some(&port.name)));
        lun.targets.extend(own.filter_map(|port| port.node_name.clone().or_else(|| port.port_name.clone())));
    }
    let bare = |lun: &Lun| {
        let map = lun.map.as_ref()?;
        layers.values().find(|layer| layer.below.is_empty() && uuid(layer).as_ref() == Some(map))
    };
    history.0.retain(|wwid, lun| ways.contains_key(wwid.as_str()) || bare(lun).is_some());
    let judge = |(wwid, lun): (&String, &Lun)| {
        let rows = ways.get(wwid.as_str()).map(Vec::as_slice).unwrap_or_default();
        let device = rows.first().copied().or_else(|| bare(lun)).map(|layer| top_of(layers, &layer.name));
        let targets = lun.targets.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let server = Some(targets).filter(|targets| !targets.is_empty());
        let facts = Backend { kind: Some("fc"), server, export: Some(wwid.clone()) }
            .facts()
            .with_some(attribute::DEVICE_NAME, device);
        judge_lun(at, wwid, rows, bare(lun), facts)
    };
    history.0.iter().map(judge).map(Verdict::State).collect()
}

/// `rows`: the disks that are ways to it; without any, `bare` is the multipath device that had some.
fn judge_lun(at: Moment, wwid: &str, rows: &[&Layer], bare: Option<&Layer>, facts: Attributes) -> StateVerdict {
    let subject = Subject::Mount { point: wwid.to_owned() };
    let lost = |facts: Attributes, text: String| {
        present(CODE, &subject, at, SYSFS, facts.with(attribute::FAILURE, "not_connected"), text)
    };
    if let Some(map) = bare.filter(|_| rows.is_empty()) {
        return match map.dm.as_ref().and_then(|dm| dm.n_below) {
            Some(_) => lost(facts, format!("no way to {wwid} is left below {}", map.name)),
            None => unknown(CODE, &subject, format!("the paths of {} could not be listed", map.name)),
        };
    }
    let is_up = |row: &&Layer| row.state.as_deref().and_then(is_path_up);
    let shown = rows.iter().map(|row| format!("{} is {}", row.name, row.state.as_deref().unwrap_or("silent")));
    let text = format!("{wwid}: {}", shown.collect::<Vec<_>>().join(", "));
    if rows.iter().any(|row| is_up(row) == Some(true)) {
        return StateVerdict { attributes: facts, ..absent(CODE, &subject, at, SYSFS, text) };
    }
    match rows.iter().all(|row| is_up(row) == Some(false)) {
        true => lost(facts, text),
        false => unknown(CODE, &subject, format!("not every way tells whether it is up: {text}")),
    }
}
