//! Where a VM is in its life.

use super::*;

fn vm(status: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "db-0", "namespace": "prod", "uid": "vm-1"},
        "spec": {"runStrategy": "Always"}, "status": {"printableStatus": status}})
}

#[test]
fn a_vm_tells_what_it_wants() {
    for (spec, want) in [
        (json!({"runStrategy": "Always"}), Some(true)),
        (json!({"runStrategy": "Halted"}), Some(false)),
        (json!({"runStrategy": "Manual"}), None),
        (json!({"runStrategy": null, "running": true}), Some(true)),
        (json!({"runStrategy": null}), None),
    ] {
        let life = vm_of(&[with(vm("Running"), &json!({"spec": spec}))]).life;
        assert_eq!(life.wants_to_run, want, "{spec}");
        assert!(life.has_vm && !life.has_vmi);
    }
}

// virt-controller leaves it off until somebody asks, once it has seen the strategy: pkg/virt-controller/watch/vm/vm.go, syncRunStrategy.
#[test]
fn a_vm_that_is_rerun_on_failure_stays_off_when_it_was_shut_down() {
    let strategy = json!({"spec": {"runStrategy": "RerunOnFailure"}});
    let wants =
        |status: Value| vm_of(&[with(with(vm("Stopped"), &strategy), &json!({"status": status}))]).life.wants_to_run;
    let asked = |action: &str| json!({"runStrategy": "RerunOnFailure", "stateChangeRequests": [{"action": action}]});
    assert_eq!(wants(json!({"runStrategy": "RerunOnFailure"})), None);
    assert_eq!(wants(asked("Start")), Some(true));
    assert_eq!(wants(asked("Stop")), None);
    assert_eq!(wants(json!({"runStrategy": "Halted"})), Some(true), "it was changed just now");
    assert_eq!(wants(json!({})), Some(true), "a controller that has not seen it, or is too old to tell");
    let manual = json!({"spec": {"runStrategy": "Manual"}, "status": asked("Start")});
    assert_eq!(vm_of(&[with(vm("Stopped"), &manual)]).life.wants_to_run, Some(true));
}

#[test]
fn the_uid_is_the_vmis_and_all_are_known() {
    let described = vm_of(&[vm("Running"), vmi()]);
    assert_eq!((described.uid.as_str(), described.uids), ("vmi-1", vec!["vm-1".to_owned(), "vmi-1".to_owned()]));
    assert_eq!(vm_of(&[vm("Running")]).uid, "vm-1");
}

#[test]
fn pauses_deletions_and_phases_have_their_times() {
    let paused = with(
        vmi(),
        &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}, "status": {"conditions": [
        {"type": "Paused", "status": "True", "reason": "PausedIOError", "lastTransitionTime": "2026-03-01T10:10:00Z"},
        {"type": "Synchronized", "status": "False", "reason": "R", "message": "M"},
        {"type": "Ready", "status": "False", "reason": "GuestNotRunning"}]}}),
    );
    let life = vm_of(&[vm("Paused"), paused]).life;
    assert_eq!(
        (life.paused_reason.as_deref(), life.paused_since_usec),
        (Some("PausedIOError"), Some(usec("2026-03-01T10:10:00Z")))
    );
    assert_eq!(
        (life.printable_since_usec, life.vmi_deleted_usec),
        (life.paused_since_usec, Some(usec("2026-03-01T10:14:00Z")))
    );
    assert_eq!(life.not_synchronized, Some(("R".to_owned(), "M".to_owned())));
    assert_eq!(
        (life.not_ready_reason.as_deref(), life.phase_since_usec),
        (Some("GuestNotRunning"), Some(usec("2026-03-01T09:00:10Z")))
    );
}

#[test]
fn the_launchers_status_is_what_kubectl_prints() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let container = |state: Value| json!([{"name": "compute", "ready": false, "state": state}]);
    let init =
        |state: Value| json!([{"name": "a", "state": {"terminated": {"exitCode": 0}}}, {"name": "b", "state": state}]);
    for (status, want) in [
        (
            json!({"phase": "Pending", "containerStatuses": container(waiting("ContainerCreating"))}),
            "ContainerCreating",
        ),
        (json!({"phase": "Running", "containerStatuses": container(waiting("CrashLoopBackOff"))}), "CrashLoopBackOff"),
        (
            json!({"phase": "Failed", "containerStatuses": container(json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}}))}),
            "OOMKilled",
        ),
        (json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": []}), "Evicted"),
        (
            json!({"phase": "Pending", "initContainerStatuses": init(waiting("PodInitializing")), "containerStatuses": container(waiting("PodInitializing"))}),
            "Init:1/2",
        ),
        (json!({"phase": "Pending", "initContainerStatuses": init(waiting("ErrImagePull"))}), "Init:ErrImagePull"),
        (
            json!({"phase": "Pending", "initContainerStatuses": init(json!({"terminated": {"exitCode": 3}}))}),
            "Init:ExitCode:3",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": container(json!({"terminated": {"reason": "Completed", "exitCode": 0}}))}),
            "Completed",
        ),
    ] {
        let life = vm_of(&[with(launcher(), &json!({"status": status}))]).life;
        assert_eq!(life.launcher_status.as_deref(), Some(want), "{status}");
    }
    let going = vm_of(&[with(launcher(), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}}))]).life;
    assert_eq!(
        (going.launcher_status.as_deref(), going.launcher_phase.as_deref()),
        (Some("Terminating"), Some("Terminating"))
    );
}

#[test]
fn who_asked_for_a_migration_is_told_by_its_marks() {
    for (change, want) in [
        (json!({}), "user"),
        (json!({"annotations": {"kubevirt.io/evacuationMigration": "n1"}}), "evacuation"),
        (json!({"generateName": "kubevirt-evacuation-"}), "evacuation"),
        (json!({"annotations": {"kubevirt.io/workloadUpdateMigration": ""}}), "workload-update"),
        (
            json!({"generateName": "kubevirt-evacuation-", "annotations": {"kubevirt.io/eviction-source": "descheduler"}}),
            "descheduler",
        ),
    ] {
        let life = vm_of(&[vmi(), with(vmim("Running"), &json!({"metadata": change}))]).life;
        assert_eq!(life.migration.unwrap().initiator.as_deref(), Some(want), "{change}");
    }
}

#[test]
fn an_evacuation_has_its_node_and_its_beginning() {
    let to_leave = with(vmi(), &json!({"status": {"evacuationNodeName": "n1"}}));
    let migration = with(vmim("Pending"), &json!({"metadata": {"name": "kubevirt-evacuation-x"}}));
    let life = vm_of(&[to_leave, migration]).life;
    assert_eq!(life.evacuation, Some(("n1".to_owned(), Some(usec("2026-03-01T10:10:00Z")))));
    assert_eq!(vm_of(&[vmi()]).life.evacuation, None);
}

// Neither what moved it before nor what was for something else, and a failed attempt only while the next one follows it.
#[test]
fn an_evacuation_begins_with_the_first_of_the_attempts_that_follow_one_another() {
    let attempt = |name: &str, phase: &str, created: &str, ended: &str| {
        with(
            vmim(phase),
            &json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "status": {"phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": ended}],
                "migrationState": {"endTimestamp": if phase == "Failed" { json!(ended) } else { Value::Null }, "failed": phase == "Failed"}}}),
        )
    };
    let drain = |n: usize, phase: &str, created: &str, ended: &str| {
        attempt(&format!("kubevirt-evacuation-{n}"), phase, created, ended)
    };
    let (running, update) = ("Running", "kubevirt-workload-update-x");
    let now = || drain(9, running, "2026-03-01T10:13:00Z", "2026-03-01T10:13:10Z");
    let begun = Some(usec("2026-03-01T10:13:00Z"));
    for (others, want) in [
        (vec![now()], begun),
        (vec![now(), drain(1, "Succeeded", "2026-02-28T10:00:00Z", "2026-02-28T10:01:00Z")], begun),
        (vec![now(), drain(1, "Failed", "2026-02-28T10:00:00Z", "2026-02-28T10:01:00Z")], begun),
        (vec![now(), attempt(update, running, "2026-03-01T09:00:00Z", "2026-03-01T09:00:10Z")], begun),
        (
            vec![
                drain(1, "Failed", "2026-03-01T10:05:00Z", "2026-03-01T10:06:00Z"),
                drain(2, "Failed", "2026-03-01T10:07:00Z", "2026-03-01T10:12:00Z"),
                now(),
            ],
            Some(usec("2026-03-01T10:05:00Z")),
        ),
        (vec![drain(1, "Failed", "2026-03-01T10:10:00Z", "2026-03-01T10:12:00Z")], Some(usec("2026-03-01T10:10:00Z"))),
        (vec![drain(1, "Failed", "2026-03-01T09:10:00Z", "2026-03-01T09:12:00Z")], None),
        (vec![drain(1, "Succeeded", "2026-03-01T10:10:00Z", "2026-03-01T10:12:00Z")], None),
    ] {
        let to_leave = with(vmi(), &json!({"status": {"evacuationNodeName": "n1"}}));
        let seen = event("Pod", "x", "Started", "y");
        let objects: Vec<Value> = [to_leave, seen].into_iter().chain(others).collect();
        assert_eq!(vm_of(&objects).life.evacuation, Some(("n1".to_owned(), want)), "{:#?}", &objects[2..]);
    }
}

#[test]
fn an_unscheduled_vm_names_the_nodes_that_it_wants() {
    let waits = with(
        vmi(),
        &json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n7"}}, "status": {"phase": "Scheduling", "nodeName": null}}),
    );
    assert_eq!(vm_of(std::slice::from_ref(&waits)).wanted_nodes, ["n7"]);
    assert!(vm_of(&[waits, launcher()]).wanted_nodes.is_empty());
}
