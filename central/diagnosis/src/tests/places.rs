//! Where a cause sits: on the host, at either end of a migration, between them, on several nodes, or on none.

use kulprit_model::{
    Attributes, FindingCode, Side, State, Status, Subject,
    attribute::{COMM, EXIT_CODE, POD, SERVER, SIDE, SIGNAL, SIGNATURE, UNDATED, VMI},
    said::{actor, class, operation},
};

use crate::{
    Attribution, Confidence, SymptomId, attribute, explain, incident_key, libvirt, place::Place, snapshot::Snapshot,
    testing::*,
};

#[track_caller]
fn check(answer: &Attribution, id: &str, role: &str, node: Option<&str>) {
    let first = &answer.causes[0];
    assert_eq!((first.id, first.role, first.node.as_deref()), (id, role, node), "{}", table(answer));
    assert_eq!(answer.confidence, Confidence::Verdict, "{}", table(answer));
}

fn starting() -> World {
    World::well().in_kubernetes().starting("Scheduling", 300)
}

fn migrating() -> World {
    World::well().in_kubernetes().migrating("Scheduling", 120)
}

fn failed() -> World {
    World::well().in_kubernetes().migrating("Failed", 60)
}

fn down(node: &str) -> (String, State) {
    let subject = Subject::unit("kubelet.service");
    (node.to_owned(), mk_state(FindingCode::KubeletInactive, subject, Status::Present, 600))
}

fn no_space() -> Attributes {
    said(actor::KUBELET, operation::CREATE_SANDBOX, class::NO_SPACE)
}

#[test]
fn a_fault_of_the_target_is_the_targets() {
    let (node, state) = down("n2");
    check(&migrating().set_on(&node, state).why(), "KubeletDown", "target", Some("n2"));
    let (node, state) = down("n1");
    check(&migrating().set_on(&node, state).why(), "KubeletDown", "source", Some("n1"));
}

#[test]
fn a_fault_of_a_node_that_has_no_part_in_it_is_nobodys() {
    let (node, state) = down("n2");
    let answer =
        World::well().in_kubernetes().with_second_node().starting("Scheduling", 300).set_on(&node, state).why();
    assert_eq!(answer.causes[0].id, "Unexplained", "{}", table(&answer));
}

#[test]
fn a_fault_at_each_end_is_one_verdict_and_one_more() {
    let (one, other) = (down("n1"), down("n2"));
    let answer = migrating().set_on(&one.0, one.1).set_on(&other.0, other.1).why();
    assert_eq!(answer.causes[0].id, "KubeletDown", "{}", table(&answer));
    let places: Vec<_> = answer.contributing.iter().map(|more| (more.id, more.role, more.node.as_deref())).collect();
    assert!(places.contains(&("KubeletDown", "target", Some("n2"))), "{places:?}");
}

#[test]
fn an_event_of_one_side_is_no_evidence_at_the_other() {
    let event = said(actor::QEMU, operation::LOAD_STATE, class::INCOMPATIBLE);
    let answer = failed().vm_said(Some(Side::Target), Some("n2"), 65, event.clone()).why();
    assert_eq!(answer.causes[0].role, "target", "{}", table(&answer));
    // A log of no known node is of the node of its pod.
    let of_pod = event.clone().with(POD, "prod/virt-launcher-db-0-fghij");
    let answer = failed().vm_said(None, None, 65, of_pod).why();
    assert_eq!((answer.causes[0].role, answer.causes[0].node.as_deref()), ("target", Some("n2")), "{}", table(&answer));
    // The source's log may speak of the target.
    let told = event.with(SIDE, "target").with(VMI, "prod/db-0");
    let answer = failed().node_said("n1", 65, told).why();
    assert_eq!(answer.causes[0].role, "target", "{}", table(&answer));
    // So may its libvirt, which names no VM.
    let refused = said(actor::LIBVIRT, operation::MIGRATE_PREPARE, class::INCOMPATIBLE);
    let refused = refused.with(SIGNATURE, "cpu-missing-features").with(SIDE, "target");
    let answer = failed().node_said("n1", 65, refused).why();
    check(&answer, "CpuIncompatible", "target", Some("n2"));
}

#[test]
fn a_vm_on_no_node_may_be_meant_for_any_and_one_that_is_wanted_counts_in_full() {
    let nowhere = |wanted: &[&str]| {
        let (node, state) = down("n2");
        let mut world = starting().with_second_node().set_on(&node, state);
        let vm = world.cluster_vm();
        vm.hosting = Some(String::new());
        vm.pods[0].node = None;
        vm.wanted_nodes = wanted.iter().map(|name| (*name).to_owned()).collect();
        world.why_named(None)
    };
    let probability = |answer: &Attribution| {
        answer.causes.iter().find(|cause| cause.id == "KubeletDown").map_or(0.0, |cause| cause.probability)
    };
    let (any, wanted) = (nowhere(&[]), nowhere(&["n2"]));
    check(&wanted, "KubeletDown", "hosting", Some("n2"));
    assert!(probability(&any) < probability(&wanted), "{}", table(&any));
    assert_eq!(probability(&nowhere(&["n1"])), 0.0);
}

/// What a log of the node says of the VM's own pod weighs in full, of a stranger's less, and of another VM's nothing.
#[test]
fn a_text_is_as_near_as_what_it_names() {
    let score = |attributes: Attributes| {
        let answer = starting().node_said("n1", 200, attributes).why();
        answer.causes.iter().find(|cause| cause.id == "NodeDiskFull").map_or(0.0, |cause| cause.score_db)
    };
    let own = score(no_space().with(POD, "prod/virt-launcher-db-0-abcde"));
    let strangers = score(no_space().with(POD, "kube-system/coredns-1"));
    let other = score(no_space().with(POD, "prod/virt-launcher-web-1-abcde"));
    assert!(own > strangers && strangers > other, "{own} {strangers} {other}");
    assert_eq!(other, 0.0);
}

#[test]
fn on_a_node_with_one_vm_a_killed_qemu_is_its_own() {
    let killed = |is_sole: bool| {
        let mut world = World::well().in_kubernetes().life(|life| {
            life.phase = Some("Failed".to_owned());
            life.phase_since_usec = Some(ago(60).wall_usec);
            life.printable_status = Some("Stopped".to_owned());
        });
        let node = world.node();
        node.vms[0].qemu = None;
        if is_sole {
            node.vms.truncate(1);
        }
        let process = Subject::Process { pid: 99, start_ticks: 0 };
        world.happened(FindingCode::MemcgOomKill, process, 62, Attributes::new().with(COMM, "qemu-kvm")).why()
    };
    check(&killed(true), "QemuOutOfMemory", "hosting", Some("n1"));
    let score = |answer: &Attribution| {
        answer.causes.iter().find(|cause| cause.id == "QemuOutOfMemory").map_or(0.0, |cause| cause.score_db)
    };
    assert!(score(&killed(false)) < score(&killed(true)));
}

#[test]
fn a_mount_of_the_vms_pod_is_its_own() {
    let unreachable = |point: &str| {
        let state =
            mk_state(FindingCode::BackendUnreachable, Subject::Mount { point: point.to_owned() }, Status::Present, 600);
        starting().set(state).why().causes[0].score_db
    };
    let own = unreachable("/var/lib/kubelet/pods/0b2c0b2c-0000-4000-8000-0000000000bb/volumes/kubernetes.io~nfs/x");
    let by_claim = unreachable("/var/lib/kubelet/plugins/x/pvc-0b2c0b2c-cc/globalmount");
    let strange = unreachable("/backup");
    assert!(own > strange && by_claim > strange, "{own} {by_claim} {strange}");
}

#[test]
fn what_repeats_while_a_vm_is_stuck_is_its_cause_and_not_a_consequence() {
    let event = said(actor::KUBELET, operation::CREATE_SANDBOX, class::NO_SPACE);
    let during = starting().vm_said(None, Some("n1"), 30, event.clone()).why();
    let at_once = starting().vm_said(None, Some("n1"), 299, event).why();
    assert_eq!(during.causes[0].score_db, at_once.causes[0].score_db);
}

#[test]
fn what_comes_after_a_moment_is_not_its_cause() {
    let event = said(actor::QEMU, operation::LOAD_STATE, class::INCOMPATIBLE);
    let score = |secs| failed().vm_said(Some(Side::Target), None, secs, event.clone()).why().causes[0].score_db;
    assert!(score(61) > score(20));
    // Within the migration nothing ages, however long it took.
    let mut long = failed().vm_said(Some(Side::Target), None, 3_000, event.clone());
    long.cluster_vm().life.migration.as_mut().expect("it migrates").created_usec = Some(ago(3_100).wall_usec);
    assert_eq!(long.why().causes[0].score_db, score(61));
}

#[test]
fn what_has_no_date_does_not_age() {
    let event = said(actor::KUBELET, operation::CREATE_SANDBOX, class::NO_SPACE);
    let dated = starting().vm_said(None, Some("n1"), 30_000, event.clone()).why();
    let undated = starting().vm_said(None, Some("n1"), 30_000, event.with(UNDATED, "true")).why();
    assert_eq!(dated.causes[0].id, "Unexplained", "{}", table(&dated));
    assert_ne!(undated.causes[0].id, "Unexplained", "{}", table(&undated));
}

fn registry(class: &str, secs: i64) -> (Attributes, i64) {
    (said(actor::RUNTIME, operation::PULL, class).with(SERVER, "registry.example"), secs)
}

#[test]
fn what_every_node_says_is_shared_and_what_one_says_is_its_own() {
    let (event, secs) = registry(class::TIMEOUT, 200);
    let everywhere = starting()
        .with_second_node()
        .vm_said(None, Some("n1"), secs, event.clone())
        .node_said("n1", secs, event.clone())
        .node_said("n2", secs, event)
        .why();
    check(&everywhere, "ImageRegistryUnavailable", "shared", None);
    assert_eq!(incident_key(&everywhere).expect("a symptom").1, Place::Shared { thing: "registry.example".to_owned() });
    let (event, secs) = registry(class::TIMEOUT, 200);
    let here = starting().with_second_node().vm_said(None, Some("n1"), secs, event).why();
    assert_ne!(here.causes[0].id, "ImageRegistryUnavailable", "{}", table(&here));
}

#[test]
fn a_named_vm_that_is_well_is_explained_by_a_proof_and_not_by_a_text() {
    let event = || said(actor::KUBELET, operation::MOUNT, class::TIMEOUT);
    let noisy = World::well().in_kubernetes().vm_said(None, Some("n1"), 100, event()).why_named(None);
    assert_eq!((noisy.symptom.id, noisy.causes[0].id), (SymptomId::Unspecified, "Unexplained"), "{}", table(&noisy));
    let (node, state) = down("n1");
    let proved =
        World::well().in_kubernetes().vm_said(None, Some("n1"), 100, event()).set_on(&node, state).why_named(None);
    assert_eq!((proved.symptom.id, proved.causes[0].id), (SymptomId::Unspecified, "KubeletDown"), "{}", table(&proved));
}

#[test]
fn a_forced_delete_is_safe_only_when_no_node_can_have_a_qemu() {
    let gone = |world: World| {
        let mut world = world;
        for node in &mut world.snapshot.nodes {
            node.vms.clear();
        }
        world.why_named(None).causes[0].remedy.safe_to_force_delete
    };
    let stuck = || World::well().in_kubernetes().life(|life| life.vm_deleted_usec = Some(ago(500).wall_usec));
    assert!(gone(stuck()));
    assert!(!stuck().why().causes[0].remedy.safe_to_force_delete, "a QEMU lives");
    assert!(!gone(stuck().silent()), "a node that does not answer");
    assert!(!gone(stuck().blind("qemu")), "processes that cannot be read");
    let held = stuck().cluster_has(FindingCode::VolumeAttachedElsewhere, 100, Attributes::new());
    assert!(!gone(held), "another node has a volume");
    let mut unseen = stuck();
    unseen.cluster_vm().pods[0].node = Some("n9".to_owned());
    assert!(!gone(unseen), "a pod on a node that nobody looked at");
}

#[test]
fn a_forced_delete_is_not_safe_while_a_qemu_lives_on_a_node_that_is_no_place_of_the_vm() {
    let ended = |world: World| {
        let world = world.life(|life| life.vm_deleted_usec = Some(ago(500).wall_usec));
        world.domain(libvirt::SHUTOFF, 1, 300).qemu_ended(300, Attributes::new().with(EXIT_CODE, "0"))
    };
    let is_safe = |world: &World| world.why().causes[0].remedy.safe_to_force_delete;
    let with_view = |world: World| {
        let mut world = world;
        let view = World::well().in_kubernetes().vm().clone();
        world.snapshot.nodes[1].vms.push(view);
        world
    };
    let silent = |world: World| {
        let mut world = world;
        world.snapshot.nodes[1].is_reporting = false;
        for state in world.snapshot.nodes[1].states.iter_mut() {
            state.status = Status::Unknown;
        }
        world
    };
    let alone = || ended(World::well().in_kubernetes().with_second_node());
    assert!(is_safe(&alone()));
    assert!(is_safe(&silent(alone())), "a silent node that never had it");
    assert!(!is_safe(&with_view(alone())), "n2 shows one");
    assert!(!is_safe(&silent(with_view(alone()))), "n2 showed one before it fell silent");

    let moving = |outcome: Option<bool>| {
        let mut world = ended(World::well().in_kubernetes().migrating("Running", 400));
        world.cluster_vm().pods.truncate(1);
        world.life(|life| life.migration.as_mut().expect("it migrates").outcome = outcome)
    };
    assert!(is_safe(&moving(None)), "both ends were looked at");
    assert!(!is_safe(&silent(moving(None))), "it may have arrived on a node that is silent");
    assert!(is_safe(&silent(moving(Some(false)))), "one that is over and left nothing");
    let stranger = World::well().domain(libvirt::SHUTOFF, libvirt::SHUTOFF_CRASHED, 58);
    let stranger = stranger.qemu_ended(60, Attributes::new().with(SIGNAL, 11)).with_second_node();
    let is_safe =
        |world: &World| world.why_symptom(SymptomId::StoppedUnexpectedly, 58).causes[0].remedy.safe_to_force_delete;
    assert!(is_safe(&stranger));
    assert!(!is_safe(&with_view(stranger)), "a domain that no cluster knows");
}

#[test]
fn an_unexplained_vm_is_told_what_to_collect_where() {
    let mut world = starting();
    world.node().states.retain(|state| !matches!(state.code.spec().probe, "domain" | "kernel-log" | "agent"));
    let answer = world.why();
    assert!(answer.unknown.iter().any(|text| text == "libvirt on n1: nothing recorded"), "{:?}", answer.unknown);
    let now = answer.causes[0].remedy.now.join("\n");
    assert!(now.contains("> nodes/n1/kmsg.log   # on n1") && now.contains("kubectl get vm,vmi"), "{now}");
}

#[test]
fn an_explanation_says_what_would_change_the_verdict() {
    let world = World::well().in_kubernetes().vm_has(FindingCode::DomainControlOccupied, 60);
    let symptom = world.symptom();
    let page = explain(&world.snapshot, &symptom, "KubeletDown").expect("it is in the catalogue");
    assert!(!page.competes && page.probability == 0.0);
    let first = explain(&world.snapshot, &symptom, "QemuMonitorHung").expect("it is in the catalogue");
    assert_eq!(first.first.0, "QemuMonitorHung");
    assert!(
        (first.seen.iter().filter(|clue| clue.is_counted).map(|clue| clue.decibans).sum::<f64>() + first.prior_db
            - first.score_db)
            .abs()
            < 1e-9
    );
    assert!(explain(&world.snapshot, &symptom, "NoSuchCause").is_none());
    let mut empty = World::well().in_kubernetes().life(|life| life.paused_reason = Some("PausedIOError".to_owned()));
    empty.snapshot.nodes.clear();
    let page = explain(&empty.snapshot, &empty.symptom(), "DiskIoError").expect("it is in the catalogue");
    assert!(page.missing.iter().any(|clue| clue.would_flip && clue.would_add_db > 0.0), "{:?}", page.missing);
}

#[test]
fn dropping_any_one_finding_never_breaks_an_answer() {
    let (node, state) = down("n2");
    let event = said(actor::KUBELET, operation::MOUNT, class::TIMEOUT);
    let whole = migrating().set_on(&node, state).vm_said(Some(Side::Target), Some("n2"), 100, event).cluster_has(
        FindingCode::MigrationTargetPending,
        100,
        Attributes::new(),
    );
    let symptom = whole.symptom();
    let n = whole.snapshot.nodes[1].states.len();
    for index in 0..n {
        let mut less: Snapshot = whole.snapshot.clone();
        less.nodes[1].states.remove(index);
        let answer = attribute(&less, &symptom);
        let sum: f64 = answer.causes.iter().map(|cause| cause.probability).sum();
        assert!((sum - 1.0).abs() < 1e-9);
    }
}

#[test]
fn another_vm_of_the_cluster_changes_nothing() {
    let event = || said(actor::KUBELET, operation::CREATE_SANDBOX, class::NO_SPACE);
    let before = starting().vm_said(None, Some("n1"), 100, event()).why();
    let mut world = starting().vm_said(None, Some("n1"), 100, event());
    let mut other = mk_cluster_vm();
    other.name = "web-1".to_owned();
    other.uid = OTHER_UID.to_owned();
    other.uids = vec![OTHER_UID.to_owned()];
    other.volumes = vec!["web-1-rootdisk".to_owned()];
    other.pods[0].name = "virt-launcher-web-1-abcde".to_owned();
    other.pods[0].uid = Some("0b2c0b2c-0000-4000-8000-0000000000ee".to_owned());
    world.snapshot.cluster_vms.push(other.into());
    let theirs = said(actor::KUBELET, operation::MOUNT, class::TIMEOUT).with(POD, "prod/virt-launcher-web-1-abcde");
    let world = world.node_said("n1", 100, theirs);
    assert_eq!(world.why(), before);
}

/// Each node for itself has one QEMU, and is well.
#[test]
fn qemus_on_two_nodes_are_left_over_once_no_migration_runs_and_it_is_cleared_away() {
    let world = |phase: &str, secs: i64| {
        let mut world = World::well().in_kubernetes().migrating(phase, secs);
        let second = world.vm().clone();
        world.snapshot.nodes[1].vms.push(second);
        world
    };
    let answer = world("Failed", 600).why();
    assert_eq!((answer.symptom.id, answer.causes[0].id), (SymptomId::Unresponsive, "MigrationLeftover"));
    for (phase, secs) in [("Failed", 30), ("Running", 600)] {
        let answer = world(phase, secs).why_named(None);
        assert!(answer.causes.iter().all(|cause| cause.id != "MigrationLeftover"), "{}", table(&answer));
    }
}

/// Lines of virt-handler's proxies name no VM.
#[test]
fn what_the_proxies_say_is_the_only_migrations_own() {
    let refused = || said(actor::HANDLER, operation::CONNECT_PEER, class::UNREACHABLE);
    let score = |world: World| {
        let answer = world.node_said("n1", 65, refused()).why();
        answer.causes.iter().find(|cause| cause.id == "MigrationPathUnreachable").map_or(0.0, |cause| cause.score_db)
    };
    let with_other = |secs: i64| {
        let mut world = failed();
        let mut other = mk_cluster_vm();
        other.name = "web-1".to_owned();
        other.uid = OTHER_UID.to_owned();
        other.uids = vec![OTHER_UID.to_owned()];
        other.life.migration = Some(kulprit_cluster::MigrationLife {
            name: "web-1-mig".to_owned(),
            created_usec: Some(ago(secs + 20).wall_usec),
            ended_usec: Some(ago(secs).wall_usec),
            outcome: Some(true),
            ..kulprit_cluster::MigrationLife::default()
        });
        world.snapshot.cluster_vms.push(other.into());
        world
    };
    assert!(score(with_other(80)) < score(failed()));
    assert!((score(with_other(4_000)) - score(failed())).abs() < f64::EPSILON);
}

/// The source's virt-handler dials and gets no answer; the target's is dialled, and whatever it dials itself answers.
#[test]
fn a_path_that_is_cut_between_two_virt_handlers_is_the_paths() {
    let silent = |status| mk_state(FindingCode::MigrationPeerSilent, Subject::Node, status, 20);
    let cut = World::well().in_kubernetes().migrating("Running", 60).vm_has(FindingCode::MigrationNoBytes, 60);
    let cut = cut.set_on("n1", silent(Status::Present)).set_on("n2", silent(Status::Absent));
    let answer = cut.why();
    check(&answer, "MigrationPathUnreachable", "path", Some("n1,n2"));
    assert_eq!(answer.symptom.id, SymptomId::StuckMigrating);
}
