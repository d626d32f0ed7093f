//! Incidents, and what they come from, for tests: whole ones of which a test names what it is about.

use kulprit_diagnosis::{Attribution, Candidate, Confidence, Place, Remedy, Symptom, SymptomId, SymptomSubject};
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

/// A root cause that sits in `place`, without evidence.
pub(crate) fn candidate(id: &'static str, place: Place) -> Candidate {
    Candidate {
        id,
        probability: 0.5,
        score_db: 0.0,
        role: "hosting",
        node: Some("n1".to_owned()),
        place,
        explains: true,
        may_be_at: None,
        chain: vec![id],
        evidence: Vec::new(),
        remedy: Remedy::default(),
    }
}

/// A verdict of that symptom, with nothing said beside it.
pub(crate) fn attribution(subject: SymptomSubject, id: SymptomId, causes: Vec<Candidate>) -> Attribution {
    Attribution {
        symptom: Symptom { subject, id, since_wall_usec: None, text: String::new(), migration: None },
        causes,
        contributing: Vec::new(),
        ruled_out: Vec::new(),
        unknown: Vec::new(),
        looked_at: Vec::new(),
        confidence: Confidence::Verdict,
    }
}
