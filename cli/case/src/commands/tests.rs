//! On the recordings of a real KubeVirt that rules may be written from, and on outputs made to break a reader.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kulprit_host::log::Clock;
use kulprit_judge::Verdict;
use kulprit_model::{FindingCode, Status, attribute};
use kulprit_signature::Speaker;

use super::*;
use crate::layout::{Layout, Part};
use crate::logs::{LogSource, Readers, read_log};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../central/diagnosis/fixtures/recordings")
}

/// What the texts of one node of a recording say, and the pods' logs with them.
fn read(recording: &str, wanted_node: &str) -> Gathered {
    let folder = crate::Folder::open(&fixtures().join(format!("{recording}.tar.gz"))).unwrap();
    let root = folder.path();
    let listing = folder.list();
    let layout = crate::layout::recognise(&listing.files).unwrap();
    let Layout::Case(case) = &layout else { panic!("{layout:?}") };
    let manifest = std::fs::read_to_string(root.join(case).join("case.yaml")).unwrap();
    let at = manifest.lines().find_map(|line| line.strip_prefix("at: ")).unwrap();
    let at_usec = kulprit_host::log::parse_stamp(at, 0).unwrap();
    let clock = Clock { at_usec, btime_usec: None };
    let mut out = Gathered::default();
    let mut readers = Readers::new();
    // Processes first: they tell whose a pid is.
    let mut files = listing.files;
    files.sort_by_key(|file| !file.ends_with("ps.txt"));
    for file in &files {
        let text = || String::from_utf8_lossy(&std::fs::read(root.join(file)).unwrap()).into_owned();
        let asked = Asked { file, clock };
        let log = |source: LogSource, readers: &mut Readers, out: &mut Gathered| {
            read_log(text().as_bytes(), file, &source, clock, readers, out);
        };
        match layout.part(file) {
            Part::Kernel { node } if node == wanted_node => log(LogSource::Kernel, &mut readers, &mut out),
            Part::Journal { node, unit } if node == wanted_node => log(LogSource::Unit(unit), &mut readers, &mut out),
            Part::Systemctl { node, unit } if node == wanted_node => {
                read_systemctl(&unit, &text(), asked, &mut readers, &mut out);
            }
            Part::Virsh { node, domain, command } if node == wanted_node => {
                read_virsh(&domain, &command, &text(), asked, &mut readers, &mut out);
            }
            Part::Libvirt { node } if node == wanted_node => {
                log(LogSource::Libvirt { of: None }, &mut readers, &mut out);
            }
            Part::Qemu { node, domain } if node == wanted_node => {
                log(LogSource::Qemu { domain }, &mut readers, &mut out);
            }
            Part::Command { node, name } if node == wanted_node && name == "ps" => read_ps(&text(), asked, &mut out),
            Part::Command { node, name } if node == wanted_node => {
                read_command(&name, &text(), asked, &mut readers, &mut out);
            }
            Part::Pod { namespace, pod, container } => {
                let speaker = match pod.as_str() {
                    pod if pod.starts_with("virt-launcher") => Speaker::Launcher,
                    pod if pod.starts_with("virt-handler") => Speaker::Handler,
                    _ => Speaker::Controller,
                };
                log(LogSource::Pod { speaker, namespace, pod, container }, &mut readers, &mut out);
            }
            _ => {}
        }
    }
    out
}

/// Code and subject of every state that is present, `first_look` or not.
fn present(out: &Gathered) -> BTreeSet<String> {
    states(out, Status::Present)
}

fn states(out: &Gathered, wanted: Status) -> BTreeSet<String> {
    let state = |verdict: &Verdict| match verdict {
        Verdict::State(state) if state.status == wanted => Some(format!("{} {}", state.code, state.subject)),
        _ => None,
    };
    out.verdicts.iter().filter_map(state).collect()
}

#[track_caller]
fn check(recording: &str, node: &str, want: &[&str]) -> Gathered {
    let out = read(recording, node);
    let got: Vec<String> = present(&out).into_iter().collect();
    assert_eq!(got, want, "{recording} {node}");
    assert_eq!(out.problems, [], "{recording} {node}");
    for verdict in &out.verdicts {
        let (code, subject) = match verdict {
            Verdict::State(state) => (state.code, &state.subject),
            Verdict::Occurrence(occurrence) => (occurrence.code, &occurrence.subject),
        };
        assert!(code.spec().subject.allows(subject), "{code} of {subject}");
    }
    out
}

#[test]
fn each_recording_shows_its_fault_and_no_other() {
    check("03a-migration-not-converging-running", "n1", &["MigrationDirtying vm/prod/db-1"]);
    check("03b-migration-not-converging-aborted", "n1", &["MigrationDirtying vm/prod/db-1"]);
    let stopped = "LibvirtUnresponsive libvirt/launcher/288cbda0-02df-4d80-a791-a608fd81de9d";
    check("05a-libvirt-sigstopped-deleting", "n1", &[stopped]);
    check("06a-kubelet-stopped-deleting", "n1", &["KubeletInactive unit/kubelet.service"]);
    let qemu = "QemuStopped vm/faeffc15-81f7-4602-b719-e5e5d36bf824";
    check("08a-qemu-sigstopped-running", "n1", &["DomainControlOccupied vm/prod/app-8", qemu]);
    check("12b-migration-port-blocked-stuck", "n2", &["MigrationNoBytes vm/prod/db-1", "PacketFilterDrops node"]);
}

#[test]
fn healthy_nodes_show_no_fault() {
    for (recording, node) in [
        ("05a-libvirt-sigstopped-deleting", "n2"),
        ("05b-libvirt-sigstopped-gone", "n1"),
        ("06a-kubelet-stopped-deleting", "n2"),
        ("08a-qemu-sigstopped-running", "n2"),
        ("15-guest-ignores-acpi-stopping", "n1"),
        ("17-excessive-migrations", "n2"),
        ("20b-target-image-pull-fails", "n1"),
        ("23a-pvc-missing", "n1"),
        ("24-migration-cancelled-by-user", "n1"),
        ("24-migration-cancelled-by-user", "n2"),
    ] {
        check(recording, node, &[]);
    }
}

#[test]
fn a_kubelet_that_came_back_is_seen_once_with_its_time() {
    let out = check("22b-kubelet-restarted-start", "n1", &[]);
    let starts: BTreeSet<i64> = out
        .verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Occurrence(occurrence) if occurrence.code == FindingCode::KubeletRestarted => {
                Some(occurrence.at.wall_usec / 1_000_000)
            }
            _ => None,
        })
        .collect();
    assert_eq!(starts.len(), 1, "systemd's line, the kubelet's own and systemctl are one start: {starts:?}");
}

#[test]
fn what_stands_in_a_launchers_log_is_of_its_vm() {
    let out = read("03b-migration-not-converging-aborted", "n1");
    let is_timeout = |verdict: &&Verdict| match verdict {
        Verdict::Occurrence(occurrence) => {
            occurrence.attributes.get(attribute::VMI) == Some("prod/db-1")
                && occurrence.attributes.get(attribute::SIGNATURE) == Some("migration-completion-timeout")
        }
        Verdict::State(_) => false,
    };
    assert!(out.verdicts.iter().any(|verdict| is_timeout(&verdict)));
}

const CLOCK: Clock = Clock { at_usec: 1_795_243_350_000_000, btime_usec: None };

fn read_text(name: &str, text: &str) -> Gathered {
    let mut out = Gathered::default();
    let asked = Asked { file: Path::new("cmd/x.txt"), clock: CLOCK };
    read_command(name, text, asked, &mut Readers::new(), &mut out);
    out
}

#[test]
fn a_command_is_known_by_its_name_its_prompt_or_its_contents() {
    let df = "Filesystem Size Used Avail Use% Mounted on\n/dev/sda1 100G 99G 1G 99% /var/lib/containerd\n";
    for (name, text) in [
        ("df-h", df.to_owned()),
        ("sos_df_-al_-x_autofs", df.to_owned()),
        ("evidence", format!("[root@n1 ~]# df -h\n{df}")),
        ("evidence", format!("$ sudo chroot /host df -h\n{df}")),
        ("evidence", df.to_owned()),
    ] {
        let out = read_text(name, &text);
        assert_eq!(
            present(&out).into_iter().collect::<Vec<_>>(),
            ["FilesystemFull mount//var/lib/containerd"],
            "{name}: {text}"
        );
    }
}

#[test]
fn several_commands_in_one_file_are_each_read() {
    let text = "$ sysctl vm.unprivileged_userfaultfd\nvm.unprivileged_userfaultfd = 0\n$ crictl ps\nFATA[0002] validate service connection: rpc error: code = DeadlineExceeded desc = context deadline exceeded\n";
    let got: Vec<String> = present(&read_text("notes", text)).into_iter().collect();
    assert_eq!(got, ["RuntimeUnresponsive unit/containerd.service", "UserfaultfdForbidden node"]);
}

#[test]
fn looks_at_the_machine_and_at_storage_find_their_reader() {
    let expired = "notBefore=Nov 20 06:42:30 2025 GMT\nnotAfter=Nov 20 06:42:30 2026 GMT\n";
    let volume = "/var/lib/kubelet/pods/aa52ac05-2e03-4a4e-868f-ecbf13d35a47/volumes/kubernetes.io~nfs/disks";
    let full = format!("Filesystem Size Used Avail Use% Mounted on\n10.0.0.5:/x 10G 10G 0 100% {volume}\n");
    let plugins = "total 4\nsrwxr-xr-x 1 root root 0 Nov 21 05:29 kubelet.sock\n";
    let pem = "$ openssl x509 -noout -dates -in /var/lib/kubelet/pki/";
    for (name, text, want) in [
        ("kubelet-client-cert", expired.to_owned(), &["KubeletCertificateExpired unit/kubelet.service"][..]),
        (
            "notes",
            format!("{pem}kubelet-client-current.pem\n{expired}"),
            &["KubeletCertificateExpired unit/kubelet.service"],
        ),
        ("notes", format!("{pem}kubelet-server-current.pem\n{expired}"), &[]),
        ("registry-cert", expired.to_owned(), &[]),
        ("device-plugins", plugins.to_owned(), &["DevicePluginMissing node"]),
        ("notes", format!("# ls -l /var/lib/kubelet/device-plugins/\n{plugins}"), &["DevicePluginMissing node"]),
        ("df", full, &["VmFilesystemFull vm/pod/aa52ac05-2e03-4a4e-868f-ecbf13d35a47"]),
        ("df", format!("df: {volume}: Stale file handle\n"), &[&format!("BackendUnreachable mount/{volume}")]),
        ("notes", format!("$ ls {volume}\n^C\n"), &[&format!("BackendUnreachable mount/{volume}")]),
        (
            "notes",
            "$ nc -zv 10.0.0.5 2049\nNcat: Connection timed out.\n".to_owned(),
            &["BackendUnreachable mount/10.0.0.5"],
        ),
        (
            "notes",
            "$ showmount -e 10.0.0.5\nclnt_create: RPC: Timed out\n".to_owned(),
            &["BackendUnreachable mount/10.0.0.5"],
        ),
        (
            "lspci",
            "3b:00.0 3D controller: NVIDIA\n\tKernel driver in use: nouveau\n".to_owned(),
            &["DeviceNotBoundToVfio node"],
        ),
        ("kvm_intel-nested", "N\n".to_owned(), &["KvmNestedDisabled node"]),
        ("notes", "$ cat /sys/module/kvm_amd/parameters/nested\n0\n".to_owned(), &["KvmNestedDisabled node"]),
        ("getenforce", "Permissive\n".to_owned(), &["SelinuxNotEnforcing node"]),
        (
            "free-m",
            "  total used free shared buff/cache available\nMem: 1000 990 5 0 5 9\n".to_owned(),
            &["NodeMemoryStalled node"],
        ),
    ] {
        let got = present(&read_text(name, &text));
        assert_eq!(got.into_iter().collect::<Vec<_>>(), want, "{name}: {text}");
    }
}

#[test]
fn df_inside_of_a_launcher_is_of_its_vm_and_not_of_the_node() {
    let text = "$ kubectl exec -n prod virt-launcher-db-0-x7k2p -- df -h\nFilesystem Size Used Avail Use% Mounted on\noverlay 10G 10G 0 100% /\n/dev/rbd0 10G 10G 0 100% /run/kubevirt-private/vmi-disks/rootdisk\n";
    let got = present(&read_text("notes", text));
    assert_eq!(got.into_iter().collect::<Vec<_>>(), ["VmFilesystemFull vm/pod/virt-launcher-db-0-x7k2p"]);
}

#[test]
fn what_is_a_state_of_a_mount_is_not_an_error_said_too() {
    let out = read_text("df", "df: /mnt/vms: Stale file handle\ndf: /mnt/old: Permission denied\n");
    let said = out.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Occurrence(_))).count();
    assert!(said <= 1, "{:?}", out.verdicts);
    assert_eq!(present(&out).into_iter().collect::<Vec<_>>(), ["BackendUnreachable mount//mnt/vms"]);
}

#[test]
fn a_program_that_is_not_there_says_nothing() {
    for (name, text) in [
        ("lsmod", "/bin/sh: 1: lsmod: not found\n"),
        ("multipath", "bash: multipath: command not found\n"),
        ("ss-qemu", "nsenter: cannot open /proc/1/ns/net: No such file or directory\n"),
    ] {
        let out = read_text(name, text);
        assert_eq!(out.verdicts, [], "{name}");
    }
}

#[test]
fn kernel_lines_pasted_into_a_file_are_the_kernels() {
    let line = "Out of memory: Killed process 2201 (qemu-system-x86) total-vm:9437184kB, anon-rss:8388608kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:17000kB oom_score_adj:0";
    for (name, text) in [
        ("dmesg", format!("[Sat Nov 21 06:40:00 2026] {line}\n")),
        ("journalctl", format!("Nov 21 06:40:00 n1 kernel: {line}\n")),
        ("notes", format!("$ dmesg -T | tail\n[Sat Nov 21 06:40:00 2026] {line}\n")),
    ] {
        let out = read_text(name, &text);
        assert!(
            matches!(out.verdicts.first(), Some(Verdict::Occurrence(one)) if one.code == FindingCode::NodeOomKill && one.at.wall_usec == CLOCK.at_usec - 150_000_000),
            "{name}: {:?}",
            out.verdicts
        );
    }
}

thread_local! {
    /// Compiling the tables costs more than reading a thousand outputs.
    static READERS: std::cell::RefCell<Readers> = std::cell::RefCell::new(Readers::new());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn no_output_makes_a_reader_panic(name in "(df|ps|ip|ss|nft|lsblk|multipath|drbdadm|crictl|sysctl|ping|nc|ceph|iscsiadm|lspci|free|kubelet-cert|plugins|x)", text in "(\\PC|\n| |\t){0,300}") {
        let asked = Asked { file: Path::new("x"), clock: CLOCK };
        READERS.with_borrow_mut(|readers| read_command(&name, &text, asked, readers, &mut Gathered::default()));
    }
}

#[test]
fn a_device_that_qemu_holds_and_that_is_gone_or_another_is_stale() {
    let deleted = "lrwx------ 1 107 107 64 May 12 09:52 /proc/318/fd/23 -> '/dev/disk-0 (deleted)'\n";
    let stat = |held: &str, today: &str| {
        format!("# stat -Lc %t:%T /proc/318/fd/23\n{held}\n# stat -Lc %t:%T /dev/longhorn/pvc-1\n{today}\n")
    };
    for (text, want) in [
        (deleted.to_owned(), Some(Status::Present)),
        ("23 -> '/dev/shm/x (deleted)'\n".to_owned(), None),
        ("lrwx------ 1 107 107 64 May 12 09:52 /proc/318/fd/23 -> /dev/disk-0\n".to_owned(), None),
        (stat("8:20", "8:40"), Some(Status::Present)),
        (stat("8:20", "8:20"), Some(Status::Absent)),
        ("# stat -Lc %t:%T /dev/longhorn/pvc-1\n8:20\n".to_owned(), None),
    ] {
        let found = read_text("qemu-fds", &text).verdicts.into_iter().find_map(|verdict| match verdict {
            Verdict::State(state) if state.code == FindingCode::StaleDevice => Some(state.status),
            Verdict::State(_) | Verdict::Occurrence(_) => None,
        });
        assert_eq!(found, want, "{text}");
    }
}
