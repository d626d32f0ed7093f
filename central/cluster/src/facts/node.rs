//! What Kubernetes shows of a node: readiness, lease, taints, pressure, KubeVirt's devices, its virt-handler, its events.
//!
//! Old stamps are old against the moment at which the objects were collected, not against that of asking. Source: Kubernetes
//! `pkg/controller/nodelifecycle`, KubeVirt `pkg/virt-handler/{device-manager,heartbeat}`.

use kulprit_model::{
    Attributes, FindingCode, Subject,
    attribute::{COMM, MEASURED, OBJECT, REASON, WHAT},
    said::{actor, class, operation},
};
use kulprit_signature::Speaker;

use crate::{
    cluster::Cluster,
    fact::{Fact, Out, Told},
    objects::{Container, ContainerState, Event, Node, Pod},
};

/// KubeVirt's node controller takes a virt-handler for dead after this.
pub(crate) const HEARTBEAT_USEC: i64 = 300 * 1_000_000;
/// A lease is renewed every 10 s and is good for 40 s; the node controller waits 50 s (Kubernetes 1.32; 40 s before).
const LEASE_SECS: i64 = 40;
const LEASE_MARGIN_SECS: i64 = 20;
const DAY_USEC: i64 = 24 * 3_600 * 1_000_000;
const KVM: &str = "devices.kubevirt.io/kvm";

pub(crate) fn facts(cluster: &Cluster, name: &str, at_usec: i64, out: &mut Out<'_>) {
    let looked_usec = cluster.looked_usec(at_usec);
    if let Some(node) = cluster.nodes.get(name) {
        ready(node, out);
        marks(node, out);
        pressure(node, out);
        devices(cluster, node, out);
        heartbeat(node, looked_usec, out);
    }
    lease(cluster, name, looked_usec, out);
    handlers(cluster, name, at_usec, out);
    drivers(cluster, name, out);
    for event in cluster.events_of_node(name) {
        of_event(event, out);
    }
}

fn ready(node: &Node, out: &mut Out<'_>) {
    let Some(condition) = node.conditions.get("Ready") else { return };
    let fact = Fact::when(!condition.is_true(), FindingCode::NodeNotReady, "node", condition.line())
        .since(condition.since_usec);
    out.push(
        fact.with_some(REASON, condition.reason.as_ref())
            .with_some(WHAT, (!condition.is_true()).then_some(&condition.status)),
    );
    if !condition.is_true()
        && let Some(message) = &condition.message
    {
        out.said(Told {
            speaker: Speaker::Kubelet,
            reason: condition.reason.as_deref(),
            text: message,
            source: "node",
            first_usec: condition.since_usec,
            last_usec: Some(out.at_usec()),
            count: 1,
            spot: crate::fact::Spot::default(),
            attributes: Attributes::new(),
            otherwise: None,
        });
    }
}

fn marks(node: &Node, out: &mut Out<'_>) {
    let taint = |keys: &[&str]| node.taints.iter().find(|taint| keys.contains(&taint.key.as_str()));
    if let Some(taint) = taint(&["node.kubernetes.io/unreachable"]) {
        let text = format!("taint {}:{}", taint.key, taint.effect.as_deref().unwrap_or_default());
        out.push(Fact::present(FindingCode::NodeUnreachableTaint, "node", text).since(taint.since_usec));
    } else if node.has_spec {
        out.push(Fact::absent(FindingCode::NodeUnreachableTaint, "node", "the node has no taint unreachable"));
    }
    let drains = [
        "node.kubernetes.io/unschedulable",
        "kubevirt.io/drain",
        "node.kubernetes.io/out-of-service",
        "medik8s.io/drain",
    ];
    if let Some(taint) = taint(&drains) {
        let text = format!("taint {}:{}", taint.key, taint.effect.as_deref().unwrap_or_default());
        out.push(
            Fact::present(FindingCode::NodeCordoned, "node", text).since(taint.since_usec).with(OBJECT, &taint.key),
        );
    } else if node.is_unschedulable {
        out.push(Fact::present(FindingCode::NodeCordoned, "node", "spec.unschedulable: true"));
    } else if let Some((key, value)) = node.maintenance() {
        out.push(Fact::present(FindingCode::NodeCordoned, "node", format!("{key}: {value}")).with(OBJECT, key));
    } else if node.has_spec {
        out.push(Fact::absent(FindingCode::NodeCordoned, "node", "the node takes pods"));
    }
}

fn pressure(node: &Node, out: &mut Out<'_>) {
    let kinds = [("MemoryPressure", "memory"), ("DiskPressure", "disk"), ("PIDPressure", "pids")];
    let mut n_well = 0;
    for (name, what) in kinds {
        let Some(condition) = node.conditions.get(name) else { continue };
        if condition.is_true() {
            let fact =
                Fact::present(FindingCode::NodePressureReported, "node", condition.line()).since(condition.since_usec);
            out.push(fact.with(WHAT, what).with_some(REASON, condition.reason.as_ref()));
        } else {
            n_well += usize::from(condition.is_false());
        }
    }
    if n_well == kinds.len() {
        out.push(Fact::absent(FindingCode::NodePressureReported, "node", "the kubelet reports no pressure"));
    }
    if let Some(condition) = node.conditions.get("NetworkUnavailable").filter(|condition| condition.status != "Unknown")
    {
        let fact = Fact::when(condition.is_true(), FindingCode::NodeNetworkReportedDown, "node", condition.line());
        out.push(fact.since(condition.since_usec).with_some(REASON, condition.reason.as_ref()));
    }
}

/// Whether KubeVirt means to run VMs there: its labels, its virt-handler, or a launcher say so.
fn is_for_vms(cluster: &Cluster, node: &Node) -> bool {
    let has_labels =
        node.meta.labels.keys().any(|key| key == "kubevirt.io/schedulable" || key.contains(".node.kubevirt.io/"));
    let has_devices =
        node.capacity.keys().chain(node.allocatable.keys()).any(|key| key.starts_with("devices.kubevirt.io/"));
    let name = node.meta.name.as_str();
    has_labels || has_devices || cluster.handlers(name).next().is_some() || cluster.has_vmis(name)
}

fn devices(cluster: &Cluster, node: &Node, out: &mut Out<'_>) {
    if is_for_vms(cluster, node) {
        of_devices(node).into_iter().for_each(|fact| out.push(fact));
    }
}

/// What a node shows of KubeVirt's devices. Kubelets list cpu among what they offer: a list that somebody cut down to a line or two
/// proves nothing by what it lacks.
pub(super) fn of_devices(node: &Node) -> Vec<Fact> {
    let listed = || node.allocatable.keys().chain(node.capacity.keys());
    let is_told = node.allocatable.contains_key("cpu") || listed().any(|key| key.starts_with("devices.kubevirt.io/"));
    if node.allocatable.is_empty() || !is_told {
        return Vec::new();
    }
    let offered = node.offers(KVM).unwrap_or(0);
    let what = match (offered, listed().any(|key| key == KVM)) {
        (1.., _) => None,
        (_, true) => Some("zero"),
        (_, false) => Some("absent"),
    };
    let text = match what {
        Some("absent") => format!("{KVM} is not among what {} offers", node.meta.name),
        _ => format!("{} offers {offered} {KVM}", node.meta.name),
    };
    let of_kvm = Fact::when(what.is_some(), FindingCode::KvmNotAllocatable, "node", text)
        .with_some(WHAT, what)
        .with(OBJECT, KVM);
    let has_any = [KVM, "devices.kubevirt.io/tun", "devices.kubevirt.io/vhost-net"]
        .into_iter()
        .any(|device| node.offers(device).is_some_and(|n| n > 0));
    let text = if has_any { "the node offers devices of KubeVirt" } else { "the node offers no device of KubeVirt" };
    vec![of_kvm, Fact::when(!has_any, FindingCode::DevicesNotAllocatable, "node", text)]
}

fn heartbeat(node: &Node, looked_usec: i64, out: &mut Out<'_>) {
    let code = FindingCode::VirtHandlerHeartbeatStale;
    let last = node.heartbeat_usec();
    let age = last.map(|last| looked_usec.saturating_sub(last));
    let is_unschedulable = node.meta.label("kubevirt.io/schedulable") == Some("false");
    match age {
        Some(age) if age > HEARTBEAT_USEC => {
            let text = format!("kubevirt.io/heartbeat of {} is {} s old", node.meta.name, age / 1_000_000);
            out.push(Fact::present(code, "node", text).since(last).with(MEASURED, age / 1_000_000));
        }
        _ if is_unschedulable => {
            out.push(
                Fact::present(code, "node", "label kubevirt.io/schedulable: false")
                    .with_some(MEASURED, age.map(|age| age / 1_000_000)),
            );
        }
        Some(_) => out.push(Fact::absent(code, "node", "kubevirt.io/heartbeat is fresh")),
        None => {}
    }
}

fn lease(cluster: &Cluster, name: &str, looked_usec: i64, out: &mut Out<'_>) {
    let Some(lease) = cluster.leases.get(name) else { return };
    let Some(renewed) = lease.renewed_usec else { return };
    let limit = lease.secs.unwrap_or(LEASE_SECS).saturating_add(LEASE_MARGIN_SECS).saturating_mul(1_000_000);
    let age = looked_usec.saturating_sub(renewed);
    if age > limit {
        let text = format!("the kubelet's lease of {name} was renewed {} s ago", age / 1_000_000);
        out.push(
            Fact::present(FindingCode::NodeUnreachableTaint, "lease", text)
                .since(Some(renewed))
                .with(MEASURED, age / 1_000_000),
        );
    } else {
        out.push(Fact::absent(FindingCode::NodeUnreachableTaint, "lease", "the kubelet renews its lease"));
    }
}

fn handlers(cluster: &Cluster, name: &str, at_usec: i64, out: &mut Out<'_>) {
    let code = FindingCode::VirtHandlerNotReady;
    let pods: Vec<&Pod> = cluster.handlers(name).collect();
    let node = cluster.nodes.get(name);
    for pod in &pods {
        restarts(pod, at_usec, out);
        for event in cluster.events("Pod", &pod.meta.namespace, &pod.meta.name) {
            handler_event(event, out);
        }
    }
    cluster.events_of_unknown_handlers(name).for_each(|event| handler_event(event, out));
    if pods.is_empty() {
        let is_for_vms = node.is_some_and(|node| is_for_vms(cluster, node) && !node.is_not_ready());
        if is_for_vms && cluster.has_handlers_listed() {
            let text = format!("no virt-handler pod is on {name}");
            out.push(Fact::present(code, "pod", text).with(REASON, "Missing"));
        }
        return;
    }
    if let Some(pod) = pods.iter().find(|pod| pod.is_ready() == Some(true) && pod.meta.deleted_usec.is_none()) {
        out.push(Fact::absent(code, "pod", format!("{} is ready", pod.full_name())));
        return;
    }
    for pod in pods {
        // Of a node that does not answer, the node controller marks every pod as not ready: that says nothing of the pod.
        let is_marked =
            node.is_some_and(Node::is_not_ready) && pod.containers.iter().any(|container| container.state.is_running());
        let status = pod.kubectl_status().unwrap_or_default();
        if pod.is_ready() == Some(false) && !is_marked || pod.meta.deleted_usec.is_some() || pod.is_phase("Failed") {
            let since = pod.conditions.get("Ready").and_then(|condition| condition.since_usec);
            let text = format!("{} is {status}", pod.full_name());
            let reason = if status == "Running" { "NotReady".to_owned() } else { status };
            out.push(Fact::present(code, "pod", text).since(since.or(pod.meta.deleted_usec)).with(REASON, reason));
        }
    }
}

/// When a virt-handler started, if that was within the day.
fn restarts(pod: &Pod, at_usec: i64, out: &mut Out<'_>) {
    let is_main = |container: &&Container| !container.is_init && container.name == "virt-handler";
    let Some(container) =
        pod.containers.iter().find(is_main).or_else(|| pod.containers.iter().find(|container| !container.is_init))
    else {
        return;
    };
    let ContainerState::Running { since_usec: Some(since) } = container.state else { return };
    if at_usec.saturating_sub(since) > DAY_USEC {
        return;
    }
    let text = format!("{} started, {} restarts", pod.full_name(), container.n_restarts);
    out.happened(
        FindingCode::VirtHandlerRestarted,
        None,
        Told {
            speaker: Speaker::Other,
            reason: None,
            text: &text,
            source: "pod",
            first_usec: Some(since),
            last_usec: Some(since),
            count: 1,
            spot: crate::fact::Spot::default(),
            attributes: Attributes::new().with(kulprit_model::attribute::N_RESTARTS, container.n_restarts),
            otherwise: None,
        },
    );
}

fn handler_event(event: &Event, out: &mut Out<'_>) {
    if super::texts::is_telling(event) {
        out.said(Told::of_event(event));
    }
}

/// A CSI driver's pod of the node that is not ready: it carries the sidecar that registers the driver.
fn drivers(cluster: &Cluster, name: &str, out: &mut Out<'_>) {
    if cluster.nodes.get(name).is_some_and(Node::is_not_ready) {
        return;
    }
    for pod in cluster.drivers(name).filter(|pod| pod.is_ready() == Some(false) && !pod.is_over()) {
        let since = pod.conditions.get("Ready").and_then(|condition| condition.since_usec);
        let text = format!("{} is {}", pod.full_name(), pod.kubectl_status().unwrap_or_default());
        out.push(
            Fact::present(FindingCode::StorageDriverMissing, "pod", text).since(since).with(OBJECT, &pod.meta.name),
        );
    }
}

fn of_event(event: &Event, out: &mut Out<'_>) {
    let reason = event.reason.as_deref().unwrap_or_default();
    let line = event.line();
    let whole = Told { text: &line, ..Told::of_event(event) };
    let (code, subject) = match reason {
        "Rebooted" => (FindingCode::NodeBooted, Subject::Node),
        "SystemOOM" | "OOMKilling" => {
            let is_memcg = event.message.contains("Memory cgroup out of memory");
            let code = if is_memcg { FindingCode::MemcgOomKill } else { FindingCode::NodeOomKill };
            let (pid, comm) = victim(&event.message);
            let attributes = Attributes::new().with_some(COMM, comm);
            return out.happened(code, Some(Subject::Process { pid, start_ticks: 0 }), Told { attributes, ..whole });
        }
        "TaskHung" => (FindingCode::HungTask, Subject::Process { pid: victim(&event.message).0, start_ticks: 0 }),
        "KernelOops" => (FindingCode::KernelOops, Subject::Node),
        "Starting" if event.message.contains("kubelet") => {
            (FindingCode::KubeletRestarted, Subject::unit("kubelet.service"))
        }
        _ => {
            let otherwise = meaning(reason, &event.message);
            if super::texts::is_telling(event) || otherwise.is_some() {
                out.said(Told { otherwise, ..Told::of_event(event) });
            }
            return;
        }
    };
    out.happened(code, Some(subject), whole);
}

/// What reasons of node events mean, where no rule knows their text.
fn meaning(reason: &str, message: &str) -> Option<[&'static str; 3]> {
    match reason {
        "NodeNotReady" => Some([actor::KUBELET, operation::REPORT_STATUS, class::UNAVAILABLE]),
        "NodeUnresponsive" => Some([actor::HANDLER, operation::REPORT_STATUS, class::UNAVAILABLE]),
        "NotifyServerFailure" => Some([actor::HANDLER, operation::CONNECT_LAUNCHER, class::CRASHED]),
        "EvictionThresholdMet" if message.contains("memory") => {
            Some([actor::KUBELET, operation::EVICT_POD, class::OUT_OF_MEMORY])
        }
        "EvictionThresholdMet" | "FreeDiskSpaceFailed" | "ImageGCFailed" | "NodeHasDiskPressure" => {
            Some([actor::KUBELET, operation::RECLAIM, class::NO_SPACE])
        }
        "NodeHasInsufficientMemory" => Some([actor::KUBELET, operation::EVICT_POD, class::OUT_OF_MEMORY]),
        "ContainerGCFailed" => Some([actor::KUBELET, operation::RECLAIM, class::OTHER]),
        "ContainerdUnhealthy" => Some([actor::RUNTIME, operation::LIST_PODS, class::UNAVAILABLE]),
        "ReadonlyFilesystem" => Some([actor::KERNEL, operation::READ_WRITE, class::READ_ONLY]),
        _ => None,
    }
}

/// Pid and name in `victim process: qemu-kvm, pid: 4711`, `Killed process 4711 (qemu-kvm)`, `task qemu-kvm:4711 blocked`.
fn victim(message: &str) -> (u32, Option<String>) {
    let number =
        |text: &str| text.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let word = |text: &str| {
        let word: String = text.trim_start().chars().take_while(|c| !matches!(c, ',' | ')' | ':')).take(32).collect();
        (!word.is_empty()).then_some(word)
    };
    if let Some((_, rest)) = message.split_once("victim process: ") {
        let pid = rest.split_once("pid: ").and_then(|(_, pid)| number(pid));
        return (pid.unwrap_or(0), word(rest));
    }
    let killed = message.split_once("Killed process ").or_else(|| message.split_once("Kill process "));
    if let Some((_, rest)) = killed {
        return (number(rest).unwrap_or(0), rest.split_once('(').and_then(|(_, name)| word(name)));
    }
    if let Some((_, rest)) = message.split_once("task ") {
        return (rest.split_once(':').and_then(|(_, pid)| number(pid)).unwrap_or(0), word(rest));
    }
    (0, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_victim_of_a_kill_is_read_from_each_form() {
        for (message, want) in [
            ("System OOM encountered, victim process: qemu-kvm, pid: 4711", (4711, Some("qemu-kvm"))),
            ("Memory cgroup out of memory: Killed process 12 (qemu-kvm) total-vm:1kB", (12, Some("qemu-kvm"))),
            ("task qemu-kvm:99 blocked for more than 120 seconds.", (99, Some("qemu-kvm"))),
            ("something else", (0, None)),
        ] {
            let (pid, comm) = victim(message);
            assert_eq!((pid, comm.as_deref()), want, "{message}");
        }
    }
}
