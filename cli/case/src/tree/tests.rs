//! On the recorded nodes of a real KubeVirt, and on small trees made to break a reader or to meet a threshold.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use kulprit_model::FindingCode::{self, *};
use kulprit_model::Severity;
use kulprit_model::Status::{Absent, Present, Unknown};

use super::*;

/// The recordings that rules may be written from.
const RECORDINGS: [&str; 13] = [
    "03a-migration-not-converging-running",
    "03b-migration-not-converging-aborted",
    "05a-libvirt-sigstopped-deleting",
    "05b-libvirt-sigstopped-gone",
    "06a-kubelet-stopped-deleting",
    "08a-qemu-sigstopped-running",
    "12b-migration-port-blocked-stuck",
    "15-guest-ignores-acpi-stopping",
    "17-excessive-migrations",
    "20b-target-image-pull-fails",
    "22b-kubelet-restarted-start",
    "23a-pvc-missing",
    "24-migration-cancelled-by-user",
];

/// 2026-11-21T06:00:00Z: within the hours of the recordings.
const AT: Moment = Moment { wall_usec: 1_795_240_800_000_000, boottime_usec: 1_795_240_800_000_000 };

fn unpack(recording: &str) -> tempfile::TempDir {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../central/diagnosis/fixtures/recordings");
    let archive = std::fs::File::open(Path::new(fixtures).join(format!("{recording}.tar.gz"))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(archive)).unpack(dir.path()).unwrap();
    dir
}

/// The folder of a node, wherever the archive has it.
fn node_of(dir: &Path, node: &str) -> PathBuf {
    let direct = dir.join("nodes").join(node);
    if direct.exists() {
        return direct;
    }
    let below = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path().join("nodes").join(node));
    below.into_iter().find(|path| path.exists()).unwrap()
}

fn read(root: &Path) -> Gathered {
    let mut out = Gathered::default();
    read_tree(&HostRoot::new(root), AT, &mut out);
    for verdict in &out.verdicts {
        let (code, subject) = match verdict {
            Verdict::State(state) => (state.code, &state.subject),
            Verdict::Occurrence(occurrence) => (occurrence.code, &occurrence.subject),
        };
        assert!(code.spec().subject.allows(subject), "{code} of {subject}");
    }
    out
}

fn read_node(recording: &str, node: &str) -> Gathered {
    let dir = unpack(recording);
    read(&node_of(dir.path(), node).join("root"))
}

fn status(out: &Gathered, code: FindingCode, subject: &str) -> Option<Status> {
    out.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code && state.subject.to_string() == subject => Some(state.status),
        _ => None,
    })
}

/// Faults that are there, as `Code subject`.
fn faults(out: &Gathered) -> Vec<String> {
    let fault = |verdict: &Verdict| match verdict {
        Verdict::State(state) if state.status == Present && state.code.spec().severity == Severity::Fault => {
            assert_eq!(state.attributes.get(attribute::FIRST_LOOK), Some("true"), "{}", state.code);
            Some(format!("{} {}", state.code, state.subject))
        }
        Verdict::Occurrence(occurrence) if occurrence.code.spec().severity == Severity::Fault => {
            Some(format!("{} {}", occurrence.code, occurrence.subject))
        }
        _ => None,
    };
    let mut faults: Vec<String> = out.verdicts.iter().filter_map(fault).collect();
    faults.sort();
    faults
}

#[test]
fn recorded_nodes_show_what_was_done_to_them_and_nothing_else() {
    for recording in RECORDINGS {
        let dir = unpack(recording);
        for node in ["n1", "n2"] {
            let out = read(&node_of(dir.path(), node).join("root"));
            assert!(out.problems.is_empty(), "{recording} {node}: {:?}", out.problems);
            let want: &[&str] = match (recording, node) {
                ("05a-libvirt-sigstopped-deleting", "n1") => {
                    &["LibvirtUnresponsive libvirt/launcher/288cbda0-02df-4d80-a791-a608fd81de9d"]
                }
                ("08a-qemu-sigstopped-running", "n1") => &["QemuStopped vm/faeffc15-81f7-4602-b719-e5e5d36bf824"],
                _ => &[],
            };
            assert_eq!(faults(&out), want, "{recording} {node}");
            assert_eq!(status(&out, NodeCpuStalled, "node"), Some(Absent), "{recording} {node}");
            assert_eq!(status(&out, PidsExhausted, "node"), Some(Unknown), "pid_max was not recorded");
        }
    }
}

#[test]
fn a_recorded_vm_is_known_by_its_vmi_with_its_pod_its_disks_and_its_start() {
    let out = read_node("15-guest-ignores-acpi-stopping", "n1");
    let uid = "9a84ba04-fed7-4095-b44c-5969c533e6c1";
    let [launcher] = &out.launchers[..] else { panic!("{:?}", out.launchers) };
    assert_eq!(
        (launcher.pid, &*launcher.name, &*launcher.namespace, &*launcher.vmi_uid),
        (42_317, "app-15", "prod", uid)
    );
    assert_eq!(launcher.pod_uid.as_deref(), Some("bc511c92-2d3d-497b-88ab-affd934b967d"));
    let [qemu] = &out.qemus[..] else { panic!("{:?}", out.qemus) };
    assert_eq!((&*qemu.uid, qemu.pid, qemu.disks.len()), (uid, 42_436, 2));
    let vm = format!("vm/{uid}");
    for code in [
        QemuThreadBlocked,
        VmDiskStalled,
        QemuStopped,
        QemuZombie,
        SoftwareEmulation,
        StaleDevice,
        LauncherDefunct,
        TwoQemus,
        VmCpuThrottled,
        LauncherLimitReached,
    ] {
        assert_eq!(status(&out, code, &vm), Some(Absent), "{code}");
    }
    let libvirt = format!("libvirt/launcher/{uid}");
    assert_eq!(status(&out, LibvirtUnreachable, &libvirt), Some(Absent));
    assert_eq!(status(&out, LibvirtUnresponsive, &libvirt), Some(Unknown), "nobody asked it");
}

#[test]
fn a_source_and_a_target_of_a_migration_are_both_the_vm() {
    let dir = unpack("03a-migration-not-converging-running");
    for node in ["n1", "n2"] {
        let out = read(&node_of(dir.path(), node).join("root"));
        assert!(out.qemus.iter().any(|qemu| qemu.uid == "12fd1dfd-0e22-42b4-9e01-147e84df7711"), "{node}");
    }
}

/// Every file below a folder.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn a_recording_that_lost_any_one_file_or_half_of_it_is_less_sure_and_never_wrong() {
    for (recording, want) in [
        (
            "05a-libvirt-sigstopped-deleting",
            "LibvirtUnresponsive libvirt/launcher/288cbda0-02df-4d80-a791-a608fd81de9d",
        ),
        ("08a-qemu-sigstopped-running", "QemuStopped vm/faeffc15-81f7-4602-b719-e5e5d36bf824"),
    ] {
        let dir = unpack(recording);
        let root = node_of(dir.path(), "n1").join("root");
        let is_used = |path: &PathBuf| {
            let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
            let task = parts.iter().position(|part| *part == "task");
            // Of the threads the leader's files stand for all.
            task.is_none_or(|at| parts[at - 1] == parts[at + 1])
                && !path.ends_with("unix")
                && !path.ends_with("netstat")
        };
        let files: Vec<PathBuf> = files_below(&root).into_iter().filter(is_used).collect();
        let mut n_kept = 0;
        for (index, file) in files.iter().enumerate() {
            let bytes = std::fs::read(file).unwrap();
            // Each file is damaged in one way, and in the next recording in another.
            let damaged = match (index + recording.len()) % 3 {
                0 => None,
                1 => Some(&bytes[..bytes.len() / 2]),
                _ => Some(&b"\xff\0rubbish: -1 \n"[..]),
            };
            std::fs::remove_file(file).unwrap();
            if let Some(damaged) = damaged {
                std::fs::write(file, damaged).unwrap();
            }
            let faults = faults(&read(&root));
            let how = damaged.map(String::from_utf8_lossy);
            assert!(faults.iter().all(|fault| fault == want), "{} {how:?}: {faults:?}", file.display());
            n_kept += faults.len();
            std::fs::write(file, &bytes).unwrap();
        }
        assert!(n_kept * 100 >= files.len() * 95, "{recording}: {n_kept} of {}", files.len());
    }
}

const UID: &str = "288cbda0-02df-4d80-a791-a608fd81de9d";
const POD: &str = "f8f01014-2f8e-4b00-9604-f5dc2b5d604d";
const BOX: &str = "f0b7cf346274836ee6080ad8271349fc2c9a7cffc4b88a8fae2eabc8a35dabb4";

/// A tree of a few files, with a launcher family that is well: monitor 10, launcher 11, virtqemud 12, QEMU 13.
struct Made(tempfile::TempDir);

impl Made {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        let args = format!("--name\0app\0--uid\0{UID}\0--namespace\0prod\0");
        made.process(10, "virt-launcher-m", 'S', 1, &format!("/usr/bin/virt-launcher-monitor\0{args}"));
        made.process(11, "virt-launcher", 'S', 10, &format!("/usr/bin/virt-launcher\0{args}"));
        made.process(12, "virtqemud", 'S', 11, "/usr/sbin/virtqemud\0-f\0x\0");
        made.process(13, "qemu-kvm", 'S', 10, "/usr/libexec/qemu-kvm\0-name\0guest=prod_app\0-uuid\0d\0");
        made.thread(13, 13, "qemu-kvm", 'S', "poll_schedule_timeout");
        made.thread(13, 14, "CPU 0/KVM", 'S', "kvm_vcpu_block");
        made
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, comm: &str, state: char, ppid: u32, cmdline: &str) {
        let status = format!("Name:\t{comm}\nState:\t{state} (x)\nPPid:\t{ppid}\nSigPnd:\t0\nShdPnd:\t0\n");
        self.write(&format!("proc/{pid}/status"), &status);
        self.write(&format!("proc/{pid}/cmdline"), cmdline);
        self.write(&format!("proc/{pid}/cgroup"), &format!("0::/kubepods/burstable/pod{POD}/{BOX}\n"));
    }

    fn thread(&self, pid: u32, tid: u32, comm: &str, state: char, wchan: &str) {
        let status = format!("Name:\t{comm}\nState:\t{state} (x)\nSigPnd:\t0\nShdPnd:\t0\n");
        self.write(&format!("proc/{pid}/task/{tid}/status"), &status);
        self.write(&format!("proc/{pid}/task/{tid}/wchan"), wchan);
    }

    fn group(&self, file: &str, text: &str) {
        self.write(&format!("sys/fs/cgroup/kubepods/burstable/pod{POD}/{BOX}/{file}"), text);
    }

    fn faults(&self) -> Vec<String> {
        faults(&read(self.0.path()))
    }
}

#[track_caller]
fn check(make: impl FnOnce(&Made), want: &[&str]) {
    let made = Made::new();
    make(&made);
    let want: Vec<String> = want.iter().map(|fault| fault.replace("UID", UID)).collect();
    assert_eq!(made.faults(), want);
}

#[test]
fn a_made_family_is_well() {
    check(|_| {}, &[]);
}

#[test]
fn a_thread_in_d_state_counts_with_a_wait_for_storage_or_under_a_dead_leader() {
    check(
        |made| made.thread(13, 15, "worker", 'D', "io_schedule"),
        &["QemuThreadBlocked vm/UID", "VmDiskStalled vm/UID"],
    );
    check(|made| made.thread(13, 15, "worker", 'D', "some_lock"), &[]);
    check(
        |made| {
            made.process(13, "qemu-kvm", 'Z', 10, "");
            made.thread(13, 13, "qemu-kvm", 'Z', "0");
            made.thread(13, 14, "CPU 0/KVM", 'Z', "0");
            made.thread(13, 15, "worker", 'D', "rpc_wait_bit_killable");
        },
        &["QemuThreadBlocked vm/UID", "VmDiskStalled vm/UID"],
    );
}

#[test]
fn a_qemu_of_which_nothing_lives_is_a_zombie() {
    check(
        |made| {
            made.process(13, "qemu-kvm", 'Z', 10, "");
            made.thread(13, 13, "qemu-kvm", 'Z', "0");
            made.thread(13, 14, "CPU 0/KVM", 'Z', "0");
        },
        &["QemuZombie vm/UID"],
    );
}

#[test]
fn each_member_of_a_launcher_can_be_stopped_or_missing() {
    check(|made| made.process(12, "virtqemud", 'T', 11, "virtqemud\0"), &["LibvirtUnresponsive libvirt/launcher/UID"]);
    check(|made| made.process(11, "virt-launcher", 'T', 10, ""), &["LauncherDefunct vm/UID"]);
    let remove = |made: &Made, pid: u32| std::fs::remove_dir_all(made.0.path().join(format!("proc/{pid}"))).unwrap();
    check(|made| remove(made, 12), &["LibvirtUnreachable libvirt/launcher/UID"]);
    check(|made| remove(made, 13), &[]);
    check(|made| [10, 11, 12].into_iter().for_each(|pid| remove(made, pid)), &[]);
}

#[test]
fn a_launcher_is_marked_by_a_file_and_known_by_a_ghost_record() {
    let sockets = format!("var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/sockets");
    check(|made| made.write(&format!("{sockets}/launcher-unresponsive"), ""), &["LauncherDefunct vm/UID"]);
    let made = Made::new();
    for pid in [10, 11] {
        std::fs::remove_dir_all(made.0.path().join(format!("proc/{pid}"))).unwrap();
    }
    let record = format!(r#"{{"name":"app","namespace":"prod","socketFile":"/pods/{POD}/x","uid":"{UID}"}}"#);
    made.write(&format!("var/run/kubevirt-private/ghost-records/{UID}"), &record);
    assert_eq!(read(made.0.path()).qemus[0].uid, UID);
}

#[test]
fn two_qemus_of_one_vm_are_told_and_libvirts_probe_of_capabilities_is_none() {
    check(|made| made.process(20, "qemu-kvm", 'S', 10, "qemu-kvm\0-name\0guest=prod_app\0"), &["TwoQemus vm/UID"]);
    check(|made| made.process(20, "qemu-kvm", 'S', 12, "qemu-kvm\0-S\0-machine\0none,accel=kvm:tcg\0"), &[]);
}

#[test]
fn a_device_that_lost_its_name_and_a_vm_without_kvm_are_seen() {
    check(|made| made.write("proc/13/fd.txt", "9 -> /dev/root-disk (deleted)\n"), &["StaleDevice vm/UID"]);
    let made = Made::new();
    made.thread(13, 14, "CPU 0/TCG", 'S', "futex_do_wait");
    assert_eq!(status(&read(made.0.path()), SoftwareEmulation, &format!("vm/{UID}")), Some(Present));
}

#[test]
fn limits_of_the_container_count_from_their_thresholds() {
    check(|made| made.group("cpu.stat", "nr_periods 100\nnr_throttled 49\n"), &[]);
    check(|made| made.group("cpu.stat", "nr_periods 100\nnr_throttled 50\n"), &["VmCpuThrottled vm/UID"]);
    check(|made| made.group("memory.events", "oom 1\noom_kill 0\n"), &[]);
    check(|made| made.group("memory.events", "oom 1\noom_kill 1\n"), &["MemcgOomKill vm/UID"]);
    for (current, want) in [("49", &[][..]), ("50", &["LauncherLimitReached vm/UID"][..])] {
        check(
            |made| {
                made.group("pids.current", current);
                made.group("pids.max", "50\n");
            },
            want,
        );
    }
    check(
        |made| {
            made.write("proc/13/limits", "Max open files  2  4  files\n");
            made.write("proc/13/fd.txt", "0 -> /dev/null\n1 -> /dev/null\n");
        },
        &["LauncherLimitReached vm/UID"],
    );
}

#[test]
fn limits_of_the_node_count_from_their_thresholds() {
    for (tasks, want) in [("899", &[][..]), ("900", &["PidsExhausted node"][..])] {
        check(
            |made| {
                made.write("proc/loadavg", &format!("1 1 1 1/{tasks} 5\n"));
                made.write("proc/sys/kernel/pid_max", "1000\n");
            },
            want,
        );
    }
    for (count, want) in [("89", &[][..]), ("90", &["KernelLimitReached node"][..])] {
        check(
            |made| {
                made.write("proc/sys/net/netfilter/nf_conntrack_count", count);
                made.write("proc/sys/net/netfilter/nf_conntrack_max", "100");
            },
            want,
        );
    }
    // All in use by plan is no fault, so it is looked for as a state.
    for (free, want) in [("1", Absent), ("0", Present)] {
        let made = Made::new();
        made.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8");
        made.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", free);
        assert_eq!(status(&read(made.0.path()), HugepagesExhausted, "node"), Some(want), "{free}");
    }
    for (share, want) in [("9.99", &[][..]), ("10.00", &["NodeMemoryStalled node"][..])] {
        let text = format!("full avg10={share} avg60=0.00 avg300=0.00 total=1\n");
        check(|made| made.write("proc/pressure/memory", &text), want);
    }
}

/// As an agent judges them: what is down singly may have another way.
#[test]
fn ways_to_one_thing_are_judged_together() {
    let made = Made::new();
    for (session, target, state) in
        [(1, "iqn.a", "LOGGED_IN"), (2, "iqn.a", "FAILED"), (3, "iqn.b", "FAILED"), (4, "iqn.b", "FAILED")]
    {
        made.write(&format!("sys/class/iscsi_session/session{session}/targetname"), &format!("{target}\n"));
        made.write(&format!("sys/class/iscsi_session/session{session}/state"), &format!("{state}\n"));
    }
    for (controller, state) in [("nvme0", "live"), ("nvme1", "connecting")] {
        for (file, text) in [("state", state), ("subsysnqn", "nqn.vol"), ("transport", "tcp")] {
            made.write(&format!("sys/class/nvme/{controller}/{file}"), &format!("{text}\n"));
        }
    }
    for (disk, state) in [("sda", "running"), ("sdb", "offline")] {
        made.write(&format!("sys/block/{disk}/device/state"), &format!("{state}\n"));
        made.write(&format!("sys/block/{disk}/holders/dm-0/x"), "");
    }
    made.write("sys/block/dm-0/dm/uuid", "mpath-3600\n");
    let out = read(made.0.path());
    assert_eq!(
        faults(&out),
        [
            "BlockDeviceGone device/sdb",
            "PathsFailed device/dm-0",
            "PathsFailed device/iqn.a",
            "PathsFailed device/iqn.b",
            "PathsFailed device/nqn.vol",
        ]
    );
    let what = |verdict: &Verdict| match verdict {
        Verdict::State(state) if state.code == PathsFailed => {
            Some((state.subject.to_string(), state.attributes.get(attribute::WHAT)?.to_owned()))
        }
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    };
    let mut told: Vec<_> = out.verdicts.iter().filter_map(what).collect();
    told.sort();
    let whats: Vec<&str> = told.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(whats, ["some", "some", "all", "some"], "{told:?}");
}

#[test]
fn the_nodes_services_files_and_hardware_are_looked_at() {
    check(
        |made| made.process(30, "kubelet", 'S', 1, "kubelet\0--root-dir=/data/kubelet\0"),
        &["KubeletMisconfigured unit/kubelet.service"],
    );
    check(|made| made.process(30, "kubelet", 'T', 1, "kubelet\0"), &["KubeletProcessStalled unit/kubelet.service"]);
    check(
        |made| made.process(30, "containerd", 'T', 1, "containerd\0"),
        &["RuntimeUnresponsive unit/containerd.service"],
    );
    check(|made| made.write("proc/mounts", "/dev/vda1 / ext4 ro,relatime 0 0\n"), &["FilesystemReadOnly mount//"]);
    let fallen = "/dev/vda1 / ext4 rw,relatime,errors=remount-ro,emergency_ro 0 0\n";
    check(|made| made.write("proc/mounts", fallen), &["FilesystemReadOnly mount//"]);
    check(|made| made.write("proc/mounts", "/dev/vda1 / ext4 rw,relatime 0 0\n"), &[]);
    check(|made| made.write("sys/devices/system/edac/mc/mc0/ue_count", "1\n"), &["HardwareMemoryError node"]);
    check(|made| made.write("proc/misc", "232 kvm\n"), &[]);
    check(
        |made| {
            made.thread(13, 14, "CPU 0/TCG", 'S', "futex_do_wait");
            made.write("proc/misc", "200 tun\n");
            made.write("proc/cpuinfo", "processor : 0\nflags : fpu hypervisor\n");
        },
        &["KvmNotSupported node"],
    );
}

#[test]
fn a_silent_peer_shows_in_the_namespace_of_virt_handler() {
    let row = "0: 0100007F:D472 0900000A:A8CA 02 00000000:00000001 01:00000000 00000004 0 0 0\n";
    let table = format!("sl local_address rem_address st\n{row}");
    let silent = |make: &dyn Fn(&Made)| {
        let made = Made::new();
        make(&made);
        status(&read(made.0.path()), MigrationPeerSilent, "node")
    };
    let of_handler = |made: &Made| {
        made.process(40, "virt-handler", 'S', 1, "virt-handler\0");
        made.write("proc/40/net/tcp", &table);
    };
    assert_eq!(silent(&of_handler), Some(Present));
    assert_eq!(silent(&|made| made.write("proc/net/tcp", &table)), None);
}

#[test]
fn a_tree_without_anything_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("gone")] {
        let out = read(&path);
        assert!(out.verdicts.is_empty() && out.problems.is_empty() && out.looked.is_empty());
    }
}

#[test]
fn what_no_kernel_writes_gives_a_bounded_number_of_problems_and_no_panic() {
    let made = Made::new();
    for pid in 100..400 {
        std::fs::create_dir_all(made.0.path().join(format!("proc/{pid}/status"))).unwrap();
    }
    for (path, target) in [
        ("proc/loadavg", "loadavg"),
        ("proc/meminfo", "/proc/meminfo"),
        ("proc/pressure", "../../../../../proc/pressure"),
        ("sys/class", "/sys/class"),
        ("proc/500", "."),
    ] {
        let link = made.0.path().join(path);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }
    made.write("proc/cpuinfo", &"flags : vmx\n".repeat(1 << 20));
    made.write("proc/mounts", "\0\0\n/ / / /\n");
    let out = read(made.0.path());
    assert!(faults(&out).is_empty(), "{:?}", faults(&out));
    assert_eq!(out.problems.len(), MAX_PROBLEMS + 1);
    assert_eq!(status(&out, NodeCpuStalled, "node"), Some(Unknown), "our own machine is not read");
    assert_eq!(status(&out, NodeMemoryStalled, "node"), Some(Unknown));
}

#[test]
fn very_many_processes_are_read_in_reasonable_time() {
    let made = Made::new();
    for pid in 1000..6_000 {
        made.write(&format!("proc/{pid}/comm"), "bash\n");
    }
    assert_eq!(read(made.0.path()).qemus.len(), 1);
}
