//! Captures of VMs that are suspects and in no incident yet: what there is to see when a VM begins to be late is gone, as often as not,
//! when it is late enough to be in trouble.
//!
//! Each node of a suspect is asked once for as long as it stays one. What it showed waits here until an incident touches the VM, which
//! gets it beside its own capture; where none does it is dropped with the suspicion, and with a central that ends.

use std::collections::{BTreeMap, BTreeSet};

use kulprit_proto::v1;
use tokio::sync::oneshot::error::TryRecvError;
use ulid::Ulid;

use crate::{incident::Incidents, live::AskedCapture, store::CaptureWrite};

/// Captures that are held or waited for at a time, of all nodes; each is 256 KiB at most.
const EARLY_CAPTURES: usize = 32;
/// Captures that one node is asked for at a time: who is in trouble comes first, and a node makes them one after the other.
const EARLY_OF_NODE: usize = 2;

/// What became of one that was asked for.
#[derive(Debug)]
enum Early {
    /// The node has not answered yet.
    Asked(AskedCapture),
    /// It waits for an incident.
    Made(Box<v1::CaptureResult>),
    /// An incident has it, or it was lost.
    Done,
}

/// The captures of each suspect, by its UID and node.
#[derive(Debug, Default)]
pub struct EarlyCaptures(BTreeMap<(String, String), Early>);

impl EarlyCaptures {
    /// Asks (`ask` takes node and UID, `None`: not now) about who is a suspect and in no incident, lets go of who is a suspect no more,
    /// and returns what incidents get.
    pub fn follow(
        &mut self,
        suspects: &BTreeMap<String, BTreeSet<String>>,
        incidents: &Incidents,
        mut ask: impl FnMut(&str, &str) -> Option<AskedCapture>,
    ) -> Vec<CaptureWrite> {
        let touched = touched(incidents);
        self.0.retain(|(uid, node), _| suspects.get(node).is_some_and(|uids| uids.contains(uid)));
        let mut writes = Vec::new();
        for ((uid, node), early) in &mut self.0 {
            if let Early::Asked(asked) = early {
                *early = match asked.answer.try_recv() {
                    Ok(made) => Early::Made(Box::new(made)),
                    Err(TryRecvError::Empty) => continue,
                    Err(TryRecvError::Closed) => Early::Done,
                };
            }
            if let (Early::Made(made), Some(incident)) = (&mut *early, touched.get(uid.as_str())) {
                let result = v1::CaptureResult { incident_id: incident.to_string(), ..std::mem::take(made) };
                writes.push(CaptureWrite { node: node.clone(), result, is_early: true });
                *early = Early::Done;
            }
        }
        let mut n_held = 0;
        let mut of_node = BTreeMap::<&str, usize>::new();
        for ((_, node), early) in &self.0 {
            n_held += usize::from(!matches!(early, Early::Done));
            *of_node.entry(node).or_default() += usize::from(matches!(early, Early::Asked(_)));
        }
        let mut new = Vec::new();
        for (node, uids) in suspects {
            let mut n_waited_for = of_node.get(node.as_str()).copied().unwrap_or_default();
            for uid in uids.iter().filter(|uid| !touched.contains_key(uid.as_str())) {
                if n_held >= EARLY_CAPTURES || n_waited_for >= EARLY_OF_NODE {
                    break;
                }
                let key = (uid.clone(), node.clone());
                if self.0.contains_key(&key) {
                    continue;
                }
                let Some(asked) = ask(node, uid) else { break };
                new.push((key, Early::Asked(asked)));
                (n_held, n_waited_for) = (n_held + 1, n_waited_for + 1);
            }
        }
        self.0.extend(new);
        writes
    }
}

/// The open incident of each VM that is in trouble, the oldest.
fn touched(incidents: &Incidents) -> BTreeMap<&str, Ulid> {
    let mut touched = BTreeMap::new();
    for incident in incidents.open() {
        for member in incident.members.iter().filter(|member| member.until_wall_usec.is_none()) {
            touched.entry(member.whom.uid.as_str()).or_insert(incident.id);
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        incident::testing::{incident, member},
        live::testing::Asking,
    };

    /// Suspects of a node.
    fn suspects(node: &str, uids: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        BTreeMap::from([(node.to_owned(), uids.iter().map(|uid| (*uid).to_owned()).collect())])
    }

    fn trouble(name: &str) -> Incidents {
        let mut incident = incident(7, "LocalDiskStalled", "n1");
        incident.members.push(member("prod", name, "n1"));
        [incident].into_iter().collect()
    }

    #[test]
    fn what_a_suspect_showed_goes_to_the_incident_that_touches_it_once() {
        let (mut early, mut asking) = (EarlyCaptures::default(), Asking::default());
        let suspects = suspects("n1", &["a"]);
        let none = Incidents::default();
        assert_eq!(early.follow(&suspects, &none, |node, uid| asking.ask(node, uid)), []);
        assert_eq!(asking.asked(), ["n1 a"]);
        let trouble = trouble("a");
        assert_eq!(early.follow(&suspects, &trouble, |node, uid| asking.ask(node, uid)), [], "it is still being made");
        asking.answer("n1 a", 5);
        let writes = early.follow(&suspects, &trouble, |node, uid| asking.ask(node, uid));
        let [CaptureWrite { node, result, is_early: true }] = writes.as_slice() else { panic!("{writes:?}") };
        let id = trouble.iter().next().unwrap().id.to_string();
        assert_eq!((node.as_str(), result.incident_id.as_str(), result.took_usec), ("n1", id.as_str(), 5));
        assert_eq!(early.follow(&suspects, &trouble, |node, uid| asking.ask(node, uid)), []);
        assert_eq!(early.follow(&suspects, &none, |node, uid| asking.ask(node, uid)), []);
        assert_eq!(asking.asked(), ["n1 a"], "once for as long as it is a suspect");
    }

    #[test]
    fn what_becomes_no_incident_is_dropped_with_the_suspicion() {
        let (mut early, mut asking) = (EarlyCaptures::default(), Asking::default());
        let none = Incidents::default();
        early.follow(&suspects("n1", &["a"]), &none, |node, uid| asking.ask(node, uid));
        asking.answer("n1 a", 5);
        early.follow(&suspects("n1", &["a"]), &none, |node, uid| asking.ask(node, uid));
        early.follow(&BTreeMap::new(), &none, |node, uid| asking.ask(node, uid));
        assert!(early.0.is_empty());
        assert_eq!(early.follow(&suspects("n1", &["a"]), &trouble("a"), |node, uid| asking.ask(node, uid)), []);
        assert_eq!(asking.asked(), ["n1 a"], "who is in an incident is captured for that");
    }

    #[test]
    fn few_are_asked_for_at_a_time_of_one_node_and_of_all() {
        let (mut early, mut asking) = (EarlyCaptures::default(), Asking::default());
        let none = Incidents::default();
        let of_one = suspects("n1", &["a", "b", "c"]);
        early.follow(&of_one, &none, |node, uid| asking.ask(node, uid));
        assert_eq!(asking.asked(), ["n1 a", "n1 b"]);
        asking.answer("n1 a", 5);
        early.follow(&of_one, &none, |node, uid| asking.ask(node, uid));
        assert_eq!(asking.asked(), ["n1 a", "n1 b", "n1 c"], "when one is made");
        let many: BTreeMap<_, _> = (0..40).flat_map(|n| suspects(&format!("m{n:02}"), &["x"])).chain(of_one).collect();
        early.follow(&many, &none, |node, uid| asking.ask(node, uid));
        assert_eq!(asking.asked().len(), EARLY_CAPTURES);
    }

    #[test]
    fn who_cannot_be_asked_now_is_asked_later() {
        let (mut early, mut asking) = (EarlyCaptures::default(), Asking::default());
        let none = Incidents::default();
        early.follow(&suspects("n1", &["a"]), &none, |_, _| None);
        early.follow(&suspects("n1", &["a"]), &none, |node, uid| asking.ask(node, uid));
        assert_eq!(asking.asked(), ["n1 a"]);
    }
}
