//! Verdicts on hand-made trees of three layouts, thresholds from both sides, and what must not be taken for a fault.

use std::path::PathBuf;

use kulprit_host::HostRoot;
use kulprit_host::block::{DiskCounters, parse_diskstats};
use kulprit_host::mount::{DeviceNumber, Mount, parse_mountinfo};
use kulprit_host::volume::{
    CephClient, DrbdDevice, DrbdPeer, IscsiSession, MultipathMap, NfsMount, NfsTransport, NvmeController,
    PendingRequests, PodDevice, PodNode, read_ceph_clients, read_drbd_device, read_fc_remote_ports,
    read_iscsi_sessions, read_layers, read_nfs_mounts, read_nvme_controllers, read_rbd_image,
};
use kulprit_model::Status::{Absent, Present, Unknown};
use kulprit_model::{FindingCode, Moment, Status, Subject};

use super::*;
use crate::say::Reading;
use crate::testing::status_of;
use crate::verdict::{StateVerdict, Verdict};

fn fixture(name: &str) -> HostRoot {
    HostRoot::new(format!("{}/../host/fixtures/hand-made/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn sec(n: i64) -> Moment {
    Moment::default().offset_usec(n * 1_000_000)
}

fn number(text: &str) -> DeviceNumber {
    DeviceNumber::parse(text).unwrap()
}

fn mounts(root: &HostRoot) -> Vec<Mount> {
    let (mounts, errors) = parse_mountinfo(&root.read_text("proc/1/mountinfo").unwrap());
    assert!(errors.is_empty(), "{errors:?}");
    mounts
}

#[track_caller]
fn state(verdict: &Verdict) -> &StateVerdict {
    match verdict {
        Verdict::State(state) => {
            assert!(state.code.spec().subject.allows(&state.subject), "{} of {}", state.code, state.subject);
            assert_eq!(state.code.spec().probe, "volumes");
            state
        }
        Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
    }
}

/// Status, subject and one attribute of each.
fn shown<'a>(verdicts: &'a [Verdict], key: &str) -> Vec<(Status, String, Option<&'a str>)> {
    verdicts
        .iter()
        .map(state)
        .map(|state| (state.status, state.subject.to_string(), state.attributes.get(key)))
        .collect()
}

fn nfs(sends: u64, replies: u64, timeouts: u64) -> NfsMount {
    let transports = vec![NfsTransport { connects_total: 1, sends_total: sends, replies_total: replies }];
    NfsMount { transports, timeouts_total: timeouts, ..NfsMount::default() }
}

fn mount(fs_type: &str, source: &str) -> Mount {
    let text = format!("30 1 0:51 / /data rw - {fs_type} {source} rw\n");
    parse_mountinfo(&text).0.remove(0)
}

fn seen<'a>(mount: &'a Mount, nfs: Option<&'a NfsMount>) -> MountSeen<'a> {
    MountSeen { mount, nfs, fuse_waiting: None, ceph: None, is_suspect: false }
}

/// Looks of `(second, sends, replies, timeouts)`; the last verdict.
fn looks_of_nfs(looks: &[(i64, u64, u64, u64)]) -> (Option<Status>, bool) {
    let mount = mount("nfs4", "nas:/vms");
    let mut history = MountHistory::default();
    let mut last = None;
    for (at, sends, replies, timeouts) in looks {
        let nfs = nfs(*sends, *replies, *timeouts);
        last = Some(judge_mount(sec(*at), &seen(&mount, Some(&nfs)), None, &mut history));
    }
    let last = last.unwrap();
    (last.state.map(|state| state.status), last.is_to_be_asked)
}

#[test]
fn an_nfs_server_is_silent_when_requests_follow_the_last_answer_and_none_comes_for_5_s() {
    for (looks, want) in [
        (&[(0, 100, 100, 0), (4, 103, 100, 0)][..], Absent),
        (&[(0, 100, 100, 0), (5, 103, 100, 0)], Present),
        (&[(0, 100, 100, 0), (10, 103, 100, 0), (20, 103, 100, 0)], Present),
        // An answer begins the wait anew.
        (&[(0, 100, 100, 0), (10, 103, 101, 0)], Absent),
        (&[(0, 100, 100, 0), (10, 103, 101, 0), (20, 104, 101, 0)], Present),
        (&[(0, 100, 100, 0), (10, 103, 100, 0), (20, 104, 104, 0)], Absent),
        // Idle.
        (&[(0, 100, 100, 0)], Absent),
        (&[(0, 100, 100, 0), (60, 100, 100, 0)], Absent),
        // A new mount or connection.
        (&[(0, 100, 100, 0), (10, 3, 3, 0)], Absent),
    ] {
        assert_eq!(looks_of_nfs(looks), (Some(want), false), "{looks:?}");
    }
}

#[test]
fn requests_that_an_agent_finds_open_are_not_taken_for_answered() {
    for (looks, want) in [
        // Nothing to compare with: what an earlier run of the agent said stands.
        (&[(0, 100, 97, 0)][..], (None, false)),
        (&[(0, 100, 97, 0), (4, 100, 97, 0)], (None, false)),
        (&[(0, 100, 97, 0), (5, 100, 97, 0)], (Some(Unknown), true)),
        (&[(0, 100, 97, 0), (5, 101, 97, 0)], (Some(Present), false)),
        (&[(0, 100, 97, 0), (4, 101, 98, 0)], (Some(Absent), false)),
        (&[(0, 100, 97, 0), (4, 100, 100, 0)], (Some(Absent), false)),
        // A new mount or connection.
        (&[(0, 100, 100, 0), (10, 7, 3, 0)], (None, false)),
    ] {
        assert_eq!(looks_of_nfs(looks), want, "{looks:?}");
    }
    let late = Asked::NotAsked("too many".to_owned());
    let (mount, nfs) = (mount("nfs4", "nas:/vms"), nfs(100, 97, 0));
    let verdict = judge_mount(sec(0), &seen(&mount, Some(&nfs)), Some(&late), &mut MountHistory::default());
    assert!(verdict.state.is_none(), "nobody was asked, and nothing is known: {verdict:?}");
}

#[test]
fn a_retransmission_of_long_ago_has_no_answer_of_its_own_and_one_look_that_answers_settles_it() {
    let mount = mount("nfs4", "nas:/vms");
    let mut history = MountHistory::default();
    let mut look = |at, asked: Option<Asked>| {
        let verdict = judge_mount(sec(at), &seen(&mount, Some(&nfs(101, 100, 0))), asked.as_ref(), &mut history);
        (verdict.state.map(|state| state.status), verdict.is_to_be_asked)
    };
    assert_eq!(look(0, None), (None, false));
    assert_eq!(look(10, None), (Some(Unknown), true));
    assert_eq!(look(10, Some(Asked::Answered)), (Some(Absent), false));
    assert_eq!(look(600, None), (Some(Absent), false));
}

#[test]
fn requests_that_only_may_be_without_an_answer_are_asked_about() {
    let unclear = [(0, 100, 100, 0), (10, 110, 109, 0), (20, 110, 109, 0)];
    assert_eq!(looks_of_nfs(&unclear), (Some(Unknown), true), "one was under way when the last answer came");
    let given_up = [(0, 100, 100, 0), (10, 110, 109, 0), (20, 110, 109, 1)];
    assert_eq!(looks_of_nfs(&given_up), (Some(Present), false), "it timed out");
}

#[test]
fn a_look_that_answers_settles_what_was_unclear() {
    let mount = mount("nfs4", "nas:/vms");
    let mut history = MountHistory::default();
    let mut look = |at, sends, replies, asked: Option<Asked>| {
        let nfs = nfs(sends, replies, 0);
        let verdict = judge_mount(sec(at), &seen(&mount, Some(&nfs)), asked.as_ref(), &mut history);
        (verdict.state.map(|state| state.status), verdict.is_to_be_asked)
    };
    look(0, 100, 100, None);
    look(10, 110, 109, None);
    assert_eq!(look(20, 110, 109, None), (Some(Unknown), true));
    assert_eq!(look(20, 110, 109, Some(Asked::Answered)), (Some(Absent), false));
    assert_eq!(look(30, 110, 109, None), (Some(Absent), false), "that request is no longer waited for");
    assert_eq!(look(40, 111, 109, Some(Asked::Late { for_secs: 5 })), (Some(Present), true));
    assert_eq!(look(50, 112, 112, None), (None, true), "the look that hangs decides, not the counters");
    assert_eq!(look(54, 113, 112, None), (None, true));
    assert_eq!(look(60, 114, 113, Some(Asked::Answered)), (Some(Absent), false));
}

#[test]
fn an_error_of_a_look_is_a_fault_only_if_it_is_a_servers() {
    let mount = mount("fuse.sshfs", "host:/x");
    let status = |errno| {
        let asked = Asked::Failed { errno, text: "no".to_owned() };
        let verdict = judge_mount(sec(0), &seen(&mount, None), Some(&asked), &mut MountHistory::default());
        verdict.state.map(|state| (state.status, state.attributes.get("failure").map(str::to_owned)))
    };
    assert_eq!(status(Some(116)), Some((Present, Some("stale".to_owned()))));
    assert_eq!(status(Some(107)), Some((Present, Some("not_connected".to_owned()))));
    assert_eq!(status(Some(13)), Some((Unknown, None)), "our own permission is no fault of a server");
    assert_eq!(status(None), Some((Unknown, None)));
}

#[test]
fn fuse_requests_that_wait_for_5_s_are_asked_about() {
    let mount = mount("fuse.glusterfs", "gluster1:/vol");
    let mut history = MountHistory::default();
    let mut look = |at, waiting| {
        let seen = MountSeen { fuse_waiting: waiting, ..seen(&mount, None) };
        let verdict = judge_mount(sec(at), &seen, None, &mut history);
        (verdict.state.map(|state| state.status), verdict.is_to_be_asked)
    };
    assert_eq!(look(0, Some(0)), (Some(Absent), false));
    assert_eq!(look(10, Some(2)), (Some(Absent), false));
    assert_eq!(look(14, Some(2)), (Some(Absent), false));
    assert_eq!(look(15, Some(1)), (Some(Unknown), true));
    assert_eq!(look(20, Some(0)), (Some(Absent), false));
    assert_eq!(look(30, None), (None, false), "nothing tells, and nobody suspects");
    history = MountHistory::default();
    let first = MountSeen { fuse_waiting: Some(2), ..seen(&mount, None) };
    let verdict = judge_mount(sec(40), &first, None, &mut history);
    assert!(verdict.state.is_none() && !verdict.is_to_be_asked, "an agent that starts finds them waiting: {verdict:?}");
}

#[test]
fn what_waits_does_not_take_back_that_a_look_hangs() {
    let mount = mount("fuse.glusterfs", "gluster1:/vol");
    let waiting = MountSeen { fuse_waiting: Some(2), ..seen(&mount, None) };
    let mut history = MountHistory::default();
    let mut look = |at, asked: Option<Asked>| {
        let verdict = judge_mount(sec(at), &waiting, asked.as_ref(), &mut history);
        (verdict.state.map(|state| state.status), verdict.is_to_be_asked)
    };
    look(0, None);
    assert_eq!(look(10, None), (Some(Unknown), true));
    assert_eq!(look(15, Some(Asked::Late { for_secs: 5 })), (Some(Present), true));
    assert_eq!(look(20, None), (None, true), "it stands as it was said");
}

#[test]
fn a_suspect_vms_mount_is_asked_about_whatever_the_counters_say() {
    let mount = mount("cifs", "//files/vms");
    let suspect = MountSeen { is_suspect: true, ..seen(&mount, None) };
    assert!(judge_mount(sec(0), &suspect, None, &mut MountHistory::default()).is_to_be_asked);
    let why = Asked::NotAsked("too many".to_owned());
    let verdict = judge_mount(sec(0), &suspect, Some(&why), &mut MountHistory::default());
    assert!(verdict.state.is_none() && verdict.is_to_be_asked, "not asked is not answered");
}

#[test]
fn cephfs_is_silent_by_its_object_stores_only_and_refused_when_blocklisted() {
    let mount = mount("ceph", "192.0.2.11:6789:/volumes");
    let client = |osd: Option<u64>, mds: Option<u64>| {
        let pending = |oldest: Option<u64>| PendingRequests { n: usize::from(oldest.is_some()), oldest, server: None };
        CephClient {
            fsid: "f".to_owned(),
            client: "client1".to_owned(),
            osd: Some(pending(osd)),
            mds: Some(pending(mds)),
            is_blocklisted: Some(false),
        }
    };
    let mut history = MountHistory::default();
    let mut look = |at, client: &CephClient| {
        let seen = MountSeen { ceph: Some(client), ..seen(&mount, None) };
        let verdict = judge_mount(sec(at), &seen, None, &mut history);
        (verdict.state.map(|state| state.status), verdict.is_to_be_asked)
    };
    assert_eq!(look(0, &client(Some(7), None)), (None, false), "nobody knows yet since when");
    assert_eq!(look(4, &client(Some(7), None)), (None, false));
    assert_eq!(look(5, &client(Some(7), None)), (Some(Present), false));
    assert_eq!(look(6, &client(Some(8), None)), (Some(Absent), false), "the one before is answered");
    assert_eq!(look(10, &client(None, Some(3))), (Some(Absent), false));
    assert_eq!(look(20, &client(None, Some(3))), (Some(Unknown), true), "it may be a lock");
    assert_eq!(look(30, &CephClient { is_blocklisted: Some(true), ..client(None, None) }), (Some(Present), false));
}

#[test]
fn the_mounts_of_the_recorded_layouts_name_their_backend() {
    let root = fixture("nfs-kubeadm");
    let statistics = read_nfs_mounts(&root).unwrap();
    let mut told = Vec::new();
    for mount in mounts(&root).iter().filter(|mount| remote_backend(mount).is_some()) {
        let nfs = statistics.iter().find(|row| row.mount_point == mount.mount_point);
        assert!(nfs.is_some(), "{mount:?}");
        let verdict = judge_mount(sec(0), &seen(mount, nfs), None, &mut MountHistory::default());
        told.push(verdict.state.unwrap());
    }
    let identity = |state: &StateVerdict| {
        ["backend", "server", "export"].map(|key| state.attributes.get(key).unwrap_or_default().to_owned())
    };
    let identities: Vec<_> = told.iter().map(identity).collect();
    assert_eq!(identities[0], ["nfs", "nas.example", "/export/vms"]);
    assert_eq!(identities[1], ["nfs", "nas.example", "/export/iso"]);
    assert!(told.iter().all(|state| state.status == Absent), "{told:?}");

    let root = fixture("rbd-crio");
    let clients = read_ceph_clients(&root).unwrap();
    let cephfs = mounts(&root).into_iter().find(|mount| mount.fs_type == "ceph").unwrap();
    let client = clients.iter().find(|client| client.mds.is_some());
    let verdict =
        judge_mount(sec(0), &MountSeen { ceph: client, ..seen(&cephfs, None) }, None, &mut MountHistory::default());
    let state = verdict.state.unwrap();
    assert_eq!((state.status, state.attributes.get("failure")), (Present, Some("denied")));
    assert_eq!(identity(&state), ["ceph", "2f6c8f5a-1111-4222-8333-944444444444", "/volumes/csi"]);
    assert!(mounts(&root).iter().filter(|mount| mount.fs_type != "ceph").all(|mount| remote_backend(mount).is_none()));
}

fn layers(root: &HostRoot, devices: &[&str]) -> BTreeMap<String, Layer> {
    let mut layers = BTreeMap::new();
    for device in devices {
        read_layers(root, number(device), &mut layers).unwrap();
    }
    layers
}

#[test]
fn a_target_is_reached_while_one_session_is_and_its_lost_path_is_told() {
    let root = fixture("iscsi-k3s");
    let layers = layers(&root, &["253:0", "253:1"]);
    let mut sessions = read_iscsi_sessions(&root);
    let verdicts = judge_iscsi_sessions(sec(0), &sessions, &layers);
    assert_eq!(
        shown(&verdicts, "backend"),
        [
            (Absent, "mount/iqn.2001-05.com.example:lun".to_owned(), Some("iscsi")),
            (Absent, "mount/iqn.2019-10.io.longhorn:pvc-7".to_owned(), Some("longhorn")),
        ]
    );
    assert_eq!(state(&verdicts[0]).attributes.get("device_name"), Some("dm-0"));
    assert_eq!(state(&verdicts[0]).attributes.get("server"), Some("192.0.2.20:3260,192.0.2.21:3260"));
    sessions[0].state = Some("FREE".to_owned());
    assert_eq!(state(&judge_iscsi_sessions(sec(0), &sessions, &layers)[0]).status, Present);
    sessions[0].state = None;
    assert_eq!(
        state(&judge_iscsi_sessions(sec(0), &sessions, &layers)[0]).status,
        Present,
        "what says nothing is no way"
    );

    let controllers = read_nvme_controllers(&root);
    let verdicts = judge_nvme_controllers(sec(0), &controllers, &layers);
    assert_eq!(
        shown(&verdicts, "server"),
        [(Present, "mount/nqn.2014-08.org.example:vol".to_owned(), Some("192.0.2.30:4420"))]
    );

    let paths = judge_layer_paths(sec(0), &layers, &sessions, &controllers, None);
    let told = shown(&paths, "what");
    assert!(told.contains(&(Present, "device/dm-0".to_owned(), Some("some"))), "{told:?}");
    assert!(told.contains(&(Absent, "device/dm-1".to_owned(), None)), "{told:?}");
    assert!(told.contains(&(Present, "device/nqn.2014-08.org.example:vol".to_owned(), Some("all"))), "{told:?}");
}

/// What is told of the one LUN of a tree: status, server, export, device.
fn lun(
    layers: &BTreeMap<String, Layer>,
    root: &HostRoot,
    history: &mut FcHistory,
) -> Option<(Status, [Option<String>; 3])> {
    let verdicts = judge_fc_luns(sec(0), layers, &read_fc_remote_ports(root), history);
    assert!(verdicts.len() < 2, "{verdicts:?}");
    let state = state(verdicts.first()?);
    assert_eq!(state.subject.to_string(), "mount/naa.600a098038314d4b2b3f4c5a2f6a6c31");
    let word = |key| state.attributes.get(key).map(str::to_owned);
    Some((state.status, [word("server"), word("export"), word("device_name")]))
}

#[test]
fn two_nodes_that_see_one_lun_of_fibre_channel_name_the_same_backend_and_export() {
    let nodes = ["fc-node-a", "fc-node-b"].map(|name| {
        let root = fixture(name);
        lun(&layers(&root, &["253:3"]), &root, &mut FcHistory::default()).unwrap()
    });
    let some = |word: &str| Some(word.to_owned());
    let wwid = some("naa.600a098038314d4b2b3f4c5a2f6a6c31");
    assert_eq!(nodes[0], (Absent, [some("0x200000a098abcdef"), wwid, some("dm-3")]));
    assert_eq!(nodes[0], nodes[1], "other adapters, other ports of the array, other names of the disks");
}

#[test]
fn a_lun_is_lost_when_all_its_ways_are_and_is_known_when_the_kernel_has_taken_them_away() {
    let root = fixture("fc-node-a");
    let whole = layers(&root, &["253:3"]);
    let with = |states: [Option<&str>; 2]| {
        let mut layers = whole.clone();
        for (disk, state) in ["sdb", "sdc"].into_iter().zip(states) {
            layers.get_mut(disk).unwrap().state = state.map(str::to_owned);
        }
        layers
    };
    for (states, want) in [
        ([Some("running"), Some("running")], Absent),
        ([Some("blocked"), Some("running")], Absent),
        ([None, Some("running")], Absent),
        ([Some("blocked"), Some("transport-offline")], Present),
        ([Some("blocked"), None], Unknown),
        ([None, None], Unknown),
    ] {
        let told = lun(&with(states), &root, &mut FcHistory::default()).unwrap();
        assert_eq!(told.0, want, "{states:?}");
    }
    let mut bare = whole.clone();
    bare.retain(|name, _| name == "dm-3");
    let map = bare.get_mut("dm-3").unwrap();
    (map.below, map.dm.as_mut().unwrap().n_below) = (Vec::new(), Some(0));
    let mut history = FcHistory::default();
    let before = lun(&whole, &root, &mut history).unwrap();
    assert_eq!(lun(&bare, &root, &mut history), Some((Present, before.1)));
    bare.get_mut("dm-3").unwrap().dm.as_mut().unwrap().n_below = None;
    assert_eq!(lun(&bare, &root, &mut history).unwrap().0, Unknown);
    assert_eq!(lun(&BTreeMap::new(), &root, &mut history), None, "the LUN is nobody's any more");
    assert_eq!(lun(&bare, &root, &mut FcHistory::default()), None, "nobody has seen that it was one");
}

#[test]
fn every_way_is_down_only_when_no_other_way_to_the_same_thing_is_up() {
    let root = fixture("iscsi-k3s");
    let layers = layers(&root, &["253:0", "253:1"]);
    let session = |name: &str, target: &str, state: &str| IscsiSession {
        name: name.to_owned(),
        state: Some(state.to_owned()),
        target: Some(target.to_owned()),
        portal: None,
        recovery_secs: None,
    };
    let controller = |name: &str, state: &str| NvmeController {
        name: name.to_owned(),
        state: Some(state.to_owned()),
        transport: "tcp".to_owned(),
        portal: Some(format!("portal-of-{name}")),
        subsystem: Some("nqn.vol".to_owned()),
    };
    let what = |device: &str, sessions: &[IscsiSession], controllers: &[NvmeController]| {
        let verdicts = judge_layer_paths(sec(0), &layers, sessions, controllers, None);
        let found = verdicts.iter().map(state).find(|state| state.subject.to_string() == device);
        let word = |key| found.and_then(|state| state.attributes.get(key)).map(str::to_owned);
        (word("what"), word("backend"), word("server"))
    };
    let some = |word: &str| Some(word.to_owned());
    let told = |what: &str, backend: &str, server: &str| (some(what), some(backend), some(server));
    for (other, want) in [("live", "some"), ("connecting", "all")] {
        let controllers = [controller("nvme0", other), controller("nvme1", "connecting")];
        let server = if want == "all" { "portal-of-nvme0" } else { "portal-of-nvme1" };
        assert_eq!(what("device/nqn.vol", &[], &controllers), told(want, "nvme", server));
    }
    // The second leads to a target of its own, and to the same multipath device.
    for second in ["iqn.a", "iqn.b"] {
        for (other, want) in [("LOGGED_IN", "some"), ("FAILED", "all")] {
            let sessions = [session("session1", "iqn.a", other), session("session2", second, "FAILED")];
            let server = if want == "all" { "iqn.a" } else { second };
            assert_eq!(what("device/iqn.a", &sessions, &[]), told(want, "iscsi", server), "{second} {other}");
        }
    }
    let apart = [session("session1", "iqn.a", "LOGGED_IN"), session("session3", "iqn.b", "FAILED")];
    assert_eq!(what("device/iqn.b", &apart, &[]), told("all", "iscsi", "iqn.b"));
}

#[test]
fn a_path_that_runs_for_scsi_and_failed_for_multipath_is_down_and_a_multipathd_that_hangs_says_nothing_is_well() {
    let root = fixture("iscsi-k3s");
    let layers = layers(&root, &["253:0", "253:1"]);
    let map = |kernel_state: &str, checker_state: &str| {
        let path = |device: &str| kulprit_host::command::block::Path {
            device: device.to_owned(),
            kernel_state: kernel_state.to_owned(),
            checker_state: checker_state.to_owned(),
        };
        let (device, name) = ("dm-1".to_owned(), "mpathb".to_owned());
        Ok(vec![MultipathMap { device, name, queueing: "on".to_owned(), paths: vec![path("sdd")] }])
    };
    let told = |multipath: Option<Reading<Vec<MultipathMap>>>, device: &str| {
        let verdicts = judge_layer_paths(sec(0), &layers, &[], &[], multipath.as_ref());
        let found = verdicts.iter().map(state).find(|state| state.subject.to_string() == device).unwrap();
        let word = |key| found.attributes.get(key).map(str::to_owned);
        (found.status, word("what"), word("queueing"))
    };
    let some = |word: &str| Some(word.to_owned());
    assert_eq!(told(None, "device/dm-1"), (Absent, None, None));
    assert_eq!(told(Some(map("active", "ready")), "device/dm-1"), (Absent, None, None));
    assert_eq!(told(Some(map("active", "ghost")), "device/dm-1"), (Absent, None, None));
    assert_eq!(told(Some(map("failed", "faulty")), "device/dm-1"), (Present, some("all"), some("on")));
    assert_eq!(told(Some(map("active", "faulty")), "device/dm-1"), (Present, some("all"), some("on")));
    assert_eq!(told(Some(map("failed", "faulty")), "device/dm-0"), (Present, some("some"), None), "not in the list");
    let hung = || Some(Err("multipathd gave no answer".to_owned()));
    assert_eq!(told(hung(), "device/dm-1"), (Unknown, None, None));
    assert_eq!(told(hung(), "device/dm-0"), (Present, some("some"), None), "what the disk says is enough");
}

#[test]
fn a_multipath_device_without_any_path_has_lost_all_of_them() {
    let mut layers = layers(&fixture("iscsi-k3s"), &["253:1"]);
    layers.remove("sdd");
    layers.get_mut("dm-1").unwrap().below.clear();
    for (n_below, want) in [(Some(0), Some(Present)), (None, Some(Unknown)), (Some(1), None)] {
        layers.get_mut("dm-1").unwrap().dm.as_mut().unwrap().n_below = n_below;
        let verdicts = judge_layer_paths(sec(0), &layers, &[], &[], None);
        assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), want, "{n_below:?}");
        if want == Some(Present) {
            assert_eq!(shown(&verdicts, "what"), [(Present, "device/dm-1".to_owned(), Some("all"))]);
        }
    }
    let dm = layers.get_mut("dm-1").unwrap().dm.as_mut().unwrap();
    (dm.n_below, dm.uuid) = (Some(0), Some("LVM-x".to_owned()));
    assert!(judge_layer_paths(sec(0), &layers, &[], &[], None).is_empty());
}

#[test]
fn an_image_of_rbd_waits_when_its_client_does_and_the_disk_too() {
    let root = fixture("rbd-crio");
    let layers = layers(&root, &["252:0"]);
    let clients = Ok(read_ceph_clients(&root).unwrap());
    let image =
        |n_inflight| RbdSeen { disk: "rbd0".to_owned(), image: read_rbd_image(&root, "rbd0").unwrap(), n_inflight };
    let status = |n_inflight, waited| {
        let mut history = CephHistory::default();
        let _ = judge_rbd_images(sec(0), &[image(n_inflight)], &clients, &layers, &mut history);
        let verdicts = judge_rbd_images(sec(waited), &[image(n_inflight)], &clients, &layers, &mut history);
        assert_eq!(state(&verdicts[0]).subject.to_string(), "mount/kubevirt/csi-vol-7");
        state(&verdicts[0]).status
    };
    assert_eq!(status(Some(2), 4), Absent);
    assert_eq!(status(Some(2), 5), Present);
    assert_eq!(status(Some(0), 5), Absent, "the client waits for another image");
    assert_eq!(status(None, 5), Present);
    let closed = Err("no permission".to_owned());
    let verdicts = judge_rbd_images(sec(0), &[image(Some(2))], &closed, &layers, &mut CephHistory::default());
    assert_eq!(state(&verdicts[0]).unknown_because.as_deref(), Some("no permission"));
}

fn counters(name: &str, finished: u64, n_inflight: u64) -> Vec<DiskCounters> {
    parse_diskstats(&format!(" 8 0 {name} {finished} 0 8 2 0 0 0 0 {n_inflight} 6 6\n")).0
}

#[test]
fn a_device_is_stalled_when_requests_wait_and_none_is_finished_for_5_s() {
    let layers = BTreeMap::from([("sda".to_owned(), Layer { name: "sda".to_owned(), ..Layer::default() })]);
    let status = |looks: &[(i64, u64, u64)]| {
        let mut history = StallHistory::default();
        let mut last = None;
        for (at, finished, n_inflight) in looks {
            let counters = Ok(counters("sda", *finished, *n_inflight));
            let verdicts = judge_stalls(sec(*at), &["sda"], &layers, &counters, &mut history);
            last = Some(state(&verdicts[0]).clone());
        }
        let last = last.unwrap();
        (last.status, last.since.map(|since| since.usec_since(Moment::default()) / 1_000_000))
    };
    assert_eq!(status(&[(0, 10, 1)]), (Unknown, None), "one look does not tell how long they wait");
    assert_eq!(status(&[(0, 10, 0)]), (Absent, None), "nothing waits");
    assert_eq!(status(&[(0, 10, 1), (4, 10, 1)]), (Unknown, None));
    assert_eq!(status(&[(0, 10, 1), (1, 11, 1), (5, 11, 1)]), (Absent, None));
    assert_eq!(status(&[(0, 10, 1), (1, 11, 1), (6, 11, 1)]), (Present, Some(1)));
    assert_eq!(status(&[(0, 10, 1), (5, 10, 3)]), (Present, Some(0)));
    assert_eq!(status(&[(0, 10, 1), (10, 11, 1)]), (Absent, None));
    assert_eq!(status(&[(0, 10, 1), (10, 10, 0), (20, 10, 1)]), (Absent, None), "it was idle between");
    assert_eq!(status(&[(0, 10, 0), (10, 10, 1)]), (Absent, None), "the request may have come just now");
    assert_eq!(status(&[(0, 10, 1), (10, 4, 1)]), (Unknown, None), "another disk of that name");
    assert_eq!(status(&[(0, 10, 1), (10, 4, 1), (15, 4, 1)]), (Present, Some(10)));
    let because = |top| {
        let verdicts = judge_stalls(sec(0), &[top], &layers, &Ok(Vec::new()), &mut StallHistory::default());
        state(&verdicts[0]).unknown_because.clone().unwrap()
    };
    assert_eq!(because("sda"), "`/proc/diskstats` does not list sda");
    assert_eq!(because("sdb"), "sdb was not looked at: of devices and what they stand on at most 8192 are");
    let unread = judge_stalls(sec(0), &["sda"], &layers, &Err("no".to_owned()), &mut StallHistory::default());
    assert_eq!(status_of(&unread, FindingCode::DeviceStalled), Some(Unknown));
}

#[test]
fn a_suspended_map_below_is_a_stall_and_the_lowest_stalled_device_is_named() {
    let root = fixture("iscsi-k3s");
    let mut layers = layers(&root, &["253:0"]);
    let stats =
        |n| Ok(parse_diskstats(&format!(" 253 0 dm-0 5 0 8 2 0 0 0 0 {n} 6 6\n 8 16 sdb 5 0 8 2 0 0 0 0 {n} 6 6\n")).0);
    let mut history = StallHistory::default();
    let _ = judge_stalls(sec(0), &["dm-0"], &layers, &stats(1), &mut history);
    let verdicts = judge_stalls(sec(10), &["dm-0"], &layers, &stats(1), &mut history);
    assert_eq!(shown(&verdicts, "object"), [(Present, "device/dm-0".to_owned(), Some("sdb"))]);
    assert_eq!(state(&verdicts[0]).attributes.get("backend"), Some("iscsi"));
    layers.get_mut("dm-0").unwrap().dm.as_mut().unwrap().is_suspended = Some(true);
    let verdicts = judge_stalls(sec(20), &["dm-0"], &layers, &stats(0), &mut history);
    assert_eq!(shown(&verdicts, "what"), [(Present, "device/dm-0".to_owned(), Some("suspended"))]);
}

fn open(path: &str, device: &str) -> OpenDevice {
    OpenDevice {
        fd: 12,
        path: path.to_owned(),
        device: number(device),
        is_deleted: false,
        name: Ok(Some("sdb".to_owned())),
        sequences: Some((7, 7)),
    }
}

#[test]
fn a_device_is_stale_when_its_name_number_disk_or_volume_is_another() {
    let vm = Subject::vm("v");
    let today = |volume: &str, node| PodDevice { volume: volume.to_owned(), node };
    let block = |device| PodNode::Block(number(device));
    let own = open("/dev/vol1", "8:16");
    let unread = OpenDevice { name: Err("no memory".to_owned()), sequences: None, ..own.clone() };
    for (rows, pod, want, what) in [
        (vec![own.clone()], vec![today("pvc-1", block("8:16"))], Absent, None),
        (vec![own.clone()], vec![], Absent, None),
        (vec![OpenDevice { is_deleted: true, ..own.clone() }], vec![], Present, None),
        (vec![OpenDevice { name: Ok(None), ..own.clone() }], vec![], Present, Some("gone")),
        (vec![unread.clone()], vec![], Unknown, None),
        (vec![unread.clone()], vec![today("pvc-1", block("8:16"))], Unknown, None),
        (vec![unread.clone()], vec![today("pvc-1", block("8:32"))], Present, Some("replaced")),
        (vec![unread, OpenDevice { name: Ok(None), ..own.clone() }], vec![], Present, Some("gone")),
        (vec![OpenDevice { sequences: Some((7, 9)), ..own.clone() }], vec![], Present, Some("replaced")),
        (vec![OpenDevice { sequences: None, ..own.clone() }], vec![], Absent, None),
        (vec![own.clone()], vec![today("pvc-1", block("8:32"))], Present, Some("replaced")),
        (vec![own.clone()], vec![today("pvc-1", PodNode::Gone)], Present, Some("replaced")),
        (vec![own.clone()], vec![today("pvc-1", PodNode::Other)], Present, Some("replaced")),
        // Plugged in later, by another pod.
        (vec![own.clone(), open("/dev/hot", "8:64")], vec![today("pvc-1", block("8:16"))], Absent, None),
        // Not opened yet.
        (vec![], vec![today("pvc-1", block("8:16"))], Absent, None),
    ] {
        let verdict = judge_stale(&vm, sec(0), &Ok(rows.clone()), &Ok(pod.clone()));
        assert_eq!((state(&verdict).status, state(&verdict).attributes.get("what")), (want, what), "{rows:?} {pod:?}");
    }
    let denied = Err("no permission".to_owned());
    assert_eq!(state(&judge_stale(&vm, sec(0), &denied, &Ok(Vec::new()))).status, Unknown);
    assert_eq!(state(&judge_stale(&vm, sec(0), &Ok(vec![own]), &Err("no".to_owned()))).status, Unknown);
}

#[test]
fn multipath_claims_a_longhorn_disk_only_while_nobody_uses_the_map() {
    let root = fixture("iscsi-k3s");
    let layers = layers(&root, &["253:1"]);
    let disks = [VolumeDisk { name: "sdd".to_owned() }];
    let verdicts = judge_claims(sec(0), &disks, &layers, &[]);
    assert_eq!(shown(&verdicts, "what"), [(Present, "device/sdd".to_owned(), Some("multipath"))]);
    let used = judge_claims(sec(0), &disks, &layers, &[number("253:1")]);
    assert_eq!(shown(&used, "what"), [(Absent, "device/sdd".to_owned(), None)]);
}

#[test]
fn drbd_tells_suspended_io_and_lost_peers_and_what_it_cannot_see() {
    let device = read_drbd_device(&fixture("rbd-crio"), 1000).unwrap().unwrap();
    let verdicts = judge_drbd_devices(sec(0), std::slice::from_ref(&device));
    assert_eq!(status_of(&verdicts, FindingCode::ReplicationSuspended), Some(Present));
    assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), Some(Present));
    assert!(shown(&verdicts, "volume").iter().all(|row| row.2 == Some("pvc-9")), "{verdicts:?}");
    let peer = |state: Option<&str>, role: &str| DrbdPeer {
        name: "n2".to_owned(),
        state: state.map(str::to_owned),
        role: Some(role.to_owned()),
    };
    let well = DrbdDevice {
        is_suspended: Some(false),
        peers: vec![peer(Some("Established"), "Primary"), peer(Some("SyncSource"), "Secondary")],
        ..device.clone()
    };
    let verdicts = judge_drbd_devices(sec(0), &[well]);
    assert_eq!(status_of(&verdicts, FindingCode::ReplicationSuspended), Some(Absent));
    assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), Some(Absent));
    let closed = DrbdDevice { is_suspended: None, peers: Vec::new(), ..device };
    let verdicts = judge_drbd_devices(sec(0), &[closed]);
    assert_eq!(status_of(&verdicts, FindingCode::ReplicationSuspended), Some(Unknown));
    assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), None);

    let by_words = |words: &str, role: &str, want: Status| {
        for word in words.split(' ') {
            let device = DrbdDevice { peers: vec![peer(Some(word), role)], ..DrbdDevice::default() };
            let verdicts = judge_drbd_devices(sec(0), &[device]);
            assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), Some(want), "{word} {role}");
        }
    };
    let under_way = "VerifyS VerifyT PausedSyncS PausedSyncT Ahead Behind SyncSource SyncTarget WFBitMapS WFBitMapT StartingSyncS StartingSyncT WFSyncUUID";
    by_words(under_way, "Secondary", Absent);
    by_words("Connected Established Off", "Secondary", Absent);
    let lost = "Off StandAlone Disconnecting Unconnected Timeout BrokenPipe NetworkFailure ProtocolError TearDown WFConnection WFReportParams";
    by_words(lost, "Unknown", Present);
    by_words("OfALaterVersion", "Secondary", Unknown);
    let with_unread = |other| DrbdDevice { peers: vec![peer(None, "Unknown"), other], ..DrbdDevice::default() };
    for (other, want) in [("Established", Unknown), ("StandAlone", Present)] {
        let verdicts = judge_drbd_devices(sec(0), &[with_unread(peer(Some(other), "Unknown"))]);
        assert_eq!(status_of(&verdicts, FindingCode::PathsFailed), Some(want), "{other}");
    }
}

#[test]
fn a_mount_that_does_not_leave_the_node_has_no_backend() {
    for (fs_type, source) in
        [("ext4", "/dev/sda1"), ("tmpfs", "tmpfs"), ("fuse.lxcfs", "lxcfs"), ("fusectl", "fusectl")]
    {
        assert_eq!(remote_backend(&mount(fs_type, source)), None, "{fs_type}");
    }
    assert_eq!(remote_backend(&mount("gfs2", "/dev/mapper/shared")), Some("cluster"));
    assert_eq!(mount("nfs", "nas:/x").mount_point, PathBuf::from("/data"));
}
