//! What central may do in Kubernetes: every right that it uses, and which of them it is refused.
//!
//! The tables are the roles that it needs (`docs/central-role.yaml`, `docs/made-role.yaml`), neither more nor less. Every answer is
//! looked at by [`noting`], which tells from the API server's own words whether a right is missing: one log line and one series for each, so
//! that a role that is too small says by itself what is to be added.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode, Uri};
use kube::{Client, client::Body, core::Status};
use tower::service_fn;
use tracing::{info, warn};

use super::kinds::ROWS;
use crate::metrics::{CentralMetrics, RightLabels};

/// Rights on one resource beside those to list and watch what is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its group; empty for the core group.
    pub group: &'static str,
    /// Its plural, with the subresource.
    pub resource: &'static str,
    /// The same as `kubectl` names it, with the group.
    pub name: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
    /// Whether it is in central's own namespace alone.
    pub is_own: bool,
}

/// What the requests of [`write`](mod@super::write) and [`review`](mod@super::review) need.
pub const USED: &[Used] = &[
    Used { group: "", resource: "nodes", name: "nodes", verbs: &["get", "patch"], is_own: false },
    Used { group: "", resource: "nodes/status", name: "nodes/status", verbs: &["patch"], is_own: false },
    Used {
        group: "events.k8s.io",
        resource: "events",
        name: "events.events.k8s.io",
        verbs: &["create", "patch"],
        is_own: false,
    },
    Used {
        group: "authentication.k8s.io",
        resource: "tokenreviews",
        name: "tokenreviews.authentication.k8s.io",
        verbs: &["create"],
        is_own: false,
    },
    Used {
        group: "authorization.k8s.io",
        resource: "subjectaccessreviews",
        name: "subjectaccessreviews.authorization.k8s.io",
        verbs: &["create"],
        is_own: false,
    },
    Used {
        group: "coordination.k8s.io",
        resource: "leases",
        name: "leases",
        verbs: &["create", "get", "update"],
        is_own: true,
    },
];

/// What `tls.made` needs besides, all in central's own namespace; with the name of the object where it has one before it is there.
pub const MADE: &[(Used, Option<&str>)] = &[
    (own("configmaps", &["create"]), None),
    (own("configmaps", &["get", "update"]), Some("kulprit-central-ca")),
    (own("secrets", &["create"]), None),
    (own("secrets", &["get", "update"]), Some("kulprit-central-tls")),
];

const fn own(resource: &'static str, verbs: &'static [&'static str]) -> Used {
    Used { group: "", resource, name: resource, verbs, is_own: true }
}

/// What `kulprit-central cleanup` needs, instead of all that.
pub const CLEANUP: &[Used] = &[
    Used { group: "", resource: "nodes", name: "nodes", verbs: &["get", "list", "patch"], is_own: false },
    Used { group: "", resource: "nodes/status", name: "nodes/status", verbs: &["patch"], is_own: false },
    Used { group: "", resource: "configmaps", name: "configmaps", verbs: &["delete", "get"], is_own: true },
    Used { group: "", resource: "secrets", name: "secrets", verbs: &["delete", "get"], is_own: true },
    Used { group: "coordination.k8s.io", resource: "leases", name: "leases", verbs: &["delete", "get"], is_own: true },
];

/// What is not in the tables.
const OTHER: &str = "other";

/// Which rights are missing; clones share it.
#[derive(Clone, Debug)]
pub struct Rights {
    missing: Arc<Mutex<BTreeSet<(&'static str, &'static str)>>>,
    metrics: CentralMetrics,
}

impl Rights {
    /// None is missing yet.
    #[must_use]
    pub fn new(metrics: CentralMetrics) -> Self {
        Self { missing: Arc::default(), metrics }
    }

    fn note(&self, right: (&'static str, &'static str), refusal: Option<&str>) {
        let (verb, resource) = right;
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match refusal {
            Some(_) => missing.insert(right),
            None => missing.remove(&right),
        };
        if !is_news {
            return;
        }
        let gauge = self.metrics.rights_missing.get_or_create(&RightLabels::new(verb, resource));
        gauge.set(i64::from(refusal.is_some()));
        match refusal {
            Some(why) => warn!(verb, resource, why, "a right is missing in Kubernetes"),
            None => info!(verb, resource, "a right that was missing in Kubernetes is there"),
        }
    }
}

/// A client that notes of each answer whether the right to the request was there.
#[must_use]
pub fn noting(client: Client, rights: Rights) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request| noted(client.clone(), rights.clone(), request));
    Client::new(service, namespace)
}

async fn noted(client: Client, rights: Rights, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
    let right = right_of(request.method(), request.uri());
    let response = client.send(request).await?;
    let Some(right) = right else { return Ok(response) };
    if response.status().is_success() {
        rights.note(right, None);
    }
    if response.status() != StatusCode::FORBIDDEN {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body = body.collect_bytes().await?;
    if let Some(message) = refusal(&body) {
        rights.note(right, Some(&message));
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

/// What the API server says where it is the right that is missing: admission plugins answer 403 as well. The words are those of its
/// authorization (Kubernetes `apiserver/pkg/endpoints/handlers/responsewriters/errors.go`, `forbiddenMessage`).
fn refusal(body: &[u8]) -> Option<String> {
    let status: Status = serde_json::from_slice(body).ok()?;
    status.message.contains(" cannot ").then_some(status.message)
}

/// The verb and the resource of a request as RBAC has them. `None` of what is no resource.
fn right_of(method: &Method, uri: &Uri) -> Option<(&'static str, &'static str)> {
    let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, is_named) = match rest {
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
        [] => return None,
    };
    let is_watch = uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("watch=")));
    let verb = match method.as_str() {
        "GET" if is_named => "get",
        "GET" if is_watch => "watch",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if is_named => "delete",
        "DELETE" => "deletecollection",
        _ => OTHER,
    };
    let of_rows = ROWS.iter().find(|row| row.kind.group() == group && row.plural == resource).map(|row| row.plural);
    let mut used = USED.iter().chain(MADE.iter().map(|(used, _)| used));
    let of_used = || used.find(|used| used.group == group && used.resource == resource).map(|used| used.name);
    Some((verb, of_rows.or_else(of_used).unwrap_or(OTHER)))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use kulprit_daemon::{Clock, metrics::Metrics};
    use serde_json::json;

    use super::*;

    fn head(name: &str, kind: &str, meta: &str) -> String {
        format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}{meta}}}\nrules:\n")
    }

    fn rule(group: &str, resources: &BTreeSet<&str>, verbs: &[&str]) -> String {
        let resources = resources.iter().copied().collect::<Vec<_>>().join(", ");
        format!("- {{apiGroups: [{group:?}], resources: [{resources}], verbs: [{}]}}\n", verbs.join(", "))
    }

    fn rules(table: &[Used], is_own: bool) -> String {
        let used = table.iter().filter(|used| used.is_own == is_own);
        used.map(|used| rule(used.group, &[used.resource].into(), used.verbs)).collect()
    }

    /// The role that the tables make.
    fn role() -> String {
        let name = "kulprit-central";
        let watched = ["list", "watch"];
        let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in ROWS.iter().filter(|row| row.namespace.is_none()) {
            groups.entry(row.kind.group()).or_default().insert(row.plural);
        }
        let mut text = "# What central lists, watches and writes. Bind all to the user of its kubeconfig, or its service account; the last is of its Lease.\n".to_owned();
        text.push_str(&head(name, "ClusterRole", ""));
        groups.iter().for_each(|(group, resources)| text.push_str(&rule(group, resources, &watched)));
        text.push_str(&rules(USED, false));
        for row in &ROWS {
            let Some(namespace) = row.namespace else { continue };
            text.push_str(&format!("---\n{}", head(name, "Role", &format!(", namespace: {namespace}"))));
            text.push_str(&rule(row.kind.group(), &[row.plural].into(), &watched));
        }
        text + "---\n" + &head(name, "Role", ", namespace: kulprit") + &rules(USED, true)
    }

    fn cleanup_role() -> String {
        let name = "kulprit-cleanup";
        let text = "# What `kulprit-central cleanup` needs, which is not central itself: for the service account of a Job, or an administrator.\n".to_owned();
        let text = text + &head(name, "ClusterRole", "") + &rules(CLEANUP, false);
        text + "---\n" + &head(name, "Role", ", namespace: kulprit") + &rules(CLEANUP, true)
    }

    fn made_role() -> String {
        let mut text = "# What central needs besides where it makes its certificate itself (`tls.made`). What is to be made cannot be named.\n".to_owned();
        text.push_str(&head("kulprit-central-certificate", "Role", ", namespace: kulprit"));
        for (Used { group, resource, verbs, .. }, name) in MADE {
            let verbs = verbs.join(", ");
            let named = name.map(|name| format!("resourceNames: [{name}], ")).unwrap_or_default();
            text.push_str(&format!("- {{apiGroups: [{group:?}], resources: [{resource}], {named}verbs: [{verbs}]}}\n"));
        }
        text
    }

    #[test]
    fn the_rights_that_are_documented_are_those_that_are_needed() {
        assert_eq!(include_str!("../../../docs/made-role.yaml"), made_role());
        assert_eq!(include_str!("../../../docs/central-role.yaml"), role());
        assert_eq!(include_str!("../../../docs/cleanup-role.yaml"), cleanup_role());
    }

    #[track_caller]
    fn check(method: Method, uri: &str, want: Option<(&str, &str)>) {
        assert_eq!(right_of(&method, &uri.parse().unwrap()), want, "{method} {uri}");
    }

    #[test]
    fn requests_are_known_by_the_words_of_rbac() {
        check(Method::GET, "/api/v1/nodes?limit=250", Some(("list", "nodes")));
        check(Method::GET, "/api/v1/nodes?watch=true&resourceVersion=7", Some(("watch", "nodes")));
        check(Method::GET, "/api/v1/nodes/n1", Some(("get", "nodes")));
        check(Method::PATCH, "/api/v1/nodes/n1/status?force=true", Some(("patch", "nodes/status")));
        check(Method::GET, "/api/v1/namespaces", Some(("list", "namespaces")));
        check(Method::GET, "/apis/kubevirt.io/v1/virtualmachines", Some(("list", "virtualmachines")));
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kulprit/leases";
        check(Method::POST, leases, Some(("create", "leases")));
        check(Method::PUT, &format!("{leases}/kulprit-central"), Some(("update", "leases")));
        let events = "/apis/events.k8s.io/v1/namespaces/prod/events";
        check(Method::POST, events, Some(("create", "events.events.k8s.io")));
        check(Method::GET, "/api/v1/events", Some(("list", "events")));
        check(Method::PUT, "/api/v1/namespaces/x/secrets/y", Some(("update", "secrets")));
        check(Method::DELETE, "/api/v1/namespaces/x/services/y", Some(("delete", "other")));
        check(Method::GET, "/readyz", None);
    }

    #[tokio::test]
    async fn a_right_that_is_missing_is_counted_until_it_is_there() {
        let n_asked = Arc::new(AtomicUsize::new(0));
        let server = service_fn(move |_: Request<Body>| {
            let (code, message) = match n_asked.fetch_add(1, Ordering::Relaxed) {
                0 => (
                    403,
                    r#"nodes "n1" is forbidden: unable to create new content in namespace x because it is being terminated"#,
                ),
                1 => (
                    403,
                    r#"nodes is forbidden: User "u" cannot list resource "nodes" in API group "" at the cluster scope"#,
                ),
                2 => (500, "broken"),
                _ => (200, ""),
            };
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message});
            let body = Body::from(status.to_string().into_bytes());
            std::future::ready(Response::builder().status(code).body(body))
        });
        let mut metrics = Metrics::new("kulprit-central", "0", &Clock::kernel());
        let rights = Rights::new(CentralMetrics::register(metrics.section("central")));
        let client = noting(Client::new(server, "kulprit"), rights);
        for missing in [None, Some(1), Some(1), Some(0)] {
            let request = Request::get("/api/v1/nodes").body(Body::empty()).unwrap();
            let response = client.send(request).await.unwrap();
            let is_refused = response.status() == StatusCode::FORBIDDEN;
            let text = String::from_utf8(response.into_body().collect_bytes().await.unwrap().to_vec()).unwrap();
            assert!(!is_refused || text.contains("is forbidden"), "whoever asked gets the answer as it was: {text}");
            let line = |n: i32| format!("kulprit_central_rights_missing{{verb=\"list\",resource=\"nodes\"}} {n}\n");
            let shown = metrics.encode();
            assert!(missing.is_none_or(|n| shown.contains(&line(n))), "{shown}");
            assert!(missing.is_some() || !shown.contains("rights_missing{"), "another 403 is no missing right");
        }
    }
}
