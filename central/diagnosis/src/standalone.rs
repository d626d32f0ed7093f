//! The migration of a VM that no cluster knows: pieced together from what the agents of its two ends say.
//!
//! The source says that a job runs or that one ended and left the VM there; the target, that a domain of the same UUID arrives. Nobody
//! says where to: the target is the other node that shows the VM, arriving now or with a QEMU of the migration's time. A
//! migration that moved its VM is nobody's business any more.

use kulprit_model::{Domain, FindingCode, Occurrence, Qemu, State, Status, Subject, attribute::RAN_SECS};

use crate::{
    indexed::Indexed,
    libvirt,
    nearness::SAME_MOMENT_USEC,
    snapshot::{NodeView, VmView},
};

/// A migration under way, or the last one that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DomainMigration<'a> {
    /// The node that the VM leaves.
    pub(crate) source: &'a NodeView,
    /// The node that it goes to; `None`: no other node shows it.
    pub(crate) target: Option<&'a NodeView>,
    /// Its begin, Unix time in microseconds.
    pub(crate) began_usec: i64,
    /// Its end, where the VM stayed. `None`: it runs.
    pub(crate) failed: Option<&'a Occurrence>,
}

/// The migration of the VM with this UID, if one runs or has failed lately.
pub(crate) fn migration_of<'a>(snapshot: &'a Indexed<'a>, uid: &str) -> Option<DomainMigration<'a>> {
    if snapshot.cluster_vm(uid).is_some() {
        return None;
    }
    let outgoing = present(snapshot, FindingCode::MigrationOutgoing, uid).max_by_key(|(_, state)| state.since);
    if let Some((source, state)) = outgoing {
        let target =
            arriving(snapshot, uid, source).or_else(|| shown_beside(snapshot, uid, source, state.since.wall_usec));
        return Some(DomainMigration { source, target, began_usec: state.since.wall_usec, failed: None });
    }
    let failed = snapshot.not_completed(uid).iter().copied();
    let (source, occurrence) = failed.max_by_key(|(_, occurrence)| occurrence.last)?;
    let ended_usec = occurrence.last.wall_usec;
    let is_news = snapshot.reference_wall_usec.saturating_sub(ended_usec) <= snapshot.settings.migration_failed_usec;
    let is_still_there = source.vm(uid).is_some_and(|vm| vm.qemu.is_some());
    if !is_news || !is_still_there {
        return None;
    }
    let began_usec = began_usec(occurrence);
    let target = shown_beside(snapshot, uid, source, began_usec);
    Some(DomainMigration { source, target, began_usec, failed: Some(occurrence) })
}

/// Whether a migration of the VM is in question, and no other VM is known to have had one under way between its begin and its end.
pub(crate) fn is_sole_migrant<'a>(snapshot: &'a Indexed<'a>, uid: &str) -> bool {
    let Some(own) = migration_of(snapshot, uid) else { return false };
    let end_usec = own.failed.map_or(i64::MAX, |failed| failed.last.wall_usec);
    let is_anothers = |subject: &Subject| subject.vm_uid().is_some_and(|other| other != uid);
    let runs = snapshot.all_present().any(|state| {
        state.code == FindingCode::MigrationOutgoing && is_anothers(&state.subject) && state.since.wall_usec <= end_usec
    });
    let mut ended = snapshot.all_not_completed().filter(|occurrence| {
        is_anothers(&occurrence.subject)
            && occurrence.last.wall_usec >= own.began_usec
            && began_usec(occurrence) <= end_usec
    });
    !runs && ended.next().is_none()
}

/// When the migration that did not complete began, Unix time in microseconds.
fn began_usec(not_completed: &Occurrence) -> i64 {
    let ran_usec = not_completed.attributes.number(RAN_SECS).unwrap_or(0).max(0).saturating_mul(1_000_000);
    not_completed.last.wall_usec.saturating_sub(ran_usec)
}

/// The node on which the VM arrives, if one says so.
pub(crate) fn arriving<'a>(snapshot: &'a Indexed<'a>, uid: &str, source: &NodeView) -> Option<&'a NodeView> {
    let mut arriving =
        present(snapshot, FindingCode::MigrationIncoming, uid).filter(|(node, _)| node.name != source.name);
    arriving.next().map(|(node, _)| node)
}

/// Whether another node that reports runs the VM: then what is off or gone here went there. A QEMU that waits for a migration does
/// not run it yet.
pub(crate) fn runs_elsewhere<'a>(snapshot: &'a Indexed<'a>, uid: &str, here: &NodeView) -> bool {
    reporting(snapshot, uid).filter(|(node, _)| node.name != here.name).any(|(_, vm)| {
        let is_up = |domain: &Domain| match domain.state {
            libvirt::RUNNING | libvirt::BLOCKED => true,
            libvirt::PAUSED => !matches!(domain.reason, libvirt::PAUSED_MIGRATION | libvirt::PAUSED_STARTING_UP),
            _ => false, // libvirt's number, not ours
        };
        vm.qemu.is_some() && vm.domain.as_ref().is_some_and(is_up)
    })
}

/// Whether what ended here at that time was the copy that a failed migration had brought: another node says that its migration ended
/// then, and that the VM stayed there. What became of it since is that node's business.
pub(crate) fn was_only_arriving<'a>(snapshot: &'a Indexed<'a>, uid: &str, here: &NodeView, ended_usec: i64) -> bool {
    snapshot.not_completed(uid).iter().any(|(node, occurrence)| {
        node.name != here.name && occurrence.last.wall_usec.abs_diff(ended_usec) <= SAME_MOMENT_USEC.unsigned_abs()
    })
}

/// Whether every node that shows the VM's QEMU was looked at for migrations, and none of it runs.
pub(crate) fn none_runs<'a>(snapshot: &'a Indexed<'a>, uid: &str) -> bool {
    let codes = [FindingCode::MigrationOutgoing, FindingCode::MigrationIncoming];
    let mut living = reporting(snapshot, uid).filter(|(_, vm)| vm.qemu.is_some());
    living.all(|(node, _)| {
        let is_absent = |code: FindingCode| {
            let mut of_code = node.states.iter().filter(|state| state.code == code && is_vm(&state.subject, uid));
            of_code.next().is_some_and(|state| state.status == Status::Absent)
        };
        codes.into_iter().all(is_absent)
    })
}

/// Another node whose QEMU of the VM, alive or not, is of the migration's time; the latest of several.
fn shown_beside<'a>(snapshot: &'a Indexed<'a>, uid: &str, source: &NodeView, began_usec: i64) -> Option<&'a NodeView> {
    let others = reporting(snapshot, uid).filter(|(node, _)| node.name != source.name).filter_map(|(node, vm)| {
        let run: &Qemu = vm.qemu.as_ref().or(vm.last_qemu.as_ref())?;
        (run.since.wall_usec >= began_usec.saturating_sub(SAME_MOMENT_USEC)).then_some((run.since.wall_usec, node))
    });
    others.max_by_key(|(since_usec, _)| *since_usec).map(|(_, node)| node)
}

/// The nodes on which a state of the VM is present, with the first of each.
fn present<'a>(
    snapshot: &'a Indexed<'a>,
    code: FindingCode,
    uid: &str,
) -> impl Iterator<Item = (&'a NodeView, &'a State)> + use<'a> {
    let mut last: Option<&NodeView> = None;
    snapshot.present(uid).iter().copied().filter(move |(node, state)| {
        state.code == code && last.replace(node).is_none_or(|last| !std::ptr::eq(last, *node))
    })
}

/// The nodes that report and know the VM.
fn reporting<'a>(snapshot: &'a Indexed<'a>, uid: &str) -> impl Iterator<Item = (&'a NodeView, &'a VmView)> + use<'a> {
    snapshot.views(uid).filter(|(node, _)| node.is_reporting)
}

fn is_vm(subject: &Subject, uid: &str) -> bool {
    subject.vm_uid() == Some(uid)
}
