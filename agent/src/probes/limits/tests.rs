//! The probe on written trees and on this machine.

use std::path::Path;
use std::sync::Arc;

use kulprit_host::HostRoot;
use kulprit_model::FindingCode::{
    ForkRejected, HugepagesExhausted, KernelLimitReached, LauncherLimitReached, PidsExhausted, UserfaultfdForbidden,
};
use kulprit_model::Status::{Absent, Present, Unknown};

use super::*;
use crate::look::Look;
use crate::probes::launchers::{Launcher, LauncherCgroup, Launchers};
use crate::probes::testing::{Probe as UnderTest, status_of, write};

/// A node that is far from every limit.
fn node(root: &Path) {
    for (path, text) in [
        ("proc/sys/kernel/pid_max", "1000\n"),
        ("proc/sys/kernel/threads-max", "5000\n"),
        ("proc/loadavg", "0.00 0.00 0.00 1/100 77\n"),
        ("proc/sys/fs/file-nr", "10\t0\t1000\n"),
        ("proc/sys/fs/aio-nr", "0\n"),
        ("proc/sys/fs/aio-max-nr", "100\n"),
        ("proc/sys/vm/unprivileged_userfaultfd", "1\n"),
        ("proc/sys/fs/inotify/max_user_instances", "2\n"),
        ("proc/sys/fs/inotify/max_user_watches", "100\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n"),
    ] {
        write(root, path, text);
    }
}

async fn look_at(root: &Path, change: impl FnOnce(&mut ProbeContext)) -> Look {
    UnderTest::once_with(&SPEC, HostRoot::new(root), |context| {
        let mut config = (*context.config).clone();
        config.procfs = root.join("proc");
        context.config = Arc::new(config);
        change(context);
    })
    .await
}

#[tokio::test]
async fn this_machine_is_read() {
    let look = UnderTest::once(&SPEC, HostRoot::new("/")).await;
    assert_eq!(look.blind_because, None);
    for code in [PidsExhausted, KernelLimitReached] {
        assert_eq!(status_of(&look, code), Some(Absent), "{code}: {look:?}");
    }
}

#[tokio::test]
async fn each_limit_of_the_node_counts_from_nine_tenths() {
    for (path, below, at, code) in [
        ("proc/loadavg", "0 0 0 1/899 7\n", "0 0 0 1/900 7\n", PidsExhausted),
        ("proc/sys/fs/file-nr", "899\t0\t1000\n", "900\t0\t1000\n", KernelLimitReached),
        ("proc/sys/fs/aio-nr", "89\n", "90\n", KernelLimitReached),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n", "10\n", HugepagesExhausted),
        ("proc/sys/vm/unprivileged_userfaultfd", "1\n", "0\n", UserfaultfdForbidden),
    ] {
        let root = tempfile::tempdir().unwrap();
        node(root.path());
        write(root.path(), path, below);
        assert_eq!(status_of(&look_at(root.path(), |_| ()).await, code), Some(Absent), "{path} {below:?}");
        write(root.path(), path, at);
        assert_eq!(status_of(&look_at(root.path(), |_| ()).await, code), Some(Present), "{path} {at:?}");
    }
}

#[tokio::test]
async fn kubelets_own_limit_and_conntrack_count_where_they_are() {
    let root = tempfile::tempdir().unwrap();
    node(root.path());
    write(root.path(), "sys/fs/cgroup/kubepods.slice/pids.current", "90\n");
    write(root.path(), "sys/fs/cgroup/kubepods.slice/pids.max", "100\n");
    write(root.path(), "proc/sys/net/netfilter/nf_conntrack_count", "90\n");
    write(root.path(), "proc/sys/net/netfilter/nf_conntrack_max", "100\n");
    let look = look_at(root.path(), |_| ()).await;
    assert_eq!(status_of(&look, PidsExhausted), Some(Present));
    assert_eq!(status_of(&look, KernelLimitReached), Some(Present));
}

#[tokio::test]
async fn inotify_is_counted_in_every_descriptor() {
    let root = tempfile::tempdir().unwrap();
    node(root.path());
    write(root.path(), "proc/7/status", "Uid:\t0\n");
    std::fs::create_dir_all(root.path().join("proc/7/fd")).unwrap();
    let add = |fd: u32| std::os::unix::fs::symlink("anon_inode:inotify", root.path().join(format!("proc/7/fd/{fd}")));
    add(3).unwrap();
    assert_eq!(status_of(&look_at(root.path(), |_| ()).await, KernelLimitReached), Some(Absent));
    add(4).unwrap();
    let look = look_at(root.path(), |_| ()).await;
    assert_eq!(status_of(&look, KernelLimitReached), Some(Present));
    assert!(format!("{look:?}").contains("inotify-instances: 2 of 2 used"), "{look:?}");
}

#[tokio::test]
async fn what_is_missing_or_garbage_is_unknown() {
    let empty = tempfile::tempdir().unwrap();
    let look = look_at(empty.path(), |_| ()).await;
    for code in [PidsExhausted, KernelLimitReached, HugepagesExhausted, UserfaultfdForbidden] {
        assert_eq!(status_of(&look, code), Some(Unknown), "{code}");
    }
    let root = tempfile::tempdir().unwrap();
    node(root.path());
    write(root.path(), "proc/sys/kernel/pid_max", "many\n");
    write(root.path(), "proc/sys/fs/file-nr", "\u{0}\n");
    let look = look_at(root.path(), |_| ()).await;
    assert_eq!(status_of(&look, PidsExhausted), Some(Unknown));
    assert_eq!(status_of(&look, KernelLimitReached), Some(Unknown));
    assert_eq!(status_of(&look, HugepagesExhausted), Some(Absent));
}

const POD: &str = "sys/fs/cgroup/kubepods.slice/kubepods-pod0b2c0b2c_0000_4000_8000_000000000001.slice";

/// A VM with so many tasks of 50, open files of 4 and locked bytes of 1 MiB.
fn vm(root: &Path, n_tasks: u32, n_files: u32, locked_kib: u32) {
    write(root, &format!("{POD}/a/pids.current"), &format!("{n_tasks}\n"));
    write(root, &format!("{POD}/a/pids.max"), "max\n");
    write(root, &format!("{POD}/pids.current"), &format!("{n_tasks}\n"));
    write(root, &format!("{POD}/pids.max"), "50\n");
    let zeros = "0 ".repeat(44);
    write(root, "proc/7/stat", &format!("7 (qemu-kvm) S 1 {zeros}\n"));
    write(root, "proc/7/status", &format!("Name:\tqemu-kvm\nVmSize:\t10 kB\nVmLck:\t{locked_kib} kB\n"));
    write(
        root,
        "proc/7/limits",
        "Max open files            4                    4                    files     \nMax locked memory         1048576              1048576              bytes     \n",
    );
    std::fs::create_dir_all(root.join("proc/7/fd")).unwrap();
    (0..n_files).for_each(|fd| write(root, &format!("proc/7/fd/{fd}"), ""));
}

fn with_vm(context: &mut ProbeContext) {
    context.vms.insert(7, 1, "vm-a");
    let cgroups = vec![LauncherCgroup { controller: String::new(), directory: format!("{POD}/a").into() }];
    let row = Launcher { vmi_uid: "vm-a".to_owned(), pid: 7, qemu_pids: vec![7], cgroups, ..Launcher::default() };
    context.launchers.send_replace(Arc::new(Launchers { rows: vec![row] }));
}

#[tokio::test]
async fn limits_of_a_vm_count_when_they_are_reached() {
    for (n_tasks, n_files, locked_kib, want) in [
        (49, 3, 1000, (Absent, "")),
        (50, 3, 1000, (Present, "pids")),
        (49, 4, 1000, (Present, "files")),
        (49, 3, 1014, (Present, "locked-memory")),
        (49, 3, 1013, (Absent, "")),
    ] {
        let root = tempfile::tempdir().unwrap();
        node(root.path());
        vm(root.path(), n_tasks, n_files, locked_kib);
        let look = look_at(root.path(), with_vm).await;
        assert_eq!(status_of(&look, LauncherLimitReached), Some(want.0), "{n_tasks} {n_files} {locked_kib}: {look:?}");
        let what = format!("{:?}", look.verdicts).contains(&format!("\"what\": \"{}\"", want.1));
        assert!(what || want.1.is_empty(), "{n_tasks} {n_files} {locked_kib}");
    }
}

#[tokio::test]
async fn a_vm_that_ended_meanwhile_is_not_spoken_of() {
    let root = tempfile::tempdir().unwrap();
    node(root.path());
    assert_eq!(status_of(&look_at(root.path(), with_vm).await, LauncherLimitReached), None);
}

#[test]
fn forks_refused_before_the_first_look_are_not_new() {
    let seen = |refused| {
        let pids = kulprit_host::cgroup::PidsCgroup { n_current: 1, limit: Some(9), refused_total: Some(refused) };
        let root = tempfile::tempdir().unwrap();
        node(root.path());
        let config = crate::probes::ProbeConfig::default();
        let mut seen = Reader::new(&HostRoot::new(root.path()), &config).read(&[], false);
        let place = VmPlace::of("vm-a");
        seen.vms =
            vec![VmSeen { place, pids: Ok(("kubepods/a".to_owned(), pids)), processes: Vec::new(), error: None }];
        seen
    };
    let mut known = Known::default();
    let mut count = |refused| {
        let verdicts = judge(Moment::default(), seen(refused), &mut known);
        let counts = verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Occurrence(one) if one.code == ForkRejected => Some(one.count),
            Verdict::Occurrence(_) | Verdict::State(_) => None,
        });
        counts.sum::<u64>()
    };
    assert_eq!([count(5), count(5), count(7)], [0, 0, 2]);
}

#[test]
fn a_limit_around_a_vm_is_known_until_its_cgroup_is_gone_and_counts_are_todays() {
    let root = tempfile::tempdir().unwrap();
    node(root.path());
    vm(root.path(), 3, 1, 1);
    let config = crate::probes::ProbeConfig { procfs: root.path().join("proc"), ..Default::default() };
    write(root.path(), "proc/7/cgroup", &format!("0::{}/a\n", POD.trim_start_matches("sys/fs/cgroup")));
    let mut place = VmPlace::of("vm-a");
    place.pids.push(7);
    let mut reader = Reader::new(&HostRoot::new(root.path()), &config);
    let mut look = || {
        let seen = reader.read(std::slice::from_ref(&place), false);
        let (path, pids) = seen.vms[0].pids.clone().unwrap();
        (path.rsplit('/').next().unwrap() == "a", pids.n_current, pids.limit)
    };
    assert_eq!(look(), (false, 3, Some(50)), "the pod's limit counts");
    vm(root.path(), 4, 1, 1);
    assert_eq!(look(), (false, 4, Some(50)));
    std::fs::remove_file(root.path().join(POD).join("pids.current")).unwrap();
    assert_eq!(look(), (true, 4, None));
}
