//! The threads of a process that is looked at for hours: files stay open, threads are listed only when they have changed.
//!
//! The leader's `status` says how it does, how many threads there are, and which signals wait; a thread that ended says so itself
//! (`ESRCH`), so that one that came in its place is not missed. A look at a process that is what it was is one read for each thread.

use std::collections::BTreeMap;

use super::{ProcessId, Procfs, Stat, Status, TaskState, Thread, numbers_in, parse_stat, parse_status};
use crate::ReadError;
use crate::kept::{KeptBuffer, KeptFile};

/// A process whose threads are read again and again.
#[derive(Debug)]
pub struct WatchedProcess {
    procfs: Procfs,
    id: ProcessId,
    status: KeptFile,
    /// Whether `status` is open and was seen to be this process's: then it stands for the leader's `stat`.
    is_own: bool,
    /// `stat` of each thread that there was at the last look, the leader's only where `status` does not stand for it.
    by_tid: BTreeMap<u32, KeptFile>,
}

/// One look at a process.
#[derive(Clone, Debug)]
pub struct WatchedLook {
    /// What its leader is doing.
    pub leader: TaskState,
    /// All threads, ascending, the leader among them.
    pub threads: Vec<Thread>,
    /// What its `status` says. `None` where that could not be read.
    pub status: Option<Status>,
}

impl WatchedProcess {
    /// Opens nothing yet.
    pub fn new(procfs: &Procfs, id: ProcessId) -> Self {
        let status = KeptFile::plain(procfs.file_of(id.pid, "status"));
        Self { procfs: procfs.clone(), id, status, is_own: false, by_tid: BTreeMap::new() }
    }

    /// Reads its threads and its signals.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when it has ended, also where another process has its number by now.
    pub fn look(&mut self, buffer: &mut KeptBuffer) -> Result<WatchedLook, ReadError> {
        let was_open = self.status.is_open();
        let status = self.status.read_bytes(buffer).ok();
        let status = status.and_then(|bytes| parse_status(&String::from_utf8_lossy(bytes)).ok());
        self.is_own &= was_open && self.status.is_open();
        let (leader, threads) = match self.read_known(status.as_ref(), buffer)? {
            Some(known) => known,
            None => {
                let listed = self.read_listed(buffer)?;
                // Opened before the process was seen to be the one: had it been another, its end would have closed the file.
                self.is_own = self.status.is_open() && status.as_ref().is_some_and(|status| status.n_threads.is_some());
                if self.is_own {
                    self.by_tid.remove(&self.id.pid);
                }
                listed
            }
        };
        Ok(WatchedLook { leader, threads, status })
    }

    /// The leader by what its `status` says.
    fn leader_of(&self, status: &Status) -> Option<(Thread, u32)> {
        let (procfs, pid) = (&self.procfs, self.id.pid);
        let is_blocked = status.state == TaskState::Uninterruptible;
        let leader = Thread {
            tid: pid,
            comm: status.comm.clone()?,
            state: status.state,
            wchan: if is_blocked { procfs.wchan(pid, pid) } else { None },
            start_time_ticks: Some(self.id.start_time_ticks),
            utime_ticks: None,
            stime_ticks: None,
        };
        Some((leader, status.n_threads?))
    }

    /// The threads of the last look; `None` when they are not the same any more.
    fn read_known(
        &mut self,
        status: Option<&Status>,
        buffer: &mut KeptBuffer,
    ) -> Result<Option<(TaskState, Vec<Thread>)>, ReadError> {
        let mut threads = Vec::with_capacity(self.by_tid.len() + 1);
        let mut leader = None;
        if let Some((thread, n_threads)) = status.filter(|_| self.is_own).and_then(|status| self.leader_of(status)) {
            leader = Some((self.id, thread.state, n_threads));
            threads.push(thread);
        }
        let (procfs, pid) = (&self.procfs, self.id.pid);
        for (tid, file) in &mut self.by_tid {
            let stat = match read_stat(file, buffer) {
                Ok(stat) => stat,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            if *tid == pid {
                leader = Some((stat.id(), stat.state, stat.n_threads));
            }
            threads.push(thread_of(procfs, pid, *tid, stat));
        }
        let is_same = |(id, _, n_threads): &(ProcessId, TaskState, u32)| {
            *id == self.id && u32::try_from(threads.len()).is_ok_and(|n_known| n_known == *n_threads)
        };
        let is_known = leader.filter(is_same);
        threads.sort_by_key(|thread| thread.tid);
        Ok(is_known.map(|(_, state, _)| (state, threads)))
    }

    fn read_listed(&mut self, buffer: &mut KeptBuffer) -> Result<(TaskState, Vec<Thread>), ReadError> {
        let pid = self.id.pid;
        let stat = self.procfs.stat(pid)?;
        if stat.id() != self.id {
            return Err(ReadError::NotFound { path: self.procfs.file_of(pid, "stat") });
        }
        let mut before = std::mem::take(&mut self.by_tid);
        let mut threads = Vec::new();
        for tid in numbers_in(&self.procfs.file_of(pid, "task"))? {
            let new = || KeptFile::plain(self.procfs.file_of(pid, &format!("task/{tid}/stat")));
            let mut file = before.remove(&tid).unwrap_or_else(new);
            let thread = match read_stat(&mut file, buffer) {
                Ok(stat) => thread_of(&self.procfs, pid, tid, stat),
                Err(error) if error.is_not_found() => match self.procfs.thread(pid, tid) {
                    Ok(thread) => thread,
                    // It has ended since.
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            };
            self.by_tid.insert(tid, file);
            threads.push(thread);
        }
        Ok((stat.state, threads))
    }
}

fn thread_of(procfs: &Procfs, pid: u32, tid: u32, stat: Stat) -> Thread {
    let is_blocked = stat.state == TaskState::Uninterruptible;
    let wchan = if is_blocked { procfs.wchan(pid, tid) } else { None };
    Thread::new(tid, stat, wchan)
}

fn read_stat(file: &mut KeptFile, buffer: &mut KeptBuffer) -> Result<Stat, ReadError> {
    let parsed = parse_stat(file.read_bytes(buffer)?);
    parsed.map_err(|malformed| malformed.at(file.display_path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watched: &mut WatchedProcess) -> WatchedLook {
        watched.look(&mut KeptBuffer::default()).unwrap()
    }

    #[test]
    fn threads_that_come_and_go_are_seen_at_every_look_as_a_listing_sees_them() {
        let procfs = Procfs::default();
        let own = procfs.stat(std::process::id()).unwrap().id();
        let mut watched = WatchedProcess::new(&procfs, own);
        let mut round = || {
            let (started, is_started) = std::sync::mpsc::channel();
            let (end, ends) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::Builder::new().name("comes-and-goes".to_owned());
            let thread = thread.spawn(move || {
                started.send(()).unwrap();
                let _ = ends.recv();
            });
            is_started.recv().unwrap();
            let mut n_of_name = || {
                let seen = look(&mut watched);
                assert!(seen.status.is_some() && seen.threads.iter().any(|thread| thread.tid == own.pid));
                seen.threads.iter().filter(|thread| thread.comm == "comes-and-goes").count()
            };
            assert_eq!((n_of_name(), n_of_name()), (1, 1));
            drop(end);
            thread.unwrap().join().unwrap();
            // The thread's number may outlive `join` by a moment.
            while n_of_name() > 0 {
                std::thread::yield_now();
            }
        };
        (0..3).for_each(|_| round());
    }

    #[test]
    fn a_process_that_has_ended_and_another_with_its_number_are_not_found() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let id = Procfs::default().stat(child.id()).unwrap().id();
        let mut watched = WatchedProcess::new(&Procfs::default(), id);
        assert_eq!(look(&mut watched).threads.len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(watched.look(&mut KeptBuffer::default()).unwrap_err().is_not_found());
        let own = std::process::id();
        let mut other = WatchedProcess::new(&Procfs::default(), ProcessId { pid: own, start_time_ticks: 1 });
        assert!(other.look(&mut KeptBuffer::default()).unwrap_err().is_not_found());
    }

    #[test]
    fn a_recording_without_a_threads_stat_is_read_by_its_status() {
        let root = tempfile::tempdir().unwrap();
        let zeros = "0 ".repeat(44);
        std::fs::create_dir_all(root.path().join("7/task/7")).unwrap();
        std::fs::write(root.path().join("7/stat"), format!("7 (qemu) S 1 {zeros}\n")).unwrap();
        std::fs::write(root.path().join("7/task/7/status"), "Name:\tworker\nState:\tD (disk sleep)\n").unwrap();
        let id = ProcessId { pid: 7, start_time_ticks: 0 };
        let mut watched = WatchedProcess::new(&Procfs::new(root.path()), id);
        for _ in 0..2 {
            let seen = look(&mut watched);
            assert_eq!((seen.leader, seen.threads[0].state), (TaskState::Sleeping, TaskState::Uninterruptible));
            assert!(seen.status.is_none());
        }
    }
}
