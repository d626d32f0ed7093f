//! What a pod asks of its node: what it requests, which taints it tolerates, which nodes it wants; and whether a node answers.
//!
//! Requests are kept of every pod that is watched, the rest of launchers alone: theirs is the only place that is looked for. Source:
//! Kubernetes `k8s.io/component-helpers/{scheduling/corev1,resource}` (how terms match, what a pod requests in all).

use std::collections::BTreeMap;

use serde_json::Value;

use super::Node;
use crate::{
    objects::{node::Taint, selector::Requirement},
    value,
};

/// Not counted: of KubeVirt's devices a node has a thousand, and space is told by the node's pressure and its agent.
fn is_counted(resource: &str) -> bool {
    resource != "ephemeral-storage" && !resource.starts_with("devices.kubevirt.io/")
}

/// What a pod requests in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// Thousandths of a core.
    pub(crate) cpu_milli: i64,
    pub(crate) memory_bytes: i64,
    /// Huge pages (bytes) and host devices (pieces), by resource.
    pub(crate) others: BTreeMap<String, i64>,
}

impl Requests {
    /// Of a pod's spec: containers and sidecars together, or the largest init container with the sidecars before it.
    pub(crate) fn read(spec: &Value) -> Self {
        let (mut all, mut sidecars, mut peak) = (Self::default(), Self::default(), Self::default());
        for container in value::list(spec, &["initContainers"]) {
            let own = Self::of_container(container);
            if value::text(container, &["restartPolicy"]).as_deref() == Some("Always") {
                all.add(&own);
                sidecars.add(&own);
            } else {
                let mut with_sidecars = own;
                with_sidecars.add(&sidecars);
                peak.raise(&with_sidecars);
            }
        }
        value::list(spec, &["containers"]).iter().for_each(|container| all.add(&Self::of_container(container)));
        all.raise(&peak);
        all.add(&Self::of_map(&value::map(spec, &["overhead"])));
        all
    }

    fn of_container(container: &Value) -> Self {
        Self::of_map(&value::map(container, &["resources", "requests"]))
    }

    fn of_map(map: &BTreeMap<String, String>) -> Self {
        let mut requests = Self::default();
        for (resource, quantity) in map {
            match resource.as_str() {
                "cpu" => requests.cpu_milli = value::milli_quantity(quantity).unwrap_or(0),
                "memory" => requests.memory_bytes = value::quantity(quantity).unwrap_or(0),
                other if !is_counted(other) => {}
                _ => _ = requests.others.insert(resource.clone(), value::quantity(quantity).unwrap_or(0)),
            }
        }
        requests
    }

    /// Adds what another requests.
    pub(crate) fn add(&mut self, other: &Self) {
        self.join(other, i64::saturating_add);
    }

    /// At least as much as another.
    fn raise(&mut self, other: &Self) {
        self.join(other, i64::max);
    }

    fn join(&mut self, other: &Self, join: fn(i64, i64) -> i64) {
        self.cpu_milli = join(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = join(self.memory_bytes, other.memory_bytes);
        for (resource, n) in &other.others {
            let own = self.others.entry(resource.clone()).or_default();
            *own = join(*own, *n);
        }
    }
}

/// Which nodes a launcher can go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    tolerations: Vec<Toleration>,
    /// Required node affinity: one of these terms; `None`: none is required.
    terms: Option<Terms>,
    /// What else decides of its place: another scheduler's name, or devices that are claimed (`resourceClaims`).
    pub(crate) others: Vec<String>,
}

impl Placement {
    pub(crate) fn read(spec: &Value) -> Self {
        let tolerations = value::list(spec, &["tolerations"]).iter().map(|toleration| Toleration {
            key: value::text(toleration, &["key"]),
            value: value::text(toleration, &["value"]),
            effect: value::text(toleration, &["effect"]),
            is_exists: value::text(toleration, &["operator"]).as_deref() == Some("Exists"),
        });
        let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
        let scheduler = value::text(spec, &["schedulerName"]).filter(|name| name != "default-scheduler");
        let has_claims = !value::list(spec, &["resourceClaims"]).is_empty();
        Self {
            tolerations: tolerations.collect(),
            terms: Terms::read(value::at(spec, &required)),
            others: scheduler
                .map(|name| format!("the rules of the scheduler {name}"))
                .into_iter()
                .chain(has_claims.then(|| "devices that its resource claims want".to_owned()))
                .collect(),
        }
    }

    /// Whether it may be placed in spite of a taint.
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        let keeps_pods_off = matches!(taint.effect.as_deref(), Some("NoSchedule" | "NoExecute") | None);
        !keeps_pods_off || self.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    }

    /// Whether a node is one that the required affinity wants.
    pub(crate) fn wants(&self, node: &Node) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.fit(node))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Toleration {
    /// `None`: every key.
    key: Option<String>,
    value: Option<String>,
    /// `None`: every effect.
    effect: Option<String>,
    is_exists: bool,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        let is_key = self.key.as_ref().map_or(self.is_exists, |key| *key == taint.key);
        let is_effect = self.effect.is_none() || taint.effect.is_none() || self.effect == taint.effect;
        is_key && is_effect && (self.is_exists || self.value == taint.value)
    }
}

/// `nodeSelectorTerms`: a node fits if it fits one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms(Vec<Vec<OfNode>>);

/// What is asked of a node: of a label, or (`matchFields`) of the one field that can be asked for, its name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OfNode {
    Label(Requirement),
    Name(Requirement),
}

impl Terms {
    /// `None` if nothing is required.
    pub(crate) fn read(selector: &Value) -> Option<Self> {
        selector.is_object().then(|| {
            let terms = value::list(selector, &["nodeSelectorTerms"]).iter().map(|term| {
                let labels = value::list(term, &["matchExpressions"]).iter().filter_map(Requirement::read);
                let fields = value::list(term, &["matchFields"]).iter().filter_map(Requirement::read);
                labels.map(OfNode::Label).chain(fields.map(OfNode::Name)).collect()
            });
            Self(terms.collect())
        })
    }

    /// Whether a node fits. A term without a requirement fits none.
    pub(crate) fn fit(&self, node: &Node) -> bool {
        self.0.iter().any(|term| !term.is_empty() && term.iter().all(|requirement| requirement.fits(node)))
    }
}

impl OfNode {
    fn fits(&self, node: &Node) -> bool {
        match self {
            Self::Label(requirement) => requirement.holds(node.meta.label(&requirement.key)),
            Self::Name(requirement) => requirement.holds(Some(&node.meta.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(labels: Value, taint: Value) -> Node {
        Node::read(&json!({"metadata": {"name": "n2", "labels": labels}, "spec": {"taints": [taint]}})).unwrap()
    }

    #[test]
    fn a_pod_requests_what_it_needs_at_the_same_time() {
        let container = |cpu: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}});
        let mut sidecar = container("5m", "35M");
        sidecar["restartPolicy"] = json!("Always");
        let mut compute = container("50m", "100M");
        compute["resources"]["requests"]["hugepages-2Mi"] = json!("4Mi");
        compute["resources"]["requests"]["ephemeral-storage"] = json!("50M");
        let spec = json!({"initContainers": [container("500m", "1M"), sidecar, container("10m", "10M")],
            "containers": [compute, container("1m", "1M")], "overhead": {"cpu": "100m"}});
        let requests = Requests::read(&spec);
        assert_eq!((requests.cpu_milli, requests.memory_bytes), (600, 136_000_000));
        assert_eq!(requests.others, [("hugepages-2Mi".to_owned(), 4 << 20)].into());
    }

    #[track_caller]
    fn check_taint(toleration: Value, taint: Value, want: bool) {
        let node = node(json!({}), taint.clone());
        let placement = Placement::read(&json!({"tolerations": [toleration]}));
        assert_eq!(placement.tolerates(&node.taints[0]), want, "{toleration} {taint}");
    }

    #[test]
    fn a_taint_is_tolerated_by_key_value_and_effect() {
        let taint = json!({"key": "gpu", "value": "a", "effect": "NoSchedule"});
        check_taint(
            json!({"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"}),
            taint.clone(),
            true,
        );
        check_taint(json!({"key": "gpu", "value": "a"}), taint.clone(), true);
        check_taint(json!({"key": "gpu", "value": "b"}), taint.clone(), false);
        check_taint(json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), taint.clone(), false);
        check_taint(json!({"key": "other", "operator": "Exists"}), taint.clone(), false);
        check_taint(json!({"operator": "Exists"}), taint, true);
        check_taint(json!({"key": "x"}), json!({"key": "gpu", "effect": "PreferNoSchedule"}), true);
    }

    #[track_caller]
    fn check_term(requirement: Value, want: bool) {
        let node = node(json!({"zone": "a", "cores": "8"}), json!({}));
        let spec = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "none", "operator": "Exists"}]}, requirement]}}}});
        assert_eq!(Placement::read(&spec).wants(&node), want, "{requirement}");
    }

    #[test]
    fn what_else_decides_of_a_place_is_told() {
        let others = |spec: Value| Placement::read(&spec).others.join(", ");
        assert_eq!(others(json!({"schedulerName": "default-scheduler", "resourceClaims": []})), "");
        assert_eq!(others(json!({"schedulerName": "numa"})), "the rules of the scheduler numa");
        assert!(others(json!({"resourceClaims": [{"name": "gpu"}]})).contains("resource claims"));
    }

    #[test]
    fn a_node_is_wanted_if_one_term_fits_it() {
        let label = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check_term(label("zone", "In", json!(["a", "b"])), true);
        check_term(label("zone", "In", json!(["b"])), false);
        check_term(label("zone", "NotIn", json!(["b"])), true);
        check_term(label("zone", "NotIn", json!(["a"])), false);
        check_term(label("rack", "NotIn", json!(["a"])), true);
        check_term(label("zone", "Exists", json!([])), true);
        check_term(label("zone", "DoesNotExist", json!([])), false);
        check_term(label("cores", "Gt", json!(["7"])), true);
        check_term(label("cores", "Lt", json!(["8"])), false);
        check_term(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), true);
        check_term(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), false);
        check_term(json!({}), false);
        assert!(Placement::read(&json!({})).wants(&node(json!({}), json!({}))), "nothing is required");
    }
}
