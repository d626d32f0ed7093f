//! Rules about other pods, asked as the scheduler asks them: the launcher's required affinity, anti-affinity and spread, and the required
//! anti-affinity of the pods that are there.
//!
//! The target's launcher is made like the one that runs now, which is one of the pods that are there until the migration is over. One
//! that the last migration left is on its way out and keeps the VM off for moments only: the scheduler tries again. Only KubeVirt's
//! and CDI's own pods and those of the control plane are watched: where a rule may mean others, what is not there for certain is said
//! to be not looked at. Source: Kubernetes `pkg/scheduler/framework/plugins/interpodaffinity/filtering.go`,
//! `.../podtopologyspread/filtering.go`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, NodeFit, Preflight};
use crate::{
    cluster::Cluster,
    objects::{Node, Placement, Pod, PodRules, PodTerm, Spread},
};

/// Whatever has one of these labels, with one of these values if there are any, is watched.
const WATCHED: [(&str, &[&str]); 2] = [
    ("kubevirt.io", &["virt-launcher", "hotplug-disk", "virt-handler", "virt-controller", "virt-api", "virt-operator"]),
    ("kubevirt.io/created-by", &[]),
];

/// A place: the key of a label of nodes, and its value.
type Place<'c> = (&'c str, &'c str);

/// The rules, worked out once for all nodes.
pub(super) struct Rules<'c> {
    launcher: &'c Pod,
    own: &'c PodRules,
    /// Where the launcher must not be, and for which pod.
    shunned: BTreeMap<Place<'c>, String>,
    /// Where a pod does not want it, and which.
    taken: BTreeMap<Place<'c>, String>,
    /// Places that one of the two may be, if the labels of a namespace were known.
    doubtful: BTreeSet<Place<'c>>,
    /// Places with a pod that all terms of its affinity mean.
    near: BTreeSet<Place<'c>>,
    /// Whether a pod may be one, if the labels of its namespace were known.
    is_near_doubtful: bool,
    /// Whether its affinity means the launcher itself.
    is_near_itself: bool,
    spreads: Vec<Counted<'c>>,
    /// A launcher of the same VM that is not the one that runs it.
    former: Option<&'c Pod>,
}

/// A spread, and how many pods of it each place has.
struct Counted<'c> {
    spread: &'c Spread,
    places: BTreeMap<&'c str, i64>,
}

impl<'c> Rules<'c> {
    pub(super) fn new(cluster: &'c Cluster, launcher: &'c Pod, none: &'c PodRules) -> Self {
        let own = launcher.rules.as_deref().unwrap_or(none);
        let mut rules = Self {
            launcher,
            own,
            shunned: BTreeMap::new(),
            taken: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            near: BTreeSet::new(),
            is_near_doubtful: false,
            is_near_itself: false,
            spreads: Vec::new(),
            former: cluster.pods.values().find(|pod| !pod.is_over() && is_former(launcher, pod)),
        };
        let there = || {
            let of_nodes = cluster.pods.values().filter(|pod| !pod.is_over() && !is_former(launcher, pod));
            of_nodes.filter_map(|pod| Some((pod, cluster.nodes.get(pod.node.as_deref()?)?)))
        };
        let is_meant = |term: &PodTerm, by: &Pod, pod: &Pod| {
            term.means(&by.meta.namespace, &pod.meta, |name| cluster.labels_of_namespace(name))
        };
        rules.is_near_itself = own.near.iter().all(|term| is_meant(term, launcher, launcher) == Some(true));
        for (pod, node) in there() {
            for term in pod.rules.iter().flat_map(|rules| &rules.away) {
                rules.keep_off(term, node, is_meant(term, pod, launcher), pod, |rules| &mut rules.taken);
            }
            for term in &own.away {
                rules.keep_off(term, node, is_meant(term, launcher, pod), pod, |rules| &mut rules.shunned);
            }
            let mut all = own.near.iter().map(|term| is_meant(term, launcher, pod));
            match all.try_fold(true, |is_sure, is| match is {
                Some(true) => Ok(is_sure),
                Some(false) => Err(()),
                None => Ok(false),
            }) {
                Ok(true) => rules.near.extend(own.near.iter().filter_map(|term| place(node, &term.topology_key))),
                Ok(false) => rules.is_near_doubtful = true,
                Err(()) => {}
            }
        }
        rules.spreads = own.spreads.iter().map(|spread| Counted::new(cluster, launcher, own, spread)).collect();
        rules
    }

    /// One pod and one term of anti-affinity, whosever it is.
    fn keep_off(
        &mut self,
        term: &'c PodTerm,
        node: &'c Node,
        is_meant: Option<bool>,
        pod: &Pod,
        list: impl FnOnce(&mut Self) -> &mut BTreeMap<Place<'c>, String>,
    ) {
        match (is_meant, place(node, &term.topology_key)) {
            (Some(true), Some(place)) => _ = list(self).entry(place).or_insert_with(|| pod.full_name()),
            (None, Some(place)) => _ = self.doubtful.insert(place),
            (Some(false), _) | (_, None) => {}
        }
    }

    /// What is not looked at, whichever node it is.
    pub(super) fn say_limits(&self, placement: &Placement, found: &mut Preflight) {
        let is_open = !self.own.away.iter().all(|term| is_watched(|key, values| term.asks_for(key, values)))
            || !self.own.spreads.iter().all(|spread| is_watched(|key, values| spread.asks_for(key, values)));
        if is_open {
            let what = "not looked at: pods that are not KubeVirt's, which its rules about other pods (anti-affinity, \
                        spread) may mean too";
            let fix = "compare them with `kubectl get pods -A --show-labels -o wide`";
            found.warnings.push(Check::new(what, self.source("spec.affinity, spec.topologySpreadConstraints"), fix));
        }
        if let Some((former, node)) = self.former.and_then(|pod| Some((pod, pod.node.as_deref()?))) {
            let what = format!(
                "its former launcher {} is still on {node}, and keeps it off until it is gone",
                former.full_name()
            );
            found.notes.push(what);
        }
        for other in &placement.others {
            let source = self.source("spec.schedulerName, spec.resourceClaims");
            found.warnings.push(Check::new(format!("not looked at: {other}"), source, ""));
        }
        if self.own.has_preferences {
            let what =
                "not looked at: what its launcher only prefers (affinity, spread); that ranks nodes and refuses none";
            found.notes.push(what.to_owned());
        }
        let what = "not looked at: whether pods that are not KubeVirt's keep it off by an anti-affinity of their own";
        found.notes.push(what.to_owned());
    }

    pub(super) fn ask(&self, node: &Node, fit: &mut NodeFit) {
        self.anti_affinity(node, fit);
        self.affinity(node, fit);
        for counted in &self.spreads {
            counted.ask(self, node, fit);
        }
    }

    fn anti_affinity(&self, node: &Node, fit: &mut NodeFit) {
        let at = |place: &Place<'_>| node.meta.label(place.0) == Some(place.1);
        if let Some((place, pod)) = self.shunned.iter().find(|(place, _)| at(place)) {
            let what = format!("its anti-affinity keeps it away from the pod {pod}, which is {}", there(place));
            fit.misfits.push(Check::new(what, self.source("spec.affinity.podAntiAffinity"), ""));
        } else if let Some((place, pod)) = self.taken.iter().find(|(place, _)| at(place)) {
            let what = format!("the pod {pod}, which is {}, keeps it away by its anti-affinity", there(place));
            fit.misfits.push(Check::new(what, format!("Pod {pod} spec.affinity.podAntiAffinity"), ""));
        } else if self.doubtful.iter().any(at) {
            let what =
                "whether an anti-affinity keeps it off is not known: it goes by labels of namespaces, which are not";
            fit.unknown.push(what.to_owned());
        }
    }

    fn affinity(&self, node: &Node, fit: &mut NodeFit) {
        let source = || self.source("spec.affinity.podAffinity");
        if let Some(term) = self.own.near.iter().find(|term| node.meta.label(&term.topology_key).is_none()) {
            let what = format!("it lacks the label {}, by which the launcher's pod affinity goes", term.topology_key);
            fit.misfits.push(Check::new(what, source(), ""));
            return;
        }
        let is_at = |term: &&PodTerm| place(node, &term.topology_key).is_some_and(|place| self.near.contains(&place));
        let Some(term) = self.own.near.iter().find(|term| !is_at(term)) else { return };
        // A pod that all terms mean is one that each of them does.
        let is_closed = self.own.near.iter().any(|term| is_watched(|key, values| term.asks_for(key, values)));
        // Where no pod is meant yet, one that means itself may be the first anywhere.
        if is_closed && self.near.is_empty() && self.is_near_itself {
            return;
        }
        let value = node.meta.label(&term.topology_key).unwrap_or_default();
        let here = there(&(&term.topology_key, value));
        if is_closed && !self.is_near_doubtful {
            let what = format!("no pod that its affinity wants near is {here}");
            fit.misfits.push(Check::new(what, source(), ""));
        } else {
            let what = format!(
                "whether a pod that its affinity wants near is {here}: pods that are not KubeVirt's are not looked at"
            );
            fit.unknown.push(what);
        }
    }

    fn source(&self, field: &str) -> String {
        format!("Pod {} {field}", self.launcher.full_name())
    }
}

impl<'c> Counted<'c> {
    fn new(cluster: &'c Cluster, launcher: &'c Pod, own: &'c PodRules, spread: &'c Spread) -> Self {
        let mut places: BTreeMap<&str, i64> = BTreeMap::new();
        let mut place_of: BTreeMap<&str, &str> = BTreeMap::new();
        let has_all_keys = |node: &&Node| own.spreads.iter().all(|one| node.meta.label(&one.topology_key).is_some());
        for node in cluster.nodes.values().filter(has_all_keys).filter(|node| counts_node(spread, launcher, node)) {
            let Some((_, value)) = place(node, &spread.topology_key) else { continue };
            places.entry(value).or_default();
            place_of.insert(&node.meta.name, value);
        }
        let namespace = &launcher.meta.namespace;
        let pods = cluster.pods.values().filter(|pod| pod.meta.namespace == *namespace && !pod.is_over());
        let pods = pods.filter(|pod| !is_former(launcher, pod));
        for pod in pods.filter(|pod| spread.counts(&pod.meta)) {
            if let Some(value) = pod.node.as_deref().and_then(|node| place_of.get(node)) {
                *places.entry(value).or_default() += 1;
            }
        }
        Self { spread, places }
    }

    fn ask(&self, rules: &Rules<'_>, node: &Node, fit: &mut NodeFit) {
        let Self { spread, places } = self;
        let key = &spread.topology_key;
        let source = || rules.source("spec.topologySpreadConstraints");
        let Some(value) = node.meta.label(key) else {
            let what = format!("it lacks the label {key}, over whose values the launcher is spread");
            fit.misfits.push(Check::new(what, source(), ""));
            return;
        };
        let n_places = i64::try_from(places.len()).unwrap_or(i64::MAX);
        let least = if n_places < spread.min_places { Some(0) } else { places.values().min().copied() };
        // Without any place nothing can be ahead of another.
        let Some(least) = least else { return };
        let there_now = places.get(value).copied().unwrap_or(0);
        let skew = there_now + i64::from(spread.counts_itself(&rules.launcher.meta)) - least;
        if skew <= spread.max_skew {
            return;
        }
        let what = format!(
            "its spread over {key} would not hold: {value} would be {skew} pods ahead of the emptiest, {} are allowed",
            spread.max_skew
        );
        if is_watched(|key, values| spread.asks_for(key, values)) {
            fit.misfits.push(Check::new(what, source(), ""));
        } else {
            fit.unknown.push(format!("{what}; but pods that are not KubeVirt's may count, and are not looked at"));
        }
    }
}

/// Whether a pod is of the same VM as its launcher, and another one.
fn is_former(launcher: &Pod, pod: &Pod) -> bool {
    let vmi = launcher.meta.label("kubevirt.io/created-by");
    vmi.is_some() && pod.meta.label("kubevirt.io/created-by") == vmi && pod.meta.name != launcher.meta.name
}

/// Whether a node is one over which the launcher is spread.
fn counts_node(spread: &Spread, launcher: &Pod, node: &Node) -> bool {
    let Some(placement) = &launcher.placement else { return true };
    let is_wanted = || {
        launcher.node_selector.iter().all(|(key, value)| node.meta.label(key) == Some(value)) && placement.wants(node)
    };
    let is_tolerated = || node.taints.iter().all(|taint| placement.tolerates(taint));
    (!spread.honors_affinity || is_wanted()) && (!spread.honors_taints || is_tolerated())
}

/// Whether all pods that a selector can mean are watched.
fn is_watched(asks_for: impl Fn(&str, &[&str]) -> bool) -> bool {
    WATCHED.iter().any(|(key, values)| asks_for(key, values))
}

fn place<'c>(node: &'c Node, key: &'c str) -> Option<Place<'c>> {
    Some((key, node.meta.label(key)?))
}

/// Where a place is, in words.
fn there((key, value): &Place<'_>) -> String {
    if *key == "kubernetes.io/hostname" { format!("on {value}") } else { format!("in {key}={value}") }
}
