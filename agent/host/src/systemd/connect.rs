//! Connecting to a bus: by address, or by its socket under a host's root.
//!
//! A socket's path may be longer than the 107 bytes that fit into a socket address, and its links (`/var/run`) must stay
//! inside the root: so the socket is opened as a path first, and connected to by way of `/proc/self/fd/N`.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::fs::OFlags;
use zbus::Connection;
use zbus::connection::Builder;

use super::{CALL_DEADLINE, UnitsError};
use crate::HostRoot;

/// Connects to the bus whose socket is at `path` under the root.
pub(super) async fn connect_socket(root: &HostRoot, path: &str) -> Result<Connection, UnitsError> {
    let address = format!("unix:path={}", root.display_path(path).display());
    let stream = open_socket(root, path).map_err(|source| UnitsError::Connect { address: address.clone(), source })?;
    build(Builder::unix_stream(stream), address).await
}

/// Connects to the bus at a D-Bus address, `unix:path=/run/dbus/system_bus_socket`.
pub(super) async fn connect_address(address: &str) -> Result<Connection, UnitsError> {
    build(Builder::address(address), address.to_owned()).await
}

/// Connecting to a Unix socket does not wait: it is refused when nobody listens, and a full backlog makes it fail after the
/// stream is made, in the handshake.
fn open_socket(root: &HostRoot, path: &str) -> Result<UnixStream, Box<dyn std::error::Error + Send + Sync>> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = root.open_fd(path, OFlags::PATH)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Non-blocking, so that a bus whose backlog is full refuses with EAGAIN and does not hold us.
    rustix::net::connect(&stream, &address)?;
    Ok(UnixStream::from(stream))
}

async fn build(builder: Builder<'_>, address: String) -> Result<Connection, UnitsError> {
    match tokio::time::timeout(CALL_DEADLINE, builder.method_timeout(CALL_DEADLINE).build()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(source)) => Err(UnitsError::Connect { address, source: Box::new(source) }),
        Err(_elapsed) => {
            Err(UnitsError::Timeout { attempt: format!("connecting to `{address}`"), deadline: CALL_DEADLINE })
        }
    }
}
