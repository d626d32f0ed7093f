//! Whom to ask: central over TCP, or this host's agent over its Unix socket. Central through Kubernetes: `kubernetes.rs`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use kulprit_proto::v1::{agent_status_client::AgentStatusClient, query_client::QueryClient};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    bearer::{Bearer, Central},
    error::{AskError, innermost},
};

/// Answers larger than this are refused rather than read into memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A central that vanished without a word is noticed after 15 s by whoever waits for it.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Where an agent's socket is looked for, in this order: `make run` in this folder, a package, a container's host path.
const AGENT_SOCKETS: [&str; 3] = [".run/agent/agent.sock", "/run/kulprit/agent.sock", "/var/lib/kulprit/agent.sock"];

/// Connects to central.
///
/// # Errors
/// [`AskError::BadAddress`] for what is no URL, [`AskError::CentralUnreachable`] when nobody answers.
pub(crate) async fn connect_to_central(address: &str, timeout: Duration) -> Result<Central, AskError> {
    let bad_address = || AskError::BadAddress { address: address.to_owned() };
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let uri: Uri = with_scheme.parse().map_err(|_| bad_address())?;
    if uri.scheme_str() != Some("http") || uri.port_u16().is_none() {
        return Err(bad_address());
    }
    let channel = to_central(Endpoint::from(uri), timeout)
        .connect()
        .await
        .map_err(|error| AskError::CentralUnreachable { address: address.to_owned(), reason: innermost(&error) })?;
    Ok(query_client(channel, Bearer::default()))
}

/// An address of central, with the limits of a connection to it.
pub(crate) fn to_central(endpoint: Endpoint, timeout: Duration) -> Endpoint {
    let endpoint = endpoint.connect_timeout(timeout).timeout(timeout);
    endpoint.http2_keep_alive_interval(KEEPALIVE_EVERY).keep_alive_timeout(KEEPALIVE_WITHIN)
}

/// Asks central over a channel, however that was made, and shows it a token.
pub(crate) fn query_client(channel: Channel, bearer: Bearer) -> Central {
    QueryClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Connects to the agent of this host: at `socket`, or at the first usual place where one answers.
///
/// # Errors
/// [`AskError::AgentUnreachable`] naming every place tried.
pub(crate) async fn connect_to_agent(
    socket: Option<PathBuf>,
    timeout: Duration,
) -> Result<(AgentStatusClient<Channel>, PathBuf), AskError> {
    let tried: Vec<PathBuf> = match socket {
        Some(path) => vec![path],
        None => AGENT_SOCKETS.iter().map(PathBuf::from).collect(),
    };
    let mut reason = String::new();
    for path in &tried {
        match connect_to_socket(path, timeout).await {
            Ok(channel) => {
                return Ok((AgentStatusClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES), path.clone()));
            }
            Err(error) => reason = innermost(&error),
        }
    }
    Err(AskError::AgentUnreachable { tried, reason })
}

async fn connect_to_socket(path: &Path, timeout: Duration) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    // The address is never used: the connector below opens the socket.
    Endpoint::from_static("http://agent.invalid")
        .connect_timeout(timeout)
        .timeout(timeout)
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }))
        .await
}
