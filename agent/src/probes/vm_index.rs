//! Which process runs which VM, shared by the probes.
//!
//! The `qemu` probe fills in processes, the `domain` probe disks. The kernel names a dead QEMU by its pid after it has gone,
//! so an entry stays for ten minutes after the exit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kulprit_model::Moment;
use tokio::sync::{Notify, watch};

use super::launcher::Census;
use super::migration::MigrationFeed;

/// How long a process is remembered after its end, microseconds: the kernel's report of its death comes within seconds, and
/// hung-task lines within 2 min.
const KEEP_USEC: i64 = 10 * 60 * 1_000_000;

/// Kills that are remembered at most; further ones push out the oldest.
const MAX_KILLS: usize = 1_024;

/// A QEMU and its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmProcess {
    /// UID of the VM.
    pub uid: String,
    /// Start of the process, clock ticks since boot.
    pub start_ticks: u64,
    /// When it was seen to have ended. `None`: it runs.
    pub ended: Option<Moment>,
    /// Its threads as of the last look, sorted; the kernel names crashed and hung threads by their own number.
    pub tids: Vec<u32>,
}

/// One disk of a domain as libvirt tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTarget {
    /// The guest's name of it, `vda`.
    pub target: String,
    /// Its name in error events, `virtio-disk0`.
    pub alias: Option<String>,
    /// Path on the host.
    pub source: Option<String>,
}

/// The index. Locks are held for a look-up only.
#[derive(Debug, Default)]
pub struct VmIndex {
    inner: Mutex<Inner>,
    /// Notified when a VM is said to have started, so that its process is looked for at once.
    pub(super) started: Notify,
    /// Notified when a QEMU was found or has ended, so that its launcher is looked at anew.
    pub(super) changed: Notify,
    /// The processes of VMs; whoever needs them counts them.
    pub(super) census: Census,
    /// What libvirt tells of migrations, and what is wished to know of them.
    pub(super) migrations: MigrationFeed,
    n_arrived: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    by_pid: BTreeMap<u32, Arc<VmProcess>>,
    disks: BTreeMap<String, Vec<DiskTarget>>,
    uid_by_name: BTreeMap<String, String>,
    /// VMs on whose domain a job runs.
    with_job: BTreeSet<String>,
    /// Out-of-memory kills that the kernel's log has told, by UID of the VM or of its pod, oldest first.
    oom_kills: VecDeque<(Moment, String)>,
}

impl VmIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process runs this VM.
    pub fn insert(&self, pid: u32, start_ticks: u64, uid: &str) {
        let process = VmProcess { uid: uid.to_owned(), start_ticks, ended: None, tids: Vec::new() };
        let before = self.lock().by_pid.insert(pid, Arc::new(process));
        if before.is_none_or(|before| before.start_ticks != start_ticks) {
            self.n_arrived.send_modify(|n_arrived| *n_arrived += 1);
        }
    }

    /// Changes whenever a VM's process is found, for probes that look seldom.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.n_arrived.subscribe()
    }

    /// The process has ended; forgets those that did so long ago.
    pub fn set_ended(&self, pid: u32, start_ticks: u64, at: Moment) {
        let mut inner = self.lock();
        if let Some(process) = inner.by_pid.get_mut(&pid).filter(|process| process.start_ticks == start_ticks) {
            Arc::make_mut(process).ended = Some(at);
        }
        inner.by_pid.retain(|_, process| process.ended.is_none_or(|ended| at.usec_since(ended) < KEEP_USEC));
    }

    /// The threads of a running QEMU are these, sorted.
    pub fn set_threads(&self, pid: u32, tids: Vec<u32>) {
        let mut inner = self.lock();
        let process = inner.by_pid.get_mut(&pid).filter(|process| process.ended.is_none());
        if let Some(process) = process.filter(|process| process.tids != tids) {
            Arc::make_mut(process).tids = tids;
        }
    }

    /// The QEMU that this pid or thread id belongs to, or belonged to at its last look; as [`Self::by_pid`].
    #[must_use]
    pub fn by_task(&self, task: u32, at: Moment) -> Option<(u32, Arc<VmProcess>)> {
        if let Some(process) = self.by_pid(task, at) {
            return Some((task, process));
        }
        let pid = self
            .lock()
            .by_pid
            .iter()
            .find(|(_, process)| process.tids.binary_search(&task).is_ok())
            .map(|(pid, _)| *pid)?;
        Some((pid, self.by_pid(pid, at)?))
    }

    /// The VM whose QEMU had this pid at `at`, or has ended less than ten minutes before.
    #[must_use]
    pub fn by_pid(&self, pid: u32, at: Moment) -> Option<Arc<VmProcess>> {
        let inner = self.lock();
        let process = inner.by_pid.get(&pid)?;
        process.ended.is_none_or(|ended| at.usec_since(ended) < KEEP_USEC).then(|| Arc::clone(process))
    }

    /// The VMs whose QEMU runs now, sorted, with pid.
    #[must_use]
    pub fn running(&self) -> Vec<(u32, Arc<VmProcess>)> {
        self.lock()
            .by_pid
            .iter()
            .filter(|(_, process)| process.ended.is_none())
            .map(|(pid, process)| (*pid, Arc::clone(process)))
            .collect()
    }

    /// The kernel's log has told that a process of this VM, or of this pod, was killed for memory.
    pub fn add_oom_kill(&self, at: Moment, uid: &str) {
        let kills = &mut self.lock().oom_kills;
        kills.retain(|(told, _)| at.usec_since(*told) < KEEP_USEC);
        if kills.len() == MAX_KILLS {
            kills.pop_front();
        }
        kills.push_back((at, uid.to_owned()));
    }

    /// How many such kills of any of `uids` were told since.
    #[must_use]
    pub fn n_oom_kills(&self, uids: &[&str], since: Moment) -> u64 {
        let is_own =
            |(at, uid): &&(Moment, String)| at.boottime_usec >= since.boottime_usec && uids.contains(&uid.as_str());
        self.lock().oom_kills.iter().filter(is_own).count() as u64
    }

    /// libvirt's disks of a VM.
    pub fn set_disks(&self, uid: &str, disks: Vec<DiskTarget>) {
        self.lock().disks.insert(uid.to_owned(), disks);
    }

    /// libvirt calls this VM so.
    pub fn set_name(&self, uid: &str, name: &str) {
        self.lock().uid_by_name.insert(name.to_owned(), uid.to_owned());
    }

    /// The VM that libvirt calls so.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<String> {
        self.lock().uid_by_name.get(name).cloned()
    }

    /// libvirt's name of the VM.
    #[must_use]
    pub fn name_of(&self, uid: &str) -> Option<String> {
        self.lock().uid_by_name.iter().find(|(_, known)| *known == uid).map(|(name, _)| name.clone())
    }

    /// The VM whose name is `machine` but for the characters that a machine's name may not have; `None` when two are.
    #[must_use]
    pub fn by_machine_name(&self, machine: &str) -> Option<String> {
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let inner = self.lock();
        let mut fitting =
            inner.uid_by_name.iter().filter(|(name, _)| name.chars().filter(is_allowed).eq(machine.chars()));
        let uid = fitting.next()?.1.clone();
        fitting.next().is_none().then_some(uid)
    }

    /// Whether a job (a migration, a backup) runs on the VM's domain.
    pub fn set_job(&self, uid: &str, has_job: bool) {
        let mut inner = self.lock();
        if !has_job {
            inner.with_job.remove(uid);
        } else if !inner.with_job.contains(uid) {
            inner.with_job.insert(uid.to_owned());
        }
    }

    /// Whether libvirt said so at its last look; `false` also where it did not say.
    #[must_use]
    pub fn has_job(&self, uid: &str) -> bool {
        self.lock().with_job.contains(uid)
    }

    /// On how many domains libvirt's last look saw a job.
    #[must_use]
    pub fn n_jobs(&self) -> usize {
        self.lock().with_job.len()
    }

    /// libvirt knows this VM no more.
    pub fn forget(&self, uid: &str) {
        let mut inner = self.lock();
        inner.disks.remove(uid);
        inner.with_job.remove(uid);
        inner.uid_by_name.retain(|_, known| known != uid);
    }

    /// libvirt's disks of a VM; empty where it has not told.
    #[must_use]
    pub fn disks(&self, uid: &str) -> Vec<DiskTarget> {
        self.lock().disks.get(uid).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(n: i64) -> Moment {
        Moment::default().offset_usec(n * 60 * 1_000_000)
    }

    #[test]
    fn a_pid_names_its_vm_until_ten_minutes_after_the_end() {
        let index = VmIndex::new();
        index.insert(7, 100, "a");
        index.set_ended(7, 100, minute(5));
        assert_eq!(index.by_pid(7, minute(14)).unwrap().uid, "a");
        assert_eq!(index.by_pid(7, minute(15)), None);
        assert!(index.running().is_empty());
    }

    #[test]
    fn the_end_of_an_earlier_process_does_not_end_its_follower() {
        let index = VmIndex::new();
        index.insert(7, 100, "a");
        index.insert(7, 200, "b");
        index.set_ended(7, 100, minute(0));
        assert_eq!(index.by_pid(7, minute(0)).unwrap().uid, "b");
        assert_eq!(index.running().len(), 1);
    }

    #[test]
    fn a_thread_names_the_vm_of_its_process() {
        let index = VmIndex::new();
        index.insert(7, 100, "a");
        index.set_threads(7, vec![7, 9, 12]);
        index.set_ended(7, 100, minute(0));
        assert_eq!(index.by_task(9, minute(9)).map(|(pid, vm)| (pid, vm.uid.clone())), Some((7, "a".to_owned())));
        assert_eq!(index.by_task(9, minute(10)), None);
        assert_eq!(index.by_task(8, minute(0)), None);
    }

    #[test]
    fn a_machine_is_the_one_domain_whose_name_fits() {
        let index = VmIndex::new();
        index.set_job("a", true);
        assert!(index.has_job("a") && !index.has_job("b"));
        index.set_job("a", false);
        assert!(!index.has_job("a"));
        index.set_name("a", "prod_db-0");
        index.set_name("b", "db-1");
        assert_eq!(index.by_machine_name("proddb-0").as_deref(), Some("a"));
        assert_eq!(index.by_machine_name("db-1").as_deref(), Some("b"));
        assert_eq!(index.by_machine_name("db-2"), None);
        index.set_name("c", "db_-1");
        assert_eq!(index.by_machine_name("db-1"), None, "either could be meant");
    }

    #[test]
    fn kills_are_counted_by_vm_and_pod_and_forgotten_in_time() {
        let index = VmIndex::new();
        index.add_oom_kill(minute(0), "a");
        index.add_oom_kill(minute(1), "pod-of-a");
        index.add_oom_kill(minute(1), "b");
        assert_eq!(index.n_oom_kills(&["a", "pod-of-a"], minute(0)), 2);
        assert_eq!(index.n_oom_kills(&["a", "pod-of-a"], minute(1)), 1);
        index.add_oom_kill(minute(10), "b");
        assert_eq!(index.n_oom_kills(&["a"], minute(0)), 0);
        for _ in 0..MAX_KILLS + 1 {
            index.add_oom_kill(minute(10), "c");
        }
        assert_eq!((index.n_oom_kills(&["c"], minute(0)), index.n_oom_kills(&["b"], minute(0))), (1_024, 0));
    }

    #[test]
    fn the_long_dead_are_forgotten() {
        let index = VmIndex::new();
        index.insert(7, 100, "a");
        index.set_ended(7, 100, minute(0));
        index.insert(8, 100, "b");
        index.set_ended(8, 100, minute(20));
        assert_eq!(index.lock().by_pid.len(), 1);
    }
}
