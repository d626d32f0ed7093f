//! Everything that is written to Kubernetes, request by request: conditions and taints of nodes, Events, central's Lease, and the certificate
//! that it makes.
//!
//! Conditions go by server-side apply to the status subresource: our field manager owns our entries of the list and no others, and what
//! we no longer name goes. `spec.taints` is one value as a whole to Kubernetes (`listType=atomic`), so it is read first and replaced only if
//! nobody changed the node meanwhile. Every request has a deadline; none is tried again here but a conflict of taints.

use std::time::Duration;

use http::{HeaderValue, header::ACCEPT};
use jiff::Timestamp;
use kube::{
    Client,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions, Request},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::requests::{Failure, ask, text};
use crate::{
    conditions::due::Condition,
    taints::{TaintChange, with_ours},
};

/// Who we are in `managedFields`.
pub use kulprit_cluster::FIELD_MANAGER;
/// For one answer. Beyond what a Lease is renewed before it ends, so that nothing is under way when another holds it.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Nodes of a page: each has up to 50 images, some 10 KB.
const PAGE_NODES: u32 = 250;
/// So often a node's taints are read again because somebody changed the node meanwhile.
const CONFLICTS: usize = 3;
/// Of a node that was written only its metadata is wanted back: it has up to 50 images.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// What central has in its own namespace: read and replaced as a whole, by the `resourceVersion` that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owned {
    /// By which it is elected.
    Lease,
    /// Its certificate, if it made one.
    Secret,
    /// The authority of that.
    ConfigMap,
}

impl Owned {
    /// As an object names its kind.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "Lease",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    fn request(self, namespace: &str) -> Request {
        let (group, plural) = match self {
            Self::Lease => ("apis/coordination.k8s.io", "leases"),
            Self::Secret => ("api", "secrets"),
            Self::ConfigMap => ("api", "configmaps"),
        };
        Request::new(format!("/{group}/v1/namespaces/{namespace}/{plural}"))
    }
}

/// Writes to one API server; clones share its connections.
#[derive(Clone)]
pub struct Writes {
    client: Client,
}

impl Writes {
    /// To the server of this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes these all our conditions of a node.
    pub(crate) async fn apply_conditions(
        &self,
        node: &str,
        uid: &str,
        conditions: &[Condition],
        now_usec: i64,
    ) -> Result<(), Failure> {
        let patch = Patch::Apply(applied(node, uid, conditions, now_usec));
        // Our prefix is ours, whoever wrote there.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let mut request = nodes().patch_subresource("status", node, &params, &patch).map_err(Failure::garbled)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
        self.answer(request).await.map(drop)
    }

    /// Removes conditions from a node, whoever else owns a field of them; nothing to remove is nothing to ask.
    pub(crate) async fn remove_conditions(&self, node: &str, uid: &str, kinds: &[&str]) -> Result<(), Failure> {
        if kinds.is_empty() {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Strategic(removed(uid, kinds));
        let mut request = nodes().patch_subresource("status", node, &params, &patch).map_err(Failure::garbled)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
        self.answer(request).await.map(drop)
    }

    /// Makes these all our taints of a node, and leaves all others.
    pub(crate) async fn set_taints(&self, change: &TaintChange) -> Result<(), Failure> {
        let mut n_conflicts = 0;
        loop {
            let request = nodes().get(&change.node, &GetParams::default()).map_err(Failure::garbled)?;
            let node = self.object(request).await?;
            let Some(patch) = taint_patch(&node, change)? else { return Ok(()) };
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let patched = nodes().patch(&change.node, &params, &Patch::Merge(patch));
            let mut request = patched.map_err(Failure::garbled)?;
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA_ONLY));
            match self.answer(request).await {
                Err(Failure::Status { code: 409, .. }) if n_conflicts < CONFLICTS => n_conflicts += 1,
                answer => return answer.map(drop),
            }
        }
    }

    /// Makes an Event; a conflict if one of its name is there.
    pub(crate) async fn create_event(&self, namespace: &str, event: &Value) -> Result<(), Failure> {
        let request = events(namespace).create(&posted(), event.to_string().into_bytes()).map_err(Failure::garbled)?;
        self.answer(request).await.map(drop)
    }

    /// Says that what an Event tells of was seen again, so many times by now. The API server takes no other change of an Event.
    pub(crate) async fn observe_event(
        &self,
        namespace: &str,
        name: &str,
        count: u32,
        now_usec: i64,
    ) -> Result<(), Failure> {
        let series = json!({"series": {"count": count, "lastObservedTime": micro_time(now_usec)}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let request = events(namespace).patch(name, &params, &Patch::Merge(series)).map_err(Failure::garbled)?;
        self.answer(request).await.map(drop)
    }

    /// Makes an object; a conflict if it is there already.
    pub(crate) async fn create_owned(&self, what: Owned, namespace: &str, object: &Value) -> Result<Value, Failure> {
        let body = object.to_string().into_bytes();
        let request = what.request(namespace).create(&posted(), body).map_err(Failure::garbled)?;
        self.object(request).await
    }

    /// Replaces an object; a conflict if it is not of that `resourceVersion` any more.
    pub(crate) async fn replace_owned(
        &self,
        what: Owned,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Value, Failure> {
        let body = object.to_string().into_bytes();
        let request = what.request(namespace).replace(name, &posted(), body).map_err(Failure::garbled)?;
        self.object(request).await
    }

    /// Every node, whole.
    pub(crate) async fn nodes(&self) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut params = ListParams { limit: Some(PAGE_NODES), ..ListParams::default() };
        loop {
            let mut page = self.object(nodes().list(&params).map_err(Failure::garbled)?).await?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items);
            }
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token.to_owned()),
                None => return Ok(all),
            }
        }
    }

    /// Something of central's own namespace as it is.
    pub(crate) async fn owned(&self, what: Owned, namespace: &str, name: &str) -> Result<Value, Failure> {
        let request = what.request(namespace).get(name, &GetParams::default()).map_err(Failure::garbled)?;
        self.object(request).await
    }

    /// Removes something of central's own namespace, if it is still the one with that UID.
    pub(crate) async fn delete_owned(
        &self,
        what: Owned,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), Failure> {
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = what.request(namespace).delete(name, &params).map_err(Failure::garbled)?;
        self.answer(request).await.map(drop)
    }

    async fn object(&self, request: http::Request<Vec<u8>>) -> Result<Value, Failure> {
        serde_json::from_str(&self.answer(request).await?).map_err(Failure::garbled)
    }

    async fn answer(&self, request: http::Request<Vec<u8>>) -> Result<String, Failure> {
        let answer = async { text(ask(&self.client, request).await?.what).await };
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }
}

fn nodes() -> Request {
    Request::new("/api/v1/nodes")
}

fn events(namespace: &str) -> Request {
    Request::new(format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"))
}

fn posted() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// A node as we apply it. With its UID, so that another of the same name is not meant.
fn applied(node: &str, uid: &str, conditions: &[Condition], now_usec: i64) -> Value {
    let mut metadata = json!({"name": node});
    if !uid.is_empty() {
        metadata["uid"] = json!(uid);
    }
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|Condition { kind, truth, reason, message, since_usec }| {
            json!({
                "type": kind,
                "status": truth.as_str(),
                "reason": reason,
                "message": message,
                "lastTransitionTime": time(*since_usec),
                "lastHeartbeatTime": time(now_usec),
            })
        })
        .collect();
    let status = if conditions.is_empty() { json!({}) } else { json!({"conditions": conditions}) };
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status})
}

/// What removes elements of the list of conditions, and no others.
fn removed(uid: &str, kinds: &[&str]) -> Value {
    let conditions: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind, "$patch": "delete"})).collect();
    let metadata = if uid.is_empty() { json!({}) } else { json!({"uid": uid}) };
    json!({"metadata": metadata, "status": {"conditions": conditions}})
}

/// What makes our taints of the node as wanted, if it is still that version; `None` if they are so.
fn taint_patch(node: &Value, change: &TaintChange) -> Result<Option<Value>, Failure> {
    let (meta, taints) = (&node["metadata"], &node["spec"]["taints"]);
    let uid = meta["uid"].as_str().unwrap_or_default();
    if !change.uid.is_empty() && uid != change.uid {
        let message = format!("{} is another node now", change.node);
        return Err(Failure::Status { code: 404, message, retry_after: Duration::ZERO });
    }
    let version = meta["resourceVersion"].as_str().filter(|version| !version.is_empty());
    let version = version.ok_or_else(|| Failure::garbled("a node without a resourceVersion"))?;
    let before = taints.as_array().map(Vec::as_slice).unwrap_or_default();
    let after = with_ours(before, &change.taints);
    if after == before {
        return Ok(None);
    }
    let after = if after.is_empty() { Value::Null } else { Value::Array(after) };
    Ok(Some(json!({"metadata": {"resourceVersion": version, "uid": uid}, "spec": {"taints": after}})))
}

/// A time as Kubernetes writes most: whole seconds.
fn time(usec: i64) -> String {
    Timestamp::from_microsecond(usec).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// A time as Leases have it.
pub(crate) fn micro_time(usec: i64) -> String {
    Timestamp::from_microsecond(usec).map(|at| at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conditions::Truth, taints::Effect};

    #[test]
    fn conditions_are_applied_with_the_words_and_times_of_kubernetes() {
        let condition = Condition {
            kind: "kulprit.io/KvmUnavailable".to_owned(),
            truth: Truth::Unknown,
            reason: "R".to_owned(),
            message: "m".to_owned(),
            since_usec: 1_772_359_200_900_000,
        };
        let want = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u"}, "status": {"conditions": [{
            "type": "kulprit.io/KvmUnavailable", "status": "Unknown", "reason": "R", "message": "m",
            "lastTransitionTime": "2026-03-01T10:00:00Z", "lastHeartbeatTime": "2026-03-01T10:00:01Z"}]}});
        assert_eq!(applied("n1", "u", &[condition], 1_772_359_201_000_000), want);
        assert_eq!(applied("n1", "", &[], 0)["status"], json!({}));
        let want =
            json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"type": "NTPProblem", "$patch": "delete"}]}});
        assert_eq!(removed("u", &["NTPProblem"]), want);
        assert_eq!(micro_time(1_772_359_200_900_001), "2026-03-01T10:00:00.900001Z");
    }

    fn change(taints: &[(&str, Effect)]) -> TaintChange {
        let taints = taints.iter().map(|(key, effect)| ((*key).to_owned(), *effect)).collect();
        let (node, uid, over) = ("n1".to_owned(), "u".to_owned(), Default::default());
        TaintChange { node, uid, taints, adds: true, over }
    }

    fn node(taints: Value) -> Value {
        json!({"metadata": {"name": "n1", "uid": "u", "resourceVersion": "7"}, "spec": {"taints": taints}})
    }

    #[test]
    fn taints_are_replaced_as_a_whole_and_only_of_the_version_and_node_that_was_read() {
        let ours = change(&[("kulprit.io/kvm-unavailable", Effect::NoSchedule)]);
        let foreign = json!({"key": "x", "effect": "NoExecute", "timeAdded": "2026-03-01T10:00:00Z"});
        let own = json!({"key": "kulprit.io/kvm-unavailable", "effect": "NoSchedule"});
        let patch =
            |taints: Value| Some(json!({"metadata": {"resourceVersion": "7", "uid": "u"}, "spec": {"taints": taints}}));
        assert_eq!(taint_patch(&node(json!([foreign])), &ours), Ok(patch(json!([foreign, own]))));
        assert_eq!(taint_patch(&node(Value::Null), &ours), Ok(patch(json!([own]))));
        assert_eq!(taint_patch(&node(json!([own, foreign])), &ours), Ok(None), "it is so already");
        assert_eq!(taint_patch(&node(json!([own])), &change(&[])), Ok(patch(Value::Null)));
        assert_eq!(taint_patch(&node(Value::Null), &change(&[])), Ok(None));
        let another = json!({"metadata": {"uid": "v", "resourceVersion": "7"}});
        assert!(matches!(taint_patch(&another, &ours), Err(Failure::Status { code: 404, .. })));
        assert!(matches!(taint_patch(&json!({"metadata": {"uid": "u"}}), &ours), Err(Failure::Garbled(_))));
    }
}
