//! The bytes of every message form, as they were when the form was born.
//!
//! A fixture that no longer decodes to the same message, or a message that encodes to other bytes, breaks every spool and every
//! peer of another version. Add a form with `KULPRIT_BLESS=1 cargo test -p kulprit-proto --test golden_bytes`; a committed
//! file must never change.

use std::{collections::BTreeSet, fs, path::PathBuf};

use kulprit_model::{
    Attributes, Body, Disk, Domain, Evidence, FindingCode, Moment, Occurrence, Qemu, Record, Stamp, State, Status,
    Subject, attribute,
};
use kulprit_proto::v1;
use prost::Message;

const BOOT: &str = "3a0ef6f9-32b5-4c1c-a2c2-9f3e0d0b7a11";
const VM: &str = "0b2c0b2c-0000-4000-8000-000000000001";

const fn at(sec: i64) -> Moment {
    Moment { wall_usec: 1_780_000_000_000_000 + sec * 1_000_000, boottime_usec: sec * 1_000_000 + 250 }
}

fn record(seq: u64, body: Body) -> Record {
    Record { stamp: Stamp { boot_id: BOOT.to_owned(), epoch: 7, seq, at: at(100) }, body }
}

fn blocked(status: Status) -> State {
    State {
        code: FindingCode::QemuThreadBlocked,
        subject: Subject::vm(VM),
        status,
        since: at(80),
        looked: at(99),
        unknown_because: (status == Status::Unknown)
            .then(|| "failed to read `/proc/42/task`: permission denied".to_owned()),
        attributes: Attributes::new().with(attribute::WCHAN, "percpu_rwsem_wait").with(attribute::TID, 43),
        evidence: vec![Evidence::new("procfs", at(99), "thread 43 (worker) in state D at percpu_rwsem_wait for 19 s")],
    }
}

fn records() -> Vec<(&'static str, Record)> {
    let occurrence = Occurrence {
        code: FindingCode::MemcgOomKill,
        subject: Subject::Process { pid: 42, start_ticks: 9_001 },
        first: at(90),
        last: at(95),
        count: 3,
        attributes: Attributes::new().with(attribute::PID, 42).with(attribute::MEMCG, "/machine.slice"),
        evidence: vec![Evidence::new(
            "kmsg",
            at(95),
            "Memory cgroup out of memory: Killed process 42 (qemu-system-x86)",
        )],
    };
    let domain =
        Domain { uid: VM.to_owned(), name: "db-0".to_owned(), state: 3, reason: 5, since: at(70), is_persistent: true };
    let disk = Disk {
        path: "/srv/vms/db-0.raw".to_owned(),
        device: Some("8:1".to_owned()),
        device_name: Some("sda1".to_owned()),
        fstype: Some("ext4".to_owned()),
        mount_point: Some("/srv".to_owned()),
    };
    let qemu = Qemu {
        uid: VM.to_owned(),
        name: Some("db-0".to_owned()),
        pid: 42,
        start_ticks: 9_001,
        since: at(60),
        disks: vec![disk, Disk { path: "/dev/gone".to_owned(), ..Disk::default() }],
    };
    vec![
        ("record-state-present", record(1, Body::State(blocked(Status::Present)))),
        ("record-state-absent", record(2, Body::State(blocked(Status::Absent)))),
        ("record-state-unknown", record(3, Body::State(blocked(Status::Unknown)))),
        ("record-occurrence", record(4, Body::Occurrence(occurrence))),
        ("record-domain", record(5, Body::Domain(domain))),
        ("record-qemu", record(6, Body::Qemu(qemu))),
        ("record-subject-gone", record(7, Body::SubjectGone { subject: Subject::vm(VM), at: at(101) })),
    ]
}

fn hello() -> v1::Hello {
    v1::Hello {
        cluster: "c1".to_owned(),
        node: "n1".to_owned(),
        boot_id: BOOT.to_owned(),
        epoch: 7,
        agent_version: "0.1.0".to_owned(),
        sent: Some(at(100).into()),
        inventory: Some(v1::Inventory {
            machine_id: "7b1c".to_owned(),
            kernel: "6.12.63".to_owned(),
            os: "Debian GNU/Linux 13".to_owned(),
            n_cpus: 2,
            memory_bytes: 8 << 30,
            ..v1::Inventory::default()
        }),
        cannot_show: vec!["no state folder".to_owned()],
    }
}

fn hello_with_versions() -> v1::Hello {
    let inventory = v1::Inventory {
        libvirt: "11.3.0".to_owned(),
        qemu: "10.0.2".to_owned(),
        runtime: "containerd 2.4.2".to_owned(),
        processor: "AMD EPYC 7763 64-Core Processor".to_owned(),
        microcode: "0xa0011d1".to_owned(),
        ..v1::Inventory::default()
    };
    v1::Hello { inventory: Some(inventory), ..hello() }
}

fn agent_messages() -> Vec<(&'static str, v1::AgentMessage)> {
    use v1::agent_message::Message as M;
    let loss = v1::Loss { boot_id: BOOT.to_owned(), epoch: 7, first_seq: 3, last_seq: 9, count: 5 };
    [
        ("agent-hello", M::Hello(hello())),
        ("agent-hello-versions", M::Hello(hello_with_versions())),
        ("agent-snapshot-begin", M::SnapshotBegin(v1::SnapshotBegin {})),
        ("agent-snapshot-end", M::SnapshotEnd(v1::SnapshotEnd { seq: 7 })),
        ("agent-record", M::Record(records()[0].1.clone().into())),
        ("agent-heartbeat", M::Heartbeat(v1::Heartbeat { sent: Some(at(105).into()), n_spooled: 2 })),
        ("agent-loss", M::Loss(loss)),
    ]
    .map(|(name, message)| (name, v1::AgentMessage { message: Some(message) }))
    .to_vec()
}

fn central_messages() -> Vec<(&'static str, v1::CentralMessage)> {
    let ack = v1::Ack { boot_id: BOOT.to_owned(), epoch: 7, seq: 7 };
    vec![("central-ack", v1::CentralMessage { message: Some(v1::central_message::Message::Ack(ack)) })]
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

#[track_caller]
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let path = folder().join(name).with_extension("bin");
    if std::env::var_os("KULPRIT_BLESS").is_some() && !path.exists() {
        fs::write(&path, message.encode_to_vec()).expect("the fixture folder can be written");
    }
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(message.encode_to_vec(), bytes, "{name} encodes to other bytes than it did");
    let decoded = M::decode(bytes.as_slice()).unwrap_or_else(|error| panic!("{name} no longer decodes: {error}"));
    assert_eq!(&decoded, message, "{name} decodes to another message than it did");
}

#[test]
fn records_encode_to_the_bytes_they_always_did_and_mean_the_same() {
    for (name, record) in records() {
        let wire = v1::Record::from(record.clone());
        check(name, &wire);
        assert_eq!(Record::try_from(wire), Ok(record), "{name}");
    }
}

#[test]
fn stream_messages_encode_to_the_bytes_they_always_did() {
    for (name, message) in agent_messages() {
        check(name, &message);
    }
    for (name, message) in central_messages() {
        check(name, &message);
    }
}

#[test]
fn every_fixture_belongs_to_a_form() {
    let forms = records().into_iter().map(|(name, _)| name);
    let forms = forms.chain(agent_messages().into_iter().map(|(name, _)| name));
    let forms: BTreeSet<String> =
        forms.chain(central_messages().into_iter().map(|(name, _)| name)).map(|name| format!("{name}.bin")).collect();
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.collect();
    assert_eq!(files, forms);
}
