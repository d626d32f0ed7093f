//! Block devices under VMs: stalled, replaced under a running QEMU, claimed by somebody else, without paths or quorum.
//!
//! A device that has requests and finishes none is stalled, whatever QEMU's threads show: with asynchronous I/O none of them
//! waits in the kernel. A device that QEMU holds is today's when sysfs still knows its number, no other disk has taken it
//! (`diskseq`), and the kubelet's node of the volume leads to it.

use std::collections::{BTreeMap, BTreeSet};

use kulprit_host::block::DiskCounters;
use kulprit_host::captured::Descriptor;
use kulprit_host::command::block::{BlockRow, DrbdRow};
use kulprit_host::hardware::StoragePath;
use kulprit_host::mount::DeviceNumber;
use kulprit_host::volume::{
    DrbdDevice, DrbdPeer, IscsiSession, Layer, MAX_LAYERS_OF_ALL, MultipathMap, NvmeController, PodDevice, PodNode,
};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Status, Subject, attribute};

use super::{NO_ANSWER_USEC, backend_of_layer, stack_of};
use crate::command::storage::{judge_block_tree, judge_drbd};
use crate::filesystem::{FAILED_IN_MULTIPATH, judge_paths};
use crate::launcher::judge_open_devices;
use crate::say::{PROCFS, Reading, SYSFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

/// The daemon's answer.
const MULTIPATHD: &str = "multipathd";

/// What is remembered of each device.
#[derive(Clone, Debug, Default)]
pub struct StallHistory(BTreeMap<String, Work>);

/// What a device had done at the last look.
#[derive(Clone, Copy, Debug)]
struct Work {
    finished: u64,
    /// Since when it has finished nothing while requests wait. `None`: none waited.
    waiting_since: Option<Moment>,
    /// Whether it was seen to finish something, or to be idle, before that: else they may have waited for as long as one likes.
    has_answered: bool,
}

impl Work {
    fn is_undecided(&self) -> bool {
        self.waiting_since.is_some() && !self.has_answered
    }

    /// What a device does now, by what it did `before`.
    fn new(at: Moment, row: &DiskCounters, before: Option<&Self>) -> Self {
        let finished = row.finished_total();
        // A counter that fell is another disk's.
        let before = before.filter(|before| before.finished <= finished);
        let (waiting_since, has_answered) = match before {
            // A device that was idle has kept nobody waiting.
            _ if row.n_inflight == 0 => (None, true),
            Some(before) if before.finished == finished => {
                (Some(before.waiting_since.unwrap_or(at)), before.has_answered)
            }
            Some(_) => (Some(at), true),
            None => (Some(at), false),
        };
        Self { finished, waiting_since, has_answered }
    }
}

impl StallHistory {
    /// Whether requests wait in a device of which nobody has seen for how long.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.0.values().any(Work::is_undecided)
    }
}

/// `DeviceStalled` of each device on which something of a VM lies. `tops`: their names.
#[must_use]
pub fn judge_stalls(
    at: Moment,
    tops: &[&str],
    layers: &BTreeMap<String, Layer>,
    counters: &Reading<Vec<DiskCounters>>,
    history: &mut StallHistory,
) -> Vec<Verdict> {
    let code = FindingCode::DeviceStalled;
    let mut now = BTreeMap::new();
    let mut verdicts = Vec::new();
    for top in tops {
        let subject = Subject::Device { name: (*top).to_owned() };
        let stack = stack_of(layers, top);
        let backend = stack.iter().find_map(|layer| backend_of_layer(layer));
        let facts = || Attributes::new().with(attribute::DEVICE_NAME, top).with_some(attribute::BACKEND, backend);
        let is_suspended = |layer: &&&Layer| layer.dm.as_ref().and_then(|dm| dm.is_suspended) == Some(true);
        if let Some(held) = stack.iter().find(is_suspended) {
            let facts = facts().with(attribute::WHAT, "suspended").with(attribute::OBJECT, &held.name);
            let text = format!("device mapper holds all I/O of {} back (suspended)", held.name);
            verdicts.push(Verdict::State(present(code, &subject, at, SYSFS, facts, text)));
            continue;
        }
        let counters = match counters {
            Ok(counters) => counters,
            Err(error) => {
                verdicts.push(Verdict::State(unknown(code, &subject, error.as_str())));
                continue;
            }
        };
        let mut own = None;
        let mut lowest = None;
        for layer in &stack {
            let Some(row) = counters.iter().find(|row| row.name == layer.name) else { continue };
            let work = Work::new(at, row, history.0.get(&row.name));
            now.insert(row.name.clone(), work);
            let stalled = work.waiting_since.filter(|since| at.usec_since(*since) >= NO_ANSWER_USEC);
            if layer.name == *top {
                own = Some((row, stalled, work));
            }
            if stalled.is_some() {
                lowest = Some(layer.name.as_str());
            }
        }
        verdicts.push(Verdict::State(match own {
            None if stack.is_empty() => {
                let why = format!(
                    "{top} was not looked at: of devices and what they stand on at most {MAX_LAYERS_OF_ALL} are"
                );
                unknown(code, &subject, why)
            }
            None => unknown(code, &subject, format!("`/proc/diskstats` does not list {top}")),
            Some((row, Some(since), _)) => {
                let secs = at.usec_since(since) / 1_000_000;
                let text = format!("{top} has {} requests waiting and finished none for {secs} s", row.n_inflight);
                let facts = facts().with(attribute::WHAT, "no-completion").with_some(attribute::OBJECT, lowest);
                StateVerdict { since: Some(since), ..present(code, &subject, at, PROCFS, facts, text) }
            }
            Some((row, None, work)) if work.is_undecided() => {
                let n = row.n_inflight;
                unknown(
                    code,
                    &subject,
                    format!("{n} requests of {top} are under way, and nobody has seen for how long"),
                )
            }
            Some((row, None, _)) => {
                let text =
                    format!("{top} has finished {} requests, {} are under way", row.finished_total(), row.n_inflight);
                StateVerdict { attributes: facts(), ..absent(code, &subject, at, PROCFS, text) }
            }
        }));
    }
    history.0 = now;
    verdicts
}

/// A block device that a QEMU has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDevice {
    /// Descriptor.
    pub fd: u32,
    /// Path in QEMU's own root when it was opened.
    pub path: String,
    /// Its number.
    pub device: DeviceNumber,
    /// Whether that path has been removed.
    pub is_deleted: bool,
    /// Name of the device that has this number today; `None` when none has.
    pub name: Reading<Option<String>>,
    /// `diskseq` of that number when this QEMU was first seen with it, and today. `None` where the kernel does not say.
    pub sequences: Option<(u64, u64)>,
}

/// `StaleDevice` of a VM. `pod`: the raw block volumes of its pod; empty on a plain host.
#[must_use]
pub fn judge_stale(
    vm: &Subject,
    at: Moment,
    open: &Reading<Vec<OpenDevice>>,
    pod: &Reading<Vec<PodDevice>>,
) -> Verdict {
    let descriptors = open.as_ref().map_err(Clone::clone).map(|open| {
        let row = |row: &OpenDevice| Descriptor { fd: row.fd, target: row.path.clone(), is_deleted: row.is_deleted };
        Some(open.iter().map(row).collect())
    });
    let paths: Vec<String> = open.iter().flatten().map(|row| row.path.clone()).collect();
    let by_name = judge_open_devices(vm, at, &descriptors, &paths);
    let Ok(open) = open else { return by_name };
    if matches!(&by_name, Verdict::State(state) if state.status != Status::Absent) {
        return by_name;
    }
    let code = FindingCode::StaleDevice;
    let says = |what: &str, row: &OpenDevice, text: String| {
        let facts = Attributes::new()
            .with(attribute::WHAT, what)
            .with(attribute::PATH, &row.path)
            .with(attribute::DEVICE, row.device)
            .with_some(attribute::DEVICE_NAME, row.name.iter().flatten().next());
        Verdict::State(present(code, vm, at, SYSFS, facts, text))
    };
    if let Some(row) = open.iter().find(|row| row.name == Ok(None)) {
        let text = format!("QEMU has {} ({}) open, and the node has no such device any more", row.path, row.device);
        return says("gone", row, text);
    }
    let is_other = |row: &&OpenDevice| row.sequences.is_some_and(|(first, now)| first != now);
    if let Some(row) = open.iter().find(is_other) {
        let text = format!("QEMU has {} ({}) open, and another disk has that number today", row.path, row.device);
        return says("replaced", row, text);
    }
    let pod = match pod {
        Ok(pod) => pod,
        Err(error) => return Verdict::State(unknown(code, vm, error.as_str())),
    };
    let is_open = |device: DeviceNumber| open.iter().any(|row| row.device == device);
    let is_todays = |row: &OpenDevice| pod.iter().any(|today| today.node == PodNode::Block(row.device));
    // A volume that was plugged in later is another pod's, and its device none of these: so both must be without the other.
    let unheld = pod.iter().find_map(|today| match today.node {
        PodNode::Block(device) => (!is_open(device)).then(|| (today, format!("{device} today"))),
        PodNode::Gone => Some((today, "gone today".to_owned())),
        PodNode::Other => Some((today, "no block device today".to_owned())),
    });
    match (unheld, open.iter().find(|row| !is_todays(row))) {
        (Some((today, now)), Some(row)) => {
            let text = format!("QEMU has {} ({}) open; the volume {} is {now}", row.path, row.device, today.volume);
            says("replaced", row, text)
        }
        _ => match open.iter().find_map(|row| row.name.as_ref().err()) {
            Some(why) => Verdict::State(unknown(code, vm, why.as_str())),
            None => by_name,
        },
    }
}

/// `PathsFailed` of the disks, sessions and controllers of a recorded tree, as [`judge_layer_paths`] has them, and `BlockDeviceGone` of
/// those that say so themselves: the kernel's log of that time may not have been recorded.
#[must_use]
pub fn judge_recorded_paths(
    at: Moment,
    layers: &BTreeMap<String, Layer>,
    sessions: &[IscsiSession],
    controllers: &[NvmeController],
) -> Vec<Verdict> {
    judge_ways(at, layers, sessions, controllers, None)
}

/// `PathsFailed` of the disks, sessions and controllers that say their state. What was taken away is told by the kernel's log.
///
/// Ways to one thing are judged together: disks below a multipath device as that device, controllers as their subsystem, sessions as
/// their target; of targets that have a multipath device in common as the first of them.
///
/// `multipath`: what multipathd says of its maps, or why it hangs; `None` where it was not asked. A path is up when both the disk and
/// multipathd say so: while multipathd hangs, nobody knows of a path that looks well to SCSI.
#[must_use]
pub fn judge_layer_paths(
    at: Moment,
    layers: &BTreeMap<String, Layer>,
    sessions: &[IscsiSession],
    controllers: &[NvmeController],
    multipath: Option<&Reading<Vec<MultipathMap>>>,
) -> Vec<Verdict> {
    let mut verdicts = judge_ways(at, layers, sessions, controllers, multipath);
    verdicts.retain(|verdict| matches!(verdict, Verdict::State(_)));
    verdicts
}

fn judge_ways(
    at: Moment,
    layers: &BTreeMap<String, Layer>,
    sessions: &[IscsiSession],
    controllers: &[NvmeController],
    multipath: Option<&Reading<Vec<MultipathMap>>>,
) -> Vec<Verdict> {
    let map_of = |device: &str| multipath?.as_ref().ok()?.iter().find(|map| map.device == device);
    let disk = |layer: &Layer| {
        let above = layers.values().find(|above| above.is_multipath() && above.below.contains(&layer.name));
        let path = above.and_then(|above| map_of(&above.name)?.paths.iter().find(|path| path.device == layer.name));
        let state = match path {
            Some(path) if path.is_failed() => Some(FAILED_IN_MULTIPATH.to_owned()),
            Some(_) | None => layer.state.clone(),
        };
        Some(StoragePath {
            name: layer.name.clone(),
            state: state?,
            multipath: above.map(|above| above.name.clone()),
            target: None,
        })
    };
    let maps_of = |session: &IscsiSession| -> BTreeSet<&str> {
        let is_its = |disk: &String| layers.get(disk).is_some_and(|disk| disk.session.as_ref() == Some(&session.name));
        let maps = layers.values().filter(|above| above.is_multipath() && above.below.iter().any(is_its));
        maps.map(|map| map.name.as_str()).collect()
    };
    let maps: Vec<BTreeSet<&str>> = sessions.iter().map(maps_of).collect();
    let session = |(row, own): (&IscsiSession, &BTreeSet<&str>)| {
        let ways = sessions.iter().zip(&maps).filter(|(way, maps)| way.target == row.target || !own.is_disjoint(maps));
        Some(StoragePath {
            name: row.name.clone(),
            state: row.state.clone()?,
            multipath: ways.filter_map(|(way, _)| way.target.clone()).min(),
            target: row.target.clone(),
        })
    };
    let controller = |row: &NvmeController| {
        Some(StoragePath {
            name: row.name.clone(),
            state: row.state.clone()?,
            multipath: row.subsystem.clone(),
            target: row.portal.clone(),
        })
    };
    let paths: Vec<StoragePath> = layers
        .values()
        .filter_map(disk)
        .chain(sessions.iter().zip(&maps).filter_map(session))
        .chain(controllers.iter().filter_map(controller))
        .collect();
    let mut verdicts = judge_paths(at, &paths);
    let is_bare = |layer: &&Layer| layer.is_multipath() && layer.below.is_empty();
    verdicts.extend(layers.values().filter(is_bare).filter_map(|map| judge_map(at, map)));
    for verdict in &mut verdicts {
        let Verdict::State(state) = verdict else { continue };
        let Subject::Device { name } = &state.subject else { continue };
        if !layers.get(name).is_some_and(Layer::is_multipath) {
            continue;
        }
        match (multipath, map_of(name)) {
            (Some(Err(why)), _) if state.status == Status::Absent => {
                *state = unknown(FindingCode::PathsFailed, &state.subject, why.as_str());
            }
            (_, Some(map)) => {
                let n_failed = map.paths.iter().filter(|path| path.is_failed()).count();
                let (n_paths, queueing) = (map.paths.len(), &map.queueing);
                let text = format!("{n_failed} of {n_paths} paths of {} failed, queueing {queueing}", map.name);
                state.evidence.push(Evidence::new(MULTIPATHD, at, text));
                if state.status == Status::Present {
                    state.attributes = std::mem::take(&mut state.attributes).with(attribute::QUEUEING, queueing);
                }
            }
            (_, None) => {}
        }
    }
    verdicts
}

/// `PathsFailed` of a multipath device of which no path is known: it stands on nothing, or nobody can tell on what.
fn judge_map(at: Moment, map: &Layer) -> Option<Verdict> {
    let (code, subject) = (FindingCode::PathsFailed, Subject::Device { name: map.name.clone() });
    Some(Verdict::State(match map.dm.as_ref()?.n_below {
        Some(0) => {
            let facts = Attributes::new()
                .with(attribute::WHAT, "all")
                .with(attribute::DEVICE_NAME, &map.name)
                .with(attribute::BACKEND, "multipath");
            present(code, &subject, at, SYSFS, facts, format!("{} has no path left", map.name))
        }
        Some(_) => return None,
        None => unknown(code, &subject, format!("the paths of {} could not be listed", map.name)),
    }))
}

/// Whether a peer of DRBD is connected; `None` where its state could not be read, or is no word that is known.
///
/// Source: `drbd_conn_s_names` of version 8, `drbd_repl_s_names` of version 9. There `Off` is every volume of a connection that is
/// lost, but also one that a connected peer does not replicate (yet): what tells them apart is the peer's role.
fn is_connected(peer: &DrbdPeer) -> Option<bool> {
    match peer.state.as_deref()? {
        "Connected" | "Established" | "StartingSyncS" | "StartingSyncT" | "WFBitMapS" | "WFBitMapT" | "WFSyncUUID"
        | "SyncSource" | "SyncTarget" | "VerifyS" | "VerifyT" | "PausedSyncS" | "PausedSyncT" | "Ahead" | "Behind" => {
            Some(true)
        }
        "StandAlone" | "Disconnecting" | "Unconnected" | "Timeout" | "BrokenPipe" | "NetworkFailure"
        | "ProtocolError" | "TearDown" | "WFConnection" | "WFReportParams" => Some(false),
        "Off" => peer.role.as_deref().map(|role| role != "Unknown"),
        _ => None,
    }
}

/// `ReplicationSuspended` and `PathsFailed` of the DRBD devices.
#[must_use]
pub fn judge_drbd_devices(at: Moment, devices: &[DrbdDevice]) -> Vec<Verdict> {
    let row = |device: &DrbdDevice| {
        let lost = device.peers.iter().filter(|peer| is_connected(peer) == Some(false));
        DrbdRow {
            name: format!("drbd{}", device.minor),
            suspended: device.is_suspended.map(|is_suspended| if is_suspended { "yes" } else { "no" }.to_owned()),
            disk: device.disk.clone(),
            lost_peers: lost.map(|peer| (peer.name.clone(), peer.state.clone().unwrap_or_default())).collect(),
            ..DrbdRow::default()
        }
    };
    let mut verdicts = Vec::new();
    for device in devices {
        let row = row(device);
        let subject = Subject::Device { name: row.name.clone() };
        if device.is_suspended.is_none() {
            let why = format!("neither /proc/drbd nor debugfs says whether {} is suspended", row.name);
            verdicts.push(Verdict::State(unknown(FindingCode::ReplicationSuspended, &subject, why)));
        }
        let is_known = |verdict: &Verdict| {
            device.is_suspended.is_some()
                || !matches!(verdict, Verdict::State(state) if state.code == FindingCode::ReplicationSuspended)
        };
        let mut told = judge_drbd(at, SYSFS, std::slice::from_ref(&row));
        told.retain(is_known);
        if row.lost_peers.is_empty() && !device.peers.is_empty() {
            let unclear = device.peers.iter().find(|peer| is_connected(peer).is_none());
            told.push(Verdict::State(match unclear {
                Some(DrbdPeer { name, state: Some(state), .. }) => {
                    let why = format!("whether {} is connected to {name} is not told by `{state}`", row.name);
                    unknown(FindingCode::PathsFailed, &subject, why)
                }
                Some(DrbdPeer { name, state: None, .. }) => {
                    let why = format!("the state of {} at {name} could not be read", row.name);
                    unknown(FindingCode::PathsFailed, &subject, why)
                }
                None => {
                    let text = format!("{} is connected to {} peers", row.name, device.peers.len());
                    absent(FindingCode::PathsFailed, &subject, at, SYSFS, text)
                }
            }));
        }
        for verdict in &mut told {
            if let Verdict::State(state) = verdict {
                let attributes = std::mem::take(&mut state.attributes);
                state.attributes = attributes
                    .with(attribute::BACKEND, "drbd")
                    .with(attribute::DEVICE_NAME, &row.name)
                    .with_some(attribute::VOLUME, device.resource.as_deref());
            }
        }
        verdicts.extend(told);
    }
    verdicts
}

/// A disk that is a volume by itself: nothing of the node's own may stand on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDisk {
    /// Its name: `rbd0`, `sdd`.
    pub name: String,
}

/// `DeviceClaimed` of each disk. `layers` has them and what stands on them; `used`: numbers that are mounted or open.
#[must_use]
pub fn judge_claims(
    at: Moment,
    disks: &[VolumeDisk],
    layers: &BTreeMap<String, Layer>,
    used: &[DeviceNumber],
) -> Vec<Verdict> {
    let kind = |layer: &Layer| match layer.dm.as_ref().and_then(|dm| dm.uuid.as_deref()) {
        Some(uuid) if uuid.starts_with("mpath-") => Some("mpath"),
        Some(uuid) if uuid.starts_with("LVM-") => Some("lvm"),
        _ if layer.name.starts_with("md") => Some("raid"),
        _ => None,
    };
    let mut rows = Vec::new();
    for layer in layers.values() {
        let is_used = layer.device.is_some_and(|device| used.contains(&device));
        let row = |parent: Option<&String>| BlockRow {
            name: layer.name.clone(),
            parent: parent.cloned(),
            kind: kind(layer).map(str::to_owned),
            mount_point: is_used.then(|| "in use".to_owned()),
        };
        rows.extend(layer.below.iter().map(|below| row(Some(below))));
        if layer.below.is_empty() {
            rows.push(row(None));
        }
        for holder in layer.holders.iter().filter(|holder| !layers.contains_key(*holder)) {
            let parent = Some(layer.name.clone());
            rows.push(BlockRow { name: holder.clone(), parent, kind: None, mount_point: None });
        }
    }
    let claims = judge_block_tree(at, SYSFS, &rows);
    let judge = |disk: &VolumeDisk| {
        let subject = Subject::Device { name: disk.name.clone() };
        let is_its = |verdict: &&Verdict| matches!(verdict, Verdict::State(state) if state.subject == subject);
        claims.iter().find(is_its).cloned().unwrap_or_else(|| {
            let text = format!("nothing of the node's own holds {}", disk.name);
            Verdict::State(absent(FindingCode::DeviceClaimed, &subject, at, SYSFS, text))
        })
    };
    disks.iter().map(judge).collect()
}
