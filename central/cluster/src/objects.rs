//! Objects of Kubernetes, shrunk at the door to the fields that a diagnosis reads.
//!
//! Every field is optional: partial objects (a name and a status, say) are normal. Words of an API (phases, reasons) stay texts, so
//! that those of newer versions pass. Source: Kubernetes API v1, KubeVirt `staging/src/kubevirt.io/api/core/v1/types.go`.

mod any;
mod demand;
mod event;
mod image;
mod namespace;
mod node;
mod pod;
mod rules;
mod selector;
mod storage;
mod vm;

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) use self::{
    any::Object,
    demand::{Placement, Requests, Terms},
    event::Event,
    image::whole_image,
    namespace::Namespace,
    node::{Lease, Node, Taint},
    pod::{Container, ContainerState, Pod},
    rules::{PodRules, PodTerm, Spread},
    storage::{Attachment, Claim, CsiNode, DataVolume, Volume},
    vm::{KubeVirt, Migration, MigrationPolicy, MigrationSettings, MigrationState, Vm, VmVolume, Vmi},
};
use crate::value;

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Meta {
    /// Empty if not told, or cluster-wide.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) generate_name: Option<String>,
    pub(crate) created_usec: Option<i64>,
    /// When deletion was asked for: of pods Kubernetes writes the end of the grace period, which is taken off here.
    pub(crate) deleted_usec: Option<i64>,
    pub(crate) deletion_grace_secs: Option<i64>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) owners: Vec<Owner>,
}

/// One of `ownerReferences`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl Meta {
    /// `None` without a name.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let meta = value::at(object, &["metadata"]);
        let deletion_grace_secs = value::integer(meta, &["deletionGracePeriodSeconds"]).filter(|secs| *secs >= 0);
        // KubeVirt's own kinds end at once and by finalizers: there it is the moment of asking, whatever stands beside it.
        let is_custom = value::text(object, &["kind"]).is_some_and(|kind| kind.starts_with("VirtualMachine"));
        let grace_usec = deletion_grace_secs.filter(|_| !is_custom).unwrap_or(0).saturating_mul(1_000_000);
        let owners = value::list(meta, &["ownerReferences"]).iter().filter_map(|owner| {
            Some(Owner { kind: value::text(owner, &["kind"])?, name: value::text(owner, &["name"])? })
        });
        Some(Self {
            namespace: value::text(meta, &["namespace"]).unwrap_or_default(),
            name: value::text(meta, &["name"])?,
            uid: value::text(meta, &["uid"]),
            generate_name: value::text(meta, &["generateName"]),
            created_usec: value::time(meta, &["creationTimestamp"]),
            deleted_usec: value::time(meta, &["deletionTimestamp"]).map(|usec| usec.saturating_sub(grace_usec)),
            deletion_grace_secs,
            labels: value::map(meta, &["labels"]),
            annotations: value::map(meta, &["annotations"]),
            owners: owners.collect(),
        })
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    pub(crate) fn owner(&self, kind: &str) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.kind == kind)
    }
}

/// One of `status.conditions`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) name: String,
    /// `True`, `False`, `Unknown`.
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    /// `lastTransitionTime`.
    pub(crate) since_usec: Option<i64>,
}

impl Condition {
    pub(crate) fn is_true(&self) -> bool {
        self.status == "True"
    }

    pub(crate) fn is_false(&self) -> bool {
        self.status == "False"
    }

    /// `Ready=False, reason X: message`.
    pub(crate) fn line(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(", reason {reason}")).unwrap_or_default();
        let message = self.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        format!("{}={}{reason}{message}", self.name, self.status)
    }
}

/// `status.conditions` of any object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Conditions(Vec<Condition>);

impl Conditions {
    pub(crate) fn read(object: &Value) -> Self {
        let conditions = value::list(object, &["status", "conditions"]).iter().filter_map(|condition| {
            Some(Condition {
                name: value::text(condition, &["type"])?,
                status: truth_word(&value::text(condition, &["status"])?),
                reason: value::text(condition, &["reason"]),
                message: value::text(condition, &["message"]),
                since_usec: value::time(condition, &["lastTransitionTime"]),
            })
        });
        Self(conditions.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.name == name)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(Condition::is_true)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn newest_usec(&self) -> Option<i64> {
        self.0.iter().filter_map(|condition| condition.since_usec).max()
    }
}

/// YAML without quotes makes a truth value of the word.
fn truth_word(text: &str) -> String {
    match text {
        "true" => "True".to_owned(),
        "false" => "False".to_owned(),
        _ => text.to_owned(),
    }
}

/// Phases and when each began (`phaseTransitionTimestamps`).
pub(crate) fn phase_times(object: &Value) -> Vec<(String, i64)> {
    let times = value::list(object, &["status", "phaseTransitionTimestamps"]).iter();
    times
        .filter_map(|entry| {
            Some((
                value::text(entry, &["phase"]).unwrap_or_default(),
                value::time(entry, &["phaseTransitionTimestamp"])?,
            ))
        })
        .collect()
}

/// The nodes that a spec's selector or required affinity names.
pub(crate) fn wanted_nodes(spec: &Value) -> Vec<String> {
    const HOSTNAME: &str = "kubernetes.io/hostname";
    let mut nodes: Vec<String> = value::text(spec, &["nodeSelector", HOSTNAME]).into_iter().collect();
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    for term in value::list(spec, &required) {
        let fields = value::list(term, &["matchExpressions"]).iter().chain(value::list(term, &["matchFields"]));
        for field in fields {
            let is_name = matches!(value::text(field, &["key"]).as_deref(), Some(HOSTNAME | "metadata.name"));
            if is_name && value::text(field, &["operator"]).as_deref() == Some("In") {
                nodes.extend(value::texts(field, &["values"]));
            }
        }
    }
    nodes.sort();
    nodes.dedup();
    nodes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_deletion_was_asked_for_before_its_grace_period() {
        let pod = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-03-01T10:15:30Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(Meta::read(&pod).unwrap().deleted_usec, value::parse_time("2026-03-01T10:15:00Z"));
    }

    #[test]
    fn a_vmis_deletion_was_asked_for_when_it_says() {
        let vmi = json!({"kind": "VirtualMachineInstance", "metadata": {"name": "v",
            "deletionTimestamp": "2026-03-01T10:15:30Z", "deletionGracePeriodSeconds": 3600}});
        assert_eq!(Meta::read(&vmi).unwrap().deleted_usec, value::parse_time("2026-03-01T10:15:30Z"));
    }

    #[test]
    fn selectors_and_required_affinity_name_nodes() {
        let spec = json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}, "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1", "n2"]},
                {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n3"]}]}]}}}});
        assert_eq!(wanted_nodes(&spec), ["n1", "n2"]);
        assert!(wanted_nodes(&json!("x")).is_empty());
    }
}
