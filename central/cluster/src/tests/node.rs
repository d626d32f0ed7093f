//! Facts of nodes.

use kulprit_model::attribute::{REASON, WHAT};

use super::*;

#[track_caller]
fn check_node(objects: &[Value], code: FindingCode, want: Option<Status>) -> Option<Finding> {
    // Something fresh, so that old stamps are old.
    let fresh = event("Pod", "something", "Started", "x");
    let all: Vec<Value> = objects.iter().cloned().chain([fresh]).collect();
    let nodes = cluster(&all).describe_nodes(usec(AT), &SIGNATURES);
    let node = nodes.into_iter().find(|node| node.name == "n1").expect("the node n1");
    let of_code: Vec<Finding> = node.findings.into_iter().filter(|finding| finding.code() == code).collect();
    assert_eq!(of_code.first().and_then(status), want, "{code}: {of_code:#?}");
    of_code.into_iter().next()
}

fn ready(status: &str) -> Value {
    with(
        node("n1"),
        &json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "R", "message": "Kubelet stopped posting node status."}]}}),
    )
}

#[test]
fn a_healthy_node_shows_no_fault() {
    let nodes = cluster(&[node("n1")]).describe_nodes(usec(AT), &SIGNATURES);
    let present: Vec<_> = nodes[0].findings.iter().filter(|finding| status(finding) != Some(Status::Absent)).collect();
    assert!(present.is_empty(), "{present:#?}");
}

#[test]
fn readiness_is_told_with_its_status() {
    let finding = check_node(&[ready("Unknown")], FindingCode::NodeNotReady, Some(Status::Present)).unwrap();
    assert_eq!(finding.attributes().get(WHAT), Some("Unknown"));
    check_node(&[ready("False")], FindingCode::NodeNotReady, Some(Status::Present));
    check_node(&[ready("True")], FindingCode::NodeNotReady, Some(Status::Absent));
    check_node(&[json!({"kind": "Node", "metadata": {"name": "n1"}})], FindingCode::NodeNotReady, None);
}

#[test]
fn taints_and_marks_are_told_where_the_spec_is_known() {
    let tainted = |key: &str| with(node("n1"), &json!({"spec": {"taints": [{"key": key, "effect": "NoExecute"}]}}));
    check_node(&[tainted("node.kubernetes.io/unreachable")], FindingCode::NodeUnreachableTaint, Some(Status::Present));
    check_node(&[node("n1")], FindingCode::NodeUnreachableTaint, Some(Status::Absent));
    check_node(&[tainted("kubevirt.io/drain")], FindingCode::NodeCordoned, Some(Status::Present));
    check_node(
        &[with(node("n1"), &json!({"spec": {"unschedulable": true}}))],
        FindingCode::NodeCordoned,
        Some(Status::Present),
    );
    check_node(&[node("n1")], FindingCode::NodeCordoned, Some(Status::Absent));
    check_node(&[json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {}})], FindingCode::NodeCordoned, None);
}

#[test]
fn a_lease_is_stale_after_a_minute() {
    let lease = |renewed: &str| json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"renewTime": renewed, "leaseDurationSeconds": 40}});
    check_node(&[lease("2026-03-01T10:12:59Z")], FindingCode::NodeUnreachableTaint, Some(Status::Present));
    check_node(&[lease("2026-03-01T10:13:00Z")], FindingCode::NodeUnreachableTaint, Some(Status::Absent));
}

#[test]
fn pressure_and_network_are_told() {
    let pressed = |name: &str| with(node("n1"), &json!({"status": {"conditions": [{"type": name, "status": "True"}]}}));
    for (name, what) in [("MemoryPressure", "memory"), ("DiskPressure", "disk"), ("PIDPressure", "pids")] {
        let finding = check_node(&[pressed(name)], FindingCode::NodePressureReported, Some(Status::Present)).unwrap();
        assert_eq!(finding.attributes().get(WHAT), Some(what));
    }
    check_node(&[node("n1")], FindingCode::NodePressureReported, Some(Status::Absent));
    check_node(&[pressed("NetworkUnavailable")], FindingCode::NodeNetworkReportedDown, Some(Status::Present));
    check_node(&[node("n1")], FindingCode::NodeNetworkReportedDown, None);
}

#[test]
fn kvm_that_is_not_offered_is_told_only_of_nodes_for_vms() {
    let offers = |allocatable: Value, capacity: Value| {
        with(
            json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"kubevirt.io/schedulable": "true"}}}),
            &json!({"status": {"allocatable": allocatable, "capacity": capacity}}),
        )
    };
    for (object, what) in [
        (offers(json!({"devices.kubevirt.io/kvm": "0"}), json!({"devices.kubevirt.io/kvm": "1k"})), "zero"),
        (offers(json!({"cpu": "8"}), json!({"cpu": "8"})), "absent"),
    ] {
        let finding = check_node(&[object], FindingCode::KvmNotAllocatable, Some(Status::Present)).unwrap();
        assert_eq!(finding.attributes().get(WHAT), Some(what));
    }
    check_node(&[node("n1")], FindingCode::KvmNotAllocatable, Some(Status::Absent));
    check_node(&[node("n1")], FindingCode::DevicesNotAllocatable, Some(Status::Absent));
    let cut_down = offers(json!({"hugepages-1Gi": "20Gi"}), json!({"hugepages-1Gi": "20Gi"}));
    check_node(&[cut_down], FindingCode::KvmNotAllocatable, None);
    let control_plane = json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "8"}}});
    check_node(&[control_plane], FindingCode::KvmNotAllocatable, None);
    check_node(
        &[json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"kubevirt.io/schedulable": "true"}}})],
        FindingCode::KvmNotAllocatable,
        None,
    );
}

#[test]
fn a_heartbeat_is_stale_after_five_minutes_and_a_mark_counts_as_well() {
    let beat = |at: &str| with(node("n1"), &json!({"metadata": {"annotations": {"kubevirt.io/heartbeat": at}}}));
    check_node(&[beat("2026-03-01T10:08:59Z")], FindingCode::VirtHandlerHeartbeatStale, Some(Status::Present));
    check_node(&[beat("2026-03-01T10:09:00Z")], FindingCode::VirtHandlerHeartbeatStale, Some(Status::Absent));
    check_node(
        &[with(node("n1"), &json!({"metadata": {"labels": {"kubevirt.io/schedulable": "false"}}}))],
        FindingCode::VirtHandlerHeartbeatStale,
        Some(Status::Present),
    );
}

fn handler(ready: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "virt-handler-8v5x2", "namespace": "kubevirt", "labels": {"kubevirt.io": "virt-handler"}}, "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [{"name": "virt-handler", "ready": true, "restartCount": 1, "state": {"running": {"startedAt": "2026-03-01T10:10:00Z"}}}]}})
}

#[test]
fn a_virt_handler_is_judged_by_itself_not_by_its_node() {
    check_node(&[node("n1"), handler("False")], FindingCode::VirtHandlerNotReady, Some(Status::Present));
    check_node(&[node("n1"), handler("True")], FindingCode::VirtHandlerNotReady, Some(Status::Absent));
    check_node(&[ready("Unknown"), handler("False")], FindingCode::VirtHandlerNotReady, None);
    check_node(&[node("n1")], FindingCode::VirtHandlerNotReady, None);
    let restarted = check_node(&[handler("True")], FindingCode::VirtHandlerRestarted, None).unwrap();
    let Finding::Occurrence(occurrence) = restarted else { panic!("an occurrence") };
    assert_eq!(occurrence.last.wall_usec, usec("2026-03-01T10:10:00Z"));
}

#[test]
fn a_virt_handler_is_missing_only_where_the_others_were_listed() {
    let other = with(handler("True"), &json!({"metadata": {"name": "virt-handler-aaaaa"}, "spec": {"nodeName": "n2"}}));
    check_node(&[node("n1"), other.clone()], FindingCode::VirtHandlerNotReady, None);
    let controller = json!({"kind": "Pod", "metadata": {"name": "virt-controller-x", "namespace": "kubevirt", "labels": {"kubevirt.io": "virt-controller"}}});
    let finding =
        check_node(&[node("n1"), other, controller], FindingCode::VirtHandlerNotReady, Some(Status::Present)).unwrap();
    assert_eq!(finding.attributes().get(REASON), Some("Missing"));
}

#[test]
fn a_csi_pod_of_the_node_that_is_not_ready_is_a_missing_driver() {
    let pod = |ready: &str| {
        json!({"kind": "Pod", "metadata": {"name": "csi-node-x", "namespace": "storage"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "csi-node-driver-registrar"}]}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    };
    check_node(&[node("n1"), pod("False")], FindingCode::StorageDriverMissing, Some(Status::Present));
    check_node(&[node("n1"), pod("True")], FindingCode::StorageDriverMissing, None);
}

#[test]
fn events_of_a_node_are_what_they_tell() {
    for (reason, message, code) in [
        ("Rebooted", "Node n1 has been rebooted, boot id: x", FindingCode::NodeBooted),
        ("SystemOOM", "System OOM encountered, victim process: qemu-kvm, pid: 7", FindingCode::NodeOomKill),
        ("TaskHung", "task qemu-kvm:7 blocked for more than 120 seconds.", FindingCode::HungTask),
        ("Starting", "Starting kubelet.", FindingCode::KubeletRestarted),
        ("NodeNotReady", "Node n1 status is now: NodeNotReady", FindingCode::ErrorSaid),
    ] {
        let event = event("Node", "n1", reason, message);
        assert!(check_node(&[event], code, None).is_some(), "{reason}");
    }
    let nodes =
        cluster(&[event("Node", "n1", "NodeHasSufficientMemory", "Node n1 status is now: NodeHasSufficientMemory")]);
    assert!(nodes.describe_nodes(usec(AT), &SIGNATURES)[0].findings.is_empty());
}

#[test]
fn a_node_that_is_gone_is_told_where_nodes_were_listed() {
    let list =
        |names: &[&str]| json!({"kind": "List", "items": names.iter().map(|name| node(name)).collect::<Vec<_>>()});
    check(&[vmi(), list(&["n2", "n3"])], FindingCode::NodeObjectMissing, Some(Status::Present));
    check(&[vmi(), list(&["n2"])], FindingCode::NodeObjectMissing, None);
    check(&[vmi(), node("n1")], FindingCode::NodeObjectMissing, Some(Status::Absent));
    let removed = event("Node", "n1", "RemovingNode", "Node n1 event: Removing Node n1 from Controller");
    check(&[vmi(), removed], FindingCode::NodeObjectMissing, Some(Status::Present));
}

#[test]
fn a_host_device_is_asked_of_the_vms_node() {
    let asks = with(
        vmi(),
        &json!({"spec": {"domain": {"devices": {"gpus": [{"name": "g", "deviceName": "nvidia.com/A10"}]}}}}),
    );
    check(&[asks.clone(), node("n1")], FindingCode::HostDeviceNotAllocatable, Some(Status::Present));
    let has = with(node("n1"), &json!({"status": {"allocatable": {"nvidia.com/A10": "1"}}}));
    check(&[asks.clone(), has], FindingCode::HostDeviceNotAllocatable, Some(Status::Absent));
    check(&[asks], FindingCode::HostDeviceNotAllocatable, None);
    check(&[vmi(), node("n1")], FindingCode::HostDeviceNotAllocatable, None);
}
