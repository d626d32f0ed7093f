//! What KubeVirt's objects have in common: times, phases with their history, conditions, and the events told of them.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A time as Kubernetes writes it, to the second.
pub(super) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Moves an object into a phase, with its entry in `phaseTransitionTimestamps`.
pub(super) fn enter_phase(object: &mut Value, phase: &str, at: Timestamp) {
    let entry = json!({"phase": phase, "phaseTransitionTimestamp": stamp(at)});
    let status = &mut object["status"];
    status["phase"] = phase.into();
    match status["phaseTransitionTimestamps"].as_array_mut() {
        Some(entries) => entries.push(entry),
        None => status["phaseTransitionTimestamps"] = json!([entry]),
    }
}

/// Sets one of an object's conditions; `why` is its reason and message. Its time stays where its status does.
pub(super) fn set_condition(object: &mut Value, kind: &str, status: bool, why: Option<(&str, &str)>, at: Timestamp) {
    let status = if status { "True" } else { "False" };
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let list = conditions.as_array_mut().expect("it is one since the line above");
    let before = list.iter().find(|one| one["type"] == kind && one["status"] == status);
    let since = before.map_or_else(|| Value::from(stamp(at)), |one| one["lastTransitionTime"].clone());
    let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
    if let Some((reason, message)) = why {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    match list.iter_mut().find(|one| one["type"] == kind) {
        Some(one) => *one = condition,
        None => list.push(condition),
    }
}

/// Takes one of an object's finalizers away.
pub(super) fn drop_finalizer(object: &mut Value, name: &str) {
    if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != name);
    }
}

/// Who tells of something, and with which weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    /// `virtualmachine-controller`, `virt-handler`, `kubelet` …
    pub(super) by: &'a str,
    /// The node it is on; empty for none.
    pub(super) on: &'a str,
    pub(super) is_warning: bool,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
}

/// The event about an object, told once at that time; `number` makes its name.
pub(super) fn event(about: &Value, told: Told<'_>, number: u64, at: Timestamp) -> Value {
    let meta = &about["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    let mut source = Map::new();
    source.insert("component".to_owned(), told.by.into());
    if !told.on.is_empty() {
        source.insert("host".to_owned(), told.on.into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}{number:04x}", at.as_second()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": name,
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "type": if told.is_warning { "Warning" } else { "Normal" },
        "reason": told.reason,
        "message": told.message,
        "source": source,
        "reportingComponent": told.by,
        "reportingInstance": told.on,
        "firstTimestamp": stamp(at),
        "lastTimestamp": stamp(at),
        "eventTime": null,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_phase_keeps_the_ones_before_it() {
        let mut object = json!({});
        enter_phase(&mut object, "Pending", at(0));
        enter_phase(&mut object, "Running", at(60));
        assert_eq!(object["status"]["phase"], "Running");
        let times = &object["status"]["phaseTransitionTimestamps"];
        assert_eq!(times[0]["phaseTransitionTimestamp"], "1970-01-01T00:00:00Z");
        assert_eq!((&times[1]["phase"], times.as_array().unwrap().len()), (&json!("Running"), 2));
    }

    #[test]
    fn a_condition_is_there_once_and_its_time_is_that_of_its_status() {
        let mut object = json!({});
        set_condition(&mut object, "Ready", false, Some(("GuestNotRunning", "not yet")), at(0));
        set_condition(&mut object, "Ready", false, Some(("PodTerminating", "going")), at(60));
        let only = &object["status"]["conditions"][0];
        assert_eq!(
            (&only["reason"], &only["lastTransitionTime"]),
            (&json!("PodTerminating"), &json!("1970-01-01T00:00:00Z"))
        );
        set_condition(&mut object, "Ready", true, None, at(120));
        let conditions = object["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]["lastTransitionTime"]), (1, &json!("1970-01-01T00:02:00Z")));
        assert_eq!(conditions[0].get("reason"), None);
    }
}
