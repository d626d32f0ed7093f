//! A virt-handler in KubeVirt's shape, without KubeVirt: what carries a migration from launcher to launcher.
//!
//! In KubeVirt a migration crosses two of them. The source's launcher connects to sockets in its own container, on which the virt-handler
//! of its node listens; that dials the target's over TCP, and that the sockets of the target's launcher. [`Handler`] does this and no more:
//! a process `virt-handler` (the program `lab-handler`), one of its node's, in a network namespace of its own as its pod has one.
//!
//! Source: KubeVirt `pkg/virt-handler/migration-proxy/migration-proxy.go`, v1.8. What is not KubeVirt's: no TLS, the target's ports are
//! always [`PORTS`], and a node has one migration at a time.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::kubernetes::pod_subnet;
use crate::launcher::{LIBVIRT_RUN, Launcher, PUBLIC, make_network};
use crate::node::{Node, Running};
use crate::programs;

/// Where a virt-handler listens for migrations, and what for: 0 for libvirt itself, else the port that libvirt would have QEMU listen on
/// (49152 for memory, 49153 for disks). KubeVirt's are chosen by the kernel; these are as good as any of it.
pub const PORTS: [(u16, u16); 3] = [(36_791, 0), (41_143, 49_152), (41_101, 49_153)];

/// Its network namespace on its node, and the node's end of the link into it.
const NETWORK: &str = "virt-handler";
const LINK: &str = "veth-handler";
/// The last part of its address, which no launcher gets.
const LAST_OF_ADDRESS: u8 = 254;

/// The ports of [`PORTS`], as a set of nftables.
#[must_use]
pub fn port_set() -> String {
    let ports = PORTS.map(|(port, _)| port.to_string());
    format!("{{ {} }}", ports.join(", "))
}

/// The socket of a VMI's migration in a launcher: virt-handler listens there on the source, QEMU on the target.
pub(crate) fn socket(vmi_uid: &str, purpose: u16) -> String {
    let middle = if purpose == 0 { String::new() } else { format!("-{purpose}") };
    format!("{PUBLIC}/migrationproxy/{vmi_uid}{middle}-source.sock")
}

/// A running virt-handler; ended when dropped. See the module.
#[derive(Debug)]
pub struct Handler {
    _process: Running,
    address: String,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Handler {
    /// Starts the node's only one.
    ///
    /// # Errors
    /// If its network cannot be made, or it does not start.
    pub fn start(node: &Node) -> Result<Self> {
        let address = format!("{}.{LAST_OF_ADDRESS}", pod_subnet(node));
        make_network(node, NETWORK, LINK, &address)?;
        let program = node.root().join("usr/bin/virt-handler");
        let binary = programs::binary("lab-handler")?;
        fs::copy(&binary, program).with_context(|| format!("failed to copy `{}`", binary.display()))?;
        let mut command = node.own_command("nsenter");
        command.args([&format!("--net=/run/netns/{NETWORK}"), "--", "virt-handler"]);
        let (process, stdin, stdout) = Running::start_piped(&mut command)?;
        Ok(Self { _process: process, address, talk: Mutex::new((stdin, BufReader::new(stdout))) })
    }

    /// Opens the way of a migration from a launcher of its node to one that waits on `to`'s.
    ///
    /// # Errors
    /// If a launcher has ended, or one of the two does not listen.
    pub fn carry(&self, source: &Launcher<'_>, to: &Self, target: &Launcher<'_>) -> Result<()> {
        for launcher in [source, target] {
            let folder = launcher.empty_dir("public").join("migrationproxy");
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        }
        let (in_source, in_target) = (source.root_in_node()?, target.root_in_node()?);
        for (port, purpose) in PORTS {
            let socket = socket(source.vmi_uid(), purpose);
            let of_target = if purpose == 0 { format!("{LIBVIRT_RUN}/virtqemud-sock") } else { socket.clone() };
            let address = format!("{}:{port}", to.address);
            to.listen(&address, &format!("{in_target}{of_target}"))?;
            self.listen(&format!("{in_source}{socket}"), &address)?;
        }
        Ok(())
    }

    /// Listens on the one, and carries what comes to the other.
    fn listen(&self, from: &str, to: &str) -> Result<()> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, stdout) = &mut *talk;
        let mut answer = String::new();
        writeln!(stdin, "{from} {to}")
            .and_then(|()| stdout.read_line(&mut answer))
            .context("virt-handler has ended")?;
        ensure!(answer == "listening\n", "virt-handler does not listen on {from}");
        Ok(())
    }
}
