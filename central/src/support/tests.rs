//! Secrets are planted wherever a text comes from, and none is found.

use kulprit_model::{Body, FindingCode, Record, Stamp, Status, Subject};

use super::*;
use crate::{
    conditions::testing::state,
    incident::{
        Entry,
        testing::{incident, member},
    },
    store::HistoryPosition,
};

/// Each as something else would write it; none of these may be in a bundle.
const PLANTED: &[&str] = &["hunter2", "aHVudGVyMjpodW50ZXIy", "eyJhbGciOiJSUzI1NiJ9"];
const TEXT: &str = "password=hunter2 Authorization: Basic aHVudGVyMjpodW50ZXIy token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2lnbmF0dXJl at https://admin:hunter2@host/x";

fn entry(because: &str) -> HistoryEntry {
    let mut state = state(FindingCode::KvmUnusable, Subject::Node, Status::Unknown);
    state.unknown_because = Some(because.to_owned());
    let stamp = Stamp { boot_id: "b".to_owned(), epoch: 1, seq: 1, at: state.since };
    let record = Record { stamp, body: Body::State(state) }.into();
    HistoryEntry {
        position: HistoryPosition { at_wall_usec: 1_000_000, day: 0, row: 1 },
        node: "n1".to_owned(),
        record,
    }
}

fn full() -> Bundle {
    let mut bundle = Bundle::default();
    let config = json!({"kubernetes": {"kubeconfig": "https://admin:hunter2@host"}, "access_token": "hunter2", "listen": "127.0.0.1:7443"});
    let said = Said {
        missing: vec![format!("store opened ({TEXT})")],
        metrics: format!("# HELP x {TEXT}\nkulprit_central_streams 3\n# EOF\n"),
        config: config.to_string(),
    };
    bundle.add_said(Some(said), &[format!("pods: {TEXT}")], 1_000_000);
    bundle.add_log(Some(&format!("2026 INFO {TEXT}\n2026 INFO central is up\n")));
    bundle.add_nodes(&[v1::Node {
        name: "n1".to_owned(),
        os: TEXT.to_owned(),
        cannot_show: vec![TEXT.to_owned()],
        ..v1::Node::default()
    }]);
    let mut own = incident(1, "KubeletDown", "n1");
    own.timeline.push(Entry { at_wall_usec: 1, text: TEXT.to_owned() });
    own.members.push(member("prod", "db-0", "n1"));
    bundle.add_incidents(&[own].into_iter().collect());
    bundle.add_findings(vec![entry(TEXT)], true);
    bundle.lack("the captures", TEXT);
    bundle
}

#[test]
fn no_secret_that_was_planted_is_found() {
    let (files, notes) = full().into_parts();
    let texts =
        files.iter().map(|file| String::from_utf8_lossy(&file.content).into_owned()).chain(notes.iter().cloned());
    let text = texts.collect::<Vec<_>>().join("\n");
    for secret in PLANTED {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains(secrets::LEFT_OUT));
    // What is no secret is there.
    for kept in [
        "central is up",
        "kulprit_central_streams 3",
        "127.0.0.1:7443",
        "KubeletDown",
        "db-0",
        "KvmUnusable",
        "store opened",
    ] {
        assert!(text.contains(kept), "{kept} is not in {text}");
    }
}

#[test]
fn every_file_is_there_and_what_is_not_is_said() {
    let (files, notes) = full().into_parts();
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let want = [
        "central/metrics.txt",
        "central/config.json",
        "central/status.json",
        "central/log.txt",
        "nodes.json",
        "incidents.json",
        "findings.jsonl",
    ];
    assert_eq!(paths, want);
    assert_eq!(notes[0], "the findings of the last hour are cut after the oldest 1");
    assert!(notes[1].starts_with("the captures: not to be had: password=<left-out>"), "{notes:?}");
    assert!(notes[2].starts_with("what looks like a secret is left out of "), "{notes:?}");
    for file in files.iter().filter(|file| file.path.ends_with(".json")) {
        serde_json::from_slice::<Value>(&file.content).unwrap_or_else(|error| panic!("{}: {error}", file.path));
    }
    let mut bundle = Bundle::default();
    bundle.add_said(None, &[], 0);
    bundle.add_log(None);
    let (files, notes) = bundle.into_parts();
    assert_eq!(files.len(), 1);
    let want = [
        "configuration, readiness and metrics: not to be had: this central has no admin port",
        "central's log: not to be had: this central keeps no lines in memory",
    ];
    assert_eq!(notes, want);
}
