//! From the worker's messages to what the judge takes.

use kulprit_judge::domain::{Control, DaemonFailure, DaemonSeen, DomainSeen, EventSeen};
use kulprit_model::Moment;
use kulprit_proto::worker::{self, LostClass, domain_event::Event};

use crate::probes::DiskTarget;

/// The moment a message tells, which is not after now; 0 is now.
pub(super) fn moment(now: Moment, boot_usec: u64) -> Moment {
    match i64::try_from(boot_usec) {
        Ok(usec @ 1..) => now.offset_usec(usec.saturating_sub(now.boottime_usec).min(0)),
        Ok(_) | Err(_) => now,
    }
}

pub(super) fn lost(lost: &worker::ConnectionLost) -> DaemonSeen {
    let failure = match lost.class() {
        LostClass::NoSocket => DaemonFailure::NoSocket,
        LostClass::Refused => DaemonFailure::Refused,
        LostClass::Unanswered => DaemonFailure::Unanswered,
        LostClass::Denied => DaemonFailure::Denied,
        LostClass::Protocol => DaemonFailure::Protocol,
        LostClass::Closed => DaemonFailure::Closed,
        LostClass::Keepalive => DaemonFailure::Keepalive,
        LostClass::Unspecified | LostClass::Other => DaemonFailure::Other,
    };
    DaemonSeen::Lost { failure, text: lost.text.clone() }
}

/// Whether it tells that no daemon runs.
pub(super) fn is_not_running(failure: DaemonFailure) -> bool {
    match failure {
        DaemonFailure::NoSocket | DaemonFailure::Refused | DaemonFailure::Closed => true,
        DaemonFailure::Unanswered
        | DaemonFailure::Denied
        | DaemonFailure::Protocol
        | DaemonFailure::Keepalive
        | DaemonFailure::Other => false,
    }
}

/// `uid` and `name` are the VM's.
pub(super) fn domain(domain: &worker::Domain, uid: String, name: String) -> DomainSeen {
    DomainSeen {
        uid,
        name,
        id: domain.id,
        state: domain.state,
        reason: domain.reason,
        control: domain.control.as_ref().map(|control| Control {
            state: control.state,
            details: control.details,
            state_ms: control.state_ms,
        }),
        errors: domain.errors.iter().map(|error| format!("{}: {}", error.call, error.text)).collect(),
    }
}

/// `None` for events that mean nothing yet.
pub(super) fn event(event: &worker::DomainEvent, disks: &[DiskTarget]) -> Option<EventSeen> {
    Some(match event.event.as_ref()? {
        Event::Lifecycle(lifecycle) => EventSeen::Lifecycle { event: lifecycle.event, detail: lifecycle.detail },
        Event::IoError(error) => EventSeen::IoError {
            path: error.source.clone(),
            alias: error.alias.clone(),
            target: disks.iter().find(|disk| disk.alias.as_ref() == Some(&error.alias)).map(|disk| disk.target.clone()),
            action: error.action,
            reason: error.reason.clone(),
        },
        Event::ControlError(_) => EventSeen::ControlError,
        Event::QemuEvent(event) if event.event == "POWERDOWN" => EventSeen::Powerdown,
        Event::QemuEvent(_)
        | Event::Watchdog(_)
        | Event::MemoryFailure(_)
        | Event::JobCompleted(_)
        | Event::MigrationIteration(_) => {
            return None;
        }
    })
}
