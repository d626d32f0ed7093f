//! The worker as the agent sees it: a process at the other end of a socket pair.
//!
//! `alone` needs nothing; `libvirtd` starts a private libvirtd and QEMU in namespaces of its own and needs root. Without
//! root those are left out and say so; with `CI=true` they fail instead.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise, and prints its figures"
)]

mod alone;
mod daemon;
mod libvirtd;
mod worker;
