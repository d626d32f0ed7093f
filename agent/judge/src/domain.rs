//! What libvirt's answers and events mean, for the daemon and for each domain.
//!
//! [`DomainBook`] keeps what one answer alone does not tell: since when a monitor command has been unanswered, what kind of
//! disk error paused a guest, and that somebody asked it to shut down. Numbers are libvirt's own (`libvirt-domain.h`); unknown
//! ones are carried on and mean no fault.

mod daemon;

use std::collections::BTreeMap;

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

pub use daemon::{DaemonFailure, DaemonSeen, judge_daemon};

const SOURCE: &str = "libvirt";
/// Two answers count a command as the same if their times of its start differ by less, microseconds: the answer's way here.
const SAME_START_USEC: i64 = 500_000;

/// `virDomainState`.
pub mod state {
    /// `VIR_DOMAIN_PAUSED`
    pub const PAUSED: i32 = 3;
    /// `VIR_DOMAIN_SHUTOFF`
    pub const SHUTOFF: i32 = 5;
    /// `VIR_DOMAIN_CRASHED`
    pub const CRASHED: i32 = 6;
    /// `VIR_DOMAIN_PAUSED_IOERROR`, a reason.
    pub const PAUSED_IOERROR: i32 = 5;
}

/// `virDomainGetControlInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// 0 ok, 1 job, 2 occupied, 3 error.
    pub state: i32,
    /// With 3: 1 unknown, 2 monitor, 3 internal.
    pub details: i32,
    /// How long it has been so; counted for 2 only.
    pub state_ms: u64,
}

/// A domain as one look of the worker saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainSeen {
    /// UUID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Number of the run; `None` when it does not run.
    pub id: Option<i32>,
    /// `virDomainState`; `None` when the call failed.
    pub state: Option<i32>,
    /// The reason within it.
    pub reason: Option<i32>,
    /// Of running domains; `None` when the call failed or it does not run.
    pub control: Option<Control>,
    /// The failed calls, in words.
    pub errors: Vec<String>,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSeen {
    /// `virDomainEventType` and its detail.
    Lifecycle {
        /// 5 stopped, 8 crashed and so on.
        event: i32,
        /// Its detail.
        detail: i32,
    },
    /// A disk error.
    IoError {
        /// Path on the host.
        path: String,
        /// The disk's alias.
        alias: String,
        /// The guest's name of the disk, where it is known.
        target: Option<String>,
        /// 0 none, 1 pause, 2 report.
        action: i32,
        /// `enospc` or empty.
        reason: String,
    },
    /// libvirt lost the monitor.
    ControlError,
    /// Somebody pressed the guest's power button.
    Powerdown,
}

#[derive(Clone, Debug, Default)]
struct Known {
    id: Option<i32>,
    occupied_since: Option<Moment>,
    io_error: Option<IoFacts>,
    was_asked_for_disks: bool,
    asked_to_stop: Option<Moment>,
    /// Requests to stop would have been seen since its start, or since then.
    is_listened_to: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct IoFacts {
    kind: &'static str,
    path: Option<String>,
    target: Option<String>,
}

/// What is known of all domains of one daemon.
#[derive(Clone, Debug, Default)]
pub struct DomainBook {
    by_uid: BTreeMap<String, Known>,
    /// Whether requests to shut down are told on this connection.
    sees_powerdown: bool,
    has_looked: bool,
}

impl DomainBook {
    /// A new connection: what happened while there was none is not known.
    pub fn connected(&mut self, sees_powerdown: bool) {
        self.sees_powerdown = sees_powerdown;
        self.has_looked = false;
        for known in self.by_uid.values_mut() {
            known.is_listened_to = false;
        }
    }

    /// A full look at all domains. The second list are the UIDs of those that are gone since the last.
    pub fn look(&mut self, at: Moment, domains: &[DomainSeen]) -> (Vec<Verdict>, Vec<String>) {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let gone: Vec<String> =
            self.by_uid.keys().filter(|uid| !domains.iter().any(|domain| domain.uid == **uid)).cloned().collect();
        self.by_uid.retain(|uid, _| !gone.contains(uid));
        let verdicts = domains.iter().flat_map(|domain| self.judge(at, domain, is_first)).map(Verdict::State).collect();
        (verdicts, gone)
    }

    /// An event of one domain.
    pub fn event(&mut self, at: Moment, uid: &str, event: &EventSeen) -> Option<OccurrenceVerdict> {
        match event {
            EventSeen::Lifecycle { event, detail } => failed(at, uid, *event, *detail),
            EventSeen::ControlError => None,
            EventSeen::Powerdown => {
                let known = self.by_uid.entry(uid.to_owned()).or_default();
                known.asked_to_stop.get_or_insert(at);
                None
            }
            EventSeen::IoError { path, alias, target, action, reason } => {
                let kind = if reason == "enospc" { attribute::IO_NO_SPACE } else { attribute::IO_OTHER };
                let facts = IoFacts { kind, path: Some(path.clone()), target: target.clone() };
                let occurrence = io_error_reported(at, uid, alias, *action, &facts);
                self.by_uid.entry(uid.to_owned()).or_default().io_error = Some(facts);
                Some(occurrence)
            }
        }
    }

    /// Whether the kind of the disk error that paused this domain is to be asked for; says so once a pause.
    pub fn take_disk_question(&mut self, domain: &DomainSeen) -> bool {
        let Some(known) = self.by_uid.get_mut(&domain.uid) else { return false };
        let is_due = is_paused_on_io(domain) && known.io_error.is_none() && !known.was_asked_for_disks;
        known.was_asked_for_disks |= is_due;
        is_due
    }

    /// The answer: disks' target names and `virDomainDiskErrorCode`s (1 unspecified, 2 no space).
    pub fn disk_errors(&mut self, uid: &str, errors: &[(String, i32)]) {
        let Some((target, code)) = errors.first() else { return };
        let kind = if *code == 2 { attribute::IO_NO_SPACE } else { attribute::IO_OTHER };
        let Some(known) = self.by_uid.get_mut(uid) else { return };
        known.io_error = Some(IoFacts { kind, path: None, target: Some(target.clone()) });
    }

    /// Every state of every known domain, as nobody can look.
    #[must_use]
    pub fn unknown(&self, because: &str) -> Vec<Verdict> {
        let of = |uid: &String| {
            STATES.map(|code| Verdict::State(StateVerdict::unknown(code, Subject::vm(uid.as_str()), because)))
        };
        self.by_uid.keys().flat_map(of).collect()
    }

    fn judge(&mut self, at: Moment, domain: &DomainSeen, is_first: bool) -> [StateVerdict; 4] {
        let sees_powerdown = self.sees_powerdown;
        let known = self.by_uid.entry(domain.uid.clone()).or_default();
        if !is_first && known.id != domain.id {
            // A new run, whose beginning we have seen; or its end.
            *known = Known { is_listened_to: true, io_error: known.io_error.take(), ..Known::default() };
        }
        known.id = domain.id;
        if domain.id.is_none() {
            known.asked_to_stop = None;
            known.is_listened_to = true;
        }
        if !is_paused_on_io(domain) && domain.state.is_some() {
            known.was_asked_for_disks = false;
        }
        [
            judge_occupied(at, domain, known),
            judge_control_error(at, domain),
            judge_io_error(at, domain, known),
            judge_shutdown(at, domain, known, sees_powerdown),
        ]
    }
}

const STATES: [FindingCode; 4] = [
    FindingCode::DomainControlOccupied,
    FindingCode::DomainControlError,
    FindingCode::DomainIoError,
    FindingCode::GuestShutdownRequested,
];

fn judge_occupied(at: Moment, domain: &DomainSeen, known: &mut Known) -> StateVerdict {
    let (code, subject) = (FindingCode::DomainControlOccupied, Subject::vm(domain.uid.as_str()));
    let control = match control_of(domain) {
        Ok(Some(control)) => control,
        Ok(None) => {
            known.occupied_since = None;
            return StateVerdict::seen(code, subject, false);
        }
        Err(because) => return StateVerdict::unknown(code, subject, because),
    };
    if control.state != 2 {
        known.occupied_since = None;
        return StateVerdict::seen(code, subject, false);
    }
    let state_usec = i64::try_from(control.state_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
    let told = at.offset_usec(state_usec.saturating_neg());
    let is_same = |since: &Moment| since.usec_since(told).abs() < SAME_START_USEC;
    let since = *known.occupied_since.insert(known.occupied_since.filter(is_same).unwrap_or(told));
    let text = format!("QEMU of {} has not answered a monitor command for {} ms", domain.name, control.state_ms);
    StateVerdict {
        since: Some(since),
        hold_key: Some(since.boottime_usec.to_string()),
        evidence: vec![Evidence::new(SOURCE, at, text)],
        ..StateVerdict::seen(code, subject, true)
    }
}

fn judge_control_error(at: Moment, domain: &DomainSeen) -> StateVerdict {
    let (code, subject) = (FindingCode::DomainControlError, Subject::vm(domain.uid.as_str()));
    match control_of(domain) {
        Ok(Some(Control { state: 3, details, .. })) => StateVerdict {
            attributes: Attributes::new().with(attribute::DETAIL, details),
            evidence: vec![Evidence::new(
                SOURCE,
                at,
                format!("libvirt has lost the monitor of {} (details {details})", domain.name),
            )],
            ..StateVerdict::seen(code, subject, true)
        },
        Ok(_) => StateVerdict::seen(code, subject, false),
        Err(because) => StateVerdict::unknown(code, subject, because),
    }
}

fn judge_io_error(at: Moment, domain: &DomainSeen, known: &mut Known) -> StateVerdict {
    let (code, subject) = (FindingCode::DomainIoError, Subject::vm(domain.uid.as_str()));
    let Some(state) = domain.state else {
        return StateVerdict::unknown(code, subject, failed_calls(domain));
    };
    if !is_paused_on_io(domain) {
        if state != state::PAUSED || domain.reason.is_some() {
            known.io_error = None;
        }
        return StateVerdict::seen(code, subject, false);
    }
    let facts = known.io_error.as_ref();
    let attributes = Attributes::new()
        .with_some(attribute::IO_ERROR, facts.map(|facts| facts.kind))
        .with_some(attribute::PATH, facts.and_then(|facts| facts.path.as_deref()))
        .with_some(attribute::DISK, facts.and_then(|facts| facts.target.as_deref()));
    let text = format!("{} is paused, reason I/O error{}", domain.name, facts.map(io_in_words).unwrap_or_default());
    StateVerdict {
        attributes,
        evidence: vec![Evidence::new(SOURCE, at, text)],
        ..StateVerdict::seen(code, subject, true)
    }
}

fn judge_shutdown(at: Moment, domain: &DomainSeen, known: &Known, sees_powerdown: bool) -> StateVerdict {
    let (code, subject) = (FindingCode::GuestShutdownRequested, Subject::vm(domain.uid.as_str()));
    match known.asked_to_stop {
        Some(since) => StateVerdict {
            since: Some(since),
            evidence: vec![
                Evidence::new(
                    SOURCE,
                    since,
                    format!("somebody asked {} to shut down (QEMU event POWERDOWN)", domain.name),
                ),
                Evidence::new(SOURCE, at, format!("{} still runs", domain.name)),
            ],
            ..StateVerdict::seen(code, subject, true)
        },
        None if domain.id.is_none() => StateVerdict::seen(code, subject, false),
        None if !sees_powerdown => {
            StateVerdict::unknown(code, subject, "libvirt shows requests to shut down to writable connections only")
        }
        None if !known.is_listened_to => {
            StateVerdict::unknown(code, subject, "the guest has run since before this agent listened for such requests")
        }
        None => StateVerdict::seen(code, subject, false),
    }
}

/// `Ok(None)`: it does not run, so nobody can be kept waiting.
fn control_of(domain: &DomainSeen) -> Result<Option<Control>, String> {
    match (domain.control, domain.id) {
        (Some(control), _) => Ok(Some(control)),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(failed_calls(domain)),
    }
}

fn failed_calls(domain: &DomainSeen) -> String {
    if domain.errors.is_empty() { "libvirt did not say".to_owned() } else { domain.errors.join("; ") }
}

fn is_paused_on_io(domain: &DomainSeen) -> bool {
    domain.state == Some(state::PAUSED) && domain.reason == Some(state::PAUSED_IOERROR)
}

fn failed(at: Moment, uid: &str, event: i32, detail: i32) -> Option<OccurrenceVerdict> {
    // VIR_DOMAIN_EVENT_STOPPED with CRASHED or FAILED; VIR_DOMAIN_EVENT_CRASHED.
    let text = match (event, detail) {
        (5, 2) => "libvirt: the domain stopped, reason crashed",
        (5, 5) => "libvirt: the domain stopped, reason failed",
        (8, _) => "libvirt: the guest crashed",
        _ => return None,
    };
    Some(OccurrenceVerdict {
        code: FindingCode::DomainFailed,
        subject: Subject::vm(uid),
        at,
        count: 1,
        attributes: Attributes::new().with(attribute::DETAIL, detail),
        evidence: vec![Evidence::new(SOURCE, at, text)],
    })
}

fn io_error_reported(at: Moment, uid: &str, alias: &str, action: i32, facts: &IoFacts) -> OccurrenceVerdict {
    let done = match action {
        0 => "ignored it",
        1 => "paused the guest",
        2 => "reported it to the guest",
        _ => "did what this agent does not know",
    };
    OccurrenceVerdict {
        code: FindingCode::DomainIoErrorReported,
        subject: Subject::vm(uid),
        at,
        count: 1,
        attributes: Attributes::new()
            .with(attribute::IO_ERROR, facts.kind)
            .with_some(attribute::PATH, facts.path.as_deref())
            .with_some(attribute::DISK, facts.target.as_deref()),
        evidence: vec![Evidence::new(
            SOURCE,
            at,
            format!("QEMU had a disk error on {alias}{} and {done}", io_in_words(facts)),
        )],
    }
}

fn io_in_words(facts: &IoFacts) -> String {
    let kind = if facts.kind == attribute::IO_NO_SPACE { "no space left" } else { "I/O error" };
    let target = facts.target.as_deref().map(|target| format!(" on disk {target}")).unwrap_or_default();
    let path = facts.path.as_deref().map(|path| format!(", {path}")).unwrap_or_default();
    format!(" ({kind}{target}{path})")
}

#[cfg(test)]
mod tests;
