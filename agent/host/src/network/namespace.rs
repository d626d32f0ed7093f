//! Sockets of another network namespace.
//!
//! A socket belongs for ever to the namespace of the thread that made it. So a thread of its own enters the namespace, makes
//! the socket and ends; nothing of the namespace stays open but that socket, and no other thread is moved. Needs
//! CAP_SYS_ADMIN. Sources: `setns(2)`, `network_namespaces(7)`.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{HostRoot, ReadError};

/// A network namespace, by a process in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkNamespace {
    /// `/proc/PID/ns/net`; `None`: our own.
    path: Option<PathBuf>,
}

impl NetworkNamespace {
    /// Our own.
    pub const OWN: Self = Self { path: None };

    /// That of the host's process 1.
    ///
    /// # Errors
    /// When it cannot be told whether it is our own.
    pub fn of_host(root: &HostRoot) -> Result<Self, ReadError> {
        Self::at(root.display_path("proc/1/ns/net"))
    }

    /// The one that the link `path` (`/proc/PID/ns/net`) leads to.
    ///
    /// # Errors
    /// When it cannot be told whether it is our own.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let number = |path: &Path| {
            let found = std::fs::metadata(path).map_err(|source| ReadError::from_io(path, source))?;
            Ok::<_, ReadError>((found.dev(), found.ino()))
        };
        let path = path.as_ref();
        let is_own = number(path)? == number(Path::new("/proc/self/ns/net"))?;
        Ok(Self { path: (!is_own).then(|| path.to_path_buf()) })
    }

    /// Whether it is our own.
    pub fn is_own(&self) -> bool {
        self.path.is_none()
    }

    /// A UDP socket that does not block and speaks to `peer`.
    ///
    /// # Errors
    /// What the kernel says: no permission to enter, no route.
    pub fn connect_udp(&self, peer: SocketAddr) -> io::Result<UdpSocket> {
        self.enter(move || {
            let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(peer)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
    }

    /// A TCP socket that does not block and is not connected, of the family of `peer`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tcp_socket(&self, peer: SocketAddr) -> io::Result<OwnedFd> {
        let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        self.enter(move || Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?))
    }

    /// A stream that does not block, connected to an abstract name of the namespace (`unix(7)`).
    ///
    /// # Errors
    /// What the kernel says: nobody listens, or whoever does has too many waiting.
    pub fn connect_abstract(&self, name: &str) -> io::Result<UnixStream> {
        self.enter(|| {
            let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &address)?;
            Ok(UnixStream::from(socket))
        })
    }

    fn enter<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(path) = &self.path else { return make() };
        std::thread::scope(|scope| {
            let inside = move || {
                let namespace = File::open(path)?;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                drop(namespace);
                make()
            };
            let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn our_own_namespace_is_known_as_ours_and_needs_no_entering() {
        let own = NetworkNamespace::at("/proc/self/ns/net").unwrap();
        assert!(own.is_own());
        assert!(NetworkNamespace::at("/proc/none/ns/net").unwrap_err().is_not_found());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(own.tcp_socket(listener.local_addr().unwrap()).is_ok());
    }

    #[test]
    fn a_socket_of_another_namespace_does_not_reach_ours() {
        // A process in a namespace of its own, in which not even the loopback link is up.
        let mut child = std::process::Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        let other = loop {
            let found = NetworkNamespace::at(&path).unwrap();
            if !found.is_own() {
                break found;
            }
        };
        let here = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(NetworkNamespace::OWN.connect_udp(here).is_ok());
        assert_eq!(other.connect_udp(here).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        assert!(other.tcp_socket(here).is_ok());
        let name = format!("kulprit-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        assert!(NetworkNamespace::OWN.connect_abstract(&name).is_ok());
        assert_eq!(other.connect_abstract(&name).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(other.connect_udp(here).is_err(), "it has ended");
        assert!(NetworkNamespace::at("/proc/self/ns/net").unwrap().is_own(), "no thread of ours has moved");
    }
}
