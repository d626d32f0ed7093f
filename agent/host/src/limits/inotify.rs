//! How many inotify instances and watches each user has, counted.
//!
//! The kernel limits both for each user and tells nobody how many there are; they show in the descriptors of every process.
//! Going through them costs some 3 µs a descriptor, so which of them are instances is remembered for as long as a process has as many
//! descriptors, and the pace is slow. An instance that a child inherited is one, not two: it has the same watches. Source: `inotify(7)`, `proc_pid_fdinfo(5)`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use crate::ReadError;
use crate::process::{Procfs, numbers_in, optional_text};

/// What processes of one user have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InotifyUse {
    /// Instances (`inotify_init`).
    pub n_instances: u64,
    /// Watches (`inotify_add_watch`).
    pub n_watches: u64,
}

/// What all users have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InotifyUsers {
    /// By user id, as the reader's user namespace shows it.
    pub by_uid: BTreeMap<u32, InotifyUse>,
    /// Processes whose descriptors could not be seen: there may be more.
    pub n_denied: u64,
}

/// Counts the watches in the `fdinfo` of an inotify instance.
pub fn parse_inotify_watches(text: &str) -> u64 {
    text.lines().filter(|line| line.starts_with("inotify wd:")).count() as u64
}

/// Every so many counts all descriptors are gone through: for one that was closed while another was opened.
const N_COUNTS_OF_ALL: u32 = 6;

/// Counts them again and again.
#[derive(Debug)]
pub struct InotifyCounter {
    procfs: Procfs,
    /// How many descriptors a process had, and which of them are instances, by pid.
    known: BTreeMap<u32, (u64, Vec<u32>)>,
    n_counts: u32,
}

impl InotifyCounter {
    /// Reads nothing yet.
    pub fn new(procfs: &Procfs) -> Self {
        Self { procfs: procfs.clone(), known: BTreeMap::new(), n_counts: 0 }
    }

    /// Counts instances and watches of all processes. Processes that end meanwhile are left out.
    ///
    /// # Errors
    /// When the list of processes itself cannot be read.
    pub fn count(&mut self) -> Result<InotifyUsers, ReadError> {
        let mut users = InotifyUsers::default();
        let mut counted: BTreeSet<(u32, String)> = BTreeSet::new();
        let pids = self.procfs.pids()?;
        if self.n_counts.is_multiple_of(N_COUNTS_OF_ALL) {
            self.known.clear();
        }
        self.n_counts = self.n_counts.wrapping_add(1);
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        for pid in pids {
            let fds = match self.instances(pid) {
                Ok(fds) => fds,
                Err(error) => {
                    users.n_denied += u64::from(!error.is_not_found());
                    continue;
                }
            };
            if fds.is_empty() {
                continue;
            }
            let Ok(status) = std::fs::metadata(self.procfs.file_of(pid, "status")) else { continue };
            let own = status.uid();
            for fd in fds {
                let info = optional_text(&self.procfs.file_of(pid, &format!("fdinfo/{fd}"))).unwrap_or_default();
                let n_watches = parse_inotify_watches(&info);
                let watches = info.lines().filter(|line| line.starts_with("inotify wd:")).collect::<String>();
                if n_watches > 0 && !counted.insert((own, watches)) {
                    continue;
                }
                let user = users.by_uid.entry(own).or_default();
                user.n_instances += 1;
                user.n_watches += n_watches;
            }
        }
        Ok(users)
    }

    /// The descriptors of a process that are instances.
    fn instances(&mut self, pid: u32) -> Result<Vec<u32>, ReadError> {
        let directory = self.procfs.file_of(pid, "fd");
        let is_instance = |fd: &u32| {
            let target = std::fs::read_link(directory.join(fd.to_string()));
            target.is_ok_and(|target| target.to_str().is_some_and(is_inotify_name))
        };
        let n_open = self.procfs.open_file_count(pid)?;
        if let Some((_, fds)) = self.known.get(&pid).filter(|(n_known, _)| *n_known == n_open) {
            return Ok(fds.iter().copied().filter(is_instance).collect());
        }
        self.known.remove(&pid);
        let fds: Vec<u32> = numbers_in(&directory)?.into_iter().filter(is_instance).collect();
        self.known.insert(pid, (n_open, fds.clone()));
        Ok(fds)
    }
}

fn is_inotify_name(target: &str) -> bool {
    matches!(target, "anon_inode:inotify" | "anon_inode:[inotify]")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const WATCH: &str =
        "inotify wd:1 ino:7e9e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 f_handle:9e7e0000\n";

    fn process(root: &std::path::Path, pid: u32, fds: &[(u32, &str, &str)]) {
        let directory = root.join(pid.to_string());
        for sub in ["fd", "fdinfo"] {
            std::fs::create_dir_all(directory.join(sub)).unwrap();
        }
        std::fs::write(directory.join("status"), "Uid:\t0\n").unwrap();
        for (fd, target, info) in fds {
            symlink(target, directory.join("fd").join(fd.to_string())).unwrap();
            std::fs::write(directory.join("fdinfo").join(fd.to_string()), info).unwrap();
        }
    }

    #[test]
    fn instances_and_watches_are_counted_and_an_inherited_one_once() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(dir.path()).unwrap().uid();
        let two = format!("pos:\t0\nflags:\t00\n{WATCH}{}", WATCH.replace("wd:1", "wd:2"));
        process(dir.path(), 1, &[(3, "anon_inode:inotify", &two), (4, "/dev/null", ""), (5, "socket:[7]", "")]);
        process(dir.path(), 2, &[(3, "anon_inode:inotify", &two), (4, "anon_inode:inotify", "pos:\t0\n")]);
        process(dir.path(), 3, &[(9, "anon_inode:[eventpoll]", "")]);
        std::fs::create_dir(dir.path().join("4")).unwrap();
        let users = InotifyCounter::new(&Procfs::new(dir.path())).count().unwrap();
        assert_eq!(users.by_uid, BTreeMap::from([(own, InotifyUse { n_instances: 2, n_watches: 2 })]));
        assert_eq!(users.n_denied, 0, "a process that has ended is none that hides");
    }

    #[test]
    fn descriptors_are_gone_through_when_there_are_more_of_them_and_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut counter = InotifyCounter::new(&Procfs::new(dir.path()));
        let mut n_instances = || counter.count().unwrap().by_uid.values().map(|user| user.n_instances).sum::<u64>();
        process(dir.path(), 1, &[(3, "anon_inode:inotify", WATCH), (4, "/dev/null", "")]);
        assert_eq!(n_instances(), 1);
        process(dir.path(), 1, &[(5, "anon_inode:inotify", "")]);
        assert_eq!(n_instances(), 2, "one more");
        for fd in ["3", "4"] {
            std::fs::remove_file(dir.path().join("1/fd").join(fd)).unwrap();
        }
        process(dir.path(), 1, &[(3, "/dev/null", ""), (6, "anon_inode:inotify", WATCH)]);
        assert_eq!(n_instances(), 1, "one is something else now, and as many are open");
        let later: Vec<u64> = (0..N_COUNTS_OF_ALL).map(|_| n_instances()).collect();
        assert_eq!(later.last(), Some(&2), "{later:?}");
    }

    #[test]
    fn our_own_instance_is_among_them() {
        let fd = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
        rustix::fs::inotify::add_watch(&fd, "/", rustix::fs::inotify::WatchFlags::CREATE).unwrap();
        let own = std::fs::metadata("/proc/self/status").unwrap().uid();
        let users = InotifyCounter::new(&Procfs::default()).count().unwrap();
        assert!(users.by_uid.get(&own).is_some_and(|user| user.n_instances >= 1 && user.n_watches >= 1), "{users:?}");
    }
}
