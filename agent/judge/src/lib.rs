//! What a look at the host means: observations of `kulprit-host` in, [`Verdict`]s out. Pure; no I/O, no clock.
//!
//! The same functions serve the live agent and recorded cases. Thresholds and log rules live here and nowhere else; holds
//! (how long a state must last) are the tracker's, from the finding catalogue.

pub mod clock;
pub mod command;
pub mod domain;
pub mod filesystem;
pub mod hardware;
pub mod kernel_log;
pub mod kubelet;
pub mod kvm;
pub mod launcher;
pub mod limits;
pub mod migration;
pub mod network;
pub mod pressure;
pub mod qemu;
pub mod recorded;
pub mod runtime;
pub mod said;
mod say;
pub mod security;
pub mod services;
#[cfg(test)]
mod testing;
pub mod wait;

pub mod verdict;
pub mod volumes;

pub use say::Reading;
pub use verdict::{OccurrenceVerdict, StateVerdict, Verdict};
