//! How central is known, and how it knows who asks: a CA, a name, and a token or a certificate of one's own.
//!
//! No CA of the system is trusted: central's is its own. A token goes only where TLS keeps it, or over loopback.

use std::{fmt, fs, io, path::PathBuf};

use clap::Args;
use kulprit_proto::v1::query_client::QueryClient;
use kulprit_tls::{Client, Identity, Pem};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::error::AskError;

/// Central, asked by somebody.
pub(crate) type Central = QueryClient<InterceptedService<Channel, Token>>;

/// What a person says of it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How central is known, and who asks")]
pub(crate) struct CredentialFiles {
    /// File of the CA (PEM) of central's certificate: for https addresses, and for TLS within a stream through Kubernetes.
    #[arg(long, global = true, env = "KULPRIT_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// The name that central's certificate is for; without it the host of the address, or through Kubernetes that of its Service.
    #[arg(long, global = true, env = "KULPRIT_SERVER_NAME", value_name = "NAME")]
    pub(crate) server_name: Option<String>,

    /// File of a bearer token that says who asks.
    #[arg(long, global = true, env = "KULPRIT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// File of a certificate (PEM) that says who asks, with --key.
    #[arg(long, global = true, env = "KULPRIT_CERTIFICATE", value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,

    /// File of the certificate's key.
    #[arg(long, global = true, env = "KULPRIT_KEY", value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
}

/// What a connection to central is opened with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// `None`: plaintext.
    pub(crate) tls: Option<Client>,
    /// Goes with each question.
    pub(crate) token: Token,
}

impl Credentials {
    /// A central whose certificate is of this CA and for this name, asked by whom the token or the certificate says.
    ///
    /// # Errors
    /// If a certificate or the name cannot be used, or the token is none.
    pub(crate) fn new(ca: &Pem, name: &str, token: Token, identity: Option<Identity>) -> Result<Self, AskError> {
        Ok(Self { tls: Some(Client::new(ca, name, identity)?), token })
    }
}

impl CredentialFiles {
    /// Reads what is named; without a CA, a named one or `found`, there is no TLS. `name` is that of the server unless another is named.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub(crate) fn read(&self, name: &str, found: Option<Pem>) -> Result<Credentials, AskError> {
        let token = self.token_file.as_ref().map(Token::read).transpose()?.unwrap_or_default();
        let ca = self.ca.as_deref().map(Pem::read).transpose()?.or(found);
        let Some(ca) = ca else { return Ok(Credentials { tls: None, token }) };
        let identity = self.certificate.as_deref().zip(self.key.as_deref());
        let identity = identity.map(|(certificate, key)| Identity::read(certificate, key)).transpose()?;
        Credentials::new(&ca, self.server_name.as_deref().unwrap_or(name), token, identity)
    }
}

/// A bearer token, or none.
#[derive(Clone, Default)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    /// Of a text; white space around it does not count. `None` if it cannot be one.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().ok()?;
        value.set_sensitive(true);
        (!text.is_empty()).then_some(Self(Some(value)))
    }

    /// Of the value of a header `Authorization`; `None` if it is no bearer token.
    pub(crate) fn of_header(value: &str) -> Option<Self> {
        Self::new(value.strip_prefix("Bearer ")?)
    }

    fn read(path: &PathBuf) -> Result<Self, AskError> {
        let bad = |reason: String| AskError::BadToken { path: path.clone(), reason };
        let text = fs::read_to_string(path).map_err(|error: io::Error| bad(error.to_string()))?;
        Self::new(&text).ok_or_else(|| bad("it is empty, or no token".to_owned()))
    }

    pub(crate) const fn is_given(&self) -> bool {
        self.0.is_some()
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_given() { "(token)" } else { "(no token)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(token: Option<Token>, want: Option<&str>) {
        let shown = token.map(|mut token| token.call(Request::new(())).expect("it refuses nothing"));
        let shown = shown.and_then(|request| Some(request.metadata().get("authorization")?.to_str().ok()?.to_owned()));
        assert_eq!(shown.as_deref(), want);
    }

    #[test]
    fn a_bearer_token_is_shown_and_nothing_else() {
        check(Token::of_header("Bearer abc"), Some("Bearer abc"));
        check(Token::of_header("Basic dTpw"), None);
        check(Token::of_header("Bearer "), None);
        check(Token::new("a\nb"), None);
        check(Some(Token::default()), None);
        let secret = format!("{:?}", Token::new("hidden"));
        assert!(!secret.contains("hidden"), "{secret}");
    }
}
