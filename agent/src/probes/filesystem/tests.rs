//! The probe on written mount tables, on this machine, and with children that do not come back.

use std::path::Path;

use kulprit_daemon::config::HumanDuration;
use kulprit_host::HostRoot;
use kulprit_model::FindingCode::{FilesystemFull, FilesystemReadOnly, VmFilesystemFull, VmFilesystemReadOnly};
use kulprit_model::Status::{Absent, Present, Unknown};
use kulprit_model::{FindingCode, Status};

use super::*;
use crate::look::{Look, Sighting};
use crate::probes::testing::{Probe as UnderTest, status_of, write};
use crate::sacrifice::Sacrifice;

const ROOT: &str = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n";
const NFS: &str = "2 1 0:50 / /var/lib/kubelet rw - nfs4 nas:/vol rw\n";

fn use_tree(context: &mut ProbeContext, root: &Path) {
    let mut config = (*context.config).clone();
    config.procfs = root.join("proc");
    config.filesystem.remote_deadline = HumanDuration::from_secs(30);
    context.config = Arc::new(config);
}

async fn look_at(root: &Path, change: impl FnOnce(&mut ProbeContext)) -> Look {
    UnderTest::once_with(&SPEC, HostRoot::new(root), |context| {
        use_tree(context, root);
        change(context);
    })
    .await
}

/// In a lab the machine around the node has mounts of its own.
#[tokio::test]
async fn mounts_are_those_of_the_nodes_own_first_process() {
    let (root, around) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = "2 1 8:2 / /var/lib/containerd ro - ext4 /dev/sdb1 ro\n";
    write(root.path(), "proc/1/mountinfo", &format!("{ROOT}{own}"));
    write(around.path(), "proc/1/mountinfo", ROOT);
    let use_both = |context: &mut ProbeContext| {
        let mut config = (*context.config).clone();
        config.procfs = around.path().join("proc");
        context.config = Arc::new(config);
    };
    let look = look_at(root.path(), use_both).await;
    assert_eq!(status_at(&look, FilesystemReadOnly, "/var/lib/containerd"), Some(Present));
}

/// Children that print this line.
fn children(line: &str) -> Arc<Sacrifice> {
    Arc::new(Sacrifice::with_command(["/bin/sh", "-c", &format!("echo '{line}'"), "sh"]))
}

fn answer(used: u64) -> String {
    let left = 1_000 - used;
    format!(
        r#"{{"ok":{{"total_bytes":1000,"free_bytes":{left},"available_bytes":{left},"total_inodes":0,"free_inodes":0,"is_read_only":false}}}}"#
    )
}

fn status_at(look: &Look, code: FindingCode, point: &str) -> Option<Status> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code && state.subject == Subject::Mount { point: point.to_owned() } => {
            Some(state.status)
        }
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

#[tokio::test]
async fn this_machines_file_systems_answer() {
    let look = UnderTest::once(&SPEC, HostRoot::new("/")).await;
    assert_eq!(look.blind_because, None);
    assert_eq!(status_at(&look, FilesystemReadOnly, "/"), Some(Absent));
    assert!(status_at(&look, FilesystemFull, "/").is_some_and(|status| status != Unknown), "{look:?}");
}

#[tokio::test]
async fn a_root_that_became_read_only_is_told_and_a_table_that_is_missing_or_garbage_blinds() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/1/mountinfo", &ROOT.replace("rw", "ro"));
    let look = look_at(root.path(), |_| ()).await;
    assert_eq!(status_at(&look, FilesystemReadOnly, "/"), Some(Present));
    write(root.path(), "proc/1/mountinfo", "garbage\n");
    assert!(look_at(root.path(), |_| ()).await.blind_because.unwrap().contains("mountinfo"));
    std::fs::remove_file(root.path().join("proc/1/mountinfo")).unwrap();
    assert!(look_at(root.path(), |_| ()).await.blind_because.unwrap().contains("does not exist"));
}

#[tokio::test]
async fn what_answers_over_a_network_is_asked_by_a_child() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/1/mountinfo", &format!("{ROOT}{NFS}"));
    for (line, want) in
        [(answer(969), Absent), (answer(970), Present), (r#"{"failed":"Stale file handle"}"#.to_owned(), Unknown)]
    {
        let look = look_at(root.path(), |context| context.sacrifice = children(&line)).await;
        assert_eq!(status_at(&look, FilesystemFull, "/var/lib/kubelet"), Some(want), "{line}");
        assert_eq!(status_at(&look, FilesystemFull, "/"), Some(Absent), "the test's own folder");
    }
}

#[tokio::test]
async fn a_child_that_hangs_leaves_its_file_system_unknown_and_the_others_seen() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/1/mountinfo", &format!("{ROOT}{NFS}"));
    let pipe = root.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("read line < {}", pipe.display());
    let sacrifice = Arc::new(Sacrifice::with_command(["/bin/sh", "-c", &script, "sh"]));
    let look = look_at(root.path(), |context| {
        let mut config = (*context.config).clone();
        config.filesystem.remote_deadline = HumanDuration::from_millis(20);
        context.config = Arc::new(config);
        context.sacrifice = Arc::clone(&sacrifice);
    })
    .await;
    assert_eq!(status_at(&look, FilesystemFull, "/var/lib/kubelet"), Some(Unknown));
    assert_eq!(status_at(&look, FilesystemFull, "/"), Some(Absent));
    tokio::task::spawn_blocking(move || std::fs::write(pipe, "\n").unwrap()).await.unwrap();
    while sacrifice.n_running() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_file_system_under_a_vms_disk_is_the_vms() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/1/mountinfo", ROOT);
    write(root.path(), "proc/7/mountinfo", &format!("{ROOT}3 1 0:51 / /disks rw - nfs4 nas:/vm rw\n"));
    let line = "qemu-kvm\0-blockdev\0{\"driver\":\"file\",\"filename\":\"/disks/a.img\",\"node-name\":\"n\"}\0";
    write(root.path(), "proc/7/cmdline", line);
    for (used, want) in [(989, Absent), (990, Present)] {
        let look = look_at(root.path(), |context| {
            context.vms.insert(7, 1, "vm-a");
            context.sacrifice = children(&answer(used));
        })
        .await;
        assert_eq!(status_of(&look, VmFilesystemFull), Some(want), "{used}: {look:?}");
    }
}

/// A QEMU whose disk lies on a mount with these options, and who has it open with these flags; `None`: what it has open is hidden.
fn write_disk(root: &Path, options: &str, flags: Option<&str>) {
    write(root, "proc/1/mountinfo", ROOT);
    write(root, "proc/7/mountinfo", &format!("{ROOT}3 1 0:51 / /disks {options}\n"));
    let line = "qemu-kvm\0-blockdev\0{\"driver\":\"file\",\"filename\":\"/disks/a.img\",\"node-name\":\"n\"}\0";
    write(root, "proc/7/cmdline", line);
    let Some(flags) = flags else { return };
    write(root, "proc/7/fdinfo/9", &format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t3\n"));
    std::fs::create_dir_all(root.join("proc/7/fd")).unwrap();
    std::os::unix::fs::symlink("/disks/a.img", root.join("proc/7/fd/9")).unwrap();
}

#[tokio::test]
async fn a_disk_that_is_open_for_writing_on_what_became_read_only_is_told_and_one_that_is_meant_so_is_well() {
    let (reading, writing) = (Some("0100000"), Some("02100002"));
    for (options, flags, want) in [
        ("rw - nfs4 nas:/vm rw", writing, Absent),
        ("rw - nfs4 nas:/vm rw", None, Absent),
        ("rw - nfs4 nas:/vm ro", writing, Present),
        ("rw - ext4 /dev/sdb rw,errors=remount-ro,emergency_ro", writing, Present),
        ("rw - nfs4 nas:/vm ro", reading, Absent),
        ("ro - nfs4 nas:/vm rw", reading, Absent),
        ("rw - nfs4 nas:/vm ro", None, Unknown),
    ] {
        let root = tempfile::tempdir().unwrap();
        write_disk(root.path(), options, flags);
        let look = look_at(root.path(), |context| {
            context.vms.insert(7, 1, "vm-a");
            context.sacrifice = children(&answer(1));
        })
        .await;
        assert_eq!(status_of(&look, VmFilesystemReadOnly), Some(want), "{options} {flags:?}: {look:?}");
    }
}

#[tokio::test]
async fn a_file_system_that_becomes_read_only_is_seen_by_the_fifth_look_and_at_the_next_while_its_vm_is_a_suspect() {
    let root = tempfile::tempdir().unwrap();
    write_disk(root.path(), "rw - nfs4 nas:/vm rw", Some("02100002"));
    let mut probe = stopped_probe(root.path()).await;
    probe.context.vms.insert(7, 1, "vm-a");
    let (suspect, suspects) = tokio::sync::watch::channel(Arc::default());
    probe.context.suspects = suspects;
    assert_eq!(status_of(&probe.look().await, VmFilesystemReadOnly), Some(Absent));
    let turn = |how: &str| {
        write(root.path(), "proc/7/mountinfo", &format!("{ROOT}3 1 0:51 / /disks rw - nfs4 nas:/vm {how}\n"));
    };
    turn("ro");
    for _ in 0..4 {
        assert_eq!(status_of(&probe.look().await, VmFilesystemReadOnly), Some(Absent));
    }
    assert_eq!(status_of(&probe.look().await, VmFilesystemReadOnly), Some(Present));
    suspect.send_replace(Arc::new(BTreeSet::from(["vm-a".to_owned()])));
    turn("rw");
    assert_eq!(status_of(&probe.look().await, VmFilesystemReadOnly), Some(Absent));
    turn("ro");
    assert_eq!(status_of(&probe.look().await, VmFilesystemReadOnly), Some(Present));
}

#[tokio::test]
async fn a_vm_whose_mounts_cannot_be_read_is_unknown() {
    let root = tempfile::tempdir().unwrap();
    write_disk(root.path(), "rw - nfs4 nas:/vm rw", Some("02100002"));
    write(root.path(), "proc/7/mountinfo", "garbage\n");
    let look = look_at(root.path(), |context| context.vms.insert(7, 1, "vm-a")).await;
    assert_eq!(status_of(&look, VmFilesystemReadOnly), Some(Unknown), "{look:?}");
}

/// `/var/lib/libvirt/images` is often a link to where there is room.
#[tokio::test]
async fn a_disk_and_a_folder_behind_a_link_are_asked_where_they_lie() {
    let root = tempfile::tempdir().unwrap();
    let mounts = format!("{ROOT}3 1 0:51 / /data rw - nfs4 nas:/vm rw\n");
    write(root.path(), "proc/1/mountinfo", &mounts);
    write(root.path(), "proc/7/mountinfo", &mounts);
    let line = "qemu-kvm\0-blockdev\0{\"driver\":\"file\",\"filename\":\"/images/a.img\",\"node-name\":\"n\"}\0";
    write(root.path(), "proc/7/cmdline", line);
    for folder in ["proc/7/root", "var/lib"] {
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    for link in ["proc/7/root/images", "var/lib/kubelet"] {
        std::os::unix::fs::symlink("/data", root.path().join(link)).unwrap();
    }
    let look = look_at(root.path(), |context| {
        context.vms.insert(7, 1, "vm-a");
        context.sacrifice = children(&answer(990));
    })
    .await;
    assert_eq!(status_of(&look, VmFilesystemFull), Some(Present), "{look:?}");
    assert_eq!(status_at(&look, FilesystemFull, "/data"), Some(Present), "{look:?}");
}

/// A probe that looks when it is told to, with what one was given that has ended.
async fn stopped_probe(root: &Path) -> Probe {
    let mut taken = None;
    let under_test = UnderTest::start_with(&SPEC, HostRoot::new(root), |context| {
        use_tree(context, root);
        context.sacrifice = children(&answer(1));
        taken = Some(context.clone());
        context.stop.cancel();
    });
    under_test.stop().await;
    Probe {
        reading: Blocking::default(),
        vms: BTreeMap::new(),
        remote: BTreeMap::new(),
        remote_at: None,
        said: BTreeSet::new(),
        watch: None,
        context: taken.unwrap(),
    }
}

#[tokio::test]
async fn a_mount_that_is_gone_is_spoken_of_no_more() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/1/mountinfo", &format!("{ROOT}{NFS}"));
    let mut probe = stopped_probe(root.path()).await;
    assert!(probe.look().await.sightings.is_empty());
    write(root.path(), "proc/1/mountinfo", ROOT);
    let gone = probe.look().await.sightings;
    assert!(matches!(&gone[..], [Sighting::Gone(Subject::Mount { point })] if point == "/var/lib/kubelet"), "{gone:?}");
}
