//! The token that is shown to central: the user's own, which Kubernetes checks for central, so that it tells him what he may get there.
//!
//! It is taken as kube's client would send it, whatever makes it: a token of the kubeconfig, a program, OpenID Connect. Who shows the API
//! server a client certificate has none: for him one of the service account [`READER`] is asked for, made for central alone.

use std::convert::Infallible;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    client::{Body, ConfigExt as _},
};
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

use super::{KubernetesError, error::said};
use crate::{credentials::Token, error::innermost};

/// Whose token is asked for by who has none of his own.
const READER: &str = "kulprit-reader";
/// For whom it is made: `access.audience` of central.
const AUDIENCE: &str = "kulprit-central";
/// How long it is good, seconds: the least that Kubernetes gives.
const LIFE_SECS: i64 = 600;

/// A token, or why there is none. Central may do without.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) token: Token,
    /// What was in the way of one.
    pub(super) why_none: Option<String>,
}

impl Shown {
    /// To a pod that was only found by its labels: anybody may give his own pod those, and would have the token.
    pub(super) fn to_nobody(namespace: &str) -> Self {
        let why = format!(
            "it was found in the namespace {namespace}, and your token is shown there only if --central-namespace names it"
        );
        Self { token: Token::default(), why_none: Some(why) }
    }
}

/// The user's own token; `None` if he shows the API server something else. A program that makes it is run once: the client that is made of the
/// configuration afterwards has what it made.
///
/// # Errors
/// [`KubernetesError::BadCredentials`] if it cannot be made.
pub(super) async fn own(config: &mut Config) -> Result<Option<Token>, KubernetesError> {
    let bad = |reason: String| KubernetesError::BadCredentials { server: config.cluster_url.to_string(), reason };
    let asked = config.clone();
    let layer =
        tokio::task::spawn_blocking(move || asked.auth_layer()).await.map_err(|error| bad(error.to_string()))?;
    let Some(layer) = layer.map_err(|error| bad(innermost(&error)))? else { return Ok(None) };
    let shows = tower::service_fn(|request: http::Request<Body>| async move {
        let header = request.headers().get(http::header::AUTHORIZATION).cloned();
        Ok::<_, Infallible>(http::Response::new(header))
    });
    let shows = ServiceBuilder::new().layer(layer).map_err(BoxError::from).service(shows);
    let header = shows.oneshot(http::Request::new(Body::empty())).await.map_err(|error| bad(innermost(&*error)))?;
    let Some(text) = header.body().as_ref().and_then(|header| header.to_str().ok()) else { return Ok(None) };
    if config.auth_info.exec.take().is_some() {
        config.auth_info.token = text.strip_prefix("Bearer ").map(|token| token.to_owned().into());
    }
    Ok(Token::of_header(text))
}

/// A token of the reader's service account in central's namespace.
pub(super) async fn of_reader(client: &Client, namespace: &str) -> Shown {
    let spec = TokenRequestSpec {
        audiences: Some(vec![AUDIENCE.to_owned()]),
        expiration_seconds: Some(LIFE_SECS),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let made = accounts.create_token_request(READER, &PostParams::default(), &request).await;
    let why = match made {
        Ok(made) => match made.status.and_then(|status| Token::new(&status.token?)) {
            Some(token) => return Shown { token, why_none: None },
            None => "Kubernetes gave none".to_owned(),
        },
        Err(kube::Error::Api(status)) => said(&status),
        Err(other) => innermost(&other),
    };
    let why_none = format!(
        "your kubeconfig has no token of yours, and none of the service account \
         {namespace}/{READER} could be had: {why}"
    );
    Shown { token: Token::default(), why_none: Some(why_none) }
}
