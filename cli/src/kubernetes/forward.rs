//! A gRPC channel over a forwarded stream: one WebSocket to the API server, and through it to kubelet and the pod, for each connection.
//!
//! That a stream was opened says little: kubelet dials the pod afterwards, and says on a second stream if nobody listens there. A server of
//! HTTP/2 speaks first, so the first bytes are waited for, for a moment: then the pod is known to answer, and where it does not, the next
//! one can be tried. By TLS the client speaks first, and a handshake that is done says the same.

use std::{io::Cursor, time::Duration};

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use kulprit_tls::TlsError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{KubernetesError, error::said, pods::CentralPod};
use crate::{
    connect::to_central,
    error::{chain, innermost},
    table::one_line,
};

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
    #[error("no TLS with pod {pod}: {reason}")]
    NotTrusted { pod: String, reason: String },
}

/// A channel to the first of these pods that answers.
///
/// # Errors
/// [`KubernetesError::NotForwarded`] with what each of them said.
pub(super) async fn connect(
    client: &Client,
    pods: &[CentralPod],
    tls: Option<&kulprit_tls::Client>,
    timeout: Duration,
) -> Result<Channel, KubernetesError> {
    let mut refusals = Vec::new();
    for pod in pods {
        match channel(client.clone(), pod.clone(), tls.cloned(), timeout).await {
            Ok(channel) => return Ok(channel),
            Err(error) => refusals.push(innermost(&error)),
        }
    }
    Err(KubernetesError::NotForwarded { refusals })
}

async fn channel(
    client: Client,
    pod: CentralPod,
    tls: Option<kulprit_tls::Client>,
    timeout: Duration,
) -> Result<Channel, tonic::transport::Error> {
    // The address is never used: the connector below opens the stream, anew after a loss.
    let address = if tls.is_some() { "https://central.invalid" } else { "http://central.invalid" };
    to_central(Endpoint::from_static(address), timeout)
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let (client, pod, tls) = (client.clone(), pod.clone(), tls.clone());
            async move { open(client, &pod, tls).await.map(TokioIo::new) }
        }))
        .await
}

/// A stream, with TLS in it or without.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Io for IO {}

/// A stream to the pod's port, at the other end of which somebody listens: by TLS who he should be.
async fn open(client: Client, pod: &CentralPod, tls: Option<kulprit_tls::Client>) -> Result<Box<dyn Io>, Refusal> {
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
    let nobody_listens =
        |reason: &str| Refusal::NobodyListens { pod: whom(), port: *port, reason: one_line(reason.trim()) };
    // What kubelet says of it may come after the end.
    let ended = async |refused: &mut (dyn Future<Output = Option<String>> + Send + Unpin)| {
        let reason = tokio::time::timeout(REASON_WITHIN, refused).await.ok().flatten();
        nobody_listens(reason.as_deref().unwrap_or("the stream ended"))
    };
    if let Some(tls) = tls {
        return tokio::select! {
            biased;
            Some(reason) = &mut refused => Err(nobody_listens(&reason)),
            greeted = tls.connect(stream) => match greeted {
                Ok(stream) => Ok(Box::new(stream)),
                Err(TlsError::Ended) => Err(ended(&mut refused).await),
                Err(error) => Err(Refusal::NotTrusted { pod: whom(), reason: chain(&error) }),
            },
        };
    }
    let mut first = Vec::with_capacity(FIRST_BYTES);
    tokio::select! {
        biased;
        Some(reason) = &mut refused => return Err(nobody_listens(&reason)),
        read = tokio::time::timeout(FIRST_BYTES_WITHIN, stream.read_buf(&mut first)) => match read {
            Ok(Ok(1..)) | Err(_) => {}
            Ok(Ok(0)) => return Err(ended(&mut refused).await),
            Ok(Err(error)) => return Err(nobody_listens(&error.to_string())),
        },
    }
    let (read, write) = tokio::io::split(stream);
    Ok(Box::new(tokio::io::join(Cursor::new(first).chain(read), write)))
}
