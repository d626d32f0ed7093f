//! Wires the agent: the only file that knows all parts.
//!
//! Core tasks (tracker, uplink, socket, admin port) end the process when they end; probes are started again. On SIGTERM the
//! probes end first, the tracker takes in what they sent, and the spool is closed last.

use std::{env, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use kulprit_daemon::{
    CancellationToken, Clock, Readiness, Supervisor, UsageError,
    backoff::{random_seed, stable_seed},
    http::{self, Admin},
    metrics::Metrics,
    telemetry::{Chain, set_filter},
};
use kulprit_host::{HostRoot, allocator};
use kulprit_proto::v1;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    arguments::Output,
    capture::Capturer,
    check,
    config::AgentConfig,
    docs,
    hello::{self, HelloSource},
    look::Look,
    metrics::{AgentMetrics, ProbeSeries, SpoolSeries},
    probes::{
        Beat, Lane, Launchers, PROBES, ProbeConfig, ProbeContext, ProbeCounters, ProbeSpec, PullFailures, Suspects,
        VmIndex,
    },
    recorder::Recorder,
    reload::{ReadConfig, Reload},
    sacrifice::Sacrifice,
    socket::{self, StatusService},
    spool::{Limits, Spool},
    tracker::{
        ProbeRow, Tracker,
        run::{Ask, Ends},
    },
    uplink::{Uplink, UplinkState},
};

/// Name in metrics and on the admin port.
const PROGRAM: &str = "kulprit-agent";
/// Version of the agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Looks on their way to the tracker; then the probes wait.
const N_LOOKS: usize = 64;
/// Questions on their way to the tracker.
const N_ASKS: usize = 64;
/// Captures asked for, and made, that may wait: central asks for four of an incident.
const N_CAPTURES: usize = 8;

/// How often memory is given back to the kernel; it takes well below a millisecond.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(60);

/// Runs the agent until `stop`, on a runtime that was started at `started`.
///
/// # Errors
/// If it cannot start as told, or a core task ends.
pub async fn run(
    config: AgentConfig,
    source: Option<(PathBuf, ReadConfig)>,
    started: Instant,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let clock = Clock::kernel();
    let host = HostRoot::new(&config.host_root);
    let boot_id = host.boot_id().map_err(|error| {
        UsageError::new("failed to find out which boot this is")
            .because(error)
            .fix("mount the host's root, and name it with --host-root")
    })?;
    let node = node_name(&config, &host)?;
    let limits = Limits { disk_bytes: config.spool_bytes, ..Limits::default() };
    let opened = Spool::open(Some(&config.state_dir), limits, &boot_id, &clock)?;
    let socket = socket::listen(&config.socket()).await?;
    let listener = http::listen("admin HTTP", config.admin_listen, "--admin-listen").await?;
    let mut cannot_show = opened.notes;
    let (inventory, runtime, not_shown) = tokio::join!(
        hello::inventory(&host),
        hello::runtime(&host, &config.probes),
        hello::cannot_show(&host, &config.probes)
    );
    let mut inventory = inventory.unwrap_or_else(|why| {
        cannot_show.push(why);
        v1::Inventory::default()
    });
    match runtime {
        Ok(runtime) => inventory.runtime = runtime,
        Err(why) => cannot_show.push(why),
    }
    cannot_show.extend(not_shown);
    let hello = HelloSource::new(v1::Hello {
        cluster: config.cluster.clone(),
        node: node.clone(),
        boot_id: boot_id.clone(),
        epoch: opened.epoch,
        agent_version: VERSION.to_owned(),
        sent: None,
        inventory: Some(inventory),
        cannot_show,
    });
    info!(version = VERSION, node, epoch = opened.epoch, central = config.central, socket = %config.socket().display(), "agent starts");

    let readiness = Readiness::new();
    let has_looked = readiness.block_on("every probe has looked once");
    let counters = Arc::new(ProbeCounters::default());
    let metrics = AgentMetrics::default();
    let mut series = Metrics::new(PROGRAM, VERSION, &clock);
    metrics.register(&mut series);
    SpoolSeries(opened.spool.status()).register(&mut series);
    ProbeSeries(Arc::clone(&counters)).register(&mut series);

    let (looks, look_end) = mpsc::channel(N_LOOKS);
    let (asks, ask_end) = mpsc::channel(N_ASKS);
    let (uplink_state, uplink_seen) = watch::channel(UplinkState::default());
    let probe_ended = {
        let (asks, metrics) = (asks.clone(), metrics.clone());
        move |name: &'static str, end: &kulprit_daemon::supervise::End| {
            if PROBES.iter().any(|spec| spec.name == name) {
                metrics.probe_ended(name);
                // Full: then the probe's silence will tell the same.
                let _ = asks.try_send(Ask::ProbeEnded(name, format!("its task {end}")));
            }
        }
    };
    let mut tasks = Supervisor::new(stop.clone(), series.section("task"), random_seed()).with_on_end(probe_ended);

    let tracker = Tracker::new(&rows(), &boot_id, opened.memory, clock.now());
    let ends = Ends { looks: look_end, asks: ask_end };
    let spool = opened.spool.clone();
    tasks.core(
        "tracker",
        crate::tracker::run::run(tracker, ends, spool, clock.clone(), metrics.clone(), has_looked, stop.clone()),
    );
    let context = ContextSource::new(&config, host, clock.clone(), counters, started, stop.clone());
    let (capture_asks, captures_asked) = mpsc::channel(N_CAPTURES);
    let (captures_made, captures) = mpsc::channel(N_CAPTURES);
    tasks.core("capture", context.capturer(asks.clone()).run(captures_asked, captures_made, stop.clone()));
    tasks.core("recorder", follow_suspects(Arc::clone(&context.recorder), context.suspects.subscribe(), stop.clone()));
    let uplink = Uplink {
        central: config.central(),
        hello: hello.clone(),
        spool: opened.spool.clone(),
        tracker: asks.clone(),
        state: uplink_state,
        suspects: Arc::clone(&context.suspects),
        capture_asks,
        captures: Mutex::new(captures),
        beat: context.beat,
        metrics: metrics.clone(),
        clock: clock.clone(),
    };
    tasks.core("uplink", uplink.run(stop.clone()));
    let service = StatusService {
        hello,
        central: config.central.clone(),
        tracker: asks.clone(),
        uplink: uplink_seen,
        spool: opened.spool.status(),
        clock: clock.clone(),
    };
    tasks.core("socket", service.serve(socket, stop.clone()));
    let admin = Admin::new(PROGRAM, VERSION, readiness, series, &config).map_err(anyhow::Error::from_boxed)?;
    if let Some((file, read)) = source {
        let (probes, page) = (context.config.clone(), admin.config_page());
        let (running, set_log) = (config.clone(), Box::new(set_filter));
        let reload = Reload { file, read, running, probes, set_log, page, metrics: metrics.clone() };
        tasks.core("reload", reload.run(context.beat, context.lane.clone(), stop.clone()));
    }
    tasks.core("admin", admin.serve(listener, stop.clone()));
    tasks.core("allocator", give_memory_back(context.beat, stop.clone()));

    for spec in PROBES {
        let (context, looks, asks) = (context.clone(), looks.clone(), asks.clone());
        tasks.restartable(spec.name, move || keep_probing(spec, context.clone(), looks.clone(), asks.clone()));
    }
    drop((looks, asks));
    let ended = tasks.run(config.drain.get()).await;
    opened.spool.close().await;
    ended?.into_result()?;
    Ok(())
}

/// Runs every probe once; prints; 0, 1 or 2 as [`check::exit_code`] says.
///
/// # Errors
/// None of the probes' own: those are findings.
#[expect(clippy::print_stdout, reason = "the table is what the command is for")]
pub async fn check(config: AgentConfig, output: Output, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let checked = look_once(&config, PROBES, None, stop).await?;
    match output {
        Output::Human => print!("{}", check::human(&checked)),
        Output::Json => print!("{}", check::json(&checked)),
    }
    Ok(check::exit_code(&checked).into())
}

/// Runs one probe once and prints one line, as node-problem-detector wants of a custom plugin: 0 OK, 1 NonOK, 2 Unknown; also what
/// is not known `within` that time.
///
/// # Errors
/// If there is no such probe.
#[expect(clippy::print_stdout, reason = "the line is what the command is for")]
pub async fn check_npd(
    config: AgentConfig,
    probe: &str,
    within: Duration,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let Some(index) = PROBES.iter().position(|spec| spec.name == probe) else {
        let names: Vec<&str> = PROBES.iter().map(|spec| spec.name).collect();
        return Err(UsageError::new(format!("there is no probe `{probe}`"))
            .fix(format!("one of {}", names.join(", ")))
            .into());
    };
    let checked = look_once(&config, &PROBES[index..=index], Some(within), stop).await?;
    println!("{}", check::npd_line(&checked));
    Ok(check::exit_code(&checked).into())
}

async fn look_once(
    config: &AgentConfig,
    probes: &'static [ProbeSpec],
    within: Option<Duration>,
    stop: CancellationToken,
) -> anyhow::Result<Vec<check::Checked>> {
    let clock = Clock::kernel();
    let context = ContextSource::new(
        config,
        HostRoot::new(&config.host_root),
        clock.clone(),
        Arc::default(),
        Instant::now(),
        stop.clone(),
    );
    tokio::select! {
        biased;
        () = stop.cancelled() => anyhow::bail!("ended before every probe had looked"),
        checked = check::check(probes, |looks| context.make(looks, true), &clock, within) => Ok(checked),
    }
}

/// Prints the probe table.
#[expect(clippy::print_stdout, reason = "the list is what the command is for")]
pub fn list_probes(output: Output) {
    match output {
        Output::Human => print!("{}", docs::probes_text()),
        Output::Json => print!("{}", docs::probes_json()),
    }
}

fn rows() -> Vec<ProbeRow> {
    PROBES.iter().map(|spec| ProbeRow { name: spec.name, look_every: spec.look_every }).collect()
}

/// Flag or file, then the downward API's variable, then the host's own name.
fn node_name(config: &AgentConfig, host: &HostRoot) -> Result<String, UsageError> {
    let from_environment = env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    match config.node_name.clone().or(from_environment) {
        Some(name) => Ok(name),
        None => host.hostname().map_err(|error| {
            UsageError::new("failed to find out the name of this node").because(error).fix("give it with --node-name")
        }),
    }
}

/// Where a probe goes on; `None` also when the tracker has ended, and then so does the probe.
async fn position(asks: &mpsc::Sender<Ask>, probe: &'static str) -> Option<String> {
    let (reply, position) = oneshot::channel();
    if let Err(error) = asks.send(Ask::Position(probe, reply)).await {
        warn!(probe, error = %Chain(&error), "cannot ask where the probe is to go on");
    }
    position.await.ok().flatten()
}

/// Runs a probe until it ends by itself; with another configuration it is ended and started anew, and goes on where it was.
async fn keep_probing(
    spec: &ProbeSpec,
    context: ContextSource,
    looks: mpsc::Sender<Look>,
    asks: mpsc::Sender<Ask>,
) -> Result<(), kulprit_daemon::BoxError> {
    let mut configs = context.config.subscribe();
    loop {
        configs.mark_unchanged();
        let stop = context.stop.child_token();
        let start_at = position(&asks, spec.name).await;
        let made = context.make(looks.clone(), false);
        let mut probe = (spec.spawn)(ProbeContext { start_at, stop: stop.clone(), ..made });
        tokio::select! {
            () = &mut probe => return Ok(()),
            Ok(()) = configs.changed() => {}
        }
        stop.cancel();
        probe.await;
    }
}

/// Freezes what led up to it whenever somebody becomes a suspect.
async fn follow_suspects(
    recorder: Arc<Recorder>,
    mut suspects: watch::Receiver<Arc<Suspects>>,
    stop: CancellationToken,
) -> Result<(), kulprit_daemon::BoxError> {
    loop {
        let named = Arc::clone(&suspects.borrow_and_update());
        recorder.follow(&named);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = suspects.changed() => if changed.is_err() {
                stop.cancelled().await;
            }
        }
    }
}

/// Gives back what looks used and nobody holds, first of all what the start took.
async fn give_memory_back(beat: Beat, stop: CancellationToken) -> Result<(), kulprit_daemon::BoxError> {
    while stop.run_until_cancelled(beat.wait(GIVE_BACK_EVERY)).await.is_some() {
        allocator::give_back();
    }
    Ok(())
}

/// What all probes have in common.
#[derive(Clone, Debug)]
struct ContextSource {
    host: HostRoot,
    config: watch::Sender<Arc<ProbeConfig>>,
    clock: Clock,
    stop: CancellationToken,
    suspects: Arc<watch::Sender<Arc<Suspects>>>,
    vms: Arc<VmIndex>,
    launchers: Arc<watch::Sender<Arc<Launchers>>>,
    pulls: Arc<PullFailures>,
    beat: Beat,
    lane: Lane,
    recorder: Arc<Recorder>,
    sacrifice: Arc<Sacrifice>,
    counters: Arc<ProbeCounters>,
}

impl ContextSource {
    fn new(
        config: &AgentConfig,
        host: HostRoot,
        clock: Clock,
        counters: Arc<ProbeCounters>,
        started: Instant,
        stop: CancellationToken,
    ) -> Self {
        Self {
            host,
            config: watch::Sender::new(Arc::new(config.probes.clone())),
            clock,
            stop,
            suspects: Arc::default(),
            vms: Arc::new(VmIndex::new()),
            launchers: Arc::default(),
            pulls: Arc::default(),
            beat: Beat::new(stable_seed(&["beat", config.node_name.as_deref().unwrap_or_default()]), started),
            lane: Lane::default(),
            recorder: Arc::default(),
            sacrifice: Arc::default(),
            counters,
        }
    }

    fn capturer(&self, tracker: mpsc::Sender<Ask>) -> Capturer {
        Capturer {
            host: self.host.clone(),
            config: self.config.subscribe(),
            launchers: Arc::clone(&self.launchers),
            vms: Arc::clone(&self.vms),
            recorder: Arc::clone(&self.recorder),
            tracker,
            clock: self.clock.clone(),
        }
    }

    fn make(&self, out: mpsc::Sender<Look>, once: bool) -> ProbeContext {
        ProbeContext {
            host: self.host.clone(),
            config: Arc::clone(&self.config.borrow()),
            clock: self.clock.clone(),
            out,
            stop: self.stop.clone(),
            suspects: self.suspects.subscribe(),
            vms: Arc::clone(&self.vms),
            launchers: Arc::clone(&self.launchers),
            pulls: Arc::clone(&self.pulls),
            beat: self.beat,
            lane: self.lane.clone(),
            recorder: Arc::clone(&self.recorder),
            sacrifice: Arc::clone(&self.sacrifice),
            counters: Arc::clone(&self.counters),
            start_at: None,
            once,
        }
    }
}
