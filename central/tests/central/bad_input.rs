//! A cluster that misleads: clocks that are apart, VMs that are made anew or move while they are looked at, agents and nodes that do not know
//! of each other, objects with nonsense in them.

use std::time::Duration;

use kulprit_model::{Attributes, Body, FindingCode, Moment, Occurrence, Status, Subject};
use kulprit_proto::v1;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    agent::{Agent, PATIENCE, domain, hello, state},
    api::Api,
    app::{App, START},
};

const MIN: i64 = 60_000_000;
const A: &str = "00000000-0000-4000-8000-00000000000a";
const B: &str = "00000000-0000-4000-8000-00000000000b";

fn secs_before(at: Moment, secs: i64) -> Moment {
    at.offset_usec(-secs * 1_000_000)
}

/// As objects have it.
fn time(at: Moment) -> Value {
    json!(jiff::Timestamp::from_microsecond(at.wall_usec).unwrap().to_string())
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"devices.kubevirt.io/kvm": "1k"}}})
}

/// The VMI `prod/<name>` on `n1`, in a phase since a moment.
fn vmi(name: &str, uid: &str, phase: &str, since: Moment) -> Value {
    json!({"kind": "VirtualMachineInstance",
        "metadata": {"namespace": "prod", "name": name, "uid": uid, "creationTimestamp": time(secs_before(since, 5))},
        "status": {"phase": phase, "nodeName": "n1",
            "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": time(since)}]}})
}

fn launcher(name: &str, uid: &str, on: &str, phase: &str, since: Moment) -> Value {
    json!({"kind": "Pod", "metadata": {"namespace": "prod", "name": format!("virt-launcher-{name}-{}", &uid[31..]),
            "uid": format!("pod-of-{uid}-on-{on}"), "creationTimestamp": time(since),
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid}},
        "spec": {"nodeName": on, "containers": [{"name": "compute"}]}, "status": {"phase": phase}})
}

async fn ask(app: &App, vm: &str) -> Result<v1::Verdict, tonic::Status> {
    let request = v1::ExplainVmRequest { vm: vm.to_owned(), node: String::new() };
    Ok(app.query.clone().explain_vm(request).await?.into_inner().verdicts.remove(0))
}

/// Waits until `is` holds of what is said of a VM.
async fn wait_for(app: &App, vm: &str, is: impl Fn(&v1::Verdict) -> bool) -> v1::Verdict {
    let mut last = None;
    let waited = timeout(PATIENCE, async {
        loop {
            match ask(app, vm).await {
                Ok(verdict) if is(&verdict) => return verdict,
                other => last = Some(other),
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("what is said of {vm} stays {last:#?}"))
}

/// To be waited for: the watches on VMIs and on pods are not in step.
fn is_well_on(node: &str, verdict: &v1::Verdict) -> bool {
    verdict.symptom == "Unspecified" && verdict.subject.as_ref().is_some_and(|subject| subject.node == node)
}

/// Central, with `prod/db-0` that runs on `n1` since then.
async fn start_with_one_that_runs(since: Moment) -> (TempDir, Api, App) {
    let folder = tempfile::tempdir().unwrap();
    let objects =
        vec![node("n1"), node("n2"), vmi("db-0", A, "Running", since), launcher("db-0", A, "n1", "Running", since)];
    let api = Api::start(objects).await;
    let app = api.central(folder.path(), START).await;
    (folder, api, app)
}

async fn connect(app: &App, node: &str, behind_usec: i64, bodies: impl FnOnce(Moment) -> Vec<Body>) -> Agent {
    let theirs = app.now().offset_usec(-behind_usec);
    let mut agent = Agent::connect(app.grpc(), hello(node, 1, theirs)).await;
    agent.snapshot(bodies(theirs), theirs).await;
    agent.acked(agent.seq).await;
    agent
}

/// What is said of a VM that does not start for want of KVM, whose node, and whose API server, are behind central by so much.
async fn told(api_behind_usec: i64, node_behind_usec: i64) -> v1::Verdict {
    let folder = tempfile::tempdir().unwrap();
    let theirs = START.offset_usec(-api_behind_usec);
    let since = secs_before(theirs, 130);
    let api = Api::start(vec![
        node("n1"),
        node("n2"),
        vmi("db-0", A, "Scheduled", since),
        launcher("db-0", A, "n1", "Running", since),
    ])
    .await;
    api.stand_at(theirs.wall_usec);
    let app = api.central(folder.path(), START).await;
    let _agent = connect(&app, "n1", node_behind_usec, |theirs| {
        let killed = Occurrence {
            code: FindingCode::NodeOomKill,
            subject: Subject::Process { pid: 99, start_ticks: 0 },
            first: secs_before(theirs, 600),
            last: secs_before(theirs, 600),
            count: 1,
            attributes: Attributes::new(),
            evidence: Vec::new(),
        };
        vec![
            state(FindingCode::KvmDeviceMissing, Subject::Node, Status::Present, secs_before(theirs, 140)),
            Body::Occurrence(killed),
        ]
    })
    .await;
    let verdict = wait_for(&app, "prod/db-0", |verdict| !verdict.causes[0].evidence.is_empty()).await;
    app.stop().await;
    verdict
}

#[tokio::test]
async fn clocks_that_are_minutes_apart_change_no_verdict() {
    let together = told(0, 0).await;
    let since = START.wall_usec - 130_000_000;
    assert_eq!((together.symptom.as_str(), together.since_wall_usec), ("StuckStarting", since), "{together:#?}");
    assert_eq!(together.causes[0].id, "KvmDeviceMissing");
    for (api, node) in [(5, 0), (-5, 0), (0, 5), (0, -5), (5, -5), (-5, 5)] {
        let apart = told(api * MIN, node * MIN).await;
        assert_eq!(apart.symptom, together.symptom, "{api} {node}");
        assert!(apart.since_wall_usec.abs_diff(since) <= 1_000_000, "{api} {node}: {}", apart.since_wall_usec - since);
        let causes = |verdict: &v1::Verdict| -> Vec<String> {
            verdict.causes.iter().map(|cause| format!("{} {:.2}", cause.id, cause.probability)).collect()
        };
        assert_eq!(causes(&apart), causes(&together), "{api} {node}");
        let evidence = |verdict: &v1::Verdict| verdict.causes[0].evidence.clone();
        for (seen, want) in evidence(&apart).iter().zip(&evidence(&together)) {
            assert_eq!((&seen.source, &seen.node), (&want.source, &want.node), "{api} {node}");
            assert!(seen.at_wall_usec.abs_diff(want.at_wall_usec) <= 1_000_000, "{api} {node}: {seen:?} {want:?}");
        }
    }
}

#[tokio::test]
async fn a_vm_that_is_made_anew_with_the_same_name_has_a_life_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (stuck, since) = (secs_before(START, 300), secs_before(START, 20));
    let (old, old_pod) = (vmi("db-0", A, "Scheduled", stuck), launcher("db-0", A, "n1", "Running", stuck));
    let api = Api::start(vec![node("n1"), node("n2"), old.clone(), old_pod.clone()]).await;
    let app = api.central(folder.path(), START).await;
    let missing = |at| vec![state(FindingCode::KvmDeviceMissing, Subject::Node, Status::Present, secs_before(at, 310))];
    let _agent = connect(&app, "n1", 0, missing).await;
    wait_for(&app, A, |verdict| verdict.symptom == "StuckStarting").await;
    let incident = app.wait_for_open_incidents(1).await.remove(0);

    // Deleted, and made anew while the incident is open; on another node, where it runs.
    api.remove(&old);
    api.remove(&old_pod);
    let mut new = vmi("db-0", B, "Running", since);
    new["status"]["nodeName"] = json!("n2");
    api.put(new);
    api.put(launcher("db-0", B, "n2", "Running", since));
    let well = wait_for(&app, "prod/db-0", |verdict| is_well_on("n2", verdict)).await;
    assert_eq!((well.subject.as_ref().unwrap().uid.as_str(), well.incident_id.as_str()), (B, ""), "{well:#?}");
    assert!(well.unknown.contains(&"n2: no agent of this node has ever reported".to_owned()), "{:?}", well.unknown);
    assert_eq!(ask(&app, A).await.unwrap_err().code(), tonic::Code::NotFound);
    let members = || async {
        let all = v1::ListIncidentsRequest { include_closed: true, ..Default::default() };
        let incidents = app.query.clone().list_incidents(all).await.unwrap().into_inner().incidents;
        let of = incidents.iter().find(|one| one.id == incident.id).unwrap();
        of.members
            .iter()
            .filter_map(|member| member.subject.as_ref())
            .map(|subject| subject.uid.clone())
            .collect::<Vec<_>>()
    };
    assert!(!members().await.iter().any(|uid| uid == B));

    // Under another name it is another one: nothing of it is left under the old.
    api.remove(&vmi("db-0", B, "Running", since));
    api.remove(&launcher("db-0", B, "n2", "Running", since));
    api.put(vmi("db-1", B, "Running", since));
    api.put(launcher("db-1", B, "n1", "Running", since));
    // Until its pod is seen as well, it is a VM that should run and does not.
    let renamed = wait_for(&app, "prod/db-1", |verdict| verdict.symptom == "Unspecified").await;
    assert_eq!(renamed.subject.map(|subject| subject.uid).as_deref(), Some(B));
    let gone = timeout(PATIENCE, async {
        while ask(&app, "prod/db-0").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    gone.await.expect("nobody knows the old name");
    app.stop().await;
}

#[tokio::test]
async fn a_vm_that_moves_while_it_is_explained_is_explained_where_it_is() {
    let since = secs_before(START, 3_600);
    let (_folder, api, app) = start_with_one_that_runs(since).await;
    let frozen = |at| {
        let hung = state(FindingCode::QemuStopped, Subject::vm(A), Status::Present, secs_before(at, 120));
        vec![hung, domain(A, "prod_db-0", secs_before(at, 3_600))]
    };
    let _source = connect(&app, "n1", 0, frozen).await;
    let well = |at| {
        let runs = state(FindingCode::QemuStopped, Subject::vm(A), Status::Absent, at);
        vec![runs, domain(A, "prod_db-0", secs_before(at, 10))]
    };
    let _target = connect(&app, "n2", 0, well).await;
    let hung = wait_for(&app, "prod/db-0", |verdict| verdict.symptom == "Unresponsive").await;
    assert_eq!(hung.subject.as_ref().unwrap().node, "n1");
    let moved_at = time(START);
    let mut moved = vmi("db-0", A, "Running", since);
    moved["status"]["nodeName"] = json!("n2");
    moved["status"]["migrationState"] = json!({"migrationUid": "m-uid", "sourceNode": "n1", "targetNode": "n2",
        "startTimestamp": moved_at.clone(), "endTimestamp": moved_at, "completed": true});
    api.put(moved);
    api.put(launcher("db-0", "00000000-0000-4000-8000-00000000000c", "n2", "Running", START));
    let mut over = launcher("db-0", A, "n1", "Succeeded", since);
    over["metadata"]["labels"]["kubevirt.io/created-by"] = json!(A);
    api.put(over);
    // What n1 says of it is of a QEMU that it left.
    wait_for(&app, "prod/db-0", |verdict| is_well_on("n2", verdict)).await;
    app.stop().await;
}

#[tokio::test]
async fn an_agent_of_no_node_and_a_node_of_no_agent_are_said() {
    let (_folder, _api, app) = start_with_one_that_runs(secs_before(START, 3_600)).await;
    let well = |at| vec![state(FindingCode::KvmDeviceMissing, Subject::Node, Status::Absent, at)];
    let _ghost = connect(&app, "ghost", 0, well).await;
    let of_vm = wait_for(&app, "prod/db-0", |verdict| !verdict.unknown.is_empty()).await;
    assert_eq!(of_vm.unknown, ["n1: no agent of this node has ever reported"]);
    let node = |name: &str| v1::ExplainNodeRequest { node: name.to_owned() };
    let mut query = app.query.clone();
    let of_ghost = query.explain_node(node("ghost")).await.unwrap().into_inner().verdicts.remove(0);
    assert!(of_ghost.unknown[0].starts_with("ghost: Kubernetes has no node of this name"), "{:?}", of_ghost.unknown);
    let status = query.explain_node(node("n2")).await.unwrap_err();
    assert_eq!(status.message(), "no agent of node `n2` has ever reported; start one there");
    app.stop().await;
}

#[tokio::test]
async fn objects_with_nonsense_in_them_cost_only_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let stuck = secs_before(START, 300);
    let nonsense = [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!({}),
        json!({"from": {"the": ["future"]}}),
        json!(-1),
        json!(1e300),
        json!("9999-12-31T23:59:59Z"),
        json!("0000-00-00T00:00:00Z"),
        json!("\u{0}\u{7f}"),
    ];
    let mut objects =
        vec![node("n1"), node("n2"), vmi("db-0", A, "Scheduled", stuck), launcher("db-0", A, "n1", "Running", stuck)];
    let kinds = [
        "VirtualMachine",
        "VirtualMachineInstance",
        "VirtualMachineInstanceMigration",
        "KubeVirt",
        "MigrationPolicy",
        "Pod",
        "Event",
        "PersistentVolumeClaim",
        "PersistentVolume",
        "VolumeAttachment",
        "CSINode",
        "DataVolume",
        "Namespace",
        "Lease",
    ];
    for (n, bad) in nonsense.iter().enumerate() {
        for kind in kinds {
            let meta = json!({"namespace": "prod", "name": format!("bad-{n}"), "creationTimestamp": bad, "labels": bad, "ownerReferences": [bad]});
            objects.push(json!({"kind": kind, "metadata": meta, "spec": bad, "status": bad, "involvedObject": bad, "reason": "x"}));
            let inner = json!({"nodeName": bad, "phase": bad, "conditions": [bad], "containers": [bad], "affinity": bad,
                "topologySpreadConstraints": [bad], "selectors": bad, "vmiName": bad, "phaseTransitionTimestamps": [bad]});
            let meta = json!({"namespace": "prod", "name": format!("worse-{n}")});
            objects.push(json!({"kind": kind, "metadata": meta, "spec": inner, "status": inner}));
        }
    }
    let api = Api::start(objects).await;
    let app = api.central(folder.path(), START).await;
    let missing = |at| vec![state(FindingCode::KvmDeviceMissing, Subject::Node, Status::Present, secs_before(at, 310))];
    let _agent = connect(&app, "n1", 0, missing).await;
    let verdict = wait_for(&app, "prod/db-0", |verdict| verdict.causes[0].id == "KvmDeviceMissing").await;
    assert_eq!((verdict.symptom.as_str(), verdict.since_wall_usec), ("StuckStarting", stuck.wall_usec));
    for n in 0..nonsense.len() {
        for name in [format!("bad-{n}"), format!("worse-{n}")] {
            let of_bad = ask(&app, &format!("prod/{name}")).await.unwrap();
            assert!(of_bad.since_wall_usec <= START.wall_usec, "{name}: {of_bad:#?}");
        }
    }
    let request = v1::CanMigrateRequest { vm: "prod/db-0".to_owned(), to: String::new() };
    let answer = app.query.clone().can_migrate(request).await.unwrap().into_inner();
    assert_eq!(answer.answer(), v1::MigrationAnswer::No, "{answer:#?}");
    app.stop().await;
}
