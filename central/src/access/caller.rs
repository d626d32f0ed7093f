//! Who calls.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use super::token::Bearer;
use crate::kubernetes::review::User;

/// Which node a token's pod is on: since Kubernetes 1.30.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Which pod a token was made for: since Kubernetes 1.21.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// What the user names of service accounts begin with.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Who calls, as far as he was asked. An extension of each request that was let in.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody is asked who he is.
    Anyone,
    /// Whom a verified client certificate names.
    Peer(String),
    /// Whose token Kubernetes has checked.
    User(Arc<Verified>),
}

/// A token that Kubernetes has checked.
pub struct Verified {
    pub(super) bearer: Bearer,
    pub(super) user: User,
    /// The node of the pod that it was made for.
    pub(super) node: Option<String>,
    /// When it is to be checked anew.
    pub(super) due: Instant,
}

impl Caller {
    /// How he is called in texts for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Anyone => "anyone",
            Self::Peer(name) => name,
            Self::User(verified) => &verified.user.name,
        }
    }
}

impl fmt::Debug for Verified {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bearer: _, user, node, due } = self;
        f.debug_struct("Verified").field("user", user).field("node", node).field("due", due).finish()
    }
}

/// Where the pod of a service account's token is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The API server says it.
    Node(&'a str),
    /// It names the pod.
    Pod { namespace: &'a str, name: &'a str, uid: &'a str },
    /// It was made for no pod.
    Nowhere,
}

/// Where a user's pod is.
pub(super) fn place(user: &User) -> Place<'_> {
    let first = |key: &str| match user.extra.get(key).map(Vec::as_slice) {
        Some([one]) if !one.is_empty() => Some(one.as_str()),
        _ => None,
    };
    let namespace = user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| Some(rest.split_once(':')?.0));
    match (first(NODE_NAME), namespace, first(POD_NAME), first(POD_UID)) {
        (Some(node), ..) => Place::Node(node),
        (None, Some(namespace), Some(name), Some(uid)) => Place::Pod { namespace, name, uid },
        (None, ..) => Place::Nowhere,
    }
}

/// The user name of `namespace/name`.
pub(super) fn service_account(account: &str) -> String {
    format!("{SERVICE_ACCOUNT}{}", account.replacen('/', ":", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, extra: &[(&str, &[&str])], want: Place<'_>) {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let extra = extra.iter().map(|(key, own)| (format!("authentication.kubernetes.io/{key}"), values(own)));
        let user = User { name: name.to_owned(), extra: extra.collect(), ..User::default() };
        assert_eq!(place(&user), want);
    }

    #[test]
    fn a_token_is_of_the_node_that_the_api_server_names_else_of_its_pods() {
        let agent = "system:serviceaccount:kulprit:kulprit-agent";
        let of_pod: &[(&str, &[&str])] = &[("pod-name", &["a-1"]), ("pod-uid", &["u"])];
        check(agent, &[("node-name", &["n1"]), ("pod-name", &["a-1"]), ("pod-uid", &["u"])], Place::Node("n1"));
        check(agent, of_pod, Place::Pod { namespace: "kulprit", name: "a-1", uid: "u" });
        check("ada", of_pod, Place::Nowhere);
        check(agent, &[("pod-name", &["a-1"])], Place::Nowhere);
        check(agent, &[("node-name", &["n1", "n2"])], Place::Nowhere);
        check(agent, &[("node-name", &[""])], Place::Nowhere);
        check(agent, &[], Place::Nowhere);
        assert_eq!(service_account("kulprit/kulprit-agent"), agent);
    }
}
