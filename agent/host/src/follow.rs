//! One log file, followed while it is written, renamed and begun anew.
//!
//! Between calls only its inode and an offset are kept: every call opens, reads and closes, so that no file of a pod is held.
//! Three things happen to a log: the kubelet renames it and a new one begins (`0.log` → `0.log.20261121-064207`), somebody
//! truncates it, or more is written than there is time to read. What was renamed is read to its end where it still lies beside;
//! what was left out is counted, never passed over silently.
//! Source: Kubernetes `pkg/kubelet/logs/container_log_manager.go` (rotation), CRI `LogDirectory`.

mod watch;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::log::MAX_LINE_BYTES;
use crate::{HostRoot, ReadError};

pub use watch::{FolderChanges, FolderWatch};

/// Names beside a log among which a renamed one is looked for; the kubelet keeps 5 by default.
const MAX_BESIDE: usize = 64;
/// How far before its end an offset by time is looked for, by halves, until so few bytes are left.
const SEEK_ENDS_BYTES: u64 = 4 * 1024;

/// Where to begin in a file that is seen for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowStart {
    /// With its first byte.
    Beginning,
    /// With what will be written.
    End,
    /// Behind so many bytes of the file with this inode; another one from its first byte.
    At {
        /// Inode number.
        inode: u64,
        /// Bytes that are passed over.
        offset: u64,
    },
    /// With the first line whose stamp is this Unix time or later, microseconds. Lines must be in order and have stamps.
    Since(i64),
}

/// A file that is followed.
#[derive(Clone, Debug)]
pub struct FollowedFile {
    path: PathBuf,
    start: FollowStart,
    /// Inode and device of the file that the offset is of; `None` before it was there.
    inode: Option<(u64, u64)>,
    offset: u64,
    /// Whether what comes next is the rest of a line that was too long.
    is_inside_line: bool,
}

/// What one call gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Bytes that were handed out.
    pub n_bytes: u64,
    /// Bytes that were left out: too much at once, or of a line longer than 64 KiB.
    pub n_skipped_bytes: u64,
    /// Files whose rest was gone before it was read, or that were truncated.
    pub n_lost_files: u64,
    /// Whether there is more already.
    pub is_behind: bool,
}

/// How much of a file may be read.
#[derive(Clone, Copy, Debug)]
pub struct FollowLimits {
    /// Bytes to read in one call.
    pub max_bytes: u64,
    /// When more than this has come, the oldest of it is left out, bytes.
    pub max_behind_bytes: u64,
}

impl FollowedFile {
    /// Will follow the file at `path`, which need not be there yet; opens nothing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, start: FollowStart) -> Self {
        Self { path: path.into(), start, inode: None, offset: 0, is_inside_line: false }
    }

    /// Inode and offset of what was read, for who goes on after a restart. `None` before anything was.
    #[must_use]
    pub fn offset(&self) -> Option<(u64, u64)> {
        self.inode.map(|(inode, _)| (inode, self.offset))
    }

    /// The file's path below the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands out what was written since the last call as blocks of whole lines, the last without its end only where it is longer
    /// than 64 KiB. `buffer` is only memory. Blocks on the file system.
    ///
    /// # Errors
    /// As every read; `NotFound` while there is no file. What was handed out before counts.
    pub fn read(
        &mut self,
        root: &HostRoot,
        limits: FollowLimits,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Followed, ReadError> {
        let mut followed = Followed::default();
        // Between a rename and the new file there is none: what was renamed is looked for when there is.
        let file = root.open(&self.path)?;
        let shown = root.display_path(&self.path);
        let at = |source| ReadError::from_io(&shown, source);
        let metadata = file.metadata().map_err(at)?;
        let inode = (metadata.ino(), metadata.dev());
        if self.inode.is_some_and(|known| known != inode) {
            self.finish_renamed(root, limits, buffer, &mut followed, &mut each);
            (self.offset, self.is_inside_line) = (0, false);
        } else if self.inode.is_none() {
            self.offset = match self.start {
                FollowStart::Beginning => 0,
                FollowStart::End => metadata.len(),
                FollowStart::At { inode: known, offset } if known == inode.0 => offset,
                FollowStart::At { .. } => 0,
                FollowStart::Since(usec) => seek(&file, metadata.len(), usec, buffer).map_err(at)?,
            };
        }
        self.inode = Some(inode);
        if metadata.len() < self.offset {
            followed.n_lost_files += 1;
            (self.offset, self.is_inside_line) = (0, false);
        }
        self.read_file(&file, metadata.len(), limits, buffer, &mut followed, &mut each).map_err(at)?;
        Ok(followed)
    }

    /// Reads the rest of the file that had the name before.
    fn finish_renamed(
        &mut self,
        root: &HostRoot,
        limits: FollowLimits,
        buffer: &mut Vec<u8>,
        followed: &mut Followed,
        each: &mut dyn FnMut(&[u8]),
    ) {
        let Some(renamed) = self.find_renamed(root) else {
            followed.n_lost_files += 1;
            return;
        };
        let Ok(n_bytes) = renamed.metadata().map(|metadata| metadata.len()) else {
            followed.n_lost_files += 1;
            return;
        };
        // There is no next time for it.
        let limits = FollowLimits { max_bytes: limits.max_behind_bytes, ..limits };
        if self.read_file(&renamed, n_bytes, limits, buffer, followed, each).is_err() {
            followed.n_lost_files += 1;
        }
        // A line without its end will not get one.
        followed.n_skipped_bytes += n_bytes.saturating_sub(self.offset);
        followed.is_behind = false;
    }

    fn find_renamed(&self, root: &HostRoot) -> Option<File> {
        // `kubelet.log` becomes `kubelet-2026-11-21T06-42-07.000.log` where a program renames its own (lumberjack).
        let (folder, name) = (Path::new("/").join(self.path.parent()?), self.path.file_stem()?.as_encoded_bytes());
        let names = root.list(&folder).ok()?;
        let beside =
            names.iter().filter(|other| other.as_encoded_bytes().starts_with(name) && other.len() > name.len());
        // The newest is the last by name.
        beside.rev().take(MAX_BESIDE).find_map(|other| {
            let file = root.open(folder.join(other)).ok()?;
            let metadata = file.metadata().ok()?;
            (Some((metadata.ino(), metadata.dev())) == self.inode).then_some(file)
        })
    }

    fn read_file(
        &mut self,
        file: &File,
        n_bytes: u64,
        limits: FollowLimits,
        buffer: &mut Vec<u8>,
        followed: &mut Followed,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let behind = n_bytes.saturating_sub(self.offset);
        if behind > limits.max_behind_bytes {
            let n_skipped = behind - limits.max_bytes.min(limits.max_behind_bytes);
            followed.n_skipped_bytes += n_skipped;
            self.offset += n_skipped;
            // Most likely: what is left of this line is left out, too.
            self.is_inside_line = true;
        }
        let mut left = limits.max_bytes;
        while left > 0 && self.offset < n_bytes {
            let want = usize::try_from(n_bytes - self.offset).unwrap_or(usize::MAX).min(2 * MAX_LINE_BYTES);
            buffer.resize(want, 0);
            let n_read = read_at(file, buffer, self.offset)?;
            let bytes = &buffer[..n_read];
            if self.is_inside_line && n_read > 0 {
                let n_over = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
                followed.n_skipped_bytes += n_over as u64;
                self.offset += n_over as u64;
                left = left.saturating_sub(n_over as u64);
                self.is_inside_line = n_over == bytes.len() && bytes.last() != Some(&b'\n');
                // What is left of the buffer may end inside a line that is whole in the file.
                continue;
            }
            let n_given = match memchr::memrchr(b'\n', bytes) {
                Some(end) => end + 1,
                None if bytes.len() < MAX_LINE_BYTES => break,
                None => {
                    self.is_inside_line = true;
                    MAX_LINE_BYTES
                }
            };
            each(&bytes[..n_given]);
            followed.n_bytes += n_given as u64;
            self.offset += n_given as u64;
            left = left.saturating_sub(n_given as u64);
        }
        followed.is_behind = left == 0 && self.offset < n_bytes;
        Ok(())
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The offset of the first line of that time, by halves.
fn seek(file: &File, n_bytes: u64, since_usec: i64, buffer: &mut Vec<u8>) -> io::Result<u64> {
    let (mut low, mut high) = (0, n_bytes);
    buffer.resize(2 * MAX_LINE_BYTES, 0);
    while high - low > SEEK_ENDS_BYTES {
        let middle = low + (high - low) / 2;
        let n_read = read_at(file, buffer, middle)?;
        match first_stamp(&buffer[..n_read], since_usec) {
            Some((start, usec)) if usec < since_usec => low = middle + start as u64,
            Some(_) | None => high = middle,
        }
    }
    let n_read = read_at(file, buffer, low)?;
    let mut at = 0;
    let bytes = &buffer[..n_read];
    let is_start = low == 0;
    if !is_start {
        // `low` is the beginning of a line that is too old.
        at = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
    }
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1);
        if stamp_of(&bytes[at..end], since_usec).is_some_and(|usec| usec >= since_usec) {
            break;
        }
        at = end;
    }
    Ok(low + at as u64)
}

/// The first whole line behind the one that `bytes` begins in that has a stamp: where it begins, and its stamp.
fn first_stamp(bytes: &[u8], about_usec: i64) -> Option<(usize, i64)> {
    let mut at = memchr::memchr(b'\n', bytes)? + 1;
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1);
        if let Some(usec) = stamp_of(&bytes[at..end], about_usec) {
            return Some((at, usec));
        }
        at = end;
    }
    None
}

/// The stamp at a line's beginning, Unix time in microseconds.
fn stamp_of(line: &[u8], about_usec: i64) -> Option<i64> {
    let head = String::from_utf8_lossy(&line[..line.len().min(64)]);
    crate::log::parse_stamp(&head, about_usec)
}

#[cfg(test)]
mod tests;
