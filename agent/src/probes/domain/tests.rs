//! On the worker's messages, with and without a worker.

use kulprit_host::HostRoot;
use kulprit_model::attribute;
use kulprit_proto::worker::{
    self, Connected, ConnectionLost, DomainEvent, Domains, Hung, IoError, Lifecycle, LostClass, Reply,
    domain_event::Event,
};
use proptest::prelude::*;

use kulprit_judge::domain::DaemonSeen;
use kulprit_model::Subject;

use super::*;
use crate::look::Sighting;
use crate::probes::testing::{self, status_of};

const UID: &str = "0b2c0b2c-0000-4000-8000-000000000001";

fn probe(root: &std::path::Path) -> Probe {
    let (out, _) = tokio::sync::mpsc::channel(1);
    let (_, suspects) = watch::channel(Arc::default());
    let mut probe = Probe::new(ProbeContext {
        host: HostRoot::new(root),
        config: Arc::default(),
        clock: kulprit_daemon::Clock::kernel(),
        out,
        stop: kulprit_daemon::CancellationToken::new(),
        suspects,
        vms: Arc::default(),
        launchers: Arc::default(),
        pulls: Arc::default(),
        beat: crate::probes::Beat::new(0, Instant::now()),
        lane: crate::probes::Lane::default(),
        recorder: Arc::default(),
        sacrifice: Arc::default(),
        counters: Arc::default(),
        start_at: None,
        once: false,
    });
    probe.attached.insert(1, Key::Node);
    probe
}

fn say(probe: &mut Probe, body: Body) -> Outcome {
    probe.on_message(FromWorker { boot_usec: 0, target: 1, body: Some(body) })
}

fn connected() -> Body {
    Body::Connected(Connected { sees_powerdown: true, ..Connected::default() })
}

fn domains(state: i32, reason: i32) -> Body {
    let domain = worker::Domain {
        uuid: UID.to_owned(),
        name: "prod_db-0".to_owned(),
        id: Some(1),
        state: Some(state),
        reason: Some(reason),
        control: Some(worker::Control::default()),
        ..worker::Domain::default()
    };
    Body::Domains(Domains { look: 1, domains: vec![domain], last: true, took_usec: 1 })
}

fn event(event: Event) -> Body {
    Body::Event(DomainEvent { uuid: UID.to_owned(), name: "prod_db-0".to_owned(), id: Some(1), event: Some(event) })
}

#[test]
fn a_full_volume_is_told_by_the_event_and_by_the_look_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    say(&mut probe, connected());
    say(&mut probe, domains(1, 1));
    let error = IoError {
        source: "/a.img".to_owned(),
        alias: "virtio-disk0".to_owned(),
        action: 1,
        reason: "enospc".to_owned(),
    };
    let outcome = say(&mut probe, event(Event::IoError(error)));
    let told = outcome.look.expect("an occurrence is told at once");
    assert!(
        matches!(&told.verdicts[..], [Verdict::Occurrence(found)] if found.code == FindingCode::DomainIoErrorReported)
    );
    assert!(matches!(outcome.requests[..], [Request::Poll(_)]), "and the domains are looked at");
    let outcome = say(&mut probe, domains(3, 5));
    assert!(outcome.requests.is_empty(), "the event told the reason");
    assert_eq!(status_of(&outcome.look.expect("a look"), FindingCode::DomainIoError), Some(Status::Present));
}

#[test]
fn a_pause_from_before_us_is_asked_about_and_the_answer_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    say(&mut probe, connected());
    let outcome = say(&mut probe, domains(3, 5));
    assert!(matches!(&outcome.requests[..], [Request::GetDiskErrors(question)] if question.uuid == UID));
    assert!(say(&mut probe, domains(3, 5)).requests.is_empty(), "asked once");
    probe.questions.insert(9, UID.to_owned());
    let disk_errors = vec![worker::DiskError { target: "vda".to_owned(), error: 2 }];
    say(&mut probe, Body::Reply(Reply { request_id: 9, error: None, disk_errors }));
    let look = say(&mut probe, domains(3, 5)).look.expect("a look");
    let kind = look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == FindingCode::DomainIoError => state.attributes.get(attribute::IO_ERROR),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    });
    assert_eq!(kind, Some(attribute::IO_NO_SPACE));
}

#[test]
fn a_daemon_that_hangs_or_ends_hides_its_domains_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    say(&mut probe, connected());
    say(&mut probe, domains(3, 5));
    let hung = Hung { call: "virConnectGetLibVersion".to_owned(), domain: None, age_ms: 2_000, daemon_answers: false };
    let look = say(&mut probe, Body::Hung(hung)).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnresponsive), Some(Status::Present));
    assert_eq!(status_of(&look, FindingCode::DomainIoError), Some(Status::Unknown));
    let hung = Hung { call: "virDomainGetDiskErrors".to_owned(), domain: Some(UID.to_owned()), ..Hung::default() };
    assert!(say(&mut probe, Body::Hung(hung)).look.is_none(), "a QEMU that hangs is not the daemon's fault");

    let hung =
        Hung { call: "virConnectGetAllDomainStats".to_owned(), domain: None, age_ms: 2_000, daemon_answers: true };
    let look = say(&mut probe, Body::Hung(hung)).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnresponsive), Some(Status::Absent), "a domain is locked");
    assert_eq!(status_of(&look, FindingCode::DomainIoError), Some(Status::Unknown));

    let lost =
        ConnectionLost { class: LostClass::Refused.into(), text: "refused".to_owned(), ..ConnectionLost::default() };
    let look = say(&mut probe, Body::ConnectionLost(lost)).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnreachable), Some(Status::Present), "it was there before");
    let look = say(&mut probe, connected()).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnreachable), Some(Status::Absent));
}

#[test]
fn a_stale_socket_of_a_daemon_nobody_wants_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    let lost =
        ConnectionLost { class: LostClass::Refused.into(), text: "refused".to_owned(), ..ConnectionLost::default() };
    let look = say(&mut probe, Body::ConnectionLost(lost)).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnreachable), Some(Status::Absent));
    assert_eq!(status_of(&look, FindingCode::LibvirtNotInstalled), Some(Status::Present));
}

#[test]
fn a_crash_is_told_and_a_domain_that_goes_is_gone_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    say(&mut probe, connected());
    say(&mut probe, domains(1, 1));
    let look = say(&mut probe, event(Event::Lifecycle(Lifecycle { event: 5, detail: 5 }))).look.expect("a look");
    assert!(matches!(&look.verdicts[..], [Verdict::Occurrence(found)] if found.code == FindingCode::DomainFailed));
    let empty = Body::Domains(Domains { look: 2, domains: Vec::new(), last: true, took_usec: 1 });
    let look = say(&mut probe, empty).look.expect("a look");
    assert!(matches!(&look.sightings[..], [Sighting::Gone(subject)] if *subject == Subject::vm(UID)));
}

#[test]
fn parts_of_a_look_are_one_look() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    say(&mut probe, connected());
    let Body::Domains(whole) = domains(1, 1) else { panic!("domains") };
    assert!(say(&mut probe, Body::Domains(Domains { last: false, ..whole })).look.is_none());
    let rest = Body::Domains(Domains { look: 1, domains: Vec::new(), last: true, took_usec: 1 });
    assert_eq!(say(&mut probe, rest).look.expect("a look").sightings.len(), 1);
}

#[tokio::test]
async fn without_a_daemon_that_should_be_there_none_is_missed() {
    let root = tempfile::tempdir().unwrap();
    let look = testing::Probe::once(&SPEC, HostRoot::new(root.path())).await;
    assert_eq!(look.blind_because, None);
    assert_eq!(status_of(&look, FindingCode::LibvirtNotInstalled), Some(Status::Present));
}

#[tokio::test]
async fn without_a_worker_the_probe_is_blind_and_names_it() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("run/libvirt")).unwrap();
    std::fs::write(root.path().join("run/libvirt/libvirt-sock"), "").unwrap();
    let with_worker = |worker: &'static str| {
        testing::Probe::once_with(&SPEC, HostRoot::new(root.path()), move |context| {
            let mut config = (*context.config).clone();
            config.libvirt.worker = Some(worker.into());
            context.config = Arc::new(config);
        })
    };
    let because = with_worker("/none/worker").await.blind_because.expect("blind");
    assert!(because.starts_with("failed to start the libvirt worker `/none/worker`"), "{because}");
    assert_eq!(with_worker("/bin/false").await.blind_because.as_deref(), Some("the libvirt worker has ended"));
}

const VMI: &str = "23a93a57-8a28-4551-94a0-f9ee63305db5";

/// The launcher of `prod/db-0`, and whether its QEMU lives.
fn launcher(has_qemu: bool) -> Launcher {
    Launcher {
        vmi_uid: VMI.to_owned(),
        namespace: "prod".to_owned(),
        name: "db-0".to_owned(),
        pid: 10,
        start_ticks: 1_010,
        libvirt_pid: Some(12),
        libvirt_socket: Some("/var/run/libvirt/virtqemud-sock".to_owned()),
        qemu_pids: has_qemu.then_some(13).into_iter().collect(),
        is_nonroot: true,
        ..Launcher::default()
    }
}

/// The probe with the node's daemon as 1 and that launcher's as 2.
fn with_launcher(root: &std::path::Path) -> Probe {
    let mut probe = probe(root);
    let row = launcher(true);
    probe.daemons.insert(Key::of(&row), Daemon::new(Some(row.clone())));
    probe.attached.insert(2, Key::of(&row));
    probe
}

fn say_of(probe: &mut Probe, target: u64, body: Body) -> Outcome {
    probe.on_message(FromWorker { boot_usec: 0, target, body: Some(body) })
}

fn refused() -> Body {
    let class = LostClass::Refused.into();
    Body::ConnectionLost(ConnectionLost { class, text: "refused".to_owned(), ..ConnectionLost::default() })
}

/// Every subject that a look speaks of.
fn subjects(look: &Look) -> Vec<String> {
    let mut subjects: Vec<String> = look
        .verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::State(state) => state.subject.to_string(),
            Verdict::Occurrence(found) => found.subject.to_string(),
        })
        .collect();
    subjects.sort();
    subjects.dedup();
    subjects
}

#[test]
fn a_launchers_domain_is_its_vmi_and_other_domains_are_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = with_launcher(folder.path());
    say_of(&mut probe, 2, connected());
    let look = say_of(&mut probe, 2, domains(1, 1)).look.expect("a look");
    let [Sighting::Domain(seen)] = &look.sightings[..] else { panic!("{look:?}") };
    assert_eq!((seen.uid.as_str(), seen.name.as_str()), (VMI, "prod/db-0"));
    assert_eq!(probe.context.vms.by_name("prod_db-0").as_deref(), Some(VMI), "libvirt's name finds it");
    assert_eq!(
        subjects(&look),
        [Subject::Libvirt { uri: format!("launcher/{VMI}") }.to_string(), Subject::vm(VMI).to_string()]
    );
    let look = say_of(&mut probe, 1, domains(1, 1)).look.expect("a look");
    let [Sighting::Domain(seen)] = &look.sightings[..] else { panic!("{look:?}") };
    assert_eq!((seen.uid.as_str(), seen.name.as_str()), (UID, "prod_db-0"), "on the node itself it is a domain");
}

#[test]
fn questions_about_a_launchers_domain_go_to_libvirt_under_its_own_uuid() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = with_launcher(folder.path());
    say_of(&mut probe, 2, connected());
    let outcome = say_of(&mut probe, 2, domains(3, 5));
    assert!(
        matches!(&outcome.requests[..], [Request::GetDiskErrors(question)] if question.uuid == UID),
        "{:?}",
        outcome.requests
    );
    assert_eq!(probe.find_domain(VMI), Some((2, UID.to_owned())));
    probe.questions.insert(9, UID.to_owned());
    let disk_errors = vec![worker::DiskError { target: "vda".to_owned(), error: 2 }];
    say_of(&mut probe, 2, Body::Reply(Reply { request_id: 9, error: None, disk_errors }));
    let look = say_of(&mut probe, 2, domains(3, 5)).look.expect("a look");
    assert!(format!("{look:?}").contains(attribute::IO_NO_SPACE), "{look:?}");
}

#[test]
fn each_daemon_hangs_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = with_launcher(folder.path());
    for target in [1, 2] {
        say_of(&mut probe, target, connected());
        say_of(&mut probe, target, domains(1, 1));
    }
    let hung = Hung { call: "virConnectGetLibVersion".to_owned(), domain: None, age_ms: 2_000, daemon_answers: false };
    let look = say_of(&mut probe, 2, Body::Hung(hung)).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnresponsive), Some(Status::Present));
    assert!(subjects(&look).iter().all(|subject| subject.contains(VMI)), "{:?}", subjects(&look));
    assert_eq!(status_of(&look, FindingCode::LibvirtNotInstalled), None, "whether the node has one it does not say");
    assert_eq!(probe.daemons[&Key::Node].seen, DaemonSeen::Answers);
}

#[test]
fn a_launcher_that_ends_is_no_fault_and_one_whose_libvirt_ends_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = with_launcher(folder.path());
    let key = Key::of(&launcher(true));
    say_of(&mut probe, 2, connected());
    say_of(&mut probe, 2, domains(1, 1));
    let look = say_of(&mut probe, 2, refused()).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnreachable), Some(Status::Present));
    probe.daemons.get_mut(&key).unwrap().update(&launcher(false));
    let look = say_of(&mut probe, 2, refused()).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnreachable), Some(Status::Unknown));
    let look = probe.daemons[&key].end(&probe.context);
    let gone: Vec<&Subject> = look
        .sightings
        .iter()
        .filter_map(|sighting| if let Sighting::Gone(subject) = sighting { Some(subject) } else { None })
        .collect();
    assert_eq!(gone, [&Subject::vm(VMI), &Subject::Libvirt { uri: format!("launcher/{VMI}") }]);
    assert!(look.verdicts.is_empty());
}

#[test]
fn a_launcher_without_a_qemu_yet_whose_libvirt_does_not_run_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = probe(folder.path());
    let row = launcher(false);
    probe.daemons.insert(Key::of(&row), Daemon::new(Some(row.clone())));
    probe.attached.insert(2, Key::of(&row));
    let look = say_of(&mut probe, 2, refused()).look.expect("a look");
    assert_eq!(status_of(&look, FindingCode::LibvirtUnreachable), Some(Status::Present));
}

#[test]
fn a_launcher_is_reached_by_its_root_and_its_start_in_the_form_it_offers() {
    let folder = tempfile::tempdir().unwrap();
    let probe = probe(folder.path());
    let target = Daemon::new(Some(launcher(true))).target(&probe.context, None);
    assert_eq!((target.uri.as_str(), target.root.as_str()), ("qemu:///session", "/proc/10/root"));
    assert!(target.readonly);
    assert_eq!((target.start_time_ticks, target.socket.as_deref()), (1_010, Some("/var/run/libvirt/virtqemud-sock")));
    let of_root = Launcher { is_nonroot: false, ..launcher(true) };
    assert_eq!(Daemon::new(Some(of_root)).target(&probe.context, None).uri, "qemu:///system");
}

#[test]
fn of_two_pods_of_one_vmi_the_younger_is_asked_and_none_without_a_socket() {
    let younger = Launcher { pid: 20, start_ticks: 2_000, ..launcher(true) };
    let silent = Launcher { vmi_uid: "other".to_owned(), libvirt_socket: None, ..launcher(true) };
    let rows = vec![launcher(true), younger.clone(), silent];
    assert_eq!(wanted(&Launchers { rows }), [younger]);
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        use prost::Message as _;
        let folder = tempfile::tempdir().unwrap();
        let mut probe = probe(folder.path());
        if let Ok(message) = FromWorker::decode(&*bytes) {
            probe.on_message(message);
        }
    }
}
