//! The `domain` probe: the system's libvirt, through the worker.
//!
//! The worker is started when there is a daemon's socket, killed and started anew when it wedges, and told to look again after
//! each event. A daemon that is not there is missed only where one is expected (`presence`); socket activation needs nothing:
//! the socket is there, connecting starts the daemon, and our connection keeps it from ending for idleness.

mod presence;
mod translate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kulprit_daemon::backoff::{Backoff, BackoffPolicy, random_seed};
use kulprit_judge::Verdict;
use kulprit_judge::domain::{DaemonSeen, DomainBook, DomainSeen, EventSeen, judge_daemon};
use kulprit_model::{FindingCode, Moment, Status, Subject};
use kulprit_proto::worker::{AddTarget, FromWorker, GetDiskErrors, Poll, from_worker::Body, to_worker::Request};
use tokio::time::Instant;
use tracing::{debug, warn};

use self::presence::Presence;
use super::counters::count;
use super::{DiskTarget, ProbeContext, ProbeSpec, chain};
use crate::look::{Look, Sighting};
use crate::worker::{Worker, WorkerError, find_binary};

const NAME: &str = "domain";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the libvirt daemon answers, and how its domains are.",
    sources: "libvirt: virConnectListAllDomains, virDomainGetState, virDomainGetControlInfo; lifecycle, I/O error, control error and QEMU POWERDOWN events",
    look_every: Duration::from_secs(5),
    spawn: |context| Box::pin(run(context)),
};
/// A worker that crashes at once is not started more often than this.
const BACKOFF: BackoffPolicy = BackoffPolicy { base: Duration::from_millis(500), cap: Duration::from_secs(10) };
/// How often a daemon's socket is looked for while there is none.
const SOCKET_EVERY: Duration = Duration::from_secs(2);
/// The worker says something every 5 s at least, hung calls included; after this it is itself stuck.
const SILENCE: Duration = Duration::from_secs(15);
/// After a worker's death its answers stand for two looks: the next worker needs half a second.
const ANSWER_STANDS: Duration = Duration::from_secs(10);
/// What was known before the agent's own restart stands as long as its first snapshot waits for the probes.
const START_STANDS: Duration = Duration::from_secs(5);
/// How long `check` waits for an answer: the worker's deadline for opening a connection, and some.
const ONCE_DEADLINE: Duration = Duration::from_secs(8);
/// Calls that are asked of a domain, not of the daemon: their hanging is the QEMU's.
const DOMAIN_CALLS: [&str; 3] = ["virDomainGetDiskErrors", "virDomainGetXMLDesc", "virDomainGetJobStats"];

async fn run(context: ProbeContext) {
    let mut backoff = Backoff::new(BACKOFF, random_seed());
    let mut probe = Probe::new(context);
    loop {
        let wait = match probe.find_socket() {
            Err(seen) => {
                probe.daemon = seen;
                if !probe.send_daemon().await || probe.context.once {
                    return;
                }
                SOCKET_EVERY
            }
            Ok(socket) => match probe.serve(socket, &mut backoff).await {
                Ok(()) => return,
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
                    backoff.next_delay()
                }
            },
        };
        tokio::select! {
            biased;
            () = probe.context.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
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

struct Probe {
    context: ProbeContext,
    /// Until when deaths of workers are nobody's business: what was answered last, here or before a restart, holds.
    stands_until: Instant,
    book: DomainBook,
    daemon: DaemonSeen,
    presence: Presence,
    /// Domains of the look whose parts are coming.
    parts: Vec<kulprit_proto::worker::Domain>,
    since: BTreeMap<String, (i32, i32, Moment)>,
    /// Requests for disk errors that are under way, and for which domain.
    questions: BTreeMap<u64, String>,
}

/// What a message asks us to do.
#[derive(Default)]
struct Outcome {
    look: Option<Look>,
    requests: Vec<Request>,
    /// `check` has what it wants.
    is_answer: bool,
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        let presence = Presence::new(context.host.clone(), &context.config.libvirt);
        Self {
            context,
            stands_until: Instant::now() + START_STANDS,
            book: DomainBook::default(),
            daemon: DaemonSeen::Unknown("not yet asked".to_owned()),
            presence,
            parts: Vec::new(),
            since: BTreeMap::new(),
            questions: BTreeMap::new(),
        }
    }

    /// The daemon's socket, or what its lack means.
    fn find_socket(&mut self) -> Result<PathBuf, DaemonSeen> {
        match self.presence.find_socket() {
            Some(socket) => Ok(socket),
            None => Err(self.presence.without_socket()),
        }
    }

    /// Listens to a worker until the agent ends, `Ok`, or the worker does.
    async fn serve(&mut self, socket: PathBuf, backoff: &mut Backoff) -> Result<(), WorkerError> {
        let config = std::sync::Arc::clone(&self.context.config);
        let libvirt = &config.libvirt;
        count(&self.context.counters.worker_starts, 1);
        let mut worker = Worker::start(&find_binary(libvirt.worker.as_deref()))?;
        let look_ms = libvirt.poll_every.get().as_millis();
        let target = AddTarget {
            uri: libvirt.uri.clone(),
            socket: Some(socket.to_string_lossy().into_owned()),
            root: self.context.host.path().to_string_lossy().into_owned(),
            look_ms: u32::try_from(look_ms).unwrap_or(u32::MAX),
            heartbeat_ms: 2_000,
            ..AddTarget::default()
        };
        worker.request(1, Request::AddTarget(target)).await?;
        let once_until = Instant::now() + ONCE_DEADLINE;
        let mut heard = Instant::now();
        let mut has_answered = false;
        loop {
            let heartbeat = heard + SILENCE;
            let deadline = if self.context.once { once_until } else { heartbeat };
            let message = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return Ok(()),
                message = worker.next() => message?,
                () = tokio::time::sleep_until(deadline) => return Err(WorkerError::Io(std::io::ErrorKind::TimedOut.into())),
            };
            heard = Instant::now();
            let outcome = self.on_message(message);
            if outcome.is_answer {
                self.stands_until = heard + ANSWER_STANDS;
                if !has_answered {
                    has_answered = true;
                    backoff.reset();
                }
            }
            for request in outcome.requests {
                let uuid = match &request {
                    Request::GetDiskErrors(question) => Some(question.uuid.clone()),
                    Request::Poll(_)
                    | Request::Shutdown(_)
                    | Request::AddTarget(_)
                    | Request::RemoveTarget(_)
                    | Request::GetJobStats(_) => None,
                };
                let id = worker.request(1, request).await?;
                self.questions.extend(uuid.map(|uuid| (id, uuid)));
            }
            let Some(mut look) = outcome.look else { continue };
            if self.context.once {
                if !outcome.is_answer {
                    continue;
                }
                // Whoever looks once did not listen before: that is no blindness.
                look.verdicts.retain(|verdict| {
                    !matches!(verdict, Verdict::State(state)
                    if state.code == FindingCode::GuestShutdownRequested && state.status == Status::Unknown)
                });
            }
            if !self.context.send(look).await || self.context.once {
                return Ok(());
            }
        }
    }

    fn on_message(&mut self, message: FromWorker) -> Outcome {
        let at = translate::moment(self.context.clock.now(), message.boot_usec);
        let Some(body) = message.body else {
            count(&self.context.counters.errors, 1);
            return Outcome::default();
        };
        match body {
            Body::Started(started) => {
                debug!(probe = NAME, pid = started.pid, lib_version = started.lib_version, "the libvirt worker runs");
                Outcome::default()
            }
            Body::Connected(connected) => {
                self.presence.set_connected();
                self.book.connected(connected.sees_powerdown);
                self.set_daemon(DaemonSeen::Answers)
            }
            Body::ConnectionLost(lost) => {
                let seen = translate::lost(&lost);
                let is_missing =
                    matches!(&seen, DaemonSeen::Lost { failure, .. } if translate::is_not_running(*failure));
                let is_expected = !is_missing || self.presence.is_expected().is_ok();
                self.set_daemon(if is_expected { seen } else { self.presence.without_socket() })
            }
            Body::Hung(hung) if DOMAIN_CALLS.contains(&hung.call.as_str()) => Outcome::default(),
            Body::Hung(hung) if hung.daemon_answers => {
                self.set_daemon(DaemonSeen::LookHangs { call: hung.call, age_ms: hung.age_ms })
            }
            Body::Hung(hung) => self.set_daemon(DaemonSeen::Hangs { call: hung.call, age_ms: hung.age_ms }),
            // How it went shows in the look that follows, or in the loss of the connection.
            Body::HungEnded(_) => Outcome { requests: vec![Request::Poll(Poll {})], ..Outcome::default() },
            Body::JobStats(_) => Outcome::default(),
            Body::Domains(domains) => {
                self.parts.extend(domains.domains);
                if domains.last { self.on_domains(at) } else { Outcome::default() }
            }
            Body::Disks(disks) => {
                self.on_disks(disks);
                Outcome::default()
            }
            Body::Event(event) => self.on_event(at, event),
            Body::Dropped(dropped) => {
                count(&self.context.counters.errors, dropped.events);
                Outcome { requests: vec![Request::Poll(Poll {})], ..Outcome::default() }
            }
            Body::Reply(reply) => match self.questions.remove(&reply.request_id) {
                Some(uid) => {
                    let errors: Vec<_> =
                        reply.disk_errors.into_iter().map(|error| (error.target, error.error)).collect();
                    self.book.disk_errors(&uid, &errors);
                    Outcome { requests: vec![Request::Poll(Poll {})], ..Outcome::default() }
                }
                None => Outcome::default(),
            },
        }
    }

    fn set_daemon(&mut self, seen: DaemonSeen) -> Outcome {
        self.parts.clear();
        self.daemon = seen;
        let is_answer = self.daemon != DaemonSeen::Answers;
        Outcome { look: Some(self.daemon_look()), is_answer, ..Outcome::default() }
    }

    async fn send_daemon(&mut self) -> bool {
        let look = self.daemon_look();
        self.context.send(look).await
    }

    /// The daemon's states; while it does not answer, nobody can look at its domains.
    fn daemon_look(&self) -> Look {
        let draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let domains = match &self.daemon {
            DaemonSeen::Answers => Vec::new(),
            DaemonSeen::Hangs { .. } => self.book.unknown("the libvirt daemon does not answer"),
            DaemonSeen::LookHangs { call, age_ms } => self.book.unknown(&format!(
                "the libvirt daemon answers, but {call} has not returned for {age_ms} ms: it waits for one of its domains"
            )),
            DaemonSeen::Lost { text, .. } => self.book.unknown(&format!("no connection to the libvirt daemon: {text}")),
            DaemonSeen::NotExpected(why) | DaemonSeen::Unknown(why) => self.book.unknown(why),
        };
        let daemon = judge_daemon(at, &self.context.config.libvirt.uri, &self.daemon);
        draft.verdicts(daemon).verdicts(domains).end(&self.context.clock)
    }

    fn on_domains(&mut self, at: Moment) -> Outcome {
        let draft = self.context.begin(NAME);
        // A look is an answer, whatever was late before it.
        self.daemon = DaemonSeen::Answers;
        let parts = std::mem::take(&mut self.parts);
        let seen: Vec<DomainSeen> = parts.iter().map(translate::domain).collect();
        let (verdicts, gone) = self.book.look(at, &seen);
        for domain in &seen {
            self.context.vms.set_name(&domain.uid, &domain.name);
        }
        for uid in &gone {
            self.context.vms.forget(uid);
            self.since.remove(uid);
        }
        let sightings: Vec<Sighting> = parts.iter().filter_map(|part| self.sighting(at, part)).collect();
        let questions =
            seen.iter().filter(|domain| self.book.take_disk_question(domain)).map(|domain| domain.uid.clone());
        let requests = questions.map(|uuid| Request::GetDiskErrors(GetDiskErrors { uuid })).collect();
        let look = draft
            .verdicts(judge_daemon(at, &self.context.config.libvirt.uri, &self.daemon))
            .verdicts(verdicts)
            .sightings(sightings)
            .gone(gone.into_iter().map(Subject::vm))
            .end(&self.context.clock);
        Outcome { look: Some(look), requests, is_answer: true }
    }

    fn sighting(&mut self, at: Moment, part: &kulprit_proto::worker::Domain) -> Option<Sighting> {
        let (state, reason) = (part.state?, part.reason.unwrap_or_default());
        let since = match self.since.get(&part.uuid) {
            Some((known_state, known_reason, since)) if (*known_state, *known_reason) == (state, reason) => *since,
            _ => at,
        };
        self.since.insert(part.uuid.clone(), (state, reason, since));
        Some(Sighting::Domain(kulprit_model::Domain {
            uid: part.uuid.clone(),
            name: part.name.clone(),
            state,
            reason,
            since,
            is_persistent: part.persistent.unwrap_or_default(),
        }))
    }

    fn on_disks(&mut self, disks: kulprit_proto::worker::Disks) {
        if disks.error.is_some() {
            return;
        }
        let targets = disks.disks.into_iter().map(|disk| DiskTarget {
            target: disk.target,
            alias: disk.alias,
            source: disk.source,
        });
        self.context.vms.set_disks(&disks.uuid, targets.collect());
    }

    fn on_event(&mut self, at: Moment, event: kulprit_proto::worker::DomainEvent) -> Outcome {
        let draft = self.context.begin(NAME);
        let disks = self.context.vms.disks(&event.uuid);
        let Some(seen) = translate::event(&event, &disks) else { return Outcome::default() };
        // VIR_DOMAIN_EVENT_STARTED
        if matches!(seen, EventSeen::Lifecycle { event: 2, .. }) {
            self.context.vms.started.notify_one();
        }
        let occurrence = self.book.event(at, &event.uuid, &seen);
        let look =
            occurrence.map(|occurrence| draft.verdicts([Verdict::Occurrence(occurrence)]).end(&self.context.clock));
        Outcome { look, requests: vec![Request::Poll(Poll {})], is_answer: false }
    }
}

#[cfg(test)]
mod tests;
