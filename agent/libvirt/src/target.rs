//! Which daemon to talk to: a libvirt URI, and where its socket is.
//!
//! Only local ones. A remote URI would make libvirt start ssh or open network connections, which a watcher never does, so
//! those are refused. A launcher pod's socket is reached over `/proc/<pid>/root/...` and given apart from the URI, as it
//! may be too long for a socket address (107 bytes): such a path is shortened over `/proc/self/fd`, for the time of one
//! attempt only, because a descriptor kept open inside a pod's mount would pin that mount.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::O_PATH;

/// Longest path that fits a `sockaddr_un` with its NUL.
const MAX_SUN_PATH: usize = 107;

/// A local libvirt daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `qemu`, or `test`.
    driver: String,
    /// `/system` or `/session`, or `/default` of `test`.
    path: String,
    /// What stands behind the `?`, as given.
    query: Option<String>,
    /// Overrides libvirt's own idea of where the socket is.
    socket: Option<PathBuf>,
}

/// Why a URI is refused. The text is for the agent's log: the agent makes the URI.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("`{uri}` is not a libvirt URI such as `qemu:///system`")]
    NotUri { uri: String },
    #[error("`{uri}` leads to another machine; only local daemons are looked at")]
    Remote { uri: String },
    #[error("`{uri}` names a socket already, and another one was given apart")]
    TwoSockets { uri: String },
}

impl Target {
    /// Takes a URI apart. `socket` is the daemon's socket, where it is not where libvirt would look for it.
    ///
    /// # Errors
    /// The URI is none, is not local, or names a socket of its own beside `socket`.
    pub(crate) fn parse(uri: &str, socket: Option<PathBuf>) -> Result<Self, TargetError> {
        let not_uri = || TargetError::NotUri { uri: uri.into() };
        let (scheme, rest) = uri.split_once("://").ok_or_else(not_uri)?;
        let (driver, transport) = scheme.split_once('+').map_or((scheme, None), |(driver, with)| (driver, Some(with)));
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        if driver.is_empty() || !driver.bytes().all(|byte| byte.is_ascii_alphanumeric()) || !place.contains('/') {
            return Err(not_uri());
        }
        if transport.is_some_and(|transport| transport != "unix") || !place.starts_with('/') {
            return Err(TargetError::Remote { uri: uri.into() });
        }
        let names_socket = query.is_some_and(|query| query.split('&').any(|param| param.starts_with("socket=")));
        if names_socket && socket.is_some() {
            return Err(TargetError::TwoSockets { uri: uri.into() });
        }
        let query = query.map(Into::into);
        Ok(Self { driver: driver.into(), path: place.into(), query, socket })
    }

    /// The URI for one attempt to connect, and what must live until that attempt has ended.
    ///
    /// A read-only attempt takes the socket's sibling `<socket>-ro` where there is one; a launcher has none, and there a
    /// read-only connection goes over the only socket.
    ///
    /// # Errors
    /// The folder of a long socket path cannot be opened.
    pub(crate) fn attempt(&self, is_readonly: bool) -> io::Result<(String, Option<File>)> {
        let Some(socket) = &self.socket else {
            return Ok((self.uri(None), None));
        };
        let sibling = Some(read_only_sibling(socket)).filter(|sibling| is_readonly && sibling.exists());
        let (short, folder) = shorten(sibling.as_ref().unwrap_or(socket))?;
        Ok((self.uri(Some(&short)), folder))
    }

    /// The URI, for people.
    pub(crate) fn describe(&self) -> String {
        self.uri(self.socket.as_deref())
    }

    fn uri(&self, socket: Option<&Path>) -> String {
        let Self { driver, path, query, socket: _ } = self;
        let params: Vec<String> =
            query.iter().cloned().chain(socket.map(|socket| format!("socket={}", percent_encode(socket)))).collect();
        let transport = if socket.is_some() { "+unix" } else { "" };
        let mark = if params.is_empty() { "" } else { "?" };
        format!("{driver}{transport}://{path}{mark}{}", params.join("&"))
    }
}

fn read_only_sibling(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push("-ro");
    name.into()
}

/// A path to the same socket that fits a socket address, and the open folder it leads over, if it does.
fn shorten(socket: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if socket.as_os_str().len() <= MAX_SUN_PATH {
        return Ok((socket.into(), None));
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket's path has no file name"));
    };
    let folder = File::options().read(true).custom_flags(O_PATH).open(folder)?;
    Ok((Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name), Some(folder)))
}

/// The path as it stands in a query: everything but letters, digits and `-._~/` in percent form.
fn percent_encode(path: &Path) -> String {
    use std::{fmt::Write, os::unix::ffi::OsStrExt};
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(*byte)),
            _ => write!(out, "%{byte:02X}").expect("a String takes any text"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &str, socket: Option<&str>, want: &str) {
        let target = Target::parse(uri, socket.map(Into::into)).unwrap();
        assert_eq!(target.attempt(false).unwrap().0, want);
    }

    #[test]
    fn a_uri_alone_stays_as_it_is() {
        check("qemu:///system", None, "qemu:///system");
        check("qemu+unix:///session?socket=/run/x", None, "qemu:///session?socket=/run/x");
    }

    #[test]
    fn a_socket_becomes_part_of_the_uri() {
        check("qemu:///system", Some("/proc/7/root/s"), "qemu+unix:///system?socket=/proc/7/root/s");
        check("qemu:///session?a=b", Some("/s"), "qemu+unix:///session?a=b&socket=/s");
        check("qemu:///system", Some("/a&b c#"), "qemu+unix:///system?socket=/a%26b%20c%23");
    }

    #[track_caller]
    fn refused(uri: &str) -> TargetError {
        Target::parse(uri, Some("/s".into())).unwrap_err()
    }

    #[test]
    fn other_machines_are_refused() {
        for uri in ["qemu+ssh://db-1/system", "qemu+tcp:///system", "qemu://db-1/system", "qemu+ext:///system"] {
            assert_eq!(refused(uri), TargetError::Remote { uri: uri.into() });
        }
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for uri in ["", "qemu", "/system", "://", "qemu://", "q mu:///system"] {
            assert_eq!(refused(uri), TargetError::NotUri { uri: uri.into() });
        }
        assert!(matches!(refused("qemu:///system?socket=/other"), TargetError::TwoSockets { .. }));
    }

    #[test]
    fn a_long_path_is_reached_over_its_open_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("f".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("sock"), "here").unwrap();
        let (short, open) = shorten(&folder.join("sock")).unwrap();
        assert!(short.as_os_str().len() <= MAX_SUN_PATH && open.is_some());
        assert_eq!(std::fs::read_to_string(short).unwrap(), "here");
        assert!(shorten(&folder.join("g".repeat(120)).join("sock")).is_err(), "no such folder");
    }

    #[test]
    fn a_read_only_attempt_takes_the_read_only_socket_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("libvirt-sock");
        let target = Target::parse("qemu:///system", Some(socket.clone())).unwrap();
        assert!(target.attempt(true).unwrap().0.ends_with("libvirt-sock"));
        std::fs::write(read_only_sibling(&socket), "").unwrap();
        assert!(target.attempt(true).unwrap().0.ends_with("libvirt-sock-ro"));
        assert!(target.attempt(false).unwrap().0.ends_with("libvirt-sock"));
    }
}
