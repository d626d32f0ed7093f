//! The admin port over a real socket.

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;
use crate::{Clock, config::Secret, exit::ExitReason};

#[derive(Serialize)]
struct Config {
    node: &'static str,
    token: Secret,
}

struct Running {
    addr: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    server: JoinHandle<Result<(), BoxError>>,
}

async fn start() -> Running {
    let mut metrics = Metrics::new("kulprit-test", "1.2.3", &Clock::kernel());
    let counter = Counter::<u64>::default();
    counter.inc_by(7);
    metrics.section("probe").register("looks", "Looks taken", counter);
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let config = Config { node: "n1", token: Secret::new("hunter2") };
    let admin = Admin::new("kulprit-test", "1.2.3", readiness.clone(), metrics, &config).unwrap();
    let listener = listen("admin HTTP", "127.0.0.1:0".parse().unwrap(), "--admin-listen").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(admin.serve(listener, stop.clone()));
    Running { addr, readiness, stop, server }
}

/// Status, head and body of one answer.
async fn get(addr: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn ready_names_what_is_missing_until_it_is_there() {
    let running = start().await;
    assert!(get(running.addr, "/metrics").await.2.contains("\nkulprit_ready{program=\"kulprit-test\"} 1\n"));
    let spool = running.readiness.block_on("spool opened");
    assert!(get(running.addr, "/metrics").await.2.contains("\nkulprit_ready{program=\"kulprit-test\"} 0\n"));
    let dbus = running.readiness.block_on("D-Bus connected");
    let (status, _, body) = get(running.addr, "/ready").await;
    assert_eq!((status, body.as_str()), (503, "waiting for: D-Bus connected\nwaiting for: spool opened\n"));
    spool.ready();
    drop(dbus);
    let (status, _, body) = get(running.addr, "/ready").await;
    assert!(status == 503 && body.starts_with("waiting for: D-Bus connected (given up"), "{body}");
    running.readiness.block_on("D-Bus connected").ready();
    let (status, _, body) = get(running.addr, "/ready").await;
    assert_eq!((status, body.as_str()), (200, "ready\n"));
    running.readiness.remark("disk", Some("full".to_owned()));
    let (status, _, body) = get(running.addr, "/ready").await;
    assert_eq!((status, body.as_str()), (200, "ready\ndegraded: disk: full\n"));
    running.readiness.remark("disk", None);
    let (_, _, body) = get(running.addr, "/ready").await;
    assert_eq!(body, "ready\n");
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let running = start().await;
    let (status, head, body) = get(running.addr, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.to_lowercase().contains(&format!("content-type: {CONTENT_TYPE}")), "{head}");
    assert!(body.contains("\nkulprit_probe_looks_total 7\n") && body.contains("\nprocess_open_fds "), "{body}");
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets() {
    let running = start().await;
    let (_, _, yaml) = get(running.addr, "/debug/config").await;
    assert!(yaml.contains("node: n1\n") && yaml.contains("(secret)"), "{yaml}");
    let (_, _, json) = get(running.addr, "/debug/config.json").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, serde_json::json!({"node": "n1", "token": "(secret)"}));
    assert!(!yaml.contains("hunter2"));
}

#[tokio::test]
async fn live_version_and_a_path_that_is_not_there() {
    let running = start().await;
    assert_eq!(get(running.addr, "/live").await.0, 200);
    assert_eq!(get(running.addr, "/version").await.2, "kulprit-test 1.2.3\n");
    assert!(get(running.addr, "/").await.2.contains("/debug/config\n"));
    assert_eq!(get(running.addr, "/nope").await.0, 404);
}

#[tokio::test]
async fn a_silent_client_does_not_hold_the_end() {
    let running = start().await;
    let mut silent = TcpStream::connect(running.addr).await.unwrap();
    silent.write_all(b"GET /live HTTP/1.1\r\nHost:").await.unwrap();
    assert_eq!(get(running.addr, "/live").await.0, 200);
    running.stop.cancel();
    let ended = tokio::time::timeout(LAST_REQUEST + Duration::from_secs(2), running.server).await;
    ended.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_port_in_use_says_who_where_and_what_to_do() {
    let running = start().await;
    let error = listen("admin HTTP", running.addr, "--admin-listen").await.unwrap_err();
    let reason = ExitReason::of(&error);
    let want = format!(
        "failed to listen on {} (admin HTTP): Address already in use (os error 98); \
         find who has it with `ss -ltnp`, or choose another with --admin-listen",
        running.addr
    );
    assert_eq!(reason, ExitReason { code: crate::exit::USAGE, line: want });
}

#[tokio::test]
async fn an_address_of_another_host_is_told_apart() {
    // 192.0.2.0/24 is for documentation (RFC 5737): no host has it.
    let error = listen("admin HTTP", "192.0.2.1:9101".parse().unwrap(), "--admin-listen").await.unwrap_err();
    assert!(ExitReason::of(&error).line.contains("no interface of this host has that address"));
}
