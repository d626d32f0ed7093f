//! On real processes that look like QEMU, and on trees that do not.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kulprit_host::HostRoot;
use kulprit_model::{Status, attribute};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::probes::{Launchers, testing};

/// A shell under QEMU's name that waits for its input to end.
struct FakeQemu {
    child: Child,
    uid: String,
    _folder: tempfile::TempDir,
}

impl FakeQemu {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("qemu-system-x86_64");
        std::fs::copy("/bin/sh", &binary).unwrap();
        // Tests run beside each other, and each probe sees the QEMUs of all.
        static N_STARTED: AtomicU32 = AtomicU32::new(0);
        let n = N_STARTED.fetch_add(1, Ordering::Relaxed);
        let uid = format!("0b2c0b2c-0000-4000-{:04x}-{:012}", 0x8000 + n, std::process::id());
        let disk = format!("file={}/disk.img,format=raw,if=none,id=d0", folder.path().display());
        std::fs::write(folder.path().join("disk.img"), "").unwrap();
        let child = Command::new(&binary)
            .args(["-c", "read line", "-name", "guest=prod_db-0,debug-threads=on", "-uuid", &uid, "-drive", &disk])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, uid, _folder: folder }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn state_in(&self, look: &Look, code: FindingCode) -> Option<Status> {
        look.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::State(state) if state.code == code && state.subject == Subject::vm(self.uid.as_str()) => {
                Some(state.status)
            }
            Verdict::State(_) | Verdict::Occurrence(_) => None,
        })
    }
}

impl Drop for FakeQemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_qemu_is_seen_stopped_continued_and_killed() {
    let mut qemu = FakeQemu::start();
    let mut probe = testing::Probe::start(&SPEC, HostRoot::new("/"));
    let look = probe.look_until(|look| qemu.state_in(look, FindingCode::QemuStopped) == Some(Status::Absent)).await;
    let seen = look.sightings.iter().find_map(|sighting| match sighting {
        Sighting::Qemu(seen) if seen.uid == qemu.uid => Some(seen.clone()),
        Sighting::Qemu(_) | Sighting::Domain(_) | Sighting::Gone(_) => None,
    });
    let seen = seen.expect("a look at a QEMU shows it");
    assert_eq!((seen.name.as_deref(), seen.pid), (Some("prod_db-0"), qemu.child.id()));
    assert!(seen.disks[0].path.ends_with("disk.img") && seen.disks[0].fstype.is_some(), "{seen:?}");
    assert_eq!(probe.vms.by_pid(qemu.child.id(), look.at).map(|vm| vm.uid.clone()), Some(qemu.uid.clone()));

    qemu.signal(Signal::SIGSTOP);
    probe.look_until(|look| qemu.state_in(look, FindingCode::QemuStopped) == Some(Status::Present)).await;
    qemu.signal(Signal::SIGTERM);
    probe.look_until(|look| qemu.state_in(look, FindingCode::QemuTerminationPending) == Some(Status::Present)).await;
    qemu.signal(Signal::SIGKILL);
    // Not reaped yet: told at once, and then seen as a zombie.
    let exited_of = |look: &Look| {
        look.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Occurrence(found)
                if found.code == FindingCode::QemuExited && found.subject == Subject::vm(qemu.uid.as_str()) =>
            {
                Some(found.attributes.clone())
            }
            Verdict::State(_) | Verdict::Occurrence(_) => None,
        })
    };
    let told = probe.look_until(|look| exited_of(look).is_some()).await;
    assert_eq!(exited_of(&told).and_then(|facts| facts.number(attribute::PID)), Some(i64::from(qemu.child.id())));
    probe.look_until(|look| qemu.state_in(look, FindingCode::QemuZombie) == Some(Status::Present)).await;
    assert_eq!(qemu.child.wait().unwrap().signal(), Some(9));
    let mut n_exits = 0;
    let gone = probe
        .look_until(|look| {
            n_exits += usize::from(exited_of(look).is_some());
            look.sightings.iter().any(
                |sighting| matches!(sighting, Sighting::Gone(Subject::Process { pid, .. }) if *pid == qemu.child.id()),
            )
        })
        .await;
    assert_eq!(n_exits, 0, "an end is told once");
    assert_eq!(qemu.state_in(&gone, FindingCode::QemuZombie), Some(Status::Absent));
    probe.stop().await;
}

#[tokio::test]
async fn a_look_for_once_sees_it_too() {
    let qemu = FakeQemu::start();
    let look = loop {
        // The child is the test's own program until it has become the shell.
        let look = testing::Probe::once(&SPEC, HostRoot::new("/")).await;
        if qemu.state_in(&look, FindingCode::QemuStopped).is_some() {
            break look;
        }
    };
    assert_eq!(qemu.state_in(&look, FindingCode::QemuThreadBlocked), Some(Status::Absent));
}

#[tokio::test]
async fn without_procfs_the_probe_is_blind_and_says_which() {
    let look = testing::Probe::once_with(&SPEC, HostRoot::new("/"), |context| {
        let mut config = (*context.config).clone();
        config.procfs = "/none/proc".into();
        context.config = Arc::new(config);
    });
    assert_eq!(look.await.blind_because.as_deref(), Some("`/none/proc` does not exist"));
}

#[tokio::test]
async fn a_tree_with_one_bad_process_keeps_the_good_one() {
    let tree = tempfile::tempdir().unwrap();
    let stat = |pid: u32, name: &str, state: char| {
        format!("{pid} ({name}) {state} 1 1 1 0 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 900 0 0\n")
    };
    for (pid, text) in [(7, stat(7, "qemu-kvm", 'T')), (8, "junk".to_owned())] {
        let task = tree.path().join(format!("{pid}/task/{pid}"));
        std::fs::create_dir_all(&task).unwrap();
        std::fs::write(task.join("stat"), &text).unwrap();
        std::fs::write(tree.path().join(format!("{pid}/stat")), &text).unwrap();
        std::fs::write(tree.path().join(format!("{pid}/status")), "State:\tT\nSigPnd:\t0\nShdPnd:\t0\n").unwrap();
        std::fs::write(tree.path().join(format!("{pid}/cmdline")), "qemu-kvm\0-uuid\0ABCD\0").unwrap();
    }
    let mut probe = testing::Probe::start_with(&SPEC, HostRoot::new(tree.path()), |context| {
        let mut config = (*context.config).clone();
        config.procfs = tree.path().to_owned();
        context.config = Arc::new(config);
        context.once = true;
    });
    let look = probe.look().await;
    assert_eq!(testing::status_of(&look, FindingCode::QemuStopped), Some(Status::Present), "{look:?}");
    assert!(probe.counters.read().errors > 0);
    probe.stop().await;
}

#[tokio::test]
async fn a_launchers_qemu_is_its_vmi_by_its_parent_or_by_the_snapshot_and_is_corrected() {
    let tree = tempfile::tempdir().unwrap();
    let put = |pid: u32, ppid: u32, name: &str, args: &str| {
        let stat = format!("{pid} ({name}) S {ppid} 1 1 0 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 900 0 0\n");
        let task = tree.path().join(format!("{pid}/task/{pid}"));
        std::fs::create_dir_all(&task).unwrap();
        std::fs::write(task.join("stat"), &stat).unwrap();
        std::fs::write(tree.path().join(format!("{pid}/stat")), &stat).unwrap();
        std::fs::write(tree.path().join(format!("{pid}/status")), "State:\tS\nSigPnd:\t0\nShdPnd:\t0\n").unwrap();
        std::fs::write(tree.path().join(format!("{pid}/cmdline")), args.replace(' ', "\0") + "\0").unwrap();
    };
    put(1, 0, "systemd", "init");
    put(10, 1, "virt-launcher-m", "virt-launcher-monitor --name db-0 --uid VMI-0 --namespace prod");
    put(13, 10, "qemu-kvm", "qemu-kvm -name guest=prod_db-0 -uuid ABCD");
    put(14, 1, "qemu-kvm", "qemu-kvm -name guest=prod_db-1 -uuid EF01");
    let launchers = Arc::new(tokio::sync::watch::Sender::new(Arc::<Launchers>::default()));
    let shared = Arc::clone(&launchers);
    let mut probe = testing::Probe::start_with(&SPEC, HostRoot::new(tree.path()), |context| {
        let mut config = (*context.config).clone();
        config.procfs = tree.path().to_owned();
        context.config = Arc::new(config);
        context.launchers = shared;
    });
    let names = |look: &Look| -> Vec<(String, Option<String>)> {
        let seen = look.sightings.iter().filter_map(|sighting| match sighting {
            Sighting::Qemu(seen) => Some((seen.uid.clone(), seen.name.clone())),
            Sighting::Domain(_) | Sighting::Gone(_) => None,
        });
        seen.collect()
    };
    let of = |uid: &str, name: &str| (uid.to_owned(), Some(name.to_owned()));
    let look = probe.look_until(|look| names(look).len() == 2).await;
    assert_eq!(names(&look), [of("vmi-0", "prod/db-0"), of("ef01", "prod_db-1")], "nobody said whose the second is");
    let row = crate::probes::Launcher {
        vmi_uid: "vmi-1".to_owned(),
        namespace: "prod".to_owned(),
        name: "db-1".to_owned(),
        qemu_pids: vec![14],
        ..crate::probes::Launcher::default()
    };
    launchers.send_replace(Arc::new(Launchers { rows: vec![row] }));
    let want = of("vmi-1", "prod/db-1");
    let look = probe.look_until(|look| names(look).contains(&want)).await;
    let is_other = |sighting: &Sighting| matches!(sighting, Sighting::Gone(subject) if *subject == Subject::vm("ef01"));
    assert!(look.sightings.iter().any(is_other), "what it was taken for is gone: {look:?}");
    probe.stop().await;
}
