//! Central through Kubernetes: the kubeconfig names the cluster, its labels name central's pods, the API server forwards a stream to one.
//!
//! What `kubectl port-forward` does, without a port on this machine: the stream carries gRPC itself. kubelet dials the pod's own loopback,
//! so central may listen on 127.0.0.1 alone. The user needs `list` on pods and `get` and `create` on `pods/portforward` where central is.
//!
//! Read: [`config`] (which cluster), [`token`] (who asks), [`pods`] (which pod), [`forward`] (the stream), [`error`] (what may be in the way).

mod config;
mod error;
mod forward;
mod pods;
mod token;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Config, api::ListParams};
use tonic::transport::Channel;

pub(crate) use error::KubernetesError;
pub(crate) use token::Shown;

use crate::{error::innermost, route::ThroughKubernetes};

/// Where central is looked for first.
const CENTRAL_NAMESPACE: &str = "kulprit";
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

/// A channel to a ready pod of central, the newest or the next one where that cannot be reached, and the token that it is to be shown.
///
/// # Errors
/// If the cluster cannot be asked, has no such pod, or refuses the stream; each says what to do.
pub(crate) async fn connect(
    through: &ThroughKubernetes,
    timeout: Duration,
) -> Result<(Channel, Shown), KubernetesError> {
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
    let shown = match (own, found.first()) {
        (Some(bearer), _) => Shown { bearer, why_none: None },
        (None, Some(pod)) => {
            let asking = token::of_reader(&client, &pod.namespace);
            tokio::time::timeout(timeout, asking).await.map_err(|_| silent())?
        }
        (None, None) => Shown::default(),
    };
    Ok((forward::connect(&client, &found, timeout).await?, shown))
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
