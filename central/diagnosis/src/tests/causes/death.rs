//! QEMU died: crash, kill or out of memory, each told apart from the others by what the host knows.

use kulprit_model::{Attributes, FindingCode, Subject, attribute::EXIT_CODE};

use super::*;

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

/// Which module failed the kernel says of the node, not of the VM; that its QEMU touched the page, the signal.
#[test]
fn a_sigbus_beside_an_uncorrected_memory_error_is_the_hardware() {
    check(&dead(60, signal(7)).why(), &["QemuCrashed"]);
    let error = |secs| {
        dead(60, signal(7)).happened(FindingCode::HardwareMemoryError, Subject::Node, secs, Attributes::new()).why()
    };
    check(&error(61), &["HardwareMemoryError", "QemuCrashed"]);
}

/// A broken page ends who touches it by SIGBUS; by SIGKILL only in the rare case in which the kernel names it.
#[test]
fn only_sigbus_beside_an_uncorrected_memory_error_is_its_work() {
    let error = |number, of: Subject| {
        dead(60, signal(number)).happened(FindingCode::HardwareMemoryError, of, 61, Attributes::new()).why()
    };
    for number in [9, 15] {
        check(&error(number, Subject::Node), &["QemuKilled"]);
    }
    // SIGABRT, SIGSEGV.
    for number in [6, 11] {
        check(&error(number, Subject::Node), &["QemuCrashed"]);
    }
    check(&error(7, Subject::Node), &["HardwareMemoryError", "QemuCrashed"]);
    check(&error(9, Subject::vm(UID)), &["HardwareMemoryError", "QemuKilled"]);
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
    for state in world.node().states.iter_mut() {
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
fn an_oom_kill_by_the_whole_node_is_the_nodes_and_neither_a_kill_nor_the_vms_limit() {
    let answer = dead(60, signal(9)).happened(FindingCode::NodeOomKill, Subject::vm(UID), 60, Attributes::new()).why();
    check(&answer, &["NodeMemoryExhausted"]);
    assert!(probability(&answer, "QemuKilled") < 0.01 && probability(&answer, "QemuOutOfMemory") < 0.01);
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
