//! A captured part of a node's file system (`root/proc`, `root/sys`, `root/etc`, `root/var`), into findings.
//!
//! Walks what is there and never needs all of it: what was not saved makes `Unknown`, what is damaged makes a problem. One look
//! only, so nothing can be held: see `kulprit_judge::recorded`. Every file is opened inside the tree (`HostRoot`), and what is
//! read and kept has an upper bound, whatever the tree holds. Files in [`Problem`]s are named from `root/` on.

mod family;
mod groups;
mod machine;
mod vm;

use std::path::{Path, PathBuf};

use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::{Reading, StateVerdict, Verdict};
use kulprit_model::{Moment, Status, attribute};

use crate::gathered::{Gathered, Problem};

/// Most problems that are told of one tree; a broken copy has the same one in each file.
const MAX_PROBLEMS: usize = 100;

/// Reads the tree of one node.
///
/// `at` is the moment of asking; the time since the node's boot is taken from the tree where it says when that was. A tree
/// without `proc` and `sys` says nothing.
pub fn read_tree(root: &HostRoot, at: Moment, out: &mut Gathered) {
    if root.list("proc").is_err_and(|error| error.is_not_found())
        && root.list("sys").is_err_and(|error| error.is_not_found())
        && root.list("var").is_err_and(|error| error.is_not_found())
    {
        return;
    }
    let mut tree = Tree { root, at, gathered: Gathered::default(), n_left_out: 0 };
    machine::read_boot(&mut tree);
    let processes = family::read_processes(&mut tree);
    machine::read(&mut tree, &processes);
    vm::read(&mut tree, &processes);
    let known = processes.families.values().filter_map(|family| family.pod_uid.as_deref()).collect();
    groups::read(&mut tree, &known);
    out.extend(tree.finish());
}

/// The tree and what was gathered of it so far.
struct Tree<'a> {
    root: &'a HostRoot,
    at: Moment,
    gathered: Gathered,
    n_left_out: usize,
}

impl Tree<'_> {
    /// A value for a judge. What was not saved is no problem; what could not be read is one.
    fn reading<T>(&mut self, result: Result<T, ReadError>) -> Reading<T> {
        result.map_err(|error| {
            let path = self.shown(error.path());
            let because = match &error {
                ReadError::NotFound { .. } => format!("`{}` was not recorded", path.display()),
                ReadError::Unsupported { .. } => {
                    format!("`{}` says nothing: the kernel does not offer it", path.display())
                }
                ReadError::Denied { .. }
                | ReadError::Io { .. }
                | ReadError::TooLarge { .. }
                | ReadError::Malformed { .. } => format!("`{}` could not be read", path.display()),
            };
            self.problem(&error);
            because
        })
    }

    /// Notes an error that is a fault of the tree, and none for what was not saved.
    fn problem(&mut self, error: &ReadError) {
        let (line, why) = match error {
            ReadError::NotFound { .. } | ReadError::Unsupported { .. } => return,
            ReadError::Denied { .. } => (None, "no permission".to_owned()),
            ReadError::Io { source, .. } => (None, source.to_string()),
            ReadError::TooLarge { limit_bytes, .. } => (None, format!("larger than {limit_bytes} bytes")),
            ReadError::Malformed { line, text, .. } => (Some(*line), format!("unexpected content: {text:?}")),
        };
        let file = self.shown(error.path());
        self.note(Problem { file, line, why });
    }

    fn note(&mut self, problem: Problem) {
        if self.gathered.problems.len() < MAX_PROBLEMS {
            self.gathered.problems.push(problem);
        } else {
            self.n_left_out += 1;
        }
    }

    /// A path as the case has it: `root/proc/stat`.
    fn shown(&self, path: &Path) -> PathBuf {
        Path::new("root").join(path.strip_prefix(self.root.path()).unwrap_or(path))
    }

    /// Takes verdicts over; a state that is there was so at the first look.
    fn say(&mut self, verdicts: impl IntoIterator<Item = Verdict>) {
        for mut verdict in verdicts {
            if let Verdict::State(state) = &mut verdict {
                self.mark(state);
            }
            self.gathered.verdicts.push(verdict);
        }
    }

    fn mark(&mut self, state: &mut StateVerdict) {
        match state.status {
            Status::Present => {
                state.attributes = std::mem::take(&mut state.attributes).with(attribute::FIRST_LOOK, true);
            }
            Status::Absent => {}
            Status::Unknown => return,
        }
        self.gathered.looked.insert(state.code.spec().probe);
    }

    fn finish(mut self) -> Gathered {
        if self.n_left_out > 0 {
            let why = format!("{} more problems of this tree are not shown", self.n_left_out);
            self.gathered.problems.push(Problem { file: PathBuf::from("root"), line: None, why });
        }
        self.gathered
    }
}

#[cfg(test)]
mod tests;
