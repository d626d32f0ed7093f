//! Which rows an outage took, so that it is said once and not once per row.
//!
//! Outages are told apart by their answer (HTTP's code, 0 for none): a kind whose conversion fails does not hide that the whole API
//! server goes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The outages of all rows.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<BTreeMap<&'static str, (u16, Instant)>>);

impl Outages {
    /// A row is taken. Answers whether it is the first of this class.
    pub(super) fn begin(&self, row: &'static str, class: u16) -> bool {
        let mut taken = self.taken();
        let is_first = taken.values().all(|(own, _)| *own != class);
        taken.entry(row).or_insert_with(|| (class, Instant::now()));
        is_first
    }

    /// A row is back. Answers how long it was taken, if it was the last of its class.
    pub(super) fn end(&self, row: &'static str) -> Option<Duration> {
        let mut taken = self.taken();
        let (class, since) = taken.remove(row)?;
        taken.values().all(|(own, _)| *own != class).then(|| since.elapsed())
    }

    /// Each entry is whole at any moment, whoever panicked.
    fn taken(&self) -> MutexGuard<'_, BTreeMap<&'static str, (u16, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_its_first_row_and_ends_with_its_last() {
        let outages = Outages::default();
        assert!(outages.begin("a", 0));
        assert!(!outages.begin("b", 0));
        assert!(outages.begin("c", 500), "another answer is another outage");
        assert_eq!(outages.end("a"), None);
        assert!(outages.end("b").is_some());
        assert!(outages.end("c").is_some());
        assert_eq!(outages.end("c"), None, "a row that was not taken ends nothing");
    }
}
