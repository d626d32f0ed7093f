//! Secrets planted wherever people put them, and what is left of a snapshot that is narrowed to one VM or node.

use std::{collections::BTreeMap, sync::Arc};

use kulprit_cluster::{Asked, Cluster};
use kulprit_diagnosis::{ClusterSight, NodeView, VmView, symptom_of, symptoms};
use kulprit_model::{
    Attributes, Disk, Domain, Evidence, FindingCode, Moment, Occurrence, Qemu, Stamp, State, Status, Subject,
};
use kulprit_signature::Signatures;

use super::*;
use crate::store::HistoryPosition;

const AT: Moment = Moment { wall_usec: 1_772_360_100_000_000, boottime_usec: 9_000_000_000 };

/// Every one is in the snapshot somewhere, and must be in no file.
fn secret(n: usize) -> String {
    format!("hunter2-{n}")
}

fn planted(n: usize) -> String {
    format!("went wrong, password={}", secret(n))
}

fn state(code: FindingCode, subject: Subject, n: usize) -> State {
    State {
        code,
        subject,
        status: Status::Present,
        since: AT.offset_usec(-60_000_000),
        looked: AT,
        unknown_because: Some(planted(n)),
        attributes: Attributes::new().with("object", planted(n + 1)).with("token", secret(n + 2)),
        evidence: vec![Evidence::new("kmsg", AT, planted(n + 3))],
    }
}

fn node(name: &str, n: usize) -> NodeView {
    let seen = Occurrence {
        code: FindingCode::ErrorSaid,
        subject: Subject::Node,
        first: AT,
        last: AT,
        count: 1,
        attributes: Attributes::new().with("server", format!("https://admin:{}@host/", secret(n))),
        evidence: vec![Evidence::new("journal", AT, planted(n + 1))],
    };
    NodeView {
        name: name.to_owned(),
        is_reporting: true,
        last_heard_wall_usec: Some(AT.wall_usec),
        states: vec![state(FindingCode::KubeletInactive, Subject::unit("kubelet.service"), n + 2)].into(),
        occurrences: vec![seen].into(),
        cannot_show: vec![planted(n + 6)],
        ..NodeView::default()
    }
}

/// VMs of Kubernetes as its objects tell them, with secrets wherever people put them.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.set_live();
    let metadata = |name: &str, uid: &str| {
        json!({"namespace": "prod", "name": name, "uid": uid, "creationTimestamp": "2026-03-01T09:00:00Z", "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": format!("{{\"password\":\"{}\"}}", secret(900)), "vault": secret(901)},
            "labels": {"secret": secret(902)}})
    };
    let volumes = json!([{"name": "init", "cloudInitNoCloud": {"userData": format!("#cloud-config\npassword: {}", secret(903)),
        "userDataBase64": secret(904), "networkData": secret(905)}}]);
    let domain = json!({"devices": {}});
    for (name, uid) in [("db-0", "uid-0"), ("web-0", "uid-1")] {
        let spec = json!({"running": true, "template": {"spec": {"domain": domain, "volumes": volumes}}});
        let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": metadata(name, &format!("vm-{uid}")),
            "spec": spec, "status": {"printableStatus": "Running", "conditions": [{"type": "Ready", "status": "False",
                "reason": "x", "message": planted(906)}]}});
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata(name, uid),
            "spec": {"domain": domain, "volumes": volumes, "accessCredentials": [{"userPassword": {"x": secret(907)}}]},
            "status": {"phase": "Running", "nodeName": "n1", "conditions": [
                {"type": "Synchronized", "status": "False", "reason": "y", "message": planted(908)},
                {"type": "Paused", "status": "True", "reason": planted(909), "lastTransitionTime": "2026-03-01T10:00:00Z"}]}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "prod", "name": format!("virt-launcher-{name}-x7k2p"),
            "uid": format!("pod-{uid}"), "labels": {"kubevirt.io": "virt-launcher", "vm.kubevirt.io/name": name},
            "ownerReferences": [{"kind": "VirtualMachineInstance", "name": name}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "compute", "image": "i", "env": [{"name": "DB_PASSWORD", "value": secret(910)},
                {"name": "PLAIN", "value": secret(911)}], "args": ["--token", secret(912)]}]},
            "status": {"phase": "Running", "message": planted(913)}});
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "prod", "name": format!("{name}.1")},
            "involvedObject": {"kind": "VirtualMachineInstance", "namespace": "prod", "name": name, "uid": uid}, "type": "Warning",
            "reason": "SyncFailed", "message": planted(914), "count": 1, "lastTimestamp": "2026-03-01T10:14:00Z"});
        for object in [vm, vmi, pod, event] {
            cluster.add(&object).unwrap();
        }
    }
    cluster
}

fn snapshot() -> Snapshot {
    let cluster = cluster();
    let asked = Asked { at_usec: AT.wall_usec, ..Asked::default() };
    let signatures = Signatures::new();
    let disk = Disk { path: format!("rbd:pool/img:password={}", secret(1)), ..Disk::default() };
    let qemu = Qemu { uid: "uid-0".to_owned(), name: None, pid: 7, start_ticks: 1, since: AT, disks: vec![disk] };
    let domain = Domain {
        uid: "uid-0".to_owned(),
        name: "prod_db-0".to_owned(),
        state: 1,
        reason: 1,
        since: AT,
        is_persistent: false,
    };
    let view = VmView {
        uid: "uid-0".to_owned(),
        namespace: Some("prod".to_owned()),
        name: "db-0".to_owned(),
        domain: Some(domain),
        qemu: Some(qemu),
        last_qemu: None,
    };
    let mut near = node("n1", 10);
    near.vms = vec![view].into();
    let vms = ["db-0", "web-0"].map(|name| Arc::new(cluster.describe("prod", name, &asked, &signatures)));
    Snapshot {
        reference_wall_usec: AT.wall_usec,
        nodes: vec![near, node("n2", 30)],
        cluster_vms: vms.into(),
        cluster_nodes: Vec::new(),
        cluster_sight: ClusterSight { is_watched: true, until_usec: None, unseen: vec![planted(2)] },
        ..Snapshot::default()
    }
}

fn about_db() -> About {
    About::Vm { namespace: "prod".to_owned(), name: "db-0".to_owned(), migration: None }
}

fn entry() -> HistoryEntry {
    let said = State { unknown_because: None, ..state(FindingCode::KvmDeviceMissing, Subject::Node, 50) };
    let record =
        Record { stamp: Stamp { boot_id: "boot-1".to_owned(), epoch: 1, seq: 5, at: AT }, body: Body::State(said) };
    let position = HistoryPosition { at_wall_usec: AT.wall_usec, day: 0, row: 1 };
    HistoryEntry { position, node: "n1".to_owned(), record: record.into() }
}

fn files(recording: Recording) -> BTreeMap<String, String> {
    let text = |file: CaseFile| (file.path, String::from_utf8(file.content).unwrap());
    recording.into_parts().0.into_iter().map(text).collect()
}

fn recorded() -> Recording {
    let snapshot = snapshot();
    let symptoms = vec![symptom_of(&snapshot, "uid-0", None, true)];
    let known = ["n1", "n2"].map(|name| v1::Node { name: name.to_owned(), os: planted(3), ..v1::Node::default() });
    let mut recording = Recording::new(&snapshot, &symptoms, &about_db(), &known);
    recording.add_history("n1", vec![entry()], false);
    recording
}

#[test]
fn no_secret_is_in_any_file_wherever_it_was_planted() {
    let known = format!("{:?}", snapshot());
    assert!(known.contains("hunter2-914"), "a message of an event is known, so it has to be cleaned");
    let recording = recorded();
    assert!(recording.n_secrets > 5);
    for (path, text) in files(recording) {
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }
}

#[test]
fn the_files_are_a_case_and_the_same_engine_says_the_same_of_it() {
    let snapshot = snapshot();
    let files = files(recorded());
    let paths: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(paths, ["case.yaml", "nodes/n1/history.jsonl", "nodes/n1/node.json", "snapshot.json"]);
    assert!(files["case.yaml"].contains("at: 2026-03-01T10:15:00Z\nsubject: {namespace: \"prod\", name: \"db-0\"}\n"));
    let read = read_snapshot(serde_json::from_str(&files["snapshot.json"]).unwrap()).unwrap().snapshot;
    let said = |snapshot: &Snapshot| {
        let verdict = attribute(snapshot, &symptom_of(snapshot, "uid-0", None, true));
        let causes = verdict.causes.iter().map(|cause| (cause.id, cause.probability.to_bits(), cause.chain.clone()));
        (verdict.symptom.id, causes.collect::<Vec<_>>())
    };
    assert_eq!(said(&read), said(&snapshot));
    let line: Value = serde_json::from_str(files["nodes/n1/history.jsonl"].trim_end()).unwrap();
    assert_eq!((&line["boot_id"], &line["seq"]), (&json!("boot-1"), &json!(5)));
    assert_eq!(line["finding"]["state"]["code"], "KvmDeviceMissing");
}

#[test]
fn a_record_that_cannot_be_read_is_told() {
    let mut recording = recorded();
    let mut foreign = entry();
    foreign.record.body = None;
    recording.add_history("n2", vec![foreign], false);
    assert!(recording.notes.contains(&"1 records of n2 are left out: this version cannot read them".to_owned()));
    assert!(!files(recording).contains_key("nodes/n2/history.jsonl"));
}

#[test]
fn of_others_there_are_names_only() {
    let files = files(recorded());
    let read = read_snapshot(serde_json::from_str(&files["snapshot.json"]).unwrap()).unwrap().snapshot;
    let [db, web] = read.cluster_vms.as_slice() else { panic!("{:?}", read.cluster_vms) };
    assert!(!db.findings.is_empty() && db.life.has_vmi);
    assert!(web.findings.is_empty() && !web.life.has_vmi, "another VM's objects are not this case's");
    assert_eq!(web.name, "web-0", "whose a finding is is told by names");
    let far = read.node("n2").unwrap();
    assert!(far.states.is_empty() || far.states.iter().all(|state| state.code != FindingCode::KubeletInactive));
}

#[test]
fn a_node_is_recorded_with_the_vms_on_it() {
    let snapshot = snapshot();
    let shown = symptoms(&snapshot);
    let is_n1 = |symptom: &&Symptom| matches!(&symptom.subject, kulprit_diagnosis::SymptomSubject::Node { node } if node == "n1");
    let own: Vec<Symptom> = shown.iter().filter(is_n1).cloned().collect();
    assert_eq!(own.len(), 1, "{shown:?}");
    let files = files(Recording::new(&snapshot, &own, &About::Node { name: "n1".to_owned() }, &[]));
    assert!(files["case.yaml"].ends_with("subject: {node: \"n1\"}\n"), "{}", files["case.yaml"]);
    let read = read_snapshot(serde_json::from_str(&files["snapshot.json"]).unwrap()).unwrap().snapshot;
    assert!(read.cluster_vms.iter().all(|vm| vm.life.has_vmi));
}

#[test]
fn a_node_with_a_name_like_a_path_is_a_folder_of_the_case() {
    for (name, want) in [("n1.example", "n1.example"), ("../../etc", ".._.._etc"), ("..", "_.."), ("a b/c", "a_b_c")] {
        assert_eq!(file_name(name), want);
    }
}
