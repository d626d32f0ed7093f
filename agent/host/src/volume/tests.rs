//! Readers on trees of three layouts: NFS, Ceph RBD, iSCSI with multipath and Longhorn. Hand-made, see `fixtures/CAPTURE.md`.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::mount::DeviceNumber;

fn fixture(name: &str) -> HostRoot {
    HostRoot::new(format!("{}/fixtures/hand-made/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn number(text: &str) -> DeviceNumber {
    DeviceNumber::parse(text).unwrap()
}

#[test]
fn nfs_mounts_are_read_with_their_connections() {
    let mounts = read_nfs_mounts(&fixture("nfs-kubeadm")).unwrap();
    let [disk, other] = &mounts[..] else { panic!("{mounts:?}") };
    assert_eq!((disk.source.as_str(), disk.address.as_deref()), ("nas.example:/export/vms", Some("192.0.2.5")));
    assert_eq!((disk.is_hard, disk.sends_total(), disk.replies_total()), (Some(true), 81_236, 81_236));
    assert_eq!((disk.transports.len(), disk.connects_total(), disk.timeouts_total), (2, 2, 0));
    assert_eq!((other.is_hard, other.timeouts_total), (Some(false), 3));
    assert_eq!(other.mount_point.to_str(), Some("/mnt/iso images"));
}

#[test]
fn a_line_of_statistics_that_is_cut_keeps_the_mount() {
    let text = "device nas:/x mounted on /x with fstype nfs statvers=1.1\n\txprt:\ttcp 1 2\n\txprt:\tudp 800 1 7 5\n\tper-op statistics\n\t        READ: 1\n";
    let (mounts, errors) = parse_mountstats(text);
    assert_eq!((mounts.len(), mounts[0].sends_total(), mounts[0].replies_total()), (1, 7, 5));
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 5]);
    let (none, errors) = parse_mountstats("device /dev/sda1 mounted on / with fstype ext4\n\txprt:\tgarbage\n");
    assert!(none.is_empty() && errors.is_empty(), "statistics of nobody are nobody's");
}

#[test]
fn an_image_of_rbd_leads_to_its_client_and_what_waits_in_it() {
    let root = fixture("rbd-crio");
    let image = read_rbd_image(&root, "rbd0").unwrap();
    assert_eq!((image.name.as_str(), image.client.as_deref()), ("kubevirt/csi-vol-7", Some("client4242")));
    let clients = read_ceph_clients(&root).unwrap();
    let client = clients.iter().find(|client| Some(&client.client) == image.client.as_ref()).unwrap();
    assert_eq!(Some(&client.fsid), image.fsid.as_ref());
    let osd = client.osd.as_ref().unwrap();
    assert_eq!((osd.n, osd.oldest, osd.server.as_deref()), (2, Some(5117), Some("osd3")));
    let cephfs = clients.iter().find(|client| client.client == "client4300").unwrap();
    assert_eq!((cephfs.is_blocklisted, cephfs.mds.as_ref().map(|mds| mds.n)), (Some(true), Some(0)));
    assert_eq!(read_rbd_image(&root, "sda"), None);
    assert_eq!(read_rbd_image(&root, "rbd9"), None);
}

#[test]
fn requests_that_wait_by_nature_are_none() {
    let text =
        "REQUESTS 0 homeless 0\nLINGER REQUESTS\n18446462598732840961\tosd1\t2.1\trbd_header.1\tWC/0\nBACKOFFS\n";
    assert_eq!(parse_ceph_requests(text), PendingRequests::default());
    let homeless = parse_ceph_requests("REQUESTS 1 homeless 1\n9\tosd-1\t2.1f\trbd_data.1\t0x400024\t1\twrite\n");
    assert_eq!((homeless.oldest, homeless.server), (Some(9), None));
}

#[test]
fn closed_debugfs_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    assert!(read_ceph_clients(&root).unwrap_err().is_not_found(), "nobody knows");
    std::fs::create_dir_all(dir.path().join("sys/kernel/debug/block")).unwrap();
    assert_eq!(read_ceph_clients(&root).unwrap(), []);
}

#[test]
fn a_multipath_device_is_followed_to_its_sessions() {
    let root = fixture("iscsi-k3s");
    let mut layers = BTreeMap::new();
    assert_eq!(read_layers(&root, number("253:0"), &mut layers).unwrap().as_deref(), Some("dm-0"));
    assert_eq!(layers.keys().map(String::as_str).collect::<Vec<_>>(), ["dm-0", "sdb", "sdc"]);
    assert!(layers["dm-0"].is_multipath());
    let dm = layers["dm-0"].dm.as_ref().unwrap();
    assert_eq!((dm.is_suspended, dm.n_below), (Some(false), Some(2)));
    assert_eq!((layers["sdb"].session.as_deref(), layers["sdb"].state.as_deref()), (Some("session1"), Some("running")));
    assert_eq!(
        (layers["sdc"].session.as_deref(), layers["sdc"].state.as_deref()),
        (Some("session2"), Some("transport-offline"))
    );
    assert_eq!(layers["sdc"].sequence, Some(14));
    assert_eq!(read_layers(&root, number("8:240"), &mut layers).unwrap(), None, "it is gone");
}

#[test]
fn a_lun_of_fibre_channel_leads_to_its_remote_ports() {
    let root = fixture("fc-node-a");
    let mut layers = BTreeMap::new();
    read_layers(&root, number("253:3"), &mut layers).unwrap();
    let way = |name: &str| (layers[name].remote_port.as_deref(), layers[name].wwid.as_deref());
    assert_eq!(way("sdb"), (Some("rport-7:0-2"), Some("naa.600a098038314d4b2b3f4c5a2f6a6c31")));
    assert_eq!(way("sdc"), (Some("rport-8:0-1"), Some("naa.600a098038314d4b2b3f4c5a2f6a6c31")));
    assert_eq!(way("dm-3"), (None, None));
    let ports = read_fc_remote_ports(&root);
    let shown: Vec<_> =
        ports.iter().map(|port| (&*port.name, port.node_name.as_deref(), port.port_name.as_deref())).collect();
    let array = Some("0x200000a098abcdef");
    assert_eq!(
        shown,
        [
            ("rport-7:0-2", array, Some("0x203600a098abcdef")),
            ("rport-8:0-1", array, Some("0x203700a098abcdef")),
            ("rport-8:0-9", None, Some("0x500143801234abcd")),
        ]
    );
    assert!(read_fc_remote_ports(&fixture("iscsi-k3s")).is_empty());
}

#[test]
fn disks_of_a_copy_without_links_are_known_by_what_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("sys/block/sda/device/state", "offline\n");
    write("sys/block/sda/holders/dm-0/x", "");
    write("sys/block/dm-0/dm/uuid", "mpath-3600\n");
    write("sys/block/dm-1/dm/uuid", "mpath-3601\n");
    for map in ["dm-0", "dm-1"] {
        std::fs::create_dir_all(dir.path().join(format!("sys/block/{map}/slaves"))).unwrap();
    }
    let layers = read_recorded_layers(&HostRoot::new(dir.path()));
    assert_eq!(layers.keys().map(String::as_str).collect::<Vec<_>>(), ["dm-0", "dm-1", "sda"]);
    assert_eq!(
        (layers["sda"].state.as_deref(), layers["dm-0"].below.as_slice()),
        (Some("offline"), &["sda".to_owned()][..])
    );
    let n_below = layers["dm-1"].dm.as_ref().unwrap().n_below;
    assert!(layers["dm-1"].is_multipath() && n_below.is_none(), "links were lost: nobody knows of its paths");
    let fixture = read_recorded_layers(&fixture("iscsi-k3s"));
    assert_eq!(fixture["dm-0"].below, ["sdb", "sdc"]);
    assert_eq!(fixture["sdb"].session.as_deref(), Some("session1"));
}

#[test]
fn a_device_is_gone_only_where_sysfs_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    let read = || read_layers(&root, number("8:16"), &mut BTreeMap::new());
    assert!(read().unwrap_err().is_not_found(), "sysfs is not mounted");
    std::fs::create_dir_all(dir.path().join("sys/dev/block")).unwrap();
    assert_eq!(read().unwrap(), None);
    std::fs::remove_dir(dir.path().join("sys/dev/block")).unwrap();
    symlink("block", dir.path().join("sys/dev/block")).unwrap();
    assert!(matches!(read().unwrap_err(), ReadError::Io { .. }), "a ring of links");
}

/// Multipath devices of four paths each.
fn add_maps(root: &HostRoot, minors: std::ops::Range<u32>) {
    let sys = root.path().join("sys");
    for folder in ["dev/block", "class/block"] {
        std::fs::create_dir_all(sys.join(folder)).unwrap();
    }
    for minor in minors {
        let slaves = sys.join(format!("devices/virtual/block/dm-{minor}/slaves"));
        std::fs::create_dir_all(&slaves).unwrap();
        let link = |to: String, from: String| symlink(format!("../../devices/{to}"), sys.join(from)).unwrap();
        link(format!("virtual/block/dm-{minor}"), format!("dev/block/253:{minor}"));
        for path in 0..4 {
            std::fs::write(slaves.join(format!("sd{minor}p{path}")), "").unwrap();
            link(format!("block/sd{minor}p{path}"), format!("class/block/sd{minor}p{path}"));
        }
    }
}

#[test]
fn many_devices_are_all_read_with_their_paths_and_one_without_end_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    let mut layers = BTreeMap::new();
    add_maps(&root, 0..60);
    for minor in 0..60 {
        read_layers(&root, number(&format!("253:{minor}")), &mut layers).unwrap();
    }
    assert_eq!(layers.len(), 60 * 5);
    let filler = |n: usize| (format!("filler{n}"), Layer::default());
    layers.extend((0..MAX_LAYERS_OF_ALL - layers.len() - 2).map(filler));
    add_maps(&root, 60..61);
    assert_eq!(read_layers(&root, number("253:60"), &mut layers).unwrap().as_deref(), Some("dm-60"));
    assert_eq!(layers.len(), MAX_LAYERS_OF_ALL);
    assert_eq!(layers["dm-60"].below.len(), 4, "what it stands on is known by name");

    let mut layers = BTreeMap::new();
    let endless = dir.path().join("sys/devices/virtual/block/dm-0/slaves");
    for path in 4..300 {
        std::fs::write(endless.join(format!("sd0p{path}")), "").unwrap();
        symlink(format!("../../devices/block/sd0p{path}"), dir.path().join(format!("sys/class/block/sd0p{path}")))
            .unwrap();
    }
    read_layers(&root, number("253:0"), &mut layers).unwrap();
    assert_eq!(layers.len(), 256);
}

#[test]
fn sessions_name_their_portal_and_target() {
    let sessions = read_iscsi_sessions(&fixture("iscsi-k3s"));
    let shown: Vec<_> = sessions.iter().map(|row| (row.state.as_deref(), row.portal.as_deref())).collect();
    assert_eq!(
        shown,
        [
            (Some("LOGGED_IN"), Some("192.0.2.20:3260")),
            (Some("FAILED"), Some("192.0.2.21:3260")),
            (Some("LOGGED_IN"), Some("10.42.0.9:3260"))
        ]
    );
    assert_eq!(sessions[2].target.as_deref(), Some("iqn.2019-10.io.longhorn:pvc-7"));
    assert_eq!(sessions[0].recovery_secs, Some(5));
    let controllers = read_nvme_controllers(&fixture("iscsi-k3s"));
    let [controller] = &controllers[..] else { panic!("a disk in the machine is no session: {controllers:?}") };
    assert_eq!(
        (controller.state.as_deref(), controller.portal.as_deref()),
        (Some("connecting"), Some("192.0.2.30:4420"))
    );
}

#[test]
fn drbd_of_both_versions_is_read() {
    let eight = parse_proc_drbd(
        "version: 8.4.11 (api:1/proto:86-101)\n 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n    ns:0 nr:0\n 1: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s-----\n 2: cs:Unconfigured\n",
    );
    assert_eq!(
        eight.iter().map(|row| (row.minor, row.is_suspended)).collect::<Vec<_>>(),
        [(0, Some(false)), (1, Some(true))]
    );
    let peer = |name: &str, state: Option<&str>, role: Option<&str>| DrbdPeer {
        name: name.to_owned(),
        state: state.map(str::to_owned),
        role: role.map(str::to_owned),
    };
    assert_eq!(eight[1].peers, [peer("the peer", Some("WFConnection"), Some("Unknown"))]);
    let nine = read_drbd_device(&fixture("rbd-crio"), 1000).unwrap().unwrap();
    assert_eq!(
        (nine.resource.as_deref(), nine.is_suspended, nine.disk.as_deref()),
        (Some("pvc-9"), Some(true), Some("UpToDate"))
    );
    assert_eq!(
        nine.peers,
        [peer("n2", Some("Off"), Some("Unknown")), peer("n3", Some("Established"), Some("Secondary"))]
    );
    assert_eq!(read_drbd_device(&fixture("rbd-crio"), 1001).unwrap(), None);
    assert_eq!(read_drbd_device(&fixture("nfs-kubeadm"), 1000).unwrap(), None);
}

#[test]
fn a_pods_devices_are_told_from_what_stands_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    let base = dir.path().join("var/lib/kubelet/pods/p/volumeDevices/kubernetes.io~csi");
    assert_eq!(read_pod_devices(&root, "p").unwrap(), []);
    std::fs::create_dir_all(&base).unwrap();
    std::fs::write(base.join("pvc-file"), "").unwrap();
    symlink("/nowhere", base.join("pvc-gone")).unwrap();
    let found = read_pod_devices(&root, "p").unwrap();
    assert_eq!(found.iter().map(|row| row.node).collect::<Vec<_>>(), [PodNode::Other, PodNode::Gone]);
    assert_eq!(read_pod_devices(&root, "../p").unwrap(), []);
}

#[test]
fn waiting_requests_of_fuse_are_a_number_or_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    assert_eq!(read_fuse_waiting(&root, 51).unwrap(), None);
    let waiting = dir.path().join("sys/fs/fuse/connections/51/waiting");
    std::fs::create_dir_all(waiting.parent().unwrap()).unwrap();
    std::fs::write(&waiting, "3\n").unwrap();
    assert_eq!(read_fuse_waiting(&root, 51).unwrap(), Some(3));
    std::fs::write(&waiting, "many\n").unwrap();
    assert!(matches!(read_fuse_waiting(&root, 51), Err(ReadError::Malformed { .. })));
}

#[test]
fn an_empty_host_has_no_sessions_and_says_so_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    assert!(read_iscsi_sessions(&root).is_empty() && read_nvme_controllers(&root).is_empty());
    assert!(read_nfs_mounts(&root).unwrap_err().is_not_found());
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,120}", line in "(device [a-z:/]{0,9} mounted on /x with fstype nfs4?)?(\n\t?(xprt:|opts:|per-op statistics|[A-Z]{1,5}:)( -?[0-9]{1,22}| tcp| udp){0,9}){0,6}") {
        for text in [&text, &line, &format!("{text}\n{line}")] {
            let _ = parse_mountstats(text);
            let _ = parse_ceph_requests(text);
            let _ = parse_ceph_status(text);
            let _ = parse_proc_drbd(text);
            let _ = parse_drbd_line(text);
            let _ = parse_drbd_frozen(text);
        }
    }
}
