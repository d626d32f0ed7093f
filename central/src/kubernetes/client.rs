//! How the API server is reached: a kubeconfig that was named, else the service account of this pod, else not at all.
//!
//! kube's client with our own middle: its default one tries 429, 503 and 504 again by itself for minutes, which would hide an outage
//! from whoever has to say it, and logs every failure as an error.

use std::{env, path::PathBuf, time::Duration};

use http::{HeaderValue, header::USER_AGENT};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use kulprit_daemon::{BoxError, UsageError};
use tower::ServiceBuilder;

use crate::config::KubernetesConfig;

/// To connect: half the world is nearer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// An idle connection that a firewall forgot is noticed before it is used.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const USER_AGENT_VALUE: &str = concat!("kulprit-central/", env!("CARGO_PKG_VERSION"));
/// Kubernetes sets it in every container.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// A client for the API server; `None` without Kubernetes: it is not wanted, or no kubeconfig was named and this is no pod. The API
/// server is not asked.
///
/// # Errors
/// If the kubeconfig, its context or what it names cannot be used, or this pod has no service account.
pub async fn connect(kubernetes: &KubernetesConfig) -> Result<Option<Client>, UsageError> {
    let KubernetesConfig { standalone, kubeconfig, context } = kubernetes;
    let config = match kubeconfig {
        _ if *standalone => return Ok(None),
        Some(path) => of_file(path.clone(), context.clone()).await?,
        None if context.is_some() => {
            return Err(
                UsageError::new("a context of Kubernetes without a kubeconfig").fix("name the kubeconfig as well")
            );
        }
        None if env::var_os(IN_CLUSTER).is_none() => return Ok(None),
        None => Config::incluster().map_err(|error| {
            UsageError::new("failed to use the service account of this pod")
                .because(error)
                .fix("let its token be mounted (automountServiceAccountToken), or name a kubeconfig")
        })?,
    };
    let server = config.cluster_url.to_string();
    // A kubeconfig may name a program that makes the credentials, and it is waited for.
    let client = tokio::task::spawn_blocking(|| client(config)).await;
    match client.map_err(BoxError::from).flatten() {
        Ok(client) => Ok(Some(client)),
        Err(error) => Err(UsageError::new(format!("failed to prepare the connection to Kubernetes at {server}"))
            .because(error)
            .fix("check the user and the certificates of the kubeconfig")),
    }
}

async fn of_file(path: PathBuf, context: Option<String>) -> Result<Config, UsageError> {
    let place = path.display().to_string();
    let failed = |error: BoxError| {
        UsageError::new(format!("failed to use the kubeconfig `{place}`"))
            .because(error)
            .fix("check it with `kubectl --kubeconfig … config view`")
    };
    let read = tokio::task::spawn_blocking(|| Kubeconfig::read_from(path)).await;
    let kubeconfig = read.map_err(BoxError::from).and_then(|read| read.map_err(BoxError::from)).map_err(failed)?;
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| failed(error.into()))
}

fn client(mut config: Config) -> Result<Client, BoxError> {
    if let Some(proxy) = &config.proxy_url {
        return Err(format!("a proxy ({proxy}) is not supported").into());
    }
    config.headers.push((USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE)));
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kulprit_daemon::exit::ExitReason;

    use super::*;

    const KUBECONFIG: &str = r"
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: u, user: {token: secret}}, {name: p, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /no/such/program, interactiveMode: Never}}}]
contexts: [{name: here, context: {cluster: c, user: u}}, {name: plugin, context: {cluster: c, user: p}}]
";

    async fn connected(yaml: &str, context: Option<&str>) -> Result<Option<Client>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        fs::write(&path, yaml).unwrap();
        let (kubeconfig, context) = (Some(path.clone()), context.map(ToOwned::to_owned));
        connect(&KubernetesConfig { kubeconfig, context, standalone: false }).await.map_err(|error| {
            let reason = ExitReason::of(BoxError::from(error).as_ref());
            assert_eq!(reason.code, 2);
            reason.line.replace(&path.display().to_string(), "FILE")
        })
    }

    #[track_caller]
    fn check_error(answer: Result<Option<Client>, String>, wants: &[&str]) {
        let error = answer.map(|_| ()).unwrap_err();
        assert!(wants.iter().all(|want| error.contains(want)), "{error}");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_was_named_is_used() {
        assert!(connected(KUBECONFIG, None).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_told() {
        check_error(
            connected("clusters: [", None).await,
            &["failed to use the kubeconfig `FILE`", "kubectl --kubeconfig"],
        );
        check_error(connected(KUBECONFIG, Some("there")).await, &["failed to use the kubeconfig `FILE`", "there"]);
        check_error(
            connected(KUBECONFIG, Some("plugin")).await,
            &["failed to prepare the connection to Kubernetes at https://127.0.0.1:1", "unable to run auth exec"],
        );
        let nowhere = KubernetesConfig { context: Some("here".to_owned()), ..KubernetesConfig::default() };
        assert!(connect(&nowhere).await.map(|_| ()).unwrap_err().to_string().contains("without a kubeconfig"));
    }

    #[tokio::test]
    async fn who_wants_no_kubernetes_gets_none_whatever_is_named() {
        let kubeconfig = Some(PathBuf::from("/no/such/file"));
        let standalone = KubernetesConfig { standalone: true, kubeconfig, context: None };
        assert!(connect(&standalone).await.unwrap().is_none());
    }
}
