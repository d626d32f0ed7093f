//! Incidents as they change, told to whoever watches; and the same filters for lists.

use std::time::Duration;

use kulprit_model::Status;
use kulprit_proto::v1::{self, agent_message::Message};
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::{
    agent::{Agent, PATIENCE, channel, hello, kubelet},
    app::App,
};

/// An agent of `node` whose kubelet is as given.
async fn agent_with(app: &App, node: &str, status: Status) -> Agent {
    let mut agent = Agent::connect(app.grpc(), hello(node, 1, app.now())).await;
    agent.snapshot(vec![kubelet(status, app.now())], app.now()).await;
    agent.acked(1).await;
    agent
}

async fn say(app: &App, agent: &mut Agent, status: Status) {
    let seq = agent.say(kubelet(status, app.now()), app.now()).await;
    agent.acked(seq).await;
}

/// Lets the clock run while the agent lives, until the watch is told of something.
async fn told_as_time_passes(app: &App, agent: &Agent, watch: &mut crate::app::Watch) -> String {
    let passing = async {
        loop {
            app.clock.advance(Duration::from_secs(5));
            agent.send(Message::Heartbeat(v1::Heartbeat { sent: Some(app.now().into()), n_spooled: 0 })).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        told = watch.told() => told,
        () = passing => unreachable!("time does not end"),
    }
}

#[tokio::test]
async fn a_watch_tells_what_is_then_what_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut early = app.watch(v1::WatchIncidentsRequest::default()).await;
    assert_eq!(early.told().await, "complete", "nothing is open yet");
    let mut agent = agent_with(&app, "n1", Status::Present).await;
    assert_eq!(early.told().await, "KubeletDown n1 OPENED");

    let mut late = app.watch(v1::WatchIncidentsRequest::default()).await;
    assert_eq!([late.told().await, late.told().await], ["KubeletDown n1 ", "complete"]);
    say(&app, &mut agent, Status::Absent).await;
    assert_eq!(early.told().await, "KubeletDown n1 MEMBER_ENDED");
    assert_eq!(told_as_time_passes(&app, &agent, &mut early).await, "KubeletDown n1 CLOSED");
    let mut open_only = app.watch(v1::WatchIncidentsRequest::default()).await;
    assert_eq!(open_only.told().await, "complete", "it is closed");
    say(&app, &mut agent, Status::Present).await;
    for watch in [&mut early, &mut open_only] {
        assert_eq!(watch.told().await, "KubeletDown n1 REOPENED MEMBER_JOINED");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_watch_and_a_list_with_the_same_words_tell_of_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let on = |node: &str| v1::WatchIncidentsRequest { node: node.to_owned(), ..Default::default() };
    let mut watch = app.watch(on("n2")).await;
    assert_eq!(watch.told().await, "complete");
    let _n1 = agent_with(&app, "n1", Status::Present).await;
    app.wait_for_open_incidents(1).await;
    // Newest first: by the clock of central.
    app.clock.advance(Duration::from_secs(1));
    let _n2 = agent_with(&app, "n2", Status::Present).await;
    assert_eq!(watch.told().await, "KubeletDown n2 OPENED", "of n1 it is not told");
    let mut query = app.query.clone();
    let mut nodes_of = async |node: &str, cause: &str, namespace: &str, limit, page_token: &str| {
        let (node, cause, namespace) = (node.to_owned(), cause.to_owned(), namespace.to_owned());
        let page_token = page_token.to_owned();
        let request = v1::ListIncidentsRequest { node, cause, namespace, limit, page_token, include_closed: false };
        let answer = query.list_incidents(request).await.unwrap().into_inner();
        (answer.incidents.into_iter().map(|incident| incident.node).collect::<Vec<_>>(), answer.next_page_token)
    };
    assert_eq!(nodes_of("n2", "", "", 0, "").await, (vec!["n2".to_owned()], String::new()));
    assert_eq!(nodes_of("", "KubeletDown", "", 0, "").await.0, ["n2", "n1"]);
    assert_eq!(nodes_of("", "KvmUnusable", "", 0, "").await.0, [""; 0]);
    assert_eq!(nodes_of("", "", "prod", 0, "").await.0, [""; 0]);
    let (first, next) = nodes_of("", "", "", 1, "").await;
    assert_eq!(
        (first, nodes_of("", "", "", 1, &next).await),
        (vec!["n2".to_owned()], (vec!["n1".to_owned()], String::new()))
    );
    app.stop().await;
}

#[tokio::test]
async fn an_incident_is_found_by_the_end_of_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let _agent = agent_with(&app, "n1", Status::Present).await;
    let incident = app.wait_for_open_incidents(1).await.remove(0);
    let ask = v1::GetIncidentRequest { id: incident.id[18..].to_owned() };
    assert_eq!(app.query.clone().get_incident(ask).await.unwrap().into_inner(), incident);
    app.stop().await;
}

#[tokio::test]
async fn a_bad_watch_is_refused_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let request = v1::WatchIncidentsRequest { cause: "Gremlins".to_owned(), ..Default::default() };
    let status = app.query.clone().watch_incidents(request).await.unwrap_err();
    let want = "cause: `Gremlins` is not in the catalogue of causes of this version";
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, want));
    app.stop().await;
}

#[tokio::test]
async fn as_many_watch_as_have_a_seat_and_one_that_goes_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut watches = Vec::new();
    for _ in 0..64 {
        watches.push(app.watch(v1::WatchIncidentsRequest::default()).await);
    }
    // Another connection: each may have 64 streams.
    let mut query = v1::query_client::QueryClient::new(channel(app.grpc()).await);
    let status = query.watch_incidents(v1::WatchIncidentsRequest::default()).await.unwrap_err();
    let want = "64 clients watch already, more are not served; list incidents instead";
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, want));
    watches.pop();
    let served = timeout(PATIENCE, async {
        while query.watch_incidents(v1::WatchIncidentsRequest::default()).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    served.await.expect("the seat is free again");
    app.stop().await;
}

#[tokio::test]
async fn the_end_of_central_ends_every_watch_also_one_that_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let _agent = agent_with(&app, "n1", Status::Present).await;
    app.wait_for_open_incidents(1).await;
    let mut read = app.watch(v1::WatchIncidentsRequest::default()).await;
    let _unread = app.watch(v1::WatchIncidentsRequest::default()).await;
    assert_eq!([read.told().await, read.told().await], ["KubeletDown n1 ", "complete"]);
    app.stop().await;
    let status = read.next().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "central is ending"));
}
