//! An API server with the objects it was given, on a port that the kernel chooses.
//!
//! It answers lists and keeps watches open until its objects change: then it has forgotten what came between, and all is listed
//! anew. What it is asked for is its path alone: of the rows of pods the first is given all of them.

use std::{net::SocketAddr, path::Path};

use kulprit_central::config::KubernetesConfig;
use kulprit_model::Moment;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A real cluster's recorded objects.
pub(crate) const OBJECTS: &str = include_str!("../../cluster/fixtures/two-nodes.json");
/// 2026-11-21T05:39:26Z, when they were recorded.
pub(crate) const AT: Moment = Moment { wall_usec: 1_795_239_566_000_000, boottime_usec: 5_000_000_000 };

pub(crate) struct ApiServer {
    address: SocketAddr,
    state: watch::Sender<State>,
}

struct State {
    version: u64,
    objects: Value,
}

impl ApiServer {
    pub(crate) async fn start(objects: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = watch::Sender::new(State { version: 1, objects });
        let served = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, served.clone()));
            }
        });
        Self { address, state }
    }

    /// Changes its objects, a list.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Value>)) {
        self.state.send_modify(|state| {
            state.version += 1;
            change(state.objects["items"].as_array_mut().unwrap());
        });
    }

    /// How it is found; a kubeconfig is written into `folder`.
    pub(crate) fn config(&self, folder: &Path) -> KubernetesConfig {
        let kubeconfig = folder.join("kubeconfig");
        let text = format!(
            "current-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.address
        );
        std::fs::write(&kubeconfig, text).unwrap();
        KubernetesConfig { kubeconfig: Some(kubeconfig), ..KubernetesConfig::default() }
    }
}

/// Answers the requests of one connection, until it is asked for a watch: that ends with the version it was asked from.
async fn serve(stream: TcpStream, state: watch::Sender<State>) {
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
            let is_newer = |state: &State| {
                let asked = format!("resourceVersion={}", state.version);
                !path.split(['?', '&']).any(|parameter| parameter == asked)
            };
            if state.subscribe().wait_for(is_newer).await.is_ok() {
                let forgotten =
                    json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}});
                let line = format!("{forgotten}\n");
                let _ = stream.get_mut().write_all(format!("{:x}\r\n{line}\r\n0\r\n\r\n", line.len()).as_bytes()).await;
            }
            return;
        }
        let body = {
            let state = state.borrow();
            let version = state.version.to_string();
            json!({"metadata": {"resourceVersion": version}, "items": items(&state.objects, path)}).to_string()
        };
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
