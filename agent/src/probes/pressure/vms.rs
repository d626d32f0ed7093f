//! The cgroups of VMs: how often each one was throttled of late, what it waits for, and kills at its memory limit.
//!
//! A limit may be the container's, the pod's around it, or, on a plain host, that of one virtual processor or of the emulator:
//! the cgroup that throttles most counts. Reads are short and many, so they are made on a thread of their own. Where a cgroup
//! has pressure files (version 2), a VM's own stall times go to the flight recorder too.

mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kulprit_host::cgroup::CpuThrottling;
use kulprit_host::process::Procfs;
use kulprit_judge::pressure::{
    StallWindow, ThrottleWindow, VmPressureLook, judge_throttling, judge_vm_pressure, new_limit_hits,
};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::{Moment, Subject};

use self::read::{Found, Place, Reader, Seen};
use super::kills::{Counted, Kills};
use crate::probes::ProbeContext;
use crate::probes::blocking::{Blocking, Late};
use crate::probes::counters::count;
use crate::recorder::Figure;

/// Reading takes 30 µs for a VM.
const DEADLINE: Duration = Duration::from_secs(5);
/// In the order in which they are judged.
const FIGURES: [(&str, Figure); 3] = [
    ("memory.pressure", Figure { name: "memory some", unit: "percent" }),
    ("io.pressure", Figure { name: "io some", unit: "percent" }),
    ("cpu.pressure", Figure { name: "cpu some", unit: "percent" }),
];

/// What is known of all VMs.
#[derive(Debug)]
pub(super) struct Vms {
    rows: BTreeMap<String, Vm>,
    reader: Option<Reader>,
    reading: Blocking,
}

#[derive(Debug, Default)]
struct Vm {
    by_cgroup: BTreeMap<PathBuf, ThrottleWindow>,
    stalls: [StallWindow; 3],
    kills: Kills,
}

impl Vms {
    pub(super) fn new(reading: Blocking) -> Self {
        Self { rows: BTreeMap::new(), reader: None, reading }
    }

    /// Looks at every VM that runs. With `once` the counters since the container was made are judged.
    pub(super) async fn look(&mut self, context: &ProbeContext, once: bool) -> Vec<Verdict> {
        let places = places(context);
        let runs = |uid: &String| places.iter().any(|place| place.uid == *uid);
        // Who was killed runs no more, and its cgroup may still be there to say so.
        self.rows.retain(|uid, vm| runs(uid) || vm.kills.outlives());
        let ended: Vec<(String, PathBuf)> = self
            .rows
            .iter()
            .filter(|(uid, _)| !runs(uid))
            .filter_map(|(uid, vm)| Some((uid.clone(), vm.kills.place()?.to_path_buf())))
            .collect();
        if places.is_empty() && ended.is_empty() {
            return Vec::new();
        }
        let uids: Vec<String> = places.iter().map(|place| place.uid.clone()).collect();
        let (host, clock) = (context.host.clone(), context.clock.clone());
        let new = || {
            let procfs = Procfs::new(&context.config.procfs);
            Reader::new(&context.host, procfs, context.config.cgroup_prefix.clone())
        };
        let read = move |reader: &mut Reader| {
            let seen = reader.read(places, || clock.now());
            let last = |(uid, place): (String, PathBuf)| (uid, Counted::read(&host, &place), clock.now());
            (seen, ended.into_iter().map(last).collect::<Vec<_>>())
        };
        match self.reading.run_with(DEADLINE, &mut self.reader, new, read).await {
            Ok((seen, ended)) => {
                let mut verdicts: Vec<Verdict> =
                    seen.into_iter().flat_map(|seen| self.judge(context, seen, once)).collect();
                for (uid, counted, at) in ended {
                    let Some(vm) = self.rows.get_mut(&uid) else { continue };
                    vm.kills.see_end();
                    verdicts.extend(vm.kills.push(&context.vms, &uid, at, counted));
                }
                verdicts
            }
            Err(Late { for_secs }) => {
                let because = format!("reading the VMs' cgroups has not returned for {for_secs} s");
                let at = context.clock.now();
                let blind = |uid: &String| unread(&Subject::vm(uid), at, &because);
                uids.iter().flat_map(blind).collect()
            }
        }
    }

    fn judge(&mut self, context: &ProbeContext, seen: Seen, once: bool) -> Vec<Verdict> {
        let Seen { uid, pod_uid, at, found } = seen;
        let subject = Subject::vm(&uid);
        let Found { rows, mut pressures, memory } = match found {
            Ok(found) => found,
            Err(error) => {
                count(&context.counters.errors, 1);
                return unread(&subject, at, &error);
            }
        };
        let vm = self.rows.entry(uid.clone()).or_default();
        for ((pressure, window), (_, figure)) in pressures.iter_mut().zip(&mut vm.stalls).zip(FIGURES) {
            let Ok(pressure) = pressure else { continue };
            window.push(at, pressure);
            if let Some(share) = window.newest_pct() {
                #[expect(clippy::cast_possible_truncation, reason = "a share in a picture")]
                context.recorder.sample_vm(at, &uid, figure, share as f32);
            }
            *pressure = window.averaged(pressure);
        }
        let counters = memory.as_ref().map(|counted| counted.memory);
        let before = vm.kills.counters(memory.as_ref());
        let n_limit_hits = before.zip(counters).map_or(0, |(before, now)| new_limit_hits(&before, &now));
        vm.kills.see_pod(pod_uid);
        let mut verdicts: Vec<Verdict> = vm.kills.push(&context.vms, &uid, at, memory).into_iter().collect();
        let look = VmPressureLook { at, subject: &subject, pressures, memory: counters, n_limit_hits };
        verdicts.push(judge_vm_pressure(&look));
        verdicts.extend(vm.throttling(&subject, at, rows, once));
        verdicts
    }
}

impl Vm {
    /// `VmCpuThrottled`; `None` while it has not been watched for half a minute: nothing can be said.
    fn throttling(
        &mut self,
        subject: &Subject,
        at: Moment,
        rows: Reading<Vec<(PathBuf, CpuThrottling)>>,
        once: bool,
    ) -> Option<Verdict> {
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return Some(judge_throttling(subject, at, &Err(error))),
        };
        if once {
            return Some(judge_throttling(subject, at, &Ok(most(rows.into_iter().map(|(_, stat)| stat)))));
        }
        self.by_cgroup.retain(|path, _| rows.iter().any(|(seen, _)| seen == path));
        for (path, stat) in rows {
            self.by_cgroup.entry(path).or_default().push(at, stat);
        }
        let recent: Vec<_> = self.by_cgroup.values().filter_map(ThrottleWindow::recent).collect();
        (!recent.is_empty()).then(|| judge_throttling(subject, at, &Ok(most(recent.into_iter()))))
    }
}

/// A VM whose cgroup could not be found or read.
fn unread(subject: &Subject, at: Moment, because: &str) -> Vec<Verdict> {
    let no = || Err(because.to_owned());
    let pressures = [no(), no(), no()];
    let look = VmPressureLook { at, subject, pressures, memory: None, n_limit_hits: 0 };
    vec![judge_vm_pressure(&look), judge_throttling(subject, at, &Err(because.to_owned()))]
}

/// The most throttled; of none, nothing was.
fn most(rows: impl Iterator<Item = CpuThrottling>) -> CpuThrottling {
    rows.max_by_key(|row| row.n_throttled).unwrap_or(CpuThrottling { n_periods: 0, n_throttled: 0 })
}

/// The VMs that run: those in launchers by their container's cgroup, others by their QEMU's.
fn places(context: &ProbeContext) -> Vec<Place> {
    let launchers = context.launchers.borrow().clone();
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for (pid, process) in context.vms.running() {
        let of_launcher = launchers.by_qemu(pid).or_else(|| launchers.by_vmi(&process.uid).next());
        let of = |name: &str| -> Vec<PathBuf> {
            let has = |list: &str| list.is_empty() || list.split(',').any(|one| one == name);
            let rows = of_launcher.iter().flat_map(|row| &row.cgroups);
            rows.filter(|row| has(&row.controller)).map(|row| row.directory.clone()).collect()
        };
        let (directories, memory) = (of("cpu"), of("memory"));
        let pod_uid = of_launcher.and_then(|row| row.pod_uid.clone());
        let place = Place { uid: process.uid.clone(), pod_uid, directories, memory, pid };
        places.entry(place.uid.clone()).or_insert(place);
    }
    places.into_values().collect()
}
