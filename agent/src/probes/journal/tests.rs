//! A real journald's files below a root: what is said of them, once, and when they cannot be read.

use std::path::PathBuf;

use kulprit_daemon::config::HumanDuration;
use kulprit_host::HostRoot;
use kulprit_model::attribute;

use super::*;
use crate::look::Look;
use crate::probes::ProbeConfig;
use crate::probes::testing::{MACHINE, Probe, put_journal};

/// A host with journal files.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/machine-id"), format!("{MACHINE}\n")).unwrap();
        Self { dir }
    }

    fn folder(&self) -> PathBuf {
        let folder = self.dir.path().join("var/log/journal").join(MACHINE);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Puts a recorded file there, as the one that journald writes to.
    fn put(&self, fixture: &str) {
        put_journal(self.dir.path(), fixture);
    }

    fn root(&self) -> HostRoot {
        HostRoot::new(self.dir.path())
    }
}

/// The fixtures are of 2026.
fn all_of_it(context: &mut ProbeContext) {
    let config = ProbeConfig {
        log_look_back: HumanDuration::from_mins(60 * 24 * 365 * 50),
        log_every: HumanDuration::from_millis(20),
        ..ProbeConfig::default()
    };
    context.config = Arc::new(config);
}

/// (operation, class, count) of what was said, in the order of the words.
fn said(look: &Look) -> Vec<(String, String, u64)> {
    let mut rows = std::collections::BTreeMap::new();
    for verdict in &look.verdicts {
        let Verdict::Occurrence(occurrence) = verdict else { panic!("{verdict:?}") };
        let word = |key| occurrence.attributes.get(key).unwrap_or_default().to_owned();
        if occurrence.code == FindingCode::ErrorSaid {
            *rows.entry((word(attribute::OPERATION), word(attribute::CLASS))).or_insert(0) += occurrence.count;
        }
    }
    rows.into_iter().map(|((operation, class), count)| (operation, class, count)).collect()
}

fn row(operation: &str, class: &str, count: u64) -> (String, String, u64) {
    (operation.to_owned(), class.to_owned(), count)
}

fn rows_of_a_fixture() -> [(String, String, u64); 3] {
    [row("create-sandbox", "timeout", 3), row("list-pods", "timeout", 3), row("pull", "name", 3)]
}

#[tokio::test]
async fn what_kubelet_and_runtime_write_is_said_with_its_count() {
    for fixture in ["compact-zstd", "regular-plain"] {
        let host = Host::new();
        host.put(fixture);
        let look = Probe::once_with(&SPEC, host.root(), all_of_it).await;
        assert_eq!(look.blind_because, None);
        assert_eq!(said(&look), rows_of_a_fixture(), "{fixture}");
        let sandbox = look.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Occurrence(one) if one.attributes.get(attribute::OPERATION) == Some("create-sandbox") => Some(one),
            _ => None,
        });
        let sandbox = sandbox.unwrap();
        assert_eq!(sandbox.subject, Subject::Node);
        assert_eq!(sandbox.attributes.get(attribute::POD), Some("prod/virt-launcher-db-0-x7k2p"));
        assert_eq!(sandbox.evidence[0].source, "kubelet.service");
        assert!(look.position.is_some());
    }
}

#[tokio::test]
async fn a_restart_says_nothing_twice() {
    let host = Host::new();
    host.put("compact-zstd");
    let first = Probe::once_with(&SPEC, host.root(), all_of_it).await;
    let again = Probe::once_with(&SPEC, host.root(), |context| {
        all_of_it(context);
        context.start_at = first.position.clone();
    });
    assert_eq!(said(&again.await), []);
}

#[tokio::test]
async fn the_first_start_looks_back_15_minutes_only() {
    let host = Host::new();
    host.put("compact-zstd");
    // The clock of the test is that of the machine, hours or years after the fixture.
    let look = Probe::once_with(&SPEC, host.root(), |context| {
        let config = ProbeConfig { log_look_back: HumanDuration::from_secs(0), ..ProbeConfig::default() };
        context.config = Arc::new(config);
    });
    assert_eq!(said(&look.await), []);
}

#[tokio::test]
async fn a_rotated_journal_is_followed_while_it_runs() {
    let host = Host::new();
    host.put("rotated-archived");
    let mut probe = Probe::start_with(&SPEC, host.root(), all_of_it);
    assert_eq!(said(&probe.look().await), rows_of_a_fixture());
    let folder = host.folder();
    std::fs::rename(folder.join("system.journal"), folder.join("system@1-2-3.journal")).unwrap();
    host.put("rotated-active");
    let look = probe.look_until(|look| !look.verdicts.is_empty()).await;
    assert_eq!(said(&look), rows_of_a_fixture());
    probe.stop().await;
}

#[tokio::test]
async fn without_a_journal_it_is_blind_and_says_why_and_sees_one_that_comes() {
    let host = Host::new();
    let mut probe = Probe::start_with(&SPEC, host.root(), all_of_it);
    let because = probe.look().await.blind_because.unwrap();
    assert!(because.contains("run/log/journal") && because.contains("does not exist"), "{because}");
    host.put("compact-zstd");
    let look = probe.look_until(|look| look.blind_because.is_none()).await;
    assert_eq!(said(&look), rows_of_a_fixture());
    probe.stop().await;
}

#[tokio::test]
async fn garbage_in_place_of_a_journal_makes_it_blind() {
    let host = Host::new();
    std::fs::write(host.folder().join("system.journal"), vec![7; 5_000]).unwrap();
    let because = Probe::once_with(&SPEC, host.root(), all_of_it).await.blind_because.unwrap();
    assert!(because.contains("system.journal") && because.contains("no header of a journal"), "{because}");
    std::fs::remove_file(host.folder().join("system.journal")).unwrap();
    std::fs::create_dir(host.folder().join("system.journal")).unwrap();
    assert!(Probe::once_with(&SPEC, host.root(), all_of_it).await.blind_because.is_some(), "a folder is none");
}

#[tokio::test]
async fn what_is_broken_inside_is_counted_and_the_rest_read() {
    let host = Host::new();
    host.put("compact-zstd");
    let path = host.folder().join("system.journal");
    let mut bytes = std::fs::read(&path).unwrap();
    // Payloads in the middle of the file become noise: zstd frames that cannot be unpacked.
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let frame = bytes.windows(4).position(|window| window == magic).unwrap();
    bytes[frame..frame + 12].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let look = Probe::once_with(&SPEC, host.root(), all_of_it).await;
    let lost = look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Occurrence(one) if one.code == FindingCode::JournalLost => Some(one),
        _ => None,
    });
    assert!(lost.unwrap().evidence[0].text.contains("broken"), "{lost:?}");
    assert!(said(&look).contains(&row("list-pods", "timeout", 3)), "the rest is read");
}
