//! One pass over procfs for all who look for processes of VMs: QEMUs, launchers, libvirt daemons.
//!
//! Listing pids is cheap, reading hundreds of `stat` files every 2 s is not: a pid that was seen to be nobody of interest is not
//! read again, except while it is young, since a process becomes what it is by `exec` after its `fork`, and every two minutes for
//! all. Where the kernel says that nothing was started ([`Births`]), not even the pids are listed: who ends is told by those that look
//! at it. Who comes second on a beat takes what the first found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kulprit_host::ReadError;
use kulprit_host::launcher::is_libvirt_daemon;
use kulprit_host::process::{Births, CgroupFilter, ProcessId, Procfs};
use kulprit_host::qemu::is_qemu_name;
use tokio::time::Instant;

/// Passes at which a new pid is read: libvirt's child runs hooks and sets up cgroups before it becomes QEMU.
const N_YOUNG_PASSES: u32 = 5;
/// Every so many passes all pids are read again: two minutes.
const N_PASSES_OF_FULL: u32 = 30;

/// What a process is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::probes) enum ResidentKind {
    /// A QEMU.
    Qemu,
    /// virt-launcher or its monitor; the name is cut at 15 bytes.
    Launcher,
    /// virtqemud or libvirtd.
    Libvirt,
}

/// A process of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::probes) struct Resident {
    /// Pid and start.
    pub(in crate::probes) id: ProcessId,
    /// Name, at most 15 bytes.
    pub(in crate::probes) comm: String,
    /// What it is.
    pub(in crate::probes) kind: ResidentKind,
}

/// What a pass found.
#[derive(Debug, Default)]
pub(in crate::probes) struct Pass {
    /// Ascending by pid.
    pub(in crate::probes) residents: Arc<Vec<Resident>>,
    /// Processes that are there and could not be read; 0 for whoever takes what another found.
    pub(in crate::probes) n_errors: usize,
}

/// See the module. Shared by the probes.
#[derive(Debug, Default)]
pub(in crate::probes) struct Census {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Pids that are nobody of interest, with the number of passes that read them.
    others: BTreeMap<u32, u32>,
    /// The others, with the same.
    residents: BTreeMap<u32, (Resident, u32)>,
    found: Arc<Vec<Resident>>,
    at: Option<Instant>,
    n_passes: u32,
    births: Option<Births>,
    /// The newest task when the pids were last listed; `None`: they are to be listed.
    listed_at: Option<u32>,
}

impl Census {
    /// The processes of interest as of a pass that is at most so old. Blocks for some 0.1 ms, the first time for 10.
    ///
    /// # Errors
    /// When the list of processes cannot be read.
    pub(in crate::probes) fn take(
        &self,
        procfs: &Procfs,
        filter: &CgroupFilter,
        max_age: Duration,
    ) -> Result<Pass, ReadError> {
        let mut inner = self.lock();
        if inner.at.is_some_and(|at| at.elapsed() < max_age) {
            return Ok(Pass { residents: Arc::clone(&inner.found), n_errors: 0 });
        }
        let n_errors = inner.pass(procfs, filter)?;
        inner.at = Some(Instant::now());
        Ok(Pass { residents: Arc::clone(&inner.found), n_errors })
    }

    /// This process is no more what it was: its number may be another's by now.
    pub(in crate::probes) fn forget(&self, id: ProcessId) {
        let mut inner = self.lock();
        if inner.residents.get(&id.pid).is_some_and(|(resident, _)| resident.id == id) {
            inner.residents.remove(&id.pid);
            inner.listed_at = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn pass(&mut self, procfs: &Procfs, filter: &CgroupFilter) -> Result<usize, ReadError> {
        self.n_passes += 1;
        // Before the list: what starts meanwhile is found by the next.
        let newest = self.births.get_or_insert_with(|| Births::new(procfs)).newest();
        let is_known = newest.is_some() && newest == self.listed_at;
        if is_known && !self.n_passes.is_multiple_of(N_PASSES_OF_FULL) && !self.has_young() {
            return Ok(0);
        }
        self.listed_at = None;
        let pids = procfs.pids()?;
        if self.n_passes.is_multiple_of(N_PASSES_OF_FULL) {
            self.others.clear();
            self.residents.values_mut().for_each(|(_, n_reads)| *n_reads = (*n_reads).min(N_YOUNG_PASSES - 1));
        }
        self.others.retain(|pid, _| pids.binary_search(pid).is_ok());
        self.residents.retain(|pid, _| pids.binary_search(pid).is_ok());
        let (mut n_errors, mut refused) = (0, None);
        for pid in pids {
            let n_reads = self.others.get(&pid).or(self.residents.get(&pid).map(|(_, n_reads)| n_reads));
            let n_reads = n_reads.copied().unwrap_or_default();
            if n_reads >= N_YOUNG_PASSES {
                continue;
            }
            // Already running when we came: it is what it is.
            let n_reads = if self.n_passes == 1 { N_YOUNG_PASSES } else { n_reads + 1 };
            match find(procfs, filter, pid) {
                Ok(Some(resident)) => {
                    self.others.remove(&pid);
                    // Nothing becomes something else after QEMU.
                    let n_reads = if resident.kind == ResidentKind::Qemu { N_YOUNG_PASSES } else { n_reads };
                    self.residents.insert(pid, (resident, n_reads));
                }
                Ok(None) => {
                    self.residents.remove(&pid);
                    self.others.insert(pid, n_reads);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    n_errors += 1;
                    refused = Some(error);
                }
            }
        }
        // Nobody could be read: that there is no QEMU is then not known.
        if let Some(error) = refused.filter(|_| self.others.is_empty() && self.residents.is_empty()) {
            return Err(error);
        }
        let is_changed = !self.residents.values().map(|(resident, _)| resident).eq(self.found.iter());
        if is_changed {
            self.found = Arc::new(self.residents.values().map(|(resident, _)| resident.clone()).collect());
        }
        // What could not be read is tried again.
        self.listed_at = newest.filter(|_| n_errors == 0);
        Ok(n_errors)
    }

    /// Whether there is a process that may still become another.
    fn has_young(&self) -> bool {
        let of_residents = self.residents.values().map(|(_, n_reads)| n_reads);
        self.others.values().chain(of_residents).any(|n_reads| *n_reads < N_YOUNG_PASSES)
    }
}

fn find(procfs: &Procfs, filter: &CgroupFilter, pid: u32) -> Result<Option<Resident>, ReadError> {
    let stat = procfs.stat(pid)?;
    let kind = match &*stat.comm {
        comm if is_qemu_name(comm) => match procfs.exe_name(pid) {
            Some(exe) if !is_qemu_name(&exe) => return Ok(None),
            Some(_) | None => ResidentKind::Qemu,
        },
        comm if comm.starts_with("virt-launcher") => ResidentKind::Launcher,
        comm if is_libvirt_daemon(comm) => ResidentKind::Libvirt,
        _ => return Ok(None),
    };
    if *filter != CgroupFilter::All && !filter.matches(&procfs.cgroups(pid)?) {
        return Ok(None);
    }
    Ok(Some(Resident { id: stat.id(), comm: stat.comm, kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of a recorded tree: its name and its start.
    fn put(root: &std::path::Path, pid: u32, comm: &str, start: u64) {
        let folder = root.join(pid.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} ({comm}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n");
        std::fs::write(folder.join("stat"), stat).unwrap();
    }

    fn pids(census: &Census, procfs: &Procfs, max_age: Duration) -> Vec<(u32, ResidentKind)> {
        let pass = census.take(procfs, &CgroupFilter::All, max_age).unwrap();
        pass.residents.iter().map(|row| (row.id.pid, row.kind)).collect()
    }

    #[test]
    fn processes_of_interest_are_found_by_name_and_followed() {
        let root = tempfile::tempdir().unwrap();
        let (procfs, census) = (Procfs::new(root.path()), Census::default());
        for (pid, comm) in
            [(1, "systemd"), (5, "virt-launcher-m"), (6, "virt-launcher"), (7, "virtqemud"), (8, "virt-handler")]
        {
            put(root.path(), pid, comm, 10);
        }
        let family = [(5, ResidentKind::Launcher), (6, ResidentKind::Launcher), (7, ResidentKind::Libvirt)];
        assert_eq!(pids(&census, &procfs, Duration::ZERO), family);
        // A child of the daemon that becomes QEMU after it was seen.
        put(root.path(), 9, "virtqemud", 20);
        assert_eq!(pids(&census, &procfs, Duration::ZERO).last(), Some(&(9, ResidentKind::Libvirt)));
        assert_eq!(
            pids(&census, &procfs, Duration::from_secs(60)).len(),
            4,
            "the second on a beat takes what was found"
        );
        put(root.path(), 9, "qemu-kvm", 20);
        assert_eq!(pids(&census, &procfs, Duration::ZERO).last(), Some(&(9, ResidentKind::Qemu)));
        std::fs::remove_dir_all(root.path().join("7")).unwrap();
        assert_eq!(pids(&census, &procfs, Duration::ZERO).len(), 3);
    }

    #[test]
    fn nothing_is_listed_while_nothing_was_started_and_all_have_become_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        let (procfs, census) = (Procfs::new(root.path()), Census::default());
        std::os::unix::fs::symlink(std::process::id().to_string(), root.path().join("self")).unwrap();
        let started = |newest: u32| {
            std::fs::write(root.path().join("loadavg"), format!("0.00 0.00 0.00 1/9 {newest}\n")).unwrap();
        };
        let n_found = || pids(&census, &procfs, Duration::ZERO).len();
        started(5);
        put(root.path(), 5, "qemu-kvm", 10);
        assert_eq!(n_found(), 1);
        put(root.path(), 6, "qemu-kvm", 10);
        assert_eq!(n_found(), 1, "the kernel says that nothing was started");
        started(7);
        put(root.path(), 7, "virtqemud", 20);
        assert_eq!(n_found(), 3);
        put(root.path(), 7, "qemu-kvm", 20);
        assert_eq!(pids(&census, &procfs, Duration::ZERO)[2], (7, ResidentKind::Qemu), "it was young");
        put(root.path(), 8, "qemu-kvm", 30);
        assert_eq!(n_found(), 3, "nobody is young any more");
        started(8);
        assert_eq!(n_found(), 4);
        put(root.path(), 9, "qemu-kvm", 30);
        assert_eq!(n_found(), 4);
        let first = census.take(&procfs, &CgroupFilter::All, Duration::ZERO).unwrap().residents[0].id;
        std::fs::remove_dir_all(root.path().join("5")).unwrap();
        census.forget(first);
        let now = pids(&census, &procfs, Duration::ZERO);
        assert_eq!((now.len(), now[3].0), (4, 9), "one that ended has all listed");
        put(root.path(), 10, "qemu-kvm", 30);
        let later = (0..N_PASSES_OF_FULL).map(|_| n_found()).max();
        assert_eq!(later, Some(5), "all are listed now and then whatever the kernel says");
    }

    #[test]
    fn another_process_with_the_pid_is_found_once_the_first_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let (procfs, census) = (Procfs::new(root.path()), Census::default());
        put(root.path(), 5, "qemu-kvm", 10);
        let first = census.take(&procfs, &CgroupFilter::All, Duration::ZERO).unwrap().residents[0].id;
        put(root.path(), 5, "qemu-kvm", 99);
        census.forget(first);
        let second = census.take(&procfs, &CgroupFilter::All, Duration::ZERO).unwrap().residents[0].id;
        assert_eq!(second.start_time_ticks, 99);
        census.forget(first);
        assert_eq!(pids(&census, &procfs, Duration::from_secs(60)).len(), 1, "only the one that is meant");
    }

    #[test]
    fn a_garbled_or_unreadable_process_is_counted_and_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), 5, "qemu-kvm", 10);
        std::fs::create_dir(root.path().join("6")).unwrap();
        std::fs::write(root.path().join("6/stat"), "rubbish").unwrap();
        let pass = Census::default().take(&Procfs::new(root.path()), &CgroupFilter::All, Duration::ZERO).unwrap();
        assert_eq!((pass.residents.len(), pass.n_errors), (1, 1));
        let none = Procfs::new(root.path().join("none"));
        assert!(Census::default().take(&none, &CgroupFilter::All, Duration::ZERO).is_err());
    }
}
