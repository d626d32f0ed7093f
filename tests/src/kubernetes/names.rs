//! A name server on a node's loopback, where the node's `/etc/resolv.conf` says that there is one.
//!
//! It knows no names and says so at once (RFC 1035, 4.1.1: no error, no answers). Without it a node of the cluster has a network whose names
//! do not work, which is a fault and is taken for one.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::Cluster;
use crate::node::Node;
use crate::wait::pause;

/// How long the end of a test may wait for it.
const PATIENCE: Duration = Duration::from_millis(200);
/// A header: what every message begins with.
const HEADER_BYTES: usize = 12;
/// The flags of the answer: QR, with the question's own RD, and RA.
const ANSWERED: [u8; 2] = [0x81, 0x80];

/// A name server; ended when dropped.
#[derive(Debug)]
pub(super) struct NameServer {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Serves names on the node for as long as it runs.
    ///
    /// # Errors
    /// If the port is taken.
    pub(super) fn serve_names(node: &Node) -> Result<NameServer> {
        let network = File::open(format!("/proc/{}/ns/net", node.leader()))?;
        let bind = move || -> Result<UdpSocket> {
            // This thread alone moves; its socket stays there.
            setns(network, CloneFlags::CLONE_NEWNET).context("failed to enter the node's network")?;
            Ok(UdpSocket::bind("127.0.0.1:53")?)
        };
        let socket = std::thread::spawn(bind).join().expect("binding does not panic")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        // An open socket keeps the network of a node that is gone.
        let leader = PathBuf::from(format!("/proc/{}/ns/net", node.leader()));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) && leader.exists() {
                match answer(&socket) {
                    Ok(()) => {}
                    Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {}
                    // One question that fails is no end of the names: without them the node has a fault.
                    Err(error) => {
                        let _ = writeln!(io::stdout(), "lab: a name server: {error}");
                        pause(PATIENCE);
                    }
                }
            }
        });
        Ok(NameServer { is_over, thread: Some(thread) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one question: that there is nothing.
fn answer(socket: &UdpSocket) -> io::Result<()> {
    let mut message = [0; 512];
    let (n_bytes, from) = socket.recv_from(&mut message)?;
    if n_bytes < HEADER_BYTES {
        return Ok(());
    }
    message[2..4].copy_from_slice(&ANSWERED);
    // Neither answers nor authorities; what came along (EDNS) goes back as it is.
    message[6..10].fill(0);
    socket.send_to(&message[..n_bytes], from).map(drop)
}
