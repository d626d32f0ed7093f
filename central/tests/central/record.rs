//! A case over the wire: its files in pieces, and what a bad question is told.

use std::collections::BTreeMap;

use kulprit_model::Status;
use kulprit_proto::v1::{self, record_case_request::Subject};
use tonic::Code;

use crate::{
    agent::{domain, kubelet},
    app::App,
};

const A: &str = "00000000-0000-4000-8000-00000000000a";

fn request(subject: Option<Subject>) -> v1::RecordCaseRequest {
    v1::RecordCaseRequest { subject, from_wall_usec: 0, to_wall_usec: 0 }
}

async fn record(app: &App, subject: Subject) -> (BTreeMap<String, String>, Vec<String>) {
    let mut messages = app.query.clone().record_case(request(Some(subject))).await.unwrap().into_inner();
    let (mut files, mut notes) = (BTreeMap::<String, Vec<u8>>::new(), Vec::new());
    while let Some(v1::RecordCaseResponse { path, content, note }) = messages.message().await.unwrap() {
        if path.is_empty() {
            notes.push(note);
        } else {
            files.entry(path).or_default().extend(content);
        }
    }
    (files.into_iter().map(|(path, content)| (path, String::from_utf8(content).unwrap())).collect(), notes)
}

#[tokio::test]
async fn a_vm_and_a_node_are_recorded_with_their_history() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let now = app.now();
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![kubelet(Status::Present, now), domain(A, "db-0", now)], now).await;
    agent.acked(2).await;
    for subject in [Subject::Vm("db-0".to_owned()), Subject::Node("n1".to_owned())] {
        let (files, notes) = record(&app, subject.clone()).await;
        let paths: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            ["case.yaml", "nodes/n1/history.jsonl", "nodes/n1/node.json", "snapshot.json"],
            "{subject:?}"
        );
        assert_eq!(notes, [] as [String; 0]);
        assert!(files["nodes/n1/history.jsonl"].contains("KubeletInactive"), "{files:?}");
        assert!(files["nodes/n1/node.json"].contains("0.0.0-test"), "{files:?}");
        assert!(files["snapshot.json"].contains("KubeletInactive") && files["snapshot.json"].contains(A));
    }
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_recorded_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut query = app.query.clone();
    let mut backwards = request(Some(Subject::Node("n1".to_owned())));
    (backwards.from_wall_usec, backwards.to_wall_usec) = (2, 1);
    for (request, code, text) in [
        (request(None), Code::InvalidArgument, "subject: missing: a VM, a migration or a node"),
        (request(Some(Subject::Vm(String::new()))), Code::InvalidArgument, "subject: missing"),
        (backwards, Code::InvalidArgument, "from_wall_usec: later than to_wall_usec"),
        (request(Some(Subject::Vm("x".to_owned()))), Code::NotFound, "no VM `x`; VMs known: 0, on nodes: 0"),
        (
            request(Some(Subject::Migration("m".to_owned()))),
            Code::NotFound,
            "no migration `m`: no Kubernetes is watched",
        ),
        (request(Some(Subject::Node("n9".to_owned()))), Code::NotFound, "no node `n9`; no node has reported yet"),
    ] {
        let status = query.record_case(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    app.stop().await;
}
