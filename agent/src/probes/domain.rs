//! The `domain` probe: the node's libvirt and that of each launcher, through the worker.
//!
//! The worker is started when there is a daemon's socket, killed and started anew when it wedges, and told to look again after
//! each event. The node's daemon is missed only where one is expected (`presence`); socket activation needs nothing: the socket is
//! there, connecting starts the daemon, and our connection keeps it from ending for idleness. Launchers come from the `launcher`
//! probe's snapshot, and leave with it.

mod daemon;
mod presence;
mod translate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kulprit_daemon::backoff::{Backoff, BackoffPolicy, random_seed};
use kulprit_judge::Verdict;
use kulprit_model::{FindingCode, Status};
use kulprit_proto::worker::{FromWorker, GetJobStats, Poll, RemoveTarget, from_worker::Body, to_worker::Request};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::daemon::{Daemon, Key, merged, wanted};
use self::presence::Presence;
use super::counters::count;
use super::{Launcher, Launchers, ProbeContext, ProbeSpec, chain};
use crate::look::Look;
use crate::worker::{Worker, WorkerError, find_binary};

const NAME: &str = "domain";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the libvirt daemon answers, and how its domains are.",
    sources: "libvirt: virConnectGetAllDomainStats (states only), virDomainGetControlInfo; lifecycle, I/O error, control error and QEMU POWERDOWN events",
    needs: "the libvirt worker's binary and libvirt's client library; libvirt's socket, /proc/PID/root of launchers (root)",
    lost_without: "all that libvirt says; QEMUs are seen by procfs all the same",
    look_every: Duration::from_secs(5),
    spawn: |context| Box::pin(run(context)),
};
/// A worker that crashes at once is not started more often than this.
const BACKOFF: BackoffPolicy = BackoffPolicy { base: Duration::from_millis(500), cap: Duration::from_secs(10) };
/// How often the node's daemon's socket is looked for while there is none.
const SOCKET_EVERY: Duration = Duration::from_secs(4);
/// The worker says something every 10 s at least, hung calls included; after this it is itself stuck.
const SILENCE: Duration = Duration::from_secs(15);
/// After a worker's death its answers stand for two looks: the next worker needs half a second.
const ANSWER_STANDS: Duration = Duration::from_secs(10);
/// What was known before the agent's own restart stands as long as its first snapshot waits for the probes.
const START_STANDS: Duration = Duration::from_secs(5);
/// How long `check` waits for an answer: the worker's deadline for opening a connection, and some.
const ONCE_DEADLINE: Duration = Duration::from_secs(8);
/// How long `check` waits for the first snapshot of launchers.
const FIRST_LAUNCHERS: Duration = Duration::from_secs(1);

async fn run(context: ProbeContext) {
    let mut backoff = Backoff::new(BACKOFF, random_seed());
    let mut launchers = context.launchers.subscribe();
    let mut probe = Probe::new(context);
    if probe.context.once {
        // None there or none yet: the probe beside us says.
        let _ = tokio::time::timeout(FIRST_LAUNCHERS, launchers.changed()).await;
    }
    loop {
        let is_anybody_there =
            probe.presence.find_socket().is_some() || !wanted(&launchers.borrow_and_update()).is_empty();
        let wait = if is_anybody_there {
            match probe.serve(&mut launchers, &mut backoff).await {
                Ok(Served::Done) => return,
                Ok(Served::NobodyLeft) => continue,
                Err(error) => {
                    count(&probe.context.counters.errors, 1);
                    warn!(probe = NAME, error = %chain(&error), "the libvirt worker is started anew");
                    // What was answered a moment ago still stands; the next worker answers, or this is said then.
                    let stands = Instant::now() < probe.stands_until && !probe.context.once;
                    if !(stands && is_death(&error)) {
                        let look = probe.context.begin(NAME).blind(chain(&error)).end(&probe.context.clock);
                        if !probe.context.send(look).await || probe.context.once {
                            return;
                        }
                    }
                    Instant::now() + backoff.next_delay()
                }
            }
        } else {
            let look = probe.look_without_node();
            if !probe.context.send(look).await || probe.context.once {
                return;
            }
            probe.context.beat.next(SOCKET_EVERY)
        };
        tokio::select! {
            biased;
            () = probe.context.stop.cancelled() => return,
            _ = launchers.changed() => {}
            () = tokio::time::sleep_until(wait) => {}
        }
    }
}

/// Whether the worker is gone, which says nothing of libvirt: not that it hangs, talks nonsense or cannot be started.
fn is_death(error: &WorkerError) -> bool {
    match error {
        WorkerError::Ended => true,
        WorkerError::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        WorkerError::Start { .. } | WorkerError::TooLong(_) | WorkerError::Malformed(_) => false,
    }
}

/// How a worker's time ended well.
enum Served {
    /// The probe is to end.
    Done,
    /// There is no daemon any more that it could talk to.
    NobodyLeft,
}

struct Probe {
    context: ProbeContext,
    /// Until when deaths of workers are nobody's business: what was answered last, here or before a restart, holds.
    stands_until: Instant,
    presence: Presence,
    daemons: BTreeMap<Key, Daemon>,
    /// The daemons that the present worker was told of, by the number it knows them by.
    attached: BTreeMap<u64, Key>,
    last_number: u64,
    /// Requests for disk errors that are under way: of which domain, by its UUID.
    questions: BTreeMap<u64, String>,
}

/// What a message asks us to do.
#[derive(Default)]
struct Outcome {
    look: Option<Look>,
    /// To the daemon that the message is about.
    requests: Vec<Request>,
    /// `check` has what it wants of this daemon.
    is_answer: bool,
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        let presence = Presence::new(context.host.clone(), &context.config.libvirt);
        Self {
            context,
            stands_until: Instant::now() + START_STANDS,
            presence,
            daemons: BTreeMap::from([(Key::Node, Daemon::new(None))]),
            attached: BTreeMap::new(),
            last_number: 0,
            questions: BTreeMap::new(),
        }
    }

    /// What it means that the node's daemon has no socket.
    fn look_without_node(&mut self) -> Look {
        let seen = self.presence.without_socket();
        let Self { context, daemons, .. } = self;
        let node = daemons.entry(Key::Node).or_insert_with(|| Daemon::new(None));
        node.set_seen(context, seen).look.unwrap_or_else(|| node.look(context))
    }

    /// Listens to a worker until the agent ends, nobody is left to be talked to, or the worker ends.
    async fn serve(
        &mut self,
        launchers: &mut watch::Receiver<Arc<Launchers>>,
        backoff: &mut Backoff,
    ) -> Result<Served, WorkerError> {
        count(&self.context.counters.worker_starts, 1);
        let mut worker = Worker::start(&find_binary(self.context.config.libvirt.worker.as_deref()))?;
        self.attached.clear();
        self.last_number = 0;
        self.questions.clear();
        let once_until = Instant::now() + ONCE_DEADLINE;
        let (mut heard, mut sync_at) = (Instant::now(), Instant::now());
        let mut has_answered = false;
        let mut answers: BTreeMap<Key, Look> = BTreeMap::new();
        loop {
            if Instant::now() >= sync_at {
                sync_at = self.context.beat.next(SOCKET_EVERY);
                let rows = wanted(&launchers.borrow_and_update());
                for look in self.sync(&mut worker, &rows).await? {
                    if self.context.once {
                        answers.insert(Key::Node, look);
                    } else if !self.context.send(look).await {
                        return Ok(Served::Done);
                    }
                }
                if self.attached.is_empty() {
                    return Ok(Served::NobodyLeft);
                }
            }
            let silent_at = heard + SILENCE;
            let deadline = if self.context.once { once_until } else { silent_at };
            let message = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return Ok(Served::Done),
                message = worker.next() => message?,
                wishes = self.context.vms.migrations.wishes() => {
                    for uid in wishes {
                        if let Some((number, uuid)) = self.find_domain(&uid) {
                            worker.request(number, Request::GetJobStats(GetJobStats { uuid })).await?;
                        }
                    }
                    continue;
                }
                _ = launchers.changed(), if !self.context.once => {
                    sync_at = Instant::now();
                    continue;
                }
                () = tokio::time::sleep_until(sync_at), if !self.context.once => continue,
                () = tokio::time::sleep_until(deadline) => return Err(WorkerError::Io(std::io::ErrorKind::TimedOut.into())),
            };
            heard = Instant::now();
            let number = message.target;
            let outcome = self.on_message(message);
            if outcome.is_answer {
                self.stands_until = heard + ANSWER_STANDS;
                if !has_answered {
                    has_answered = true;
                    backoff.reset();
                }
            }
            self.request(&mut worker, number, outcome.requests).await?;
            let Some(look) = outcome.look else { continue };
            if !self.context.once {
                if !self.context.send(look).await {
                    return Ok(Served::Done);
                }
                continue;
            }
            if let (true, Some(key)) = (outcome.is_answer, self.attached.get(&number)) {
                answers.entry(*key).or_insert(look);
            }
            if self.attached.values().all(|key| answers.contains_key(key)) {
                if let Some(look) = merged(answers.into_values().map(without_history)) {
                    self.context.send(look).await;
                }
                return Ok(Served::Done);
            }
        }
    }

    /// Tells the worker of daemons that came and went; looks that say what this means.
    async fn sync(&mut self, worker: &mut Worker, rows: &[Launcher]) -> Result<Vec<Look>, WorkerError> {
        let mut looks = Vec::new();
        let is_wanted = |key: &Key| *key == Key::Node || rows.iter().any(|row| Key::of(row) == *key);
        let ended: Vec<Key> = self.daemons.keys().filter(|key| !is_wanted(key)).copied().collect();
        for key in ended {
            if let Some((number, _)) = self.attached.iter().find(|(_, known)| **known == key) {
                let number = *number;
                self.attached.remove(&number);
                worker.request(number, Request::RemoveTarget(RemoveTarget {})).await?;
            }
            looks.extend(self.daemons.remove(&key).map(|daemon| daemon.end(&self.context)));
        }
        for row in rows {
            self.daemons.entry(Key::of(row)).or_insert_with(|| Daemon::new(Some(row.clone()))).update(row);
        }
        let socket = self.presence.find_socket();
        let keys: Vec<Key> = self.daemons.keys().copied().collect();
        for key in keys {
            if self.attached.values().any(|known| *known == key) {
                continue;
            }
            if key == Key::Node && socket.is_none() {
                looks.push(self.look_without_node());
                continue;
            }
            self.last_number += 1;
            self.attached.insert(self.last_number, key);
            let target = self.daemons[&key].target(&self.context, socket.as_deref());
            worker.request(self.last_number, Request::AddTarget(target)).await?;
        }
        Ok(looks)
    }

    async fn request(&mut self, worker: &mut Worker, number: u64, requests: Vec<Request>) -> Result<(), WorkerError> {
        // Of no daemon: of all.
        let numbers: Vec<u64> = if number == 0 { self.attached.keys().copied().collect() } else { vec![number] };
        for request in requests {
            let uuid = match &request {
                Request::GetDiskErrors(question) => Some(question.uuid.clone()),
                Request::Poll(_)
                | Request::Shutdown(_)
                | Request::GetJobStats(_)
                | Request::AddTarget(_)
                | Request::RemoveTarget(_) => None,
            };
            for number in &numbers {
                let id = worker.request(*number, request.clone()).await?;
                self.questions.extend(uuid.clone().map(|uuid| (id, uuid)));
            }
        }
        Ok(())
    }

    /// The daemon that has this VM, and libvirt's UUID of it.
    fn find_domain(&self, uid: &str) -> Option<(u64, String)> {
        self.attached.iter().find_map(|(number, key)| {
            let uuid = self.daemons.get(key)?.uuid_of(uid)?;
            Some((*number, uuid.clone()))
        })
    }

    fn on_message(&mut self, message: FromWorker) -> Outcome {
        let at = translate::moment(self.context.clock.now(), message.boot_usec);
        let daemon = self.attached.get(&message.target).and_then(|key| self.daemons.get_mut(key));
        match (message.body, daemon) {
            (Some(Body::Started(started)), _) => {
                debug!(probe = NAME, pid = started.pid, lib_version = started.lib_version, "the libvirt worker runs");
                Outcome::default()
            }
            (Some(Body::Dropped(dropped)), _) => {
                count(&self.context.counters.errors, dropped.events);
                Outcome { requests: vec![Request::Poll(Poll {})], ..Outcome::default() }
            }
            (Some(Body::Reply(reply)), Some(daemon)) => match self.questions.remove(&reply.request_id) {
                Some(uuid) => {
                    let errors: Vec<_> =
                        reply.disk_errors.into_iter().map(|error| (error.target, error.error)).collect();
                    daemon.on_disk_errors(&uuid, &errors)
                }
                None => {
                    if let Some(error) = reply.error {
                        debug!(probe = NAME, error = error.text, "the libvirt worker declined a request");
                    }
                    Outcome::default()
                }
            },
            (Some(body), Some(daemon)) => daemon.on_message(&self.context, &mut self.presence, at, body),
            // What was on its way when the daemon was left.
            (Some(_), None) => Outcome::default(),
            (None, _) => {
                count(&self.context.counters.errors, 1);
                Outcome::default()
            }
        }
    }
}

/// Whoever looks once did not listen before: that is no blindness.
fn without_history(mut look: Look) -> Look {
    look.verdicts.retain(|verdict| {
        !matches!(verdict, Verdict::State(state)
            if state.code == FindingCode::GuestShutdownRequested && state.status == Status::Unknown)
    });
    look
}

#[cfg(test)]
mod tests;
