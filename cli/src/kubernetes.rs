//! Central through Kubernetes: the kubeconfig names the cluster, its labels name central's pods, the API server forwards a stream to one.
//!
//! What `kubectl port-forward` does, without a port on this machine: the stream carries gRPC itself. kubelet dials the pod's own loopback,
//! so central may listen on 127.0.0.1 alone. The user needs `list` on pods and `get` and `create` on `pods/portforward` where central is.
//!
//! Read: [`config`] (which cluster), [`token`] (who asks), [`ca`] (how central is known), [`pods`] (which pod), [`forward`] (the stream), [`error`] (what may be in the way).

mod ca;
mod config;
mod error;
mod forward;
mod pods;
mod token;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Config, api::ListParams};

pub(crate) use error::KubernetesError;
use token::Shown;

use crate::{
    connect::query_client,
    credentials::{Central, CredentialFiles, Credentials},
    error::{AskError, innermost},
    route::ThroughKubernetes,
};

/// Where central is looked for first.
const CENTRAL_NAMESPACE: &str = "kulprit";
/// Its Service.
const CENTRAL_SERVICE: &str = "kulprit-central";
/// The labels of its pods.
const CENTRAL_LABELS: &str = "app.kubernetes.io/name=kulprit,app.kubernetes.io/component=central";
/// More pods than any central has; the rest of a longer list is not read.
const MAX_PODS: u32 = 50;

/// The namespace in which the context looks for what is named without one.
///
/// # Errors
/// If there is no kubeconfig, or no such context in it. The API server is not asked.
pub(crate) async fn default_namespace(through: &ThroughKubernetes) -> Result<String, KubernetesError> {
    Ok(config::load(through).await?.default_namespace)
}

/// A ready pod of central: the newest, or the next one where that cannot be reached; and why it is shown no token, if it is not. TLS, where a
/// CA is named or central's is found, is spoken to the pod itself: who forwards sees none of it.
///
/// # Errors
/// If the cluster cannot be asked, has no such pod, or refuses the stream, or the pod is not who it should be; each says what to do.
pub(crate) async fn connect(
    through: &ThroughKubernetes,
    files: &CredentialFiles,
    timeout: Duration,
) -> Result<(Central, Option<String>), AskError> {
    let mut config = config::load(through).await?;
    config.connect_timeout = Some(timeout);
    // Trying again is for the person who asked.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let own = token::own(&mut config).await?;
    let client = client(config).await?;
    let named = through.central_namespace.as_deref();
    let finding = find(&client, &server, named.unwrap_or(CENTRAL_NAMESPACE), named.is_none());
    let silent = || KubernetesError::SilentServer { server: server.clone(), seconds: timeout.as_secs() };
    let found = tokio::time::timeout(timeout, finding).await.map_err(|_| silent())??;
    let namespace = found.first().map(|pod| pod.namespace.as_str()).unwrap_or_default();
    let asking = async {
        let ca = if files.ca.is_some() { Ok(None) } else { ca::of_central(&client, namespace).await };
        let shown = if files.token_file.is_some() || files.certificate.is_some() {
            Shown::default()
        } else if namespace != named.unwrap_or(CENTRAL_NAMESPACE) {
            Shown::to_nobody(namespace)
        } else if let Some(token) = own {
            Shown { token, why_none: None }
        } else {
            token::of_reader(&client, namespace).await
        };
        (ca, shown)
    };
    let (ca, shown) = tokio::time::timeout(timeout, asking).await.map_err(|_| silent())?;
    let (ca, why_no_ca) = ca.map_or_else(|why| (None, Some(why)), |ca| (ca, None));
    let Credentials { tls, token } = files.read(&service_name(namespace), ca)?;
    let token = if token.is_given() { token } else { shown.token };
    let channel = forward::connect(&client, &found, tls.as_ref(), timeout).await;
    let channel = channel.map_err(|error| error.without_ca(why_no_ca))?;
    Ok((query_client(channel, token), shown.why_none))
}

/// The name that central's certificate is for, wherever one of its pods is reached: that of its Service.
fn service_name(namespace: &str) -> String {
    format!("{CENTRAL_SERVICE}.{namespace}.svc")
}

/// A kubeconfig may name a program that makes the credentials, and it is waited for.
async fn client(config: Config) -> Result<Client, KubernetesError> {
    let server = config.cluster_url.to_string();
    let made = tokio::task::spawn_blocking(|| Client::try_from(config)).await;
    let made = made.map_err(|error| error.to_string());
    made.and_then(|made| made.map_err(|error| innermost(&error)))
        .map_err(|reason| KubernetesError::BadCredentials { server, reason })
}

/// The ready pods of central in the namespace, or, if it has none at all and `may_widen`, in any.
async fn find(
    client: &Client,
    server: &str,
    namespace: &str,
    may_widen: bool,
) -> Result<Vec<pods::CentralPod>, KubernetesError> {
    let list = Api::<Pod>::namespaced(client.clone(), namespace).list(&of_central()).await;
    let mut pods = list.map_err(|error| KubernetesError::of_list(&error, server, namespace))?.items;
    if pods.is_empty() && may_widen {
        // Who may not list all namespaces is told of the one that was looked at.
        let list = Api::<Pod>::all(client.clone()).list(&of_central()).await;
        pods = list.map(|list| list.items).unwrap_or_default();
    }
    let pods::Sorted { ready, others } = pods::sort(pods);
    match (ready.is_empty(), others.is_empty()) {
        (false, _) => Ok(ready),
        (true, false) => Err(KubernetesError::NoReadyPod { states: others }),
        (true, true) => Err(KubernetesError::NoPod { namespace: namespace.to_owned(), server: server.to_owned() }),
    }
}

fn of_central() -> ListParams {
    ListParams::default().labels(CENTRAL_LABELS).limit(MAX_PODS)
}
