//! The vocabulary of Kulprit, shared by everything that looks, decides or prints.
//!
//! Read in this order: [`time`] (when), [`subject`] (what), [`side`] (where), [`status`] (how it is), [`evidence`] (what was seen),
//! [`said`] (the words of error texts), [`catalogue`] (every finding there is), [`finding`] (one finding), [`record`] (a finding
//! on its way to central).
//! Nothing here does I/O or knows the wire; `kulprit-proto` converts.

pub mod attribute;
pub mod catalogue;
pub mod evidence;
pub mod finding;
pub mod record;
pub mod said;
pub mod side;
pub mod status;
pub mod subject;
pub mod time;

pub use attribute::Attributes;
pub use catalogue::{FindingCode, FindingSpec, Severity};
pub use evidence::Evidence;
pub use finding::{Finding, Occurrence, State};
pub use record::{Body, Disk, Domain, Qemu, Record, StreamId};
pub use side::Side;
pub use status::Status;
pub use subject::Subject;
pub use time::{Moment, Stamp};
