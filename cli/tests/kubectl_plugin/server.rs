//! An API server on loopback that lists pods and forwards to them as a real one and kubelet do, or refuses to as a test says.
//!
//! The forwarded stream is kubelet's WebSocket protocol `v4.channel.k8s.io`: binary messages that begin with a channel, 0 for data and 1 for
//! an error, each opened by a message with the port. Frames are made here, because what a test should see is the bytes.
//!
//! Source: `portforward/websocket.go` of Kubernetes' CRI streaming; RFC 6455.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex},
    thread,
};

use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tungstenite::handshake::derive_accept_key;

use crate::central;

/// What becomes of a stream to a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forward {
    /// The API server refuses it.
    Status(u16, &'static str),
    /// kubelet finds nobody there, and says so.
    Nobody(&'static str),
}

#[derive(Default)]
struct State {
    /// Of each namespace.
    pods: BTreeMap<String, Vec<Value>>,
    /// Of pods to which it does not go well.
    forwards: BTreeMap<String, Forward>,
    /// Central speaks TLS.
    tls: Option<Arc<ServerConfig>>,
    /// Every list fails.
    failure: Option<(u16, &'static str)>,
    /// What is made of a request for a token of the reader's service account.
    reader: Option<Result<&'static str, (u16, &'static str)>>,
    /// The ConfigMap with central's CA, and its namespace.
    ca: Option<(&'static str, Value)>,
    /// Paths with their queries, and what was posted.
    asked: Vec<String>,
}

/// The API server; it ends with the test's process.
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener can be");
        let server = Self { state: Arc::default(), address: listener.local_addr().expect("it is bound") };
        let state = server.state.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("it does not block");
                while let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(serve(connection, state.clone()));
                }
            });
        });
        server
    }

    /// One that is not there.
    pub(crate) fn gone() -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        Self { state: Arc::default(), address: listener.local_addr().expect("it is bound") }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn lists(&self, namespace: &str, pods: Vec<Value>) {
        self.set(|state| {
            state.pods.insert(namespace.to_owned(), pods);
        });
    }

    pub(crate) fn forwards(&self, pod: &str, forward: Forward) {
        self.set(|state| {
            state.forwards.insert(pod.to_owned(), forward);
        });
    }

    /// Central speaks TLS from now on.
    pub(crate) fn speaks(&self, tls: Arc<ServerConfig>) {
        self.set(|state| state.tls = Some(tls));
    }

    /// Every list fails so.
    pub(crate) fn fails(&self, code: u16, message: &'static str) {
        self.set(|state| state.failure = Some((code, message)));
    }

    /// The namespace has a ConfigMap with central's CA.
    pub(crate) fn keeps_ca(&self, namespace: &'static str, ca: &str) {
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "kulprit-central-ca"}, "data": {"ca.crt": ca}});
        self.set(|state| state.ca = Some((namespace, map)));
    }

    /// Whether tokens of the reader's service account are made, and which.
    pub(crate) fn makes(&self, token: Result<&'static str, (u16, &'static str)>) {
        self.set(|state| state.reader = Some(token));
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().expect("no test panics with it").asked.clone()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no test panics with it"));
    }
}

/// Answers the requests of a connection, one after the other.
async fn serve(mut connection: TcpStream, state: Arc<Mutex<State>>) {
    while let Some(head) = read_head(&mut connection).await {
        let body = read_body(&mut connection, &head).await;
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let mut parts = path.trim_start_matches("/api/v1/").split('/').skip_while(|part| *part == "namespaces");
        let answer = {
            let mut state = state.lock().expect("no test panics with it");
            state.asked.push(if body.is_empty() { target.clone() } else { format!("{target} {body}") });
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some("pods"), None, ..) => list(&state, state.pods.values().flatten()),
                (Some(namespace), Some("pods"), None, _) => {
                    list(&state, state.pods.get(namespace).into_iter().flatten())
                }
                (Some(_), Some("pods"), Some(pod), Some("portforward")) => match state.forwards.get(pod) {
                    Some(Forward::Status(code, message)) => failure(*code, message),
                    Some(Forward::Nobody(error)) => {
                        return drop(tokio::spawn(forward(connection, head, Some(*error), None)));
                    }
                    None => return drop(tokio::spawn(forward(connection, head, None, state.tls.clone()))),
                },
                (Some(namespace), Some("configmaps"), Some("kulprit-central-ca"), None) => match &state.ca {
                    Some((known, map)) if *known == namespace => answer(200, map),
                    _ => failure(404, "no such ConfigMap"),
                },
                (Some(_), Some("serviceaccounts"), Some("kulprit-reader"), Some("token")) => match state.reader {
                    Some(Ok(token)) => {
                        let status = json!({"token": token, "expirationTimestamp": "2026-11-22T04:00:00Z"});
                        answer(201, &json!({"metadata": {}, "spec": {"audiences": []}, "status": status}))
                    }
                    Some(Err((code, message))) => failure(code, message),
                    None => failure(404, "no such account"),
                },
                _ => failure(404, "not played here"),
            }
        };
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn list<'pods>(state: &State, pods: impl Iterator<Item = &'pods Value>) -> String {
    match state.failure {
        Some((code, message)) => failure(code, message),
        None => {
            let items: Vec<&Value> = pods.collect();
            answer(200, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
        }
    }
}

fn failure(code: u16, message: &str) -> String {
    answer(code, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}))
}

fn answer(code: u16, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {code} Played\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// What was posted.
async fn read_body(connection: &mut TcpStream, head: &str) -> String {
    let mut lengths = head.lines().filter_map(|line| line.split_once(": "));
    let length = lengths.find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.and_then(|(_, length)| length.trim().parse().ok()).unwrap_or(0)];
    connection
        .read_exact(&mut body)
        .await
        .map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&body).into_owned())
}

/// A request up to its empty line. `None` at the end of the connection.
async fn read_head(connection: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// kubelet's side of a forwarded stream; with an error nobody listens there.
async fn forward(
    mut connection: TcpStream,
    head: String,
    error: Option<&'static str>,
    tls: Option<Arc<ServerConfig>>,
) -> io::Result<()> {
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    assert!(header("sec-websocket-protocol").contains("v4.channel.k8s.io"), "{head}");
    let port: u16 = head.split("ports=").nth(1).and_then(|text| text.split(' ').next()?.parse().ok()).expect("a port");
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\
         sec-websocket-protocol: v4.channel.k8s.io\r\n\r\n"
    );
    connection.write_all(switch.as_bytes()).await?;
    let (read, mut write) = connection.into_split();
    let [low, high] = port.to_le_bytes();
    send(&mut write, 0, &[low, high]).await?;
    send(&mut write, 1, &[low, high]).await?;
    if let Some(error) = error {
        send(&mut write, 1, error.as_bytes()).await?;
        // A close frame.
        return write.write_all(&[0x88, 0]).await;
    }
    let (near, far) = tokio::io::duplex(1 << 16);
    match tls {
        Some(config) => drop(tokio::spawn(central::serve_by_tls(far, config))),
        None => drop(tokio::spawn(central::serve(far))),
    }
    let (mut from_central, mut to_central) = tokio::io::split(near);
    let answers = async move {
        let mut bytes = vec![0; 4096];
        loop {
            let n_read = from_central.read(&mut bytes).await?;
            if n_read == 0 {
                return Ok(());
            }
            send(&mut write, 0, &bytes[..n_read]).await?;
        }
    };
    let questions = async move {
        let mut read = read;
        while let Some((channel, bytes)) = receive(&mut read).await? {
            assert_eq!(channel, 0, "a client has nothing to say on the channel of errors");
            to_central.write_all(&bytes).await?;
        }
        to_central.shutdown().await
    };
    tokio::try_join!(answers, questions).map(drop)
}

/// Sends a binary message, unmasked as a server's are.
async fn send(write: &mut OwnedWriteHalf, channel: u8, bytes: &[u8]) -> io::Result<()> {
    let length = bytes.len() + 1;
    let mut frame = vec![0x82];
    match u8::try_from(length) {
        Ok(short @ 0..=125) => frame.push(short),
        Ok(_) | Err(_) => {
            frame.push(126);
            frame.extend(u16::try_from(length).expect("nothing here is longer").to_be_bytes());
        }
    }
    frame.push(channel);
    frame.extend_from_slice(bytes);
    write.write_all(&frame).await
}

/// The next binary message, masked as a client's are: its channel and bytes. `None` when the client closes.
async fn receive(read: &mut OwnedReadHalf) -> io::Result<Option<(u8, Vec<u8>)>> {
    loop {
        let opcode = match read.read_u8().await {
            Ok(byte) => byte & 0x0f,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = match read.read_u8().await? & 0x7f {
            126 => u64::from(read.read_u16().await?),
            127 => read.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = [0; 4];
        read.read_exact(&mut mask).await?;
        let mut bytes = vec![0; usize::try_from(length).expect("a frame of a test is small")];
        read.read_exact(&mut bytes).await?;
        bytes.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        match (opcode, bytes.split_first()) {
            (2, Some((channel, bytes))) => return Ok(Some((*channel, bytes.to_vec()))),
            (8, _) => return Ok(None),
            _ => {}
        }
    }
}
