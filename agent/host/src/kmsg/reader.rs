//! Reading `/dev/kmsg` without blocking, from a kept position.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::record::{Kmsg, parse_kmsg_record};
use crate::readiness::watch_readable;
use crate::text::READ_FLAGS;
use crate::{HostRoot, Malformed, ReadError};

/// Where the log is, under the host's root.
const KMSG_PATH: &str = "dev/kmsg";
/// The kernel gives at most 8 KiB a record (`CONSOLE_EXT_LOG_MAX`), and fails with `EINVAL` when it does not fit.
const BUFFER_BYTES: usize = 16 << 10;

/// The last record that was dealt with, to be kept across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsgPosition {
    /// The boot it belongs to: numbers begin anew with each.
    pub boot_id: String,
    /// Number of the last record that was dealt with.
    pub seq: u64,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KmsgStart {
    /// With the oldest record the kernel still has.
    Oldest,
    /// With the first record logged from now on.
    New,
    /// After this record, or with the oldest when it is of another boot.
    After(KmsgPosition),
}

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub enum KmsgItem<'a> {
    /// A record.
    Record(Kmsg<'a>),
    /// So many records were overwritten before they were read; what comes next follows the gap.
    Lost {
        /// Numbers that are missing.
        n_records: u64,
    },
    /// Bytes that are no record; the next one is read as ever.
    Malformed(Malformed),
}

/// An open kernel log. Needs CAP_SYSLOG where `dmesg_restrict` is set.
#[derive(Debug)]
pub struct KmsgReader {
    file: AsyncFd<OwnedFd>,
    path: PathBuf,
    boot_id: String,
    buffer: Box<[u8]>,
    /// Number of the record that is to come; `None` when any may come.
    expected_seq: Option<u64>,
    /// Number of a record that is in the buffer and held back behind the report of a gap.
    held_bytes: Option<usize>,
    last_seq: Option<u64>,
}

/// What is to be returned, by its place in the buffer.
#[derive(Clone, Copy)]
enum Step {
    Record(usize),
    Lost(u64),
}

impl KmsgReader {
    /// Opens the log at `start`.
    ///
    /// Must be called in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// `Denied` without the right to read the kernel's log; `NotFound` in containers without `/dev/kmsg`.
    pub fn open(root: &HostRoot, start: &KmsgStart) -> Result<Self, ReadError> {
        let boot_id = root.boot_id()?;
        let path = root.display_path(KMSG_PATH);
        let at = |source: io::Error| ReadError::from_io(&path, source);
        let file = root.open_fd(KMSG_PATH, READ_FLAGS)?;
        let expected_seq = match start {
            KmsgStart::Oldest => None,
            KmsgStart::New => {
                rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|errno| at(errno.into()))?;
                None
            }
            KmsgStart::After(position) if position.boot_id == boot_id => position.seq.checked_add(1),
            // Another boot, whose numbers say nothing here.
            KmsgStart::After(_) => Some(0),
        };
        let file = watch_readable(file).map_err(at)?;
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Ok(Self { file, path, boot_id, buffer, expected_seq, held_bytes: None, last_seq: None })
    }

    /// Waits for the next record.
    ///
    /// Cancel-safe: nothing is taken from the kernel before it is returned.
    ///
    /// # Errors
    /// `Io` when the log cannot be read any more.
    pub async fn next(&mut self) -> Result<KmsgItem<'_>, ReadError> {
        let step = loop {
            if let Some(step) = self.held_step() {
                break step;
            }
            let mut guard = self.file.readable().await.map_err(|source| ReadError::from_io(&self.path, source))?;
            let buffer = &mut self.buffer;
            match guard.try_io(|file| read_one(file.get_ref(), buffer)) {
                Ok(result) => {
                    drop(guard);
                    if let Some(step) = self.after_read(result)? {
                        break step;
                    }
                }
                Err(_would_block) => {}
            }
        };
        Ok(self.item(step))
    }

    /// The next record if the kernel has one; `None` when everything has been read.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<KmsgItem<'_>>, ReadError> {
        let step = loop {
            if let Some(step) = self.held_step() {
                break step;
            }
            match read_one(self.file.get_ref(), &mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                result => {
                    if let Some(step) = self.after_read(result)? {
                        break step;
                    }
                }
            }
        };
        Ok(Some(self.item(step)))
    }

    /// The last record returned, to be kept once it has been dealt with. `None` before the first.
    pub fn position(&self) -> Option<KmsgPosition> {
        self.last_seq.map(|seq| KmsgPosition { boot_id: self.boot_id.clone(), seq })
    }

    /// Pretends that `seq` is the record to come.
    #[cfg(test)]
    pub(super) fn expect_from(&mut self, seq: u64) {
        self.expected_seq = Some(seq);
    }

    fn held_step(&mut self) -> Option<Step> {
        self.held_bytes.take().map(Step::Record)
    }

    /// Compares the record's number with the one expected, which tells what was lost and what was read in an earlier run. `None`
    /// when there is nothing to return for this read.
    fn after_read(&mut self, result: io::Result<usize>) -> Result<Option<Step>, ReadError> {
        let n_bytes = match result {
            Ok(n_bytes) => n_bytes,
            // EPIPE: the record to come was overwritten; the kernel goes on with the oldest. The numbers tell how many.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => return Ok(None),
            Err(error) => return Err(ReadError::from_io(&self.path, error)),
        };
        let Some(seq) = seq_of(&self.buffer[..n_bytes]) else { return Ok(Some(Step::Record(n_bytes))) };
        let expected = self.expected_seq.unwrap_or(seq);
        if seq < expected {
            return Ok(None);
        }
        self.expected_seq = seq.checked_add(1);
        if seq == expected {
            return Ok(Some(Step::Record(n_bytes)));
        }
        self.held_bytes = Some(n_bytes);
        Ok(Some(Step::Lost(seq - expected)))
    }

    fn item(&mut self, step: Step) -> KmsgItem<'_> {
        let n_bytes = match step {
            Step::Record(n_bytes) => n_bytes,
            Step::Lost(n_records) => return KmsgItem::Lost { n_records },
        };
        match parse_kmsg_record(&self.buffer[..n_bytes]) {
            Ok(record) => {
                self.last_seq = Some(record.seq);
                KmsgItem::Record(record)
            }
            Err(malformed) => KmsgItem::Malformed(malformed),
        }
    }
}

/// One `read` is one record.
fn read_one(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// The record's number, without parsing the rest.
fn seq_of(bytes: &[u8]) -> Option<u64> {
    let mut fields = bytes.split(|byte| *byte == b',');
    std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()
}
