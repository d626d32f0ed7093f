//! What may be in the way to central through Kubernetes: one sentence each, with what to do.

use kube::core::Status;

use crate::error::innermost;

/// The names of a list, or that there are none.
fn names(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

/// Why central could not be reached through Kubernetes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubernetesError {
    #[error(
        "no kubeconfig: neither $KUBECONFIG nor ~/.kube/config is there; name one with --kubeconfig, or central's \
         address with --central"
    )]
    NoKubeconfig,
    #[error("the kubeconfig ({files}) cannot be used: {reason}; check it with `kubectl config view`")]
    BadKubeconfig { files: String, reason: String },
    #[error("no current context in the kubeconfig ({files}): choose one with --context; it has {}", names(.contexts))]
    NoCurrentContext { files: String, contexts: Vec<String> },
    #[error("no context `{context}` in the kubeconfig ({files}): it has {}", names(.contexts))]
    NoSuchContext { context: String, files: String, contexts: Vec<String> },
    #[error("no credentials for Kubernetes at {server}: {reason}; check the user of the context")]
    BadCredentials { server: String, reason: String },
    #[error("Kubernetes does not answer at {server}: {reason}; does `kubectl get --raw /readyz` work?")]
    Unreachable { server: String, reason: String },
    #[error("no answer from Kubernetes at {server} within {seconds} s: try a longer --timeout")]
    SilentServer { server: String, seconds: u64 },
    #[error("Kubernetes at {server} does not accept the credentials of the context: {reason}; log in again")]
    Unauthorized { server: String, reason: String },
    #[error(
        "may not list pods in the namespace {namespace}, where central is looked for: {reason}; let your role list \
         pods there, or name central's namespace with --central-namespace, or its address with --central"
    )]
    MayNotList { namespace: String, reason: String },
    #[error("Kubernetes at {server} did not list central's pods: {reason}")]
    NotListed { server: String, reason: String },
    #[error(
        "no pod of central in the namespace {namespace} of {server} (labels {}): name its namespace with \
         --central-namespace, or its address with --central",
        super::CENTRAL_LABELS
    )]
    NoPod { namespace: String, server: String },
    #[error("no pod of central is ready: {}; see `kubectl describe pod`", .states.join(", "))]
    NoReadyPod { states: Vec<String> },
    #[error("{}", .refusals.join("; "))]
    NotForwarded { refusals: Vec<String> },
}

impl KubernetesError {
    /// A stream that failed perhaps because no CA was known, and so no TLS spoken.
    pub(super) fn without_ca(self, why: Option<String>) -> Self {
        match (self, why) {
            (Self::NotForwarded { mut refusals }, Some(why)) => {
                refusals.push(why);
                Self::NotForwarded { refusals }
            }
            (error, _) => error,
        }
    }

    /// What a failed list of pods means.
    pub(super) fn of_list(error: &kube::Error, server: &str, namespace: &str) -> Self {
        let server = server.to_owned();
        match error {
            kube::Error::Api(status) if status.code == 401 => {
                Self::Unauthorized { server, reason: status.message.clone() }
            }
            kube::Error::Api(status) if status.code == 403 => {
                Self::MayNotList { namespace: namespace.to_owned(), reason: status.message.clone() }
            }
            kube::Error::Api(status) => Self::NotListed { server, reason: said(status) },
            kube::Error::Auth(_) => Self::BadCredentials { server, reason: innermost(error) },
            other => Self::Unreachable { server, reason: innermost(other) },
        }
    }
}

/// What the API server said, with its code.
pub(super) fn said(status: &Status) -> String {
    format!("{} ({})", status.message, status.code)
}
