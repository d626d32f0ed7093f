//! One look at a process that was recorded: nobody can look again, so no state can be held.
//!
//! A thread in D state is normal for a moment. Of one look it counts only when something beside it says that it stays: the
//! kernel's stack or wchan shows a wait for storage, or the process was killed and this thread keeps it. Other threads in D state
//! make the answer `Unknown`.

use kulprit_host::process::TaskState;
use kulprit_model::{Evidence, FindingCode, Subject, attribute};

use crate::qemu::{BlockedThread, PendingSignals, QemuLook, ThreadHistory};
use crate::say::unknown;
use crate::verdict::{StateVerdict, Verdict};
use crate::wait;

/// How a recorded process does, by one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It runs or sleeps.
    Runs,
    /// Stopped by a signal or a debugger.
    Stopped(TaskState),
    /// Ended, not reaped.
    Ended,
    /// A thread waits in the kernel for storage.
    Blocked {
        /// The thread's number.
        tid: u32,
        /// The thread's name.
        comm: String,
        /// The function it sleeps in.
        wchan: String,
    },
    /// In D state, for what or how long nobody knows.
    Unclear,
}

impl Health {
    /// How a process does whose leader is in `leader` and of whose threads those in `blocked` were in D state.
    #[must_use]
    pub fn of(leader: TaskState, blocked: &[BlockedThread]) -> Self {
        match leader {
            TaskState::Stopped | TaskState::Traced => return Self::Stopped(leader),
            TaskState::Zombie | TaskState::Dead => return Self::Ended,
            TaskState::Running
            | TaskState::Sleeping
            | TaskState::Uninterruptible
            | TaskState::Idle
            | TaskState::Other(_) => {}
        }
        match blocked.iter().find(|row| waits_for_storage(row)) {
            Some(row) => Self::Blocked {
                tid: row.thread.tid,
                comm: row.thread.comm.clone(),
                wchan: row.thread.wchan.clone().or_else(|| row.frames.as_ref()?.first().cloned()).unwrap_or_default(),
            },
            None if leader == TaskState::Uninterruptible => Self::Unclear,
            None => Self::Runs,
        }
    }

    /// What is wrong, in words; `None` when nothing is, or it is not known.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Runs | Self::Unclear => None,
            Self::Stopped(state) => Some(format!("is stopped (state {})", state.letter())),
            Self::Ended => Some("has ended and is not reaped (state Z)".to_owned()),
            Self::Blocked { comm, wchan, tid: _ } => {
                Some(format!("has a thread ({comm}) in state D in {wchan}, a wait for storage (one look only)"))
            }
        }
    }
}

fn waits_for_storage(row: &BlockedThread) -> bool {
    let frames = row.frames.as_deref().unwrap_or_default();
    wait::classify(row.thread.wchan.as_deref(), frames).storage.is_some()
}

/// All states of a QEMU from one look. `are_threads_known` is false when only its leader was recorded.
#[must_use]
pub fn judge_qemu(look: &QemuLook<'_>, are_threads_known: bool) -> Vec<Verdict> {
    let is_dead = matches!(look.leader, TaskState::Zombie | TaskState::Dead);
    let is_killed = matches!(look.pending, Some(PendingSignals { has_kill: true, .. }));
    let counts = |row: &&BlockedThread| is_dead || is_killed || waits_for_storage(row);
    let blocked: Vec<BlockedThread> = look.blocked.iter().filter(counts).cloned().collect();
    let unclear = look.blocked.iter().find(|row| !counts(row));
    let mut verdicts =
        crate::qemu::judge(&QemuLook { blocked: &blocked, ..look.clone() }, &mut ThreadHistory::default());
    for verdict in &mut verdicts {
        let Verdict::State(state) = verdict else { continue };
        let is_wait = matches!(state.code, FindingCode::QemuThreadBlocked | FindingCode::VmDiskStalled);
        if is_wait && state.status == kulprit_model::Status::Present {
            let why = match (is_dead, is_killed) {
                (true, _) => "the process has ended but for this",
                (false, true) => "the process was killed and does not end",
                (false, false) => "the wait is one for storage",
            };
            state.evidence.push(Evidence::new("procfs", look.at, format!("one look only; it counts because {why}")));
        } else if is_wait && let Some(row) = unclear {
            *state = not_clear(state.code, look.subject, row);
        } else if is_wait && !are_threads_known {
            *state = unknown(state.code, look.subject, "the threads of QEMU were not recorded");
        } else if state.code == FindingCode::QemuZombie && is_dead && !are_threads_known {
            *state = unknown(state.code, look.subject, "QEMU's leader is a zombie and its threads were not recorded");
        }
    }
    verdicts
}

fn not_clear(code: FindingCode, subject: &Subject, row: &BlockedThread) -> StateVerdict {
    let wchan = row.thread.wchan.as_deref().unwrap_or("a function that was not recorded");
    let text = format!("thread {} ({}) was in state D in {wchan} at the only look", row.thread.tid, row.thread.comm);
    let mut state = unknown(code, subject, text);
    state.attributes = state.attributes.with(attribute::TID, row.thread.tid).with(attribute::COMM, &row.thread.comm);
    state
}

#[cfg(test)]
mod tests {
    use kulprit_host::process::Thread;
    use kulprit_model::Moment;
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    fn row(state: TaskState, wchan: Option<&str>) -> BlockedThread {
        let thread = Thread {
            tid: 13,
            comm: "worker".to_owned(),
            state,
            wchan: wchan.map(str::to_owned),
            start_time_ticks: None,
            utime_ticks: None,
            stime_ticks: None,
        };
        BlockedThread { thread, frames: None, switches_total: None }
    }

    /// Blocked, disk, stopped, zombie, termination.
    #[track_caller]
    fn check(leader: TaskState, wchan: Option<Option<&str>>, has_kill: bool, want: [Status; 5]) {
        let blocked: Vec<_> = wchan.into_iter().map(|wchan| row(TaskState::Uninterruptible, wchan)).collect();
        let threads: Vec<_> = blocked.iter().map(|row| row.thread.clone()).collect();
        let look = QemuLook {
            at: Moment::default(),
            subject: &Subject::vm("u"),
            pid: 12,
            leader,
            threads: &threads,
            blocked: &blocked,
            pending: Some(PendingSignals { has_kill, has_term: false }),
            disks: &[],
        };
        assert_eq!(statuses(&judge_qemu(&look, true)), want, "{leader:?} {wchan:?} kill={has_kill}");
    }

    #[test]
    fn a_thread_in_d_state_counts_with_a_wait_for_storage_or_after_a_kill() {
        let sleeping = TaskState::Sleeping;
        check(sleeping, None, false, [Absent; 5]);
        check(sleeping, Some(Some("io_schedule")), false, [Present, Present, Absent, Absent, Absent]);
        check(sleeping, Some(Some("some_lock")), false, [Unknown, Unknown, Absent, Absent, Absent]);
        check(sleeping, Some(None), false, [Unknown, Unknown, Absent, Absent, Absent]);
        check(sleeping, Some(Some("some_lock")), true, [Present, Absent, Absent, Absent, Present]);
        check(TaskState::Zombie, Some(Some("some_lock")), false, [Present, Absent, Absent, Absent, Present]);
    }

    #[test]
    fn stopped_and_dead_are_seen_at_one_look() {
        check(TaskState::Stopped, None, false, [Absent, Absent, Present, Absent, Absent]);
        check(TaskState::Zombie, None, false, [Absent, Absent, Absent, Present, Absent]);
    }

    #[test]
    fn a_zombie_without_recorded_threads_may_have_a_live_one() {
        let look = QemuLook {
            at: Moment::default(),
            subject: &Subject::vm("u"),
            pid: 12,
            leader: TaskState::Zombie,
            threads: &[],
            blocked: &[],
            pending: Some(PendingSignals::default()),
            disks: &[],
        };
        assert_eq!(statuses(&judge_qemu(&look, false)), [Unknown, Unknown, Absent, Unknown, Absent]);
    }

    #[test]
    fn health_is_the_leaders_state_and_a_threads_wait() {
        let storage = [row(TaskState::Uninterruptible, Some("rpc_wait_bit_killable"))];
        assert_eq!(Health::of(TaskState::Sleeping, &[]), Health::Runs);
        assert_eq!(Health::of(TaskState::Traced, &[]), Health::Stopped(TaskState::Traced));
        assert_eq!(Health::of(TaskState::Zombie, &storage), Health::Ended);
        assert!(Health::of(TaskState::Sleeping, &storage).fault().is_some());
        assert_eq!(Health::of(TaskState::Uninterruptible, &[]), Health::Unclear);
    }
}
