//! What the objects show of the VM's place: no node fits, the node is unknown, source and target do not fit each other.
//!
//! Source: Kubernetes `pkg/scheduler` (texts of its plugins), KubeVirt `pkg/virt-handler/node-labeller`.

use std::collections::BTreeSet;

use kulprit_model::{
    FindingCode, Side,
    attribute::{OBJECT, OTHER_NODE, REASON, VERSION},
};

use crate::{
    fact::{Fact, Out, Spot},
    kind::Kind,
    objects::{Node, Pod},
    parts::{Part, Parts},
};

/// KubeVirt's own resources: what they lack is said of the node.
const KUBEVIRT_DEVICES: &str = "devices.kubevirt.io/";
const KVM: &str = "devices.kubevirt.io/kvm";
/// The reason where the scheduler refuses nodes for how they are.
const NODE_HEALTH: &str = "node-health";
/// Taints that Kubernetes sets by itself. Source: `k8s.io/api/core/v1/well_known_taints.go`.
const HEALTH_TAINTS: [&str; 7] = [
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/network-unavailable",
    "node.kubernetes.io/unschedulable",
];

pub(crate) fn facts(parts: &Parts<'_>, out: &mut Out<'_>) {
    unschedulable(parts, out);
    lacking_nodes(parts, out);
    host_devices(parts, out);
    node_missing(parts, out);
    if let (Some(source), Some(target)) = (&parts.source, &parts.target)
        && source != target
    {
        two_ends(parts, source, target, out);
    }
    cpu_fits_none(parts, out);
    launcher_versions(parts, out);
}

fn unschedulable(parts: &Parts<'_>, out: &mut Out<'_>) {
    for of in parts.pods.iter().filter(|of| matches!(of.part, Part::Launcher | Part::Target | Part::Attachment)) {
        let spot = Spot::new(of.side, None);
        let pod = of.pod;
        let scheduled = pod.conditions.get("PodScheduled");
        match scheduled {
            Some(condition) if condition.is_false() && pod.node.is_none() => {
                let message = condition.message.as_deref().unwrap_or_default();
                push_unschedulable(
                    parts,
                    message,
                    &condition.line(),
                    "pod",
                    condition.since_usec.or(pod.meta.created_usec),
                    &spot,
                    out,
                );
            }
            _ if pod.node.is_some() => {
                let text = format!("{} has a node", pod.full_name());
                out.push(Fact::absent(FindingCode::PodUnschedulable, "pod", text).at(&spot));
            }
            _ => told_unschedulable(parts, &pod.meta.name, &spot, out),
        }
    }
    for name in parts.cluster.told_pods(&parts.key) {
        let spot = Spot::new(parts.side_of_told(name), None);
        told_unschedulable(parts, name, &spot, out);
    }
    let has_pod = parts.launcher().is_some();
    let condition = parts.vmi.and_then(|vmi| vmi.conditions.get("PodScheduled"));
    let of_vm = || parts.vm.filter(|_| parts.vmi.is_none()).and_then(|vm| vm.conditions.get("PodScheduled"));
    if let Some(condition) = condition.or_else(of_vm).filter(|condition| condition.is_false() && !has_pod) {
        let message = condition.message.as_deref().unwrap_or_default();
        // KubeVirt writes the same condition while a claim is missing: no scheduler has seen the pod then.
        if !message.starts_with("PVC ") {
            push_unschedulable(parts, message, &condition.line(), "vmi", condition.since_usec, &Spot::default(), out);
        }
    }
    let is_silent = condition.is_none() && !has_pod && parts.cluster.told_pods(&parts.key).next().is_none();
    if is_silent && parts.is_shown("ErrorUnschedulable") {
        let text = "the VM is shown ErrorUnschedulable";
        out.push(Fact::present(FindingCode::PodUnschedulable, "vm", text).with(REASON, "other"));
    }
    target_unschedulable(parts, out);
}

/// The nodes without KVM are those that the scheduler refuses where it says that KVM is what lacks: what is wrong there is this VM's
/// own trouble, whichever of them would be its host.
fn lacking_nodes(parts: &Parts<'_>, out: &mut Out<'_>) {
    if !out.is_refused_for(KVM) {
        return;
    }
    for node in parts.cluster.nodes.values().filter(|node| node.offers(KVM) == Some(0) && !is_control_plane(node)) {
        for fact in super::node::of_devices(node) {
            out.push(fact.at(&Spot::on(&node.meta.name)).of_node());
        }
    }
}

fn is_control_plane(node: &Node) -> bool {
    let is_role = |key: &str| matches!(key, "node-role.kubernetes.io/control-plane" | "node-role.kubernetes.io/master");
    node.taints.iter().any(|taint| is_role(&taint.key))
}

/// By KubeVirt's own word, where the target pod is not known.
fn target_unschedulable(parts: &Parts<'_>, out: &mut Out<'_>) {
    let Some(migration) = parts.migration.as_ref().filter(|migration| migration.outcome().is_none()) else { return };
    if parts.target_pod().is_some() || migration.name.is_empty() {
        return;
    }
    let kind = "VirtualMachineInstanceMigration";
    let mut events = parts.cluster.events(kind, parts.namespace(), &migration.name);
    if let Some(event) = events.find(|event| event.is_reason("migrationTargetPodUnschedulable")) {
        let fact = Fact::present(FindingCode::PodUnschedulable, "event", event.line()).since(event.first_usec);
        out.push(fact.with(REASON, "other").at(&Spot::new(Side::Target, None)));
    }
}

/// By the scheduler's events, unless it found a node later.
fn told_unschedulable(parts: &Parts<'_>, pod: &str, spot: &Spot, out: &mut Out<'_>) {
    let events: Vec<_> = parts.cluster.events("Pod", parts.namespace(), pod).collect();
    let Some(failed) =
        events.iter().filter(|event| event.is_reason("FailedScheduling")).max_by_key(|event| event.last_usec)
    else {
        return;
    };
    let is_resolved = events.iter().any(|event| {
        let is_later = event.last_usec >= failed.last_usec;
        let is_on_node = event.is_reason("Scheduled") || event.component.as_deref() == Some("kubelet");
        is_later && is_on_node
    });
    if !is_resolved {
        push_unschedulable(parts, &failed.message, &failed.line(), "event", failed.first_usec, spot, out);
    }
}

/// One finding for each reason that the scheduler gives: which of them decides depends on the node.
fn push_unschedulable(
    parts: &Parts<'_>,
    message: &str,
    text: &str,
    source: &'static str,
    since: Option<i64>,
    spot: &Spot,
    out: &mut Out<'_>,
) {
    for (reason, object) in reasons(message) {
        let is_ill =
            |node: &&Node| reason == NODE_HEALTH && node.taints.iter().any(|taint| Some(&taint.key) == object.as_ref());
        for node in parts.cluster.nodes.values().filter(is_ill) {
            let fact = Fact::present(FindingCode::PodUnschedulable, source, text).since(since).with(REASON, reason);
            out.push(
                fact.with_some(OBJECT, object.as_ref())
                    .at(&Spot { node: Some(node.meta.name.clone()), ..spot.clone() }),
            );
        }
        out.push(
            Fact::present(FindingCode::PodUnschedulable, source, text)
                .since(since)
                .with(REASON, reason)
                .with_some(OBJECT, object)
                .at(spot),
        );
    }
}

/// Reasons in `0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint {…}.`, with what they are about.
fn reasons(message: &str) -> Vec<(&'static str, Option<String>)> {
    let mut found: Vec<(&'static str, Option<String>)> = Vec::new();
    // What follows is about making room by preemption.
    let message = message.split("preemption: ").next().unwrap_or(message);
    let lower = message.to_ascii_lowercase();
    let mut rest = message;
    while let Some((_, after)) = rest.split_once("Insufficient ") {
        let resource: String = after.chars().take_while(|c| !c.is_whitespace() && !matches!(c, ',' | ';')).collect();
        let resource = resource.trim_end_matches('.').to_owned();
        let reason = match resource.as_str() {
            "cpu" => "cpu",
            "memory" => "memory",
            _ if resource.starts_with("hugepages-") => "hugepages",
            _ if resource.contains('/') => "device",
            _ => "other",
        };
        if !found.iter().any(|(_, object)| object.as_ref() == Some(&resource)) {
            found.push((reason, Some(resource)));
        }
        rest = after;
    }
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    let mut taints: Vec<String> = Vec::new();
    for (_, key) in message.match_indices("taint {").map(|(at, open)| message.split_at(at + open.len())) {
        let key: String = key.chars().take_while(|c| !matches!(c, '}' | ':' | '=' | ' ')).collect();
        if !key.is_empty() && !taints.contains(&key) {
            taints.push(key);
        }
    }
    if taints.is_empty() && has(&["taint"]) {
        found.push(("taint", None));
    }
    let lower_rest = lower.replace("untolerated taint", "");
    if has(&["were unschedulable", "was unschedulable"]) {
        taints.push("node.kubernetes.io/unschedulable".to_owned());
    }
    // A node that is ill, where nothing but roles and selectors keeps the pod off the others: it is the illness that decides.
    let is_for_its_health = found.is_empty() && !has_shortage(&lower_rest);
    for key in taints {
        let is_health = is_for_its_health && HEALTH_TAINTS.contains(&key.as_str());
        found.push((if is_health { NODE_HEALTH } else { "taint" }, Some(key)));
    }
    if found.iter().any(|(reason, _)| *reason == NODE_HEALTH) {
        found.retain(|(reason, _)| *reason == NODE_HEALTH);
        return found;
    }
    if has(&[
        "volume node affinity",
        "unbound immediate",
        "persistent volume",
        "persistentvolumeclaim",
        "max volume count",
        "volume zone",
    ]) {
        found.push(("volume", None));
    } else if has(&["affinity", "node selector", "topology spread", "didn't satisfy"]) {
        found.push(("affinity", None));
    }
    if has(&["free ports", "host ports"]) {
        found.push(("ports", None));
    }
    if has(&["resourceclaim", "cannot allocate all claims"]) {
        found.push(("device", None));
    }
    if found.is_empty() {
        found.push(("other", None));
    }
    found
}

/// Whether the scheduler's words speak of something that a healthy node would lack too.
fn has_shortage(lower: &str) -> bool {
    let words = ["insufficient", "volume", "persistent", "too many pods", "ports", "resourceclaim", "topology spread"];
    words.iter().any(|word| lower.contains(word))
}

/// Host devices and GPUs that the VM asks for.
fn host_devices(parts: &Parts<'_>, out: &mut Out<'_>) {
    let mut resources: BTreeSet<&str> =
        parts.vmi.into_iter().flat_map(|vmi| vmi.devices.iter().map(String::as_str)).collect();
    let of_pods = parts
        .pods
        .iter()
        .filter(|of| matches!(of.part, Part::Launcher | Part::Target))
        .filter_map(|of| of.pod.compute());
    for container in of_pods {
        let is_device = |name: &&str| name.contains('/') && !name.starts_with(KUBEVIRT_DEVICES);
        resources.extend(container.limits.keys().map(String::as_str).filter(is_device));
    }
    for resource in resources {
        let places = [parts.hosting.as_deref(), parts.target.as_deref()];
        let known: BTreeSet<&str> = places.into_iter().flatten().collect();
        for name in &known {
            let offered = parts.cluster.nodes.get(*name).and_then(|node| node.offers(resource));
            if let Some(offered) = offered {
                let text = format!("{name} offers {offered} {resource}");
                let fact = Fact::when(offered == 0, FindingCode::HostDeviceNotAllocatable, "node", text);
                out.push(fact.with(OBJECT, resource).at(&Spot::on(name)).of_node());
            }
        }
        let offers: Vec<i64> = parts.cluster.nodes.values().filter_map(|node| node.offers(resource)).collect();
        if known.is_empty() && !offers.is_empty() && offers.iter().all(|offered| *offered == 0) {
            let text = format!("no node offers {resource}");
            out.push(
                Fact::present(FindingCode::HostDeviceNotAllocatable, "node", text).with(OBJECT, resource).of_node(),
            );
        }
    }
}

/// Nodes of the VM that Kubernetes does not have.
fn node_missing(parts: &Parts<'_>, out: &mut Out<'_>) {
    let names: BTreeSet<&String> = [&parts.hosting, &parts.source, &parts.target].into_iter().flatten().collect();
    for name in names {
        let spot = Spot::on(name);
        let removed = parts.cluster.events_of_node(name).find(|event| event.is_removal_of_node());
        // One node alone may have been collected alone.
        let is_list = parts.cluster.nodes.len() >= 2 && parts.cluster.is_listed(Kind::Node, "");
        match (parts.cluster.nodes.contains_key(name), removed) {
            (true, _) => {
                let text = format!("{name} is a node of the cluster");
                out.push(Fact::absent(FindingCode::NodeObjectMissing, "node", text).at(&spot).of_node());
            }
            (false, Some(event)) => {
                out.push(
                    Fact::present(FindingCode::NodeObjectMissing, "event", event.line())
                        .since(event.first_usec)
                        .at(&spot)
                        .of_node(),
                );
            }
            (false, None) if is_list => {
                let text = format!("{name} is not among the nodes of the cluster");
                out.push(Fact::present(FindingCode::NodeObjectMissing, "node", text).at(&spot).of_node());
            }
            (false, None) => {}
        }
    }
}

fn two_ends(parts: &Parts<'_>, source: &str, target: &str, out: &mut Out<'_>) {
    let (Some(from), Some(to)) = (parts.cluster.nodes.get(source), parts.cluster.nodes.get(target)) else { return };
    if let (Some(a), Some(b)) = (&from.kernel, &to.kernel) {
        let text = format!("{source} runs kernel {a}, {target} {b}");
        out.push(
            Fact::when(a != b, FindingCode::KernelsDiffer, "node", text).with(OTHER_NODE, target).with(VERSION, b),
        );
    }
    let model = parts.vmi.and_then(|vmi| vmi.cpu_model.as_deref()).unwrap_or("host-model");
    if let Some(misfit) = cpu_misfit(model, from, to) {
        let (is_misfit, text) = match misfit {
            Misfit::Fits => (false, format!("{target} offers what {source} does for CPU model {model}")),
            Misfit::Lacks(what) => (true, format!("CPU model {model}: {target} lacks {what} that {source} has")),
        };
        out.push(Fact::when(is_misfit, FindingCode::CpuModelsDiffer, "node", text).with(OTHER_NODE, target));
    }
}

pub(crate) enum Misfit {
    Fits,
    Lacks(String),
}

/// What a target lacks of the source's CPU for a CPU model; `None` if the nodes carry no labels that tell.
pub(crate) fn cpu_misfit(model: &str, source: &Node, target: &Node) -> Option<Misfit> {
    const MODEL: &str = "cpu-model.node.kubevirt.io/";
    const MIGRATION_MODEL: &str = "cpu-model-migration.node.kubevirt.io/";
    const FEATURE: &str = "cpu-feature.node.kubevirt.io/";
    let lacks = |what: Vec<&str>| {
        let names: Vec<&str> = what.iter().take(8).copied().collect();
        if names.is_empty() { Misfit::Fits } else { Misfit::Lacks(names.join(", ")) }
    };
    let has_labels = |node: &Node| node.labelled(FEATURE).chain(node.labelled(MODEL)).next().is_some();
    if !has_labels(source) || !has_labels(target) {
        return None;
    }
    let offered: BTreeSet<&str> = target.labelled(FEATURE).collect();
    match model {
        "host-model" => {
            let required = source.labelled("host-model-required-features.node.kubevirt.io/");
            let mut missing: Vec<&str> = required.filter(|feature| !offered.contains(feature)).collect();
            let models: BTreeSet<&str> = target.labelled(MIGRATION_MODEL).chain(target.labelled(MODEL)).collect();
            let own = source.labelled("host-model-cpu.node.kubevirt.io/");
            missing.extend(own.filter(|model| !models.is_empty() && !models.contains(model)));
            Some(lacks(missing))
        }
        "host-passthrough" => {
            let vendor: BTreeSet<&str> = target.labelled("cpu-vendor.node.kubevirt.io/").collect();
            let mut missing: Vec<&str> =
                source.labelled(FEATURE).filter(|feature| !offered.contains(feature)).collect();
            let others = source.labelled("cpu-vendor.node.kubevirt.io/");
            missing.extend(others.filter(|own| !vendor.is_empty() && !vendor.contains(own)));
            Some(lacks(missing))
        }
        named => {
            let has =
                |node: &Node| node.labelled(MODEL).chain(node.labelled(MIGRATION_MODEL)).any(|model| model == named);
            // The source runs it, labels or not (an obsolete model is not labelled any more).
            has(source).then(|| lacks(if has(target) { Vec::new() } else { vec![named] }))
        }
    }
}

/// A migration target's pod that wants a CPU which no other node offers; or KubeVirt's own word for it.
fn cpu_fits_none(parts: &Parts<'_>, out: &mut Out<'_>) {
    let cluster = parts.cluster;
    let vmis = cluster.events("VirtualMachineInstance", parts.namespace(), parts.name());
    for event in vmis.filter(|event| event.is_reason("NoSuitableNodesForHostModelMigration")) {
        out.push(Fact::present(FindingCode::CpuModelsDiffer, "event", event.line()).since(event.first_usec));
    }
    let pods = parts.target_pod().into_iter().chain(parts.launcher()).map(|of| (of.pod, of.side));
    for (pod, side) in pods.filter(|(pod, _)| pod.node.is_none()) {
        let wanted: Vec<&String> = pod.node_selector.keys().filter(|key| is_cpu_label(key)).collect();
        let others: Vec<&Node> = parts
            .cluster
            .nodes
            .values()
            .filter(|node| parts.source.as_ref() != Some(&node.meta.name))
            .filter(|node| node.meta.labels.keys().any(|key| is_cpu_label(key)))
            .collect();
        let is_missing = |key: &&&String| others.iter().all(|node| node.meta.label(key) != Some("true"));
        if let Some(key) = wanted.iter().find(is_missing).filter(|_| !others.is_empty()) {
            let text = format!("{} wants {key}, and no other node has it", pod.full_name());
            out.push(
                Fact::present(FindingCode::CpuModelsDiffer, "pod", text)
                    .since(pod.meta.created_usec)
                    .at(&Spot::new(side, None)),
            );
        }
    }
}

pub(crate) fn is_cpu_label(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| {
        prefix.ends_with(".node.kubevirt.io") && (prefix.starts_with("cpu-") || prefix.starts_with("host-model"))
    })
}

/// Images of the two launchers; or KubeVirt's mark that a launcher is older than its control plane.
fn launcher_versions(parts: &Parts<'_>, out: &mut Out<'_>) {
    let image = |pod: &Pod| pod.compute().and_then(|compute| compute.image.clone());
    let source =
        parts.launcher().and_then(|of| image(of.pod)).or_else(|| parts.vmi.and_then(|vmi| vmi.launcher_image.clone()));
    let target = parts.target_pod().and_then(|of| image(of.pod));
    if let Some(vmi) = parts.vmi
        && vmi.meta.label("kubevirt.io/outdatedLauncherImage").is_some()
    {
        let text = "the VMI is marked with kubevirt.io/outdatedLauncherImage".to_owned();
        out.push(Fact::present(FindingCode::LauncherVersionsDiffer, "vmi", text).with_some(VERSION, source.as_ref()));
    }
    if let (Some(source), Some(target)) = (source, target) {
        let text = format!("source launcher {source}, target launcher {target}");
        out.push(Fact::when(source != target, FindingCode::LauncherVersionsDiffer, "pod", text).with(VERSION, target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, want: &[(&str, Option<&str>)]) {
        let found = reasons(message);
        let found: Vec<(&str, Option<&str>)> =
            found.iter().map(|(reason, object)| (*reason, object.as_deref())).collect();
        assert_eq!(found, want, "{message}");
    }

    #[test]
    fn each_reason_of_the_scheduler_is_told_apart() {
        check(
            "0/2 nodes are available: 1 Insufficient devices.kubevirt.io/kvm, 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod.",
            &[("device", Some("devices.kubevirt.io/kvm")), ("taint", Some("node-role.kubernetes.io/control-plane"))],
        );
        check("0/3 nodes are available: 3 Insufficient hugepages-1Gi.", &[("hugepages", Some("hugepages-1Gi"))]);
        check(
            "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.",
            &[("cpu", Some("cpu")), ("memory", Some("memory"))],
        );
        check("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.", &[("affinity", None)]);
        check("0/3 nodes are available: 3 node(s) had volume node affinity conflict.", &[("volume", None)]);
        check("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.", &[("volume", None)]);
        check(
            "0/3 nodes are available: 3 node(s) didn't have free ports for the requested pod ports.",
            &[("ports", None)],
        );
        check("", &[("other", None)]);
    }

    #[test]
    fn an_ill_node_is_the_reason_only_where_nothing_else_lacks() {
        let pressed = "node.kubernetes.io/disk-pressure";
        check(
            "0/2 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
            &[("node-health", Some(pressed))],
        );
        check(
            "0/2 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
            &[("memory", Some("memory")), ("taint", Some(pressed))],
        );
        check(
            "0/1 nodes are available: 1 node(s) were unschedulable.",
            &[("node-health", Some("node.kubernetes.io/unschedulable"))],
        );
    }
}
