//! `kulprit record`: a case from a live system, for whoever has no access to it.
//!
//! Central decides what is in it and leaves secrets out; here it is written. Nothing is written over: the files come into a folder of
//! their own beside the one that was named, which takes its name when all of them are there, and goes if they are not.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use kulprit_case::manifest;
use kulprit_proto::v1::{self, record_case_request::Subject};
use serde::Serialize;

use super::{Ask, why::Whom};
use crate::{Terminal, error::AskError, output};

/// More than this is not taken, bytes.
const MAX_BYTES: usize = 128 << 20;

/// The history that is asked for, as a person writes times.
pub(super) struct Times {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Recorded {
    case: String,
    files: Vec<String>,
    n_bytes: usize,
    notes: Vec<String>,
}

pub(super) async fn answer(
    ask: &Ask,
    terminal: &mut Terminal,
    whom: Whom,
    out: &Path,
    times: &Times,
) -> Result<(), AskError> {
    let time = |text: &Option<String>| match text {
        Some(text) => manifest::time(text).ok_or_else(|| AskError::BadTime(text.clone())),
        None => Ok(0),
    };
    let subject = match whom {
        Whom::Vm(name) => Subject::Vm(name),
        Whom::Migration(name) => Subject::Migration(name),
        Whom::Node(name) => Subject::Node(name),
    };
    let request = v1::RecordCaseRequest {
        subject: Some(subject),
        from_wall_usec: time(&times.from)?,
        to_wall_usec: time(&times.to)?,
    };
    let folder = Folder::new(out)?;
    let mut central = ask.central().await?;
    let mut messages = ask.take(central.record_case(request).await)?;
    let mut recorded = Recorded { case: out.display().to_string(), files: Vec::new(), n_bytes: 0, notes: Vec::new() };
    while let Some(message) = messages.message().await.map_err(|status| ask.failed(&status))? {
        let v1::RecordCaseResponse { path, content, note } = message;
        if !note.is_empty() {
            recorded.notes.push(note);
        }
        if path.is_empty() {
            continue;
        }
        recorded.n_bytes += content.len();
        if recorded.n_bytes > MAX_BYTES {
            return Err(AskError::Refused { message: format!("the case has more than {} MiB", MAX_BYTES >> 20) });
        }
        folder.append(&path, &content)?;
        if recorded.files.last() != Some(&path) {
            recorded.files.push(path);
        }
    }
    folder.finish()?;
    output::print(terminal, ask.format, &recorded, |_| human(&recorded))
}

fn human(recorded: &Recorded) -> String {
    let Recorded { case, files, n_bytes, notes } = recorded;
    let mut text = format!("{case}: {} files, {} KiB\n", files.len(), n_bytes.div_ceil(1024));
    for note in notes {
        text.push_str(&format!("  {note}\n"));
    }
    text.push_str(&format!("Read it before you give it away. `kulprit diagnose {case}` says what central says now.\n"));
    text
}

/// A folder that is being written, beside the one that it becomes. Dropped before it is finished, it goes.
#[derive(Debug)]
struct Folder {
    out: PathBuf,
    part: PathBuf,
    is_finished: bool,
}

impl Folder {
    /// Makes the folder beside `out`.
    ///
    /// # Errors
    /// [`AskError::NotEmpty`] if `out` is there and not an empty folder, [`AskError::Write`] if nothing can be written there.
    fn new(out: &Path) -> Result<Self, AskError> {
        match fs::read_dir(out) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(AskError::NotEmpty(out.to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(out, &error)),
        }
        let name = out.file_name().ok_or_else(|| failed(out, &io::Error::other("it has no name")))?;
        let mut part_name = name.to_owned();
        part_name.push(".part");
        let part = out.with_file_name(part_name);
        // What nodes logged is not everybody's.
        DirBuilder::new().mode(0o700).create(&part).map_err(|error| failed(&part, &error))?;
        Ok(Self { out: out.to_owned(), part, is_finished: false })
    }

    fn append(&self, path: &str, content: &[u8]) -> Result<(), AskError> {
        let path = Path::new(path);
        // Central is told where to write, and tells nobody else where.
        if !path.components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(failed(path, &io::Error::other("central names a path outside of the case")));
        }
        let file = self.part.join(path);
        let write = || {
            if let Some(folder) = file.parent() {
                DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
            }
            OpenOptions::new().append(true).create(true).mode(0o600).open(&file)?.write_all(content)
        };
        write().map_err(|error| failed(&file, &error))
    }

    /// Gives it its name.
    fn finish(mut self) -> Result<(), AskError> {
        // An empty folder of that name gives way; one that is no longer empty does not.
        fs::rename(&self.part, &self.out).map_err(|error| failed(&self.out, &error))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_finished {
            // What is left after this is named `.part`, and no case.
            let _ = fs::remove_dir_all(&self.part);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> AskError {
    AskError::Write { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_one_piece_after_the_other_and_the_folder_only_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("case");
        let folder = Folder::new(&out).unwrap();
        for (path, piece) in [("case.yaml", "a"), ("nodes/n1/history.jsonl", "1"), ("nodes/n1/history.jsonl", "2")] {
            folder.append(path, piece.as_bytes()).unwrap();
        }
        assert!(!out.exists());
        folder.finish().unwrap();
        assert_eq!(fs::read_to_string(out.join("nodes/n1/history.jsonl")).unwrap(), "12");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_folder_is_taken_and_one_with_anything_in_it_is_not() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::new(home.path()).unwrap();
        folder.append("case.yaml", b"a").unwrap();
        folder.finish().unwrap();
        let error = Folder::new(home.path()).unwrap_err();
        assert!(matches!(error, AskError::NotEmpty(_)), "{error}");
        let file = home.path().join("case.yaml");
        assert!(matches!(Folder::new(&file).unwrap_err(), AskError::Write { .. }));
        assert_eq!(fs::read_to_string(file).unwrap(), "a");
    }

    #[test]
    fn a_case_that_breaks_off_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::new(&home.path().join("case")).unwrap();
        folder.append("nodes/n1/node.json", b"a").unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_written_outside_of_the_case() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::new(&home.path().join("case")).unwrap();
        for path in ["../x", "/tmp/x", "a/../../x", "./x"] {
            assert!(folder.append(path, b"a").is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
