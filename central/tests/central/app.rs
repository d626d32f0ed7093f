//! The real app on ports the kernel chooses, with a clock that the test moves.

use std::{net::SocketAddr, path::Path, time::Duration};

use kulprit_central::{
    app::{Addresses, run_on},
    config::{Config, KubernetesConfig, LimitConfig},
};
use kulprit_daemon::{BoxError, CancellationToken, Chain, clock::ManualClock};
use kulprit_model::Moment;
use kulprit_proto::v1::{self, query_client::QueryClient, watch_incidents_response::Message};
use kulprit_tls::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{Streaming, transport::Channel};

use crate::agent::{Agent, PATIENCE, channel, channel_by, hello, lazy_channel};

pub(crate) const START: Moment = Moment { wall_usec: 1_800_000_000_000_000, boottime_usec: 5_000_000_000 };

/// On ports that the kernel chooses.
pub(crate) fn config(folder: &Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: folder.to_owned(),
        cluster: Some("lab".to_owned()),
        ..Config::default()
    }
}

pub(crate) struct App {
    pub(crate) addresses: Addresses,
    pub(crate) clock: ManualClock,
    pub(crate) query: QueryClient<Channel>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), BoxError>>,
}

impl App {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_at(folder, START).await
    }

    pub(crate) async fn start_at(folder: &Path, at: Moment) -> Self {
        Self::start_on(folder, at, KubernetesConfig::default()).await
    }

    /// The same, watching a Kubernetes, and leading there whoever else does.
    pub(crate) async fn start_on(folder: &Path, at: Moment, kubernetes: KubernetesConfig) -> Self {
        Self::start_with(folder, at, |config| (config.kubernetes, config.leader_election) = (kubernetes, false)).await
    }

    /// The same with other limits.
    pub(crate) async fn start_limited(folder: &Path, limits: LimitConfig) -> Self {
        Self::start_with(folder, START, |config| config.limits = limits).await
    }

    /// The same, configured otherwise.
    pub(crate) async fn start_with(folder: &Path, at: Moment, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(folder);
        change(&mut config);
        Self::start_configured(config, at, None).await
    }

    /// The same; by TLS it is asked as this client.
    pub(crate) async fn start_configured(config: Config, at: Moment, tls: Option<Client>) -> Self {
        let (clock, stop, is_plain) = (ManualClock::new(at), CancellationToken::new(), config.tls.is_none());
        let (addresses, task) = timeout(PATIENCE, async {
            loop {
                let (started, starting) = oneshot::channel();
                let task = tokio::spawn(run_on(config.clone(), stop.clone(), clock.clock(), Some(started)));
                let Ok(addresses) = starting.await else {
                    // A test beside this one that starts a program has a copy of our lock from its fork to its exec.
                    let error = task.await.unwrap().unwrap_err();
                    assert!(Chain(&*error).to_string().contains("in use by another"), "{}", Chain(&*error));
                    sleep(Duration::from_millis(10)).await;
                    continue;
                };
                return (addresses, task);
            }
        })
        .await
        .expect("central starts");
        let query = QueryClient::new(match tls {
            Some(client) => channel_by(client, addresses.grpc).await.unwrap(),
            None if is_plain => channel(addresses.grpc).await,
            None => lazy_channel(addresses.grpc),
        });
        Self { addresses, clock, query, stop, task }
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.clock().now()
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.addresses.grpc
    }

    /// An agent of node `n1`, connected.
    pub(crate) async fn agent(&self, epoch: u64) -> Agent {
        Agent::connect(self.grpc(), hello("n1", epoch, self.now())).await
    }

    /// Ends it as SIGTERM would.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it ends by itself; why.
    pub(crate) async fn ended(self) -> String {
        let ended = timeout(PATIENCE, self.task).await.expect("central ends");
        Chain(&*ended.unwrap().unwrap_err()).to_string()
    }

    /// Waits until the metrics have that line.
    pub(crate) async fn wait_for_metric(&self, line: &str) {
        let mut text = String::new();
        let waited = timeout(PATIENCE, async {
            while !text.lines().any(|own| own == line) {
                sleep(Duration::from_millis(10)).await;
                text = self.admin("/metrics").await;
            }
        });
        if waited.await.is_err() {
            panic!("no {line:?} in\n{text}");
        }
    }

    /// The value of a series.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = self.admin("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// The findings that hold now, `code subject status`.
    pub(crate) async fn findings(&self) -> Vec<String> {
        let request = v1::ListFindingsRequest { include_absent: true, ..v1::ListFindingsRequest::default() };
        let findings = self.query.clone().list_findings(request).await.unwrap().into_inner().findings;
        findings.iter().map(line).collect()
    }

    /// Waits until `want` holds of the findings.
    pub(crate) async fn wait_for_findings(&self, want: &[&str]) {
        let mut findings = Vec::new();
        let waited = timeout(PATIENCE, async {
            loop {
                findings = self.findings().await;
                if findings == want {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        if waited.await.is_err() {
            panic!("findings stay {findings:?}, wanted {want:?}");
        }
    }

    /// Waits until exactly `n` incidents are open; returns all.
    pub(crate) async fn wait_for_open_incidents(&self, n: usize) -> Vec<v1::Incident> {
        let mut incidents = Vec::new();
        let waited = timeout(PATIENCE, async {
            loop {
                let request = v1::ListIncidentsRequest { include_closed: true, ..Default::default() };
                incidents = self.query.clone().list_incidents(request).await.unwrap().into_inner().incidents;
                if incidents.iter().filter(|incident| incident.is_open).count() == n {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        if waited.await.is_err() {
            panic!("waited for {n} open incidents, there are {incidents:#?}");
        }
        incidents
    }

    /// Watches incidents.
    pub(crate) async fn watch(&self, request: v1::WatchIncidentsRequest) -> Watch {
        Watch(self.query.clone().watch_incidents(request).await.unwrap().into_inner())
    }

    /// What the admin port answers to a GET.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addresses.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// A watch on incidents.
pub(crate) struct Watch(Streaming<v1::WatchIncidentsResponse>);

impl Watch {
    /// What it is told next: `complete`, or cause, node and what became of the incident.
    pub(crate) async fn told(&mut self) -> String {
        match self.next().await.expect("central goes on") {
            Message::Complete(v1::WatchComplete {}) => "complete".to_owned(),
            Message::Change(change) => {
                let events: Vec<&str> = change.events().map(|event| event.as_str_name()).collect();
                let incident = change.incident.expect("it is set");
                format!("{} {} {}", incident.cause, incident.node, events.join(" ").replace("INCIDENT_EVENT_", ""))
            }
        }
    }

    /// The next message, or how the watch ended.
    pub(crate) async fn next(&mut self) -> Result<Message, tonic::Status> {
        let answer = timeout(PATIENCE, self.0.message()).await.expect("central says something in time")?;
        Ok(answer.expect("a watch ends with a status").message.expect("it is set"))
    }
}

pub(crate) fn line(finding: &v1::NodeFinding) -> String {
    match finding.finding.as_ref().expect("it is set") {
        v1::node_finding::Finding::State(state) => format!("{} {} {:?}", state.code, state.subject, state.status()),
        v1::node_finding::Finding::Occurrence(seen) => format!("{} {} x{}", seen.code, seen.subject, seen.count),
    }
}
