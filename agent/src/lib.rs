//! The per-node agent: probes look, the tracker holds and remembers, the spool keeps, the uplink sends.

pub mod look;
pub mod probes;
