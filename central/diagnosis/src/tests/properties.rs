//! What holds for every snapshot, sensible or not.

use kulprit_cluster::{ClusterFinding, Life};
use kulprit_model::{
    Attributes, Finding, FindingCode, Moment, Occurrence, Side, State, Status, Subject,
    catalogue::{CATALOGUE, Kind},
};
use proptest::{prelude::*, sample::select};

use crate::{Attribution, Snapshot, Symptom, SymptomId, attribute, causes_markdown, symptom_of, symptoms, testing::*};

fn codes(kind: Kind) -> Vec<FindingCode> {
    CATALOGUE.iter().filter(|spec| spec.kind == kind).map(|spec| spec.code).collect()
}

fn any_subject() -> impl Strategy<Value = Subject> {
    select(vec![
        Subject::Node,
        Subject::unit("kubelet.service"),
        Subject::vm(UID),
        Subject::vm(OTHER_UID),
        Subject::Process { pid: PID, start_ticks: 0 },
        Subject::Process { pid: 815, start_ticks: 8150 },
        Subject::Device { name: "loop3".to_owned() },
        Subject::Device { name: "sda".to_owned() },
        Subject::Libvirt { uri: "qemu:///system".to_owned() },
        Subject::Probe { name: "qemu".to_owned() },
        Subject::Probe { name: "kernel-log".to_owned() },
    ])
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let pair = select(vec![
        ("signal", "9"),
        ("signal", "11"),
        ("signal", "garbage"),
        ("exit_code", "1"),
        ("wait", "local_storage"),
        ("wait", "network_storage"),
        ("io_error", "no_space"),
        ("io_error", "io_error"),
        ("device", "7:3"),
        ("blocked_secs", "9223372036854775807"),
        ("blocked_secs", "-1"),
    ]);
    prop::collection::vec(pair, 0..3).prop_map(|pairs| pairs.into_iter().collect())
}

/// Mostly sensible, sometimes at the ends of time.
fn any_time() -> impl Strategy<Value = Moment> {
    prop_oneof![
        8 => (-100_i64..8_000).prop_map(ago),
        1 => Just(Moment { wall_usec: i64::MAX, boottime_usec: i64::MAX }),
        1 => Just(Moment { wall_usec: i64::MIN, boottime_usec: i64::MIN }),
    ]
}

prop_compose! {
    fn any_state()(
        code in select(codes(Kind::State)),
        subject in any_subject(),
        status in select(vec![Status::Present, Status::Absent, Status::Unknown]),
        since in any_time(),
        looked in any_time(),
        attributes in any_attributes(),
    ) -> State {
        State { since, looked, attributes, ..mk_state(code, subject, status, 0) }
    }
}

prop_compose! {
    fn any_occurrence()(
        code in select(codes(Kind::Occurrence)),
        subject in any_subject(),
        first in any_time(),
        last in any_time(),
        attributes in any_attributes(),
    ) -> Occurrence {
        Occurrence { first, last, ..mk_occurrence(code, subject, 0, attributes) }
    }
}

prop_compose! {
    fn any_snapshot()(
        states in prop::collection::vec(any_state(), 0..25),
        occurrences in prop::collection::vec(any_occurrence(), 0..10),
        is_healthy_base in any::<bool>(),
        is_reporting in prop::bool::weighted(0.9),
        has_qemu in any::<bool>(),
        cluster in prop::option::of(any_cluster()),
        (domain_state, reason, since) in (-1_i32..9, -1_i32..16, any_time()),
    ) -> Snapshot {
        let mut world = World::well().domain(domain_state, reason, 0);
        if !is_healthy_base {
            world.node().states.clear();
        }
        for state in states {
            world = world.set(state);
        }
        world.node().occurrences = occurrences.into();
        world.node().is_reporting = is_reporting;
        let vm = world.vm();
        if let Some(domain) = &mut vm.domain {
            domain.since = since;
        }
        if !has_qemu {
            vm.last_qemu = vm.qemu.take();
        }
        match cluster {
            Some(cluster) => in_cluster(world, cluster),
            None => world.snapshot,
        }
    }
}

/// A life of the VM in Kubernetes, and what its objects say: (which life, for how long, findings with their sides and nodes).
type AnyCluster = (usize, i64, Vec<ClusterFinding>, bool);

fn any_finding() -> impl Strategy<Value = ClusterFinding> {
    let finding = prop_oneof![any_state().prop_map(Finding::State), any_occurrence().prop_map(Finding::Occurrence)];
    let side = select(vec![None, Some(Side::Hosting), Some(Side::Source), Some(Side::Target), Some(Side::Cluster)]);
    let node = select(vec![None, Some("n1"), Some("n2"), Some("n9")]);
    (finding, side, node).prop_map(|(finding, side, node)| ClusterFinding {
        side,
        node: node.map(ToOwned::to_owned),
        finding,
    })
}

fn any_cluster() -> impl Strategy<Value = AnyCluster> {
    let secs = prop_oneof![0_i64..10_000, Just(i64::MIN / 4_000_000), Just(i64::MAX / 4_000_000)];
    (0_usize..6, secs, prop::collection::vec(any_finding(), 0..8), any::<bool>())
}

fn in_cluster(world: World, (life, secs, findings, has_host): AnyCluster) -> Snapshot {
    let world = world.in_kubernetes();
    let mut world = match life {
        0 => world,
        1 => world.starting("Scheduling", secs),
        2 => world.migrating("Running", secs),
        3 => world.migrating("Failed", secs),
        4 => world.life(|life| life.vmi_deleted_usec = Some(ago(secs).wall_usec)),
        _ => world.life(|life| *life = Life::default()),
    };
    let vm = world.cluster_vm();
    vm.findings = findings;
    if !has_host {
        vm.hosting = None;
        vm.source = None;
        vm.target = None;
    }
    world.snapshot
}

/// Every symptom that the snapshot shows, and each one that it could have shown for the VM.
fn questions(snapshot: &Snapshot) -> Vec<Symptom> {
    let mut all = symptoms(snapshot);
    for migration in [None, Some("db-0-mig-1")] {
        all.push(symptom_of(snapshot, UID, migration, true));
    }
    for id in [
        SymptomId::StuckStopping,
        SymptomId::PausedUnexpectedly,
        SymptomId::Unresponsive,
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
    ] {
        for since_wall_usec in [None, Some(ago(60).wall_usec), Some(i64::MIN), Some(i64::MAX)] {
            all.push(Symptom { subject: vm_subject(), id, since_wall_usec, text: String::new(), migration: None });
        }
    }
    all
}

fn check_shape(answer: &Attribution) {
    let sum: f64 = answer.causes.iter().map(|cause| cause.probability).sum();
    assert!((sum - 1.0).abs() < 1e-9, "sum {sum}{}", table(answer));
    assert!(answer.causes.windows(2).all(|pair| pair[0].probability >= pair[1].probability));
    assert_eq!(answer.causes.iter().filter(|cause| cause.id == "Unexplained").count(), 1);
    for cause in answer.causes.iter().chain(&answer.contributing) {
        assert!((0.0..=1.0).contains(&cause.probability) && cause.score_db.is_finite(), "{}", table(answer));
        assert_eq!(cause.chain.first(), Some(&cause.id));
        assert!(cause.evidence.iter().all(|line| cause.chain.contains(&line.cause)));
    }
    // A cause stands in one chain only, and never beside the chain that it is part of.
    let mut in_chains: Vec<_> = answer.causes.iter().flat_map(|cause| &cause.chain).collect();
    let n_in_chains = in_chains.len();
    in_chains.sort();
    in_chains.dedup();
    assert_eq!(in_chains.len(), n_in_chains, "{}", table(answer));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_answer_is_whole_and_nothing_panics(snapshot in any_snapshot()) {
        for symptom in questions(&snapshot) {
            check_shape(&attribute(&snapshot, &symptom));
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        snapshot in any_snapshot(),
        keys in prop::collection::vec(any::<u64>(), 1..40),
    ) {
        let mut shuffled = snapshot.clone();
        let node = &mut shuffled.nodes[0];
        let mut index = 0;
        let mut next = || { index += 1; keys[index % keys.len()].wrapping_mul(index as u64) };
        node.states.sort_by_cached_key(|_| next());
        node.occurrences.sort_by_cached_key(|_| next());
        node.vms.reverse();
        if let Some(vm) = shuffled.cluster_vms.first_mut() {
            std::sync::Arc::make_mut(vm).findings.reverse();
        }
        let sorted = symptoms(&snapshot);
        prop_assert_eq!(&sorted, &symptoms(&shuffled));
        for symptom in questions(&snapshot) {
            let (a, b) = (attribute(&snapshot, &symptom), attribute(&shuffled, &symptom));
            prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
        }
    }

    #[test]
    fn what_befalls_another_vm_changes_no_answer(
        snapshot in any_snapshot(),
        states in prop::collection::vec(any_state(), 0..10),
        occurrences in prop::collection::vec(any_occurrence(), 0..10),
    ) {
        let mut more = snapshot.clone();
        let node = &mut more.nodes[0];
        for mut state in states {
            state.subject = Subject::vm(OTHER_UID);
            node.states.retain(|old| (old.code, &old.subject) != (state.code, &state.subject));
            node.states.push(state);
        }
        for mut occurrence in occurrences {
            let is_of_a_device = matches!(occurrence.subject, Subject::Device { .. });
            occurrence.subject =
                if is_of_a_device { Subject::Device { name: "loop4".to_owned() } } else { Subject::vm(OTHER_UID) };
            occurrence.attributes = occurrence.attributes.with("device", "7:4");
            // The hole in the kernel log is the node's, whoever it is said of.
            if occurrence.code != FindingCode::KernelLogLost {
                node.occurrences.push(occurrence);
            }
        }
        for symptom in questions(&snapshot).into_iter().filter(|symptom| symptom.subject == vm_subject()) {
            prop_assert_eq!(attribute(&snapshot, &symptom), attribute(&more, &symptom));
        }
    }

    #[test]
    fn a_probe_gone_blind_makes_no_wrong_verdict_surer(
        probes in prop::collection::vec(select(vec!["kubelet", "kvm", "qemu", "domain", "kernel-log"]), 1..4),
        case in select(vec![("LocalDiskStalled", 0), ("QemuMonitorHung", 1), ("QemuKilled", 2), ("QemuCrashed", 3)]),
    ) {
        let (truth, index) = case;
        let make = || match index {
            0 => World::well()
                .vm_has(FindingCode::QemuThreadBlocked, 60)
                .vm_has_with(FindingCode::VmDiskStalled, 60, Attributes::new().with("wait", "local_storage")),
            1 => World::well().vm_has(FindingCode::QemuStopped, 60),
            2 => World::well().domain(5, 3, 60).qemu_ended(60, Attributes::new().with("signal", 9)),
            _ => World::well().domain(5, 3, 60).qemu_ended(60, Attributes::new().with("signal", 11)),
        };
        let symptom = make().symptom();
        let whole = attribute(&make().snapshot, &symptom);
        prop_assert_eq!(whole.causes[0].id, truth);
        let blinded = probes.iter().fold(make(), |world, probe| world.blind(probe));
        let answer = attribute(&blinded.snapshot, &symptom);
        for cause in answer.causes.iter().filter(|cause| cause.id != "Unexplained" && !whole.causes[0].chain.contains(&cause.id)) {
            prop_assert!(cause.probability < 0.6, "without {:?}: {}", probes, table(&answer));
        }
    }
}

#[test]
fn the_generated_page_is_the_same_every_time() {
    assert_eq!(causes_markdown(), causes_markdown());
}
