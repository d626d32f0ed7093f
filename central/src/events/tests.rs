//! What is said of incidents, how much, and that nothing is said twice: by hand, and by sequences that nobody would think of.

use std::collections::BTreeMap;

use kulprit_cluster::{Spoken, StandingCondition, StandingNode};
use kulprit_diagnosis::{Candidate, Place, Remedy, SymptomId, SymptomSubject, WeighedEvidence};
use proptest::prelude::*;
use serde_json::json;

use super::{
    budget::{Budget, OBJECT_BURST, OBJECT_EVERY_USEC, WHOLE_BURST, WHOLE_EVERY_USEC},
    due::{Book, Outcome},
    flips::Flips,
    *,
};
use crate::incident::testing::{self, incident, member};

const NOW: i64 = 1_772_360_100_000_000;
const SECOND: i64 = 1_000_000;
const CLOSE: i64 = 60 * SECOND;

fn attribution(uid: &str, cause: &'static str, texts: usize) -> Attribution {
    let evidence = WeighedEvidence {
        source: "procfs".to_owned(),
        node: "n1".to_owned(),
        at_wall_usec: NOW,
        text: "thread 3044 of QEMU 3036 is in state D ".repeat(texts),
        weight_db: 30.0,
        cause,
    };
    let now = vec!["fsfreeze --unfreeze /data   # if a backup left it so".repeat(texts)];
    let candidate = Candidate {
        probability: 0.973,
        evidence: vec![evidence],
        remedy: Remedy { now, ..Remedy::default() },
        ..testing::candidate(cause, Place::Node { node: "n1".to_owned() })
    };
    let subject = SymptomSubject::Vm { node: "n1".to_owned(), uid: uid.to_owned() };
    let mut attribution = testing::attribution(subject, SymptomId::StuckStopping, vec![candidate]);
    attribution.symptom.since_wall_usec = Some(NOW);
    attribution.symptom.text = "its QEMU was killed 29 s ago and has not ended ".repeat(texts);
    attribution
}

fn frozen() -> Incident {
    let mut incident = incident(7, "LocalDiskStalled", "n1");
    incident.members.push(member("prod", "db", "n1"));
    incident
}

fn reported(incidents: Vec<Incident>, attributions: &[Attribution]) -> Vec<Report> {
    reports(attributions, &incidents.into_iter().collect(), NOW, CLOSE)
}

#[test]
fn a_vm_and_the_node_are_told_and_the_node_hears_of_no_vm() {
    let told = reported(vec![frozen()], &[attribution("db", "LocalDiskStalled", 1)]);
    let [vm, node] = told.as_slice() else { panic!("{told:#?}") };
    assert!(vm.is_verdict && !vm.is_over && node.is_verdict);
    let want = "StuckStopping: its QEMU was killed 29 s ago and has not ended. Cause: LocalDiskStalled, 97 % sure, on node n1 (hosting): \
        A local block device or file system under the VM answers no I/O, without an error. Evidence: thread 3044 of QEMU 3036 is in state D \
        (procfs, n1). Do: fsfreeze --unfreeze /data. Incident 00000000000000000000000007: kulprit why prod/db";
    assert_eq!(vm.note, want);
    assert_eq!(node.about, About::Node { name: "n1".to_owned() });
    assert!(!node.note.contains("db") && node.note.contains("LocalDiskStalled, 70 % sure"), "{}", node.note);
}

#[test]
fn of_two_that_are_nearly_as_likely_the_note_is_about_the_one_that_the_incident_names() {
    let mut both = attribution("db", "QemuMonitorHung", 1);
    both.causes[0].probability = 0.7;
    let named = Candidate { probability: 0.3, ..attribution("db", "LocalDiskStalled", 2).causes.remove(0) };
    both.causes.push(named);
    let told = reported(vec![frozen()], std::slice::from_ref(&both));
    assert!(!told[0].is_verdict && !told[1].is_verdict, "{told:#?}");
    assert!(told[0].note.contains(". Suspected cause: LocalDiskStalled, 30 % sure"), "{}", told[0].note);
    assert!(told[0].note.contains("D thread 3044"), "its own evidence: {}", told[0].note);
    // Each would be enough: both are sure.
    let [first, other] = both.causes.try_into().unwrap();
    let other = Candidate { probability: 0.98, ..other };
    let beside =
        Attribution { causes: vec![first], contributing: vec![other], ..attribution("db", "QemuMonitorHung", 1) };
    assert!(reported(vec![frozen()], &[beside])[0].is_verdict);
}

#[test]
fn a_note_tells_no_secret_of_a_host_s_log() {
    let mut shown = attribution("db", "LocalDiskStalled", 1);
    shown.causes[0].evidence[0].text = "pull from https://me:hunter2@registry/os: denied".to_owned();
    shown.symptom.text = "GET https://h/disk?sig=hunter2 failed".to_owned();
    for report in reported(vec![frozen()], &[shown]) {
        assert!(!report.note.contains("hunter2"), "{}", report.note);
    }
}

#[test]
fn a_note_is_never_too_long_and_keeps_the_cause_and_the_incident() {
    for texts in [1, 20, 500] {
        let mut incident = frozen();
        incident.members[0].name = "é".repeat(texts);
        for report in reported(vec![incident], &[attribution("db", "LocalDiskStalled", texts)]) {
            assert!(report.note.len() <= MAX_NOTE_BYTES, "{}", report.note.len());
            for word in ["LocalDiskStalled", "00000000000000000000000007"] {
                assert!(report.note.contains(word), "{}", report.note);
            }
        }
    }
}

#[test]
fn who_is_well_again_is_told_so_after_a_while_and_the_rest_when_it_closes() {
    let mut incident = frozen();
    incident.members.push(member("prod", "web", "n1"));
    incident.members[1].until_wall_usec = Some(NOW - CLOSE + 1);
    let over = |incident: &Incident| {
        let told = reported(vec![incident.clone()], &[]);
        told.iter().map(|report| report.is_over).collect::<Vec<_>>()
    };
    assert_eq!(over(&incident), [false, false, false]);
    incident.members[1].until_wall_usec = Some(NOW - CLOSE);
    assert_eq!(over(&incident), [false, true, false]);
    incident.closed_wall_usec = Some(NOW - 299 * SECOND);
    assert_eq!(over(&incident), [true; 3]);
    incident.closed_wall_usec = Some(NOW - 300 * SECOND);
    assert_eq!(over(&incident), [false; 0]);
    incident.closed_wall_usec = Some(NOW);
    incident.merged_into = Some(Ulid::from(1_u128));
    assert_eq!(over(&incident), [false; 0], "it lasts as another");
}

#[test]
fn what_was_unexplained_and_is_back_elsewhere_borrows_no_verdict() {
    let mut unexplained = incident(6, "Unexplained", "");
    unexplained.members.push(member("prod", "db", "n1"));
    unexplained.members[0].until_wall_usec = Some(NOW - SECOND);
    let told = reported(vec![unexplained, frozen()], &[attribution("db", "LocalDiskStalled", 1)]);
    let [old, vm, _node] = told.as_slice() else { panic!("{told:#?}") };
    assert!(old.is_quiet && !old.is_verdict && !old.note.contains("thread 3044"), "{old:#?}");
    assert!(vm.is_verdict && !vm.is_quiet, "{vm:#?}");
    let mut cluster = Cluster::new();
    let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "db", "namespace": "prod", "uid": "db"}});
    cluster.add(&vmi).unwrap();
    let mut book = Book::default();
    for now in [NOW, NOW + 31 * SECOND] {
        let decision = book.decide(now, sayings(&told, &cluster, &[]), std::iter::empty());
        let reasons: Vec<&str> = decision.due.iter().map(|due| due.saying.reason.as_str()).collect();
        assert_eq!(reasons, ["LocalDiskStalled"]);
    }
}

#[test]
fn of_two_symptoms_the_one_that_lasts_is_told() {
    for is_first in [true, false] {
        let mut incident = frozen();
        let mut ended = member("prod", "db", "n1");
        ended.symptom = "Paused".to_owned();
        ended.until_wall_usec = Some(NOW - SECOND);
        incident.members.insert(usize::from(is_first), ended);
        let told = reported(vec![incident], &[attribution("db", "LocalDiskStalled", 1)]);
        assert!(told[0].is_verdict && !told[0].is_quiet && !told[0].is_over, "{told:#?}");
    }
}

#[test]
fn a_fault_of_a_vm_alone_and_what_nothing_explains_are_not_told_to_the_node() {
    for (cause, place) in [("GuestHung", "node/n1/vm/db"), ("Unexplained", "node/n1")] {
        let mut incident = frozen();
        incident.key.cause = cause.to_owned();
        incident.key.place = place.to_owned();
        let told = reported(vec![incident], &[]);
        assert!(told.len() == 1 && matches!(told[0].about, About::Vm { .. }), "{told:#?}");
    }
    let mut of_libvirt = frozen();
    of_libvirt.members[0].namespace.clear();
    let told = reported(vec![of_libvirt], &[]);
    assert!(told.len() == 1 && matches!(told[0].about, About::Node { .. }), "{told:#?}");
}

#[test]
fn a_migration_in_trouble_is_told_as_well() {
    let mut cluster = Cluster::new();
    let object = |kind: &str, name: &str, uid: &str| json!({"apiVersion": "kubevirt.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "prod", "uid": uid}});
    cluster.add(&object("VirtualMachine", "db", "vm")).unwrap();
    cluster.add(&object("VirtualMachineInstance", "db", "db")).unwrap();
    cluster.add(&object("VirtualMachineInstanceMigration", "move", "m")).unwrap();
    let node = StandingNode { name: "n1".to_owned(), uid: "u".to_owned(), ..StandingNode::default() };
    let mut stuck = attribution("db", "LocalDiskStalled", 1);
    stuck.symptom.migration = Some("move".to_owned());
    let told = sayings(&reported(vec![frozen()], &[stuck]), &cluster, &[node]);
    let objects: Vec<_> = told.iter().map(|saying| (saying.object.kind, saying.object.uid.as_str())).collect();
    let want = [(ObjectKind::Vmi, "db"), (ObjectKind::Vmim, "m"), (ObjectKind::Vm, "vm"), (ObjectKind::Node, "u")];
    assert_eq!(objects, want);
}

fn node(conditions: &[(&str, &str, &str, i64)]) -> StandingNode {
    let condition = |(kind, status, reason, secs_ago): &(&str, &str, &str, i64)| StandingCondition {
        kind: format!("kulprit.io/{kind}"),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        message: "m".to_owned(),
        since_usec: Some(NOW - secs_ago * SECOND),
    };
    let conditions = conditions.iter().map(condition).collect();
    StandingNode { name: "n1".to_owned(), uid: "u".to_owned(), conditions, ..StandingNode::default() }
}

#[test]
fn conditions_that_flip_together_are_one_event() {
    let mut flips = Flips::default();
    let notes = |flips: &mut Flips, now: i64, node: StandingNode| {
        flips.sayings(now, &[node]).into_iter().map(|saying| saying.note).collect::<Vec<_>>()
    };
    let well = node(&[("A", "False", "Ok", 900), ("B", "False", "Ok", 900), ("C", "True", "Old", 900)]);
    assert_eq!(notes(&mut flips, NOW, well), [""; 0]);
    let silent =
        node(&[("A", "Unknown", "AgentSilent", 0), ("B", "Unknown", "AgentSilent", 0), ("C", "True", "Old", 900)]);
    let told = notes(&mut flips, NOW, silent.clone());
    assert_eq!(told, ["Node conditions kulprit.io/A, kulprit.io/B are now: Unknown, reason: AgentSilent"]);
    assert_eq!(notes(&mut flips, NOW + 299 * SECOND, silent.clone()), told, "until there was budget for it");
    assert_eq!(notes(&mut flips, NOW + 300 * SECOND, silent), [""; 0]);
    let sick = node(&[("A", "True", "X", 0), ("B", "True", "Y", 0), ("C", "True", "Old", 900)]);
    assert_eq!(notes(&mut flips, NOW + 400 * SECOND, sick).len(), 2, "each has a reason of its own");
    let restarted = node(&[("A", "True", "X", 299), ("B", "True", "Y", 300)]);
    let told = notes(&mut Flips::default(), NOW, restarted);
    assert_eq!(
        told,
        ["Node condition kulprit.io/A is now: True, reason: X, message: m"],
        "what is new when central begins"
    );
}

#[test]
fn a_bucket_is_spent_and_refilled_and_a_clock_that_goes_back_blocks_nothing_for_long() {
    let mut budget = Budget::new();
    let taken = |budget: &mut Budget, now: i64| (0..100).take_while(|_| budget.take(now, "a")).count();
    let burst = usize::try_from(OBJECT_BURST).unwrap();
    assert_eq!(taken(&mut budget, NOW), burst);
    assert_eq!(taken(&mut budget, NOW + OBJECT_EVERY_USEC - 1), 0);
    assert_eq!(taken(&mut budget, NOW + OBJECT_EVERY_USEC), 1);
    assert!(budget.take(NOW + OBJECT_EVERY_USEC, "b"), "each object has its own");
    let day = 86_400 * SECOND;
    assert_eq!(taken(&mut budget, NOW - day), 0);
    assert_eq!(taken(&mut budget, NOW - day + OBJECT_EVERY_USEC), 1);
    budget.forget(NOW + day);
    assert_eq!(taken(&mut budget, NOW + day), burst);
}

/// Something that happens to the cluster or to its centrals.
#[derive(Clone, Debug)]
enum Step {
    /// A topic of an object begins, or ends.
    Turn(u8, u8),
    /// So many seconds pass.
    Pass(u16),
    /// Central starts anew, or another with incidents of its own takes over.
    Restart(bool),
    /// The API server answers so from now on.
    Answer(Answers),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answers {
    Well,
    Nothing,
    No,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let answers = prop_oneof![4 => Just(Answers::Well), 1 => Just(Answers::Nothing), 1 => Just(Answers::No)];
    let step = prop_oneof![
        6 => (0..3_u8, 0..2_u8).prop_map(|(object, topic)| Step::Turn(object, topic)),
        6 => (1..400_u16).prop_map(Step::Pass),
        1 => (1_000..4_000_u16).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Restart),
        1 => answers.prop_map(Step::Answer),
    ];
    proptest::collection::vec(step, 1..120)
}

/// What is so, and for the how manieth time.
#[derive(Clone, Copy, Default)]
struct Truth {
    lasts: bool,
    n_begun: u32,
}

/// The API server's Events, the truth, and one central.
struct World {
    now: i64,
    truths: BTreeMap<(u8, u8), Truth>,
    events: BTreeMap<String, Spoken>,
    book: Book,
    central: u32,
    answers: Answers,
    /// When what was answered of which object.
    answered: Vec<(i64, String)>,
    /// Names of the warnings that were made for each truth, and the how manieth time it was so.
    warned: BTreeMap<(u8, u8, u32), Vec<String>>,
}

impl World {
    fn sayings(&self) -> Vec<Saying> {
        let saying = |((object, topic), truth): (&(u8, u8), &Truth)| Saying {
            object: Object {
                kind: ObjectKind::Vmi,
                namespace: "prod".to_owned(),
                name: format!("vm-{object}"),
                uid: format!("uid-{object}"),
            },
            topic: format!("Cause{topic}@n1"),
            mode: if truth.lasts { Mode::Lasts } else { Mode::Over },
            episode: format!("{}-{}", self.central, truth.n_begun),
            begins_after_usec: Some(0),
            reason: "Cause".to_owned(),
            note: "n".to_owned(),
            over_note: "o".to_owned(),
            incident: None,
            related: None,
        };
        self.truths.iter().filter(|(_, truth)| truth.n_begun > 0).map(saying).collect()
    }

    fn look(&mut self) {
        let sayings = self.sayings();
        let standing: Vec<Spoken> = self.events.values().cloned().collect();
        let decision = self.book.decide(self.now, sayings, standing.iter());
        for due in decision.due {
            let outcome = match self.answers {
                Answers::Well => self.take(&due),
                Answers::Nothing => Outcome::Unanswered,
                Answers::No => Outcome::Refused,
            };
            // How often it is tried while nobody answers is the pauses' matter, not the budget's.
            if outcome != Outcome::Unanswered {
                self.answered.push((self.now, due.saying.object.uid.clone()));
            }
            self.book.wrote(self.now, &due, outcome);
        }
    }

    fn take(&mut self, due: &due::Due) -> Outcome {
        let is_there = self.events.contains_key(&due.name);
        if due.count > 1 && !is_there {
            return Outcome::Vanished;
        }
        let (count, last_usec) = (due.count, self.now);
        let event = self.events.entry(due.name.clone()).or_insert_with(|| Spoken {
            namespace: "prod".to_owned(),
            name: due.name.clone(),
            about_uid: due.saying.object.uid.clone(),
            topic: due.saying.topic.clone(),
            is_warning: due.is_warning,
            count,
            last_usec,
        });
        if due.count > 1 {
            (event.count, event.last_usec) = (count, last_usec);
        }
        if !is_there && due.is_warning {
            let numbers = self.truths.iter().find(|((object, topic), _)| {
                due.saying.object.uid == format!("uid-{object}") && due.saying.topic == format!("Cause{topic}@n1")
            });
            let ((object, topic), truth) = numbers.expect("it was said of something");
            assert!(truth.lasts, "nobody is warned of what is over");
            let names = self.warned.entry((*object, *topic, truth.n_begun)).or_default();
            let is_twice = names.iter().any(|name| *name != due.name && self.events.contains_key(name));
            assert!(!is_twice, "{} beside {names:?}", due.name);
            names.push(due.name.clone());
        }
        Outcome::Said
    }

    fn pass(&mut self, secs: u16) {
        for _ in 0..secs.div_ceil(10) {
            self.now += 10 * SECOND;
            let oldest = self.now - 3_600 * SECOND;
            self.events.retain(|_, event| event.last_usec > oldest);
            self.look();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_exceeds_the_budget_and_nothing_is_said_twice(steps in steps()) {
        let mut world = World {
            now: NOW,
            truths: BTreeMap::new(),
            events: BTreeMap::new(),
            book: Book::default(),
            central: 0,
            answers: Answers::Well,
            answered: Vec::new(),
            warned: BTreeMap::new(),
        };
        let mut n_restarts = 0_i64;
        for step in steps {
            world.now += 1_000;
            match step {
                Step::Turn(object, topic) => {
                    let truth = world.truths.entry((object, topic)).or_default();
                    truth.lasts = !truth.lasts;
                    truth.n_begun += u32::from(truth.lasts);
                    world.look();
                }
                Step::Pass(secs) => world.pass(secs),
                Step::Restart(is_another) => {
                    world.book = Book::default();
                    world.central += u32::from(is_another);
                    n_restarts += 1;
                    world.look();
                }
                Step::Answer(answers) => world.answers = answers,
            }
        }
        // A central that starts has a full budget; each window of the length that refills one Event may have one more.
        for (index, (from, uid)) in world.answered.iter().enumerate() {
            let (mut n_own, mut n_all) = (0, 0);
            for (at, other) in &world.answered[index..] {
                n_own += i64::from(other == uid);
                n_all += 1;
                let elapsed = at - from;
                prop_assert!(n_own <= (n_restarts + 1) * OBJECT_BURST + elapsed / OBJECT_EVERY_USEC + 1);
                prop_assert!(n_all <= (n_restarts + 1) * WHOLE_BURST + elapsed / WHOLE_EVERY_USEC + 1);
            }
        }
        // Whatever lasts is said in the end, once the API server answers and there is budget again.
        world.answers = Answers::Well;
        world.pass(4_000);
        for ((object, topic), truth) in world.truths.clone() {
            let is_it = |event: &&Spoken| event.about_uid == format!("uid-{object}") && event.topic == format!("Cause{topic}@n1");
            let newest = world.events.values().filter(is_it).max_by_key(|event| event.last_usec);
            prop_assert!(!truth.lasts || newest.is_some_and(|event| event.is_warning), "{newest:?}");
        }
    }
}
