//! Connecting to a Unix socket of the host: the bus's, the container runtime's, a driver's.
//!
//! A socket's path may be longer than the 107 bytes that fit into a socket address (`unix(7)`), and its links (`/var/run`) must
//! stay inside the root: so the socket is opened as a path first, and connected to by way of `/proc/self/fd/N`.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::HostRoot;

/// Connects to the stream socket at `path` under the root, without waiting. The stream is non-blocking.
///
/// # Errors
/// `NotFound` without such a file, `ConnectionRefused` when nobody listens, `PermissionDenied`, and `WouldBlock` when so many wait
/// to be taken in that the kernel takes no more: whoever listens has not done so for long.
pub fn connect_unix(root: &HostRoot, path: impl AsRef<Path>) -> io::Result<UnixStream> {
    let socket = root.open_raw(path.as_ref(), OFlags::PATH)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &address)?;
    Ok(UnixStream::from(stream))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_long_path_with_an_absolute_link_in_it_is_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let deep = "x".repeat(100);
        std::fs::create_dir_all(dir.path().join("run").join(&deep)).unwrap();
        std::fs::create_dir(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        // Bound under a short name and moved: the address of a socket is its file.
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        std::fs::rename(dir.path().join("s"), dir.path().join("run").join(&deep).join("app.sock")).unwrap();
        let mut stream =
            connect_unix(&HostRoot::new(dir.path()), format!("/var/run/{deep}/app.sock")).expect("it listens");
        listener.accept().unwrap().0.write_all(b"hello").unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn each_way_to_fail_has_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(connect_unix(&root, "app.sock").unwrap_err().kind(), ErrorKind::NotFound);
        drop(UnixListener::bind(dir.path().join("app.sock")).unwrap());
        assert_eq!(connect_unix(&root, "app.sock").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(connect_unix(&root, "file").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
