//! Waiting for a descriptor to become readable or urgent, on tokio.

#![allow(unsafe_code, reason = "tokio asks for a promise that the descriptor stays open")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that is read when it is ready. It should be non-blocking.
///
/// Must be called in a tokio runtime with I/O enabled. Fails with `EPERM` for what cannot be waited for, such as plain files.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(fd, Interest::READABLE)
}

/// Registers a descriptor whose urgent state (`POLLPRI`) is waited for, as files of the kernel have it.
///
/// As [`watch_readable`] otherwise. Errors of the descriptor (`POLLERR`) wake too: mountinfo says both at once.
pub(crate) fn watch_priority(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(fd, Interest::PRIORITY)
}

fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same until the registration ends. An `OwnedFd` is closed only by being
    // dropped or taken out, `AsyncFd` deregisters before both, and gives out nothing but shared references to it here.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}
