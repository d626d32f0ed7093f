//! On this machine's own log, and without one.

use std::io::Write as _;

use super::*;
use crate::look::Look;
use crate::probes::testing::Probe;

fn counts_of(look: &Look, name: &str) -> u64 {
    let of = |verdict: &Verdict| match verdict {
        Verdict::Occurrence(found) if found.subject == (Subject::Device { name: name.to_owned() }) => found.count,
        Verdict::Occurrence(_) | Verdict::State(_) => 0,
    };
    look.verdicts.iter().map(of).sum()
}

/// Writes into the kernel's log, as root may; `false` and a line about it for others.
fn log(text: &str) -> bool {
    match std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(mut kmsg) => kmsg.write_all(text.as_bytes()).is_ok(),
        Err(error) => {
            println!("left out, as /dev/kmsg cannot be written: {error}");
            false
        }
    }
}

#[tokio::test]
async fn a_line_is_told_at_once_its_repetitions_with_a_count_and_a_restart_repeats_none() {
    let device = format!("kulprit{}", std::process::id());
    let line = format!("FAT-fs ({device}): error, written by a test\n");
    let mut probe = Probe::start(&SPEC, HostRoot::new("/"));
    let first = probe.look().await;
    if first.blind_because.is_some() || !log(&line) {
        return probe.stop().await;
    }
    let told = probe.look_until(|look| counts_of(look, &device) > 0).await;
    assert_eq!(counts_of(&told, &device), 1);
    for _ in 0..4 {
        log(&line);
    }
    let mut n_more = 0;
    let last = probe
        .look_until(|look| {
            n_more += counts_of(look, &device);
            n_more == 4
        })
        .await;
    let position = last.position.clone().expect("a look with findings has a position");
    probe.stop().await;

    let again = Probe::once_with(&SPEC, HostRoot::new("/"), |context| context.start_at = Some(position)).await;
    assert_eq!(counts_of(&again, &device), 0, "nothing is counted twice");
    let earlier = told.position.expect("a look with findings has a position");
    let replay = Probe::once_with(&SPEC, HostRoot::new("/"), |context| context.start_at = Some(earlier)).await;
    assert_eq!(counts_of(&replay, &device), 4, "nothing is lost");
    let afresh = Probe::once(&SPEC, HostRoot::new("/")).await;
    assert_eq!(counts_of(&afresh, &device), 5, "the first start looks back");
    let short = Probe::once_with(&SPEC, HostRoot::new("/"), |context| {
        let mut config = (*context.config).clone();
        config.kmsg_look_back = kulprit_daemon::config::HumanDuration::from_millis(0);
        context.config = std::sync::Arc::new(config);
    });
    assert_eq!(counts_of(&short.await, &device), 0, "and no further than it is told to");
}

#[tokio::test]
async fn without_a_log_the_probe_is_blind_and_says_why() {
    let root = tempfile::tempdir().unwrap();
    let look =
        Probe::once_with(&SPEC, HostRoot::new(root.path()), |context| context.start_at = Some("boot/1".to_owned()))
            .await;
    assert!(look.blind_because.as_deref().is_some_and(|because| because.contains("boot_id")), "{look:?}");
    assert_eq!(look.position, None);

    std::fs::create_dir_all(root.path().join("proc/sys/kernel/random")).unwrap();
    std::fs::write(root.path().join("proc/sys/kernel/random/boot_id"), "0f3cf9c2-91e1-4a5b-8d5c-1f0b7bbd33e0\n")
        .unwrap();
    std::fs::create_dir_all(root.path().join("dev/kmsg")).unwrap();
    let look = Probe::once(&SPEC, HostRoot::new(root.path())).await;
    assert!(look.blind_because.as_deref().is_some_and(|because| because.contains("dev/kmsg")), "{look:?}");
}

#[test]
fn a_qemu_killed_before_it_was_looked_at_is_named_by_its_cgroup() {
    let vms = VmIndex::new();
    vms.set_name("uid-of-db-0", "db-0");
    let mut out = Vec::new();
    let mut log = KernelLog::new();
    let kill = |comm: &str| {
        [
            format!(
                r"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/machine.slice/machine-qemu\x2d1\x2ddb\x2d0.scope/libvirt,task_memcg=/x,task={comm},pid=7,uid=0"
            ),
            format!("Memory cgroup out of memory: Killed process 7 ({comm}) total-vm:1kB, anon-rss:1kB"),
        ]
    };
    for line in kill("qemu-system-x86").iter().chain(&kill("swtpm")) {
        log.read_line(Moment::default(), line, &|_, _| None, &mut out);
    }
    out.iter_mut().for_each(|verdict| name_vm_by_cgroup(&vms, verdict));
    let subjects: Vec<String> = out.iter().map(|verdict| verdict.subject.to_string()).collect();
    assert_eq!(subjects, ["vm/uid-of-db-0", "process/7@0"]);
}

#[test]
fn a_moment_follows_the_kernels_clock_and_is_never_after_now() {
    let now = Moment { wall_usec: 1_000_000_000, boottime_usec: 50_000_000 };
    assert_eq!(moment_of(40_000_000, now, None), now.offset_usec(-10_000_000));
    assert_eq!(moment_of(40_000_000, now, Some(4_000_000)), now.offset_usec(-6_000_000));
    for usec in [60_000_000, u64::MAX] {
        assert_eq!(moment_of(usec, now, None), now);
    }
    assert!(moment_of(0, now, Some(i64::MIN)).boottime_usec <= 0);
}

#[test]
fn a_position_reads_back_and_junk_is_none() {
    let position = KmsgPosition { boot_id: "0f3c-1".to_owned(), seq: 17 };
    assert_eq!(read_position(&write_position(&position)), Some(position));
    for junk in ["", "x", "x/", "x/-1", "x/99999999999999999999"] {
        assert_eq!(read_position(junk), None, "{junk}");
    }
}

#[test]
fn a_kill_is_remembered_by_its_vm_or_else_by_its_pod_for_whoever_counts() {
    let vms = VmIndex::new();
    let at = Moment::default();
    let kill = |code, subject: Subject, pod: Option<&str>| OccurrenceVerdict {
        code,
        subject,
        at,
        count: 1,
        attributes: kulprit_model::Attributes::new().with_some(attribute::POD_UID, pod),
        evidence: Vec::new(),
    };
    let process = || Subject::Process { pid: 7, start_ticks: 1 };
    remember_kill(&vms, &kill(FindingCode::MemcgOomKill, Subject::vm("a"), Some("p")));
    remember_kill(&vms, &kill(FindingCode::NodeOomKill, process(), Some("p")));
    remember_kill(&vms, &kill(FindingCode::MemcgOomKill, process(), None));
    remember_kill(&vms, &kill(FindingCode::HungTask, Subject::vm("a"), None));
    assert_eq!((vms.n_oom_kills(&["a"], at), vms.n_oom_kills(&["p"], at)), (1, 1));
}
