//! `kulprit support-bundle`: one file for whoever supports this installation.
//!
//! Central decides what is in it and leaves secrets out; here it is packed, with a page that says what could not be had. Without central
//! that page is all there is, and it says why: that is worth sending, too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use flate2::{Compression, write::GzEncoder};
use kulprit_proto::v1;
use serde::Serialize;

use super::Ask;
use crate::{Terminal, error::AskError, output, when::now_wall_usec};

/// More than this is not taken, bytes.
const MAX_BYTES: usize = 128 << 20;
/// The folder in the archive.
const FOLDER: &str = "kulprit-support";
/// Central's part is missing.
const WITHOUT_CENTRAL: u8 = 3;

/// What was packed.
#[derive(Debug, Serialize)]
struct Packed {
    bundle: String,
    kulprit: &'static str,
    at: String,
    files: Vec<String>,
    n_bytes: usize,
    notes: Vec<String>,
}

pub(super) async fn answer(ask: &Ask, terminal: &mut Terminal, out: &Path) -> Result<ExitCode, AskError> {
    let mut archive = Archive::new(out)?;
    let mut packed = Packed {
        bundle: out.display().to_string(),
        kulprit: env!("CARGO_PKG_VERSION"),
        at: jiff::Timestamp::from_microsecond(now_wall_usec()).map(|at| at.to_string()).unwrap_or_default(),
        files: Vec::new(),
        n_bytes: 0,
        notes: Vec::new(),
    };
    let asked = take(ask, &mut archive, &mut packed).await;
    let code = match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (AskError::Write { .. } | AskError::Exists(_))) => return Err(error),
        Err(error) => {
            packed.notes.push(format!("central: not to be had: {error}"));
            packed
                .notes
                .push("without central each node's agent still answers on its node: `kulprit status`".to_owned());
            ExitCode::from(WITHOUT_CENTRAL)
        }
    };
    let page = serde_json::to_string_pretty(&packed).map_err(|error| AskError::Print(error.to_string()))?;
    archive.add("bundle.json", page.as_bytes())?;
    archive.finish()?;
    output::print(terminal, ask.format, &packed, |_| human(&packed))?;
    Ok(code)
}

/// Asks central, and packs its files as they come. What came before an error stays.
async fn take(ask: &Ask, archive: &mut Archive, packed: &mut Packed) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let mut messages = ask.take(central.support_bundle(v1::SupportBundleRequest {}).await)?;
    let mut open: Option<(String, Vec<u8>)> = None;
    let mut n_bytes = 0;
    loop {
        let message = messages.message().await.map_err(|status| ask.failed(&status))?;
        let is_last = message.is_none();
        let v1::SupportBundleResponse { path, content, note } = message.unwrap_or_default();
        if !note.is_empty() {
            packed.notes.push(note);
        }
        if open.as_ref().is_some_and(|(name, _)| *name != path || is_last)
            && let Some((name, content)) = open.take()
        {
            archive.add(&name, &content)?;
            packed.n_bytes += content.len();
            packed.files.push(name);
        }
        if is_last {
            return Ok(());
        }
        if path.is_empty() {
            continue;
        }
        n_bytes += content.len();
        if n_bytes > MAX_BYTES {
            return Err(AskError::Refused { message: format!("the bundle has more than {} MiB", MAX_BYTES >> 20) });
        }
        open.get_or_insert_with(|| (path, Vec::new())).1.extend(content);
    }
}

fn human(packed: &Packed) -> String {
    let Packed { bundle, files, n_bytes, notes, .. } = packed;
    let mut text = format!("{bundle}: {} files, {} KiB\n", files.len() + 1, n_bytes.div_ceil(1024));
    for note in notes {
        text.push_str(&format!("  {note}\n"));
    }
    text.push_str("Read it before you give it away: names of nodes, namespaces and VMs are in it.\n");
    text
}

/// A file that is being written, beside the one that it becomes. Dropped before it is finished, it goes.
struct Archive {
    out: PathBuf,
    part: PathBuf,
    /// `None` once it is finished.
    builder: Option<tar::Builder<GzEncoder<File>>>,
}

impl Archive {
    fn new(out: &Path) -> Result<Self, AskError> {
        if out.symlink_metadata().is_ok() {
            return Err(AskError::Exists(out.to_owned()));
        }
        let name = out.file_name().ok_or_else(|| failed(out, &io::Error::other("it has no name")))?;
        let mut part_name = name.to_owned();
        part_name.push(".part");
        let part = out.with_file_name(part_name);
        // What a cluster runs is not everybody's.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = file.map_err(|error| failed(&part, &error))?;
        let builder = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { out: out.to_owned(), part, builder: Some(builder) })
    }

    fn add(&mut self, path: &str, content: &[u8]) -> Result<(), AskError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now_wall_usec() / 1_000_000).unwrap_or(0));
        let Some(builder) = &mut self.builder else { return Ok(()) };
        // It refuses paths that lead out of the folder.
        builder
            .append_data(&mut header, format!("{FOLDER}/{path}"), content)
            .map_err(|error| failed(Path::new(path), &error))
    }

    /// Gives it its name.
    fn finish(mut self) -> Result<(), AskError> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        let written = builder.into_inner().and_then(GzEncoder::finish).and_then(|mut file| file.flush());
        // A name that is taken since it was looked at stays whose it is.
        let named = written.and_then(|()| fs::hard_link(&self.part, &self.out));
        named.map_err(|error| failed(&self.out, &error))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Finished, it has another name by now; what is left is named `.part`, and no bundle.
        let _ = fs::remove_file(&self.part);
    }
}

fn failed(path: &Path, error: &io::Error) -> AskError {
    AskError::Write { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    /// Path and content of each file.
    fn unpack(path: &Path) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    #[test]
    fn files_are_packed_and_get_their_name_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("b.tar.gz");
        let mut archive = Archive::new(&out).unwrap();
        archive.add("central/log.txt", b"a line\n").unwrap();
        archive.add("nodes.json", b"[]\n").unwrap();
        assert!(!out.exists());
        archive.finish().unwrap();
        let want = [("kulprit-support/central/log.txt", "a line\n"), ("kulprit-support/nodes.json", "[]\n")];
        assert_eq!(unpack(&out), want.map(|(path, content)| (path.to_owned(), content.to_owned())));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_there_stays_and_what_breaks_off_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("b.tar.gz");
        fs::write(&out, "mine").unwrap();
        assert!(matches!(Archive::new(&out), Err(AskError::Exists(_))));
        assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
        drop(Archive::new(&home.path().join("c.tar.gz")).unwrap());
        let mut archive = Archive::new(&home.path().join("d.tar.gz")).unwrap();
        assert!(archive.add("../../evil", b"x").is_err());
        fs::write(home.path().join("d.tar.gz"), "taken meanwhile").unwrap();
        assert!(archive.finish().is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }
}
