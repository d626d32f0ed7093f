//! Faults of the node itself, and VMs beside them.

use kulprit_model::{
    Attributes, FindingCode, Status, Subject,
    attribute::{EXIT_CODE, RESULT, SIGNATURE},
    said::{actor, class, operation},
};

use super::*;
use crate::catalogue::Scope;

#[test]
fn each_fault_of_the_node_is_named() {
    for (code, cause) in [
        (FindingCode::KubeletInactive, "KubeletDown"),
        (FindingCode::KubeletRestartLoop, "KubeletDegraded"),
        (FindingCode::KubeletHealthzFailing, "KubeletDegraded"),
        (FindingCode::KubeletProcessStalled, "KubeletDegraded"),
        (FindingCode::KvmDeviceMissing, "KvmDeviceMissing"),
        (FindingCode::KvmDeviceInaccessible, "KvmDeviceInaccessible"),
        (FindingCode::KvmUnusable, "KvmUnusable"),
        (FindingCode::LibvirtUnreachable, "LibvirtDaemonDown"),
        (FindingCode::LibvirtUnresponsive, "LibvirtDaemonHung"),
    ] {
        let answer = World::well().node_has(code, 60).why_node();
        check(&answer, &[cause]);
        assert_eq!(answer.causes[0].node.as_deref(), Some("n1"));
        assert_eq!(incident_key(&answer), Some((cause, Place::Node { node: "n1".to_owned() })));
        assert!(!answer.causes[0].remedy.safe_to_force_delete);
    }
}

#[test]
fn a_kubelet_that_failed_after_a_restart_loop_is_down() {
    let world = World::well().node_has(FindingCode::KubeletRestartLoop, 300).node_has(FindingCode::KubeletInactive, 60);
    check(&world.why_node(), &["KubeletDown"]);
}

/// Before it was stopped, the kubelet could not read its configuration.
#[test]
fn a_kubelet_that_was_stopped_is_not_set_up_wrong_whatever_it_said_before() {
    let ended = |result: &str| {
        let invalid = said(actor::KUBELET, operation::REPORT_STATUS, class::INVALID);
        let invalid = invalid.with(SIGNATURE, "kubelet-config-invalid");
        let inactive = mk_state(FindingCode::KubeletInactive, Subject::unit("kubelet.service"), Status::Present, 60);
        let inactive = State { attributes: Attributes::new().with(RESULT, result), ..inactive };
        World::well().node_said("n1", 65, invalid).set(inactive).why_node()
    };
    check(&ended("success"), &["KubeletDown"]);
    check(&ended("exit-code"), &["KubeletMisconfigured", "KubeletDown"]);
}

#[test]
fn what_a_node_said_a_minute_before_its_fault_was_of_something_else() {
    let why = |secs| {
        let invalid = said(actor::KUBELET, operation::REPORT_STATUS, class::INVALID);
        let invalid = invalid.with(SIGNATURE, "kubelet-config-invalid");
        World::well().node_said("n1", secs, invalid).node_has(FindingCode::KvmDeviceInaccessible, 60).why_node()
    };
    check(&why(121), &["KvmDeviceInaccessible"]);
    check(&why(120), &["KubeletMisconfigured", "KvmDeviceInaccessible"]);
}

#[test]
fn two_faults_of_one_node_stand_beside_each_other() {
    let world = World::well().node_has(FindingCode::KubeletInactive, 300).node_has(FindingCode::KvmDeviceMissing, 60);
    let answer = world.why_node();
    check(&answer, &["KubeletDown"]);
    assert_eq!(contributing(&answer), ["KvmDeviceMissing"]);
    assert!(answer.contributing[0].explains, "either could be named for the node");
}

/// Ten minutes before its runtime hung, the node logged a memory error: true, and not why the runtime hangs.
#[test]
fn what_happened_on_a_node_explains_none_of_its_faults_by_being_sure() {
    let world = World::well().happened(FindingCode::HardwareMemoryError, Subject::Node, 600, Attributes::new());
    let runtime = Subject::unit("containerd.service");
    let hung = world.set(mk_state(FindingCode::RuntimeUnresponsive, runtime, Status::Present, 60)).why_node();
    check(&hung, &["ContainerRuntimeHung"]);
    assert_eq!(contributing(&hung), ["HardwareMemoryError"]);
    assert!(!hung.contributing[0].explains && hung.causes[0].explains);
}

#[test]
fn no_fault_of_a_vm_is_blamed_on_its_node() {
    let answer = frozen_disk(60).node_has(FindingCode::KubeletInactive, 60).why_node();
    check(&answer, &["KubeletDown"]);
    assert_eq!(contributing(&answer), Vec::<&str>::new());
}

#[test]
fn nothing_that_sits_in_one_vm_is_said_of_a_node() {
    let well = World::well().node_has(FindingCode::LibvirtUnreachable, 60);
    let stranger = Subject::Process { pid: 99, start_ticks: 0 };
    let killed = World::well().node_has(FindingCode::LibvirtUnreachable, 60).happened(
        FindingCode::NodeOomKill,
        stranger,
        60,
        Attributes::new(),
    );
    for (answer, chain) in [
        (well.why_node(), ["LibvirtDaemonDown"].as_slice()),
        (killed.why_node(), ["NodeMemoryExhausted", "LibvirtDaemonDown"].as_slice()),
    ] {
        check(&answer, chain);
        let ruled_out = answer.ruled_out.iter().map(|out| out.id);
        let beside = answer.causes.iter().chain(&answer.contributing).flat_map(|cause| cause.chain.iter().copied());
        for id in ruled_out.chain(beside) {
            let scope = crate::catalogue::find(id).expect("an id of the catalogue").scope;
            assert!(id == "Unexplained" || scope != Scope::Vm, "{id}{}", table(&answer));
        }
        assert!(answer.ruled_out.iter().any(|out| out.id == "KubeletDown"), "{:?}", answer.ruled_out);
    }
}

#[test]
fn what_another_state_makes_meaningless_is_no_blind_spot() {
    for (code, moot) in [
        (FindingCode::KubeletInactive, FindingCode::KubeletHealthzFailing),
        (FindingCode::KubeletInactive, FindingCode::KubeletProcessStalled),
        (FindingCode::KvmDeviceMissing, FindingCode::KvmUnusable),
        (FindingCode::KvmDeviceInaccessible, FindingCode::KvmUnusable),
        (FindingCode::LibvirtUnreachable, FindingCode::LibvirtUnresponsive),
    ] {
        let world = World::well().node_has(code, 60);
        let subject = world.snapshot.nodes[0].states.iter().find(|state| state.code == moot).expect("it is looked at");
        let not_known = mk_state(moot, subject.subject.clone(), Status::Unknown, 60);
        let is_named = |answer: Attribution| answer.unknown.iter().any(|text| text.contains(moot.as_str()));
        assert!(!is_named(world.set(not_known.clone()).why_node()), "{moot} while {code}");
        // Without that reason it is one.
        let other = if code == FindingCode::KubeletInactive {
            FindingCode::LibvirtUnreachable
        } else {
            FindingCode::KubeletInactive
        };
        assert!(is_named(World::well().node_has(other, 60).set(not_known).why_node()), "{moot} while {other}");
    }
}

#[test]
fn a_node_that_fell_silent_is_unexplained_and_says_so() {
    let world = World::well().node_has(FindingCode::KubeletInactive, 60);
    let symptom = world.symptoms().remove(0);
    let world = world.silent();
    let answer = crate::attribute(&world.snapshot, &symptom);
    check(&answer, &["Unexplained"]);
    assert!(answer.unknown[0].contains("last heard 1 min ago"), "{:?}", answer.unknown);
    assert_eq!(answer.looked_at, Vec::<String>::new());
}

#[test]
fn a_stopping_pod_without_a_kubelet_is_the_kubelets_fault() {
    let world =
        World::well().kubevirt().node_has(FindingCode::KubeletInactive, 600).domain(libvirt::SHUTTING_DOWN, 1, 100);
    check(&world.why(), &["KubeletDown"]);
}

#[test]
fn a_kubelet_has_no_say_in_a_plain_libvirt_domain() {
    for code in [FindingCode::KubeletInactive, FindingCode::KubeletRestartLoop, FindingCode::KubeletProcessStalled] {
        let world = World::well().node_has(code, 600).vm_has(FindingCode::GuestShutdownRequested, 300);
        let answer = world.why();
        check(&answer, &["GuestIgnoresShutdown"]);
        assert_eq!(contributing(&answer), Vec::<&str>::new());
    }
}

#[test]
fn a_running_vm_is_no_victim_of_a_missing_kvm() {
    for code in [FindingCode::KvmDeviceMissing, FindingCode::KvmDeviceInaccessible, FindingCode::KvmUnusable] {
        let world = World::well().node_has(code, 600).vm_has(FindingCode::QemuStopped, 60);
        check(&world.why(), &["QemuMonitorHung"]);
        check(&World::well().node_has(code, 600).why_symptom(SymptomId::Unspecified, 0), &["Unexplained"]);
    }
}

#[test]
fn a_vm_that_is_off_is_told_that_kvm_is_missing() {
    for (code, cause) in [
        (FindingCode::KvmDeviceMissing, "KvmDeviceMissing"),
        (FindingCode::KvmDeviceInaccessible, "KvmDeviceInaccessible"),
        (FindingCode::KvmUnusable, "KvmUnusable"),
    ] {
        let world =
            World::well().domain(libvirt::SHUTOFF, 1, 600).qemu_ended(600, Attributes::new()).node_has(code, 60);
        check(&world.why_symptom(SymptomId::Unspecified, 0), &[cause]);
    }
}

#[test]
fn a_start_that_failed_without_kvm_is_no_crash() {
    for (code, cause) in [
        (FindingCode::KvmDeviceMissing, "KvmDeviceMissing"),
        (FindingCode::KvmDeviceInaccessible, "KvmDeviceInaccessible"),
        (FindingCode::KvmUnusable, "KvmUnusable"),
    ] {
        let failed = || {
            World::well()
                .domain(libvirt::SHUTOFF, libvirt::SHUTOFF_FAILED, 60)
                .qemu_ended(61, Attributes::new().with(EXIT_CODE, 1))
        };
        check(&failed().node_has(code, 600).why(), &[cause]);
        check(&failed().why(), &["Unexplained"]);
    }
}

#[test]
fn a_missing_kvm_does_not_hide_a_kill() {
    check(&dead(60, signal(9)).node_has(FindingCode::KvmDeviceMissing, 600).why(), &["QemuKilled"]);
}

#[test]
fn the_firmwares_word_lasts_for_the_boot_and_proves_nothing_alone() {
    let score = |world: World| world.why_symptom(SymptomId::Unspecified, 0);
    let off = || World::well().domain(libvirt::SHUTOFF, 1, 600).qemu_ended(600, Attributes::new());
    let told =
        |world: World, secs| world.happened(FindingCode::KvmDisabledByFirmware, Subject::Node, secs, Attributes::new());
    let db = |answer: &Attribution| {
        answer.causes.iter().find(|cause| cause.id == "KvmUnusable").expect("a candidate").score_db
    };
    let unusable = || off().node_has(FindingCode::KvmUnusable, 60);
    let (without, with) = (score(unusable()), score(told(unusable(), 50 * 3_600)));
    assert!((db(&with) - db(&without) - 4.2).abs() < 1e-9, "some, of the node{}", table(&with));
    check(&score(told(off(), 60)), &["Unexplained"]);
}
