//! How the processes of launchers do at each look; the file that says so stays open from look to look.

use std::collections::BTreeMap;

use kulprit_host::kept::{KeptBuffer, KeptFile};
use kulprit_host::process::{ProcessId, Procfs, parse_stat};
use kulprit_judge::launcher::Member;
use kulprit_judge::qemu::BlockedThread;
use kulprit_judge::recorded::Health;

use super::family::{AllFacts, Facts};
use crate::probes::stuck_threads::StuckThreads;

/// The `stat` of each process, and of the threads of some.
#[derive(Debug)]
pub(super) struct MemberReader {
    procfs: Procfs,
    files: BTreeMap<ProcessId, KeptFile>,
    stuck: StuckThreads,
    buffer: KeptBuffer,
}

impl MemberReader {
    /// Opens nothing yet.
    pub(super) fn new(procfs: &Procfs) -> Self {
        Self {
            procfs: procfs.clone(),
            files: BTreeMap::new(),
            stuck: StuckThreads::default(),
            buffer: KeptBuffer::default(),
        }
    }

    /// Closes the files of all others.
    pub(super) fn retain(&mut self, facts: &AllFacts) {
        self.files.retain(|id, _| facts.contains_key(id));
        self.stuck.retain(|id| facts.contains_key(&id));
    }

    /// How one process does; `closely` by all of its threads, as it is looked at until none of them is blocked. `None` when it has
    /// ended.
    pub(super) fn read(&mut self, facts: &Facts, closely: bool) -> Option<Member> {
        let (procfs, id) = (&self.procfs, facts.resident.id);
        let new = || KeptFile::plain(procfs.path().join(id.pid.to_string()).join("stat"));
        let file = self.files.entry(id).or_insert_with(new);
        let stat = parse_stat(file.read_bytes(&mut self.buffer).ok()?).ok().filter(|stat| stat.id() == id)?;
        // Live, what it waits in is told whatever it is: the finding is held for 30 s.
        let blocked = |tid: u32, comm: &str, wchan: Option<String>| {
            let wchan = wchan.unwrap_or_else(|| "a function that the kernel does not name".to_owned());
            Health::Blocked { tid, comm: comm.to_owned(), wchan: wchan.chars().take(100).collect() }
        };
        let health = match Health::of(stat.state, &Vec::<BlockedThread>::new()) {
            Health::Unclear => blocked(stat.pid, &stat.comm, procfs.wchan(stat.pid, stat.pid)),
            Health::Runs => match self.stuck.look(procfs, id, closely) {
                Ok(Some(thread)) => blocked(thread.tid, &thread.comm, thread.wchan),
                Err(error) if !error.is_not_found() => Health::Unclear,
                Ok(None) | Err(_) => Health::Runs,
            },
            health => health,
        };
        Some(Member { pid: stat.pid, name: stat.comm, health: Some(health) })
    }
}
