//! What the API server is asked of others: whose a token is (TokenReview), whether somebody may do something (SubjectAccessReview), and on which
//! node a pod is. Made as one creates objects, and nothing is kept of them.
//!
//! Every request has a deadline, and none is tried again here: somebody waits.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Client,
    api::{ListParams, PostParams, Request},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::requests::{Failure, ask, text};

/// For one answer: the API server asks nobody but, where there is one, a webhook.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks one API server; clones share its connections.
#[derive(Clone)]
pub(crate) struct Reviews {
    client: Client,
}

/// Somebody as Kubernetes knows him.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// What somebody may do or not: the verb `get` on one object, or on all of a namespace or the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    /// Empty: cluster-wide.
    pub(crate) namespace: &'a str,
    /// Empty: all.
    pub(crate) name: &'a str,
}

impl Reviews {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Whose token this is, if it was made for that audience; without one, for the API server itself. An inner error: it is nobody's, and what
    /// the API server says of it.
    pub(crate) async fn whose(&self, token: &str, audience: Option<&str>) -> Result<Result<User, String>, Failure> {
        let audiences: Vec<&str> = audience.into_iter().collect();
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences},
        });
        let answer = self.create("/apis/authentication.k8s.io/v1/tokenreviews", &review).await?;
        owner(&answer, audience)
    }

    /// Whether somebody may.
    pub(crate) async fn may(&self, user: &User, attributes: Attributes<'_>) -> Result<bool, Failure> {
        let Attributes { group, resource, namespace, name } = attributes;
        let User { name: user_name, uid, groups, extra } = user;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user_name, "uid": uid, "groups": groups, "extra": extra,
                "resourceAttributes":
                    {"verb": "get", "group": group, "resource": resource, "namespace": namespace, "name": name},
            },
        });
        let answer = self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
        answer["status"]["allowed"].as_bool().ok_or_else(|| Failure::garbled("a SubjectAccessReview without an answer"))
    }

    /// The node of the pod of that name and UID; `None` if it is gone or on none.
    pub(crate) async fn node_of_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<String>, Failure> {
        // By a list, which central may make anyway.
        let params = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods")).list(&params);
        let pods = self.answer(request.map_err(Failure::garbled)?).await?;
        let pods = pods["items"].as_array().ok_or_else(|| Failure::garbled("a list without items"))?;
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name && pod["metadata"]["uid"] == uid);
        let node = pod.and_then(|pod| pod["spec"]["nodeName"].as_str());
        Ok(node.filter(|node| !node.is_empty()).map(str::to_owned))
    }

    async fn create(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        let request = Request::new(path).create(&PostParams::default(), object.to_string().into_bytes());
        self.answer(request.map_err(Failure::garbled)?).await
    }

    async fn answer(&self, request: http::Request<Vec<u8>>) -> Result<Value, Failure> {
        let answer = async { text(ask(&self.client, request).await?.what).await };
        let text = timeout(ANSWER_WITHIN, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::NoAnswer(format!("no answer within {} s", ANSWER_WITHIN.as_secs()))))?;
        serde_json::from_str(&text).map_err(Failure::garbled)
    }
}

/// Reads the answer to a TokenReview.
fn owner(review: &Value, audience: Option<&str>) -> Result<Result<User, String>, Failure> {
    let status = review["status"].as_object().ok_or_else(|| Failure::garbled("a TokenReview without an answer"))?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let texts = |value: Option<&Value>| -> Vec<String> {
        let all = value.and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    if status.get("authenticated").and_then(Value::as_bool) != Some(true) {
        return Ok(Err(text(status.get("error"))));
    }
    // An API server whose way to tell users knows no audiences says so by naming none.
    if let Some(audience) = audience
        && !texts(status.get("audiences")).iter().any(|one| one == audience)
    {
        return Ok(Err(format!("it was not made for {audience}")));
    }
    let user = status.get("user").and_then(Value::as_object);
    let user = user.ok_or_else(|| Failure::garbled("a TokenReview without a user"))?;
    let extra = user.get("extra").and_then(Value::as_object).into_iter().flatten();
    let user = User {
        name: text(user.get("username")),
        uid: text(user.get("uid")),
        groups: texts(user.get("groups")),
        extra: extra.map(|(key, values)| (key.clone(), texts(Some(values)))).collect(),
    };
    if user.name.is_empty() { Ok(Err("its user has no name".to_owned())) } else { Ok(Ok(user)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: Value, audience: Option<&str>, want: Result<&str, &str>) {
        let owner = owner(&json!({"status": status}), audience).unwrap().map(|user| user.name);
        assert_eq!(owner, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn a_token_has_an_owner_only_where_the_api_server_says_so_for_our_audience() {
        let ada = json!({"username": "ada"});
        check(json!({"authenticated": true, "user": ada}), None, Ok("ada"));
        check(json!({"authenticated": true, "user": ada, "audiences": ["x", "c"]}), Some("c"), Ok("ada"));
        check(json!({"authenticated": true, "user": ada}), Some("c"), Err("it was not made for c"));
        check(json!({"authenticated": true, "user": ada, "audiences": ["x"]}), Some("c"), Err("it was not made for c"));
        check(json!({"authenticated": false, "user": ada, "error": "expired"}), None, Err("expired"));
        check(json!({"user": ada}), None, Err(""));
        check(json!({"authenticated": true, "user": {"username": ""}}), None, Err("its user has no name"));
        assert!(matches!(owner(&json!({"authenticated": true}), None), Err(Failure::Garbled(_))));
        assert!(matches!(owner(&json!({"status": {"authenticated": true}}), None), Err(Failure::Garbled(_))));
    }

    #[test]
    fn what_more_is_said_of_a_user_is_kept() {
        let status = json!({"authenticated": true, "user": {"username": "ada", "uid": "7", "groups": ["g", "h"],
            "extra": {"authentication.kubernetes.io/node-name": ["n1"]}}});
        let user = owner(&json!({"status": status}), None).unwrap().unwrap();
        assert_eq!((user.uid.as_str(), user.groups.join(" ")), ("7", "g h".to_owned()));
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
    }
}
