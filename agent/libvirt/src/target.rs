//! Which daemon to talk to: a libvirt URI, and where its socket is.
//!
//! Only local ones. A remote URI would make libvirt start ssh or open network connections, which a watcher never does, so
//! those are refused. The socket's path belongs to a root, `/proc/PID/root` for a launcher, and is opened inside it
//! (`openat2(2)`, `RESOLVE_IN_ROOT`): no link that a pod makes leads to a socket of ours. libvirt connects over
//! `/proc/self/fd`, for the time of one attempt only, because a descriptor kept open inside a pod's mount would pin that mount.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kulprit_proto::worker::AddTarget;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2},
    libc::O_PATH,
    sys::stat::{Mode, SFlag, fstat},
    unistd::dup2,
};

/// Most of a `stat` file that is read, bytes; 52 numbers and a name.
const STAT_BYTES: u64 = 2_048;
/// How often a path is tried again when a rename raced with it; the kernel asks for that by `EAGAIN`.
const N_RACE_RETRIES: usize = 8;

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
    socket: Option<Socket>,
}

/// A socket below a root.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    root: PathBuf,
    /// Start of the process whose root it is, clock ticks since boot; `None`: whoever has it.
    start_time_ticks: Option<u64>,
    path: PathBuf,
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
    /// Takes a URI apart.
    ///
    /// # Errors
    /// The URI is none, is not local, or names a socket of its own beside the one given apart.
    pub(crate) fn parse(added: &AddTarget) -> Result<Self, TargetError> {
        let AddTarget { uri, socket, root, start_time_ticks, readonly: _, look_ms: _, heartbeat_ms: _ } = added;
        let not_uri = || TargetError::NotUri { uri: uri.clone() };
        let (scheme, rest) = uri.split_once("://").ok_or_else(not_uri)?;
        let (driver, transport) = scheme.split_once('+').map_or((scheme, None), |(driver, with)| (driver, Some(with)));
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        if driver.is_empty() || !driver.bytes().all(|byte| byte.is_ascii_alphanumeric()) || !place.contains('/') {
            return Err(not_uri());
        }
        if transport.is_some_and(|transport| transport != "unix") || !place.starts_with('/') {
            return Err(TargetError::Remote { uri: uri.clone() });
        }
        let names_socket = query.is_some_and(|query| query.split('&').any(|param| param.starts_with("socket=")));
        if names_socket && socket.is_some() {
            return Err(TargetError::TwoSockets { uri: uri.clone() });
        }
        let socket = socket.as_ref().map(|path| Socket {
            root: if root.is_empty() { "/".into() } else { root.into() },
            start_time_ticks: Some(*start_time_ticks).filter(|ticks| *ticks > 0),
            path: path.into(),
        });
        Ok(Self { driver: driver.into(), path: place.into(), query: query.map(Into::into), socket })
    }

    /// The URI for one attempt to connect; `hold` keeps what it leads over.
    ///
    /// A read-only attempt takes the socket's sibling `<socket>-ro` where there is one; a launcher has none, and there a
    /// read-only connection goes over the only socket.
    ///
    /// # Errors
    /// The socket cannot be opened; `ENOTSOCK` when it is none.
    pub(crate) fn attempt(&self, is_readonly: bool, hold: &Hold) -> io::Result<String> {
        let Some(socket) = &self.socket else {
            return Ok(self.uri(None));
        };
        let open = socket.open(is_readonly)?;
        let path = hold.keep(open);
        Ok(self.uri(Some(&path)))
    }

    /// An error's text with the socket's own path in the place of the one it was reached over.
    pub(crate) fn name_socket(&self, text: &str) -> String {
        let Some(socket) = &self.socket else { return text.to_owned() };
        let Some((before, after)) = text.split_once(OVER) else { return text.to_owned() };
        let after = after.trim_start_matches(|character: char| character.is_ascii_digit());
        format!("{before}{}{after}", socket.root.join(socket.path.strip_prefix("/").unwrap_or(&socket.path)).display())
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

/// What libvirt is told to connect to stands below it.
const OVER: &str = "/proc/self/fd/";

impl Socket {
    fn open(&self, is_readonly: bool) -> io::Result<OwnedFd> {
        let root = self.open_root()?;
        let sibling = is_readonly.then(|| open_in(&root, &read_only_sibling(&self.path)).ok()).flatten();
        let open = match sibling {
            Some(open) => open,
            None => open_in(&root, &self.path)?,
        };
        match SFlag::from_bits_truncate(fstat(&open)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFSOCK => Ok(open),
            _ => Err(Errno::ENOTSOCK.into()),
        }
    }

    /// The root; if a process must have it, then by way of that process: its folder in procfs never becomes another's.
    fn open_root(&self) -> io::Result<OwnedFd> {
        let Some(want) = self.start_time_ticks else { return open_folder(&self.root).map(Into::into) };
        let process = open_folder(self.root.parent().unwrap_or(Path::new("/")))?;
        let mut stat = Vec::new();
        let file = openat(&process, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        File::from(file).take(STAT_BYTES).read_to_end(&mut stat)?;
        if start_time_ticks(&stat) != Some(want) {
            return Err(Errno::ESRCH.into());
        }
        Ok(openat(&process, "root", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(O_PATH).open(path)
}

fn open_in(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let mut n_tries = 0;
    loop {
        match openat2(root.as_fd(), path, how) {
            Err(Errno::EAGAIN) if n_tries < N_RACE_RETRIES => n_tries += 1,
            outcome => return outcome,
        }
    }
}

/// Field 22 of `/proc/PID/stat`, counted from behind the name, which may hold anything.
fn start_time_ticks(stat: &[u8]) -> Option<u64> {
    let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[behind..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn read_only_sibling(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push("-ro");
    name.into()
}

/// The descriptor that an attempt to connect leads over.
///
/// libvirt looks at it in the first moment of the attempt; when the daemon then does not answer, the attempt may last for ever. So
/// it can be let go from outside, without its number becoming free for another before the attempt has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    open: Option<OwnedFd>,
    was_let_go: bool,
}

impl Hold {
    /// Keeps it, in the place of the one before; its path.
    fn keep(&self, open: OwnedFd) -> PathBuf {
        let path = format!("{OVER}{}", open.as_raw_fd());
        *self.lock() = Held { open: Some(open), was_let_go: false };
        path.into()
    }

    /// The attempt has ended. Whether it had been let go before.
    pub(crate) fn end(&self) -> bool {
        std::mem::take(&mut *self.lock()).was_let_go
    }

    /// The attempt lasts: what is held becomes something that belongs to nobody.
    pub(crate) fn let_go(&self) {
        let mut held = self.lock();
        if held.was_let_go {
            return;
        }
        let Some(open) = &mut held.open else { return };
        // Without /dev/null it is closed: then the number may be another's, to which the attempt was not made.
        match File::open("/dev/null").map_err(drop).and_then(|null| dup2(null, open).map_err(drop)) {
            Ok(()) => {}
            Err(()) => held.open = None,
        }
        held.was_let_go = true;
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    use std::os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    };

    use super::*;

    fn added(uri: &str, socket: Option<&str>, root: &Path) -> AddTarget {
        AddTarget {
            uri: uri.into(),
            socket: socket.map(Into::into),
            root: root.to_str().unwrap().into(),
            ..AddTarget::default()
        }
    }

    #[test]
    fn a_uri_alone_stays_as_it_is() {
        for (uri, want) in [
            ("qemu:///system", "qemu:///system"),
            ("qemu+unix:///session?socket=/run/x", "qemu:///session?socket=/run/x"),
        ] {
            let target = Target::parse(&added(uri, None, Path::new(""))).unwrap();
            assert_eq!(target.attempt(false, &Hold::default()).unwrap(), want);
        }
    }

    #[test]
    fn a_socket_becomes_part_of_the_uri_in_percent_form() {
        let target = Target::parse(&added("qemu:///session?a=b", None, Path::new(""))).unwrap();
        assert_eq!(target.uri(Some(Path::new("/a&b c#"))), "qemu+unix:///session?a=b&socket=/a%26b%20c%23");
    }

    #[track_caller]
    fn refused(uri: &str) -> TargetError {
        Target::parse(&added(uri, Some("/s"), Path::new(""))).unwrap_err()
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

    /// Opens the socket `run/s` of a root; what was reached says so.
    fn reached(root: &Path, is_readonly: bool) -> io::Result<(UnixStream, Hold)> {
        let hold = Hold::default();
        let target = Target::parse(&added("qemu:///system", Some("/var/run/s"), root)).unwrap();
        let uri = target.attempt(is_readonly, &hold)?;
        let path = uri.strip_prefix("qemu+unix:///system?socket=").unwrap();
        Ok((UnixStream::connect(path)?, hold))
    }

    fn root_with_run() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/deep").join("f".repeat(60)).join("g".repeat(60))).unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        root
    }

    #[test]
    fn absolute_links_are_followed_inside_the_root() {
        let root = root_with_run();
        let _listener = UnixListener::bind(root.path().join("run/s")).unwrap();
        reached(root.path(), false).unwrap();
    }

    #[test]
    fn no_link_leads_out_of_the_root_and_what_is_no_socket_is_refused() {
        let (root, other) = (root_with_run(), tempfile::tempdir().unwrap());
        let ours = other.path().join("ours");
        let _listener = UnixListener::bind(&ours).unwrap();
        symlink(&ours, root.path().join("run/s")).unwrap();
        assert_eq!(reached(root.path(), false).unwrap_err().raw_os_error(), Some(Errno::ENOENT as i32));
        std::fs::remove_file(root.path().join("run/s")).unwrap();
        std::fs::write(root.path().join("run/s"), "no socket").unwrap();
        assert_eq!(reached(root.path(), false).unwrap_err().raw_os_error(), Some(Errno::ENOTSOCK as i32));
    }

    #[test]
    fn a_read_only_attempt_takes_the_read_only_socket_where_there_is_one() {
        let root = root_with_run();
        let both = UnixListener::bind(root.path().join("run/s")).unwrap();
        both.set_nonblocking(true).unwrap();
        reached(root.path(), true).unwrap();
        both.accept().expect("there is no other");
        let only = UnixListener::bind(root.path().join("run/s-ro")).unwrap();
        only.set_nonblocking(true).unwrap();
        reached(root.path(), true).unwrap();
        only.accept().unwrap();
        assert!(both.accept().is_err());
    }

    #[test]
    fn what_is_let_go_pins_nothing_and_keeps_its_number() {
        let root = root_with_run();
        let _listener = UnixListener::bind(root.path().join("run/s")).unwrap();
        let (_connected, hold) = reached(root.path(), false).unwrap();
        let link = || {
            let number = hold.lock().open.as_ref().unwrap().as_raw_fd();
            std::fs::read_link(format!("{OVER}{number}")).unwrap()
        };
        assert!(link().starts_with(root.path()), "{:?}", link());
        hold.let_go();
        assert_eq!(link(), Path::new("/dev/null"));
        assert!(hold.end() && !hold.end());
    }

    #[test]
    fn another_process_with_the_pid_is_not_talked_to() {
        let own = std::fs::read("/proc/self/stat").unwrap();
        let ticks = start_time_ticks(&own).unwrap();
        let socket = |start_time_ticks| {
            let root = format!("/proc/{}/root", std::process::id()).into();
            Socket { root, start_time_ticks: Some(start_time_ticks), path: "/".into() }
        };
        socket(ticks).open_root().unwrap();
        assert_eq!(socket(ticks + 1).open_root().unwrap_err().raw_os_error(), Some(Errno::ESRCH as i32));
        assert_eq!(start_time_ticks(b"7 (a) b) S 1"), None);
    }

    #[test]
    fn errors_name_the_socket_and_not_the_way_to_it() {
        let target = Target::parse(&added("qemu:///system", Some("/run/s"), Path::new("/proc/7/root"))).unwrap();
        let text = "Failed to connect socket to '/proc/self/fd/12': Connection refused";
        assert_eq!(target.name_socket(text), "Failed to connect socket to '/proc/7/root/run/s': Connection refused");
        assert_eq!(target.name_socket("other"), "other");
    }
}
