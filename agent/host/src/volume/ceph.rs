//! Ceph as this node's kernel client sees it: requests that no server has answered, images of RBD, being blocklisted.
//!
//! Sources: debugfs `ceph/<fsid>.client<id>/{osdc,mdsc,status}` (kernel `net/ceph/debugfs.c`, `fs/ceph/debugfs.c`), sysfs
//! `bus/rbd` (kernel `Documentation/ABI/testing/sysfs-bus-rbd`). Requests have numbers that only grow: the oldest one that
//! stays tells that nothing before it is answered either.

use super::{names, word};
use crate::{HostRoot, ReadError};

/// Where the clients are listed.
const DIRECTORY: &str = "sys/kernel/debug/ceph";

/// One client of a cluster; all images of RBD of a node share one, each mount of CephFS has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CephClient {
    /// The cluster.
    pub fsid: String,
    /// `client4242`.
    pub client: String,
    /// Requests to object stores. `None` where they could not be read.
    pub osd: Option<PendingRequests>,
    /// Requests to metadata servers. `None` also for RBD, which has none.
    pub mds: Option<PendingRequests>,
    /// Whether the cluster refuses this client. Only CephFS says so.
    pub is_blocklisted: Option<bool>,
}

/// Requests under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingRequests {
    /// How many.
    pub n: usize,
    /// Number of the oldest.
    pub oldest: Option<u64>,
    /// Whom the oldest one was sent to: `osd3`, `mds0`. `None` when to nobody yet.
    pub server: Option<String>,
}

/// An image of RBD that is mapped here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbdImage {
    /// `pool/image` or `pool/namespace/image`.
    pub name: String,
    /// The cluster. `None` on kernels before 4.13.
    pub fsid: Option<String>,
    /// `client4242`.
    pub client: Option<String>,
}

/// Parses `osdc` or `mdsc`: rows of a number and a server, up to the requests that wait by nature (`LINGER REQUESTS`).
pub fn parse_ceph_requests(text: &str) -> PendingRequests {
    let mut pending = PendingRequests::default();
    for line in text.lines().take_while(|line| !line.starts_with("LINGER")) {
        let mut fields = line.split('\t');
        let Some(number) = fields.next().and_then(|number| number.trim().parse::<u64>().ok()) else { continue };
        let Some(server) = fields.next() else { continue };
        pending.n += 1;
        if pending.oldest.is_none_or(|oldest| number < oldest) {
            pending.oldest = Some(number);
            let is_named = |server: &str| {
                ["osd", "mds"].iter().any(|kind| {
                    server.strip_prefix(kind).is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
                })
            };
            pending.server = Some(server.trim().to_owned()).filter(|server| is_named(server));
        }
    }
    pending
}

/// Whether `status` says that the client is blocklisted. `None` when it does not say.
pub fn parse_ceph_status(text: &str) -> Option<bool> {
    match text.lines().find_map(|line| line.strip_prefix("blocklisted:"))?.trim() {
        "true" | "yes" => Some(true),
        "false" | "no" => Some(false),
        _ => None,
    }
}

/// The clients of this node; empty where none runs.
///
/// # Errors
/// `Denied` when debugfs is closed to us, `NotFound` when it is not mounted and so nobody knows.
pub fn read_ceph_clients(root: &HostRoot) -> Result<Vec<CephClient>, ReadError> {
    let entries = match root.list(DIRECTORY) {
        Ok(entries) => entries,
        // The folder comes with the client's module; debugfs itself always has something.
        Err(error) if error.is_not_found() && root.list("sys/kernel/debug").is_ok_and(|names| !names.is_empty()) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut clients = Vec::new();
    for entry in entries.into_iter().filter_map(|name| name.into_string().ok()) {
        let Some((fsid, client)) = entry.split_once(".client") else { continue };
        let text = |file: &str| root.read_text_if_any(format!("{DIRECTORY}/{entry}/{file}"));
        let pending = |file: &str| text(file).ok().flatten().as_deref().map(parse_ceph_requests);
        clients.push(CephClient {
            fsid: fsid.to_owned(),
            client: format!("client{client}"),
            osd: pending("osdc"),
            mds: pending("mdsc"),
            is_blocklisted: text("status").ok().flatten().as_deref().and_then(parse_ceph_status),
        });
    }
    Ok(clients)
}

/// What is mapped as the disk `name` (`rbd0`). `None` when that is no RBD.
pub fn read_rbd_image(root: &HostRoot, name: &str) -> Option<RbdImage> {
    let id = name.strip_prefix("rbd").filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))?;
    let text = |file: &str| word(root, format!("sys/bus/rbd/devices/{id}/{file}"));
    let parts = [text("pool"), text("pool_ns"), text("name")];
    Some(RbdImage {
        name: parts.into_iter().flatten().collect::<Vec<_>>().join("/"),
        fsid: text("cluster_fsid"),
        client: text("client_id"),
    })
    .filter(|image| !image.name.is_empty() || names(root, "sys/bus/rbd/devices").iter().any(|known| known == id))
}
