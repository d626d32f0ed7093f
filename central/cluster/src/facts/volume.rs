//! What a VM's claims, volumes, attachments and DataVolumes show.
//!
//! Source: Kubernetes `pkg/controller/volume/{persistentvolume,attachdetach}`, CSI's external-attacher, CDI `pkg/apis/core/v1beta1`.

use std::collections::BTreeSet;

use kulprit_model::{
    FindingCode,
    attribute::{DETAIL, OBJECT, OTHER_NODE, PERCENT, REASON, VOLUME},
};

use crate::{
    fact::{Fact, Out, Spot},
    kind::Kind,
    objects::{Attachment, DataVolume},
    parts::{Part, Parts, VmClaim},
    question::InQuestion,
};

/// Attaching and detaching take moments; after this they are late.
const LATE_USEC: i64 = 30 * 1_000_000;
/// An importer that was restarted so often does not only wait.
const MANY_RESTARTS: i64 = 3;

pub(crate) fn facts(parts: &Parts<'_>, out: &mut Out<'_>) {
    for claim in &parts.claims {
        existence(parts, claim, out);
        data_volume(parts, claim, out);
        attachments(parts, claim, out);
        driver(parts, claim, out);
    }
    if parts.claims.is_empty() {
        missing_by_words(parts, out);
    }
    let is_known = |claim: &VmClaim<'_>| {
        parts.cluster.data_volumes.contains_key(&(parts.namespace().to_owned(), claim.name.clone()))
    };
    if parts.is_shown("DataVolumeError") && !parts.claims.iter().any(is_known) {
        out.push(Fact::present(FindingCode::DataVolumeFailing, "vm", "the VM is shown DataVolumeError"));
    }
}

/// Whether it is started, or is to be: only then a claim that waits for its first consumer is in the way.
fn is_wanted(parts: &Parts<'_>) -> bool {
    parts.vmi.is_some() || parts.vm.and_then(|vm| vm.wants_to_run) != Some(false)
}

/// Whether its pod has a node or it came further: the scheduler lets no pod through whose claims are not there.
fn is_past_scheduling(parts: &Parts<'_>) -> bool {
    let has_node = parts.launcher().is_some_and(|of| of.pod.node.is_some());
    has_node || parts.vmi.is_some_and(|vmi| vmi.is_phase("Running") || vmi.is_phase("Scheduled"))
}

/// KubeVirt's condition that a claim is missing, if it is about this one.
fn missing_condition(parts: &Parts<'_>, name: Option<&str>) -> Option<(String, Option<i64>)> {
    let conditions = [parts.vmi.map(|vmi| &vmi.conditions), parts.vm.map(|vm| &vm.conditions)];
    let found = conditions.into_iter().flatten().flat_map(|conditions| conditions.iter()).find(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        let is_missing = condition.reason.as_deref() == Some("FailedPvcNotFound")
            || message.starts_with("PVC ") && message.contains("does not exist");
        condition.is_false() && is_missing && name.is_none_or(|name| message.is_empty() || names(message, name))
    });
    found.map(|condition| (condition.line(), condition.since_usec))
}

/// Whether a text names an object, as a word or behind a slash.
fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | ',' | ':' | '[' | ']' | '(' | ')'))
        .any(|word| word.trim_end_matches('.') == name)
}

/// The same by events on the VMI and the VM, and by the scheduler's and kubelet's on the pods.
fn missing_event(parts: &Parts<'_>, name: &str) -> Option<(String, Option<i64>)> {
    let cluster = parts.cluster;
    let of = |kind: &str, name: &str| cluster.events(kind, parts.namespace(), name);
    let own = of("VirtualMachineInstance", parts.name()).chain(of("VirtualMachine", parts.name()));
    let pods = parts.pods.iter().flat_map(|of| parts.cluster.events("Pod", &of.pod.meta.namespace, &of.pod.meta.name));
    let event = own.chain(pods).filter(|event| names(&event.message, name)).find(|event| {
        let message = event.message.to_ascii_lowercase();
        let is_claim = message.contains("persistentvolumeclaim") || message.contains("pvc");
        event.is_reason("FailedPvcNotFound")
            || is_claim && (message.contains("not found") || message.contains("does not exist"))
    })?;
    Some((event.line(), event.first_usec))
}

fn existence(parts: &Parts<'_>, claim: &VmClaim<'_>, out: &mut Out<'_>) {
    let name = &claim.name;
    let Some(object) = claim.claim else {
        let has_data_volume = parts.cluster.data_volumes.contains_key(&(parts.namespace().to_owned(), name.clone()));
        let is_listed = parts.cluster.is_listed(Kind::PersistentVolumeClaim, parts.namespace()) && !has_data_volume;
        let listed = || {
            (is_listed && is_wanted(parts))
                .then(|| (format!("the claims of {} do not include {name}", parts.namespace()), None))
        };
        let told = missing_condition(parts, Some(name)).or_else(|| missing_event(parts, name)).or_else(listed);
        let told = told.or_else(|| missing_by_status(parts));
        if let Some((text, since)) = told.filter(|_| !is_past_scheduling(parts)) {
            out.push(Fact::present(FindingCode::VolumeClaimMissing, "pvc", text).since(since).with(VOLUME, name));
        }
        return;
    };
    out.push(
        Fact::absent(FindingCode::VolumeClaimMissing, "pvc", format!("the claim {name} exists")).with(VOLUME, name),
    );
    let Some(phase) = object.phase.as_deref() else { return };
    let is_bad = match phase {
        "Bound" => false,
        "Lost" => true,
        _ => is_wanted(parts),
    };
    if is_bad || phase == "Bound" {
        let text = format!("the claim {name} is {phase}");
        let fact = Fact::when(is_bad, FindingCode::VolumeClaimUnbound, "pvc", text);
        out.push(fact.since(object.meta.created_usec.filter(|_| is_bad)).with(VOLUME, name).with(REASON, phase));
    }
}

fn missing_by_status(parts: &Parts<'_>) -> Option<(String, Option<i64>)> {
    parts.is_shown("ErrorPvcNotFound").then(|| ("the VM is shown ErrorPvcNotFound".to_owned(), None))
}

/// Where no spec tells of claims: KubeVirt's own word.
fn missing_by_words(parts: &Parts<'_>, out: &mut Out<'_>) {
    if let Some((text, since)) = missing_condition(parts, None).or_else(|| missing_by_status(parts)) {
        out.push(Fact::present(FindingCode::VolumeClaimMissing, "vmi", text).since(since));
    }
}

fn data_volume(parts: &Parts<'_>, claim: &VmClaim<'_>, out: &mut Out<'_>) {
    let Some(object) = parts.cluster.data_volumes.get(&(parts.namespace().to_owned(), claim.name.clone())) else {
        return;
    };
    let phase = object.phase.as_deref().unwrap_or_default();
    let trouble = failing(object);
    let text = match &trouble {
        Some(text) => format!("the DataVolume {} is {phase}: {text}", claim.name),
        None => format!("the DataVolume {} is {phase}", claim.name),
    };
    let is_moving =
        phase.ends_with("InProgress") || matches!(phase, "ImportScheduled" | "CloneScheduled" | "UploadReady");
    // One that is at work and tells no progress may be failing again and again: only its importer knows.
    let is_filling = is_moving && object.progress.as_deref().is_some_and(|progress| progress.ends_with('%'));
    if trouble.is_some() || phase == "Succeeded" || is_filling {
        let running = object.conditions.get("Running");
        let since = running.and_then(|condition| condition.since_usec).or(object.meta.created_usec);
        let fact = Fact::when(trouble.is_some(), FindingCode::DataVolumeFailing, "datavolume", text.clone());
        out.push(fact.since(since.filter(|_| trouble.is_some())).with(VOLUME, &claim.name).with(REASON, phase));
    }
    if is_moving || phase == "Succeeded" {
        let is_so = is_moving && trouble.is_none();
        let fact = Fact::when(is_so, FindingCode::DataVolumeProgressing, "datavolume", text);
        let percent = object.progress.as_deref().map(|progress| progress.trim_end_matches('%').to_owned());
        let percent = percent.filter(|percent| percent.starts_with(|c: char| c.is_ascii_digit()));
        out.push(
            fact.since(if is_so { object.meta.created_usec } else { filled_usec(parts) })
                .with(VOLUME, &claim.name)
                .with(REASON, phase)
                .with_some(PERCENT, percent),
        );
    }
}

/// When the last of the VM's DataVolumes was full.
fn filled_usec(parts: &Parts<'_>) -> Option<i64> {
    let key = |claim: &VmClaim<'_>| (parts.namespace().to_owned(), claim.name.clone());
    let objects = parts.claims.iter().filter_map(|claim| parts.cluster.data_volumes.get(&key(claim)));
    let full = objects.filter(|object| object.phase.as_deref() == Some("Succeeded"));
    full.filter_map(|object| object.conditions.get("Running")?.since_usec).max()
}

/// What keeps a DataVolume from getting filled.
fn failing(object: &DataVolume) -> Option<String> {
    if object.phase.as_deref() == Some("Succeeded") {
        return None;
    }
    if matches!(object.phase.as_deref(), Some("Failed" | "Error" | "Unknown")) {
        let running = object.conditions.get("Running").and_then(|condition| condition.message.clone());
        return Some(running.unwrap_or_default());
    }
    let is_trouble = |reason: &str| {
        ["Error", "Failed", "BackOff", "Exceeded", "ErrImage", "NotFound"].iter().any(|word| reason.contains(word))
    };
    let of_condition = object.conditions.iter().filter(|condition| condition.is_false()).find(|condition| {
        condition.reason.as_deref().is_some_and(is_trouble)
            || condition
                .message
                .as_deref()
                .is_some_and(|message| message.contains("error") || message.contains("exceeded quota"))
    });
    match of_condition {
        Some(condition) => Some(condition.line()),
        None if object.n_restarts >= MANY_RESTARTS => Some(format!("{} restarts", object.n_restarts)),
        None => None,
    }
}

fn attachments(parts: &Parts<'_>, claim: &VmClaim<'_>, out: &mut Out<'_>) {
    let Some(volume) = claim.volume_name() else { return };
    let found: Vec<&Attachment> = parts.cluster.attachments_of(volume).collect();
    let is_running_migration =
        parts.migration.as_ref().is_some_and(|migration| InQuestion::outcome(migration).is_none());
    let mut own: BTreeSet<&str> = parts.hosting.as_deref().into_iter().collect();
    if is_running_migration {
        own.extend([parts.source.as_deref(), parts.target.as_deref()].into_iter().flatten());
    }
    // Pods that are there may use it where they are, whatever else is to come.
    let here = parts.pods.iter().filter(|of| matches!(of.part, Part::Launcher | Part::Target | Part::Attachment));
    own.extend(here.filter(|of| !of.pod.is_over()).filter_map(|of| of.pod.node.as_deref()));
    let modes = claim.persistent.map(|volume| &volume.access_modes).filter(|modes| !modes.is_empty());
    let modes = modes.or_else(|| claim.claim.map(|claim| &claim.access_modes));
    let is_shared =
        modes.is_some_and(|modes| modes.iter().any(|mode| mode.ends_with("Many") || mode == "RWX" || mode == "ROX"));
    let mut is_held = false;
    for attachment in &found {
        let Some(node) = attachment.node.as_deref() else { continue };
        // What another node does not let go of is in the way wherever the VM is.
        let spot = if own.contains(node) { Spot::on(node) } else { Spot::default() };
        let is_deleting = attachment.meta.deleted_usec;
        if let Some(since) = is_deleting {
            let is_late = parts.at_usec.saturating_sub(since) >= LATE_USEC;
            let error = attachment.detach_error.as_ref().map(|(message, _)| message);
            if is_late || error.is_some() {
                let text = format!("{volume} is being detached from {node}{}", suffix(error));
                out.push(
                    Fact::present(FindingCode::VolumeDetachPending, "volumeattachment", text)
                        .since(Some(since))
                        .with(VOLUME, volume)
                        .with(OTHER_NODE, node)
                        .with_some(DETAIL, error)
                        .at(&spot),
                );
            }
        }
        if own.contains(node) {
            attached(parts, attachment, volume, node, out);
        } else if attachment.is_attached == Some(true) && !is_shared && !own.is_empty() {
            is_held = true;
            let text = format!(
                "{volume} is attached to {node}, the VM is on {}",
                own.iter().copied().collect::<Vec<_>>().join(", ")
            );
            out.push(
                Fact::present(FindingCode::VolumeAttachedElsewhere, "volumeattachment", text)
                    .since(attachment.meta.created_usec)
                    .with(VOLUME, volume)
                    .with(OTHER_NODE, node),
            );
        }
    }
    if !found.is_empty() && !is_held && !own.is_empty() {
        let text = format!("no other node has {volume} attached");
        out.push(Fact::absent(FindingCode::VolumeAttachedElsewhere, "volumeattachment", text).with(VOLUME, volume));
    }
}

fn attached(parts: &Parts<'_>, attachment: &Attachment, volume: &str, node: &str, out: &mut Out<'_>) {
    let error = attachment.attach_error.as_ref().map(|(message, _)| message);
    let created = attachment.meta.created_usec;
    let is_new =
        created.is_some_and(|created| parts.looked_usec.saturating_sub(created) < LATE_USEC) && error.is_none();
    match attachment.is_attached {
        Some(true) if attachment.meta.deleted_usec.is_none() => {
            let text = format!("{volume} is attached to {node}");
            out.push(
                Fact::absent(FindingCode::VolumeNotAttached, "volumeattachment", text)
                    .with(VOLUME, volume)
                    .at(&Spot::on(node)),
            );
        }
        Some(true) | None => {}
        Some(false) if is_new => {}
        Some(false) => {
            let text = format!("{volume} is not attached to {node}{}", suffix(error));
            out.push(
                Fact::present(FindingCode::VolumeNotAttached, "volumeattachment", text)
                    .since(created)
                    .with(VOLUME, volume)
                    .with_some(DETAIL, error)
                    .at(&Spot::on(node)),
            );
        }
    }
}

fn suffix(error: Option<&String>) -> String {
    error.map(|error| format!(": {error}")).unwrap_or_default()
}

/// Whether the nodes of the VM have the driver of its volume.
fn driver(parts: &Parts<'_>, claim: &VmClaim<'_>, out: &mut Out<'_>) {
    let Some(driver) = claim.persistent.and_then(|volume| volume.driver.as_deref()) else { return };
    let nodes: BTreeSet<&String> = [&parts.hosting, &parts.target].into_iter().flatten().collect();
    for name in nodes {
        let Some(node) = parts.cluster.csi_nodes.get(name) else { continue };
        let has = node.drivers.iter().any(|own| own == driver);
        let text =
            if has { format!("{name} has the driver {driver}") } else { format!("{name} has no driver {driver}") };
        let fact = Fact::when(!has, FindingCode::StorageDriverMissing, "csinode", text);
        out.push(fact.with(OBJECT, driver).at(&Spot::on(name)).of_node());
    }
}
