//! The section `tls`: where central's certificate comes from, and whose certificates it accepts.

use std::{net::SocketAddr, path::PathBuf};

use kulprit_daemon::UsageError;
use serde::{Deserialize, Serialize};

/// TLS 1.3 of the gRPC API. Without this section it is plaintext, which only loopback may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// File of central's certificate and those that lead to its CA, PEM. Looked at again every 5 s: what changes is taken without a restart.
    pub certificate: Option<PathBuf>,
    /// File of its key, PEM.
    pub key: Option<PathBuf>,
    /// Instead of both: central makes them itself and keeps them in Kubernetes.
    pub made: Option<MadeConfig>,
    /// File of the CAs, PEM, whose certificates clients may show.
    pub client_ca: Option<PathBuf>,
}

/// A certificate that central makes, of a CA that it makes, both renewed at two thirds of their life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MadeConfig {
    /// The Secret with certificate and keys, in the namespace of central's Lease.
    pub secret: String,
    /// The ConfigMap with the CA under `ca.crt`, in the same namespace: what agents and the command trust.
    pub config_map: String,
    /// The names that central is reached by. Default: those of a Service `kulprit-central` in its namespace.
    pub names: Vec<String>,
}

impl Default for MadeConfig {
    fn default() -> Self {
        Self {
            secret: "kulprit-central-tls".to_owned(),
            config_map: "kulprit-central-ca".to_owned(),
            names: Vec::new(),
        }
    }
}

/// What is wrong with the section `tls` of a central that listens there and, if `is_standalone`, has no Kubernetes.
pub(super) fn check(
    tls: Option<&TlsConfig>,
    listen: SocketAddr,
    is_standalone: bool,
    place: &str,
) -> Result<(), UsageError> {
    let wrong = |key: &str, problem: &str, fix: &str| {
        Err(UsageError::new(format!("bad value of `{key}` in {place}: {problem}")).fix(fix))
    };
    let Some(TlsConfig { certificate, key, made, client_ca: _ }) = tls else {
        if listen.ip().is_loopback() {
            return Ok(());
        }
        return wrong(
            "listen",
            &format!("others reach {listen}, and without `tls` all would be plaintext there"),
            "set `tls.certificate` and `tls.key` to files, or `tls.made: {}` to let central make them in Kubernetes; or listen on 127.0.0.1",
        );
    };
    match (certificate, key, made) {
        (Some(_), Some(_), None) => Ok(()),
        (None, None, Some(_)) if is_standalone => wrong(
            "tls.made",
            "what central makes it keeps in Kubernetes, and `kubernetes.standalone` is true",
            "set `tls.certificate` and `tls.key` instead",
        ),
        (None, None, Some(made)) if made.secret.is_empty() || made.config_map.is_empty() => {
            wrong("tls.made", "a name is empty", "name both, `secret` and `config_map`, or neither")
        }
        (None, None, Some(_)) => Ok(()),
        (Some(_), None, None) => wrong("tls.key", "missing", "name the file of the certificate's key"),
        (None, Some(_), None) => wrong("tls.certificate", "missing", "name the file of the key's certificate"),
        (None, None, None) => {
            wrong("tls", "it names no certificate", "set `tls.certificate` and `tls.key`, or `tls.made: {}`")
        }
        (_, _, Some(_)) => wrong(
            "tls.made",
            "a certificate is given as well",
            "leave `tls.certificate` and `tls.key` out, or `tls.made`",
        ),
    }
}
