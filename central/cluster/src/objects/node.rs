//! Nodes and their leases.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Conditions, Meta, whole_image};
use crate::{standing::FIELD_MANAGER, value};

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) conditions: Conditions,
    /// Whether the spec is known, so that a taint that is not there is none.
    pub(crate) has_spec: bool,
    pub(crate) is_unschedulable: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) allocatable: BTreeMap<String, String>,
    pub(crate) capacity: BTreeMap<String, String>,
    pub(crate) kernel: Option<String>,
    /// Types of conditions without a prefix that central owns, as `managedFields` tell.
    pub(crate) owned_conditions: BTreeSet<String>,
    /// Images that it has, by each of their names in full; Kubernetes lists 50 images at most.
    pub(crate) images: BTreeSet<String>,
}

/// A taint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) effect: Option<String>,
    pub(crate) since_usec: Option<i64>,
}

impl Node {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let (spec, status) = (value::at(object, &["spec"]), value::at(object, &["status"]));
        let taints = value::list(spec, &["taints"]).iter().filter_map(|taint| {
            Some(Taint {
                key: value::text(taint, &["key"])?,
                value: value::text(taint, &["value"]),
                effect: value::text(taint, &["effect"]),
                since_usec: value::time(taint, &["timeAdded"]),
            })
        });
        let images = value::list(status, &["images"]).iter().flat_map(|image| value::texts(image, &["names"]));
        Some(Self {
            meta: Meta::read(object)?,
            conditions: Conditions::read(object),
            has_spec: spec.is_object(),
            is_unschedulable: value::boolean(spec, &["unschedulable"]).unwrap_or(false),
            taints: taints.collect(),
            allocatable: value::map(status, &["allocatable"]),
            capacity: value::map(status, &["capacity"]),
            kernel: value::text(status, &["nodeInfo", "kernelVersion"]),
            owned_conditions: owned_conditions(object),
            images: images.map(|image| whole_image(&image)).collect(),
        })
    }

    /// How much of a resource it offers; `None` if its resources are not told, 0 if it does not list this one.
    pub(crate) fn offers(&self, resource: &str) -> Option<i64> {
        if self.allocatable.is_empty() {
            return None;
        }
        self.allocatable.get(resource).map_or(Some(0), |quantity| value::quantity(quantity))
    }

    /// Names after a label's prefix, of labels that are not `false`.
    pub(crate) fn labelled(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.meta.labels.iter().filter(|(_, is)| *is != "false").filter_map(move |(key, _)| key.strip_prefix(prefix))
    }

    pub(crate) fn heartbeat_usec(&self) -> Option<i64> {
        value::parse_time(self.meta.annotation("kubevirt.io/heartbeat")?.trim_matches('"'))
    }

    /// The annotation that says it is under maintenance, as tools of many makers do.
    pub(crate) fn maintenance(&self) -> Option<(&String, &String)> {
        self.meta.annotations.iter().find(|(key, value)| {
            key.to_ascii_lowercase().contains("maintain") || key.contains("maintenance") && value.as_str() != "false"
        })
    }

    pub(crate) fn is_not_ready(&self) -> bool {
        self.conditions.get("Ready").is_some_and(|ready| !ready.is_true())
    }
}

/// Keys of the list are written `k:{"type":"X"}` there. Whoever owns the status owns the condition: of what another writes now we may still
/// own the name. Those with a prefix are told by it.
fn owned_conditions(object: &Value) -> BTreeSet<String> {
    let entries = value::list(object, &["metadata", "managedFields"]).iter();
    let ours = entries.filter(|entry| {
        value::text(entry, &["manager"]).as_deref() == Some(FIELD_MANAGER)
            && value::text(entry, &["subresource"]).as_deref() == Some("status")
    });
    let keys = ours.filter_map(|entry| value::at(entry, &["fieldsV1", "f:status", "f:conditions"]).as_object());
    let kinds = keys.flatten().filter(|(_, fields)| fields.get("f:status").is_some()).filter_map(|(key, _)| {
        let key: Value = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
        value::text(&key, &["type"]).filter(|kind| !kind.contains('/'))
    });
    kinds.collect()
}

/// A lease of `kube-node-lease`: a kubelet's heartbeat.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lease {
    pub(crate) meta: Meta,
    pub(crate) renewed_usec: Option<i64>,
    pub(crate) secs: Option<i64>,
}

impl Lease {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        Some(Self {
            meta: Meta::read(object)?,
            renewed_usec: value::time(object, &["spec", "renewTime"]),
            secs: value::integer(object, &["spec", "leaseDurationSeconds"]),
        })
    }
}
