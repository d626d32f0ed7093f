//! Each cause from all sides: it explains; another one is true; its node is silent; its evidence is stale; two at once.

mod death;
mod disk;
mod guest;
mod host;
mod hung;
mod node;

use kulprit_model::{
    Attributes, FindingCode, State, Status, Subject,
    attribute::{DEVICE, IO_ERROR, IO_NO_SPACE, IO_OTHER, SIGNAL, WAIT, WAIT_LOCAL_STORAGE},
};

use crate::{Attribution, Confidence, SymptomId, incident_key, libvirt, place::Place, testing::*};

#[track_caller]
fn check(attribution: &Attribution, chain: &[&str]) {
    let first = &attribution.causes[0];
    assert_eq!(first.chain, chain, "{}", table(attribution));
    let want = if chain == ["Unexplained"] { Confidence::Unexplained } else { Confidence::Verdict };
    assert_eq!(attribution.confidence, want, "{}", table(attribution));
}

/// Nothing is a verdict; the answer says what could not be seen.
#[track_caller]
fn check_unsure(attribution: &Attribution) {
    assert_ne!(attribution.confidence, Confidence::Verdict, "{}", table(attribution));
    assert!(!attribution.unknown.is_empty(), "{}", table(attribution));
}

fn probability(attribution: &Attribution, id: &str) -> f64 {
    attribution.causes.iter().find(|cause| cause.id == id).map_or(0.0, |cause| cause.probability)
}

fn contributing(attribution: &Attribution) -> Vec<&'static str> {
    attribution.contributing.iter().map(|cause| cause.id).collect()
}

fn signal(number: u32) -> Attributes {
    Attributes::new().with(SIGNAL, number)
}

fn waits_for(what: &str) -> Attributes {
    Attributes::new().with(WAIT, what).with(DEVICE, "7:3")
}

fn frozen_disk(secs: i64) -> World {
    World::well().vm_has(FindingCode::QemuThreadBlocked, secs).vm_has_with(
        FindingCode::VmDiskStalled,
        secs,
        waits_for(WAIT_LOCAL_STORAGE),
    )
}

/// libvirt lost QEMU `secs` ago and says that it crashed.
fn dead(secs: i64, exit: Attributes) -> World {
    World::well().domain(libvirt::SHUTOFF, libvirt::SHUTOFF_CRASHED, secs - 2).qemu_ended(secs, exit).happened(
        FindingCode::DomainFailed,
        Subject::vm(UID),
        secs - 2,
        Attributes::new(),
    )
}

fn paused(io_error: Option<&str>) -> World {
    let attributes = Attributes::new().with_some(IO_ERROR, io_error);
    World::well().domain(libvirt::PAUSED, libvirt::PAUSED_IO_ERROR, 60).vm_has_with(
        FindingCode::DomainIoError,
        60,
        attributes,
    )
}

/// A world in which a cause is true, its chain, and the probe without which it cannot be told.
fn cases() -> Vec<(&'static str, World, Vec<&'static str>)> {
    vec![
        ("frozen disk", frozen_disk(60), vec!["LocalDiskStalled", "QemuBlockedInKernel"]),
        ("blocked", World::well().vm_has(FindingCode::QemuThreadBlocked, 60), vec!["QemuBlockedInKernel"]),
        ("stopped", World::well().vm_has(FindingCode::QemuStopped, 60), vec!["QemuMonitorHung"]),
        ("occupied", World::well().vm_has(FindingCode::DomainControlOccupied, 60), vec!["QemuMonitorHung"]),
        ("EIO", paused(Some(IO_OTHER)), vec!["DiskIoError"]),
        ("ENOSPC", paused(Some(IO_NO_SPACE)), vec!["VolumeOutOfSpace"]),
        ("segfault", dead(60, signal(11)), vec!["QemuCrashed"]),
        ("kill", dead(60, signal(9)), vec!["QemuKilled"]),
        (
            "oom",
            dead(60, signal(9)).happened(FindingCode::MemcgOomKill, Subject::vm(UID), 60, Attributes::new()),
            vec!["QemuOutOfMemory"],
        ),
        ("daemon down", World::well().node_has(FindingCode::LibvirtUnreachable, 60), vec!["LibvirtDaemonDown"]),
        ("daemon hung", World::well().node_has(FindingCode::LibvirtUnresponsive, 60), vec!["LibvirtDaemonHung"]),
        ("guest", World::well().vm_has(FindingCode::GuestShutdownRequested, 300), vec!["GuestIgnoresShutdown"]),
    ]
}

#[test]
fn every_case_is_told_apart_from_every_other() {
    for (name, world, chain) in cases() {
        let answer = world.why();
        assert_eq!(answer.causes[0].chain, chain, "{name}: {}", table(&answer));
        assert_eq!(answer.confidence, Confidence::Verdict, "{name}: {}", table(&answer));
        let rest: f64 = answer.causes[1..].iter().map(|cause| cause.probability).sum();
        assert!(rest < 0.4, "{name}: {}", table(&answer));
    }
}

#[test]
fn a_silent_node_makes_every_case_unexplained() {
    for (name, world, _) in cases() {
        let symptom = world.symptom();
        let answer = crate::attribute(&world.silent().snapshot, &symptom);
        // What happened stays known; what may hold now does not.
        let is_death = matches!(symptom.id, SymptomId::StoppedUnexpectedly);
        assert!(is_death || answer.confidence == Confidence::Unexplained, "{name}: {}", table(&answer));
        assert!(answer.unknown.iter().any(|text| text.contains("last heard")), "{name}");
        assert!(!answer.causes[0].remedy.safe_to_force_delete, "{name}");
    }
}

#[test]
fn what_began_long_after_the_symptom_is_no_verdict_for_it() {
    for (name, world, _) in cases() {
        let id = world.symptom().id;
        let is_lasting = matches!(id, SymptomId::Unresponsive | SymptomId::PausedUnexpectedly);
        if is_lasting {
            let answer = world.why_symptom(id, 1_800);
            assert_ne!(answer.confidence, Confidence::Verdict, "{name}: {}", table(&answer));
        }
    }
}

#[test]
fn what_happened_hours_before_the_onset_is_no_verdict_for_it() {
    let check = |make: &dyn Fn() -> World, code, subject: Subject, cause: &str| {
        let answer_at = |secs| {
            let mut world = make();
            let vm = world.vm();
            for qemu in vm.qemu.iter_mut().chain(&mut vm.last_qemu) {
                qemu.since = ago(6 * 3_600);
            }
            world.happened(code, subject.clone(), secs, Attributes::new()).why()
        };
        assert_eq!(answer_at(62).causes[0].id, cause, "{code} at the onset");
        let stale = answer_at(3 * 3_600);
        let is_verdict = stale.confidence == Confidence::Verdict && stale.causes[0].id == cause;
        assert!(!is_verdict, "{code} three hours before: {}", table(&stale));
    };
    let dead_silently = || dead(60, Attributes::new());
    check(&dead_silently, FindingCode::ProcessCrashed, Subject::vm(UID), "QemuCrashed");
    check(&dead_silently, FindingCode::MemcgOomKill, Subject::vm(UID), "QemuOutOfMemory");
    let device = Subject::Device { name: "loop3".to_owned() };
    check(&|| paused(None), FindingCode::BlockIoError, device.clone(), "DiskIoError");
    check(&|| paused(None), FindingCode::FilesystemError, device, "DiskIoError");
}

#[test]
fn without_any_one_probe_no_case_gets_a_wrong_verdict() {
    for (name, _, chain) in cases() {
        for probe in ["kubelet", "kvm", "qemu", "domain", "kernel-log"] {
            let (_, world, _) = cases().into_iter().find(|case| case.0 == name).expect("the same case");
            let symptom = world.symptom();
            let answer = crate::attribute(&world.blind(probe).snapshot, &symptom);
            let first = answer.causes[0].id;
            assert!(
                answer.confidence != Confidence::Verdict || chain.contains(&first),
                "{name} without {probe}: {}",
                table(&answer)
            );
        }
    }
}

#[test]
fn a_fault_of_the_other_vm_changes_nothing() {
    for (name, world, _) in cases() {
        let before = world.why();
        let mut world = world;
        for code in [FindingCode::QemuThreadBlocked, FindingCode::QemuStopped, FindingCode::DomainIoError] {
            world = world.set(State {
                attributes: waits_for(WAIT_LOCAL_STORAGE),
                ..mk_state(code, Subject::vm(OTHER_UID), Status::Present, 600)
            });
        }
        world = world
            .happened(FindingCode::MemcgOomKill, Subject::vm(OTHER_UID), 60, Attributes::new())
            .happened(
                FindingCode::ProcessCrashed,
                Subject::Process { pid: 815, start_ticks: 8150 },
                60,
                Attributes::new(),
            )
            .happened(FindingCode::BlockIoError, Subject::Device { name: "loop4".to_owned() }, 60, Attributes::new());
        assert_eq!(world.why(), before, "{name}");
    }
}

#[test]
fn two_faults_at_once_are_told_apart_by_what_is_enough_alone() {
    let answer = frozen_disk(600).kubevirt_with_kubelet_down().why();
    check(&answer, &["LocalDiskStalled", "QemuBlockedInKernel"]);
    assert_eq!(contributing(&answer), ["KubeletDown"]);
    let answer = frozen_disk(600)
        .vm_has(FindingCode::QemuTerminationPending, 60)
        .node_has(FindingCode::LibvirtUnresponsive, 300)
        .why();
    check(&answer, &["LocalDiskStalled", "QemuBlockedInKernel"]);
    assert_eq!(contributing(&answer), ["LibvirtDaemonHung"]);
    assert!(answer.contributing[0].probability > 0.6);
}

impl World {
    fn kubevirt_with_kubelet_down(self) -> Self {
        self.kubevirt().node_has(FindingCode::KubeletInactive, 600).vm_has(FindingCode::QemuTerminationPending, 60)
    }
}
