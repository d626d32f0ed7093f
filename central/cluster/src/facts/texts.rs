//! What events, conditions and statuses of a VM's objects say in words, peeled.
//!
//! Only texts of objects that belong to the VM are taken: what is said of another VM's pod is not this one's.

use kulprit_model::{
    Attributes, Side,
    attribute::{CONTAINER, EXIT_CODE, IMAGE, POD, POD_UID, VMI, VOLUME, WHAT},
    said::{actor, class, operation},
};
use kulprit_signature::Speaker;

use super::vmi::spot_of_host;
use crate::{
    fact::{Out, Spot, Told},
    objects::{Condition, Conditions, ContainerState, Event},
    parts::{Part, Parts, VmPod},
};

/// Normal events that may tell of trouble.
const TELLING_REASONS: &[&str] = &[
    "BackOff",
    "Stopped",
    "SuccessfulDelete",
    "MigrationBackoff",
    "TaintManagerEviction",
    "Preempted",
    "NodeNotReady",
    "WaitForPodScheduled",
];
/// Warnings that are advice: nothing failed.
const ADVICE_REASONS: &[&str] =
    &["MissingClusterDNS", "DNSConfigForming", "AdvancedFeatureUse", "CgroupV1", "FailedToRetrieveImagePullSecret"];
/// Conditions that are a fault when they are true.
const BAD_IF_TRUE: &[&str] = &[
    "Failure",
    "Degraded",
    "migrationRejectedByResourceQuota",
    "DecentralizedLiveMigrationFailure",
    "DisruptionTarget",
];
/// Conditions that only repeat what another object says, or that are facts of their own.
const REPEATED: &[&str] = &[
    "Ready",
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "LiveMigratable",
    "StorageLiveMigratable",
];

pub(crate) fn said(parts: &Parts<'_>, out: &mut Out<'_>) {
    of_own_events(parts, out);
    of_pods(parts, out);
    of_storage(parts, out);
    of_own_conditions(parts, out);
    of_migrations(parts, out);
    of_components(parts, out);
}

/// Whether an event may tell of trouble.
pub(crate) fn is_telling(event: &Event) -> bool {
    let is_one_of = |reasons: &[&str]| event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason));
    (event.is_warning || is_one_of(TELLING_REASONS)) && !is_one_of(ADVICE_REASONS)
}

/// Whether it is a warning about one of KubeVirt's own workloads.
pub(crate) fn is_of_workload(event: &Event) -> bool {
    const COMPONENTS: &[&str] = &["virt-handler", "virt-controller", "virt-api", "virt-operator"];
    let is_workload = matches!(event.about.kind.as_str(), "DaemonSet" | "Deployment" | "ReplicaSet" | "KubeVirt");
    let is_named = || COMPONENTS.iter().any(|name| event.about.name.starts_with(name));
    event.is_warning && is_workload && is_named() && is_telling(event)
}

/// Whether it is a warning about a pod of KubeVirt's control plane.
pub(crate) fn is_of_control(event: &Event) -> bool {
    let is_named =
        || ["virt-controller-", "virt-api-", "virt-operator-"].iter().any(|name| event.about.name.starts_with(name));
    event.is_warning && event.about.kind == "Pod" && is_named() && is_telling(event)
}

fn told<'t>(event: &'t Event, spot: Spot, attributes: Attributes) -> Told<'t> {
    let otherwise = match event.reason.as_deref() {
        Some("NodeNotReady") => Some([actor::KUBELET, operation::REPORT_STATUS, class::UNAVAILABLE]),
        _ => None,
    };
    Told { spot, attributes, otherwise, ..Told::of_event(event) }
}

fn of_own_events(parts: &Parts<'_>, out: &mut Out<'_>) {
    let cluster = parts.cluster;
    for kind in ["VirtualMachineInstance", "VirtualMachine"] {
        for event in cluster.events(kind, parts.namespace(), parts.name()).filter(|event| is_telling(event)) {
            let host = event.host.as_deref().filter(|_| event.speaker() == Speaker::Handler);
            out.said(told(event, spot_of_host(parts, host), Attributes::new()));
        }
    }
    let objects = parts.migrations().map(|migration| migration.meta.name.as_str());
    let events_only = cluster.told_migrations(parts.namespace(), parts.name());
    let named = parts.migration.as_ref().map(|migration| migration.name.as_str());
    let mut names: Vec<&str> = objects.chain(events_only).chain(named).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let events = cluster.events("VirtualMachineInstanceMigration", parts.namespace(), name);
        for event in events.filter(|event| is_telling(event)) {
            out.said(told(event, Spot::default(), Attributes::new()));
        }
    }
}

fn of_pods(parts: &Parts<'_>, out: &mut Out<'_>) {
    let cluster = parts.cluster;
    for of in &parts.pods {
        let (spot, attributes) = of_pod(parts, of);
        for event in cluster.events("Pod", &of.pod.meta.namespace, &of.pod.meta.name).filter(|event| is_telling(event))
        {
            let mut spot = spot.clone();
            // What schedules it speaks of no node.
            if event.speaker() == Speaker::Scheduler {
                spot.node = None;
            } else if spot.node.is_none() {
                spot.node.clone_from(&event.host);
            }
            out.said(told(event, spot, attributes.clone()));
        }
        statuses(parts, of, &spot, &attributes, out);
        if let Some(message) = of.pod.message.as_deref() {
            let at = of.pod.ended_usec().or(of.pod.started_usec);
            out.said(plain(Speaker::Kubelet, of.pod.reason.as_deref(), message, "pod", at, &spot, attributes.clone()));
        }
        conditions(&of.pod.conditions, Speaker::Kubelet, "pod", &spot, &attributes, out);
    }
    for name in cluster.told_pods(&parts.key) {
        let spot = Spot { side: Some(parts.side_of_told(name)), node: parts.node_told_of(name) };
        let attributes = Attributes::new().with(POD, format!("{}/{name}", parts.namespace()));
        for event in cluster.events("Pod", parts.namespace(), name).filter(|event| is_telling(event)) {
            out.said(told(event, spot.clone(), attributes.clone()));
        }
    }
}

fn of_pod(parts: &Parts<'_>, of: &VmPod<'_>) -> (Spot, Attributes) {
    let attributes = Attributes::new()
        .with(POD, of.pod.full_name())
        .with_some(POD_UID, of.pod.meta.uid.as_ref())
        .with(VMI, format!("{}/{}", parts.namespace(), parts.name()));
    // An importer runs before the VM has a node, anywhere.
    let side = (of.part != Part::Importer).then_some(of.side);
    (Spot { side, node: of.pod.node.clone() }, attributes)
}

/// What containers say of their waiting or their end. The end of a pod that was to end says nothing.
fn statuses(parts: &Parts<'_>, of: &VmPod<'_>, spot: &Spot, attributes: &Attributes, out: &mut Out<'_>) {
    let is_former = of.part == Part::Former;
    let was_wanted = parts.vmi.is_some_and(|vmi| vmi.meta.deleted_usec.is_some() || vmi.is_phase("Succeeded"))
        || of.pod.meta.deleted_usec.is_some()
        || of.pod.is_phase("Succeeded");
    for container in &of.pod.containers {
        let speaker = match (of.part, container.name.as_str()) {
            (Part::Importer, _) => Speaker::Cdi,
            (_, "compute") => Speaker::Launcher,
            _ => Speaker::LauncherSidecar,
        };
        let attributes = attributes.clone().with(CONTAINER, &container.name).with_some(IMAGE, container.image.as_ref());
        for state in [&container.state, &container.last_state] {
            match state {
                ContainerState::Waiting { reason, message: Some(message) } => {
                    let mut told =
                        plain(Speaker::Kubelet, reason.as_deref(), message, "pod", None, spot, attributes.clone());
                    // It waits as long as the object says so: until it was looked at.
                    told.last_usec = Some(parts.at_usec);
                    told.first_usec = of.pod.started_usec.or(of.pod.meta.created_usec);
                    out.said(told);
                }
                ContainerState::Terminated { reason, message: Some(message), exit_code, at_usec, .. }
                    if !is_former && !was_wanted && *exit_code != Some(0) =>
                {
                    let attributes = attributes.clone().with_some(EXIT_CODE, *exit_code);
                    // A message is the tail of a log: lines of their own.
                    for line in message.lines().filter(|line| !line.trim().is_empty()) {
                        out.said(plain(speaker, reason.as_deref(), line, "pod", *at_usec, spot, attributes.clone()));
                    }
                }
                ContainerState::NotTold
                | ContainerState::Waiting { .. }
                | ContainerState::Running { .. }
                | ContainerState::Terminated { .. } => {}
            }
        }
    }
}

fn plain<'t>(
    speaker: Speaker,
    reason: Option<&'t str>,
    text: &'t str,
    source: &'static str,
    at_usec: Option<i64>,
    spot: &Spot,
    attributes: Attributes,
) -> Told<'t> {
    Told {
        speaker,
        reason,
        text,
        source,
        first_usec: at_usec,
        last_usec: at_usec,
        count: 1,
        spot: spot.clone(),
        attributes,
        otherwise: None,
    }
}

/// Messages of conditions that are not as they should be.
fn conditions(
    conditions: &Conditions,
    speaker: Speaker,
    source: &'static str,
    spot: &Spot,
    attributes: &Attributes,
    out: &mut Out<'_>,
) {
    for condition in conditions.iter() {
        let is_bad = if BAD_IF_TRUE.contains(&condition.name.as_str()) {
            condition.is_true()
        } else {
            condition.is_false() && !REPEATED.contains(&condition.name.as_str())
        };
        // KubeVirt writes into PodScheduled what Synchronized says as well.
        let is_repeated = condition.name == "PodScheduled"
            && conditions.get("Synchronized").is_some_and(|other| other.message == condition.message);
        if is_bad && !is_repeated {
            condition_said(condition, speaker, source, spot, attributes, out);
        }
    }
}

fn condition_said(
    condition: &Condition,
    speaker: Speaker,
    source: &'static str,
    spot: &Spot,
    attributes: &Attributes,
    out: &mut Out<'_>,
) {
    let speaker = match (condition.name.as_str(), condition.reason.as_deref()) {
        ("PodScheduled", _) => Speaker::Scheduler,
        ("Synchronized", Some("Synchronizing with the Domain failed.")) => Speaker::Handler,
        _ => speaker,
    };
    let otherwise = match condition.name.as_str() {
        "migrationRejectedByResourceQuota" => Some([actor::CONTROLLER, operation::CREATE_POD, class::QUOTA]),
        _ => None,
    };
    let reason = condition.reason.as_deref();
    let text = condition.message.as_deref().or(reason).unwrap_or_default();
    let mut told = plain(speaker, reason, text, source, condition.since_usec, spot, attributes.clone());
    // It says so still.
    told.last_usec = Some(out.at_usec());
    told.otherwise = otherwise;
    out.said(told);
}

fn of_own_conditions(parts: &Parts<'_>, out: &mut Out<'_>) {
    if let Some(vmi) = parts.vmi {
        // The host's virt-handler writes what it could not do there.
        let node = parts.hosting.as_deref().filter(|_| vmi.node.is_some());
        let is_handlers = vmi
            .conditions
            .get("Synchronized")
            .is_some_and(|condition| condition.reason.as_deref() == Some("Synchronizing with the Domain failed."));
        let spot = spot_of_host(parts, node.filter(|_| is_handlers));
        conditions(&vmi.conditions, Speaker::Controller, "vmi", &spot, &Attributes::new(), out);
    }
    if let Some(vm) = parts.vm {
        let is_copy = |condition: &&Condition| {
            parts
                .vmi
                .and_then(|vmi| vmi.conditions.get(&condition.name))
                .is_some_and(|own| own.message == condition.message)
        };
        for condition in vm.conditions.iter().filter(|condition| !is_copy(condition)) {
            let is_bad = if BAD_IF_TRUE.contains(&condition.name.as_str()) {
                condition.is_true()
            } else {
                condition.is_false() && !REPEATED.contains(&condition.name.as_str())
            };
            if is_bad {
                condition_said(condition, Speaker::Controller, "vm", &Spot::default(), &Attributes::new(), out);
            }
        }
    }
}

/// Failure reasons: of the migration in question, and of others of the day, each at its own time.
fn of_migrations(parts: &Parts<'_>, out: &mut Out<'_>) {
    let mut said: Vec<(String, Option<i64>)> = Vec::new();
    for migration in parts.migrations() {
        let state = migration.state.as_ref();
        if let Some(reason) = state.and_then(|state| state.failure_reason.clone()) {
            said.push((reason, migration.ended_usec()));
        }
        conditions(&migration.conditions, Speaker::Controller, "vmim", &Spot::default(), &Attributes::new(), out);
    }
    if let Some(migration) = &parts.migration
        && let Some(reason) = migration.pick(|state| state.failure_reason.clone())
    {
        said.push((reason, migration.ended_usec()));
    }
    said.sort();
    said.dedup();
    for (reason, ended) in said {
        // The source's virt-handler writes it whichever end it is about: the text may tell, the object does not.
        out.said(plain(Speaker::Handler, None, &reason, "vmim", ended, &Spot::default(), Attributes::new()));
    }
}

fn of_storage(parts: &Parts<'_>, out: &mut Out<'_>) {
    let cluster = parts.cluster;
    for claim in &parts.claims {
        let attributes = Attributes::new().with(VOLUME, &claim.name);
        for kind in ["PersistentVolumeClaim", "DataVolume"] {
            for event in cluster.events(kind, parts.namespace(), &claim.name).filter(|event| is_telling(event)) {
                out.said(told(event, Spot::default(), attributes.clone()));
            }
        }
        if let Some(object) = claim.claim {
            conditions(&object.conditions, Speaker::Csi, "pvc", &Spot::default(), &attributes, out);
        }
        if let Some(object) = parts.cluster.data_volumes.get(&(parts.namespace().to_owned(), claim.name.clone())) {
            conditions(&object.conditions, Speaker::Cdi, "datavolume", &Spot::default(), &attributes, out);
        }
        if let Some(volume) = claim.persistent
            && let Some(message) = volume.message.as_deref().filter(|_| volume.phase.as_deref() == Some("Failed"))
        {
            out.said(plain(Speaker::Csi, None, message, "pv", None, &Spot::default(), attributes.clone()));
        }
        let Some(name) = claim.volume_name() else { continue };
        let attributes = attributes.with(VOLUME, name);
        for kind in ["PersistentVolume", "VolumeAttachment"] {
            for event in cluster.events_named(kind, name).filter(|event| is_telling(event)) {
                out.said(told(event, Spot::default(), attributes.clone()));
            }
        }
        for attachment in parts.cluster.attachments_of(name) {
            let node = attachment.node.as_deref();
            let is_own =
                node.is_some_and(|node| [&parts.hosting, &parts.target].into_iter().flatten().any(|own| own == node));
            let is_target = node.is_some() && node == parts.target.as_deref() && node != parts.hosting.as_deref();
            let side = is_own.then_some(if is_target { Side::Target } else { Side::Hosting });
            let spot = Spot { side, node: node.map(ToOwned::to_owned) };
            for (message, at) in attachment.attach_error.iter().chain(&attachment.detach_error) {
                let is_attach = attachment.attach_error.as_ref().is_some_and(|(own, _)| own == message);
                let doing = if is_attach { operation::ATTACH } else { operation::DETACH };
                let mut told = plain(Speaker::Csi, None, message, "volumeattachment", *at, &spot, attributes.clone());
                told.otherwise = Some([actor::CSI, doing, class::OTHER]);
                out.said(told);
            }
        }
    }
}

/// Warnings about KubeVirt's own deployments: they concern every VM.
fn of_components(parts: &Parts<'_>, out: &mut Out<'_>) {
    for event in parts.cluster.events_of_workloads() {
        out.said(told(event, Spot::default(), Attributes::new().with(WHAT, &event.about.name)));
    }
    for kubevirt in parts.cluster.kubevirts.values() {
        let is_bad = |condition: &&Condition| match condition.name.as_str() {
            "Available" | "Created" | "Synchronized" => condition.is_false(),
            "Degraded" => condition.is_true(),
            _ => false,
        };
        for condition in kubevirt.conditions.iter().filter(is_bad) {
            condition_said(condition, Speaker::Controller, "kubevirt", &Spot::default(), &Attributes::new(), out);
        }
    }
    for event in parts.cluster.events_of_control() {
        out.said(told(event, Spot::default(), Attributes::new()));
    }
}
