//! Why somebody is not let in, or not told: for him, for the metrics, and as gRPC's code.
//!
//! That nobody could be asked (`CannotVerify`) is another answer than no: who gets it is to try again, and an administrator is to look at the API
//! server and not at rights.

use std::net::IpAddr;

use tonic::{Code, Status};

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// He did not say who he is.
    #[error("no token: {0}")]
    NoToken(&'static str),
    /// No verified certificate came with the connection.
    #[error("no client certificate: connect with one of the CA that central was given (tls.client_ca)")]
    NoCertificate,
    /// What came is no bearer token.
    #[error("{0}")]
    Malformed(String),
    /// The token's time is over.
    #[error("the token has expired: connect with a newer one")]
    Expired,
    /// The token was made for somebody else.
    #[error("the token was not made for `{0}`: ask for one with that audience")]
    Audience(String),
    /// The API server does not accept the token.
    #[error("Kubernetes does not accept the token{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Unauthenticated(String),
    /// The token is of somebody who is no agent.
    #[error("`{name}` is no agent: agents are `{wanted}` (access.agent_account)")]
    Account {
        /// Whose token it is.
        name: String,
        /// Who agents are.
        wanted: String,
    },
    /// An agent reports for a node that is not its own.
    #[error("hello.node: `{claimed}`, but {name} is of {}", .own.as_ref().map_or("no node: use the token of a pod".to_owned(), |own| format!("the node `{own}`")))]
    Node {
        /// Who it is.
        name: String,
        /// Where it is; `None` if nothing says so.
        own: Option<String>,
        /// For which node it wants to report.
        claimed: String,
    },
    /// He may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// More would have to be asked than one question may cost.
    #[error(
        "what you may see would have to be asked for {0} namespaces and names: get on all of them is needed, or a narrower question"
    )]
    TooMuch(usize),
    /// From his address came too many tokens that are nobody's to ask whose this one is.
    #[error("{0} has shown too many tokens that Kubernetes does not accept: one more may be shown in a second")]
    Guesses(IpAddr),
    /// He has asked as much already as may be under way at once; how much that is.
    #[error("{0} questions of yours are under way already: wait for an answer, then ask again")]
    Busy(usize),
    /// Nobody could be asked.
    #[error("cannot verify {what}: {why}; try again")]
    CannotVerify {
        /// What was to be verified.
        what: &'static str,
        /// What is in the way.
        why: String,
    },
}

/// Every word of [`Refusal::word`], for the documentation of metrics.
#[cfg(test)]
pub(super) const WORDS: [&str; 13] = [
    "no_token",
    "no_certificate",
    "malformed",
    "expired",
    "audience",
    "unauthenticated",
    "account",
    "node",
    "forbidden",
    "too_much",
    "guesses",
    "busy",
    "cannot_verify",
];

impl Refusal {
    /// The word in metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoToken(_) => "no_token",
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed",
            Self::Expired => "expired",
            Self::Audience(_) => "audience",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Account { .. } => "account",
            Self::Node { .. } => "node",
            Self::Forbidden(_) => "forbidden",
            Self::TooMuch(_) => "too_much",
            Self::Guesses(_) => "guesses",
            Self::Busy(_) => "busy",
            Self::CannotVerify { .. } => "cannot_verify",
        }
    }

    /// The answer.
    #[must_use]
    pub fn status(&self) -> Status {
        let code = match self {
            Self::NoToken(_)
            | Self::NoCertificate
            | Self::Malformed(_)
            | Self::Expired
            | Self::Audience(_)
            | Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Account { .. } | Self::Node { .. } | Self::Forbidden(_) => Code::PermissionDenied,
            Self::TooMuch(_) | Self::Guesses(_) | Self::Busy(_) => Code::ResourceExhausted,
            Self::CannotVerify { .. } => Code::Unavailable,
        };
        Status::new(code, self.to_string())
    }
}
