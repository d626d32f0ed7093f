//! Rule files and plugins as operators have them, over a host of the test's own.

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use kulprit_model::Status::{Absent, Present, Unknown};
use tempfile::TempDir;

use super::*;
use crate::{
    look::Look,
    probes::testing::{Probe, put_journal, status_of},
};

/// A host with one rule file that follows `var/log/app.log`.
fn host() -> (TempDir, PathBuf) {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("var/log")).unwrap();
    std::fs::write(host.path().join("var/log/app.log"), "Nov 21 10:00:00 node app: broken before\n").unwrap();
    let file = host.path().join("rules.json");
    let rules = r#"{"plugin": "filelog", "logPath": "/var/log/app.log", "source": "app-monitor",
        "pluginConfig": {"timestamp": "^.{15}", "message": "app: (.*)", "timestampFormat": "Jan _2 15:04:05"},
        "conditions": [{"type": "AppBroken", "reason": "AppWorks", "message": "app works"}],
        "rules": [
            {"type": "permanent", "condition": "AppBroken", "reason": "AppIsBroken", "pattern": "broken .*"},
            {"type": "temporary", "reason": "AppWarned", "pattern": "warning: .*", "patternGeneratedMessageSuffix": "see the wiki"}
        ]}"#;
    std::fs::write(&file, rules).unwrap();
    (host, file)
}

fn write(host: &TempDir, line: &str) {
    let mut log = std::fs::File::options().append(true).open(host.path().join("var/log/app.log")).unwrap();
    writeln!(log, "Nov 21 10:00:01 node app: {line}").unwrap();
}

fn start(host: &Path, file: &Path, start_at: Option<String>) -> Probe {
    let files = vec![file.to_owned()];
    Probe::start_with(&SPEC, HostRoot::new(host), |context| {
        context.config = Arc::new(ProbeConfig { npd_files: files, ..ProbeConfig::default() });
        context.start_at = start_at;
    })
}

fn condition(look: &Look) -> Option<kulprit_model::Status> {
    status_of(look, FindingCode::ProblemCondition)
}

fn event(look: &Look) -> Option<&OccurrenceVerdict> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Occurrence(event) if event.code == FindingCode::ProblemEvent => Some(event),
        Verdict::Occurrence(_) | Verdict::State(_) => None,
    })
}

#[tokio::test]
async fn a_permanent_rule_sets_its_condition_and_a_temporary_one_is_an_event() {
    let (host, file) = host();
    let mut probe = start(host.path(), &file, None);
    assert_eq!(condition(&probe.look().await), Some(Absent), "what stood there before the first start does not count");
    write(&host, "warning: slow");
    let look = probe.look_until(|look| event(look).is_some()).await;
    let said = event(&look).unwrap();
    assert_eq!(said.subject, Subject::Problem { name: "AppWarned".to_owned() });
    assert_eq!((&*said.evidence[0].source, &*said.evidence[0].text), ("app-monitor", "warning: slow; see the wiki"));
    write(&host, "broken again");
    let look = probe.look_until(|look| condition(look) == Some(Present)).await;
    probe.stop().await;
    let mut again = start(host.path(), &file, look.position);
    assert_eq!(condition(&again.look().await), Some(Present), "a restart changes no condition");
    again.stop().await;
}

#[tokio::test]
async fn a_log_that_is_not_there_is_unknown() {
    let (host, file) = host();
    std::fs::remove_file(host.path().join("var/log/app.log")).unwrap();
    let mut probe = start(host.path(), &file, None);
    assert_eq!(condition(&probe.look().await), Some(Unknown));
    probe.stop().await;
}

#[tokio::test]
async fn a_log_that_fails_after_it_was_opened_is_unknown_alone() {
    let (host, file) = host();
    let mut probe = start(host.path(), &file, None);
    assert_eq!(condition(&probe.look().await), Some(Absent));
    // A folder in its place opens, and cannot be read.
    let log = host.path().join("var/log/app.log");
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    let look = probe.look_until(|look| condition(look) != Some(Absent)).await;
    let said: Vec<_> = look
        .verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::State(state) => state.status,
            Verdict::Occurrence(event) => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(said, [Unknown]);
    probe.stop().await;
}

/// A host whose journal is a recorded one, with one rule file.
fn host_with_journal(rules: &str) -> (TempDir, PathBuf) {
    let host = tempfile::tempdir().unwrap();
    put_journal(host.path(), "compact-zstd");
    let file = host.path().join("rules.json");
    std::fs::write(&file, rules).unwrap();
    (host, file)
}

/// What a journal of node-problem-detector's `source` says; the lines are older than any look back of theirs.
async fn look_at_journal(source: &str, pattern: &str) -> Look {
    let rules = format!(
        r#"{{"plugin": "journald", "pluginConfig": {{"source": "{source}"}}, "source": "a-monitor", "lookback": "438000h",
        "conditions": [{{"type": "ABroken", "reason": "AWorks", "message": "it works"}}],
        "rules": [{{"type": "permanent", "condition": "ABroken", "reason": "AIsBroken", "pattern": "{pattern}"}}]}}"#
    );
    let (host, file) = host_with_journal(&rules);
    Probe::once_with(&SPEC, HostRoot::new(host.path()), |context| {
        context.config = Arc::new(ProbeConfig { npd_files: vec![file], ..ProbeConfig::default() });
    })
    .await
}

#[tokio::test]
async fn a_journal_is_read_by_syslog_identifier_and_not_by_unit() {
    // As in config/systemd-monitor.json and config/docker-monitor.json: no unit has the name of these.
    assert_eq!(condition(&look_at_journal("systemd", "Started containerd.*").await), Some(Present));
    assert_eq!(condition(&look_at_journal("say.sh", ".*Error syncing pod.*").await), Some(Present));
    assert_eq!(condition(&look_at_journal("kubelet", ".*Error syncing pod.*").await), Some(Absent));
}

#[tokio::test]
async fn a_counter_reads_the_journal_by_syslog_identifier() {
    for (source, want) in [("systemd", Present), ("containerd.service", Absent)] {
        let rules = format!(
            r#"{{"plugin": "custom", "source": "systemd-monitor",
            "conditions": [{{"type": "FrequentRestart", "reason": "NoFrequentRestart", "message": "it runs"}}],
            "rules": [{{"type": "permanent", "condition": "FrequentRestart", "reason": "FrequentRestart",
                "path": "/usr/local/bin/log-counter",
                "args": ["--journald-source={source}", "--lookback=438000h", "--count=1", "--pattern=Started containerd"]}}]}}"#
        );
        let (host, file) = host_with_journal(&rules);
        let look = Probe::once_with(&SPEC, HostRoot::new(host.path()), |context| {
            context.config = Arc::new(ProbeConfig { npd_files: vec![file], ..ProbeConfig::default() });
        })
        .await;
        assert_eq!(condition(&look), Some(want), "{source}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_rule_file_blinds_the_probe_and_is_refused_at_the_start() {
    let host = tempfile::tempdir().unwrap();
    let file = host.path().join("rules.json");
    std::fs::write(&file, "{").unwrap();
    let mut probe = start(host.path(), &file, None);
    assert!(probe.look().await.blind_because.unwrap().contains("rules.json"));
    probe.stop().await;
    let config = ProbeConfig { npd_files: vec![file], ..ProbeConfig::default() };
    assert!(check_files(&config).unwrap_err().contains("rules.json"));
}

#[tokio::test]
async fn a_condition_of_plugins_is_what_they_say() {
    let host = tempfile::tempdir().unwrap();
    let script = host.path().join("check.sh");
    std::fs::write(&script, format!("#!/bin/sh\ncat {0}/said; exit $(cat {0}/code)\n", host.path().display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = host.path().join("plugin.json");
    let rules = format!(
        r#"{{"plugin": "custom", "pluginConfig": {{"invoke_interval": "1s", "timeout": "10s"}}, "source": "ntp-monitor",
        "conditions": [{{"type": "NTPProblem", "reason": "NTPIsUp", "message": "ntp service is up"}}],
        "rules": [{{"type": "permanent", "condition": "NTPProblem", "reason": "NTPIsDown", "path": "{}"}}]}}"#,
        script.display()
    );
    std::fs::write(&file, rules).unwrap();
    for (code, want) in [("0", Absent), ("1", Present), ("7", Unknown)] {
        std::fs::write(host.path().join("code"), code).unwrap();
        std::fs::write(host.path().join("said"), "ntp says so").unwrap();
        let files = vec![file.clone()];
        let look = Probe::once_with(&SPEC, HostRoot::new(host.path()), |context| {
            context.config = Arc::new(ProbeConfig { npd_files: files, ..ProbeConfig::default() });
        })
        .await;
        assert_eq!(condition(&look), Some(want), "exit code {code}");
    }
}

#[tokio::test]
async fn without_files_there_is_nothing_to_say() {
    let look = Probe::once(&SPEC, HostRoot::new("/")).await;
    assert_eq!((look.verdicts.len(), look.blind_because), (0, None));
}
