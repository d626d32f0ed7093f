//! What the kernel remembers of storage that comes over a network, without asking the storage itself.
//!
//! A path of a dead NFS, Ceph or FUSE waits for ever; statistics, session states and lists of requests do not: they are the
//! kernel's own memory in procfs, sysfs and debugfs. So everything here answers while the storage does not, and nothing here
//! touches a file of a volume. debugfs may be closed (kernel lockdown, not mounted): then those readers say so.
//! Sources: each file's own.

mod ceph;
mod drbd;
mod layer;
mod multipathd;
mod nfs;
mod session;

pub use ceph::{
    CephClient, PendingRequests, RbdImage, parse_ceph_requests, parse_ceph_status, read_ceph_clients, read_rbd_image,
};
pub use drbd::{DrbdDevice, DrbdPeer, parse_drbd_frozen, parse_drbd_line, parse_proc_drbd, read_drbd_device};
pub use layer::{
    DmState, Layer, MAX_LAYERS_OF_ALL, PodDevice, PodNode, read_layers, read_pod_devices, read_recorded_layers,
    refresh_layer,
};
pub use multipathd::{MultipathMap, MultipathdError, ask_multipathd, is_multipathd_running, parse_multipath_maps};
pub use nfs::{NfsMount, NfsTransport, parse_mountstats, read_nfs_mounts};
pub use session::{
    FcRemotePort, IscsiSession, NvmeController, read_fc_remote_ports, read_iscsi_sessions, read_nvme_controllers,
};

use crate::{HostRoot, ReadError};

/// Requests that a FUSE connection has and its server has not answered. `None` where the connection is not listed: not
/// mounted (`/sys/fs/fuse/connections`), or no FUSE.
///
/// `minor` is the minor number of the mount's device. Source: kernel `Documentation/filesystems/fuse/fuse.rst`.
///
/// # Errors
/// As [`ReadError`]; `Malformed` when it is no number.
pub fn read_fuse_waiting(root: &HostRoot, minor: u32) -> Result<Option<u64>, ReadError> {
    match crate::limits::read_number(root, format!("sys/fs/fuse/connections/{minor}/waiting")) {
        Ok(waiting) => Ok(Some(waiting)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A short text of sysfs, trimmed. `None` where there is none, it is empty, or it could not be read.
fn word(root: &HostRoot, path: String) -> Option<String> {
    root.read_text(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The names in a directory; empty where there is none.
fn names(root: &HostRoot, directory: &str) -> Vec<String> {
    listed(root, directory).unwrap_or_default()
}

/// The names in a directory; `None` where it cannot be listed.
fn listed(root: &HostRoot, directory: &str) -> Option<Vec<String>> {
    let names = root.list(directory).ok()?;
    Some(names.into_iter().filter_map(|name| name.into_string().ok()).take(MAX_ENTRIES).collect())
}

/// Most entries of one folder that are read.
const MAX_ENTRIES: usize = 4096;

#[cfg(test)]
mod tests;
