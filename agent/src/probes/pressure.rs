//! The `pressure` probe: the node's stall times every second, its VMs' limits and stall times every ten.
//!
//! Reading costs microseconds, waking up more: so on the shared beat. Where the kernel lets us ask for windows below 2 s
//! (CAP_SYS_RESOURCE) its own trigger tells of a stall that begins, and a node on which all is well is read every four seconds.
//! When a stall or a migration begins or a VM becomes a suspect, the kernel's totals are read 20 times a second for half a minute, for
//! the flight recorder. A stall that does not end is worth no second half minute before some minutes have passed.

mod kills;
mod node;
mod vms;

use std::sync::Arc;
use std::time::Duration;

use kulprit_host::pressure::PressureTrigger;
use kulprit_judge::Verdict;
use kulprit_model::Status;
use tokio::time::Instant;
use tracing::debug;

use self::node::Node;
use self::vms::Vms;
use super::counters::count;
use super::{PressureConfig, ProbeContext, ProbeSpec, Suspects, chain};

const NAME: &str = "pressure";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether tasks of the node or of a VM wait for CPU, memory or I/O.",
    sources: "PSI (/proc/pressure or a cgroup: totals, triggers), /proc/stat, /proc/meminfo; cpu.stat, memory.events (version 1: memory.oom_control, memory.failcnt) and PSI of VMs' cgroups",
    needs: "/proc/pressure or a cgroup's, cgroupfs of the host; CAP_SYS_RESOURCE for triggers shorter than 2 s",
    lost_without: "onset within 250 ms without CAP_SYS_RESOURCE (1.2 s then); everything where PSI is off; stall times of VMs on cgroup version 1",
    look_every: Duration::from_secs(10),
    spawn: |context| Box::pin(run(context)),
};
/// How often the node is read.
const CALM_EVERY: Duration = Duration::from_secs(1);
/// The same while all is well and the kernel tells of a stall that begins: in step with the looks at QEMUs.
const ALARMED_EVERY: Duration = Duration::from_secs(4);
/// A look is said so often while something is wrong, for holds to move on; else every 10 s.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// From which share of the time between two samples tasks count as stalled, percent.
const STALLED_PCT: f64 = 5.0;
/// The trigger's window: the shortest in which 5 % are more than a scheduler's tick or two.
const TRIGGER_WINDOW: Duration = Duration::from_secs(1);

async fn run(context: ProbeContext) {
    let mut probe = Probe::new(context);
    if probe.context.once {
        let draft = probe.context.begin(NAME);
        let at = probe.context.clock.now();
        probe.node.sample(at);
        let mut verdicts = probe.node.verdicts(at);
        verdicts.extend(probe.vms.look(&probe.context, true).await);
        probe.context.send(draft.verdicts(verdicts).end(&probe.context.clock)).await;
        return;
    }
    probe.follow().await;
}

struct Probe {
    context: ProbeContext,
    node: Node,
    vms: Vms,
    triggers: Triggers,
    /// The kernel has told of a stall since the last sample.
    has_alarm: bool,
    /// What was said of the node's states last.
    said: Vec<Status>,
    close: Close,
    suspects: Option<tokio::sync::watch::Receiver<Arc<Suspects>>>,
}

/// When the totals are read closely.
#[derive(Debug, Default)]
struct Close {
    was_stalled: bool,
    n_jobs: usize,
    until: Option<Instant>,
    not_before: Option<Instant>,
}

impl Close {
    fn is_close(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A stall that begins is worth a closer look, unless the last one was only just over.
    fn see_stall(&mut self, is_stalled: bool, now: Instant, config: &PressureConfig) {
        let was_stalled = std::mem::replace(&mut self.was_stalled, is_stalled);
        if is_stalled && !was_stalled && self.not_before.is_none_or(|not_before| now >= not_before) {
            self.begin(now, config);
        }
    }

    /// So does a migration that begins.
    fn see_jobs(&mut self, n_jobs: usize, now: Instant, config: &PressureConfig) {
        if n_jobs > std::mem::replace(&mut self.n_jobs, n_jobs) {
            self.begin(now, config);
        }
    }

    fn begin(&mut self, now: Instant, config: &PressureConfig) {
        let until = now + config.close_for.get();
        self.until = Some(until);
        self.not_before = Some(until + config.close_again_after.get());
    }
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        Self {
            node: Node::new(&context.host, &context.config.pressure),
            vms: Vms::new(context.blocking()),
            triggers: Triggers::default(),
            has_alarm: false,
            said: Vec::new(),
            close: Close::default(),
            suspects: Some(context.suspects.clone()),
            context,
        }
    }

    async fn follow(&mut self) {
        let config = Arc::clone(&self.context.config);
        let config = &config.pressure;
        self.triggers = Triggers::open(&self.context, &self.node);
        let mut say_at = Instant::now();
        let mut vms_at = Instant::now();
        let mut read_at = Instant::now();
        loop {
            let now = Instant::now();
            let draft = self.context.begin(NAME);
            let at = self.context.clock.now();
            count(&self.context.counters.errors, self.node.sample(at));
            self.node.record(&self.context.recorder, at);
            // Over the seconds since the last sample the share may be small yet.
            let has_alarm = std::mem::take(&mut self.has_alarm);
            let is_stalled = has_alarm || self.node.newest_pct().is_some_and(|share| share > STALLED_PCT);
            self.close.see_stall(is_stalled, now, config);
            self.close.see_jobs(self.context.vms.n_jobs(), now, config);
            if now >= read_at {
                read_at = now + CALM_EVERY / 2;
                let mut verdicts = self.node.verdicts(at);
                let statuses = statuses(&verdicts);
                let is_vms_turn = now >= vms_at;
                if is_vms_turn {
                    vms_at = self.context.beat.next(config.vms_every.get());
                    verdicts.extend(self.vms.look(&self.context, false).await);
                }
                if is_vms_turn || statuses != self.said || now >= say_at {
                    self.said = statuses;
                    say_at = now + if is_well(&self.said) { SPEC.look_every } else { SAY_EVERY };
                    if !self.context.send(draft.verdicts(verdicts).end(&self.context.clock)).await {
                        return;
                    }
                }
            }
            if !self.wait(config, vms_at.min(say_at).max(read_at)).await {
                return;
            }
        }
    }

    /// Waits for the next sample, at most until `due`; `false` when the agent ends.
    async fn wait(&mut self, config: &PressureConfig, due: Instant) -> bool {
        let is_close = self.close.is_close(Instant::now());
        let calm_every = calm_every(self.triggers.are_armed(), &self.said, self.close.was_stalled);
        let stop = self.context.stop.clone();
        let beat = self.context.beat;
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            new = next_suspect(&mut self.suspects) => if new {
                self.close.begin(Instant::now(), config);
            },
            () = self.triggers.fired(), if !is_close && !self.close.was_stalled => self.has_alarm = true,
            () = async {
                match is_close {
                    true => tokio::time::sleep(config.close_every.get()).await,
                    false => tokio::time::sleep_until(beat.next(calm_every).min(due)).await,
                }
            } => {}
        }
        true
    }
}

fn is_well(said: &[Status]) -> bool {
    said.iter().all(|status| *status == Status::Absent)
}

/// How often the node is read while not closely.
fn calm_every(has_triggers: bool, said: &[Status], was_stalled: bool) -> Duration {
    if has_triggers && is_well(said) && !was_stalled { ALARMED_EVERY } else { CALM_EVERY }
}

/// Returns when the set of suspects changes: whether there are any. Never, when nobody names them any more.
async fn next_suspect(suspects: &mut Option<tokio::sync::watch::Receiver<Arc<Suspects>>>) -> bool {
    if let Some(receiver) = suspects {
        match receiver.changed().await {
            Ok(()) => return !receiver.borrow_and_update().is_empty(),
            Err(_) => *suspects = None,
        }
    }
    std::future::pending().await
}

fn statuses(verdicts: &[Verdict]) -> Vec<Status> {
    let status = |verdict: &Verdict| match verdict {
        Verdict::State(state) => Some(state.status),
        Verdict::Occurrence(_) => None,
    };
    verdicts.iter().filter_map(status).collect()
}

/// The kernel's alarms, one for each resource; empty where it gives none quick enough to be worth it.
#[derive(Debug, Default)]
struct Triggers(Vec<PressureTrigger>);

impl Triggers {
    fn open(context: &ProbeContext, node: &Node) -> Self {
        let stall = TRIGGER_WINDOW.mul_f64(STALLED_PCT / 100.0);
        let open = |path: &std::path::Path| PressureTrigger::open(&context.host, path, stall, TRIGGER_WINDOW);
        let opened: Result<Vec<_>, _> = node.paths().map(open).collect();
        match opened {
            Ok(triggers) => Self(triggers),
            Err(error) => {
                debug!(probe = NAME, error = %chain(&error), "the kernel gives no alarm, stalls show within a second");
                Self::default()
            }
        }
    }

    fn are_armed(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns when one fires. One that fails takes all of them along: polling goes on.
    async fn fired(&mut self) {
        if !self.are_armed() {
            return std::future::pending().await;
        }
        let mut waits: Vec<_> = self.0.iter().map(|trigger| Box::pin(trigger.fired())).collect();
        let first = std::future::poll_fn(|context| {
            let ready = waits.iter_mut().find_map(|wait| match wait.as_mut().poll(context) {
                std::task::Poll::Ready(result) => Some(result),
                std::task::Poll::Pending => None,
            });
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        });
        if first.await.is_err() {
            drop(waits);
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests;
