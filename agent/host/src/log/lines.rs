//! A stream cut into blocks of whole lines, with bounded memory.
//!
//! A block ends with a line's end, except at the end of the input. A line that is longer than [`super::MAX_LINE_BYTES`] is a
//! block of its own, cut, and what it has more is read over and counted.

use std::io::{self, BufRead};

use super::MAX_LINE_BYTES;

/// Whole lines.
pub(super) struct Block<'a> {
    pub(super) bytes: &'a [u8],
    /// Of the one line that this block then is.
    pub(super) n_cut_bytes: usize,
}

/// The blocks of a stream.
pub(super) struct Blocks<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes at the buffer's beginning that were given out.
    n_given: usize,
    is_end: bool,
}

impl<R: BufRead> Blocks<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: Vec::with_capacity(2 * MAX_LINE_BYTES), n_given: 0, is_end: false }
    }

    /// The next block; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Block<'_>>> {
        self.buffer.drain(..self.n_given);
        self.n_given = 0;
        self.fill(2 * MAX_LINE_BYTES)?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let end = memchr::memrchr(b'\n', &self.buffer).map(|end| end + 1);
        let (n_given, n_cut_bytes) = match end {
            Some(end) if !self.is_end => (end, 0),
            // The last line has no end; or it is too long.
            _ if self.is_end && end.unwrap_or(0) + MAX_LINE_BYTES >= self.buffer.len() => (self.buffer.len(), 0),
            Some(end) => (end, 0),
            None => (MAX_LINE_BYTES, self.skip_line()?),
        };
        self.n_given = n_given;
        Ok(Some(Block { bytes: &self.buffer[..n_given], n_cut_bytes }))
    }

    fn fill(&mut self, want: usize) -> io::Result<()> {
        while self.buffer.len() < want && !self.is_end {
            let bytes = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let n_taken = bytes.len().min(want - self.buffer.len());
            self.is_end = n_taken == 0;
            self.buffer.extend_from_slice(&bytes[..n_taken]);
            self.input.consume(n_taken);
        }
        Ok(())
    }

    /// Reads over the rest of a line whose beginning fills the buffer; how much of it was left out, its end not counted.
    fn skip_line(&mut self) -> io::Result<usize> {
        let mut n_cut = self.buffer.len() - MAX_LINE_BYTES;
        self.buffer.truncate(MAX_LINE_BYTES);
        loop {
            let bytes = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if bytes.is_empty() {
                self.is_end = true;
                return Ok(n_cut);
            }
            let end = memchr::memchr(b'\n', bytes);
            let n_read = end.map_or(bytes.len(), |end| end + 1);
            n_cut += end.unwrap_or(bytes.len());
            self.input.consume(n_read);
            if end.is_some() {
                return Ok(n_cut);
            }
        }
    }
}

/// How many lines a block has.
pub(super) fn count(bytes: &[u8]) -> usize {
    let n_ends = memchr::memchr_iter(b'\n', bytes).count();
    n_ends + usize::from(!bytes.is_empty() && bytes.last() != Some(&b'\n'))
}

/// Where the line begins that `at` is in; not before `from`, which is the beginning of a line. `at` may lie outside.
pub(super) fn start_of(bytes: &[u8], from: usize, at: usize) -> usize {
    let at = at.min(bytes.len().saturating_sub(1)).max(from);
    memchr::memrchr(b'\n', &bytes[from..at]).map_or(from, |end| from + end + 1)
}

/// The line that begins at `start`, without its end, and where the next one begins.
pub(super) fn at(bytes: &[u8], start: usize) -> (&[u8], usize) {
    let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |end| start + end);
    (without_end(&bytes[start..end]), (end + 1).min(bytes.len()))
}

/// The lines, without their ends.
pub(super) fn each(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(without_end(line))
    })
}

/// The lines from the last to the first.
pub(super) fn back(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut is_over = bytes.is_empty();
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let line = match memchr::memrchr(b'\n', rest) {
            Some(end) => {
                let line = &rest[end + 1..];
                rest = &rest[..end];
                line
            }
            None => {
                is_over = true;
                rest
            }
        };
        Some(without_end(line))
    })
}

fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
