//! Connecting to a bus: by address, or by its socket under a host's root.
//!
//! Connecting to a Unix socket does not wait; a bus whose backlog is full, or that does not answer, is told by the deadline of the
//! handshake.

use zbus::Connection;
use zbus::connection::Builder;

use super::{CALL_DEADLINE, UnitsError};
use crate::HostRoot;
use crate::socket::connect_unix;

/// Connects to the bus whose socket is at `path` under the root.
pub(super) async fn connect_socket(root: &HostRoot, path: &str) -> Result<Connection, UnitsError> {
    let address = format!("unix:path={}", root.display_path(path).display());
    let stream = connect_unix(root, path)
        .map_err(|source| UnitsError::Connect { address: address.clone(), source: Box::new(source) })?;
    build(Builder::unix_stream(stream), address).await
}

/// Connects to the bus at a D-Bus address, `unix:path=/run/dbus/system_bus_socket`.
pub(super) async fn connect_address(address: &str) -> Result<Connection, UnitsError> {
    build(Builder::address(address), address.to_owned()).await
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
