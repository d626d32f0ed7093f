//! Each cause from all sides: it explains; another one is true; its node is silent; its evidence is stale; two at once.

use kulprit_model::{
    Attributes, FindingCode, State, Status, Subject,
    attribute::{
        DEVICE, EXIT_CODE, IO_ERROR, IO_NO_SPACE, IO_OTHER, SIGNAL, WAIT, WAIT_LOCAL_STORAGE, WAIT_MEMORY,
        WAIT_NETWORK_STORAGE, WAIT_OTHER,
    },
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

// --- the node's own faults ---

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

#[test]
fn two_faults_of_one_node_stand_beside_each_other() {
    let world = World::well().node_has(FindingCode::KubeletInactive, 300).node_has(FindingCode::KvmDeviceMissing, 60);
    let answer = world.why_node();
    check(&answer, &["KubeletDown"]);
    assert_eq!(contributing(&answer), ["KvmDeviceMissing"]);
}

#[test]
fn no_fault_of_a_vm_is_blamed_on_its_node() {
    let answer = frozen_disk(60).node_has(FindingCode::KubeletInactive, 60).why_node();
    check(&answer, &["KubeletDown"]);
    assert_eq!(contributing(&answer), Vec::<&str>::new());
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

// --- a kubelet or KVM fault, and a VM that runs ---

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

// --- QEMU died ---

#[test]
fn a_vm_that_was_destroyed_was_not_killed_by_somebody_else() {
    let world = World::well().domain(libvirt::SHUTOFF, libvirt::SHUTOFF_DESTROYED, 58).qemu_ended(60, signal(9));
    check(&world.why_symptom(SymptomId::Unspecified, 0), &["Unexplained"]);
}

#[test]
fn a_fatal_signal_is_a_crash() {
    for number in [4, 6, 7, 8, 11] {
        check(&dead(60, signal(number)).why(), &["QemuCrashed"]);
    }
}

#[test]
fn a_segfault_line_is_a_crash_where_the_kernel_tells_no_exit_status() {
    let world =
        dead(60, Attributes::new()).happened(FindingCode::ProcessCrashed, Subject::vm(UID), 60, Attributes::new());
    check(&world.why(), &["QemuCrashed"]);
}

#[test]
fn an_error_exit_is_a_crash() {
    check(&dead(60, Attributes::new().with(EXIT_CODE, 1)).why(), &["QemuCrashed"]);
}

#[test]
fn a_kill_without_an_oom_line_is_a_kill() {
    for number in [9, 15] {
        let answer = dead(60, signal(number)).why();
        check(&answer, &["QemuKilled"]);
        assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "QemuOutOfMemory"), "{:?}", answer.ruled_out);
    }
}

#[test]
fn a_kill_with_an_unread_kernel_log_could_be_an_oom_kill() {
    let answer = dead(60, signal(9)).blind("kernel-log").why();
    check_unsure(&answer);
    let (killed, oom) = (probability(&answer, "QemuKilled"), probability(&answer, "QemuOutOfMemory"));
    assert!((killed - oom).abs() < 1e-9, "{}", table(&answer));
    assert!(
        answer.unknown.iter().any(|text| text.contains("the kernel log could not be looked at: permission denied"))
    );
}

#[test]
fn a_kernel_log_that_was_read_only_later_proves_no_absence() {
    let mut world = dead(3_000, signal(9));
    for state in &mut world.node().states {
        if state.code == FindingCode::ProbeBlind {
            state.since = ago(600);
        }
    }
    let answer = world.why();
    check_unsure(&answer);
    assert!(answer.unknown.iter().any(|text| text.contains("only since")), "{:?}", answer.unknown);
}

#[test]
fn a_kernel_log_with_a_hole_proves_no_absence() {
    let world = dead(60, signal(9)).happened(FindingCode::KernelLogLost, Subject::Node, 70, Attributes::new());
    let answer = world.why();
    check_unsure(&answer);
    assert!(answer.unknown.iter().any(|text| text.contains("were lost")), "{:?}", answer.unknown);
}

#[test]
fn an_oom_kill_of_its_cgroup_is_out_of_memory() {
    for subject in [Subject::vm(UID), Subject::Process { pid: PID, start_ticks: 0 }] {
        let world = dead(60, signal(9)).happened(FindingCode::MemcgOomKill, subject, 60, Attributes::new());
        check(&world.why(), &["QemuOutOfMemory"]);
    }
}

#[test]
fn an_oom_kill_of_another_process_is_not_this_vms() {
    for subject in [
        Subject::vm(OTHER_UID),
        Subject::Process { pid: 815, start_ticks: 0 },
        Subject::Process { pid: 999, start_ticks: 0 },
        Subject::Process { pid: PID, start_ticks: 1 },
    ] {
        let world = dead(60, signal(9)).happened(FindingCode::MemcgOomKill, subject, 60, Attributes::new());
        check(&world.why(), &["QemuKilled"]);
    }
}

#[test]
fn an_oom_kill_by_the_whole_node_is_neither_a_kill_nor_the_vms_limit() {
    let answer = dead(60, signal(9)).happened(FindingCode::NodeOomKill, Subject::vm(UID), 60, Attributes::new()).why();
    check(&answer, &["Unexplained"]);
    let shown = &answer.causes[0].evidence;
    assert!(shown.iter().any(|line| line.text == "NodeOomKill as logged"), "{shown:?}");
}

#[test]
fn a_crash_of_an_earlier_run_is_history() {
    let earlier = dead(60, signal(9)).happened(FindingCode::ProcessCrashed, Subject::vm(UID), 4_000, Attributes::new());
    check(&earlier.why(), &["QemuKilled"]);
}

#[test]
fn a_stale_oom_line_of_this_run_loses_its_weight() {
    let fresh =
        dead(60, Attributes::new()).happened(FindingCode::MemcgOomKill, Subject::vm(UID), 360, Attributes::new());
    check(&fresh.why(), &["QemuOutOfMemory"]);
    let stale =
        dead(60, Attributes::new()).happened(FindingCode::MemcgOomKill, Subject::vm(UID), 3_500, Attributes::new());
    let answer = stale.why();
    assert!(probability(&answer, "QemuOutOfMemory") < 0.3, "{}", table(&answer));
}

#[test]
fn an_exit_without_any_trace_is_not_guessed() {
    for probe in ["qemu", "kernel-log"] {
        let world = dead(60, signal(11)).blind(probe);
        let answer = world.why();
        assert!(
            answer.confidence != Confidence::Verdict || answer.causes[0].id == "QemuCrashed",
            "blind {probe}: {}",
            table(&answer)
        );
    }
}

#[test]
fn a_guest_panic_is_no_crash_of_qemu() {
    check(&World::well().domain(libvirt::CRASHED, 1, 60).why(), &["Unexplained"]);
}

// --- QEMU is blocked or hung ---

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
    for wait in [WAIT_NETWORK_STORAGE, WAIT_MEMORY, WAIT_OTHER] {
        let world = World::well().vm_has(FindingCode::QemuThreadBlocked, 60).vm_has_with(
            FindingCode::VmDiskStalled,
            60,
            waits_for(wait),
        );
        let answer = world.why();
        check(&answer, &["QemuBlockedInKernel"]);
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
        for state in &mut world.node().states {
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

// --- disks ---

#[test]
fn an_io_error_pause_is_a_disk_error() {
    let answer = paused(Some(IO_OTHER)).why();
    check(&answer, &["DiskIoError"]);
    assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "VolumeOutOfSpace"), "{:?}", answer.ruled_out);
}

#[test]
fn an_enospc_pause_is_out_of_space() {
    let answer = paused(Some(IO_NO_SPACE)).why();
    check(&answer, &["VolumeOutOfSpace"]);
    assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "DiskIoError"), "{:?}", answer.ruled_out);
}

#[test]
fn an_error_pause_of_unknown_kind_is_not_decided_without_the_kernel_log() {
    let answer = paused(None).why();
    assert_ne!(answer.confidence, Confidence::Verdict, "{}", table(&answer));
    let logged = paused(None).happened(
        FindingCode::BlockIoError,
        Subject::Device { name: "loop3".to_owned() },
        62,
        Attributes::new(),
    );
    check(&logged.why(), &["DiskIoError"]);
}

#[test]
fn an_io_error_of_a_device_counts_by_whose_disk_it_is() {
    let with = |name: &str, secs| {
        let device = Subject::Device { name: name.to_owned() };
        let answer = paused(None).happened(FindingCode::BlockIoError, device, secs, Attributes::new()).why();
        answer.causes.iter().find(|cause| cause.id == "DiskIoError").expect("a candidate").score_db
    };
    let nothing = paused(None).why();
    let nothing = nothing.causes.iter().find(|cause| cause.id == "DiskIoError").expect("a candidate").score_db;
    assert!((with("loop3", 62) - nothing - 20.0).abs() < 1e-9, "its own disk");
    assert!((with("loop4", 62) - nothing).abs() < 1e-9, "another VM's disk");
    assert!((with("sdx", 62) - nothing - 4.2).abs() < 1e-9, "a disk of the node");
    assert!(with("loop3", 4_000) - nothing < 4.2, "before this QEMU ran, the name was another disk's");
}

#[test]
fn vms_on_one_device_share_the_incident_of_its_errors() {
    let place = Place::Device { node: "n1".to_owned(), device: "7:3".to_owned() };
    for (io_error, cause) in [(IO_OTHER, "DiskIoError"), (IO_NO_SPACE, "VolumeOutOfSpace")] {
        assert_eq!(incident_key(&paused(Some(io_error)).why()), Some((cause, place.clone())));
    }
    let mut two_devices = paused(Some(IO_OTHER));
    let qemu = two_devices.vm().qemu.as_mut().expect("it runs");
    let second = kulprit_model::Disk { device: Some("8:0".to_owned()), ..qemu.disks[0].clone() };
    qemu.disks.push(second);
    let vm = Place::Vm { node: "n1".to_owned(), uid: UID.to_owned() };
    assert_eq!(incident_key(&two_devices.why()).map(|key| key.1), Some(vm));
}

#[test]
fn a_full_thin_pool_is_no_io_error() {
    let device = Subject::Device { name: "loop3".to_owned() };
    let attributes = Attributes::new().with(IO_ERROR, IO_NO_SPACE);
    check(&paused(None).happened(FindingCode::BlockIoError, device, 62, attributes).why(), &["VolumeOutOfSpace"]);
}

#[test]
fn an_io_error_of_the_disk_under_a_partition_is_the_vms_own() {
    let mut world = paused(None);
    let qemu = world.vm().qemu.as_mut().expect("it runs");
    qemu.disks[0].device_name = Some("sdb2".to_owned());
    let world =
        world.happened(FindingCode::BlockIoError, Subject::Device { name: "sdb".to_owned() }, 62, Attributes::new());
    check(&world.why(), &["DiskIoError"]);
}

// --- the guest ---

#[test]
fn a_guest_that_ignores_its_button_on_a_healthy_host_is_the_guest() {
    let answer = World::well().vm_has(FindingCode::GuestShutdownRequested, 300).why();
    check(&answer, &["GuestIgnoresShutdown"]);
    let first = &answer.causes[0];
    assert_eq!((first.role, first.node.as_deref()), ("cluster", None));
    assert!(
        answer
            .looked_at
            .iter()
            .any(|text| text.contains("QEMU's processes and threads looked at") && text.contains("all well since"))
    );
}

#[test]
fn a_guest_is_not_blamed_for_what_its_host_does() {
    for (code, cause) in [
        (FindingCode::QemuStopped, "QemuMonitorHung"),
        (FindingCode::DomainControlOccupied, "QemuMonitorHung"),
        (FindingCode::QemuThreadBlocked, "QemuBlockedInKernel"),
    ] {
        let answer = World::well().vm_has(FindingCode::GuestShutdownRequested, 300).vm_has(code, 250).why();
        check(&answer, &[cause]);
        assert!(answer.ruled_out.iter().any(|ruled| ruled.id == "GuestIgnoresShutdown"), "{:?}", answer.ruled_out);
    }
}

#[test]
fn a_guest_is_not_blamed_while_its_host_cannot_be_seen() {
    let answer = World::well().vm_has(FindingCode::GuestShutdownRequested, 300).blind("qemu").why();
    check_unsure(&answer);
    assert!(probability(&answer, "GuestIgnoresShutdown") < 0.6, "{}", table(&answer));
}

// --- from all sides, for every cause of a VM ---

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
