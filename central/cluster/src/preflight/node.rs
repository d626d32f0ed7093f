//! Each node but the source: would the launcher find its place there?
//!
//! The questions are the scheduler's, asked of the launcher pod that runs now. Pods that are not KubeVirt's are not watched, so what is
//! free is at most what is said; a node that lacks room even so is none. Source: Kubernetes `pkg/scheduler/framework/plugins`
//! (nodeunschedulable, tainttoleration, nodeaffinity, noderesources, volumebinding, nodevolumelimits; what looks at other pods is in
//! `pods.rs`), KubeVirt
//! `pkg/virt-controller/watch/migration/migration.go` (`prepareNodeSelectorForHostCpuModel`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, NodeFit, Preflight, pods::Rules};
use crate::{
    facts::{
        node::HEARTBEAT_USEC,
        placement::{Misfit, cpu_misfit, is_cpu_label},
    },
    objects::{Node, Placement, Pod, PodRules, Requests},
    parts::{Parts, VmClaim},
    value,
};

const SCHEDULABLE: &str = "kubevirt.io/schedulable";
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
const KUBEVIRT_DEVICES: &str = "devices.kubevirt.io/";
/// So many CPU models or features are named.
const MAX_NAMED: usize = 6;

pub(super) fn check(parts: &Parts<'_>, found: &mut Preflight) {
    let cluster = parts.cluster;
    let launcher = parts.launcher().map(|of| of.pod).filter(|pod| pod.placement.is_some());
    if launcher.is_none() && parts.vmi.is_some() {
        found.unknown.push("its launcher pod is not known: which nodes fit it cannot be told".to_owned());
    }
    let none = PodRules::default();
    let rules = launcher.map(|pod| Rules::new(cluster, pod, &none));
    if let Some((rules, placement)) = rules.as_ref().zip(launcher.and_then(|pod| pod.placement.as_deref())) {
        rules.say_limits(placement, found);
    }
    let question = Question {
        parts,
        launcher,
        rules,
        source: found.source.as_ref().and_then(|name| cluster.nodes.get(name)),
        taken: taken(parts),
        attached: attached(parts),
    };
    let what = "only KubeVirt's own pods are counted: a node may have less room than it seems, never more";
    found.notes.push(what.to_owned());
    if parts.vmi.is_some() {
        let namespace = parts.namespace();
        let what = format!(
            "not looked at: ResourceQuotas of {namespace}, by which its second launcher counts beside the first"
        );
        found.notes.push(what);
    }
    let nodes = cluster.nodes.values().filter(|node| found.source.as_ref() != Some(&node.meta.name));
    found.nodes = nodes.map(|node| question.ask(node)).collect();
}

/// What the pods of each node request in all, and how many there are.
fn taken<'c>(parts: &Parts<'c>) -> BTreeMap<&'c str, (Requests, i64)> {
    let mut taken: BTreeMap<&str, (Requests, i64)> = BTreeMap::new();
    for pod in parts.cluster.pods.values().filter(|pod| !pod.is_over()) {
        if let Some(node) = pod.node.as_deref() {
            let (requests, n) = taken.entry(node).or_default();
            requests.add(&pod.requests);
            *n += 1;
        }
    }
    taken
}

/// Volumes that each node has by a driver.
fn attached<'c>(parts: &Parts<'c>) -> BTreeMap<(&'c str, &'c str), BTreeSet<&'c str>> {
    let mut attached: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for attachment in parts.cluster.attachments.values() {
        let Some((node, volume)) = attachment.node.as_deref().zip(attachment.volume.as_deref()) else { continue };
        if let Some(driver) = parts.cluster.volumes.get(volume).and_then(|volume| volume.driver.as_deref()) {
            attached.entry((node, driver)).or_default().insert(volume);
        }
    }
    attached
}

struct Question<'p, 'c> {
    parts: &'p Parts<'c>,
    launcher: Option<&'c Pod>,
    /// Of the launcher, about other pods.
    rules: Option<Rules<'p>>,
    source: Option<&'c Node>,
    taken: BTreeMap<&'c str, (Requests, i64)>,
    attached: BTreeMap<(&'c str, &'c str), BTreeSet<&'c str>>,
}

impl Question<'_, '_> {
    fn ask(&self, node: &Node) -> NodeFit {
        let mut fit = NodeFit { name: node.meta.name.clone(), ..NodeFit::default() };
        health(node, &mut fit);
        self.heartbeat(node, &mut fit);
        if let Some((launcher, placement)) = self.launcher.and_then(|pod| Some((pod, pod.placement.as_deref()?))) {
            marks(node, placement, &mut fit);
            selectors(node, launcher, placement, &mut fit);
            devices(node, launcher, &mut fit);
            self.room(node, launcher, &mut fit);
            if let Some(rules) = &self.rules {
                rules.ask(node, &mut fit);
            }
        } else {
            fit.unknown.push("what a launcher of it would need there is not known".to_owned());
        }
        self.cpu(node, &mut fit);
        for claim in &self.parts.claims {
            reach(node, claim, &mut fit);
        }
        self.drivers(node, &mut fit);
        fit
    }

    fn heartbeat(&self, node: &Node, fit: &mut NodeFit) {
        let Some(last) = node.heartbeat_usec() else { return };
        let age = self.parts.looked_usec.saturating_sub(last);
        if age > HEARTBEAT_USEC {
            let what = format!("virt-handler's heartbeat is {} s old", age / 1_000_000);
            let fix =
                format!("kubectl get pods -A -l kubevirt.io=virt-handler --field-selector spec.nodeName={}", fit.name);
            fit.misfits.push(Check::new(what, at(node, "metadata.annotations[kubevirt.io/heartbeat]"), fix));
        }
    }

    /// What is free at most, against what the launcher requests.
    fn room(&self, node: &Node, launcher: &Pod, fit: &mut NodeFit) {
        if node.allocatable.is_empty() {
            fit.unknown.push("what the node has to give is not told (status.allocatable)".to_owned());
            return;
        }
        let nothing = (Requests::default(), 0);
        let (taken, n_pods) = self.taken.get(node.meta.name.as_str()).unwrap_or(&nothing);
        let wanted = &launcher.requests;
        let milli = node.allocatable.get("cpu").and_then(|cpu| value::milli_quantity(cpu));
        let bytes = node.offers("memory").filter(|_| node.allocatable.contains_key("memory"));
        let mut rows = vec![
            ("cpu", wanted.cpu_milli, milli, taken.cpu_milli),
            ("memory", wanted.memory_bytes, bytes, taken.memory_bytes),
            ("pods", 1, node.offers("pods").filter(|_| node.allocatable.contains_key("pods")), *n_pods),
        ];
        let others = wanted.others.iter();
        rows.extend(others.map(|(resource, n)| {
            (resource.as_str(), *n, node.offers(resource), taken.others.get(resource).copied().unwrap_or(0))
        }));
        for (resource, wanted, offered, taken) in rows {
            let Some(offered) = offered else { continue };
            let free = offered.saturating_sub(taken).max(0);
            if wanted > 0 && free < wanted {
                let show = |n: i64| amount(resource, n);
                let what = format!(
                    "not enough {resource}: the launcher requests {}, at most {} of {} are free",
                    show(wanted),
                    show(free),
                    show(offered)
                );
                fit.misfits.push(Check::new(what, at(node, &format!("status.allocatable[{resource}]")), ""));
            }
        }
    }

    fn cpu(&self, node: &Node, fit: &mut NodeFit) {
        let Some((vmi, source)) = self.parts.vmi.zip(self.source) else { return };
        let model = vmi.cpu_model.as_deref().unwrap_or("host-model");
        match cpu_misfit(model, source, node) {
            // The launcher's selector has told it.
            _ if fit.misfits.iter().any(|misfit| misfit.what.starts_with(LACKS_CPU)) => {}
            Some(Misfit::Fits) => {}
            Some(Misfit::Lacks(what)) => {
                let what = format!("{LACKS_CPU} {what}, which the VM uses on {} ({model})", source.meta.name);
                fit.misfits.push(Check::new(what, at(node, "metadata.labels"), FIX_CPU));
            }
            None if matches!(model, "host-model" | "host-passthrough") => {
                fit.unknown.push(format!("whether its CPU fits {model}: nodes do not tell by labels"));
            }
            None => {}
        }
    }

    /// Drivers of the VM's volumes: registered there, and with room for them.
    fn drivers(&self, node: &Node, fit: &mut NodeFit) {
        let mut by_driver: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for volume in self.parts.claims.iter().filter_map(|claim| claim.persistent) {
            if let Some(driver) = volume.driver.as_deref() {
                by_driver.entry(driver).or_default().insert(volume.meta.name.as_str());
            }
        }
        if by_driver.is_empty() {
            return;
        }
        let name = node.meta.name.as_str();
        let Some(registered) = self.parts.cluster.csi_nodes.get(name) else {
            let drivers: Vec<&str> = by_driver.into_keys().collect();
            let what = format!("no CSI driver is registered there; its volumes need {}", drivers.join(", "));
            fit.misfits.push(Check::new(what, format!("CSINode {name}"), FIX_DRIVER));
            return;
        };
        for (driver, volumes) in by_driver {
            if !registered.drivers.iter().any(|own| own == driver) {
                let what = format!("the CSI driver {driver} is not registered there");
                fit.misfits.push(Check::new(what, format!("CSINode {name} spec.drivers"), FIX_DRIVER));
                continue;
            }
            let Some(limit) = registered.limits.get(driver) else { continue };
            let nothing = BTreeSet::new();
            let there = self.attached.get(&(name, driver)).unwrap_or(&nothing);
            let n = there.union(&volumes).count();
            if i64::try_from(n).is_ok_and(|n| n > *limit) {
                let what = format!("{} volumes of {driver} are attached there, and it takes {limit}", there.len());
                let source = format!("CSINode {name} spec.drivers[{driver}].allocatable.count");
                fit.misfits.push(Check::new(what, source, ""));
            }
        }
    }
}

const LACKS_CPU: &str = "its CPU lacks";
const FIX_CPU: &str = "choose a node of the same CPU generation, or give the VM a CPU model that all of them have";
const FIX_DRIVER: &str = "kubectl get csinodes; then look at the driver's node plugin there";

fn at(node: &Node, field: &str) -> String {
    format!("Node {} {field}", node.meta.name)
}

fn health(node: &Node, fit: &mut NodeFit) {
    match node.conditions.get("Ready") {
        Some(ready) if ready.is_true() => {}
        Some(ready) => {
            let fix = format!("kulprit why node/{}", node.meta.name);
            let what = format!("it is not ready ({})", ready.line());
            fit.misfits.push(Check::new(what, at(node, "status.conditions[Ready]"), fix));
        }
        None => fit.unknown.push("whether the node is ready is not told".to_owned()),
    }
}

/// Cordon and taints.
fn marks(node: &Node, placement: &Placement, fit: &mut NodeFit) {
    let kept_off: Vec<_> = node.taints.iter().filter(|taint| !placement.tolerates(taint)).collect();
    let uncordon = || format!("kubectl uncordon {}", node.meta.name);
    let is_cordon_told = node.taints.iter().any(|taint| taint.key == UNSCHEDULABLE_TAINT);
    for taint in kept_off {
        let value = taint.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
        let effect = taint.effect.as_deref().unwrap_or_default();
        let (what, fix) = if taint.key == UNSCHEDULABLE_TAINT {
            ("it is cordoned".to_owned(), uncordon())
        } else {
            (format!("its taint {}{value}:{effect} is not tolerated by the launcher", taint.key), String::new())
        };
        fit.misfits.push(Check::new(what, at(node, "spec.taints"), fix));
    }
    if node.is_unschedulable && !is_cordon_told {
        fit.misfits.push(Check::new("it is cordoned", at(node, "spec.unschedulable"), uncordon()));
    }
}

/// The launcher's node selector and required affinity.
fn selectors(node: &Node, launcher: &Pod, placement: &Placement, fit: &mut NodeFit) {
    let mut lacks_cpu: Vec<&str> = Vec::new();
    for (key, wanted) in launcher.node_selector.iter().filter(|(key, wanted)| node.meta.label(key) != Some(wanted)) {
        let found = node.meta.label(key);
        if is_cpu_label(key) {
            lacks_cpu.push(key.split_once('/').map_or(key, |(_, name)| name));
            continue;
        }
        let fix = if key == SCHEDULABLE { format!("kulprit why node/{}", node.meta.name) } else { String::new() };
        let what = match (key.as_str(), found) {
            (SCHEDULABLE, None) => "KubeVirt does not run there (no label kubevirt.io/schedulable)".to_owned(),
            (SCHEDULABLE, Some(_)) => {
                "KubeVirt takes nothing there now (kubevirt.io/schedulable is not true)".to_owned()
            }
            (_, None) => format!("it lacks the label {key}={wanted} that the launcher's nodeSelector wants"),
            (_, Some(found)) => format!("its label {key} is {found}, and the launcher's nodeSelector wants {wanted}"),
        };
        fit.misfits.push(Check::new(what, at(node, &format!("metadata.labels[{key}]")), fix));
    }
    if !lacks_cpu.is_empty() {
        let more = if lacks_cpu.len() > MAX_NAMED { ", ..." } else { "" };
        let named = lacks_cpu.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
        let what = format!("{LACKS_CPU} {named}{more}, which the launcher's nodeSelector wants");
        fit.misfits.push(Check::new(what, at(node, "metadata.labels"), FIX_CPU));
    }
    if !placement.wants(node) {
        let what = "the launcher's required node affinity does not want it";
        let source = format!("Pod {} spec.affinity.nodeAffinity", launcher.full_name());
        fit.misfits.push(Check::new(what, source, ""));
    }
}

/// KubeVirt's devices that the launcher has: a node without them cannot run it.
fn devices(node: &Node, launcher: &Pod, fit: &mut NodeFit) {
    let limits = launcher.compute().into_iter().flat_map(|compute| compute.limits.keys());
    for device in limits.filter(|device| device.starts_with(KUBEVIRT_DEVICES)) {
        if node.offers(device) == Some(0) {
            let fix = format!("kulprit why node/{}", node.meta.name);
            let what = format!("it offers no {device}");
            fit.misfits.push(Check::new(what, at(node, &format!("status.allocatable[{device}]")), fix));
        }
    }
}

/// Whether a volume can be had there at all.
fn reach(node: &Node, claim: &VmClaim<'_>, fit: &mut NodeFit) {
    let Some(volume) = claim.persistent else { return };
    if volume.reach.as_ref().is_some_and(|reach| !reach.fit(node)) {
        let what = format!("the volume of its claim {} cannot be had there", claim.name);
        let source = format!("PersistentVolume {} spec.nodeAffinity", volume.meta.name);
        fit.misfits.push(Check::new(what, source, ""));
    }
}

/// A number of a resource as a person reads it.
fn amount(resource: &str, n: i64) -> String {
    match resource {
        "cpu" => format!("{}.{:03} cores", n / 1_000, n % 1_000),
        "memory" => format!("{} MiB", n >> 20),
        _ if resource.starts_with("hugepages-") => format!("{} MiB", n >> 20),
        _ => n.to_string(),
    }
}
