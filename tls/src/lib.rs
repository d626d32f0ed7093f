//! TLS 1.3 and nothing older, for both sides: configurations made of PEM texts, a client's stream, and failures in a sentence.
//!
//! No session is resumed: every connection is judged by the certificates and the CA of its own time, which is what makes a change of
//! either take effect. No root of the system is trusted, only the CA that was named. Cryptography is `ring`, as in kube's client.
//!
//! Read: [`pem`] (texts and what is in them), [`server`], [`client`], [`error`] (what may be wrong). `testing` makes certificates
//! for tests.

pub mod client;
pub mod error;
pub mod pem;
pub mod server;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

pub use client::{Client, Connector};
pub use error::TlsError;
pub use pem::{Identity, Pem};
pub use server::{Clients, server_config};

/// HTTP/2, which gRPC is.
const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
