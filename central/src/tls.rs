//! What a connection is known by.

mod peer;

pub use peer::PeerName;
