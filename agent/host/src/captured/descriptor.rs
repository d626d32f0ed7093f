//! What a captured process had open: links, or a listing of them.
//!
//! A link of `/proc/PID/fd` names the file as the process opened it, with ` (deleted)` behind when the name is gone.

use crate::{HostRoot, ReadError};

/// Most descriptors of one process that are kept.
const MAX_DESCRIPTORS: usize = 1 << 16;

/// One open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// What it is: a path in the process's own root, `socket:[1]`, `anon_inode:inotify`. Without ` (deleted)`.
    pub target: String,
    /// Whether the name is gone while the file lives on.
    pub is_deleted: bool,
}

impl Descriptor {
    fn new(fd: u32, target: &str) -> Self {
        let kept = target.strip_suffix(" (deleted)");
        Self { fd, target: kept.unwrap_or(target).to_owned(), is_deleted: kept.is_some() }
    }
}

/// Parses a listing of `/proc/PID/fd`: lines of `N -> target`, also as `ls -l` prints them. Other lines are left out.
pub fn parse_fd_listing(text: &str) -> Vec<Descriptor> {
    let row = |line: &str| {
        let (before, target) = line.trim_end().split_once(" -> ")?;
        Some(Descriptor::new(before.split_ascii_whitespace().next_back()?.parse().ok()?, target))
    };
    text.lines().filter_map(row).take(MAX_DESCRIPTORS).collect()
}

pub(super) fn read(root: &HostRoot, pid: u32) -> Result<Option<Vec<Descriptor>>, ReadError> {
    for name in ["fd.txt", "fd"] {
        match root.read_bytes(format!("proc/{pid}/{name}"), 8 << 20) {
            Ok(bytes) => return Ok(Some(parse_fd_listing(&String::from_utf8_lossy(&bytes)))),
            Err(error) if error.is_not_found() => {}
            // `fd` as the kernel has it: a directory of links.
            Err(_) if name == "fd" => return links(root, pid),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn links(root: &HostRoot, pid: u32) -> Result<Option<Vec<Descriptor>>, ReadError> {
    let mut rows = Vec::new();
    for fd in super::numbers(root, &format!("proc/{pid}/fd"))?.into_iter().take(MAX_DESCRIPTORS) {
        if let Ok(target) = root.read_link(format!("proc/{pid}/fd/{fd}")) {
            rows.push(Descriptor::new(fd, &target.to_string_lossy()));
        }
    }
    Ok(Some(rows))
}
