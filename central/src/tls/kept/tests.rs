//! An API server that keeps Secrets and ConfigMaps as a real one does, and centrals that keep their certificate in it.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, Response, StatusCode},
    response::IntoResponse as _,
};
use kube::Client;

use super::*;

/// 2026-11-22, Unix time in seconds.
const NOW: u64 = 1_795_305_600;
const SECRETS: &str = "/api/v1/namespaces/kulprit/secrets";
const SECRET: &str = "/api/v1/namespaces/kulprit/secrets/kulprit-central-tls";
const CONFIG_MAP: &str = "/api/v1/namespaces/kulprit/configmaps/kulprit-central-ca";

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Requests whose method and path begin so fail.
    refused: Option<(String, u16)>,
    written: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

impl Server {
    fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn central(&self) -> Kept {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| server.clone().serve(request));
        Kept::new(Writes::new(Client::new(router, "kulprit")), "kulprit".to_owned(), MadeConfig::default())
    }

    fn object(&self, path: &str) -> Value {
        self.set(|state| state.objects.get(path).cloned().unwrap_or_default())
    }

    fn take_written(&self) -> Vec<String> {
        self.set(|state| std::mem::take(&mut state.written))
    }

    async fn serve(self, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let (method, path) = (parts.method, parts.uri.path().to_owned());
        let body: Value = serde_json::from_slice(&to_bytes(body, usize::MAX).await.unwrap()).unwrap_or_default();
        // Another central's request may come in between.
        tokio::task::yield_now().await;
        match self.set(|state| state.answer(&method, path, body)) {
            Ok(object) => object.to_string().into_response(),
            Err(code) => {
                let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"});
                (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
            }
        }
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: String, mut body: Value) -> Result<Value, u16> {
        if let Some((begin, code)) = &self.refused
            && format!("{method} {path}").starts_with(begin)
        {
            return Err(*code);
        }
        let path = if *method == Method::POST {
            format!("{path}/{}", body["metadata"]["name"].as_str().unwrap())
        } else {
            path
        };
        let known = self.objects.get(&path);
        match (method.as_str(), known) {
            ("GET", known) => return known.cloned().ok_or(404),
            ("POST", Some(_)) => return Err(409),
            ("PUT", None) => return Err(404),
            ("PUT", Some(known)) if known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                return Err(409);
            }
            _ => {}
        }
        self.version += 1;
        body["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.written.push(format!("{method} {path}"));
        self.objects.insert(path, body.clone());
        Ok(body)
    }
}

async fn looked(central: &mut Kept, now_secs: u64) -> Result<(), String> {
    central.look(now_secs).await.expect("it is time to look").map_err(|error| kulprit_daemon::Chain(&error).to_string())
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_made_with_its_ca_for_all_to_read_and_both_stay() {
    let server = Server::default();
    let mut central = server.central();
    looked(&mut central, NOW).await.unwrap();
    let made = central.made().unwrap().clone();
    assert_eq!(server.take_written(), [format!("POST {SECRET}"), format!("POST {CONFIG_MAP}")]);
    let secret = server.object(SECRET);
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(secret["data"]["tls.crt"], Base64::encode_string(made.chain.as_bytes()));
    assert_eq!(server.object(CONFIG_MAP)["data"]["ca.crt"], made.cas);
    assert!(!server.object(CONFIG_MAP).to_string().contains("PRIVATE"));
    assert!(central.look(NOW).await.is_none(), "it was just looked at");
    for _ in 0..3 {
        tokio::time::advance(LOOK_EVERY).await;
        looked(&mut central, NOW).await.unwrap();
        // So does a central that is started again.
        looked(&mut server.central(), NOW).await.unwrap();
    }
    assert!(server.take_written().is_empty() && central.made() == Some(&made));
}

#[tokio::test(start_paused = true)]
async fn of_two_centrals_at_once_the_first_wins_and_the_other_takes_it() {
    let server = Server::default();
    let (mut one, mut other) = (server.central(), server.central());
    let (first, second) = tokio::join!(looked(&mut one, NOW), looked(&mut other, NOW));
    first.and(second).unwrap();
    assert!(one.made().is_some() && one.made() == other.made());
    assert_eq!(server.take_written().iter().filter(|line| line.contains("secrets")).count(), 1);
    // The same when it is renewed.
    tokio::time::advance(LOOK_EVERY).await;
    let later = NOW + 61 * 24 * 60 * 60;
    let before = one.made().cloned();
    let (first, second) = tokio::join!(looked(&mut one, later), looked(&mut other, later));
    first.and(second).unwrap();
    assert!(one.made() == other.made() && one.made() != before.as_ref());
    assert_eq!(server.take_written(), [format!("PUT {SECRET}")]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_deleted_or_changed_is_put_right_within_the_hour() {
    let server = Server::default();
    let mut central = server.central();
    looked(&mut central, NOW).await.unwrap();
    server.set(|state| {
        state.objects.get_mut(CONFIG_MAP).unwrap()["data"] = json!({"ca.crt": "another", "own": "kept"});
    });
    tokio::time::advance(LOOK_EVERY).await;
    looked(&mut central, NOW).await.unwrap();
    let data = server.object(CONFIG_MAP)["data"].clone();
    assert_eq!(
        (data["ca.crt"].as_str(), data["own"].as_str()),
        (central.made().map(|made| made.cas.as_str()), Some("kept"))
    );
    let before = central.made().cloned();
    server.set(|state| state.objects.remove(SECRET));
    tokio::time::advance(LOOK_EVERY).await;
    looked(&mut central, NOW).await.unwrap();
    assert!(central.made() != before.as_ref(), "a Secret that was deleted is made anew, with another CA");
    assert_eq!(server.object(CONFIG_MAP)["data"]["ca.crt"], central.made().unwrap().cas);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_central_did_not_make_is_left_alone_and_an_empty_one_is_filled() {
    let server = Server::default();
    let foreign = json!({"metadata": {"resourceVersion": "1"}, "data": {"tls.crt": "eA==", "tls.key": "eA=="}});
    server.set(|state| state.objects.insert(SECRET.to_owned(), foreign.clone()));
    let mut central = server.central();
    assert_eq!(
        looked(&mut central, NOW).await.unwrap_err(),
        "the Secret kulprit/kulprit-central-tls has no `ca.crt`: central did not make it, and leaves it alone; name another in `tls.made.secret`"
    );
    assert!(central.made().is_none() && server.object(SECRET) == foreign);
    server.set(|state| state.objects.insert(SECRET.to_owned(), json!({"metadata": {"resourceVersion": "1"}})));
    looked(&mut server.central(), NOW).await.unwrap();
    assert_eq!(server.take_written(), [format!("PUT {SECRET}"), format!("POST {CONFIG_MAP}")]);
}

#[tokio::test(start_paused = true)]
async fn while_kubernetes_refuses_what_is_known_stays_and_it_is_asked_later_and_later() {
    let server = Server::default();
    let mut central = server.central();
    server.set(|state| state.refused = Some((format!("POST {SECRETS}"), 403)));
    assert_eq!(
        looked(&mut central, NOW).await.unwrap_err(),
        "the Secret kulprit/kulprit-central-tls cannot be read or written: 403: no"
    );
    assert!(central.look(NOW).await.is_none(), "not at once again");
    tokio::time::advance(RETRY_CAP).await;
    server.set(|state| state.refused = Some((format!("GET {CONFIG_MAP}"), 503)));
    assert_eq!(
        looked(&mut central, NOW).await.unwrap_err(),
        "the ConfigMap kulprit/kulprit-central-ca with the CA cannot be read or written: 503: no"
    );
    let made = central.made().cloned();
    assert!(made.is_some(), "a certificate that agents cannot check yet is one");
    tokio::time::advance(RETRY_CAP).await;
    server.set(|state| state.refused = Some(("GET".to_owned(), 503)));
    looked(&mut central, NOW).await.unwrap_err();
    assert!(central.made() == made.as_ref());
    tokio::time::advance(RETRY_CAP).await;
    server.set(|state| state.refused = None);
    looked(&mut central, NOW).await.unwrap();
    assert!(central.made() == made.as_ref() && server.object(CONFIG_MAP)["data"]["ca.crt"] == made.unwrap().cas);
}
