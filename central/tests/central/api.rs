//! An API server whose objects a test changes: it answers lists, keeps watches open, and tells them what changes.
//!
//! What it is asked for is its path alone: of the rows of pods the first is given all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use jiff::{Timestamp, fmt::rfc2822};
use kulprit_central::config::{AccessConfig, KubernetesConfig};
use kulprit_model::Moment;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::app::{App, START};

/// A real cluster's recorded objects.
const RECORDED: &str = include_str!("../../cluster/fixtures/two-nodes.json");
/// 2026-11-21T05:39:26Z, when they were recorded.
pub(crate) const AT: Moment = Moment { wall_usec: 1_795_239_566_000_000, boottime_usec: 5_000_000_000 };

#[derive(Default)]
pub(crate) struct State {
    objects: Vec<Value>,
    version: u64,
    watches: Vec<(String, UnboundedSender<String>)>,
    /// Centrals' Lease; `None`: it has none, and none may be made.
    lease: Option<Value>,
    /// Requests that would change something.
    writes: Vec<String>,
    /// Secrets and ConfigMaps by their paths.
    kept: BTreeMap<String, Value>,
    /// Header of each answer.
    date: Option<String>,
    /// What is said of a token.
    pub(crate) users: BTreeMap<String, Value>,
    /// `user resource namespace`; an empty namespace: all.
    pub(crate) rights: BTreeSet<String>,
    /// Reviews are answered so instead.
    pub(crate) reviews_fail: Option<u16>,
    pub(crate) n_reviews: usize,
}

#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Api {
    /// On a port that the kernel chooses.
    pub(crate) async fn start(objects: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { objects, version: 1, ..State::default() }));
        let api = Self { address, state };
        let served = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve(stream));
            }
        });
        api
    }

    /// One with the recorded objects.
    pub(crate) async fn recorded() -> Self {
        let objects: Value = serde_json::from_str(RECORDED).unwrap();
        Self::start(objects["items"].as_array().unwrap().clone()).await
    }

    /// Has a Lease for centrals, nobody's yet.
    pub(crate) fn offer_lease(&self) {
        self.state.lock().unwrap().lease = Some(json!({"metadata": {"resourceVersion": "1"}, "spec": {}}));
    }

    /// Another takes the Lease, whoever has it.
    pub(crate) fn take_lease(&self, holder: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().unwrap();
        (lease["metadata"]["resourceVersion"], lease["spec"]["holderIdentity"]) = (json!(version), json!(holder));
    }

    /// Whom the Lease names.
    pub(crate) fn holder(&self) -> String {
        let state = self.state.lock().unwrap();
        state.lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default().to_owned()
    }

    /// Requests that would have changed an object, since this was asked last.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().writes)
    }

    /// Changes who is known and may what.
    pub(crate) fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// A central that watches it, at this moment of its own clock.
    pub(crate) async fn central(&self, folder: &Path, at: Moment) -> App {
        App::start_on(folder, at, self.kubernetes(folder)).await
    }

    /// One that leads only with the Lease.
    pub(crate) async fn elected_central(&self, folder: &Path) -> App {
        let kubernetes = self.kubernetes(folder);
        App::start_with(folder, START, |config| config.kubernetes = kubernetes).await
    }

    /// One to which not everybody may talk.
    pub(crate) async fn guarded_central(&self, folder: &Path, at: Moment, access: AccessConfig) -> App {
        let kubernetes = self.kubernetes(folder);
        App::start_with(folder, at, |config| {
            (config.kubernetes, config.leader_election, config.access) = (kubernetes, false, access);
        })
        .await
    }

    /// How it is reached; the kubeconfig goes to the folder.
    pub(crate) fn kubernetes(&self, folder: &Path) -> KubernetesConfig {
        let kubeconfig = folder.join("kubeconfig");
        let text = format!(
            "current-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.address
        );
        std::fs::write(&kubeconfig, text).unwrap();
        KubernetesConfig { kubeconfig: Some(kubeconfig), ..KubernetesConfig::default() }
    }

    /// Its clock stands at this time.
    pub(crate) fn stand_at(&self, wall_usec: i64) {
        let at = Timestamp::from_microsecond(wall_usec).unwrap();
        let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap();
        self.state.lock().unwrap().date = Some(date);
    }

    /// Adds an object, or puts it in the place of the one with its kind, namespace and name.
    pub(crate) fn put(&self, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.retain(|old| key(old) != key(&object));
        state.objects.push(object.clone());
        state.tell("MODIFIED", &object);
    }

    pub(crate) fn remove(&self, object: &Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        state.objects.retain(|old| key(old) != key(object));
        state.tell("DELETED", object);
    }

    /// Removes the objects of which `is_kept` does not hold.
    pub(crate) fn retain(&self, is_kept: impl Fn(&Value) -> bool) {
        let gone: Vec<Value> = self.state.lock().unwrap().objects.extract_if(.., |object| !is_kept(object)).collect();
        gone.iter().for_each(|object| self.remove(object));
    }

    /// Answers the requests of one connection, until it is asked for a watch: that stays open.
    async fn serve(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut request, mut line, mut n_body) = (String::new(), String::new(), 0);
            if stream.read_line(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
            while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                let length = line.to_ascii_lowercase();
                n_body = length.strip_prefix("content-length:").map_or(n_body, |n| n.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; n_body];
            stream.read_exact(&mut body).await.unwrap();
            if request.contains("/secrets") || request.contains("/configmaps") {
                let (code, object) = self.keep(&request, &body);
                let head = format!("HTTP/1.1 {code} Answer\r\ncontent-length: {}\r\n\r\n", object.len());
                let _ = stream.get_mut().write_all(format!("{head}{object}").as_bytes()).await;
                continue;
            }
            if request.contains("/leases")
                && request.contains(" /apis/coordination.k8s.io/v1/namespaces/default/")
                && let Some((code, lease)) = self.answer_lease(&request, &body)
            {
                let head = format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n\r\n", lease.len());
                let _ = stream.get_mut().write_all(format!("{head}{lease}").as_bytes()).await;
                continue;
            }
            if request.starts_with("POST ") && request.contains("reviews") {
                let answer = self.set(|state| state.review(&serde_json::from_slice(&body).unwrap()));
                let _ = stream.get_mut().write_all(answer.as_bytes()).await;
                continue;
            }
            // Nothing else may be written to it.
            if !request.starts_with("GET ") {
                self.state.lock().unwrap().writes.push(request.clone());
            }
            if !request.starts_with("GET ") || request.contains("/leases/") {
                let code = if request.starts_with("GET ") { 404 } else { 403 };
                let head = format!("HTTP/1.1 {code} No\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.get_mut().write_all(head.as_bytes()).await;
                continue;
            }
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let (head, body, changes) = self.answer(&path);
            let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes()).await;
            if let Some(mut changes) = changes {
                while let Some(line) = changes.recv().await {
                    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
                    if stream.get_mut().write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// `None`: it has none.
    fn answer_lease(&self, request: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut state = self.state.lock().unwrap();
        let known = state.lease.clone()?;
        if request.starts_with("GET ") {
            return Some((200, known.to_string()));
        }
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        if lease["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
            return Some((409, String::new()));
        }
        state.version += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.lease = Some(lease.clone());
        Some((200, lease.to_string()))
    }

    /// Reads, makes or replaces a Secret or a ConfigMap.
    fn keep(&self, request: &str, body: &[u8]) -> (u16, String) {
        let mut words = request.split([' ', '?']);
        let (method, mut path) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let mut object: Value = serde_json::from_slice(body).unwrap_or_default();
        if method == "POST" {
            path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        }
        let mut state = self.state.lock().unwrap();
        match (method, state.kept.get(&path)) {
            ("GET", Some(known)) => return (200, known.to_string()),
            ("GET" | "PUT", None) => return (404, String::new()),
            ("POST", Some(_)) => return (409, String::new()),
            ("PUT", Some(known)) if known["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] => {
                return (409, String::new());
            }
            _ => {}
        }
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.kept.insert(path, object.clone());
        (200, object.to_string())
    }

    /// What is kept there.
    pub(crate) fn kept(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().kept.get(path).cloned()
    }

    fn answer(&self, path: &str) -> (String, String, Option<UnboundedReceiver<String>>) {
        let mut state = self.state.lock().unwrap();
        let date = state.date.as_ref().map(|date| format!("date: {date}\r\n")).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{date}");
        if path.contains("watch=true") {
            let (changes, lines) = unbounded_channel();
            state.watches.push((path.to_owned(), changes));
            return (format!("{head}transfer-encoding: chunked\r\n\r\n"), String::new(), Some(lines));
        }
        let items: Vec<&Value> = state.objects.iter().filter(|object| is_asked(object, path)).collect();
        let body = json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items}).to_string();
        (format!("{head}content-length: {}\r\n\r\n", body.len()), body, None)
    }
}

impl State {
    /// Answers a TokenReview or a SubjectAccessReview.
    fn review(&mut self, asked: &Value) -> String {
        self.n_reviews += 1;
        if let Some(code) = self.reviews_fail {
            return format!("HTTP/1.1 {code} No\r\ncontent-length: 0\r\n\r\n");
        }
        let (spec, text) = (&asked["spec"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
        let status = match asked["kind"].as_str() {
            Some("TokenReview") => match self.users.get(&text(&spec["token"])) {
                Some(user) => json!({"authenticated": true, "user": user, "audiences": spec["audiences"]}),
                None => json!({"authenticated": false}),
            },
            _ => {
                let wanted = &spec["resourceAttributes"];
                let [user, resource] = [text(&spec["user"]), text(&wanted["resource"])];
                let is_granted = |namespace: &str| self.rights.contains(&format!("{user} {resource} {namespace}"));
                json!({"allowed": is_granted("") || is_granted(&text(&wanted["namespace"]))})
            }
        };
        let body = json!({"status": status}).to_string();
        format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn tell(&mut self, what: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": what, "object": object}));
        self.watches.retain(|(path, changes)| !is_asked(object, path) || changes.send(line.clone()).is_ok());
    }
}

fn key(object: &Value) -> (Value, Value, Value) {
    (object["kind"].clone(), object["metadata"]["namespace"].clone(), object["metadata"]["name"].clone())
}

fn is_asked(object: &Value, path: &str) -> bool {
    let (resource, query) = path.split_once('?').unwrap_or((path, ""));
    let plural = resource.rsplit('/').next().unwrap_or_default();
    let is_pods_of_another_row = plural == "pods" && !query.contains("labelSelector=kubevirt.io");
    !is_pods_of_another_row && format!("{}s", object["kind"].as_str().unwrap_or_default()).to_lowercase() == plural
}
