//! Whether large packets reach another host as small ones do.
//!
//! A datagram to a port where nobody listens comes back as "refused" (ICMP port unreachable): so it has arrived, whole. Linux sends
//! what fits the link with "don't fragment" and cuts longer ones to the link's size, so one datagram of 9000 bytes tries the
//! link's own largest packet, jumbo or not. Packets that a router on the way reports as too large teach the kernel the path's size,
//! and the next try arrives, as a migration's would; what is only lost stays lost. Nothing is said where not even small ones
//! are answered: such a host may drop what nobody asked for.
//! There is no try by TCP: a connection to a port where a QEMU or a proxy waits would be taken for the migration itself (ADR 10).
//! Sources: `udp(7)`, `ip(7)` (`IP_MTU_DISCOVER`), RFC 1122 4.1.3.1, RFC 4821.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NetworkNamespace;

/// A port that nobody listens on: where traceroute begins.
const PORT: u16 = 33_434;
/// Bytes of a small datagram.
const SMALL_BYTES: usize = 64;
/// Bytes of a large one: 9000 with its heads of 28.
const LARGE_BYTES: usize = 8_972;
/// Tries of each. Linux answers some at once, then one a second (`icmp_ratelimit`).
const N_TRIES: usize = 3;
/// Wait for an answer; between the nodes of a cluster it takes less than 10 ms.
const WAIT: Duration = Duration::from_millis(1_100);

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathTry {
    /// Whether small packets are answered.
    pub is_small_answered: bool,
    /// Whether large ones are; `None` where small ones are not.
    pub is_large_answered: Option<bool>,
    /// Bytes of the large datagram, heads included.
    pub large_bytes: u64,
}

/// Tries the way to `peer` from a namespace. Takes up to 7 s.
///
/// # Errors
/// What the kernel says when it cannot send: no permission to enter the namespace, no route.
pub fn try_path(namespace: &NetworkNamespace, peer: IpAddr) -> io::Result<PathTry> {
    try_port(namespace, SocketAddr::new(peer, PORT))
}

fn try_port(namespace: &NetworkNamespace, peer: SocketAddr) -> io::Result<PathTry> {
    let is_small_answered = is_answered(namespace, peer, SMALL_BYTES)?;
    let is_large_answered = if is_small_answered { Some(is_answered(namespace, peer, LARGE_BYTES)?) } else { None };
    Ok(PathTry { is_small_answered, is_large_answered, large_bytes: LARGE_BYTES as u64 + 28 })
}

fn is_answered(namespace: &NetworkNamespace, peer: SocketAddr, n_bytes: usize) -> io::Result<bool> {
    let socket = namespace.connect_udp(peer)?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(WAIT))?;
    let datagram = vec![0; n_bytes];
    let mut n_too_large = 0;
    for _ in 0..N_TRIES {
        match socket.send(&datagram) {
            Ok(_) => {}
            // The answer to the one before.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(true),
            // A router said so: the kernel knows the path's size now.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => n_too_large += 1,
            Err(error) => return Err(error),
        }
        match socket.recv(&mut [0; 1]) {
            // Somebody does listen.
            Ok(_) => return Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => return Ok(true),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                _ => n_too_large += 1,
            },
        }
    }
    Ok(n_too_large == N_TRIES)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_port_where_nobody_listens_answers_small_and_large() {
        // A port that was free a moment ago.
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tried = try_port(&NetworkNamespace::OWN, free).unwrap();
        assert_eq!((tried.is_small_answered, tried.is_large_answered, tried.large_bytes), (true, Some(true), 9_000));
    }

    #[test]
    fn a_port_that_swallows_everything_says_nothing_of_large_packets() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tried = try_port(&NetworkNamespace::OWN, silent.local_addr().unwrap()).unwrap();
        assert_eq!((tried.is_small_answered, tried.is_large_answered), (false, None));
    }
}
