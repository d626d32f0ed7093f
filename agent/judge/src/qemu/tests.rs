//! Every state of one QEMU from both sides.

use kulprit_model::Status::{self, Absent, Present, Unknown};
use proptest::prelude::*;

use super::*;

const FREEZE: [&str; 3] = ["percpu_rwsem_wait", "__percpu_down_read", "vfs_write"];

fn second(n: i64) -> Moment {
    Moment::default().offset_usec(n * 1_000_000)
}

fn thread(tid: u32, comm: &str, state: TaskState, wchan: Option<&str>) -> Thread {
    Thread {
        tid,
        comm: comm.to_owned(),
        state,
        wchan: wchan.map(str::to_owned),
        start_time_ticks: Some(900),
        utime_ticks: None,
        stime_ticks: None,
    }
}

fn blocked(tid: u32, frames: &[&str], switches_total: Option<u64>) -> BlockedThread {
    BlockedThread {
        thread: thread(tid, "worker", TaskState::Uninterruptible, frames.first().copied()),
        frames: Some(frames.iter().map(|frame| (*frame).to_owned()).collect()),
        switches_total,
    }
}

fn disk(path: &str, device: Option<&str>, fstype: Option<&str>, target: &str) -> QemuDisk {
    let owned = |text: &str| text.to_owned();
    let mount_point = fstype.map(|fstype| format!("/mnt/{fstype}"));
    let disk = Disk {
        path: owned(path),
        device: device.map(owned),
        device_name: None,
        fstype: fstype.map(owned),
        mount_point,
    };
    QemuDisk { disk, target: Some(owned(target)) }
}

/// A QEMU to be looked at several times.
struct Case {
    subject: Subject,
    history: ThreadHistory,
    leader: TaskState,
    threads: Vec<Thread>,
    pending: Option<PendingSignals>,
    disks: Vec<QemuDisk>,
}

impl Case {
    fn well() -> Self {
        Self {
            subject: Subject::vm("a"),
            history: ThreadHistory::default(),
            leader: TaskState::Sleeping,
            threads: vec![
                thread(7, "qemu-kvm", TaskState::Sleeping, None),
                thread(8, "CPU 0/KVM", TaskState::Sleeping, None),
                thread(9, "kvm-nx-lpage-re", TaskState::Sleeping, None),
            ],
            pending: Some(PendingSignals::default()),
            disks: vec![disk("/mnt/ext4/a.img", Some("7:0"), Some("ext4"), "vda")],
        }
    }

    fn look(&mut self, at: i64, blocked: &[BlockedThread]) -> Vec<StateVerdict> {
        let look = QemuLook {
            at: second(at),
            subject: &self.subject,
            pid: 7,
            leader: self.leader,
            threads: &self.threads,
            blocked,
            pending: self.pending,
            disks: &self.disks,
        };
        let states = judge(&look, &mut self.history).into_iter().map(|verdict| match verdict {
            Verdict::State(state) => state,
            Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
        });
        states.collect()
    }

    /// Thread blocked, disk stalled, stopped, zombie, termination pending.
    #[track_caller]
    fn check(&mut self, blocked: &[BlockedThread], want: [Status; 5]) -> Vec<StateVerdict> {
        let verdicts = self.look(0, blocked);
        assert_eq!(verdicts.iter().map(|verdict| verdict.status).collect::<Vec<_>>(), want, "{verdicts:#?}");
        verdicts
    }
}

#[test]
fn a_well_qemu_has_no_fault() {
    Case::well().check(&[], [Absent; 5]);
}

#[test]
fn every_state_of_the_probe_is_answered_known_or_not() {
    let owned: Vec<FindingCode> = kulprit_model::catalogue::CATALOGUE
        .iter()
        .filter(|spec| spec.probe == "qemu" && spec.kind == kulprit_model::catalogue::Kind::State)
        .map(|spec| spec.code)
        .collect();
    let codes = |verdicts: &[StateVerdict]| verdicts.iter().map(|verdict| verdict.code).collect::<Vec<_>>();
    assert_eq!(codes(&Case::well().look(0, &[])), owned);
    assert_eq!(unknown(&Subject::vm("a"), "no").len(), owned.len());
}

#[test]
fn a_thread_on_a_frozen_file_system_stalls_the_disk_there() {
    let verdicts = Case::well().check(&[blocked(10, &FREEZE, Some(5))], [Present, Present, Absent, Absent, Absent]);
    let facts = |key| verdicts[1].attributes.get(key);
    assert_eq!(facts(attribute::WAIT), Some(attribute::WAIT_LOCAL_STORAGE));
    assert_eq!(facts(attribute::DEVICE), Some("7:0"));
    assert_eq!(facts(attribute::MOUNT_POINT), Some("/mnt/ext4"));
    assert_eq!(facts(attribute::DISK), Some("vda"));
    assert_eq!(facts(attribute::WCHAN), Some("percpu_rwsem_wait"));
    assert!(verdicts[0].evidence[1].text.contains("percpu_rwsem_wait < __percpu_down_read < vfs_write"));
}

#[test]
fn of_several_disks_the_one_of_that_file_system_is_named() {
    let mut case = Case::well();
    case.disks.push(disk("/mnt/nfs4/b.img", None, Some("nfs4"), "vdb"));
    case.disks.push(disk("/dev/sdc", Some("8:32"), None, "vdc"));
    let stalled = |case: &mut Case, frames: &[&str]| {
        let verdict = case.check(&[blocked(10, frames, None)], [Present, Present, Absent, Absent, Absent]).remove(1);
        (
            verdict.attributes.get(attribute::DISK).map(str::to_owned),
            verdict.attributes.get(attribute::DEVICE).map(str::to_owned),
        )
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(stalled(&mut case, &["rpc_wait_bit_killable", "nfs4_proc_commit"]), (some("vdb"), None));
    assert_eq!(stalled(&mut case, &["io_schedule", "ext4_sync_file"]), (some("vda"), some("7:0")));
    assert_eq!(stalled(&mut case, &["submit_bio_wait", "blkdev_fsync"]), (some("vdc"), some("8:32")));
    // The functions do not tell which of two: no single device is claimed.
    assert_eq!(stalled(&mut case, &FREEZE), (some("vda,vdb"), None));
}

#[test]
fn a_wait_for_something_else_blocks_the_thread_and_no_disk() {
    let verdicts =
        Case::well().check(&[blocked(10, &["vfio_pin_pages"], None)], [Present, Absent, Absent, Absent, Absent]);
    assert_eq!(verdicts[0].attributes.get(attribute::WAIT), Some(attribute::WAIT_OTHER));
}

#[test]
fn kernel_threads_and_core_dumps_are_not_blocked() {
    let mut kernel_thread = blocked(9, &["kvm_nx_huge_page_recovery_worker"], None);
    kernel_thread.thread.comm = "kvm-nx-lpage-re".to_owned();
    Case::well().check(&[kernel_thread, blocked(10, &["coredump_task_exit"], None)], [Absent; 5]);
}

#[test]
fn one_wait_keeps_its_hold_and_a_new_one_begins_anew() {
    let mut case = Case::well();
    let key = |case: &mut Case, at, row: BlockedThread| case.look(at, &[row])[0].hold_key.clone().unwrap();
    let first = key(&mut case, 0, blocked(10, &FREEZE, Some(5)));
    assert_eq!(key(&mut case, 2, blocked(10, &FREEZE, Some(5))), first);
    assert_eq!(key(&mut case, 4, blocked(10, &FREEZE, None)), first, "a count that cannot be read proves nothing");
    assert_ne!(key(&mut case, 6, blocked(10, &["io_schedule"], Some(5))), first, "other wchan");
    assert_ne!(key(&mut case, 8, blocked(11, &FREEZE, Some(5))), first, "other thread");
}

#[test]
fn a_busy_thread_that_is_always_caught_waiting_is_not_blocked() {
    let mut case = Case::well();
    let mut keys: Vec<_> = (0..6)
        .map(|n| case.look(2 * n, &[blocked(10, &["io_schedule"], Some(100 * n.unsigned_abs()))])[0].hold_key.clone())
        .collect();
    keys.dedup();
    assert_eq!(keys.len(), 6, "each look is a new wait");
    // One wake-up a second is a retry, two are work.
    for (wakeups, is_same) in [(3, true), (4, false)] {
        let mut case = Case::well();
        let first = case.look(0, &[blocked(10, &FREEZE, Some(50))])[0].since;
        let second = case.look(2, &[blocked(10, &FREEZE, Some(50 + wakeups))])[0].since;
        assert_eq!(first == second, is_same, "{wakeups} wake-ups in 2 s");
    }
}

#[test]
fn of_several_waits_the_longest_is_reported_and_its_end_does_not_hide_the_next() {
    let mut case = Case::well();
    case.look(0, &[blocked(12, &FREEZE, None)]);
    let both = case.look(5, &[blocked(11, &FREEZE, None), blocked(12, &FREEZE, None)]);
    assert_eq!((both[0].attributes.get(attribute::TID), both[0].since), (Some("12"), Some(second(0))));
    let rest = case.look(20, &[blocked(11, &FREEZE, None)]);
    assert_eq!((rest[0].attributes.get(attribute::TID), rest[0].since), (Some("11"), Some(second(5))));
}

#[test]
fn a_stopped_qemu_is_stopped_by_either_letter() {
    for (state, want) in [(TaskState::Stopped, Present), (TaskState::Traced, Present), (TaskState::Running, Absent)] {
        let mut case = Case { leader: state, ..Case::well() };
        case.check(&[], [Absent, Absent, want, Absent, Absent]);
    }
}

#[test]
fn a_dead_leader_is_a_zombie_alone_and_a_pending_end_with_a_live_thread() {
    let dead = |tid| thread(tid, "qemu-kvm", TaskState::Zombie, None);
    let mut alone = Case { leader: TaskState::Zombie, threads: vec![dead(7)], ..Case::well() };
    alone.check(&[], [Absent, Absent, Absent, Present, Absent]);
    let row = blocked(10, &FREEZE, None);
    let mut pinned = Case { leader: TaskState::Zombie, threads: vec![dead(7), row.thread.clone()], ..Case::well() };
    pinned.check(&[row], [Present, Present, Absent, Absent, Present]);
}

#[test]
fn a_signal_not_taken_is_a_pending_end() {
    for (has_kill, has_term, signal) in [(true, true, Some("9")), (false, true, Some("15")), (false, false, None)] {
        let mut case = Case { pending: Some(PendingSignals { has_kill, has_term }), ..Case::well() };
        let want = if signal.is_some() { Present } else { Absent };
        let verdicts = case.check(&[], [Absent, Absent, Absent, Absent, want]);
        assert_eq!(verdicts[4].attributes.get(attribute::SIGNAL), signal);
    }
    Case { pending: None, ..Case::well() }.check(&[], [Absent, Absent, Absent, Absent, Unknown]);
}

#[test]
fn an_end_says_how_where_the_kernel_tells() {
    let check = |ended, signal, code| {
        let verdict = exited(&Subject::vm("a"), 7, second(1), ended);
        assert_eq!(
            (verdict.attributes.get(attribute::SIGNAL), verdict.attributes.get(attribute::EXIT_CODE)),
            (signal, code)
        );
    };
    check(Ended::Killed { signal: 9 }, Some("9"), None);
    check(Ended::Exited(1), None, Some("1"));
    check(Ended::NotTold, None, None);
}

proptest! {
    #[test]
    fn no_sequence_of_looks_makes_it_panic(
        looks in proptest::collection::vec((any::<i64>(), 0_u32..4, proptest::option::of(any::<u64>()), ".{0,8}"), 0..8),
    ) {
        let mut case = Case::well();
        for (at, tid, switches, wchan) in looks {
            case.look(at / 2_000_000, &[blocked(tid, &[&wchan], switches)]);
        }
    }
}
