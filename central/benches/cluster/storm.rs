//! Half of all nodes are sick at once: what is written to the API server. One in memory takes the writes, counts them, and shows the watch what
//! became of its nodes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, Response},
    response::IntoResponse as _,
};
use kube::Client;
use kulprit_central::{
    config::{Config, PublishConfig, TaintConfig},
    kubernetes::{kinds::ROWS, lease::Leading, store::ClusterStore, watch::Sink as _, write::Writes},
    publish::{Publisher, Sources},
    taints::Effect,
};
use kulprit_daemon::CancellationToken;
use kulprit_model::{FindingCode, Status};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{objects, world::World};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// A taint waits a minute; after that it would be set.
pub(crate) const TAINTS_AFTER: Duration = Duration::from_secs(75);

/// What was written, and how long it took.
pub(crate) struct Storm {
    /// All conditions of all nodes, once, after a start.
    pub(crate) first: (usize, Duration),
    /// One condition of half of the nodes.
    pub(crate) conditions: (usize, Duration),
    /// In the minute after.
    pub(crate) taints: usize,
}

#[derive(Clone)]
struct ApiServer(Arc<Mutex<State>>);

struct State {
    nodes: BTreeMap<String, Value>,
    cluster: ClusterStore,
    version: u64,
    n_statuses: usize,
    n_taints: usize,
}

impl ApiServer {
    fn new(cluster: ClusterStore, n_nodes: usize) -> Self {
        let nodes = (0..n_nodes).map(|n| (objects::node_name(n), objects::node(n, 0))).collect();
        Self(Arc::new(Mutex::new(State { nodes, cluster, version: 1_000_000, n_statuses: 0, n_taints: 0 })))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| server.clone().answer(request));
        Client::new(router, "default")
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.lock().expect("nobody panics with it"))
    }

    async fn answer(self, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("it is in memory");
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut path = parts.uri.path().split('/').skip(4);
        let name = path.next().expect("a node is named").to_owned();
        let is_status = path.next() == Some("status");
        let mut state = self.0.lock().expect("nobody panics with it");
        if parts.method == Method::GET {
            return state.nodes[&name].to_string().into_response();
        }
        state.version += 1;
        let version = state.version.to_string();
        let node = state.nodes.get_mut(&name).expect("it is there");
        node["metadata"]["resourceVersion"] = version.into();
        if is_status {
            let ours = body["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let mut all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            all.retain(|own| !own["type"].as_str().unwrap_or_default().starts_with("kulprit.io/"));
            all.extend(ours);
            node["status"]["conditions"] = all.into();
        } else {
            node["spec"]["taints"] = body["spec"]["taints"].clone();
        }
        let node = node.clone();
        let n = if is_status { &mut state.n_statuses } else { &mut state.n_taints };
        *n += 1;
        let row = ROWS.iter().find(|row| row.kind.as_str() == "Node").expect("nodes are watched");
        state.cluster.apply(row, node.clone());
        node.to_string().into_response()
    }
}

impl Storm {
    /// On so many nodes.
    pub(crate) async fn over(n_nodes: usize) -> Self {
        let mut world = World::new(n_nodes);
        world.report_nodes();
        world.list_nodes();
        let cluster = world.live.cluster().expect("it is watched").clone();
        let server = ApiServer::new(cluster.clone(), n_nodes);
        let effects = [("KvmUnavailable".to_owned(), Effect::NoSchedule)].into();
        let publish = PublishConfig { taints: TaintConfig { effects, ..TaintConfig::default() }, ..Default::default() };
        let settings = Config { publish, ..Config::default() }.published();
        let (to_publisher, verdicts) = watch::channel(None);
        let sources = Sources {
            cluster,
            verdicts,
            leading: Leading::for_ever(),
            writes: Writes::new(server.client()),
            clock: world.live.clock().clone(),
            metrics: world.metrics.clone(),
        };
        let stop = CancellationToken::new();
        let publisher = tokio::spawn(Publisher::new(sources, settings).run(stop.clone()));
        world.start_engine_with(Some(to_publisher));

        // The engine decides when something changes after its start.
        sleep(Duration::from_secs(1)).await;
        world.live.bump();
        let first = written(&server, n_nodes).await;
        // What nobody could look at is said to be unknown after a minute.
        sleep(TAINTS_AFTER).await;
        let before = server.look(|state| state.n_statuses);
        let n_sick = n_nodes / 2;
        (0..n_sick).for_each(|node| world.raise_of_node(node, FindingCode::KvmDeviceMissing, Status::Present));
        let took = written(&server, before + n_sick).await;
        sleep(TAINTS_AFTER).await;
        let (n_statuses, taints) = server.look(|state| (state.n_statuses, state.n_taints));
        stop.cancel();
        publisher.await.expect("it does not panic").expect("it ends well");
        world.stop().await;
        Self { first: (n_nodes, first), conditions: (n_statuses - before, took), taints }
    }
}

/// How long it takes until so many statuses were written.
async fn written(server: &ApiServer, n: usize) -> Duration {
    let began = Instant::now();
    let waited = timeout(PATIENCE, async {
        while server.look(|state| state.n_statuses) < n {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("all is written");
    began.elapsed()
}
