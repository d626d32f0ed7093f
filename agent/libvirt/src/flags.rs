//! The worker's flags. The agent starts it; a person only to try something.

use std::{os::fd::RawFd, path::PathBuf, time::Duration};

use clap::Parser;

use crate::target::{Target, TargetError};

/// The libvirt worker of kulprit-agent: talks to one local libvirt daemon and tells the agent over a socket pair.
#[derive(Debug, Parser)]
#[command(name = "kulprit-agent-libvirt", version)]
pub(crate) struct Flags {
    /// Number of the open socket to the agent (one end of a Unix socket pair, stream)
    #[arg(long, default_value_t = 3)]
    pub(crate) fd: RawFd,
    /// libvirt URI of a local daemon
    #[arg(long, default_value = "qemu:///system")]
    uri: String,
    /// Socket of the daemon, where it is not where libvirt would look, e.g. below /proc/PID/root
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Open the connection read-only; then no shutdown requests (POWERDOWN) are seen
    #[arg(long)]
    pub(crate) readonly: bool,
    /// Time between two looks at all domains, s
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    look_secs: u64,
    /// Time between two signs of life asked of the daemon, ms
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    heartbeat_ms: u64,
    /// A libvirt call that takes longer counts as hung, ms
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    deadline_ms: u64,
}

/// When things are done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) look: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) deadline: Duration,
}

impl Flags {
    /// The daemon to talk to.
    ///
    /// # Errors
    /// The URI is not one of a local daemon.
    pub(crate) fn target(&self) -> Result<Target, TargetError> {
        Target::parse(&self.uri, self.socket.clone())
    }

    pub(crate) fn times(&self) -> Times {
        Times {
            look: Duration::from_secs(self.look_secs),
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            deadline: Duration::from_millis(self.deadline_ms),
        }
    }
}
