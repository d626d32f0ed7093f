//! One domain through its life, healthy and not.

use kulprit_model::Status::{self, Absent, Present, Unknown};
use proptest::prelude::*;

use super::*;

const OK: Control = Control { state: 0, details: 0, state_ms: 0 };

fn second(n: i64) -> Moment {
    Moment::default().offset_usec(n * 1_000_000)
}

fn running() -> DomainSeen {
    DomainSeen {
        uid: "a".to_owned(),
        name: "prod_db-0".to_owned(),
        id: Some(1),
        state: Some(1),
        reason: Some(1),
        control: Some(OK),
        errors: Vec::new(),
    }
}

fn shutoff() -> DomainSeen {
    DomainSeen { id: None, state: Some(state::SHUTOFF), control: None, ..running() }
}

fn paused_on_io() -> DomainSeen {
    DomainSeen { state: Some(state::PAUSED), reason: Some(state::PAUSED_IOERROR), ..running() }
}

fn io_event(reason: &str) -> EventSeen {
    let text = |text: &str| text.to_owned();
    EventSeen::IoError {
        path: text("/a.img"),
        alias: text("virtio-disk0"),
        target: Some(text("vda")),
        action: 1,
        reason: text(reason),
    }
}

/// A book that has seen the domain stopped, so that its whole run is known.
fn book() -> DomainBook {
    let mut book = DomainBook::default();
    book.connected(true);
    book.look(second(0), &[shutoff()]);
    book
}

fn states(book: &mut DomainBook, at: i64, domain: &DomainSeen) -> Vec<StateVerdict> {
    let (verdicts, _) = book.look(second(at), std::slice::from_ref(domain));
    let state = |verdict| match verdict {
        Verdict::State(state) => state,
        Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
    };
    verdicts.into_iter().map(state).collect()
}

/// Occupied, control error, I/O error, shutdown requested.
#[track_caller]
fn check(book: &mut DomainBook, at: i64, domain: &DomainSeen, want: [Status; 4]) -> Vec<StateVerdict> {
    let states = states(book, at, domain);
    assert_eq!(states.iter().map(|state| state.status).collect::<Vec<_>>(), want, "{states:#?}");
    assert_eq!(states.iter().map(|state| state.code).collect::<Vec<_>>(), STATES);
    states
}

#[test]
fn a_normal_life_raises_nothing() {
    let mut book = book();
    let paused = |reason| DomainSeen { state: Some(state::PAUSED), reason: Some(reason), ..running() };
    for (at, domain) in [(1, running()), (2, paused(1)), (3, running()), (4, paused(3)), (5, shutoff())] {
        check(&mut book, at, &domain, [Absent; 4]);
    }
    for (event, detail) in [(2, 0), (3, 0), (4, 0), (5, 0), (5, 1), (5, 3), (5, 4), (6, 1), (1, 0), (99, 99)] {
        assert_eq!(book.event(second(6), "a", &EventSeen::Lifecycle { event, detail }), None, "{event}/{detail}");
    }
    assert_eq!(book.look(second(7), &[]).1, ["a"], "undefined is gone");
}

#[test]
fn an_unanswered_command_keeps_its_start_and_another_one_has_its_own() {
    let mut book = book();
    let occupied = |state_ms| DomainSeen { control: Some(Control { state: 2, details: 0, state_ms }), ..running() };
    let first = check(&mut book, 10, &occupied(1_000), [Present, Absent, Absent, Absent]).remove(0);
    assert_eq!(first.since, Some(second(9)));
    let later = check(&mut book, 12, &occupied(3_040), [Present, Absent, Absent, Absent]).remove(0);
    assert_eq!((later.since, &later.hold_key), (first.since, &first.hold_key));
    let other = check(&mut book, 14, &occupied(20), [Present, Absent, Absent, Absent]).remove(0);
    assert_ne!(other.hold_key, first.hold_key);
    check(
        &mut book,
        16,
        &DomainSeen { control: Some(Control { state: 1, details: 0, state_ms: 0 }), ..running() },
        [Absent; 4],
    );
}

#[test]
fn a_lost_monitor_is_said_with_its_detail() {
    let lost = DomainSeen { control: Some(Control { state: 3, details: 2, state_ms: 0 }), ..running() };
    let states = check(&mut book(), 1, &lost, [Absent, Present, Absent, Absent]);
    assert_eq!(states[1].attributes.get(attribute::DETAIL), Some("2"));
}

#[test]
fn a_pause_on_a_full_volume_names_the_disk_from_the_event() {
    for (reason, kind) in [("enospc", attribute::IO_NO_SPACE), ("", attribute::IO_OTHER), ("eio", attribute::IO_OTHER)]
    {
        let mut book = book();
        check(&mut book, 1, &running(), [Absent; 4]);
        let reported = book.event(second(2), "a", &io_event(reason)).unwrap();
        assert_eq!(reported.code, FindingCode::DomainIoErrorReported);
        assert_eq!(reported.attributes.get(attribute::IO_ERROR), Some(kind));
        let states = check(&mut book, 2, &paused_on_io(), [Absent, Absent, Present, Absent]);
        assert_eq!(states[2].attributes.get(attribute::IO_ERROR), Some(kind));
        assert_eq!(states[2].attributes.get(attribute::DISK), Some("vda"));
        assert!(!book.take_disk_question(&paused_on_io()), "the event told already");
        check(&mut book, 3, &running(), [Absent; 4]);
    }
}

#[test]
fn a_pause_from_before_us_is_asked_about_once() {
    let mut book = DomainBook::default();
    book.connected(true);
    let states = check(&mut book, 1, &paused_on_io(), [Absent, Absent, Present, Unknown]);
    assert_eq!(states[2].attributes.get(attribute::IO_ERROR), None);
    assert!(book.take_disk_question(&paused_on_io()));
    assert!(!book.take_disk_question(&paused_on_io()));
    book.disk_errors("a", &[("vdb".to_owned(), 2)]);
    let states = check(&mut book, 2, &paused_on_io(), [Absent, Absent, Present, Unknown]);
    assert_eq!(states[2].attributes.get(attribute::IO_ERROR), Some(attribute::IO_NO_SPACE));
    assert_eq!(states[2].attributes.get(attribute::DISK), Some("vdb"));
    check(&mut book, 3, &running(), [Absent, Absent, Absent, Unknown]);
    assert!(!book.take_disk_question(&running()));
}

#[test]
fn crashes_are_failures_and_other_stops_are_not() {
    for (event, detail, is_failure) in
        [(5, 2, true), (5, 5, true), (8, 0, true), (5, 0, false), (5, 1, false), (5, 3, false)]
    {
        let found = book().event(second(1), "a", &EventSeen::Lifecycle { event, detail });
        assert_eq!(found.is_some(), is_failure, "{event}/{detail}");
    }
}

#[test]
fn a_request_to_stop_stands_until_the_guest_has_stopped() {
    let mut book = book();
    check(&mut book, 1, &running(), [Absent; 4]);
    book.event(second(2), "a", &EventSeen::Powerdown);
    book.event(second(5), "a", &EventSeen::Powerdown);
    let states = check(&mut book, 6, &running(), [Absent, Absent, Absent, Present]);
    assert_eq!(states[3].since, Some(second(2)), "the first request counts");
    book.connected(true);
    check(&mut book, 7, &running(), [Absent, Absent, Absent, Present]);
    check(&mut book, 8, &shutoff(), [Absent; 4]);
    check(&mut book, 9, &DomainSeen { id: Some(2), ..running() }, [Absent; 4]);
}

#[test]
fn a_restart_between_two_looks_ends_the_request_too() {
    let mut book = book();
    check(&mut book, 1, &running(), [Absent; 4]);
    book.event(second(2), "a", &EventSeen::Powerdown);
    check(&mut book, 3, &DomainSeen { id: Some(2), ..running() }, [Absent; 4]);
}

#[test]
fn who_did_not_listen_does_not_know_of_requests() {
    let mut book = DomainBook::default();
    book.connected(true);
    check(&mut book, 1, &running(), [Absent, Absent, Absent, Unknown]);
    book.connected(false);
    check(&mut book, 2, &DomainSeen { id: Some(2), ..running() }, [Absent, Absent, Absent, Unknown]);
    check(&mut book, 3, &shutoff(), [Absent; 4]);
}

#[test]
fn a_failed_call_is_unknown_with_its_words() {
    let failed = DomainSeen {
        state: None,
        reason: None,
        control: None,
        errors: vec!["virDomainGetState: no".to_owned()],
        ..running()
    };
    let states = check(&mut book(), 1, &failed, [Unknown, Unknown, Unknown, Absent]);
    assert_eq!(states[0].unknown_because.as_deref(), Some("virDomainGetState: no"));
    assert_eq!(book().unknown("the daemon does not run").len(), 4);
}

proptest! {
    #[test]
    fn no_numbers_make_it_panic(
        looks in proptest::collection::vec((any::<i64>(), any::<Option<i32>>(), any::<Option<i32>>(), any::<i32>(), any::<u64>()), 0..6),
    ) {
        let mut book = DomainBook::default();
        for (at, id, number, control, state_ms) in looks {
            let control = Some(Control { state: control % 4, details: control, state_ms });
            let domain = DomainSeen { id, state: number, reason: number, control, ..running() };
            states(&mut book, at / 2_000_000, &domain);
            book.event(second(0), "a", &EventSeen::Lifecycle { event: number.unwrap_or(5), detail: control.map_or(0, |control| control.details) });
        }
    }
}
