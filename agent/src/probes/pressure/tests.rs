//! The probe on written trees and on this machine.

use std::path::Path;

use kulprit_host::HostRoot;
use kulprit_judge::Verdict;
use kulprit_model::FindingCode::{
    MemcgOomKill, NodeCpuStalled, NodeIoStalled, NodeMemoryStalled, VmCpuThrottled, VmStalled,
};
use kulprit_model::Status::{self, Absent, Present, Unknown};

use super::*;
use crate::probes::launchers::{Launcher, LauncherCgroup, Launchers};
use crate::probes::testing::{Probe as UnderTest, status_of};

const NODE: [kulprit_model::FindingCode; 3] = [NodeCpuStalled, NodeMemoryStalled, NodeIoStalled];

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A node whose files say so much: CPU some avg60, memory full avg10, I/O full avg60.
fn node(root: &Path, dir: &str, suffix: &str, shares: [f64; 3]) {
    let line = |avg10, avg60| format!("avg10={avg10:.2} avg60={avg60:.2} avg300=0.00 total=0\n");
    let [cpu, memory, io] = shares;
    write(root, &format!("{dir}cpu{suffix}"), &format!("some {}full {}", line(0.0, cpu), line(0.0, 0.0)));
    write(root, &format!("{dir}memory{suffix}"), &format!("some {}full {}", line(0.0, 0.0), line(memory, 0.0)));
    write(root, &format!("{dir}io{suffix}"), &format!("some {}full {}", line(0.0, 0.0), line(0.0, io)));
    write(root, "proc/stat", "cpu  100 0 50 800 20 0 10 20 7 0\nbtime 1795236445\n");
    write(root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n");
}

async fn look_at(root: &Path) -> [Option<Status>; 3] {
    let look = UnderTest::once(&SPEC, HostRoot::new(root)).await;
    NODE.map(|code| status_of(&look, code))
}

#[tokio::test]
async fn this_machine_is_read_and_nothing_of_it_is_unknown_where_it_has_pressure() {
    let look = UnderTest::once(&SPEC, HostRoot::new("/")).await;
    assert_eq!(look.blind_because, None);
    let has_pressure = std::fs::read_to_string("/proc/pressure/cpu").is_ok();
    for code in NODE {
        assert_eq!(status_of(&look, code).is_some_and(|status| status != Unknown), has_pressure, "{code}");
    }
}

#[tokio::test]
async fn each_threshold_counts_from_both_sides() {
    for (shares, want) in [
        ([59.99, 9.99, 39.99], [Absent; 3]),
        ([60.0, 0.0, 0.0], [Present, Absent, Absent]),
        ([0.0, 10.0, 0.0], [Absent, Present, Absent]),
        ([0.0, 0.0, 40.0], [Absent, Absent, Present]),
    ] {
        let root = tempfile::tempdir().unwrap();
        node(root.path(), "proc/pressure/", "", shares);
        assert_eq!(look_at(root.path()).await, want.map(Some), "{shares:?}");
    }
}

#[tokio::test]
async fn what_is_missing_garbage_or_no_file_is_unknown_and_the_rest_is_seen() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(look_at(empty.path()).await, [Some(Unknown); 3]);
    let root = tempfile::tempdir().unwrap();
    node(root.path(), "proc/pressure/", "", [0.0; 3]);
    write(root.path(), "proc/pressure/cpu", "rubbish\u{0}\n");
    std::fs::remove_file(root.path().join("proc/pressure/memory")).unwrap();
    // Opening a pipe nobody writes to would wait for ever.
    nix::unistd::mkfifo(&root.path().join("proc/pressure/memory"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(look_at(root.path()).await, [Some(Unknown), Some(Unknown), Some(Absent)]);
}

#[tokio::test]
async fn a_node_in_a_cgroup_is_judged_by_its_own_pressure() {
    let root = tempfile::tempdir().unwrap();
    node(root.path(), "proc/pressure/", "", [99.0; 3]);
    node(root.path(), "sys/fs/cgroup/lab/n1/", ".pressure", [0.0; 3]);
    let look = UnderTest::once_with(&SPEC, HostRoot::new(root.path()), |context| {
        let mut config = (*context.config).clone();
        config.pressure.cgroup = Some("sys/fs/cgroup/lab/n1".into());
        context.config = Arc::new(config);
    })
    .await;
    assert_eq!(NODE.map(|code| status_of(&look, code)), [Some(Absent); 3]);
}

#[tokio::test]
async fn a_change_is_told_within_the_second_and_not_with_the_next_look() {
    let root = tempfile::tempdir().unwrap();
    node(root.path(), "proc/pressure/", "", [0.0; 3]);
    let mut probe = UnderTest::start(&SPEC, HostRoot::new(root.path()));
    assert_eq!(status_of(&probe.look().await, NodeCpuStalled), Some(Absent));
    let began = Instant::now();
    node(root.path(), "proc/pressure/", "", [80.0, 0.0, 0.0]);
    probe.look_until(|look| status_of(look, NodeCpuStalled) == Some(Present)).await;
    assert!(began.elapsed() < SPEC.look_every / 2, "{:?}", began.elapsed());
    probe.stop().await;
}

fn launcher(uid: &str, pid: u32, directory: &str) -> Launchers {
    let cgroups = vec![LauncherCgroup { controller: String::new(), directory: directory.into() }];
    let row = Launcher { vmi_uid: uid.to_owned(), qemu_pids: vec![pid], cgroups, ..Launcher::default() };
    Launchers { rows: vec![row] }
}

const POD: &str = "sys/fs/cgroup/kubepods.slice/kubepods-pod0b2c0b2c_0000_4000_8000_000000000001.slice";

#[tokio::test]
async fn a_vms_limit_is_that_of_its_container_or_of_its_pod() {
    for (container, pod, want) in [
        ("nr_periods 200\nnr_throttled 99\n", "usage_usec 1\n", Absent),
        ("nr_periods 200\nnr_throttled 100\n", "usage_usec 1\n", Present),
        ("usage_usec 1\n", "nr_periods 200\nnr_throttled 100\n", Present),
        ("usage_usec 1\n", "usage_usec 1\n", Absent),
    ] {
        let root = tempfile::tempdir().unwrap();
        node(root.path(), "proc/pressure/", "", [0.0; 3]);
        let directory = format!("{POD}/cri-containerd-a.scope");
        write(root.path(), &format!("{directory}/cpu.stat"), container);
        write(root.path(), &format!("{POD}/cpu.stat"), pod);
        let look = UnderTest::once_with(&SPEC, HostRoot::new(root.path()), |context| {
            context.vms.insert(7, 1, "vm-a");
            context.launchers.send_replace(Arc::new(launcher("vm-a", 7, &directory)));
        })
        .await;
        assert_eq!(status_of(&look, VmCpuThrottled), Some(want), "{container:?} {pod:?}");
    }
}

#[tokio::test]
async fn a_vm_without_a_cgroup_to_read_is_unknown_and_says_where_was_looked() {
    let root = tempfile::tempdir().unwrap();
    node(root.path(), "proc/pressure/", "", [0.0; 3]);
    let look = UnderTest::once_with(&SPEC, HostRoot::new(root.path()), |context| {
        context.vms.insert(7, 1, "vm-a");
        context.launchers.send_replace(Arc::new(launcher("vm-a", 7, POD)));
    })
    .await;
    assert_eq!(status_of(&look, VmCpuThrottled), Some(Unknown));
    assert!(format!("{look:?}").contains(POD), "{look:?}");
}

#[tokio::test]
async fn libvirts_own_cgroups_of_processors_count_on_a_plain_host() {
    let root = tempfile::tempdir().unwrap();
    let scope = "sys/fs/cgroup/machine.slice/machine-qemu-1-a.scope";
    let own = std::process::id();
    write(root.path(), &format!("{scope}/libvirt/emulator/cpu.stat"), "nr_periods 5\nnr_throttled 0\n");
    write(root.path(), &format!("{scope}/libvirt/vcpu0/cpu.stat"), "nr_periods 200\nnr_throttled 190\n");
    write(root.path(), &format!("proc/{own}/cgroup"), "0::/machine.slice/machine-qemu-1-a.scope/libvirt/emulator\n");
    let look = UnderTest::once_with(&SPEC, HostRoot::new(root.path()), |context| {
        let mut config = (*context.config).clone();
        config.procfs = root.path().join("proc");
        context.config = Arc::new(config);
        context.vms.insert(own, 1, "vm-a");
    })
    .await;
    assert_eq!(status_of(&look, VmCpuThrottled), Some(Present));
}

const CONTAINER: &str =
    "sys/fs/cgroup/kubepods.slice/kubepods-pod0b2c0b2c_0000_4000_8000_000000000001.slice/cri-containerd-a.scope";

fn some(avg10: &str) -> String {
    format!("some avg10={avg10} avg60=0.00 avg300=0.00 total=0\n")
}

#[tokio::test]
async fn what_a_vm_waits_for_is_seen_in_its_containers_pressure() {
    let quiet = some("0.00");
    for (memory, io, want) in [
        (some("19.99"), quiet.clone(), Absent),
        (some("20.00"), quiet.clone(), Present),
        (quiet.clone(), some("79.99"), Absent),
        (quiet.clone(), some("80.00"), Present),
        (quiet.clone(), "rubbish".to_owned(), Unknown),
        (quiet.clone(), String::new(), Unknown),
    ] {
        let root = tempfile::tempdir().unwrap();
        node(root.path(), "proc/pressure/", "", [0.0; 3]);
        for (name, text) in [("memory", &memory), ("io", &io), ("cpu", &quiet)] {
            write(root.path(), &format!("{CONTAINER}/{name}.pressure"), text);
        }
        let look = UnderTest::once_with(&SPEC, HostRoot::new(root.path()), |context| {
            context.vms.insert(7, 1, "vm-a");
            context.launchers.send_replace(Arc::new(launcher("vm-a", 7, CONTAINER)));
        })
        .await;
        assert_eq!(status_of(&look, VmStalled), Some(want), "{memory:?} {io:?}");
    }
}

#[tokio::test]
async fn a_vm_without_pressure_files_or_whose_cgroups_are_not_told_is_unknown() {
    let root = tempfile::tempdir().unwrap();
    node(root.path(), "proc/pressure/", "", [0.0; 3]);
    write(root.path(), &format!("{CONTAINER}/cpu.stat"), "nr_periods 0\nnr_throttled 0\n");
    for (directory, throttled) in [(Some(CONTAINER), Absent), (None, Unknown)] {
        let look = UnderTest::once_with(&SPEC, HostRoot::new(root.path()), |context| {
            let mut config = (*context.config).clone();
            config.procfs = root.path().join("proc");
            context.config = Arc::new(config);
            context.vms.insert(7, 1, "vm-a");
            let known = directory.map(|directory| launcher("vm-a", 7, directory));
            context.launchers.send_replace(Arc::new(known.unwrap_or_default()));
        })
        .await;
        assert_eq!((status_of(&look, VmStalled), status_of(&look, VmCpuThrottled)), (Some(Unknown), Some(throttled)));
    }
}

fn kills_of(look: &crate::look::Look) -> u64 {
    let count = |verdict: &Verdict| match verdict {
        Verdict::Occurrence(kill) if kill.code == MemcgOomKill => kill.count,
        Verdict::Occurrence(_) | Verdict::State(_) => 0,
    };
    look.verdicts.iter().map(count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_the_limit_is_told_of_a_vm_that_it_ended_unless_the_kernels_log_did() {
    for (version, is_told, want) in [(2, false, 2), (2, true, 1), (1, false, 2)] {
        let root = tempfile::tempdir().unwrap();
        node(root.path(), "proc/pressure/", "", [0.0; 3]);
        let v1 = "sys/fs/cgroup/memory/kubepods/a";
        let (directory, controller) = if version == 2 { (CONTAINER, "") } else { (v1, "cpu,memory") };
        let count = |kills: u64| match version {
            2 => write(root.path(), &format!("{POD}/memory.events"), &format!("oom {kills}\noom_kill {kills}\n")),
            _ => {
                write(root.path(), &format!("{v1}/memory.oom_control"), &format!("under_oom 0\noom_kill {kills}\n"));
                write(root.path(), &format!("{v1}/memory.failcnt"), &format!("{}\n", kills * 7));
            }
        };
        count(3);
        let mut probe = UnderTest::start_with(&SPEC, HostRoot::new(root.path()), |context| {
            context.vms.insert(7, 1, "vm-a");
            let mut known = launcher("vm-a", 7, directory);
            known.rows[0].cgroups[0].controller = controller.to_owned();
            context.launchers.send_replace(Arc::new(known));
        });
        let at = kulprit_daemon::Clock::kernel().now();
        probe.look_until(|look| status_of(look, VmStalled).is_some()).await;
        count(5);
        probe.vms.set_ended(7, 1, at);
        if is_told {
            probe.vms.add_oom_kill(at.offset_usec(2_000_000), "vm-a");
        }
        let look = probe.look_until(|look| kills_of(look) > 0).await;
        assert_eq!(kills_of(&look), want, "version {version}");
        probe.stop().await;
    }
}

#[test]
fn a_node_is_read_every_second_unless_all_is_well_and_the_kernel_tells_of_a_stall() {
    assert_eq!(calm_every(true, &[Absent; 3], false), ALARMED_EVERY);
    assert_eq!(calm_every(false, &[Absent; 3], false), CALM_EVERY, "nobody would tell");
    assert_eq!(calm_every(true, &[Absent; 3], true), CALM_EVERY, "something stalls");
    for status in [Present, Unknown] {
        assert_eq!(calm_every(true, &[Absent, status, Absent], false), CALM_EVERY, "it may end");
    }
}

#[test]
fn a_stall_that_begins_is_read_closely_for_a_while_and_one_that_stays_is_not_without_end() {
    let config = PressureConfig::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let start = runtime.block_on(async { Instant::now() });
    let at = |secs| start + Duration::from_secs(secs);
    let mut close = Close::default();
    close.see_stall(false, at(0), &config);
    assert!(!close.is_close(at(0)));
    close.see_stall(true, at(1), &config);
    assert!(close.is_close(at(30)) && !close.is_close(at(31)));
    close.see_stall(true, at(32), &config);
    assert!(!close.is_close(at(32)), "it only goes on");
    close.see_stall(false, at(33), &config);
    close.see_stall(true, at(34), &config);
    assert!(!close.is_close(at(34)), "it was looked at closely a moment ago");
    close.see_stall(false, at(332), &config);
    close.see_stall(true, at(333), &config);
    assert!(close.is_close(at(333)));
}
