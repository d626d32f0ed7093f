//! Every row of the table on its own example, reports of several lines, look-alikes, and bytes no kernel writes.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

const VM: &str = "0b2c0b2c-0000-4000-8000-000000000001";

/// QEMU 13094 (threads 15030 and 3893 too) runs a VM; 14261 is another process.
fn owner(task: u32, _: Moment) -> Option<TaskOwner> {
    match task {
        13094 | 3893 | 15030 => Some(TaskOwner { pid: 13094, start_ticks: 77, vm_uid: Some(VM.to_owned()) }),
        14261 => Some(TaskOwner { pid: 14261, start_ticks: 78, vm_uid: None }),
        _ => None,
    }
}

fn second(n: i64) -> Moment {
    Moment::default().offset_usec(n * 1_000_000)
}

fn read(lines: &[&str]) -> Vec<OccurrenceVerdict> {
    thread_local! {
        static LOG: RefCell<KernelLog> = RefCell::new(KernelLog::new());
    }
    let mut out = Vec::new();
    LOG.with_borrow_mut(|log| {
        log.oom_facts = None;
        log.hung_task = None;
        for line in lines {
            log.read_line(second(1), line, &owner, &mut out);
        }
        log.flush(&mut out);
    });
    out
}

/// Code, subject, attributes.
type Want<'a> = (FindingCode, &'a str, &'a [(&'a str, &'a str)]);

#[track_caller]
fn check(lines: &[&str], want: &[Want<'_>]) {
    let found = read(lines);
    let codes: Vec<_> = found.iter().map(|verdict| (verdict.code, verdict.subject.to_string())).collect();
    let wanted: Vec<_> = want.iter().map(|(code, subject, _)| (*code, (*subject).to_owned())).collect();
    assert_eq!(codes, wanted, "{lines:#?}");
    for (verdict, (_, _, attributes)) in found.iter().zip(want) {
        let attributes: Attributes = attributes.iter().copied().collect();
        assert_eq!(verdict.attributes, attributes);
        assert_eq!(verdict.count, 1);
        assert!(verdict.code.spec().subject.allows(&verdict.subject), "{verdict:?}");
    }
}

#[test]
fn every_row_means_its_own_example_and_has_its_needle() {
    let log = KernelLog::new();
    for (index, rule) in rules::all().enumerate() {
        assert!(rule.example.contains(rule.needle), "{}", rule.example);
        assert!(log.is_candidate(rule.example.as_bytes()), "{}", rule.example);
        let takes = |(row, pattern): &(&Rule, OnceLock<Regex>)| {
            rule.example.contains(row.needle)
                && pattern.get_or_init(|| compile(row.pattern)).is_match(rule.example.as_bytes())
        };
        let rows = &log.table.rows;
        let first = rows.iter().position(takes);
        assert_eq!(first, Some(index), "{} is taken by {:?}", rule.example, first.map(|row| rows[row].0.pattern));
        assert!(rule.pattern.starts_with('^') && !rule.source.is_empty(), "{}", rule.pattern);
    }
}

#[test]
fn every_finding_of_the_probe_has_a_row_or_is_made_by_the_reader() {
    for spec in kulprit_model::catalogue::CATALOGUE.iter().filter(|spec| spec.probe == "kernel-log") {
        let has_row = rules::all().any(|rule| rule.meaning == Meaning::Finding(spec.code));
        assert!(has_row || spec.code == FindingCode::KernelLogLost, "{}", spec.code);
    }
}

#[test]
fn a_recorded_oom_names_victim_limit_and_vm() {
    let recorded = include_str!("../../fixtures/kubevirt-1.8.4/memcg-oom.kmsg.txt");
    let lines: Vec<&str> = recorded.lines().collect();
    let pod = "/klab/n1/kubepods/burstable/pod35ecf38c-a011-4ce0-b48f-ebd575a891e9/a38f51a9b60ecd70076d4e12cb5f9080d892f21d0c3d9a15afff311dba7dbcf2";
    check(
        &lines,
        &[
            (
                FindingCode::MemcgOomKill,
                "process/14261@78",
                &[("comm", "virt-handler"), ("memcg", "/klab/n1"), ("pid", "14261")],
            ),
            (
                FindingCode::MemcgOomKill,
                &format!("vm/{VM}"),
                &[
                    ("comm", "qemu-kvm"),
                    ("memcg", pod),
                    ("pid", "13094"),
                    ("pod_uid", "35ecf38c-a011-4ce0-b48f-ebd575a891e9"),
                ],
            ),
        ],
    );
    assert_eq!(read(&lines)[1].evidence.len(), 2, "the facts and the kill");
}

#[test]
fn a_machines_cgroup_names_its_domain() {
    let check = |path: &str, want: Option<&str>| assert_eq!(machine_of_cgroup(path).as_deref(), want, "{path}");
    check(r"/machine.slice/machine-qemu\x2d1\x2ddb\x2d0.scope/libvirt", Some("db-0"));
    check(r"/lab/n1/machine.slice/machine-qemu\x2d12\x2da.scope", Some("a"));
    check(r"/machine.slice/machine-lxc\x2d1\x2da.scope", None);
    check(r"/machine.slice/machine-qemu\x2d1\x2d.scope", None);
    check("/kubepods/burstable/pod35ec/a38f", None);
}

#[test]
fn an_oom_of_the_node_names_no_cgroup() {
    check(
        &[
            "qemu-kvm invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0",
            "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/machine.slice,task=qemu-kvm,pid=13094,uid=107",
            "Out of memory: Killed process 13094 (qemu-kvm) total-vm:9437184kB, anon-rss:8388608kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:17000kB oom_score_adj:0",
        ],
        &[(FindingCode::NodeOomKill, &format!("vm/{VM}"), &[("comm", "qemu-kvm"), ("pid", "13094")])],
    );
}

#[test]
fn old_kernels_announce_and_then_kill_once() {
    check(
        &[
            "Task in /machine/qemu-1 killed as a result of limit of /machine/qemu-1",
            "Memory cgroup out of memory: Kill process 13094 (qemu-kvm) score 1001 or sacrifice child",
            "Killed process 13094 (qemu-kvm) total-vm:736744kB, anon-rss:127888kB, file-rss:0kB, shmem-rss:0kB",
        ],
        &[(
            FindingCode::MemcgOomKill,
            &format!("vm/{VM}"),
            &[("comm", "qemu-kvm"), ("memcg", "/machine/qemu-1"), ("pid", "13094")],
        )],
    );
    check(
        &[
            "Out of memory: Kill process 99 (java) score 900 or sacrifice child",
            "Killed process 99 (java), UID 1000, total-vm:736744kB, anon-rss:127888kB, file-rss:0kB, shmem-rss:0kB",
        ],
        &[(FindingCode::NodeOomKill, "process/99@0", &[("comm", "java"), ("pid", "99")])],
    );
    check(
        &["Killed process 99 (java) total-vm:736744kB, anon-rss:127888kB, file-rss:0kB"],
        &[(FindingCode::NodeOomKill, "process/99@0", &[("comm", "java"), ("pid", "99")])],
    );
}

#[test]
fn facts_of_an_oom_serve_a_group_kill_and_then_expire() {
    let mut log = KernelLog::new();
    let mut out = Vec::new();
    let kill = |pid: u32| format!("Memory cgroup out of memory: Killed process {pid} (a) total-vm:1kB, anon-rss:1kB");
    let facts = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=a,pid=1,uid=0";
    log.read_line(second(0), facts, &owner, &mut out);
    assert!(log.is_mid_report(second(0)) && !log.is_mid_report(second(1)));
    for (at, pid) in [(0, 1), (9, 2), (10, 3)] {
        log.read_line(second(at), &kill(pid), &owner, &mut out);
    }
    let memcgs: Vec<_> = out.iter().map(|verdict| verdict.attributes.get(attribute::MEMCG)).collect();
    assert_eq!(memcgs, [Some("/a"), Some("/a"), None]);
}

#[test]
fn a_hung_thread_is_its_vms_and_its_process_comes_from_the_lines_after() {
    check(
        &[
            "INFO: task worker:777 blocked for more than 122 seconds.",
            "      Not tainted 6.18.44 #1",
            "\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.",
            "task:worker          state:D stack:0     pid:777 tgid:13094 ppid:14100  task_flags:0x404040 flags:0x00004002",
        ],
        &[(
            FindingCode::HungTask,
            &format!("vm/{VM}"),
            &[("blocked_secs", "122"), ("comm", "worker"), ("pid", "13094"), ("tid", "777")],
        )],
    );
}

#[test]
fn a_hung_thread_without_further_lines_is_looked_up() {
    check(
        &["INFO: task worker:15030 blocked for more than 122 seconds."],
        &[(
            FindingCode::HungTask,
            &format!("vm/{VM}"),
            &[("blocked_secs", "122"), ("comm", "worker"), ("pid", "13094"), ("tid", "15030")],
        )],
    );
    check(
        &[
            "INFO: task kworker/u4:2:31 blocked in I/O wait for more than 120 seconds.",
            "task:kworker/u4:2    state:D stack:    0 pid:   31 ppid:     2 flags:0x00004000",
        ],
        &[(FindingCode::HungTask, "process/31@0", &[("blocked_secs", "120"), ("comm", "kworker/u4:2"), ("tid", "31")])],
    );
}

#[test]
fn a_second_report_does_not_take_the_first_ones_lines() {
    let found = read(&[
        "INFO: task a:1 blocked for more than 122 seconds.",
        "INFO: task b:2 blocked for more than 122 seconds.",
        "task:b  state:D stack:0     pid:2 tgid:13094 ppid:14100  task_flags:0x404040 flags:0x00004002",
    ]);
    let subjects: Vec<_> = found.iter().map(|verdict| verdict.subject.to_string()).collect();
    assert_eq!(subjects, ["process/1@0".to_owned(), format!("vm/{VM}")]);
}

#[test]
fn crashes_name_signal_and_thread() {
    check(
        &[
            "traps: CPU 0/KVM[3893] general protection fault ip:55d0c0a8b3f2 sp:7f0a7c9a30 error:0 in qemu-kvm[55d0c0600000+8a5000]",
        ],
        &[(
            FindingCode::ProcessCrashed,
            &format!("vm/{VM}"),
            &[("comm", "CPU 0/KVM"), ("pid", "13094"), ("tid", "3893")],
        )],
    );
    check(
        &[
            "qemu-system-x86[5]: segfault at 0 ip 00007f1 sp 00007ff error 6 in libc.so.6[7f1+155000] likely on CPU 0 (core 0, socket 0)",
        ],
        &[(FindingCode::ProcessCrashed, "process/5@0", &[("comm", "qemu-system-x86"), ("signal", "11"), ("tid", "5")])],
    );
}

#[test]
fn disks_are_named_and_a_full_one_told_from_a_broken_one() {
    check(
        &["blk_update_request: I/O error, dev sdb, sector 2048 op 0x1:(WRITE) flags 0x8800 phys_seg 1 prio class 0"],
        &[(FindingCode::BlockIoError, "device/sdb", &[("device_name", "sdb"), ("io_error", "io_error")])],
    );
    check(
        &["critical space allocation error, dev dm-3, sector 81920 op 0x1:(WRITE) flags 0x800 phys_seg 8 prio class 2"],
        &[(FindingCode::BlockIoError, "device/dm-3", &[("device_name", "dm-3"), ("io_error", "no_space")])],
    );
    check(
        &["EXT4-fs (loop0): Remounting filesystem read-only", "Aborting journal on device nvme0n1p2-8."],
        &[
            (FindingCode::FilesystemRemountedReadOnly, "device/loop0", &[("device_name", "loop0")]),
            (FindingCode::FilesystemError, "device/nvme0n1p2", &[("device_name", "nvme0n1p2")]),
        ],
    );
}

#[test]
fn what_healthy_systems_print_is_no_finding() {
    let lines = [
        "EXT4-fs (vda): mounted filesystem 00000000-0000-0000-0000-000000000000 r/w without journal. Quota mode: none.",
        "EXT4-fs (loop0): VFS: Can't find ext4 filesystem",
        "EXT4-fs (loop0): recovery complete",
        "XFS (loop1): Mounting V5 Filesystem 7a4b",
        "XFS (loop1): Ending clean mount",
        "XFS (loop1): Invalid superblock magic number",
        "BTRFS info (device sda): using crc32c (crc32c-intel) checksum algorithm",
        "SGI XFS with ACLs, security attributes, no debug enabled",
        "blk_update_request: I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
        "x86/cpu: SGX disabled by BIOS.",
        "kvm [4711]: vcpu0, guest rIP: 0xfff unhandled rdmsr: 0x122 data 0x0",
        "kvm-pvm: loaded (native=1 pcid=1 pge_off=1 emul_batch=1024 emul_ibpb=0)",
        "kvm: Nested Virtualization enabled",
        "x86/fpu: Supporting XSAVE feature 0x1000: 'Control-flow Kernel registers (KVM only)'",
        "systemd-journald[29]: Under memory pressure, flushing caches.",
        "systemd[1]: app: Out of memory: Killed process 7 (fake) total-vm:1kB",
        "mce: [Hardware Error]: Machine check events logged",
        "audit: type=1400 apparmor=\"STATUS\" operation=\"profile_load\" name=\"libvirtd\"",
        "Memory failure: 0x1234: recovery action for free buddy page: Recovered",
    ];
    for line in lines {
        check(&[line], &[]);
    }
}

#[test]
fn a_lost_backend_is_named_with_its_server_and_is_the_nodes() {
    let lost = FindingCode::StorageConnectionLost;
    let back = FindingCode::StorageConnectionBack;
    for (line, code, attributes) in [
        (
            "nfs: server nas.example not responding, timed out",
            lost,
            [("backend", "nfs"), ("server", "nas.example")].as_slice(),
        ),
        ("nfs: server nas.example OK", back, &[("backend", "nfs"), ("server", "nas.example")]),
        (
            "libceph: mon2 (2)[fd00::8]:3300 socket closed (con state OPEN)",
            lost,
            &[("backend", "ceph"), ("server", "[fd00::8]:3300")],
        ),
        (
            "libceph: osd7 10.0.0.8:6801 socket closed (con state OPEN)",
            lost,
            &[("backend", "ceph"), ("server", "10.0.0.8:6801")],
        ),
        ("rbd: rbd0: write at objno 1 0~512 result -108", lost, &[("backend", "ceph"), ("device_name", "rbd0")]),
        (" session12: session recovery timed out after 120 secs", lost, &[("backend", "iscsi"), ("server", "12")]),
        ("device-mapper: multipath: Failing path 65:16.", lost, &[("backend", "multipath"), ("server", "65:16")]),
        (
            "device-mapper: multipath: 254:1: Reinstating path 65:16.",
            back,
            &[("backend", "multipath"), ("server", "65:16")],
        ),
        ("drbd pvc-1 node-b: PingAck did not arrive in time.", lost, &[("backend", "drbd"), ("server", "pvc-1")]),
        (
            "drbd pvc-1/0 drbd1001: Auto-promote failed: No quorum (-31)",
            lost,
            &[("backend", "drbd"), ("server", "pvc-1")],
        ),
    ] {
        let found = read(&[line]);
        assert_eq!(found.iter().map(|verdict| verdict.code).collect::<Vec<_>>(), [code], "{line}");
        assert_eq!(found[0].subject, Subject::Node, "{line}");
        for (key, value) in attributes {
            assert_eq!(found[0].attributes.get(key), Some(*value), "{key} of {line}");
        }
    }
}

#[test]
fn denials_name_whom_and_what_and_only_enforced_ones_count() {
    check(
        &[
            "audit: type=1400 audit(1735079251.599:81009): avc:  denied  { open read } for  pid=13094 comm=\"qemu-kvm\" path=\"/dev/null\" dev=\"tmpfs\" ino=3 tclass=chr_file permissive=0",
        ],
        &[(
            FindingCode::SecurityDenied,
            &format!("vm/{VM}"),
            &[("comm", "qemu-kvm"), ("object", "/dev/null"), ("pid", "13094"), ("what", "selinux")],
        )],
    );
    check(
        &[
            "audit: type=1400 audit(1.2:3): avc:  denied  { open } for  pid=13094 comm=\"qemu-kvm\" path=\"/dev/null\" permissive=1",
        ],
        &[],
    );
    check(
        &[
            "audit: type=1326 audit(1.2:3): auid=1 uid=107 gid=107 ses=1 pid=5 comm=\"passt\" exe=\"/usr/bin/passt\" sig=0 arch=c000003e syscall=435",
        ],
        &[],
    );
    check(
        &[
            "audit: type=1400 audit(1.2:3): apparmor=\"ALLOWED\" operation=\"open\" profile=\"a\" name=\"/a\" pid=5 comm=\"x\"",
        ],
        &[],
    );
}

#[test]
fn faults_of_the_node_are_the_nodes_or_the_vms() {
    check(
        &["watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [CPU 0/KVM:3893]"],
        &[(FindingCode::KernelStalled, "node", &[("comm", "CPU 0/KVM"), ("tid", "3893")])],
    );
    check(
        &["NMI watchdog: BUG: soft lockup - CPU#6 stuck for 22s! [kubelet:1663]"],
        &[(FindingCode::KernelStalled, "node", &[("comm", "kubelet"), ("tid", "1663")])],
    );
    check(
        &["kvm [13094]: vcpu0 VM-entry failed: 0x80000021", "kvm [5]: vcpu0 VM-entry failed: 0x80000021"],
        &[
            (FindingCode::KvmGuestFault, &format!("vm/{VM}"), &[("pid", "13094")]),
            (FindingCode::KvmGuestFault, "node", &[("pid", "5")]),
        ],
    );
    check(
        &["cgroup: fork rejected by pids controller in /kubepods/burstable/podx/y"],
        &[(FindingCode::ForkRejected, "node", &[("memcg", "/kubepods/burstable/podx/y")])],
    );
    check(
        &["drbd pvc-1c2c: Auto-promote failed: State change was refused by peer node (-10)"],
        &[(FindingCode::BlockDeviceHeld, "device/pvc-1c2c", &[("backend", "drbd"), ("volume", "pvc-1c2c")])],
    );
    check(
        &["drbd pvc-1c2c/0 drbd1001: Rejected WRITE request, not in Primary role. open_cnt:1"],
        &[(
            FindingCode::BlockDeviceHeld,
            "device/drbd1001",
            &[("backend", "drbd"), ("device_name", "drbd1001"), ("volume", "pvc-1c2c")],
        )],
    );
    check(
        &["i40e 0000:3b:00.1 ens5f1: NIC Link is Down"],
        &[(FindingCode::NetworkLinkDown, "device/ens5f1", &[("device_name", "ens5f1")])],
    );
    for line in [
        "igb 0000:04:00.0 eno1: igb: eno1 NIC Link is Down",
        "e1000: eno1 NIC Link is Down",
        "tg3 0000:01:00.0 eno1: Link is down",
    ] {
        check(&[line], &[(FindingCode::NetworkLinkDown, "device/eno1", &[("device_name", "eno1")])]);
    }
    check(
        &["device-mapper: thin: 253:2: reached low water mark for data device: sending event."],
        &[(FindingCode::ThinPoolFull, "device/253:2", &[("device_name", "253:2")])],
    );
}

#[test]
fn look_alikes_of_the_node_are_no_finding() {
    for line in [
        "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0",
        "{1}[Hardware Error]: event severity: corrected",
        "sd 3:0:0:1: [sdb] tag#7 Sense Key : Hardware Error [current]",
        "ata3: SATA link down (SStatus 0 SControl 300)",
        "ata1: SATA link up 6.0 Gbps (SStatus 133 SControl 300)",
        "veth1a2b3c4d: link is down",
        "IPv6: ADDRCONF(NETDEV_CHANGE): veth1a2b3c4d: link becomes ready",
        "e1000e 0000:00:19.0 eth0: NIC Link is Up 1000 Mbps Full Duplex",
        "libceph: mon0 (1)10.0.0.8:6789 session lost by a program that wrote this".strip_prefix("libceph: ").unwrap(),
        "drbd pvc-1 n2: conn( Connected -> Disconnecting )",
        "nvme nvme0: 4/0/0 default/read/poll queues",
        "app: Kernel panic - not syncing",
        "systemd[1]: Linux version 6.1",
    ] {
        check(&[line], &[]);
    }
}

#[test]
fn a_storm_becomes_one_occurrence_with_a_count() {
    let mut merged = Vec::new();
    for n in 0..1000 {
        let line = format!("Buffer I/O error on dev sdb, logical block {n}, async page read");
        for verdict in read(&[&line]) {
            merge(&mut merged, verdict);
        }
    }
    merge(&mut merged, lost(second(9), 3));
    assert_eq!(merged.len(), 2);
    assert_eq!(merged[0].count, 1000);
    assert!(merged[0].evidence[0].text.contains("block 0,") && merged[0].evidence[1].text.contains("block 999,"));
    assert_eq!((merged[1].code, merged[1].count), (FindingCode::KernelLogLost, 3));
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(lines in proptest::collection::vec(".{0,200}", 0..4)) {
        read(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn no_damaged_example_makes_it_panic(
        row in 0..rules::all().count(), cut in 0_usize..200, junk in ".{0,10}", other in 0..rules::all().count(),
    ) {
        let example_of = |row: usize| rules::all().nth(row).map_or("", |rule| rule.example);
        let example = example_of(row);
        let cut = example.floor_char_boundary(cut);
        let damaged = format!("{}{junk}{}", &example[..cut], &example[cut..]);
        read(&[example_of(other), &damaged, &example[cut..], example_of(other)]);
    }
}

#[test]
fn a_cgroup_names_its_pod_with_either_driver() {
    for (path, want) in [
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod9e1e8aaa_55d4_5a5f_a070_ef172cf03793.slice/x.scope",
            Some("9e1e8aaa-55d4-5a5f-a070-ef172cf03793"),
        ),
        (
            "/kubepods/burstable/pod9e1e8aaa-55d4-5a5f-a070-ef172cf03793/3d4e",
            Some("9e1e8aaa-55d4-5a5f-a070-ef172cf03793"),
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod9e1e8aaa_55d4_5a5f_a070_ef172cf03793.slice",
            Some("9e1e8aaa-55d4-5a5f-a070-ef172cf03793"),
        ),
        ("/kubepods/burstable/pod35ec/a38f", None),
        ("/user.slice/user-1000.slice", None),
        ("", None),
    ] {
        assert_eq!(pod_of_cgroup(path).as_deref(), want, "{path}");
    }
}
