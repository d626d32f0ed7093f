//! What is behind a guest's disks: the ends of QEMU's block graph.
//!
//! A disk is a chain of nodes (throttle, format, protocol); only the protocol node at its end names a file, a device or a
//! server, and that is what can stall. libvirt writes one `-blockdev` for each node; people write `-drive`.

use serde_json::Value;

use super::command_line::key_values;

/// One end of a disk's chain of block nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Name of the node or drive: `libvirt-1-storage`. `None` when it was given none.
    pub node_name: Option<String>,
    /// How it is reached: `file`, `host_device`, `nbd`, `rbd`, `iscsi`, `https`. `None` for a `-drive` that lets QEMU guess.
    pub driver: Option<String>,
    /// File or device, in QEMU's own root. `None` for what lives on a server.
    pub path: Option<String>,
    /// Whether QEMU may not write to it. `None` where it is not said (`auto-read-only` decides then).
    pub is_read_only: Option<bool>,
    /// Whether it goes around the host's page cache (`O_DIRECT`). `None` where it is not said.
    pub is_cache_direct: Option<bool>,
    /// Whether flushes of the guest are ignored (`cache=unsafe`). `None` where it is not said.
    pub is_flush_ignored: Option<bool>,
}

/// How deep nodes may lie in each other; QEMU's own chains are flat or a few deep.
const MAX_DEPTH: usize = 32;

/// The ends that a `-blockdev` names: none for a format node that refers to another by name.
pub(super) fn disk_from_blockdev(text: &str) -> Vec<Disk> {
    let mut disks = Vec::new();
    if text.trim_start().starts_with('{') {
        if let Ok(node) = serde_json::from_str(text) {
            collect_ends(&node, 0, &mut disks);
        }
    } else {
        disks.extend(disk_from_keys(&key_values(text)));
    }
    disks
}

/// Goes down a JSON node to those that have no further node below them.
fn collect_ends(node: &Value, depth: usize, disks: &mut Vec<Disk>) {
    let Some(fields) = node.as_object().filter(|_| depth < MAX_DEPTH) else { return };
    let below = ["file", "backing", "data-file", "raw", "test"].map(|key| fields.get(key));
    if below.iter().all(Option::is_none) {
        let text = |key: &str| node.get(key)?.as_str().map(str::to_owned);
        let cache = |key: &str| node.get("cache")?.get(key)?.as_bool();
        disks.push(Disk {
            node_name: text("node-name"),
            driver: text("driver"),
            path: text("filename").filter(|path| path.starts_with('/')),
            is_read_only: node.get("read-only").and_then(Value::as_bool),
            is_cache_direct: cache("direct"),
            is_flush_ignored: cache("no-flush"),
        });
        return;
    }
    for child in below.into_iter().flatten() {
        collect_ends(child, depth + 1, disks);
    }
}

/// A `-blockdev` of keys, in which a node below is written as `file.filename=`.
fn disk_from_keys(pairs: &[(String, String)]) -> Option<Disk> {
    let value = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let refers_to_a_node = value("file").is_some();
    let either = |key: &str| value(key).or_else(|| value(&format!("file.{key}")));
    (!refers_to_a_node).then(|| Disk {
        node_name: value("node-name").map(str::to_owned),
        driver: value("file.driver").or_else(|| value("driver")).map(str::to_owned),
        path: either("filename").filter(|path| path.starts_with('/')).map(str::to_owned),
        is_read_only: value("read-only").and_then(parse_bool),
        is_cache_direct: either("cache.direct").and_then(parse_bool),
        is_flush_ignored: either("cache.no-flush").and_then(parse_bool),
    })
}

/// A `-drive`: `file=/x.img,if=none,id=drive0,cache=none,readonly=on`. `None` for an empty drive.
pub(super) fn disk_from_drive(pairs: &[(String, String)]) -> Option<Disk> {
    let value = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let file = value("file").or_else(|| value("file.filename")).filter(|file| !file.is_empty())?;
    if let Some(mut disk) =
        file.strip_prefix("json:").map(disk_from_blockdev).and_then(|disks| disks.into_iter().next())
    {
        disk.node_name = disk.node_name.or_else(|| value("id").map(str::to_owned));
        return Some(disk);
    }
    // `file:` is the one protocol that may stand before a path; others name a server.
    let path = file.strip_prefix("file:").unwrap_or(file);
    let scheme = path.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| !scheme.contains('/'));
    let (is_cache_direct, is_flush_ignored) = match value("cache") {
        Some("none" | "directsync") => (Some(true), Some(false)),
        Some("unsafe") => (Some(false), Some(true)),
        Some("writeback" | "writethrough") => (Some(false), Some(false)),
        _ => (value("cache.direct").and_then(parse_bool), value("cache.no-flush").and_then(parse_bool)),
    };
    Some(Disk {
        node_name: value("id").or_else(|| value("node-name")).map(str::to_owned),
        driver: scheme.map(str::to_owned),
        path: scheme.is_none().then(|| path.to_owned()),
        is_read_only: value("readonly").or_else(|| value("read-only")).and_then(parse_bool),
        is_cache_direct,
        is_flush_ignored,
    })
}

/// A switch of QEMU's; a bare key means `on`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" | "y" | "" => Some(true),
        "off" | "false" | "no" | "n" => Some(false),
        _ => None,
    }
}
