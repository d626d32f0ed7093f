//! CanMigrate over gRPC: what a real cluster's recorded objects (`central/cluster/fixtures`) and the agents of its nodes say together.

use std::{path::Path, time::Duration};

use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::{
    agent::{Agent, PATIENCE, hello, state},
    api::{AT, Api},
    app::App,
};

async fn start(folder: &Path) -> App {
    Api::recorded().await.central(folder, AT).await
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
