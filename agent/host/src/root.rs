//! The one way to open a path of the host we look at.
//!
//! The host's files may lie under `/`, under a mount in our container (`/host`), under another node's `/proc/PID/root`, or in
//! a recorded tree. There an absolute symbolic link (`/var/run -> /run` on Debian) would lead back to *our* root, so every
//! path is opened with `openat2(RESOLVE_IN_ROOT)`, for which the given root is `/`. Source: `openat2(2)`, Linux ≥ 5.6. There
//! is no fallback that is as safe: without it every read is [`ReadError::Unsupported`].
//!
//! The root is opened anew for each path and closed again, so that the reader never keeps a mount of the host busy.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::text::{DEFAULT_LIMIT_BYTES, READ_FLAGS, into_text, read_to_limit};
use crate::{Malformed, ReadError};

/// How often a path is tried again when a rename raced with its `..`; the kernel asks for that by `EAGAIN`.
const N_RACE_RETRIES: usize = 8;

/// The root directory of the host we look at. Cheap to clone; opens nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoot {
    path: Arc<Path>,
}

impl HostRoot {
    /// A host whose `/` is at `path` for us: `/`, `/host`, `/proc/1234/root`, a recorded tree.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: Arc::from(path.as_ref()) }
    }

    /// Where the host's `/` is for us.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is our own root, so that what the kernel says of "this" machine is said of the host.
    pub fn is_own(&self) -> bool {
        &*self.path == Path::new("/")
    }

    /// `path` as it is named in errors and logs: under our own root. Not for opening.
    pub fn display_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Opens `path` with the given flags, resolving every link inside the root.
    pub(crate) fn open_fd(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, ReadError> {
        let path = path.as_ref();
        self.open_raw(path, flags).map_err(|errno| ReadError::from_io(self.display_path(path), errno.into()))
    }

    /// As [`Self::open_fd`], with the bare error number for callers that report it.
    pub(crate) fn open_raw(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&*self.path, dir_flags, Mode::empty())?;
        let mut n_tries = 0;
        loop {
            match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) if n_tries < N_RACE_RETRIES => n_tries += 1,
                result => return result,
            }
        }
    }

    /// Opens a file for reading; never waits for a FIFO's writer.
    ///
    /// # Errors
    /// As every read here: see [`ReadError`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File, ReadError> {
        self.open_fd(path, READ_FLAGS).map(File::from)
    }

    /// Reads a regular file whole, at most `limit_bytes`.
    ///
    /// # Errors
    /// [`ReadError::TooLarge`] when there is more; `Io` when it is not a regular file.
    pub fn read_bytes(&self, path: impl AsRef<Path>, limit_bytes: usize) -> Result<Vec<u8>, ReadError> {
        let path = path.as_ref();
        read_to_limit(self.open(path)?, &self.display_path(path), limit_bytes)
    }

    /// Reads a text file whole, at most 1 MiB; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// As [`Self::read_bytes`].
    pub fn read_text(&self, path: impl AsRef<Path>) -> Result<String, ReadError> {
        self.read_bytes(path, DEFAULT_LIMIT_BYTES).map(into_text)
    }

    /// As [`Self::read_text`], `None` where there is no such file.
    ///
    /// # Errors
    /// Every [`ReadError`] but `NotFound`.
    pub fn read_text_if_any(&self, path: impl AsRef<Path>) -> Result<Option<String>, ReadError> {
        match self.read_text(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names in a directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    /// See [`ReadError`]; `Io` when it is not a directory.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<OsString>, ReadError> {
        let path = path.as_ref();
        let at = |errno: Errno| ReadError::from_io(self.display_path(path), errno.into());
        let dir = self.open_fd(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).map_err(at)? {
            let name = entry.map_err(at)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The files of a folder of drop-ins whose names have one of these endings, by name; none where there is no such folder.
    ///
    /// # Errors
    /// As [`HostRoot::list`].
    pub(crate) fn drop_ins(&self, folder: &str, endings: &[&str]) -> Result<Vec<String>, ReadError> {
        let names = match self.list(folder) {
            Err(error) if error.is_not_found() => Vec::new(),
            names => names?,
        };
        let names = names.iter().filter_map(|name| name.to_str());
        let is_one = |name: &&str| endings.iter().any(|ending| name.ends_with(ending));
        Ok(names.filter(is_one).map(|name| format!("{folder}/{name}")).collect())
    }

    /// The target of a symbolic link, as written in it.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` also when it is not a link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, ReadError> {
        let path = path.as_ref();
        let fd = self.open_fd(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new())
            .map_err(|errno| ReadError::from_io(self.display_path(path), errno.into()))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// What `stat` says of `path`, links followed. May wait for a dead file system: only for what the kernel keeps in memory.
    pub(crate) fn stat(&self, path: impl AsRef<Path>) -> Result<Stat, Errno> {
        rustix::fs::fstat(self.open_raw(path.as_ref(), OFlags::PATH)?.as_fd())
    }

    /// Which boot of the kernel this is: a UUID of the running kernel, new with each boot.
    ///
    /// # Errors
    /// `Malformed` when the kernel's file holds no UUID.
    pub fn boot_id(&self) -> Result<String, ReadError> {
        let path = "proc/sys/kernel/random/boot_id";
        let text = self.read_text(path)?;
        let is_uuid = |id: &str| id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        only_line(&text).filter(|id| is_uuid(id)).map(str::to_owned).ok_or_else(|| self.malformed(path, &text))
    }

    /// Which installation this is: 32 hex digits. Source: `machine-id(5)`.
    ///
    /// # Errors
    /// `Malformed` when not yet set (`uninitialized`) or not an id.
    pub fn machine_id(&self) -> Result<String, ReadError> {
        let path = "etc/machine-id";
        let text = self.read_text(path)?;
        let is_id = |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        only_line(&text).filter(|id| is_id(id)).map(str::to_owned).ok_or_else(|| self.malformed(path, &text))
    }

    /// The host's name.
    ///
    /// The kernel's own answer belongs to the UTS namespace of whoever asks, so it is asked only about our own root; under
    /// another root `/etc/hostname` counts.
    ///
    /// # Errors
    /// `Malformed` when the file is empty.
    pub fn hostname(&self) -> Result<String, ReadError> {
        let path = if self.is_own() { "proc/sys/kernel/hostname" } else { "etc/hostname" };
        let text = self.read_text(path)?;
        only_line(&text).map(str::to_owned).ok_or_else(|| self.malformed(path, &text))
    }

    /// The running kernel's release, as `uname -r` prints it.
    ///
    /// # Errors
    /// `Malformed` when the kernel's file is empty.
    pub fn kernel_release(&self) -> Result<String, ReadError> {
        let path = "proc/sys/kernel/osrelease";
        let text = self.read_text(path)?;
        only_line(&text).map(str::to_owned).ok_or_else(|| self.malformed(path, &text))
    }

    fn malformed(&self, path: &str, text: &str) -> ReadError {
        Malformed::new(1, text.lines().next().unwrap_or_default()).at(self.display_path(path))
    }
}

/// The first line that says something, comments (`hostname(5)`) left out.
fn only_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run/app")).unwrap();
        std::fs::create_dir_all(dir.path().join("var")).unwrap();
        let root = HostRoot::new(dir.path());
        (dir, root)
    }

    #[test]
    fn an_absolute_link_stays_inside_the_root() {
        let (dir, root) = tree();
        symlink("/run", dir.path().join("var/run")).unwrap();
        std::fs::write(dir.path().join("run/app/pid"), "inside\n").unwrap();
        assert_eq!(root.read_text("/var/run/app/pid").unwrap(), "inside\n");
    }

    #[test]
    fn a_link_out_of_the_root_finds_nothing_of_ours() {
        let (dir, root) = tree();
        symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
        symlink("../../../../../../../../../../etc/passwd", dir.path().join("relative")).unwrap();
        assert!(std::fs::exists("/etc/passwd").unwrap(), "the test needs a file to miss");
        for path in ["absolute", "relative", "../../../../../../../../etc/passwd", "/etc/passwd"] {
            assert!(root.read_text(path).unwrap_err().is_not_found(), "{path}");
        }
    }

    #[test]
    fn a_file_at_the_limit_is_read_and_one_byte_more_is_refused() {
        let (dir, root) = tree();
        std::fs::write(dir.path().join("full"), vec![b'x'; 64]).unwrap();
        std::fs::write(dir.path().join("over"), vec![b'x'; 65]).unwrap();
        assert_eq!(root.read_bytes("full", 64).unwrap().len(), 64);
        let error = root.read_bytes("over", 64).unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { limit_bytes: 64, .. }), "{error}");
    }

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_an_error_and_not_a_wait() {
        let (dir, root) = tree();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        assert!(matches!(root.read_text("pipe").unwrap_err(), ReadError::Io { .. }));
    }

    #[test]
    fn names_that_are_missing_links_and_lists_are_told_apart() {
        let (dir, root) = tree();
        symlink("/run", dir.path().join("var/run")).unwrap();
        assert!(root.read_text("nothing").unwrap_err().is_not_found());
        assert_eq!(root.read_text_if_any("nothing").unwrap(), None);
        assert_eq!(root.read_link("var/run").unwrap(), Path::new("/run"));
        assert_eq!(root.list("/").unwrap(), ["run", "var"]);
        assert_eq!(root.list("var/run").unwrap(), ["app"]);
    }

    #[test]
    fn the_running_kernel_names_itself() {
        let own = HostRoot::new("/");
        assert_eq!(own.boot_id().unwrap().len(), 36);
        let uname = rustix::system::uname();
        assert_eq!(own.kernel_release().unwrap(), uname.release().to_str().unwrap());
        assert_eq!(own.hostname().unwrap(), uname.nodename().to_str().unwrap());
    }

    #[test]
    fn an_uninitialized_machine_id_is_malformed_and_says_where() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        let error = root.machine_id().unwrap_err();
        assert!(error.to_string().ends_with("line 1: \"uninitialized\""), "{error}");
        std::fs::write(dir.path().join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(root.machine_id().unwrap(), "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn a_hostname_under_another_root_is_that_roots() {
        let (dir, root) = tree();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hostname"), "# written by the installer\nn1\n").unwrap();
        assert_eq!(root.hostname().unwrap(), "n1");
    }
}
