//! Bytes of a journal file by offset, through one small window that is read again where it does not reach.
//!
//! No `mmap`: a file that is truncated under a mapping ends the process with SIGBUS, and mapped pages count as ours.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is read at once: some ten entries with what belongs to them.
const WINDOW_BYTES: usize = 16 * 1024;
/// So much of it lies before what was asked for: an entry follows its data.
const BEFORE_BYTES: u64 = 4 * 1024;

/// Something that can be read at an offset.
pub(super) trait ReadAt {
    /// Reads up to `into.len()` bytes; fewer only at the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// How long it is now.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut n_read = 0;
        while n_read < into.len() {
            match FileExt::read_at(self, &mut into[n_read..], offset.saturating_add(n_read as u64)) {
                Ok(0) => break,
                Ok(n_more) => n_read += n_more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(n_read)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let n_read = rest.len().min(into.len());
        into[..n_read].copy_from_slice(&rest[..n_read]);
        Ok(n_read)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// What was read last. Reused for file after file.
#[derive(Debug, Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Forgets what was read: another file, or the same one after it has grown.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// `len` bytes from `offset`; fewer where the file ends.
    pub(super) fn get<'w, S: ReadAt + ?Sized>(&'w mut self, from: &S, offset: u64, len: usize) -> io::Result<&'w [u8]> {
        let is_inside = offset
            .checked_sub(self.start)
            .and_then(|at| at.checked_add(len as u64))
            .is_some_and(|end| end <= self.bytes.len() as u64);
        if !is_inside {
            self.start = offset.saturating_sub(BEFORE_BYTES);
            let before = usize::try_from(offset - self.start).unwrap_or(0);
            self.bytes.resize(WINDOW_BYTES.max(before + len), 0);
            let n_read = match from.read_at(self.start, &mut self.bytes) {
                Ok(n_read) => n_read,
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            };
            self.bytes.truncate(n_read);
        }
        let at = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let rest = self.bytes.get(at..).unwrap_or_default();
        Ok(&rest[..len.min(rest.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_gives_any_stretch_and_ends_with_the_file() {
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut window = Window::default();
        for (offset, len, want) in
            [(0, 16, 16), (39_990, 16, 10), (20_000, 30_000, 20_000), (5_000, 1, 1), (41_000, 8, 0), (16_384, 8, 8)]
        {
            let got = window.get(bytes.as_slice(), offset, len).unwrap();
            let from = usize::try_from(offset).unwrap().min(bytes.len());
            assert_eq!(got, &bytes[from..from + want], "{offset}+{len}");
        }
    }
}
