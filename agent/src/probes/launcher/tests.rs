//! The probe against trees of three layouts, written by hand after KUBEVIRT's own names, and the recorded one.
//!
//! A tree is a host's root with its `proc` inside; what procfs has as links is not in it.

use std::path::Path;

use kulprit_model::FindingCode::{LauncherDefunct, SoftwareEmulation, TwoQemus, VmLinkLost};
use kulprit_model::Status::{self, Absent, Present};
use kulprit_model::{FindingCode, attribute};

use super::*;
use crate::look::Sighting;
use crate::probes::testing;

const VMI: &str = "23a93a57-8a28-4551-94a0-f9ee63305db5";
const POD: &str = "bf9425ec-5840-4979-be30-4f8fba039b75";
const CONTAINER: &str = "b2dedf3d3bd8f07464f5a4ba1be59e92387d19e5b4ec9b2cf85c7042571304d8";

/// A node with a launcher: its monitor has pid 10, virt-launcher 11, libvirt's daemon 12, QEMU 13.
struct Tree {
    root: tempfile::TempDir,
    cgroup: String,
}

/// The `cgroup` file of a launcher's processes.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// containerd with the cgroupfs driver, version 1.
    Cgroupfs,
    /// containerd with the systemd driver, version 2.
    Systemd,
    /// CRI-O with crun, systemd driver, version 2.
    Crio,
}

const LAYOUTS: [Layout; 3] = [Layout::Cgroupfs, Layout::Systemd, Layout::Crio];

impl Layout {
    fn path(self) -> String {
        let slices = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod";
        let pod = POD.replace('-', "_");
        match self {
            Self::Cgroupfs => format!("/kubepods/burstable/pod{POD}/{CONTAINER}"),
            Self::Systemd => format!("{slices}{pod}.slice/cri-containerd-{CONTAINER}.scope"),
            Self::Crio => format!("{slices}{pod}.slice/crio-{CONTAINER}.scope/container"),
        }
    }

    fn cgroup(self) -> String {
        let path = self.path();
        match self {
            Self::Cgroupfs => format!("9:memory:{path}\n8:cpu,cpuacct:{path}\n7:pids:{path}\n0::{path}\n"),
            Self::Systemd | Self::Crio => format!("0::{path}\n"),
        }
    }

    /// Where its controllers are, below the root.
    fn directories(self) -> Vec<(&'static str, String)> {
        let path = self.path();
        match self {
            Self::Cgroupfs => vec![
                ("memory", format!("sys/fs/cgroup/memory{path}")),
                ("cpu", format!("sys/fs/cgroup/cpu,cpuacct{path}")),
                ("pids", format!("sys/fs/cgroup/pids{path}")),
                ("", format!("sys/fs/cgroup/unified{path}")),
            ],
            Self::Systemd | Self::Crio => vec![("", format!("sys/fs/cgroup{path}"))],
        }
    }
}

impl Tree {
    fn new(layout: Layout) -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap(), cgroup: layout.cgroup() };
        let flags = format!("--name db-0 --uid {VMI} --namespace prod --run-as-nonroot");
        tree.put(1, 0, "systemd", 'S', "/sbin/init");
        tree.write("proc/1/cgroup", "0::/init.scope\n");
        tree.put(10, 1, "virt-launcher-m", 'S', &format!("/usr/bin/virt-launcher-monitor {flags}"));
        tree.put(11, 10, "virt-launcher", 'S', &format!("/usr/bin/virt-launcher {flags}"));
        tree.put(12, 11, "virtqemud", 'S', "/usr/sbin/virtqemud -f /var/run/libvirt/virtqemud.conf");
        tree.put(13, 10, "qemu-kvm", 'S', "/usr/libexec/qemu-kvm -name guest=prod_db-0 -uuid 0c0c -accel kvm");
        tree.thread(13, "CPU 0/KVM", 'S');
        tree.write("proc/10/root/var/run/libvirt/virtqemud-sock", "");
        for (_, directory) in layout.directories() {
            std::fs::create_dir_all(tree.root.path().join(directory)).unwrap();
        }
        tree
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn stat(pid: u32, ppid: u32, comm: &str, state: char) -> String {
        let start = 1_000 + pid;
        format!("{pid} ({comm}) {state} {ppid} {pid} {pid} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n")
    }

    fn put(&self, pid: u32, ppid: u32, comm: &str, state: char, args: &str) {
        self.write(&format!("proc/{pid}/stat"), &Self::stat(pid, ppid, comm, state));
        self.write(&format!("proc/{pid}/cgroup"), &self.cgroup);
        self.write(&format!("proc/{pid}/cmdline"), &format!("{}\0", args.replace(' ', "\0")));
    }

    /// The process is in another state; its arguments stay.
    fn set_state(&self, pid: u32, ppid: u32, comm: &str, state: char) {
        self.write(&format!("proc/{pid}/stat"), &Self::stat(pid, ppid, comm, state));
    }

    fn thread(&self, pid: u32, comm: &str, state: char) {
        let tid = pid * 10;
        self.write(&format!("proc/{pid}/task/{tid}/stat"), &Self::stat(tid, 1, comm, state));
    }

    fn remove(&self, path: &str) {
        std::fs::remove_dir_all(self.root.path().join(path)).unwrap();
    }

    /// One look of a probe that looks once, and the snapshot it made.
    async fn look(&self) -> (Look, Arc<Launchers>) {
        self.look_with(|_| ()).await
    }

    async fn look_with(&self, change: impl FnOnce(&mut ProbeContext)) -> (Look, Arc<Launchers>) {
        look_at_root(self.root.path(), change).await
    }
}

async fn look_at_root(root: &Path, change: impl FnOnce(&mut ProbeContext)) -> (Look, Arc<Launchers>) {
    let snapshot = Arc::new(tokio::sync::watch::Sender::new(Arc::default()));
    let shared = Arc::clone(&snapshot);
    let look = testing::Probe::once_with(&SPEC, HostRoot::new(root), move |context| {
        let mut config = (*context.config).clone();
        config.procfs = root.join("proc");
        context.config = Arc::new(config);
        context.launchers = shared;
        change(context);
    })
    .await;
    assert_eq!(look.blind_because, None);
    let launchers = Arc::clone(&snapshot.borrow());
    (look, launchers)
}

/// The state of a VM.
fn status(look: &Look, uid: &str, code: FindingCode) -> Option<Status> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code && state.subject == Subject::vm(uid) => Some(state.status),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

/// What kind of defunct it is.
fn what(look: &Look) -> Option<String> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == LauncherDefunct && state.status == Present => {
            let known = state.attributes.get(attribute::WHAT).or(state.attributes.get(attribute::PROCESS_STATE));
            Some(known.unwrap_or_default().to_owned())
        }
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

#[tokio::test]
async fn a_launcher_is_found_whole_in_each_layout() {
    for layout in LAYOUTS {
        let (look, launchers) = Tree::new(layout).look().await;
        let [row] = &launchers.rows[..] else { panic!("{layout:?}: {launchers:?}") };
        assert_eq!((row.vmi_uid.as_str(), row.display_name().as_str()), (VMI, "prod/db-0"), "{layout:?}");
        assert_eq!((row.pod_uid.as_deref(), row.container_id.as_deref()), (Some(POD), Some(CONTAINER)), "{layout:?}");
        assert_eq!((row.pid, row.start_ticks, row.libvirt_pid), (10, 1_010, Some(12)), "{layout:?}");
        assert_eq!(row.qemu_pids, [13], "{layout:?}");
        assert_eq!(row.libvirt_socket.as_deref(), Some("/var/run/libvirt/virtqemud-sock"), "{layout:?}");
        assert!(row.is_nonroot, "{layout:?}");
        let seen: Vec<(String, String)> =
            row.cgroups.iter().map(|row| (row.controller.clone(), row.directory.display().to_string())).collect();
        let want = layout.directories().into_iter().map(|(controller, path)| (controller.to_owned(), path));
        assert_eq!(seen, want.collect::<Vec<_>>(), "{layout:?}");
        let states = [LauncherDefunct, TwoQemus].map(|code| status(&look, VMI, code));
        assert_eq!(states, [Some(Absent), Some(Absent)], "{layout:?}");
    }
}

#[tokio::test]
async fn the_recorded_launcher_of_a_real_kubevirt_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("host/fixtures/kubevirt-1.8.4");
    let (_, launchers) = look_at_root(&root, |_| ()).await;
    let [row] = &launchers.rows[..] else { panic!("{launchers:?}") };
    assert_eq!((row.vmi_uid.as_str(), row.display_name().as_str()), (VMI, "prod/db-0"));
    assert_eq!((row.pid, &row.qemu_pids[..], row.pod_uid.as_deref()), (3762, &[3888][..], Some(POD)));
}

#[tokio::test]
async fn a_cgroup_of_a_node_inside_ours_is_named_by_the_nodes_own_root() {
    let mut tree = Tree::new(Layout::Systemd);
    tree.cgroup = format!("0::/lab/n1{}\n", Layout::Systemd.path());
    for pid in 10..14 {
        tree.write(&format!("proc/{pid}/cgroup"), &tree.cgroup);
    }
    let with_prefix = |prefix: &str| {
        let prefix = Some(prefix.to_owned());
        move |context: &mut ProbeContext| {
            let mut config = (*context.config).clone();
            config.cgroup_prefix = prefix;
            context.config = Arc::new(config);
        }
    };
    let (_, launchers) = tree.look_with(with_prefix("/lab/n1")).await;
    let directory = format!("sys/fs/cgroup{}", Layout::Systemd.path());
    assert_eq!(launchers.rows[0].cgroups[0].directory, Path::new(&directory));
    let (_, launchers) = tree.look_with(with_prefix("/lab/n2")).await;
    assert!(launchers.rows.is_empty(), "another node's");
}

#[tokio::test]
async fn members_that_are_stopped_gone_or_wait_make_a_launcher_defunct() {
    let tree = Tree::new(Layout::Systemd);
    for (state, want) in
        [('S', None), ('R', None), ('T', Some("T")), ('t', Some("t")), ('D', Some("D")), ('Z', Some("Z"))]
    {
        tree.set_state(11, 10, "virt-launcher", state);
        assert_eq!(what(&tree.look().await.0).as_deref(), want, "{state}");
    }
    tree.set_state(11, 10, "virt-launcher", 'S');
    tree.set_state(10, 1, "virt-launcher-m", 'T');
    assert_eq!(what(&tree.look().await.0).as_deref(), Some("T"), "the monitor");
    tree.set_state(10, 1, "virt-launcher-m", 'S');
    tree.set_state(12, 11, "virtqemud", 'T');
    assert_eq!(what(&tree.look().await.0), None, "libvirt is asked itself");
    tree.remove("proc/11");
    assert_eq!(what(&tree.look().await.0).as_deref(), Some("gone"));
    tree.remove("proc/13");
    assert_eq!(what(&tree.look().await.0), None, "without a QEMU a launcher may end");
}

#[tokio::test]
async fn a_ghost_record_tells_whose_pod_it_is_where_arguments_do_not() {
    let tree = Tree::new(Layout::Crio);
    let record = format!(
        r#"{{"name":"db-0","namespace":"prod","socketFile":"/pods/{POD}/volumes/kubernetes.io~empty-dir/sockets/launcher-sock","uid":"{VMI}"}}"#
    );
    for pid in [10, 11] {
        tree.write(&format!("proc/{pid}/cmdline"), "");
    }
    let (_, launchers) = tree.look().await;
    assert!(launchers.rows.is_empty(), "nobody says whose it is");
    tree.write(&format!("var/run/kubevirt-private/ghost-records/{VMI}"), &record);
    let (_, launchers) = tree.look().await;
    assert_eq!((launchers.rows[0].pid, launchers.rows[0].qemu_pids.len()), (10, 1));
    tree.remove("proc/10");
    tree.remove("proc/11");
    let (look, launchers) = tree.look().await;
    assert_eq!(launchers.rows[0].libvirt_pid, Some(12), "its processes are still of that pod");
    assert_eq!(what(&look).as_deref(), Some("gone"));
}

#[tokio::test]
async fn a_marker_and_a_dead_command_socket_are_told() {
    let tree = Tree::new(Layout::Cgroupfs);
    let sockets = format!("var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/sockets");
    tree.write(&format!("{sockets}/other"), "");
    assert_eq!(what(&tree.look().await.0), None);
    // A socket's path is short where it is bound.
    let bound = tree.root.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&bound).unwrap();
    std::fs::rename(bound, tree.root.path().join(&sockets).join("launcher-sock")).unwrap();
    assert_eq!(what(&tree.look().await.0), None);
    drop(listener);
    assert_eq!(what(&tree.look().await.0).as_deref(), Some("refused"));
    tree.write(&format!("{sockets}/launcher-unresponsive"), "");
    assert_eq!(what(&tree.look().await.0).as_deref(), Some("marked"));
}

#[tokio::test]
async fn emulation_a_second_qemu_and_a_lost_tap_are_told_of_every_vm() {
    let tree = Tree::new(Layout::Systemd);
    tree.put(20, 1, "qemu-system-x86", 'S', "/usr/bin/qemu-system-x86_64 -accel tcg");
    tree.thread(20, "CPU 0/TCG", 'S');
    tree.write("proc/20/cgroup", "0::/machine.slice/machine-qemu\n");
    tree.put(21, 1, "qemu-system-x86", 'S', "/usr/bin/qemu-system-x86_64 -accel tcg");
    let vms = Arc::new(VmIndex::new());
    for (pid, uid) in [(13, VMI), (20, "plain"), (21, "plain")] {
        vms.insert(pid, 1_000 + u64::from(pid), uid);
    }
    let look = |vms: &Arc<VmIndex>| {
        let vms = Arc::clone(vms);
        tree.look_with(move |context| context.vms = vms)
    };
    let (seen, _) = look(&vms).await;
    assert_eq!(status(&seen, VMI, SoftwareEmulation), Some(Absent));
    assert_eq!(status(&seen, "plain", SoftwareEmulation), Some(Present));
    assert_eq!(status(&seen, "plain", TwoQemus), Some(Present));
    vms.set_job("plain", true);
    let (seen, _) = look(&vms).await;
    assert_eq!(status(&seen, "plain", TwoQemus), Some(Absent), "a migration within the node");
    // Its descriptors were not recorded: nobody says anything of its links.
    assert_eq!(status(&seen, VMI, VmLinkLost), None);
    std::fs::create_dir_all(tree.root.path().join("proc/13/fd")).unwrap();
    std::os::unix::fs::symlink("/dev/net/tun", tree.root.path().join("proc/13/fd/9")).unwrap();
    tree.write("proc/13/fdinfo/9", "iff:\ttap0\n");
    tree.write("proc/13/net/dev", "Inter-|\n face |\n  tap0: 0\n");
    let (seen, _) = look(&vms).await;
    assert_eq!(status(&seen, VMI, VmLinkLost), Some(Absent));
    tree.write("proc/13/net/dev", "Inter-|\n face |\n    lo: 0\n");
    let (seen, _) = look(&vms).await;
    assert_eq!(status(&seen, VMI, VmLinkLost), Some(Present));
}

#[tokio::test]
async fn a_launcher_that_ends_leaves_the_snapshot_at_once_and_takes_its_vm_along() {
    let tree = Tree::new(Layout::Systemd);
    let snapshot = Arc::new(tokio::sync::watch::Sender::new(Arc::default()));
    let shared = Arc::clone(&snapshot);
    let procfs = tree.root.path().join("proc");
    let mut probe = testing::Probe::start_with(&SPEC, HostRoot::new(tree.root.path()), move |context| {
        let mut config = (*context.config).clone();
        config.procfs = procfs;
        context.config = Arc::new(config);
        context.launchers = shared;
    });
    probe.look_until(|_| !snapshot.borrow().rows.is_empty()).await;
    for pid in 10..14 {
        tree.remove(&format!("proc/{pid}"));
    }
    probe.vms.changed.notify_one();
    let look = probe.look_until(|_| snapshot.borrow().rows.is_empty()).await;
    assert!(matches!(&look.sightings[..], [Sighting::Gone(subject)] if *subject == Subject::vm(VMI)), "{look:?}");
    probe.stop().await;
}

#[tokio::test]
async fn garbage_costs_only_itself_and_no_procfs_is_a_blindness() {
    let tree = Tree::new(Layout::Systemd);
    tree.write("proc/30/stat", "rubbish");
    tree.put(31, 1, "virt-launcher", 'S', "virt-launcher --name");
    tree.write("proc/31/cgroup", "rubbish");
    tree.put(32, 1, "virtqemud", 'S', "");
    std::fs::remove_file(tree.root.path().join("proc/32/cgroup")).unwrap();
    tree.write("var/run/kubevirt-private/ghost-records/x", "rubbish");
    let (_, launchers) = tree.look().await;
    assert_eq!(launchers.rows.len(), 1);
    let empty = tempfile::tempdir().unwrap();
    let look = testing::Probe::once_with(&SPEC, HostRoot::new(empty.path()), |context| {
        let mut config = (*context.config).clone();
        config.procfs = empty.path().join("proc");
        context.config = Arc::new(config);
    });
    assert!(look.await.blind_because.is_some_and(|because| because.contains("proc")));
}

#[tokio::test]
async fn a_blocked_thread_of_a_launcher_whose_leader_sleeps_is_seen_where_all_threads_are_looked_at() {
    let tree = Tree::new(Layout::Systemd);
    tree.thread(11, "virt-launcher", 'D');
    let defunct = async |change: fn(&mut ProbeContext)| status(&tree.look_with(change).await.0, VMI, LauncherDefunct);
    assert_eq!(defunct(|_| ()).await, Some(Present), "one look looks at all");
    let live = async |suspect: &str| {
        let suspects = Arc::new(Suspects::from([suspect.to_owned()]));
        let procfs = tree.root.path().join("proc");
        let mut probe = testing::Probe::start_with(&SPEC, HostRoot::new(tree.root.path()), |context| {
            context.config = Arc::new(crate::probes::ProbeConfig { procfs, ..(*context.config).clone() });
            context.suspects = tokio::sync::watch::channel(suspects).1;
        });
        let look = probe.look().await;
        probe.stop().await;
        status(&look, VMI, LauncherDefunct)
    };
    assert_eq!((live(VMI).await, live("another").await), (Some(Present), Some(Absent)));
}

#[test]
fn a_blocked_thread_is_looked_at_until_it_is_over() {
    let tree = Tree::new(Layout::Systemd);
    let procfs = Procfs::new(tree.root.path().join("proc"));
    let resident = census::Resident {
        id: ProcessId { pid: 11, start_time_ticks: 1_011 },
        comm: "virt-launcher".to_owned(),
        kind: ResidentKind::Launcher,
    };
    let facts = Facts::read(&procfs, &resident).unwrap();
    let mut reader = MemberReader::new(&procfs);
    let mut is_blocked = |state, closely| {
        tree.thread(11, "virt-launcher", state);
        matches!(reader.read(&facts, closely).unwrap().health, Some(Health::Blocked { tid: 110, .. }))
    };
    assert!(!is_blocked('D', false) && is_blocked('D', true));
    assert!(is_blocked('D', false), "the VM is no suspect any more");
    assert!(!is_blocked('S', false) && !is_blocked('D', false));
}
