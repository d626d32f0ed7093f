//! Who connects, and how each side knows the other: TLS 1.3 before anything of gRPC.
//!
//! Read: [`keeper`] (the certificate in use, from files or made, and what becomes of a new one), [`made`] (what central makes: a CA and a
//! certificate of it; no I/O), `kept` (the Secret and the ConfigMap that hold it), [`accept`] (connections and their handshakes),
//! [`connection`] (what a request knows of its peer), [`certificate`] (what a certificate says).
//!
//! Nothing here asks for the Lease: every central needs a certificate, and of two that make one the first that Kubernetes hears wins.

pub mod accept;
pub mod certificate;
pub mod connection;
pub mod keeper;
mod kept;
pub mod made;

pub use connection::{Peer, PeerName};
