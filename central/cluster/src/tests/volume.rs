//! Facts of claims, volumes, attachments and DataVolumes.

use kulprit_model::attribute::{DETAIL, OTHER_NODE, VOLUME};

use super::*;

fn vmi_with_claim() -> Value {
    with(
        vmi(),
        &json!({"spec": {"volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "db-0-root"}}]},
        "status": {"phase": "Scheduling", "nodeName": null}}),
    )
}

fn claim(phase: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": meta("db-0-root"), "spec": {"volumeName": "pvc-1", "accessModes": ["ReadWriteOnce"]}, "status": {"phase": phase}})
}

fn volume() -> Value {
    json!({"kind": "PersistentVolume", "metadata": {"name": "pvc-1"}, "spec": {"csi": {"driver": "rbd.csi.ceph.com", "volumeHandle": "h-1"}, "accessModes": ["ReadWriteOnce"]}})
}

fn attachment(node: &str, attached: bool) -> Value {
    json!({"kind": "VolumeAttachment", "metadata": {"name": "csi-1", "creationTimestamp": "2026-03-01T10:00:00Z"},
        "spec": {"nodeName": node, "source": {"persistentVolumeName": "pvc-1"}}, "status": {"attached": attached}})
}

fn pod_on_n1() -> Value {
    with(
        launcher(),
        &json!({"status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": []}}),
    )
}

#[test]
fn every_name_of_a_volume_is_known() {
    let vm = vm_of(&[vmi_with_claim(), claim("Bound"), volume(), attachment("n1", true)]);
    assert_eq!(vm.volumes, ["csi-1", "db-0-root", "h-1", "pvc-1", "root"]);
}

#[test]
fn a_claim_is_missing_only_where_that_is_shown() {
    let code = FindingCode::VolumeClaimMissing;
    check(&[vmi_with_claim()], code, None);
    check(&[vmi_with_claim(), claim("Bound")], code, Some(Status::Absent));
    let others = json!({"kind": "List", "items": [{"kind": "PersistentVolumeClaim", "metadata": meta("other")}]});
    let of = check(&[vmi_with_claim(), others.clone()], code, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), VOLUME), "db-0-root");
    let said = event(
        "VirtualMachineInstance",
        "db-0",
        "FailedPvcNotFound",
        "PVC prod/db-0-root does not exist, waiting for it to appear",
    );
    check(&[vmi_with_claim(), said], code, Some(Status::Present));
    let scheduler = event(
        "Pod",
        "virt-launcher-db-0-abcde",
        "FailedScheduling",
        "0/1 nodes are available: persistentvolumeclaim \"db-0-root\" not found.",
    );
    let unscheduled = with(pod_on_n1(), &json!({"spec": {"nodeName": null}}));
    check(&[vmi_with_claim(), unscheduled, scheduler.clone()], code, Some(Status::Present));
    check(&[vmi_with_claim(), pod_on_n1(), scheduler], code, None);
    // What runs has its claims.
    let runs = with(vmi_with_claim(), &json!({"status": {"phase": "Running", "nodeName": "n1"}}));
    check(&[runs, others], code, None);
}

#[test]
fn a_claim_that_waits_is_in_the_way_of_a_vm_that_is_to_run_only() {
    let code = FindingCode::VolumeClaimUnbound;
    check(&[vmi_with_claim(), claim("Pending")], code, Some(Status::Present));
    check(&[vmi_with_claim(), claim("Bound")], code, Some(Status::Absent));
    let halted = json!({"kind": "VirtualMachine", "metadata": meta("db-0"), "spec": {"runStrategy": "Halted", "template": {"spec": {"volumes": [
        {"name": "root", "persistentVolumeClaim": {"claimName": "db-0-root"}}]}}}});
    check(&[halted.clone(), claim("Pending")], code, None);
    check(&[halted, claim("Lost")], code, Some(Status::Present));
}

#[test]
fn a_data_volume_that_fills_is_not_one_that_fails() {
    let vmi = with(vmi(), &json!({"spec": {"volumes": [{"name": "root", "dataVolume": {"name": "db-0-root"}}]}}));
    let of = |status: Value| json!({"kind": "DataVolume", "apiVersion": "cdi.kubevirt.io/v1beta1", "metadata": meta("db-0-root"), "status": status});
    let cases = [
        (json!({"phase": "ImportInProgress", "progress": "40.0%"}), Some(Status::Absent), Some(Status::Present)),
        (json!({"phase": "ImportInProgress", "restartCount": 3}), Some(Status::Present), Some(Status::Absent)),
        (
            json!({"phase": "ImportInProgress", "conditions": [{"type": "Running", "status": "False", "reason": "Error", "message": "no such host"}]}),
            Some(Status::Present),
            Some(Status::Absent),
        ),
        (json!({"phase": "Succeeded", "restartCount": 9}), Some(Status::Absent), Some(Status::Absent)),
        (json!({"phase": "Failed"}), Some(Status::Present), None),
        (json!({"phase": "WaitForFirstConsumer"}), None, None),
    ];
    for (state, failing, progressing) in cases {
        check(&[vmi.clone(), of(state.clone())], FindingCode::DataVolumeFailing, failing);
        check(&[vmi.clone(), of(state)], FindingCode::DataVolumeProgressing, progressing);
    }
}

#[test]
fn volumes_are_full_since_the_last_one_is() {
    let disks = ["root", "data"].map(|name| json!({"name": name, "dataVolume": {"name": name}}));
    let vmi = with(vmi(), &json!({"spec": {"volumes": disks}}));
    let full = |name: &str, at: &str| {
        json!({"kind": "DataVolume", "apiVersion": "cdi.kubevirt.io/v1beta1", "metadata": meta(name), "status": {"phase": "Succeeded",
            "conditions": [{"type": "Running", "status": "False", "reason": "Completed", "lastTransitionTime": at}]}})
    };
    let objects = [vmi, full("root", "2026-03-01T10:01:00Z"), full("data", "2026-03-01T10:09:00Z")];
    let of = check(&objects, FindingCode::DataVolumeProgressing, Some(Status::Absent)).unwrap();
    let Finding::State(state) = &of.finding else { panic!("{of:?}") };
    assert_eq!(state.since.wall_usec, usec("2026-03-01T10:09:00Z"));
}

#[test]
fn an_attachment_to_the_vms_node_is_there_or_late() {
    let code = FindingCode::VolumeNotAttached;
    let base = [vmi_with_claim(), pod_on_n1(), claim("Bound"), volume()];
    let all = |attachment: Value| {
        base.iter().cloned().chain([attachment, event("Pod", "x", "Started", "y")]).collect::<Vec<_>>()
    };
    check(&all(attachment("n1", true)), code, Some(Status::Absent));
    let error =
        with(attachment("n1", false), &json!({"status": {"attachError": {"message": "rpc error: DeadlineExceeded"}}}));
    let of = check(&all(error), code, Some(Status::Present)).unwrap();
    assert_eq!(
        (attribute(Some(&of), DETAIL).as_str(), of.node.as_deref()),
        ("rpc error: DeadlineExceeded", Some("n1"))
    );
    let new = with(attachment("n1", false), &json!({"metadata": {"creationTimestamp": "2026-03-01T10:13:45Z"}}));
    check(&all(new), code, None);
    check(&base, code, None);
}

#[test]
fn a_volume_on_another_node_is_held_there_unless_it_is_shared_or_migrates() {
    let code = FindingCode::VolumeAttachedElsewhere;
    let base = [vmi_with_claim(), pod_on_n1()];
    let all = |objects: &[Value]| base.iter().cloned().chain(objects.iter().cloned()).collect::<Vec<_>>();
    let of = check(&all(&[claim("Bound"), attachment("n2", true)]), code, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), OTHER_NODE), "n2");
    check(&all(&[claim("Bound"), attachment("n1", true)]), code, Some(Status::Absent));
    let shared = with(claim("Bound"), &json!({"spec": {"accessModes": ["ReadWriteMany"]}}));
    check(&all(&[shared, attachment("n2", true)]), code, Some(Status::Absent));
    let runs = with(vmi_with_claim(), &json!({"status": {"phase": "Running", "nodeName": "n1"}}));
    check(
        &[runs, launcher(), target(), vmim("Running"), claim("Bound"), attachment("n2", true)],
        code,
        Some(Status::Absent),
    );
}

#[test]
fn a_detach_that_does_not_end_is_pending() {
    let going = |asked: &str| with(attachment("n2", true), &json!({"metadata": {"deletionTimestamp": asked}}));
    let base = |attachment: Value| [vmi_with_claim(), pod_on_n1(), claim("Bound"), attachment];
    check(&base(going("2026-03-01T10:14:30Z")), FindingCode::VolumeDetachPending, Some(Status::Present));
    check(&base(going("2026-03-01T10:14:31Z")), FindingCode::VolumeDetachPending, None);
}

#[test]
fn a_driver_is_missing_where_the_node_says_so() {
    let csi = |drivers: Value| json!({"kind": "CSINode", "metadata": {"name": "n1"}, "spec": {"drivers": drivers}});
    let base = |csi: Value| [vmi_with_claim(), pod_on_n1(), claim("Bound"), volume(), csi];
    check(&base(csi(json!([]))), FindingCode::StorageDriverMissing, Some(Status::Present));
    check(&base(csi(json!([{"name": "rbd.csi.ceph.com"}]))), FindingCode::StorageDriverMissing, Some(Status::Absent));
    check(&[vmi_with_claim(), pod_on_n1(), claim("Bound"), volume()], FindingCode::StorageDriverMissing, None);
}
