//! Looks at the machine and at what storage answers, each from both sides, on outputs as the programs print them.

use kulprit_host::command::{block, files, network as net, reach as host, runtime, system};
use kulprit_model::FindingCode::{
    BackendUnreachable, BlockDeviceHeld, DeviceNotBoundToVfio, DevicePluginMissing, FilesystemFull, IommuMissing,
    KubeletCertificateExpired, KvmDeviceInaccessible, KvmDeviceMissing, KvmNestedDisabled, NodeMemoryStalled,
    RuntimeNetworkNotReady, SelinuxNotEnforcing, VmFilesystemFull,
};
use kulprit_model::Status::{Absent, Present, Unknown};
use kulprit_model::{Moment, attribute};

use super::super::{machine, node, reach, storage};
use super::{at, check};
use crate::verdict::Verdict;

#[test]
fn the_kubelets_certificate_is_valid_from_its_first_to_its_last_second() {
    let dates = "notBefore=Nov 21 06:42:30 2025 GMT\nnotAfter=Nov 21 06:42:30 2026 GMT\n";
    let (start, end) = system::parse_certificate_dates(dates).unwrap();
    let judged = |wall_usec, start, end| {
        let at = Moment { wall_usec, boottime_usec: wall_usec };
        [machine::judge_kubelet_certificate(at, start, end)]
    };
    let (first, last) = (start.unwrap(), end.unwrap());
    for (now, want) in [(first - 1, Present), (first, Absent), (last - 1, Absent), (last, Present)] {
        check(&judged(now, start, end), KubeletCertificateExpired, "unit/kubelet.service", Some(want));
    }
    check(&judged(last - 1, None, end), KubeletCertificateExpired, "unit/kubelet.service", Some(Absent));
    check(&judged(first, start, None), KubeletCertificateExpired, "unit/kubelet.service", Some(Unknown));
    let [Verdict::State(expired)] = judged(last + 5_000_000, start, end) else { panic!("a state") };
    assert_eq!(expired.since.map(|since| since.wall_usec), end, "it began when the certificate ended");
}

#[test]
fn a_plugin_folder_without_kubevirt_is_missing_its_plugins() {
    let judge = |names: &str| {
        let listing: String =
            names.split(' ').map(|name| format!("srwxr-xr-x 1 root root 0 Nov 21 05:29 {name}\n")).collect();
        let sockets = system::parse_device_plugins(&format!("total 32\n{listing}")).unwrap();
        Vec::from_iter(machine::judge_device_plugins(at(), &sockets))
    };
    check(&judge("kubelet.sock"), DevicePluginMissing, "node", Some(Present));
    check(&judge("kubelet.sock nvidia-gpu.sock"), DevicePluginMissing, "node", Some(Present));
    check(&judge("kubelet.sock kubevirt-kvm.sock kubevirt-tun.sock"), DevicePluginMissing, "node", Some(Absent));
    check(&judge("kubelet.sock kubevirt-tun.sock"), DevicePluginMissing, "node", None);
    assert_eq!(
        system::parse_device_plugins("ls: cannot access '/var/lib/kubelet/device-plugins/kubelet.sock'\n"),
        None
    );
}

#[test]
fn memory_runs_out_at_two_percent_available() {
    let judge = |available: u32| {
        let text = format!(
            "               total        used        free      shared  buff/cache   available\nMem:           10000        9000         100           5         900       {available}\n"
        );
        Vec::from_iter(machine::judge_free(at(), system::parse_free(&text).unwrap()))
    };
    for (available, want) in [(200, Present), (210, Unknown), (999, Unknown), (1000, Absent)] {
        check(&judge(available), NodeMemoryStalled, "node", Some(want));
    }
    let old = "             total       used       free     shared    buffers     cached\nMem:      10000       9999          1          0         0          0\n";
    assert_eq!(machine::judge_free(at(), system::parse_free(old).unwrap()), None, "caches are not told from use");
}

#[test]
fn nested_and_selinux_say_what_they_are() {
    for (text, want) in [
        ("N\n", Some(Present)),
        ("0\n", Some(Present)),
        ("Y\n", Some(Absent)),
        ("/sys/module/kvm_amd/parameters/nested:1\n", Some(Absent)),
        ("options kvm_intel nested=0\n", None),
        ("cat: /sys/module/kvm_intel/parameters/nested: No such file or directory\n", None),
    ] {
        let verdicts = Vec::from_iter(system::parse_nested(text).map(|is_on| machine::judge_nested(at(), is_on)));
        check(&verdicts, KvmNestedDisabled, "node", want);
    }
    for (text, want) in [
        ("Enforcing\n", Some(Absent)),
        ("Permissive\n", Some(Present)),
        ("SELinux status:                 enabled\nCurrent mode:                   enforcing\n", Some(Absent)),
        ("SELinux status:                 disabled\n", Some(Present)),
        ("bash: getenforce: command not found\n", None),
    ] {
        let verdicts = Vec::from_iter(system::parse_selinux_mode(text).map(|mode| machine::judge_selinux(at(), mode)));
        check(&verdicts, SelinuxNotEnforcing, "node", want);
    }
}

#[test]
fn kvms_checks_tell_what_their_caller_could_see() {
    let judge = |line: &str| machine::judge_host_checks(at(), &system::parse_host_checks(line));
    let exists = "  QEMU: Checking if device /dev/kvm exists                                   : ";
    check(&judge(&format!("{exists}PASS\n")), KvmDeviceMissing, "node", Some(Absent));
    check(
        &judge(&format!("{exists}FAIL (Check that the 'kvm-intel' or 'kvm-amd' modules are loaded)\n")),
        KvmDeviceMissing,
        "node",
        Some(Present),
    );
    let open = "  QEMU: Checking if device /dev/kvm is accessible                            : ";
    check(&judge(&format!("{open}PASS\n")), KvmDeviceInaccessible, "node", Some(Absent));
    check(
        &judge(&format!("{open}FAIL (Check /dev/kvm is world writable)\n")),
        KvmDeviceInaccessible,
        "node",
        Some(Unknown),
    );
    let supported = "  QEMU: Checking for device assignment IOMMU support                         : ";
    let enabled = "  QEMU: Checking if IOMMU is enabled by kernel                               : ";
    check(&judge(&format!("{supported}PASS\n{enabled}PASS\n")), IommuMissing, "node", Some(Absent));
    check(
        &judge(&format!("{supported}PASS\n{enabled}WARN (IOMMU appears to be disabled in kernel.)\n")),
        IommuMissing,
        "node",
        Some(Present),
    );
    check(
        &judge(&format!("{supported}WARN (Unknown if this platform has IOMMU support)\n")),
        IommuMissing,
        "node",
        None,
    );
    check(
        &judge("   LXC: Checking for Linux >= 2.6.26                                         : FAIL\n"),
        KvmDeviceMissing,
        "node",
        None,
    );
}

#[test]
fn a_card_counts_when_somebody_picked_it_or_its_sibling_is_for_vms() {
    let card = |address: &str, driver: &str| {
        let driver = if driver.is_empty() { String::new() } else { format!("\tKernel driver in use: {driver}\n") };
        format!("{address} 3D controller [0302]: NVIDIA Corporation TU104GL [Tesla T4] [10de:1eb8] (rev a1)\n{driver}")
    };
    let others: String = (0..9).map(|n| format!("00:1f.{n} ISA bridge [0601]: Intel [8086:a1c1]\n")).collect();
    let judge = |text: &str, is_picked| Vec::from_iter(machine::judge_pci(at(), &system::parse_lspci(text), is_picked));
    let one = card("3b:00.0", "nouveau");
    check(&judge(&one, true), DeviceNotBoundToVfio, "node", Some(Present));
    check(&judge(&card("3b:00.0", "vfio-pci"), true), DeviceNotBoundToVfio, "node", Some(Absent));
    check(&judge(&(others.clone() + &one), false), DeviceNotBoundToVfio, "node", None);
    check(&judge(&(others + &one + &card("af:00.0", "vfio-pci")), false), DeviceNotBoundToVfio, "node", Some(Present));
    check(&judge(&card("3b:00.0", "nvidia-vgpu-vfio"), true), DeviceNotBoundToVfio, "node", None);
    check(
        &judge("03:00.0 VGA compatible controller: Matrox\n\tKernel driver in use: mgag200\n", true),
        DeviceNotBoundToVfio,
        "node",
        None,
    );
    check(&judge(&card("3b:00.0", ""), true), DeviceNotBoundToVfio, "node", None);
}

#[test]
fn the_runtime_says_whether_its_network_is_ready() {
    let judge = |is_ready: bool| {
        let json = format!(
            r#"{{"status":{{"conditions":[{{"type":"RuntimeReady","status":true}},{{"type":"NetworkReady","status":{is_ready},"message":"cni plugin not initialized"}}]}}}}"#
        );
        node::judge_runtime_info(at(), "containerd.service", &runtime::parse_crictl_info(&json).unwrap())
    };
    check(&judge(false), RuntimeNetworkNotReady, "unit/containerd.service", Some(Present));
    check(&judge(true), RuntimeNetworkNotReady, "unit/containerd.service", Some(Absent));
}

const POD: &str = "aa52ac05-2e03-4a4e-868f-ecbf13d35a47";

fn df(rows: &[(&str, u32, &str)]) -> Vec<files::DfRow> {
    let rows: String = rows.iter().map(|(source, pct, point)| format!("{source} 10G 9G 1G {pct}% {point}\n")).collect();
    files::parse_df(&format!("Filesystem Size Used Avail Use% Mounted on\n{rows}")).unwrap()
}

#[test]
fn a_volume_is_full_from_99_percent_on_and_is_its_pods() {
    let volume = format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/pvc-1/mount");
    let of_pod = format!("vm/pod/{POD}");
    for (pct, want) in [(98, Absent), (99, Present), (100, Present)] {
        let rows = df(&[("/dev/rbd0", pct, &volume)]);
        check(&storage::judge_vm_df(at(), &rows, &[]), VmFilesystemFull, &of_pod, Some(want));
        check(&storage::judge_df(at(), &rows), FilesystemFull, &format!("mount/{volume}"), None);
    }
    for small in ["kubernetes.io~projected/kube-api-access-x", "kubernetes.io~secret/x"] {
        let rows = df(&[("tmpfs", 100, &format!("/var/lib/kubelet/pods/{POD}/volumes/{small}"))]);
        check(&storage::judge_vm_df(at(), &rows, &[]), VmFilesystemFull, &of_pod, None);
    }
}

#[test]
fn a_disk_lies_on_the_nearest_mount_above_it() {
    let disks = [storage::DiskPlace { vm: "v".to_owned(), path: "/data/vms/db-0.qcow2".to_owned() }];
    let judge = |root: u32, data: u32| {
        storage::judge_vm_df(at(), &df(&[("/dev/sda1", root, "/"), ("/dev/sdb1", data, "/data")]), &disks)
    };
    check(&judge(100, 50), VmFilesystemFull, "vm/v", Some(Absent));
    check(&judge(50, 100), VmFilesystemFull, "vm/v", Some(Present));
    let only_root = df(&[("/dev/sda1", 100, "/"), ("/dev/sdb1", 100, "/dat")]);
    check(&storage::judge_vm_df(at(), &only_root, &disks), VmFilesystemFull, "vm/v", Some(Present));
}

#[test]
fn a_mount_that_gives_errors_is_told_by_what_only_its_server_explains() {
    let judge = |text: &str| reach::judge_mount_failures(at(), "ls", &host::parse_mount_failures(text), &[]);
    let nfs = format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~nfs/vm-disks");
    for (text, point, want) in [
        ("ls: cannot access '/mnt/vms': Stale file handle\n", "/mnt/vms", Some(Present)),
        ("df: /mnt/vms: Stale file handle\n", "/mnt/vms", Some(Present)),
        ("stat: cannot statx '/mnt/vms': Transport endpoint is not connected\n", "/mnt/vms", Some(Present)),
        ("ls: cannot access '/mnt/vms': Connection timed out\n", "/mnt/vms", Some(Present)),
        ("ls: cannot access '/mnt/vms': Input/output error\n", "/mnt/vms", None),
        ("dd: error reading '/dev/sdb': Input/output error\n", "/dev/sdb", None),
        ("ls: cannot access '/mnt/vms': No such file or directory\n", "/mnt/vms", None),
        ("ls: cannot open directory '/mnt/vms': Permission denied\n", "/mnt/vms", None),
        (&format!("df: {nfs}: Input/output error\n"), &nfs, Some(Present)),
    ] {
        check(&judge(text), BackendUnreachable, &format!("mount/{point}"), want);
    }
    let mounts = [("10.0.0.5:/export".to_owned(), "nfs4".to_owned(), "/mnt".to_owned())];
    let failures = host::parse_mount_failures("ls: cannot access '/mnt/vms': Input/output error\n");
    let verdicts = reach::judge_mount_failures(at(), "ls", &failures, &mounts);
    check(&verdicts, BackendUnreachable, "mount//mnt", Some(Present));
    let Verdict::State(state) = &verdicts[0] else { panic!("a state") };
    assert_eq!(
        (state.attributes.get(attribute::BACKEND), state.attributes.get(attribute::SERVER)),
        (Some("nfs"), Some("10.0.0.5"))
    );
}

#[test]
fn a_volume_over_the_network_that_answers_clears_itself() {
    let volume = format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~nfs/vm-disks");
    let subject = format!("mount/{volume}");
    check(&reach::judge_answers(&df(&[("10.0.0.5:/export", 40, &volume)])), BackendUnreachable, &subject, Some(Absent));
    // A file system on a device answers from memory, whether its device does or not.
    check(&reach::judge_answers(&df(&[("/dev/rbd0", 40, &volume)])), BackendUnreachable, &subject, None);
    check(&[reach::judge_hang(at(), "df", &volume)], BackendUnreachable, &subject, Some(Present));
    for (text, want) in [("^C\n", true), ("\n", false), ("Filesystem\n^C\n", false), ("", false)] {
        assert_eq!(host::is_broken_off(text), want, "{text:?}");
    }
}

#[test]
fn servers_that_were_asked_answer_or_do_not() {
    let port = |text: &str| reach::judge_reach(at(), "nc", None, None, &host::parse_port_check(text));
    let server = "mount/10.0.0.5";
    check(
        &port("nc: connect to 10.0.0.5 port 2049 (tcp) failed: Connection timed out\n"),
        BackendUnreachable,
        server,
        Some(Present),
    );
    check(
        &port("nc: connect to 10.0.0.5 port 3260 (tcp) failed: Connection refused\n"),
        BackendUnreachable,
        server,
        Some(Present),
    );
    check(&port("Connection to 10.0.0.5 2049 port [tcp/nfs] succeeded!\n"), BackendUnreachable, server, Some(Absent));
    check(&port("Ncat: Connected to 10.0.0.5:3260.\n"), BackendUnreachable, server, Some(Absent));
    check(
        &port("nc: connect to 10.0.0.5 port 22 (tcp) failed: Connection timed out\n"),
        BackendUnreachable,
        server,
        None,
    );
    let rpc = |text: &str| {
        let seen = Vec::from_iter(host::parse_rpc_check(text));
        reach::judge_reach(at(), "showmount", Some("nfs"), Some("10.0.0.5"), &seen)
    };
    check(&rpc("clnt_create: RPC: Port mapper failure - Timed out\n"), BackendUnreachable, server, Some(Present));
    check(&rpc("clnt_create: RPC: Unable to receive; errno = Connection refused\n"), BackendUnreachable, server, None);
    check(&rpc("Export list for 10.0.0.5:\n/export *\n"), BackendUnreachable, server, Some(Absent));
    let ceph = |text: &str| {
        let seen = Vec::from_iter(host::parse_ceph_answer(text));
        reach::judge_reach(at(), "ceph", Some("ceph"), None, &seen)
    };
    check(
        &ceph("[errno 110] RADOS timed out (error connecting to the cluster)\n"),
        BackendUnreachable,
        "mount/ceph",
        Some(Present),
    );
    check(&ceph("  cluster:\n    id: x\n    health: HEALTH_WARN\n"), BackendUnreachable, "mount/ceph", Some(Absent));
    check(&ceph("rbd: error opening image x: (2) No such file or directory\n"), BackendUnreachable, "mount/ceph", None);
}

#[test]
fn an_iscsi_session_is_logged_in_or_not() {
    let judge = |text: &str| reach::judge_iscsi(at(), &host::parse_iscsi_sessions(text).unwrap_or_default());
    let session = |state: &str| {
        format!(
            "Target: iqn.2003-01.org.x:t1 (non-flash)\n\tCurrent Portal: 10.0.0.5:3260,1\n\t\tiSCSI Connection State: {state}\n\t\tiSCSI Session State: LOGGED_IN\n\t\tInternal iscsid Session State: NO CHANGE\n"
        )
    };
    let target = "mount/iqn.2003-01.org.x:t1";
    check(&judge(&session("LOGGED IN")), BackendUnreachable, target, Some(Absent));
    check(&judge(&session("TRANSPORT WAIT")), BackendUnreachable, target, Some(Present));
    check(&judge("tcp: [1] 10.0.0.5:3260,1 iqn.2003-01.org.x:t1 (non-flash)\n"), BackendUnreachable, target, None);
    assert_eq!(judge("iscsiadm: No active sessions.\n"), []);
    let errors = host::parse_iscsi_errors("iscsiadm: cannot make connection to 10.0.0.5: No route to host\n");
    check(
        &reach::judge_reach(at(), "iscsiadm", Some("iscsi"), None, &errors),
        BackendUnreachable,
        "mount/10.0.0.5",
        Some(Present),
    );
}

#[test]
fn a_watcher_of_another_address_holds_the_image() {
    let text = "Watchers:\n\twatcher=10.0.0.1:0/12 client.4 cookie=1\n";
    let judge = |own: &[&str]| {
        let own: Vec<String> = own.iter().map(|address| (*address).to_owned()).collect();
        storage::judge_rbd_watchers(at(), Some("csi-vol-1"), &block::parse_rbd_watchers(text).unwrap(), &own)
    };
    let held = |own: &[&str]| match judge(own) {
        Some(Verdict::Occurrence(held)) => {
            assert_eq!(held.code, BlockDeviceHeld);
            Some(held.attributes.get(attribute::OTHER_NODE).map(str::to_owned))
        }
        _ => None,
    };
    assert_eq!(held(&["10.0.0.1"]), None, "this node has it open itself");
    assert_eq!(held(&["10.0.0.2"]), Some(Some("10.0.0.1".to_owned())));
    assert_eq!(held(&[]), Some(None), "whose address it is is not known");
    assert_eq!(block::parse_rbd_watchers("Watchers: none\n"), Some(Vec::new()));
    assert!(
        net::parse_links("2: eth0: <UP> mtu 1500\n    inet 10.0.0.1/24 scope global eth0\n")[0].addresses[0]
            .starts_with("10.0.0.1/")
    );
}
