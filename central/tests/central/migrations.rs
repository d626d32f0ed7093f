//! A migration between two plain hosts, told by the agents of both: one symptom, one answer, whichever node is asked.

use kulprit_model::{
    Attributes, Body, Domain, FindingCode, Moment, Occurrence, Qemu, Status, Subject,
    attribute::{RAN_SECS, WHAT},
};
use kulprit_proto::v1;

use crate::{
    agent::{Agent, hello, state},
    app::App,
};

const UID: &str = "00000000-0000-4000-8000-00000000000a";

fn secs_before(at: Moment, secs: i64) -> Moment {
    at.offset_usec(-secs * 1_000_000)
}

/// The domain `db-0` in a state of libvirt's, and its QEMU.
fn guest(shown: i32, reason: i32, pid: u32, since: Moment) -> [Body; 2] {
    let (uid, name) = (UID.to_owned(), "db-0".to_owned());
    let domain = Domain { uid: uid.clone(), name: name.clone(), state: shown, reason, since, is_persistent: false };
    let qemu = Qemu { uid, name: Some(name), pid, start_ticks: 100, since, disks: Vec::new() };
    [Body::Domain(domain), Body::Qemu(qemu)]
}

fn of_vm(code: FindingCode, status: Status, at: Moment) -> Body {
    state(code, Subject::vm(UID), status, at)
}

/// `db-0` runs on `n1`, and has migrated to `n2` for so many seconds.
async fn two_ends(app: &App, for_secs: i64) -> (Agent, Agent) {
    let now = app.now();
    let began = secs_before(now, for_secs);
    let mut source = app.agent(1).await;
    let mut bodies = guest(1, 1, 7, secs_before(now, 3_600)).to_vec();
    bodies.push(of_vm(FindingCode::MigrationOutgoing, Status::Present, began));
    bodies.push(of_vm(FindingCode::MigrationProgressing, Status::Present, began));
    source.snapshot(bodies, now).await;
    source.acked(4).await;
    let mut target = Agent::connect(app.grpc(), hello("n2", 1, now)).await;
    let mut bodies = guest(3, 2, 9, began).to_vec();
    bodies.push(of_vm(FindingCode::MigrationIncoming, Status::Present, began));
    target.snapshot(bodies, now).await;
    target.acked(3).await;
    (source, target)
}

/// What central says of `db-0`, asked by its name alone.
async fn why(app: &App) -> v1::Verdict {
    let vm = v1::ExplainVmRequest { vm: "db-0".to_owned(), node: String::new() };
    let mut verdicts = app.query.clone().explain_vm(vm).await.unwrap().into_inner().verdicts;
    assert_eq!(verdicts.len(), 1);
    verdicts.remove(0)
}

/// What central says of everything in trouble.
async fn verdicts(app: &App) -> Vec<v1::Verdict> {
    app.query.clone().list_verdicts(v1::ListVerdictsRequest::default()).await.unwrap().into_inner().verdicts
}

fn node_of(verdict: &v1::Verdict) -> &str {
    verdict.subject.as_ref().map_or("", |subject| subject.node.as_str())
}

#[track_caller]
fn check(verdict: &v1::Verdict, symptom: &str, cause: &str, role: &str) {
    let first = &verdict.causes[0];
    let got = (verdict.symptom.as_str(), first.id.as_str(), first.role.as_str());
    assert_eq!(got, (symptom, cause, role), "{verdict:#?}");
}

#[tokio::test]
async fn a_migration_that_comes_on_is_nobodys_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let _agents = two_ends(&app, 600).await;
    let verdict = why(&app).await;
    assert_eq!((verdict.symptom.as_str(), node_of(&verdict)), ("Unspecified", "n1"));
    assert_eq!(verdicts(&app).await, []);
    app.stop().await;
}

#[tokio::test]
async fn a_migration_that_copies_nothing_is_the_path_and_its_end_a_failure_that_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let (mut source, mut target) = two_ends(&app, 25).await;
    let now = app.now();
    source.say(of_vm(FindingCode::MigrationProgressing, Status::Unknown, now), now).await;
    let seq = source.say(of_vm(FindingCode::MigrationNoBytes, Status::Present, secs_before(now, 25)), now).await;
    source.acked(seq).await;
    let verdict = why(&app).await;
    check(&verdict, "StuckMigrating", "MigrationPathUnreachable", "path");
    assert_eq!(node_of(&verdict), "n1");
    let incident = app.wait_for_open_incidents(1).await.remove(0);
    assert_eq!((incident.cause.as_str(), incident.place.as_str()), ("MigrationPathUnreachable", "path/n1/n2"));

    // It is given up: the target's QEMU goes, the VM stays.
    let gone = Body::SubjectGone { subject: Subject::vm(UID), at: now };
    let seq = target.say(gone, now).await;
    target.acked(seq).await;
    for code in [FindingCode::MigrationOutgoing, FindingCode::MigrationNoBytes, FindingCode::MigrationProgressing] {
        source.say(of_vm(code, Status::Absent, now), now).await;
    }
    let ended = Body::Occurrence(Occurrence {
        code: FindingCode::MigrationNotCompleted,
        subject: Subject::vm(UID),
        first: now,
        last: now,
        count: 1,
        attributes: Attributes::new().with(WHAT, "no-bytes").with(RAN_SECS, 26),
        evidence: Vec::new(),
    });
    let seq = source.say(ended, now).await;
    source.acked(seq).await;
    let verdict = why(&app).await;
    check(&verdict, "MigrationFailed", "MigrationPathUnreachable", "path");
    assert!(verdict.symptom_text.contains("migration to n2 ended"), "{}", verdict.symptom_text);
    app.stop().await;
}

#[tokio::test]
async fn what_stops_a_migration_on_its_target_is_named_there() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let (mut source, mut target) = two_ends(&app, 60).await;
    let now = app.now();
    let seq = source.say(of_vm(FindingCode::MigrationProgressing, Status::Absent, secs_before(now, 40)), now).await;
    source.acked(seq).await;
    let seq = target.say(of_vm(FindingCode::QemuStopped, Status::Present, secs_before(now, 40)), now).await;
    target.acked(seq).await;
    let all = verdicts(&app).await;
    let stuck: Vec<_> = all.iter().filter(|verdict| verdict.symptom == "StuckMigrating").collect();
    assert_eq!(stuck.len(), 1, "{all:#?}");
    check(stuck[0], "StuckMigrating", "QemuMonitorHung", "target");
    assert_eq!(stuck[0].causes[0].node, "n2");
    app.stop().await;
}
