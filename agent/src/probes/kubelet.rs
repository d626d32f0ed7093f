//! The `kubelet` probe: its unit over the system bus, its main process by procfs, its health endpoint.
//!
//! systemd's signals say when to look; a full look follows each (re)connect and every 30 s, process and endpoint are looked at
//! every 10 s (1 s while the process is stalled). Without a bus the probe is blind and says why; it connects again with
//! back-off. The health endpoint is that of the first active unit: k3s and rke2 have the kubelet's inside.

pub(super) mod process;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use kulprit_daemon::backoff::{Backoff, BackoffPolicy, random_seed};
use kulprit_host::http::{self, HttpError};
use kulprit_host::systemd::{SYSTEM_BUS_PATH, SystemdUnits, UnitChange, UnitObservation, Units, UnitsError};
use kulprit_judge::Verdict;
use kulprit_judge::kubelet::{
    Expectation, HealthzSeen, ProcessSeen, RestartHistory, is_active, judge_healthz, judge_installed, judge_process,
    judge_unit, unknown_unit,
};
use kulprit_model::attribute;
use tokio::time::Instant;

use self::process::ProcessFinder;
use super::counters::count;
use super::{LookDraft, ProbeContext, ProbeSpec, chain};

const NAME: &str = "kubelet";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether this node's kubelet runs, restarts in a loop, hangs or reports itself unhealthy.",
    sources: "org.freedesktop.systemd1 over the system bus; /proc/PID/stat of the main process; http://127.0.0.1:10248/healthz",
    needs: "the socket of the system bus; procfs of the host's pid namespace; the node's network namespace for healthz",
    lost_without: "state and restarts of the unit without the bus (the probe is blind); whether it is stopped without procfs; healthz from another network",
    look_every: Duration::from_secs(10),
    spawn: |context| Box::pin(run(context)),
};
/// A bus that restarts is back within a second; one that is gone costs a try every 10 s.
const BACKOFF: BackoffPolicy = BackoffPolicy { base: Duration::from_millis(250), cap: Duration::from_secs(10) };
/// Period of looks at a stalled process: its hold is 3 s.
const STALLED_EVERY: Duration = Duration::from_secs(1);
/// What a kubelet leaves behind, below the host's root.
const STATE_PATHS: [&str; 4] = [
    "var/lib/kubelet/pki",
    "var/lib/kubelet/pods",
    "var/lib/rancher/k3s/agent/pod-manifests",
    "var/lib/rancher/rke2/agent/pod-manifests",
];

async fn run(context: ProbeContext) {
    let (host, config) = (context.host.clone(), std::sync::Arc::clone(&context.config));
    let connect = move || {
        let (host, config) = (host.clone(), std::sync::Arc::clone(&config));
        async move {
            match &config.dbus_address {
                Some(address) => SystemdUnits::connect_to_address(address, &config.kubelet_units).await,
                None => SystemdUnits::connect(&host, &config.kubelet_units).await,
            }
        }
    };
    run_with(context, connect).await;
}

async fn run_with<U, C, F>(context: ProbeContext, connect: C)
where
    U: Units,
    C: Fn() -> F + Send,
    F: Future<Output = Result<U, UnitsError>> + Send,
{
    let mut backoff = Backoff::new(BACKOFF, random_seed());
    let mut probe = Probe::new(context);
    loop {
        let error = match connect().await {
            Ok(units) => {
                count(&probe.context.counters.bus_connects, 1);
                match probe.follow(&units, &mut backoff).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        count(&probe.context.counters.errors, 1);
        let because = probe.why_blind(&error);
        let look = probe.context.begin(NAME).blind(because).end(&probe.context.clock);
        if !probe.context.send(look).await || probe.context.once {
            return;
        }
        tokio::select! {
            biased;
            () = probe.context.stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

struct Probe {
    context: ProbeContext,
    units: BTreeMap<String, UnitKnown>,
    finder: ProcessFinder,
    is_stalled: bool,
}

#[derive(Default)]
struct UnitKnown {
    last: Option<UnitObservation>,
    was_active: bool,
    restarts: RestartHistory,
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        let finder = ProcessFinder::new(&context.config, context.blocking());
        Self { context, units: BTreeMap::new(), finder, is_stalled: false }
    }

    /// Looks until the agent ends, `Ok`, or the bus is lost.
    async fn follow(&mut self, units: &impl Units, backoff: &mut Backoff) -> Result<(), UnitsError> {
        let config = std::sync::Arc::clone(&self.context.config);
        let mut units_at = Instant::now();
        let mut health_at = units_at;
        loop {
            let mut draft = self.context.begin(NAME);
            let now = Instant::now();
            if now >= units_at {
                match self.observe_all(units).await {
                    Ok(verdicts) => {
                        backoff.reset();
                        draft = draft.verdicts(verdicts);
                    }
                    Err(error @ UnitsError::BusLost { .. }) => return Err(error),
                    // On the bus, and systemd does not answer: the connection is good, only nobody can look.
                    Err(error) => {
                        count(&self.context.counters.errors, 1);
                        draft = draft.blind(self.why_blind(&error));
                    }
                }
                units_at = self.context.beat.next(config.units_every.get());
            }
            if now >= health_at {
                draft = self.look_at_health(draft).await;
                let every = if self.is_stalled { STALLED_EVERY } else { config.healthz_every.get() };
                health_at = self.context.beat.next(every);
            }
            if draft.look.blind_because.is_some() {
                draft.look.verdicts.clear();
                units_at = self.context.beat.next(config.healthz_every.get());
            }
            if !self.context.send(draft.end(&self.context.clock)).await || self.context.once {
                return Ok(());
            }
            loop {
                tokio::select! {
                    biased;
                    () = self.context.stop.cancelled() => return Ok(()),
                    change = units.next_change() => match change? {
                        UnitChange::Unit(name) => {
                            if !self.look_at_unit(units, &name).await? {
                                return Ok(());
                            }
                            // What runs in it has changed too.
                            health_at = health_at.min(Instant::now() + STALLED_EVERY);
                        }
                        UnitChange::Reloaded | UnitChange::ManagerBack => units_at = Instant::now(),
                        UnitChange::ManagerGone => {}
                    },
                    () = tokio::time::sleep_until(units_at.min(health_at)) => {}
                }
                if Instant::now() >= units_at.min(health_at) {
                    break;
                }
            }
        }
    }

    /// One unit after a signal; `false` when the agent ends.
    async fn look_at_unit(&mut self, units: &impl Units, name: &str) -> Result<bool, UnitsError> {
        let draft = self.context.begin(NAME);
        let verdicts = match units.observe(name).await {
            Ok(unit) => self.judge_unit(unit),
            Err(error @ (UnitsError::BusLost { .. } | UnitsError::Connect { .. })) => return Err(error),
            Err(error @ (UnitsError::Refused { .. } | UnitsError::Malformed { .. })) => {
                count(&self.context.counters.errors, 1);
                unknown_unit(name, &chain(&error))
            }
            // The next full look says so of all.
            Err(UnitsError::Timeout { .. } | UnitsError::NoManager) => return Ok(true),
        };
        Ok(self.context.send(draft.verdicts(verdicts).end(&self.context.clock)).await)
    }

    async fn observe_all(&mut self, units: &impl Units) -> Result<Vec<Verdict>, UnitsError> {
        let mut verdicts = Vec::new();
        let mut observed = Vec::new();
        let names = self.context.config.kubelet_units.clone();
        for name in &names {
            match units.observe(name).await {
                Ok(unit) => observed.push(unit),
                Err(error @ (UnitsError::Refused { .. } | UnitsError::Malformed { .. })) => {
                    count(&self.context.counters.errors, 1);
                    verdicts.extend(unknown_unit(name, &chain(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        if observed.len() == names.len() || observed.iter().any(UnitObservation::is_found) {
            verdicts.push(judge_installed(self.context.clock.now(), &observed));
        }
        for unit in observed {
            verdicts.extend(self.judge_unit(unit));
        }
        Ok(verdicts)
    }

    fn judge_unit(&mut self, unit: UnitObservation) -> Vec<Verdict> {
        let at = self.context.clock.now();
        if !unit.is_found() && !self.units.contains_key(&unit.name) {
            return Vec::new();
        }
        let known = self.units.entry(unit.name.clone()).or_default();
        known.was_active |= is_active(&unit);
        let has_state_on_disk = || STATE_PATHS.iter().any(|path| self.context.host.list(path).is_ok());
        let expectation = Expectation {
            was_active: known.was_active,
            has_state_on_disk: unit.name.starts_with("kubelet") && !is_active(&unit) && has_state_on_disk(),
        };
        let verdicts = judge_unit(at, &unit, expectation, &mut known.restarts);
        known.last = Some(unit);
        verdicts
    }

    /// Process and endpoint of every unit known.
    async fn look_at_health(&mut self, mut draft: LookDraft) -> LookDraft {
        self.is_stalled = false;
        let mut is_asked = false;
        let units: Vec<UnitObservation> = self.units.values().filter_map(|known| known.last.clone()).collect();
        for unit in units {
            let is_running = is_active(&unit);
            let process = match unit.main_pid.filter(|_| is_running) {
                Some(pid) => self.finder.look(pid).await,
                None => ProcessSeen::None,
            };
            let healthz = if is_running && !is_asked { self.ask_healthz().await } else { HealthzSeen::NotAsked };
            is_asked |= is_running;
            let at = self.context.clock.now();
            let stalled = judge_process(at, &unit.name, &process);
            self.is_stalled |=
                matches!(&stalled, Verdict::State(state) if state.status == kulprit_model::Status::Present);
            draft = draft.verdicts([stalled, judge_healthz(at, &unit.name, &healthz)]);
        }
        draft
    }

    async fn ask_healthz(&self) -> HealthzSeen {
        let config = &self.context.config;
        let Some((address, path)) = split_url(&config.healthz_url) else {
            return HealthzSeen::Unknown(format!(
                "healthz_url `{}` is not http://ADDRESS:PORT/PATH",
                config.healthz_url
            ));
        };
        match http::get(address, path, config.healthz_deadline.get()).await {
            Ok(answer) => HealthzSeen::Answered { status: answer.status, body: answer.body },
            Err(error) => {
                let failure = match &error {
                    HttpError::Refused { .. } => attribute::FAILURE_REFUSED,
                    HttpError::Timeout { .. } => attribute::FAILURE_TIMEOUT,
                    HttpError::Reset { .. } => attribute::FAILURE_RESET,
                    HttpError::Malformed { .. } => attribute::FAILURE_MALFORMED,
                    HttpError::Io { .. } => return HealthzSeen::Unknown(chain(&error)),
                };
                HealthzSeen::Failed { failure, text: chain(&error) }
            }
        }
    }

    fn why_blind(&self, error: &UnitsError) -> String {
        let bus = || match &self.context.config.dbus_address {
            Some(address) => address.clone(),
            None => self.context.host_path(SYSTEM_BUS_PATH.as_ref()).display().to_string(),
        };
        match error {
            UnitsError::Connect { .. } => {
                format!("no system bus at {}: is systemd running here? ({})", bus(), chain(error))
            }
            UnitsError::NoManager => format!("systemd is not on the system bus at {}: is it running here?", bus()),
            UnitsError::Timeout { .. }
            | UnitsError::Refused { .. }
            | UnitsError::Malformed { .. }
            | UnitsError::BusLost { .. } => chain(error),
        }
    }
}

/// `http://127.0.0.1:10248/healthz` in address and path.
pub(super) fn split_url(url: &str) -> Option<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://")?;
    let slash = rest.find('/')?;
    Some((rest[..slash].parse().ok()?, &rest[slash..]))
}

#[cfg(test)]
mod tests;
