//! NFS mounts by the client's own statistics: what was sent, what was answered.
//!
//! Source: `/proc/PID/mountstats`, kernel `fs/nfs/super.c` (`nfs_show_stats`), `net/sunrpc/xprtsock.c` and
//! `net/sunrpc/xprtrdma/transport.c` (`print_stats`), `net/sunrpc/stats.c`. One block of lines for each mount; other file
//! systems have one line and no statistics.

use std::path::PathBuf;

use crate::mount::unescape_path;
use crate::text::into_text;
use crate::{HostRoot, Malformed, ReadError};

/// Most of mountstats that is read, bytes: an NFS mount has some 5 KiB.
const LIMIT_BYTES: usize = 8 << 20;

/// One mount of NFS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NfsMount {
    /// `server:/export`.
    pub source: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Address of the server (`addr=`). `None` where the options do not say.
    pub address: Option<String>,
    /// Whether requests are sent again for ever (`hard`) instead of ending with an error (`soft`, `softerr`).
    pub is_hard: Option<bool>,
    /// Its connections; several with `nconnect=`. Mounts of one server may share them.
    pub transports: Vec<NfsTransport>,
    /// Requests that were not answered within `timeo` and all their retransmissions, since the mount.
    pub timeouts_total: u64,
}

/// One connection to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NfsTransport {
    /// Times it was connected, since the mount; 0 for UDP.
    pub connects_total: u64,
    /// Requests sent, retransmissions counted.
    pub sends_total: u64,
    /// Answers received.
    pub replies_total: u64,
}

impl NfsMount {
    /// Requests sent over all connections.
    pub fn sends_total(&self) -> u64 {
        self.transports.iter().map(|row| row.sends_total).fold(0, u64::saturating_add)
    }

    /// Answers received over all connections.
    pub fn replies_total(&self) -> u64 {
        self.transports.iter().map(|row| row.replies_total).fold(0, u64::saturating_add)
    }

    /// Times connected, over all connections.
    pub fn connects_total(&self) -> u64 {
        self.transports.iter().map(|row| row.connects_total).fold(0, u64::saturating_add)
    }
}

/// Parses mountstats: the NFS mounts, and a complaint for each of their lines that is not as it should be.
pub fn parse_mountstats(text: &str) -> (Vec<NfsMount>, Vec<Malformed>) {
    let mut mounts: Vec<NfsMount> = Vec::new();
    let mut errors = Vec::new();
    let mut is_nfs = false;
    let mut is_per_op = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("device ") {
            is_per_op = false;
            match parse_heading(rest) {
                Some(mount) => {
                    is_nfs = true;
                    mounts.push(mount);
                }
                None => is_nfs = false,
            }
            continue;
        }
        let Some(mount) = mounts.last_mut().filter(|_| is_nfs) else { continue };
        let line_in = line.trim_start();
        if let Some(options) = line_in.strip_prefix("opts:") {
            read_options(mount, options.trim());
        } else if let Some(transport) = line_in.strip_prefix("xprt:") {
            match parse_transport(transport) {
                Some(transport) => mount.transports.push(transport),
                None => errors.push(Malformed::new(index + 1, line)),
            }
        } else if line_in.starts_with("per-op statistics") {
            is_per_op = true;
        } else if is_per_op && !line_in.is_empty() {
            // `READ: ops transmissions timeouts bytes-sent …`.
            let timeouts =
                line_in.split_once(": ").and_then(|(_, rest)| rest.split_ascii_whitespace().nth(2)?.parse().ok());
            match timeouts {
                Some(timeouts) => mount.timeouts_total = mount.timeouts_total.saturating_add(timeouts),
                None => errors.push(Malformed::new(index + 1, line)),
            }
        }
    }
    (mounts, errors)
}

/// `10.0.0.5:/export mounted on /mnt with fstype nfs4 statvers=1.1`; `None` for another file system.
fn parse_heading(rest: &str) -> Option<NfsMount> {
    let (source, rest) = rest.split_once(" mounted on ")?;
    let (point, rest) = rest.split_once(" with fstype ")?;
    let fs_type = rest.split_ascii_whitespace().next()?;
    matches!(fs_type, "nfs" | "nfs4").then(|| NfsMount {
        source: unescape_path(source).to_string_lossy().into_owned(),
        mount_point: unescape_path(point),
        ..NfsMount::default()
    })
}

fn read_options(mount: &mut NfsMount, options: &str) {
    for option in options.split(',') {
        match option.split_once('=') {
            Some(("addr", address)) => mount.address = Some(address.to_owned()),
            None if option == "hard" => mount.is_hard = Some(true),
            None if matches!(option, "soft" | "softerr") => mount.is_hard = Some(false),
            _ => {}
        }
    }
}

/// `tcp port binds connects connect-time idle sends replies …`, `rdma` the same, `udp port binds sends replies …`.
fn parse_transport(text: &str) -> Option<NfsTransport> {
    let mut words = text.split_ascii_whitespace();
    let protocol = words.next()?;
    let numbers: Vec<i64> = words.map_while(|word| word.parse().ok()).collect();
    let at = |index: usize| numbers.get(index).and_then(|number| u64::try_from(*number).ok());
    match protocol {
        "tcp" | "tcp-tls" | "rdma" | "local" => {
            // A local socket has no port.
            let first = usize::from(protocol != "local");
            Some(NfsTransport {
                connects_total: at(first + 1)?,
                sends_total: at(first + 4)?,
                replies_total: at(first + 5)?,
            })
        }
        "udp" => Some(NfsTransport { connects_total: 0, sends_total: at(2)?, replies_total: at(3)? }),
        _ => None,
    }
}

/// The NFS mounts that process 1 of the host sees.
///
/// # Errors
/// See [`ReadError`]; `Malformed` only when no mount could be read and a line was not understood.
pub fn read_nfs_mounts(root: &HostRoot) -> Result<Vec<NfsMount>, ReadError> {
    let path = "proc/1/mountstats";
    let (mounts, errors) = parse_mountstats(&into_text(root.read_bytes(path, LIMIT_BYTES)?));
    match errors.into_iter().next() {
        Some(malformed) if mounts.is_empty() => Err(malformed.at(root.display_path(path))),
        _ => Ok(mounts),
    }
}
