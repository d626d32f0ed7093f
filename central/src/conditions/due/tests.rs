//! A node's conditions over time: what central writes, what stands then, and what the watch shows of it.

use std::sync::{Arc, LazyLock};

use kulprit_cluster::ClusterNode;
use kulprit_model::{Finding, FindingCode, Status, Subject};
use proptest::prelude::*;

use super::*;
use crate::{
    conditions::{
        NpdMode, judge,
        testing::{set, snapshot, state, well},
    },
    incident::Incidents,
};

const SEC: i64 = 1_000_000;
const START: i64 = 1_772_360_000 * SEC;

/// A node of the API server, and the central that writes on it.
struct World {
    now_usec: i64,
    memory: NodeMemory,
    standing: StandingNode,
    /// What was written and the watch has not shown yet.
    unseen: Option<Vec<StandingCondition>>,
    shows_at_once: bool,
}

impl World {
    fn new() -> Self {
        let standing = StandingNode { name: "n1".to_owned(), ..StandingNode::default() };
        let memory = NodeMemory::new("n1", START);
        Self { now_usec: START, memory, standing, unseen: None, shows_at_once: true }
    }

    fn pass(&mut self, secs: i64) {
        self.now_usec += secs * SEC;
    }

    /// Writes what is due, if anything.
    fn step(&mut self, wanted: Wanted<'_>) -> Option<Urgency> {
        let due = self.memory.due(self.now_usec, wanted, &self.standing)?;
        self.unseen = Some(due.conditions.iter().map(standing_of).collect());
        self.memory.wrote(self.now_usec, due.clone(), &self.standing);
        if self.shows_at_once {
            self.show();
        }
        Some(due.urgency)
    }

    fn show(&mut self) {
        self.standing.conditions = self.unseen.take().unwrap_or_else(|| self.standing.conditions.clone());
    }

    /// Status and seconds since the start at which it last changed.
    fn of(&self, condition: NodeCondition) -> Option<(&str, i64)> {
        let own = self.standing.conditions.iter().find(|own| own.kind == type_of(condition))?;
        Some((&own.status, (own.since_usec.unwrap() - START) / SEC))
    }

    fn n_unknown(&self) -> usize {
        self.standing.conditions.iter().filter(|own| own.status == "Unknown").count()
    }
}

fn standing_of(own: &Condition) -> StandingCondition {
    let Condition { kind, truth, reason, message, since_usec } = own.clone();
    StandingCondition { kind, status: truth.to_string(), reason, message, since_usec: Some(since_usec) }
}

fn verdict(states: &[(FindingCode, Status)]) -> NodeVerdict {
    let mut node = well("n1");
    states.iter().for_each(|(code, status)| set(&mut node, *code, *status));
    judge(&snapshot(vec![node]), &[], &Incidents::default(), NpdMode::Coexist).remove(0)
}

fn silent() -> NodeVerdict {
    let mut node = well("n1");
    node.is_reporting = false;
    judge(&snapshot(vec![node]), &[], &Incidents::default(), NpdMode::Coexist).remove(0)
}

fn kvm(status: Status) -> NodeVerdict {
    verdict(&[(FindingCode::KvmDeviceMissing, status)])
}

const KVM: NodeCondition = NodeCondition::KvmUnavailable;

#[test]
fn a_change_is_written_at_once_and_once_and_moves_its_own_time_alone() {
    let mut world = World::new();
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), Some(Urgency::Change));
    assert_eq!(world.standing.conditions.len(), 8);
    world.pass(5);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), None);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), Some(Urgency::Change));
    assert_eq!(world.of(KVM), Some(("True", 5)));
    assert_eq!(world.of(NodeCondition::HostPressure), Some(("False", 0)));
    world.pass(5);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), None);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), Some(Urgency::Recovery));
    assert_eq!(world.of(KVM), Some(("False", 10)));
}

/// Kubernetes says that virt-handler is not ready.
fn handler(is_away: bool) -> NodeVerdict {
    let finding = Finding::State(state(FindingCode::VirtHandlerNotReady, Subject::Node, Status::Present));
    let mut snapshot = snapshot(vec![well("n1")]);
    if is_away {
        snapshot.cluster_nodes = vec![Arc::new(ClusterNode { name: "n1".to_owned(), findings: vec![finding] })];
    }
    judge(&snapshot, &[], &Incidents::default(), NpdMode::Coexist).remove(0)
}

#[test]
fn what_kubernetes_alone_says_has_to_last_so_that_a_roll_out_flips_nothing() {
    const STACK: NodeCondition = NodeCondition::VirtStackUnresponsive;
    let mut world = World::new();
    world.step(Wanted::Verdict(&handler(false)));
    for _ in 0..3 {
        world.pass(1);
        assert_eq!(world.step(Wanted::Verdict(&handler(true))), None);
        world.pass(59);
        assert_eq!(world.step(Wanted::Verdict(&handler(true))), None, "59 s");
        assert_eq!(world.step(Wanted::Verdict(&handler(false))), None);
    }
    assert_eq!(world.step(Wanted::Verdict(&handler(true))), None);
    world.pass(60);
    assert_eq!(world.step(Wanted::Verdict(&handler(true))), Some(Urgency::Change));
    assert_eq!(world.of(STACK), Some(("True", 240)));
    assert_eq!(world.step(Wanted::Verdict(&handler(false))), Some(Urgency::Recovery), "recovery is at once");
}

#[test]
fn what_kubernetes_says_of_a_node_that_stood_so_before_is_taken_over() {
    let mut world = World::new();
    world.step(Wanted::Verdict(&handler(true)));
    assert_eq!(world.of(NodeCondition::VirtStackUnresponsive), None, "not known yet");
    assert_eq!(world.standing.conditions.len(), 7);
    world.pass(60);
    world.step(Wanted::Verdict(&handler(true)));
    world.memory = NodeMemory::new("n1", world.now_usec);
    world.pass(5);
    assert_eq!(world.step(Wanted::Verdict(&handler(true))), None);
    assert_eq!(world.of(NodeCondition::VirtStackUnresponsive), Some(("True", 60)));
}

#[test]
fn nothing_is_written_twice_while_the_watch_is_late() {
    let mut world = World::new();
    world.shows_at_once = false;
    world.step(Wanted::Verdict(&kvm(Status::Absent))).unwrap();
    world.pass(59);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), None);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), Some(Urgency::Change));
    world.show();
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), None);
    assert_eq!(world.of(KVM), Some(("True", 59)));
    assert_eq!(world.of(NodeCondition::HostPressure), Some(("False", 0)), "as written, not as the watch shows it");
}

#[test]
fn words_alone_wait_and_move_no_time() {
    let mut world = World::new();
    world.step(Wanted::Verdict(&kvm(Status::Present))).unwrap();
    let other = verdict(&[(FindingCode::KvmUnusable, Status::Present)]);
    for secs in [10, 29] {
        world.pass(secs);
        assert_eq!(world.step(Wanted::Verdict(&other)), None);
    }
    world.pass(1);
    assert_eq!(world.step(Wanted::Verdict(&other)), Some(Urgency::Words));
    assert_eq!(world.of(KVM), Some(("True", 0)));
    assert_eq!(world.standing.conditions[0].reason, "KvmUnusable");
    world.pass(20);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), None);
    assert_eq!(world.step(Wanted::Verdict(&other)), None, "it was not so for long");
    world.pass(15);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), None, "the wait begins anew");
}

#[test]
fn another_central_takes_over_what_stands() {
    let mut world = World::new();
    world.step(Wanted::Verdict(&kvm(Status::Present))).unwrap();
    world.pass(100);
    world.memory = NodeMemory::new("n1", world.now_usec);
    assert_eq!(world.step(Wanted::Verdict(&silent())), None, "agents have not come back yet");
    assert_eq!(world.step(Wanted::NoWord), None);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Present))), None);
    world.step(Wanted::Verdict(&kvm(Status::Absent))).unwrap();
    assert_eq!((world.of(KVM), world.of(NodeCondition::HardwareFault)), (Some(("False", 100)), Some(("False", 0))));
}

#[test]
fn an_agent_that_is_gone_makes_all_unknown_after_a_minute_and_never_false() {
    let gone = silent();
    for wanted in [Wanted::Verdict(&gone), Wanted::NoWord] {
        let mut world = World::new();
        world.step(Wanted::Verdict(&kvm(Status::Present))).unwrap();
        world.pass(10);
        assert_eq!(world.step(wanted), None);
        world.pass(59);
        assert_eq!(world.step(wanted), None);
        world.pass(1);
        assert_eq!(world.step(wanted), Some(Urgency::Change));
        assert_eq!((world.n_unknown(), world.of(KVM)), (8, Some(("Unknown", 70))));
        world.pass(5);
        world.step(Wanted::Verdict(&kvm(Status::Present))).unwrap();
        assert_eq!(world.of(KVM), Some(("True", 75)), "it is back at once");
    }
}

#[test]
fn a_moment_of_blindness_is_not_written_and_the_next_one_counts_anew() {
    let mut world = World::new();
    world.step(Wanted::Verdict(&kvm(Status::Absent))).unwrap();
    for _ in 0..3 {
        assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Unknown))), None);
        world.pass(40);
        assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Unknown))), None);
        assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), None);
    }
}

#[test]
fn what_was_never_known_is_not_written_before_it_lasts() {
    let mut world = World::new();
    world.step(Wanted::Verdict(&kvm(Status::Unknown))).unwrap();
    assert_eq!((world.standing.conditions.len(), world.of(KVM)), (7, None));
    world.pass(60);
    world.step(Wanted::Verdict(&kvm(Status::Unknown))).unwrap();
    assert_eq!(world.of(KVM), Some(("Unknown", 60)));
    let mut empty = World::new();
    assert_eq!(empty.step(Wanted::NoWord), None);
    empty.pass(100_000);
    assert_eq!(empty.step(Wanted::NoWord), None, "a node without an agent gets nothing");
}

#[test]
fn all_is_said_again_every_hour_and_nodes_are_apart() {
    let (mut firsts, well) = (Vec::new(), kvm(Status::Absent));
    for name in ["n1", "n2", "n3", "n4", "n5"] {
        let mut world = World::new();
        world.memory = NodeMemory::new(name, START);
        world.step(Wanted::Verdict(&well)).unwrap();
        let mut writes = Vec::new();
        for _ in 0..(24 * 360) {
            world.pass(10);
            if let Some(urgency) = world.step(Wanted::Verdict(&well)) {
                assert_eq!(urgency, Urgency::Refresh);
                writes.push((world.now_usec - START) / SEC);
            }
        }
        assert!((21..=26).contains(&writes.len()), "{writes:?}");
        firsts.push(writes[0]);
    }
    firsts.sort_unstable();
    firsts.dedup();
    assert!(firsts.len() >= 4, "{firsts:?}");
}

#[test]
fn a_restart_of_central_is_no_burst_of_refreshes() {
    let at = |node: &str| NodeMemory::new(node, 0).refresh_at_usec / SEC;
    let n_early = (0..1_000).filter(|n| at(&format!("node-{n}")) < 360).count();
    assert!((60..140).contains(&n_early), "a tenth of the nodes in a tenth of an hour: {n_early}");
}

#[test]
fn retired_types_go_and_what_another_keeps_there_is_tried_once() {
    let mut world = World::new();
    let retired = StandingCondition { kind: "kulprit.io/Retired".to_owned(), ..StandingCondition::default() };
    world.step(Wanted::Verdict(&kvm(Status::Absent))).unwrap();
    world.standing.conditions.push(retired.clone());
    world.memory = NodeMemory::new("n1", world.now_usec);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), Some(Urgency::Change));
    assert_eq!(world.standing.conditions.len(), 8);
    world.standing.conditions.push(retired);
    world.pass(200);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), None);
}

#[test]
fn what_is_switched_off_is_removed_once() {
    let mut world = World::new();
    assert_eq!(world.step(Wanted::Nothing), None);
    world.step(Wanted::Verdict(&kvm(Status::Absent))).unwrap();
    world.memory = NodeMemory::new("n1", world.now_usec);
    assert_eq!(world.step(Wanted::Nothing), Some(Urgency::Change));
    assert_eq!(world.standing.conditions, []);
    world.pass(10_000);
    assert_eq!(world.step(Wanted::Nothing), None);
}

#[test]
fn what_another_changed_is_put_right_and_not_fought_over() {
    let mut world = World::new();
    world.step(Wanted::Verdict(&kvm(Status::Present))).unwrap();
    let mut n_writes = 0;
    for _ in 0..600 {
        world.pass(1);
        world.standing.conditions.clear();
        n_writes += usize::from(world.step(Wanted::Verdict(&kvm(Status::Present))).is_some());
    }
    assert!((9..=10).contains(&n_writes), "once a minute: {n_writes}");
}

static VERDICTS: LazyLock<[NodeVerdict; 5]> = LazyLock::new(|| {
    let unusable = verdict(&[(FindingCode::KvmUnusable, Status::Present)]);
    [kvm(Status::Absent), kvm(Status::Present), kvm(Status::Unknown), unusable, silent()]
});

proptest! {
    /// Whatever an agent says and whenever the watch shows it: `lastTransitionTime` moves exactly when the status does, nothing becomes
    /// False unless a look says so, and there are no more writes than changes.
    #[test]
    fn time_moves_with_the_status_alone(
        steps in prop::collection::vec((0_usize..5, 0_i64..90, any::<bool>(), any::<bool>()), 1..60)
    ) {
        let mut world = World::new();
        for (which, secs, shows_at_once, restarts) in steps {
            world.pass(secs);
            world.show();
            world.shows_at_once = shows_at_once;
            if restarts {
                world.memory = NodeMemory::new("n1", world.now_usec);
            }
            let before = world.standing.conditions.clone();
            let is_written = world.step(Wanted::Verdict(&VERDICTS[which])).is_some();
            world.show();
            prop_assert!(is_written || before == world.standing.conditions);
            for own in &world.standing.conditions {
                let old = before.iter().find(|old| old.kind == own.kind);
                let has_changed = old.is_none_or(|old| old.status != own.status);
                let has_moved = old.is_none_or(|old| old.since_usec != own.since_usec);
                prop_assert_eq!(has_changed, has_moved && own.since_usec == Some(world.now_usec) || has_changed && secs == 0);
                if has_changed && own.status == "False" {
                    let judged = VERDICTS[which].judged.iter().find(|judged| type_of(judged.condition) == own.kind);
                    prop_assert_eq!(judged.map(|judged| judged.truth), Some(Truth::False));
                }
            }
        }
    }
}

#[test]
fn types_of_node_problem_detector_are_taken_over_with_their_times_and_go_when_they_are_not_wanted_any_more() {
    let mut world = World::new();
    let of_npd = |kind: &str, status: &str| StandingCondition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        since_usec: Some(START - 100 * SEC),
        ..StandingCondition::default()
    };
    world.standing.conditions = vec![of_npd("KubeletUnhealthy", "False"), of_npd("KernelDeadlock", "True")];
    let replaced = judge(&snapshot(vec![well("n1")]), &[], &Incidents::default(), NpdMode::Replace).remove(0);
    assert_eq!(world.step(Wanted::Verdict(&replaced)), Some(Urgency::Recovery));
    let since = |world: &World, kind: &str| {
        world.standing.conditions.iter().find(|own| own.kind == kind).map(|own| (own.since_usec.unwrap() - START) / SEC)
    };
    assert_eq!((since(&world, "KubeletUnhealthy"), since(&world, "KernelDeadlock")), (Some(-100), Some(0)));
    assert_eq!(world.standing.conditions.len(), 8 + 6);
    world.memory = NodeMemory::new("n1", world.now_usec);
    assert_eq!(world.step(Wanted::Verdict(&kvm(Status::Absent))), Some(Urgency::Change), "a central that coexists");
    assert_eq!((since(&world, "KubeletUnhealthy"), world.standing.conditions.len()), (None, 8));
}
