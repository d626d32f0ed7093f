//! How many inotify instances and watches each user has, counted.
//!
//! The kernel limits both for each user and tells nobody how many there are; they show in the descriptors of every process.
//! Going through them costs some 3 µs a descriptor, so it is for slow paces. An instance that a child inherited is one, not
//! two: it has the same watches. Source: `inotify(7)`, `proc_pid_fdinfo(5)`.

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

impl Procfs {
    /// Counts instances and watches of all processes. Processes that end meanwhile are left out.
    ///
    /// # Errors
    /// When the list of processes itself cannot be read.
    pub fn inotify_users(&self) -> Result<InotifyUsers, ReadError> {
        let mut users = InotifyUsers::default();
        let mut known: BTreeSet<(u32, String)> = BTreeSet::new();
        for pid in self.pids()? {
            let directory = self.file_of(pid, "fd");
            let fds = match numbers_in(&directory) {
                Ok(fds) => fds,
                Err(error) => {
                    users.n_denied += u64::from(!error.is_not_found());
                    continue;
                }
            };
            let mut uid = None;
            for fd in fds {
                let is_inotify = std::fs::read_link(directory.join(fd.to_string()))
                    .is_ok_and(|target| target.to_str().is_some_and(is_inotify_name));
                if !is_inotify {
                    continue;
                }
                let own = match uid {
                    Some(uid) => uid,
                    None => match std::fs::metadata(self.file_of(pid, "status")) {
                        Ok(status) => *uid.insert(status.uid()),
                        Err(_) => break,
                    },
                };
                let info = optional_text(&self.file_of(pid, &format!("fdinfo/{fd}"))).unwrap_or_default();
                let n_watches = parse_inotify_watches(&info);
                let watches = info.lines().filter(|line| line.starts_with("inotify wd:")).collect::<String>();
                if n_watches > 0 && !known.insert((own, watches)) {
                    continue;
                }
                let user = users.by_uid.entry(own).or_default();
                user.n_instances += 1;
                user.n_watches += n_watches;
            }
        }
        Ok(users)
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
        let users = Procfs::new(dir.path()).inotify_users().unwrap();
        assert_eq!(users.by_uid, BTreeMap::from([(own, InotifyUse { n_instances: 2, n_watches: 2 })]));
        assert_eq!(users.n_denied, 0, "a process that has ended is none that hides");
    }

    #[test]
    fn our_own_instance_is_among_them() {
        let fd = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
        rustix::fs::inotify::add_watch(&fd, "/", rustix::fs::inotify::WatchFlags::CREATE).unwrap();
        let own = std::fs::metadata("/proc/self/status").unwrap().uid();
        let users = Procfs::default().inotify_users().unwrap();
        assert!(users.by_uid.get(&own).is_some_and(|user| user.n_instances >= 1 && user.n_watches >= 1), "{users:?}");
    }
}
