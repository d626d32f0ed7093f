//! Why a question could not be answered: what, where, and what to do.

use std::{error::Error, iter::successors, path::PathBuf};

use kulprit_tls::TlsError;

use crate::kubernetes::KubernetesError;

/// A question that could not be asked or answered. Printed as one line, exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "bad address of central `{address}`: write it as https://HOST:PORT, or http://HOST:PORT where central has no TLS \
         (--central or KULPRIT_CENTRAL)"
    )]
    BadAddress { address: String },
    #[error("cannot ask central at {address}: {problem}")]
    UnsafeAddress { address: String, problem: &'static str },
    #[error("no TLS with central at {address}: {reason}")]
    NotTrusted { address: String, reason: String },
    #[error(
        "the connection to {whom} broke ({reason}): does central speak TLS there? Then name it https://, and its CA with --ca"
    )]
    BrokenOff { whom: String, reason: String },
    #[error("{}", chain(.0))]
    Tls(#[from] TlsError),
    #[error("cannot use the token `{}`: {reason}", path.display())]
    BadToken { path: PathBuf, reason: String },
    #[error(
        "central does not answer at {address} ({reason}): is it running there? Start one with `make run` or \
         `kulprit-central`, name another with --central, or ask this host's agent with `kulprit status`"
    )]
    CentralUnreachable { address: String, reason: String },
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error("no answer from {whom} within {seconds} s: try a longer --timeout")]
    Timeout { whom: String, seconds: u64 },
    #[error("{message}")]
    Refused { message: String },
    #[error("{whom} failed: {message}")]
    Failed { whom: String, message: String },
    #[error(
        "no agent answers at {} ({reason}): is one running on this host? Name its socket with --socket",
        tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    AgentUnreachable { tried: Vec<PathBuf>, reason: String },
    #[error("bad time span `{0}`: write a number and a unit, for example 30m, 2h or 1d")]
    BadSpan(String),
    #[error("no cause `{0}` in the catalogue: `kulprit causes` lists them")]
    NoSuchCause(String),
    #[error("{}", chain(.0))]
    Case(#[from] kulprit_case::CaseError),
    #[error("`{0}` has no case with a truth.yaml in it: `kulprit eval` wants cases with their right answer")]
    NoTruth(PathBuf),
    #[error("bad time `{0}`: write it with its zone, for example 2026-03-01T10:15:00Z")]
    BadTime(String),
    #[error("`{0}` is there and not empty: name a folder that is to be made")]
    NotEmpty(PathBuf),
    #[error("`{0}` is there already: name another file with --out")]
    Exists(PathBuf),
    #[error("cannot write `{}`: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
    #[error("{0}")]
    NotExplained(String),
    #[error("cannot print the answer: {0}")]
    Print(String),
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The innermost message of an error: what the system said.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl AskError {
    /// With the way to look elsewhere, where the namespace was nobody's choice.
    pub(crate) fn with_way_elsewhere(self) -> Self {
        match self {
            Self::Refused { message } => Self::Refused { message: format!("{message} (-A looks in all namespaces)") },
            other => other,
        }
    }

    /// What an RPC's failure means for the person who asked.
    pub(crate) fn from_status(whom: &str, timeout_secs: u64, status: &tonic::Status) -> Self {
        use tonic::{Code, TimeoutExpired};
        if let Some(wrong) = kulprit_tls::error::find(status) {
            return Self::NotTrusted { address: whom.to_owned(), reason: chain(wrong) };
        }
        // What central itself says has no source. A question that still waited is cancelled with its connection, as by the timeout.
        let broke = status.source().filter(|error| {
            !successors(Some(*error), |&error| error.source()).any(|cause| cause.is::<TimeoutExpired>())
        });
        if let (Code::Unknown | Code::Internal | Code::Cancelled, Some(broke)) = (status.code(), broke) {
            return Self::BrokenOff { whom: whom.to_owned(), reason: innermost(broke) };
        }
        match status.code() {
            Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated => Self::Refused { message: status.message().to_owned() },
            Code::DeadlineExceeded | Code::Cancelled => Self::Timeout { whom: whom.to_owned(), seconds: timeout_secs },
            Code::Unavailable if whom.starts_with("http") => {
                Self::CentralUnreachable { address: whom.to_owned(), reason: status.message().to_owned() }
            }
            code => Self::Failed { whom: whom.to_owned(), message: format!("{code:?}: {}", status.message()) },
        }
    }
}
