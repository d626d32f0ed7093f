//! Could a VM migrate: what the hosts show of the source, of each target and of the way, and how the answer is decided.

use kulprit_cluster::{Check, NodeFit, Preflight};
use kulprit_model::{
    Attributes, FindingCode, Severity, Status, Subject,
    attribute::WHAT,
    catalogue::{CATALOGUE, Kind},
    subject::SubjectType,
};

use crate::{CanMigrate, CandidateNode, Fit, MigrationAnswer, can_migrate, catalogue, testing::*};

/// The VM `prod/db-0` on `n1`, Kubernetes watched, and a node `n2` beside it; everything looked at and well.
fn well() -> World {
    let mut world = World::well().in_kubernetes().with_second_node();
    world.snapshot.cluster_sight.is_watched = true;
    world
}

/// Nothing of Kubernetes is in the way.
fn free() -> Preflight {
    let node = |name: &str| NodeFit { name: name.to_owned(), ..NodeFit::default() };
    Preflight { source: Some("n1".to_owned()), nodes: vec![node("n2")], ..Preflight::default() }
}

fn check_of(what: &str) -> Check {
    Check { what: what.to_owned(), source: "an object".to_owned(), fix: String::new() }
}

fn ask(world: &World, preflight: Preflight) -> CanMigrate {
    can_migrate(&world.snapshot, &world.snapshot.cluster_vms[0], preflight, None)
}

#[track_caller]
fn check(world: &World, preflight: Preflight, answer: MigrationAnswer, because: &str) {
    let found = ask(world, preflight);
    assert_eq!((found.answer, found.because.as_str()), (answer, because), "{found:#?}");
}

fn n2_has(code: FindingCode) -> World {
    let unit = if code.spec().probe == "runtime" { "containerd.service" } else { "kubelet.service" };
    let subject = match code.spec().subject {
        SubjectType::Unit => Subject::unit(unit),
        SubjectType::Mount => Subject::Mount { point: "/var".to_owned() },
        _ => Subject::Node,
    };
    well().set_on("n2", mk_state(code, subject, Status::Present, 60))
}

fn target(found: CanMigrate) -> CandidateNode {
    found.nodes.into_iter().next().expect("the node that was asked for")
}

#[test]
fn two_nodes_that_are_well_are_a_yes() {
    let found = ask(&well(), free());
    assert_eq!((found.answer, found.because.as_str()), (MigrationAnswer::Yes, "n2 fits"), "{found:#?}");
    assert!(found.blockers.is_empty() && found.warnings.is_empty() && found.unknown.is_empty(), "{found:#?}");
    assert_eq!(target(found).fit, Fit::Fits);
}

#[test]
fn what_kubernetes_says_decides_before_the_hosts() {
    let blocked = Preflight { blockers: vec![check_of("it is off"), check_of("and more")], ..free() };
    check(&well(), blocked, MigrationAnswer::No, "it is off; and 1 more");
    let unknown = Preflight { unknown: vec!["not every Node is known".to_owned()], ..free() };
    check(&well(), unknown, MigrationAnswer::Unknown, "not every Node is known");
    let warned = Preflight { warnings: vec![check_of("it would wait")], ..free() };
    check(&well(), warned, MigrationAnswer::YesWithWarnings, "n2 fits; but it would wait");
    let misfit =
        |name: &str| NodeFit { name: name.to_owned(), misfits: vec![check_of("it is cordoned")], unknown: vec![] };
    let one = Preflight { nodes: vec![misfit("n2")], ..free() };
    check(&well(), one, MigrationAnswer::No, "n2 does not fit: it is cordoned");
    let two = Preflight { nodes: vec![misfit("n2"), misfit("n3")], ..free() };
    check(&well(), two, MigrationAnswer::No, "none of the 2 other nodes fits: it is cordoned, and so on");
    check(&well(), Preflight { nodes: vec![], ..free() }, MigrationAnswer::No, "there is no other node");
}

#[test]
fn a_fault_of_the_target_stops_it_there_and_is_named() {
    for (code, cause) in [
        (FindingCode::KvmDeviceMissing, "KvmDeviceMissing"),
        (FindingCode::KvmUnusable, "KvmUnusable"),
        (FindingCode::FilesystemFull, "NodeDiskFull"),
        (FindingCode::KubeletInactive, "KubeletDown"),
        (FindingCode::RuntimeUnresponsive, "ContainerRuntimeHung"),
        (FindingCode::PacketFilterDrops, "MigrationPathUnreachable"),
    ] {
        let found = ask(&n2_has(code), free());
        assert_eq!(found.answer, MigrationAnswer::No, "{code}: {found:#?}");
        let n2 = target(found);
        assert_eq!((n2.fit, n2.misfits[0].cause), (Fit::DoesNotFit, cause), "{code}: {n2:#?}");
        assert!(n2.misfits[0].what.starts_with("n2: ") && n2.misfits[0].source.ends_with(" on n2"), "{n2:#?}");
        assert!(!n2.misfits[0].fix.is_empty() && catalogue::find(cause).is_some());
    }
}

/// What a node can show as broken is told where a VM is to come there: as what stops it, or as a warning.
#[test]
fn no_fault_of_a_node_is_passed_over() {
    let is_of_node =
        |subject: SubjectType| matches!(subject, SubjectType::Node | SubjectType::Unit | SubjectType::Mount);
    let faults = CATALOGUE.iter().filter(|spec| {
        spec.kind == Kind::State
            && spec.severity == Severity::Fault
            && is_of_node(spec.subject)
            && spec.probe != "cluster"
    });
    let passed_over: Vec<FindingCode> = faults
        .map(|spec| spec.code)
        .filter(|code| {
            let n2 = target(ask(&n2_has(*code), free()));
            n2.misfits.is_empty() && n2.warnings.is_empty()
        })
        .collect();
    assert_eq!(passed_over, []);
}

// KUBEVIRT 9.3: with pressure alone a migration went well.
#[test]
fn what_is_no_proof_is_a_warning() {
    let found = ask(&n2_has(FindingCode::NodeMemoryStalled), free());
    assert_eq!(found.answer, MigrationAnswer::YesWithWarnings, "{found:#?}");
    assert_eq!(found.because, "n2 fits; but n2: NodeMemoryStalled as seen");
}

#[test]
fn a_fault_of_the_source_stops_it_everywhere() {
    let hung = well().vm_has(FindingCode::DomainControlOccupied, 60);
    let found = ask(&hung, free());
    assert_eq!(found.answer, MigrationAnswer::No, "{found:#?}");
    assert_eq!(found.blockers[0].cause, "QemuMonitorHung", "{found:#?}");
    assert_eq!(target(found).fit, Fit::Fits, "nothing is wrong with the target");
}

#[test]
fn who_drains_a_node_means_its_vms_to_leave() {
    let world = well().node_shown("n1", FindingCode::NodeCordoned, 60, Attributes::new());
    check(&world, free(), MigrationAnswer::Yes, "n2 fits");
}

#[test]
fn another_vms_trouble_is_not_this_ones() {
    let other = mk_state(FindingCode::DomainControlOccupied, Subject::vm(OTHER_UID), Status::Present, 60);
    check(&well().set_on("n1", other.clone()), free(), MigrationAnswer::Yes, "n2 fits");
    check(&well().set_on("n2", other), free(), MigrationAnswer::Yes, "n2 fits");
}

#[test]
fn what_kubernetes_shows_of_a_target_counts_without_an_agent_too() {
    let world = well().node_shown("n2", FindingCode::NodePressureReported, 60, Attributes::new().with(WHAT, "disk"));
    let n2 = target(ask(&world, free()));
    assert_eq!((n2.fit, n2.misfits[0].cause), (Fit::DoesNotFit, "NodeDiskFull"), "{n2:#?}");
}

#[test]
fn a_node_that_nobody_sees_is_never_fine() {
    let mut gone = well();
    gone.snapshot.nodes.pop();
    let found = ask(&gone, free());
    assert_eq!(found.answer, MigrationAnswer::Unknown, "{found:#?}");
    assert!(found.because.contains("no agent of this node has ever reported"), "{}", found.because);
    let n2 = target(found);
    assert_eq!(
        (n2.fit, n2.unknown.as_slice()),
        (Fit::Unseen, &["n2: no agent of this node has ever reported".to_owned()][..])
    );

    let silent = well().silent();
    let found = ask(&silent, free());
    assert_eq!(found.answer, MigrationAnswer::Unknown, "of the source nothing is known: {found:#?}");
    assert!(found.unknown[0].starts_with("n1: its agent was last heard"), "{found:#?}");
}

#[test]
fn a_look_that_failed_is_told_and_no_clean_yes() {
    let mut world = well();
    let blind = world.snapshot.nodes[1].states.iter_mut().filter(|state| state.code.spec().probe == "kvm");
    blind.for_each(|state| {
        state.status = Status::Unknown;
        state.unknown_because = Some("permission denied".to_owned());
    });
    let found = ask(&world, free());
    assert_eq!(found.answer, MigrationAnswer::YesWithWarnings, "{found:#?}");
    let n2 = target(found);
    assert_eq!(n2.fit, Fit::FitsWithWarnings);
    assert!(n2.unknown.iter().any(|sentence| sentence.contains("/dev/kvm")), "{n2:#?}");
}

#[test]
fn those_that_fit_come_first_and_one_can_be_asked_for_alone() {
    let node = |name: &str, misfits: Vec<Check>| NodeFit { name: name.to_owned(), misfits, unknown: vec![] };
    let nodes = vec![node("a-full", vec![check_of("full")]), node("b-unseen", vec![]), node("n2", vec![])];
    let world = well();
    let found = ask(&world, Preflight { nodes: nodes.clone(), ..free() });
    let order: Vec<_> = found.nodes.iter().map(|node| (node.name.as_str(), node.fit)).collect();
    assert_eq!(order, [("n2", Fit::Fits), ("b-unseen", Fit::Unseen), ("a-full", Fit::DoesNotFit)]);
    assert_eq!((found.answer, found.because.as_str()), (MigrationAnswer::Yes, "n2 fits"));
    let vm = &world.snapshot.cluster_vms[0];
    let only = can_migrate(&world.snapshot, vm, Preflight { nodes, ..free() }, Some("a-full"));
    assert_eq!((only.nodes.len(), only.because.as_str()), (1, "a-full does not fit: full"));
}
