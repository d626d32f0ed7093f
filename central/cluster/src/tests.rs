//! Objects as `kubectl` writes them, and what must be said of them; each fact from both sides.

mod life;
mod live;
mod migration;
mod node;
mod objects;
mod pod;
mod preflight;
mod steps;
mod volume;

use std::sync::LazyLock;

use kulprit_model::{Finding, FindingCode, Side, Status};
use kulprit_signature::Signatures;
use serde_json::{Value, json};

use crate::{Asked, Cluster, ClusterFinding, ClusterVm, value};

/// The table is compiled once.
pub(crate) static SIGNATURES: LazyLock<Signatures> = LazyLock::new(Signatures::new);

pub(crate) const AT: &str = "2026-03-01T10:15:00Z";

pub(crate) fn usec(time: &str) -> i64 {
    value::parse_time(time).expect("a time of a test")
}

pub(crate) fn cluster(objects: &[Value]) -> Cluster {
    let mut cluster = Cluster::new();
    for object in objects {
        cluster.add(object).expect("an object of a test");
    }
    cluster
}

pub(crate) fn asked() -> Asked {
    Asked { at_usec: usec(AT), ..Asked::default() }
}

/// The VM `prod/db-0` of these objects.
pub(crate) fn vm_of(objects: &[Value]) -> ClusterVm {
    cluster(objects).describe("prod", "db-0", &asked(), &SIGNATURES)
}

pub(crate) fn found(findings: &[ClusterFinding], code: FindingCode) -> Vec<&ClusterFinding> {
    findings.iter().filter(|of| of.finding.code() == code).collect()
}

pub(crate) fn status(finding: &Finding) -> Option<Status> {
    match finding {
        Finding::State(state) => Some(state.status),
        Finding::Occurrence(_) => None,
    }
}

/// The one finding of a code has this status, or there is none.
#[track_caller]
pub(crate) fn check(objects: &[Value], code: FindingCode, want: Option<Status>) -> Option<ClusterFinding> {
    let vm = vm_of(objects);
    let of_code = found(&vm.findings, code);
    let statuses: Vec<Status> = of_code.iter().filter_map(|of| status(&of.finding)).collect();
    match want {
        Some(want) => assert!(statuses.contains(&want), "{code} wanted {want}: {of_code:#?}"),
        None => assert!(statuses.is_empty(), "{code} wanted nothing: {of_code:#?}"),
    }
    of_code.into_iter().find(|of| status(&of.finding) == want).cloned()
}

#[track_caller]
pub(crate) fn attribute(of: Option<&ClusterFinding>, key: &str) -> String {
    of.expect("a finding").finding.attributes().get(key).unwrap_or_default().to_owned()
}

pub(crate) fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "prod"})
}

/// `base` with the fields of `change` over it, maps merged.
pub(crate) fn with(mut base: Value, change: &Value) -> Value {
    merge(&mut base, change);
    base
}

fn merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change.clone(),
    }
}

/// A VMI that runs on n1.
pub(crate) fn vmi() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "db-0", "namespace": "prod", "uid": "vmi-1", "creationTimestamp": "2026-03-01T09:00:00Z"},
        "spec": {"domain": {"memory": {"guest": "1Gi"}}},
        "status": {"phase": "Running", "nodeName": "n1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-01T09:00:10Z"}],
            "phaseTransitionTimestamps": [{"phase": "Running", "phaseTransitionTimestamp": "2026-03-01T09:00:10Z"}]}})
}

/// Its launcher, running on n1.
pub(crate) fn launcher() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "virt-launcher-db-0-abcde", "namespace": "prod", "uid": "pod-1", "creationTimestamp": "2026-03-01T09:00:00Z",
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": "vmi-1"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "compute", "image": "reg.example/virt-launcher:v1"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "compute", "ready": true, "imageID": "sha256:1", "state": {"running": {"startedAt": "2026-03-01T09:00:05Z"}}}]}})
}

/// A target pod of the migration `mig-1`, running on n2.
pub(crate) fn target() -> Value {
    with(
        launcher(),
        &json!({"metadata": {"name": "virt-launcher-db-0-fghij", "uid": "pod-2", "creationTimestamp": "2026-03-01T10:10:00Z",
            "labels": {"kubevirt.io/migrationJobUID": "mig-uid"}}, "spec": {"nodeName": "n2"}}),
    )
}

/// A migration in a phase.
pub(crate) fn vmim(phase: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "mig-1", "namespace": "prod", "uid": "mig-uid", "creationTimestamp": "2026-03-01T10:10:00Z"},
        "spec": {"vmiName": "db-0"},
        "status": {"phase": phase, "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": "2026-03-01T10:11:00Z"}]}})
}

pub(crate) fn event(kind: &str, name: &str, reason: &str, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "prod"}, "type": "Warning",
        "involvedObject": {"kind": kind, "name": name, "namespace": "prod"}, "reason": reason, "message": message, "count": 2,
        "firstTimestamp": "2026-03-01T10:12:00Z", "lastTimestamp": "2026-03-01T10:14:00Z"})
}

/// A node that is ready, offers KVM and has a fresh heartbeat.
pub(crate) fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true"}, "annotations": {"kubevirt.io/heartbeat": "2026-03-01T10:14:30Z"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "8", "devices.kubevirt.io/kvm": "1k"}, "capacity": {"devices.kubevirt.io/kvm": "1k"},
            "nodeInfo": {"kernelVersion": "6.1.0"},
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "False"},
                {"type": "DiskPressure", "status": "False"}, {"type": "PIDPressure", "status": "False"}]}})
}

#[test]
fn a_healthy_vm_shows_no_fault() {
    let vm = vm_of(&[vmi(), launcher(), node("n1"), node("n2")]);
    let present: Vec<_> = vm.findings.iter().filter(|of| status(&of.finding) != Some(Status::Absent)).collect();
    assert!(present.is_empty(), "{present:#?}");
    assert_eq!((vm.hosting.as_deref(), vm.source, vm.target), (Some("n1"), None, None));
    assert_eq!(vm.pods[0].side, Side::Hosting);
}

#[test]
fn another_vms_objects_are_not_this_ones() {
    let other = with(
        launcher(),
        &json!({"metadata": {"name": "virt-launcher-db-00-abcde", "labels": {"kubevirt.io/created-by": "vmi-9"}},
        "status": {"phase": "Failed", "reason": "Evicted"}}),
    );
    let said = event(
        "Pod",
        "virt-launcher-db-00-abcde",
        "FailedMount",
        "MountVolume.SetUp failed for volume \"x\" : timed out",
    );
    let vm = vm_of(&[vmi(), launcher(), other, said]);
    assert_eq!(vm.pods.len(), 1);
    assert!(found(&vm.findings, FindingCode::ErrorSaid).is_empty());
    assert_eq!(status(&found(&vm.findings, FindingCode::LauncherEvicted)[0].finding), Some(Status::Absent));
}
