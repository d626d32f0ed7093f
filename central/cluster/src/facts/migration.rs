//! What the objects show of the migration in question: what it waits for, who or what ended it, how it is limited; and how many there were.
//!
//! Source: KubeVirt `pkg/virt-controller/watch/migration/migration.go`, `pkg/virt-config/virt-config.go`,
//! `pkg/virt-launcher/virtwrap/live-migration-source.go`.

use kulprit_model::{
    FindingCode, Side,
    attribute::{INITIATOR, LIMIT, MEASURED, REASON, WHAT},
};

use crate::{
    described::MigrationCounts,
    fact::{Fact, Out, Spot},
    history::DAY_USEC,
    kind::Kind,
    life,
    objects::{Condition, Migration},
    parts::{Part, Parts},
    past::Past,
    question::InQuestion,
};

/// So many migrations a day are many.
const MANY: u32 = 12;
/// KubeVirt keeps so many finished migrations of a VM.
const KEPT: u32 = 5;
const HOUR_USEC: i64 = 3_600_000_000;
/// A migration's bandwidth below this is capped.
const CAPPED_BYTES: i64 = 64 << 20;
/// Defaults of KubeVirt's configuration (v1.4 and newer).
pub(crate) const PER_CLUSTER: i64 = 5;
pub(crate) const PER_NODE: i64 = 2;
pub(crate) const COMPLETION_SECS_PER_GIB: i64 = 150;
pub(crate) const PROGRESS_SECS: i64 = 150;
/// What ends within this of the migration is its consequence.
const SAME_MOMENT_USEC: i64 = 2_000_000;

pub(crate) fn facts(parts: &Parts<'_>, out: &mut Out<'_>) {
    many(parts, out);
    if parts.migration.as_ref().is_none_or(|migration| migration.outcome().is_some() && !migration.is_named) {
        waits_for_turn(parts, out);
    }
    let Some(migration) = &parts.migration else { return };
    aborted(parts, migration, out);
    timed_out(parts, migration, out);
    capped(parts, migration, out);
    target_failed(parts, migration, out);
    if migration.outcome().is_none() {
        waits_for_slot(parts, migration, out);
        target_pending(parts, migration, out);
    }
    waits_for_sync(parts, migration, out);
}

fn many(parts: &Parts<'_>, out: &mut Out<'_>) {
    let past = Past::of(parts);
    let MigrationCounts { failed, aborted, unknown, .. } = past.counts;
    let n = past.counts.total();
    if n == 0 && parts.vmi.is_none() {
        return;
    }
    let is_many = n >= MANY || !past.is_whole && n >= KEPT && is_many_by_rate(parts, &past);
    // With as many as KubeVirt keeps there may have been any number, where nobody watched.
    if !is_many && !past.is_whole && n >= KEPT {
        return;
    }
    let (n_bad, n_seen) = (failed.saturating_add(aborted), n - unknown);
    let what = (n_seen > 0 || n == 0).then(|| if n_bad.saturating_mul(2) < n_seen { "succeeded" } else { "failed" });
    let fact = Fact::when(is_many, FindingCode::MigrationsMany, "vmim", past.words()).with_some(WHAT, what);
    out.push(fact.with(MEASURED, n).with_some(INITIATOR, past.initiator()));
}

/// Whether those that are known, over an hour at least, are so close together that a day has many.
fn is_many_by_rate(parts: &Parts<'_>, past: &Past<'_>) -> bool {
    let Some(first) = past.first_usec() else { return false };
    let span = parts.at_usec.saturating_sub(first).max(HOUR_USEC);
    i128::from(past.counts.total()) * i128::from(DAY_USEC) >= i128::from(MANY) * i128::from(span)
}

fn aborted(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    match life::is_aborted(parts, migration) {
        Some((text, since)) => {
            let since = since.or_else(|| migration.ended_usec());
            out.push(Fact::present(FindingCode::MigrationAbortRequested, "vmim", text).since(since));
        }
        None if migration.object.is_some() || !migration.states.is_empty() => {
            let text = "nobody asked for the migration's abort";
            out.push(Fact::absent(FindingCode::MigrationAbortRequested, "vmim", text));
        }
        None => {}
    }
}

/// By what KubeVirt says it did; its newest releases only say `aborted`: then by the time it took and the limits it had.
fn timed_out(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    if migration.outcome() != Some(false) {
        return;
    }
    let reason = migration.pick(|state| state.failure_reason.clone()).unwrap_or_default();
    let text = reason.to_ascii_lowercase();
    let ended = migration.ended_usec();
    let say = |what: &str, text: String| {
        Fact::present(FindingCode::MigrationTimedOut, "vmim", text).since(ended).with(WHAT, what)
    };
    let is_completion = text.contains("not completed after") || text.contains("completion timeout");
    if is_completion {
        out.push(say("completion", reason));
    } else if text.contains("stuck for") {
        out.push(say("progress", reason));
    } else if (text.contains("aborted") || migration.any(|state| state.abort_status.is_some()))
        && life::is_aborted(parts, migration).is_none()
    {
        let took_usec =
            migration.pick(|state| state.started_usec).zip(ended).map(|(from, until)| until.saturating_sub(from));
        let settings = migration.pick(|state| Some(&state.settings));
        let per_gib = settings.and_then(|settings| settings.completion_secs_per_gib).unwrap_or(COMPLETION_SECS_PER_GIB);
        let progress = settings.and_then(|settings| settings.progress_secs).unwrap_or(PROGRESS_SECS);
        let guest = parts.vmi.and_then(|vmi| vmi.guest_bytes);
        let Some((took, guest)) = took_usec.zip(guest) else { return };
        let completion_usec = i128::from(per_gib) * i128::from(guest) * 1_000_000 / (1 << 30);
        let line = format!("{reason}; it took {} s", took / 1_000_000);
        if i128::from(took) >= completion_usec {
            out.push(say("completion", line));
        } else if took >= progress.saturating_mul(1_000_000) {
            out.push(say("progress", line));
        }
    } else if !reason.is_empty() {
        out.push(Fact::absent(FindingCode::MigrationTimedOut, "vmim", reason));
    }
}

fn capped(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    let of_state = migration.pick(|state| state.settings.bandwidth_bytes);
    let policy = migration.pick(|state| state.policy.as_ref());
    let of_policy = || parts.cluster.policies.get(policy?)?.settings.bandwidth_bytes;
    let of_kubevirt = || parts.cluster.kubevirts.values().find_map(|kubevirt| kubevirt.settings.bandwidth_bytes);
    let Some(bytes) = of_state.or_else(of_policy).or_else(of_kubevirt) else { return };
    let of = policy.map_or_else(|| "the configuration".to_owned(), |policy| format!("the policy {policy}"));
    let text = format!("bandwidthPerMigration of {of} is {bytes} bytes per second (0: no limit)");
    let is_capped = bytes > 0 && bytes < CAPPED_BYTES;
    out.push(Fact::when(is_capped, FindingCode::MigrationCapped, "vmim", text).with(LIMIT, bytes));
}

/// Whether the target pod ended before the migration did; its end after that is only a consequence.
fn target_failed(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    let spot = Spot::new(Side::Target, parts.target.as_deref());
    if let Some((text, since)) = told_target_failed(parts, migration) {
        out.push(Fact::present(FindingCode::MigrationTargetFailed, "vmim", text).since(since).at(&spot));
        return;
    }
    let Some(of) = parts.pods.iter().rev().find(|of| of.part == Part::Target) else { return };
    let pod = of.pod;
    let is_first = |usec: Option<i64>| match (usec, migration.ended_usec()) {
        (_, None) => true,
        (Some(usec), Some(ended)) => usec.saturating_add(SAME_MOMENT_USEC) < ended,
        (None, Some(_)) => false,
    };
    let was_cancelled = life::is_aborted(parts, migration).is_some();
    // Who deletes the VM deletes its pods.
    let is_vm_going = parts.vmi.is_some_and(|vmi| vmi.meta.deleted_usec.is_some());
    let gone = pod.meta.deleted_usec.filter(|_| !was_cancelled && !is_vm_going);
    if pod.is_over() && is_first(pod.ended_usec()) && migration.outcome() != Some(true) {
        let text = format!("target pod {} is {}", pod.full_name(), pod.kubectl_status().unwrap_or_default());
        let fact = Fact::present(FindingCode::MigrationTargetFailed, "pod", text)
            .since(pod.ended_usec().or(pod.meta.created_usec));
        out.push(fact.with_some(REASON, pod.reason.as_ref()).at(&spot));
    } else if gone.is_some() && is_first(gone) {
        let text = format!("target pod {} was deleted", pod.full_name());
        out.push(Fact::present(FindingCode::MigrationTargetFailed, "pod", text).since(gone).at(&spot));
    } else if !pod.is_over() && pod.meta.deleted_usec.is_none() {
        let text = format!("target pod {} is {}", pod.full_name(), pod.phase.as_deref().unwrap_or("there"));
        out.push(Fact::absent(FindingCode::MigrationTargetFailed, "pod", text).at(&spot));
    }
}

/// KubeVirt's words for a target pod that ended, in a failure reason or an event.
fn told_target_failed(parts: &Parts<'_>, migration: &InQuestion<'_>) -> Option<(String, Option<i64>)> {
    let is_it = |text: &str| {
        let text = text.to_ascii_lowercase();
        [
            "target pod shutdown",
            "target pod is down",
            "target pod was removed",
            "target attachment pod shutdown",
            "target pod failed",
            "pod timeout period exceeded",
        ]
        .iter()
        .any(|part| text.contains(part))
    };
    if let Some(reason) = migration.pick(|state| state.failure_reason.clone().filter(|reason| is_it(reason))) {
        return Some((reason, migration.ended_usec()));
    }
    let cluster = parts.cluster;
    let of_migration = cluster
        .events("VirtualMachineInstanceMigration", parts.namespace(), &migration.name)
        .filter(|_| !migration.name.is_empty());
    let uid = migration.uid();
    let of_vmi = cluster
        .events("VirtualMachineInstance", parts.namespace(), parts.name())
        .filter(|event| uid.is_some_and(|uid| event.message.contains(uid)));
    let mut told = of_migration.chain(of_vmi).filter(|event| is_it(&event.message));
    told.next().map(|event| (event.line(), event.first_usec))
}

fn target_pending(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    let spot = Spot::new(Side::Target, parts.target.as_deref());
    // KubeVirt goes on only once the pod is ready; its readiness gate for paused guests is closed until the guest has come.
    if let Some(phase @ ("Scheduled" | "PreparingTarget" | "TargetReady" | "Running")) = migration.phase() {
        let text = format!("the migration is {phase}: its target pod was ready before");
        out.push(Fact::absent(FindingCode::MigrationTargetPending, "vmim", text).at(&spot));
        return;
    }
    if let Some(of) = parts.pods.iter().rev().find(|of| of.part == Part::Target) {
        if let Some(is_ready) =
            of.pod.has_ready_containers().or_else(|| of.pod.phase.as_ref().map(|phase| phase == "Running"))
        {
            let text = format!("target pod {} is {}", of.pod.full_name(), of.pod.kubectl_status().unwrap_or_default());
            let fact = Fact::when(!is_ready, FindingCode::MigrationTargetPending, "pod", text);
            out.push(fact.since(of.pod.meta.created_usec.filter(|_| !is_ready)).at(&spot));
        }
    } else if migration.phase() == Some("Scheduling") {
        let since = migration.object.and_then(Migration::phase_since_usec);
        let text = "the migration is Scheduling: its target pod is not ready";
        out.push(Fact::present(FindingCode::MigrationTargetPending, "vmim", text).since(since).at(&spot));
    }
}

/// A pending migration while as many run as KubeVirt allows.
fn waits_for_slot(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    let Some(object) = migration.object else { return };
    if !object.may_wait_for_slot() || object.phase_times.is_empty() && object.phase.is_none() {
        let is_further = object.phase.is_some();
        if is_further {
            out.push(Fact::absent(FindingCode::MigrationWaitsForSlot, "vmim", "the migration is past Pending"));
        }
        return;
    }
    let since = object.phase_since_usec().or(object.created_usec());
    of_slots(parts, &parts.cluster.running_migrations().collect::<Vec<_>>(), since, out);
}

/// A VM that is to leave its node gets a migration only when fewer than allowed are unfinished, those that wait included.
///
/// Source: KubeVirt `pkg/virt-controller/watch/drain/evacuation/evacuation.go`, `sync`.
fn waits_for_turn(parts: &Parts<'_>, out: &mut Out<'_>) {
    let Some((node, since)) = life::evacuation(parts) else { return };
    let has_left = parts.hosting.as_ref().is_some_and(|hosting| !node.is_empty() && *hosting != node);
    let conditions = parts.vmi.map(|vmi| &vmi.conditions);
    let cannot = conditions.and_then(|all| all.get("LiveMigratable")).is_some_and(Condition::is_false);
    if !has_left && !cannot {
        of_slots(parts, &parts.cluster.unfinished_migrations().collect::<Vec<_>>(), since, out);
    }
}

/// Whether `taken` are as many as the configuration allows.
fn of_slots(parts: &Parts<'_>, taken: &[&Migration], since: Option<i64>, out: &mut Out<'_>) {
    let source = parts.source.as_deref().or(parts.hosting.as_deref());
    let leaves = |other: &&&Migration| {
        let of_vmi = || parts.cluster.vmis.get(&other.vm_key()?)?.node.as_deref();
        source.is_some() && other.source_node().or_else(of_vmi) == source
    };
    let n_of_node = taken.iter().filter(leaves).count();
    let settings = parts.cluster.kubevirts.values().next().map(|kubevirt| &kubevirt.settings);
    let per_cluster = settings.and_then(|settings| settings.per_cluster).unwrap_or(PER_CLUSTER).max(1);
    let per_node = settings.and_then(|settings| settings.per_node).unwrap_or(PER_NODE).max(1);
    let is_at = |n: usize, limit: i64| i64::try_from(n).is_ok_and(|n| n >= limit);
    let text = format!(
        "{} migrations run of {per_cluster} allowed, {n_of_node} leave the node of {per_node} allowed",
        taken.len()
    );
    let say = |what: &str, n: usize, limit: i64| {
        Fact::present(FindingCode::MigrationWaitsForSlot, "vmim", text.clone())
            .since(since)
            .with(WHAT, what)
            .with(MEASURED, n)
            .with(LIMIT, limit)
    };
    if is_at(taken.len(), per_cluster) {
        out.push(say("cluster", taken.len(), per_cluster));
    } else if is_at(n_of_node, per_node) {
        out.push(say("node", n_of_node, per_node));
    } else if parts.cluster.is_listed(Kind::VirtualMachineInstanceMigration, parts.namespace()) {
        out.push(Fact::absent(FindingCode::MigrationWaitsForSlot, "vmim", text));
    }
}

fn waits_for_sync(parts: &Parts<'_>, migration: &InQuestion<'_>, out: &mut Out<'_>) {
    let Some(object) = migration.object else { return };
    let blocked = object.conditions.iter().find(|condition| {
        let is_wait =
            condition.name.starts_with("migrationBlockedBy") || condition.name == "decentralizedMigrationBlocked";
        is_wait && condition.is_true()
    });
    let is_syncing = |phase: Option<&str>| matches!(phase, Some("WaitingForSync" | "Synchronizing"));
    if let Some(condition) = blocked {
        let fact =
            Fact::present(FindingCode::MigrationWaitsForSync, "vmim", condition.line()).since(condition.since_usec);
        out.push(fact.with_some(REASON, condition.reason.as_ref()));
    } else if is_syncing(object.phase.as_deref()) || parts.vmi.is_some_and(|vmi| is_syncing(vmi.phase.as_deref())) {
        let text = "migration or VMI wait for the other cluster";
        out.push(Fact::present(FindingCode::MigrationWaitsForSync, "vmim", text).since(object.phase_since_usec()));
    } else if object.phase.is_some() {
        out.push(Fact::absent(FindingCode::MigrationWaitsForSync, "vmim", "nothing blocks the migration's start"));
    }
}
