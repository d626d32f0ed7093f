//! Kills at a VM's memory limit, as its cgroup counts them: told where the kernel's log did not tell them.
//!
//! The log names who was killed and comes at once, so it goes first; its lines may be lost, or not ours to read. What a counter
//! shows is held for one look, so that the log can tell the same. A cgroup may outlive its VM by seconds: it is read twice more.

use std::path::{Path, PathBuf};

use kulprit_host::HostRoot;
use kulprit_host::cgroup::{MemoryCgroup, read_memory_counters};
use kulprit_judge::Verdict;
use kulprit_judge::pressure::{judge_limit_kills, new_limit_kills};
use kulprit_model::{Moment, Subject};

use crate::probes::VmIndex;

/// A line of the log may carry a time a little before that of the counter, microseconds.
const CLOCKS_DIFFER_USEC: i64 = 1_000_000;
/// Looks at the cgroup of a VM that runs no more: one for the counter, one to tell.
const LOOKS_AFTER_END: u8 = 2;

/// The memory counters of a cgroup.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// Where, below the host's root.
    pub(super) place: PathBuf,
    pub(super) memory: MemoryCgroup,
}

impl Counted {
    /// `None` where there are none, or they cannot be read.
    pub(super) fn read(host: &HostRoot, place: &Path) -> Option<Self> {
        Some(Self { place: place.to_owned(), memory: read_memory_counters(host, place).ok()? })
    }
}

/// What is known of one VM's kills.
#[derive(Debug, Default)]
pub(super) struct Kills {
    pod_uid: Option<String>,
    last: Option<(Moment, Counted)>,
    /// Counted at the last look: how many, since when, where.
    pending: Option<(u64, Moment, PathBuf)>,
    n_looks_after_end: u8,
}

impl Kills {
    /// The VM runs, in this pod.
    pub(super) fn see_pod(&mut self, pod_uid: Option<String>) {
        self.n_looks_after_end = 0;
        self.pod_uid = pod_uid;
    }

    /// The VM runs no more.
    pub(super) fn see_end(&mut self) {
        self.n_looks_after_end += 1;
    }

    /// Whether a VM that runs no more is worth another look.
    pub(super) fn outlives(&self) -> bool {
        self.last.is_some() && self.n_looks_after_end < LOOKS_AFTER_END
    }

    /// Where its counters are.
    pub(super) fn place(&self) -> Option<&Path> {
        self.last.as_ref().map(|(_, counted)| counted.place.as_path())
    }

    /// What the same cgroup as that of `now` had counted at the last look.
    pub(super) fn counters(&self, now: Option<&Counted>) -> Option<MemoryCgroup> {
        let (_, last) = self.last.as_ref()?;
        (last.place == now?.place).then_some(last.memory)
    }

    /// Takes what is counted now; tells what was counted at the last look and nobody has told since.
    pub(super) fn push(&mut self, vms: &VmIndex, uid: &str, at: Moment, now: Option<Counted>) -> Option<Verdict> {
        let told = self.pending.take().and_then(|(n_kills, since, place)| {
            let uids: Vec<&str> = std::iter::once(uid).chain(self.pod_uid.as_deref()).collect();
            let n_untold = n_kills.saturating_sub(vms.n_oom_kills(&uids, since));
            let shown = place.strip_prefix("sys/fs/cgroup").unwrap_or(&place).display().to_string();
            judge_limit_kills(&Subject::vm(uid), at, &shown, n_untold)
        });
        let before = self.counters(now.as_ref());
        if let Some(now) = now {
            let n_kills = before.map_or(0, |before| new_limit_kills(&before, &now.memory));
            if let Some((since, _)) = self.last.as_ref().filter(|_| n_kills > 0) {
                self.pending = Some((n_kills, since.offset_usec(-CLOCKS_DIFFER_USEC), now.place.clone()));
            }
            self.last = Some((at, now));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use kulprit_model::FindingCode;

    use super::*;

    fn at(secs: i64) -> Moment {
        Moment::default().offset_usec(secs * 1_000_000)
    }

    fn counted(place: &str, kills: u64) -> Option<Counted> {
        let memory = MemoryCgroup { oom_total: Some(kills), oom_kill_total: Some(kills), ..MemoryCgroup::default() };
        Some(Counted { place: place.into(), memory })
    }

    /// Kills told at each look, 10 s apart.
    fn tell(kills: &mut Kills, vms: &VmIndex, looks: &[Option<Counted>]) -> Vec<u64> {
        let looks = looks.iter().zip((0..).step_by(10));
        let one = |(now, secs): (&Option<Counted>, i64)| match kills.push(vms, "vm", at(secs), now.clone()) {
            Some(Verdict::Occurrence(kill)) => {
                assert_eq!((kill.code, kill.subject), (FindingCode::MemcgOomKill, Subject::vm("vm")));
                kill.count
            }
            Some(Verdict::State(_)) => panic!("a kill is no state"),
            None => 0,
        };
        looks.map(one).collect()
    }

    #[test]
    fn a_kill_that_the_log_did_not_tell_is_told_a_look_later_and_once() {
        let looks = [counted("a", 4), counted("a", 6), counted("a", 6), counted("a", 6)];
        assert_eq!(tell(&mut Kills::default(), &VmIndex::new(), &looks), [0, 0, 2, 0]);
    }

    #[test]
    fn what_the_log_told_of_the_vm_or_its_pod_is_not_told_again() {
        let looks = [counted("a", 4), counted("a", 7), counted("a", 7)];
        let mut kills = Kills::default();
        kills.see_pod(Some("pod".to_owned()));
        let vms = VmIndex::new();
        vms.add_oom_kill(at(5), "vm");
        vms.add_oom_kill(at(6), "pod");
        vms.add_oom_kill(at(6), "other");
        assert_eq!(tell(&mut kills, &vms, &looks), [0, 0, 1]);
    }

    #[test]
    fn another_cgroup_begins_anew_and_one_that_is_gone_tells_what_was_seen() {
        let vms = VmIndex::new();
        assert_eq!(tell(&mut Kills::default(), &vms, &[counted("a", 0), counted("b", 9), counted("b", 9)]), [0; 3]);
        assert_eq!(tell(&mut Kills::default(), &vms, &[counted("a", 0), counted("a", 1), None]), [0, 0, 1]);
        let mut kills = Kills::default();
        assert!(!kills.outlives());
        tell(&mut kills, &vms, &[counted("a", 0)]);
        kills.see_end();
        assert!(kills.outlives());
        kills.see_end();
        assert!(!kills.outlives());
    }
}
