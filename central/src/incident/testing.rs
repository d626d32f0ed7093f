//! Incidents for tests: whole ones of which a test names what it is about.

use ulid::Ulid;

use super::{Incident, Key, Member, Whom};

/// An open incident of `cause` on `node` that touches nobody.
pub(crate) fn incident(id: u128, cause: &str, node: &str) -> Incident {
    Incident {
        id: Ulid::from(id),
        key: Key { cause: cause.to_owned(), place: format!("node/{node}") },
        node: node.to_owned(),
        opened_wall_usec: 1,
        closed_wall_usec: None,
        quiet_since_wall_usec: None,
        members: Vec::new(),
        timeline: Vec::new(),
        probability: 0.7,
        chain: vec![cause.to_owned()],
        merged_into: None,
    }
}

/// A VM that is stuck; its UID is its name.
pub(crate) fn member(namespace: &str, name: &str, node: &str) -> Member {
    Member {
        whom: Whom { node: node.to_owned(), uid: name.to_owned() },
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        symptom: "StuckStopping".to_owned(),
        since_wall_usec: None,
        until_wall_usec: None,
        based_on: Vec::new(),
    }
}
