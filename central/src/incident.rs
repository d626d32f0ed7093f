//! Incidents: one per (root cause, place), with everybody it touches and what happened to it.
//!
//! [`advance`] is pure: incidents as they are, what diagnosis says now, what could be looked at, and the time come in; the
//! incidents that changed come out. Asked again with the same input it changes nothing. An incident closes only after its
//! symptoms were *seen* to be over; a symptom that merely cannot be seen any more stays.
//!
//! [`observe`] makes the input from a snapshot, `wire` the messages.

mod advance;
pub mod observe;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use ulid::Ulid;

pub(crate) use advance::title;
pub use advance::{Event, IncidentChange, advance};
pub use observe::{Explanation, Looks, Observation};
pub(crate) use wire::Aside;

/// When incidents close and whether they come back, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// How long no symptom may be left before an incident closes.
    pub close_after_usec: i64,
    /// How long after that the same cause at the same place reopens it.
    pub reopen_within_usec: i64,
}

impl Default for Timers {
    fn default() -> Self {
        Self { close_after_usec: 60_000_000, reopen_within_usec: 15 * 60_000_000 }
    }
}

/// What makes two attributions one incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Id of the root cause.
    pub cause: String,
    /// What the cause sits in, as `Place` writes it.
    pub place: String,
}

/// Whom an incident touches: a VM, or a node itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whom {
    /// Node where it is.
    pub node: String,
    /// UID of the VM; empty for the node itself.
    pub uid: String,
}

/// One symptom of somebody the incident touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Whose.
    pub whom: Whom,
    /// Namespace of the VM; empty for none.
    pub namespace: String,
    /// Name of the VM; empty for a node.
    pub name: String,
    /// Symptom id.
    pub symptom: String,
    /// Onset, Unix time in microseconds; `None` if not known.
    pub since_wall_usec: Option<i64>,
    /// When it was seen to be over; `None` while it lasts.
    pub until_wall_usec: Option<i64>,
    /// The states that were Present when it was seen last (`<code> <subject>`). While one of them is Unknown, nobody can
    /// say that the symptom is over.
    pub based_on: Vec<String>,
}

/// One line of what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When, Unix time in microseconds.
    pub at_wall_usec: i64,
    /// What, in words for a person.
    pub text: String,
}

/// One root cause at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// Made when it was opened; sorts by that.
    pub id: Ulid,
    /// Root cause and place.
    pub key: Key,
    /// Node of the place; empty if it is not one node's.
    pub node: String,
    /// When it was opened, Unix time in microseconds.
    pub opened_wall_usec: i64,
    /// When it was closed; `None` while it is open.
    pub closed_wall_usec: Option<i64>,
    /// Since when no symptom is left; the time to closing runs.
    pub quiet_since_wall_usec: Option<i64>,
    /// Everybody it touches, by onset.
    pub members: Vec<Member>,
    /// What happened to it, oldest first; at most [`Incident::MAX_ENTRIES`].
    pub timeline: Vec<Entry>,
    /// The highest probability that the root cause reached.
    pub probability: f64,
    /// Causes from the root to the symptom.
    pub chain: Vec<String>,
    /// The older incident that took this one over.
    pub merged_into: Option<Ulid>,
}

impl Incident {
    /// Later entries of a timeline are left out; the last one says so.
    pub const MAX_ENTRIES: usize = 500;

    /// Whether it is open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.closed_wall_usec.is_none()
    }

    fn say(&mut self, at_wall_usec: i64, text: String) {
        let text = match self.timeline.len() {
            n if n + 1 < Self::MAX_ENTRIES => text,
            n if n + 1 == Self::MAX_ENTRIES => "more has happened than is listed here".to_owned(),
            _ => return,
        };
        self.timeline.push(Entry { at_wall_usec, text });
    }
}

/// All incidents that are kept, by id, so oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Incidents(BTreeMap<Ulid, Arc<Incident>>);

impl Incidents {
    /// Takes in changes; taking them in twice is the same as once.
    pub fn apply(&mut self, changes: &[IncidentChange]) {
        for change in changes {
            self.0.insert(change.incident.id, Arc::clone(&change.incident));
        }
    }

    /// The incident of that id.
    #[must_use]
    pub fn get(&self, id: Ulid) -> Option<&Arc<Incident>> {
        self.0.get(&id)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Incident>> {
        self.0.values()
    }

    /// Those with an id after this one, oldest first; `None`: all.
    pub fn after(&self, id: Option<Ulid>) -> impl Iterator<Item = &Arc<Incident>> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range((from, Bound::Unbounded)).map(|(_, incident)| incident)
    }

    /// How many are kept.
    #[must_use]
    pub fn n_kept(&self) -> usize {
        self.0.len()
    }

    /// The open ones, oldest first.
    pub fn open(&self) -> impl Iterator<Item = &Arc<Incident>> {
        self.0.values().filter(|incident| incident.is_open())
    }

    /// The open incident of each symptom that lasts: by who shows it, and its id.
    #[must_use]
    pub fn by_member(&self) -> BTreeMap<(&Whom, &str), &Arc<Incident>> {
        let mut by_member = BTreeMap::new();
        for incident in self.open() {
            for member in incident.members.iter().filter(|member| member.until_wall_usec.is_none()) {
                by_member.insert((&member.whom, member.symptom.as_str()), incident);
            }
        }
        by_member
    }

    /// Lets go of those closed before `oldest_wall_usec`.
    pub fn drop_closed_before(&mut self, oldest_wall_usec: i64) {
        self.0.retain(|_, incident| incident.closed_wall_usec.is_none_or(|closed| closed > oldest_wall_usec));
    }
}

impl FromIterator<Incident> for Incidents {
    fn from_iter<I: IntoIterator<Item = Incident>>(incidents: I) -> Self {
        Self(incidents.into_iter().map(|incident| (incident.id, Arc::new(incident))).collect())
    }
}
