//! A cluster that is watched: objects come, change and go; what is known then, and whom each change touches.

use std::collections::BTreeSet;

use super::*;
use crate::{Kind, Touched};

pub(super) fn live() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.set_live();
    cluster
}

pub(super) fn add(cluster: &mut Cluster, objects: &[Value]) {
    objects.iter().for_each(|object| _ = cluster.add(object).expect("an object of a test"));
}

/// What is touched when one more object comes, beside these.
#[track_caller]
fn touched_by(objects: &[Value], change: &Value) -> Touched {
    let mut cluster = live();
    add(&mut cluster, objects);
    _ = cluster.take_touched();
    add(&mut cluster, std::slice::from_ref(change));
    cluster.take_touched()
}

fn vms(names: &[&str]) -> BTreeSet<(String, String)> {
    names.iter().map(|name| ("prod".to_owned(), (*name).to_owned())).collect()
}

#[test]
fn what_is_removed_is_gone_and_only_once() {
    let mut cluster = live();
    add(&mut cluster, &[vmi(), launcher(), node("n1")]);
    assert!(cluster.has_vm("prod", "db-0"));
    assert!(cluster.remove(Kind::VirtualMachineInstance, "prod", "db-0", usec(AT)));
    assert!(!cluster.remove(Kind::VirtualMachineInstance, "prod", "db-0", usec(AT)));
    assert!(cluster.has_vm("prod", "db-0"), "its launcher tells of it");
    assert!(cluster.remove(Kind::Pod, "prod", "virt-launcher-db-0-abcde", usec(AT)));
    assert!(!cluster.has_vm("prod", "db-0"));
    assert!(cluster.remove(Kind::Node, "", "n1", usec(AT)));
    assert_eq!((cluster.vm_keys().count(), cluster.node_names().len()), (0, 0));
}

#[test]
fn a_change_touches_its_vm_and_no_other() {
    let other = with(vmi(), &json!({"metadata": {"name": "db-1", "uid": "vmi-2"}}));
    let base = [vmi(), other, launcher(), node("n1"), node("n2")];
    let failed = with(launcher(), &json!({"status": {"phase": "Failed"}}));
    assert_eq!(touched_by(&base, &failed), Touched { vms: vms(&["db-0"]), ..Touched::default() });
    assert!(touched_by(&base, &launcher()).is_empty(), "nothing of it changed");
    let said = with(event("VirtualMachineInstance", "db-1", "x", "y"), &json!({"metadata": {"name": "e"}}));
    assert_eq!(touched_by(&base, &said).vms, vms(&["db-1"]));
}

#[test]
fn heartbeats_touch_their_node_alone() {
    let base = [vmi(), launcher(), node("n1"), node("n2"), node("n3")];
    let n1 = || Touched { nodes: BTreeSet::from(["n1".to_owned()]), ..Touched::default() };
    let beat = json!({"metadata": {"annotations": {"kubevirt.io/heartbeat": "2026-03-01T10:14:59Z"}}});
    assert_eq!(touched_by(&base, &with(node("n1"), &beat)), n1());
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"renewTime": "2026-03-01T10:14:59.000000Z"}});
    assert_eq!(touched_by(&base, &lease), n1());
    let kernel = with(node("n1"), &json!({"status": {"nodeInfo": {"kernelVersion": "6.2.0"}}}));
    assert_eq!(touched_by(&base, &kernel), Touched { vms: vms(&["db-0"]), ..n1() });
}

#[test]
fn who_waits_for_a_slot_is_touched_by_who_takes_one() {
    let other =
        |node: &str| with(vmi(), &json!({"metadata": {"name": "db-1", "uid": "vmi-2"}, "status": {"nodeName": node}}));
    let running = with(vmim("Running"), &json!({"metadata": {"name": "mig-2"}, "spec": {"vmiName": "db-1"}}));
    let base = [vmi(), other("n1"), vmim("Pending"), running.clone()];
    assert_eq!(touched_by(&base, &other("n2")).vms, vms(&["db-0", "db-1"]), "it leaves another node");
    let done = with(running, &json!({"status": {"phase": "Succeeded"}}));
    assert_eq!(touched_by(&base, &done).vms, vms(&["db-0", "db-1"]));
}

#[test]
fn an_importer_touches_whose_claim_it_fills_and_filled() {
    let user = |name: &str, claim: &str| {
        let volumes = json!([{"name": "d", "persistentVolumeClaim": {"claimName": claim}}]);
        with(vmi(), &json!({"metadata": {"name": name, "uid": name}, "spec": {"volumes": volumes}}))
    };
    let importer = json!({"kind": "Pod", "metadata": {"name": "importer-prime-claim-1", "namespace": "prod"}});
    let claim =
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c1", "namespace": "prod", "uid": "claim-1"}});
    let base = [user("db-0", "c1"), user("db-1", "prime-claim-1"), importer];
    assert_eq!(touched_by(&base, &claim).vms, vms(&["db-0", "db-1"]));
}

#[test]
fn a_nodes_drivers_touch_the_vms_on_it() {
    let driver =
        |node: &str| json!({"kind": "CSINode", "metadata": {"name": node}, "spec": {"drivers": [{"name": "d"}]}});
    assert_eq!(touched_by(&[vmi()], &driver("n1")).vms, vms(&["db-0"]));
    assert!(touched_by(&[vmi()], &driver("n2")).is_empty());
}

#[test]
fn what_all_read_touches_everything() {
    let base = [vmi(), node("n1")];
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt", "namespace": "kubevirt"}});
    assert!(touched_by(&base, &kubevirt).everything);
    let controller = json!({"kind": "Pod", "metadata": {"name": "virt-controller-1", "namespace": "kubevirt"}});
    assert!(touched_by(&base, &controller).everything);
    let mut cluster = live();
    _ = cluster.take_touched();
    cluster.set_listed(Kind::Pod, true);
    assert!(cluster.take_touched().everything);
    cluster.set_listed(Kind::Pod, true);
    assert!(cluster.take_touched().is_empty(), "it was known before");
}

#[test]
fn a_launcher_is_missed_only_while_all_pods_are_known() {
    let mut cluster = live();
    add(&mut cluster, &[vmi()]);
    let is_gone = |cluster: &Cluster| {
        let vm = cluster.describe("prod", "db-0", &asked(), &SIGNATURES);
        !found(&vm.findings, FindingCode::LauncherGone).is_empty()
    };
    assert!(!is_gone(&cluster));
    cluster.set_listed(Kind::Pod, true);
    assert!(is_gone(&cluster));
    cluster.set_listed(Kind::Pod, false);
    assert!(!is_gone(&cluster));
}

#[test]
fn virt_handlers_are_missed_only_while_all_pods_are_known() {
    let pod = |name: &str| json!({"kind": "Pod", "metadata": {"name": name, "namespace": "kubevirt"}, "spec": {"nodeName": "n1"}});
    let mut cluster = live();
    add(&mut cluster, &[node("n1"), node("n2"), pod("virt-handler-1"), pod("virt-controller-1")]);
    let is_missed = |cluster: &Cluster| {
        let node = cluster.describe_node("n2", usec(AT), &SIGNATURES);
        node.findings.iter().any(|finding| finding.code() == FindingCode::VirtHandlerNotReady)
    };
    assert!(!is_missed(&cluster));
    cluster.set_listed(Kind::Pod, true);
    assert!(is_missed(&cluster));
}

#[test]
fn live_objects_are_as_they_are_at_the_moment_of_asking() {
    let status = |cluster: &Cluster| {
        let node = cluster.describe_node("n1", usec("2026-03-01T11:00:00Z"), &SIGNATURES);
        let of = node.findings.into_iter().find(|finding| finding.code() == FindingCode::VirtHandlerHeartbeatStale);
        of.as_ref().and_then(status)
    };
    let (mut recorded, mut watched) = (Cluster::new(), live());
    add(&mut recorded, &[node("n1")]);
    add(&mut watched, &[node("n1")]);
    assert_eq!((status(&recorded), status(&watched)), (Some(Status::Absent), Some(Status::Present)));
}

#[test]
fn events_that_nobody_reads_cost_nothing() {
    let mut cluster = live();
    _ = cluster.take_touched();
    for n in 0..1000 {
        let name = json!({"metadata": {"name": format!("e{n}")}});
        let added = cluster.add(&with(event("Pod", &format!("web-{n}"), "BackOff", "x"), &name));
        assert_eq!(added.map(|added| added.n_others), Ok(1));
    }
    assert!(cluster.events.is_empty() && cluster.index.is_empty() && cluster.take_touched().is_empty());
    assert!(cluster.add(&event("Pod", "virt-launcher-db-0-abcde", "x", "y")).is_err(), "an event without a name");
}

// Kubernetes keeps events for an hour, however many; one that says something new each time is a new object each time.
#[test]
fn fifty_thousand_events_of_a_namespace_are_bounded() {
    let mut cluster = live();
    add(&mut cluster, &[vmi(), launcher(), node("n1")]);
    let said = |n: usize| {
        let (kind, about) = match n % 5 {
            0 => ("Pod", format!("web-{n}")),
            1 => ("ReplicaSet", "web".to_owned()),
            2 => ("VirtualMachineInstance", "db-0".to_owned()),
            _ => ("Pod", "virt-launcher-db-0-abcde".to_owned()),
        };
        let at = (jiff::Timestamp::UNIX_EPOCH
            + jiff::SignedDuration::from_secs(1_772_000_000 + i64::try_from(n).unwrap()))
        .to_string();
        let n_words = if n % 100 < 5 { 500 } else { 1 };
        let text = format!("MountVolume.SetUp failed for volume {n}: {}", "timed out ".repeat(n_words));
        with(
            event(kind, &about, "FailedMount", &text),
            &json!({"metadata": {"name": format!("e{n}")}, "firstTimestamp": at, "lastTimestamp": at}),
        )
    };
    let mut most = 0;
    for n in 0..50_000 {
        cluster.add(&said(n)).unwrap();
        most = most.max(cluster.events.len());
    }
    assert!((200..=400).contains(&most), "two objects of a VM: {most} events");
    let newest = cluster.events.values().filter_map(|event| event.last_usec).max();
    assert_eq!(newest, Some((1_772_000_000 + 49_999) * 1_000_000));
    assert!(cluster.events.values().all(|event| event.message.len() <= 4_096));
    let vm = cluster.describe("prod", "db-0", &asked(), &SIGNATURES);
    assert!(!vm.findings.is_empty() && vm.findings.len() < 600, "{}", vm.findings.len());
    // Whatever the API server deletes later.
    (0..50_000).for_each(|n| _ = cluster.remove(Kind::Event, "prod", &format!("e{n}"), 0));
    assert!(cluster.events.is_empty());
}

#[test]
fn an_event_is_one_entry_while_it_is_there() {
    let mut cluster = live();
    let said =
        |last: &str| with(event("Node", "n1", "x", "y"), &json!({"metadata": {"name": "e"}, "lastTimestamp": last}));
    add(&mut cluster, &[said("2026-03-01T10:14:00Z"), said("2026-03-01T10:13:00Z")]);
    assert_eq!(
        cluster.events.values().map(|event| event.last_usec).collect::<Vec<_>>(),
        [Some(usec("2026-03-01T10:13:00Z"))]
    );
    assert!(cluster.remove(Kind::Event, "prod", "e", usec(AT)) && cluster.node_names().is_empty());
}
