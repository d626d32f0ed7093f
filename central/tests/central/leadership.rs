//! Two centrals on one API server: one leads, the other stands by, and who loses the Lease ends.

use std::time::Duration;

use kulprit_central::{app::run_on, config::Config};
use kulprit_daemon::{BoxError, CancellationToken, Clock, exit::ExitReason};
use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::{
    agent::{Agent, PATIENCE, hello, kubelet, state},
    api::Api,
    app::App,
};

async fn wait_until_ready(app: &App) {
    let waited = timeout(PATIENCE, async {
        while !app.admin("/ready").await.starts_with("HTTP/1.1 200") {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it becomes ready");
}

/// Waits until it knows who leads instead.
async fn wait_until_it_stands_by(app: &App, leader: &str) {
    let waited = timeout(PATIENCE, async {
        loop {
            let asked = app.query.clone().list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
            assert_eq!(asked.code(), Code::Unavailable);
            if asked.message() == format!("this central stands by; {leader} leads: ask the one that is ready") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it hears who leads");
}

async fn api() -> Api {
    let node = json!({"kind": "Node", "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "1",
        "labels": {"kubevirt.io/schedulable": "true"}}, "status": {}});
    let api = Api::start(vec![node]).await;
    api.offer_lease();
    api
}

#[tokio::test]
async fn of_two_one_leads_and_the_other_refuses_until_it_takes_over() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let api = api().await;
    let leader = api.elected_central(one.path()).await;
    wait_until_ready(&leader).await;
    let name = api.holder();
    let standby = api.elected_central(two.path()).await;
    wait_until_it_stands_by(&standby, &name).await;
    let ready = standby.admin("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("waiting for: this central leads (holds its Lease)"));
    let refused = Agent::try_connect(standby.grpc(), hello("n1", 1, standby.now())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains(&name), "{}", refused.message());
    assert!(standby.metric("kulprit_central_standby_refusals_total").await >= 2);

    let mut agent = Agent::connect(leader.grpc(), hello("n1", 1, leader.now())).await;
    agent.snapshot(vec![kubelet(Status::Present, leader.now())], leader.now()).await;
    agent.acked(1).await;
    leader.stop().await;
    wait_until_ready(&standby).await;
    assert_ne!(api.holder(), name);
    // What it knows comes from the agents.
    let mut agent = Agent::connect(standby.grpc(), hello("n1", 1, standby.now())).await;
    agent.snapshot(vec![kubelet(Status::Present, standby.now())], standby.now()).await;
    agent.acked(1).await;
    standby.wait_for_findings(&["KubeletInactive unit/kubelet.service Present"]).await;
    standby.stop().await;
}

#[tokio::test]
async fn who_loses_the_lease_ends_and_writes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let api = api().await;
    let app = api.elected_central(folder.path()).await;
    wait_until_ready(&app).await;
    let missing = state(FindingCode::KvmDeviceMissing, Subject::Node, Status::Present, app.now());
    let mut agent = app.agent(1).await;
    agent.snapshot(vec![missing], app.now()).await;
    agent.acked(1).await;
    let waited = timeout(PATIENCE, async {
        while !api.take_writes().iter().any(|write| write.contains("/nodes/n1/status")) {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("the condition is written");
    api.take_lease("another");
    let why = app.ended().await;
    assert!(why.contains("the Lease `default/kulprit-central` is another's now"), "{why}");
    assert_eq!(api.holder(), "another");
    api.take_writes();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(api.take_writes(), [""; 0]);
}

#[tokio::test]
async fn who_is_killed_takes_up_its_lease_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let api = api().await;
    let app = api.elected_central(folder.path()).await;
    wait_until_ready(&app).await;
    let name = api.holder();
    app.stop().await;
    // As if it had not been given back.
    api.take_lease(&name);
    let app = api.elected_central(folder.path()).await;
    let waited = timeout(Duration::from_secs(10), wait_until_ready(&app));
    waited.await.expect("it does not wait until the Lease of its earlier life is over");
    assert_eq!(api.holder(), name);
    app.stop().await;
}

#[tokio::test]
async fn two_replicas_on_one_volume_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
    let error: BoxError = run_on(config, CancellationToken::new(), Clock::kernel(), None).await.unwrap_err();
    let reason = ExitReason::of(error.as_ref());
    assert_eq!(reason.code, 2);
    assert!(reason.line.contains("is in use by another kulprit-central"), "{}", reason.line);
    assert!(reason.line.contains("with several replicas give each a volume of its own"), "{}", reason.line);
    app.stop().await;
}
