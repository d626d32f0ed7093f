//! Reads a recorded case, a must-gather or a sosreport into a snapshot, and asks the engine. Files only.
//!
//! Read in this order: [`folder`] (the files, under limits), [`layout`] (which is what), [`manifest`] (when and whom), [`gathered`]
//! (what the files of one node say), then its readers [`objects`], [`tree`], [`commands`] and [`logs`], [`assemble`] (a view of
//! each node), [`case`] (the whole). [`truth`], [`eval`] and [`collection`] measure verdicts on cases whose answer is known.

mod assemble;
mod case;
pub mod collection;
pub mod commands;
mod error;
pub mod eval;
mod folder;
pub mod gathered;
pub mod layout;
pub mod logs;
pub mod manifest;
mod objects;
pub mod tree;
pub mod truth;

pub use case::{Case, Options};
pub use error::CaseError;
pub use folder::{Folder, Listing};
pub use gathered::{Gathered, LauncherSeen, Problem, Span};
pub use manifest::SubjectName;
