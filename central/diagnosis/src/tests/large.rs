//! Many nodes at once: one thing that they share is one cause.

use kulprit_model::{
    Attributes, FindingCode, State, Status, Subject,
    attribute::{BACKEND, SERVER, WAIT, WAIT_NETWORK_STORAGE},
};

use crate::{
    Indexed, Place, Symptom, SymptomId, incident_key,
    testing::{World, mk_state},
};

#[test]
fn vms_on_five_hundred_nodes_that_lose_one_backend_have_one_cause() {
    let mut world = World::well().in_kubernetes();
    let (well, vm) = (world.node().clone(), world.cluster_vm().clone());
    let mut snapshot = world.snapshot;
    snapshot.nodes.clear();
    snapshot.cluster_vms.clear();
    for n in 0..500 {
        let (name, uid) = (format!("n{n:03}"), format!("0b2c0b2c-0000-4000-8000-{n:012}"));
        let mut node = well.clone();
        node.name.clone_from(&name);
        node.vms.truncate(1);
        node.vms[0].uid.clone_from(&uid);
        node.vms[0].name = format!("prod_db-{n}");
        node.states.retain(|state| state.subject.vm_uid().is_none());
        let waits = Attributes::new().with(WAIT, WAIT_NETWORK_STORAGE);
        let stalled = mk_state(FindingCode::VmDiskStalled, Subject::vm(&uid), Status::Present, 100);
        let mount = Subject::Mount { point: "/mnt/nas".to_owned() };
        let silent = mk_state(FindingCode::BackendUnreachable, mount, Status::Present, 110);
        let server = Attributes::new().with(BACKEND, "nfs").with(SERVER, "nas.example");
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
    let indexed = Indexed::new(&snapshot);
    let of_vms: Vec<Symptom> = indexed.symptoms().into_iter().filter(|symptom| symptom.subject.is_vm()).collect();
    assert_eq!(of_vms.len(), 500);
    for symptom in of_vms.iter().step_by(50) {
        assert_eq!(symptom.id, SymptomId::Unresponsive);
        let key = incident_key(&indexed.attribute(symptom));
        let thing = Place::Shared { thing: "nas.example".to_owned() };
        assert_eq!(key, Some(("StorageBackendUnreachable", thing)), "{:?}", symptom.subject);
    }
}
