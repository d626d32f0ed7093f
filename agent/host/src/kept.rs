//! A file of the kernel that is read often: opened once, read from its beginning each time.
//!
//! Opening costs three to ten times what reading does, most where a path is resolved inside a root. Only files of procfs, cgroupfs
//! and sysfs are kept open: such a descriptor pins no disk and no pod's mount, and stops no cgroup from being removed. Anything else
//! (a recorded tree, a link that leads elsewhere) is opened, read and closed each time, and so is what would take more than half of
//! the descriptors that we may have. A cgroup or process that is gone meanwhile is told as not found.
//! Sources: magic numbers of `statfs(2)`; kernel `fs/seq_file.c`: each such file holds a page, counted as ours.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::text::open_plain;
use crate::{HostRoot, ReadError};

/// `PROC_SUPER_MAGIC`, `SYSFS_MAGIC`, `CGROUP_SUPER_MAGIC`, `CGROUP2_SUPER_MAGIC`.
const KERNEL_MAGICS: [u64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];
/// First size of the buffer, bytes: the files read so are shorter but `/proc/stat` of large machines.
const BUFFER_BYTES: usize = 4 << 10;
/// The most that is read, bytes.
const MAX_BYTES: usize = 1 << 20;
/// The most that are kept open: 130 VMs with fifteen each. Each holds 4 KiB of the kernel's memory.
const MAX_KEPT: u64 = 2_000;

/// How many are open.
static N_KEPT: AtomicU64 = AtomicU64::new(0);

/// Allows this process as many descriptors as it may have. Nothing here asks `select(2)`, for which the soft limit is so low.
pub fn allow_many() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused leaves fewer files open.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many may be open: asked once.
fn max_kept() -> u64 {
    static MAX: OnceLock<u64> = OnceLock::new();
    *MAX.get_or_init(|| getrlimit(Resource::Nofile).current.map_or(MAX_KEPT, |limit| (limit / 2).min(MAX_KEPT)))
}

/// An open file, counted.
#[derive(Debug)]
struct Kept(File);

impl Kept {
    fn new(file: File) -> Option<Self> {
        let is_allowed = |n_kept| (n_kept < max_kept()).then_some(n_kept + 1);
        N_KEPT.try_update(Ordering::Relaxed, Ordering::Relaxed, is_allowed).ok().map(|_| Self(file))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        N_KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What files are read into, one after another: as large as the longest of them.
#[derive(Debug, Default)]
pub struct KeptBuffer(Vec<u8>);

/// A file to be read again and again, made by the kernel in one piece (`single_open`): all but lists of unknown length are.
#[derive(Debug)]
pub struct KeptFile {
    /// `None`: the path is no host's.
    root: Option<HostRoot>,
    path: PathBuf,
    file: Option<Kept>,
}

impl KeptFile {
    /// A file of a host. Opens nothing yet.
    pub fn new(root: &HostRoot, path: impl AsRef<Path>) -> Self {
        Self { root: Some(root.clone()), path: path.as_ref().to_path_buf(), file: None }
    }

    /// A file by its plain path, as of procfs. Opens nothing yet.
    pub fn plain(path: PathBuf) -> Self {
        Self { root: None, path, file: None }
    }

    /// Its path, below the root if it has one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as it is named in errors.
    pub fn display_path(&self) -> PathBuf {
        self.root.as_ref().map_or_else(|| self.path.clone(), |root| root.display_path(&self.path))
    }

    /// Whether it is open: then what it says is of the same process or cgroup as before, however often its path was used since.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Reads it whole, from the beginning. Bytes that are not UTF-8 end the text.
    ///
    /// After an error it is opened anew by the next read.
    ///
    /// # Errors
    /// As [`Self::read_bytes`].
    pub fn read<'a>(&mut self, buffer: &'a mut KeptBuffer) -> Result<&'a str, ReadError> {
        let bytes = self.read_bytes(buffer)?;
        Ok(std::str::from_utf8(bytes)
            .unwrap_or_else(|error| std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()))
    }

    /// As [`Self::read`], for what may be no text.
    ///
    /// # Errors
    /// See [`ReadError`]; `TooLarge` above 1 MiB.
    pub fn read_bytes<'a>(&mut self, buffer: &'a mut KeptBuffer) -> Result<&'a [u8], ReadError> {
        let n_bytes = match self.file.take() {
            Some(kept) => {
                let n_bytes = self.read_from(&kept.0, buffer)?;
                self.file = Some(kept);
                n_bytes
            }
            None => {
                let file = match &self.root {
                    Some(root) => root.open(&self.path)?,
                    None => open_plain(&self.path)?,
                };
                let n_bytes = self.read_from(&file, buffer)?;
                self.file = if is_of_kernel(&file) { Kept::new(file) } else { None };
                n_bytes
            }
        };
        Ok(&buffer.0[..n_bytes])
    }

    fn read_from(&self, file: &File, KeptBuffer(buffer): &mut KeptBuffer) -> Result<usize, ReadError> {
        let mut n_bytes = 0;
        loop {
            if n_bytes == buffer.len() {
                if n_bytes >= MAX_BYTES {
                    return Err(ReadError::TooLarge { path: self.display_path(), limit_bytes: MAX_BYTES });
                }
                buffer.resize((n_bytes * 2).max(BUFFER_BYTES), 0);
            }
            match file.read_at(&mut buffer[n_bytes..], n_bytes as u64) {
                Ok(n_more) => {
                    n_bytes += n_more;
                    // What leaves room is all of it, or nothing was left.
                    if n_bytes < buffer.len() {
                        return Ok(n_bytes);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {
                    return Err(ReadError::NotFound { path: self.display_path() });
                }
                Err(error) => return Err(ReadError::from_io(self.display_path(), error)),
            }
        }
    }
}

/// Whether an open file is one of procfs, cgroupfs or sysfs.
pub(crate) fn is_of_kernel(file: impl AsFd) -> bool {
    let magic = rustix::fs::fstatfs(file).map(|stat| u64::try_from(stat.f_type).unwrap_or(0));
    magic.is_ok_and(|magic| KERNEL_MAGICS.contains(&magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_kernel_is_kept_open_and_read_anew() {
        let (mut file, mut buffer) = (KeptFile::new(&HostRoot::new("/"), "proc/uptime"), KeptBuffer::default());
        let first = file.read(&mut buffer).unwrap().to_owned();
        assert!(file.file.is_some());
        while file.read(&mut buffer).unwrap() == first {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_of_a_disk_is_not_kept_open() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, mut buffer) = (KeptFile::new(&HostRoot::new(dir.path()), "cpu.stat"), KeptBuffer::default());
        assert!(file.read(&mut buffer).unwrap_err().is_not_found());
        std::fs::write(dir.path().join("cpu.stat"), "nr_periods 1\n").unwrap();
        assert_eq!(file.read(&mut buffer).unwrap(), "nr_periods 1\n");
        assert!(file.file.is_none());
        std::fs::write(dir.path().join("cpu.stat"), "x".repeat(5000)).unwrap();
        assert_eq!(file.read(&mut buffer).unwrap().len(), 5000, "the buffer grows");
        std::fs::write(dir.path().join("cpu.stat"), b"ab\xff").unwrap();
        assert_eq!(file.read(&mut buffer).unwrap(), "ab");
    }

    #[test]
    fn a_process_that_has_ended_is_not_found_and_no_other_with_its_number_is_read() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let path = PathBuf::from(format!("/proc/{}/stat", child.id()));
        let (mut file, mut buffer) = (KeptFile::plain(path), KeptBuffer::default());
        assert!(file.read_bytes(&mut buffer).unwrap().starts_with(child.id().to_string().as_bytes()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(file.read_bytes(&mut buffer).unwrap_err().is_not_found());
        assert!(file.file.is_none());
    }
}
