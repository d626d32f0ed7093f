//! What the VM's and VMI's own objects show: paused, failed, not migratable, being stopped, to leave its node, its launcher gone.

use kulprit_model::{
    FindingCode,
    attribute::{LIMIT, MEASURED, OTHER_NODE, REASON, WHAT},
};

use crate::{
    fact::{Fact, Out, Spot, Told},
    index::CONTROL_PLANE,
    kind::Kind,
    life,
    objects::Pod,
    parts::{Part, Parts},
    question::InQuestion,
    value,
};

/// KubeVirt's default of `terminationGracePeriodSeconds`.
const GRACE_SECS: i64 = 30;
/// Objects of a VM that goes are all gone after this.
const SETTLED_USEC: i64 = 60 * 1_000_000;
/// QEMU's own need beside the guest's memory, at the very least.
const QEMU_BYTES: i64 = 100 << 20;

pub(crate) fn facts(parts: &Parts<'_>, out: &mut Out<'_>) {
    conditions(parts, out);
    guest(parts, out);
    grace(parts, out);
    launcher_gone(parts, out);
    memory_limit(parts, out);
    eviction(parts, out);
    control_plane(parts, out);
}

fn conditions(parts: &Parts<'_>, out: &mut Out<'_>) {
    let Some(vmi) = parts.vmi else { return };
    if let Some(condition) = vmi.conditions.get("LiveMigratable") {
        let fact = Fact::when(condition.is_false(), FindingCode::VmiNotMigratable, "vmi", condition.line());
        out.push(fact.since(condition.since_usec).with_some(REASON, condition.reason.as_ref()));
    }
    match vmi.conditions.get("Paused").filter(|paused| paused.is_true()) {
        Some(paused) => out.push(
            Fact::present(FindingCode::VmiPausedBy, "vmi", paused.line())
                .since(paused.since_usec)
                .with_some(REASON, paused.reason.as_ref()),
        ),
        None if !vmi.conditions.is_empty() => {
            out.push(Fact::absent(FindingCode::VmiPausedBy, "vmi", "the VMI is not paused"));
        }
        None => {}
    }
    if let Some(phase) = &vmi.phase {
        let text = format!("the VMI's phase is {phase}");
        let fact = Fact::when(vmi.is_phase("Failed"), FindingCode::VmiFailed, "vmi", text);
        out.push(fact.since(vmi.phase_since_usec()).with_some(REASON, vmi.reason.as_ref()));
    }
}

fn guest(parts: &Parts<'_>, out: &mut Out<'_>) {
    let cluster = parts.cluster;
    let spot = Spot { side: None, node: parts.hosting.clone() };
    for event in cluster.events("VirtualMachineInstance", parts.namespace(), parts.name()) {
        let message = event.message.to_ascii_lowercase();
        if event.is_reason("GuestPanicked") || message.contains("guest panicked") || message.contains("guest os panic")
        {
            let told = Told {
                speaker: event.speaker(),
                reason: None,
                text: &event.line(),
                source: "event",
                first_usec: event.first_usec,
                last_usec: event.last_usec,
                count: event.count,
                spot: spot.clone(),
                attributes: kulprit_model::Attributes::new(),
                otherwise: None,
            };
            out.happened(FindingCode::GuestPanicked, None, told);
        }
    }
    let Some(vmi) = parts.vmi.filter(|vmi| vmi.is_phase("Running")) else { return };
    match vmi.conditions.get("AgentConnected") {
        Some(condition) if condition.is_true() => {
            out.push(Fact::absent(FindingCode::GuestAgentLost, "vmi", condition.line()).since(condition.since_usec));
        }
        Some(condition) => {
            out.push(Fact::present(FindingCode::GuestAgentLost, "vmi", condition.line()).since(condition.since_usec));
        }
        // The condition goes with the agent; what the agent told of the guest stays.
        None if vmi.has_guest_os => {
            let text = "the guest agent told of the guest's system and is not connected";
            out.push(Fact::present(FindingCode::GuestAgentLost, "vmi", text));
        }
        None => {}
    }
}

fn grace(parts: &Parts<'_>, out: &mut Out<'_>) {
    let of_vmi = parts.vmi.and_then(|vmi| Some((vmi.meta.deleted_usec?, vmi.grace_secs)));
    let of_pod = || {
        let pod = parts.launcher().filter(|_| parts.vmi.is_none())?.pod;
        Some((pod.meta.deleted_usec.filter(|_| !pod.is_over())?, pod.meta.deletion_grace_secs))
    };
    let Some((asked, grace)) = of_vmi.or_else(of_pod) else { return };
    if parts.vmi.is_some_and(|vmi| vmi.is_phase("Failed") || vmi.is_phase("Succeeded")) {
        return;
    }
    let secs = grace.or_else(|| parts.vm.and_then(|vm| vm.grace_secs)).unwrap_or(GRACE_SECS).max(0);
    let ends = asked.saturating_add(secs.saturating_mul(1_000_000));
    let text = format!("asked to stop, grace period of {secs} s");
    let fact = Fact::when(parts.at_usec < ends, FindingCode::StopGraceRunning, "vmi", text).since(Some(asked));
    let measured = parts.at_usec.saturating_sub(asked).max(0) / 1_000_000;
    let mut events = parts.cluster.events("VirtualMachineInstance", parts.namespace(), parts.name());
    // virt-handler says so once libvirt has taken the request: KubeVirt pkg/virt-handler/vm.go, event ShuttingDown.
    let signaled = events.find(|event| {
        event.is_reason("ShuttingDown")
            && event.message.contains("Graceful")
            && event.last_usec.or(event.first_usec).is_none_or(|last| last >= asked)
    });
    let reason = signaled.and_then(|event| event.reason.clone());
    out.push(fact.with(MEASURED, measured).with(LIMIT, secs).with_some(REASON, reason));
}

fn launcher_gone(parts: &Parts<'_>, out: &mut Out<'_>) {
    let Some(vmi) = parts.vmi.filter(|vmi| vmi.is_phase("Running")) else { return };
    let living = |pod: &&Pod| !pod.is_over();
    let pods: Vec<&Pod> =
        parts.pods.iter().map(|of| of.pod).filter(|pod| pod.meta.name.starts_with("virt-launcher-")).collect();
    let not_exists = vmi.conditions.get("Ready").filter(|ready| ready.reason.as_deref() == Some("PodNotExists"));
    let spot = Spot { side: None, node: parts.hosting.clone() };
    if pods.iter().copied().any(|pod| living(&pod)) {
        out.push(Fact::absent(FindingCode::LauncherGone, "pod", "the VMI has a launcher pod").at(&spot));
    } else if let Some(condition) = not_exists {
        out.push(
            Fact::present(FindingCode::LauncherGone, "vmi", condition.line()).since(condition.since_usec).at(&spot),
        );
    } else if vmi.meta.deleted_usec.is_some() && !is_long_over(parts, &pods) {
        // The objects go one after the other.
    } else if parts.cluster.is_listed(Kind::Pod, parts.namespace())
        && parts.cluster.told_pods(&parts.key).next().is_none()
        && !is_targets_alone(parts)
    {
        let ended = pods.iter().filter_map(|pod| pod.ended_usec()).max();
        let text = "the VMI is Running and none of its launcher pods is".to_owned();
        out.push(Fact::present(FindingCode::LauncherGone, "pod", text).since(ended).at(&spot));
    }
}

/// Whether of its pods only migrations' targets are known: somebody collected those, and says nothing of where it runs.
fn is_targets_alone(parts: &Parts<'_>) -> bool {
    let mut launchers = parts.pods.iter().filter(|of| of.pod.meta.name.starts_with("virt-launcher-")).peekable();
    launchers.peek().is_some() && launchers.all(|of| of.part == Part::Target)
}

/// Whether the last of the pods ended a minute ago, or none is there to tell.
fn is_long_over(parts: &Parts<'_>, pods: &[&Pod]) -> bool {
    let ended = pods.iter().filter_map(|pod| pod.ended_usec()).max();
    ended.is_none_or(|ended| parts.looked_usec.saturating_sub(ended) >= SETTLED_USEC)
}

fn memory_limit(parts: &Parts<'_>, out: &mut Out<'_>) {
    let Some(guest) = parts.vmi.and_then(|vmi| vmi.guest_bytes) else { return };
    let Some(of) = parts.launcher() else { return };
    let Some(compute) = of.pod.compute().filter(|compute| compute.has_spec) else { return };
    let limit = compute.limits.get("memory").map(|limit| value::quantity(limit));
    let spot = Spot::new(of.side, of.pod.node.as_deref());
    match limit {
        Some(Some(limit)) => {
            let text = format!("memory limit of {limit} bytes, guest memory of {guest} bytes");
            let is_near = limit < guest.saturating_add(QEMU_BYTES);
            let fact = Fact::when(is_near, FindingCode::LimitNearGuestMemory, "pod", text);
            out.push(fact.with(MEASURED, guest).with(LIMIT, limit).at(&spot));
        }
        Some(None) => {}
        None => {
            let text = "the compute container has no memory limit";
            out.push(Fact::absent(FindingCode::LimitNearGuestMemory, "pod", text).at(&spot));
        }
    }
}

fn eviction(parts: &Parts<'_>, out: &mut Out<'_>) {
    let Some(vmi) = parts.vmi else { return };
    match life::evacuation(parts) {
        Some((node, since)) if parts.hosting.as_deref().is_none_or(|hosting| node.is_empty() || hosting == node) => {
            let text = format!("it is to leave {node} (evacuationNodeName)");
            let fact = Fact::present(FindingCode::EvictionPending, "vmi", text).since(since);
            out.push(fact.with_some(OTHER_NODE, (!node.is_empty()).then_some(node)));
        }
        Some(_) => {}
        None if vmi.phase.is_some() => {
            out.push(Fact::absent(FindingCode::EvictionPending, "vmi", "nobody asked it to leave its node"));
        }
        None => {}
    }
}

/// Parts of the control plane by their pods: one that is ready is enough.
fn control_plane(parts: &Parts<'_>, out: &mut Out<'_>) {
    if !parts.cluster.knows_all_pods() {
        return;
    }
    let mut n_ready = 0;
    let mut lacking: Vec<(&str, &Pod)> = Vec::new();
    for what in CONTROL_PLANE {
        let pods: Vec<&Pod> = parts.cluster.control_pods(what).collect();
        let is_ready = |pod: &&&Pod| pod.is_ready() == Some(true) && pod.meta.deleted_usec.is_none();
        let Some(last) =
            pods.iter().filter(|pod| pod.is_ready() == Some(false)).max_by_key(|pod| pod.conditions.newest_usec())
        else {
            n_ready += usize::from(!pods.is_empty());
            continue;
        };
        if pods.iter().any(|pod| is_ready(&pod)) {
            n_ready += 1;
        } else {
            lacking.push((what, last));
        }
    }
    for (what, pod) in &lacking {
        let condition = pod.conditions.get("Ready");
        let text = format!("no {what} is ready: {} is {}", pod.full_name(), pod.kubectl_status().unwrap_or_default());
        out.push(
            Fact::present(FindingCode::ControlPlaneNotReady, "pod", text)
                .since(condition.and_then(|condition| condition.since_usec))
                .with(WHAT, what),
        );
    }
    if lacking.is_empty() && n_ready > 0 {
        let text = "the control plane's pods that are known are ready";
        out.push(Fact::absent(FindingCode::ControlPlaneNotReady, "pod", text));
    }
}

/// The side and node of the VM's own objects' texts: nobody tells.
pub(crate) fn spot_of_host(parts: &Parts<'_>, host: Option<&str>) -> Spot {
    use kulprit_model::Side;
    let Some(host) = host else { return Spot::default() };
    let has_two_ends = parts.migration.as_ref().is_some_and(|migration| InQuestion::outcome(migration) != Some(true));
    let is = |node: &Option<String>| node.as_deref() == Some(host);
    let side = match (is(&parts.source), is(&parts.target)) {
        (true, false) if has_two_ends => Some(Side::Source),
        (false, true) if has_two_ends => Some(Side::Target),
        _ if is(&parts.hosting) => Some(Side::Hosting),
        _ => None,
    };
    Spot { side, node: Some(host.to_owned()) }
}
