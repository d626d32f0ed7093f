//! Whether anything was started since the last look: one number instead of a list of all processes.
//!
//! The kernel numbers tasks in turn, and `/proc/loadavg` ends with the number that it gave last in the pid namespace of whoever reads.
//! A task of a namespace below gets one of ours too. Only a restored checkpoint may choose its number (`clone3(2)`, `set_tid`), so
//! that who relies on this lists all now and then.
//! Sources: `proc_loadavg(5)`; kernel `fs/proc/loadavg.c`, `kernel/pid.c` (`idr_alloc_cyclic`).

use super::Procfs;
use crate::kept::{KeptBuffer, KeptFile};

/// Reads that number again and again.
#[derive(Debug)]
pub struct Births {
    procfs: Procfs,
    loadavg: KeptFile,
    buffer: KeptBuffer,
    is_own: Option<bool>,
}

impl Births {
    /// Opens nothing yet.
    pub fn new(procfs: &Procfs) -> Self {
        let loadavg = KeptFile::plain(procfs.path().join("loadavg"));
        Self { procfs: procfs.clone(), loadavg, buffer: KeptBuffer::default(), is_own: None }
    }

    /// The number of the task that was started last; the same as before: none was. `None` where nothing tells that of this procfs: it
    /// is of another pid namespace than we are, or a recording.
    pub fn newest(&mut self) -> Option<u32> {
        let procfs = &self.procfs;
        let is_own = || {
            let own = std::fs::read_link(procfs.path().join("self"));
            own.is_ok_and(|own| own.to_str() == Some(&*std::process::id().to_string()))
        };
        if !*self.is_own.get_or_insert_with(is_own) {
            return None;
        }
        let text = self.loadavg.read(&mut self.buffer).ok()?;
        text.split_ascii_whitespace().nth(4)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_started_is_told_at_once() {
        let mut births = Births::new(&Procfs::default());
        for _ in 0..3 {
            let before = births.newest();
            assert!(before.is_some());
            let mut child = std::process::Command::new("true").spawn().unwrap();
            assert_ne!(births.newest(), before);
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_procfs_that_is_not_ours_tells_nothing() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("loadavg"), "0.00 0.00 0.00 1/2 77\n").unwrap();
        let newest = || Births::new(&Procfs::new(root.path())).newest();
        assert_eq!(newest(), None, "a recording");
        let own = root.path().join("self");
        std::os::unix::fs::symlink("1", &own).unwrap();
        assert_eq!(newest(), None, "of another namespace");
        std::fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink(std::process::id().to_string(), &own).unwrap();
        assert_eq!(newest(), Some(77));
        std::fs::write(root.path().join("loadavg"), "0.00 0.00\n").unwrap();
        assert_eq!(newest(), None);
    }
}
