//! One libvirt daemon: the node's own, or a launcher's.
//!
//! It has a book of its own, and in a launcher other names: the daemon is `launcher/<VMI UID>`, its domain is the VMI. A launcher that
//! ends takes its libvirt along; once its QEMU has ended, a lost connection is no fault.

use std::collections::BTreeMap;

use kulprit_judge::Verdict;
use kulprit_judge::domain::{Control, DaemonSeen, DomainBook, DomainSeen, EventSeen, judge_daemon};
use kulprit_judge::launcher::libvirt_uri;
use kulprit_model::{FindingCode, Moment, Subject};
use kulprit_proto::worker::{self, AddTarget, GetDiskErrors, Poll, from_worker::Body, to_worker::Request};

use super::presence::Presence;
use super::{NAME, Outcome, translate};
use crate::look::{Look, Sighting};
use crate::probes::{DiskTarget, Launcher, Launchers, ProbeContext};

/// Calls that are asked of a domain, not of the daemon: their hanging is the QEMU's.
const DOMAIN_CALLS: [&str; 3] = ["virDomainGetDiskErrors", "virDomainGetXMLDesc", "virDomainGetJobStats"];
/// Time between two signs of life asked of the node's daemon, ms.
const HEARTBEAT_MS: u32 = 2_000;
/// The same for a launcher's, and between two looks at its domain, ms: there is one for each VM, and it answers on the VM's account.
const LAUNCHER_HEARTBEAT_MS: u32 = 3_000;
const LAUNCHER_LOOK_MS: u32 = 10_000;
/// `virDomainControlState` of a domain on which a job runs.
const CONTROL_JOB: i32 = 1;

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The node's own.
    Node,
    /// That of the launcher with this first process.
    Launcher { pid: u32, start_ticks: u64 },
}

impl Key {
    pub(super) fn of(launcher: &Launcher) -> Self {
        Self::Launcher { pid: launcher.pid, start_ticks: launcher.start_ticks }
    }
}

/// See the module.
pub(super) struct Daemon {
    /// `None`: the node's own.
    launcher: Option<Launcher>,
    /// The launcher has had a QEMU.
    had_qemu: bool,
    book: DomainBook,
    pub(super) seen: DaemonSeen,
    /// Domains of the look whose parts are coming.
    parts: Vec<worker::Domain>,
    since: BTreeMap<String, (i32, i32, Moment)>,
    /// libvirt's UUID of each domain, by the VM's UID.
    uuids: BTreeMap<String, String>,
}

impl Daemon {
    pub(super) fn new(launcher: Option<Launcher>) -> Self {
        let had_qemu = launcher.as_ref().is_some_and(|launcher| !launcher.qemu_pids.is_empty());
        Self {
            launcher,
            had_qemu,
            book: DomainBook::default(),
            seen: DaemonSeen::Unknown("not yet asked".to_owned()),
            parts: Vec::new(),
            since: BTreeMap::new(),
            uuids: BTreeMap::new(),
        }
    }

    /// The launcher as it is now.
    pub(super) fn update(&mut self, launcher: &Launcher) {
        self.had_qemu |= !launcher.qemu_pids.is_empty();
        self.launcher = Some(launcher.clone());
    }

    /// How the worker reaches it. `socket` is the node's own daemon's.
    pub(super) fn target(&self, context: &ProbeContext, socket: Option<&std::path::Path>) -> AddTarget {
        let libvirt = &context.config.libvirt;
        match &self.launcher {
            None => AddTarget {
                uri: libvirt.uri.clone(),
                socket: socket.map(|socket| socket.to_string_lossy().into_owned()),
                root: context.host.path().to_string_lossy().into_owned(),
                look_ms: u32::try_from(libvirt.poll_every.get().as_millis()).unwrap_or(u32::MAX),
                heartbeat_ms: HEARTBEAT_MS,
                start_time_ticks: 0,
                readonly: false,
            },
            Some(launcher) => AddTarget {
                uri: if launcher.is_nonroot { "qemu:///session" } else { "qemu:///system" }.to_owned(),
                socket: launcher.libvirt_socket.clone(),
                root: context.config.procfs.join(launcher.pid.to_string()).join("root").to_string_lossy().into_owned(),
                start_time_ticks: launcher.start_ticks,
                look_ms: LAUNCHER_LOOK_MS,
                heartbeat_ms: LAUNCHER_HEARTBEAT_MS,
                // A launcher's libvirt is somebody else's, and who asks its guest to shut down is KubeVirt: its objects say so.
                readonly: true,
            },
        }
    }

    /// Its name as a subject.
    fn uri(&self, context: &ProbeContext) -> String {
        match &self.launcher {
            None => context.config.libvirt.uri.clone(),
            Some(launcher) => libvirt_uri(&launcher.vmi_uid),
        }
    }

    /// UID of the VM: of the domain that a launcher is there for, the VMI's.
    fn uid_of(&self, uuid: &str, name: &str) -> String {
        match &self.launcher {
            Some(launcher) if launcher.domain_name() == name => launcher.vmi_uid.clone(),
            Some(_) | None => uuid.to_owned(),
        }
    }

    /// The VM's name for people.
    fn name_of(&self, name: &str) -> String {
        match &self.launcher {
            Some(launcher) if launcher.domain_name() == name => launcher.display_name(),
            Some(_) | None => name.to_owned(),
        }
    }

    /// Takes what the worker tells of it.
    pub(super) fn on_message(
        &mut self,
        context: &ProbeContext,
        presence: &mut Presence,
        at: Moment,
        body: Body,
    ) -> Outcome {
        match body {
            Body::Started(_) => Outcome::default(),
            Body::JobStats(stats) => {
                context.vms.migrations.note_job(at, &self.uid_of(&stats.uuid, &stats.name), &stats);
                Outcome::default()
            }
            Body::Connected(connected) => {
                if self.launcher.is_none() {
                    presence.set_connected();
                }
                self.book.connected(connected.sees_powerdown);
                self.set_seen(context, DaemonSeen::Answers)
            }
            Body::ConnectionLost(lost) => {
                let seen = self.lost(presence, &lost);
                self.set_seen(context, seen)
            }
            Body::Hung(hung) if DOMAIN_CALLS.contains(&hung.call.as_str()) => Outcome::default(),
            Body::Hung(hung) if hung.daemon_answers => {
                self.set_seen(context, DaemonSeen::LookHangs { call: hung.call, age_ms: hung.age_ms })
            }
            Body::Hung(hung) => self.set_seen(context, DaemonSeen::Hangs { call: hung.call, age_ms: hung.age_ms }),
            // How it went shows in the look that follows, or in the loss of the connection.
            Body::HungEnded(_) | Body::Dropped(_) => {
                Outcome { requests: vec![Request::Poll(Poll {})], ..Outcome::default() }
            }
            Body::Domains(domains) => {
                self.parts.extend(domains.domains);
                if domains.last { self.on_domains(context, at) } else { Outcome::default() }
            }
            Body::Disks(disks) => {
                self.on_disks(context, disks);
                Outcome::default()
            }
            Body::Event(event) => self.on_event(context, at, &event),
            // Answers to requests are the probe's.
            Body::Reply(_) => Outcome::default(),
        }
    }

    /// libvirt's UUID of a VM that is a domain of it.
    pub(super) fn uuid_of(&self, uid: &str) -> Option<&String> {
        self.uuids.get(uid)
    }

    /// The disks' errors of a domain, by its UUID.
    pub(super) fn on_disk_errors(&mut self, uuid: &str, errors: &[(String, i32)]) -> Outcome {
        let uid = self.uuids.iter().find(|(_, known)| *known == uuid).map_or(uuid, |(uid, _)| uid);
        self.book.disk_errors(uid, errors);
        Outcome { requests: vec![Request::Poll(Poll {})], ..Outcome::default() }
    }

    fn lost(&self, presence: &Presence, lost: &worker::ConnectionLost) -> DaemonSeen {
        let seen = translate::lost(lost);
        let is_missing = matches!(&seen, DaemonSeen::Lost { failure, .. } if translate::is_not_running(*failure));
        match &self.launcher {
            None if is_missing && presence.is_expected().is_err() => presence.without_socket(),
            Some(launcher) if self.had_qemu && launcher.qemu_pids.is_empty() => {
                DaemonSeen::Unknown("the launcher's QEMU has ended, and its libvirt ends".to_owned())
            }
            None | Some(_) => seen,
        }
    }

    /// What is seen of the daemon from now on.
    pub(super) fn set_seen(&mut self, context: &ProbeContext, seen: DaemonSeen) -> Outcome {
        self.parts.clear();
        self.seen = seen;
        let is_answer = self.seen != DaemonSeen::Answers;
        Outcome { look: Some(self.look(context)), is_answer, ..Outcome::default() }
    }

    /// The daemon's states; while it does not answer, nobody can look at its domains.
    pub(super) fn look(&self, context: &ProbeContext) -> Look {
        let draft = context.begin(NAME);
        let at = context.clock.now();
        let domains = match &self.seen {
            DaemonSeen::Answers => Vec::new(),
            DaemonSeen::Hangs { .. } => self.book.unknown("the libvirt daemon does not answer"),
            DaemonSeen::LookHangs { call, age_ms } => self.book.unknown(&format!(
                "the libvirt daemon answers, but {call} has not returned for {age_ms} ms: it waits for one of its domains"
            )),
            DaemonSeen::Lost { text, .. } => self.book.unknown(&format!("no connection to the libvirt daemon: {text}")),
            DaemonSeen::NotExpected(why) | DaemonSeen::Unknown(why) => self.book.unknown(why),
        };
        draft.verdicts(self.states(context, at)).verdicts(domains).end(&context.clock)
    }

    /// The daemon's own states; whether the node has one is not said by a launcher's.
    fn states(&self, context: &ProbeContext, at: Moment) -> Vec<Verdict> {
        let mut states = judge_daemon(at, &self.uri(context), &self.seen);
        if self.launcher.is_some() {
            states.retain(
                |verdict| !matches!(verdict, Verdict::State(state) if state.code == FindingCode::LibvirtNotInstalled),
            );
        }
        states
    }

    fn on_domains(&mut self, context: &ProbeContext, at: Moment) -> Outcome {
        let draft = context.begin(NAME);
        // A look is an answer, whatever was late before it.
        self.seen = DaemonSeen::Answers;
        let parts = std::mem::take(&mut self.parts);
        let uids: Vec<String> = parts.iter().map(|part| self.uid_of(&part.uuid, &part.name)).collect();
        self.uuids = uids.iter().cloned().zip(parts.iter().map(|part| part.uuid.clone())).collect();
        let seen: Vec<DomainSeen> = parts
            .iter()
            .zip(&uids)
            .map(|(part, uid)| translate::domain(part, uid.clone(), self.name_of(&part.name)))
            .collect();
        let (verdicts, gone) = self.book.look(at, &seen);
        for (part, domain) in parts.iter().zip(&seen) {
            context.vms.migrations.note_domain(at, &domain.uid, part);
            context.vms.set_name(&domain.uid, &part.name);
            context.vms.set_job(&domain.uid, matches!(domain.control, Some(Control { state: CONTROL_JOB, .. })));
        }
        for uid in &gone {
            context.vms.forget(uid);
            self.since.remove(uid);
        }
        let sightings: Vec<Sighting> =
            parts.iter().zip(&seen).filter_map(|(part, domain)| self.sighting(at, part, domain)).collect();
        let questions = seen.iter().filter(|domain| self.book.take_disk_question(domain));
        let asked = questions.filter_map(|domain| self.uuids.get(&domain.uid).cloned());
        let requests = asked.map(|uuid| Request::GetDiskErrors(GetDiskErrors { uuid })).collect();
        let look = draft
            .verdicts(self.states(context, at))
            .verdicts(verdicts)
            .sightings(sightings)
            .gone(gone.into_iter().map(Subject::vm))
            .end(&context.clock);
        Outcome { look: Some(look), requests, is_answer: true }
    }

    fn sighting(&mut self, at: Moment, part: &worker::Domain, domain: &DomainSeen) -> Option<Sighting> {
        let (state, reason) = (part.state?, part.reason.unwrap_or_default());
        let since = match self.since.get(&domain.uid) {
            Some((known_state, known_reason, since)) if (*known_state, *known_reason) == (state, reason) => *since,
            _ => at,
        };
        self.since.insert(domain.uid.clone(), (state, reason, since));
        Some(Sighting::Domain(kulprit_model::Domain {
            uid: domain.uid.clone(),
            name: domain.name.clone(),
            state,
            reason,
            since,
            is_persistent: part.persistent.unwrap_or_default(),
        }))
    }

    fn on_disks(&self, context: &ProbeContext, disks: worker::Disks) {
        if disks.error.is_some() {
            return;
        }
        let uid = self.uid_of(&disks.uuid, &disks.name);
        let targets = disks.disks.into_iter().map(|disk| DiskTarget {
            target: disk.target,
            alias: disk.alias,
            source: disk.source,
        });
        context.vms.set_disks(&uid, targets.collect());
    }

    fn on_event(&mut self, context: &ProbeContext, at: Moment, event: &worker::DomainEvent) -> Outcome {
        let draft = context.begin(NAME);
        let uid = self.uid_of(&event.uuid, &event.name);
        context.vms.migrations.note_event(&uid, event);
        let Some(seen) = translate::event(event, &context.vms.disks(&uid)) else { return Outcome::default() };
        // VIR_DOMAIN_EVENT_STARTED
        if matches!(seen, EventSeen::Lifecycle { event: 2, .. }) {
            context.vms.started.notify_one();
        }
        let occurrence = self.book.event(at, &uid, &seen);
        let look = occurrence.map(|occurrence| draft.verdicts([Verdict::Occurrence(occurrence)]).end(&context.clock));
        Outcome { look, requests: vec![Request::Poll(Poll {})], is_answer: false }
    }

    /// The launcher has ended, and all it had with it.
    pub(super) fn end(&self, context: &ProbeContext) -> Look {
        let draft = context.begin(NAME);
        for uid in self.uuids.keys() {
            context.vms.forget(uid);
        }
        let domains = self.uuids.keys().map(Subject::vm);
        let daemon = Subject::Libvirt { uri: self.uri(context) };
        draft.gone(domains.chain([daemon])).end(&context.clock)
    }
}

/// The launchers whose libvirt is looked at: of two pods of one VMI the younger one, as the older one is on its way out.
pub(super) fn wanted(launchers: &Launchers) -> Vec<Launcher> {
    let mut newest: BTreeMap<&str, &Launcher> = BTreeMap::new();
    for row in launchers.rows.iter().filter(|row| row.libvirt_socket.is_some()) {
        let known = newest.get(row.vmi_uid.as_str());
        if known.is_none_or(|known| known.start_ticks <= row.start_ticks) {
            newest.insert(&row.vmi_uid, row);
        }
    }
    newest.into_values().cloned().collect()
}

/// Looks of several daemons as one, for whoever looks once.
pub(super) fn merged(looks: impl IntoIterator<Item = Look>) -> Option<Look> {
    looks.into_iter().reduce(|mut all, look| {
        all.verdicts.extend(look.verdicts);
        all.sightings.extend(look.sightings);
        all.took_usec = all.took_usec.max(look.took_usec);
        all.at = all.at.max(look.at);
        all
    })
}
