//! Images that a VM's pods wait for, and who else has them.
//!
//! Source: Kubernetes `pkg/kubelet/images`, the reference grammar of `distribution/reference`.

use kulprit_model::{
    FindingCode,
    attribute::{CONTAINER, IMAGE, OTHER_NODE, REASON},
};

use crate::{
    fact::{Fact, Out, Spot},
    objects::{Event, Pod},
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

/// When the first pull for a pod that is not over began.
fn pull_began(parts: &Parts<'_>, pod: &str) -> Option<i64> {
    let events = parts.cluster.index().events(parts.cluster, "Pod", parts.namespace(), pod);
    let is_pull = |reason: &str| matches!(reason, "Pulling" | "Failed" | "ErrImageNeverPull" | "InspectFailed");
    events.filter(|event| event.reason.as_deref().is_some_and(is_pull)).filter_map(|event| event.first_usec).min()
}

/// An image whose pull began and neither ended nor failed since, for a while.
fn slow_pull(parts: &Parts<'_>, pod: &str) -> Option<(String, i64)> {
    let events: Vec<_> = parts.cluster.index().events(parts.cluster, "Pod", parts.namespace(), pod).collect();
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
    (!is_over && parts.looked_usec.saturating_sub(since) >= SLOW_PULL_USEC).then(|| (image.to_owned(), since))
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1).filter(|inner| !inner.is_empty())
}

/// Another node that has an image: by its own list, by a container that runs from it, by an event.
fn elsewhere(parts: &Parts<'_>, image: &str, spot: &Spot, out: &mut Out<'_>) {
    if image.is_empty() {
        return;
    }
    let cluster = parts.cluster;
    let is_other = |node: &str| spot.node.as_deref() != Some(node);
    let of_nodes = || {
        let mut nodes = cluster.nodes.values().filter(|node| is_other(&node.meta.name));
        nodes.find(|node| node.images.iter().any(|name| is_same_image(name, image))).map(|node| node.meta.name.clone())
    };
    let of_pods = || {
        let mut pods = cluster.pods.values().filter(|pod| {
            pod.containers.iter().any(|container| {
                let is_it = container.image.as_deref().is_some_and(|own| is_same_image(own, image));
                is_it && container.image_id.is_some() && container.state.waiting_reason().is_none()
            })
        });
        pods.find_map(|pod| pod.node.clone().filter(|node| is_other(node)))
    };
    let of_events = || {
        let pulled = cluster.events.iter().filter(|event| event.is_reason("Pulled"));
        let mut of_image = pulled.filter(|event| quoted(&event.message).is_some_and(|own| is_same_image(own, image)));
        of_image.find_map(|event| event.host.clone().filter(|node| is_other(node)))
    };
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

/// Whether two references name one image: registries and the tag that go without saying are added.
fn is_same_image(a: &str, b: &str) -> bool {
    fn whole(image: &str) -> String {
        let image = image.split_once("://").map_or(image, |(_, rest)| rest);
        let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
        let first = name.split('/').next().unwrap_or_default();
        let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let mut whole = match (has_registry, name.contains('/')) {
            (true, _) => name.to_owned(),
            (false, true) => format!("docker.io/{name}"),
            (false, false) => format!("docker.io/library/{name}"),
        };
        let has_tag = whole.rsplit('/').next().is_some_and(|last| last.contains(':'));
        match digest {
            // The digest decides; a tag beside it says nothing.
            Some(digest) => {
                if has_tag && let Some(colon) = whole.rfind(':') {
                    whole.truncate(colon);
                }
                format!("{whole}@{digest}")
            }
            None if has_tag => whole,
            None => format!("{whole}:latest"),
        }
    }
    whole(a) == whole(b)
}

/// Where no pod is known: what KubeVirt copied from it into the VMI.
pub(super) fn by_conditions(parts: &Parts<'_>, out: &mut Out<'_>) {
    let has_containers = parts.launcher().is_some_and(|of| !of.pod.containers.is_empty());
    if !has_containers && parts.vmi.is_none_or(|vmi| vmi.conditions.is_empty()) {
        let reason = ["ErrImagePull", "ImagePullBackOff"].into_iter().find(|reason| parts.is_shown(reason));
        if let Some(reason) = reason.filter(|_| parts.cluster.index().told_pods(&parts.key).next().is_none()) {
            let text = format!("the VM is shown {reason}");
            out.push(Fact::present(FindingCode::PodImageWaiting, "vm", text).with(REASON, reason));
        }
    }
    let Some(vmi) = parts.vmi.filter(|_| !has_containers) else { return };
    let Some(condition) = vmi.conditions.get("Synchronized").filter(|condition| condition.is_false()) else { return };
    if let Some(reason) = condition.reason.as_deref().filter(|reason| REASONS.contains(reason)) {
        let spot = Spot { side: None, node: parts.hosting.clone() };
        let image = condition.message.as_deref().and_then(quoted);
        out.push(
            Fact::present(FindingCode::PodImageWaiting, "vmi", condition.line())
                .since(condition.since_usec)
                .with(REASON, reason)
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
    let last = |reasons: &[&str]| {
        let of = events.iter().filter(|event| event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason)));
        of.max_by_key(|event| event.last_usec)
    };
    let failing = events
        .iter()
        .filter(|event| {
            event.message.contains("ImagePull")
                || event.message.starts_with("Failed to pull image")
                || event.is_reason("ErrImageNeverPull")
        })
        .max_by_key(|event| event.last_usec);
    let good = last(&["Pulled", "Started"]);
    if let Some(event) = failing
        && good.is_none_or(|good| good.last_usec < event.last_usec)
    {
        let image = events.iter().find_map(|event| quoted(&event.message).filter(|_| event.message.contains("image")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_one_image_are_the_same() {
        for (a, b, want) in [
            ("nginx", "docker.io/library/nginx:latest", true),
            ("quay.io/lab/a:1", "quay.io/lab/a:1", true),
            ("quay.io/lab/a:1", "quay.io/lab/a:2", false),
            ("quay.io/lab/a:1@sha256:ab", "quay.io/lab/a@sha256:ab", true),
            ("reg:5000/a", "reg:5000/a:latest", true),
            ("containerd://x", "x", true),
        ] {
            assert_eq!(is_same_image(a, b), want, "{a} {b}");
        }
    }
}
