//! Puts central together: the only file that knows all parts.
//!
//! Order: the store is opened first (nothing works without it, and its errors are for a person to mend), then both
//! addresses, then the tasks. At the end streams stop first and the store last, so that what was taken in is committed.

use std::{convert::Infallible, fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use kulprit_daemon::{
    BoxError, CancellationToken, Clock, Readiness, Supervisor, UsageError,
    backoff::random_seed,
    http::{Admin, listen},
    metrics::Metrics,
};
use kulprit_proto::{
    DESCRIPTORS,
    v1::{
        ingest_server::{self, IngestServer},
        query_server::{self, QueryServer},
    },
};
use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{body::Body, service::interceptor::InterceptedService};
use tower::util::MapRequestLayer;
use tracing::{info, warn};

use crate::{
    access::{Access, Guarded, Service},
    config::Config,
    connections::{self, Admitted, Connections, Prompt},
    engine::{Decided, Engine},
    ingest::{IngestService, MAX_MESSAGE_BYTES},
    kubernetes::{
        client,
        lease::{Election, Leading},
        rights::{Rights, noting},
        watch,
        write::Writes,
    },
    leadership::{Gate, identity},
    live::Live,
    metrics::CentralMetrics,
    publish::{
        self, Publisher,
        teller::{self, Teller},
    },
    query::{QueryService, Sources},
    state::CurrentState,
    store::{HistoryReader, StoreError, StoreWriter, sqlite::SqliteStore},
    tls::{
        accept::Acceptor,
        connection::{Connection, Peer, name_peer},
        keeper::Keeper,
    },
};

const PROGRAM: &str = "kulprit-central";
const VERSION: &str = env!("CARGO_PKG_VERSION");
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

    let rights = Rights::new(central.clone());
    let client = client::connect(&config.kubernetes).await?.map(|client| noting(client, rights));
    let kubernetes = client.as_ref().map(|client| {
        let named = config.publish.lease_namespace.clone();
        (Writes::new(client.clone()), named.unwrap_or_else(|| client.default_namespace().to_owned()))
    });
    let (keeper, certificates) = match config.tls.clone() {
        Some(tls) => {
            // Who may show something else may do without a certificate.
            let must_show = config.must_show_certificate();
            let opened = Keeper::open(tls, must_show, kubernetes.clone(), clock.clone(), central.clone())?;
            (Some((opened.0, readiness.block_on("certificate"))), Some(opened.1))
        }
        None => (None, None),
    };
    let access = Access::new(config.access(), client.as_ref(), clock.clone(), central.clone())?;
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
        cluster.restore_migrations(loaded.migrations, loaded.migrations_watched);
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
    let (allowances, taken) = (config.allowances(), central.clone());
    let ingest =
        IngestService::new(live.clone(), writer.clone(), taken, access.clone(), own_cluster, allowances, stop.clone());
    let sources = Sources { live: live.clone(), decided: decided.clone(), history, metrics: central.clone() };
    let admin_page = Admin::new(PROGRAM, VERSION, readiness.clone(), metrics, &config)?;
    let query = QueryService::new(sources, access.clone(), stop.clone()).with_pages(admin_page.pages());
    let watching = client.zip(kubernetes).zip(live.cluster().cloned());
    let (clock, timers, kept) = (live.clock().clone(), config.timers(), config.history_retention.get());
    let engine = Engine::new(live, writer.clone(), decided, central.clone(), timers, kept);
    let (verdicts, of_nodes) = tokio::sync::watch::channel(None);
    let (reports, to_tell) = tokio::sync::watch::channel(None);
    let tells = config.publish.events;
    let engine = if watching.is_some() { engine.with_verdicts(verdicts, config.publish.npd_mode) } else { engine };
    let engine = if watching.is_some() && tells { engine.with_reports(reports) } else { engine };

    let mut leading = Leading::for_ever();
    if let Some(((client, (writes, namespace)), cluster)) = watching {
        let name = identity(&config.data_dir)?;
        if config.leader_election {
            let (election, elected) = Election::new(writes.clone(), namespace, name.clone(), clock.clone());
            leading = elected;
            supervisor.core("lease", election.run(stop.clone()));
        }
        let (leading, metrics) = (leading.clone(), central.clone());
        if tells {
            let sources = teller::Sources {
                cluster: cluster.clone(),
                reports: to_tell,
                leading: leading.clone(),
                writes: writes.clone(),
                identity: name,
                clock: clock.clone(),
                metrics: metrics.clone(),
            };
            supervisor.core("events", Teller::new(sources).run(stop.clone()));
        }
        let sources =
            publish::Sources { cluster: cluster.clone(), verdicts: of_nodes, leading, writes, clock, metrics };
        supervisor.core("kubernetes", watch::watch(client, Arc::new(cluster), stop.clone()));
        supervisor.core("publisher", Publisher::new(sources, config.published()).run(stop.clone()));
    }
    let gate = Gate::new(leading, central.clone());
    let connections = Connections::new(config.connections(), central.clone());
    if let Some((keeper, guard)) = keeper {
        supervisor.core("certificate", keeper.run(guard, stop.clone()));
    }
    let incoming = Box::pin(connections::incoming(grpc, connections));
    let (acceptor, greeted) = Acceptor::new(incoming, certificates, central.clone());
    supervisor.core("accept", acceptor.run(stop.clone()));
    let greeted = ReceiverStream::new(greeted);
    supervisor.core("grpc", serve(greeted, gate.clone(), access, ingest.clone(), query, stop.clone()));
    supervisor.core("store", keep_store(writer.clone(), store_end, ingest, stop.clone()));
    supervisor.core("store_watch", watch_store(writer, readiness.clone(), central, stop.clone()));
    supervisor.core("engine", decide(engine, gate.clone(), stop.clone()));
    supervisor.core("leadership", gate.keep(readiness, stop.clone()));
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
    connections: ReceiverStream<Connection<connections::Connection>>,
    gate: Gate,
    access: Access,
    ingest: IngestService,
    query: QueryService,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_not_serving::<IngestServer<IngestService>>().await;
    health.set_not_serving::<QueryServer<QueryService>>().await;
    let opened = gate.clone();
    let serving = async move {
        opened.opened().await;
        health.set_serving::<IngestServer<IngestService>>().await;
        health.set_serving::<QueryServer<QueryService>>().await;
        std::future::pending::<()>().await;
    };
    let served = [
        tonic_health::pb::health_server::SERVICE_NAME,
        tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
        ingest_server::SERVICE_NAME,
        query_server::SERVICE_NAME,
    ];
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection =
        served.into_iter().fold(reflection, |reflection, name| reflection.with_service_name(name)).build_v1()?;
    let ingest = IngestServer::new(ingest).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let query = QueryServer::new(query).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let ingest = Guarded::new(ingest, access.clone(), Service::Ingest);
    let is_asked = !access.is_open();
    let query = Guarded::new(query, access, Service::Query);
    // Who stands by asks nobody who comes.
    let of_ingest = gate.clone();
    let incoming = connections.map(move |connection| {
        let (connections, address) = connection.tcp().whose();
        Ok::<_, Infallible>(Prompt::new(connection, connections, address, is_asked))
    });
    let served = connections::server()
        .layer(MapRequestLayer::new(introduce))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(InterceptedService::new(ingest, move |request| of_ingest.pass(request)))
        .add_service(InterceptedService::new(query, move |request| gate.pass(request)))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    tokio::select! {
        served = served => Ok(served?),
        () = serving => Ok(()),
    }
}

/// Says of each request who is at the other end of its connection. What asks for health and descriptors alone shows nothing of himself: on this host
/// alone he may stay for it.
fn introduce(request: http::Request<Body>) -> http::Request<Body> {
    let request = name_peer(connections::unpack::<Peer, _>(request));
    let extensions = request.extensions();
    let address = extensions.get::<Peer>().and_then(|peer| peer.address);
    let is_of_this_host = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
    if let Some(admitted) = extensions.get::<Admitted>()
        && is_of_this_host
        && request.uri().path().starts_with("/grpc.")
    {
        admitted.note();
    }
    request
}

/// Decides once this central leads: what a standby would decide from, nobody has told it.
async fn decide(engine: Engine, gate: Gate, stop: CancellationToken) -> Result<(), BoxError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        () = gate.opened() => {}
    }
    engine.run(stop).await
}

/// Says how the store stands: on `/ready`, which stays 200, since verdicts do not wait for it, and as a metric.
async fn watch_store(
    writer: StoreWriter,
    readiness: Readiness,
    metrics: CentralMetrics,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let (waits, trouble) = writer.trouble();
        metrics.store_waits_seconds.set(i64::try_from(waits.as_secs()).unwrap_or(i64::MAX));
        readiness.remark("store", trouble);
    }
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

fn usage(error: StoreError) -> UsageError {
    let fix = error.fix();
    UsageError::new("failed to open the store").because(error).fix(fix)
}

fn no_thread(error: io::Error) -> UsageError {
    UsageError::new("failed to start a thread")
        .because(error)
        .fix("raise the limit of processes of this user or container")
}
