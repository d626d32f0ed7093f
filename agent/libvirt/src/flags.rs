//! The worker's flags. The agent starts it; a person only to try something.

use std::os::fd::RawFd;

use clap::Parser;

/// The libvirt worker of kulprit-agent: talks to the local libvirt daemons it is told of and tells the agent over a socket pair.
#[derive(Debug, Parser)]
#[command(name = "kulprit-agent-libvirt", version)]
pub(crate) struct Flags {
    /// Number of the open socket to the agent (one end of a Unix socket pair, stream)
    #[arg(long, default_value_t = 3)]
    pub(crate) fd: RawFd,
    /// A libvirt call that takes longer counts as hung, ms
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub(crate) deadline_ms: u64,
}
