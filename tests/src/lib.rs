//! End-to-end tests of Kulprit, and the lab they run in.
//!
//! The lab is real: [`Node`] is a machine of its own (systemd-nspawn with real systemd, D-Bus, journald and libvirt), [`Guest`] a real
//! QEMU under KVM, and each fault in [`fault`] and [`disk`] is what it says, not an imitation. Every piece is a guard: dropping it undoes
//! it, and what a killed run leaves behind is removed by its reaper or by the next [`Lab::open`].
//!
//! ```no_run
//! use kulprit_tests::{Guest, Lab, disk::FileDisk, guest::Program};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::open()?;
//! let node = lab.node("n1").start()?;
//! let disk = FileDisk::create(&node, "data", 64)?;
//! let guest = Guest::define(&node, "db-0", Program::Writer { bursts: 8 }).disk_on(&disk).start()?;
//! let frozen = disk.freeze()?; // QEMU's disk thread is in D from here ...
//! # let _ = (guest, frozen);
//! # Ok(()) // ... to here
//! # }
//! ```
//!
//! Needs root, KVM, and what `make setup` installs. Labs exclude each other by a lock, whichever process they are in, so tests need no
//! `--test-threads=1`.

pub mod check;
pub mod wait;

pub mod shell;

pub mod cage;
mod cgroup;
pub mod lab;
mod leftovers;

pub mod node;
mod node_files;

pub mod kernel_log;
pub mod process;
pub mod programs;

pub mod bench;
pub mod broken_root;
pub mod certificates;
pub mod disk;
pub mod domain_xml;
pub mod export;
pub mod fault;
mod fuse_file;
pub mod guest;
pub mod image;
pub mod migration;

pub mod handler;
pub mod kubernetes;
pub mod kubevirt;
pub mod launcher;

pub mod scenario;
pub mod system;

pub use guest::Guest;
pub use handler::Handler;
pub use kubernetes::Cluster;
pub use kubevirt::KubeVirt;
pub use lab::Lab;
pub use launcher::Launcher;
pub use node::Node;
