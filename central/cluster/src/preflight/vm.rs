//! The VM itself: whether it runs, whether KubeVirt lets it migrate, whether it migrates already.

use super::{Check, Preflight};
use crate::{
    initiator::Initiator,
    kind::Kind,
    objects::{Condition, Migration, Vmi},
    parts::Parts,
};

/// A failed migration is worth a word for so long.
const FAILED_IS_NEWS_USEC: i64 = 24 * 3_600 * 1_000_000;

pub(super) fn check(parts: &Parts<'_>, found: &mut Preflight) {
    unseen(parts, found);
    let Some(vmi) = parts.vmi else {
        let status = parts.vm.and_then(|vm| vm.printable_status.as_deref()).unwrap_or("unknown");
        found.blockers.push(Check::new(
            format!("it does not run: there is no VirtualMachineInstance (the VM is shown {status})"),
            source_of(parts, "VirtualMachineInstance", "metadata.name"),
            "start it; a VM that is off needs no migration, it starts on any node that fits",
        ));
        return;
    };
    runs(parts, vmi, found);
    migratable(parts, vmi, found);
    migrates(parts, found);
    if let Some(failed) = last_failed(parts) {
        let why =
            failed.state.as_ref().and_then(|state| state.failure_reason.as_deref()).unwrap_or("no reason is given");
        let name = &failed.meta.name;
        found.warnings.push(Check::new(
            format!("its last migration, {name}, failed: {why}"),
            format!("VirtualMachineInstanceMigration {}/{name} status.migrationState.failureReason", parts.namespace()),
            format!("kulprit why migration/{name} -n {}", parts.namespace()),
        ));
    }
    notes(vmi, found);
}

fn source_of(parts: &Parts<'_>, kind: &str, field: &str) -> String {
    format!("{kind} {}/{} {field}", parts.namespace(), parts.name())
}

/// Kinds of which not all objects are known: what they would say is not known either.
fn unseen(parts: &Parts<'_>, found: &mut Preflight) {
    let of_all = [Kind::Node, Kind::VirtualMachineInstanceMigration];
    let of_volumes = [Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::CsiNode, Kind::VolumeAttachment];
    let of_volumes = of_volumes.into_iter().filter(|_| !parts.claims.is_empty());
    let cluster = parts.cluster;
    let is_known = |kind: Kind| cluster.is_listed(kind, parts.namespace());
    for kind in of_all.into_iter().chain(of_volumes).filter(|kind| !is_known(*kind)) {
        found.unknown.push(format!("not every {} of the cluster is known", kind.as_str()));
    }
    if !cluster.knows_all_pods() {
        found.unknown.push("not every pod of KubeVirt is known".to_owned());
    }
}

fn runs(parts: &Parts<'_>, vmi: &Vmi, found: &mut Preflight) {
    let at = |field: &str| source_of(parts, "VirtualMachineInstance", field);
    let why = || format!("kulprit why vm/{} -n {}", parts.name(), parts.namespace());
    match vmi.phase.as_deref() {
        Some("Running") => {}
        Some(phase) => {
            let what = format!("it is {phase}: only a VM that runs can migrate");
            found.blockers.push(Check::new(what, at("status.phase"), why()));
        }
        None => found.unknown.push("the VirtualMachineInstance has no phase: whether it runs is not known".to_owned()),
    }
    if vmi.meta.deleted_usec.is_some() {
        let what = "its stop or deletion was asked for";
        found.blockers.push(Check::new(what, at("metadata.deletionTimestamp"), why()));
    }
    if let Some(paused) = vmi.conditions.get("Paused").filter(|paused| paused.is_true()) {
        let is_error = paused.reason.as_deref() == Some("PausedIOError");
        let fix =
            if is_error { why() } else { format!("virtctl unpause vmi {} -n {}", parts.name(), parts.namespace()) };
        let check =
            Check::new(format!("the guest is paused ({})", words_of(paused)), at("status.conditions[Paused]"), fix);
        // A disk that cannot be written here cannot be handed over; a user's pause is carried along.
        if is_error { found.blockers.push(check) } else { found.warnings.push(check) }
    } else if let Some(ready) = vmi.conditions.get("Ready").filter(|ready| ready.is_false()) {
        let check = Check::new(format!("it is not ready ({})", words_of(ready)), at("status.conditions[Ready]"), why());
        match ready.reason.as_deref() {
            Some("PodTerminating" | "PodNotExists") => found.blockers.push(check),
            _ => found.warnings.push(check),
        }
    }
    if parts.hosting.is_none() {
        found.unknown.push("the VM's node is not known".to_owned());
    }
}

/// Reason and message, as far as they are told.
fn words_of(condition: &Condition) -> String {
    let words: Vec<&str> = [&condition.reason, &condition.message].into_iter().flatten().map(String::as_str).collect();
    if words.is_empty() { format!("{}={}", condition.name, condition.status) } else { words.join(": ") }
}

fn migratable(parts: &Parts<'_>, vmi: &Vmi, found: &mut Preflight) {
    let at = |name: &str| source_of(parts, "VirtualMachineInstance", &format!("status.conditions[{name}]"));
    match vmi.conditions.get("LiveMigratable") {
        Some(condition) if condition.is_true() => {}
        Some(condition) if condition.is_false() => {
            let what = format!("KubeVirt calls it not live-migratable ({})", words_of(condition));
            let fix = fix_of(condition.reason.as_deref().unwrap_or_default());
            found.blockers.push(Check::new(what, at("LiveMigratable"), fix));
        }
        Some(_) | None => {
            let what = "KubeVirt has not said whether it is live-migratable (condition LiveMigratable)";
            found.unknown.push(what.to_owned());
            single_node_claims(parts, found);
        }
    }
    if let Some(condition) = vmi.conditions.get("StorageLiveMigratable").filter(|condition| condition.is_false()) {
        let words = words_of(condition);
        found.notes.push(format!("its disks cannot be moved to other storage while it runs ({words})"));
    }
}

/// What to do about a reason of the condition LiveMigratable. Source: KubeVirt `api/core/v1/types.go`.
fn fix_of(reason: &str) -> &'static str {
    match reason {
        "DisksNotLiveMigratable" => {
            "put its disks on claims with access mode ReadWriteMany; until then it can only be restarted elsewhere"
        }
        "InterfaceNotLiveMigratable" => "use masquerade or a secondary network for the pod network, no bridge",
        "HotplugNotLiveMigratable" => {
            "wait until hot-plugged volumes are attached, or unplug those that are not shared"
        }
        "HostDeviceNotLiveMigratable" => "a host device or GPU stays with its node: it can only be restarted elsewhere",
        "VirtIOFSNotLiveMigratable" => "detach the virtiofs file systems, or restart it elsewhere",
        "CPUModeLiveMigratable" | "HypervPassthroughNotLiveMigratable" => {
            "give it a CPU model that other nodes have, in place of the host's own"
        }
        _ => "what KubeVirt names cannot be moved: change it and restart the VM, or restart it elsewhere",
    }
}

/// Claims that no two nodes can have at a time, where KubeVirt has not decided by itself.
fn single_node_claims(parts: &Parts<'_>, found: &mut Preflight) {
    for claim in &parts.claims {
        let Some(object) = claim.claim.filter(|object| !object.access_modes.is_empty()) else { continue };
        if !object.access_modes.iter().any(|mode| mode == "ReadWriteMany") {
            found.blockers.push(Check::new(
                format!(
                    "its claim {} is {}: source and target cannot both have it",
                    claim.name,
                    object.access_modes.join(", ")
                ),
                format!("PersistentVolumeClaim {}/{} status.accessModes", parts.namespace(), claim.name),
                fix_of("DisksNotLiveMigratable"),
            ));
        }
    }
}

/// A migration that is under way, or asked for.
fn migrates(parts: &Parts<'_>, found: &mut Preflight) {
    for migration in parts.migrations().filter(|migration| !migration.is_final()) {
        let name = &migration.meta.name;
        let phase = migration.phase.as_deref().filter(|phase| !phase.is_empty()).unwrap_or("Pending");
        let to = migration.state.as_ref().and_then(|state| state.target_node.as_deref());
        let to = to.map(|node| format!(" to {node}")).unwrap_or_default();
        let by = Initiator::of(migration).told_by(parts.vmi);
        found.blockers.push(Check::new(
            format!("it migrates already: {name}{to} is {phase}, asked for by {by}"),
            format!("VirtualMachineInstanceMigration {}/{name} status.phase", parts.namespace()),
            format!("kulprit why migration/{name} -n {}", parts.namespace()),
        ));
    }
}

/// The newest migration, if it failed within the day.
fn last_failed<'c>(parts: &Parts<'c>) -> Option<&'c Migration> {
    let newest = parts.migrations().max_by_key(|migration| migration.created_usec())?;
    let ended = newest.ended_usec().or(newest.created_usec())?;
    let is_news = parts.at_usec.saturating_sub(ended) <= FAILED_IS_NEWS_USEC;
    (is_news && newest.outcome() == Some(false)).then_some(newest)
}

fn notes(vmi: &Vmi, found: &mut Preflight) {
    let drain = match vmi.eviction_strategy.as_deref() {
        Some("LiveMigrate" | "LiveMigrateIfPossible") => None,
        Some("External") => Some("evictionStrategy is External: a drain leaves the migration to somebody else"),
        Some("None") => Some("evictionStrategy is None: a drain shuts it down and migrates nothing"),
        Some(_) | None => {
            Some("it has no evictionStrategy of its own: whether a drain migrates it is for KubeVirt's configuration")
        }
    };
    found.notes.extend(drain.map(ToOwned::to_owned));
    if vmi.migration_method.as_deref() == Some("BlockMigration") {
        found.notes.push("its disks that are not shared are copied along (BlockMigration): it takes longer".to_owned());
    }
}
