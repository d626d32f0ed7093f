//! Events, of the core group and of `events.k8s.io`: who said what about which object, how often, from when to when.

use kulprit_signature::Speaker;
use serde_json::Value;

use crate::{facts::texts::is_of_workload, value};

/// Of a message so much is kept: newer kinds of events have 1 KiB at most, older ones whatever somebody wrote.
const MAX_MESSAGE_BYTES: usize = 4_096;

/// An event.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Event {
    /// Its own namespace and name; empty if not told.
    pub(crate) key: (String, String),
    pub(crate) about: About,
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
    pub(crate) is_warning: bool,
    pub(crate) component: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) count: u64,
    pub(crate) first_usec: Option<i64>,
    pub(crate) last_usec: Option<i64>,
}

/// The object that an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Empty if not told.
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

impl Event {
    /// `None` if it has neither reason nor message, or names no object.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let first_text = |paths: &[&[&str]]| paths.iter().find_map(|path| value::text(object, path));
        let first_time = |paths: &[&[&str]]| paths.iter().find_map(|path| value::time(object, path));
        let about = [value::at(object, &["involvedObject"]), value::at(object, &["regarding"])]
            .into_iter()
            .find(|about| about.is_object())
            .unwrap_or(&Value::Null);
        let own_name = first_text(&[&["metadata", "name"]]).unwrap_or_default();
        let namespace = first_text(&[&["metadata", "namespace"]]).unwrap_or_default();
        // `kubectl` names an event after its object: `<object>.<hex digits>`.
        let by_name = || own_name.rsplit_once('.').map(|(object, _)| object.to_owned());
        let about = About {
            kind: value::text(about, &["kind"]).unwrap_or_default(),
            namespace: value::text(about, &["namespace"]).unwrap_or_else(|| namespace.clone()),
            name: value::text(about, &["name"]).or_else(by_name)?,
            uid: value::text(about, &["uid"]),
        };
        let reason = first_text(&[&["reason"]]);
        let mut message = first_text(&[&["message"], &["note"]]).unwrap_or_default();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.shrink_to_fit();
        if reason.is_none() && message.is_empty() {
            return None;
        }
        let created = value::time(object, &["metadata", "creationTimestamp"]);
        let first = first_time(&[&["firstTimestamp"], &["deprecatedFirstTimestamp"], &["eventTime"]]);
        let last =
            [&["series", "lastObservedTime"][..], &["lastTimestamp"], &["deprecatedLastTimestamp"], &["eventTime"]]
                .into_iter()
                .filter_map(|path| value::time(object, path))
                .max();
        let count = [&["series", "count"][..], &["count"], &["deprecatedCount"]]
            .into_iter()
            .filter_map(|path| value::integer(object, path))
            .max();
        let component = first_text(&[
            &["source", "component"],
            &["reportingComponent"],
            &["reportingController"],
            &["deprecatedSource", "component"],
        ]);
        let is_kubelets = component.as_deref() == Some("kubelet");
        let host = first_text(&[&["source", "host"], &["deprecatedSource", "host"]])
            .or_else(|| first_text(&[&["reportingInstance"]]).filter(|_| is_kubelets));
        Some(Self {
            key: (namespace, own_name),
            about,
            is_warning: first_text(&[&["type"]]).is_some_and(|word| word.eq_ignore_ascii_case("warning")),
            reason,
            message,
            component,
            host,
            count: count.and_then(|count| u64::try_from(count).ok()).unwrap_or(1).max(1),
            first_usec: first.or(last).or(created),
            last_usec: last.or(first).or(created),
        })
    }

    pub(crate) fn is_reason(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }

    /// `Reason: message`.
    pub(crate) fn line(&self) -> String {
        match (&self.reason, self.message.is_empty()) {
            (Some(reason), false) => format!("{reason}: {}", self.message),
            (Some(reason), true) => reason.clone(),
            (None, _) => self.message.clone(),
        }
    }

    /// The node that it tells of: the kubelet's own, or `Successfully assigned ns/pod to node`.
    pub(crate) fn node(&self) -> Option<&str> {
        let assigned = || {
            let (_, node) = self.message.strip_prefix("Successfully assigned ")?.rsplit_once(" to ")?;
            Some(node)
        };
        self.host.as_deref().or_else(assigned)
    }

    /// Whether it is about something that a diagnosis reads. Pods are told by the names that KubeVirt and CDI give theirs.
    pub(crate) fn is_read(&self) -> bool {
        const PODS: [&str; 5] = ["virt-", "hp-volume-", "importer-", "cdi-", "prime-"];
        let name = self.about.name.as_str();
        match self.about.kind.as_str() {
            "VirtualMachine"
            | "VirtualMachineInstance"
            | "VirtualMachineInstanceMigration"
            | "DataVolume"
            | "Node"
            | "PersistentVolumeClaim"
            | "PersistentVolume"
            | "VolumeAttachment" => true,
            "Pod" => PODS.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with("-source-pod"),
            _ => is_of_workload(self),
        }
    }

    /// Whether it says that Kubernetes removes a node.
    pub(crate) fn is_removal_of_node(&self) -> bool {
        matches!(self.reason.as_deref(), Some("RemovingNode" | "DeletingNode"))
    }

    /// Namespace and name of the object that it is about.
    pub(crate) fn about_key(&self) -> (String, String) {
        (self.about.namespace.clone(), self.about.name.clone())
    }

    /// Whether it is about an object of this kind; one that does not tell its object's kind is about any.
    pub(crate) fn is_about(&self, kind: &str) -> bool {
        self.about.kind == kind || self.about.kind.is_empty()
    }

    /// Who wrote it: by its component, else by what writes about such an object.
    pub(crate) fn speaker(&self) -> Speaker {
        if let Some(component) = self.component.as_deref() {
            return speaker_of(component);
        }
        match (self.about.kind.as_str(), self.reason.as_deref()) {
            (_, Some("FailedScheduling" | "Preempted" | "Scheduled")) => Speaker::Scheduler,
            (_, Some("FailedAttachVolume" | "SuccessfulAttachVolume" | "FailedDetachVolume")) => {
                Speaker::ControllerManager
            }
            ("Pod" | "Node", _) => Speaker::Kubelet,
            ("VirtualMachineInstance", Some("SyncFailed" | "Migrated" | "Migrating" | "Stopped" | "Started")) => {
                Speaker::Handler
            }
            ("VirtualMachine" | "VirtualMachineInstance" | "VirtualMachineInstanceMigration", _) => Speaker::Controller,
            ("DataVolume", _) => Speaker::Cdi,
            _ => Speaker::Other,
        }
    }
}

/// Components by the names that they give themselves.
fn speaker_of(component: &str) -> Speaker {
    let component = component.to_ascii_lowercase();
    let has = |part: &str| component.contains(part);
    match component.as_str() {
        "kubelet" => Speaker::Kubelet,
        "virt-handler" => Speaker::Handler,
        "virt-launcher" => Speaker::Launcher,
        "kernel-monitor" | "systemd-monitor" | "node-problem-detector" => Speaker::Host,
        "virtualmachine-controller"
        | "virtualmachineinstance-controller"
        | "virtualmachineinstancemigration-controller"
        | "disruptionbudget-controller"
        | "evacuation-controller"
        | "node-controller-kubevirt" => Speaker::Controller,
        _ if component.starts_with("virt-") || has("kubevirt") => Speaker::Controller,
        _ if has("scheduler") => Speaker::Scheduler,
        _ if has("datavolume")
            || has("cdi")
            || has("import")
            || has("clone-controller")
            || has("upload-controller")
            || has("populator") =>
        {
            Speaker::Cdi
        }
        _ if has("csi")
            || has("provisioner")
            || has("resizer")
            || has("longhorn")
            || has("linstor")
            || has("snapshotter") =>
        {
            Speaker::Csi
        }
        _ if has("multus") || has("cni") || has("ovn") || has("calico") || has("cilium") || has("flannel") => {
            Speaker::Cni
        }
        _ if has("containerd") || has("crio") => Speaker::Runtime,
        _ if has("controller") => Speaker::ControllerManager,
        _ => Speaker::Other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_groups_of_events_are_read() {
        let old = json!({"kind": "Event", "metadata": {"name": "p.1", "namespace": "prod"}, "involvedObject": {"kind": "Pod", "name": "p"},
            "reason": "FailedMount", "message": "m", "type": "Warning", "count": 3, "source": {"component": "kubelet", "host": "n1"},
            "firstTimestamp": "2026-03-01T10:00:00Z", "lastTimestamp": "2026-03-01T10:05:00Z"});
        let new = json!({"kind": "Event", "metadata": {"name": "p.1", "namespace": "prod"},
            "regarding": {"kind": "Pod", "name": "p", "namespace": "prod"}, "reason": "FailedMount", "note": "m", "type": "Warning",
            "reportingController": "kubelet", "reportingInstance": "n1", "eventTime": "2026-03-01T10:00:00.000000Z",
            "series": {"count": 3, "lastObservedTime": "2026-03-01T10:05:00.000000Z"}});
        for event in [old, new] {
            let read = Event::read(&event).unwrap();
            assert_eq!(
                (read.count, read.host.as_deref(), read.speaker()),
                (3, Some("n1"), Speaker::Kubelet),
                "{event}"
            );
            assert_eq!(read.last_usec.unwrap() - read.first_usec.unwrap(), 300_000_000);
            assert_eq!((read.about.kind.as_str(), read.about.namespace.as_str()), ("Pod", "prod"));
        }
    }

    #[test]
    fn an_event_without_its_object_is_about_what_its_name_says() {
        let event = json!({"metadata": {"name": "virt-launcher-a-b-x1y2z.18e9fc4e3ffb8dac"}, "reason": "Failed"});
        assert_eq!(Event::read(&event).unwrap().about.name, "virt-launcher-a-b-x1y2z");
        assert!(Event::read(&json!({"reason": "Failed"})).is_none());
    }
}
