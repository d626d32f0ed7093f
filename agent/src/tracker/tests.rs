//! The rules, on a tracker whose time is a number.

use kulprit_judge::{OccurrenceVerdict, StateVerdict, Verdict};
use kulprit_model::{Attributes, Domain, Evidence, Qemu, Stamp, Status};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::look::Sighting;

const ROWS: &[ProbeRow] = &[
    ProbeRow { name: "kubelet", look_every: Duration::from_secs(10) },
    ProbeRow { name: "kvm", look_every: Duration::from_secs(60) },
    ProbeRow { name: "qemu", look_every: Duration::from_secs(2) },
    ProbeRow { name: "domain", look_every: Duration::from_secs(2) },
    ProbeRow { name: "kernel-log", look_every: Duration::from_secs(30) },
];
const BOOT: &str = "b1";
const VM: &str = "0b2c0b2c-0000-4000-8000-000000000001";

fn at(msec: i64) -> Moment {
    Moment { wall_usec: 1_780_000_000_000_000 + msec * 1_000, boottime_usec: 1_000_000_000 + msec * 1_000 }
}

fn tracker() -> Tracker {
    Tracker::new(ROWS, BOOT, Memory::default(), at(0))
}

fn look(probe: &'static str, msec: i64, verdicts: Vec<Verdict>) -> Look {
    Look { probe, at: at(msec), took_usec: 10, blind_because: None, verdicts, sightings: Vec::new(), position: None }
}

fn state(code: FindingCode, subject: &Subject, is_present: bool) -> Verdict {
    Verdict::State(StateVerdict::seen(code, subject.clone(), is_present))
}

fn blocked(msec: i64, key: Option<&str>) -> Look {
    let mut verdict = StateVerdict::seen(FindingCode::QemuThreadBlocked, Subject::vm(VM), key.is_some());
    verdict.hold_key = key.map(str::to_owned);
    look("qemu", msec, vec![Verdict::State(verdict)])
}

fn oom(msec: i64, count: u64) -> Verdict {
    Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::MemcgOomKill,
        subject: Subject::vm(VM),
        at: at(msec),
        count,
        attributes: Attributes::new(),
        evidence: vec![Evidence::new("kmsg", at(msec), format!("at {msec}"))],
    })
}

fn states(batch: &Batch) -> Vec<(FindingCode, Status)> {
    let states = batch.bodies.iter().filter_map(|body| match body {
        Body::State(state) if state.code != FindingCode::ProbeBlind => Some((state.code, state.status)),
        _ => None,
    });
    states.collect()
}

fn status_of(tracker: &Tracker, code: FindingCode) -> Option<Status> {
    tracker.states().find(|state| state.code == code).map(|state| state.status)
}

/// What the spool gives back at the next start: the newest record of each key.
fn restarted(tracker: &Tracker, now: Moment) -> Tracker {
    let stamp = Stamp { boot_id: BOOT.to_owned(), epoch: 1, seq: 1, at: now };
    let records = tracker.bodies().into_iter().map(|body| Record { stamp: stamp.clone(), body }).collect();
    Tracker::new(ROWS, BOOT, Memory { records, positions: BTreeMap::new() }, now)
}

#[test]
fn a_thread_is_blocked_after_ten_seconds_with_one_wchan_and_not_before() {
    let mut tracker = tracker();
    for msec in (0..10_000).step_by(2_000) {
        assert_eq!(states(&tracker.look(blocked(msec, Some("43 io_schedule")))), [], "{msec}");
    }
    let batch = tracker.look(blocked(10_000, Some("43 io_schedule")));
    assert_eq!(states(&batch), [(FindingCode::QemuThreadBlocked, Status::Present)]);
    let said = tracker.states().find(|state| state.status == Status::Present).unwrap();
    assert_eq!(said.since, at(0), "since the first look that saw it, before the hold");
}

#[test]
fn time_alone_raises_nothing() {
    let mut tracker = tracker();
    tracker.look(blocked(0, Some("a")));
    assert_eq!(states(&tracker.tick(at(5_500))), []);
    assert_eq!(status_of(&tracker, FindingCode::QemuThreadBlocked), None);
}

#[test]
fn a_hold_starts_anew_when_its_key_changes() {
    let mut tracker = tracker();
    for (msec, key) in [(0, "a"), (6_000, "a"), (8_000, "b"), (14_000, "b"), (17_999, "b")] {
        assert_eq!(states(&tracker.look(blocked(msec, Some(key)))), [], "{msec}");
    }
    assert_eq!(states(&tracker.look(blocked(18_000, Some("b")))), [(FindingCode::QemuThreadBlocked, Status::Present)]);
}

#[test]
fn what_the_source_knows_of_the_past_counts_as_held() {
    let mut tracker = tracker();
    let mut verdict = StateVerdict::seen(FindingCode::DomainControlOccupied, Subject::vm(VM), true);
    verdict.since = Some(at(-3_000));
    let batch = tracker.look(look("domain", 0, vec![Verdict::State(verdict)]));
    assert_eq!(states(&batch), [(FindingCode::DomainControlOccupied, Status::Present)]);
    assert_eq!(tracker.states().find(|state| state.status == Status::Present).unwrap().since, at(-3_000));
}

#[test]
fn a_raised_stall_survives_another_key_once_but_not_a_thread_that_moves() {
    let mut tracker = tracker();
    tracker.look(blocked(0, Some("a")));
    tracker.look(blocked(10_000, Some("a")));
    tracker.look(blocked(12_000, Some("b")));
    assert_eq!(status_of(&tracker, FindingCode::QemuThreadBlocked), Some(Status::Present));
    tracker.look(blocked(14_000, Some("c")));
    assert_eq!(status_of(&tracker, FindingCode::QemuThreadBlocked), Some(Status::Absent));
}

#[test]
fn clearing_waits_for_its_hold_and_a_relapse_starts_it_anew() {
    let mut tracker = tracker();
    let unit = Subject::unit("kubelet.service");
    let mut see = |msec, is_present| {
        tracker.look(look("kubelet", msec, vec![state(FindingCode::KubeletRestartLoop, &unit, is_present)]));
        status_of(&tracker, FindingCode::KubeletRestartLoop)
    };
    assert_eq!(see(0, true), Some(Status::Present));
    assert_eq!(see(10_000, false), Some(Status::Present));
    assert_eq!(see(30_000, true), Some(Status::Present));
    assert_eq!(see(40_000, false), Some(Status::Present));
    assert_eq!(see(69_999, false), Some(Status::Present));
    assert_eq!(see(70_000, false), Some(Status::Absent));
}

#[test]
fn a_blind_probe_makes_what_it_owns_unknown_and_says_so_of_itself() {
    let mut tracker = tracker();
    tracker.look(look("kvm", 0, vec![state(FindingCode::KvmDeviceMissing, &Subject::Node, false)]));
    let blind = Look { blind_because: Some("permission denied".to_owned()), ..look("kvm", 1_000, vec![]) };
    let batch = tracker.look(blind);
    assert!(states(&batch).contains(&(FindingCode::KvmDeviceMissing, Status::Unknown)), "{batch:?}");
    let blindness = |tracker: &Tracker| {
        let own = tracker.states().find(|state| state.subject == Subject::Probe { name: "kvm".to_owned() });
        own.map(|state| state.status)
    };
    assert_eq!(blindness(&tracker), Some(Status::Present));
    let missing = tracker.states().find(|state| state.code == FindingCode::KvmDeviceMissing).unwrap();
    assert_eq!(missing.unknown_because.as_deref(), Some("permission denied"));
    tracker.look(look("kvm", 2_000, vec![state(FindingCode::KvmDeviceMissing, &Subject::Node, false)]));
    assert_eq!(blindness(&tracker), Some(Status::Absent));
    assert_eq!(status_of(&tracker, FindingCode::KvmDeviceMissing), Some(Status::Absent));
}

#[test]
fn silence_for_three_intervals_is_unknown_and_never_absent() {
    let mut tracker = tracker();
    let unit = Subject::unit("kubelet.service");
    tracker.look(look("kubelet", 0, vec![state(FindingCode::KubeletInactive, &unit, false)]));
    for msec in (5_000..30_000).step_by(5_000) {
        tracker.tick(at(msec));
        assert_eq!(status_of(&tracker, FindingCode::KubeletInactive), Some(Status::Absent), "{msec}");
    }
    let batch = tracker.tick(at(30_000));
    assert!(states(&batch).contains(&(FindingCode::KubeletInactive, Status::Unknown)));
    let lost = tracker.states().find(|state| state.code == FindingCode::KubeletInactive).unwrap();
    assert_eq!(lost.unknown_because.as_deref(), Some("the probe has not looked for 30 s"));
}

#[test]
fn a_probe_is_not_silent_while_we_did_not_run() {
    let mut tracker = tracker();
    tracker.look(look(
        "kubelet",
        0,
        vec![state(FindingCode::KubeletInactive, &Subject::unit("kubelet.service"), false)],
    ));
    // Suspended for an hour: the first tick after it must give the probe its time.
    tracker.tick(at(3_600_000));
    assert_eq!(status_of(&tracker, FindingCode::KubeletInactive), Some(Status::Absent));
    for msec in (3_605_000..=3_630_000).step_by(5_000) {
        tracker.tick(at(msec));
    }
    assert_eq!(status_of(&tracker, FindingCode::KubeletInactive), Some(Status::Unknown));
}

#[test]
fn a_state_that_its_probe_looks_past_becomes_unknown() {
    let mut tracker = tracker();
    let unit = |name: &str| Subject::unit(name);
    tracker.look(look("kubelet", 0, vec![state(FindingCode::KubeletInactive, &unit("a.service"), true)]));
    for msec in (10_000..=120_000).step_by(10_000) {
        tracker.look(look("kubelet", msec, vec![state(FindingCode::KubeletInactive, &unit("b.service"), false)]));
        tracker.tick(at(msec));
    }
    let of = |name: &str| tracker.states().find(|state| state.subject == unit(name)).unwrap().status;
    assert_eq!((of("a.service"), of("b.service")), (Status::Unknown, Status::Absent));
}

#[test]
fn a_panicking_probe_is_blind_until_it_looks_again() {
    let mut tracker = tracker();
    tracker.look(look("kvm", 0, vec![state(FindingCode::KvmUnusable, &Subject::Node, false)]));
    tracker.probe_ended("kvm", "its task panicked: planted", at(10));
    assert_eq!(status_of(&tracker, FindingCode::KvmUnusable), Some(Status::Unknown));
    assert_eq!(
        tracker.probes().find(|probe| probe.name == "kvm").unwrap().blind_because.as_deref(),
        Some("its task panicked: planted")
    );
}

#[test]
fn verdicts_that_the_catalogue_forbids_are_refused_and_counted() {
    let mut tracker = tracker();
    tracker.look(look(
        "kvm",
        0,
        vec![
            state(FindingCode::KubeletInactive, &Subject::unit("kubelet.service"), true),
            state(FindingCode::KvmUnusable, &Subject::vm(VM), true),
            state(FindingCode::QemuExited, &Subject::vm(VM), true),
        ],
    ));
    assert_eq!(tracker.counts().verdicts_refused, 3);
    assert_eq!(tracker.states().filter(|state| state.code != FindingCode::ProbeBlind).count(), 0);
}

#[test]
fn states_are_said_again_within_their_interval_and_not_all_the_time() {
    let mut tracker = tracker();
    let unit = Subject::unit("kubelet.service");
    let (mut n_present, mut n_absent) = (0, 0);
    for msec in (0..1_200_000).step_by(1_000) {
        let verdicts = vec![
            state(FindingCode::KubeletInactive, &unit, true),
            state(FindingCode::KubeletHealthzFailing, &unit, false),
        ];
        let batch = tracker.look(look("kubelet", msec, verdicts));
        n_present += states(&batch).iter().filter(|(_, status)| *status == Status::Present).count();
        n_absent += states(&batch).iter().filter(|(_, status)| *status == Status::Absent).count();
    }
    assert!((20..=24).contains(&n_present), "{n_present} in 20 min, every 60 s or a tenth earlier");
    assert!((2..=4).contains(&n_absent), "{n_absent} in 20 min, every 10 min or a tenth earlier");
}

#[test]
fn what_is_only_said_again_goes_out_together_and_not_at_one_moment_of_all_nodes() {
    let vms: Vec<Subject> = (0..200).map(|n| Subject::vm(format!("vm-{n}"))).collect();
    let said = |boot_id: &str| {
        let mut tracker = Tracker::new(ROWS, boot_id, Memory::default(), at(0));
        let mut said: Vec<(i64, usize)> = Vec::new();
        for msec in (0..1_200_000).step_by(4_000) {
            // They do not all start at once.
            let is_there = |n: &usize| i64::try_from(*n).is_ok_and(|n| n * 100 <= msec);
            let verdicts = (0..vms.len()).filter(is_there).map(|n| state(FindingCode::QemuStopped, &vms[n], false));
            let batch = tracker.look(look("qemu", msec, verdicts.collect()));
            said.push((msec, states(&batch).len()));
        }
        said.retain(|(msec, n_said)| *msec > 20_000 && *n_said > 0);
        said
    };
    let one = said(BOOT);
    assert_eq!(one.iter().map(|(_, n_said)| *n_said).collect::<Vec<_>>(), [200, 200]);
    assert!(one[0].0 >= 480_000 && one[1].0 - one[0].0 >= 480_000, "{one:?}");
    assert_ne!(one[0].0, said("another boot")[0].0);
}

#[test]
fn an_edge_storm_is_bounded_counted_and_its_last_word_is_said() {
    let mut tracker = tracker();
    let mut n_said = 0;
    for step in 0..2_001_i64 {
        let verdict = state(FindingCode::KvmDeviceMissing, &Subject::Node, step % 2 == 0);
        n_said += states(&tracker.look(look("kvm", step * 10, vec![verdict]))).len();
    }
    // 2,001 edges in 20 s: a burst of five and one a second.
    assert!((20..=27).contains(&n_said), "{n_said}");
    assert_eq!(tracker.counts().edges, 2_002, "one of them is that the probe sees");
    assert!(tracker.counts().edges_coalesced > 1_900);
    tracker.look(look("kvm", 20_020, vec![state(FindingCode::KvmDeviceMissing, &Subject::Node, false)]));
    let said = (20_100..30_000).step_by(100).flat_map(|msec| states(&tracker.tick(at(msec))));
    let last = said.filter(|(code, _)| *code == FindingCode::KvmDeviceMissing).last();
    assert_eq!(last, Some((FindingCode::KvmDeviceMissing, Status::Absent)));
}

#[test]
fn a_burst_keeps_its_first_time_and_counts_on() {
    let mut tracker = tracker();
    let mut said = Vec::new();
    for (msec, count) in [(0, 1), (100, 1), (59_000, 3), (119_000, 1), (180_000, 1)] {
        let batch = tracker.look(look("kernel-log", msec, vec![oom(msec, count)]));
        said.extend(batch.bodies);
        said.extend(tracker.tick(at(msec + 1_500)).bodies);
    }
    let bursts = said.into_iter().filter_map(|body| match body {
        Body::Occurrence(burst) => Some((burst.first, burst.last, burst.count)),
        _ => None,
    });
    let bursts: Vec<_> = bursts.collect();
    assert_eq!(
        bursts,
        [
            (at(0), at(0), 1),
            (at(0), at(100), 2),
            (at(0), at(59_000), 5),
            (at(0), at(119_000), 6),
            (at(180_000), at(180_000), 1),
        ]
    );
}

fn text(msec: i64, what: &str) -> Verdict {
    Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::ErrorSaid,
        subject: Subject::Node,
        at: at(msec),
        count: 1,
        attributes: Attributes::new().with(kulprit_model::attribute::OBJECT, what),
        evidence: vec![Evidence::new("kubelet", at(msec), what)],
    })
}

#[test]
fn each_text_is_a_burst_of_its_own_and_known_to_central_by_its_first_time() {
    let row = |name| ProbeRow { name, look_every: Duration::from_secs(30) };
    let mut tracker = Tracker::new(&[row("journal"), row("container-log")], BOOT, Memory::default(), at(0));
    let first = Look { position: Some("1".to_owned()), ..look("journal", 0, vec![text(0, "a"), text(0, "b")]) };
    let batch = tracker.look(first);
    let n_said = batch.bodies.iter().filter(|body| matches!(body, Body::Occurrence(_))).count();
    assert_eq!((n_said, batch.positions.len()), (2, 1));
    // A minute or two later the kubelet tries again.
    let again = Look {
        position: Some("2".to_owned()),
        ..look("container-log", 130_000, vec![text(130_000, "a"), text(130_000, "a")])
    };
    let batch = tracker.look(again);
    assert_eq!(batch.positions.len(), 1, "the growth went out with it");
    tracker.look(look("journal", 500_000, vec![text(500_000, "a")]));
    let bursts: Vec<_> = tracker.occurrences().map(|burst| (burst.first, burst.last, burst.count)).collect();
    assert_eq!(bursts, [(at(500_000), at(500_000), 1), (at(0).offset_usec(1), at(0).offset_usec(1), 1)]);
    // What waits for its second to be over holds the position of both probes that read texts back.
    tracker.look(look("container-log", 500_100, vec![text(500_100, "a")]));
    let waiting = Look { position: Some("3".to_owned()), ..look("journal", 500_200, Vec::new()) };
    assert_eq!(tracker.look(waiting).positions, []);
    assert_eq!(tracker.tick(at(502_000)).positions, [("journal".to_owned(), "3".to_owned())]);
}

#[test]
fn a_position_waits_for_everything_it_covers() {
    let mut tracker = tracker();
    let with = |msec, verdicts, position: &str| Look {
        position: Some(position.to_owned()),
        ..look("kernel-log", msec, verdicts)
    };
    let first = tracker.look(with(0, vec![oom(0, 1)], "1"));
    assert_eq!(first.positions, [("kernel-log".to_owned(), "1".to_owned())]);
    let second = tracker.look(with(100, vec![oom(100, 1)], "2"));
    assert_eq!((second.positions.len(), second.bodies.len()), (0, 0), "the growth waits, so the position waits");
    let third = tracker.tick(at(1_100));
    assert_eq!(third.positions, [("kernel-log".to_owned(), "2".to_owned())]);
    assert!(matches!(&third.bodies[..], [Body::Occurrence(burst)] if burst.count == 2));
    let drained = {
        tracker.look(with(1_200, vec![oom(1_200, 1)], "3"));
        tracker.drain(at(1_201))
    };
    assert_eq!((drained.positions.len(), drained.bodies.len()), (1, 1), "at the end nothing waits any more");
}

fn domain(state: i32) -> Domain {
    Domain { uid: VM.to_owned(), name: "db-0".to_owned(), state, reason: 1, since: at(0), is_persistent: true }
}

fn qemu(pid: u32) -> Qemu {
    Qemu { uid: VM.to_owned(), name: None, pid, start_ticks: 7, since: at(0), disks: Vec::new() }
}

fn seen(probe: &'static str, msec: i64, sightings: Vec<Sighting>) -> Look {
    Look { sightings, ..look(probe, msec, vec![]) }
}

#[test]
fn vms_are_said_on_change_only() {
    let mut tracker = tracker();
    let mut n_bodies = |msec, state| {
        let again = Domain { since: at(msec), ..domain(state) };
        let batch = tracker.look(seen("domain", msec, vec![Sighting::Domain(again)]));
        batch.bodies.into_iter().filter(|body| matches!(body, Body::Domain(_))).collect::<Vec<_>>()
    };
    assert_eq!(n_bodies(0, 1), [Body::Domain(domain(1))]);
    assert_eq!(n_bodies(2_000, 1), []);
    assert_eq!(n_bodies(4_000, 5), [Body::Domain(Domain { since: at(4_000), ..domain(5) })]);
}

#[test]
fn the_end_of_a_process_clears_what_its_probe_said_and_nothing_else() {
    let mut tracker = tracker();
    tracker.look(seen("domain", 0, vec![Sighting::Domain(domain(1))]));
    tracker.look(seen("qemu", 0, vec![Sighting::Qemu(qemu(42))]));
    tracker.look(blocked(0, Some("a")));
    tracker.look(blocked(10_000, Some("a")));
    tracker.look(look("domain", 10_000, vec![state(FindingCode::DomainIoError, &Subject::vm(VM), true)]));
    let process = Subject::Process { pid: 42, start_ticks: 7 };
    let batch = tracker.look(seen("qemu", 20_000, vec![Sighting::Gone(process.clone())]));
    assert!(batch.bodies.contains(&Body::SubjectGone { subject: process, at: at(20_000) }));
    assert_eq!(states(&batch), [(FindingCode::QemuThreadBlocked, Status::Absent)]);
    assert_eq!(status_of(&tracker, FindingCode::DomainIoError), Some(Status::Present));
    // Nobody looks at the threads of a VM that does not run, and that is all right.
    for msec in (22_000..200_000).step_by(2_000) {
        tracker.look(look("qemu", msec, vec![]));
        tracker.tick(at(msec));
    }
    assert_eq!(status_of(&tracker, FindingCode::QemuThreadBlocked), Some(Status::Absent));
}

#[test]
fn a_vm_that_is_gone_takes_its_states_along_without_clearing_them() {
    let mut tracker = tracker();
    tracker.look(seen("domain", 0, vec![Sighting::Domain(domain(1))]));
    tracker.look(look("domain", 10, vec![state(FindingCode::DomainIoError, &Subject::vm(VM), true)]));
    let batch = tracker.look(seen("domain", 20, vec![Sighting::Gone(Subject::vm(VM))]));
    assert_eq!(batch.bodies, [Body::SubjectGone { subject: Subject::vm(VM), at: at(20) }]);
    assert_eq!(status_of(&tracker, FindingCode::DomainIoError), None);
}

#[test]
fn a_vm_lives_as_long_as_its_process() {
    let mut tracker = tracker();
    tracker.look(seen("domain", 0, vec![Sighting::Domain(domain(1))]));
    tracker.look(seen("qemu", 0, vec![Sighting::Qemu(qemu(42))]));
    let undefined = tracker.look(seen("domain", 10, vec![Sighting::Gone(Subject::vm(VM))]));
    assert_eq!(undefined.bodies, []);
    let process = Subject::Process { pid: 42, start_ticks: 7 };
    let ended = tracker.look(seen("qemu", 20, vec![Sighting::Gone(process.clone())]));
    let gone = |subject| Body::SubjectGone { subject, at: at(20) };
    assert_eq!(ended.bodies, [gone(process), gone(Subject::vm(VM))]);
}

#[test]
fn a_vm_that_vanished_while_the_agent_was_down_is_gone_and_not_cleared() {
    let mut before = tracker();
    before.look(seen("domain", 0, vec![Sighting::Domain(domain(1))]));
    before.look(seen("qemu", 0, vec![Sighting::Qemu(qemu(42))]));
    before.look(look("domain", 10, vec![state(FindingCode::DomainIoError, &Subject::vm(VM), true)]));
    let mut tracker = restarted(&before, at(1_000));
    assert_eq!(status_of(&tracker, FindingCode::DomainIoError), Some(Status::Present), "a restart changes nothing");
    let mut said = Vec::new();
    for msec in (1_000..13_000).step_by(2_000) {
        said.extend(tracker.look(look("qemu", msec, vec![])).bodies);
        said.extend(tracker.look(look("domain", msec, vec![])).bodies);
        said.extend(tracker.tick(at(msec)).bodies);
    }
    assert!(said.iter().any(|body| matches!(body, Body::SubjectGone { subject: Subject::Vm { .. }, .. })), "{said:?}");
    assert!(!said.iter().any(|body| matches!(body, Body::State(state) if state.status == Status::Absent && state.code == FindingCode::DomainIoError)));
    assert_eq!(status_of(&tracker, FindingCode::DomainIoError), None);
}

#[test]
fn nothing_of_another_boot_is_taken_over() {
    let mut before = tracker();
    before.look(look("kvm", 0, vec![state(FindingCode::KvmUnusable, &Subject::Node, true)]));
    let stamp = Stamp { boot_id: "b0".to_owned(), epoch: 1, seq: 1, at: at(0) };
    let records = before.bodies().into_iter().map(|body| Record { stamp: stamp.clone(), body }).collect();
    let tracker = Tracker::new(ROWS, BOOT, Memory { records, positions: BTreeMap::new() }, at(10));
    assert_eq!(tracker.states().count(), 0);
}

#[test]
fn what_nobody_vouched_for_since_long_before_the_restart_is_unknown() {
    let mut before = tracker();
    before.look(look("kvm", 0, vec![state(FindingCode::KvmUnusable, &Subject::Node, false)]));
    let stamp = Stamp { boot_id: BOOT.to_owned(), epoch: 1, seq: 1, at: at(0) };
    let records: Vec<_> = before.bodies().into_iter().map(|body| Record { stamp: stamp.clone(), body }).collect();
    let later = Tracker::new(ROWS, BOOT, Memory { records, positions: BTreeMap::new() }, at(3_600_000));
    assert_eq!(status_of(&later, FindingCode::KvmUnusable), Some(Status::Unknown));
}

/// What happens to a tracker.
#[derive(Clone, Debug)]
enum Step {
    Kvm(bool),
    Unit { name: u8, code: bool, is_present: bool },
    Blocked(Option<u8>),
    Blind(u8),
    Oom { back_msec: u16, count: u8 },
    Tick,
    Restart,
}

fn step() -> impl Strategy<Value = (u32, Step)> {
    let step = prop_oneof![
        any::<bool>().prop_map(Step::Kvm),
        (0_u8..3, any::<bool>(), any::<bool>()).prop_map(|(name, code, is_present)| Step::Unit {
            name,
            code,
            is_present
        }),
        proptest::option::of(0_u8..3).prop_map(Step::Blocked),
        (0_u8..5).prop_map(Step::Blind),
        (any::<u16>(), 1_u8..4).prop_map(|(back_msec, count)| Step::Oom { back_msec, count }),
        Just(Step::Tick),
        Just(Step::Restart),
    ];
    (prop_oneof![0_u32..50, 0_u32..5_000, 0_u32..100_000], step)
}

#[derive(Default)]
struct Witness {
    /// The keys that a look of this boot saw absent.
    seen_absent: std::collections::BTreeSet<Key>,
    counts: BTreeMap<(FindingCode, Subject, Moment), u64>,
    n_happened: u64,
}

impl Witness {
    fn check(&mut self, batch: &Batch) -> Result<(), TestCaseError> {
        for body in &batch.bodies {
            match body {
                Body::State(state) if state.code != FindingCode::ProbeBlind => {
                    let key = (state.code, state.subject.clone());
                    if state.status == Status::Absent {
                        prop_assert!(self.seen_absent.contains(&key), "absent without a look: {:?}", state);
                    }
                    prop_assert_eq!(state.status == Status::Unknown, state.unknown_because.is_some());
                    prop_assert!(state.since.boottime_usec <= state.looked.boottime_usec, "{:?}", state);
                }
                Body::Occurrence(burst) => {
                    let count = self.counts.entry((burst.code, burst.subject.clone(), burst.first)).or_default();
                    prop_assert!(burst.count >= *count, "a count shrank: {:?}", burst);
                    *count = burst.count;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn play(steps: &[(u32, Step)]) -> Result<(Tracker, Witness, i64), TestCaseError> {
    let mut tracker = tracker();
    let mut witness = Witness::default();
    let mut msec = 0;
    for (wait_msec, step) in steps {
        msec += i64::from(*wait_msec);
        let batch = match step {
            Step::Kvm(is_present) => {
                if !is_present {
                    witness.seen_absent.insert((FindingCode::KvmDeviceMissing, Subject::Node));
                }
                tracker.look(look("kvm", msec, vec![state(FindingCode::KvmDeviceMissing, &Subject::Node, *is_present)]))
            }
            Step::Unit { name, code, is_present } => {
                let subject = Subject::unit(format!("k{name}.service"));
                let code = if *code { FindingCode::KubeletInactive } else { FindingCode::KubeletRestartLoop };
                if !is_present {
                    witness.seen_absent.insert((code, subject.clone()));
                }
                tracker.look(look("kubelet", msec, vec![state(code, &subject, *is_present)]))
            }
            Step::Blocked(key) => {
                // A look at a thread that has moved on is a look that sees it not blocked.
                witness.seen_absent.insert((FindingCode::QemuThreadBlocked, Subject::vm(VM)));
                tracker.look(blocked(msec, key.map(|key| ["a", "b", "c"][usize::from(key)])))
            }
            Step::Blind(index) => {
                let probe = ROWS[usize::from(*index)].name;
                tracker.look(Look { blind_because: Some("no".to_owned()), ..look(probe, msec, vec![]) })
            }
            Step::Oom { back_msec, count } => {
                witness.n_happened += u64::from(*count);
                tracker.look(look("kernel-log", msec, vec![oom(msec - i64::from(*back_msec), u64::from(*count))]))
            }
            Step::Tick => tracker.tick(at(msec)),
            Step::Restart => {
                let batch = tracker.drain(at(msec));
                let before: Vec<_> = tracker
                    .states()
                    .map(|state| (state.code, state.subject.clone(), state.status, state.since))
                    .collect();
                let after = restarted(&tracker, at(msec));
                let now: Vec<_> = after
                    .states()
                    .map(|state| (state.code, state.subject.clone(), state.status, state.since))
                    .collect();
                prop_assert_eq!(before, now, "a restart changed a status");
                tracker = after;
                batch
            }
        };
        witness.check(&batch)?;
        // The agent ticks at least every 10 s.
        if *wait_msec < 10_000 {
            let batch = tracker.tick(at(msec));
            witness.check(&batch)?;
        }
    }
    Ok((tracker, witness, msec))
}

proptest! {
    #[test]
    fn nothing_is_absent_without_a_look_and_restarts_change_nothing(steps in vec(step(), 1..80)) {
        play(&steps)?;
    }

    #[test]
    fn after_long_silence_everything_is_unknown(steps in vec(step(), 1..40)) {
        let (mut tracker, _, msec) = play(&steps)?;
        for later in (msec..msec + 400_000).step_by(5_000) {
            tracker.tick(at(later));
        }
        for state in tracker.states().filter(|state| state.code != FindingCode::ProbeBlind) {
            prop_assert_eq!(state.status, Status::Unknown, "{:?}", state);
        }
    }

    #[test]
    fn every_occurrence_is_counted_once(steps in vec(step(), 1..80)) {
        let (mut tracker, mut witness, msec) = play(&steps)?;
        let batch = tracker.drain(at(msec));
        witness.check(&batch)?;
        prop_assert_eq!(witness.counts.values().sum::<u64>(), witness.n_happened);
    }

    #[test]
    fn the_same_input_gives_the_same_output(steps in vec(step(), 1..40)) {
        let (one, _, _) = play(&steps)?;
        let (two, _, _) = play(&steps)?;
        prop_assert_eq!(one.bodies(), two.bodies());
    }
}
