//! Faults of the path between two nodes, made on one node's side of it; each is undone when dropped.
//!
//! All of a node's traffic, that of its pods included, goes through its one card `host0`. Faults that shape or cut it also reach the node's agent, as they would on a
//! machine with one network; [`PortsDropped`] leaves everything but the named ports alone.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::undo;
use crate::node::Node;
use crate::{lab, shell};

/// TCP ports of QEMU's migration streams, as libvirt picks them (`migration_port_min` and `_max` of qemu.conf).
pub const MIGRATION_PORTS: &str = "49152-49215";

/// Name of the lab's table of packet filters on a node.
const TABLE: &str = "lab";
/// TCP port of libvirt's own connection between two nodes.
const LIBVIRT_PORT: u16 = 16509;
/// Packets up to here pass a path that is too small for full ones, bytes.
const SMALL_BYTES: u32 = 1400;

/// Where packets are that arrive at a node: those for itself, and those that it passes on to its pods.
const HOOKS: [&str; 2] = ["input", "forward"];

/// Rules for what arrives at a node and its pods.
#[derive(Debug)]
struct Filter<'node>(&'node Node);

impl<'node> Filter<'node> {
    fn new(node: &'node Node, rules: &[&str]) -> Result<Self> {
        let filter = Self(node);
        node.run(&["nft", &format!("add table inet {TABLE}")])?;
        for hook in HOOKS {
            let chain = format!("{{ type filter hook {hook} priority filter; }}");
            node.run(&["nft", &format!("add chain inet {TABLE} {hook} {chain}")])?;
            for rule in rules {
                node.run(&["nft", &format!("add rule inet {TABLE} {hook} {rule}")])?;
            }
        }
        Ok(filter)
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        undo(self.0.run(&["nft", "delete", "table", "inet", TABLE]).map(drop));
    }
}

/// A node that drops what arrives for some TCP ports, as a firewall does: nobody is told.
#[derive(Debug)]
pub struct PortsDropped<'node>(#[expect(dead_code, reason = "undone when dropped")] Filter<'node>);

impl<'node> PortsDropped<'node> {
    /// Drops arriving packets to those ports, in the words of nftables: `49152-49215`, `{ 36791, 41143 }`.
    ///
    /// # Errors
    /// If nftables are missing.
    pub fn new(node: &'node Node, ports: &str) -> Result<Self> {
        Filter::new(node, &[&format!("tcp dport {ports} drop")]).map(Self)
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

/// A path on which small packets pass and full ones vanish, and no router says so: a tunnel whose heads nobody counted. Only what is sent
/// from the first to the second node is lost.
#[derive(Debug)]
pub struct SmallPath<'node>(#[expect(dead_code, reason = "undone when dropped")] Filter<'node>);

impl<'node> SmallPath<'node> {
    /// Drops full packets where they arrive. Those of libvirt's own connection pass: else no migration would come as far as sending memory.
    ///
    /// # Errors
    /// If nftables are missing.
    pub fn new(from: &Node, to: &'node Node) -> Result<Self> {
        let source = from.address();
        let libvirt = format!("ip saddr {source} tcp dport {LIBVIRT_PORT} accept");
        Filter::new(to, &[&libvirt, &format!("ip saddr {source} meta length > {SMALL_BYTES} drop")]).map(Self)
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

/// A node whose cable has a loose contact: out for a moment again and again, more often than a link is said to flap.
#[derive(Debug)]
pub struct LinkFlaps<'node> {
    flapping: Option<JoinHandle<()>>,
    stop: Sender<()>,
    node: &'node Node,
}

impl<'node> LinkFlaps<'node> {
    /// How long the carrier is there, and how long it is not: connections outlive that.
    const UP: Duration = Duration::from_secs(8);
    const DOWN: Duration = Duration::from_millis(500);

    /// Begins with a first loss.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn new(node: &'node Node) -> Result<Self> {
        switch_port(node, &["down"])?;
        let (stop, stopped) = mpsc::channel();
        let port = port_of(node);
        let flapping = thread::spawn(move || {
            for (change, pause) in [("up", Self::DOWN), ("down", Self::UP)].into_iter().cycle() {
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                undo(set_port(&port, &[change]));
            }
        });
        Ok(Self { flapping: Some(flapping), stop, node })
    }
}

impl Drop for LinkFlaps<'_> {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(flapping) = self.flapping.take() {
            let _ = flapping.join();
        }
        undo(switch_port(self.node, &["up"]));
    }
}

/// Changes the bridge's port of a node.
fn switch_port(node: &Node, change: &[&str]) -> Result<()> {
    set_port(&port_of(node), change)
}

/// The bridge's port of a node, which systemd-nspawn names after the machine.
fn port_of(node: &Node) -> String {
    format!("vb-{}", node.name())
}

fn set_port(port: &str, change: &[&str]) -> Result<()> {
    shell::run(&[&["ip", "-n", lab::NETNS, "link", "set", port], change].concat()).map(drop)
}
