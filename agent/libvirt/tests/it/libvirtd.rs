//! The worker with a real libvirtd and real QEMUs, and with faults of both.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use kulprit_proto::worker::{
    AddTarget, Connected, Disks, Domain, DomainEvent, GetDiskErrors, LostClass, domain_event::Event, from_worker::Body,
    to_worker::Request,
};

use crate::{
    daemon::{Daemon, Stopped, may_run},
    worker::{Worker, now, pause},
};

const SOON: Duration = Duration::from_secs(5);

const DOMAIN_RUNNING: i32 = 1;
const CONTROL_OCCUPIED: i32 = 2;
const EVENT_STOPPED: i32 = 5;
const STOPPED_DESTROYED: i32 = 1;
const OPERATION_MIGRATION_OUT: i32 = 5;
const JOB_UNBOUNDED: i32 = 2;

/// A worker for the daemon that looks every second.
fn worker_for(daemon: &Daemon) -> Worker {
    Worker::start(AddTarget { look_ms: 1_000, ..daemon.added() })
}

#[track_caller]
fn connected(worker: &mut Worker) -> Connected {
    worker.wait_for("connection", Duration::from_secs(15), |body| match body {
        Body::Connected(connected) => Some(connected.clone()),
        _ => None,
    })
}

/// The next look's one domain.
#[track_caller]
fn domain(worker: &mut Worker) -> Domain {
    worker.wait_for("look at one domain", SOON, |body| match body {
        Body::Domains(look) if look.domains.len() == 1 => Some(look.domains[0].clone()),
        _ => None,
    })
}

#[track_caller]
fn event<T>(worker: &mut Worker, what: &str, mut is_it: impl FnMut(&DomainEvent) -> Option<T>) -> T {
    worker.wait_for(what, SOON, |body| match body {
        Body::Event(event) => is_it(event),
        _ => None,
    })
}

#[track_caller]
fn disks(worker: &mut Worker) -> Disks {
    worker.wait_for("disks", SOON, |body| match body {
        Body::Disks(disks) => Some(disks.clone()),
        _ => None,
    })
}

#[track_caller]
fn loss(worker: &mut Worker, at_most: Duration) -> LostClass {
    worker.wait_for("connection loss", at_most, |body| match body {
        Body::ConnectionLost(lost) => Some(lost.class()),
        _ => None,
    })
}

#[test]
fn domains_disks_and_events_arrive() {
    if !may_run("domains_disks_and_events_arrive") {
        return;
    }
    let daemon = Daemon::start();
    let mut worker = worker_for(&daemon);
    let said = connected(&mut worker);
    assert_eq!((said.hypervisor.as_deref(), said.readonly, said.sees_powerdown), (Some("QEMU"), false, true));
    assert_eq!(said.missing_events, [] as [i32; 0]);
    assert!(said.daemon_version.is_some_and(|version| version > 6_000_000), "{said:?}");

    daemon.start_guest("db-0");
    // Defined, and then started, when it has an alias.
    let disk = worker.wait_for("disk with alias", SOON, |body| match body {
        Body::Disks(disks) => disks.disks.iter().find(|disk| disk.alias.is_some()).cloned(),
        _ => None,
    });
    let is = (disk.target.as_str(), disk.source.as_deref(), disk.alias.as_deref());
    assert_eq!(is, ("vda", Some("/var/lib/libvirt/images/db-0.img"), Some("virtio-disk0")));
    let guest = worker.wait_for("look at a running domain", SOON, |body| match body {
        Body::Domains(look) => look.domains.iter().find(|domain| domain.state == Some(DOMAIN_RUNNING)).cloned(),
        _ => None,
    });
    assert_eq!((guest.name.as_str(), guest.reason, guest.errors), ("db-0", Some(1), vec![]), "booted");
    assert_eq!((guest.persistent, guest.id), (Some(true), Some(1)));
    assert_eq!(guest.control.map(|control| control.state), Some(0), "ok");

    daemon.virsh(&["suspend", "db-0"]);
    let kind = |event: &DomainEvent| match &event.event {
        Some(Event::Lifecycle(lifecycle)) if event.name == "db-0" => Some((lifecycle.event, lifecycle.detail)),
        _ => None,
    };
    assert_eq!(event(&mut worker, "suspension", kind), (3, 0), "suspended: paused");
    let paused = worker.wait_for("look at a paused domain", SOON, |body| match body {
        Body::Domains(look) => look.domains.iter().find(|domain| domain.state == Some(3)).cloned(),
        _ => None,
    });
    assert_eq!(paused.reason, Some(1), "by user");
    let request_id = worker.request(Request::GetDiskErrors(GetDiskErrors { uuid: paused.uuid }));
    let reply = worker.wait_for("reply", SOON, |body| match body {
        Body::Reply(reply) => Some(reply.clone()),
        _ => None,
    });
    assert_eq!((reply.request_id, reply.error, reply.disk_errors), (request_id, None, vec![]));

    daemon.virsh(&["destroy", "db-0"]);
    let stopped = |event: &DomainEvent| kind(event).filter(|kind| kind.0 == EVENT_STOPPED);
    assert_eq!(event(&mut worker, "stop", stopped), (EVENT_STOPPED, STOPPED_DESTROYED));
}

#[test]
fn a_request_to_shut_down_is_seen() {
    if !may_run("a_request_to_shut_down_is_seen") {
        return;
    }
    let daemon = Daemon::start();
    daemon.start_guest("db-0");
    let mut worker = worker_for(&daemon);
    connected(&mut worker);
    daemon.virsh(&["shutdown", "db-0"]);
    let what = event(&mut worker, "powerdown", |event| match &event.event {
        Some(Event::QemuEvent(qemu)) => Some((event.name.clone(), qemu.event.clone())),
        _ => None,
    });
    assert_eq!(what, ("db-0".into(), "POWERDOWN".into()));
    assert_eq!(domain(&mut worker).state, Some(DOMAIN_RUNNING), "libvirt's state does not show it");
}

#[test]
fn a_read_only_connection_sees_all_but_requests_to_shut_down() {
    if !may_run("a_read_only_connection_sees_all_but_requests_to_shut_down") {
        return;
    }
    let daemon = Daemon::start();
    daemon.start_guest("db-0");
    let mut worker = Worker::start(AddTarget { look_ms: 1_000, readonly: true, ..daemon.added() });
    let said = connected(&mut worker);
    assert_eq!((said.readonly, said.sees_powerdown, said.missing_events), (true, false, vec![]));
    let guest = domain(&mut worker);
    assert_eq!((guest.state, guest.errors), (Some(DOMAIN_RUNNING), vec![]));
    assert_eq!(guest.control.map(|control| control.state), Some(0));
    assert_eq!(disks(&mut worker).disks.len(), 1);
    daemon.virsh(&["destroy", "db-0"]);
    event(&mut worker, "stop", |event| match &event.event {
        Some(Event::Lifecycle(lifecycle)) if lifecycle.event == EVENT_STOPPED => Some(()),
        _ => None,
    });
}

#[test]
fn a_stopped_daemon_is_hung_within_five_seconds_and_comes_back() {
    if !may_run("a_stopped_daemon_is_hung_within_five_seconds_and_comes_back") {
        return;
    }
    let daemon = Daemon::start();
    // As the agent starts it: with its own times.
    let mut worker = Worker::start(daemon.added());
    connected(&mut worker);
    let (stopped, began) = (Stopped::stop(daemon.pid()), now());
    let call = worker.wait_for("hung call", SOON, |body| match body {
        Body::Hung(hung) => Some((hung.call.clone(), hung.domain.clone())),
        _ => None,
    });
    println!("a stopped daemon was reported hung after {:?}, in {call:?}", now() - began);
    assert_eq!(call.1, None, "the daemon hangs, not a domain");

    // The keepalive ends the call, and the next attempt to connect is not answered.
    assert_eq!(loss(&mut worker, Duration::from_secs(15)), LostClass::Keepalive);
    println!("the connection was given up after {:?}", now() - began);
    assert_eq!(loss(&mut worker, SOON), LostClass::Unanswered);
    drop(stopped);
    let mut has_ended = false;
    worker.wait_for("connection", SOON, |body| {
        has_ended |= matches!(body, Body::HungEnded(_));
        matches!(body, Body::Connected(_)).then_some(())
    });
    assert!(has_ended, "the call that hung has returned");
}

#[test]
fn a_daemon_that_ends_is_refused_and_found_again() {
    if !may_run("a_daemon_that_ends_is_refused_and_found_again") {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.start_guest("db-0");
    let mut worker = worker_for(&daemon);
    connected(&mut worker);
    let uuid = domain(&mut worker).uuid;
    for _ in 0..2 {
        daemon.stop();
        assert_eq!(loss(&mut worker, SOON), LostClass::Closed);
        let class = loss(&mut worker, SOON);
        assert!(matches!(class, LostClass::Refused | LostClass::NoSocket), "{class:?}");
        daemon.restart();
        connected(&mut worker);
        assert_eq!(domain(&mut worker).uuid, uuid);
        assert_eq!(disks(&mut worker).disks.len(), 1);
    }
}

#[test]
fn a_stopped_qemu_shows_as_occupied_and_looks_do_no_harm() {
    if !may_run("a_stopped_qemu_shows_as_occupied_and_looks_do_no_harm") {
        return;
    }
    let daemon = Daemon::start();
    daemon.start_guest("db-0");
    let mut worker = worker_for(&daemon);
    connected(&mut worker);
    disks(&mut worker);
    let stopped = Stopped::stop(daemon.qemu("db-0"));

    // Nobody asks: three looks later the domain is still free for whoever wants it.
    for _ in 0..3 {
        assert_eq!(domain(&mut worker).control.map(|control| control.state), Some(0), "our looks hold no job");
    }

    // Somebody asks QEMU something.
    let mut users = daemon.virsh_command(&["domblkinfo", "db-0", "vda"]);
    let mut users = users.stdout(Stdio::null()).spawn().unwrap();
    let mut last_ms = 0;
    let mut n_occupied = 0;
    let (guest, age_ms) = worker.wait_for("occupied domain with growing age", SOON, |body| {
        let Body::Domains(look) = body else { return None };
        let guest = look.domains.first()?;
        let control = guest.control.filter(|control| control.state == CONTROL_OCCUPIED)?;
        n_occupied += 1;
        assert!(control.state_ms >= last_ms, "{} after {last_ms} ms", control.state_ms);
        last_ms = control.state_ms;
        (control.state_ms >= 2_000).then(|| (guest.clone(), control.state_ms))
    });
    assert!(n_occupied >= 2 && age_ms < 10_000, "{n_occupied} looks, {age_ms} ms");
    assert_eq!((guest.state, guest.errors), (Some(DOMAIN_RUNNING), vec![]), "all that libvirt's state says");

    // An active query is declined: it would queue behind.
    let request_id = worker.request(Request::GetDiskErrors(GetDiskErrors { uuid: guest.uuid }));
    let error = worker.wait_for("reply", SOON, |body| match body {
        Body::Reply(reply) if reply.request_id == request_id => reply.error.clone(),
        _ => None,
    });
    assert_eq!(error.text, "declined: the domain is occupied");
    let told = worker.listen(Duration::from_secs(2));
    assert!(!told.iter().any(|(_, body)| matches!(body, Body::Hung(_))), "no call of ours waits: {told:?}");

    drop(stopped);
    assert!(users.wait().unwrap().success(), "the user's call went through");
    worker.wait_for("free domain", SOON, |body| match body {
        Body::Domains(look) => look.domains.first()?.control.filter(|control| control.state == 0).map(|_| ()),
        _ => None,
    });
}

#[test]
fn looking_on_while_a_qemu_is_stopped_fails_no_call_of_a_user() {
    if !may_run("looking_on_while_a_qemu_is_stopped_fails_no_call_of_a_user") {
        return;
    }
    let daemon = Daemon::start();
    daemon.start_guest("db-0");
    let mut worker = worker_for(&daemon);
    connected(&mut worker);
    disks(&mut worker);
    let stopped = Stopped::stop(daemon.qemu("db-0"));
    let looks = worker.listen(Duration::from_secs(3));
    assert!(looks.iter().filter(|(_, body)| matches!(body, Body::Domains(_))).count() >= 2, "{looks:?}");
    drop(stopped);
    // Takes the job that changes things; were it ours, this would wait for 30 s.
    let began = now();
    daemon.virsh(&["setvcpus", "db-0", "1", "--live"]);
    assert!(now() - began < Duration::from_secs(2), "{:?}", now() - began);
}

#[test]
fn a_migration_tells_its_rounds_and_its_end() {
    if !may_run("a_migration_tells_its_rounds_and_its_end") {
        return;
    }
    let source = Daemon::start();
    let target = Daemon::start_beside(&source);
    source.start_guest("db-0");
    target.create_image("db-0");
    let mut worker = worker_for(&source);
    connected(&mut worker);
    disks(&mut worker);
    let mut at_target = worker_for(&target);
    connected(&mut at_target);

    source.virsh(&["migrate", "--live", "--p2p", "--unsafe", "db-0", &target.tcp_uri(), "tcp://127.0.0.1"]);
    event(&mut worker, "first round", |event| match &event.event {
        Some(Event::MigrationIteration(round)) if round.iteration == 1 => Some(()),
        _ => None,
    });
    let at_round = worker.wait_for("figures of a round", SOON, |body| match body {
        Body::JobStats(stats) => stats.job.clone(),
        _ => None,
    });
    assert_eq!((at_round.r#type, at_round.operation), (JOB_UNBOUNDED, Some(OPERATION_MIGRATION_OUT)), "{at_round:?}");
    assert!(at_round.memory_remaining_bytes.is_some(), "{at_round:?}");
    let job = event(&mut worker, "end of the job", |event| match &event.event {
        Some(Event::JobCompleted(done)) => done.job.clone(),
        _ => None,
    });
    assert_eq!((job.operation, job.error.as_deref()), (Some(OPERATION_MIGRATION_OUT), None), "{job:?}");
    assert!(job.memory_total_bytes.is_some_and(|bytes| bytes > 0) && job.time_elapsed_ms.is_some(), "{job:?}");
    let moved = worker.wait_for("stopped domain", SOON, |body| match body {
        Body::Domains(look) => look.domains.iter().find(|domain| domain.id.is_none()).cloned(),
        _ => None,
    });
    assert_eq!((moved.state, moved.reason), (Some(5), Some(4)), "shut off: migrated");
    let arrived = at_target.wait_for("running domain", SOON, |body| match body {
        Body::Domains(look) => look.domains.iter().find(|domain| domain.state == Some(DOMAIN_RUNNING)).cloned(),
        _ => None,
    });
    assert_eq!((arrived.uuid, arrived.persistent), (moved.uuid, Some(false)));
}

#[test]
fn the_worker_stays_small() {
    if !may_run("the_worker_stays_small") {
        return;
    }
    let daemon = Daemon::start();
    daemon.start_guest("db-0");
    let mut worker = worker_for(&daemon);
    connected(&mut worker);
    disks(&mut worker);
    pause(Duration::from_secs(3));
    // A debug build; agent and worker together may have 24 MB.
    assert!(resident_kib(&worker) < 24_000);
}

/// Memory of the worker, KiB; says what of it is its own.
fn resident_kib(worker: &Worker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (resident, anonymous, threads) = (number("VmRSS:"), number("RssAnon:"), number("Threads:"));
    println!("worker: {resident} KiB resident, of which {anonymous} anonymous; {threads} threads");
    resident
}

/// Time on processors of the worker so far.
fn processor_time(worker: &Worker) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_hundred_connections_stay_small_and_one_that_hangs_delays_none() {
    if !may_run("a_hundred_connections_stay_small_and_one_that_hangs_delays_none") {
        return;
    }
    let (daemon, other) = (Daemon::start(), Daemon::start());
    daemon.start_guest("db-0");
    // As the agent adds launchers.
    let as_launcher = |daemon: &Daemon| AddTarget { look_ms: 10_000, heartbeat_ms: 3_000, ..daemon.added() };
    let mut worker = Worker::start(as_launcher(&other));
    for _ in 0..100 {
        worker.add(as_launcher(&daemon));
    }
    let mut connected = BTreeSet::new();
    worker.wait_for_of("a hundred connections", Duration::from_secs(60), |target, body| {
        connected.extend(matches!(body, Body::Connected(_)).then_some(target));
        (connected.len() == 101).then_some(())
    });
    worker.listen(Duration::from_secs(12));
    let before = processor_time(&worker);
    let told = worker.listen(Duration::from_secs(30));
    let spent = processor_time(&worker) - before;
    println!("100 connections: {spent:?} of processor time in 30 s, {} messages", told.len());
    assert!(resident_kib(&worker) < 40_000);

    let _stopped = Stopped::stop(other.pid());
    let told = worker.listen(Duration::from_secs(12));
    let hung: BTreeSet<u64> =
        told.iter().filter(|(_, body)| matches!(body, Body::Hung(_))).map(|(target, _)| *target).collect();
    assert_eq!(hung, BTreeSet::from([1]), "only the one that hangs");
    let looked: BTreeSet<u64> =
        told.iter().filter(|(_, body)| matches!(body, Body::Domains(_))).map(|(target, _)| *target).collect();
    assert!((2..=101).all(|target| looked.contains(&target)), "{looked:?}");
}
