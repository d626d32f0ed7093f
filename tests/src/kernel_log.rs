//! What the kernel logs from now on.
//!
//! `/dev/kmsg` is the whole machine's; labs run one at a time, so what a scenario reads is its own or the machine's, never another lab's.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use nix::fcntl::OFlag;

/// A position in the kernel log.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// The end of the log, now.
    ///
    /// # Errors
    /// If `/dev/kmsg` cannot be opened.
    pub fn from_now() -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")
            .context("failed to open `/dev/kmsg`")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The messages logged since the last call, oldest first, without their headers.
    ///
    /// # Errors
    /// If the log cannot be read. Messages overwritten before they were read are skipped.
    pub fn new_lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        // One read is one record of at most 8 KiB: `prefix;message\n`, then continuation lines.
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let message = text.split_once(';').map_or(&*text, |(_, message)| message);
                    lines.extend(message.lines().next().map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("failed to read `/dev/kmsg`"),
            }
        }
    }
}
