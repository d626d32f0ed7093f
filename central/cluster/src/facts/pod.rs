//! What a VM's launcher pods show: containers that do not come up, rejection, eviction.
//!
//! Only the launcher that runs the VM (or is to) and the target of the migration in question are judged: those of earlier runs are
//! history. Source: Kubernetes `pkg/kubelet/{images,kuberuntime,eviction,lifecycle}`.

use kulprit_model::{
    FindingCode,
    attribute::{CONTAINER, EXIT_CODE, IMAGE, REASON, WHAT},
};

use super::image;
use crate::{
    fact::{Fact, Out, Spot},
    objects::{Container, ContainerState, Pod},
    parts::{Part, Parts, VmPod},
};

/// Waiting that every start goes through.
const STARTING_REASONS: &[&str] = &["ContainerCreating", "PodInitializing"];
/// A container that runs unready, or an init container that runs, for longer is worth saying.
const SLOW_CONTAINER_USEC: i64 = 60 * 1_000_000;

pub(crate) fn facts(parts: &Parts<'_>, out: &mut Out<'_>) {
    for of in parts.pods.iter().filter(|of| matches!(of.part, Part::Launcher | Part::Target)) {
        let spot = Spot::new(of.side, of.pod.node.as_deref());
        containers(parts, of, &spot, out);
        rejection(of.pod, &spot, out);
        image::of_pod(parts, of.pod, &spot, out);
        if of.part == Part::Launcher {
            terminating(of.pod, &spot, out);
        }
    }
    for of in parts.pods.iter().filter(|of| matches!(of.part, Part::Attachment | Part::Former)) {
        let spot = Spot::new(of.side, of.pod.node.as_deref());
        if of.part == Part::Attachment {
            containers(parts, of, &spot, out);
            image::of_pod(parts, of.pod, &spot, out);
        } else if of.pod.meta.deleted_usec.is_some() && !of.pod.is_over() {
            terminating(of.pod, &spot, out);
        }
    }
    told_by_events(parts, out);
    image::by_conditions(parts, out);
}

fn containers(parts: &Parts<'_>, of: &VmPod<'_>, spot: &Spot, out: &mut Out<'_>) {
    let pod = of.pod;
    let mut n_oom = 0;
    for container in &pod.containers {
        for state in [&container.state, &container.last_state] {
            if let ContainerState::Terminated { reason: Some(reason), at_usec, exit_code, .. } = state
                && reason == "OOMKilled"
            {
                n_oom += 1;
                let text = format!("container {} of {}: OOMKilled", container.name, pod.full_name());
                out.push(
                    Fact::present(FindingCode::LauncherOomKilled, "pod", text)
                        .since(*at_usec)
                        .with(CONTAINER, &container.name)
                        .with_some(EXIT_CODE, *exit_code)
                        .at(spot),
                );
            }
        }
    }
    let is_told = pod.containers.iter().any(|container| !matches!(container.state, ContainerState::NotTold));
    if n_oom == 0 && is_told {
        let text = format!("no container of {} was OOMKilled", pod.full_name());
        out.push(Fact::absent(FindingCode::LauncherOomKilled, "pod", text).at(spot));
    }
    // An end is no failure where it was wanted, or where the VM did what it was to: stop, migrate away.
    let is_ending = pod.meta.deleted_usec.is_some()
        || pod.is_phase("Succeeded")
        || parts.vmi.is_some_and(|vmi| vmi.meta.deleted_usec.is_some() || vmi.is_phase("Succeeded"))
        || of.part == Part::Target && parts.migration.as_ref().is_some_and(|migration| migration.outcome().is_some());
    if pod.has_ready_containers() == Some(true) {
        let text = format!("the containers of {} are ready", pod.full_name());
        out.push(Fact::absent(FindingCode::LauncherContainerNotReady, "pod", text).at(spot));
        return;
    }
    if is_ending {
        return;
    }
    for container in &pod.containers {
        if let Some((reason, since, exit_code)) = trouble(parts, container) {
            let text = format!("container {} of {}: {reason}", container.name, pod.full_name());
            out.push(
                Fact::present(FindingCode::LauncherContainerNotReady, "pod", text)
                    .since(since.or(pod.meta.created_usec))
                    .with(CONTAINER, &container.name)
                    .with(REASON, reason)
                    .with_some(EXIT_CODE, exit_code)
                    .with_some(IMAGE, container.image.as_ref())
                    .at(spot),
            );
        }
    }
}

/// What is wrong with a container apart from its image: reason, since when, exit code.
fn trouble(parts: &Parts<'_>, container: &Container) -> Option<(String, Option<i64>, Option<i64>)> {
    let is_slow =
        |since: Option<i64>| since.is_none_or(|since| parts.looked_usec.saturating_sub(since) >= SLOW_CONTAINER_USEC);
    match &container.state {
        ContainerState::NotTold => None,
        ContainerState::Waiting { reason, .. } => {
            let reason = reason.as_deref()?;
            if image::REASONS.contains(&reason) || STARTING_REASONS.contains(&reason) {
                return None;
            }
            let (exit_code, since) = match &container.last_state {
                ContainerState::Terminated { exit_code, at_usec, .. } => (*exit_code, *at_usec),
                ContainerState::NotTold | ContainerState::Waiting { .. } | ContainerState::Running { .. } => {
                    (None, None)
                }
            };
            Some((reason.to_owned(), since, exit_code))
        }
        ContainerState::Running { since_usec } => {
            let is_stuck_init = container.is_init && !container.is_sidecar && is_slow(*since_usec);
            let is_unready = container.ready == Some(false) && is_slow(*since_usec);
            match (is_stuck_init, is_unready) {
                (true, _) => Some(("Initializing".to_owned(), *since_usec, None)),
                (false, true) => Some(("NotReady".to_owned(), *since_usec, None)),
                (false, false) => None,
            }
        }
        ContainerState::Terminated { reason, exit_code, at_usec, .. } => {
            let is_bad = exit_code.is_none_or(|code| code != 0) || reason.as_deref() == Some("Error");
            is_bad.then(|| (reason.clone().unwrap_or_else(|| "Error".to_owned()), *at_usec, *exit_code))
        }
    }
}

fn rejection(pod: &Pod, spot: &Spot, out: &mut Out<'_>) {
    if !pod.is_phase("Failed") {
        if pod.phase.is_some() {
            let text = format!("{} is {}", pod.full_name(), pod.phase.as_deref().unwrap_or_default());
            out.push(Fact::absent(FindingCode::LauncherEvicted, "pod", text.clone()).at(spot));
            if pod.is_phase("Running") {
                out.push(Fact::absent(FindingCode::LauncherRejected, "pod", text).at(spot));
            }
        }
        return;
    }
    let message = pod.message.as_deref().unwrap_or_default();
    let since = pod.ended_usec().or(pod.started_usec).or(pod.meta.created_usec);
    let text = format!("{}: {}: {message}", pod.full_name(), pod.reason.as_deref().unwrap_or("Failed"));
    match pod.reason.as_deref() {
        Some("Evicted") => {
            out.push(
                Fact::present(FindingCode::LauncherEvicted, "pod", text)
                    .since(since)
                    .with(WHAT, evicted_for(message))
                    .at(spot),
            );
        }
        Some(reason) if is_rejection(reason) || message.starts_with("Pod was rejected") => {
            out.push(
                Fact::present(FindingCode::LauncherRejected, "pod", text).since(since).with(REASON, reason).at(spot),
            );
        }
        _ => {}
    }
}

/// Reasons with which a kubelet refuses to admit a pod. Source: Kubernetes `pkg/kubelet/lifecycle/predicate.go`, `cm`.
fn is_rejection(reason: &str) -> bool {
    reason.starts_with("OutOf")
        || matches!(
            reason,
            "UnexpectedAdmissionError"
                | "NodeAffinity"
                | "NodePorts"
                | "HostPort"
                | "TopologyAffinityError"
                | "SMTAlignmentError"
                | "PodOSSelectorNodeLabelDoesNotMatch"
                | "PodOSNotSupported"
                | "InvalidNodeInfo"
                | "UnexpectedPredicateFailureType"
                | "AppArmor"
                | "SysctlForbidden"
                | "NodeShutdown"
                | "PodFeatureUnsupported"
                | "InitContainerRestartPolicyForbidden"
                | "AdmissionFailed"
        )
}

/// Source: Kubernetes `pkg/kubelet/eviction/helpers.go`.
fn evicted_for(message: &str) -> &'static str {
    let message = message.to_ascii_lowercase();
    let has = |part: &str| message.contains(part);
    if has("ephemeral")
        || has("disk")
        || has("inode")
        || has("nodefs")
        || has("imagefs")
        || has("local storage")
        || has("emptydir")
    {
        "disk"
    } else if has("memory") {
        "memory"
    } else if has("pid") {
        "pids"
    } else {
        "other"
    }
}

fn terminating(pod: &Pod, spot: &Spot, out: &mut Out<'_>) {
    if pod.is_over() {
        return;
    }
    match pod.meta.deleted_usec {
        Some(deleted) => {
            let text = format!("{} is being deleted", pod.full_name());
            out.push(Fact::present(FindingCode::LauncherTerminating, "pod", text).since(Some(deleted)).at(spot));
        }
        None => {
            let text = format!("{} is not being deleted", pod.full_name());
            out.push(Fact::absent(FindingCode::LauncherTerminating, "pod", text).at(spot));
        }
    }
}

/// What events tell of launcher pods that no object shows.
fn told_by_events(parts: &Parts<'_>, out: &mut Out<'_>) {
    let cluster = parts.cluster;
    let told: Vec<&str> = cluster.told_pods(&parts.key).collect();
    for name in told {
        let spot = Spot { side: Some(parts.side_of_told(name)), node: parts.node_told_of(name) };
        let events: Vec<_> = cluster.events("Pod", parts.namespace(), name).collect();
        for event in &events {
            let Some(reason) = event.reason.as_deref() else { continue };
            let fact = match reason {
                "Evicted" => Fact::present(FindingCode::LauncherEvicted, "event", event.line())
                    .with(WHAT, evicted_for(&event.message)),
                _ if is_rejection(reason) => {
                    Fact::present(FindingCode::LauncherRejected, "event", event.line()).with(REASON, reason)
                }
                _ => continue,
            };
            out.push(fact.since(event.first_usec).at(&spot));
        }
        image::told(parts, name, &events, &spot, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_says_what_was_short() {
        for (message, want) in [
            ("The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi.", "memory"),
            ("The node was low on resource: ephemeral-storage.", "disk"),
            ("The node had condition: [DiskPressure].", "disk"),
            ("The node was low on resource: pids.", "pids"),
            ("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.", "disk"),
            ("", "other"),
        ] {
            assert_eq!(evicted_for(message), want, "{message}");
        }
    }
}
