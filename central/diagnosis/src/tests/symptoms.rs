//! Who is in trouble, and who only lives its normal life.

use kulprit_model::{
    Attributes, FindingCode, Status, Subject,
    attribute::{EXIT_CODE, SIGNAL},
};

use crate::{SymptomId, libvirt, testing::*};

#[track_caller]
fn check(world: &World, want: Option<SymptomId>) {
    let found = world.symptoms().into_iter().find(|symptom| symptom.subject == vm_subject());
    assert_eq!(found.as_ref().map(|symptom| symptom.id), want, "{found:?}");
}

fn signal(number: u32) -> Attributes {
    Attributes::new().with(SIGNAL, number)
}

#[test]
fn a_healthy_node_shows_nothing() {
    assert_eq!(World::well().symptoms(), vec![]);
    assert_eq!(World::well().kubevirt().symptoms(), vec![]);
}

#[test]
fn normal_life_shows_nothing() {
    // Every paused reason of libvirt-domain.h that somebody asked for, and starting up.
    for reason in [0, 1, 2, 3, 4, 7, 8, 9, 11, 12] {
        check(&World::well().domain(libvirt::PAUSED, reason, 60), None);
    }
    // Every shut off reason that somebody asked for.
    for reason in [0, 1, 2, 4, 5, 7, 8] {
        for exit in [Attributes::new().with(EXIT_CODE, 0), signal(15), signal(9), Attributes::new()] {
            check(&World::well().domain(libvirt::SHUTOFF, reason, 60).qemu_ended(60, exit), None);
        }
    }
    for (state, reason) in
        [(libvirt::RUNNING, 5), (libvirt::RUNNING, 3), (libvirt::SUSPENDED, 0), (libvirt::BLOCKED, 0)]
    {
        check(&World::well().domain(state, reason, 60), None);
    }
}

#[test]
fn numbers_of_a_later_libvirt_show_nothing() {
    for (state, reason) in [(libvirt::PAUSED, 99), (libvirt::SHUTOFF, 99), (42, 1), (-1, -1)] {
        check(&World::well().domain(state, reason, 600), None);
    }
}

#[test]
fn paused_by_a_fault_is_unexpected() {
    for reason in [5, 6, 10, 13, 14] {
        check(&World::well().domain(libvirt::PAUSED, reason, 0), Some(SymptomId::PausedUnexpectedly));
    }
}

#[test]
fn starting_up_is_left_alone_for_five_minutes() {
    check(&World::well().domain(libvirt::PAUSED, libvirt::PAUSED_STARTING_UP, 299), None);
    check(
        &World::well().domain(libvirt::PAUSED, libvirt::PAUSED_STARTING_UP, 300),
        Some(SymptomId::PausedUnexpectedly),
    );
}

#[test]
fn a_guest_has_its_grace_and_margin_to_shut_down() {
    check(&World::well().vm_has(FindingCode::GuestShutdownRequested, 149), None);
    check(&World::well().vm_has(FindingCode::GuestShutdownRequested, 150), Some(SymptomId::StuckStopping));
}

#[test]
fn a_stop_is_stuck_from_the_end_of_the_grace_on() {
    let symptom = World::well().vm_has(FindingCode::GuestShutdownRequested, 200).symptom();
    assert_eq!(symptom.since_wall_usec, Some(ago(80).wall_usec));
}

#[test]
fn a_request_of_a_guest_that_is_off_again_is_no_symptom() {
    let world = World::well().vm_has(FindingCode::GuestShutdownRequested, 600).domain(libvirt::SHUTOFF, 1, 10);
    check(&world, None);
}

#[test]
fn a_killed_qemu_has_fifteen_seconds_to_end() {
    check(&World::well().vm_has(FindingCode::QemuTerminationPending, 14), None);
    check(&World::well().vm_has(FindingCode::QemuTerminationPending, 15), Some(SymptomId::StuckStopping));
}

#[test]
fn a_guest_that_has_shut_down_leaves_its_qemu_some_seconds() {
    check(&World::well().domain(libvirt::SHUTTING_DOWN, 1, 44), None);
    check(&World::well().domain(libvirt::SHUTTING_DOWN, 1, 45), Some(SymptomId::StuckStopping));
}

#[test]
fn shown_running_while_the_host_side_is_hung_is_unresponsive() {
    for code in [
        FindingCode::QemuThreadBlocked,
        FindingCode::VmDiskStalled,
        FindingCode::QemuStopped,
        FindingCode::QemuZombie,
        FindingCode::DomainControlOccupied,
        FindingCode::DomainControlError,
        FindingCode::LibvirtUnreachable,
        FindingCode::LibvirtUnresponsive,
    ] {
        let is_daemon = matches!(code, FindingCode::LibvirtUnreachable | FindingCode::LibvirtUnresponsive);
        let world = if is_daemon { World::well().node_has(code, 20) } else { World::well().vm_has(code, 20) };
        check(&world, Some(SymptomId::Unresponsive));
    }
}

#[test]
fn a_libvirt_that_is_down_leaves_guests_running_and_says_so() {
    let symptom = World::well().node_has(FindingCode::LibvirtUnreachable, 20).symptom();
    assert!(symptom.text.contains("runs on") && symptom.text.contains("does not run"), "{}", symptom.text);
}

#[test]
fn a_libvirt_that_is_down_is_no_symptom_of_a_vm_that_is_off() {
    let world = World::well().domain(libvirt::SHUTOFF, 1, 600).qemu_ended(600, Attributes::new());
    check(&world.node_has(FindingCode::LibvirtUnreachable, 20), None);
}

#[test]
fn with_a_daemon_per_pod_another_pods_daemon_is_not_this_vms() {
    let other = Subject::Libvirt { uri: "qemu+unix:///system?socket=/proc/1/root/run".to_owned() };
    let world = World::well().kubevirt().set(mk_state(FindingCode::LibvirtUnreachable, other, Status::Present, 20));
    check(&world, None);
}

#[test]
fn libvirt_saying_crashed_or_failed_is_stopped_unexpectedly() {
    for reason in [libvirt::SHUTOFF_CRASHED, libvirt::SHUTOFF_FAILED] {
        let world = World::well().domain(libvirt::SHUTOFF, reason, 60).qemu_ended(62, Attributes::new());
        check(&world, Some(SymptomId::StoppedUnexpectedly));
    }
    check(&World::well().domain(libvirt::CRASHED, 1, 60), Some(SymptomId::StoppedUnexpectedly));
}

#[test]
fn a_stop_began_when_the_process_ended_not_when_the_agent_came_back() {
    let symptom = World::well().domain(libvirt::SHUTOFF, 3, 60).qemu_ended(900, signal(9)).symptom();
    assert_eq!(symptom.since_wall_usec, Some(ago(900).wall_usec));
}

#[test]
fn a_crash_is_over_when_the_vm_runs_again() {
    let world = World::well().happened(FindingCode::DomainFailed, Subject::vm(UID), 60, Attributes::new());
    check(&world, None);
}

#[test]
fn a_dead_qemu_counts_only_when_libvirt_had_time_to_say_why() {
    check(&World::well().qemu_ended(9, signal(9)), None);
    check(&World::well().qemu_ended(10, signal(9)), Some(SymptomId::StoppedUnexpectedly));
    // It ended in order, and libvirt does not notice: the host side is gone while the VM is shown running.
    check(&World::well().qemu_ended(10, Attributes::new().with(EXIT_CODE, 0)), Some(SymptomId::Unresponsive));
}

#[test]
fn an_orderly_end_is_not_strange_while_libvirt_cannot_be_looked_at() {
    let ended = |status, exit| {
        let of_libvirt = mk_state(FindingCode::DomainIoError, Subject::vm(UID), status, 20);
        World::well().qemu_ended(30, exit).set(of_libvirt)
    };
    let in_order = || Attributes::new().with(EXIT_CODE, 0);
    check(&ended(Status::Absent, in_order()), Some(SymptomId::Unresponsive));
    check(&ended(Status::Unknown, in_order()), None);
    check(&ended(Status::Unknown, signal(9)), Some(SymptomId::StoppedUnexpectedly));
}

#[test]
fn a_transient_domain_that_vanished_is_news_for_five_minutes() {
    let vanished = |secs, exit| {
        let mut world = World::well().qemu_ended(secs, exit);
        world.vm().domain = None;
        world
    };
    check(&vanished(20, signal(11)), Some(SymptomId::StoppedUnexpectedly));
    check(&vanished(300, signal(11)), None);
    check(&vanished(20, signal(9)), None);
    let failed = vanished(20, signal(9)).happened(FindingCode::DomainFailed, Subject::vm(UID), 18, Attributes::new());
    check(&failed, Some(SymptomId::StoppedUnexpectedly));
}

#[test]
fn the_most_telling_symptom_is_shown_alone() {
    let world = World::well()
        .vm_has(FindingCode::QemuThreadBlocked, 100)
        .vm_has(FindingCode::QemuTerminationPending, 60)
        .node_has(FindingCode::LibvirtUnresponsive, 30);
    check(&world, Some(SymptomId::StuckStopping));
    assert_eq!(world.symptoms().iter().filter(|symptom| symptom.subject == vm_subject()).count(), 1);
}

#[test]
fn another_vms_fault_is_no_symptom_of_this_one() {
    let stopped = mk_state(FindingCode::QemuStopped, Subject::vm(OTHER_UID), Status::Present, 30);
    check(&World::well().set(stopped), None);
}

#[test]
fn a_silent_node_raises_nothing() {
    let world = World::well()
        .domain(libvirt::PAUSED, libvirt::PAUSED_IO_ERROR, 100)
        .node_has(FindingCode::KubeletInactive, 100)
        .silent();
    assert_eq!(world.symptoms(), vec![]);
}

#[test]
fn unknown_raises_nothing() {
    for probe in ["kubelet", "kvm", "qemu", "domain", "kernel-log"] {
        assert_eq!(World::well().blind(probe).symptoms(), vec![], "{probe}");
    }
}

#[test]
fn a_fault_of_the_node_is_a_symptom_of_the_node() {
    for code in [
        FindingCode::KubeletInactive,
        FindingCode::KubeletRestartLoop,
        FindingCode::KvmDeviceMissing,
        FindingCode::LibvirtUnreachable,
    ] {
        let found = World::well().node_has(code, 40).symptoms();
        assert_eq!(found[0].id, SymptomId::Unspecified, "{code}");
        assert_eq!(found[0].since_wall_usec, Some(ago(40).wall_usec), "{code}");
    }
}

#[test]
fn a_notice_of_the_node_is_no_symptom() {
    for code in [FindingCode::KubeletNotInstalled, FindingCode::KvmNestedDisabled, FindingCode::KvmModuleNotLoaded] {
        assert_eq!(World::well().node_has(code, 40).symptoms(), vec![], "{code}");
    }
}

#[test]
fn a_silent_peer_of_a_migration_is_no_symptom_of_the_node() {
    let silent = mk_state(FindingCode::MigrationPeerSilent, Subject::Node, Status::Present, 40);
    assert_eq!(World::well().set(silent).symptoms(), vec![]);
}
