//! Nodes that share a thing: all of them are one incident, be it two or five hundred, and one that fails alone is itself to blame.

use kulprit_model::{
    Attributes, FindingCode, State, Status, Subject,
    attribute::{BACKEND, SERVER, WAIT, WAIT_NETWORK_STORAGE},
};

use crate::{
    Indexed, Place, Snapshot, Symptom, SymptomSubject, incident_key,
    testing::{World, mk_state},
};

/// What a node says of the server behind its mount.
#[derive(Clone, Copy)]
struct Node {
    server: &'static str,
    status: Status,
    since_secs: i64,
}

const fn lost(since_secs: i64) -> Node {
    Node { server: "nas.example", status: Status::Present, since_secs }
}

const fn well(server: &'static str, since_secs: i64) -> Node {
    Node { server, status: Status::Absent, since_secs }
}

/// Each node has one VM, which waits for its disk where the server is lost.
fn snapshot(nodes: &[Node]) -> Snapshot {
    let mut world = World::well().in_kubernetes();
    let (healthy, vm) = (world.node().clone(), world.cluster_vm().clone());
    let mut snapshot = world.snapshot;
    snapshot.nodes.clear();
    snapshot.cluster_vms.clear();
    for (n, Node { server, status, since_secs }) in nodes.iter().enumerate() {
        let (name, uid) = (format!("n{n:03}"), format!("0b2c0b2c-0000-4000-8000-{n:012}"));
        let mut node = healthy.clone();
        node.name.clone_from(&name);
        node.vms.truncate(1);
        node.vms[0].uid.clone_from(&uid);
        node.vms[0].name = format!("prod_db-{n}");
        node.states.retain(|state| state.subject.vm_uid().is_none());
        let waits = Attributes::new().with(WAIT, WAIT_NETWORK_STORAGE);
        let stalled = mk_state(FindingCode::VmDiskStalled, Subject::vm(&uid), *status, since_secs - 5);
        let mount = Subject::Mount { point: "/mnt/nas".to_owned() };
        let silent = mk_state(FindingCode::BackendUnreachable, mount, *status, *since_secs);
        let server = Attributes::new().with(BACKEND, "nfs").with(SERVER, server);
        node.states.push(State { attributes: waits, ..stalled });
        node.states.push(State { attributes: server, ..silent });
        snapshot.nodes.push(node);
        let mut vm = vm.clone();
        vm.name = format!("db-{n}");
        vm.uids = vec![uid.clone()];
        vm.pods[0].name = format!("virt-launcher-db-{n}-abcde");
        vm.pods[0].uid = Some(format!("pod-{uid}"));
        vm.pods[0].node = Some(name.clone());
        vm.volumes = vec![format!("db-{n}-rootdisk")];
        (vm.uid, vm.hosting) = (uid, Some(name));
        snapshot.cluster_vms.push(vm.into());
    }
    snapshot
}

/// The place of every symptom: the thing that is shared, or the symptom's own node.
#[track_caller]
fn check(nodes: &[Node], is_shared: bool) {
    let snapshot = snapshot(nodes);
    let indexed = Indexed::new(&snapshot);
    let symptoms = indexed.symptoms();
    let n_lost = nodes.iter().filter(|node| node.status == Status::Present).count();
    assert_eq!(symptoms.len(), 2 * n_lost, "a node and its VM each");
    for symptom in &symptoms {
        let (SymptomSubject::Vm { node, .. } | SymptomSubject::Node { node }) = symptom.subject.clone();
        let place = if is_shared { Place::Shared { thing: "nas.example".to_owned() } } else { Place::Node { node } };
        let key = incident_key(&indexed.attribute(symptom));
        assert_eq!(key, Some(("StorageBackendUnreachable", place)), "{:?}", symptom.subject);
    }
}

#[test]
fn a_node_that_fails_alone_is_one_incident_with_its_vm_at_the_node() {
    check(&[lost(100), well("nas.example", 3_600)], false);
    // Who else uses it is not known.
    check(&[lost(100), well("other.example", 3_600)], false);
}

#[test]
fn two_nodes_and_their_vms_are_one_incident_however_long_one_fell_ill_after_the_other() {
    check(&[lost(100), lost(98)], true);
    check(&[lost(1_000), lost(40)], true);
}

#[test]
fn nodes_that_use_another_server_are_no_witnesses() {
    let other = well("other.example", 3_600);
    check(&[lost(100), lost(98), other, other, other, other], true);
}

#[test]
fn a_thing_is_at_fault_when_four_of_five_that_use_it_show_it() {
    let others = |n: usize| vec![well("nas.example", 3_600); n];
    check(&[[lost(100); 4].to_vec(), others(1)].concat(), true);
    check(&[[lost(100); 3].to_vec(), others(1)].concat(), false);
}

#[test]
fn the_others_have_half_a_minute_to_notice() {
    let nodes = |secs: i64| [lost(100), lost(secs), well("nas.example", 3_600), well("nas.example", 3_600)];
    check(&nodes(29), true);
    check(&nodes(30), false);
}

#[test]
fn a_node_that_was_found_well_again_since_does_not_witness_against_it() {
    let recovered = well("nas.example", 20);
    check(&[lost(100), lost(90), recovered, recovered, recovered], true);
}

#[test]
fn who_uses_it_alone_or_is_the_last_may_still_be_told_of_it() {
    let may_be = |nodes: &[Node]| {
        let snapshot = snapshot(nodes);
        let indexed = Indexed::new(&snapshot);
        let first = |symptom: &Symptom| indexed.attribute(symptom).causes[0].may_be_at.clone();
        indexed.symptoms().iter().map(first).collect::<Vec<_>>()
    };
    let nas = Some(Place::Shared { thing: "nas.example".to_owned() });
    assert_eq!(may_be(&[lost(100)]), [nas.clone(), nas.clone()]);
    assert_eq!(may_be(&[lost(100), well("nas.example", 20)]), [nas.clone(), nas]);
    assert_eq!(may_be(&[lost(100), well("nas.example", 3_600)]), [None, None]);
}

#[test]
fn five_hundred_nodes_that_lose_one_backend_and_their_vms_have_one_cause() {
    check(&[lost(100); 500], true);
}
