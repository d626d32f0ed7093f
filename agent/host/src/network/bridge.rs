//! The bridges of the node and the largest packet of each of their ports.
//!
//! A bridge does not cut packets: what is too large for the port it would leave by is dropped, and nobody is told. Sources: kernel
//! `Documentation/ABI/testing/sysfs-class-net`, `net/bridge/br_sysfs_if.c` (`brif`), `net/bridge/br_forward.c`
//! (`is_skb_forwardable`).

use super::link_names;
use crate::{HostRoot, ReadError};

/// Most ports of one bridge that are read: the kernel's own limit (`BR_MAX_PORTS`).
const MAX_PORTS: usize = 1024;

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its name: `br1`, `cni0`.
    pub name: String,
    /// Names of its ports that are set up, and the largest packet of each, bytes.
    pub ports: Vec<(String, u32)>,
}

/// The bridges of the node, by name.
///
/// # Errors
/// When there is no list of links.
pub fn read_bridges(root: &HostRoot) -> Result<Vec<Bridge>, ReadError> {
    let read = |name: String| {
        let ports = root.list(format!("sys/class/net/{name}/brif")).ok()?;
        let ports = ports.into_iter().filter_map(|port| port.into_string().ok()).take(MAX_PORTS);
        let port = |port: String| {
            let number = |file: &str| root.read_text(format!("sys/class/net/{port}/{file}")).ok();
            let flags = number("flags")?;
            let is_up = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok()? & 1 != 0;
            let mtu = number("mtu")?.trim().parse().ok()?;
            is_up.then_some((port, mtu))
        };
        Some(Bridge { ports: ports.filter_map(port).collect(), name })
    };
    Ok(link_names(root)?.into_iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_set_up_are_read_with_their_largest_packet() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert!(read_bridges(&root).unwrap_err().is_not_found());
        let link = |name: &str, flags: &str, mtu: &str| {
            let folder = dir.path().join("sys/class/net").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("flags"), flags).unwrap();
            std::fs::write(folder.join("mtu"), mtu).unwrap();
        };
        link("br1", "0x1003\n", "1500\n");
        link("bond0", "0x1403\n", "9000\n");
        link("veth1", "0x1003\n", "1500\n");
        link("veth2", "0x1002\n", "1400\n");
        link("veth3", "perhaps\n", "1400\n");
        for port in ["bond0", "veth1", "veth2", "veth3", "gone"] {
            std::fs::create_dir_all(dir.path().join("sys/class/net/br1/brif").join(port)).unwrap();
        }
        let ports = vec![("bond0".to_owned(), 9000), ("veth1".to_owned(), 1500)];
        assert_eq!(read_bridges(&root).unwrap(), [Bridge { name: "br1".to_owned(), ports }]);
        assert!(read_bridges(&HostRoot::new("/")).is_ok());
    }
}
