//! Reads one machine under a root path: processes, QEMU, KVM, the kernel log, systemd, cgroups, mounts, disks.
//!
//! Everything here answers "what does this machine show?" and nothing answers "is that bad?": there are no thresholds, no
//! policy and no words of the product, only observations with units in their names. A value that is not there is `None`; a
//! file that could not be read is a [`ReadError`] that names it. Parsers are `parse_*` functions over text or bytes, so that
//! recorded trees, live files and fuzzers take the same way.
//!
//! Calls block, but only on the kernel: the readers of `/proc`, `/sys` and `/dev` are plain functions to be run where
//! blocking is allowed; what waits for events ([`pidfd`], [`kmsg`], [`kvm::KvmWatch`], [`systemd`], [`http`]) is async.

mod error;
mod readiness;
mod root;
mod text;

pub mod allocator;
pub mod block;
pub mod captured;
pub mod cgroup;
pub mod clock;
pub mod command;
pub mod cpu;
pub mod cri;
pub mod folder_watch;
pub mod follow;
pub mod hardware;
pub mod http;
pub mod hugepages;
pub mod inventory;
pub mod journal;
pub mod kept;
pub mod kmsg;
pub mod kubelet_files;
pub mod kvm;
pub mod launcher;
pub mod limits;
pub mod log;
pub mod memory;
pub mod migration;
pub mod mount;
pub mod network;
pub mod pidfd;
pub mod pressure;
pub mod process;
pub mod qemu;
pub mod socket;
pub mod space;
pub mod systemd;
pub mod volume;

pub use error::{Malformed, ReadError};
pub use root::HostRoot;
