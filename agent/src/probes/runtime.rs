//! The `runtime` probe: the container runtime's unit over the system bus, its answers over CRI, its shims in procfs.
//!
//! systemd's signals say when a unit is to be looked at again. The calls are polled (why: `kulprit/cri/v1/cri.proto`): `Status` every
//! 5 s, so that a runtime that hangs is known within 10 s, and the lists of the launchers' sandboxes and containers every 30 s, every
//! 10 s while a VM is suspect or a container of a launcher has failed. Nothing is asked of a runtime whose unit does not run. Where a
//! node has several, each speaks of the VMs that it listed, and the pod network is as the one says that runs containers.

pub(super) mod client;
mod endpoint;
#[cfg(test)]
mod fake;
mod shims;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kulprit_daemon::backoff::{Backoff, BackoffPolicy, random_seed};
use kulprit_host::HostRoot;
use kulprit_host::cri::{Container, RUNTIME_SOCKETS, Sandbox};
use kulprit_host::process::{ProcessId, TaskState};
use kulprit_host::systemd::{SystemdUnits, UnitChange, UnitObservation, Units, UnitsError};
use kulprit_judge::Verdict;
use kulprit_judge::command::node::is_runtime_unit;
use kulprit_judge::kubelet::{ProcessSeen, is_active};
use kulprit_judge::runtime::{
    Answer, SandboxSeen, judge_answer, judge_containers, judge_inactive_by_socket, judge_network,
    judge_network_elsewhere, judge_shim, judge_unit, unknown_containers, unknown_network, unknown_unit,
};
use kulprit_model::{FindingCode, Moment, Status, Subject};
use tokio::task::JoinError;
use tokio::time::Instant;

use self::client::CallError;
use self::endpoint::{Endpoint, Launched, RoundEnd, Rounds, Wants};
use self::shims::{Shim, Shims};
use super::counters::count;
use super::kubelet::process::ProcessFinder;
use super::{ProbeContext, ProbeSpec, chain};

const NAME: &str = "runtime";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the container runtime runs, answers and is ready, and what it says of the launchers' containers.",
    sources: "CRI v1 over its socket: Status every 5 s, Version and ImageFsInfo once, ListPodSandbox, ListContainers and ContainerStatus every 30 s; its systemd unit; /proc/loadavg, shims in /proc, their threads while a VM is suspect",
    needs: "the runtime's socket (root); the system bus; procfs of the host's pid namespace",
    lost_without: "readiness and containers without the socket; the unit without the bus; stuck shims without procfs",
    look_every: Duration::from_secs(10),
    spawn: |context| Box::pin(run(context)),
};
/// Period of the calls that ask no more than whether it answers.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Every so many of them ask for the launchers too, and while something is wrong with one.
const N_ASKS_OF_LISTS: u64 = 6;
const N_ASKS_OF_LISTS_SUSPECT: u64 = 2;
/// Every so many of them look at the shims: twice within the hold of 30 s.
const N_ASKS_OF_SHIMS: u64 = 3;
/// Why the network is not known where [`Judged::Untold`].
const UNTOLD: &str =
    "no container runs on any of this node's runtimes, so which of them the kubelet uses is not known, and they differ";
/// A bus that restarts is back within a second; one that is gone costs a try every 30 s.
const BACKOFF: BackoffPolicy = BackoffPolicy { base: Duration::from_millis(250), cap: Duration::from_secs(30) };

async fn run(context: ProbeContext) {
    let (host, config) = (context.host.clone(), Arc::clone(&context.config));
    let connect = move |units: Vec<String>| {
        let (host, config) = (host.clone(), Arc::clone(&config));
        async move {
            match &config.dbus_address {
                Some(address) => SystemdUnits::connect_to_address(address, &units).await,
                None => SystemdUnits::connect(&host, &units).await,
            }
        }
    };
    run_with(context, connect).await;
}

async fn run_with<U, C, F>(context: ProbeContext, connect: C)
where
    U: Units,
    C: Fn(Vec<String>) -> F + Send,
    F: Future<Output = Result<U, UnitsError>> + Send,
{
    let mut probe = Probe::new(context);
    let mut bus: Option<U> = None;
    let mut backoff = Backoff::new(BACKOFF, random_seed());
    let (mut connect_at, mut units_at, mut ask_at) = (Instant::now(), Instant::now(), Instant::now());
    loop {
        if bus.is_none() && Instant::now() >= connect_at {
            match connect(probe.unit_names()).await {
                Ok(units) => {
                    count(&probe.context.counters.bus_connects, 1);
                    bus = Some(units);
                    units_at = Instant::now();
                }
                Err(error) => probe.lose_bus(&error),
            }
            connect_at = Instant::now() + backoff.next_delay();
        }
        if let Some(units) = bus.as_ref().filter(|_| Instant::now() >= units_at) {
            match probe.observe_all(units).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    probe.lose_bus(&error);
                    bus = bus.filter(|_| !matches!(error, UnitsError::BusLost { .. }));
                }
            }
            units_at = probe.context.beat.next(probe.context.config.units_every.get());
        }
        if Instant::now() >= ask_at {
            probe.ask().await;
            ask_at = probe.context.beat.next(STATUS_EVERY);
        }
        // What was just asked is answered in a millisecond, as a rule; the look waits for it, until it is late.
        if !probe.endpoints.iter().any(Endpoint::is_waiting) && (!probe.send().await || probe.context.once) {
            return;
        }
        let late_at = probe.endpoints.iter().filter(|row| row.is_waiting()).filter_map(Endpoint::late_at).min();
        let bus_at = if bus.is_some() { units_at } else { connect_at };
        let wake = late_at.map_or(ask_at, |late_at| late_at.min(ask_at)).min(bus_at);
        tokio::select! {
            biased;
            () = probe.context.stop.cancelled() => return,
            change = next_change(bus.as_ref()) => match (change, &bus) {
                (Ok(UnitChange::Unit(name)), Some(units)) => {
                    probe.observe(units, &name).await;
                    // What listens has changed too.
                    ask_at = Instant::now();
                }
                (Ok(UnitChange::Reloaded | UnitChange::ManagerBack), _) => units_at = Instant::now(),
                (Ok(UnitChange::ManagerGone | UnitChange::Unit(_)), _) => {}
                (Err(error), _) => {
                    probe.lose_bus(&error);
                    bus = None;
                }
            },
            Some(end) = probe.rounds.join_next() => probe.take(end),
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

async fn next_change(bus: Option<&impl Units>) -> Result<UnitChange, UnitsError> {
    match bus {
        Some(units) => units.next_change().await,
        None => std::future::pending().await,
    }
}

struct Probe {
    context: ProbeContext,
    endpoints: Vec<Endpoint>,
    rounds: Rounds,
    units: BTreeMap<String, UnitKnown>,
    /// Why systemd cannot be asked.
    bus_error: Option<String>,
    finder: ProcessFinder,
    shims: Shims,
    n_asks: u64,
    /// For the next look.
    verdicts: Vec<Verdict>,
    gone: Vec<Subject>,
}

#[derive(Default)]
struct UnitKnown {
    /// As systemd last showed it; `None` while it cannot be asked.
    last: Option<UnitObservation>,
    was_active: bool,
}

/// How the unit behind an endpoint is.
enum UnitSeen {
    /// It runs, or nobody knows of one: the socket tells.
    Runs,
    /// It has begun to start.
    Starts,
    /// It does not run: its words.
    Rests(String),
}

/// Whether the state of the pod network is that of the runtime in question.
enum Judged {
    /// It is the kubelet's, or none says otherwise.
    Itself,
    /// The kubelet uses another.
    Another,
    /// Which one the kubelet uses is not known, and they differ.
    Untold,
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        let endpoints = context.config.runtime_sockets.iter().map(|path| endpoint(path)).collect();
        let (finder, shims) =
            (ProcessFinder::new(&context.config, context.blocking()), Shims::new(&context.config, context.blocking()));
        Self {
            context,
            endpoints,
            rounds: Rounds::new(),
            units: BTreeMap::new(),
            bus_error: None,
            finder,
            shims,
            n_asks: 0,
            verdicts: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// The units that may run what the configuration names.
    fn unit_names(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.endpoints.iter().flat_map(|endpoint| &endpoint.units).collect();
        names.into_iter().cloned().collect()
    }

    fn lose_bus(&mut self, error: &UnitsError) {
        count(&self.context.counters.errors, 1);
        self.bus_error = Some(chain(error));
        self.units.values_mut().for_each(|known| known.last = None);
    }

    async fn observe_all(&mut self, units: &impl Units) -> Result<(), UnitsError> {
        for name in self.unit_names() {
            match units.observe(&name).await {
                Ok(unit) => self.know(unit),
                Err(UnitsError::Refused { .. } | UnitsError::Malformed { .. }) => {
                    count(&self.context.counters.errors, 1);
                    self.units.entry(name).or_default().last = None;
                }
                Err(error) => return Err(error),
            }
        }
        self.bus_error = None;
        Ok(())
    }

    /// One unit after a signal. What fails here is said by the next look at all.
    async fn observe(&mut self, units: &impl Units, name: &str) {
        match units.observe(name).await {
            Ok(unit) => self.know(unit),
            Err(_) => count(&self.context.counters.errors, 1),
        }
    }

    fn know(&mut self, unit: UnitObservation) {
        if !unit.is_found() && !self.units.contains_key(&unit.name) {
            return;
        }
        let known = self.units.entry(unit.name.clone()).or_default();
        known.was_active |= is_active(&unit);
        known.last = Some(unit);
    }

    /// The unit that an endpoint belongs to: the one that runs, else one that the host has, else its usual one.
    fn unit_of(&self, endpoint: &Endpoint) -> (String, Option<&UnitObservation>) {
        let found = || endpoint.units.iter().filter_map(|name| self.units.get(name)?.last.as_ref());
        match found().find(|unit| is_active(unit)).or_else(|| found().find(|unit| unit.is_found())) {
            Some(unit) => (unit.name.clone(), Some(unit)),
            None => (endpoint.units.first().cloned().unwrap_or_default(), None),
        }
    }

    /// Asks every runtime that may run, and looks at the shims when their turn is.
    async fn ask(&mut self) {
        let mut of_vms = self.endpoints.iter().flat_map(|endpoint| endpoint.vms.values());
        let is_suspect = !self.context.suspects.borrow().is_empty() || of_vms.any(|status| *status != Status::Absent);
        let n_asks_of_lists = if is_suspect { N_ASKS_OF_LISTS_SUSPECT } else { N_ASKS_OF_LISTS };
        let wants = if self.n_asks.is_multiple_of(n_asks_of_lists) { Wants::Lists } else { Wants::Status };
        let at = self.context.clock.now();
        for index in 0..self.endpoints.len() {
            let (_, unit) = self.unit_of(&self.endpoints[index]);
            if matches!(seen(unit), UnitSeen::Rests(_)) {
                self.endpoints[index].forget();
            } else {
                self.endpoints[index].ask(index, &self.context.host, wants, at, &mut self.rounds);
            }
        }
        if self.n_asks.is_multiple_of(N_ASKS_OF_SHIMS) {
            self.look_at_shims().await;
        }
        self.n_asks += 1;
    }

    async fn look_at_shims(&mut self) {
        // Threads are many: all shims' only while somebody is stuck, or where there is no next look.
        let closely = self.context.once || !self.context.suspects.borrow().is_empty();
        let Ok(pass) = self.shims.look(closely).await else {
            count(&self.context.counters.errors, 1);
            return;
        };
        let at = self.context.clock.now();
        let judge = |shim: &Shim| judge_shim(at, shim.id, &shim.comm, shim.tid, shim.state, shim.wchan.as_deref());
        self.verdicts.extend(pass.shims.iter().map(judge));
        let subject = |id: &ProcessId| Subject::Process { pid: id.pid, start_ticks: id.start_time_ticks };
        self.gone.extend(pass.ended.iter().map(subject));
    }

    /// Takes an answer in.
    fn take(&mut self, end: Result<RoundEnd, JoinError>) {
        match end {
            Ok(end) => {
                let index = end.endpoint_idx;
                if let Some(sandboxes) = self.endpoints[index].take(end) {
                    self.judge_launchers(index, &sandboxes);
                }
            }
            // Given up by us. What panics is a bug: the probe ends with it, and the agent says so.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// The VMs of the runtime that listed these sandboxes.
    fn judge_launchers(&mut self, index: usize, sandboxes: &[Launched]) {
        let at = self.context.clock.now();
        let launchers = Arc::clone(&self.context.launchers.borrow());
        let vm_of = |sandbox: &Sandbox| {
            let by_pod = || launchers.by_pod(&sandbox.pod_uid).map(|row| row.vmi_uid.clone());
            sandbox.vmi_uid.clone().or_else(by_pod)
        };
        // By VM: a sandbox that is ready has the say, whatever ended before or beside it.
        let mut by_vm: BTreeMap<String, (SandboxSeen, Vec<Container>)> = BTreeMap::new();
        for (sandbox, containers) in sandboxes {
            let Some(vm) = vm_of(sandbox) else { continue };
            let seen = if sandbox.is_ready { SandboxSeen::Ready } else { SandboxSeen::Ended };
            let known = by_vm.entry(vm).or_insert((seen, Vec::new()));
            if known.0 == SandboxSeen::Ended && seen == SandboxSeen::Ready {
                *known = (seen, Vec::new());
            }
            if known.0 == seen {
                known.1.extend_from_slice(containers);
            }
        }
        let before = std::mem::take(&mut self.endpoints[index].vms);
        for uid in before.into_keys().filter(|uid| !by_vm.contains_key(uid)) {
            // While there is a launcher, somebody else says when the VM is gone.
            let is_elsewhere = self.endpoints.iter().any(|endpoint| endpoint.vms.contains_key(&uid));
            if !is_elsewhere && launchers.by_vmi(&uid).next().is_none() {
                self.gone.push(Subject::vm(uid));
            }
        }
        for (uid, (sandbox, containers)) in by_vm {
            let verdict = judge_containers(at, &Subject::vm(uid.as_str()), sandbox, &containers);
            self.endpoints[index].vms.insert(uid, status_of(&verdict));
            self.verdicts.push(verdict);
        }
    }

    /// Hands over a look at all that is known; `false` when the agent ends.
    async fn send(&mut self) -> bool {
        let mut draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let units = self.units.iter().filter(|(name, _)| is_runtime_unit(name));
        let of_units = units.map(|(name, known)| match (&known.last, &self.bus_error) {
            (Some(unit), _) => judge_unit(at, unit, known.was_active),
            (None, Some(because)) => unknown_unit(name, because),
            (None, None) => unknown_unit(name, "systemd did not say how it is"),
        });
        let mut verdicts: Vec<Verdict> = of_units.collect();
        let mut is_there = !self.units.is_empty();
        for index in 0..self.endpoints.len() {
            let Some((name, answer)) = self.answer_of(index, at).await else { continue };
            is_there = true;
            let endpoint = &self.endpoints[index];
            verdicts.push(judge_answer(at, &name, &answer));
            if let Some(because) = self.bus_error.as_deref().filter(|_| is_runtime_unit(&name)) {
                verdicts.retain(|verdict| !is_inactive_of(verdict, &name));
                verdicts.push(judge_inactive_by_socket(at, &name, &answer, because));
            }
            let because = match (&answer, &endpoint.last) {
                (Answer::Answered { .. }, Some(Ok(info))) => {
                    verdicts.extend(match self.judged_of(index) {
                        Judged::Itself => judge_network(at, &name, "cri", info),
                        Judged::Another => Some(judge_network_elsewhere(at, &name)),
                        Judged::Untold => Some(unknown_network(&name, UNTOLD)),
                    });
                    continue;
                }
                // It serves no CRI: what it says is nothing to the kubelet.
                (Answer::Answered { .. }, _) => continue,
                (Answer::NotAsked(because) | Answer::Unknown(because), _) => because.clone(),
                (Answer::Late { .. } | Answer::Failed { .. }, _) => "the runtime does not answer".to_owned(),
            };
            verdicts.push(match self.judged_of(index) {
                Judged::Itself | Judged::Untold => unknown_network(&name, &because),
                Judged::Another => judge_network_elsewhere(at, &name),
            });
            for (uid, status) in &mut self.endpoints[index].vms {
                *status = Status::Unknown;
                verdicts.push(unknown_containers(&Subject::vm(uid.as_str()), &because));
            }
        }
        verdicts.append(&mut self.verdicts);
        if let Some(because) = self.bus_error.as_deref().filter(|_| !is_there) {
            draft = draft.blind(format!("no socket of a container runtime, and systemd cannot be asked: {because}"));
        }
        let draft = draft.verdicts(verdicts).gone(self.gone.drain(..));
        self.context.send(draft.end(&self.context.clock)).await
    }

    /// Whether this runtime's word on the pod network counts: the kubelet's does, which is the one that runs containers. Those of Docker
    /// and Podman are not listed over CRI.
    fn judged_of(&self, index: usize) -> Judged {
        if self.endpoints[index].runs_containers == Some(true) {
            return Judged::Itself;
        }
        if self.endpoints.iter().any(|endpoint| endpoint.runs_containers == Some(true)) {
            return Judged::Another;
        }
        let mut words = self.endpoints.iter().filter(|row| row.may_serve()).map(Endpoint::is_network_ready);
        let first = words.next();
        if words.all(|word| Some(word) == first) { Judged::Itself } else { Judged::Untold }
    }

    /// What an endpoint gave, and under which unit's name; `None` where there is no such runtime, or no answer yet.
    async fn answer_of(&mut self, index: usize, at: Moment) -> Option<(String, Answer)> {
        let endpoint = &self.endpoints[index];
        let (name, unit) = self.unit_of(endpoint);
        let main_pid = unit.and_then(|unit| unit.main_pid).filter(|_| is_runtime_unit(&name));
        let seen = seen(unit);
        if let UnitSeen::Rests(words) = seen {
            return Some((name, Answer::NotAsked(words)));
        }
        if endpoint.last == Some(Err(CallError::NotFound)) && !endpoint.is_late() {
            // containerd is also Docker's, with its socket elsewhere; a unit that starts has none yet.
            unit?;
            let path = self.context.host.display_path(&endpoint.path);
            return Some((name, Answer::Unknown(format!("{} does not exist", path.display()))));
        }
        let answer = match (endpoint.answer(at)?, seen) {
            (Answer::Failed { text, .. }, UnitSeen::Starts) => Answer::Unknown(format!("{name} starts: {text}")),
            (Answer::Late { call, since, .. }, _) => {
                let process = match main_pid {
                    Some(pid) => state_of(self.finder.look(pid).await),
                    None => None,
                };
                Answer::Late { call, since, process }
            }
            (answer, _) => answer,
        };
        Some((name, answer))
    }
}

/// Name and version of the first runtime that is there; `None` where there is none.
///
/// # Errors
/// What it answered instead, in words.
pub(crate) async fn runtime_version(host: &HostRoot, sockets: &[PathBuf]) -> Result<Option<String>, String> {
    for path in sockets {
        let path = path.to_string_lossy();
        let asked = match client::open(host, path.trim_start_matches('/')) {
            Ok(stream) => client::CriClient::new(stream).await,
            Err(error) => Err(error),
        };
        let version = match asked {
            Ok(mut client) => client.version().await,
            Err(error) => Err(error),
        };
        match version {
            Ok(version) => return Ok(Some(version)),
            Err(CallError::NotFound) => {}
            Err(error) => return Err(error.text().to_owned()),
        }
    }
    Ok(None)
}

/// A path of the configuration with the units that may run what listens there.
fn endpoint(path: &Path) -> Endpoint {
    let path = path.to_string_lossy().trim_start_matches('/').to_owned();
    let known = RUNTIME_SOCKETS.iter().find(|socket| path == socket.path || path == format!("var/{}", socket.path));
    let units = match known {
        Some(socket) => socket.units,
        None if path.contains("crio") => RUNTIME_SOCKETS[1].units,
        None => RUNTIME_SOCKETS[0].units,
    };
    Endpoint::new(path, units.iter().map(|&unit| unit.to_owned()).collect())
}

fn seen(unit: Option<&UnitObservation>) -> UnitSeen {
    match unit {
        Some(unit) if !is_active(unit) => {
            let state = unit.active_state.as_deref().unwrap_or("in a state that systemd did not give");
            UnitSeen::Rests(format!("{} is {state}", unit.name))
        }
        Some(unit) if unit.active_state.as_deref() == Some("activating") => UnitSeen::Starts,
        Some(_) | None => UnitSeen::Runs,
    }
}

fn state_of(process: ProcessSeen) -> Option<TaskState> {
    match process {
        ProcessSeen::Runs { state, .. } => Some(state),
        ProcessSeen::None | ProcessSeen::Unknown(_) => None,
    }
}

fn status_of(verdict: &Verdict) -> Status {
    match verdict {
        Verdict::State(state) => state.status,
        Verdict::Occurrence(_) => Status::Absent,
    }
}

fn is_inactive_of(verdict: &Verdict, unit: &str) -> bool {
    matches!(verdict, Verdict::State(state)
        if state.code == FindingCode::RuntimeInactive && state.subject == Subject::unit(unit))
}

#[cfg(test)]
mod tests;
