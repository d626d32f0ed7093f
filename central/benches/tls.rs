//! What TLS costs central: handshakes a second, and how long it takes until a fleet is back after a restart.
//!
//! The real program, as its own process; agents are played here, on the same machine, so that of two cores central has about one. Rows
//! of docs/figures.md come out. `cargo bench --bench tls -- 200` is a tenth of the agents.
#![expect(clippy::print_stdout, reason = "the rows are what the benchmark is for")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kulprit_proto::v1::{self, AgentMessage, CentralMessage, agent_message::Message, ingest_client::IngestClient};
use kulprit_tls::{Client, Connector, testing::Authority};
use tokio::{net::TcpStream, runtime::Runtime, sync::mpsc, task::JoinSet, time::Instant, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

const NAME: &str = "kulprit-central.kulprit.svc";
const N_HANDSHAKES: usize = 8_000;
/// Clients that greet at the same time.
const N_AT_ONCE: usize = 64;
/// How long an agent that was refused waits here; a real one waits 0 to 500 ms at first.
const AGAIN: Duration = Duration::from_millis(100);
/// Within which a fleet of this size is to be back; the design has 15 s for 10,000.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// A central, ended when dropped.
struct Central {
    child: Child,
    address: SocketAddr,
}

impl Drop for Central {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Central {
    fn start(folder: &Path, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kulprit-central"))
            .args(["--listen", listen, "--admin-listen", "127.0.0.1:0", "--log-format", "json", "--config"])
            .arg(folder.join("central.yaml"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env_remove("KULPRIT_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("central is built for this bench");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            (line["message"] == "central is up").then(|| line["grpc"].as_str()?.parse().ok())?
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("central says where it is") }
    }

    /// Processor time so far, milliseconds: the scheduler's account of each thread.
    fn cpu_ms(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("central runs");
        let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok();
        let nsec = |text: String| text.split(' ').next()?.parse::<f64>().ok();
        tasks.flatten().filter_map(|task| nsec(read(task)?)).sum::<f64>() / 1e6
    }

    fn rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("central runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") / 1_024.0
    }
}

fn main() {
    let n_agents = std::env::args().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(2_000);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let ca = Authority::new("bench");
    let (certificate, key) = ca.issue("central", &[NAME]).write(folder.path(), "central");
    // All agents are of one address here.
    let config = format!(
        "tls: {{certificate: {}, key: {}}}\nlimits: {{connections_per_address: 12000}}\n",
        certificate.display(),
        key.display()
    );
    fs::write(folder.path().join("central.yaml"), config).expect("the folder can be written");
    let client = Client::new(&ca.pem(), NAME, None).expect("the CA was just made");
    Runtime::new().expect("a runtime starts").block_on(measure(folder.path(), &client, n_agents));
}

async fn measure(folder: &Path, client: &Client, n_agents: usize) {
    let central = Central::start(folder, "127.0.0.1:0");
    let address = central.address;
    let (began, cpu_before) = (Instant::now(), central.cpu_ms());
    let mut greeting = JoinSet::new();
    for _ in 0..N_AT_ONCE {
        let client = client.clone();
        greeting.spawn(async move {
            for _ in 0..N_HANDSHAKES / N_AT_ONCE {
                let stream = TcpStream::connect(address).await.expect("central listens");
                client.connect(stream).await.expect("central is who it should be");
            }
        });
    }
    greeting.join_all().await;
    let each_ms = (central.cpu_ms() - cpu_before) / count(N_HANDSHAKES);
    row(
        "central: TLS handshakes, clients on the same two cores",
        &format!("{:.0}/s, {each_ms:.2} ms of a core each", count(N_HANDSHAKES) / began.elapsed().as_secs_f64()),
        "(none of its own)",
        true,
    );

    let before = central.rss_mib();
    let (agents, _) = connect_all(address, client, n_agents, 1).await;
    sleep(Duration::from_secs(1)).await;
    let each_kib = (central.rss_mib() - before) * 1_024.0 / count(n_agents);
    row(
        &format!("central: memory with {n_agents} TLS agents that say nothing (RSS)"),
        &format!("{:.0} MiB, {each_kib:.0} KiB an agent", central.rss_mib()),
        "≤ 512 MiB with 10,000",
        central.rss_mib() <= 512.0,
    );
    drop(central);
    drop(agents);
    let began = Instant::now();
    let central = Central::start(folder, &address.to_string());
    let started = began.elapsed();
    let cpu_before = central.cpu_ms();
    let (_agents, waits) = connect_all(address, client, n_agents, 2).await;
    let took = began.elapsed();
    row(
        &format!("central: {n_agents} TLS agents are back after a restart"),
        &format!(
            "{:.1} s, {:.2} s of it to start; an agent p50 {:.2} s, p99 {:.2} s; {:.2} ms of a core each",
            took.as_secs_f64(),
            started.as_secs_f64(),
            percentile(&waits, 50),
            percentile(&waits, 99),
            (central.cpu_ms() - cpu_before) / count(n_agents)
        ),
        "≤ 15 s (of 10,000)",
        took <= BACK_WITHIN,
    );
}

type Stream = (mpsc::Sender<AgentMessage>, Streaming<CentralMessage>);

/// Streams of so many agents, all begun at once, and how long each took to be accepted.
async fn connect_all(address: SocketAddr, client: &Client, n: usize, epoch: u64) -> (Vec<Stream>, Vec<Duration>) {
    let began = Instant::now();
    let mut connecting = JoinSet::new();
    let connector = Arc::new(Connector::new(client.clone()));
    for number in 0..n {
        let connector = Arc::clone(&connector);
        connecting.spawn(async move {
            loop {
                match connect(address, &connector, number, epoch).await {
                    Ok(stream) => return (stream, began.elapsed()),
                    Err(_) => sleep(AGAIN).await,
                }
            }
        });
    }
    connecting.join_all().await.into_iter().unzip()
}

async fn connect(
    address: SocketAddr,
    connector: &Connector,
    number: usize,
    epoch: u64,
) -> Result<Stream, Box<dyn std::error::Error + Send + Sync>> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?;
    let channel = endpoint.connect_with_connector(connector.clone()).await?;
    let (to_central, messages) = mpsc::channel(4);
    let hello = v1::Hello {
        node: format!("node-{number}"),
        boot_id: "boot".to_owned(),
        epoch,
        agent_version: "bench".to_owned(),
        ..v1::Hello::default()
    };
    to_central.send(AgentMessage { message: Some(Message::Hello(hello)) }).await?;
    let from_central = IngestClient::new(channel).report(ReceiverStream::new(messages)).await?.into_inner();
    Ok((to_central, from_central))
}

#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn count(n: usize) -> f64 {
    n as f64
}

fn percentile(waits: &[Duration], percent: usize) -> f64 {
    let mut sorted = waits.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64()
}

fn row(what: &str, measured: &str, budget: &str, is_met: bool) {
    println!("| {what} | {measured} | {budget} | {} |", if is_met { "met" } else { "**not met**" });
}
