//! What an attribution says of its likeliest cause and of those that are nearly as likely.

use kulprit_diagnosis::SymptomId;

use super::*;
use crate::incident::testing;

fn candidate(id: &'static str, score_db: f64, place: Place) -> Candidate {
    Candidate { score_db, ..testing::candidate(id, place) }
}

fn at(node: &str) -> Place {
    Place::Node { node: node.to_owned() }
}

fn nas() -> Place {
    Place::Shared { thing: "nas".to_owned() }
}

fn may_be(causes: Vec<Candidate>, contributing: Vec<Candidate>) -> Vec<String> {
    let subject = SymptomSubject::Vm { node: "n1".to_owned(), uid: "a".to_owned() };
    let attribution = Attribution { contributing, ..testing::attribution(subject, SymptomId::StuckStopping, causes) };
    let snapshot = Snapshot::default();
    let observations = observe(&Indexed::new(&snapshot), std::slice::from_ref(&attribution));
    for other in &observations[0].may_be {
        assert_eq!(named(&attribution, &other.key).map(|one| one.id), Some(other.key.cause.as_str()));
    }
    observations[0].may_be.iter().map(|other| format!("{} {}", other.key.cause, other.key.place)).collect()
}

#[test]
fn what_is_a_third_as_likely_may_be_the_cause_as_well() {
    let near = |db: f64| {
        may_be(vec![candidate("LocalDiskStalled", 20.0, at("n1")), candidate("QemuMonitorHung", db, at("n1"))], vec![])
    };
    assert_eq!(near(20.0), ["QemuMonitorHung node/n1"]);
    assert_eq!(near(15.0), ["QemuMonitorHung node/n1"]);
    assert_eq!(near(14.99), [""; 0]);
}

#[test]
fn that_nothing_explains_it_gives_way_and_has_to_be_clearly_likelier() {
    let nothing = || candidate("Unexplained", 10.0, at("n1"));
    let some = |db: f64| candidate("QemuMonitorHung", db, at("n1"));
    assert_eq!(may_be(vec![some(11.0), nothing()], vec![]), [""; 0]);
    assert_eq!(may_be(vec![nothing(), some(9.0)], vec![]), ["QemuMonitorHung node/n1"]);
}

#[test]
fn the_same_elsewhere_and_what_nodes_share_may_be_it_as_well_and_what_happened_beside_may_not() {
    let first = || Candidate { may_be_at: Some(nas()), ..candidate("StorageBackendUnreachable", 30.0, at("n1")) };
    let other = || candidate("StorageBackendUnreachable", 28.0, at("n2"));
    let want = ["StorageBackendUnreachable shared/nas", "StorageBackendUnreachable node/n2"];
    assert_eq!(may_be(vec![first()], vec![other()]), want);
    assert_eq!(may_be(vec![first()], vec![Candidate { explains: false, ..other() }]), want[..1]);
}
