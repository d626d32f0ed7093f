//! An API server in memory whose answers a test can spoil: it has the same objects of every kind. Streams stay open for as long as was asked for.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Response, StatusCode, Uri, header},
    response::IntoResponse as _,
};
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{Sender, channel},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;

/// What it has, and what is wrong with it.
#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Value>,
    /// What a page has besides, as text.
    pub(super) bad: Vec<String>,
    pub(super) n_per_page: usize,
    /// Further pages fail.
    pub(super) n_pages: Option<usize>,
    /// Every page is this text.
    pub(super) page: Option<String>,
    /// No request is answered.
    pub(super) hangs: bool,
    /// Streams do not end any more.
    pub(super) is_dead: bool,
    /// Streams end at once.
    pub(super) cuts: bool,
    pub(super) retry_after_secs: u32,
    /// Refusals are those of the API server's own limits: a plain text and a header.
    pub(super) is_plain: bool,
    /// Only this resource is answered whatever fails.
    pub(super) well: Option<&'static str>,
    /// Each answer takes so long.
    pub(super) slowness: Duration,
    /// What answers say of the time.
    pub(super) date: Option<&'static str>,
    failure: Option<(u16, &'static str)>,
    version: usize,
    streams: Vec<Sender<Result<String, io::Error>>>,
    requests: Vec<(Instant, String)>,
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

impl Server {
    /// With objects of these names, in the order of the alphabet.
    pub(super) fn with(names: &[&str]) -> Self {
        let server = Self::default();
        server.set(|state| state.n_per_page = 100);
        names.iter().for_each(|name| server.put(name, json!({})));
        server
    }

    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let router = Router::new().fallback(move |uri: Uri| async move {
            if server.0.lock().unwrap().hangs {
                pending::<()>().await;
            }
            let slowness = server.0.lock().unwrap().slowness;
            sleep(slowness).await;
            let mut answer = server.answer(&uri);
            if let Some(date) = server.0.lock().unwrap().date {
                answer.headers_mut().insert(header::DATE, HeaderValue::from_static(date));
            }
            answer
        });
        Client::new(router, "default")
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    /// Adds or changes an object.
    pub(super) fn put(&self, name: &str, mut object: Value) {
        let line = {
            let mut state = self.0.lock().unwrap();
            state.version += 1;
            object["metadata"]["name"] = json!(name);
            object["metadata"]["namespace"] = json!("ns");
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.objects.insert(name.to_owned(), object.clone());
            json!({"type": "ADDED", "object": object})
        };
        self.line(&line.to_string());
    }

    pub(super) fn remove(&self, name: &str) {
        let object = self.0.lock().unwrap().objects.remove(name).unwrap();
        self.line(&json!({"type": "DELETED", "object": object}).to_string());
    }

    /// Sends a line to all streams.
    pub(super) fn line(&self, line: &str) {
        let mut state = self.0.lock().unwrap();
        state.streams.retain(|stream| !stream.is_closed());
        state.streams.iter().for_each(|stream| stream.try_send(Ok(format!("{line}\n"))).unwrap());
    }

    /// Breaks all streams off in the middle of a line.
    pub(super) fn cut(&self) {
        for stream in self.0.lock().unwrap().streams.drain(..) {
            let _ = stream.try_send(Ok(r#"{"type":"ADD"#.to_owned()));
            let _ = stream.try_send(Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut")));
        }
    }

    /// Every request is answered so.
    pub(super) fn fail(&self, code: u16, message: &'static str) {
        self.set(|state| state.failure = Some((code, message)));
    }

    pub(super) fn heal(&self) {
        self.set(|state| state.failure = None);
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.0.lock().unwrap().requests.iter().map(|(_, request)| request.clone()).collect()
    }

    /// When each resource was asked for.
    pub(super) fn times(&self) -> BTreeMap<String, Vec<Instant>> {
        let mut times: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
        for (at, request) in &self.0.lock().unwrap().requests {
            let row =
                request.split(['?', '&']).filter(|part| part.starts_with('/') || part.starts_with("labelSelector"));
            times.entry(row.collect()).or_default().push(*at);
        }
        times
    }

    pub(super) fn forget(&self) {
        self.set(|state| state.requests.clear());
    }

    /// Ends a stream when its time is over.
    async fn end(self, stream: Sender<Result<String, io::Error>>, secs: u64) {
        sleep(Duration::from_secs(secs)).await;
        let is_dead = self.0.lock().unwrap().is_dead;
        if is_dead {
            stream.closed().await;
        }
        self.set(|state| state.streams.retain(|other| !other.same_channel(&stream)));
    }

    fn answer(&self, uri: &Uri) -> Response<Body> {
        let mut state = self.0.lock().unwrap();
        state.requests.push((Instant::now(), uri.to_string()));
        if let Some((code, message)) =
            state.failure.filter(|_| state.well.is_none_or(|well| !uri.path().ends_with(well)))
        {
            return state.status(code, message);
        }
        let query = uri.query().unwrap_or_default();
        let value = |key: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == key);
        if value("watch").is_some() {
            let (stream, lines) = channel(100);
            if !state.cuts {
                let (_, secs) = value("timeoutSeconds").unwrap();
                tokio::spawn(self.clone().end(stream.clone(), secs.parse().unwrap()));
                state.streams.push(stream);
            }
            return Body::from_stream(ReceiverStream::new(lines)).into_response();
        }
        let begin = value("continue").map_or(0, |(_, token)| token.parse().unwrap());
        if state.n_pages.is_some_and(|n_pages| begin >= n_pages * state.n_per_page) {
            return state.status(500, "no more");
        }
        let page = state.page.clone().unwrap_or_else(|| state.list(begin));
        page.into_response()
    }
}

impl State {
    fn status(&self, code: u16, message: &str) -> Response<Body> {
        if self.is_plain {
            let header = [(header::RETRY_AFTER, self.retry_after_secs.to_string())];
            return (StatusCode::from_u16(code).unwrap(), header, format!("{message}\n")).into_response();
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
            "details": {"retryAfterSeconds": self.retry_after_secs}});
        (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
    }

    fn list(&self, begin: usize) -> String {
        let end = self.objects.len().min(begin + self.n_per_page);
        let objects = self.objects.values().skip(begin).take(end - begin).map(Value::to_string);
        let items: Vec<String> = self.bad.iter().cloned().chain(objects).collect();
        let token = if end < self.objects.len() { end.to_string() } else { String::new() };
        let version = self.version;
        let items = items.join(",");
        format!(
            r#"{{"kind":"List","metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"items":[{items}]}}"#
        )
    }
}
