//! What may be wrong with certificates, keys and handshakes, in a sentence that says where and what to do.

use std::{error, io, path::PathBuf};

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, pki_types::UnixTime};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there or must not be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The file is none of certificates.
    #[error("`{}` has {n_bytes} bytes: that is no file of certificates", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        n_bytes: u64,
    },
    /// A text without a certificate.
    #[error("no certificate (PEM) in {place}")]
    NoCertificate {
        /// The text.
        place: String,
    },
    /// A text without a key.
    #[error("no private key (PEM) in {place}")]
    NoKey {
        /// The text.
        place: String,
    },
    /// A broken text.
    #[error("broken PEM in {place}: {reason}")]
    BadPem {
        /// The text.
        place: String,
        /// What is broken.
        reason: &'static str,
    },
    /// A key of another certificate.
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    KeyMismatch {
        /// The certificate's text.
        certificate: String,
        /// The key's text.
        key: String,
    },
    /// A certificate or key that cannot be used.
    #[error("cannot use what is in {place}")]
    Unusable {
        /// The text.
        place: String,
        /// What rustls says of it.
        #[source]
        source: Error,
    },
    /// No name that a certificate can be for.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    BadName(String),
    /// The server is not who was asked for, or somebody is in between.
    #[error("the server's certificate is of no CA in {ca}: is that the CA of this central, as it is now?")]
    Untrusted {
        /// The CA's text.
        ca: String,
    },
    /// The server's certificate names others.
    #[error("the server's certificate is for {presented} and not for {name}: ask for a name that it has")]
    WrongName {
        /// Who was asked for.
        name: String,
        /// The names it has.
        presented: String,
    },
    /// The server's certificate is of the past.
    #[error("the server's certificate ended {}: it was not renewed, or the clock of this machine is wrong", time(.not_after))]
    Expired {
        /// Its end.
        not_after: Option<UnixTime>,
    },
    /// The server's certificate is of the future.
    #[error("the server's certificate begins {}: the clock of this machine, or of who made it, is wrong", time(.not_before))]
    NotYetValid {
        /// Its begin.
        not_before: Option<UnixTime>,
    },
    /// The server speaks something else.
    #[error("the server does not speak TLS there: is that port plaintext (http://), or of another program?")]
    NotTls,
    /// The server is too old.
    #[error("the server does not speak TLS 1.3")]
    OldVersion,
    /// The server wants to know who asks.
    #[error("the server wants a certificate of its clients, and none was shown to it")]
    CertificateWanted,
    /// The server does not accept who asks.
    #[error("the server does not accept our certificate ({0:?}): is it of the CA that central trusts, and not ended?")]
    CertificateRefused(AlertDescription),
    /// The server, or what is before it, hung up.
    #[error(
        "the connection was ended within the TLS handshake: does the server take TLS there, and is it not overloaded?"
    )]
    Ended,
    /// Whatever else.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// A time as it is in a certificate.
fn time(at: &Option<UnixTime>) -> String {
    let seconds = at.and_then(|at| i64::try_from(at.as_secs()).ok());
    let known = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    known.map_or_else(|| "at another time".to_owned(), |at| format!("at {at}"))
}

impl TlsError {
    /// What a failed handshake means for a client that asked for `name` and trusts `ca`.
    pub(crate) fn of_client(error: io::Error, name: &str, ca: &str) -> Self {
        match inside(&error) {
            Some(Error::InvalidCertificate(wrong)) => {
                Self::of_certificate(wrong, name, ca).unwrap_or(Self::Handshake(error))
            }
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => Self::NotTls,
            Some(Error::PeerIncompatible(
                PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            )) => Self::OldVersion,
            Some(Error::AlertReceived(alert)) => Self::of_alert(*alert).unwrap_or(Self::Handshake(error)),
            _ if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => Self::Ended,
            _ => Self::Handshake(error),
        }
    }

    fn of_certificate(wrong: &CertificateError, name: &str, ca: &str) -> Option<Self> {
        Some(match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Untrusted { ca: ca.to_owned() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::WrongName { name: name.to_owned(), presented: listed(presented) }
            }
            CertificateError::NotValidForName => {
                Self::WrongName { name: name.to_owned(), presented: "others".to_owned() }
            }
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired { not_after: Some(*not_after) },
            CertificateError::Expired => Self::Expired { not_after: None },
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { not_before: Some(*not_before) }
            }
            CertificateError::NotValidYet => Self::NotYetValid { not_before: None },
            _ => return None,
        })
    }

    /// What the server's last word means; `None` where it says nothing of the client.
    pub(crate) fn of_alert(alert: AlertDescription) -> Option<Self> {
        Some(match alert {
            AlertDescription::CertificateRequired => Self::CertificateWanted,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => Self::CertificateRefused(alert),
            AlertDescription::ProtocolVersion => Self::OldVersion,
            _ => return None,
        })
    }
}

/// What rustls said, where an error of a stream is of it.
#[must_use]
pub fn inside(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What TLS has to say in an error of whatever is spoken over it: what the server thinks of the client comes after the handshake.
#[must_use]
pub fn find<'a>(error: &'a (dyn error::Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_stream = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
        if let Some(found) = error.downcast_ref().or(of_stream) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// `DnsName("a")` as rustls has them, without its wrapping.
fn listed(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    match presented {
        [] => "nobody".to_owned(),
        names => names.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}
