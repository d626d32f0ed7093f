//! A migration's life as libvirt's file and the job's figures show it: begin, rounds, end, and what is said meanwhile.

use kulprit_model::Status::{self, Absent, Present, Unknown};

use super::*;
use crate::testing::status_of;

const MIB: u64 = 1_048_576;
const UID: &str = "v";

fn secs(secs: i64) -> Moment {
    Moment { wall_usec: 1_000_000_000_000 + secs * 1_000_000, boottime_usec: secs * 1_000_000 }
}

fn leaves(began: i64) -> JobSeen {
    goes(Direction::Out, Some(secs(began)))
}

fn goes(direction: Direction, began: Option<Moment>) -> JobSeen {
    let migration = MigrationSeen { direction, phase: "perform3".to_owned(), began, cap_bytes_per_sec: None };
    JobSeen { uid: UID.to_owned(), migration: Some(migration) }
}

fn stays() -> JobSeen {
    JobSeen { uid: UID.to_owned(), migration: None }
}

fn figures(elapsed: i64, processed: u64, remaining: u64, round: u64) -> JobInfo {
    JobInfo {
        job_type: Some("Unbounded".to_owned()),
        operation: Some("Outgoing migration".to_owned()),
        elapsed_ms: u64::try_from(elapsed * 1_000).ok(),
        processed_bytes: Some(processed * MIB),
        remaining_bytes: Some(remaining * MIB),
        total_bytes: Some(256 * MIB),
        iteration: Some(round),
        ..JobInfo::default()
    }
}

fn before_the_first_byte(elapsed: i64) -> JobInfo {
    let none = figures(elapsed, 0, 0, 0);
    JobInfo { processed_bytes: None, remaining_bytes: None, total_bytes: None, iteration: None, ..none }
}

fn happened(verdicts: &[Verdict]) -> Vec<&OccurrenceVerdict> {
    let occurrences = verdicts.iter().filter_map(|verdict| match verdict {
        Verdict::Occurrence(occurrence) => Some(occurrence),
        Verdict::State(_) => None,
    });
    occurrences.collect()
}

fn fact(verdicts: &[Verdict], code: FindingCode, key: &str) -> Option<String> {
    verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code => state.attributes.get(key).map(str::to_owned),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

#[track_caller]
fn check(verdicts: &[Verdict], want: [Status; 6]) {
    let codes = [FindingCode::MigrationOutgoing, FindingCode::MigrationIncoming].into_iter().chain(OF_COPY);
    let got: Vec<Option<Status>> = codes.map(|code| status_of(verdicts, code)).collect();
    assert_eq!(got, want.map(Some), "{verdicts:?}");
}

#[test]
fn a_domain_that_stays_is_answered_for_at_once_and_then_once_a_minute() {
    let mut book = MigrationBook::default();
    check(&book.look(secs(0), &[stays()], true), [Absent; 6]);
    assert_eq!(book.look(secs(59), &[stays()], true), []);
    check(&book.look(secs(60), &[stays()], true), [Absent; 6]);
    assert!(!book.is_any_running());
}

#[test]
fn what_a_domain_that_arrives_waits_for_is_said_by_the_target() {
    let mut book = MigrationBook::default();
    let began = Some(secs(0));
    book.look(secs(0), &[goes(Direction::In, began)], true);
    let mut limit_at = |at: i64, ran_ms: u64| {
        let thread = Some(super::super::limit::ThreadTimes { tid: 7, ran_nsec: ran_ms * 1_000_000, waited_nsec: 0 });
        book.set_around(UID, Around { at: secs(at), queued_bytes: None, thread }, None);
        let verdicts = book.look(secs(at), &[goes(Direction::In, began)], true);
        fact(&verdicts, FindingCode::MigrationIncoming, attribute::LIMITED_BY)
    };
    assert_eq!(limit_at(1, 1_000), None);
    assert_eq!(limit_at(2, 2_000).as_deref(), Some("target"));
    assert_eq!(limit_at(3, 2_100), None);
}

#[test]
fn disks_that_are_copied_first_are_what_the_copy_waits_for() {
    let mut book = MigrationBook::default();
    book.look(secs(0), &[leaves(0)], true);
    let limit = |verdicts: &[Verdict]| fact(verdicts, FindingCode::MigrationOutgoing, attribute::LIMITED_BY);
    let disks = JobInfo { disk_remaining_bytes: Some(900 * MIB), ..figures(5, 20, 900, 0) };
    assert_eq!(
        limit(&book.sample(secs(5), UID, disks.clone(), false)),
        None,
        "whether it waits for the path is not known"
    );
    book.set_around(UID, Around { at: secs(5), queued_bytes: Some(0), thread: None }, None);
    assert_eq!(limit(&book.sample(secs(6), UID, disks, false)).as_deref(), Some("storage"));
    // Its memory goes now; what is written to the disks meanwhile goes beside it.
    let memory = JobInfo { disk_remaining_bytes: Some(MIB), ..figures(9, 950, 200, 1) };
    assert_eq!(limit(&book.sample(secs(9), UID, memory, false)), None);
}

#[test]
fn how_long_the_last_pause_would_take_is_told_once_qemu_estimates_it() {
    let told = |round| {
        let (mut book, _) = play(&[]);
        let job = JobInfo { expected_downtime_ms: Some(1_276), ..figures(5, 125, 132, round) };
        let verdicts = book.sample(secs(5), UID, job, false);
        fact(&verdicts, FindingCode::MigrationOutgoing, attribute::EXPECTED_DOWNTIME_MS)
    };
    assert_eq!(told(1), None, "in the first round it is QEMU's limit");
    assert_eq!(told(2).as_deref(), Some("1276"));
}

#[test]
fn a_domain_that_arrives_is_said_to_and_nothing_is_said_of_its_copy() {
    let mut book = MigrationBook::default();
    check(&book.look(secs(0), &[goes(Direction::In, None)], true), [Absent, Present, Absent, Absent, Absent, Absent]);
    assert!(book.is_any_running());
    assert_eq!(book.leaving().count(), 0);
    assert_eq!(book.sample(secs(1), UID, figures(1, 1, 1, 1), false), []);
    assert_eq!(book.arriving().collect::<Vec<_>>(), [UID]);
    let arrived = book.look(secs(2), &[stays()], true);
    assert!(happened(&arrived).is_empty(), "the source says how it ended");
    check(&arrived, [Absent; 6]);
}

#[test]
fn a_domain_that_could_not_be_read_is_not_forgotten() {
    let (mut book, _) = play(&NEVER_CONVERGES);
    assert_eq!(book.look(secs(14), &[], false), []);
    assert!(book.is_any_running());
    assert!(happened(&book.look(secs(15), &[leaves(0)], true)).is_empty());
}

#[test]
fn a_migration_that_moves_its_domain_away_is_no_failure() {
    let mut book = MigrationBook::default();
    book.look(secs(0), &[leaves(0)], true);
    assert_eq!(book.leaving().collect::<Vec<_>>(), [UID]);
    assert_eq!(book.look(secs(3), &[], true), []);
    assert!(!book.is_any_running());
}

#[test]
fn figures_that_are_not_there_yet_make_the_copy_unknown_and_not_well() {
    let mut book = MigrationBook::default();
    check(&book.look(secs(0), &[leaves(0)], true), [Present, Absent, Unknown, Unknown, Unknown, Unknown]);
}

/// As measured with libvirt 11.3, a guest that dirties 120 MiB a round, and a limit of 40 MiB/s.
const NEVER_CONVERGES: [(i64, u64, u64, u64); 4] =
    [(1, 0, 241, 1), (6, 125, 132, 2), (10, 257, 123, 3), (13, 380, 121, 4)];

fn play(rows: &[(i64, u64, u64, u64)]) -> (MigrationBook, Vec<Verdict>) {
    let mut book = MigrationBook::default();
    book.look(secs(0), &[leaves(0)], true);
    let mut last = Vec::new();
    for (at, processed, remaining, round) in rows {
        last = book.sample(secs(*at), UID, figures(*at, *processed, *remaining, *round), true);
    }
    (book, last)
}

#[test]
fn it_is_dirtying_when_the_second_round_has_left_as_much_as_it_sent() {
    let dirtying = |rows: &[_]| status_of(&play(rows).1, FindingCode::MigrationDirtying);
    assert_eq!(dirtying(&NEVER_CONVERGES[..2]), Some(Unknown), "one round says nothing");
    assert_eq!(dirtying(&NEVER_CONVERGES[..3]), Some(Present), "123 of 132 MiB");
    assert_eq!(dirtying(&[(1, 0, 241, 1), (6, 125, 100, 2), (10, 225, 90, 3)]), Some(Present));
    assert_eq!(dirtying(&[(1, 0, 241, 1), (6, 125, 100, 2), (10, 225, 89, 3)]), Some(Absent));
}

#[test]
fn as_much_left_as_before_is_no_matter_once_it_is_sent_in_the_last_pause() {
    let dirtying = |rest| {
        status_of(&play(&[(1, 0, 241, 1), (6, 141, 8, 2), (10, 221, rest, 3)]).1, FindingCode::MigrationDirtying)
    };
    // 80 MiB in 4 s: 6 MiB are 0.3 s.
    assert_eq!(dirtying(6), Some(Absent));
    assert_eq!(dirtying(8), Some(Present));
}

#[test]
fn rounds_seen_midway_are_told_apart_by_what_they_add() {
    let (mut book, _) = play(&[]);
    // The same rounds, each looked at somewhere in its middle: the begin of the second is not known, so the third decides.
    let mut dirtying = Vec::new();
    for (at, processed, remaining, round) in [(3, 60, 181, 1), (7, 160, 97, 2), (11, 308, 72, 3), (15, 389, 112, 4)] {
        let verdicts = book.sample(secs(at), UID, figures(at, processed, remaining, round), false);
        dirtying.extend(status_of(&verdicts, FindingCode::MigrationDirtying));
    }
    assert_eq!(dirtying, [Unknown, Unknown, Unknown, Present]);
}

#[test]
fn a_guest_that_is_slowed_down_more_and_more_may_still_be_overtaken() {
    let (mut book, _) = play(&NEVER_CONVERGES[..2]);
    let throttled = |pct| JobInfo { throttle_pct: Some(pct), ..figures(13, 380, 121, 4) };
    book.sample(secs(10), UID, figures(10, 257, 123, 3), true);
    let of = |verdicts: &[Verdict]| status_of(verdicts, FindingCode::MigrationDirtying);
    assert_eq!(of(&book.clone().sample(secs(13), UID, throttled(89), true)), Some(Absent));
    assert_eq!(of(&book.clone().sample(secs(13), UID, throttled(90), true)), Some(Present));
    let postcopy = JobInfo { n_postcopy_requests: Some(1), ..figures(13, 380, 121, 4) };
    assert_eq!(of(&book.sample(secs(13), UID, postcopy, true)), Some(Absent));
}

#[test]
fn what_the_copy_did_until_its_end_stays_with_the_end() {
    let (mut book, _) = play(&NEVER_CONVERGES);
    let ended = book.look(secs(16), &[stays()], true);
    let occurrence = happened(&ended)[0];
    assert_eq!(occurrence.code, FindingCode::MigrationNotCompleted);
    assert_eq!(occurrence.attributes.get(attribute::WHAT), Some("dirtying"));
    assert_eq!(occurrence.attributes.get(attribute::LIMITED_BY), Some("guest"));
    assert!(occurrence.evidence[0].text.contains("after 16 s in phase perform3"), "{:?}", occurrence.evidence);
    check(&ended, [Absent; 6]);
    assert_eq!(book.look(secs(17), &[stays()], true), [], "said once");
}

#[test]
fn a_copy_that_stood_for_ten_seconds_had_stopped_before_the_end() {
    let what = |rows: &[(i64, u64, u64, u64)]| {
        let (mut book, _) = play(rows);
        let ended = book.look(secs(40), &[stays()], true);
        happened(&ended)[0].attributes.get(attribute::WHAT).map(str::to_owned)
    };
    let stood_until = |at| what(&[(4, 90, 166, 1), (8, 120, 136, 1), (9, 120, 136, 1), (at, 120, 136, 1)]);
    assert_eq!(stood_until(17).as_deref(), Some("slow"));
    assert_eq!(stood_until(18).as_deref(), Some("stopped"));
    assert_eq!(stood_until(28).as_deref(), Some("no-bytes"), "as long as a copy may stand");
    // What stood for long and went on again had not.
    let goes_on = [(2, 90, 166, 1), (15, 90, 166, 1), (16, 130, 126, 1), (17, 190, 66, 1)];
    assert_eq!(what(&goes_on).as_deref(), Some("slow"));
}

#[test]
fn a_second_migration_is_not_judged_by_the_first() {
    let (mut book, _) = play(&NEVER_CONVERGES);
    let next = book.look(secs(20), &[leaves(19)], true);
    assert_eq!(happened(&next).len(), 1);
    check(&next, [Present, Absent, Unknown, Unknown, Unknown, Unknown]);
}

#[test]
fn a_qemu_that_libvirt_waits_for_copies_nothing_after_twenty_seconds() {
    let no_bytes = |now: i64, answered_at: Option<i64>, copied: bool| {
        let (mut book, _) = play(if copied { &NEVER_CONVERGES[..2] } else { &[] });
        book.set_unanswered(secs(1), UID, true);
        if let Some(at) = answered_at {
            book.set_unanswered(secs(at), UID, false);
            book.set_unanswered(secs(at), UID, true);
        }
        status_of(&book.look(secs(now), &[leaves(0)], true), FindingCode::MigrationNoBytes)
    };
    assert_eq!(no_bytes(20, None, false), Some(Unknown));
    assert_eq!(no_bytes(21, None, false), Some(Present));
    assert_eq!(no_bytes(30, Some(11), false), Some(Unknown), "it answered meanwhile");
    assert_eq!(no_bytes(21, None, true), Some(Unknown), "it has begun, so the path was there");
}

#[test]
fn a_job_without_a_byte_is_no_bytes_after_twenty_seconds_and_names_the_silent_peer() {
    let (mut book, _) = play(&[]);
    let around = Around { at: secs(5), queued_bytes: Some(0), thread: None };
    book.set_around(UID, around, Some("10.77.0.11:49152".to_owned()));
    let of = |verdicts: &[Verdict]| status_of(verdicts, FindingCode::MigrationNoBytes);
    assert_eq!(of(&book.sample(secs(19), UID, before_the_first_byte(19), false)), Some(Unknown));
    let verdicts = book.sample(secs(20), UID, before_the_first_byte(20), false);
    assert_eq!(of(&verdicts), Some(Present));
    let state = verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == FindingCode::MigrationNoBytes => Some(state),
        _ => None,
    });
    assert_eq!(state.unwrap().attributes.get(attribute::SERVER), Some("10.77.0.11:49152"));
    let ended = book.look(secs(25), &[stays()], true);
    assert_eq!(happened(&ended)[0].attributes.get(attribute::WHAT), Some("no-bytes"));
}

#[test]
fn a_wall_clock_that_is_set_back_neither_ends_a_migration_nor_mixes_its_samples() {
    let (mut book, _) = play(&NEVER_CONVERGES[..2]);
    let back = |at: i64| Moment { wall_usec: 5, ..secs(at) };
    let verdicts = book.sample(back(10), UID, figures(10, 257, 123, 3), true);
    assert_eq!(status_of(&verdicts, FindingCode::MigrationDirtying), Some(Present));
    // The begin is told by the wall clock; what it is on the other is computed anew from the clock that was set.
    let seen = goes(Direction::Out, Some(Moment { boottime_usec: 7_000_000_000, ..secs(0) }));
    let verdicts = book.look(back(11), &[seen], true);
    assert!(happened(&verdicts).is_empty());
    assert_eq!(status_of(&verdicts, FindingCode::MigrationDirtying), Some(Present));
}

#[test]
fn a_begin_that_lies_ahead_is_taken_for_now() {
    let mut book = MigrationBook::default();
    let verdicts = book.look(secs(0), &[leaves(100)], true);
    let Some(Verdict::State(state)) = verdicts.first() else { panic!("{verdicts:?}") };
    assert_eq!(state.since, Some(secs(0)));
}

#[test]
fn counters_that_go_back_begin_a_migration_anew() {
    let (mut book, _) = play(&NEVER_CONVERGES);
    let verdicts = book.sample(secs(20), UID, figures(1, 0, 241, 1), true);
    assert_eq!(status_of(&verdicts, FindingCode::MigrationDirtying), Some(Unknown));
}

#[test]
fn figures_of_a_domain_that_nobody_knows_say_nothing() {
    let mut book = MigrationBook::default();
    assert_eq!(book.sample(secs(0), UID, figures(1, 1, 1, 1), true), []);
    book.look(secs(0), &[stays()], true);
    assert_eq!(book.sample(secs(0), UID, figures(1, 1, 1, 1), true), []);
    book.set_unanswered(secs(0), UID, true);
}

#[test]
fn a_long_migration_keeps_a_bounded_number_of_samples() {
    let (mut book, _) = play(&[]);
    for at in 1..2_000 {
        book.sample(secs(at), UID, figures(at, 10 * at.unsigned_abs(), 100, 2), false);
        book.set_around(UID, Around { at: secs(at), queued_bytes: None, thread: None }, None);
    }
    let running = book.by_uid[UID].running.as_ref().unwrap();
    assert!(running.samples.len() <= MAX_SAMPLES && running.around.len() <= MAX_AROUND);
}
