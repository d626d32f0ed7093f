//! Images that a VM's pods wait for, and who else has them.
//!
//! Source: Kubernetes `pkg/kubelet/images`, the reference grammar of `distribution/reference`.

use kulprit_model::{
    FindingCode,
    attribute::{CONTAINER, IMAGE, OTHER_NODE, REASON},
};

use crate::{
    cluster::Cluster,
    fact::{Fact, Out, Spot},
    objects::{Condition, Conditions, Container, Event, Pod, whole_image},
    parts::Parts,
};

/// Reasons of a container that waits for its image.
pub(super) const REASONS: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];
/// An image that is being pulled for longer is worth saying.
const SLOW_PULL_USEC: i64 = 60 * 1_000_000;

/// Images of a pod: those it waits for, or that all are there.
pub(super) fn of_pod(parts: &Parts<'_>, pod: &Pod, spot: &Spot, out: &mut Out<'_>) {
    let mut n_waiting = 0;
    for container in &pod.containers {
        let Some(reason) = container.state.waiting_reason().filter(|reason| REASONS.contains(reason)) else {
            continue;
        };
        n_waiting += 1;
        let image = container.image.as_deref().unwrap_or_default();
        let text = format!("container {} of {}: {reason} {image}", container.name, pod.full_name());
        out.push(
            Fact::present(FindingCode::PodImageWaiting, "pod", text)
                .since(pull_began(parts, &pod.meta.name).or(pod.started_usec).or(pod.meta.created_usec))
                .with(REASON, reason)
                .with(CONTAINER, &container.name)
                .with_some(IMAGE, container.image.as_ref())
                .at(spot),
        );
        elsewhere(parts, image, spot, out);
    }
    if n_waiting > 0 {
        return;
    }
    if let Some((image, since)) = slow_pull(parts, &pod.meta.name) {
        let text = format!("{} is still pulling {image}", pod.full_name());
        out.push(
            Fact::present(FindingCode::PodImageWaiting, "event", text)
                .since(Some(since))
                .with(REASON, "Pulling")
                .with(IMAGE, &image)
                .at(spot),
        );
        elsewhere(parts, &image, spot, out);
        return;
    }
    let has_all = pod.containers.iter().all(|container| container.image_id.is_some());
    if has_all && !pod.containers.is_empty() {
        let text = format!("all images of {} are there", pod.full_name());
        out.push(Fact::absent(FindingCode::PodImageWaiting, "pod", text).at(spot));
    }
}

/// Images that a pod waits for.
pub(crate) fn waits_for(pod: &Pod) -> impl Iterator<Item = &str> {
    let is_waiting = |container: &&Container| container.state.waiting_reason().is_some_and(|is| REASONS.contains(&is));
    pod.containers.iter().filter(is_waiting).filter_map(|container| container.image.as_deref())
}

/// Images that a pod runs from.
pub(crate) fn has(pod: &Pod) -> impl Iterator<Item = &str> {
    let is_there = |container: &&Container| container.image_id.is_some() && container.state.waiting_reason().is_none();
    pod.containers.iter().filter(is_there).filter_map(|container| container.image.as_deref())
}

/// The condition of a VMI that says that its pod waits for an image.
pub(crate) fn waited_for(conditions: &Conditions) -> Option<&Condition> {
    let condition = conditions.get("Synchronized").filter(|condition| condition.is_false())?;
    condition.reason.as_deref().is_some_and(|reason| REASONS.contains(&reason)).then_some(condition)
}

/// When the first pull for a pod that is not over began.
fn pull_began(parts: &Parts<'_>, pod: &str) -> Option<i64> {
    let events = parts.cluster.events("Pod", parts.namespace(), pod);
    let is_pull = |reason: &str| matches!(reason, "Pulling" | "Failed" | "ErrImageNeverPull" | "InspectFailed");
    events.filter(|event| event.reason.as_deref().is_some_and(is_pull)).filter_map(|event| event.first_usec).min()
}

/// An image whose pull began and neither ended nor failed since, for a while.
fn slow_pull(parts: &Parts<'_>, pod: &str) -> Option<(String, i64)> {
    let (image, since) = pull_under_way(parts.cluster, parts.namespace(), pod)?;
    (parts.looked_usec.saturating_sub(since) >= SLOW_PULL_USEC).then(|| (image.to_owned(), since))
}

/// The image that a pod's newest pull is to bring and the pull's begin, if it neither ended nor failed since.
pub(crate) fn pull_under_way<'c>(cluster: &'c Cluster, namespace: &str, pod: &str) -> Option<(&'c str, i64)> {
    let events: Vec<&Event> = cluster.events("Pod", namespace, pod).collect();
    let pulling = events.iter().filter(|event| event.is_reason("Pulling")).max_by_key(|event| event.last_usec)?;
    let since = pulling.last_usec?;
    let image = quoted(&pulling.message)?;
    // Other containers of the pod may have started in the second in which the pull began.
    let is_over = events.iter().any(|event| match event.reason.as_deref() {
        Some("Pulled" | "Failed" | "BackOff") => {
            event.last_usec >= Some(since) && quoted(&event.message).is_none_or(|own| own == image)
        }
        Some("Created" | "Started") => event.last_usec > Some(since),
        _ => false,
    });
    (!is_over).then_some((image, since))
}

/// Whether an event says that a pull failed.
pub(crate) fn is_failed_pull(event: &Event) -> bool {
    event.message.contains("ImagePull")
        || event.message.starts_with("Failed to pull image")
        || event.is_reason("ErrImageNeverPull")
}

/// The first image that a pod's events name.
pub(crate) fn image_told<'c>(events: &[&'c Event]) -> Option<&'c str> {
    events.iter().find_map(|event| quoted(&event.message).filter(|_| event.message.contains("image")))
}

/// The newest of a pod's events that says that a pull failed, if none that succeeded came after it.
pub(crate) fn failed_pull<'c>(events: &[&'c Event]) -> Option<&'c Event> {
    let failing = events.iter().copied().filter(|event| is_failed_pull(event)).max_by_key(|event| event.last_usec)?;
    let is_good = |event: &&Event| event.is_reason("Pulled") || event.is_reason("Started");
    let good = events.iter().copied().filter(is_good).max_by_key(|event| event.last_usec);
    good.is_none_or(|good| good.last_usec < failing.last_usec).then_some(failing)
}

/// What stands in a text's first quotes.
pub(crate) fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1).filter(|inner| !inner.is_empty())
}

/// Another node that has an image: by its own list, by a container that runs from it, by an event.
fn elsewhere(parts: &Parts<'_>, image: &str, spot: &Spot, out: &mut Out<'_>) {
    if image.is_empty() {
        return;
    }
    let cluster = parts.cluster;
    let is_other = |node: &&str| spot.node.as_deref() != Some(*node);
    let whole = || whole_image(image);
    let of_nodes = || cluster.nodes_with(whole()).find(is_other);
    let of_pods = || cluster.pods_with(whole()).filter_map(|pod| pod.node.as_deref()).find(is_other);
    let of_events = || cluster.events_with(whole()).filter_map(|event| event.host.as_deref()).find(is_other);
    if let Some(node) = of_nodes().or_else(of_pods).or_else(of_events) {
        let text = format!("{node} has {image}");
        out.push(
            Fact::present(FindingCode::ImagePresentElsewhere, "node", text)
                .with(OTHER_NODE, node)
                .with(IMAGE, image)
                .at(spot),
        );
    }
}

/// Where no pod is known: what KubeVirt copied from it into the VMI.
pub(super) fn by_conditions(parts: &Parts<'_>, out: &mut Out<'_>) {
    let has_containers = parts.launcher().is_some_and(|of| !of.pod.containers.is_empty());
    if !has_containers && parts.vmi.is_none_or(|vmi| vmi.conditions.is_empty()) {
        let reason = ["ErrImagePull", "ImagePullBackOff"].into_iter().find(|reason| parts.is_shown(reason));
        if let Some(reason) = reason.filter(|_| parts.cluster.told_pods(&parts.key).next().is_none()) {
            let text = format!("the VM is shown {reason}");
            out.push(Fact::present(FindingCode::PodImageWaiting, "vm", text).with(REASON, reason));
        }
    }
    let Some(vmi) = parts.vmi.filter(|_| !has_containers) else { return };
    if let Some(condition) = waited_for(&vmi.conditions) {
        let spot = Spot { side: None, node: parts.hosting.clone() };
        let image = condition.message.as_deref().and_then(quoted);
        out.push(
            Fact::present(FindingCode::PodImageWaiting, "vmi", condition.line())
                .since(condition.since_usec)
                .with_some(REASON, condition.reason.as_ref())
                .with_some(IMAGE, image)
                .at(&spot),
        );
        if let Some(image) = image {
            elsewhere(parts, image, &spot, out);
        }
    }
}

/// What events tell of a launcher pod's images where no object shows the pod.
pub(super) fn told(parts: &Parts<'_>, name: &str, events: &[&Event], spot: &Spot, out: &mut Out<'_>) {
    if let Some(event) = failed_pull(events) {
        let image = image_told(events);
        out.push(
            Fact::present(FindingCode::PodImageWaiting, "event", event.line())
                .since(event.first_usec)
                .with(REASON, "ErrImagePull")
                .with_some(IMAGE, image)
                .at(spot),
        );
        if let Some(image) = image {
            elsewhere(parts, image, spot, out);
        }
    } else if let Some((image, since)) = slow_pull(parts, name) {
        let text = format!("{name} is still pulling {image}");
        out.push(
            Fact::present(FindingCode::PodImageWaiting, "event", text)
                .since(Some(since))
                .with(REASON, "Pulling")
                .with(IMAGE, &image)
                .at(spot),
        );
    }
}
