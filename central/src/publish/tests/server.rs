//! An API server in memory that takes writes of nodes, Leases and Events as a real one does: server-side apply by field manager, merge
//! patches of the version that was read, its checks of Events, and answers that a test can spoil.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, Response, StatusCode},
    response::IntoResponse as _,
};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

/// How a request is answered instead; `None`: not at all.
type Spoilt = Option<u16>;

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<String, Value>,
    pub(super) lease: Option<Value>,
    /// By namespace and name, as they were made.
    pub(super) events: BTreeMap<(String, String), Value>,
    /// Namespaces that are being deleted.
    pub(super) terminating: BTreeSet<String>,
    /// `secrets/name` or `configmaps/name` in central's namespace, and whether central has made it.
    pub(super) own: BTreeMap<String, bool>,
    /// Events that the watch has not shown as they are.
    changed_events: BTreeSet<(String, String)>,
    /// Requests whose method and path contain the text.
    pub(super) spoilt: Vec<(String, Spoilt)>,
    pub(super) retry_after_secs: u32,
    /// Requests whose method and path contain the text are answered so much later.
    pub(super) slow: Option<(String, Duration)>,
    /// What a spoilt answer says.
    pub(super) message: String,
    /// Somebody else changes the node between our read and our patch, so often.
    pub(super) n_races: usize,
    /// Condition types that our field manager owns, by node.
    owned: BTreeMap<String, BTreeSet<String>>,
    version: u64,
    /// Nodes that the watch has not shown as they are.
    changed: BTreeSet<String>,
    requests: Vec<String>,
    /// Requests whose asker still waits.
    n_open: usize,
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

/// A request, until it is answered or its asker gives up.
struct Open(Server);

impl Open {
    fn new(server: Server) -> Self {
        server.set(|state| state.n_open += 1);
        Self(server)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(|state| state.n_open -= 1);
    }
}

type Answer = Result<Value, (u16, String)>;

impl Server {
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| server.clone().serve(request));
        Client::new(router, "kulprit")
    }

    pub(super) fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Requests with that text in method and path, since they were forgotten last.
    pub(super) fn count(&self, text: &str) -> usize {
        self.set(|state| state.requests.iter().filter(|request| request.contains(text)).count())
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_asked(&self) -> bool {
        self.set(|state| state.n_open > 0)
    }

    pub(super) fn forget(&self) {
        self.set(|state| state.requests.clear());
    }

    pub(super) fn spoil(&self, text: &str, spoilt: Spoilt) {
        self.set(|state| state.spoilt.push((text.to_owned(), spoilt)));
    }

    pub(super) fn heal(&self) {
        self.set(|state| state.spoilt.clear());
    }

    /// Adds a node with a condition and a taint of others.
    pub(super) fn add(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "uid": format!("uid-of-{name}"), "resourceVersion": "1",
                "labels": {"kubevirt.io/schedulable": "true", "topology.kubernetes.io/zone": "a"}},
            "spec": {"taints": [{"key": "example.com/x", "value": "v", "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        self.set(|state| {
            state.nodes.insert(name.to_owned(), node);
            state.change(name, |_| ());
        });
    }

    async fn serve(self, request: Request) -> Response<Body> {
        let _open = Open::new(self.clone());
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri);
        let spoilt = self.set(|state| {
            state.requests.push(line.clone());
            let spoilt = state.spoilt.iter().find(|(text, _)| line.contains(text));
            spoilt.map(|(_, spoilt)| *spoilt)
        });
        if spoilt == Some(None) {
            pending::<()>().await;
        }
        let slow = self.set(|state| state.slow.clone().filter(|(text, _)| line.contains(text)));
        if let Some((_, late)) = slow {
            sleep(late).await;
        }
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = match spoilt.flatten() {
            Some(code) => Err((code, self.set(|state| state.message.clone()))),
            None => {
                let kind = parts.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap());
                let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
                self.set(|state| state.answer(&parts.method, &path, kind, parts.uri.query().unwrap_or_default(), body))
            }
        };
        match answer {
            Ok(object) => object.to_string().into_response(),
            Err((code, message)) => {
                let retry_secs = self.set(|state| state.retry_after_secs);
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "message": message, "details": {"retryAfterSeconds": retry_secs}});
                (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
            }
        }
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &[&str], kind: &str, query: &str, body: Value) -> Answer {
        match (method.as_str(), path) {
            ("GET", ["api", "v1", "nodes"]) => Ok(self.list_nodes()),
            ("GET", ["api", "v1", "nodes", name]) => self.node(name).cloned(),
            (verb @ ("GET" | "DELETE"), ["api", "v1", "namespaces", "kulprit", plural, name]) => {
                self.answer_own(verb, &format!("{plural}/{name}"))
            }
            ("PATCH", ["api", "v1", "nodes", name, "status"]) => {
                assert_eq!(kind, "application/apply-patch+yaml");
                assert!(query.contains("fieldManager=kulprit-central") && query.contains("force=true"), "{query}");
                self.apply(name, &body)
            }
            ("PATCH", ["api", "v1", "nodes", name]) => {
                assert_eq!(kind, "application/merge-patch+json");
                self.merge(name, &body)
            }
            (verb, ["apis", "coordination.k8s.io", "v1", "namespaces", "kulprit", "leases", ..]) => {
                self.answer_lease(verb, body)
            }
            ("POST", ["apis", "events.k8s.io", "v1", "namespaces", namespace, "events"]) => {
                self.create_event(namespace, body)
            }
            ("PATCH", ["apis", "events.k8s.io", "v1", "namespaces", namespace, "events", name]) => {
                assert_eq!(kind, "application/merge-patch+json");
                self.patch_event(namespace, name, &body)
            }
            _ => panic!("nobody asks {method} {path:?}"),
        }
    }

    fn node(&self, name: &str) -> Result<&Value, (u16, String)> {
        self.nodes.get(name).ok_or_else(|| (404, format!("nodes \"{name}\" not found")))
    }

    /// With the book of who owns which conditions.
    fn list_nodes(&self) -> Value {
        let with_book = |(name, node): (&String, &Value)| {
            let mut node = node.clone();
            let keys = self
                .owned
                .get(name)
                .into_iter()
                .flatten()
                .map(|kind| (format!("k:{}", json!({"type": kind})), json!({"f:reason": {}})));
            let fields: serde_json::Map<String, Value> = keys.collect();
            if !fields.is_empty() {
                node["metadata"]["managedFields"] = json!([
                    {"manager": "kubelet", "subresource": "status", "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {}}}}},
                    {"manager": "kulprit-central", "operation": "Apply", "subresource": "status",
                        "fieldsV1": {"f:status": {"f:conditions": fields}}}]);
            }
            node
        };
        json!({"kind": "NodeList", "metadata": {}, "items": self.nodes.iter().map(with_book).collect::<Vec<_>>()})
    }

    fn answer_own(&mut self, verb: &str, place: &str) -> Answer {
        let is_ours = *self.own.get(place).ok_or((404, "not found".to_owned()))?;
        if verb == "DELETE" {
            self.own.remove(place);
        }
        let manager = if is_ours { "kulprit-central" } else { "helm" };
        Ok(json!({"metadata": {"name": place, "uid": "u", "managedFields": [{"manager": manager}]}}))
    }

    fn bump(&mut self) -> Value {
        self.version += 1;
        json!((1_000 + self.version).to_string())
    }

    /// Changes a node, which gets another `resourceVersion`.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let version = self.bump();
        self.changed.insert(name.to_owned());
        let node = self.nodes.get_mut(name).unwrap();
        change(node);
        node["metadata"]["resourceVersion"] = version;
        node.clone()
    }

    pub(super) fn take_changed(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.changed).iter().map(|name| self.nodes[name].clone()).collect()
    }

    fn apply(&mut self, name: &str, body: &Value) -> Answer {
        let meta = &body["metadata"];
        if self.node(name)?["metadata"]["uid"] != meta["uid"] {
            return Err((409, "uid mismatch".to_owned()));
        }
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["apiVersion", "kind", "metadata", "status"]);
        let applied = body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let types: BTreeSet<String> = applied.iter().map(|own| own["type"].as_str().unwrap().to_owned()).collect();
        let owned = self.owned.insert(name.to_owned(), types.clone()).unwrap_or_default();
        Ok(self.change(name, |node| {
            let conditions = node["status"]["conditions"].as_array_mut().unwrap();
            conditions.retain(|own| {
                let kind = own["type"].as_str().unwrap();
                !types.contains(kind) && !owned.contains(kind)
            });
            conditions.extend(applied);
        }))
    }

    fn merge(&mut self, name: &str, body: &Value) -> Answer {
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["metadata", "spec"]);
        assert_eq!(body["spec"].as_object().unwrap().keys().collect::<Vec<_>>(), ["taints"]);
        if self.n_races > 0 {
            self.n_races -= 1;
            let other = json!({"key": format!("example.com/race-{}", self.n_races), "effect": "NoSchedule"});
            self.change(name, |node| node["spec"]["taints"].as_array_mut().unwrap().push(other));
        }
        let meta = &self.node(name)?["metadata"];
        if meta["resourceVersion"] != body["metadata"]["resourceVersion"] || meta["uid"] != body["metadata"]["uid"] {
            return Err((409, "the object has been modified".to_owned()));
        }
        Ok(self.change(name, |node| node["spec"]["taints"] = body["spec"]["taints"].clone()))
    }

    /// The checks are those of `ValidateEventCreate`, Kubernetes `pkg/apis/core/validation/events.go`.
    fn create_event(&mut self, namespace: &str, event: Value) -> Answer {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(text("/metadata/namespace"), namespace);
        let about = text("/regarding/namespace");
        assert!(about == namespace || about.is_empty() && namespace == "default", "{event}");
        let name = text("/metadata/name");
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        assert!(name.len() <= 253 && name.chars().all(is_name) && !name.contains(".."), "{name}");
        for path in ["/eventTime", "/reportingController", "/reportingInstance", "/action", "/reason", "/regarding/uid"]
        {
            assert!(!text(path).is_empty() && text(path).len() <= 128, "{path} of {event}");
        }
        assert!(!text("/note").is_empty() && text("/note").len() <= 1_024, "{event}");
        assert!(["Normal", "Warning"].contains(&text("/type")) && event["series"].is_null(), "{event}");
        if self.terminating.contains(namespace) {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err((403, format!("events \"{name}\" is forbidden: {why}")));
        }
        let key = (namespace.to_owned(), name.to_owned());
        if self.events.contains_key(&key) {
            return Err((409, format!("events \"{name}\" already exists")));
        }
        self.changed_events.insert(key.clone());
        self.events.insert(key, event.clone());
        Ok(event)
    }

    /// The rest of an Event cannot be changed.
    fn patch_event(&mut self, namespace: &str, name: &str, body: &Value) -> Answer {
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["series"]);
        assert!(
            body["series"]["count"].as_u64() >= Some(2) && body["series"]["lastObservedTime"].is_string(),
            "{body}"
        );
        let key = (namespace.to_owned(), name.to_owned());
        let event = self.events.get_mut(&key).ok_or_else(|| (404, format!("events \"{name}\" not found")))?;
        event["series"] = body["series"].clone();
        self.changed_events.insert(key);
        Ok(event.clone())
    }

    /// As the core group shows them.
    pub(super) fn take_changed_events(&mut self) -> Vec<Value> {
        let keys = std::mem::take(&mut self.changed_events);
        let shown = keys.iter().filter_map(|key| {
            let mut event = self.events.get(key)?.clone();
            let fields = event.as_object_mut()?;
            for (new, old) in
                [("regarding", "involvedObject"), ("note", "message"), ("reportingController", "reportingComponent")]
            {
                let value = fields.remove(new)?;
                fields.insert(old.to_owned(), value);
            }
            fields.insert("apiVersion".to_owned(), json!("v1"));
            Some(event)
        });
        shown.collect()
    }

    fn answer_lease(&mut self, verb: &str, mut body: Value) -> Answer {
        let known = self.lease.clone();
        match (verb, known) {
            ("GET", known) => return known.ok_or((404, "not found".to_owned())),
            ("POST", Some(_)) => return Err((409, "already exists".to_owned())),
            ("PUT", None) => return Err((404, "not found".to_owned())),
            ("PUT", Some(known)) if known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                return Err((409, "the object has been modified".to_owned()));
            }
            ("DELETE", known) => {
                self.lease = None;
                return known.ok_or((404, "not found".to_owned()));
            }
            ("POST" | "PUT", _) => {}
            (verb, _) => panic!("nobody asks {verb} of a Lease"),
        }
        body["metadata"]["resourceVersion"] = self.bump();
        self.lease = Some(body.clone());
        Ok(body)
    }

    /// Another takes the Lease.
    pub(super) fn take_lease(&mut self, holder: &str) {
        let version = self.bump();
        let lease = self.lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = version;
        lease["spec"]["holderIdentity"] = json!(holder);
    }

    pub(super) fn holder(&self) -> String {
        self.lease
            .as_ref()
            .map_or_else(String::new, |lease| lease["spec"]["holderIdentity"].as_str().unwrap().to_owned())
    }
}
