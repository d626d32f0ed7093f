//! Round trips, refusals, and the golden bytes.

use kulprit_model::{
    Attributes, Body, Disk, Domain, Evidence, FindingCode, Moment, Occurrence, Qemu, Record, Stamp, State, Status,
    Subject,
    catalogue::{CATALOGUE, Kind},
};
use proptest::{collection::vec, option, prelude::*};
use prost::Message as _;

use super::*;
use crate::v1;

fn moment() -> impl Strategy<Value = Moment> {
    (any::<i64>(), any::<i64>()).prop_map(|(wall_usec, boottime_usec)| Moment { wall_usec, boottime_usec })
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        Just(Subject::Node),
        "[a-z@-]{1,8}\\.service".prop_map(|name| Subject::Unit { name }),
        "[0-9a-f-]{1,36}".prop_map(|uid| Subject::Vm { uid }),
        (any::<u32>(), any::<u64>()).prop_map(|(pid, start_ticks)| Subject::Process { pid, start_ticks }),
        "[a-z0-9/-]{1,12}".prop_map(|name| Subject::Device { name }),
        "[a-z:/+?=]{1,30}".prop_map(|uri| Subject::Libvirt { uri }),
        "[a-z-]{1,12}".prop_map(|name| Subject::Probe { name }),
    ]
}

fn code(kind: Kind) -> impl Strategy<Value = FindingCode> {
    let codes: Vec<FindingCode> = CATALOGUE.iter().filter(|spec| spec.kind == kind).map(|spec| spec.code).collect();
    proptest::sample::select(codes)
}

fn evidence() -> impl Strategy<Value = Vec<Evidence>> {
    vec(("[a-z]{1,8}", moment(), ".{0,40}").prop_map(|(source, at, text)| Evidence::new(&source, at, text)), 0..4)
}

fn attributes() -> impl Strategy<Value = Attributes> {
    vec(("[a-z_]{1,8}", ".{0,20}"), 0..5).prop_map(|pairs| pairs.into_iter().collect())
}

fn state() -> impl Strategy<Value = State> {
    let status = prop_oneof![Just(Status::Present), Just(Status::Absent), Just(Status::Unknown)];
    (code(Kind::State), subject(), status, moment(), moment(), ".{0,20}", attributes(), evidence()).prop_map(
        |(code, subject, status, since, looked, because, attributes, evidence)| State {
            code,
            subject,
            status,
            since,
            looked,
            unknown_because: (status == Status::Unknown).then_some(because),
            attributes,
            evidence,
        },
    )
}

fn occurrence() -> impl Strategy<Value = Occurrence> {
    (code(Kind::Occurrence), subject(), moment(), moment(), 1_u64.., attributes(), evidence()).prop_map(
        |(code, subject, first, last, count, attributes, evidence)| Occurrence {
            code,
            subject,
            first,
            last,
            count,
            attributes,
            evidence,
        },
    )
}

fn disk() -> impl Strategy<Value = Disk> {
    let text = || option::of(".{0,12}");
    (".{0,20}", text(), text(), text(), text()).prop_map(|(path, device, device_name, fstype, mount_point)| Disk {
        path,
        device,
        device_name,
        fstype,
        mount_point,
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        state().prop_map(Body::State),
        occurrence().prop_map(Body::Occurrence),
        (".{1,20}", ".{0,20}", any::<i32>(), any::<i32>(), moment(), any::<bool>()).prop_map(
            |(uid, name, state, reason, since, is_persistent)| Body::Domain(Domain {
                uid,
                name,
                state,
                reason,
                since,
                is_persistent
            })
        ),
        (".{1,20}", option::of(".{0,9}"), 1_u32.., any::<u64>(), moment(), vec(disk(), 0..3)).prop_map(
            |(uid, name, pid, start_ticks, since, disks)| Body::Qemu(Qemu {
                uid,
                name,
                pid,
                start_ticks,
                since,
                disks
            })
        ),
        (subject(), moment()).prop_map(|(subject, at)| Body::SubjectGone { subject, at }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    ("[0-9a-f-]{1,36}", 1_u64.., 1_u64.., moment(), body())
        .prop_map(|(boot_id, epoch, seq, at, body)| Record { stamp: Stamp { boot_id, epoch, seq, at }, body })
}

proptest! {
    #[test]
    fn every_record_comes_back_as_it_went(record in record()) {
        let bytes = v1::Record::from(record.clone()).encode_to_vec();
        let back = Record::try_from(v1::Record::decode(bytes.as_slice()).unwrap());
        prop_assert_eq!(back, Ok(record));
    }

    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(wire) = v1::Record::decode(bytes.as_slice()) {
            let _ = Record::try_from(wire);
        }
    }

    /// Bytes that are nearly right get past the decoder far more often than random ones.
    #[test]
    fn damaged_records_never_panic(record in record(), flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = v1::Record::from(record).encode_to_vec();
        for (index, flip) in flips {
            let index = index.index(bytes.len());
            bytes[index] ^= flip;
        }
        if let Ok(wire) = v1::Record::decode(bytes.as_slice()) && let Err(error) = Record::try_from(wire) {
            prop_assert!(error.path().starts_with("record."), "{}", error);
        }
    }
}

fn good_state() -> v1::State {
    v1::State {
        code: "KubeletInactive".to_owned(),
        subject: "unit/kubelet.service".to_owned(),
        status: v1::Status::Present.into(),
        since: Some(v1::Moment { wall_usec: 1, boottime_usec: 1 }),
        looked: Some(v1::Moment { wall_usec: 2, boottime_usec: 2 }),
        unknown_because: None,
        attributes: vec![],
        evidence: vec![],
    }
}

fn wrap(body: v1::record::Body) -> v1::Record {
    v1::Record { boot_id: "b".to_owned(), epoch: 1, seq: 1, at: Some(v1::Moment::default()), body: Some(body) }
}

#[track_caller]
fn check_state(break_it: impl FnOnce(&mut v1::State), want: &str) {
    let mut state = good_state();
    break_it(&mut state);
    let error = Record::try_from(wrap(v1::record::Body::State(state))).unwrap_err();
    assert_eq!(error.to_string(), want);
}

#[test]
fn errors_name_the_field_by_its_whole_path() {
    check_state(
        |state| state.subject = "planet/earth".to_owned(),
        "record.state.subject: `planet/earth` is not a subject key (expected node, unit/…, vm/…, process/PID@START, device/…, mount/…, libvirt/…, problem/… or probe/…)",
    );
    check_state(|state| state.since = None, "record.state.since: missing");
    check_state(|state| state.status = 0, "record.state.status: missing");
    check_state(|state| state.status = 9, "record.state.status: 9 is no status");
    check_state(|state| state.status = 3, "record.state.unknown_because: missing");
    check_state(
        |state| state.unknown_because = Some(String::new()),
        "record.state.unknown_because: set, and the status is Present",
    );
    check_state(|state| state.code = "MemcgOomKill".to_owned(), "record.state.code: `MemcgOomKill` is no state");
    check_state(
        |state| {
            let one = v1::Evidence { source: "kvm".to_owned(), at: Some(v1::Moment::default()), text: String::new() };
            state.evidence = vec![one.clone(), v1::Evidence { at: None, ..one }];
        },
        "record.state.evidence[1].at: missing",
    );
    check_state(
        |state| {
            let pair = |value: &str| v1::Attribute { key: "pid".to_owned(), value: value.to_owned() };
            state.attributes = vec![pair("1"), pair("2")];
        },
        "record.state.attributes[1].key: `pid` is given twice",
    );
}

#[test]
fn other_bodies_name_their_fields_too() {
    let at = Some(v1::Moment::default());
    let occurrence = v1::Occurrence {
        code: "QemuExited".to_owned(),
        subject: "vm/1".to_owned(),
        first: at,
        last: at,
        ..Default::default()
    };
    for (body, want) in [
        (v1::record::Body::Occurrence(occurrence), "record.occurrence.count: 0, where at least 1 is due"),
        (v1::record::Body::Domain(v1::Domain::default()), "record.domain.uid: missing"),
        (v1::record::Body::Qemu(v1::Qemu::default()), "record.qemu.pid: missing"),
        (
            v1::record::Body::SubjectGone(v1::SubjectGone { subject: "node".to_owned(), at: None }),
            "record.subject_gone.at: missing",
        ),
    ] {
        assert_eq!(Record::try_from(wrap(body)).unwrap_err().to_string(), want);
    }
    let no_seq = v1::Record { seq: 0, ..wrap(v1::record::Body::State(good_state())) };
    assert_eq!(Record::try_from(no_seq).unwrap_err().to_string(), "record.seq: 0, where at least 1 is due");
}

#[test]
fn what_a_newer_sender_says_is_told_apart_from_nonsense() {
    let mut state = good_state();
    state.code = "FluxCapacitorDrained".to_owned();
    let unknown_code = Record::try_from(wrap(v1::record::Body::State(state))).unwrap_err();
    assert_eq!(
        unknown_code,
        ConvertError::UnknownFindingCode {
            path: "record.state.code".to_owned(),
            code: "FluxCapacitorDrained".to_owned()
        }
    );
    let unknown_body =
        Record::try_from(v1::Record { body: None, ..wrap(v1::record::Body::State(good_state())) }).unwrap_err();
    assert!(unknown_code.is_from_newer_sender() && unknown_body.is_from_newer_sender());
    assert!(!ConvertError::invalid("x", "y").is_from_newer_sender());
}

#[test]
fn evidence_from_the_wire_cannot_reach_a_terminal_with_control_characters() {
    let mut state = good_state();
    let at = Some(v1::Moment::default());
    state.evidence = vec![v1::Evidence { source: "kmsg".to_owned(), at, text: "a\x1b[2Jb".to_owned() }];
    assert_eq!(State::try_from(state.clone()).unwrap().evidence[0].text, "a [2Jb");
    state.evidence[0].source = "\x1b".to_owned();
    assert_eq!(State::try_from(state).unwrap_err().to_string(), "state.evidence[0].source: holds a control character");
}
