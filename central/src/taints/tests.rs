//! Who is tainted and who is not, one reason at a time, and random lives of a cluster.

use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::*;

const SEC: i64 = 1_000_000;
const START: i64 = 1_772_360_000 * SEC;
const KVM: NodeCondition = NodeCondition::KvmUnavailable;
const STORAGE: NodeCondition = NodeCondition::VmStorageStalled;

fn policy() -> Policy {
    Policy {
        effects: [(KVM, Effect::NoSchedule), (STORAGE, Effect::PreferNoSchedule)].into(),
        max_nodes: 2,
        max_percent: 34,
        after_usec: 60 * SEC,
        storm_nodes: 3,
        cool_down_usec: 900 * SEC,
    }
}

/// A cluster whose API server does at once what it is told.
struct World {
    now_usec: i64,
    planner: Planner,
    nodes: Vec<StandingNode>,
    verdicts: BTreeMap<String, NodeVerdict>,
    last: Plan,
}

impl World {
    /// So many nodes, `n0` and on, of one zone; the start is long ago.
    fn new(n_nodes: usize) -> Self {
        let node = |n| StandingNode {
            name: format!("n{n}"),
            zone: "a".to_owned(),
            is_for_vms: true,
            ..StandingNode::default()
        };
        let nodes: Vec<StandingNode> = (0..n_nodes).map(node).collect();
        let planner = Planner::new(policy(), START - 3_600 * SEC);
        let mut world = Self { now_usec: START, planner, nodes, verdicts: BTreeMap::new(), last: Plan::default() };
        (0..n_nodes).for_each(|n| world.judge(n, KVM, Truth::False, Blame::Unsure));
        world.pass(0);
        world
    }

    fn judge(&mut self, n: usize, condition: NodeCondition, truth: Truth, blame: Blame) {
        let node = format!("n{n}");
        let verdict = self.verdicts.entry(node.clone()).or_insert_with(|| NodeVerdict {
            node,
            judged: Vec::new(),
            npd: Vec::new(),
        });
        verdict.judged.retain(|own| own.condition != condition);
        let (reason, message) = (String::new(), String::new());
        verdict.judged.push(Judged { condition, truth, reason, message, blame });
    }

    fn sick(&mut self, nodes: RangeInclusive<usize>) {
        nodes.for_each(|n| self.judge(n, KVM, Truth::True, Blame::Own));
    }

    fn well(&mut self, n: usize) {
        self.judge(n, KVM, Truth::False, Blame::Unsure);
    }

    /// Lets time pass, a look every 10 s, and does what is planned.
    fn pass(&mut self, secs: i64) {
        let until = self.now_usec + secs * SEC;
        loop {
            let verdicts = self.verdicts.iter().map(|(name, verdict)| (name.as_str(), verdict)).collect();
            self.last = self.planner.plan(self.now_usec, &self.nodes, &verdicts);
            for change in self.last.changes.clone() {
                let node = self.nodes.iter_mut().find(|node| node.name == change.node).unwrap();
                node.taints = standing(&change.taints);
                self.planner.wrote(self.now_usec, change);
            }
            if self.now_usec >= until {
                return;
            }
            self.now_usec = (self.now_usec + 10 * SEC).min(until);
        }
    }

    /// The taints of all nodes, `n0 kvm-unavailable:NoSchedule`.
    fn taints(&self) -> Vec<String> {
        let of = |node: &StandingNode| {
            let text = |taint: &StandingTaint| {
                format!("{} {}:{}", node.name, taint.key.trim_start_matches(PREFIX), taint.effect)
            };
            node.taints.iter().map(text).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(of).collect()
    }

    #[track_caller]
    fn check(&self, want: &[&str]) {
        assert_eq!(self.taints(), want, "{:#?}", self.last);
    }

    fn withheld(&self, n: usize) -> Option<&Withheld> {
        self.last.withheld.get(&(format!("n{n}"), KVM))
    }
}

fn standing(taints: &Taints) -> Vec<StandingTaint> {
    let one =
        |(key, effect): (&String, &Effect)| StandingTaint { key: key.clone(), effect: effect.as_str().to_owned() };
    taints.iter().map(one).collect()
}

#[test]
fn keys_are_the_conditions_in_lower_case_with_dashes() {
    assert_eq!(key_of(KVM), "kulprit.io/kvm-unavailable");
    assert_eq!(key_of(NodeCondition::ContainerRuntimeDegraded), "kulprit.io/container-runtime-degraded");
}

#[test]
fn a_node_is_tainted_after_a_while_and_freed_at_once() {
    let mut world = World::new(3);
    world.sick(0..=0);
    world.pass(59);
    world.check(&[]);
    assert_eq!(world.withheld(0), Some(&Withheld::Waits));
    world.pass(1);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
    assert_eq!(world.last.withheld, BTreeMap::new());
    world.pass(600);
    assert_eq!(world.last.changes, [], "once");
    world.well(0);
    world.pass(0);
    world.check(&[]);
}

#[test]
fn a_condition_that_comes_and_goes_is_not_waited_for_in_pieces() {
    let mut world = World::new(3);
    for _ in 0..5 {
        world.sick(0..=0);
        world.pass(50);
        world.well(0);
        world.pass(10);
    }
    world.check(&[]);
}

#[test]
fn only_a_confirmed_fault_of_the_node_itself_taints_it() {
    for (truth, blame) in [
        (Truth::True, Blame::Unsure),
        (Truth::True, Blame::Shared),
        (Truth::Unknown, Blame::Own),
        (Truth::False, Blame::Own),
    ] {
        let mut world = World::new(3);
        world.judge(0, KVM, truth, blame);
        world.judge(1, NodeCondition::HostPressure, Truth::True, Blame::Own);
        world.pass(600);
        world.check(&[]);
    }
}

#[test]
fn a_taint_that_may_never_have_come_makes_no_room_for_a_second_one() {
    let mut world = World::new(6);
    world.sick(0..=0);
    world.pass(30);
    world.judge(0, STORAGE, Truth::True, Blame::Own);
    world.pass(20);
    world.now_usec += 10 * SEC;
    let verdicts = world.verdicts.iter().map(|(name, verdict)| (name.as_str(), verdict)).collect();
    let plan = world.planner.plan(world.now_usec, &world.nodes, &verdicts);
    let [change] = &plan.changes[..] else { panic!("{plan:?}") };
    world.planner.unsure(world.now_usec, change.clone());
    world.nodes[1].is_out = true;
    world.nodes[2].is_out = true;
    world.pass(35);
    world.check(&[]);
    assert_eq!(world.last.withheld.get(&("n0".to_owned(), STORAGE)), Some(&Withheld::Budget(2)));
}

#[test]
fn a_taint_stays_while_nobody_knows_and_goes_when_its_cause_is_shared() {
    let tainted = || {
        let mut world = World::new(3);
        world.sick(0..=0);
        world.pass(60);
        world
    };
    for (truth, blame) in [(Truth::Unknown, Blame::Unsure), (Truth::True, Blame::Unsure)] {
        let mut world = tainted();
        world.judge(0, KVM, truth, blame);
        world.pass(600);
        world.check(&["n0 kvm-unavailable:NoSchedule"]);
    }
    let mut world = tainted();
    world.verdicts.clear();
    world.pass(600);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
    world.judge(0, KVM, Truth::True, Blame::Shared);
    world.pass(0);
    world.check(&[]);
}

#[test]
fn what_the_policy_does_not_name_any_more_goes_and_another_effect_comes() {
    let mut world = World::new(3);
    world.sick(0..=0);
    world.pass(60);
    let retired = StandingTaint { key: "kulprit.io/retired".to_owned(), effect: "NoExecute".to_owned() };
    world.nodes[1].taints.push(retired);
    let milder = Policy { effects: [(KVM, Effect::PreferNoSchedule)].into(), ..policy() };
    world.planner = Planner::new(milder, world.now_usec);
    world.pass(0);
    world.check(&["n0 kvm-unavailable:PreferNoSchedule"]);
    world.planner = Planner::new(Policy { effects: BTreeMap::new(), ..policy() }, world.now_usec);
    world.pass(0);
    world.check(&[]);
}

#[test]
fn a_key_that_stands_there_twice_is_one_again() {
    let mut world = World::new(3);
    world.sick(0..=0);
    world.pass(60);
    let other = StandingTaint { key: key_of(KVM), effect: "NoExecute".to_owned() };
    world.nodes[0].taints.push(other);
    world.pass(61);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
}

#[test]
fn nobody_taints_a_node_that_another_has_in_hand_or_that_is_not_for_vms() {
    let mut world = World::new(3);
    world.nodes[0].taken = Some("it is cordoned".to_owned());
    world.sick(0..=0);
    world.pass(600);
    world.check(&[]);
    assert_eq!(world.withheld(0), Some(&Withheld::Taken("it is cordoned".to_owned())));
    world.nodes[0].taken = None;
    world.nodes[0].is_for_vms = false;
    world.pass(600);
    world.check(&[]);
    world.nodes[0].is_for_vms = true;
    world.pass(600);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
    world.nodes[0].taken = Some("it is cordoned".to_owned());
    world.pass(600);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
    world.well(0);
    world.pass(0);
    world.check(&[]);
}

#[test]
fn the_budget_is_the_smaller_of_number_and_percent_and_counts_whoever_is_out() {
    for (n_nodes, n_out, want) in
        [(2, 0, 0), (3, 0, 1), (5, 0, 1), (6, 0, 2), (100, 0, 2), (6, 1, 1), (6, 2, 0), (3, 1, 0)]
    {
        let mut world = World::new(n_nodes);
        world.nodes.iter_mut().rev().take(n_out).for_each(|node| node.is_out = true);
        world.sick(0..=0);
        world.pass(400);
        world.judge(1, STORAGE, Truth::True, Blame::Own);
        world.pass(400);
        assert_eq!(world.taints().len(), want, "{n_nodes} nodes, {n_out} out: {:?}", world.last);
    }
}

#[test]
fn each_zone_has_a_budget_of_its_own_and_a_second_taint_costs_nothing() {
    let mut world = World::new(6);
    world.nodes.iter_mut().skip(3).for_each(|node| node.zone = "b".to_owned());
    for n in [0, 1, 3] {
        world.sick(n..=n);
        world.pass(400);
    }
    world.check(&["n0 kvm-unavailable:NoSchedule", "n3 kvm-unavailable:NoSchedule"]);
    assert_eq!(world.withheld(1), Some(&Withheld::Budget(1)));
    world.judge(0, STORAGE, Truth::True, Blame::Own);
    world.pass(400);
    assert_eq!(world.taints().len(), 3);
    world.well(0);
    world.judge(0, STORAGE, Truth::False, Blame::Unsure);
    world.pass(0);
    world.check(&["n3 kvm-unavailable:NoSchedule"]);
    world.pass(10);
    world.check(&["n1 kvm-unavailable:NoSchedule", "n3 kvm-unavailable:NoSchedule"]);
}

#[test]
fn a_storm_taints_nobody_until_it_is_over_and_then_one_by_one() {
    let mut world = World::new(100);
    world.sick(0..=49);
    world.pass(899);
    world.check(&[]);
    assert_eq!(world.withheld(0), Some(&Withheld::Breaker));
    world.pass(61);
    assert_eq!(world.taints().len(), 1);
    world.pass(240);
    assert_eq!(world.taints().len(), 1);
    world.pass(20);
    assert_eq!(world.taints().len(), 2, "and no more than the budget");
    world.pass(10_000);
    assert_eq!(world.taints().len(), 2);
    (0..50).for_each(|n| world.well(n));
    world.pass(0);
    world.check(&[]);
}

#[test]
fn recovery_goes_on_while_the_breaker_is_open() {
    let mut world = World::new(6);
    world.sick(0..=0);
    world.pass(60);
    world.sick(1..=4);
    world.pass(60);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
    world.well(0);
    world.pass(0);
    world.check(&[]);
}

#[test]
fn after_a_start_taints_are_taken_over_and_one_is_added_at_most() {
    let mut world = World::new(12);
    world.sick(0..=0);
    world.pass(60);
    world.sick(1..=1);
    world.planner = Planner::new(Policy { max_nodes: 4, ..policy() }, world.now_usec);
    world.pass(60);
    assert_eq!(world.taints().len(), 2);
    world.sick(2..=2);
    world.pass(200);
    assert_eq!((world.taints().len(), world.withheld(2)), (2, Some(&Withheld::Breaker)));
    world.pass(100);
    assert_eq!(world.taints().len(), 3);
}

#[test]
fn nothing_is_planned_twice_while_the_watch_is_late() {
    let mut world = World::new(3);
    world.sick(0..=0);
    world.pass(60);
    let shown = std::mem::take(&mut world.nodes[0].taints);
    world.pass(30);
    assert_eq!(world.last.changes, []);
    world.nodes[0].taints = shown;
    world.pass(0);
    assert_eq!(world.last.changes, []);
    world.nodes[0].taints.clear();
    world.pass(70);
    world.check(&["n0 kvm-unavailable:NoSchedule"]);
}

fn foreign() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "kubevirt.io/drain",
        "node.kubernetes.io/unschedulable",
        "kulprit.iox/kvm-unavailable",
        "kulprit",
        "example.com/kulprit.io/kvm-unavailable",
        "node.kubernetes.io/out-of-service",
    ]);
    let effect = prop::sample::select(vec!["NoSchedule", "NoExecute", "PreferNoSchedule"]);
    (key, effect, any::<bool>()).prop_map(|(key, effect, has_more)| {
        let mut taint = json!({"key": key, "effect": effect});
        if has_more {
            taint["value"] = json!("v");
            taint["timeAdded"] = json!("2026-03-01T10:00:00Z");
            taint["future"] = json!({"x": [1]});
        }
        taint
    })
}

fn own() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![key_of(KVM), key_of(STORAGE), "kulprit.io/retired".to_owned()]);
    (key, prop::sample::select(vec!["NoSchedule", "NoExecute", "PreferNoSchedule"]))
        .prop_map(|(key, effect)| json!({"key": key, "effect": effect}))
}

proptest! {
    /// Whatever stands on a node, foreign taints stay as and where they are, and of ours exactly those that are wanted are there.
    #[test]
    fn foreign_taints_are_not_touched(
        taints in prop::collection::vec(prop_oneof![foreign(), own()], 0..8),
        kvm in prop::option::of(prop::sample::select(vec![Effect::NoSchedule, Effect::PreferNoSchedule])),
    ) {
        let wanted: Taints = kvm.map(|effect| (key_of(KVM), effect)).into_iter().collect();
        let after = with_ours(&taints, &wanted);
        let is_ours = |taint: &&Value| taint["key"].as_str().unwrap().starts_with(PREFIX);
        let foreign = |taints: &[Value]| taints.iter().filter(|taint| !is_ours(taint)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(foreign(&taints), foreign(&after));
        let mut ours: Vec<(String, String)> = after
            .iter()
            .filter(is_ours)
            .map(|taint| (taint["key"].as_str().unwrap().to_owned(), taint["effect"].as_str().unwrap().to_owned()))
            .collect();
        ours.dedup();
        let want: Vec<_> = wanted.iter().map(|(key, effect)| (key.clone(), effect.as_str().to_owned())).collect();
        prop_assert_eq!(ours, want);
    }
}

/// What befalls a node in one step.
#[derive(Clone, Debug)]
struct Blow {
    node: usize,
    condition: NodeCondition,
    truth: Truth,
    blame: Blame,
    is_out: bool,
    is_taken: bool,
    is_for_vms: bool,
}

fn blow() -> impl Strategy<Value = Blow> {
    let truth = prop::sample::select(vec![Truth::True, Truth::True, Truth::False, Truth::Unknown]);
    let blame = prop::sample::select(vec![Blame::Own, Blame::Own, Blame::Unsure, Blame::Shared]);
    let marks = (prop::bool::weighted(0.2), prop::bool::weighted(0.1), prop::bool::weighted(0.9));
    (0_usize..10, prop::sample::select(vec![KVM, STORAGE]), truth, blame, marks).prop_map(
        |(node, condition, truth, blame, (is_out, is_taken, is_for_vms))| Blow {
            node,
            condition,
            truth,
            blame,
            is_out,
            is_taken,
            is_for_vms,
        },
    )
}

proptest! {
    /// Whatever befalls a cluster, whichever writes fail or are done without an answer, however late the watch: what is added keeps within
    /// the budget of its zone, is of a node's own confirmed fault and on nobody else's node; and what is over is gone.
    #[test]
    fn no_life_of_a_cluster_exceeds_the_budget(
        steps in prop::collection::vec((prop::collection::vec(blow(), 0..4), 0_i64..50, any::<[u8; 3]>(), any::<bool>()), 1..80),
        max_nodes in 0_usize..4,
        max_percent in 0_usize..101,
        storm_nodes in 1_usize..6,
        after_secs in 0_i64..120,
    ) {
        let mut world = World::new(10);
        let policy = Policy { max_nodes, max_percent, storm_nodes, after_usec: after_secs * SEC, ..policy() };
        world.planner = Planner::new(policy, world.now_usec);
        world.nodes.iter_mut().skip(5).for_each(|node| node.zone = "b".to_owned());
        // What really stands; `world.nodes` is what the watch shows of it.
        let mut real: Vec<Vec<StandingTaint>> = vec![Vec::new(); 10];
        for (blows, secs, fates, shows) in steps {
            world.now_usec += secs * SEC;
            for blow in blows {
                world.judge(blow.node, blow.condition, blow.truth, blow.blame);
                let node = &mut world.nodes[blow.node];
                (node.is_out, node.is_for_vms) = (blow.is_out, blow.is_for_vms);
                node.taken = blow.is_taken.then(|| "it is cordoned".to_owned());
            }
            let verdicts = world.verdicts.iter().map(|(name, verdict)| (name.as_str(), verdict)).collect();
            let plan = world.planner.plan(world.now_usec, &world.nodes, &verdicts);
            let mut all_written = true;
            for (which, change) in plan.changes.into_iter().enumerate() {
                let n: usize = change.node[1..].parse().unwrap();
                prop_assert!(change.taints.keys().all(|key| [key_of(KVM), key_of(STORAGE)].contains(key)));
                let added: Vec<String> =
                    change.taints.keys().filter(|key| !real[n].iter().any(|own| own.key == **key)).cloned().collect();
                let had_some = !real[n].is_empty();
                // Refused; done, or not, and nobody knows; done.
                let (is_done, is_known) = match fates[which % 3] % 8 {
                    0 => (false, true),
                    1 => (true, false),
                    2 => (false, false),
                    _ => (true, true),
                };
                all_written &= is_done;
                if is_done {
                    real[n] = standing(&change.taints);
                }
                match (is_known, is_done) {
                    (true, true) => world.planner.wrote(world.now_usec, change.clone()),
                    (true, false) => {}
                    (false, _) => world.planner.unsure(world.now_usec, change.clone()),
                }
                if is_done && !added.is_empty() && change.adds {
                    let node = &world.nodes[n];
                    prop_assert!(node.is_for_vms && node.taken.is_none(), "{change:?}");
                    let own = |key: &String| world.verdicts[&node.name].judged.iter().any(|judged| {
                        key_of(judged.condition) == *key && judged.truth == Truth::True && judged.blame == Blame::Own
                    });
                    prop_assert!(added.iter().all(own), "{change:?}");
                    let zone = || world.nodes.iter().enumerate().filter(|(_, other)| other.zone == node.zone);
                    let n_out = zone().filter(|(n, other)| !real[*n].is_empty() || other.is_for_vms && other.is_out).count();
                    let limit = max_nodes.min(zone().filter(|(_, other)| other.is_for_vms).count() * max_percent / 100);
                    prop_assert!(n_out <= limit || had_some, "{n_out} of {limit}: {change:?}");
                }
            }
            if all_written {
                for (n, taints) in real.iter().enumerate() {
                    let judged = &world.verdicts[&format!("n{n}")].judged;
                    let mut over = judged.iter().filter(|own| own.truth == Truth::False).map(|own| key_of(own.condition));
                    let has = |key: String| taints.iter().any(|taint| taint.key == key);
                    prop_assert!(!over.any(has), "n{n} {judged:?} {taints:?}");
                }
            }
            // The watch is no later than the planner believes it can be.
            if shows || secs > 0 {
                world.nodes.iter_mut().zip(&real).for_each(|(node, taints)| node.taints.clone_from(taints));
            }
        }
    }
}
