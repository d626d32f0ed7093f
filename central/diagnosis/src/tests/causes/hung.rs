//! QEMU lives and does not move: blocked in the kernel, stopped, its monitor or its daemon hung.

use kulprit_model::{
    Attributes, FindingCode, Status, Subject,
    attribute::{WAIT_MEMORY, WAIT_NETWORK_STORAGE, WAIT_OTHER},
};

use super::*;

#[test]
fn a_frozen_disk_is_the_root_of_a_blocked_qemu() {
    let answer = frozen_disk(60).why();
    check(&answer, &["LocalDiskStalled", "QemuBlockedInKernel"]);
    let place = Place::Device { node: "n1".to_owned(), device: "7:3".to_owned() };
    assert_eq!(incident_key(&answer), Some(("LocalDiskStalled", place)));
    assert!(!answer.causes.iter().any(|cause| cause.id == "QemuBlockedInKernel"), "shown in the chain, not beside it");
}

#[test]
fn a_frozen_disk_under_a_killed_qemu_is_why_it_does_not_stop() {
    let answer = frozen_disk(600).vm_has(FindingCode::QemuTerminationPending, 60).why();
    assert_eq!(answer.symptom.id, SymptomId::StuckStopping);
    check(&answer, &["LocalDiskStalled", "QemuBlockedInKernel"]);
    assert!(!answer.causes[0].remedy.safe_to_force_delete);
}

#[test]
fn a_blocked_qemu_that_holds_its_monitor_is_a_chain_of_three() {
    let answer = frozen_disk(60).vm_has(FindingCode::DomainControlOccupied, 50).why();
    check(&answer, &["LocalDiskStalled", "QemuBlockedInKernel", "QemuMonitorHung"]);
    // A monitor that hangs only long after is a consequence, and not on the way to the symptom.
    let answer = frozen_disk(600).vm_has(FindingCode::DomainControlOccupied, 50).why();
    check(&answer, &["LocalDiskStalled", "QemuBlockedInKernel"]);
}

#[test]
fn what_waits_for_the_network_does_not_blame_the_local_disk() {
    for (wait, chain) in [
        (WAIT_NETWORK_STORAGE, vec!["StorageBackendUnreachable", "QemuBlockedInKernel"]),
        (WAIT_MEMORY, vec!["QemuBlockedInKernel"]),
        (WAIT_OTHER, vec!["QemuBlockedInKernel"]),
    ] {
        let world = World::well().vm_has(FindingCode::QemuThreadBlocked, 60).vm_has_with(
            FindingCode::VmDiskStalled,
            60,
            waits_for(wait),
        );
        let answer = world.why();
        check(&answer, &chain);
        assert!(probability(&answer, "LocalDiskStalled") < 0.01, "{}", table(&answer));
    }
}

#[test]
fn a_hung_task_line_alone_suspects_a_blocked_qemu() {
    let world = World::well().blind("qemu").vm_has(FindingCode::DomainControlOccupied, 180).happened(
        FindingCode::HungTask,
        Subject::vm(UID),
        60,
        Attributes::new().with("blocked_secs", 122),
    );
    check(&world.why(), &["QemuBlockedInKernel", "QemuMonitorHung"]);
}

#[test]
fn a_stopped_qemu_does_not_answer_its_monitor() {
    let answer = World::well().vm_has(FindingCode::QemuStopped, 60).why();
    check(&answer, &["QemuMonitorHung"]);
    assert!(answer.causes[0].evidence.iter().any(|line| line.text == "QemuStopped as seen"));
    assert_eq!(incident_key(&answer).map(|key| key.1), Some(Place::Vm { node: "n1".to_owned(), uid: UID.to_owned() }));
}

#[test]
fn an_occupied_monitor_is_qemus_fault_while_the_daemon_answers() {
    let answer = World::well().vm_has(FindingCode::DomainControlOccupied, 60).why();
    check(&answer, &["QemuMonitorHung"]);
    assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "LibvirtDaemonHung"), "{:?}", answer.ruled_out);
}

#[test]
fn a_hung_daemon_is_its_own_fault_while_qemu_is_well() {
    for (code, cause) in [
        (FindingCode::LibvirtUnresponsive, "LibvirtDaemonHung"),
        (FindingCode::LibvirtUnreachable, "LibvirtDaemonDown"),
    ] {
        let mut world = World::well().node_has(code, 60);
        for state in world.node().states.iter_mut() {
            if state.code.spec().probe == "domain" && state.subject == Subject::vm(UID) {
                state.status = Status::Unknown;
            }
        }
        let answer = world.why();
        check(&answer, &[cause]);
        assert_eq!(incident_key(&answer).map(|key| key.1), Some(Place::Node { node: "n1".to_owned() }));
    }
}

#[test]
fn what_hung_after_the_onset_did_not_start_it() {
    // The monitor hangs since 600 s; the daemon hangs for 60 s.
    let answer =
        World::well().vm_has(FindingCode::QemuStopped, 600).node_has(FindingCode::LibvirtUnresponsive, 60).why();
    check(&answer, &["QemuMonitorHung"]);
    assert_eq!(contributing(&answer), Vec::<&str>::new());
}
