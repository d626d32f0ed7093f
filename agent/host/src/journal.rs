//! The systemd journal of a host, read from its files: the entries of some units or programs, from a position on, as they are written.
//!
//! Neither libsystemd nor journalctl: a C library and a child process would be ours to keep from hanging, and neither reads
//! below another root. What `file` reads is little: see there. Every call opens, reads and closes; between calls only offsets
//! are kept. Files that journald renames (rotation) are found again by the id in their header, and read to their end.
//! Source: systemd `docs/JOURNAL_FILE_FORMAT.md`, `systemd-journald.service(8)`: files.

mod bytes;
mod file;
mod format;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{HostRoot, ReadError};
use file::{Following, IDENTIFIER_FIELDS, UNIT_FIELDS, Wanted};
use format::{Buffers, Header, Objects};

/// Where journald keeps files: while `/var` is not writable or by configuration in the first, else in the second.
const FOLDERS: [&str; 2] = ["run/log/journal", "var/log/journal"];
/// The file that journald writes to. Those of users and other machines are not looked at.
const ACTIVE: &str = "system.journal";
/// Files of one folder that are looked into: journald keeps 100 by default.
const MAX_FILES: usize = 1_024;

/// One wanted entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry<'a> {
    /// When journald took it, Unix time in microseconds.
    pub realtime_usec: i64,
    /// The same since boot, microseconds, the time asleep left out.
    pub monotonic_usec: u64,
    /// Its number, growing from file to file.
    pub seqnum: u64,
    /// The boot it was written in.
    pub boot_id: [u8; 16],
    /// Index of the unit or identifier among those asked for.
    pub name_idx: usize,
    /// Whether systemd wrote it about the unit asked for, and not a process of the unit.
    pub is_about: bool,
    /// Severity as in syslog, 0 (emergency) to 7 (debug).
    pub priority: Option<u8>,
    /// The syslog identifier, which most programs leave to be their name.
    pub identifier: Option<&'a str>,
    /// The writer's process, as its pid namespace's journald saw it.
    pub pid: Option<u32>,
    /// What was written, at most 64 KiB of it.
    pub message: &'a [u8],
}

/// An entry that was read; what comes after it is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalPosition {
    /// Its boot.
    pub boot_id: [u8; 16],
    /// Its time since boot, microseconds.
    pub monotonic_usec: u64,
    /// Its Unix time, microseconds: for entries of other boots.
    pub realtime_usec: i64,
    /// Its number: journald gives what it takes at once one time.
    pub seqnum: u64,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalStart {
    /// With what was written at this Unix time, microseconds, or later.
    Since(i64),
    /// After this entry.
    After(JournalPosition),
}

/// What one look at the files gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalPoll {
    /// Whether everything that was there was read.
    pub is_drained: bool,
    /// Wanted entries.
    pub n_entries: u64,
    /// Values compressed with xz or lz4 (systemd before 246), which are not read here; mostly messages of 512 bytes and more.
    pub n_unreadable: u64,
    /// Objects and files that are not as systemd writes them.
    pub n_malformed: u64,
    /// Files that were removed before they were read to their end.
    pub n_removed: u64,
}

/// Follows the journal of a host.
#[derive(Debug)]
pub struct JournalReader {
    root: HostRoot,
    fields: &'static [&'static [u8]],
    names: Vec<String>,
    start: JournalStart,
    /// Where journald keeps files of this machine.
    folders: Vec<PathBuf>,
    /// The files being written to when last looked, by folder.
    active: Vec<[u8; 16]>,
    files: Vec<Known>,
    buffers: Buffers,
    position: Option<JournalPosition>,
}

/// A file that is followed.
#[derive(Debug)]
struct Known {
    path: PathBuf,
    id: [u8; 16],
    head_realtime_usec: u64,
    is_behind: bool,
    following: Following,
}

impl JournalReader {
    /// A reader of the entries that name one of `units` (`kubelet.service`); opens nothing yet.
    #[must_use]
    pub fn new(root: HostRoot, units: Vec<String>, start: JournalStart) -> Self {
        Self::of_fields(root, UNIT_FIELDS, units, start)
    }

    /// A reader of what was written under one of these syslog identifiers (`dockerd`), whatever the unit; opens nothing yet.
    #[must_use]
    pub fn of_identifiers(root: HostRoot, identifiers: Vec<String>, start: JournalStart) -> Self {
        Self::of_fields(root, IDENTIFIER_FIELDS, identifiers, start)
    }

    fn of_fields(root: HostRoot, fields: &'static [&'static [u8]], names: Vec<String>, start: JournalStart) -> Self {
        let position = match start {
            JournalStart::After(position) => Some(position),
            JournalStart::Since(_) => None,
        };
        Self {
            root,
            fields,
            names,
            start,
            folders: Vec::new(),
            active: Vec::new(),
            files: Vec::new(),
            buffers: Buffers::default(),
            position,
        }
    }

    /// The last entry that was handed out, by this reader or the one it goes on from.
    #[must_use]
    pub const fn position(&self) -> Option<JournalPosition> {
        self.position
    }

    /// Hands out what is new, oldest first, at most `max_entries`. Costs one small read for each file that is written to when
    /// nothing is. Blocks on the file system.
    ///
    /// # Errors
    /// `NotFound` when there are no journal files; otherwise why none of them can be read. What was read before counts.
    pub fn poll(
        &mut self,
        max_entries: usize,
        mut each: impl FnMut(&JournalEntry<'_>),
    ) -> Result<JournalPoll, ReadError> {
        let mut poll = JournalPoll { is_drained: true, ..JournalPoll::default() };
        let headers = self.find_active()?;
        let active: Vec<_> = headers.iter().map(|header| header.file_id).collect();
        if active != self.active || self.files.is_empty() {
            self.list(&mut poll)?;
            self.active = active;
        }
        let mut budget = max_entries;
        let position = &mut self.position;
        let mut remember = |entry: &JournalEntry<'_>| {
            *position = Some(JournalPosition {
                boot_id: entry.boot_id,
                monotonic_usec: entry.monotonic_usec,
                realtime_usec: entry.realtime_usec,
                seqnum: entry.seqnum,
            });
            each(entry);
        };
        let mut failed = None;
        for known in &mut self.files {
            // Most often nothing is new, and nothing more is opened.
            if headers.iter().any(|header| header.file_id == known.id && known.following.is_drained(header)) {
                continue;
            }
            let read = || -> Result<bool, ReadError> {
                let at = |source| ReadError::from_io(self.root.display_path(&known.path), source);
                let file = self.root.open(&known.path)?;
                let header = Objects::read_header(&file, &mut self.buffers).map_err(at)?;
                // Renamed in between: the next look lists anew.
                if header.file_id != known.id {
                    return Ok(false);
                }
                if known.following.is_drained(&header) {
                    return Ok(true);
                }
                let mut objects = Objects::new(&file, &header, &mut self.buffers).map_err(at)?;
                let wanted = Wanted { fields: self.fields, names: &self.names, start: &self.start };
                let counts = known.following.read(&mut objects, &wanted, &mut budget, &mut remember);
                poll.n_entries += counts.n_entries;
                poll.n_unreadable += counts.n_unreadable;
                poll.n_malformed += counts.n_malformed;
                Ok(known.following.is_drained(&header))
            };
            match { read }() {
                Ok(is_drained) => {
                    known.is_behind = !is_drained;
                    poll.is_drained &= is_drained;
                }
                Err(error) => {
                    poll.n_malformed += 1;
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed
            && poll.n_malformed >= self.files.len() as u64
            && poll.n_entries == 0
        {
            return Err(error);
        }
        let active = &self.active;
        self.files.retain(|known| known.is_behind || active.contains(&known.id));
        Ok(poll)
    }

    /// The headers of the files that are written to.
    fn find_active(&mut self) -> Result<Vec<Header>, ReadError> {
        let mut found = Vec::new();
        let mut failed = None;
        if self.active.is_empty() {
            self.folders = self.find_folders();
        }
        for folder_idx in 0..self.folders.len() {
            let path = self.folders[folder_idx].join(ACTIVE);
            match self.header(&path) {
                Ok(header) => found.push(header),
                Err(error) if error.is_not_found() => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ if found.is_empty() => Err(ReadError::NotFound { path: self.root.display_path(FOLDERS[0]) }),
            _ => Ok(found),
        }
    }

    fn find_folders(&self) -> Vec<PathBuf> {
        let own = self.root.machine_id().ok();
        let of_machine = |folder: &str| match &own {
            Some(id) => vec![Path::new(folder).join(id)],
            None => {
                let names = self.root.list(folder).unwrap_or_default();
                names.into_iter().map(|name| Path::new(folder).join(name)).collect()
            }
        };
        FOLDERS.into_iter().flat_map(of_machine).collect()
    }

    fn header(&mut self, path: &Path) -> Result<Header, ReadError> {
        let file = self.root.open(path)?;
        let at = |source| ReadError::from_io(self.root.display_path(path), source);
        Objects::read_header(&file, &mut self.buffers).map_err(at)
    }

    /// Finds the files that have, or may get, entries after the position.
    fn list(&mut self, poll: &mut JournalPoll) -> Result<(), ReadError> {
        let from_usec = match (self.position, self.start) {
            (Some(position), _) => position.realtime_usec,
            (None, JournalStart::Since(usec)) => usec,
            (None, JournalStart::After(position)) => position.realtime_usec,
        };
        // A file that is new by now has nothing before the position to be handed out again.
        if let Some(position) = self.position {
            self.start = JournalStart::After(position);
        }
        let mut old = std::mem::take(&mut self.files);
        for folder in self.folders.clone() {
            let names = match self.root.list(&folder) {
                Ok(names) => names,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let is_systems = |name: &str| {
                name == ACTIVE
                    || name.starts_with("system@") && (name.ends_with(".journal") || name.ends_with(".journal~"))
            };
            for name in names.iter().filter_map(|name| name.to_str()).filter(|name| is_systems(name)).take(MAX_FILES) {
                let path = folder.join(name);
                let header = match self.header(&path) {
                    Ok(header) => header,
                    Err(error) if error.is_not_found() => continue,
                    Err(_) => {
                        poll.n_malformed += 1;
                        continue;
                    }
                };
                if let Some(index) = old.iter().position(|known| known.id == header.file_id) {
                    self.files.push(Known { path, ..old.swap_remove(index) });
                } else if name == ACTIVE || i64::try_from(header.tail_realtime_usec).is_ok_and(|tail| tail >= from_usec)
                {
                    self.files.push(Known {
                        path,
                        id: header.file_id,
                        head_realtime_usec: header.head_realtime_usec,
                        is_behind: true,
                        following: Following::new(),
                    });
                }
            }
        }
        self.files.sort_by_key(|known| known.head_realtime_usec);
        poll.n_removed += old.iter().filter(|known| known.is_behind).count() as u64;
        Ok(())
    }
}

/// Reads one journal file from memory to its end: the entries of `units`. How many there were, and how much of it was not as
/// systemd writes it.
///
/// # Errors
/// When it has no header of a journal.
pub fn parse_journal(
    bytes: &[u8],
    units: &[String],
    mut each: impl FnMut(&JournalEntry<'_>),
) -> io::Result<JournalPoll> {
    let mut buffers = Buffers::default();
    let header = Objects::read_header(bytes, &mut buffers)?;
    let mut objects = Objects::new(bytes, &header, &mut buffers)?;
    let wanted = Wanted { fields: UNIT_FIELDS, names: units, start: &JournalStart::Since(0) };
    let mut budget = usize::MAX;
    let counts = Following::new().read(&mut objects, &wanted, &mut budget, &mut |entry| each(entry));
    Ok(JournalPoll {
        is_drained: true,
        n_entries: counts.n_entries,
        n_unreadable: counts.n_unreadable,
        n_malformed: counts.n_malformed,
        n_removed: 0,
    })
}

impl fmt::Display for JournalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.boot_id {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "/{}/{}/{}", self.monotonic_usec, self.realtime_usec, self.seqnum)
    }
}

/// The position in a text that [`JournalPosition`]'s `Display` wrote. `None` for any other.
#[must_use]
pub fn parse_journal_position(text: &str) -> Option<JournalPosition> {
    let mut parts = text.split('/');
    let (boot, monotonic, realtime, seqnum) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = boot.len() == 32 && boot.bytes().all(|byte| byte.is_ascii_hexdigit());
    let boot_id = u128::from_str_radix(boot, 16).ok().filter(|_| is_hex)?.to_be_bytes();
    Some(JournalPosition {
        boot_id,
        monotonic_usec: monotonic.parse().ok()?,
        realtime_usec: realtime.parse().ok()?,
        seqnum: seqnum.parse().ok()?,
    })
}

#[cfg(test)]
mod tests;
