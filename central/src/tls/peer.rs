//! Whom a client certificate names.

/// The name in a client certificate that was verified: its first DNS name, else its common name. An extension of each request of the
/// connection; none where no certificate was asked for or shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(pub String);
