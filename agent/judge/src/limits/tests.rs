//! Each limit from both sides, and what was not recorded.

use kulprit_model::Status::{self, Absent, Present, Unknown};

use super::*;
use crate::testing::{status_of, statuses};

fn pool(n_total: u64, n_free: u64, n_reserved: u64) -> HugepagePool {
    HugepagePool { size_kib: 2048, numa_node: None, n_total, n_free, n_reserved: Some(n_reserved) }
}

fn limit(what: &'static str, used: u64, limit: u64) -> KernelLimit {
    KernelLimit { what, usage: Ok(Usage { used, limit }), is_lower_bound: false }
}

fn well() -> NodeLimitsLook {
    NodeLimitsLook {
        at: Moment::default(),
        hugepages: Ok(vec![pool(0, 0, 0), pool(8, 3, 2)]),
        tasks: Ok(Usage { used: 500, limit: 32_768 }),
        kubepods: Vec::new(),
        kernel: vec![limit("files", 1, 100), limit("aio", 0, 65_536)],
        userfaultfd: Ok(1),
    }
}

/// Hugepages, pids, kernel, userfaultfd.
#[track_caller]
fn check(look: &NodeLimitsLook, want: [Status; 4]) {
    assert_eq!(statuses(&judge_node(look)), want, "{look:?}");
}

#[test]
fn a_node_with_room_is_well() {
    check(&well(), [Absent; 4]);
}

#[test]
fn hugepages_are_gone_when_none_is_left_that_is_not_promised() {
    for (n_free, n_reserved, want) in [(1, 0, Absent), (0, 0, Present), (3, 3, Present), (4, 3, Absent)] {
        let look = NodeLimitsLook { hugepages: Ok(vec![pool(8, n_free, n_reserved)]), ..well() };
        check(&look, [want, Absent, Absent, Absent]);
    }
    let of_numa = HugepagePool { numa_node: Some(1), n_reserved: None, ..pool(4, 0, 0) };
    check(&NodeLimitsLook { hugepages: Ok(vec![pool(8, 4, 0), of_numa]), ..well() }, [Absent; 4]);
}

/// One NUMA node may have none left while the whole has many: whoever asks why a bound guest found none reads it here.
#[test]
fn hugepages_are_told_by_numa_node() {
    let said = |n_free: [u64; 2]| {
        let of = |node, n_free| HugepagePool { numa_node: Some(node), n_reserved: None, ..pool(10, n_free, 0) };
        let pools = vec![pool(20, n_free[0] + n_free[1], 0), of(0, n_free[0]), of(1, n_free[1])];
        let verdicts = judge_node(&NodeLimitsLook { hugepages: Ok(pools), ..well() });
        let Some(Verdict::State(state)) = verdicts.first() else { panic!("a state") };
        (state.status, state.evidence[0].text.clone())
    };
    let (status, text) = said([0, 9]);
    assert_eq!(status, Absent);
    assert!(text.ends_with("9 of 20 left (free by NUMA node: node 0 0 of 10, node 1 9 of 10)"), "{text}");
    let (status, text) = said([0, 1]);
    assert_eq!(status, Present);
    assert!(text.ends_with(" (free by NUMA node: node 0 0 of 10, node 1 1 of 10)"), "{text}");
}

#[test]
fn process_ids_count_from_nine_tenths_of_the_node_or_of_kubepods() {
    for (used, want) in [(899, Absent), (900, Present)] {
        let tasks = Ok(Usage { used, limit: 1000 });
        check(&NodeLimitsLook { tasks, ..well() }, [Absent, want, Absent, Absent]);
        let pids = PidsCgroup { n_current: used, limit: Some(1000), refused_total: None };
        let kubepods = vec![("kubepods.slice".to_owned(), pids)];
        check(&NodeLimitsLook { kubepods, ..well() }, [Absent, want, Absent, Absent]);
    }
}

#[test]
fn a_kernel_limit_counts_from_nine_tenths_and_only_all_of_them_together_are_well() {
    for (used, want) in [(89, Absent), (90, Present)] {
        let kernel = vec![limit("files", 1, 100), limit("conntrack", used, 100)];
        check(&NodeLimitsLook { kernel, ..well() }, [Absent, Absent, want, Absent]);
    }
    let unread = KernelLimit { what: "aio", usage: Err("gone".to_owned()), is_lower_bound: false };
    check(
        &NodeLimitsLook { kernel: vec![limit("files", 1, 100), unread.clone()], ..well() },
        [Absent, Absent, Unknown, Absent],
    );
    check(
        &NodeLimitsLook { kernel: vec![limit("files", 95, 100), unread], ..well() },
        [Absent, Absent, Present, Absent],
    );
}

#[test]
fn a_lower_bound_proves_a_reached_limit_and_no_free_one() {
    for (used, want) in [(115, Unknown), (116, Present)] {
        let kernel = vec![KernelLimit { is_lower_bound: true, ..limit("inotify-instances", used, 128) }];
        check(&NodeLimitsLook { kernel, ..well() }, [Absent, Absent, want, Absent]);
    }
}

#[test]
fn what_could_not_be_read_is_unknown() {
    let no = || "`proc/x` does not exist".to_owned();
    let look =
        NodeLimitsLook { hugepages: Err(no()), tasks: Err(no()), kernel: Vec::new(), userfaultfd: Err(no()), ..well() };
    check(&look, [Unknown; 4]);
    check(&NodeLimitsLook { userfaultfd: Ok(0), ..well() }, [Absent, Absent, Absent, Present]);
}

fn qemu() -> ProcessUse {
    ProcessUse {
        name: "qemu-kvm".to_owned(),
        pid: 12,
        limits: ProcessLimits {
            open_files: Some(Limit::Of(1024)),
            locked_memory: Some(Limit::Of(65_536)),
            address_space: Some(Limit::Unlimited),
        },
        n_open_files: Some(30),
        memory: ProcessMemory { locked_bytes: Some(0), size_bytes: Some(1 << 40) },
    }
}

#[track_caller]
fn check_launcher(pids: Reading<PidsCgroup>, process: ProcessUse, want: Status, what: Option<&str>) {
    let pids = pids.map(|pids| ("kubepods/pod1".to_owned(), pids));
    let subject = Subject::vm("u");
    let verdicts =
        judge_launcher(&LauncherLimitsLook { at: Moment::default(), subject: &subject, pids, processes: &[process] });
    assert_eq!(status_of(&verdicts, FindingCode::LauncherLimitReached), Some(want));
    let Verdict::State(state) = &verdicts[0] else { panic!("{verdicts:?}") };
    assert_eq!(state.attributes.get(attribute::WHAT), what);
}

#[test]
fn limits_of_a_launcher_count_when_they_are_reached() {
    let pids = |n_current| Ok(PidsCgroup { n_current, limit: Some(100), refused_total: Some(0) });
    check_launcher(pids(99), qemu(), Absent, None);
    check_launcher(pids(100), qemu(), Present, Some("pids"));
    check_launcher(pids(1), ProcessUse { n_open_files: Some(1023), ..qemu() }, Absent, None);
    check_launcher(pids(1), ProcessUse { n_open_files: Some(1024), ..qemu() }, Present, Some("files"));
    for (locked_bytes, want, what) in [(64_880, Absent, None), (64_881, Present, Some("locked-memory"))] {
        let memory = ProcessMemory { locked_bytes: Some(locked_bytes), size_bytes: None };
        check_launcher(pids(1), ProcessUse { memory, ..qemu() }, want, what);
    }
    check_launcher(Err("gone".to_owned()), qemu(), Unknown, None);
}

#[test]
fn nothing_locked_under_a_limit_of_nothing_is_no_fault() {
    let limits = ProcessLimits { locked_memory: Some(Limit::Of(0)), ..qemu().limits };
    let pids = Ok(PidsCgroup { n_current: 1, limit: None, refused_total: None });
    check_launcher(pids, ProcessUse { limits, ..qemu() }, Absent, None);
}

#[test]
fn refused_forks_are_told_as_often_as_they_were_counted() {
    let pids = Ok(("kubepods/pod1".to_owned(), PidsCgroup { n_current: 5, limit: Some(100), refused_total: Some(7) }));
    let subject = Subject::vm("u");
    let verdicts =
        judge_launcher(&LauncherLimitsLook { at: Moment::default(), subject: &subject, pids, processes: &[] });
    let Verdict::Occurrence(occurrence) = &verdicts[1] else { panic!("{verdicts:?}") };
    assert_eq!((occurrence.code, occurrence.count), (FindingCode::ForkRejected, 7));
    assert_eq!(occurrence.attributes.get(attribute::UNDATED), Some("true"));
}

#[test]
fn kills_of_a_memory_limit_are_told_as_often_as_they_were_counted() {
    let subject = Subject::vm("u");
    let memory = |oom_kill_total| MemoryCgroup { oom_kill_total, ..MemoryCgroup::default() };
    for kills in [None, Some(0)] {
        assert_eq!(judge_memory_cgroup(&subject, Moment::default(), "pod", &memory(kills)), None);
    }
    let Some(Verdict::Occurrence(kill)) = judge_memory_cgroup(&subject, Moment::default(), "pod", &memory(Some(2)))
    else {
        panic!("told")
    };
    assert_eq!(
        (kill.code, kill.count, kill.attributes.get(attribute::MEMCG)),
        (FindingCode::MemcgOomKill, 2, Some("pod"))
    );
}

#[test]
fn forks_that_were_refused_since_the_last_look_are_told_and_the_first_is_the_kernel_logs() {
    for (before, now, want) in
        [(0, 0, None), (0, 1, None), (0, 3, Some(2)), (3, 3, None), (3, 4, Some(1)), (4, 1, None)]
    {
        let verdict = judge_refused_forks(Moment::default(), "kubepods/a", before, now);
        let count = verdict.map(|verdict| match verdict {
            Verdict::Occurrence(refused) => {
                assert_eq!(refused.code, FindingCode::ForkRejected);
                refused.count
            }
            Verdict::State(state) => panic!("{state:?}"),
        });
        assert_eq!(count, want, "{before} then {now}");
    }
}
