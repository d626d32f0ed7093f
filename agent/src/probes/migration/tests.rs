//! The probe against files as libvirt writes them, and a libvirt that tells what a test says.

use std::path::Path;

use kulprit_model::Status::{self, Absent, Present, Unknown};
use kulprit_model::{FindingCode, Subject};
use kulprit_proto::worker;

use super::*;
use crate::probes::testing::Probe;
use crate::probes::{Launcher, Launchers};

const UID: &str = "466ecca2-0000-466d-9c58-6ec48c95cccc";

/// A root with libvirt's folder.
fn host() -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("run/libvirt/qemu/run")).unwrap();
    let root = HostRoot::new(dir.path());
    (dir, root)
}

fn write(root: &Path, path: &str, job: &str) {
    let text = format!(
        "<domstatus state='running' reason='booted' pid='7'>\n{job}\n<domain type='kvm' id='3'>\n<name>hot</name>\n<uuid>{UID}</uuid>\n"
    );
    std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
    std::fs::write(root.join("new"), text).unwrap();
    std::fs::rename(root.join("new"), root.join(path)).unwrap();
}

const FILE: &str = "run/libvirt/qemu/hot.xml";
const OUT: &str =
    "<job type='none' async='migration out' phase='perform3' flags='0x203' asyncStarted='1795270099875'/>";
const IN: &str = "<job type='none' async='migration in' phase='prepare' flags='0x203' asyncStarted='1795270099910'/>";

fn status(look: &Look, uid: &str, code: FindingCode) -> Option<Status> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code && state.subject == Subject::vm(uid) => Some(state.status),
        _ => None,
    })
}

#[track_caller]
fn check(look: &Look, uid: &str, outgoing: Status, incoming: Status, dirtying: Status) {
    let of = |code| status(look, uid, code);
    assert_eq!(look.blind_because, None);
    assert_eq!(
        [FindingCode::MigrationOutgoing, FindingCode::MigrationIncoming, FindingCode::MigrationDirtying].map(of),
        [outgoing, incoming, dirtying].map(Some),
        "{look:?}"
    );
}

#[tokio::test]
async fn a_host_without_libvirt_has_no_migrations_and_is_no_blindness() {
    let dir = tempfile::tempdir().unwrap();
    let look = Probe::once(&SPEC, HostRoot::new(dir.path())).await;
    assert_eq!((look.verdicts.len(), look.blind_because), (0, None));
}

#[tokio::test]
async fn what_libvirts_file_says_is_told_at_the_first_look() {
    for (job, outgoing, incoming, dirtying) in
        [("", Absent, Absent, Absent), (OUT, Present, Absent, Unknown), (IN, Absent, Present, Absent)]
    {
        let (dir, root) = host();
        write(dir.path(), FILE, job);
        check(&Probe::once(&SPEC, root).await, UID, outgoing, incoming, dirtying);
    }
    let (dir, root) = host();
    write(dir.path(), FILE, "<job type='none' async='save' phase='none'/>");
    check(&Probe::once(&SPEC, root).await, UID, Absent, Absent, Absent);
}

#[tokio::test]
async fn garbage_and_a_file_that_is_none_cost_only_themselves() {
    let (dir, root) = host();
    write(dir.path(), FILE, OUT);
    std::fs::write(dir.path().join("run/libvirt/qemu/x.xml"), [0xff, 0, 9]).unwrap();
    std::fs::create_dir(dir.path().join("run/libvirt/qemu/y.xml")).unwrap();
    check(&Probe::once(&SPEC, root).await, UID, Present, Absent, Unknown);
}

#[tokio::test]
async fn a_folder_that_is_none_is_a_blindness_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("run/libvirt")).unwrap();
    std::os::unix::fs::symlink("qemu", dir.path().join("run/libvirt/qemu")).unwrap();
    let look = Probe::once(&SPEC, HostRoot::new(dir.path())).await;
    assert!(look.blind_because.as_deref().is_some_and(|why| why.contains("run/libvirt/qemu")), "{look:?}");
}

#[tokio::test]
async fn a_launchers_migration_is_its_vmis() {
    let (dir, root) = host();
    write(dir.path(), "proc/12/root/run/libvirt/qemu/run/prod_db-0.xml", OUT);
    let procfs = dir.path().join("proc");
    let rows = vec![
        Launcher { vmi_uid: "vmi".to_owned(), pid: 12, ..Launcher::default() },
        Launcher { vmi_uid: "ended".to_owned(), pid: 13, ..Launcher::default() },
    ];
    let look = Probe::once_with(&SPEC, root, |context| {
        let mut config = (*context.config).clone();
        config.procfs = procfs;
        context.config = config.into();
        context.launchers.send_replace(Launchers { rows }.into());
    })
    .await;
    check(&look, "vmi", Present, Absent, Unknown);
    assert_eq!(status(&look, "ended", FindingCode::MigrationOutgoing), None);
}

/// Figures at the begin of a round of a guest that dirties as much as is copied.
fn figures(round: u64) -> worker::JobStats {
    let job = worker::Job {
        r#type: 2,
        operation: Some(5),
        time_elapsed_ms: Some(round * 4_000),
        data_total_bytes: Some(256 << 20),
        data_processed_bytes: Some((round - 1) * (100 << 20)),
        data_remaining_bytes: Some(100 << 20),
        memory_iteration: Some(round),
        ..worker::Job::default()
    };
    worker::JobStats { job: Some(job), at_round_start: true, ..worker::JobStats::default() }
}

#[tokio::test]
async fn rounds_end_and_failure_are_told_as_libvirt_tells_them() {
    let (dir, root) = host();
    write(dir.path(), FILE, OUT);
    let mut probe = Probe::start(&SPEC, root);
    check(&probe.look().await, UID, Present, Absent, Unknown);
    let now = kulprit_daemon::Clock::kernel().now();
    for (round, ago_secs) in [(1, 8), (2, 4), (3, 0)] {
        probe.vms.migrations.note_job(now.offset_usec(-ago_secs * 1_000_000), UID, &figures(round));
    }
    probe.look_until(|look| status(look, UID, FindingCode::MigrationDirtying) == Some(Present)).await;
    // The job ends, and the domain stays.
    write(dir.path(), FILE, "");
    let happened = |look: &Look| {
        look.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Occurrence(occurrence) => Some(occurrence.clone()),
            Verdict::State(_) => None,
        })
    };
    let over = happened(&probe.look_until(|look| happened(look).is_some()).await).unwrap();
    assert_eq!(over.code, FindingCode::MigrationNotCompleted);
    assert_eq!(over.attributes.get(kulprit_model::attribute::WHAT), Some("dirtying"));
    probe.stop().await;
}

#[tokio::test]
async fn only_a_qemu_that_runs_is_asked_for_figures() {
    let (dir, root) = host();
    write(dir.path(), FILE, OUT);
    let vms = std::sync::Arc::new(crate::probes::VmIndex::new());
    // This very process stands for the QEMU: it runs.
    vms.insert(std::process::id(), 1, UID);
    let given = std::sync::Arc::clone(&vms);
    let mut probe = Probe::start_with(&SPEC, root, |context| context.vms = given);
    probe.look().await;
    assert_eq!(vms.migrations.wishes().await.into_iter().collect::<Vec<_>>(), [UID]);
    probe.stop().await;
}

/// Four changes would take three beats.
#[tokio::test]
async fn what_libvirt_writes_is_looked_at_when_it_writes() {
    let (dir, root) = host();
    write(dir.path(), FILE, "");
    let mut probe = Probe::start(&SPEC, root);
    let began = Instant::now();
    for (job, want) in [("", Absent), (OUT, Present), ("", Absent), (OUT, Present)] {
        write(dir.path(), FILE, job);
        probe.look_until(|look| status(look, UID, FindingCode::MigrationOutgoing) == Some(want)).await;
    }
    assert!(began.elapsed() < 2 * CALM_EVERY, "{:?}", began.elapsed());
}
