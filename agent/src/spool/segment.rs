//! One segment: a file, or the same bytes in memory.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::frame::{self, Frame, HEAD_BYTES, MAGIC};

/// A piece of the log, append-only.
#[derive(Debug)]
pub(super) struct Segment {
    /// Grows by one from segment to segment, over restarts.
    pub(super) id: u64,
    storage: Storage,
    /// Bytes that are committed; reading ends here.
    pub(super) len: u64,
}

#[derive(Debug)]
enum Storage {
    Disk { file: File, path: PathBuf },
    Memory(Vec<u8>),
}

/// What is at an offset.
#[derive(Debug)]
pub(super) enum At {
    /// A frame, and where the next one begins.
    Frame(Frame, u64),
    /// The end.
    End,
    /// Something that is no whole frame.
    Damage,
}

/// Why a file is no segment.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It begins with other bytes than ours.
    Foreign,
    /// It could not be read.
    Io(io::Error),
}

/// The path of a segment.
pub(super) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.seg"))
}

/// The id in a file name of ours.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

impl Segment {
    /// A new one on disk, empty but for the magic; durable by its name.
    pub(super) fn create(dir: &Path, id: u64) -> io::Result<Self> {
        let path = path(dir, id);
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        file.write_all_at(MAGIC, 0)?;
        file.sync_data()?;
        File::open(dir)?.sync_all()?;
        Ok(Self { id, storage: Storage::Disk { file, path }, len: MAGIC.len() as u64 })
    }

    /// A new one in memory.
    pub(super) fn in_memory(id: u64) -> Self {
        Self { id, storage: Storage::Memory(MAGIC.to_vec()), len: MAGIC.len() as u64 }
    }

    /// One of an earlier start. `None`: a crash left it before its magic was written; it is removed.
    pub(super) fn open(dir: &Path, id: u64) -> Result<Option<Self>, OpenError> {
        let path = path(dir, id);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(OpenError::Io)?;
        let len = file.metadata().map_err(OpenError::Io)?.len();
        let mut magic = [0; MAGIC.len()];
        let n_bytes = file.read_at(&mut magic, 0).map_err(OpenError::Io)?;
        if magic[..n_bytes] != MAGIC[..n_bytes] {
            return Err(OpenError::Foreign);
        }
        if n_bytes < MAGIC.len() {
            fs::remove_file(&path).map_err(OpenError::Io)?;
            return Ok(None);
        }
        Ok(Some(Self { id, storage: Storage::Disk { file, path }, len }))
    }

    /// Whether it survives a crash.
    pub(super) const fn is_durable(&self) -> bool {
        matches!(self.storage, Storage::Disk { .. })
    }

    /// Where the first frame begins.
    pub(super) const fn start() -> u64 {
        MAGIC.len() as u64
    }

    /// Appends and makes durable. On error nothing of it counts, even if some bytes were written.
    pub(super) fn commit(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.storage {
            Storage::Disk { file, .. } => {
                file.write_all_at(bytes, self.len)?;
                file.sync_data()?;
            }
            Storage::Memory(kept) => kept.extend_from_slice(bytes),
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Reads the frame at `offset`.
    pub(super) fn read(&self, offset: u64) -> io::Result<At> {
        let rest = self.len.saturating_sub(offset);
        if rest == 0 {
            return Ok(At::End);
        }
        if rest < HEAD_BYTES as u64 {
            return Ok(At::Damage);
        }
        let mut head = [0; HEAD_BYTES];
        self.read_exact_at(&mut head, offset)?;
        let Some((length, sum)) = frame::head(head) else { return Ok(At::Damage) };
        let end = offset + HEAD_BYTES as u64 + length as u64;
        if end > self.len {
            return Ok(At::Damage);
        }
        let mut payload = vec![0; length];
        self.read_exact_at(&mut payload, offset + HEAD_BYTES as u64)?;
        Ok(frame::payload(&payload, sum).map_or(At::Damage, |frame| At::Frame(frame, end)))
    }

    /// Cuts off what follows `offset`: a crash came in the middle of a commit.
    pub(super) fn truncate(&mut self, offset: u64) -> io::Result<()> {
        if let Storage::Disk { file, .. } = &self.storage {
            file.set_len(offset)?;
            file.sync_data()?;
        }
        self.len = offset;
        Ok(())
    }

    /// Gives its space back.
    pub(super) fn remove(self) -> io::Result<()> {
        match self.storage {
            Storage::Disk { path, .. } => fs::remove_file(path),
            Storage::Memory(_) => Ok(()),
        }
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.storage {
            Storage::Disk { file, .. } => file.read_exact_at(into, offset),
            Storage::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                let end = start.saturating_add(into.len());
                into.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}
