//! Migrations as the host shows them, without asking libvirt or QEMU anything.
//!
//! libvirt keeps a file of its own about each running domain, in `/run/libvirt/qemu/NAME.xml` (without root rights, as in a KubeVirt
//! launcher, in `/run/libvirt/qemu/run/NAME.xml`), and writes it anew at each step of a job: the job, its phase and its begin stand
//! there. Source: libvirt `src/qemu/qemu_domain.c` (`qemuDomainObjPrivateXMLFormatJob`), `src/conf/domain_conf.c`. What the copy
//! does shows in QEMU's sockets and in the times of its copying threads.

mod status;

pub use status::{DomainJob, DomainStatus, parse_domain_status};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::network::{TcpSocket, read_tcp};
use crate::process::{Procfs, numbers_in};
use crate::{HostRoot, ReadError};

/// Where libvirt keeps the files.
const DIRECTORIES: [&str; 2] = [STATUS_FOLDER, "run/libvirt/qemu/run"];
/// Where the libvirt of a host keeps its files, below its root; watched, it tells of each step of each job.
pub const STATUS_FOLDER: &str = "run/libvirt/qemu";
/// The longest file that is read: one of a domain with some hundred devices has 200 KiB.
const LIMIT_BYTES: usize = 4 << 20;
/// Most descriptors of a QEMU that are looked at.
const MAX_DESCRIPTORS: usize = 65_536;

/// Reads the files of one libvirt again and again, and only those that were written anew.
#[derive(Clone, Debug, Default)]
pub struct DomainStatuses {
    read: BTreeMap<PathBuf, (Version, DomainStatus)>,
}

/// Tells a file from the one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    modified: (i64, i64),
    n_bytes: i64,
}

impl DomainStatuses {
    /// The running domains by name, with errors for those that could not be read. Both empty where no libvirt is.
    ///
    /// # Errors
    /// When a directory is there and cannot be listed.
    pub fn read(&mut self, root: &HostRoot) -> Result<(Vec<DomainStatus>, Vec<ReadError>), ReadError> {
        let mut errors = Vec::new();
        let mut found = BTreeMap::new();
        for directory in DIRECTORIES.map(Path::new) {
            let names = match root.list(directory) {
                Err(error) if error.is_not_found() => continue,
                result => result?,
            };
            for name in names.iter().filter(|name| name.as_encoded_bytes().ends_with(b".xml")) {
                let path = directory.join(name);
                match self.read_one(root, &path) {
                    Ok(entry) => {
                        found.insert(path, entry);
                    }
                    // A domain that ended while we looked.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        self.read = found;
        Ok((self.read.values().map(|(_, status)| status.clone()).collect(), errors))
    }

    fn read_one(&mut self, root: &HostRoot, path: &Path) -> Result<(Version, DomainStatus), ReadError> {
        let stat = root.stat(path).map_err(|errno| ReadError::from_io(root.display_path(path), errno.into()))?;
        let version = Version {
            inode: stat.st_ino,
            modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            n_bytes: stat.st_size,
        };
        if let Some(known) = self.read.remove(path).filter(|(known, _)| *known == version) {
            return Ok(known);
        }
        let text = String::from_utf8_lossy(&root.read_bytes(path, LIMIT_BYTES)?).into_owned();
        let status = parse_domain_status(&text).map_err(|malformed| malformed.at(root.display_path(path)))?;
        Ok((version, status))
    }
}

/// Times of a thread on and before a CPU, growing since its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyThread {
    /// Its id.
    pub tid: u32,
    /// On a CPU, nanoseconds.
    pub ran_nsec: u64,
    /// Ready and waiting for one, nanoseconds.
    pub waited_nsec: u64,
}

impl Procfs {
    /// The threads of a QEMU that send a migration; none before it copies.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn copy_threads(&self, pid: u32) -> Result<Vec<CopyThread>, ReadError> {
        self.threads_that(pid, |_, comm| is_copy_thread(comm))
    }

    /// The threads of a QEMU that take a migration in: its main thread, and those that it has for more than one connection.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn arrival_threads(&self, pid: u32) -> Result<Vec<CopyThread>, ReadError> {
        self.threads_that(pid, |tid, comm| tid == pid || is_arrival_thread(comm))
    }

    fn threads_that(&self, pid: u32, is_it: impl Fn(u32, &str) -> bool) -> Result<Vec<CopyThread>, ReadError> {
        let mut copying = Vec::new();
        for tid in numbers_in(&self.file_of(pid, "task"))? {
            let read = |file: &str| std::fs::read_to_string(self.file_of(pid, &format!("task/{tid}/{file}"))).ok();
            let is_copying = read("comm").is_some_and(|comm| is_it(tid, comm.trim_end()));
            let times = if is_copying { read("schedstat").and_then(|text| parse_schedstat(&text)) } else { None };
            copying.extend(times.map(|(ran_nsec, waited_nsec)| CopyThread { tid, ran_nsec, waited_nsec }));
        }
        Ok(copying)
    }

    /// The TCP connections of a process, in its own network namespace.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn tcp_of(&self, pid: u32) -> Result<Vec<TcpSocket>, ReadError> {
        let mut inodes = Vec::new();
        for fd in numbers_in(&self.file_of(pid, "fd"))?.into_iter().take(MAX_DESCRIPTORS) {
            // The name of a link is told from memory, whatever it leads to.
            let target = std::fs::read_link(self.file_of(pid, &format!("fd/{fd}"))).ok();
            inodes.extend(target.as_deref().and_then(Path::to_str).and_then(parse_socket_link));
        }
        let mut sockets = read_tcp(&HostRoot::new(self.path()), format!("{pid}/net"))?;
        sockets.retain(|socket| inodes.contains(&socket.inode));
        Ok(sockets)
    }
}

/// QEMU's names of threads that send a migration: `migration` (before 8), `live_migration`, `mig/src/main`, `mig/src/send_0` (since 9),
/// `multifdsend_0`.
fn is_copy_thread(comm: &str) -> bool {
    comm == "migration" || comm == "live_migration" || comm.starts_with("mig/src/") || comm.starts_with("multifdsend_")
}

/// QEMU's names of threads that take a migration in beside the main one: `multifdrecv_0`, `mig/dst/recv_0` (since 9).
fn is_arrival_thread(comm: &str) -> bool {
    comm.starts_with("mig/dst/") || comm.starts_with("multifdrecv_")
}

/// `/proc/PID/schedstat`: nanoseconds on a CPU, and waiting for one. `None` for other texts.
#[must_use]
pub fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_ascii_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The number in `socket:[123]`.
fn parse_socket_link(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests;
