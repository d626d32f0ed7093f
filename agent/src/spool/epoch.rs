//! The start counter, and the right to the state folder.
//!
//! The epoch is written before the first record of a start, to a new file that replaces the old one, so that no crash can make
//! it go back. If it cannot be read it is taken from the clock, in seconds: far above any counter, so it still grows.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use kulprit_daemon::{Clock, UsageError};
use tracing::warn;

/// What a start begins with.
#[derive(Debug)]
pub(super) struct Start {
    /// The folder, if it can be written.
    pub(super) dir: Option<PathBuf>,
    /// Keeps other agents out of the folder.
    pub(super) lock: Option<File>,
    /// The least epoch this start may use.
    pub(super) epoch: u64,
    /// What the administrator should know.
    pub(super) notes: Vec<String>,
}

impl Start {
    /// Takes possession of `dir`, or does without.
    pub(super) fn of(dir: Option<&Path>, clock: &Clock) -> Result<Self, UsageError> {
        let from_clock = u64::try_from(clock.now().wall_usec / 1_000_000).unwrap_or(1).max(1);
        let without = |note: String| Self { dir: None, lock: None, epoch: from_clock, notes: vec![note] };
        let Some(dir) = dir else {
            return Ok(without("no state folder: what was not sent is lost when the agent ends".to_owned()));
        };
        let lock = match take_lock(dir) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => {
                return Err(UsageError::new(format!(
                    "the state folder `{}` is in use by another agent",
                    dir.display()
                ))
                .fix("end that one, or choose another with --state-dir"));
            }
            Err(TryLockError::Error(error)) => {
                warn!(dir = %dir.display(), %error, "cannot write the state folder, keeping everything in memory");
                return Ok(without(format!(
                    "the state folder `{}` cannot be written ({error}): what was not sent is lost when the agent ends",
                    dir.display()
                )));
            }
        };
        let (epoch, note) = next_epoch(&dir.join("epoch"), from_clock);
        Ok(Self { dir: Some(dir.to_owned()), lock: Some(lock), epoch, notes: note.into_iter().collect() })
    }
}

fn take_lock(dir: &Path) -> Result<File, TryLockError> {
    fs::create_dir_all(super::spool_dir(dir)).map_err(TryLockError::Error)?;
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"));
    let lock = options.map_err(TryLockError::Error)?;
    lock.try_lock()?;
    // A folder may be read-only with the lock file in it.
    let probe = dir.join("epoch.new");
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(TryLockError::Error)?;
    Ok(lock)
}

fn next_epoch(path: &Path, from_clock: u64) -> (u64, Option<String>) {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (1, None),
        Err(error) => error.to_string(),
    };
    match text.parse::<u64>().ok().and_then(|epoch| epoch.checked_add(1)) {
        Some(epoch) => (epoch, None),
        None => {
            let text: String = text.chars().take(40).collect();
            warn!(path = %path.display(), text, "the start counter cannot be read, taking the clock instead");
            (
                from_clock,
                Some(format!("the start counter `{}` was damaged and was taken from the clock", path.display())),
            )
        }
    }
}

/// Makes `epoch` durable before anything is stamped with it.
pub(super) fn keep(dir: Option<&Path>, epoch: u64, notes: &mut Vec<String>) {
    if let Some(dir) = dir
        && let Err(error) = write_durably(dir, "epoch", format!("{epoch}\n").as_bytes())
    {
        warn!(dir = %dir.display(), %error, "cannot keep the start counter");
        notes.push(format!("the start counter in `{}` cannot be kept: {error}", dir.display()));
    }
}

fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}
