//! What the lanes do: opening a connection, looking at all domains, the questions about one domain, and a second opinion.
//!
//! A look makes only calls that take no domain's job (see `virt::Domain` for what was measured). The questions may wait for
//! the domain, and are put back while control info says that somebody already does.

use std::collections::BTreeSet;

use kulprit_proto::worker::{
    self, CallError, Connected, Control, DiskError, Disks, JobStats, LostClass, from_worker::Body,
};
use virt_sys as sys;

use crate::{
    clock::mono_usec,
    disks::parse_disks,
    lane::Caller,
    lost::class_of_open,
    target::{Hold, Target},
    virt::{Access, Connection, Domain, VirtError, lib_version},
};

/// libvirt's keepalive: a ping after so many seconds without a word from the daemon, and the connection is given up after
/// so many unanswered ones. In health it sends nothing, as our heartbeat comes before; on a daemon that hangs it ends the
/// call under way (measured: after 12 s), so that the worker mends itself. Not changed for a suspect: libvirt takes it
/// once per connection ("keepalive interval already set"), and the heartbeat sees a hang earlier.
const KEEPALIVE_SECS: i32 = 4;
const KEEPALIVE_COUNT: u32 = 2;

/// Why a connection could not be opened.
#[derive(Debug)]
pub(crate) struct OpenError {
    pub(crate) class: LostClass,
    pub(crate) error: VirtError,
}

impl From<VirtError> for OpenError {
    fn from(error: VirtError) -> Self {
        Self { class: class_of_open(error.code, error.domain.cast_unsigned(), error.os_error), error }
    }
}

/// Opens a connection and registers events; writable where that is allowed, unless `readonly`. `hold` keeps the way to the socket
/// while it is needed.
///
/// # Errors
/// The class and libvirt's words.
pub(crate) fn open(
    caller: &Caller,
    target: &Target,
    readonly: bool,
    hold: &Hold,
    generation: u64,
) -> Result<(Connection, Connected), OpenError> {
    let began_usec = mono_usec();
    let mut connection = if readonly {
        open_as(caller, target, Access::ReadOnly, hold, generation)?
    } else {
        match open_as(caller, target, Access::Writable, hold, generation) {
            Err(OpenError { class: LostClass::Denied, .. }) => {
                open_as(caller, target, Access::ReadOnly, hold, generation)?
            }
            outcome => outcome?,
        }
    };
    connection.watch(caller)?;
    let daemon_version = connection.daemon_version(caller);
    if daemon_version.is_err() && !connection.is_alive(caller) {
        daemon_version.clone()?;
    }
    // A driver without a daemon (`test`) has none.
    connection.set_keepalive(caller, KEEPALIVE_SECS, KEEPALIVE_COUNT).ok();
    let (hypervisor, hypervisor_version) = connection.hypervisor(caller);
    let connected = Connected {
        lib_version: lib_version(),
        daemon_version: daemon_version.ok(),
        hypervisor,
        hypervisor_version,
        readonly: connection.access == Access::ReadOnly,
        sees_powerdown: connection.sees_powerdown(),
        missing_events: connection.missing_events().to_vec(),
        took_usec: mono_usec() - began_usec,
    };
    Ok((connection, connected))
}

fn open_as(
    caller: &Caller,
    target: &Target,
    access: Access,
    hold: &Hold,
    generation: u64,
) -> Result<Connection, OpenError> {
    let uri = caller.call("open", None, || target.attempt(access == Access::ReadOnly, hold)).map_err(|error| {
        let os_error = error.raw_os_error();
        let error = VirtError { os_error, ..VirtError::own("open", format!("the daemon's socket: {error}")) };
        OpenError::from(error)
    })?;
    let outcome = Connection::open(caller, &uri, access, generation);
    // Not before: the URI leads over this descriptor. Not later: it pins the mount it is in.
    let was_let_go = hold.end();
    outcome.map_err(|error| {
        let mut failed = OpenError::from(error);
        // It did not get as far as connecting while there was something to connect to.
        if was_let_go && failed.class == LostClass::Refused {
            failed.class = LostClass::Unanswered;
        }
        failed.error.text = target.name_socket(&failed.error.text);
        failed
    })
}

/// Calls of a look: they also wait for a domain that the daemon has locked.
pub(crate) const LOOK_CALLS: [&str; 3] =
    ["virConnectListAllDomains", "virConnectGetAllDomainStats", "virDomainGetControlInfo"];

/// Whether the daemon answers a new client. On a connection of its own: libvirt's client, when it gives up one on which two threads
/// wait, was seen to wake only one of them.
pub(crate) fn is_answered(caller: &Caller, target: &Target, readonly: bool, hold: &Hold) -> bool {
    let access = if readonly { Access::ReadOnly } else { Access::Writable };
    open_as(caller, target, access, hold, 0).is_ok()
}

/// Looks at all domains; `persistent` is left open, see [`persistent`].
///
/// # Errors
/// The list could not be had; what fails for one domain stands in its `errors`.
pub(crate) fn look(caller: &Caller, connection: &Connection) -> Result<Vec<worker::Domain>, VirtError> {
    Ok(connection.list_with_states(caller)?.iter().map(|domain| look_at(caller, domain)).collect())
}

/// UUIDs of the domains that stay when they are shut off. Changes with a definition only, of which events tell, so it is not asked
/// for in each look: to a daemon that has one domain it would be a third of all questions.
pub(crate) fn persistent(caller: &Caller, connection: &Connection) -> Option<BTreeSet<String>> {
    let domains = connection.list(caller, sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT).ok()?;
    Some(domains.iter().map(|domain| domain.uuid.clone()).collect())
}

fn look_at(caller: &Caller, domain: &Domain) -> worker::Domain {
    let mut seen =
        worker::Domain { uuid: domain.uuid.clone(), name: domain.name.clone(), id: domain.id, ..Default::default() };
    match domain.state {
        Some((state, reason)) => (seen.state, seen.reason) = (Some(state), Some(reason)),
        None => seen.errors.push((&VirtError::own("virConnectGetAllDomainStats", "no state was told")).into()),
    }
    if domain.id.is_some() {
        match domain.control(caller) {
            Ok(control) => seen.control = Some(control),
            Err(error) => seen.errors.push((&error).into()),
        }
    }
    seen
}

/// Whether control info says that a question may be asked: nobody has a command to QEMU in flight and the monitor works.
pub(crate) fn is_free(control: Option<&Control>) -> bool {
    control.is_none_or(|control| control.state.cast_unsigned() == sys::VIR_DOMAIN_CONTROL_OK)
}

/// A question about one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Disks,
    Job {
        at_round_start: bool,
    },
    /// On demand of the agent.
    DiskErrors {
        request_id: u64,
    },
}

/// What came of a question.
pub(crate) enum Answer {
    Tell(Box<Body>),
    /// The domain is occupied: ask again later.
    PutBack,
    /// The domain or its job is gone: there is nothing to tell.
    Nothing,
}

/// Asks one question about one domain.
pub(crate) fn ask(caller: &Caller, connection: &Connection, uuid: &str, question: &Question) -> Answer {
    let domain = match find_free(caller, connection, uuid) {
        Ok(Some(domain)) => domain,
        Ok(None) => {
            return match question {
                Question::Disks => Answer::PutBack,
                // The next round brings the next occasion.
                Question::Job { .. } => Answer::Nothing,
                Question::DiskErrors { request_id } => {
                    let error = VirtError::own("virDomainGetDiskErrors", "declined: the domain is occupied");
                    Answer::Tell(Box::new(reply(*request_id, Err(error))))
                }
            };
        }
        Err(error) => {
            return match question {
                Question::DiskErrors { request_id } => Answer::Tell(Box::new(reply(*request_id, Err(error)))),
                Question::Disks | Question::Job { .. } => Answer::Nothing,
            };
        }
    };
    match question {
        Question::Disks => {
            let (uuid, name) = (domain.uuid.clone(), domain.name.clone());
            let disks = domain.xml(caller).and_then(|xml| {
                parse_disks(&xml).map_err(|error| VirtError::own("virDomainGetXMLDesc", error.to_string()))
            });
            match disks {
                Ok(disks) => Answer::Tell(Box::new(Body::Disks(Disks { uuid, name, disks, error: None }))),
                Err(error) if error.is_no_domain() => Answer::Nothing,
                Err(error) => {
                    let error = Some(CallError::from(&error));
                    Answer::Tell(Box::new(Body::Disks(Disks { uuid, name, disks: Vec::new(), error })))
                }
            }
        }
        Question::Job { at_round_start } => match domain.job(caller) {
            Ok(job) if job.r#type.cast_unsigned() != sys::VIR_DOMAIN_JOB_NONE => {
                let (uuid, name) = (domain.uuid.clone(), domain.name.clone());
                Answer::Tell(Box::new(Body::JobStats(JobStats {
                    uuid,
                    name,
                    job: Some(job),
                    at_round_start: *at_round_start,
                })))
            }
            Ok(_) | Err(_) => Answer::Nothing,
        },
        Question::DiskErrors { request_id } => Answer::Tell(Box::new(reply(*request_id, domain.disk_errors(caller)))),
    }
}

/// The domain, if it may be asked; `None` when it is occupied.
fn find_free(caller: &Caller, connection: &Connection, uuid: &str) -> Result<Option<Domain>, VirtError> {
    let domain = connection.lookup(caller, uuid)?;
    if domain.id.is_none() {
        return Ok(Some(domain));
    }
    match domain.control(caller) {
        Ok(control) => Ok(is_free(Some(&control)).then_some(domain)),
        // It ended since the lookup.
        Err(_) => Ok(Some(domain)),
    }
}

/// The answer to a request of the agent.
pub(crate) fn reply(request_id: u64, outcome: Result<Vec<DiskError>, VirtError>) -> Body {
    let (disk_errors, error) = match outcome {
        Ok(disk_errors) => (disk_errors, None),
        Err(error) => (Vec::new(), Some(CallError::from(&error))),
    };
    Body::Reply(worker::Reply { request_id, error, disk_errors })
}
