//! Each condition from both sides, and what is said of it.

use std::sync::Arc;

use kulprit_cluster::ClusterNode;
use kulprit_diagnosis::{Indexed, SymptomId};
use kulprit_model::State;

use super::{
    testing::{happened, set, snapshot, state, subject, well},
    *,
};
use crate::incident::testing::{self as of_incidents, incident, member};

fn judged(node: NodeView) -> Vec<Judged> {
    judge(&snapshot(vec![node]), &[], &Incidents::default(), NpdMode::Coexist).remove(0).judged
}

fn of(condition: NodeCondition, judged: &[Judged]) -> (Truth, &str) {
    let own = judged.iter().find(|own| own.condition == condition).unwrap();
    (own.truth, &own.reason)
}

/// `condition` is so, and every other one is `False`.
#[track_caller]
fn check(node: NodeView, condition: NodeCondition, want: Truth, reason: &str) {
    let judged = judged(node);
    assert_eq!(of(condition, &judged), (want, reason), "{judged:#?}");
    let others = judged.iter().filter(|own| own.condition != condition);
    for other in others {
        assert_eq!((other.truth, &*other.reason), (Truth::False, well_word(other.condition)), "beside {condition}");
    }
}

fn well_word(condition: NodeCondition) -> &'static str {
    super::well(condition)
}

fn of_agents(kind: Kind) -> impl Iterator<Item = (NodeCondition, &'static kulprit_model::FindingSpec)> {
    let rows =
        NodeCondition::ALL.into_iter().flat_map(|condition| condition.findings().map(move |spec| (condition, spec)));
    rows.filter(move |(_, spec)| spec.kind == kind && !ONLY_RECORDED.contains(&spec.probe))
}

#[test]
fn a_node_that_is_well_has_all_conditions_false_and_says_who_looked() {
    let judged = judged(well("n1"));
    assert_eq!(judged.iter().map(|own| own.condition).collect::<Vec<_>>(), NodeCondition::ALL);
    assert!(judged.iter().all(|own| own.truth == Truth::False && own.reason == well_word(own.condition)));
    assert_eq!(judged[0].message, "looked for by probes kernel-log and kvm and not found");
}

#[test]
fn each_state_makes_its_condition_true_and_its_absence_ends_that() {
    for (condition, spec) in of_agents(Kind::State) {
        let mut node = well("n1");
        set(&mut node, spec.code, Status::Present);
        check(node.clone(), condition, Truth::True, spec.code.as_str());
        set(&mut node, spec.code, Status::Absent);
        check(node, condition, Truth::False, well_word(condition));
    }
}

#[test]
fn each_occurrence_makes_its_condition_true_until_it_is_old() {
    for (condition, spec) in of_agents(Kind::Occurrence) {
        let limit_secs = if condition == NodeCondition::HardwareFault { 24 * 3_600 } else { 300 };
        for (secs_ago, want, reason) in
            [(limit_secs - 1, Truth::True, spec.code.as_str()), (limit_secs, Truth::False, well_word(condition))]
        {
            let mut node = well("n1");
            happened(&mut node, spec.code, subject(spec), secs_ago);
            check(node, condition, want, reason);
        }
    }
}

#[test]
fn a_state_that_is_not_known_makes_its_condition_unknown_unless_another_finding_is_there() {
    for (condition, spec) in of_agents(Kind::State) {
        let mut node = well("n1");
        set(&mut node, spec.code, Status::Unknown);
        check(node, condition, Truth::Unknown, "NotSeen");
    }
    let mut node = well("n1");
    set(&mut node, FindingCode::KvmUnusable, Status::Unknown);
    set(&mut node, FindingCode::KvmDeviceMissing, Status::Present);
    check(node, NodeCondition::KvmUnavailable, Truth::True, "KvmDeviceMissing");
}

#[test]
fn a_probe_that_cannot_look_or_never_did_makes_what_it_feeds_unknown() {
    for condition in NodeCondition::ALL {
        for probe in probes(condition) {
            let name = Subject::Probe { name: (*probe).to_owned() };
            let is_it = |state: &State| state.code == FindingCode::ProbeBlind && state.subject == name;
            for (status, reason) in
                [(Some(Status::Present), "ProbeBlind"), (Some(Status::Unknown), "ProbeMissing"), (None, "ProbeMissing")]
            {
                let mut node = well("n1");
                node.states.retain(|state| !is_it(state));
                node.states.extend(status.map(|status| state(FindingCode::ProbeBlind, name.clone(), status)));
                assert_eq!(of(condition, &judged(node)), (Truth::Unknown, reason), "{condition} without {probe}");
            }
        }
    }
}

#[test]
fn of_a_silent_agent_everything_is_unknown_whatever_it_said_last() {
    let mut node = well("n1");
    set(&mut node, FindingCode::KvmDeviceMissing, Status::Present);
    happened(&mut node, FindingCode::NodeOomKill, Subject::Node, 1);
    node.is_reporting = false;
    let judged = judged(node);
    assert!(judged.iter().all(|own| (own.truth, &*own.reason) == (Truth::Unknown, "AgentSilent")), "{judged:#?}");
}

#[test]
fn what_kubernetes_says_of_the_node_counts_even_without_its_agent() {
    for is_reporting in [true, false] {
        let finding = Finding::State(state(FindingCode::KvmNotAllocatable, Subject::Node, Status::Present));
        let of_cluster = ClusterNode { name: "n1".to_owned(), findings: vec![finding] };
        let mut snapshot = snapshot(vec![NodeView { is_reporting, ..well("n1") }]);
        snapshot.cluster_nodes = vec![Arc::new(of_cluster)];
        let verdicts = judge(&snapshot, &[], &Incidents::default(), NpdMode::Coexist);
        assert_eq!(of(NodeCondition::KvmUnavailable, &verdicts[0].judged), (Truth::True, "KvmNotAllocatable"));
    }
}

#[test]
fn of_two_nodes_of_one_name_the_one_that_reports_counts() {
    for turned in [false, true] {
        let mut nodes = vec![well("n1"), NodeView { is_reporting: false, ..well("n1") }];
        if turned {
            nodes.reverse();
        }
        let verdicts = judge(&snapshot(nodes), &[], &Incidents::default(), NpdMode::Coexist);
        assert_eq!(verdicts.len(), 1);
        assert!(verdicts[0].judged.iter().all(|own| own.truth == Truth::False));
    }
}

fn message(node: NodeView, incidents: Vec<Incident>) -> String {
    let verdicts = judge(&snapshot(vec![node]), &[], &incidents.into_iter().collect(), NpdMode::Coexist);
    verdicts[0].judged.iter().find(|own| own.truth == Truth::True).unwrap().message.clone()
}

#[test]
fn a_message_names_findings_cause_and_incident_and_no_vm() {
    let mut node = well("n1");
    set(&mut node, FindingCode::VmDiskStalled, Status::Present);
    happened(&mut node, FindingCode::BlockDeviceStalled, Subject::Device { name: "sda".to_owned() }, 10);
    let stalled = "VmDiskStalled (1 VM): I/O of the VM's QEMU has waited in the kernel's storage code without an answer. \
                   BlockDeviceStalled (sda): A block device or its controller does not answer: timeouts, aborts, resets.";
    assert_eq!(message(node.clone(), vec![]), stalled);
    let own = incident(3, "LocalDiskStalled", "n1");
    let want = format!("{stalled} Cause: LocalDiskStalled, incident {}.", own.id);
    assert_eq!(message(node.clone(), vec![incident(1, "KubeletDown", "n1"), own.clone()]), want, "of its cause");
    assert_eq!(message(node.clone(), vec![incident(2, "LocalDiskStalled", "n2")]), stalled, "of this node");
    let closed = Incident { closed_wall_usec: Some(1), ..own.clone() };
    assert_eq!(message(node.clone(), vec![closed]), stalled, "that is open");
    let mut shared = incident(1, "StorageBackendUnreachable", "");
    shared.key.place = "shared/10.0.0.9".to_owned();
    shared.members = vec![member("prod", "db-0", "n1")];
    let of_shared = message(node.clone(), vec![shared.clone()]);
    let end = format!("Cause: StorageBackendUnreachable at shared/10.0.0.9, incident {}.", shared.id);
    assert!(of_shared.ends_with(&end), "{of_shared}");
    assert_eq!(message(node, vec![shared, own]), want, "what sits in the node comes first");
}

#[test]
fn a_message_is_cut_before_its_cause_and_at_a_whole_character() {
    let mut node = well("n1");
    for n in 0..500 {
        let subject = Subject::Mount { point: format!("/{}{n}", "ü".repeat(200)) };
        node.states.push(state(FindingCode::BackendUnreachable, subject, Status::Present));
    }
    let own = incident(3, "StorageBackendUnreachable", "n1");
    let message = message(node, vec![own.clone()]);
    assert!(message.len() <= MAX_MESSAGE_BYTES && message.len() > 1_000, "{}", message.len());
    assert!(message.ends_with(&format!("… Cause: StorageBackendUnreachable, incident {}.", own.id)), "{message}");
    assert_eq!(shortened("aüb", 4), "aüb");
    assert_eq!(shortened("aübc", 4), "a…", "three bytes for the sign that there is more");
}

fn candidate(id: &'static str, probability: f64, place: Place) -> Candidate {
    Candidate { probability, ..of_incidents::candidate(id, place) }
}

fn attribution(node: &str, causes: Vec<Candidate>, contributing: Vec<Candidate>) -> Attribution {
    let subject = SymptomSubject::Node { node: node.to_owned() };
    Attribution { contributing, ..of_incidents::attribution(subject, SymptomId::Unspecified, causes) }
}

fn blame(attributions: &[Attribution]) -> Blame {
    let mut node = well("n1");
    set(&mut node, FindingCode::BackendUnreachable, Status::Present);
    let verdicts = judge(&snapshot(vec![node]), attributions, &Incidents::default(), NpdMode::Coexist);
    verdicts[0].judged.iter().find(|own| own.condition == NodeCondition::VmStorageStalled).unwrap().blame
}

#[test]
fn a_node_is_to_blame_for_what_is_confirmed_to_sit_in_it_and_not_shared() {
    let here = || Place::Node { node: "n1".to_owned() };
    let shared = || Place::Shared { thing: "10.0.0.9".to_owned() };
    let of = |probability, place| candidate("StorageBackendUnreachable", probability, place);
    let one = |cause: Candidate| blame(&[attribution("n1", vec![cause], vec![])]);
    assert_eq!(blame(&[]), Blame::Unsure);
    assert_eq!(one(of(0.9, here())), Blame::Own);
    assert_eq!(one(of(0.89, here())), Blame::Unsure);
    assert_eq!(one(of(0.99, Place::Device { node: "n1".to_owned(), device: "sda".to_owned() })), Blame::Own);
    assert_eq!(one(of(0.99, Place::Node { node: "n2".to_owned() })), Blame::Unsure, "another node's");
    assert_eq!(one(of(0.99, Place::Vm { node: "n1".to_owned(), uid: "u".to_owned() })), Blame::Unsure, "one VM's");
    assert_eq!(one(candidate("KubeletDown", 0.99, here())), Blame::Unsure, "of another fault");
    assert_eq!(one(of(0.3, shared())), Blame::Shared);
    assert_eq!(one(of(0.29, shared())), Blame::Unsure);
    let open = Candidate { may_be_at: Some(shared()), ..of(0.99, here()) };
    assert_eq!(one(open), Blame::Shared, "nobody can tell whether it is the node or what nodes share");
    let both = [attribution("n1", vec![of(0.95, here())], vec![]), attribution("n1", vec![of(0.4, shared())], vec![])];
    assert_eq!(blame(&both), Blame::Shared);
    let elsewhere =
        [attribution("n1", vec![of(0.95, here())], vec![]), attribution("n2", vec![of(0.9, shared())], vec![])];
    assert_eq!(blame(&elsewhere), Blame::Own, "what other nodes share");
    let beside = attribution("n1", vec![candidate("KubeletDown", 0.99, here())], vec![of(0.95, here())]);
    assert_eq!(blame(&[beside]), Blame::Own, "beside the first cause");
    let path = Place::Path { from: "n2".to_owned(), to: "n1".to_owned() };
    assert_eq!(blame(&[attribution("n2", vec![of(0.9, path)], vec![])]), Blame::Shared);
}

#[test]
fn diagnosis_confirms_what_a_node_shows_of_itself() {
    let mut node = well("n1");
    set(&mut node, FindingCode::KvmDeviceMissing, Status::Present);
    let snapshot = snapshot(vec![node]);
    let indexed = Indexed::new(&snapshot);
    let attributions: Vec<_> = indexed.symptoms().iter().map(|symptom| indexed.attribute(symptom)).collect();
    let verdicts = judge(&snapshot, &attributions, &Incidents::default(), NpdMode::Coexist);
    let kvm = &verdicts[0].judged[0];
    assert_eq!((kvm.truth, kvm.blame), (Truth::True, Blame::Own), "{attributions:#?}");
}

#[test]
fn the_page_has_every_condition_and_all_that_feeds_it() {
    let page = conditions_markdown();
    for condition in NodeCondition::ALL {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", type_of(condition)))).unwrap();
        assert!(condition.findings().all(|spec| row.contains(&format!("`{}`", spec.code))), "{row}");
    }
}

fn npd(node: NodeView) -> Vec<NpdJudged> {
    judge(&snapshot(vec![node]), &[], &Incidents::default(), NpdMode::Replace).remove(0).npd
}

#[test]
fn types_of_node_problem_detector_are_judged_only_in_its_place() {
    let verdicts = judge(&snapshot(vec![well("n1")]), &[], &Incidents::default(), NpdMode::Coexist);
    assert_eq!(verdicts[0].npd, []);
    let npd = npd(well("n1"));
    assert_eq!(npd.iter().map(|own| own.condition).collect::<Vec<_>>(), NpdCondition::ALL);
    assert!(npd.iter().all(|own| own.truth == Truth::False && own.reason == own.condition.well()), "{npd:#?}");
}

#[test]
fn each_finding_makes_its_type_of_node_problem_detector_true_with_its_reason_and_no_other() {
    for condition in NpdCondition::ALL {
        for code in condition.findings() {
            let (spec, mut node) = (code.spec(), well("n1"));
            match spec.kind {
                Kind::State => set(&mut node, code, Status::Present),
                Kind::Occurrence => happened(&mut node, code, subject(spec), 1),
            }
            for own in npd(node) {
                let want = if own.condition == condition {
                    (Truth::True, condition.fault())
                } else {
                    (Truth::False, own.condition.well())
                };
                assert_eq!((own.truth, &*own.reason), want, "{code}: {own:?}");
            }
        }
    }
}

#[test]
fn types_of_node_problem_detector_are_unknown_where_nobody_looked() {
    let mut node = well("n1");
    set(&mut node, FindingCode::KubeletInactive, Status::Unknown);
    let of = |node: NodeView, condition: NpdCondition| {
        let own = npd(node).into_iter().find(|own| own.condition == condition).unwrap();
        (own.truth, own.reason)
    };
    assert_eq!(of(node.clone(), NpdCondition::KubeletUnhealthy), (Truth::Unknown, "NotSeen".to_owned()));
    assert_eq!(of(node.clone(), NpdCondition::ReadonlyFilesystem).0, Truth::False);
    node.states.retain(|state| state.code != FindingCode::ProbeBlind);
    assert_eq!(of(node.clone(), NpdCondition::ReadonlyFilesystem), (Truth::Unknown, "ProbeMissing".to_owned()));
    node.is_reporting = false;
    assert!(npd(node).iter().all(|own| (own.truth, &*own.reason) == (Truth::Unknown, "AgentSilent")));
}
