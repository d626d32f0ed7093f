//! The `volumes` probe: the mounts and block devices under VMs.
//!
//! Every look is made of what the kernel remembers, on a blocking thread; a QEMU's files and what they stand on are read at a
//! slower pace. A mount of which that memory does not tell, or whose VM is suspect, is asked in a child process that may be
//! lost ([`crate::sacrifice`]); its answer is a look of its own when it comes.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kulprit_host::mount::Mount;
use kulprit_host::process::{ProcessId, Procfs};
use kulprit_host::volume::{MultipathMap, MultipathdError, ask_multipathd};
use kulprit_judge::volumes::{
    Asked, CephHistory, FcHistory, MountHistory, MountSeen, RbdSeen, StallHistory, judge_claims, judge_drbd_devices,
    judge_fc_luns, judge_iscsi_sessions, judge_layer_paths, judge_mount, judge_nvme_controllers, judge_rbd_images,
    judge_stale, judge_stalls,
};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::{FindingCode, Moment, Subject};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use self::read::{Reader, Seen, Target};
use super::blocking::{Blocking, Late};
use super::counters::count;
use super::{ProbeContext, ProbeSpec, chain};
use crate::look::Look;
use crate::sacrifice::{Lost, Reached, Task};

const NAME: &str = "volumes";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the mounts and block devices under VMs answer and are those that QEMU opened.",
    sources: "mountinfo, mountstats, /proc/diskstats, /sys/block, /sys/class/{iscsi_session,iscsi_connection,nvme,fc_remote_ports}, /sys/bus/rbd, /sys/fs/fuse, multipathd's socket, debugfs of Ceph and DRBD, /proc/drbd, /proc/PID/fd of QEMU, volumeDevices of pods; on suspicion statfs in a child process",
    needs: "CAP_SYS_PTRACE for QEMU's open devices; debugfs for Ceph and DRBD details; the node's network namespace for multipathd of earlier versions",
    lost_without: "stale devices without CAP_SYS_PTRACE; paths that only multipathd gave up without its socket; pending Ceph requests without debugfs",
    look_every: Duration::from_secs(10),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes some ms; only a disk of the node's own under the kubelet's folder can make it wait.
const READ_DEADLINE: Duration = Duration::from_secs(4);

/// multipathd answers in some ms; it waits up to 4 s for its own lock.
const MULTIPATHD_DEADLINE: Duration = Duration::from_secs(3);

/// Who looks but once waits for as long as tells a device that works from one that is stalled: 6 s.
const MAX_LOOKS_AT_ONCE: u32 = 6;
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// What a mount is known by: another mount at the same point is another one.
type MountKey = (u32, String);

struct Probe {
    context: ProbeContext,
    reader: Option<Reader>,
    reading: Blocking,
    read_files: Option<Instant>,
    histories: BTreeMap<MountKey, MountHistory>,
    stalls: StallHistory,
    ceph: CephHistory,
    fc: FcHistory,
    asks: JoinSet<(MountKey, Asked)>,
    /// When each mount was last asked about, and since when nobody has come back from it.
    asked: BTreeMap<MountKey, Asking>,
    seen: Option<Seen>,
    targets: Vec<Target>,
    /// Devices, targets and mounts that something was said of.
    told: BTreeSet<Subject>,
}

#[derive(Clone, Copy)]
struct Asking {
    at: Instant,
    is_under_way: bool,
    taken_since: Option<Instant>,
}

async fn run(context: ProbeContext) {
    let mut probe = Probe {
        reader: None,
        reading: context.blocking(),
        read_files: None,
        histories: BTreeMap::new(),
        stalls: StallHistory::default(),
        ceph: CephHistory::default(),
        fc: FcHistory::default(),
        asks: JoinSet::new(),
        asked: BTreeMap::new(),
        seen: None,
        targets: Vec::new(),
        told: BTreeSet::new(),
        context,
    };
    loop {
        let mut look = probe.look().await;
        if probe.context.once {
            for _ in 0..MAX_LOOKS_AT_ONCE {
                if !probe.stalls.is_undecided() {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN_EVERY).await;
                look = probe.look().await;
            }
            while let Some(Ok((key, asked))) = probe.asks.join_next().await {
                if let Some(answer) = probe.on_answer(key, asked) {
                    let is_newer = |verdict: &Verdict| {
                        answer.verdicts.iter().all(|newer| subject_of(newer) != subject_of(verdict))
                    };
                    look.verdicts.retain(is_newer);
                    look.verdicts.extend(answer.verdicts);
                }
            }
            probe.context.send(look).await;
            return;
        }
        if !probe.context.send(look).await {
            return;
        }
        let next = probe.context.beat.next(probe.context.config.volumes.every.get());
        loop {
            let context = &probe.context;
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return,
                Some(answer) = probe.asks.join_next() => {
                    let Ok((key, asked)) = answer else { continue };
                    if let Some(look) = probe.on_answer(key, asked) && !probe.context.send(look).await {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

fn subject_of(verdict: &Verdict) -> (FindingCode, &Subject) {
    match verdict {
        Verdict::State(state) => (state.code, &state.subject),
        Verdict::Occurrence(occurrence) => (occurrence.code, &occurrence.subject),
    }
}

impl Probe {
    /// The QEMUs that run, each with its pod where it is in one.
    fn find_targets(&self) -> Vec<Target> {
        let launchers = Arc::clone(&self.context.launchers.borrow());
        let suspects = Arc::clone(&self.context.suspects.borrow());
        let target = |(pid, process): (u32, Arc<super::VmProcess>)| Target {
            id: ProcessId { pid, start_time_ticks: process.start_ticks },
            pod_uid: launchers.by_qemu(pid).and_then(|launcher| launcher.pod_uid.clone()),
            is_suspect: suspects.contains(&process.uid),
            uid: process.uid.clone(),
        };
        self.context.vms.running().into_iter().map(target).collect()
    }

    async fn look(&mut self) -> Look {
        let draft = self.context.begin(NAME);
        let targets = self.find_targets();
        let is_new = |target: &Target| !self.targets.iter().any(|known| known.id == target.id);
        let is_due = self.read_files.is_none_or(|at| at.elapsed() >= self.context.config.volumes.files_every.get());
        let is_full = is_due
            || targets.len() != self.targets.len()
            || targets.iter().any(|target| target.is_suspect || is_new(target));
        let new = || Reader::new(Procfs::new(&self.context.config.procfs), self.context.host.clone());
        let asked = targets.clone();
        let read = move |reader: &mut Reader| reader.read(&asked, is_full);
        let seen = match self.reading.run_with(READ_DEADLINE, &mut self.reader, new, read).await {
            Ok(seen) => seen,
            Err(Late { for_secs }) => {
                let because = format!("reading sysfs and procfs has not returned for {for_secs} s");
                return draft.blind(because).end(&self.context.clock);
            }
        };
        if is_full {
            self.read_files = Some(Instant::now());
        }
        self.targets = targets;
        count(&self.context.counters.errors, seen.n_errors);
        if let Some(because) = seen.structure.blind_to_mounts.clone() {
            return draft.blind(because).end(&self.context.clock);
        }
        let multipath = if seen.has_multipathd { self.ask_multipathd().await } else { None };
        let verdicts = self.judge(self.context.clock.now(), &seen, multipath.as_ref());
        let gone = self.forget(&seen, &verdicts);
        self.seen = Some(seen);
        draft.verdicts(verdicts).gone(gone).end(&self.context.clock)
    }

    /// What multipathd says, or that it hangs; `None` where it says nothing.
    async fn ask_multipathd(&self) -> Option<Reading<Vec<MultipathMap>>> {
        match ask_multipathd(&self.context.host, MULTIPATHD_DEADLINE).await {
            Ok(maps) => maps.map(Ok),
            Err(error @ MultipathdError::Timeout { .. }) => Some(Err(chain(&error))),
            Err(error @ (MultipathdError::Io { .. } | MultipathdError::Malformed { .. })) => {
                count(&self.context.counters.errors, 1);
                debug!(probe = NAME, error = %chain(&error), "multipathd was not understood");
                None
            }
        }
    }

    fn judge(&mut self, at: Moment, seen: &Seen, multipath: Option<&Reading<Vec<MultipathMap>>>) -> Vec<Verdict> {
        let structure = &seen.structure;
        let mut verdicts = Vec::new();
        for vm in &structure.vms {
            verdicts.push(judge_stale(&Subject::vm(&vm.uid), at, &vm.open, &vm.pod));
        }
        for mount in &structure.mounts {
            verdicts.extend(self.judge_mount(at, seen, mount, None));
        }
        let tops: Vec<&str> = structure.tops.iter().map(String::as_str).collect();
        verdicts.extend(judge_stalls(at, &tops, &seen.layers, &seen.counters, &mut self.stalls));
        verdicts.extend(judge_iscsi_sessions(at, &seen.sessions, &seen.layers));
        verdicts.extend(judge_nvme_controllers(at, &seen.controllers, &seen.layers));
        verdicts.extend(judge_fc_luns(at, &seen.layers, &seen.fc_ports, &mut self.fc));
        verdicts.extend(judge_layer_paths(at, &seen.layers, &seen.sessions, &seen.controllers, multipath));
        let image = |(disk, image): &(String, kulprit_host::volume::RbdImage)| RbdSeen {
            n_inflight: seen.counters.iter().flatten().find(|row| row.name == *disk).map(|row| row.n_inflight),
            disk: disk.clone(),
            image: image.clone(),
        };
        let images: Vec<RbdSeen> = seen.images.iter().map(image).collect();
        verdicts.extend(judge_rbd_images(at, &images, &seen.ceph, &seen.layers, &mut self.ceph));
        verdicts.extend(judge_drbd_devices(at, &seen.drbd));
        verdicts.extend(judge_claims(at, &structure.disks, &seen.layers, &structure.used));
        verdicts
    }

    /// Judges one mount, and has it asked about where that is needed.
    fn judge_mount(&mut self, at: Moment, seen: &Seen, mount: &Mount, asked: Option<&Asked>) -> Option<Verdict> {
        let key = key_of(mount);
        let clients = seen.ceph.as_deref().unwrap_or_default();
        // A mount does not name its client; of several the one whose cluster it names, or none.
        let source = mount.source.as_deref().unwrap_or_default();
        let mut of_fs = clients.iter().filter(|client| mount.fs_type == "ceph" && client.mds.is_some()).peekable();
        let only = of_fs.next().filter(|_| of_fs.peek().is_none());
        let named = clients.iter().find(|client| client.mds.is_some() && source.contains(client.fsid.as_str()));
        let look = MountSeen {
            mount,
            nfs: seen.nfs.iter().find(|row| row.mount_point == mount.mount_point),
            fuse_waiting: seen
                .fuse_waiting
                .get(&mount.device.minor)
                .copied()
                .filter(|_| mount.fs_type.starts_with("fuse")),
            ceph: only.or(named),
            is_suspect: seen.structure.is_suspect(mount, &self.targets),
        };
        let verdict = judge_mount(at, &look, asked, self.histories.entry(key.clone()).or_default());
        if verdict.is_to_be_asked && asked.is_none() {
            self.ask(key, mount);
        }
        verdict.state.map(Verdict::State)
    }

    /// Sends a child to a mount, unless one is there or was there a short while ago.
    fn ask(&mut self, key: MountKey, mount: &Mount) {
        let config = &self.context.config.volumes;
        let is_too_soon = |asking: &Asking| {
            asking.is_under_way || asking.taken_since.is_none() && asking.at.elapsed() < config.ask_every.get()
        };
        if self.asked.get(&key).is_some_and(is_too_soon) {
            return;
        }
        let taken_since = self.asked.get(&key).and_then(|asking| asking.taken_since);
        self.asked.insert(key.clone(), Asking { at: Instant::now(), is_under_way: true, taken_since });
        let (sacrifice, deadline) = (Arc::clone(&self.context.sacrifice), config.ask_deadline.get());
        let task = Task::Reach { root: self.context.host.path().to_path_buf(), path: mount.mount_point.clone() };
        let place = format!("mount/{}/{}", mount.mount_id, mount.device);
        self.asks.spawn(async move {
            let asked = match sacrifice.ask::<Reached>(&place, &task, deadline).await {
                Ok(Reached { error: None }) => Asked::Answered,
                Ok(Reached { error: Some(error) }) => Asked::Failed { errno: error.errno, text: error.text },
                Err(Lost::Late { for_secs }) => Asked::Late { for_secs },
                Err(error @ (Lost::TooMany | Lost::Failed(_) | Lost::NoAnswer | Lost::Start(_))) => {
                    Asked::NotAsked(chain(&error))
                }
            };
            (key, asked)
        });
    }

    /// A child came back, or is late. `None` when that tells nothing.
    fn on_answer(&mut self, key: MountKey, asked: Asked) -> Option<Look> {
        let asking = self.asked.get_mut(&key)?;
        asking.is_under_way = false;
        let asked = match asked {
            // Somebody else's child may have come a moment ago: what counts is how long nobody has come back.
            Asked::Late { for_secs } => {
                let since = *asking.taken_since.get_or_insert(asking.at);
                let for_secs = for_secs.max(since.elapsed().as_secs());
                if for_secs < self.context.config.volumes.ask_deadline.get().as_secs() {
                    return None;
                }
                Asked::Late { for_secs }
            }
            other @ (Asked::Answered | Asked::Failed { .. } | Asked::NotAsked(_)) => {
                asking.taken_since = None;
                other
            }
        };
        let draft = self.context.begin(NAME);
        let seen = self.seen.take()?;
        let mount = seen.structure.mounts.iter().find(|mount| key_of(mount) == key);
        let verdict = mount.and_then(|mount| self.judge_mount(self.context.clock.now(), &seen, mount, Some(&asked)));
        self.seen = Some(seen);
        Some(draft.verdicts(Some(verdict?)).end(&self.context.clock))
    }

    /// What was told of and is there no more.
    fn forget(&mut self, seen: &Seen, verdicts: &[Verdict]) -> Vec<Subject> {
        let keys: BTreeSet<MountKey> = seen.structure.mounts.iter().map(key_of).collect();
        self.histories.retain(|key, _| keys.contains(key));
        self.asked.retain(|key, _| keys.contains(key));
        let is_thing = |subject: &&Subject| matches!(subject, Subject::Device { .. } | Subject::Mount { .. });
        let mut now: BTreeSet<Subject> =
            verdicts.iter().map(|verdict| subject_of(verdict).1).filter(is_thing).cloned().collect();
        // A mount of which nobody knows anything is still there.
        let points = seen.structure.mounts.iter().map(|mount| mount.mount_point.to_string_lossy().into_owned());
        now.extend(points.map(|point| Subject::Mount { point }));
        let gone = self.told.difference(&now).cloned().collect();
        self.told = now;
        gone
    }
}

fn key_of(mount: &Mount) -> MountKey {
    (mount.mount_id, mount.mount_point.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
