//! `virsh` about one domain, and whether its daemon answers at all.

use kulprit_host::command::Failure;
use kulprit_host::command::virsh::{DomainControl, DomainState};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use super::{absent, present, present_since, unknown};
use crate::domain::state;
use crate::verdict::Verdict;

const SOURCE: &str = "virsh";
/// As the catalogue's row: control state occupied, or error, for so long.
const CONTROL_MS: u64 = 3_000;

/// `domstate --reason`.
#[must_use]
pub fn judge_state(at: Moment, vm: &Subject, seen: DomainState) -> Vec<Verdict> {
    let code = FindingCode::DomainIoError;
    let is_paused = seen.state == state::PAUSED;
    vec![match seen.reason {
        Some(state::PAUSED_IOERROR) if is_paused => {
            let facts = Attributes::new().with(attribute::DETAIL, state::PAUSED_IOERROR);
            present(code, vm.clone(), at, SOURCE, facts, "domstate: paused (I/O error)")
        }
        None if is_paused => unknown(code, vm.clone(), "virsh domstate without --reason does not say why it is paused"),
        _ => absent(code, vm.clone()),
    }]
}

/// `domblkerror`: which disk, and whether space is what lacks.
#[must_use]
pub fn judge_block_errors(at: Moment, vm: &Subject, errors: &[(String, String)]) -> Vec<Verdict> {
    let code = FindingCode::DomainIoError;
    let Some((target, words)) = errors.first() else { return Vec::new() };
    let kind = if words.contains("space") { attribute::IO_NO_SPACE } else { attribute::IO_OTHER };
    let facts = Attributes::new().with(attribute::IO_ERROR, kind).with(attribute::DISK, target);
    vec![present(code, vm.clone(), at, SOURCE, facts, format!("domblkerror: {target}: {words}"))]
}

/// `domcontrol`. The state's own time tells since when.
#[must_use]
pub fn judge_control(at: Moment, vm: &Subject, seen: DomainControl) -> Vec<Verdict> {
    let state = |code, number: i32, words: &str| {
        if seen.state != number || seen.state_ms < CONTROL_MS {
            return absent(code, vm.clone());
        }
        let since = at.offset_usec(-i64::try_from(seen.state_ms.saturating_mul(1000)).unwrap_or(i64::MAX));
        let facts = Attributes::new().with(attribute::DETAIL, seen.details).with(attribute::MEASURED, seen.state_ms);
        let text = format!("domcontrol: {words} for {} s", seen.state_ms / 1000);
        present_since(code, vm.clone(), since, SOURCE, facts, text)
    };
    vec![state(FindingCode::DomainControlOccupied, 2, "occupied"), state(FindingCode::DomainControlError, 3, "error")]
}

/// How a call of virsh went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// It answered, if only with an error about the domain.
    Answered,
    /// It failed in this way, with its words.
    Failed(Failure, &'a str),
}

/// Whether the daemon is there and answers. `needs_monitor`: the command asks QEMU too (`domjobinfo`, `dumpxml`,
/// `domblkerror`), so that its silence may be QEMU's.
#[must_use]
pub fn judge_daemon(at: Moment, uri: &str, vm: &Subject, call: Call<'_>, needs_monitor: bool) -> Vec<Verdict> {
    use FindingCode::{DomainControlOccupied, LibvirtUnreachable, LibvirtUnresponsive};
    let daemon = || Subject::Libvirt { uri: uri.to_owned() };
    let failed = |code, failure: &str, text: &str| {
        let facts = Attributes::new().with(attribute::FAILURE, failure).with_some(attribute::VMI, vm.vm_uid());
        present(code, daemon(), at, SOURCE, facts, format!("virsh: {text}"))
    };
    match call {
        Call::Answered => vec![absent(LibvirtUnreachable, daemon()), absent(LibvirtUnresponsive, daemon())],
        Call::Failed(Failure::NoAnswer, text) if needs_monitor => {
            let why = format!("virsh: {text}; libvirt or QEMU does not answer, this command does not tell which");
            vec![unknown(DomainControlOccupied, vm.clone(), why)]
        }
        Call::Failed(Failure::NoAnswer, text) => vec![failed(LibvirtUnresponsive, attribute::FAILURE_TIMEOUT, text)],
        Call::Failed(Failure::Refused, text) => vec![failed(LibvirtUnreachable, attribute::FAILURE_REFUSED, text)],
        Call::Failed(Failure::NoSocket, text) => vec![failed(LibvirtUnreachable, attribute::FAILURE_NOT_FOUND, text)],
        Call::Failed(Failure::NotInstalled | Failure::Denied, text) => {
            vec![unknown(LibvirtUnreachable, daemon(), text), unknown(LibvirtUnresponsive, daemon(), text)]
        }
    }
}
