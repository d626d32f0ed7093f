//! What needs no libvirtd: sockets that behave like a daemon in trouble, libvirt's own `test` driver, and the agent's end.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use kulprit_proto::worker::{
    AddTarget, ConnectionLost, Domains, GetDiskErrors, LostClass, Poll, Shutdown, from_worker::Body, to_worker::Request,
};

use crate::worker::{Worker, run_by_hand, socket, uri};

const SOON: Duration = Duration::from_secs(5);

fn worker_for(path: &Path) -> Worker {
    Worker::start(socket(path))
}

#[track_caller]
fn next_loss(worker: &mut Worker) -> ConnectionLost {
    worker.wait_for("connection loss", SOON, |body| match body {
        Body::ConnectionLost(lost) => Some(lost.clone()),
        _ => None,
    })
}

#[track_caller]
fn check_loss(worker: &mut Worker, want: LostClass) -> ConnectionLost {
    let lost = next_loss(worker);
    assert_eq!(lost.class(), want, "{lost:?}");
    lost
}

#[test]
fn a_daemon_that_was_never_started_has_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = worker_for(&dir.path().join("libvirt-sock"));
    let first = check_loss(&mut worker, LostClass::NoSocket);
    assert_eq!((first.attempt, first.retry_ms), (1, 1_000));
    assert_eq!(check_loss(&mut worker, LostClass::NoSocket).attempt, 2, "it tries again");
}

#[test]
fn a_daemon_that_ended_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    drop(UnixListener::bind(&socket).unwrap());
    check_loss(&mut worker_for(&socket), LostClass::Refused);
}

#[test]
fn a_daemon_that_accepts_and_is_silent_is_unanswered_within_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let mut worker = worker_for(&socket);
    let call = worker.wait_for("hung call", SOON, |body| match body {
        Body::Hung(hung) => Some(hung.call.clone()),
        _ => None,
    });
    assert_eq!(call, "virConnectOpen");
    let lost = check_loss(&mut worker, LostClass::Unanswered);
    assert_eq!(lost.retry_ms, 0, "it stays with this attempt: no second one hangs beside it");
}

#[test]
fn a_daemon_that_hangs_up_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || while listener.accept().is_ok() {});
    check_loss(&mut worker_for(&socket), LostClass::Closed);
}

#[test]
fn something_else_at_the_socket_is_a_protocol_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            // An answer: nonsense before a question only shows as a closed connection, at times.
            stream.read_exact(&mut [0; 4]).ok();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok();
            open.push(stream);
        }
    });
    check_loss(&mut worker_for(&socket), LostClass::Protocol);
}

#[test]
fn a_socket_without_permission_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = dir.path().join("libvirt-sock");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let as_nobody = |command: &mut Command| {
        // Root may do everything.
        if nix::unistd::geteuid().is_root() {
            command.uid(65_534);
        }
    };
    check_loss(&mut Worker::start_with(socket(&path), as_nobody), LostClass::Denied);
}

#[test]
fn domains_of_a_driver_without_daemon_are_told() {
    let mut worker = Worker::start(uri("test:///default"));
    let is_started =
        |body: &Body| matches!(body, Body::Started(started) if started.lib_version > 6_000_000).then_some(());
    worker.wait_for("start", SOON, is_started);
    let connected = worker.wait_for("connection", SOON, |body| match body {
        Body::Connected(connected) => Some(connected.clone()),
        _ => None,
    });
    assert_eq!(connected.hypervisor.as_deref(), Some("TEST"));
    let domains = wait_look(&mut worker);
    let [domain] = &domains.domains[..] else { panic!("not one domain: {domains:?}") };
    assert_eq!((domain.name.as_str(), domain.id, domain.state, domain.reason), ("test", Some(1), Some(1), Some(0)));
    assert_eq!(domain.persistent, Some(true));
    let uuid = domain.uuid.clone();
    let disks = worker.wait_for("disks", SOON, |body| match body {
        Body::Disks(disks) => Some(disks.clone()),
        _ => None,
    });
    assert_eq!((disks.uuid, disks.error), (uuid, None));
}

#[track_caller]
fn wait_look(worker: &mut Worker) -> Domains {
    worker.wait_for("look", SOON, |body| match body {
        Body::Domains(domains) => Some(domains.clone()),
        _ => None,
    })
}

#[test]
fn a_poll_is_answered_after_its_look() {
    let mut worker = Worker::start(AddTarget { look_ms: 3_600_000, ..uri("test:///default") });
    let first = wait_look(&mut worker).look;
    let request_id = worker.request(Request::Poll(Poll {}));
    assert_eq!(wait_look(&mut worker).look, first + 1);
    let reply = worker.wait_for("reply", SOON, |body| match body {
        Body::Reply(reply) => Some(reply.clone()),
        _ => None,
    });
    assert_eq!((reply.request_id, reply.error), (request_id, None));
}

#[test]
fn without_a_connection_a_request_is_declined() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = worker_for(&dir.path().join("libvirt-sock"));
    next_loss(&mut worker);
    for request in [Request::Poll(Poll {}), Request::GetDiskErrors(GetDiskErrors { uuid: "u-1".into() })] {
        let request_id = worker.request(request);
        let error = worker.wait_for("reply", SOON, |body| match body {
            Body::Reply(reply) if reply.request_id == request_id => Some(reply.error.clone()),
            _ => None,
        });
        assert_eq!(error.unwrap().text, "declined: not connected");
    }
}

#[test]
fn it_ends_when_asked_to() {
    let mut worker = Worker::start(uri("test:///default"));
    worker.request(Request::Shutdown(Shutdown {}));
    assert_eq!(worker.wait_exit(SOON).code(), Some(0));
}

#[test]
fn it_ends_with_the_agent_even_while_a_call_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("libvirt-sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let mut worker = worker_for(&socket);
    check_loss(&mut worker, LostClass::Unanswered);
    worker.hang_up();
    assert_eq!(worker.wait_exit(Duration::from_secs(1)).code(), Some(0));
}

#[test]
fn it_ends_at_a_frame_it_cannot_read() {
    for garbage in [&[0xff; 8][..], &[0, 0, 0, 2, 0xff, 0xff]] {
        let mut worker = Worker::start(uri("test:///default"));
        worker.send_raw(garbage);
        assert_eq!(worker.wait_exit(SOON).code(), Some(1), "{garbage:?}");
    }
}

#[test]
fn started_by_hand_it_says_who_starts_it() {
    let (status, text) = run_by_hand(&["--fd", "0"]);
    assert_eq!(status.code(), Some(2));
    assert!(text.contains("kulprit-agent starts this program") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_daemon_that_may_not_be_added_is_refused_with_the_reason() {
    let mut worker = Worker::start(uri("test:///default"));
    let mut check = |target: u64, added: AddTarget, want: &str| {
        let request_id = worker.request_of(target, Request::AddTarget(added));
        let (of, error) = worker.wait_for_of("refusal", SOON, |of, body| match body {
            Body::Reply(reply) if reply.request_id == request_id => Some((of, reply.error.clone().unwrap().text)),
            _ => None,
        });
        assert!(of == target && error.contains(want), "{of}: {error}");
    };
    check(2, uri("qemu+ssh://db-1/system"), "leads to another machine");
    check(1, uri("test:///default"), "the number was used before");
    let request_id = worker.request_of(7, Request::Poll(Poll {}));
    let error = worker.wait_for("refusal", SOON, |body| match body {
        Body::Reply(reply) if reply.request_id == request_id => reply.error.clone(),
        _ => None,
    });
    assert_eq!(error.text, "declined: no such daemon was added");
}

#[test]
fn daemons_that_accept_and_are_silent_delay_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: u64| dir.path().join(format!("sock-{n}"));
    let _silent: Vec<UnixListener> = (0..20).map(|n| UnixListener::bind(path(n)).unwrap()).collect();
    let mut worker = Worker::start(socket(&path(0)));
    for n in 1..20 {
        worker.add(socket(&path(n)));
    }
    let well = worker.add(AddTarget { look_ms: 200, ..uri("test:///default") });
    let mut unanswered = BTreeSet::new();
    worker.wait_for_of("all silent ones", Duration::from_secs(10), |target, body| {
        if let Body::ConnectionLost(lost) = body {
            assert!((1..=20).contains(&target) && lost.class() == LostClass::Unanswered, "{target}: {lost:?}");
            unanswered.insert(target);
        }
        (unanswered.len() == 20).then_some(())
    });
    let looks = worker.listen(Duration::from_secs(2));
    let n_looks = looks.iter().filter(|(of, body)| *of == well && matches!(body, Body::Domains(_))).count();
    assert!(n_looks >= 5, "{n_looks} looks in 2 s");
}

#[test]
fn a_daemon_that_was_removed_is_told_of_no_more_though_a_call_to_it_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libvirt-sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let mut worker = worker_for(&path);
    check_loss(&mut worker, LostClass::Unanswered);
    worker.remove(1);
    let well = worker.add(AddTarget { look_ms: 500, ..uri("test:///default") });
    worker.wait_for_of("connection", SOON, |of, body| (of == well && matches!(body, Body::Connected(_))).then_some(()));
    let told = worker.listen(Duration::from_secs(6));
    assert!(told.iter().all(|(of, _)| *of == well), "{told:?}");
    worker.remove(well);
    worker.listen(Duration::from_millis(200));
    let told = worker.listen(Duration::from_secs(1));
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn nothing_of_a_silent_daemons_folder_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libvirt-sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let mut worker = worker_for(&path);
    check_loss(&mut worker, LostClass::Unanswered);
    let open = std::fs::read_dir(format!("/proc/{}/fd", worker.pid())).unwrap();
    let links: Vec<_> = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(links.iter().all(|link| !link.starts_with(dir.path())), "{links:?}");
}
