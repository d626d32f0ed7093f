//! Puts central together: the only file that knows all parts.
//!
//! Order: the store is opened first (nothing works without it, and its errors are for a person to mend), then both
//! addresses, then the tasks. At the end streams stop first and the store last, so that what was taken in is committed.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use kulprit_daemon::{
    BoxError, CancellationToken, Clock, Readiness, Supervisor, UsageError,
    backoff::random_seed,
    http::{Admin, listen},
    metrics::Metrics,
};
use kulprit_proto::{
    DESCRIPTORS,
    v1::{ingest_server::IngestServer, query_server::QueryServer},
};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::{
    config::Config,
    engine::{Decided, Engine},
    ingest::{IngestService, MAX_MESSAGE_BYTES},
    kubernetes::{client, lease::Election, watch, write::Writes},
    live::Live,
    metrics::CentralMetrics,
    publish::{self, Publisher},
    query::{QueryService, Sources},
    state::CurrentState,
    store::{HistoryReader, StoreError, StoreWriter, sqlite::SqliteStore},
};

const PROGRAM: &str = "kulprit-central";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// An agent or client that vanished without a word is noticed after 15 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(5);
/// Questions of one connection answered at the same time, and streams: an agent needs one.
const STREAMS_PER_CONNECTION: u32 = 64;
/// machine-id(5)
const MACHINE_ID: &str = "/etc/machine-id";

/// Where a running central can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The gRPC API.
    pub grpc: SocketAddr,
    /// Metrics and readiness.
    pub admin: SocketAddr,
}

/// Runs central until `stop`.
///
/// # Errors
/// If it cannot start as told, or a part that it cannot do without ends early.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), BoxError> {
    run_on(config, stop, Clock::kernel(), None).await
}

/// [`run`] with another clock; `started` gets the addresses, which port 0 leaves to the kernel.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: Config,
    stop: CancellationToken,
    clock: Clock,
    started: Option<oneshot::Sender<Addresses>>,
) -> Result<(), BoxError> {
    let mut metrics = Metrics::new(PROGRAM, VERSION, &clock);
    let central = CentralMetrics::register(metrics.section("central"));
    let mut supervisor = Supervisor::new(stop.clone(), metrics.section("task"), random_seed());
    let readiness = Readiness::new();
    let store_guard = readiness.block_on("store opened");
    let listen_guard = readiness.block_on("gRPC listening");

    let client = client::connect(&config.kubernetes).await?;
    let (store, loaded) = SqliteStore::open(&config.data_dir).map_err(usage)?;
    let history = HistoryReader::start(store.history().map_err(usage)?).map_err(no_thread)?;
    if loaded.was_empty {
        let folder = config.data_dir.display();
        warn!(%folder, "the store was an empty file: history and incidents that it held are lost, agents send what holds now");
    }
    if loaded.n_unreadable > 0 {
        warn!(n_rows = loaded.n_unreadable, "rows of another version in the store are left alone");
    }
    let mut state = CurrentState::new(config.limits(), clock.now());
    let n_nodes = loaded.nodes.len();
    loaded.nodes.into_iter().for_each(|node| state.restore(node));
    let live = Live::new(state, clock, config.settings(), client.is_some());
    if let Some(cluster) = live.cluster() {
        cluster.restore_migrations(loaded.migrations, loaded.migrations_kept_since_usec);
    }
    let on_durable = live.clone();
    let (writer, store_end) = StoreWriter::start(
        store,
        Box::new(move |stream, watermarks| on_durable.on_durable(stream, watermarks)),
        central.clone(),
    )
    .map_err(no_thread)?;
    store_guard.ready();
    let decided = Decided::new(loaded.incidents.into_iter().collect());
    info!(folder = %config.data_dir.display(), n_nodes, n_open = decided.incidents().open().count(), "the store is open");

    let grpc = listen("gRPC", config.listen, "--listen").await?;
    let admin = listen("admin HTTP", config.admin_listen, "--admin-listen").await?;
    let addresses = Addresses { grpc: grpc.local_addr()?, admin: admin.local_addr()? };

    let own_cluster = own_cluster(&config);
    let ingest = IngestService::new(live.clone(), writer.clone(), central.clone(), own_cluster, stop.clone());
    let sources = Sources { live: live.clone(), decided: decided.clone(), history, metrics: central.clone() };
    let admin_page = Admin::new(PROGRAM, VERSION, readiness.clone(), metrics, &config)?;
    let query = QueryService::new(sources, stop.clone()).with_pages(admin_page.pages());
    let watching = client.zip(live.cluster().cloned());
    let (clock, timers, kept) = (live.clock().clone(), config.timers(), config.history_retention.get());
    let engine = Engine::new(live, writer.clone(), decided, central.clone(), timers, kept);
    let (verdicts, of_nodes) = tokio::sync::watch::channel(None);
    let engine = if watching.is_some() { engine.with_verdicts(verdicts, config.publish.npd_mode) } else { engine };

    supervisor.core("grpc", serve(grpc, ingest.clone(), query, stop.clone()));
    supervisor.core("store", keep_store(writer, store_end, ingest, stop.clone()));
    supervisor.core("engine", engine.run(stop.clone()));
    if let Some((client, cluster)) = watching {
        let writes = Writes::new(client.clone());
        let namespace = config.publish.lease_namespace.clone();
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let (election, leading) = Election::new(writes.clone(), namespace, identity(), clock.clone());
        let sources =
            publish::Sources { cluster: cluster.clone(), verdicts: of_nodes, leading, writes, clock, metrics: central };
        supervisor.core("kubernetes", watch::watch(client, Arc::new(cluster), stop.clone()));
        supervisor.core("lease", election.run(stop.clone()));
        supervisor.core("publisher", Publisher::new(sources, config.published()).run(stop.clone()));
    }
    supervisor.core("admin", admin_page.serve(admin, stop));
    listen_guard.ready();
    info!(grpc = %addresses.grpc, admin = %addresses.admin, version = VERSION, "central is up");
    if let Some(started) = started {
        // Whoever asked may have gone.
        let _ = started.send(addresses);
    }
    supervisor.run(config.drain.get()).await?.into_result()?;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    ingest: IngestService,
    query: QueryService,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<IngestServer<IngestService>>().await;
    health.set_serving::<QueryServer<QueryService>>().await;
    let reflection =
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1()?;
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .tcp_nodelay(true)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(IngestServer::new(ingest).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(QueryServer::new(query).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Closes the store once every stream has ended, and waits for the last commit.
async fn keep_store(
    writer: StoreWriter,
    mut end: oneshot::Receiver<()>,
    ingest: IngestService,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = &mut end => return Err("the store's thread has ended".into()),
    }
    ingest.ended().await;
    writer.close();
    end.await.map_err(|_| "the store's thread panicked while ending".into())
}

/// The configured cluster, else this host's machine id, else a word.
fn own_cluster(config: &Config) -> String {
    let machine_id = || fs::read_to_string(Path::new(MACHINE_ID)).map(|id| id.trim().to_owned()).ok();
    config.cluster.clone().or_else(machine_id).filter(|id| !id.is_empty()).unwrap_or_else(|| "standalone".to_owned())
}

/// What no other central calls itself: its pod's or host's name, and a number of this start.
fn identity() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:016x}", host.trim(), random_seed())
}

fn usage(error: StoreError) -> UsageError {
    let fix = error.fix();
    UsageError::new("failed to open the store").because(error).fix(fix)
}

fn no_thread(error: io::Error) -> UsageError {
    UsageError::new("failed to start a thread")
        .because(error)
        .fix("raise the limit of processes of this user or container")
}
