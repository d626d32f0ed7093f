//! Where a VM is in its life, from its objects. Source: KubeVirt `pkg/virt-controller/watch/vm/vm.go` (`printableStatus`).

use crate::{
    described::{Life, MigrationLife},
    initiator::Initiator,
    objects::{Condition, Migration, Vmi},
    parts::Parts,
    past::Past,
    question::InQuestion,
};

/// After a failed evacuation KubeVirt waits 20 s, and twice as long after each that follows; it keeps five finished migrations, and so
/// counts to 320 s. Source: `pkg/virt-controller/watch/migration/migration.go` (`handleMigrationBackoff`).
const NEXT_ATTEMPT_USEC: i64 = 600_000_000;

pub(crate) fn life(parts: &Parts<'_>) -> Life {
    let (vm, vmi) = (parts.vm, parts.vmi);
    let condition = |name: &str| vmi.and_then(|vmi| vmi.conditions.get(name));
    let of_vm = |name: &str| vm.and_then(|vm| vm.conditions.get(name));
    let paused =
        condition("Paused").or_else(|| of_vm("Paused").filter(|_| vmi.is_none())).filter(|paused| paused.is_true());
    let ready = condition("Ready").or_else(|| of_vm("Ready").filter(|_| vmi.is_none()));
    let synchronized = condition("Synchronized").or_else(|| of_vm("Synchronized").filter(|_| vmi.is_none()));
    let launcher = parts.launcher().map(|of| of.pod);
    // A pod that has ended and stays is all that is left of a VM that was deleted; beside a VMI it is only late.
    let launcher_deleted = launcher.filter(|pod| !pod.is_over() || vmi.is_none()).and_then(|pod| pod.meta.deleted_usec);
    let phase = vmi.and_then(|vmi| vmi.phase.clone());
    let past = Past::of(parts);
    Life {
        has_vm: vm.is_some(),
        has_vmi: vmi.is_some(),
        printable_status: vm.and_then(|vm| vm.printable_status.clone()),
        printable_since_usec: printable_since(parts),
        wants_to_run: vm.and_then(|vm| vm.wants_to_run),
        phase_since_usec: vmi.and_then(Vmi::phase_since_usec),
        has_run: vmi.and_then(Vmi::has_run),
        created_usec: vmi.and_then(|vmi| vmi.meta.created_usec).or_else(|| vm.and_then(|vm| vm.meta.created_usec)),
        vm_deleted_usec: vm.and_then(|vm| vm.meta.deleted_usec),
        vmi_deleted_usec: vmi.and_then(|vmi| vmi.meta.deleted_usec),
        grace_secs: vmi.and_then(|vmi| vmi.grace_secs).or_else(|| vm.and_then(|vm| vm.grace_secs)),
        paused_reason: paused.map(|paused| paused.reason.clone().unwrap_or_else(|| "Paused".to_owned())),
        paused_since_usec: paused.and_then(|paused| paused.since_usec),
        not_ready_reason: ready.filter(|ready| ready.is_false()).and_then(|ready| ready.reason.clone()),
        not_synchronized: synchronized
            .filter(|is| is.is_false())
            .map(|is| (is.reason.clone().unwrap_or_default(), is.message.clone().unwrap_or_default())),
        launcher_phase: launcher.and_then(|pod| match launcher_deleted {
            Some(_) => Some("Terminating".to_owned()),
            None => pod.phase.clone(),
        }),
        launcher_status: launcher.and_then(|pod| pod.kubectl_status()),
        launcher_since_usec: launcher.and_then(|pod| launcher_deleted.or(pod.meta.created_usec)),
        migration: parts.migration.as_ref().map(|migration| migration_life(parts, migration)),
        n_migrations_24h: past.counts,
        knows_all_migrations: past.is_whole,
        past_migrations: past.told(),
        evacuation: evacuation(parts),
        phase,
    }
}

/// Since when the VM is shown as it is: by the object or condition that makes the status what it is.
fn printable_since(parts: &Parts<'_>) -> Option<i64> {
    let vm = parts.vm?;
    let vmi = parts.vmi;
    let since = |condition: Option<&Condition>| condition.and_then(|condition| condition.since_usec);
    let of_vmi = |name: &str| since(vmi.and_then(|vmi| vmi.conditions.get(name)));
    let of_vm = |name: &str| since(vm.conditions.get(name));
    let not_ready = || {
        let is_false = |condition: &&Condition| !condition.is_true();
        let own = vmi.and_then(|vmi| vmi.conditions.get("Ready")).filter(is_false);
        since(own).or_else(|| since(vm.conditions.get("Ready").filter(is_false)))
    };
    match vm.printable_status.as_deref()? {
        "Terminating" => vm.meta.deleted_usec,
        "Stopping" => vmi.and_then(|vmi| vmi.meta.deleted_usec).or_else(not_ready),
        "Migrating" => parts.migration.as_ref().and_then(|migration| migration.pick(|state| state.started_usec)),
        "Paused" => of_vmi("Paused").or_else(|| of_vm("Paused")),
        "Running" => of_vmi("Ready").or_else(|| of_vm("Ready")),
        "ErrorUnschedulable" => of_vmi("PodScheduled").or_else(|| of_vm("PodScheduled")).or_else(not_ready),
        "ErrorPvcNotFound" | "ErrImagePull" | "ImagePullBackOff" => {
            of_vmi("Synchronized").or_else(|| of_vm("Synchronized")).or_else(not_ready)
        }
        "Starting" => vmi.and_then(|vmi| vmi.meta.created_usec).or_else(not_ready),
        "CrashLoopBackOff" => vm.start_failed_usec.or_else(not_ready),
        _ => not_ready(),
    }
}

fn migration_life(parts: &Parts<'_>, migration: &InQuestion<'_>) -> MigrationLife {
    let object = migration.object;
    MigrationLife {
        name: migration.name.clone(),
        uid: migration.uid().map(ToOwned::to_owned),
        phase: migration.phase().map(ToOwned::to_owned),
        phase_since_usec: object
            .and_then(Migration::phase_since_usec)
            .or_else(|| migration.ended_usec())
            .or_else(|| migration.pick(|state| state.started_usec).filter(|_| migration.phase() == Some("Running"))),
        created_usec: parts.migration_created_usec(),
        started_usec: migration.pick(|state| state.started_usec),
        ended_usec: migration.ended_usec(),
        outcome: migration.outcome(),
        failure_reason: migration.pick(|state| state.failure_reason.clone()).or_else(|| told_failure(parts, migration)),
        is_aborted: is_aborted(parts, migration).is_some(),
        initiator: migration
            .initiator
            .or_else(|| object.map(|object| Initiator::of(object).told_by(parts.vmi)))
            .or_else(|| (!migration.name.is_empty()).then(|| Initiator::of_name(&migration.name)))
            .map(|initiator| initiator.to_string()),
    }
}

/// Why it failed, by its events: `VirtualMachineInstance migration uid X failed. reason:<text>`.
fn told_failure(parts: &Parts<'_>, migration: &InQuestion<'_>) -> Option<String> {
    if migration.outcome() != Some(false) && (migration.object.is_some() || !migration.is_named) {
        return None;
    }
    let uid = migration.uid()?;
    let events = parts.cluster.events("VirtualMachineInstance", parts.namespace(), parts.name());
    let mut reasons = events.filter(|event| event.message.contains(uid)).filter_map(|event| {
        let (_, reason) = event.message.split_once("failed. reason:")?;
        Some(reason.trim().to_owned())
    });
    reasons.find(|reason| !reason.is_empty())
}

/// Who saw that its abort was asked for, and since when.
pub(crate) fn is_aborted(parts: &Parts<'_>, migration: &InQuestion<'_>) -> Option<(String, Option<i64>)> {
    if migration.any(|state| state.is_abort_requested) {
        return Some(("abortRequested: true".to_owned(), None));
    }
    if let Some(object) = migration.object {
        let condition = object.conditions.get("migrationAbortRequested").filter(|condition| condition.is_true());
        if let Some(condition) = condition {
            return Some((condition.line(), condition.since_usec));
        }
        let is_early =
            object.ended_usec().is_none_or(|ended| object.meta.deleted_usec.is_some_and(|deleted| deleted <= ended));
        if object.meta.deleted_usec.is_some() && is_early {
            return Some(("the migration's object is being deleted".to_owned(), object.meta.deleted_usec));
        }
    }
    let name = (!migration.name.is_empty()).then_some(migration.name.as_str())?;
    let mut events = parts.cluster.events("VirtualMachineInstanceMigration", parts.namespace(), name);
    let event = events.find(|event| event.is_reason("SuccessfulAbortMigration"))?;
    Some((event.line(), event.first_usec))
}

/// The node that it is to leave, and since when.
pub(crate) fn evacuation(parts: &Parts<'_>) -> Option<(String, Option<i64>)> {
    let vmi = parts.vmi?;
    let condition = vmi.conditions.get("EvictionRequested").filter(|condition| condition.is_true());
    let since = condition.and_then(|condition| condition.since_usec).or_else(|| asked_to_leave(parts));
    match &vmi.evacuation_node {
        Some(node) => Some((node.clone(), since)),
        None => condition.map(|_| (parts.hosting.clone().unwrap_or_default(), since)),
    }
}

/// Since when KubeVirt tries to get it off its node, by its migrations: the first of the attempts that follow one another up to the
/// one that is under way, or that failed lately. One that succeeded or was for something else is none of them.
fn asked_to_leave(parts: &Parts<'_>) -> Option<i64> {
    let succeeded = parts.migrations().filter(|migration| migration.outcome() == Some(true));
    let last_moved_usec = succeeded.filter_map(Migration::created_usec).max();
    let is_attempt = |migration: &&Migration| {
        let is_its = matches!(Initiator::of(migration), Initiator::Evacuation | Initiator::Descheduler);
        is_its && migration.outcome() != Some(true) && migration.created_usec() > last_moved_usec
    };
    let mut attempts: Vec<(i64, Option<i64>)> = parts
        .migrations()
        .filter(is_attempt)
        .filter_map(|migration| {
            let ended = migration.is_final().then(|| migration.ended_usec().or(migration.created_usec())).flatten();
            Some((migration.created_usec()?, ended))
        })
        .collect();
    attempts.sort_unstable();
    // The attempt after one that failed, and after the last one: now.
    let mut next_usec = parts.looked_usec;
    let mut since = None;
    for (asked, ended) in attempts.into_iter().rev() {
        if ended.is_some_and(|ended| next_usec.saturating_sub(ended) > NEXT_ATTEMPT_USEC) {
            break;
        }
        next_usec = asked;
        since = Some(asked);
    }
    since
}
