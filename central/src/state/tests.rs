//! The rules of the current state, invariant by invariant.

use kulprit_diagnosis::{NodeView, Settings};
use kulprit_model::{
    Attributes, Body, Domain, FindingCode, Occurrence, Qemu, Record, Stamp, State, Status, Subject, time::Moment,
};
use kulprit_proto::v1;
use proptest::prelude::*;

use super::{view::Shown, *};

const SEC: i64 = 1_000_000;
const DAY: i64 = 86_400 * SEC;
/// A wall clock far from 0, so that subtracting a day stays in range.
const WALL: i64 = 1_800_000_000 * SEC;

fn at(sec: i64) -> Moment {
    Moment { wall_usec: WALL + sec * SEC, boottime_usec: sec * SEC }
}

fn stream() -> StreamId {
    StreamId { cluster: "c".to_owned(), node: "n1".to_owned() }
}

fn stamp(boot_id: &str, epoch: u64, seq: u64, sec: i64) -> Stamp {
    Stamp { boot_id: boot_id.to_owned(), epoch, seq, at: at(sec) }
}

fn kubelet(status: Status, sec: i64) -> Body {
    Body::State(State {
        code: FindingCode::KubeletInactive,
        subject: Subject::unit("kubelet.service"),
        status,
        since: at(sec),
        looked: at(sec),
        unknown_because: (status == Status::Unknown).then(|| "no bus".to_owned()),
        attributes: Attributes::new(),
        evidence: Vec::new(),
    })
}

fn libvirt_answers() -> Body {
    Body::State(State {
        code: FindingCode::LibvirtUnresponsive,
        subject: Subject::Libvirt { uri: "qemu:///system".to_owned() },
        status: Status::Absent,
        since: at(0),
        looked: at(0),
        unknown_because: None,
        attributes: Attributes::new(),
        evidence: Vec::new(),
    })
}

fn oom(first: i64, last: i64, count: u64) -> Body {
    Body::Occurrence(Occurrence {
        code: FindingCode::NodeOomKill,
        subject: Subject::Process { pid: 1, start_ticks: 2 },
        first: at(first),
        last: at(last),
        count,
        attributes: Attributes::new(),
        evidence: Vec::new(),
    })
}

fn qemu(pid: u32) -> Body {
    Body::Qemu(Qemu {
        uid: "vm-1".to_owned(),
        name: Some("db-0".to_owned()),
        pid,
        start_ticks: 7,
        since: at(0),
        disks: Vec::new(),
    })
}

fn domain() -> Body {
    Body::Domain(Domain {
        uid: "vm-1".to_owned(),
        name: "db-0".to_owned(),
        state: 1,
        reason: 1,
        since: at(0),
        is_persistent: false,
    })
}

/// A central with one node, driven like ingest drives it.
struct Central {
    state: CurrentState,
    seq: u64,
    boot_id: String,
    epoch: u64,
}

impl Central {
    fn new() -> Self {
        Self { state: CurrentState::new(Limits::default(), at(0)), seq: 0, boot_id: "b1".to_owned(), epoch: 1 }
    }

    /// Hello of this boot and epoch, then a snapshot of `bodies`.
    fn connect(&mut self, sec: i64, bodies: Vec<Body>) {
        self.hello(sec);
        self.node().begin_snapshot();
        for body in bodies {
            self.say(body, sec);
        }
        let seq = self.seq;
        self.node().end_snapshot(seq, at(sec));
        self.node().heard(at(sec));
    }

    fn hello(&mut self, sec: i64) {
        let hello = v1::Hello {
            boot_id: self.boot_id.clone(),
            epoch: self.epoch,
            sent: Some(at(sec).into()),
            ..v1::Hello::default()
        };
        self.node().hello(hello, at(sec));
    }

    fn say(&mut self, body: Body, sec: i64) -> Vec<Change> {
        self.seq += 1;
        let stamp = stamp(&self.boot_id, self.epoch, self.seq, sec);
        self.say_stamped(stamp, body, sec)
    }

    fn say_stamped(&mut self, stamp: Stamp, body: Body, sec: i64) -> Vec<Change> {
        let limits = self.state.limits();
        let mut changes = Vec::new();
        self.node().apply(Arrived::new(Record { stamp, body }), &limits, at(sec), &mut changes);
        changes
    }

    fn node(&mut self) -> &mut NodeState {
        self.state.node_mut(&stream())
    }

    fn view(&mut self) -> NodeView {
        let node = self.node();
        let shown = node.view();
        let mut anew = node.clone();
        anew.shown = Shown::default();
        assert_eq!(shown, anew.view(), "what was shown before is not shown longer than it holds");
        assert_eq!(node.count_states(), anew.count_states());
        shown
    }

    #[track_caller]
    fn check_kubelet(&mut self, want: Option<Status>) {
        let view = self.view();
        let state = view.states.iter().find(|state| state.code == FindingCode::KubeletInactive);
        assert_eq!(state.map(|state| state.status), want, "{view:#?}");
    }
}

#[test]
fn what_an_agent_says_is_what_holds() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Absent, 0)]);
    central.check_kubelet(Some(Status::Absent));
    central.say(kubelet(Status::Present, 5), 5);
    central.check_kubelet(Some(Status::Present));
}

// Invariant 1.
#[test]
fn an_absent_look_of_another_boot_clears_nothing() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Present, 0)]);
    central.say_stamped(stamp("b0", 1, 9, 5), kubelet(Status::Absent, 5), 5);
    central.check_kubelet(Some(Status::Present));
}

// Invariant 8.
#[test]
fn what_was_kept_from_before_a_restart_of_the_agent_is_history() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Absent, 0)]);
    (central.epoch, central.seq) = (2, 0);
    central.connect(60, vec![kubelet(Status::Absent, 60)]);
    assert_eq!(central.say_stamped(stamp("b1", 1, 5, 30), kubelet(Status::Present, 30), 61), []);
    central.check_kubelet(Some(Status::Absent));
}

// Invariant 2.
#[test]
fn a_silent_node_is_unknown_after_twenty_seconds_and_comes_back_as_it_was() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Present, 0)]);
    assert_eq!(central.state.check_silence(at(20)), []);
    central.check_kubelet(Some(Status::Present));
    assert_eq!(central.state.check_silence(at(21)), [stream()]);
    assert_eq!(central.state.check_silence(at(22)), [], "it falls silent once");
    central.check_kubelet(Some(Status::Unknown));
    let view = central.view();
    assert!(!view.is_reporting);
    assert_eq!(view.states[0].since, at(0), "unknown since the last word");
    central.node().heard(at(30));
    central.check_kubelet(Some(Status::Present));
}

#[test]
fn a_node_that_comes_back_on_a_new_stream_is_believed_after_its_snapshot() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Present, 0)]);
    central.state.check_silence(at(600));
    central.hello(601);
    central.node().heard(at(601));
    central.check_kubelet(Some(Status::Unknown));
    central.connect(602, vec![kubelet(Status::Absent, 602)]);
    central.check_kubelet(Some(Status::Absent));
}

#[test]
fn a_snapshot_that_never_ends_is_silence() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Absent, 0)]);
    central.hello(10);
    for sec in (15..=70).step_by(5) {
        central.node().heard(at(sec));
        assert_eq!(central.state.check_silence(at(sec)), [], "{sec} s");
    }
    central.node().heard(at(71));
    assert_eq!(central.state.check_silence(at(71)), [stream()]);
    central.check_kubelet(Some(Status::Unknown));
}

#[test]
fn keys_that_a_snapshot_does_not_name_become_unknown_never_absent() {
    for before in [Status::Present, Status::Absent, Status::Unknown] {
        let mut central = Central::new();
        central.connect(0, vec![kubelet(before, 0)]);
        central.epoch = 2;
        central.connect(5, vec![]);
        central.check_kubelet(Some(Status::Unknown));
        central.say(kubelet(Status::Absent, 6), 6);
        central.check_kubelet(Some(Status::Absent));
    }
}

#[test]
fn a_reboot_makes_everything_unknown_and_ends_every_process() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Present, 0), domain(), qemu(10)]);
    (central.boot_id, central.epoch) = ("b2".to_owned(), 2);
    central.hello(60);
    central.check_kubelet(Some(Status::Unknown));
    let view = central.view();
    assert_eq!(view.vms.len(), 1);
    assert_eq!((&view.vms[0].domain, &view.vms[0].qemu), (&None, &None));
    assert_eq!(view.vms[0].last_qemu.as_ref().map(|qemu| qemu.pid), Some(10));
}

#[test]
fn domain_and_process_of_one_uid_are_one_vm() {
    let mut central = Central::new();
    central.connect(0, vec![qemu(10)]);
    assert_eq!(central.view().vms[0].name, "db-0", "the command line names it until libvirt does");
    central.say(domain(), 1);
    let vms = central.view().vms;
    assert_eq!(vms.len(), 1);
    assert!(vms[0].domain.is_some() && vms[0].qemu.is_some() && vms[0].last_qemu.is_none());
}

#[test]
fn a_qemu_that_ended_is_kept_as_the_last_one() {
    let mut central = Central::new();
    central.connect(0, vec![domain(), qemu(10)]);
    central.say(Body::SubjectGone { subject: Subject::Process { pid: 10, start_ticks: 7 }, at: at(5) }, 5);
    let vm = central.view().vms.remove(0);
    assert_eq!((vm.qemu, vm.last_qemu.map(|qemu| qemu.pid)), (None, Some(10)));
    central.say(qemu(11), 6);
    let vm = central.view().vms.remove(0);
    assert_eq!((vm.qemu.map(|qemu| qemu.pid), vm.last_qemu.map(|qemu| qemu.pid)), (Some(11), Some(10)));
    central.say(qemu(12), 7);
    assert_eq!(central.view().vms[0].last_qemu.as_ref().map(|qemu| qemu.pid), Some(11), "replaced without a word");
}

#[test]
fn a_vm_that_has_gone_can_be_asked_about_for_fifteen_minutes() {
    let mut central = Central::new();
    central.connect(0, vec![domain(), qemu(10)]);
    central.say(Body::SubjectGone { subject: Subject::vm("vm-1"), at: at(5) }, 5);
    central.state.expire(at(5 + 899));
    assert_eq!(central.view().vms.len(), 1);
    let expired = central.state.expire(at(5 + 901));
    assert_eq!(expired, [(stream(), vec![Change::Remove(CurrentKey::LastQemu("vm-1".to_owned()))])]);
    assert!(central.view().vms.is_empty());
}

// Invariant 5.
#[test]
fn a_gone_subject_takes_its_own_states_and_no_others() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Present, 0), domain(), qemu(10)]);
    central.say(Body::SubjectGone { subject: Subject::unit("other.service"), at: at(1) }, 1);
    central.check_kubelet(Some(Status::Present));
    central.say(Body::SubjectGone { subject: Subject::unit("kubelet.service"), at: at(2) }, 2);
    central.check_kubelet(None);
    assert_eq!(central.view().vms.len(), 1);
}

#[test]
fn a_domain_missing_from_a_snapshot_is_gone_only_if_libvirt_answers() {
    for (says, n_domains) in [(vec![], 1), (vec![libvirt_answers()], 0)] {
        let mut central = Central::new();
        central.connect(0, vec![domain()]);
        central.epoch = 2;
        central.connect(5, says);
        assert_eq!(central.view().vms.len(), n_domains);
    }
}

#[test]
fn an_occurrence_counts_whoever_replays_it_and_never_shrinks() {
    let mut central = Central::new();
    central.connect(0, vec![]);
    central.say(oom(1, 3, 4), 3);
    central.say_stamped(stamp("b0", 7, 1, 2), oom(1, 2, 2), 4);
    assert_eq!(central.view().occurrences.iter().map(|seen| seen.count).collect::<Vec<_>>(), [4]);
    central.say_stamped(stamp("b0", 7, 2, 2), oom(-60, -50, 1), 4);
    assert_eq!(central.view().occurrences.len(), 2, "it happened, whatever has happened since");
}

#[test]
fn occurrences_age_and_are_bounded() {
    let mut central = Central::new();
    central.connect(0, vec![]);
    for n in 0..1_100 {
        central.say(oom(n, n, 1), n);
    }
    assert_eq!(central.view().occurrences.len(), 1_024);
    assert_eq!(central.view().occurrences[0].first, at(76), "the oldest went");
    central.state.expire(at(DAY / SEC + 100 + 76));
    assert_eq!(central.view().occurrences[0].first, at(176));
    central.say(oom(-2 * DAY / SEC, -2 * DAY / SEC, 1), 2_000);
    assert_eq!(central.view().occurrences[0].first, at(176), "what is old at arrival is history");
}

#[test]
fn times_are_shown_on_the_clock_of_central() {
    let mut central = Central::new();
    central.connect(0, vec![kubelet(Status::Present, 0)]);
    let hour = 3_600;
    let now = at(5).offset_usec(0);
    central.node().note_clock(Moment { wall_usec: now.wall_usec - hour * SEC, ..now }, now);
    assert_eq!(central.view().states[0].since.wall_usec, at(hour).wall_usec);
}

#[test]
fn the_snapshot_carries_the_time_and_sorts_by_name() {
    let mut central = Central::new();
    for node in ["n2", "n1", "n3"] {
        central.state.node_mut(&StreamId { cluster: "c".to_owned(), node: node.to_owned() });
    }
    let snapshot = central.state.snapshot(Settings::default(), at(9));
    assert_eq!(snapshot.reference_wall_usec, at(9).wall_usec);
    assert_eq!(snapshot.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
}

/// What can happen to a node, one second apart.
#[derive(Clone, Debug)]
enum Step {
    Say(Status),
    Restart { is_named: bool },
    Reboot { is_named: bool },
    Silence,
    StaleAbsent,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop_oneof![Just(Status::Present), Just(Status::Absent), Just(Status::Unknown)].prop_map(Step::Say),
        any::<bool>().prop_map(|is_named| Step::Restart { is_named }),
        any::<bool>().prop_map(|is_named| Step::Reboot { is_named }),
        Just(Step::Silence),
        Just(Step::StaleAbsent),
    ]
}

proptest! {
    // Invariant 1: whatever happens, what is shown as Absent was said by this start of the agent, in so many words.
    #[test]
    fn absent_is_only_ever_what_the_agent_of_this_boot_said(steps in prop::collection::vec(step(), 1..40)) {
        let mut central = Central::new();
        central.connect(0, vec![]);
        let mut said_in_boot = None;
        let mut sec = 0;
        for step in steps {
            sec += 1;
            let says = |is_named: bool| if is_named { vec![kubelet(Status::Present, sec)] } else { vec![] };
            match step {
                Step::Say(status) => {
                    central.say(kubelet(status, sec), sec);
                    central.node().heard(at(sec));
                    said_in_boot = Some(status);
                }
                Step::Restart { is_named } => {
                    central.epoch += 1;
                    central.connect(sec, says(is_named));
                    said_in_boot = if is_named { Some(Status::Present) } else { None };
                }
                Step::Reboot { is_named } => {
                    central.epoch += 1;
                    central.boot_id = format!("b{sec}");
                    central.connect(sec, says(is_named));
                    said_in_boot = if is_named { Some(Status::Present) } else { None };
                }
                Step::Silence => {
                    sec += 30;
                    central.state.check_silence(at(sec));
                }
                Step::StaleAbsent => {
                    central.say_stamped(stamp("elsewhere", 1, 1, sec), kubelet(Status::Absent, sec), sec);
                }
            }
            let view = central.view();
            if view.states.iter().any(|state| state.status == Status::Absent) {
                prop_assert_eq!(said_in_boot, Some(Status::Absent));
                prop_assert!(view.is_reporting);
            }
        }
    }
}

#[test]
fn a_silent_node_that_is_nowhere_is_forgotten_after_fifteen_minutes() {
    for (sec, is_there, is_forgotten) in [(899, false, false), (900, false, true), (900, true, false)] {
        let mut state = CurrentState::new(Limits::default(), at(0));
        state.node_mut(&stream());
        let gone = state.forget_gone(at(sec), |_| is_there);
        assert_eq!(
            (gone.len(), state.nodes().count()),
            (usize::from(is_forgotten), usize::from(!is_forgotten)),
            "{sec}"
        );
    }
    let mut state = CurrentState::new(Limits::default(), at(0));
    state.node_mut(&stream()).hello(v1::Hello::default(), at(900));
    assert!(state.forget_gone(at(1_000), |_| false).is_empty(), "it was heard since");
    assert_eq!(state.forget_gone(at(1_800), |_| false), [stream()]);
}
