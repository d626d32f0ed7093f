//! Kubernetes, watched: which kinds, how the API server is reached and asked, and what becomes of its answers.
//!
//! Read in this order: [`kinds`] (what is watched), [`client`] (how the API server is reached), `requests` (pages and
//! streams), `object` (one object of an answer, whatever is in it), `clock` (its clock against ours), [`watch`] (one task per kind, which feeds a
//! [`Sink`](watch::Sink) and says what it cannot see).
//!
//! Nothing is written to Kubernetes here: lists and watches only.

pub mod client;
mod clock;
pub mod kinds;
mod object;
mod requests;
pub mod store;
pub mod watch;
