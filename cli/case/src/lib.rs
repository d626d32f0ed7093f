//! Reads a recorded case, a must-gather or a sosreport into a snapshot, and asks the engine. Files only.
//!
//! Read in this order: [`gathered`] (what the files of one node say), `tree` (captured `/proc` and `/sys`), `commands` (what
//! commands printed), `logs` (kernel, units, pods, QEMU, libvirt).

mod assemble;
pub mod eval;
pub mod truth;
pub mod commands;
mod error;
mod folder;
pub mod gathered;
pub mod layout;
pub mod logs;
pub mod manifest;
pub mod tree;

pub use error::CaseError;
pub use folder::{Folder, Listing};
pub use gathered::{Gathered, LauncherSeen, Problem, Span};
