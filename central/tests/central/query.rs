//! The query API: every RPC, and what it answers to a bad question.

use std::time::Duration;

use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    agent::{Agent, PATIENCE, channel, domain, hello, kubelet, state},
    api::{AT, Api},
    app::App,
};

const A: &str = "00000000-0000-4000-8000-00000000000a";
const B: &str = "00000000-0000-4000-8000-00000000000b";

/// Two nodes, each with a VM called `db-0`; the kubelet of `n1` is down.
async fn two_nodes(app: &App) -> (Agent, Agent) {
    let now = app.now();
    let mut first = app.agent(1).await;
    first.snapshot(vec![kubelet(Status::Present, now), domain(A, "db-0", now), domain(B, "web-0", now)], now).await;
    first.acked(3).await;
    let mut second = Agent::connect(app.grpc(), hello("n2", 1, now)).await;
    let healthy = state(FindingCode::KvmUnusable, Subject::Node, Status::Absent, now);
    second.snapshot(vec![healthy, domain(B, "db-0", now)], now).await;
    second.acked(2).await;
    (first, second)
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

#[tokio::test]
async fn every_question_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let _agents = two_nodes(&app).await;
    let incident = app.wait_for_open_incidents(1).await.remove(0);
    let mut query = app.query.clone();

    let all = query.list_verdicts(v1::ListVerdictsRequest::default()).await.unwrap().into_inner().verdicts;
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0].causes[0].id, "KubeletDown");
    assert_eq!(all[0].incident_id, incident.id);
    let sum: f64 = all[0].causes.iter().map(|cause| cause.probability).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum}");

    let on = |node: &str| v1::ListVerdictsRequest { node: node.to_owned() };
    assert_eq!(query.list_verdicts(on("n1")).await.unwrap().into_inner().verdicts.len(), 1);
    assert_eq!(query.list_verdicts(on("n2")).await.unwrap().into_inner().verdicts, []);

    let vm = v1::ExplainVmRequest { vm: "web-0".to_owned(), node: String::new() };
    let one = query.explain_vm(vm).await.unwrap().into_inner().verdicts;
    assert_eq!((one.len(), one[0].symptom.as_str()), (1, "Unspecified"));
    assert_eq!(one[0].symptom_text, "the VM shows no symptom; libvirt says running (booted)");
    let well =
        query.explain_node(v1::ExplainNodeRequest { node: "n2".to_owned() }).await.unwrap().into_inner().verdicts;
    assert_eq!(well[0].symptom_text, "the node shows no fault of its own");

    assert_eq!((incident.node.as_str(), incident.place.as_str()), ("n1", "node/n1"));
    assert_eq!(
        query.get_incident(v1::GetIncidentRequest { id: incident.id.clone() }).await.unwrap().into_inner(),
        incident
    );
    let nodes = query.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let shown: Vec<_> =
        nodes.iter().map(|node| (node.name.as_str(), node.is_reporting, node.n_vms, node.n_faults)).collect();
    assert_eq!(shown, [("n1", true, 2, 1), ("n2", true, 1, 0)]);
    assert_eq!(nodes[0].cluster, "lab");
    let detail = query.get_node(v1::GetNodeRequest { name: "n1".to_owned() }).await.unwrap().into_inner();
    assert_eq!((detail.findings.len(), detail.vms.len(), detail.node.as_ref()), (1, 2, Some(&nodes[0])));
    let vms = query.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms;
    let shown: Vec<_> = vms.iter().map(|vm| (vm.name.as_str(), vm.node.as_str(), vm.state.as_str())).collect();
    assert_eq!(shown, [("db-0", "n1", "running"), ("db-0", "n2", "running"), ("web-0", "n1", "running")]);
    let causes = query.list_causes(v1::ListCausesRequest {}).await.unwrap().into_inner().causes;
    assert!(causes.iter().any(|cause| cause.id == "Unexplained") && causes.len() > 10);
    app.stop().await;
}

#[tokio::test]
async fn nodes_without_an_agent_and_vms_that_no_host_shows_are_listed_as_kubernetes_has_them() {
    const OF_PROD: &str = "23a93a57-8a28-4551-94a0-f9ee63305db5";
    let folder = tempfile::tempdir().unwrap();
    let app = Api::recorded().await.central(folder.path(), AT).await;
    let nodes = async || {
        let nodes = app.query.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
        let row = |node: v1::Node| (node.name, node.is_reporting, !node.agent_version.is_empty(), node.n_vms);
        nodes.into_iter().map(row).collect::<Vec<_>>()
    };
    let vms = async |node: &str| {
        let request = v1::ListVmsRequest { node: node.to_owned() };
        let vms = app.query.clone().list_vms(request).await.map(|answer| answer.into_inner().vms);
        let row = |vm: v1::Vm| [vm.uid, vm.namespace, vm.name, vm.node, vm.state, vm.reason];
        vms.map(|vms| vms.into_iter().map(row).collect::<Vec<_>>())
    };
    let (n1, n2) = (("n1".to_owned(), false, false, 0), ("n2".to_owned(), false, false, 1));
    let unseen = [OF_PROD, "prod", "db-0", "n2", "unknown", "Running in Kubernetes"].map(str::to_owned);
    let waited = timeout(PATIENCE, async {
        while nodes().await != [n1.clone(), n2.clone()] || vms("").await.unwrap() != [unseen.clone()] {
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("Kubernetes has them"));
    assert_eq!(vms("n2").await.unwrap(), [unseen]);
    assert_eq!(vms("n1").await.unwrap(), [] as [[String; 6]; 0]);
    check_refused(vms("n9").await, Code::NotFound, "no node `n9`; no node has reported yet");
    let no_agent = "no agent of node `n2` has ever reported; start one there";
    let (name, node) = ("n2".to_owned(), "n2".to_owned());
    check_refused(app.query.clone().get_node(v1::GetNodeRequest { name }).await, Code::NotFound, no_agent);
    check_refused(app.query.clone().explain_node(v1::ExplainNodeRequest { node }).await, Code::NotFound, no_agent);

    // A host that shows it says more of it than Kubernetes, and calls it by both names at once.
    let now = app.now();
    let mut agent = Agent::connect(app.grpc(), hello("n2", 1, now)).await;
    agent.snapshot(vec![domain(OF_PROD, "prod/db-0", now), domain(A, "test/gone", now)], now).await;
    agent.acked(2).await;
    let row =
        |uid: &str, namespace: &str, name: &str| [uid, namespace, name, "n2", "running", "booted"].map(str::to_owned);
    assert_eq!(vms("").await.unwrap(), [row(OF_PROD, "prod", "db-0"), row(A, "test", "gone")]);
    assert_eq!(nodes().await, [n1, ("n2".to_owned(), true, true, 2)]);
    app.stop().await;
}

#[tokio::test]
async fn a_bad_question_is_answered_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut query = app.query.clone();
    let vm = |vm: &str, node: &str| v1::ExplainVmRequest { vm: vm.to_owned(), node: node.to_owned() };
    let node = |node: &str| v1::ExplainNodeRequest { node: node.to_owned() };
    let findings = v1::ListFindingsRequest::default;
    check_refused(query.explain_vm(vm("", "n1")).await, Code::InvalidArgument, "vm: missing");
    check_refused(query.explain_node(node("")).await, Code::InvalidArgument, "node: missing");
    check_refused(query.explain_vm(vm("x", "")).await, Code::NotFound, "no VM `x`; VMs known: 0, on nodes: 0");
    check_refused(query.explain_node(node("n9")).await, Code::NotFound, "no node `n9`; no node has reported yet");
    let _agents = two_nodes(&app).await;
    check_refused(query.explain_node(node("n9")).await, Code::NotFound, "no node `n9`; known are n1, n2");
    let on_no_node = v1::ListVerdictsRequest { node: "n9".to_owned() };
    check_refused(query.list_verdicts(on_no_node).await, Code::NotFound, "no node `n9`; known are n1, n2");
    check_refused(
        query.explain_vm(vm("x", "n1")).await,
        Code::NotFound,
        "no VM `x` on node `n1`; VMs known: 3, on nodes: 2",
    );
    check_refused(
        query.explain_vm(vm("db-0", "")).await,
        Code::FailedPrecondition,
        &format!(
            "vm: `db-0` is the name of 2 VMs: db-0 on n1 (UID {A}), db-0 on n2 (UID {B}); ask with a UID or a node"
        ),
    );
    assert_eq!(query.explain_vm(vm("db-0", "n2")).await.unwrap().into_inner().verdicts.len(), 1);
    assert_eq!(query.explain_vm(vm(&A.to_uppercase(), "")).await.unwrap().into_inner().verdicts.len(), 1);
    check_refused(
        query.explain_vm(vm(&"x".repeat(2_000), "")).await,
        Code::InvalidArgument,
        "vm: longer than 1024 bytes",
    );
    check_refused(
        query.list_incidents(v1::ListIncidentsRequest { limit: 1_001, ..Default::default() }).await,
        Code::InvalidArgument,
        "limit: 1001, at most 1000 are given",
    );
    check_refused(
        query.get_incident(v1::GetIncidentRequest { id: "7".to_owned() }).await,
        Code::InvalidArgument,
        "id: `7` is no ULID",
    );
    check_refused(
        query.get_incident(v1::GetIncidentRequest { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned() }).await,
        Code::NotFound,
        "no incident `01ARZ3NDEKTSV4RRFFQ69G5FAV`; closed ones are kept for the time of retention",
    );
    check_refused(query.get_node(v1::GetNodeRequest::default()).await, Code::InvalidArgument, "name: missing");
    check_refused(
        query.get_node(v1::GetNodeRequest { name: "n9".to_owned() }).await,
        Code::NotFound,
        "no node `n9`; known are n1, n2",
    );
    check_refused(
        query.list_vms(v1::ListVmsRequest { node: "n9".to_owned() }).await,
        Code::NotFound,
        "no node `n9`; known are n1, n2",
    );
    check_refused(
        query.list_findings(v1::ListFindingsRequest { code: "Nonsense".to_owned(), ..findings() }).await,
        Code::InvalidArgument,
        "code: `Nonsense` is not in the finding catalogue of this version",
    );
    check_refused(
        query.list_findings(v1::ListFindingsRequest { page_size: 5_000, ..findings() }).await,
        Code::InvalidArgument,
        "page_size: 5000, at most 1000 are given",
    );
    check_refused(
        query.list_findings(v1::ListFindingsRequest { from_wall_usec: 2, to_wall_usec: 1, ..findings() }).await,
        Code::InvalidArgument,
        "from_wall_usec: later than to_wall_usec",
    );
    let unreadable = query.list_findings(v1::ListFindingsRequest { subject: "earth".to_owned(), ..findings() }).await;
    assert!(unreadable.unwrap_err().message().starts_with("subject: `earth` is not a subject key"));
    for page_token in ["x", "0123456789abcdef00"] {
        check_refused(
            query.list_findings(v1::ListFindingsRequest { page_token: page_token.to_owned(), ..findings() }).await,
            Code::InvalidArgument,
            "page_token: not one that this question was answered with",
        );
    }
    app.stop().await;
}

#[tokio::test]
async fn pages_of_what_holds_and_of_history_join_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut agent = app.agent(1).await;
    let now = app.now();
    let unit =
        |n: u32| state(FindingCode::KubeletInactive, Subject::unit(format!("u{n:02}.service")), Status::Present, now);
    agent.snapshot((0..25).map(unit).collect(), now).await;
    agent.acked(25).await;
    for to_wall_usec in [0, i64::MAX] {
        let (mut seen, mut page_token, mut n_pages) = (Vec::new(), String::new(), 0);
        loop {
            let request = v1::ListFindingsRequest {
                page_size: 10,
                page_token,
                to_wall_usec,
                ..v1::ListFindingsRequest::default()
            };
            let page = app.query.clone().list_findings(request).await.unwrap().into_inner();
            n_pages += 1;
            seen.extend(page.findings.iter().map(crate::app::line));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!((seen.len(), n_pages), (25, 3), "{seen:?}");
        assert!(seen.is_sorted() && seen[0].contains("u00.service"), "{seen:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn health_readiness_and_configuration_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let channel = channel(app.grpc()).await;
    for service in ["kulprit.v1.Query", "kulprit.v1.Ingest", ""] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service}");
    }
    assert!(app.admin("/ready").await.ends_with("ready\n"));
    let config = app.admin("/debug/config").await;
    assert!(config.contains("silence_after: 20s") && config.contains("close_after: 60s"), "{config}");
    app.stop().await;
}
