//! What is read of a VM's cgroups, on the probe's blocking thread.
//!
//! Which files there are is found out when a VM is new, a few times while it starts (libvirt makes cgroups of processors after QEMU),
//! and every five minutes; in between they stay open and each is one read. A file that is gone has all of them looked for at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kulprit_host::cgroup::{CpuThrottling, MemoryCounters, controller_directories, parse_cpu_stat};
use kulprit_host::kept::{KeptBuffer, KeptFile};
use kulprit_host::pressure::{Pressure, read_kept_pressure};
use kulprit_host::process::Procfs;
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Reading;
use kulprit_model::Moment;

use super::FIGURES;
use crate::probes::chain;
use crate::probes::pressure::kills::Counted;

/// Cgroups of one VM that are read: container, pod, and 32 virtual processors.
const MAX_CGROUPS: usize = 34;
/// A VM's files are looked for anew at its looks 1, 2, 4, 8, 16 and every 32.
const LOOKS_OF_FILES: u32 = 32;

/// Where one VM's cgroups are to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) uid: String,
    /// The pod of its launcher.
    pub(super) pod_uid: Option<String>,
    /// Directories of the CPU and of the memory controller that are known, of a launcher; else its QEMU's pid.
    pub(super) directories: Vec<PathBuf>,
    pub(super) memory: Vec<PathBuf>,
    pub(super) pid: u32,
}

/// What was read of one VM.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) pod_uid: Option<String>,
    pub(super) at: Moment,
    pub(super) found: Reading<Found>,
}

/// The same of a VM whose cgroups are known.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rows: Reading<Vec<(PathBuf, CpuThrottling)>>,
    /// As [`FIGURES`].
    pub(super) pressures: [Reading<Pressure>; 3],
    pub(super) memory: Option<Counted>,
}

/// The files of all VMs.
#[derive(Debug)]
pub(super) struct Reader {
    host: HostRoot,
    procfs: Procfs,
    prefix: Option<String>,
    by_uid: BTreeMap<String, Files>,
    buffer: KeptBuffer,
}

/// The files of one VM.
#[derive(Debug)]
struct Files {
    place: Place,
    n_looks: u32,
    /// Where it was looked, for who finds nothing there.
    shown: String,
    /// Whether there is any `cpu.stat`.
    has_cpu_stat: bool,
    /// Those that count throttling.
    cpu: Vec<KeptFile>,
    /// As [`FIGURES`]; why there is none.
    pressures: [Reading<KeptFile>; 3],
    memory: Option<(PathBuf, MemoryCounters)>,
}

impl Reader {
    pub(super) fn new(host: &HostRoot, procfs: Procfs, prefix: Option<String>) -> Self {
        Self { host: host.clone(), procfs, prefix, by_uid: BTreeMap::new(), buffer: KeptBuffer::default() }
    }

    /// Reads the VMs; the files of all others are closed.
    pub(super) fn read(&mut self, places: Vec<Place>, now: impl Fn() -> Moment) -> Vec<Seen> {
        let mut before = std::mem::take(&mut self.by_uid);
        let mut seen = Vec::with_capacity(places.len());
        for place in places {
            let files = before.remove(&place.uid).filter(|files| files.place == place);
            let (uid, pod_uid, at) = (place.uid.clone(), place.pod_uid.clone(), now());
            let found = self.read_vm(place, files).map_err(|error| chain(&error));
            seen.push(Seen { uid, pod_uid, at, found });
        }
        seen
    }

    fn read_vm(&mut self, place: Place, files: Option<Files>) -> Result<Found, ReadError> {
        let n_looks = files.as_ref().map_or(0, |files| files.n_looks.saturating_add(1));
        let is_known = !n_looks.is_power_of_two() && !n_looks.is_multiple_of(LOOKS_OF_FILES);
        if let Some(mut files) = files.filter(|_| is_known)
            && let Some(found) = files.read(&mut self.buffer)
        {
            files.n_looks = n_looks;
            self.by_uid.insert(files.place.uid.clone(), files);
            return Ok(found);
        }
        let (mut files, found) = self.find(place)?;
        files.n_looks = n_looks;
        self.by_uid.insert(files.place.uid.clone(), files);
        Ok(found)
    }

    /// Looks for a VM's files, and reads them.
    fn find(&mut self, place: Place) -> Result<(Files, Found), ReadError> {
        let (host, buffer) = (&self.host, &mut self.buffer);
        let (own, memory) = match (place.directories.as_slice(), place.memory.as_slice()) {
            ([], []) => {
                let rows = self.procfs.cgroups(place.pid)?;
                let of = |controller| controller_directories(&rows, self.prefix.as_deref(), controller);
                (of("cpu"), of("memory"))
            }
            (own, memory) => (own.to_vec(), memory.to_vec()),
        };
        let mut rows = Vec::new();
        let mut cpu = Vec::new();
        let mut has_cpu_stat = false;
        for directory in cgroups_of(host, &own) {
            let mut file = KeptFile::new(host, directory.join("cpu.stat"));
            let Ok(row) = read_throttling(&mut file, buffer) else { continue };
            has_cpu_stat = true;
            if let Some(row) = row {
                rows.push(row);
                cpu.push(file);
            }
        }
        let [one, other, third] = FIGURES.map(|(name, _)| find_pressure(host, &own, name, buffer));
        let (pressures, seen) = ([one.0, other.0, third.0], [one.1, other.1, third.1]);
        let shown = own.first().map(|path| host.display_path(path).display().to_string()).unwrap_or_default();
        let (memory, counted) = find_memory(host, &memory, buffer).unzip();
        let files = Files { place, n_looks: 0, shown, has_cpu_stat, cpu, pressures, memory };
        let found = Found { rows: files.rows(rows), pressures: seen, memory: counted };
        Ok((files, found))
    }
}

impl Files {
    /// `None` when one of them is gone.
    fn read(&mut self, buffer: &mut KeptBuffer) -> Option<Found> {
        let mut rows = Vec::with_capacity(self.cpu.len());
        for file in &mut self.cpu {
            rows.extend(read_throttling(file, buffer).ok()?);
        }
        let mut read = |file: &mut Reading<KeptFile>| match file {
            Ok(file) => match read_kept_pressure(file, buffer) {
                Err(error) if error.is_not_found() => None,
                result => Some(result.map_err(|error| chain(&error))),
            },
            Err(because) => Some(Err(because.clone())),
        };
        let [one, other, third] = &mut self.pressures;
        let pressures = [read(one)?, read(other)?, read(third)?];
        let memory = match &mut self.memory {
            Some((place, counters)) => Some(Counted { place: place.clone(), memory: counters.read(buffer).ok()? }),
            None => None,
        };
        Some(Found { rows: self.rows(rows), pressures, memory })
    }

    fn rows(&self, rows: Vec<(PathBuf, CpuThrottling)>) -> Reading<Vec<(PathBuf, CpuThrottling)>> {
        match self.has_cpu_stat {
            true => Ok(rows),
            false => Err(format!("no `cpu.stat` in the VM's cgroup `{}`", self.shown)),
        }
    }
}

/// What a `cpu.stat` says; `Ok(None)`: version 2 without the cpu controller has no such counters, and nothing throttles there.
fn read_throttling(
    file: &mut KeptFile,
    buffer: &mut KeptBuffer,
) -> Result<Option<(PathBuf, CpuThrottling)>, ReadError> {
    let stat = parse_cpu_stat(file.read(buffer)?).ok();
    Ok(stat.map(|stat| (file.path().parent().unwrap_or(Path::new("")).to_path_buf(), stat)))
}

/// The first of a VM's cgroups that has this pressure file, and what it says.
fn find_pressure(
    host: &HostRoot,
    own: &[PathBuf],
    name: &str,
    buffer: &mut KeptBuffer,
) -> (Reading<KeptFile>, Reading<Pressure>) {
    let mut because = "no cgroup of the VM is known".to_owned();
    for directory in own {
        let mut file = KeptFile::new(host, top_of(directory).join(name));
        match read_kept_pressure(&mut file, buffer) {
            Ok(pressure) => return (Ok(file), Ok(pressure)),
            Err(error) => because = chain(&error),
        }
    }
    (Err(because.clone()), Err(because))
}

/// The counters of the pod or scope, which include those of what is in it; in version 1 they do not.
fn find_memory(
    host: &HostRoot,
    own: &[PathBuf],
    buffer: &mut KeptBuffer,
) -> Option<((PathBuf, MemoryCounters), Counted)> {
    let is_v1 = |path: &Path| path.starts_with("sys/fs/cgroup/memory");
    let around = own.iter().filter(|path| !is_v1(path)).filter_map(|path| around(path));
    around.chain(own.iter().map(PathBuf::as_path)).find_map(|path| {
        let (counters, memory) = MemoryCounters::find(host, path, buffer).ok()?;
        Some(((path.to_owned(), counters), Counted { place: path.to_owned(), memory }))
    })
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// libvirt puts its emulator beside its virtual processors; version 1 too, below the machine's scope.
fn top_of(directory: &Path) -> &Path {
    match name_of(directory).as_str() {
        "emulator" => directory.parent().unwrap_or(directory),
        _ => directory,
    }
}

/// The pod or scope around a cgroup.
fn around(directory: &Path) -> Option<&Path> {
    top_of(directory).ancestors().skip(1).find(|path| {
        let name = name_of(path);
        name.starts_with("pod") || name.contains("-pod") || name.ends_with(".scope")
    })
}

/// The VM's own cgroups, the pod or scope around them, and libvirt's cgroups of virtual processors beside them.
fn cgroups_of(host: &HostRoot, own: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in own {
        let top = top_of(directory);
        let is_vcpu = |name: &String| name.starts_with("vcpu");
        let names = host.list(top).unwrap_or_default();
        let vcpus = names.into_iter().filter_map(|name| name.into_string().ok()).filter(is_vcpu);
        let vcpus = vcpus.map(|name| top.join(name));
        let all = [directory.clone(), top.to_path_buf()]
            .into_iter()
            .chain(around(directory).map(Path::to_path_buf))
            .chain(vcpus);
        for path in all {
            if !found.contains(&path) && found.len() < MAX_CGROUPS {
                found.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::testing::write;

    const SCOPE: &str = "sys/fs/cgroup/machine.slice/machine-qemu-1-a.scope";

    #[test]
    fn files_are_looked_for_anew_while_a_vm_starts_and_when_one_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(&HostRoot::new(root.path()), Procfs::new(root.path().join("proc")), None);
        let place = Place {
            uid: "vm-a".to_owned(),
            pod_uid: None,
            directories: vec![format!("{SCOPE}/libvirt/emulator").into()],
            memory: Vec::new(),
            pid: 7,
        };
        let mut n_rows = || {
            let seen = reader.read(vec![place.clone()], Moment::default).remove(0).found.unwrap();
            (seen.rows.map_or(0, |rows| rows.len()), seen.pressures.iter().filter(|one| one.is_ok()).count())
        };
        assert_eq!(n_rows(), (0, 0), "nothing is there yet");
        let stat = "nr_periods 5\nnr_throttled 0\n";
        write(root.path(), &format!("{SCOPE}/libvirt/emulator/cpu.stat"), stat);
        assert_eq!(n_rows(), (1, 0), "look 1");
        write(root.path(), &format!("{SCOPE}/libvirt/vcpu0/cpu.stat"), stat);
        assert_eq!(n_rows(), (2, 0), "look 2");
        write(root.path(), &format!("{SCOPE}/libvirt/cpu.pressure"), "some avg10=0 avg60=0 avg300=0 total=0\n");
        assert_eq!([n_rows(), n_rows()], [(2, 0), (2, 1)], "looks 3 and 4");
        std::fs::remove_dir_all(root.path().join(SCOPE).join("libvirt/vcpu0")).unwrap();
        assert_eq!(n_rows(), (1, 1), "at once");
    }
}
