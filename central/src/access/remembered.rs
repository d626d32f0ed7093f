//! Answers that are remembered until they are due, and never more than so many.
//!
//! Two generations: what is new or was asked for lately is in the younger one, and when that is full the elder one goes as a whole. So nothing
//! is sorted, and whoever fills it with what nobody asks for again pushes out what is used last.

use std::{collections::HashMap, hash::Hash};

use tokio::time::Instant;

/// Values by key, each until its time.
#[derive(Debug)]
pub(super) struct Remembered<K, V> {
    young: HashMap<K, (V, Instant)>,
    old: HashMap<K, (V, Instant)>,
    /// Of one generation.
    max: usize,
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    /// At most `max` at once.
    pub(super) fn new(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), max: max / 2 }
    }

    /// What was put there, if it is not due.
    pub(super) fn get(&mut self, key: &K, now: Instant) -> Option<V> {
        if let Some((value, until)) = self.young.get(key) {
            return (*until > now).then(|| value.clone());
        }
        let (key, (value, until)) = self.old.remove_entry(key)?;
        if until <= now {
            return None;
        }
        self.put(key, value.clone(), until);
        Some(value)
    }

    /// How many are held, due ones too.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(super) fn put(&mut self, key: K, value: V, until: Instant) {
        if self.young.len() >= self.max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_remembered_until_it_is_due() {
        let (mut remembered, start) = (Remembered::new(4), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        remembered.put("a", 1, at(10));
        assert_eq!(remembered.get(&"a", at(9)), Some(1));
        assert_eq!(remembered.get(&"a", at(10)), None);
        remembered.put("a", 2, at(20));
        assert_eq!(remembered.get(&"a", at(10)), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_outlasts_what_nobody_asks_for_and_there_is_a_bound() {
        let (mut remembered, now) = (Remembered::new(8), Instant::now());
        let until = now + Duration::from_secs(10);
        remembered.put(0, "used", until);
        for garbage in 1..100 {
            remembered.put(garbage, "garbage", until);
            assert_eq!(remembered.get(&0, now), Some("used"), "{garbage}");
            assert!(remembered.young.len() + remembered.old.len() <= 8);
        }
        assert_eq!(remembered.get(&1, now), None);
    }
}
