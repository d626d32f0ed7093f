//! What a migration leaves when it goes wrong: QEMUs of one VM on two nodes, or one that it paused and nobody resumed.
//!
//! Only the snapshot as a whole shows it: each node for itself has one QEMU, and is well. While a migration runs both are normal,
//! and KubeVirt takes up to a minute after its end to clear away (`pkg/virt-handler/migration-source.go`). Of a VM that no cluster
//! knows the agents say whether a migration runs.

use kulprit_cluster::ClusterVm;

use crate::{
    identity::Identity,
    indexed::Indexed,
    libvirt,
    snapshot::{NodeView, Snapshot, VmView},
    standalone,
};

/// So long after its end a migration is still being cleared away.
const CLEARED_AWAY_USEC: i64 = 60_000_000;

/// What is left, in words, and since when as far as the migration's end is known.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) text: String,
    pub(crate) since_usec: Option<i64>,
    /// Two QEMUs; else one that is paused.
    pub(crate) is_two: bool,
}

/// QEMUs of the VM on two nodes while no migration of it runs.
pub(crate) fn two_qemus<'a>(snapshot: &'a Indexed<'a>, vm: &'a ClusterVm) -> Option<Leftover> {
    let since_usec = over_since(snapshot, vm)?;
    let mut alive = views(snapshot, vm).filter_map(|(node, view)| Some((node, view.qemu.as_ref()?.pid)));
    let ((first, first_pid), (second, second_pid)) = (alive.next()?, alive.next()?);
    let text = format!(
        "QEMUs of the VM live on {} (pid {first_pid}) and on {} (pid {second_pid}), and no migration runs",
        first.name, second.name
    );
    Some(Leftover { text, since_usec, is_two: true })
}

/// A domain that a migration paused, while none runs: the guest stands still.
pub(crate) fn paused<'a>(snapshot: &'a Indexed<'a>, vm: &'a ClusterVm) -> Option<Leftover> {
    let since_usec = over_since(snapshot, vm)?;
    let runs = |view: &VmView| view.domain.as_ref().is_some_and(|domain| domain.state == libvirt::RUNNING);
    if views(snapshot, vm).any(|(_, view)| runs(view)) {
        return None;
    }
    let (node, _) = views(snapshot, vm).find(|(_, view)| is_paused_by_migration(view))?;
    let text = format!("libvirt on {} shows it paused for a migration, and none runs", node.name);
    Some(Leftover { text, since_usec, is_two: false })
}

/// As [`two_qemus`] and [`paused`], of a VM that libvirt alone runs.
pub(crate) fn of_domain<'a>(snapshot: &'a Indexed<'a>, uid: &str) -> Option<Leftover> {
    let is_settled = |since: i64| snapshot.reference_wall_usec.saturating_sub(since) > CLEARED_AWAY_USEC;
    let alive: Vec<(&NodeView, &VmView, i64)> = snapshot
        .views(uid)
        .filter(|(node, _)| node.is_reporting)
        .filter_map(|(node, view)| {
            let qemu_since = view.qemu.as_ref()?.since.wall_usec;
            Some((node, view, view.domain.as_ref().map_or(qemu_since, |domain| domain.since.wall_usec.max(qemu_since))))
        })
        .collect();
    if !standalone::none_runs(snapshot, uid) || !alive.iter().all(|(_, _, since)| is_settled(*since)) {
        return None;
    }
    let since_usec = alive.iter().map(|(_, _, since)| *since).max();
    match alive.as_slice() {
        [] => None,
        [(node, view, _)] => {
            let text = format!("libvirt on {} shows it paused for a migration, and none runs", node.name);
            is_paused_by_migration(view).then_some(Leftover { text, since_usec, is_two: false })
        }
        [(first, _, _), (second, _, _), ..] => {
            let text = format!("QEMUs of the VM live on {} and on {}, and no migration runs", first.name, second.name);
            Some(Leftover { text, since_usec, is_two: true })
        }
    }
}

fn is_paused_by_migration(view: &VmView) -> bool {
    view.domain
        .as_ref()
        .is_some_and(|domain| domain.state == libvirt::PAUSED && domain.reason == libvirt::PAUSED_MIGRATION)
}

/// The nodes that report and know the VM, with the first VM of each that is it.
fn views<'a>(snapshot: &'a Indexed<'a>, vm: &'a ClusterVm) -> impl Iterator<Item = (&'a NodeView, &'a VmView)> {
    let me = Identity::of_cluster_vm(vm);
    let mut views = snapshot.views_of_any(me.uids(), me.pair());
    views.dedup_by(|(node, _), (last, _)| std::ptr::eq(*node, *last));
    views.into_iter().filter(|(node, _)| node.is_reporting)
}

/// Since when no migration of the VM runs: `Some(None)` where that time is not known, `None` while one does or may.
#[expect(clippy::option_option, reason = "over since an unknown time is not the same as not over")]
fn over_since(snapshot: &Snapshot, vm: &ClusterVm) -> Option<Option<i64>> {
    if !vm.life.has_vmi && !vm.life.has_vm {
        return None;
    }
    let Some(migration) = &vm.life.migration else { return Some(None) };
    migration.outcome?;
    let is_cleared = |ended: i64| snapshot.reference_wall_usec.saturating_sub(ended) > CLEARED_AWAY_USEC;
    migration.ended_usec.is_none_or(is_cleared).then_some(migration.ended_usec)
}
