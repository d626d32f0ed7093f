//! An API server in memory that is asked whose tokens are and who may what, and that a test can spoil.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Response, StatusCode},
    response::IntoResponse as _,
};
use kube::Client;
use serde_json::{Value, json};

/// How a request is answered instead; `None`: not at all.
type Spoilt = Option<u16>;

#[derive(Default)]
struct State {
    /// What is said of a token, for an audience; that of the API server itself is empty.
    users: BTreeMap<(String, String), Value>,
    /// `user verb resource namespace name`.
    rights: BTreeSet<String>,
    pods: Vec<Value>,
    spoilt: Vec<(String, Spoilt)>,
    retry_after_secs: u32,
    requests: Vec<String>,
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

impl Server {
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        Client::new(Router::new().fallback(move |request: Request| server.clone().serve(request)), "kulprit")
    }

    /// A token that is good for that audience.
    pub(super) fn knows(&self, token: &str, audience: &str, user: Value) {
        self.set(|state| state.users.insert((token.to_owned(), audience.to_owned()), user));
    }

    pub(super) fn forgets(&self, token: &str) {
        self.set(|state| state.users.retain(|(known, _), _| known != token));
    }

    pub(super) fn grants(&self, right: &str) {
        self.set(|state| state.rights.insert(right.to_owned()));
    }

    pub(super) fn takes_back(&self, right: &str) {
        self.set(|state| state.rights.remove(right));
    }

    pub(super) fn has_pod(&self, pod: Value) {
        self.set(|state| state.pods.push(pod));
    }

    /// Answers requests whose path contains the text so.
    pub(super) fn spoil(&self, text: &str, spoilt: Spoilt) {
        self.set(|state| state.spoilt.push((text.to_owned(), spoilt)));
    }

    /// Spoilt answers say when to come again.
    pub(super) fn comes_again_after(&self, secs: u32) {
        self.set(|state| state.retry_after_secs = secs);
    }

    pub(super) fn heal(&self) {
        self.set(|state| state.spoilt.clear());
    }

    /// Requests whose path contains the text, until now.
    pub(super) fn count(&self, text: &str) -> usize {
        self.set(|state| state.requests.iter().filter(|request| request.contains(text)).count())
    }

    fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    async fn serve(self, request: Request) -> Response<Body> {
        let (head, body) = request.into_parts();
        let line = format!("{} {}", head.method, head.uri);
        let spoilt = self.set(|state| {
            state.requests.push(line.clone());
            state.spoilt.iter().find(|(text, _)| line.contains(text)).map(|(_, spoilt)| *spoilt)
        });
        match spoilt {
            Some(None) => pending().await,
            Some(Some(code)) => {
                let secs = self.set(|state| state.retry_after_secs);
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "message": "spoilt", "details": {"retryAfterSeconds": secs}});
                (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
            }
            None => {
                let body = serde_json::from_slice(&to_bytes(body, usize::MAX).await.unwrap()).unwrap_or(Value::Null);
                self.set(|state| state.answer(&line, &body)).to_string().into_response()
            }
        }
    }
}

impl State {
    fn answer(&self, line: &str, body: &Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if line.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews") {
            let audience = text(&body["spec"]["audiences"][0]);
            let status = match self.users.get(&(text(&body["spec"]["token"]), audience.clone())) {
                Some(user) => json!({"authenticated": true, "user": user, "audiences": [audience]}),
                None => json!({"authenticated": false, "error": "unknown"}),
            };
            return json!({"kind": "TokenReview", "status": status});
        }
        if line.starts_with("POST /apis/authorization.k8s.io/v1/subjectaccessreviews") {
            let asked = &body["spec"]["resourceAttributes"];
            let words = ["verb", "resource", "namespace", "name"].map(|key| text(&asked[key]));
            let [verb, resource, namespace, _] = &words;
            let user = text(&body["spec"]["user"]);
            let right = format!("{user} {}", words.join(" "));
            let covers =
                [right, format!("{user} {verb} {resource} {namespace} "), format!("{user} {verb} {resource}  ")];
            return json!({"status": {"allowed": covers.iter().any(|right| self.rights.contains(right))}});
        }
        assert!(line.starts_with("GET /api/v1/namespaces/kulprit/pods?"), "{line}");
        json!({"kind": "PodList", "items": self.pods})
    }
}
