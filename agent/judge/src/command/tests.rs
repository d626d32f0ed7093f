//! Each threshold from both sides, on outputs as the programs print them.

use std::collections::BTreeMap;

use kulprit_host::command::{Failure, block, files, filter, network as net, ps, system, virsh};
use kulprit_model::Status::{self, Absent, Present, Unknown};

mod machine;

use super::domain::{Call, judge_control, judge_daemon, judge_state};
use super::*;

fn at() -> Moment {
    Moment { wall_usec: 1_000_000_000, boottime_usec: 1_000_000_000 }
}

fn statuses(verdicts: &[Verdict]) -> BTreeMap<(FindingCode, String), Status> {
    let mut all = BTreeMap::new();
    for verdict in verdicts {
        if let Verdict::State(state) = verdict {
            assert!(state.code.spec().subject.allows(&state.subject), "{} of {}", state.code, state.subject);
            all.insert((state.code, state.subject.to_string()), state.status);
        }
    }
    all
}

#[track_caller]
fn check(verdicts: &[Verdict], code: FindingCode, subject: &str, want: Option<Status>) {
    let all = statuses(verdicts);
    assert_eq!(all.get(&(code, subject.to_owned())).copied(), want, "{code} of {subject} in {all:?}");
}

/// A node: init, a launcher with its libvirt daemon, and a QEMU in the states given.
fn table(launcher: &str, libvirt: Option<&str>, qemu: &[(&str, &str)]) -> ps::TaskTable {
    let mut text = "  PID   TID  PPID STAT WCHAN                            COMMAND         COMMAND\n".to_owned();
    let mut row = |pid: u32, tid: u32, ppid: u32, stat: &str, wchan: &str, comm: &str, args: &str| {
        text += &format!("{pid:5} {tid:5} {ppid:5} {stat:4} {wchan:32} {comm:15} {args}\n");
    };
    let args = "--name db-0 --uid u-1 --namespace prod";
    row(1, 1, 0, "Ss", "do_epoll_wait", "systemd", "/sbin/init");
    row(2, 2, 0, "S", "kthreadd", "kthreadd", "[kthreadd]");
    row(50, 50, 1, "Sl", "futex_wait", "containerd-shim", "/usr/bin/containerd-shim-runc-v2 -id abc");
    row(60, 60, 50, "Ssl", "futex_wait", "virt-launcher-m", &format!("/usr/bin/virt-launcher-monitor {args}"));
    row(70, 70, 60, launcher, "futex_wait", "virt-launcher", &format!("/usr/bin/virt-launcher {args}"));
    if let Some(state) = libvirt {
        row(80, 80, 70, state, "poll", "virtqemud", "/usr/sbin/virtqemud -f /x.conf");
    }
    for (index, (state, wchan)) in qemu.iter().enumerate() {
        let tid = 90 + u32::try_from(index).unwrap();
        row(90, tid, 60, state, wchan, "qemu-kvm", "/usr/libexec/qemu-kvm -name guest=prod_db-0,debug-threads=on");
    }
    ps::parse_ps(&text).unwrap()
}

#[test]
fn a_healthy_launcher_shows_no_fault() {
    let seen = tasks::judge(at(), &table("Sl", Some("Sl"), &[("Sl", "poll"), ("Sl", "kvm_vcpu_block")]));
    let faults: Vec<_> = statuses(&seen.verdicts).into_iter().filter(|(_, status)| *status != Absent).collect();
    assert_eq!(faults, []);
    assert_eq!((seen.qemus.len(), seen.launchers.len()), (1, 1));
    assert_eq!(seen.qemus[0].vm_uid.as_deref(), Some("u-1"));
    assert_eq!(seen.launchers[0].pid, 60, "the monitor, not the launcher below it");
}

#[test]
fn threads_of_qemu_count_by_state_and_wait() {
    use FindingCode::{QemuStopped, QemuTerminationPending, QemuThreadBlocked, QemuZombie, VmDiskStalled};
    let judge = |qemu: &[(&str, &str)]| tasks::judge(at(), &table("Sl", Some("Sl"), qemu)).verdicts;
    let on_nfs = judge(&[("Sl", "poll"), ("Dl", "nfs_wait_bit_killable")]);
    check(&on_nfs, QemuThreadBlocked, "vm/u-1", Some(Present));
    check(&on_nfs, VmDiskStalled, "vm/u-1", Some(Present));
    let elsewhere = judge(&[("Sl", "poll"), ("Dl", "synchronize_rcu")]);
    check(&elsewhere, QemuThreadBlocked, "vm/u-1", Some(Unknown));
    check(&elsewhere, VmDiskStalled, "vm/u-1", Some(Absent));
    check(&judge(&[("Tl", "do_signal_stop")]), QemuStopped, "vm/u-1", Some(Present));
    let dead = judge(&[("Z", "-")]);
    check(&dead, QemuZombie, "vm/u-1", Some(Present));
    // After SIGKILL: the leader is a zombie and a thread is in D.
    let cannot_end = judge(&[("Zl", "-"), ("Dl", "io_schedule")]);
    check(&cannot_end, QemuZombie, "vm/u-1", Some(Absent));
    check(&cannot_end, QemuTerminationPending, "vm/u-1", Some(Present));
}

#[test]
fn a_zombie_whose_threads_are_not_listed_is_unknown() {
    let text =
        "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND\nqemu 90 0 0 0 0 ? Zl 1 0 [qemu-kvm] <defunct>\n";
    let seen = tasks::judge(at(), &ps::parse_ps(text).unwrap());
    check(&seen.verdicts, FindingCode::QemuZombie, "process/90@0", Some(Unknown));
}

/// Systemd reaps the host's own daemon.
#[test]
fn a_dead_libvirtd_of_no_known_launcher_is_no_daemon_that_is_down() {
    let text =
        "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND\nqemu 90 0 0 0 0 ? Zl 1 0 [libvirtd] <defunct>\n";
    let seen = tasks::judge(at(), &ps::parse_ps(text).unwrap());
    check(&seen.verdicts, FindingCode::LibvirtUnreachable, "libvirt/qemu:///system", None);
}

#[test]
fn launcher_and_libvirt_are_stopped_or_missing() {
    use FindingCode::{LauncherDefunct, LibvirtUnreachable, LibvirtUnresponsive};
    let qemu: &[(&str, &str)] = &[("Sl", "poll")];
    let judge = |launcher, libvirt| tasks::judge(at(), &table(launcher, libvirt, qemu)).verdicts;
    let uri = "libvirt/launcher/u-1";
    check(&judge("Sl", Some("Tl")), LibvirtUnresponsive, uri, Some(Present));
    check(&judge("Sl", Some("Sl")), LibvirtUnreachable, uri, Some(Absent));
    check(&judge("Sl", Some("Sl")), LibvirtUnresponsive, uri, None);
    check(&judge("Sl", None), LibvirtUnreachable, uri, Some(Present));
    check(&judge("Tl", Some("Sl")), LauncherDefunct, "vm/u-1", Some(Present));
    check(&judge("Sl", Some("Sl")), LauncherDefunct, "vm/u-1", Some(Absent));
    // Without QEMU a launcher that starts or ends may have no daemon.
    let starting = tasks::judge(at(), &table("Sl", None, &[])).verdicts;
    check(&starting, LibvirtUnreachable, uri, None);
}

#[test]
fn virsh_counts_from_three_seconds_on() {
    let vm = Subject::vm("v");
    let control = |text| judge_control(at(), &vm, virsh::parse_domcontrol(text).unwrap());
    check(&control("occupied (2.999s)"), FindingCode::DomainControlOccupied, "vm/v", Some(Absent));
    check(&control("occupied (3.000s)"), FindingCode::DomainControlOccupied, "vm/v", Some(Present));
    check(&control("error: monitor failure (3.000s)"), FindingCode::DomainControlError, "vm/v", Some(Present));
    let state = |text| judge_state(at(), &vm, virsh::parse_domstate(text).unwrap());
    check(&state("paused (I/O error)"), FindingCode::DomainIoError, "vm/v", Some(Present));
    check(&state("paused (user)"), FindingCode::DomainIoError, "vm/v", Some(Absent));
    check(&state("paused"), FindingCode::DomainIoError, "vm/v", Some(Unknown));
    let daemon = |call, needs_monitor| judge_daemon(at(), "launcher/v", &vm, call, needs_monitor);
    let silent = Call::Failed(Failure::NoAnswer, "(no answer within 5 s)");
    check(&daemon(silent, false), FindingCode::LibvirtUnresponsive, "libvirt/launcher/v", Some(Present));
    check(&daemon(silent, true), FindingCode::LibvirtUnresponsive, "libvirt/launcher/v", None);
    check(&daemon(Call::Answered, true), FindingCode::LibvirtUnresponsive, "libvirt/launcher/v", Some(Absent));
    check(
        &daemon(Call::Failed(Failure::Refused, "x"), false),
        FindingCode::LibvirtUnreachable,
        "libvirt/launcher/v",
        Some(Present),
    );
}

#[test]
fn file_systems_are_full_from_97_percent_on() {
    let df = |kind: &str, pct: u32, point: &str| {
        let text =
            format!("Filesystem Type Size Used Avail Use% Mounted on\n/dev/sda1 {kind} 10G 9G 1G {pct}% {point}\n");
        storage::judge_df(at(), &files::parse_df(&text).unwrap())
    };
    let code = FindingCode::FilesystemFull;
    check(&df("ext4", 96, "/"), code, "mount//", Some(Absent));
    check(&df("ext4", 97, "/"), code, "mount//", Some(Present));
    check(&df("ext4", 100, "/var/lib/kubelet"), code, "mount//var/lib/kubelet", Some(Present));
    check(&df("squashfs", 100, "/var"), code, "mount//var", None);
    check(&df("ext4", 100, "/home"), code, "mount//home", None);
    let pod = "/var/lib/kubelet/pods/aa52ac05-2e03-4a4e-868f-ecbf13d35a47/volumes/kubernetes.io~secret/x";
    check(&df("tmpfs", 100, pod), code, &format!("mount/{pod}"), None);
}

#[test]
fn read_only_is_a_fault_where_nobody_asked_for_it() {
    let mount = |line: &str| storage::judge_mounts(at(), &files::parse_mounts(line));
    let code = FindingCode::FilesystemReadOnly;
    check(
        &mount("/dev/sda1 on /var/lib/kubelet type ext4 (ro,relatime)"),
        code,
        "mount//var/lib/kubelet",
        Some(Present),
    );
    check(&mount("/dev/sda1 on / type ext4 (ro,errors=remount-ro)"), code, "mount//", Some(Present));
    check(&mount("/dev/sda1 on / type ext4 (ro,relatime)"), code, "mount//", None);
    check(&mount("/dev/sda1 on / type xfs (rw,relatime)"), code, "mount//", Some(Absent));
    check(&mount("tmpfs on /sys type tmpfs (ro)"), code, "mount//sys", None);
}

#[test]
fn paths_and_replicas() {
    let maps = |second: &str| {
        let text =
            format!("mpatha (3) dm-3 A,B\n|- 2:0:0:1 sdb 8:16 active ready running\n`- 3:0:0:1 sdc 8:32 {second}\n");
        storage::judge_multipath(at(), &block::parse_multipath(&text))
    };
    check(&maps("active ready running"), FindingCode::PathsFailed, "device/dm-3", Some(Absent));
    check(&maps("failed faulty offline"), FindingCode::PathsFailed, "device/dm-3", Some(Present));
    let drbd = |text| storage::judge_drbd(at(), "drbdadm", &block::parse_drbd_status(text));
    check(&drbd("r0 role:Primary\n  disk:UpToDate\n"), FindingCode::ReplicationSuspended, "device/r0", Some(Absent));
    check(&drbd("r0 role:Primary suspended:quorum\n"), FindingCode::ReplicationSuspended, "device/r0", Some(Present));
}

#[test]
fn a_link_that_nobody_uses_may_be_down() {
    let links = |text| network::judge_links(at(), &net::parse_links(text));
    let code = FindingCode::LinkDown;
    check(
        &links("2: eth0: <NO-CARRIER,BROADCAST,UP> mtu 1500 master bond0 state DOWN\n"),
        code,
        "device/eth0",
        Some(Present),
    );
    check(&links("2: eth0: <NO-CARRIER,BROADCAST,UP> mtu 1500 state DOWN\n"), code, "device/eth0", None);
    check(&links("2: eth0: <BROADCAST,UP,LOWER_UP> mtu 1500 state UP\n"), code, "device/eth0", Some(Absent));
    check(
        &links("5: docker0: <NO-CARRIER,UP> mtu 1500 state DOWN\n    inet 172.17.0.1/16\n"),
        code,
        "device/docker0",
        None,
    );
}

#[test]
fn pings_tell_a_lost_peer_from_lost_large_packets() {
    let ping = |size: u32, received: u32| {
        format!(
            "PING a (1.2.3.4) {size}({}) bytes of data.\n3 packets transmitted, {received} received, 0% packet loss\n",
            size + 28
        )
    };
    let judge = |text: &str| network::judge_pings(at(), &net::parse_pings(text));
    let both = judge(&(ping(56, 3) + &ping(1472, 0)));
    check(&both, FindingCode::MtuMismatch, "node", Some(Present));
    check(&judge(&ping(56, 0)), FindingCode::NetworkUnreachable, "node", Some(Present));
    check(&judge(&ping(56, 3)), FindingCode::NetworkUnreachable, "node", Some(Absent));
    check(&judge(&ping(1472, 3)), FindingCode::MtuMismatch, "node", Some(Absent));
}

#[test]
fn a_silent_peer_is_one_of_the_migration() {
    let code = FindingCode::MigrationPeerSilent;
    let judge = |row: &str, is_migrators| network::judge_sockets(at(), &net::parse_ss(row).unwrap(), is_migrators);
    let handler = "users:((\"virt-handler\",pid=9,fd=3))";
    check(&judge(&format!("SYN-SENT 0 1 10.0.0.1:4000 10.0.0.2:40123 {handler}"), false), code, "node", Some(Present));
    check(
        &judge(&format!("ESTAB 0 0 10.0.0.1:4000 10.0.0.2:40123 {handler} backoff:2"), false),
        code,
        "node",
        Some(Absent),
    );
    check(
        &judge(&format!("ESTAB 0 9 10.0.0.1:4000 10.0.0.2:40123 {handler} backoff:3"), false),
        code,
        "node",
        Some(Present),
    );
    // Given up: its process has closed it, and `ss` names none.
    check(&judge("FIN-WAIT-1 0 9 10.0.0.1:4000 10.0.0.2:40123 backoff:3", true), code, "node", Some(Present));
    check(&judge("FIN-WAIT-2 0 0 10.0.0.1:4000 10.0.0.2:40123 backoff:3", true), code, "node", Some(Absent));
    check(&judge(&format!("SYN-SENT 0 1 10.0.0.1:4000 10.96.0.1:443 {handler}"), false), code, "node", None);
    check(&judge("SYN-SENT 0 1 10.0.0.1:4000 10.0.0.2:40123", false), code, "node", None);
    check(&judge("SYN-SENT 0 1 10.0.0.1:4000 10.0.0.2:40123", true), code, "node", Some(Present));
}

#[test]
fn a_filter_counts_where_it_meets_the_ports_of_migrations() {
    let code = FindingCode::PacketFilterDrops;
    let judge = |chain: &str, rule: &str| {
        let text = format!("table inet a {{\n\tchain {chain} {{\n\t\t{rule}\n\t}}\n}}\n");
        network::judge_filter(at(), &filter::parse_filter_rules(&text).unwrap(), "nft")
    };
    for (chain, rule, want) in [
        ("x", "tcp dport 30000-65535 counter packets 1 bytes 2 drop", Present),
        ("x", "tcp dport 30000-65535 counter packets 0 bytes 0 drop", Absent),
        ("x", "tcp dport 49152 reject", Present),
        ("x", "tcp dport 22 drop", Absent),
        ("x", "udp dport 30000-65535 drop", Absent),
        ("KUBE-FIREWALL", "tcp dport 30000-65535 drop", Absent),
        ("x", "tcp dport 30000-32767 drop", Absent),
        ("x", "ct state invalid drop", Absent),
    ] {
        check(&judge(chain, rule), code, "node", Some(want));
    }
}

#[test]
fn limits_clocks_modules_and_the_device() {
    let sysctl = |text: &str| node::judge_sysctl(at(), &system::parse_sysctl(text));
    let conntrack = |used| format!("net.netfilter.nf_conntrack_count = {used}\nnet.netfilter.nf_conntrack_max = 100\n");
    check(&sysctl(&conntrack(89)), FindingCode::KernelLimitReached, "node", Some(Absent));
    check(&sysctl(&conntrack(90)), FindingCode::KernelLimitReached, "node", Some(Present));
    check(&sysctl("vm.unprivileged_userfaultfd = 0"), FindingCode::UserfaultfdForbidden, "node", Some(Present));
    check(&sysctl("vm.unprivileged_userfaultfd = 1"), FindingCode::UserfaultfdForbidden, "node", Some(Absent));
    let clock =
        |offset_secs, is_synchronised| node::judge_clock(at(), system::ClockState { is_synchronised, offset_secs });
    check(&clock(Some(5.0), Some(true)), FindingCode::ClockSkewed, "node", Some(Absent));
    check(&clock(Some(5.1), Some(true)), FindingCode::ClockSkewed, "node", Some(Present));
    check(&clock(None, Some(false)), FindingCode::ClockSkewed, "node", Some(Present));
    let modules =
        |names: &[&str]| node::judge_modules(at(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    check(&modules(&["ext4", "kvm_intel"]), FindingCode::KvmModuleNotLoaded, "node", Some(Absent));
    check(&modules(&["ext4", "kvm"]), FindingCode::KvmModuleNotLoaded, "node", Some(Present));
    let device = |line: &str| node::judge_kvm_node(at(), &system::parse_device_nodes(line), line.contains("No such"));
    check(
        &device("crw-rw---- 1 root kvm 10, 232 Nov 20 08:17 /dev/kvm"),
        FindingCode::KvmDeviceInaccessible,
        "node",
        Some(Absent),
    );
    check(
        &device("c--------- 1 root kvm 10, 232 Nov 20 08:17 /dev/kvm"),
        FindingCode::KvmDeviceInaccessible,
        "node",
        Some(Present),
    );
    check(&device("ls: cannot access '/dev/kvm': No such file"), FindingCode::KvmDeviceMissing, "node", Some(Present));
}

#[test]
fn a_kubelet_that_waits_to_be_started_anew_is_in_a_loop() {
    let status = |active: &str| {
        let text = format!("● kubelet.service - kubelet\n   Loaded: loaded (x; enabled)\n   Active: {active}\n");
        node::judge_unit(at(), &kulprit_host::command::units::parse_units("kubelet.service", &text, 0)[0])
    };
    let unit = "unit/kubelet.service";
    let crashing = status("activating (auto-restart) (Result: exit-code)");
    check(&crashing, FindingCode::KubeletRestartLoop, unit, Some(Present));
    check(&crashing, FindingCode::KubeletInactive, unit, Some(Unknown));
    check(&status("activating (start)"), FindingCode::KubeletRestartLoop, unit, Some(Absent));
}

#[test]
fn a_kubelets_command_line_tells_of_a_setup_that_kubevirt_cannot_use_and_proves_no_other() {
    let setup = |args: &str| tasks::kubelet_setup(at(), "kubelet.service", args).into_iter().collect::<Vec<_>>();
    let code = FindingCode::KubeletMisconfigured;
    check(&setup("/usr/bin/kubelet --root-dir=/data/kubelet"), code, "unit/kubelet.service", Some(Present));
    assert_eq!(setup("/usr/bin/kubelet --config=/etc/kubernetes/kubelet.yaml"), []);
}

#[test]
fn units_and_the_runtimes_answers() {
    let unit = |name: &str, active: &str| {
        let text = format!("Id={name}\nLoadState=loaded\nActiveState={active}\nUnitFileState=enabled\n");
        node::judge_unit(at(), &kulprit_host::command::units::parse_units(name, &text, 0)[0])
    };
    check(&unit("kubelet.service", "inactive"), FindingCode::KubeletInactive, "unit/kubelet.service", Some(Present));
    check(&unit("kubelet.service", "active"), FindingCode::KubeletInactive, "unit/kubelet.service", Some(Absent));
    check(
        &unit("containerd.service", "failed"),
        FindingCode::RuntimeInactive,
        "unit/containerd.service",
        Some(Present),
    );
    check(&unit("crio.service", "active"), FindingCode::RuntimeInactive, "unit/crio.service", Some(Absent));
    assert_eq!(unit("sshd.service", "failed"), []);
    let call = |failure| node::judge_runtime_call(at(), "containerd.service", failure);
    check(&call(None), FindingCode::RuntimeUnresponsive, "unit/containerd.service", Some(Absent));
    check(
        &call(Some((Failure::NoAnswer, "x"))),
        FindingCode::RuntimeUnresponsive,
        "unit/containerd.service",
        Some(Present),
    );
    check(
        &call(Some((Failure::NoSocket, "x"))),
        FindingCode::RuntimeInactive,
        "unit/containerd.service",
        Some(Present),
    );
}
