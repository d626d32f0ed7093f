//! What stands on the nodes of a cluster for others to read: marks of ours, and what keeps us from making more.
//!
//! Central is the only one who writes marks; here is only what it finds. Which marks are ours is told by a prefix. Sources of the
//! signs that somebody else has taken a node in hand: Kubernetes well-known taints, KubeVirt's default drain taint, medik8s' node
//! maintenance, cluster-autoscaler `utils/taints`, Karpenter `pkg/apis/v1/taints.go`, kured, OpenShift's machine-config-operator.

use crate::{
    cluster::Cluster,
    objects::{Condition, Node, Taint},
};

/// Who central is in `managedFields`.
pub const FIELD_MANAGER: &str = "kulprit-central";
/// Where a zone is told.
const ZONE: &str = "topology.kubernetes.io/zone";
/// virt-handler writes it on every node that it manages.
const FOR_VMS: &str = "kubevirt.io/schedulable";

/// Taints of others who take the node away, and what that means.
const TAKEN_TAINTS: &[(&str, &str)] = &[
    ("node.kubernetes.io/unschedulable", "it is cordoned"),
    ("node.kubernetes.io/out-of-service", "it is out of service"),
    ("kubevirt.io/drain", "it is drained"),
    ("medik8s.io/drain", "it is under maintenance"),
    ("ToBeDeletedByClusterAutoscaler", "the cluster autoscaler removes it"),
    ("karpenter.sh/disrupted", "Karpenter removes it"),
    ("karpenter.sh/disruption", "Karpenter removes it"),
    ("node.cloudprovider.kubernetes.io/shutdown", "its machine is shut down"),
];

/// medik8s' remediators, each with a key of its own: `medik8s.io/remediation` (self-node-remediation `controllers`),
/// `medik8s.io/fence-agents-remediation`, later `remediation.medik8s.io/fence-agents-remediation` (fence-agents-remediation `api/v1alpha1`).
const MEDIK8S: &str = "medik8s.io";
/// kured writes it while it drains and reboots a node.
const REBOOT: &str = "weave.works/kured-reboot-in-progress";
/// OpenShift writes both; they differ while a node gets its next configuration.
const CONFIG_NOW: &str = "machineconfiguration.openshift.io/currentConfig";
const CONFIG_WANTED: &str = "machineconfiguration.openshift.io/desiredConfig";

/// One node as far as marks go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingNode {
    /// Its name.
    pub name: String,
    /// Its UID; empty if not told.
    pub uid: String,
    /// Its zone; empty for a node of none.
    pub zone: String,
    /// Whether KubeVirt manages it.
    pub is_for_vms: bool,
    /// Whether it takes no VMs as it is: cordoned, not ready, or taken away by a taint of somebody else.
    pub is_out: bool,
    /// Why somebody else has it in hand, a clause of a sentence: nothing is added to it then.
    pub taken: Option<String>,
    /// Its conditions of our prefix, those that central wrote without one, and those that it takes over, in its order.
    pub conditions: Vec<StandingCondition>,
    /// Its taints of our prefix, in its order.
    pub taints: Vec<StandingTaint>,
}

/// A condition as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingCondition {
    /// Its type, with the prefix.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// `lastTransitionTime`, Unix microseconds.
    pub since_usec: Option<i64>,
}

/// A taint as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingTaint {
    /// Its key, with the prefix.
    pub key: String,
    /// Its effect.
    pub effect: String,
}

impl Cluster {
    /// What stands on each node, by name; of conditions and taints those whose name begins with `prefix`. Of conditions also those of
    /// which [`FIELD_MANAGER`] owns the status, and those that `is_taken_over`, asked with the node's name and the type.
    pub fn standing<'c>(
        &'c self,
        prefix: &'c str,
        is_taken_over: impl Fn(&str, &str) -> bool + 'c,
    ) -> impl Iterator<Item = StandingNode> + 'c {
        self.nodes.values().map(move |node| standing(node, prefix, &is_taken_over))
    }
}

fn standing(node: &Node, prefix: &str, is_taken_over: &dyn Fn(&str, &str) -> bool) -> StandingNode {
    let is_ours = |name: &str| name.starts_with(prefix);
    let is_written = |own: &&Condition| {
        is_ours(&own.name) || node.owned_conditions.contains(&own.name) || is_taken_over(&node.meta.name, &own.name)
    };
    let condition = |condition: &Condition| StandingCondition {
        kind: condition.name.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
        since_usec: condition.since_usec,
    };
    let taint =
        |taint: &Taint| StandingTaint { key: taint.key.clone(), effect: taint.effect.clone().unwrap_or_default() };
    StandingNode {
        name: node.meta.name.clone(),
        uid: node.meta.uid.clone().unwrap_or_default(),
        zone: node.meta.label(ZONE).unwrap_or_default().to_owned(),
        is_for_vms: node.meta.label(FOR_VMS).is_some(),
        is_out: node.is_unschedulable || !node.conditions.is_true("Ready") || taken_by_taint(node).is_some(),
        taken: taken(node),
        conditions: node.conditions.iter().filter(is_written).map(condition).collect(),
        taints: node.taints.iter().filter(|own| is_ours(&own.key)).map(taint).collect(),
    }
}

/// The first sign that somebody else has the node in hand.
fn taken(node: &Node) -> Option<String> {
    if node.meta.deleted_usec.is_some() {
        return Some("it is being deleted".to_owned());
    }
    if node.is_unschedulable {
        return Some("it is cordoned".to_owned());
    }
    if let Some(means) = taken_by_taint(node) {
        return Some(means);
    }
    let (now, wanted) = (node.meta.annotation(CONFIG_NOW), node.meta.annotation(CONFIG_WANTED));
    if now.is_some() && wanted.is_some() && now != wanted {
        return Some(format!("it is being upgraded (annotation {CONFIG_WANTED})"));
    }
    if node.meta.annotation(REBOOT).is_some() {
        return Some(format!("it is being rebooted (annotation {REBOOT})"));
    }
    node.maintenance().map(|(key, _)| format!("it is under maintenance (annotation {key})"))
}

fn taken_by_taint(node: &Node) -> Option<String> {
    let known = TAKEN_TAINTS.iter().find_map(|(key, means)| {
        node.taints.iter().any(|taint| taint.key == *key).then(|| format!("{means} (taint {key})"))
    });
    let is_medik8s = |taint: &&Taint| {
        let (domain, _) = taint.key.split_once('/').unwrap_or_default();
        domain.strip_suffix(MEDIK8S).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
    };
    let remediated = || node.taints.iter().find(is_medik8s).map(|taint| &taint.key);
    known.or_else(|| remediated().map(|key| format!("medik8s remediates it (taint {key})")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(node: Value) -> StandingNode {
        let mut cluster = Cluster::new();
        cluster.add(&node).unwrap();
        let mut standing = cluster.standing("kulprit.io/", |_, _| false);
        standing.next().unwrap()
    }

    fn node(meta: Value, spec: Value) -> StandingNode {
        let mut node = json!({"kind": "Node", "apiVersion": "v1", "metadata": meta, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        node["metadata"]["name"] = json!("n1");
        read(node)
    }

    #[test]
    fn marks_of_our_prefix_are_read_and_no_others() {
        let node = read(json!({"kind": "Node", "apiVersion": "v1",
            "metadata": {"name": "n1", "uid": "u", "labels": {ZONE: "a", FOR_VMS: "false"}},
            "spec": {"taints": [{"key": "kulprit.io/x", "effect": "NoSchedule"}, {"key": "kubevirt.io/x", "effect": "NoSchedule"}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "False"},
                {"type": "kulprit.io/X", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "1970-01-01T00:00:07Z"},
                {"type": "kulprit.iox", "status": "True"}]}}));
        let condition = StandingCondition {
            kind: "kulprit.io/X".to_owned(),
            status: "True".to_owned(),
            reason: "R".to_owned(),
            message: "m".to_owned(),
            since_usec: Some(7_000_000),
        };
        let taint = StandingTaint { key: "kulprit.io/x".to_owned(), effect: "NoSchedule".to_owned() };
        let want = StandingNode {
            name: "n1".to_owned(),
            uid: "u".to_owned(),
            zone: "a".to_owned(),
            is_for_vms: true,
            is_out: true,
            taken: None,
            conditions: vec![condition],
            taints: vec![taint],
        };
        assert_eq!(node, want);
    }

    #[test]
    fn conditions_without_our_prefix_are_ours_if_we_own_them_or_take_them_over() {
        let owned = json!({"f:status": {"f:conditions": {"k:{\"type\":\"KubeletUnhealthy\"}": {"f:status": {}}}}});
        let of = |manager: &str, subresource: &str| {
            read(json!({"kind": "Node", "apiVersion": "v1",
                "metadata": {"name": "n1", "managedFields": [{"manager": manager, "subresource": subresource, "fieldsV1": owned}]},
                "status": {"conditions": [{"type": "KubeletUnhealthy", "status": "True"}, {"type": "Ready", "status": "True"}]}}))
        };
        let kinds = |node: StandingNode| node.conditions.into_iter().map(|own| own.kind).collect::<Vec<_>>();
        assert_eq!(kinds(of(FIELD_MANAGER, "status")), ["KubeletUnhealthy"]);
        assert_eq!(kinds(of("node-problem-detector", "status")), [""; 0]);
        assert_eq!(kinds(of(FIELD_MANAGER, "")), [""; 0]);
        let name_only = json!({"f:status": {"f:conditions": {"k:{\"type\":\"KubeletUnhealthy\"}": {"f:type": {}}}}});
        let node = read(json!({"kind": "Node", "apiVersion": "v1",
            "metadata": {"name": "n1", "managedFields": [{"manager": FIELD_MANAGER, "subresource": "status", "fieldsV1": name_only}]},
            "status": {"conditions": [{"type": "KubeletUnhealthy", "status": "True"}]}}));
        assert_eq!(kinds(node), [""; 0], "another writes it now");
        let mut cluster = Cluster::new();
        cluster
            .add(&json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"},
            "status": {"conditions": [{"type": "KubeletUnhealthy", "status": "True"}]}}))
            .unwrap();
        let taken = |node: &str, kind: &str| (node, kind) == ("n1", "KubeletUnhealthy");
        assert_eq!(kinds(cluster.standing("kulprit.io/", taken).next().unwrap()), ["KubeletUnhealthy"]);
    }

    #[test]
    fn a_node_that_is_ready_and_in_nobodys_hand_is_neither_out_nor_taken() {
        let well = node(
            json!({"annotations": {CONFIG_NOW: "a", CONFIG_WANTED: "a", "x/maintenance": "false"}}),
            json!({"taints": [{"key": "node-role.kubernetes.io/infra", "effect": "NoSchedule"}]}),
        );
        assert_eq!((well.is_out, well.taken, well.is_for_vms), (false, None, false));
    }

    #[test]
    fn a_node_that_others_take_away_by_a_taint_is_out_and_one_with_a_mark_alone_is_not() {
        for key in ["karpenter.sh/disrupted", "ToBeDeletedByClusterAutoscaler", "medik8s.io/remediation"] {
            assert!(node(json!({}), json!({"taints": [{"key": key, "effect": "NoSchedule"}]})).is_out, "{key}");
        }
        let marked = node(json!({"annotations": {"example.com/maintainer": "ada"}}), json!({}));
        assert!(marked.taken.is_some() && !marked.is_out, "it still takes VMs");
    }

    #[test]
    fn every_sign_that_somebody_has_it_in_hand_is_told() {
        let taken = |meta: Value, spec: Value| node(meta, spec).taken.unwrap_or_default();
        for (key, means) in TAKEN_TAINTS {
            let said = taken(json!({}), json!({"taints": [{"key": key, "effect": "NoSchedule"}]}));
            assert_eq!(said, format!("{means} (taint {key})"));
        }
        for key in [
            "medik8s.io/remediation",
            "medik8s.io/fence-agents-remediation",
            "remediation.medik8s.io/fence-agents-remediation",
        ] {
            let said = taken(json!({}), json!({"taints": [{"key": key, "effect": "NoExecute"}]}));
            assert_eq!(said, format!("medik8s remediates it (taint {key})"));
        }
        assert_eq!(taken(json!({}), json!({"taints": [{"key": "notmedik8s.io/x", "effect": "NoSchedule"}]})), "");
        assert_eq!(taken(json!({}), json!({"unschedulable": true})), "it is cordoned");
        assert_eq!(taken(json!({"deletionTimestamp": "2026-03-01T10:00:00Z"}), json!({})), "it is being deleted");
        let upgraded = taken(json!({"annotations": {CONFIG_NOW: "a", CONFIG_WANTED: "b"}}), json!({}));
        assert!(upgraded.starts_with("it is being upgraded"), "{upgraded}");
        assert!(taken(json!({"annotations": {REBOOT: "now"}}), json!({})).contains(REBOOT));
        let maintained = taken(json!({"annotations": {"x/maintenance": "true"}}), json!({}));
        assert_eq!(maintained, "it is under maintenance (annotation x/maintenance)");
    }
}
