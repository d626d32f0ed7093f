//! Central as the agent reaches it: its address, by TLS unless both are on one host, and what the agent shows of itself.
//!
//! CA, certificate, key and token are read anew for each connection: whatever renews them (kubelet a token and a ConfigMap, cert-manager
//! a Secret) needs to tell nobody.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use kulprit_daemon::Chain;
use kulprit_tls::{Client, Connector, Identity, Pem, TlsError};
use tokio::task::spawn_blocking;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use crate::config::TlsConfig;

/// A connection that takes longer is tried again.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// HTTP/2 pings: a peer that vanished without a word is noticed after 15 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// A ping unanswered for this long ends the connection.
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(5);
/// A token of a service account has 1 to 2 KiB.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Where central is, how it is known, and how it knows us.
#[derive(Clone, Debug, PartialEq)]
pub struct Central {
    /// A URL.
    pub address: String,
    /// For https.
    pub tls: TlsConfig,
    /// File of the bearer token.
    pub token: Option<PathBuf>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("bad address `{address}` of central")]
    Address {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("cannot connect to central at {address} by TLS")]
    Tls {
        address: String,
        #[source]
        source: TlsError,
    },
    #[error("cannot read the token `{}` for central", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to connect to central at {address}")]
    Connect {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("failed to read files of the connection to central")]
    Read(#[from] tokio::task::JoinError),
}

/// What a connection is opened with.
struct Opened {
    tls: Option<Client>,
    token: Option<MetadataValue<Ascii>>,
}

impl Central {
    /// Whether it can be connected to at all; told before the agent starts. Reads no file: one may come later.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let Self { address, tls, token } = self;
        let is_tls = match address.split_once("://") {
            Some(("http", _)) => false,
            Some(("https", _)) => true,
            _ => return Err("it must begin with http:// or https://".to_owned()),
        };
        Endpoint::from_shared(address.clone()).map_err(|error| Chain(&error).to_string())?;
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err("`tls.certificate` and `tls.key` go together: name both files".to_owned());
        }
        match (is_tls, &tls.ca) {
            (true, None) => Err("`tls.ca` is missing: name the file of central's CA, no other is trusted".to_owned()),
            (true, Some(_)) => Ok(()),
            (false, _) if *tls != TlsConfig::default() => {
                Err("`tls` is set, and this address is plaintext: write https://".to_owned())
            }
            (false, _) if is_loopback(address) => Ok(()),
            (false, _) if token.is_some() => {
                Err("the token would be sent in plaintext: write https://, and name central's CA in `tls.ca`"
                    .to_owned())
            }
            (false, _) => {
                Err("plaintext is for loopback alone: write https://, and name central's CA in `tls.ca`".to_owned())
            }
        }
    }

    /// Opens a connection; the token is to go with each request on it.
    pub(super) async fn connect(&self) -> Result<(Channel, Option<MetadataValue<Ascii>>), ConnectError> {
        let address = || self.address.clone();
        let endpoint = Endpoint::from_shared(address())
            .map_err(|source| ConnectError::Address { address: address(), source })?
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_WITHIN)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let own = self.clone();
        // A file may be where reading hangs.
        let Opened { tls, token } = spawn_blocking(move || own.open()).await??;
        let connected = match tls {
            Some(client) => endpoint.connect_with_connector(Connector::new(client)).await,
            None => endpoint.connect().await,
        };
        let channel = connected.map_err(|source| ConnectError::Connect { address: address(), source })?;
        Ok((channel, token))
    }

    /// Reads what the connection needs. Blocks.
    fn open(&self) -> Result<Opened, ConnectError> {
        let Self { address, tls: TlsConfig { ca, name, certificate, key }, token } = self;
        let failed = |source| ConnectError::Tls { address: address.clone(), source };
        let tls = match ca {
            Some(ca) => {
                let identity = certificate.as_deref().zip(key.as_deref());
                let identity = identity.map(|(certificate, key)| Identity::read(certificate, key));
                let identity = identity.transpose().map_err(failed)?;
                let name = name.clone().unwrap_or_else(|| host(address));
                let client = Pem::read(ca).and_then(|ca| Client::new(&ca, &name, identity));
                Some(client.map_err(failed)?)
            }
            None => None,
        };
        let token = token.as_deref().map(read_token).transpose()?;
        Ok(Opened { tls, token })
    }
}

fn host(address: &str) -> String {
    let uri: Option<Uri> = address.parse().ok();
    uri.and_then(|uri| uri.host().map(ToOwned::to_owned)).unwrap_or_default()
}

fn is_loopback(address: &str) -> bool {
    let host = host(address);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The token of a file, as metadata that is not shown in logs.
fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let failed = |source| ConnectError::Token { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    let wrong = |what: &str| failed(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    match text.trim() {
        "" => Err(wrong("it is empty")),
        token if token.len() > MAX_TOKEN_BYTES => Err(wrong("it is too long for a token")),
        token => {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {token}").parse().map_err(|_| wrong("it is no token: it has more than one line"))?;
            value.set_sensitive(true);
            Ok(value)
        }
    }
}
