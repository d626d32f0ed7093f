//! What a verdict says beside its causes: the remedy, what is safe, what was and was not seen.

use kulprit_model::{Attributes, FindingCode, Status, Subject, attribute::SIGNAL};

use crate::{SymptomId, libvirt, score_sheets, testing::*};

fn dead() -> World {
    World::well()
        .domain(libvirt::SHUTOFF, libvirt::SHUTOFF_CRASHED, 58)
        .qemu_ended(60, Attributes::new().with(SIGNAL, 11))
}

#[test]
fn a_forced_delete_is_safe_only_when_qemu_is_certainly_gone() {
    assert!(dead().why().causes[0].remedy.safe_to_force_delete);
    let symptom = dead().symptom();
    let check = |world: World, what: &str| {
        let answer = crate::attribute(&world.snapshot, &symptom);
        assert!(answer.causes.iter().all(|cause| !cause.remedy.safe_to_force_delete), "{what}");
    };
    check(dead().silent(), "a node that does not answer");
    check(dead().blind("qemu"), "processes that cannot be read");
    let blind_since = mk_state(FindingCode::ProbeBlind, Subject::Probe { name: "qemu".to_owned() }, Status::Unknown, 5);
    check(dead().set(blind_since), "it ended, but a new one could have started unseen");
    check(dead().domain(libvirt::RUNNING, 1, 58), "libvirt holds it active");
    check(dead().vm_has(FindingCode::QemuTerminationPending, 5), "killed and not ended");
    check(World::well(), "a QEMU that lives");
}

#[test]
fn commands_name_the_vm_the_process_and_the_mount() {
    let answer = World::well()
        .vm_has(FindingCode::QemuThreadBlocked, 60)
        .vm_has_with(
            FindingCode::VmDiskStalled,
            60,
            Attributes::new().with("wait", "local_storage").with("mount_point", "/mnt/a b"),
        )
        .why();
    let now = answer.causes[0].remedy.now.join("\n");
    assert!(now.contains("fsfreeze --unfreeze '/mnt/a b'"), "{now}");
    let stopped = World::well().vm_has(FindingCode::QemuStopped, 60).why();
    let now = stopped.causes[0].remedy.now.join("\n");
    assert!(now.contains(&format!("kill -CONT {PID}")) && now.contains("virsh destroy db-0"), "{now}");
    assert!(!now.contains("kubectl") && !now.contains("virtctl"), "{now}");
}

#[test]
fn a_vm_of_kubevirt_gets_kubernetes_commands() {
    let answer = World::well().kubevirt().vm_has(FindingCode::QemuStopped, 60).why();
    let now = answer.causes[0].remedy.now.join("\n");
    assert!(
        now.contains("virtctl stop --force --grace-period 0 -n prod db-0") && !now.contains("virsh destroy"),
        "{now}"
    );
}

#[test]
fn a_hostile_name_cannot_leave_its_word() {
    let mut world = World::well().vm_has(FindingCode::QemuStopped, 60);
    world.vm().name = "x'; reboot #{node}".to_owned();
    let now = world.why().causes[0].remedy.now.join("\n");
    assert!(now.contains(r"virsh destroy 'x'\''; reboot #{node}'"), "{now}");
}

#[test]
fn no_placeholder_is_left_in_any_remedy() {
    for world in [World::well(), World::well().kubevirt()] {
        let answer = world.why_symptom(SymptomId::Unspecified, 60);
        for cause in &answer.causes {
            for step in cause.remedy.now.iter().chain(&cause.remedy.check).chain(&cause.remedy.prevent) {
                for key in ["{vm}", "{namespace}", "{node}", "{pid}", "{device}", "{mount}", "{unit}"] {
                    assert!(!step.contains(key), "{}: {step}", cause.id);
                }
            }
        }
    }
}

#[test]
fn a_healthy_vm_asked_by_name_is_told_what_was_looked_at() {
    let answer = World::well().why_symptom(SymptomId::Unspecified, 60);
    assert_eq!(answer.causes[0].id, "Unexplained");
    for probe in ["/dev/kvm", "QEMU's processes", "libvirt and its domains", "the kernel log"] {
        assert!(answer.looked_at.iter().any(|text| text.contains(probe)), "{probe}: {:?}", answer.looked_at);
    }
    assert_eq!(answer.unknown, Vec::<String>::new());
}

#[test]
fn each_blind_spot_is_said_once_with_its_reason() {
    for (probe, what) in [
        ("kvm", "/dev/kvm could not be looked at"),
        ("qemu", "QEMU's processes and threads could not be looked at"),
        ("domain", "libvirt and its domains could not be looked at"),
        ("kernel-log", "the kernel log could not be looked at"),
    ] {
        let answer = World::well().blind(probe).why_symptom(SymptomId::Unspecified, 60);
        let said: Vec<_> = answer.unknown.iter().filter(|text| text.contains(what)).collect();
        assert_eq!(said.len(), 1, "{probe}: {:?}", answer.unknown);
        assert!(said[0].ends_with("permission denied"), "{}", said[0]);
        assert!(!answer.looked_at.iter().any(|text| text.contains(&what[..8])), "{probe}: {:?}", answer.looked_at);
    }
}

#[test]
fn one_state_that_is_not_known_is_no_blind_probe() {
    let unknown = mk_state(FindingCode::GuestShutdownRequested, Subject::vm(UID), Status::Unknown, 60);
    let answer = World::well().vm_has(FindingCode::QemuTerminationPending, 60).set(unknown).why();
    assert_eq!(answer.unknown, ["n1: GuestShutdownRequested is not known: no answer within 2 s"]);
}

#[test]
fn states_of_one_probe_that_are_not_known_are_one_sentence() {
    let unknown = |code, subject, because: &str| {
        let state = mk_state(code, subject, Status::Unknown, 60);
        kulprit_model::State { unknown_because: Some(because.to_owned()), ..state }
    };
    let answer = World::well()
        .vm_has(FindingCode::QemuTerminationPending, 60)
        .set(unknown(FindingCode::GuestShutdownRequested, Subject::vm(UID), "no answer"))
        .set(unknown(FindingCode::DomainControlError, Subject::vm(UID), "no answer"))
        .set(unknown(FindingCode::DomainIoError, Subject::vm(UID), "denied"))
        .why_symptom(SymptomId::StuckStopping, 60);
    assert_eq!(
        answer.unknown,
        ["n1: libvirt and its domains: 3 states not known: no answer (DomainControlError, GuestShutdownRequested); \
          denied (DomainIoError)"]
    );
}

#[test]
fn a_dead_qemu_is_not_said_to_be_well() {
    let answer = dead().why();
    assert!(answer.looked_at.iter().any(|text| text.ends_with("this VM has none")), "{:?}", answer.looked_at);
}

#[test]
fn what_cannot_be_seen_of_kubernetes_is_said_of_its_vms() {
    let mut world = World::well().in_kubernetes();
    world.snapshot.cluster_sight.unseen.push("Kubernetes: pods were not listed".to_owned());
    let unknown = world.why_named(None).unknown;
    assert!(unknown.contains(&"Kubernetes: pods were not listed".to_owned()), "{unknown:?}");
}

// What is watched live is not a recording with pieces left out.
#[test]
fn an_agent_of_a_node_that_kubernetes_does_not_know_is_said() {
    let sentence = "n1: Kubernetes has no node of this name, so nothing that it knows of this host is seen here";
    let is_said = |change: fn(&mut World)| {
        let mut world = World::well().in_kubernetes().with_second_node().node_has(FindingCode::KubeletInactive, 60);
        world.snapshot.cluster_sight.is_watched = true;
        change(&mut world);
        let of_node = world.why_node().unknown.contains(&sentence.to_owned());
        assert_eq!(world.why_named(None).unknown.contains(&sentence.to_owned()), of_node);
        of_node
    };
    assert!(!is_said(|_| {}));
    assert!(is_said(|world| world.snapshot.cluster_nodes.retain(|node| node.name != "n1")));
    assert!(!is_said(|world| world.snapshot.cluster_nodes.clear()), "nodes were not listed");
    assert!(!is_said(|world| {
        world.snapshot.cluster_nodes.retain(|node| node.name != "n1");
        world.snapshot.cluster_sight.is_watched = false;
    }));
}

#[test]
fn a_node_without_an_agent_is_told_from_a_host_that_nobody_recorded() {
    for (is_watched, want) in
        [(false, "host n1: nothing recorded"), (true, "n1: no agent of this node has ever reported")]
    {
        let mut world = World::well().in_kubernetes();
        world.snapshot.nodes.clear();
        world.snapshot.cluster_sight.is_watched = is_watched;
        let unknown = world.why_named(None).unknown;
        assert!(unknown.contains(&want.to_owned()), "{unknown:?}");
    }
}

#[test]
fn what_a_host_cannot_show_is_passed_on() {
    let mut world = World::well();
    world.node().cannot_show.push("exit signals: kernel older than 6.15".to_owned());
    let answer = world.why_symptom(SymptomId::Unspecified, 60);
    assert_eq!(answer.unknown, ["n1: exit signals: kernel older than 6.15"]);
}

#[test]
fn a_vm_or_node_that_nobody_knows_is_unexplained() {
    let mut world = World::well();
    world.snapshot.nodes.clear();
    let answer = world.why_symptom(SymptomId::Unspecified, 60);
    assert_eq!(answer.causes[0].id, "Unexplained");
    assert_eq!(answer.unknown, ["n1: no agent of this node has ever reported"]);
}

#[test]
fn evidence_of_one_origin_is_shown_and_counts_once() {
    let answer =
        World::well().vm_has(FindingCode::QemuStopped, 60).vm_has(FindingCode::DomainControlOccupied, 50).why();
    let weights: Vec<_> = answer.causes[0].evidence.iter().map(|line| (line.text.as_str(), line.weight_db)).collect();
    assert_eq!(weights, [("QemuStopped as seen", 30.0), ("DomainControlOccupied as seen", 0.0)]);
}

#[test]
fn a_score_sheet_adds_up_to_the_score() {
    let world = dead().happened(FindingCode::ProcessCrashed, Subject::vm(UID), 60, Attributes::new());
    let symptom = world.symptom();
    let answer = crate::attribute(&world.snapshot, &symptom);
    for sheet in score_sheets(&world.snapshot, &symptom) {
        let counted: f64 = sheet
            .lines
            .iter()
            .filter(|line| line.is_counted)
            .map(|line| line.clue.strength.decibans() * line.factor * line.freshness)
            .sum();
        assert!((sheet.score_db() - sheet.prior_db - counted).abs() < 1e-9, "{}", sheet.cause.id);
        let candidate = answer.causes.iter().find(|cause| cause.chain.contains(&sheet.cause.id));
        assert_eq!(candidate.is_some(), sheet.competes(), "{}", sheet.cause.id);
        if let Some(candidate) = candidate.filter(|candidate| candidate.chain.len() == 1) {
            assert!((candidate.score_db - sheet.score_db()).abs() < 1e-9, "{}", sheet.cause.id);
        }
    }
}

#[test]
fn what_nothing_speaks_for_is_left_to_unexplained() {
    let answer = World::well().why_symptom(SymptomId::Unresponsive, 60);
    assert_eq!(
        answer.causes.iter().map(|cause| (cause.id, cause.probability)).collect::<Vec<_>>(),
        [("Unexplained", 1.0)]
    );
}
