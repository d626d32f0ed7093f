//! A guest that ignores its power button, and hosts that give it no chance to react.

use kulprit_model::FindingCode;

use super::*;

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
            .any(|text| text.contains("QEMU's processes and threads") && text.contains("all well since"))
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
