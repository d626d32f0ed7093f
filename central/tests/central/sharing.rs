//! Nodes that share a storage backend: what it does to them and to their VMs is one incident.

use std::time::Duration;

use kulprit_central::{
    engine::pass,
    incident::{Incidents, Timers},
};
use kulprit_diagnosis::{NodeView, Snapshot, VmView};
use kulprit_model::{
    Attributes, Body, Domain, FindingCode, Moment, State, Status, Subject,
    attribute::{BACKEND, SERVER, WAIT, WAIT_NETWORK_STORAGE},
};
use kulprit_proto::v1;
use tokio::time::sleep;

use crate::{
    agent::{Agent, PATIENCE, domain, hello, state},
    app::{App, START},
};

/// A node with a VM on a disk of the server.
struct Node {
    uid: String,
    agent: Agent,
}

impl Node {
    async fn connect(app: &App, name: &'static str) -> Self {
        let agent = Agent::connect(app.grpc(), hello(name, 1, app.now())).await;
        let mut node = Self { uid: format!("00000000-0000-4000-8000-0000000000{name}"), agent };
        let [reach, wait] = says(&node.uid, Status::Absent, app.now());
        let vm = domain(&node.uid, name, app.now());
        node.agent.snapshot(vec![vm, reach, wait], app.now()).await;
        node.agent.acked(3).await;
        node
    }

    async fn turns(&mut self, app: &App, status: Status) {
        for body in says(&self.uid, status, app.now()) {
            let seq = self.agent.say(body, app.now()).await;
            self.agent.acked(seq).await;
        }
    }
}

/// What an agent says of the server and of a VM's disk.
fn says(uid: &str, status: Status, at: Moment) -> [Body; 2] {
    let with = |body: Body, attributes: Attributes| match body {
        Body::State(state) => Body::State(State { attributes, ..state }),
        other => other,
    };
    let reach = state(FindingCode::BackendUnreachable, Subject::Mount { point: "/mnt/nas".to_owned() }, status, at);
    let wait = state(FindingCode::VmDiskStalled, Subject::vm(uid), status, at);
    [
        with(reach, Attributes::new().with(BACKEND, "nfs").with(SERVER, "nas.example")),
        with(wait, Attributes::new().with(WAIT, WAIT_NETWORK_STORAGE)),
    ]
}

/// Lets so much time pass while all agents live.
async fn let_pass(app: &App, nodes: &[Node], secs: u64) {
    for _ in 0..secs.div_ceil(5) {
        app.clock.advance(Duration::from_secs(5));
        for node in nodes {
            let beat = v1::Heartbeat { sent: Some(app.now().into()), n_spooled: 0 };
            node.agent.send(v1::agent_message::Message::Heartbeat(beat)).await;
        }
        // Central takes them in before the clock goes on.
        sleep(Duration::from_millis(20)).await;
    }
}

/// The node; of a VM with its name.
fn name(member: &v1::IncidentMember) -> String {
    let v1::VerdictSubject { node, name, .. } = member.subject.as_ref().expect("it is set");
    if name.is_empty() { node.clone() } else { format!("{node}/{name}") }
}

/// The open incidents as `place: members`, when they are so; all of them, closed ones too.
async fn wait_for(app: &App, want: &[&str]) -> Vec<v1::Incident> {
    let mut shown = Vec::new();
    for _ in 0..PATIENCE.as_millis() / 10 {
        let request = v1::ListIncidentsRequest { include_closed: true, ..Default::default() };
        let incidents = app.query.clone().list_incidents(request).await.unwrap().into_inner().incidents;
        let open = incidents.iter().filter(|incident| incident.is_open);
        shown = open
            .map(|incident| {
                assert_eq!(incident.cause, "StorageBackendUnreachable");
                let lasting = incident.members.iter().filter(|member| member.until_wall_usec == 0);
                let mut names: Vec<String> = lasting.map(name).collect();
                names.sort();
                format!("{}: {}", incident.place, names.join(" "))
            })
            .collect();
        shown.sort();
        if shown == want {
            return incidents;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("open incidents stay {shown:?}, wanted {want:?}");
}

#[tokio::test]
async fn two_nodes_that_lose_one_backend_and_their_vms_are_one_incident() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut nodes = [Node::connect(&app, "n1").await, Node::connect(&app, "n2").await];
    let_pass(&app, &nodes, 40).await;
    nodes[0].turns(&app, Status::Present).await;
    let first = wait_for(&app, &["node/n1: n1 n1/n1"]).await;

    let_pass(&app, &nodes, 40).await;
    nodes[1].turns(&app, Status::Present).await;
    let both = wait_for(&app, &["shared/nas.example: n1 n1/n1 n2 n2/n2"]).await;
    assert_eq!((both.len(), &both[0].id, both[0].node.as_str()), (1, &first[0].id, ""));
    let told = both[0].timeline.iter().any(|entry| entry.text == "the place is now shared/nas.example, it was node/n1");
    assert!(told, "{:#?}", both[0].timeline);

    // Who is well again leaves the last one where it is.
    let_pass(&app, &nodes, 40).await;
    nodes[0].turns(&app, Status::Absent).await;
    let rest = wait_for(&app, &["shared/nas.example: n2 n2/n2"]).await;
    assert_eq!(rest.len(), 1, "{rest:#?}");
    app.stop().await;
}

#[tokio::test]
async fn incidents_of_nodes_become_one_when_what_they_share_turns_out_to_be_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let mut nodes = [Node::connect(&app, "n1").await, Node::connect(&app, "n2").await, Node::connect(&app, "n3").await];
    let_pass(&app, &nodes, 40).await;
    nodes[0].turns(&app, Status::Present).await;
    let first = wait_for(&app, &["node/n1: n1 n1/n1"]).await;
    let_pass(&app, &nodes, 40).await;
    nodes[1].turns(&app, Status::Present).await;
    // The third has had time to notice, and has not.
    let_pass(&app, &nodes, 40).await;
    let two = wait_for(&app, &["node/n1: n1 n1/n1", "node/n2: n2 n2/n2"]).await;

    nodes[2].turns(&app, Status::Present).await;
    let all = wait_for(&app, &["shared/nas.example: n1 n1/n1 n2 n2/n2 n3 n3/n3"]).await;
    assert_eq!((two.len(), all.len()), (2, 2), "{all:#?}");
    let merged: Vec<_> = all.iter().filter(|incident| incident.id != first[0].id).collect();
    assert_eq!((merged[0].is_open, &merged[0].merged_into), (false, &first[0].id));
    app.stop().await;
}

#[test]
fn five_hundred_nodes_that_lose_one_backend_at_once_are_one_incident() {
    const N_NODES: usize = 500;
    let at = START;
    let node = |n: usize| {
        let (name, uid) = (format!("n{n:03}"), format!("00000000-0000-4000-8000-{n:012}"));
        let vm = VmView {
            uid: uid.clone(),
            name: format!("db-{n}"),
            domain: Some(Domain {
                uid: uid.clone(),
                name: format!("db-{n}"),
                state: 1,
                reason: 1,
                since: at,
                is_persistent: true,
            }),
            ..VmView::default()
        };
        let states = says(&uid, Status::Present, at).map(|body| match body {
            Body::State(state) => state,
            other => panic!("{other:?} is no state"),
        });
        NodeView {
            name,
            is_reporting: true,
            vms: vec![vm].into(),
            states: states.to_vec().into(),
            ..NodeView::default()
        }
    };
    let nodes = (0..N_NODES).map(node).collect();
    let snapshot = Snapshot { reference_wall_usec: at.wall_usec + 60_000_000, nodes, ..Snapshot::default() };

    let mut incidents = Incidents::default();
    let timers = Timers::default();
    let first = pass(&snapshot, &incidents, &timers);
    incidents.apply(&first.changes);
    let shown: Vec<_> =
        incidents.iter().map(|one| (one.key.cause.as_str(), one.key.place.as_str(), one.members.len())).collect();
    assert_eq!(shown, [("StorageBackendUnreachable", "shared/nas.example", 2 * N_NODES)]);
    assert_eq!(pass(&snapshot, &incidents, &timers).changes, []);
}
