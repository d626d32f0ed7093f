//! Faults of the path between two nodes, made on one node's side of it; each is undone when dropped.
//!
//! All of a node's traffic goes through its one card `host0`. Faults that shape or cut it also reach the node's agent, as they would on a
//! machine with one network; [`PortsDropped`] leaves everything but the named ports alone.

use anyhow::Result;

use super::undo;
use crate::node::Node;
use crate::{lab, shell};

/// TCP ports of QEMU's migration streams, as libvirt picks them (`migration_port_min` and `_max` of qemu.conf).
pub const MIGRATION_PORTS: &str = "49152-49215";

/// Name of the lab's table of packet filters on a node.
const TABLE: &str = "lab";
/// The maximum that a card of the lab has without a fault, bytes.
const MTU: &str = "1500";
/// Jumbo frames, as administrators set them on a storage network.
const JUMBO_MTU: &str = "9000";

/// A node that drops what arrives for some TCP ports, as a firewall does: nobody is told.
#[derive(Debug)]
pub struct PortsDropped<'node>(&'node Node);

impl<'node> PortsDropped<'node> {
    /// Drops arriving packets to those ports: `49152-49215`.
    ///
    /// # Errors
    /// If nftables are missing.
    pub fn new(node: &'node Node, ports: &str) -> Result<Self> {
        let dropped = Self(node);
        for rule in [
            format!("add table inet {TABLE}"),
            format!("add chain inet {TABLE} arriving {{ type filter hook input priority filter; }}"),
            format!("add rule inet {TABLE} arriving tcp dport {ports} drop"),
        ] {
            node.run(&["nft", &rule])?;
        }
        Ok(dropped)
    }
}

impl Drop for PortsDropped<'_> {
    fn drop(&mut self) {
        undo(self.0.run(&["nft", "delete", "table", "inet", TABLE]).map(drop));
    }
}

/// A node that sends slower than its card could.
#[derive(Debug)]
pub struct SlowLink<'node>(&'node Node);

impl<'node> SlowLink<'node> {
    /// Lets the node send `mbit` Mbit/s.
    ///
    /// # Errors
    /// If the kernel has no `tbf`.
    pub fn new(node: &'node Node, mbit: u32) -> Result<Self> {
        let rate = format!("{mbit}mbit");
        let shape = ["qdisc", "add", "dev", "host0", "root", "tbf", "rate", &rate, "burst", "64kb", "latency", "50ms"];
        node.run(&[&["tc"], &shape[..]].concat())?;
        Ok(Self(node))
    }
}

impl Drop for SlowLink<'_> {
    fn drop(&mut self) {
        undo(self.0.run(&["tc", "qdisc", "del", "dev", "host0", "root"]).map(drop));
    }
}

/// Two nodes set to jumbo frames while the switch between them does not carry those of one: small packets pass, full ones vanish, and no
/// router says so. Only what is sent from the first to the second node is lost.
#[derive(Debug)]
pub struct SmallPath<'node> {
    from: &'node Node,
    to: &'node Node,
}

impl<'node> SmallPath<'node> {
    /// Raises the MTU of both nodes, and leaves the switch port of `from` as it was.
    ///
    /// # Errors
    /// If a card refuses.
    pub fn new(from: &'node Node, to: &'node Node) -> Result<Self> {
        let path = Self { from, to };
        for node in [from, to] {
            // One packet at a time: the kernel would hand a bigger bundle through the bridge whole, whatever the MTU.
            node.run(&["ip", "link", "set", "host0", "mtu", JUMBO_MTU, "gso_max_segs", "1"])?;
        }
        switch_port(to, &["mtu", JUMBO_MTU])?;
        Ok(path)
    }
}

impl Drop for SmallPath<'_> {
    fn drop(&mut self) {
        for node in [self.from, self.to] {
            undo(node.run(&["ip", "link", "set", "host0", "mtu", MTU, "gso_max_segs", "65535"]).map(drop));
        }
        undo(switch_port(self.to, &["mtu", MTU]));
    }
}

/// A node whose cable is out: it reaches nobody, its agent included.
#[derive(Debug)]
pub struct LinkDown<'node>(&'node Node);

impl<'node> LinkDown<'node> {
    /// Takes its switch port down: its card loses the carrier.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn new(node: &'node Node) -> Result<Self> {
        switch_port(node, &["down"])?;
        Ok(Self(node))
    }
}

impl Drop for LinkDown<'_> {
    fn drop(&mut self) {
        undo(switch_port(self.0, &["up"]));
    }
}

/// Changes the bridge's port of a node, which systemd-nspawn names after the machine.
fn switch_port(node: &Node, change: &[&str]) -> Result<()> {
    let port = format!("vb-{}", node.name());
    shell::run(&[&["ip", "-n", lab::NETNS, "link", "set", &port], change].concat()).map(drop)
}
