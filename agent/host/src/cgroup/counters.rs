//! What a memory controller has counted, for who asks again and again: through files that stay open.

use std::path::Path;

use super::{MemoryCgroup, parse_memory_events, parse_memory_oom_control};
use crate::kept::{KeptBuffer, KeptFile};
use crate::{HostRoot, ReadError};

/// The files of one cgroup that count: one of version 2, two of version 1.
#[derive(Debug)]
pub struct MemoryCounters {
    events: KeptFile,
    version_1: Option<Version1>,
}

#[derive(Debug)]
struct Version1 {
    failcnt: KeptFile,
}

impl MemoryCounters {
    /// Finds them in a directory under the host's root, and reads them.
    ///
    /// # Errors
    /// `NotFound` when the directory holds none of these files; other [`ReadError`]s when one could not be read.
    pub fn find(root: &HostRoot, directory: &Path, buffer: &mut KeptBuffer) -> Result<(Self, MemoryCgroup), ReadError> {
        let file = |name: &str| KeptFile::new(root, directory.join(name));
        let mut found = Self { events: file("memory.events"), version_1: None };
        match found.read(buffer) {
            Err(error) if error.is_not_found() => {}
            result => return result.map(|memory| (found, memory)),
        }
        let version_1 = Some(Version1 { failcnt: file("memory.failcnt") });
        let mut found = Self { events: file("memory.oom_control"), version_1 };
        found.read(buffer).map(|memory| (found, memory))
    }

    /// Reads them.
    ///
    /// # Errors
    /// `NotFound` when the cgroup is gone or counts nothing; otherwise see [`ReadError`].
    pub fn read(&mut self, buffer: &mut KeptBuffer) -> Result<MemoryCgroup, ReadError> {
        let text = self.events.read(buffer)?;
        let memory = match &mut self.version_1 {
            None => parse_memory_events(text),
            Some(Version1 { failcnt }) => {
                let counted = parse_memory_oom_control(text);
                let limit_hit_total = match failcnt.read(buffer) {
                    Ok(text) => text.trim().parse().ok(),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error),
                };
                MemoryCgroup { limit_hit_total, ..counted }
            }
        };
        match memory == MemoryCgroup::default() {
            true => Err(ReadError::NotFound { path: self.events.display_path() }),
            false => Ok(memory),
        }
    }
}
