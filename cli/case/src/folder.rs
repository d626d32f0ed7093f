//! The files of a case: a folder, or an archive unpacked into a folder of our own that goes away with it.
//!
//! A case comes from somebody else. So no symbolic link is followed, no path leaves the folder (`openat2` with `RESOLVE_BENEATH`),
//! only regular files are read, and an archive is unpacked under limits. The captured `root/` of a node is read by
//! `kulprit_host::HostRoot`, which resolves links inside of it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::{error::CaseError, gathered::Problem};

/// A case with more files than this is not listed whole.
const MAX_FILES: usize = 300_000;
/// Folders below each other.
const MAX_DEPTH: usize = 64;
/// An archive is unpacked up to this many bytes; larger ones are for `tar`.
const MAX_UNPACKED_BYTES: u64 = 4 << 30;

/// The files of a case.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Keeps what was unpacked until the case is dropped.
    _unpacked: Option<tempfile::TempDir>,
}

/// What is in a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Regular files, relative, sorted.
    pub files: Vec<PathBuf>,
    /// What was left out.
    pub problems: Vec<Problem>,
}

impl Folder {
    /// Opens a folder, or unpacks a `.tar`, `.tar.gz` or `.tgz`.
    ///
    /// # Errors
    /// [`CaseError`] if there is none, or it cannot be unpacked.
    pub fn open(path: &Path) -> Result<Self, CaseError> {
        let at = |source| CaseError::Open { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(at)?;
        if metadata.is_dir() {
            let root = std::fs::canonicalize(path).map_err(at)?;
            return Ok(Self { root, _unpacked: None });
        }
        let mut head = [0_u8; 262];
        let n_head = read_head(&mut File::open(path).map_err(at)?, &mut head).map_err(at)?;
        let is_gzip = head.starts_with(&[0x1f, 0x8b]);
        let is_tar = n_head == head.len() && &head[257..262] == b"ustar";
        if !is_gzip && !is_tar {
            return Err(CaseError::NotACase { path: path.to_owned() });
        }
        let unpacked = tempfile::tempdir().map_err(at)?;
        let file = File::open(path).map_err(at)?;
        let result = if is_gzip {
            unpack(flate2::read::MultiGzDecoder::new(file), unpacked.path())
        } else {
            unpack(file, unpacked.path())
        };
        result.map_err(|why| CaseError::Unpack { path: path.to_owned(), why })?;
        Ok(Self { root: unpacked.path().to_owned(), _unpacked: Some(unpacked) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Every regular file below it. Links are not followed; if there are some, one problem says how many.
    #[must_use]
    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        let mut n_links = 0_usize;
        let mut left = vec![(PathBuf::new(), 0)];
        while let Some((folder, depth)) = left.pop() {
            let entries = match std::fs::read_dir(self.root.join(&folder)) {
                Ok(entries) => entries,
                Err(error) => {
                    listing.problems.push(Problem { file: folder, line: None, why: format!("not listed: {error}") });
                    continue;
                }
            };
            for entry in entries.flatten() {
                let path = folder.join(entry.file_name());
                match entry.file_type() {
                    Ok(kind) if kind.is_symlink() => n_links += 1,
                    Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => left.push((path, depth + 1)),
                    Ok(kind) if kind.is_dir() => {
                        listing.problems.push(Problem { file: path, line: None, why: "too deep".to_owned() });
                    }
                    Ok(kind) if kind.is_file() => listing.files.push(path),
                    Ok(_) | Err(_) => {
                        let why = "not a regular file".to_owned();
                        listing.problems.push(Problem { file: path, line: None, why });
                    }
                }
            }
            if listing.files.len() > MAX_FILES {
                let why = format!("more than {MAX_FILES} files; the rest is left out");
                listing.problems.push(Problem { file: PathBuf::new(), line: None, why });
                break;
            }
        }
        if n_links > 0 {
            let why = format!("{n_links} symbolic links were not followed");
            listing.problems.push(Problem { file: PathBuf::new(), line: None, why });
        }
        listing.files.sort();
        listing
    }

    /// Opens a regular file of the case.
    ///
    /// # Errors
    /// If it is not there, not a regular file, a link, or outside.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let root = rustix::fs::open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(File::from(fd))
    }

    /// Reads a text file of the case up to `limit_bytes`; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// As [`Self::open_file`], or if there is more.
    pub fn read_text(&self, path: &Path, limit_bytes: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(limit_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit_bytes {
            return Err(io::Error::other(format!("larger than {} MiB", limit_bytes >> 20)));
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }
}

fn read_head(file: &mut File, head: &mut [u8]) -> io::Result<usize> {
    let mut n_read = 0;
    while n_read < head.len() {
        match file.read(&mut head[n_read..])? {
            0 => break,
            n => n_read += n,
        }
    }
    Ok(n_read)
}

/// Unpacks the regular files of a tar archive; links and devices are left out, and no path leaves `into`.
fn unpack(input: impl Read, into: &Path) -> Result<(), String> {
    let damaged = |error: io::Error| format!("damaged: {error}");
    let mut archive = tar::Archive::new(input.take(MAX_UNPACKED_BYTES));
    let (mut n_bytes, mut n_files) = (0_u64, 0_usize);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        n_bytes += entry.header().size().map_err(damaged)?;
        n_files += 1;
        if n_bytes >= MAX_UNPACKED_BYTES || n_files > MAX_FILES {
            return Err(format!(
                "more than {} GiB or {MAX_FILES} files; unpack it with tar and name the folder",
                MAX_UNPACKED_BYTES >> 30
            ));
        }
        entry.set_preserve_permissions(false);
        entry.set_preserve_mtime(false);
        // `unpack_in` answers false for a path that leaves the folder: such an entry is nobody's evidence.
        entry.unpack_in(into).map_err(damaged)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn links_are_counted_and_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let case = tempfile::tempdir().unwrap();
        fs::write(case.path().join("a.txt"), "a").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), case.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), case.path().join("folder")).unwrap();
        let folder = Folder::open(case.path()).unwrap();
        let listing = folder.list();
        assert_eq!(listing.files, [PathBuf::from("a.txt")]);
        assert!(listing.problems[0].why.starts_with("2 symbolic links"), "{:?}", listing.problems);
        for path in ["link", "folder/secret", "../secret", "/etc/passwd", "a.txt/.."] {
            assert!(folder.open_file(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(folder.read_text(Path::new("a.txt"), 1).unwrap(), "a");
        assert!(folder.read_text(Path::new("a.txt"), 0).is_err());
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hello").unwrap();
        assert!(matches!(Folder::open(file.path()), Err(CaseError::NotACase { .. })));
        fs::write(file.path(), [0x1f, 0x8b, 8, 0, 1, 2, 3]).unwrap();
        assert!(matches!(Folder::open(file.path()), Err(CaseError::Unpack { .. })));
        assert!(matches!(Folder::open(Path::new("/nonexistent")), Err(CaseError::Open { .. })));
    }

    #[test]
    fn an_archive_is_unpacked_without_what_leaves_it() {
        let target = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(File::create(target.path()).unwrap());
        let mut add = |name: &str, kind: tar::EntryType| {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(kind);
            header.set_size(if kind.is_file() { 1 } else { 0 });
            header.set_mode(0o644);
            if !kind.is_file() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, &b"x"[..usize::from(kind.is_file())]).unwrap();
        };
        add("good/a", tar::EntryType::Regular);
        add("../evil", tar::EntryType::Regular);
        add("good/link", tar::EntryType::Symlink);
        builder.finish().unwrap();
        drop(builder);
        let folder = Folder::open(target.path()).unwrap();
        assert_eq!(folder.list().files, [PathBuf::from("good/a")]);
    }
}
