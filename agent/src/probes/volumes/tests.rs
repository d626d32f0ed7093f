//! The probe over trees made for each test, over real loop devices and real open files, and with children that hang.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use kulprit_daemon::config::HumanDuration;
use kulprit_host::HostRoot;
use kulprit_model::Status::{self, Absent, Present, Unknown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::*;
use crate::probes::testing::{Probe, status_of};
use crate::probes::{Launcher, Launchers, ProbeConfig, VmIndex};
use crate::sacrifice::Sacrifice;

const POD: &str = "6f1c1f6e-0b7a-4a53-9d7c-2f5f0d9a1b11";

/// A host's root for one test.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.write("proc/1/mountinfo", "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n");
        files.iter().for_each(|(path, text)| tree.write(path, text));
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A disk as sysfs shows it.
    fn add_disk(&self, name: &str, number: &str, sequence: &str) {
        let directory = format!("devices/virtual/block/{name}");
        self.write(&format!("sys/{directory}/dev"), &format!("{number}\n"));
        self.write(&format!("sys/{directory}/diskseq"), &format!("{sequence}\n"));
        for folder in ["dev/block", "class/block"] {
            std::fs::create_dir_all(self.0.path().join("sys").join(folder)).unwrap();
        }
        let link = |from: String| symlink(format!("../../{directory}"), self.0.path().join(from)).unwrap();
        link(format!("sys/dev/block/{number}"));
        link(format!("sys/class/block/{name}"));
    }

    fn root(&self) -> HostRoot {
        HostRoot::new(self.0.path())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
}

fn fixture(name: &str) -> HostRoot {
    HostRoot::new(format!("{}/host/fixtures/hand-made/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// A process that has a device open, as a QEMU has.
struct Holder(Child);

impl Holder {
    fn of(path: &Path) -> Self {
        let mut child = Command::new("sh").args(["-c", "exec 9<\"$0\"; exec sleep 600"]).arg(path).spawn().unwrap();
        while !std::fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|comm| comm == "sleep\n") {
            assert!(child.try_wait().unwrap().is_none(), "{} cannot be opened", path.display());
            std::thread::yield_now();
        }
        Self(child)
    }

    /// Makes it the QEMU of a VM.
    fn run_vm(&self, vms: &VmIndex, uid: &str) {
        let pid = self.0.id();
        vms.insert(pid, Procfs::default().stat(pid).unwrap().start_time_ticks, uid);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loop device over a file of 8 MiB.
struct LoopDevice {
    path: PathBuf,
    number: String,
    name: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let made = Command::new("losetup").args(["-f", "--show"]).arg(file.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let path = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        let number = std::fs::metadata(&path).unwrap().rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        Self { number: format!("{major}:{minor}"), path, name, _file: file }
    }

    /// Another name of it in `/dev`, which is a memory file system.
    fn node(&self, label: &str) -> Node {
        let path = PathBuf::from(format!("/dev/kulprit-test-{}-{label}", std::process::id()));
        let (major, minor) = self.number.split_once(':').unwrap();
        let made = Command::new("mknod").arg(&path).args(["b", major, minor]).status().unwrap();
        assert!(made.success());
        Node(path)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

struct Node(PathBuf);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn quick(context: &mut ProbeContext) {
    let mut config = ProbeConfig::default();
    config.volumes.every = HumanDuration::from_secs(1);
    config.volumes.files_every = HumanDuration::from_secs(1);
    context.config = Arc::new(config);
}

fn stale(look: &Look) -> (Option<Status>, Option<String>) {
    let what = look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == FindingCode::StaleDevice => {
            state.attributes.get("what").map(str::to_owned)
        }
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    });
    (status_of(look, FindingCode::StaleDevice), what)
}

#[tokio::test]
async fn a_host_without_vms_and_storage_has_nothing_to_say() {
    let look = Probe::once(&SPEC, Tree::new(&[]).root()).await;
    assert_eq!((look.blind_because, look.verdicts.len()), (None, 0));
}

#[tokio::test]
async fn a_host_whose_mounts_cannot_be_read_is_not_looked_at() {
    for text in [None, Some(vec![b'x'; 9 << 20])] {
        let tree = Tree::new(&[]);
        std::fs::remove_file(tree.path("proc/1/mountinfo")).unwrap();
        if let Some(text) = text {
            std::fs::write(tree.path("proc/1/mountinfo"), text).unwrap();
        }
        let look = Probe::once_with(&SPEC, tree.root(), |context| {
            context.config = Arc::new(ProbeConfig { procfs: "/none".into(), ..ProbeConfig::default() });
        })
        .await;
        assert!(look.blind_because.is_some(), "{look:?}");
    }
}

#[tokio::test]
async fn garbage_in_every_file_makes_no_fault_and_no_panic() {
    let tree = Tree::new(&[
        (
            "proc/1/mountinfo",
            "garbage\n30 22 0:51 / /var/lib/kubelet/pods/p/volumes/x rw - nfs4 nas:/x rw\n31 22 0:52 / /var/lib/kubelet/pods/p/volumes/y rw - fuse.x y rw\n",
        ),
        (
            "proc/1/mountstats",
            "device nas:/x mounted on /var/lib/kubelet/pods/p/volumes/x with fstype nfs4\n\txprt:\ttcp -\n",
        ),
        ("proc/diskstats", "\u{1}\n"),
        ("proc/drbd", "???\n 0: cs:\n"),
        ("sys/fs/fuse/connections/52/waiting", "many\n"),
        ("sys/class/iscsi_session/session1/state", "\n"),
        ("sys/class/nvme/nvme0/transport", "é\n"),
        ("sys/class/block/drbd0/dev", "x:y\n"),
    ]);
    let look = Probe::once(&SPEC, tree.root()).await;
    assert_eq!(look.blind_because, None);
    let is_present = |verdict: &&Verdict| matches!(verdict, Verdict::State(state) if state.status == Present);
    assert_eq!(look.verdicts.iter().filter(is_present).count(), 0, "{look:?}");
}

#[tokio::test]
async fn the_recorded_layouts_are_told_as_they_were() {
    let told = |look: &Look| -> Vec<String> {
        let row = |verdict: &Verdict| match verdict {
            Verdict::State(state) => format!("{} {} {:?}", state.code, state.subject, state.status),
            Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
        };
        look.verdicts.iter().map(row).collect()
    };
    let nfs = told(&Probe::once(&SPEC, fixture("nfs-kubeadm")).await);
    assert_eq!(
        nfs,
        [format!("BackendUnreachable mount//var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~nfs/disks Absent")]
    );
    let rbd = told(&Probe::once(&SPEC, fixture("rbd-crio")).await);
    for want in [
        format!("BackendUnreachable mount//var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/pvc-fs/mount Present"),
        "BackendUnreachable mount/kubevirt/csi-vol-7 Absent".to_owned(),
        "ReplicationSuspended device/drbd1000 Present".to_owned(),
        "PathsFailed device/drbd1000 Present".to_owned(),
        "DeviceClaimed device/rbd0 Absent".to_owned(),
    ] {
        assert!(rbd.contains(&want), "{want}: {rbd:?}");
    }
    let iscsi = told(&Probe::once(&SPEC, fixture("iscsi-k3s")).await);
    for want in [
        "BackendUnreachable mount/iqn.2001-05.com.example:lun Absent",
        "BackendUnreachable mount/nqn.2014-08.org.example:vol Present",
        "PathsFailed device/iqn.2001-05.com.example:lun Present",
        "DeviceClaimed device/sdd Present",
    ] {
        assert!(iscsi.iter().any(|row| row == want), "{want}: {iscsi:?}");
    }
}

#[tokio::test]
async fn multipathd_is_asked_where_it_runs_and_knows_a_path_that_scsi_calls_well() {
    let tree = tempfile::tempdir().unwrap();
    let from = format!("{}/.", fixture("iscsi-k3s").path().display());
    assert!(Command::new("cp").args(["-a", &from]).arg(tree.path()).status().unwrap().success());
    let told = async || {
        let look = Probe::once_with(&SPEC, HostRoot::new(tree.path()), |context| {
            let mut config = (*context.config).clone();
            config.procfs = tree.path().join("proc");
            context.config = Arc::new(config);
        })
        .await;
        let is_its = |state: &&kulprit_judge::StateVerdict| state.subject.to_string() == "device/dm-1";
        let states = look.verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::State(state) => Some(state),
            Verdict::Occurrence(_) => None,
        });
        states.filter(|state| state.code == FindingCode::PathsFailed).find(is_its).map(|state| state.status)
    };
    std::fs::create_dir_all(tree.path().join("run")).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(tree.path().join("run/multipathd.socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(told().await, Some(Absent));
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "systemd would have started it");
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    std::fs::create_dir_all(tree.path().join("proc/7")).unwrap();
    let stat = format!("7 (multipathd){}", stat.rsplit_once(')').unwrap().1);
    std::fs::write(tree.path().join("proc/7/stat"), stat).unwrap();
    std::fs::write(tree.path().join("run/multipathd.pid"), "7").unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    let server = tokio::spawn(async move {
        let path = r#"{"dev":"sdd","dm_st":"failed","dev_st":"running","chk_st":"faulty"}"#;
        let map = format!(r#"{{"name":"m","sysfs":"dm-1","queueing":"on","path_groups":[{{"paths":[{path}]}}]}}"#);
        let answer = format!("{{\"maps\":[{map}]}}\0");
        // What it says while it waits for one of its own threads comes second.
        for answer in [answer.as_str(), "timeout\n\0"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 23]).await.unwrap();
            stream.write_all(&(answer.len() as u64).to_ne_bytes()).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    assert_eq!(told().await, Some(Present));
    assert_eq!(told().await, Some(Unknown));
    server.await.unwrap();
}

#[tokio::test]
async fn a_device_removed_under_a_running_qemu_is_stale() {
    let device = LoopDevice::new();
    let node = device.node("removed");
    let holder = Holder::of(&node.0);
    let mut probe = Probe::start_with(&SPEC, HostRoot::new("/"), |context| {
        quick(context);
        holder.run_vm(&context.vms, "v");
    });
    assert_eq!(stale(&probe.look_until(|look| stale(look).0.is_some()).await).0, Some(Absent));
    std::fs::remove_file(&node.0).unwrap();
    probe.look_until(|look| stale(look).0 == Some(Present)).await;
    probe.stop().await;
}

#[tokio::test]
async fn a_device_whose_number_disk_or_volume_is_anothers_is_stale() {
    let (device, other) = (LoopDevice::new(), LoopDevice::new());
    let tree = Tree::new(&[]);
    tree.add_disk(&device.name, &device.number, "7");
    tree.add_disk(&other.name, &other.number, "8");
    let folder = tree.path(&format!("var/lib/kubelet/pods/{POD}/volumeDevices/kubernetes.io~csi"));
    std::fs::create_dir_all(&folder).unwrap();
    let volume = folder.join("pvc-1");
    let lead_to = |device: &LoopDevice| {
        let _ = std::fs::remove_file(&volume);
        let (major, minor) = device.number.split_once(':').unwrap();
        assert!(Command::new("mknod").arg(&volume).args(["b", major, minor]).status().unwrap().success());
    };
    lead_to(&device);
    let holder = Holder::of(&device.path);
    let launchers = Launchers {
        rows: vec![Launcher {
            vmi_uid: "v".to_owned(),
            pod_uid: Some(POD.to_owned()),
            qemu_pids: vec![holder.0.id()],
            ..Launcher::default()
        }],
    };
    let mut probe = Probe::start_with(&SPEC, tree.root(), |context| {
        quick(context);
        context.launchers.send_replace(Arc::new(launchers));
        holder.run_vm(&context.vms, "v");
    });
    let is =
        |status, what: Option<&'static str>| move |look: &Look| stale(look) == (Some(status), what.map(str::to_owned));
    probe.look_until(is(Absent, None)).await;
    lead_to(&other);
    probe.look_until(is(Present, Some("replaced"))).await;
    lead_to(&device);
    probe.look_until(is(Absent, None)).await;
    std::fs::write(tree.path(&format!("sys/devices/virtual/block/{}/diskseq", device.name)), "9\n").unwrap();
    probe.look_until(is(Present, Some("replaced"))).await;
    std::fs::remove_file(tree.path(&format!("sys/dev/block/{}", device.number))).unwrap();
    probe.look_until(is(Present, Some("gone"))).await;
    probe.stop().await;
}

#[tokio::test]
async fn a_disk_that_finishes_nothing_is_stalled_and_told_with_the_time_it_began() {
    let device = LoopDevice::new();
    let tree = Tree::new(&[]);
    tree.add_disk(&device.name, &device.number, "7");
    let (major, minor) = device.number.split_once(':').unwrap();
    let stat = |finished: u32, waiting: u32| {
        format!(" {major} {minor} {} {finished} 0 8 2 0 0 0 0 {waiting} 6 6\n", device.name)
    };
    tree.write("proc/diskstats", &stat(10, 2));
    let holder = Holder::of(&device.path);
    let mut probe = Probe::start_with(&SPEC, tree.root(), |context| {
        quick(context);
        holder.run_vm(&context.vms, "v");
    });
    let is = |status| move |look: &Look| status_of(look, FindingCode::DeviceStalled) == Some(status);
    probe.look_until(is(Unknown)).await;
    let look = probe.look_until(is(Present)).await;
    let since = look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == FindingCode::DeviceStalled => state.since,
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    });
    assert!(look.at.usec_since(since.unwrap()) >= 5_000_000);
    tree.write("proc/diskstats", &stat(11, 2));
    probe.look_until(is(Absent)).await;
    // The VM ends: nothing is said of the disk any more.
    probe.vms.set_ended(holder.0.id(), Procfs::default().stat(holder.0.id()).unwrap().start_time_ticks, look.at);
    probe.look_until(|look| look.sightings.iter().any(|row| format!("{row:?}").contains(&device.name))).await;
    probe.stop().await;
}

#[tokio::test]
async fn a_lun_of_fibre_channel_under_a_vm_is_told_with_its_array() {
    let device = LoopDevice::new();
    let tree = Tree::new(&[("proc/diskstats", " 253 3 dm-3 10 0 8 2 0 0 0 0 0 6 6\n")]);
    let from = format!("{}/.", fixture("fc-node-a").path().display());
    assert!(Command::new("cp").args(["-a", &from]).arg(tree.path("")).status().unwrap().success());
    symlink("../../devices/virtual/block/dm-3", tree.path(&format!("sys/dev/block/{}", device.number))).unwrap();
    let holder = Holder::of(&device.path);
    let look = Probe::once_with(&SPEC, tree.root(), |context| {
        quick(context);
        holder.run_vm(&context.vms, "v");
    })
    .await;
    let told = look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.subject.to_string() == "mount/naa.600a098038314d4b2b3f4c5a2f6a6c31" => {
            Some((state.status, state.attributes.get("server")?.to_owned()))
        }
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    });
    assert_eq!(told, Some((Absent, "0x200000a098abcdef".to_owned())), "{look:?}");
}

#[tokio::test]
async fn who_looks_but_once_waits_until_a_stall_can_be_told() {
    let device = LoopDevice::new();
    let holder = Holder::of(&device.path);
    let (major, minor) = device.number.split_once(':').unwrap();
    for (waiting, want) in [(0, Absent), (2, Present)] {
        let tree = Tree::new(&[]);
        tree.add_disk(&device.name, &device.number, "7");
        tree.write("proc/diskstats", &format!(" {major} {minor} {} 10 0 8 2 0 0 0 0 {waiting} 6 6\n", device.name));
        let look = Probe::once_with(&SPEC, tree.root(), |context| {
            quick(context);
            holder.run_vm(&context.vms, "v");
        })
        .await;
        assert_eq!(status_of(&look, FindingCode::DeviceStalled), Some(want), "{waiting} requests wait: {look:?}");
    }
}

const SILENT_FUSE: &str = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
    40 22 0:61 / /var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/pvc/mount rw - fuse.glusterfs gluster1:/vol rw\n";

fn answering(context: &mut ProbeContext, script: &str) {
    quick(context);
    let mut config = (*context.config).clone();
    config.volumes.ask_deadline = HumanDuration::from_secs(1);
    config.volumes.ask_every = HumanDuration::from_secs(1);
    context.config = Arc::new(config);
    context.sacrifice = Arc::new(Sacrifice::with_command(["/bin/sh", "-c", script, "sh"]));
    let launchers = Launchers { rows: vec![Launcher { pod_uid: Some("p".to_owned()), ..Launcher::default() }] };
    context.launchers.send_replace(Arc::new(launchers));
}

#[tokio::test]
async fn requests_that_wait_in_fuse_send_a_child_whose_answer_decides() {
    for (script, want) in [
        (r#"echo '{"ok":{"error":null}}'"#, Absent),
        (r#"echo '{"ok":{"error":{"errno":107,"text":"not connected"}}}'"#, Present),
        (r#"echo '{"ok":{"error":{"errno":13,"text":"no permission"}}}'"#, Unknown),
    ] {
        let tree = Tree::new(&[("proc/1/mountinfo", SILENT_FUSE), ("sys/fs/fuse/connections/61/waiting", "3\n")]);
        let mut probe = Probe::start_with(&SPEC, tree.root(), |context| answering(context, script));
        // The child's answer is a look of its own: one verdict, of a moment at which nothing else was looked at.
        let is_answer = |look: &Look| {
            look.verdicts.len() == 1 && look.sightings.is_empty() && !format!("{look:?}").contains("of FUSE")
        };
        let look = probe.look_until(is_answer).await;
        assert_eq!(status_of(&look, FindingCode::BackendUnreachable), Some(want), "{script}: {look:?}");
        probe.stop().await;
    }
}

#[tokio::test]
async fn a_child_that_hangs_is_the_finding_and_the_probe_goes_on() {
    let tree = Tree::new(&[("proc/1/mountinfo", SILENT_FUSE), ("sys/fs/fuse/connections/61/waiting", "3\n")]);
    let pipe = tree.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open at both ends: neither we nor a child waits for the other to open it.
    let mut feed = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let script = format!("read line < {}; echo '{{\"ok\":{{\"error\":null}}}}'", pipe.display());
    let mut probe = Probe::start_with(&SPEC, tree.root(), |context| answering(context, &script));
    let is = |status| move |look: &Look| status_of(look, FindingCode::BackendUnreachable) == Some(status);
    probe.look_until(is(Present)).await;
    probe.look_until(|look| look.verdicts.is_empty()).await;
    // The server comes back: the child returns, and so does a further one.
    tree.write("sys/fs/fuse/connections/61/waiting", "0\n");
    std::io::Write::write_all(&mut feed, b"\n\n\n\n\n\n\n\n").unwrap();
    probe.look_until(is(Absent)).await;
    probe.stop().await;
}

#[tokio::test]
async fn a_suspect_vms_mount_is_asked_about_though_nothing_waits() {
    let tree = Tree::new(&[(
        "proc/1/mountinfo",
        "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n40 22 0:61 / /var/lib/kubelet/pods/p/volumes/x/y rw - cifs //files/vms rw\n",
    )]);
    let device = LoopDevice::new();
    let holder = Holder::of(&device.path);
    let look = Probe::once_with(&SPEC, tree.root(), |context| {
        answering(context, r#"echo '{"ok":{"error":{"errno":112,"text":"host is down"}}}'"#);
        let (_, suspects) = watch::channel(Arc::new(["v".to_owned()].into()));
        context.suspects = suspects;
        let row = Launcher { pod_uid: Some("p".to_owned()), qemu_pids: vec![holder.0.id()], ..Launcher::default() };
        context.launchers.send_replace(Arc::new(Launchers { rows: vec![row] }));
        holder.run_vm(&context.vms, "v");
    })
    .await;
    assert_eq!(status_of(&look, FindingCode::BackendUnreachable), Some(Present), "{look:?}");
}

/// After SIGKILL, while a thread waits for the server, the kernel shows no files of the process.
#[tokio::test]
async fn the_mount_under_a_qemu_that_is_killed_and_cannot_end_is_still_its_own() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut holder = Holder::of(file.path());
    let mounts = Procfs::default().mounts(std::process::id()).unwrap();
    let device = kulprit_host::mount::mount_of(&mounts, file.path()).unwrap().device;
    let own = format!("40 22 {device} / /disks rw - fuse.glusterfs gluster1:/vol rw\n");
    let tree = Tree::new(&[("proc/1/mountinfo", &format!("22 1 254:1 / / rw - ext4 /dev/vda1 rw\n{own}"))]);
    let mut probe = Probe::start_with(&SPEC, tree.root(), |context| {
        answering(context, r#"echo '{"ok":{"error":{"errno":107,"text":"not connected"}}}'"#);
        let (_, suspects) = watch::channel(Arc::new(["v".to_owned()].into()));
        context.suspects = suspects;
        holder.run_vm(&context.vms, "v");
    });
    let is = |code, status| move |look: &Look| status_of(look, code) == Some(status);
    probe.look_until(is(FindingCode::BackendUnreachable, Present)).await;
    // Nobody reaps it.
    holder.0.kill().unwrap();
    probe.look_until(is(FindingCode::StaleDevice, Unknown)).await;
    probe.look_until(is(FindingCode::BackendUnreachable, Present)).await;
    probe.stop().await;
}
