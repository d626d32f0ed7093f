//! Facts of launcher pods and of the VM's own objects.

use kulprit_model::attribute::{CONTAINER, IMAGE, OBJECT, OTHER_NODE, REASON, WHAT};

use super::*;

fn starting(status: Value) -> [Value; 2] {
    let vmi =
        with(vmi(), &json!({"status": {"phase": "Scheduling", "nodeName": null, "phaseTransitionTimestamps": []}}));
    [vmi, with(launcher(), &json!({"status": status}))]
}

#[test]
fn a_container_that_waits_for_its_image_is_told_with_the_image() {
    let objects = starting(json!({"phase": "Pending", "conditions": [], "containerStatuses": [
        {"name": "compute", "image": "reg.example/virt-launcher:v1", "ready": false,
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}]}));
    let of = check(&objects, FindingCode::PodImageWaiting, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), IMAGE), "reg.example/virt-launcher:v1");
    assert_eq!(attribute(of.as_ref(), REASON), "ImagePullBackOff");
    check(&objects, FindingCode::LauncherContainerNotReady, None);
    check(&objects, FindingCode::ImagePresentElsewhere, None);
    let mut with_node = objects.to_vec();
    with_node.push(with(node("n2"), &json!({"status": {"images": [{"names": ["reg.example/virt-launcher:v1"]}]}})));
    let of = check(&with_node, FindingCode::ImagePresentElsewhere, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), OTHER_NODE), "n2");
    check(&[vmi(), launcher()], FindingCode::PodImageWaiting, Some(Status::Absent));
}

#[test]
fn a_pull_that_does_not_end_is_told_and_one_that_ended_is_not() {
    let pod = starting(json!({"phase": "Pending", "conditions": [], "containerStatuses": [
        {"name": "compute", "ready": false, "imageID": null, "state": {"waiting": {"reason": "ContainerCreating"}}}]}));
    let at = |reason: &str, time: &str| {
        let message = "image \"reg.example/virt-launcher:v1\"";
        with(
            event("Pod", "virt-launcher-db-0-abcde", reason, message),
            &json!({"type": "Normal", "firstTimestamp": time, "lastTimestamp": time}),
        )
    };
    let late = event("Pod", "other", "x", "y");
    let mut objects = pod.to_vec();
    objects.extend([at("Pulling", "2026-03-01T10:10:00Z"), late]);
    check(&objects, FindingCode::PodImageWaiting, Some(Status::Present));
    // Another container started in the same second.
    objects.push(at("Started", "2026-03-01T10:10:00Z"));
    check(&objects, FindingCode::PodImageWaiting, Some(Status::Present));
    objects.push(at("Pulled", "2026-03-01T10:10:30Z"));
    check(&objects, FindingCode::PodImageWaiting, None);
}

#[test]
fn containers_that_crash_or_do_not_get_ready_are_told() {
    let waiting = |reason: &str| {
        json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "compute", "ready": false, "state": {"waiting": {"reason": reason}}}]})
    };
    let of =
        check(&starting(waiting("CrashLoopBackOff")), FindingCode::LauncherContainerNotReady, Some(Status::Present));
    assert_eq!(
        (attribute(of.as_ref(), CONTAINER), attribute(of.as_ref(), REASON)),
        ("compute".to_owned(), "CrashLoopBackOff".to_owned())
    );
    check(&starting(waiting("ContainerCreating")), FindingCode::LauncherContainerNotReady, None);
    check(&[vmi(), launcher()], FindingCode::LauncherContainerNotReady, Some(Status::Absent));
    // A pod that ends because the VM was stopped shows the same states.
    let stopped = with(vmi(), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}}));
    let ended = with(
        launcher(),
        &json!({"status": {"phase": "Failed", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "compute", "ready": false, "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}]}}),
    );
    check(&[stopped, ended], FindingCode::LauncherContainerNotReady, None);
}

#[test]
fn rejection_eviction_and_oom_are_told_apart() {
    let failed =
        |status: Value| starting(with(json!({"phase": "Failed", "conditions": [], "containerStatuses": []}), &status));
    let rejected =
        failed(json!({"reason": "UnexpectedAdmissionError", "message": "Pod was rejected: Allocate failed"}));
    let of = check(&rejected, FindingCode::LauncherRejected, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), REASON), "UnexpectedAdmissionError");
    check(&rejected, FindingCode::LauncherEvicted, None);
    let evicted = failed(json!({"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}));
    let of = check(&evicted, FindingCode::LauncherEvicted, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), WHAT), "disk");
    check(&evicted, FindingCode::LauncherRejected, None);
    let oom = failed(
        json!({"containerStatuses": [{"name": "compute", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}),
    );
    let of = check(&oom, FindingCode::LauncherOomKilled, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), CONTAINER), "compute");
    check(&[vmi(), launcher()], FindingCode::LauncherOomKilled, Some(Status::Absent));
    check(&[vmi(), launcher()], FindingCode::LauncherEvicted, Some(Status::Absent));
}

#[test]
fn a_pod_that_no_node_fits_is_told_with_the_resource() {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes are available: 2 Insufficient devices.kubevirt.io/kvm."});
    let pending = with(
        launcher(),
        &json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "conditions": [condition], "containerStatuses": []}}),
    );
    let vmi_pending = with(vmi(), &json!({"status": {"phase": "Scheduling", "nodeName": null}}));
    let of = check(&[vmi_pending.clone(), pending], FindingCode::PodUnschedulable, Some(Status::Present));
    assert_eq!(
        (attribute(of.as_ref(), REASON), attribute(of.as_ref(), OBJECT)),
        ("device".to_owned(), "devices.kubevirt.io/kvm".to_owned())
    );
    check(&[vmi(), launcher()], FindingCode::PodUnschedulable, Some(Status::Absent));
    // The node that lacks KVM is the place; an active pod without a node names none.
    let lacking = |name: &str, kvm: &str| json!({"kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"cpu": "8", "devices.kubevirt.io/kvm": kvm}}});
    let waiting =
        with(vmi_pending.clone(), &json!({"status": {"activePods": {"1c2c": ""}, "conditions": [condition]}}));
    let vm = vm_of(&[waiting, lacking("n7", "0"), lacking("n8", "1k")]);
    let places: Vec<_> =
        found(&vm.findings, FindingCode::KvmNotAllocatable).iter().map(|of| of.node.as_deref()).collect();
    assert_eq!((vm.hosting.as_deref(), places), (None, vec![Some("n7")]));
    // The same said by events only, and resolved later.
    let failed =
        event("Pod", "virt-launcher-db-0-abcde", "FailedScheduling", "0/2 nodes are available: 2 Insufficient memory.");
    check(&[vmi_pending.clone(), failed.clone()], FindingCode::PodUnschedulable, Some(Status::Present));
    let assigned = with(
        event(
            "Pod",
            "virt-launcher-db-0-abcde",
            "Scheduled",
            "Successfully assigned prod/virt-launcher-db-0-abcde to n1",
        ),
        &json!({"type": "Normal", "lastTimestamp": "2026-03-01T10:14:30Z"}),
    );
    check(&[vmi_pending, failed, assigned], FindingCode::PodUnschedulable, None);
}

#[test]
fn a_running_vmi_without_a_launcher_is_told_only_where_pods_were_listed() {
    check(&[vmi()], FindingCode::LauncherGone, None);
    check(&[vmi(), launcher()], FindingCode::LauncherGone, Some(Status::Absent));
    let others = json!({"kind": "List", "items": [{"kind": "Pod", "metadata": meta("something-else")}]});
    check(&[vmi(), others], FindingCode::LauncherGone, Some(Status::Present));
    let said = with(
        vmi(),
        &json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "PodNotExists"}]}}),
    );
    check(&[said], FindingCode::LauncherGone, Some(Status::Present));
}

#[test]
fn the_grace_period_runs_until_it_is_over() {
    let stopping = |asked: &str| {
        with(vmi(), &json!({"metadata": {"deletionTimestamp": asked}, "spec": {"terminationGracePeriodSeconds": 60}}))
    };
    check(&[stopping("2026-03-01T10:14:01Z")], FindingCode::StopGraceRunning, Some(Status::Present));
    check(&[stopping("2026-03-01T10:14:00Z")], FindingCode::StopGraceRunning, Some(Status::Absent));
    check(&[vmi()], FindingCode::StopGraceRunning, None);
}

#[test]
fn a_terminating_launcher_is_told_since_it_was_asked_for() {
    let going = with(
        launcher(),
        &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:15:30Z", "deletionGracePeriodSeconds": 90}}),
    );
    let of = check(&[vmi(), going], FindingCode::LauncherTerminating, Some(Status::Present));
    let Finding::State(state) = of.unwrap().finding else { panic!("a state") };
    assert_eq!(state.since.wall_usec, usec("2026-03-01T10:14:00Z"));
    check(&[vmi(), launcher()], FindingCode::LauncherTerminating, Some(Status::Absent));
}

#[test]
fn a_memory_limit_is_near_the_guests_memory_below_100_mib() {
    let limited = |limit: &str| {
        with(
            launcher(),
            &json!({"spec": {"containers": [{"name": "compute", "resources": {"limits": {"memory": limit}}}]}}),
        )
    };
    check(&[vmi(), limited("1123Mi")], FindingCode::LimitNearGuestMemory, Some(Status::Present));
    check(&[vmi(), limited("1124Mi")], FindingCode::LimitNearGuestMemory, Some(Status::Absent));
    check(&[vmi(), launcher()], FindingCode::LimitNearGuestMemory, Some(Status::Absent));
    check(&[vmi()], FindingCode::LimitNearGuestMemory, None);
}

#[test]
fn conditions_of_the_vmi_are_facts() {
    let condition = |name: &str, status: &str| {
        with(
            vmi(),
            &json!({"status": {"conditions": [{"type": name, "status": status, "reason": "R", "lastTransitionTime": "2026-03-01T10:00:00Z"}]}}),
        )
    };
    check(&[condition("Paused", "True")], FindingCode::VmiPausedBy, Some(Status::Present));
    check(&[condition("Paused", "False")], FindingCode::VmiPausedBy, Some(Status::Absent));
    check(&[condition("LiveMigratable", "False")], FindingCode::VmiNotMigratable, Some(Status::Present));
    check(&[condition("LiveMigratable", "True")], FindingCode::VmiNotMigratable, Some(Status::Absent));
    check(&[condition("AgentConnected", "False")], FindingCode::GuestAgentLost, Some(Status::Present));
    check(&[condition("AgentConnected", "True")], FindingCode::GuestAgentLost, Some(Status::Absent));
    check(&[vmi()], FindingCode::GuestAgentLost, None);
    check(
        &[with(vmi(), &json!({"status": {"guestOSInfo": {"id": "fedora"}}}))],
        FindingCode::GuestAgentLost,
        Some(Status::Present),
    );
    check(&[with(vmi(), &json!({"status": {"phase": "Failed"}}))], FindingCode::VmiFailed, Some(Status::Present));
    check(&[vmi()], FindingCode::VmiFailed, Some(Status::Absent));
    check(
        &[with(vmi(), &json!({"status": {"evacuationNodeName": "n1"}}))],
        FindingCode::EvictionPending,
        Some(Status::Present),
    );
    check(&[with(vmi(), &json!({"status": {"evacuationNodeName": "n9"}}))], FindingCode::EvictionPending, None);
}

#[test]
fn one_ready_replica_of_the_control_plane_is_enough() {
    let controller = |name: &str, ready: &str| {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "kubevirt", "labels": {"kubevirt.io": "virt-controller"}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    };
    check(
        &[vmi(), controller("a", "False"), controller("b", "True")],
        FindingCode::ControlPlaneNotReady,
        Some(Status::Absent),
    );
    let of = check(&[vmi(), controller("a", "False")], FindingCode::ControlPlaneNotReady, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), WHAT), "virt-controller");
    check(&[vmi()], FindingCode::ControlPlaneNotReady, None);
}

#[test]
fn an_events_text_is_said_of_the_pods_node_and_side() {
    let mount = "MountVolume.MountDevice failed for volume \"pvc-1\" : rpc error: code = Internal desc = mount.nfs: Connection timed out";
    let vm = vm_of(&[vmi(), launcher(), event("Pod", "virt-launcher-db-0-abcde", "FailedMount", mount)]);
    let said = found(&vm.findings, FindingCode::ErrorSaid);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert_eq!((said[0].side, said[0].node.as_deref()), (Some(Side::Hosting), Some("n1")));
    let Finding::Occurrence(occurrence) = &said[0].finding else { panic!("an occurrence") };
    assert_eq!((occurrence.count, occurrence.last.wall_usec), (2, usec("2026-03-01T10:14:00Z")));
    // Advice is no failure.
    let vm = vm_of(&[
        vmi(),
        launcher(),
        event("Pod", "virt-launcher-db-0-abcde", "MissingClusterDNS", "kubelet cannot create Pod using ClusterFirst"),
    ]);
    assert!(found(&vm.findings, FindingCode::ErrorSaid).is_empty());
}

#[test]
fn a_status_alone_tells_what_it_names() {
    let shown = |status: &str| json!({"kind": "VirtualMachine", "metadata": meta("db-0"), "status": {"printableStatus": status}});
    for (status, code) in [
        ("ErrorUnschedulable", FindingCode::PodUnschedulable),
        ("ErrImagePull", FindingCode::PodImageWaiting),
        ("ImagePullBackOff", FindingCode::PodImageWaiting),
        ("ErrorPvcNotFound", FindingCode::VolumeClaimMissing),
        ("DataVolumeError", FindingCode::DataVolumeFailing),
    ] {
        check(&[shown(status)], code, Some(Status::Present));
        check(&[shown("Running")], code, None);
    }
}

#[test]
fn what_a_controller_says_of_the_other_end_is_said_there() {
    let said = "VirtualMachineInstance migration uid mig-uid failed. reason: Target pod is down";
    let by_source = with(
        event("VirtualMachineInstance", "db-0", "FailedMigration", said),
        &json!({"source": {"component": "virt-handler", "host": "n1"}}),
    );
    let vm = vm_of(&[vmi(), launcher(), target(), vmim("Running"), by_source]);
    for of in found(&vm.findings, FindingCode::ErrorSaid) {
        let told = of.finding.attributes().get("side").map(ToOwned::to_owned);
        let node = if of.side == Some(Side::Target) { "n2" } else { "n1" };
        assert_eq!(
            (told.as_deref().unwrap_or("source"), of.node.as_deref()),
            (of.side.expect("a side").as_str(), Some(node))
        );
    }
}
