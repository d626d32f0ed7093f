//! Reading small files whole, with a limit.
//!
//! Files of the kernel have no length to trust, and a file under a foreign root may be anything: so a read stops at a limit
//! and says so. Bytes that are not UTF-8 (a process may call itself anything) become U+FFFD and spoil only themselves.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::retry_on_intr;

use crate::ReadError;

/// The most that is read of a file unless its reader says otherwise, bytes.
///
/// The longest file of a healthy host that we read whole is mountinfo (about 250 bytes a mount).
pub(crate) const DEFAULT_LIMIT_BYTES: usize = 1 << 20;

/// More than the longest of them usually has, `/proc/PID/status`: some 60 lines.
const RECORD_BYTES: usize = 3 << 10;

/// How files are opened for reading: a FIFO or a tape drive in the place of a file must not make us wait in `open`.
pub(crate) const READ_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Reads an open regular file to its end, at most `limit_bytes`.
pub(crate) fn read_to_limit(mut file: File, path: &Path, limit_bytes: usize) -> Result<Vec<u8>, ReadError> {
    let at = |source: io::Error| ReadError::from_io(path, source);
    let stat = rustix::fs::fstat(file.as_fd()).map_err(|errno| at(errno.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(at(io::ErrorKind::IsADirectory.into())),
        _ => return Err(at(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))),
    }
    let mut bytes = Vec::with_capacity(1024);
    // One byte more than the limit tells "exactly full" from "too large".
    let n_taken = (&mut file).take(limit_bytes as u64 + 1).read_to_end(&mut bytes).map_err(at)?;
    if n_taken > limit_bytes {
        return Err(ReadError::TooLarge { path: path.to_path_buf(), limit_bytes });
    }
    Ok(bytes)
}

/// Reads a file that the kernel makes in one piece (`single_open`, as of `/proc/PID/stat`): what a read leaves room after is all of it,
/// so it takes one read and no question for its kind or size. These files are read by the thousand.
pub(crate) fn read_record(path: &Path) -> Result<Vec<u8>, ReadError> {
    let at = |source: io::Error| ReadError::from_io(path, source);
    let file = open_plain(path)?;
    let mut bytes = vec![0; RECORD_BYTES];
    let n_read = retry_on_intr(|| rustix::io::read(&file, &mut bytes[..])).map_err(|errno| at(errno.into()))?;
    if n_read == RECORD_BYTES {
        return read_plain(path);
    }
    bytes.truncate(n_read);
    Ok(bytes)
}

/// Reads a file by its plain path, following symbolic links as the kernel does.
pub(crate) fn read_plain(path: &Path) -> Result<Vec<u8>, ReadError> {
    read_to_limit(open_plain(path)?, path, DEFAULT_LIMIT_BYTES)
}

/// Opens a file by its plain path; never waits for a FIFO's writer.
pub(crate) fn open_plain(path: &Path) -> Result<File, ReadError> {
    File::options()
        .read(true)
        .custom_flags((READ_FLAGS.difference(OFlags::RDONLY | OFlags::CLOEXEC)).bits().cast_signed())
        .open(path)
        .map_err(|source| ReadError::from_io(path, source))
}

/// The text of `bytes`, without copying where they are UTF-8 already.
pub(crate) fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
