//! What was read of a process's open files, for as long as it has as many of them.
//!
//! A QEMU has some fifty descriptors, and finding out what each one is takes two calls or more; the kernel counts them with one. A plug
//! that opens and closes shows in the count; what keeps the count the same is seen some looks later.

use std::collections::BTreeMap;

use kulprit_host::ReadError;
use kulprit_host::process::{ProcessId, Procfs};

/// By process; of each what was read, at which count, and at how many looks it was taken for good.
#[derive(Debug)]
pub(super) struct ByDescriptors<T> {
    rows: BTreeMap<ProcessId, (u64, u32, T)>,
    max_looks: u32,
}

impl<T: Clone> ByDescriptors<T> {
    /// What was read is read again after `max_looks` at the latest.
    pub(super) fn new(max_looks: u32) -> Self {
        Self { rows: BTreeMap::new(), max_looks }
    }

    /// What `read` gave when the process last had another number of descriptors.
    ///
    /// # Errors
    /// Those of `read`; `NotFound` when the process has ended.
    pub(super) fn get(
        &mut self,
        procfs: &Procfs,
        id: ProcessId,
        read: impl FnOnce() -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let n_open = procfs.open_file_count(id.pid)?;
        if let Some((known, n_looks, value)) = self.rows.get_mut(&id)
            && *known == n_open
            && *n_looks < self.max_looks
        {
            *n_looks += 1;
            return Ok(value.clone());
        }
        self.rows.remove(&id);
        let value = read()?;
        self.rows.insert(id, (n_open, 0, value.clone()));
        Ok(value)
    }

    /// What was read of this process counts no more.
    pub(super) fn forget(&mut self, id: ProcessId) {
        self.rows.remove(&id);
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, is_there: impl Fn(&ProcessId) -> bool) {
        self.rows.retain(|id, _| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again_when_their_number_changes_when_told_and_after_some_looks() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("7/fd")).unwrap();
        let open = |fd: u32| std::fs::write(root.path().join(format!("7/fd/{fd}")), "").unwrap();
        let (procfs, id) = (Procfs::new(root.path()), ProcessId { pid: 7, start_time_ticks: 1 });
        let mut known = ByDescriptors::new(2);
        let n_reads = std::cell::Cell::new(0);
        let look = |known: &mut ByDescriptors<u32>| {
            let read = || {
                n_reads.set(n_reads.get() + 1);
                Ok(n_reads.get())
            };
            known.get(&procfs, id, read).unwrap()
        };
        open(3);
        assert_eq!([look(&mut known), look(&mut known)], [1, 1]);
        open(4);
        assert_eq!([look(&mut known), look(&mut known)], [2, 2], "another number");
        known.forget(id);
        assert_eq!(look(&mut known), 3);
        known.retain(|_| false);
        assert_eq!([look(&mut known), look(&mut known), look(&mut known), look(&mut known)], [4, 4, 4, 5]);
        std::fs::remove_dir_all(root.path().join("7")).unwrap();
        assert!(known.get(&procfs, id, || Ok(9)).unwrap_err().is_not_found());
    }
}
