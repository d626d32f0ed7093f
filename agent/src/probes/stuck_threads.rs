//! Which thread of a process has been in D state at most looks in a row.
//!
//! A process whose leader sleeps may have one thread that the kernel does not let go. Threads in D are normal for a moment, and
//! a busy process shows another one at each look: only one that stays is stuck, so the same one has to be told each time.

use std::collections::BTreeMap;

use kulprit_host::ReadError;
use kulprit_host::process::{ProcessId, Procfs, TaskState, Thread};

/// The threads of some processes that were in D state when each was last looked at, with the looks in a row.
#[derive(Debug, Default)]
pub(super) struct StuckThreads(BTreeMap<ProcessId, BTreeMap<u32, u32>>);

impl StuckThreads {
    /// The thread that has been in D state for longest; `None`: none is, or nobody asks. Reads the `stat` of each, some 8 µs: when it is to
    /// look `closely`, and until none is blocked any more.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub(super) fn look(&mut self, procfs: &Procfs, id: ProcessId, closely: bool) -> Result<Option<Thread>, ReadError> {
        if !closely && !self.had_one(id) {
            return Ok(None);
        }
        let mut threads = procfs.threads(id.pid)?;
        threads.retain(|thread| thread.state == TaskState::Uninterruptible);
        let before = self.0.remove(&id).unwrap_or_default();
        let n_looks = |tid: u32| before.get(&tid).map_or(1, |n_looks| n_looks + 1);
        let now: BTreeMap<u32, u32> = threads.iter().map(|thread| (thread.tid, n_looks(thread.tid))).collect();
        if !now.is_empty() {
            self.0.insert(id, now);
        }
        // The first of those that have been it equally long.
        Ok(threads.into_iter().rev().max_by_key(|thread| n_looks(thread.tid)))
    }

    /// Whether one was in D state at the last look at this process: then whether it still is has to be looked at.
    fn had_one(&self, id: ProcessId) -> bool {
        self.0.contains_key(&id)
    }

    /// Forgets the processes that are not `alive`.
    pub(super) fn retain(&mut self, alive: impl Fn(ProcessId) -> bool) {
        self.0.retain(|id, _| alive(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::testing::put_thread;

    #[test]
    fn the_thread_that_stays_is_told_whichever_else_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (procfs, id) = (Procfs::new(dir.path()), ProcessId { pid: 7, start_time_ticks: 70 });
        let mut stuck = StuckThreads::default();
        let mut look = |states: [char; 4]| {
            (7..).zip(states).for_each(|(tid, state)| put_thread(dir.path(), 7, tid, "shim", state));
            stuck.look(&procfs, id, true).unwrap().map(|thread| thread.tid)
        };
        assert_eq!(look(['S', 'S', 'R', 'S']), None);
        assert_eq!(look(['S', 'D', 'S', 'D']), Some(8), "the first of two that are equally new");
        assert_eq!(look(['S', 'S', 'D', 'D']), Some(10));
        assert_eq!(look(['S', 'D', 'D', 'D']), Some(10));
        assert_eq!(look(['S', 'D', 'D', 'S']), Some(9));
        assert_eq!(look(['S', 'S', 'S', 'S']), None);
        assert!(!stuck.had_one(id));
        assert!(stuck.look(&procfs, ProcessId { pid: 9, start_time_ticks: 90 }, true).unwrap_err().is_not_found());
    }
}
