//! Whom to ask: central over TCP, or this host's agent over its Unix socket. Central through Kubernetes: `kubernetes.rs`.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use kulprit_proto::v1::{agent_status_client::AgentStatusClient, query_client::QueryClient};
use kulprit_tls::Connector;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    credentials::{Central, CredentialFiles, Credentials, Token},
    error::{AskError, chain, innermost},
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
/// [`AskError::BadAddress`] for what is no URL or does not fit what is said of TLS, [`AskError::NotTrusted`] where TLS fails,
/// [`AskError::CentralUnreachable`] when nobody answers.
pub(crate) async fn connect_to_central(
    address: &str,
    files: &CredentialFiles,
    timeout: Duration,
) -> Result<Central, AskError> {
    let bad_address = || AskError::BadAddress { address: address.to_owned() };
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let uri: Uri = with_scheme.parse().map_err(|_| bad_address())?;
    let host = uri.host().unwrap_or_default().to_owned();
    let Credentials { tls, token } = files.read(&host, None)?;
    let unsafe_address = |problem| AskError::UnsafeAddress { address: address.to_owned(), problem };
    match (uri.scheme_str(), &tls) {
        _ if uri.port_u16().is_none() => return Err(bad_address()),
        (Some("https"), Some(_)) => {}
        (Some("https"), None) => return Err(unsafe_address("name the file of its CA with --ca")),
        (Some("http"), Some(_)) => return Err(unsafe_address("a CA is given, so write https://")),
        (Some("http"), None) if token.is_given() && !is_loopback(&host) => {
            return Err(unsafe_address("the token would be sent in plaintext, so write https:// and name a --ca"));
        }
        (Some("http"), None) => {}
        _ => return Err(bad_address()),
    }
    let endpoint = to_central(Endpoint::from(uri), timeout);
    let connected = match tls {
        Some(client) => endpoint.connect_with_connector(Connector::new(client)).await,
        None => endpoint.connect().await,
    };
    let channel = connected.map_err(|error| match kulprit_tls::error::find(&error) {
        Some(wrong) => AskError::NotTrusted { address: address.to_owned(), reason: chain(wrong) },
        None => AskError::CentralUnreachable { address: address.to_owned(), reason: innermost(&error) },
    })?;
    Ok(query_client(channel, token))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An address of central, with the limits of a connection to it.
pub(crate) fn to_central(endpoint: Endpoint, timeout: Duration) -> Endpoint {
    let endpoint = endpoint.connect_timeout(timeout).timeout(timeout);
    endpoint.http2_keep_alive_interval(KEEPALIVE_EVERY).keep_alive_timeout(KEEPALIVE_WITHIN)
}

/// Asks central over a channel, however that was made.
pub(crate) fn query_client(channel: Channel, token: Token) -> Central {
    QueryClient::with_interceptor(channel, token).max_decoding_message_size(MAX_ANSWER_BYTES)
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
