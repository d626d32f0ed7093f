//! Which pod of central: one that is Ready and stays; of several the one that became so last, which is the newest of a roll-out.
//!
//! Those that cannot be asked are told with their state, as `kubectl get pods` would: with none ready that is what a person looks for next.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// Central's port where no port of its pod is called [`PORT_NAME`].
const DEFAULT_PORT: u16 = 7443;
/// Name of the port of its gRPC API.
const PORT_NAME: &str = "grpc";

/// A pod that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CentralPod {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Of its gRPC API.
    pub(super) port: u16,
}

/// Pods, sorted out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sorted {
    /// In the order in which they are tried.
    pub(super) ready: Vec<CentralPod>,
    /// `namespace/name: state` of each that cannot be asked.
    pub(super) others: Vec<String>,
}

/// Sorts pods out.
pub(super) fn sort(mut pods: Vec<Pod>) -> Sorted {
    pods.sort_by_key(|pod| {
        let since = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
        (Reverse(since.map(|time| time.0)), pod.metadata.name.clone())
    });
    let mut sorted = Sorted { ready: Vec::new(), others: Vec::new() };
    for pod in pods {
        let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        match trouble(&pod) {
            None => sorted.ready.push(CentralPod { namespace, name, port: port(&pod) }),
            Some(state) => sorted.others.push(format!("{namespace}/{name}: {state}")),
        }
    }
    sorted
}

/// Why a pod cannot be asked; `None` if it can.
fn trouble(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("terminating".to_owned());
    }
    if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let waits_for =
        statuses.into_iter().flatten().find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let is_unscheduled = |scheduled: &PodCondition| scheduled.status == "False";
    let unscheduled = condition(pod, "PodScheduled").filter(|scheduled| is_unscheduled(scheduled));
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    Some(match (waits_for, unscheduled, phase.as_deref()) {
        (Some(reason), _, _) => reason,
        (None, Some(scheduled), _) => scheduled.reason.clone().unwrap_or_else(|| "not scheduled".to_owned()),
        (None, None, Some("Running") | None) => "not ready".to_owned(),
        (None, None, Some(phase)) => phase.to_owned(),
    })
}

fn condition<'pod>(pod: &'pod Pod, kind: &str) -> Option<&'pod PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn port(pod: &Pod) -> u16 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| port.name.as_deref() == Some(PORT_NAME));
    named.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"namespace": "kulprit", "name": name},
            "spec": {"containers": [{"name": "central"}]},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T04:00:00Z"},
            ]},
        });
        change(&mut pod);
        serde_json::from_value(pod).expect("a pod")
    }

    /// The state of a pod that cannot be asked; empty for one that can.
    #[track_caller]
    fn check_state(want: &str, change: impl FnOnce(&mut Value)) {
        let sorted = sort(vec![pod("c-0", change)]);
        let others: Vec<String> = if want.is_empty() { Vec::new() } else { vec![format!("kulprit/c-0: {want}")] };
        assert_eq!((sorted.ready.is_empty(), sorted.others), (!want.is_empty(), others));
    }

    #[test]
    fn a_pod_that_cannot_be_asked_is_told_with_its_state() {
        check_state("", |_| {});
        check_state("terminating", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T04:00:00Z"));
        check_state("not ready", |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
        check_state("not ready", |pod| pod["status"] = json!({}));
        check_state("Pending", |pod| pod["status"] = json!({"phase": "Pending"}));
        check_state("Unschedulable", |pod| {
            let scheduled = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"});
            pod["status"] = json!({"phase": "Pending", "conditions": [scheduled]});
        });
        check_state("CrashLoopBackOff", |pod| {
            pod["status"]["conditions"][0]["status"] = json!("False");
            let state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
            let status = json!({"image": "", "imageID": "", "ready": false, "restartCount": 9, "state": state});
            pod["status"]["containerStatuses"] = json!([status]);
            pod["status"]["containerStatuses"][0]["name"] = json!("central");
        });
    }

    #[test]
    fn the_one_that_became_ready_last_is_tried_first() {
        let at = |time: &'static str| {
            move |pod: &mut Value| pod["status"]["conditions"][0]["lastTransitionTime"] = json!(time)
        };
        let pods = vec![
            pod("c-0", at("2026-11-22T04:00:00Z")),
            pod("c-1", at("2026-11-22T05:00:00Z")),
            pod("c-2", at("2026-11-22T03:00:00Z")),
            pod("c-3", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T05:00:00Z")),
        ];
        let sorted = sort(pods);
        let names: Vec<&str> = sorted.ready.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!((names, sorted.others), (vec!["c-1", "c-0", "c-2"], vec!["kulprit/c-3: terminating".to_owned()]));
    }

    #[test]
    fn the_port_is_the_one_called_grpc_else_centrals_own() {
        let ports =
            |ports: Value| sort(vec![pod("c-0", |pod| pod["spec"]["containers"][0]["ports"] = ports)]).ready[0].port;
        assert_eq!(
            ports(json!([{"name": "admin", "containerPort": 1}, {"name": "grpc", "containerPort": 9000}])),
            9000
        );
        assert_eq!(ports(json!([{"name": "admin", "containerPort": 1}])), 7443);
        assert_eq!(ports(json!([{"name": "grpc", "containerPort": 90000}])), 7443);
        assert_eq!(ports(Value::Null), 7443);
    }
}
