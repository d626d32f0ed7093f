//! How the processes of launchers do at each look; the file that says so stays open from look to look.

use std::collections::BTreeMap;

use kulprit_host::kept::{KeptBuffer, KeptFile};
use kulprit_host::process::{ProcessId, Procfs, TaskState, parse_stat};
use kulprit_judge::launcher::Member;
use kulprit_judge::qemu::BlockedThread;
use kulprit_judge::recorded::Health;

use super::family::{AllFacts, Facts};

/// The `stat` of each process.
#[derive(Debug)]
pub(super) struct MemberReader {
    procfs: Procfs,
    files: BTreeMap<ProcessId, KeptFile>,
    buffer: KeptBuffer,
}

impl MemberReader {
    /// Opens nothing yet.
    pub(super) fn new(procfs: &Procfs) -> Self {
        Self { procfs: procfs.clone(), files: BTreeMap::new(), buffer: KeptBuffer::default() }
    }

    /// Closes the files of all others.
    pub(super) fn retain(&mut self, facts: &AllFacts) {
        self.files.retain(|id, _| facts.contains_key(id));
    }

    /// How one process does; `None` when it has ended.
    pub(super) fn read(&mut self, facts: &Facts) -> Option<Member> {
        let (procfs, id) = (&self.procfs, facts.resident.id);
        let new = || KeptFile::plain(procfs.path().join(id.pid.to_string()).join("stat"));
        let file = self.files.entry(id).or_insert_with(new);
        let stat = parse_stat(file.read_bytes(&mut self.buffer).ok()?).ok().filter(|stat| stat.id() == id)?;
        let health = match stat.state {
            // Live, what it waits in is told whatever it is: the finding is held for 30 s.
            TaskState::Uninterruptible => Health::Blocked {
                wchan: wchan(procfs, stat.pid).unwrap_or_else(|| "a function that the kernel does not name".to_owned()),
                comm: stat.comm.clone(),
            },
            state => Health::of(state, &Vec::<BlockedThread>::new()),
        };
        Some(Member { pid: stat.pid, name: stat.comm, health: Some(health) })
    }
}

fn wchan(procfs: &Procfs, pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(procfs.path().join(format!("{pid}/wchan"))).ok()?;
    let name = text.trim();
    (!name.is_empty() && name != "0").then(|| name.chars().take(100).collect())
}
