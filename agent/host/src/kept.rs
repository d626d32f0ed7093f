//! A file of the kernel that is read often: opened once, read from its beginning each time.
//!
//! Opening costs more than reading where a path is resolved inside a root. Only files of procfs, cgroupfs and sysfs are kept
//! open: such a descriptor pins no disk and no pod's mount. Anything else (a recorded tree, a link that leads elsewhere) is
//! opened, read and closed each time. A cgroup that is removed meanwhile gives `ENODEV`, which is told as not found.
//! Source: magic numbers of `statfs(2)`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{HostRoot, ReadError};

/// `PROC_SUPER_MAGIC`, `SYSFS_MAGIC`, `CGROUP_SUPER_MAGIC`, `CGROUP2_SUPER_MAGIC`.
const KERNEL_MAGICS: [u64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];
/// First size of the buffer, bytes: the files read so are shorter but `/proc/stat` of large machines.
const BUFFER_BYTES: usize = 4 << 10;
/// The most that is read, bytes.
const MAX_BYTES: usize = 1 << 20;

/// A file to be read again and again.
#[derive(Debug)]
pub struct KeptFile {
    root: HostRoot,
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KeptFile {
    /// Opens nothing yet.
    pub fn new(root: &HostRoot, path: impl AsRef<Path>) -> Self {
        Self { root: root.clone(), path: path.as_ref().to_path_buf(), file: None, buffer: Vec::new() }
    }

    /// Its path below the root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it whole, from the beginning. Bytes that are not UTF-8 end the text.
    ///
    /// After an error it is opened anew by the next read.
    ///
    /// # Errors
    /// See [`ReadError`]; `TooLarge` above 1 MiB.
    pub fn read(&mut self) -> Result<&str, ReadError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.root.open(&self.path)?,
        };
        let n_bytes = self.read_from(&file)?;
        if is_of_kernel(&file) {
            self.file = Some(file);
        }
        let bytes = &self.buffer[..n_bytes];
        Ok(std::str::from_utf8(bytes)
            .unwrap_or_else(|error| std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()))
    }

    fn read_from(&mut self, file: &File) -> Result<usize, ReadError> {
        let mut n_bytes = 0;
        loop {
            if n_bytes == self.buffer.len() {
                if n_bytes >= MAX_BYTES {
                    let path = self.root.display_path(&self.path);
                    return Err(ReadError::TooLarge { path, limit_bytes: MAX_BYTES });
                }
                self.buffer.resize((n_bytes * 2).max(BUFFER_BYTES), 0);
            }
            match file.read_at(&mut self.buffer[n_bytes..], n_bytes as u64) {
                Ok(0) => return Ok(n_bytes),
                Ok(n_more) => n_bytes += n_more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {
                    return Err(ReadError::NotFound { path: self.root.display_path(&self.path) });
                }
                Err(error) => return Err(ReadError::from_io(self.root.display_path(&self.path), error)),
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
        let mut file = KeptFile::new(&HostRoot::new("/"), "proc/uptime");
        let first = file.read().unwrap().to_owned();
        assert!(file.file.is_some());
        while file.read().unwrap() == first {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_of_a_disk_is_not_kept_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = KeptFile::new(&HostRoot::new(dir.path()), "cpu.stat");
        assert!(file.read().unwrap_err().is_not_found());
        std::fs::write(dir.path().join("cpu.stat"), "nr_periods 1\n").unwrap();
        assert_eq!(file.read().unwrap(), "nr_periods 1\n");
        assert!(file.file.is_none());
        std::fs::write(dir.path().join("cpu.stat"), "x".repeat(5000)).unwrap();
        assert_eq!(file.read().unwrap().len(), 5000, "the buffer grows");
        std::fs::write(dir.path().join("cpu.stat"), b"ab\xff").unwrap();
        assert_eq!(file.read().unwrap(), "ab");
    }
}
