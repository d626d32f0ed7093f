//! The `filesystem` probe: is what the node and its VMs write to full, or read-only?
//!
//! The mount table is the kernel's memory and always answers; the kernel tells when it changes. Local file systems are asked
//! themselves, on a thread of their own; one whose answer comes over a network only by a child process that may be lost, and
//! seldom. A file system is asked once a look, however many mounts and VMs have it. Nothing is kept open below a mount.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kulprit_host::mount::{DeviceNumber, MountWatch, NODE_MOUNTS};
use kulprit_host::space::Space;
use kulprit_judge::filesystem::{Asked, judge_mounts, judge_space, judge_vm_read_only, judge_vm_space};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::Subject;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use self::read::{Place, Seen, VmDisks};
use super::blocking::{Blocking, Late};
use super::counters::count;
use super::{ProbeContext, ProbeSpec, chain};
use crate::sacrifice::{Lost, Task};

const NAME: &str = "filesystem";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether a file system that the node or a VM needs is full or read-only.",
    sources: "/proc/1/mountinfo (POLLPRI), cmdline of QEMU, its mountinfo at every fifth look and at each while its VM is a suspect, statfs of local file systems every 30 s, of others in a child process every 5 min; /proc/PID/fd and fdinfo of a QEMU with a disk on a read-only one",
    needs: "the host's mount namespace below its root; /proc/1/mountinfo; CAP_SYS_PTRACE for what QEMU has open",
    lost_without: "everything it says; without CAP_SYS_PTRACE whether a read-only file system is meant so",
    look_every: Duration::from_secs(30),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes 1 ms; a local disk that hangs makes it late.
const DEADLINE: Duration = Duration::from_secs(5);
/// Mounts come in bursts, some ten for a pod: changes of the table are looked at this often at most.
const SETTLE: Duration = Duration::from_secs(5);

async fn run(context: ProbeContext) {
    let mut probe = Probe {
        reading: context.blocking(),
        vms: BTreeMap::new(),
        remote: BTreeMap::new(),
        remote_at: None,
        said: BTreeSet::new(),
        watch: None,
        context,
    };
    if !probe.context.once {
        probe.watch = probe.open_watch();
    }
    loop {
        let look = probe.look().await;
        let began = Instant::now();
        if !probe.context.send(look).await || probe.context.once {
            return;
        }
        let (stop, beat) = (probe.context.stop.clone(), probe.context.beat);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = probe.changed() => tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(began + SETTLE) => {}
            },
            () = beat.wait(SPEC.look_every) => {}
        }
    }
}

struct Probe {
    context: ProbeContext,
    reading: Blocking,
    /// Where the disks of each QEMU lie; read once, again when libvirt tells of other disks.
    vms: BTreeMap<u32, VmDisks>,
    /// The last answers of file systems that answer over a network.
    remote: BTreeMap<DeviceNumber, Reading<Space>>,
    remote_at: Option<Instant>,
    /// Mount points that were spoken of.
    said: BTreeSet<String>,
    watch: Option<MountWatch>,
}

impl Probe {
    fn open_watch(&self) -> Option<MountWatch> {
        MountWatch::open(&self.context.host, NODE_MOUNTS)
            .inspect_err(|error| debug!(probe = NAME, error = %chain(error), "mounts are not watched, only polled"))
            .ok()
    }

    async fn changed(&mut self) {
        match &self.watch {
            Some(watch) => {
                if watch.changed().await.is_err() {
                    self.watch = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    async fn look(&mut self) -> crate::look::Look {
        let draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let running: Vec<(u32, String, Vec<String>)> = self
            .context
            .vms
            .running()
            .into_iter()
            .map(|(pid, process)| {
                let sources = self.context.vms.disks(&process.uid).into_iter().filter_map(|disk| disk.source);
                (pid, process.uid.clone(), sources.collect())
            })
            .collect();
        let (host, config) = (self.context.host.clone(), Arc::clone(&self.context.config));
        let known = std::mem::take(&mut self.vms);
        let suspects = Arc::clone(&self.context.suspects.borrow());
        let is_suspect = move |uid: &str| suspects.contains(uid);
        let read = self.reading.run(DEADLINE, move || read::read(&host, &config, &running, known, is_suspect)).await;
        let Seen { mounts, places, disks, vms, n_errors } = match read {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => {
                count(&self.context.counters.errors, 1);
                return draft.blind(chain(&error)).end(&self.context.clock);
            }
            Err(Late { for_secs }) => {
                let because = format!("a local file system has not answered for {for_secs} s");
                return draft.blind(because).end(&self.context.clock);
            }
        };
        count(&self.context.counters.errors, n_errors);
        self.vms = vms;
        self.ask_remote(&places).await;
        let asked = |place: &Place| {
            let of_remote = || {
                let not_yet = || Err("this file system answers over a network and was not yet asked".to_owned());
                self.remote.get(&place.device).cloned().unwrap_or_else(not_yet)
            };
            Asked {
                mount_point: place.mount_point.clone(),
                fs_type: place.fs_type.clone(),
                space: place.space.clone().unwrap_or_else(of_remote),
            }
        };
        let mut verdicts = judge_mounts(at, &mounts);
        verdicts
            .extend(places.iter().filter(|place| place.vm_uid.is_none()).map(|place| judge_space(at, &asked(place))));
        let mut by_vm: BTreeMap<&str, Vec<Asked>> = BTreeMap::new();
        for place in &places {
            if let Some(uid) = &place.vm_uid {
                by_vm.entry(uid).or_default().push(asked(place));
            }
        }
        let of_vms = by_vm.iter().filter_map(|(uid, rows)| judge_vm_space(at, &Subject::vm(*uid), rows));
        verdicts.extend(of_vms);
        verdicts.extend(disks.iter().filter_map(|(uid, disks)| judge_vm_read_only(at, &Subject::vm(uid), disks)));
        let said: BTreeSet<String> = verdicts.iter().filter_map(mount_point).collect();
        let gone: Vec<String> = std::mem::replace(&mut self.said, said).difference(&self.said).cloned().collect();
        let gone = gone.into_iter().map(|point| Subject::Mount { point });
        draft.verdicts(verdicts).gone(gone).end(&self.context.clock)
    }

    /// Asks every file system that answers over a network, each in a child of its own, all at once.
    async fn ask_remote(&mut self, places: &[Place]) {
        let now = Instant::now();
        let is_remote = |place: &&Place| place.space.is_none();
        self.remote.retain(|device, _| places.iter().filter(is_remote).any(|place| place.device == *device));
        let is_due = self.remote_at.is_none_or(|due| now >= due);
        let config = &self.context.config.filesystem;
        let mut asks = JoinSet::new();
        let mut begun: BTreeSet<DeviceNumber> = BTreeSet::new();
        for place in places.iter().filter(is_remote) {
            let is_new = !self.remote.contains_key(&place.device);
            if !(is_due || is_new) || !begun.insert(place.device) {
                continue;
            }
            let (sacrifice, deadline) = (Arc::clone(&self.context.sacrifice), config.remote_deadline.get());
            let task = Task::Space { root: place.root.clone(), path: PathBuf::from(&place.mount_point) };
            let (key, device) = (format!("mount/{}/{device}", place.mount_id, device = place.device), place.device);
            asks.spawn(async move { (device, deadline, sacrifice.ask::<Space>(&key, &task, deadline).await) });
        }
        if is_due {
            self.remote_at = Some(now + config.remote_every.get());
        }
        while let Some(asked) = asks.join_next().await {
            let Ok((device, deadline, asked)) = asked else { continue };
            let space = match asked {
                // Another probe's child is there just now: what was known stands.
                Err(Lost::Late { for_secs }) if Duration::from_secs(for_secs) < deadline => continue,
                asked => asked.map_err(|lost| chain(&lost)),
            };
            self.remote.insert(device, space);
        }
    }
}

fn mount_point(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::State(state) => match &state.subject {
            Subject::Mount { point } => Some(point.clone()),
            _ => None,
        },
        Verdict::Occurrence(_) => None,
    }
}

#[cfg(test)]
mod tests;
