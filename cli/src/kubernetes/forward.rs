//! A gRPC channel over a forwarded stream: one WebSocket to the API server, and through it to kubelet and the pod, for each connection.
//!
//! That a stream was opened says little: kubelet dials the pod afterwards, and says on a second stream if nobody listens there. A server of
//! HTTP/2 speaks first, so the first bytes are waited for, for a moment: then the pod is known to answer, and where it does not, the next
//! one can be tried.

use std::{io::Cursor, time::Duration};

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{KubernetesError, error::said, pods::CentralPod};
use crate::{connect::to_central, error::innermost, table::one_line};

/// How long the pod may be silent before it is taken for a server that lets the client speak first.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(2);
/// How long after the end of a stream its reason may come.
const REASON_WITHIN: Duration = Duration::from_millis(300);
/// Room for the first bytes; an HTTP/2 server's settings are some 40.
const FIRST_BYTES: usize = 256;

/// Why a stream to a pod was not opened.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "may not forward to pod {pod}: {reason}; let your role get and create pods/portforward there, or name \
         central's address with --central"
    )]
    Forbidden { pod: String, reason: String },
    #[error("the API server does not forward to pod {pod}: {reason}")]
    NotOpened { pod: String, reason: String },
    #[error(
        "nobody answers in pod {pod} at port {port}: {reason}; does central listen there (see its log), and is its \
         port called grpc?"
    )]
    NobodyListens { pod: String, port: u16, reason: String },
}

/// A channel to the first of these pods that answers.
///
/// # Errors
/// [`KubernetesError::NotForwarded`] with what each of them said.
pub(super) async fn connect(
    client: &Client,
    pods: &[CentralPod],
    timeout: Duration,
) -> Result<Channel, KubernetesError> {
    let mut refusals = Vec::new();
    for pod in pods {
        match channel(client.clone(), pod.clone(), timeout).await {
            Ok(channel) => return Ok(channel),
            Err(error) => refusals.push(innermost(&error)),
        }
    }
    Err(KubernetesError::NotForwarded { refusals })
}

async fn channel(client: Client, pod: CentralPod, timeout: Duration) -> Result<Channel, tonic::transport::Error> {
    // The address is never used: the connector below opens the stream, anew after a loss.
    to_central(Endpoint::from_static("http://central.invalid"), timeout)
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let (client, pod) = (client.clone(), pod.clone());
            async move { open(client, &pod).await.map(TokioIo::new) }
        }))
        .await
}

/// A stream to the pod's port, at the other end of which somebody listens.
async fn open(client: Client, pod: &CentralPod) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Refusal> {
    let CentralPod { namespace, name, port } = pod;
    let whom = || format!("{namespace}/{name}");
    let mut forwarder =
        Api::<Pod>::namespaced(client, namespace).portforward(name, &[*port]).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 403 => {
                Refusal::Forbidden { pod: whom(), reason: status.message.clone() }
            }
            kube::Error::Api(status) => Refusal::NotOpened { pod: whom(), reason: said(&status) },
            other => Refusal::NotOpened { pod: whom(), reason: innermost(&other) },
        })?;
    let no_stream = || Refusal::NotOpened { pod: whom(), reason: "no stream came".to_owned() };
    let mut stream = forwarder.take_stream(*port).ok_or_else(no_stream)?;
    let mut refused = Box::pin(forwarder.take_error(*port).ok_or_else(no_stream)?);
    let mut first = Vec::with_capacity(FIRST_BYTES);
    let refusal = tokio::select! {
        biased;
        Some(reason) = &mut refused => Some(reason),
        read = tokio::time::timeout(FIRST_BYTES_WITHIN, stream.read_buf(&mut first)) => match read {
            Ok(Ok(1..)) | Err(_) => None,
            // What kubelet says of it may come after the end.
            Ok(Ok(0)) => {
                let reason = tokio::time::timeout(REASON_WITHIN, refused).await.ok().flatten();
                Some(reason.unwrap_or_else(|| "the stream ended".to_owned()))
            }
            Ok(Err(error)) => Some(error.to_string()),
        },
    };
    if let Some(reason) = refusal {
        return Err(Refusal::NobodyListens { pod: whom(), port: *port, reason: one_line(reason.trim()) });
    }
    let (read, write) = tokio::io::split(stream);
    Ok(tokio::io::join(Cursor::new(first).chain(read), write))
}
