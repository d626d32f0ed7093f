//! CanMigrate over gRPC: what a real cluster's recorded objects and the agents of its nodes say together.
//!
//! The API server here has the objects of `central/cluster/fixtures`, answers lists and keeps watches open. What it is asked for is its
//! path alone: of the rows of pods the first is given all of them.

use std::{net::SocketAddr, path::Path, time::Duration};

use kulprit_central::config::KubernetesConfig;
use kulprit_model::{FindingCode, Moment, Status, Subject};
use kulprit_proto::v1;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tonic::Code;

use crate::{
    agent::{Agent, PATIENCE, hello, state},
    app::App,
};

/// 2026-11-21T05:39:26Z, when the objects were recorded.
const AT: Moment = Moment { wall_usec: 1_795_239_566_000_000, boottime_usec: 5_000_000_000 };
const OBJECTS: &str = include_str!("../../cluster/fixtures/two-nodes.json");

/// An API server on a port that the kernel chooses.
async fn api_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let objects: Value = serde_json::from_str(OBJECTS).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, objects.clone()));
        }
    });
    address
}

/// Answers the requests of one connection, until it is asked for a watch: that stays open.
async fn serve(stream: TcpStream, objects: Value) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
        if stream.read_line(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
            line.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        if path.contains("watch=true") {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.get_mut().write_all(head.as_bytes()).await;
            std::future::pending::<()>().await;
        }
        let body = json!({"metadata": {"resourceVersion": "1"}, "items": items(&objects, path)}).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes()).await;
    }
}

fn items(objects: &Value, path: &str) -> Vec<Value> {
    let (resource, query) = path.split_once('?').unwrap_or((path, ""));
    let plural = resource.rsplit('/').next().unwrap_or_default();
    let is_pods_of_another_row = plural == "pods" && !query.contains("labelSelector=kubevirt.io");
    let is_asked = |item: &&Value| format!("{}s", item["kind"].as_str().unwrap_or_default()).to_lowercase() == plural;
    let items = objects["items"].as_array().unwrap().iter().filter(is_asked);
    if is_pods_of_another_row { Vec::new() } else { items.cloned().collect() }
}

async fn start(folder: &Path) -> App {
    let server = api_server().await;
    let kubeconfig = folder.join("kubeconfig");
    let text = format!(
        "current-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let kubernetes = KubernetesConfig { kubeconfig: Some(kubeconfig), ..KubernetesConfig::default() };
    App::start_on(folder, AT, kubernetes).await
}

async fn ask(app: &App, vm: &str, to: &str) -> Result<v1::CanMigrateResponse, tonic::Status> {
    let request = v1::CanMigrateRequest { vm: vm.to_owned(), to: to.to_owned() };
    app.query.clone().can_migrate(request).await.map(tonic::Response::into_inner)
}

/// Waits until `is` holds of the answer for `prod/db-0`.
async fn wait_for(app: &App, is: impl Fn(&v1::CanMigrateResponse) -> bool) -> v1::CanMigrateResponse {
    let mut last = None;
    let waited = timeout(PATIENCE, async {
        loop {
            let answer = ask(app, "prod/db-0", "").await;
            match answer {
                Ok(answer) if is(&answer) => return answer,
                other => last = Some(other),
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("the answer stays {last:#?}"))
}

#[tokio::test]
async fn objects_and_agents_decide_together() {
    let folder = tempfile::tempdir().unwrap();
    let app = start(folder.path()).await;

    let unseen = wait_for(&app, |answer| !answer.nodes.is_empty()).await;
    assert_eq!(unseen.answer(), v1::MigrationAnswer::Unknown, "{unseen:#?}");
    let subject = unseen.subject.clone().unwrap();
    assert_eq!((subject.namespace.as_str(), subject.name.as_str(), subject.node.as_str()), ("prod", "db-0", "n2"));
    assert_eq!((unseen.nodes.len(), unseen.nodes[0].node.as_str()), (1, "n1"));
    assert_eq!(unseen.nodes[0].fit(), v1::MigrationFit::Unseen);
    assert!(unseen.nodes[0].unknown[0].contains("no agent"), "{unseen:#?}");
    assert_eq!(unseen.blockers, []);
    let terms = unseen.terms.clone().unwrap();
    assert_eq!((terms.per_cluster, terms.per_node, terms.completion_secs_per_gib), (5, 2, 150));

    let now = app.now();
    let mut agents = Vec::new();
    for (node, status) in [("n1", Status::Present), ("n2", Status::Absent)] {
        let mut agent = Agent::connect(app.grpc(), hello(node, 1, now)).await;
        agent.snapshot(vec![state(FindingCode::KvmDeviceMissing, Subject::Node, status, now)], now).await;
        agent.acked(1).await;
        agents.push(agent);
    }
    let no = wait_for(&app, |answer| answer.answer() == v1::MigrationAnswer::No).await;
    assert_eq!(no.nodes[0].fit(), v1::MigrationFit::DoesNotFit, "{no:#?}");
    assert_eq!(no.nodes[0].misfits[0].cause, "KvmDeviceMissing");
    assert!(no.because.contains("n1 does not fit"), "{}", no.because);

    agents[0].say(state(FindingCode::KvmDeviceMissing, Subject::Node, Status::Absent, now), now).await;
    let yes = wait_for(&app, |answer| answer.answer() != v1::MigrationAnswer::No).await;
    assert_eq!(yes.answer(), v1::MigrationAnswer::YesWithWarnings, "not everything was looked at: {yes:#?}");
    assert!(yes.because.starts_with("n1 fits"), "{}", yes.because);
    app.stop().await;
}

#[tokio::test]
async fn a_bad_question_about_a_migration_is_answered_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let app = start(folder.path()).await;
    wait_for(&app, |answer| !answer.nodes.is_empty()).await;
    for (vm, to, code, text) in [
        ("", "", Code::InvalidArgument, "vm: missing"),
        ("prod/db-0", "n2", Code::InvalidArgument, "to: the VM is on `n2` already"),
        ("prod/db-0", "n9", Code::NotFound, "to: Kubernetes has no node `n9`"),
        ("prod/web-0", "", Code::NotFound, "no VM `prod/web-0`; VMs known: 1, on nodes: 0"),
    ] {
        let status = ask(&app, vm, to).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    assert_eq!(ask(&app, "db-0", "n1").await.unwrap().nodes.len(), 1);
    app.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let alone = App::start(folder.path()).await;
    let status = ask(&alone, "db-0", "").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().starts_with("no Kubernetes is watched"), "{status}");
    alone.stop().await;
}
