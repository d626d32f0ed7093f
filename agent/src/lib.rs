//! The per-node agent: probes look, the tracker holds and remembers, the spool keeps, the uplink sends.
//!
//! Read in this order: [`look`] (what a probe hands over), [`probes`] (when to look), [`tracker`] (what is said and remembered),
//! [`spool`] (what is kept until central has it), [`uplink`] (the stream to central), [`socket`] (the same without central),
//! [`check`] (one look and a table), [`sacrifice`] (calls that may never return), [`config`] ([`reload`]: read again while it runs), [`metrics`], [`docs`]; [`app`] is the
//! only file that knows all parts.

pub mod app;
pub mod arguments;
pub mod capture;
pub mod check;
pub mod config;
pub mod docs;
pub mod hello;
pub mod look;
pub mod metrics;
pub mod probes;
pub mod recorder;
pub mod reload;
pub mod sacrifice;
pub mod socket;
pub mod spool;
pub mod tracker;
pub mod uplink;
mod worker;
