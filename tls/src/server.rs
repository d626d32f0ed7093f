//! The server's side: one configuration per pair of certificate and key, replaced as a whole when one of them changes.

use std::sync::Arc;

use rustls::{
    Error, RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};

use crate::{ALPN, Identity, Pem, TlsError, provider};

/// What is asked of clients.
#[derive(Clone, Copy, Debug)]
pub enum Clients<'a> {
    /// No certificate.
    Anyone,
    /// One of these CAs, or none.
    May(&'a Pem),
    /// One of these CAs.
    Must(&'a Pem),
}

/// A server that is `identity`; certificates of clients are judged at the time that `time` gives.
///
/// # Errors
/// If the key is not the certificate's, or a certificate cannot be used.
pub fn server_config(
    identity: Identity,
    clients: Clients<'_>,
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let Identity { chain, key, places: [certificate, of_key] } = identity;
    let builder = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| TlsError::Unusable { place: "the provider of TLS".to_owned(), source })?;
    let builder = match clients {
        Clients::Anyone => builder.with_no_client_auth(),
        Clients::May(ca) => builder.with_client_cert_verifier(verifier(ca, false)?),
        Clients::Must(ca) => builder.with_client_cert_verifier(verifier(ca, true)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| unusable(source, certificate, of_key))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would keep what a certificate said that has since been renewed, replaced or distrusted.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn verifier(ca: &Pem, is_required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider());
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    let unusable = |error: rustls::server::VerifierBuilderError| TlsError::Unusable {
        place: ca.place().to_owned(),
        source: Error::General(error.to_string()),
    };
    builder.build().map_err(unusable)
}

/// The certificates of a PEM text as CAs.
pub(crate) fn roots(ca: &Pem) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca.certificates()? {
        roots.add(certificate).map_err(|source| TlsError::Unusable { place: ca.place().to_owned(), source })?;
    }
    Ok(roots)
}

/// What is wrong with a pair.
pub(crate) fn unusable(source: Error, certificate: String, key: String) -> TlsError {
    match source {
        Error::InconsistentKeys(_) => TlsError::KeyMismatch { certificate, key },
        Error::InvalidCertificate(_) => TlsError::Unusable { place: certificate, source },
        _ => TlsError::Unusable { place: key, source },
    }
}
