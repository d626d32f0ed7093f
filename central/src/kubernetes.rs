//! Kubernetes, watched and written to: which kinds, how the API server is reached and asked, and what becomes of its answers.
//!
//! Read in this order: [`kinds`] (what is watched), [`client`] (how the API server is reached), `requests` (pages and
//! streams), `object` (one object of an answer, whatever is in it), `clock` (its clock against ours), [`watch`] (one task per kind, which feeds a
//! [`Sink`](watch::Sink) and says what it cannot see), [`store`] (what they told).
//!
//! Which rights that takes, and which of them are missing, is in [`rights`]. [`review`] asks whose a token is and what somebody may do. Everything that is written is a request of [`write`](mod@write), and is written by the holder of the [`lease`] alone.

pub mod client;
mod clock;
pub mod kinds;
pub mod lease;
mod object;
mod requests;
pub(crate) mod review;
pub mod rights;
pub mod store;
pub mod watch;
pub mod write;

pub(crate) use requests::Failure;
