//! The CPU limits of VMs: how often each one's cgroup was throttled of late.
//!
//! A limit may be the container's, the pod's around it, or, on a plain host, that of one virtual processor or of the emulator:
//! the cgroup that throttles most counts. Reads are short and many, so they are made on a thread of their own. Where a cgroup
//! has pressure files (version 2), a VM's own stall times go to the flight recorder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kulprit_host::HostRoot;
use kulprit_host::cgroup::{CpuThrottling, controller_directories, parse_cpu_stat};
use kulprit_host::pressure::read_pressure;
use kulprit_host::process::Procfs;
use kulprit_judge::pressure::{StallWindow, ThrottleWindow, judge_throttling};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::{Moment, Subject};

use crate::probes::blocking::{Blocking, Late};
use crate::probes::counters::count;
use crate::probes::{ProbeContext, chain};
use crate::recorder::Figure;

/// Reading takes 30 µs for a VM.
const DEADLINE: Duration = Duration::from_secs(5);
/// Cgroups of one VM that are read: container, pod, and 32 virtual processors.
const MAX_CGROUPS: usize = 34;
const FIGURES: [(&str, Figure); 3] = [
    ("cpu.pressure", Figure { name: "cpu some", unit: "percent" }),
    ("memory.pressure", Figure { name: "memory some", unit: "percent" }),
    ("io.pressure", Figure { name: "io some", unit: "percent" }),
];

/// What is known of all VMs.
#[derive(Debug, Default)]
pub(super) struct Vms {
    rows: BTreeMap<String, Vm>,
    reading: Blocking,
}

#[derive(Debug, Default)]
struct Vm {
    by_cgroup: BTreeMap<PathBuf, ThrottleWindow>,
    stalls: [StallWindow; 3],
}

/// Where one VM's cgroups are to be looked for.
#[derive(Debug)]
struct Place {
    uid: String,
    /// Directories that are known, of a launcher; else its QEMU's pid.
    directories: Vec<PathBuf>,
    pid: u32,
}

/// What was read of one VM.
#[derive(Debug)]
struct Seen {
    uid: String,
    at: Moment,
    rows: Vec<(PathBuf, CpuThrottling)>,
    pressures: [Option<kulprit_host::pressure::Pressure>; 3],
    error: Option<String>,
}

impl Vms {
    /// Looks at every VM that runs. With `once` the counters since the container was made are judged.
    pub(super) async fn look(&mut self, context: &ProbeContext, once: bool) -> Vec<Verdict> {
        let places = places(context);
        self.rows.retain(|uid, _| places.iter().any(|place| place.uid == *uid));
        if places.is_empty() {
            return Vec::new();
        }
        let uids: Vec<String> = places.iter().map(|place| place.uid.clone()).collect();
        let (host, procfs) = (context.host.clone(), Procfs::new(&context.config.procfs));
        let clock = context.clock.clone();
        let read = move || places.iter().map(|place| read_vm(&host, &procfs, place, clock.now())).collect::<Vec<_>>();
        match self.reading.run(DEADLINE, read).await {
            Ok(seen) => seen.into_iter().filter_map(|seen| self.judge(context, seen, once)).collect(),
            Err(Late { for_secs }) => {
                let because = format!("reading the VMs' cgroups has not returned for {for_secs} s");
                let at = context.clock.now();
                uids.iter().map(|uid| judge_throttling(&Subject::vm(uid), at, &Err(because.clone()))).collect()
            }
        }
    }

    fn judge(&mut self, context: &ProbeContext, seen: Seen, once: bool) -> Option<Verdict> {
        let Seen { uid, at, rows, pressures, error } = seen;
        let vm = self.rows.entry(uid.clone()).or_default();
        for ((pressure, window), (_, figure)) in pressures.iter().zip(&mut vm.stalls).zip(FIGURES) {
            if let Some(pressure) = pressure {
                window.push(at, pressure);
                if let Some(share) = window.newest_pct() {
                    #[expect(clippy::cast_possible_truncation, reason = "a share in a picture")]
                    context.recorder.sample_vm(at, &uid, figure, share as f32);
                }
            }
        }
        let cpu: Reading<CpuThrottling> = match error {
            Some(error) => {
                count(&context.counters.errors, 1);
                Err(error)
            }
            None if once => Ok(most(rows.into_iter().map(|(_, stat)| stat))),
            None => {
                vm.by_cgroup.retain(|path, _| rows.iter().any(|(seen, _)| seen == path));
                for (path, stat) in rows {
                    vm.by_cgroup.entry(path).or_default().push(at, stat);
                }
                let recent: Vec<_> = vm.by_cgroup.values().filter_map(ThrottleWindow::recent).collect();
                if recent.is_empty() {
                    // Not watched for half a minute yet: nothing can be said.
                    return None;
                }
                Ok(most(recent.into_iter()))
            }
        };
        Some(judge_throttling(&Subject::vm(uid), at, &cpu))
    }
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
        let is_cpu = |controller: &str| controller.is_empty() || controller.split(',').any(|name| name == "cpu");
        let directories = of_launcher
            .map(|row| {
                row.cgroups.iter().filter(|row| is_cpu(&row.controller)).map(|row| row.directory.clone()).collect()
            })
            .unwrap_or_default();
        places.entry(process.uid.clone()).or_insert(Place { uid: process.uid, directories, pid });
    }
    places.into_values().collect()
}

fn read_vm(host: &HostRoot, procfs: &Procfs, place: &Place, at: Moment) -> Seen {
    let mut seen = Seen { uid: place.uid.clone(), at, rows: Vec::new(), pressures: [None; 3], error: None };
    let own = match place.directories.as_slice() {
        [] => match procfs.cgroups(place.pid) {
            Ok(rows) => controller_directories(&rows, "cpu"),
            Err(error) => {
                seen.error = Some(chain(&error));
                return seen;
            }
        },
        known => known.to_vec(),
    };
    let mut has_any = false;
    for directory in cgroups_of(host, &own) {
        // Version 2 without the cpu controller has the file and no such counters: nothing throttles there.
        let Ok(Some(text)) = host.read_text_if_any(directory.join("cpu.stat")) else { continue };
        has_any = true;
        seen.rows.extend(parse_cpu_stat(&text).ok().map(|stat| (directory.clone(), stat)));
    }
    for (index, (name, _)) in FIGURES.iter().enumerate() {
        seen.pressures[index] = own.iter().find_map(|directory| read_pressure(host, directory.join(name)).ok());
    }
    if !has_any {
        let shown = own.first().map(|path| host.display_path(path).display().to_string()).unwrap_or_default();
        seen.error = Some(format!("no `cpu.stat` in the VM's cgroup `{shown}`"));
    }
    seen
}

/// The VM's own cgroups, the pod or scope around them, and libvirt's cgroups of virtual processors beside them.
fn cgroups_of(host: &HostRoot, own: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in own {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // libvirt puts its emulator beside its virtual processors; version 1 too, below the machine's scope.
        let top = match name(directory).as_str() {
            "emulator" => directory.parent().unwrap_or(directory),
            _ => directory,
        };
        let around = top.ancestors().skip(1).find(|path| {
            let name = name(path);
            name.starts_with("pod") || name.contains("-pod") || name.ends_with(".scope")
        });
        let is_vcpu = |name: &String| name.starts_with("vcpu");
        let names = host.list(top).unwrap_or_default();
        let vcpus = names.into_iter().filter_map(|name| name.into_string().ok()).filter(is_vcpu);
        let vcpus = vcpus.map(|name| top.join(name));
        let all = [directory.clone(), top.to_path_buf()].into_iter().chain(around.map(Path::to_path_buf)).chain(vcpus);
        for path in all {
            if !found.contains(&path) && found.len() < MAX_CGROUPS {
                found.push(path);
            }
        }
    }
    found
}
