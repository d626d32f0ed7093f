//! A support bundle over the wire: what is in it of a central that runs, and no secret that an agent told.

use std::collections::BTreeMap;

use kulprit_model::{Body, FindingCode, Status, Subject};
use kulprit_proto::v1;

use crate::{
    agent::{kubelet, state},
    app::App,
};

#[tokio::test]
async fn a_bundle_has_what_central_knows_and_no_secret_that_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(folder.path()).await;
    let now = app.now();
    let mut agent = app.agent(1).await;
    let mut unseen = state(FindingCode::KvmUnusable, Subject::Node, Status::Unknown, now);
    if let Body::State(state) = &mut unseen {
        state.unknown_because = Some("no answer to https://admin:hunter2@host/x".to_owned());
    }
    agent.snapshot(vec![kubelet(Status::Present, now), unseen], now).await;
    agent.acked(2).await;
    app.wait_for_open_incidents(1).await;
    let mut messages = app.query.clone().support_bundle(v1::SupportBundleRequest {}).await.unwrap().into_inner();
    let (mut files, mut notes) = (BTreeMap::<String, Vec<u8>>::new(), Vec::new());
    while let Some(v1::SupportBundleResponse { path, content, note }) = messages.message().await.unwrap() {
        if path.is_empty() {
            notes.push(note);
        } else {
            files.entry(path).or_default().extend(content);
        }
    }
    let files: BTreeMap<String, String> =
        files.into_iter().map(|(path, content)| (path, String::from_utf8(content).unwrap())).collect();
    for (path, part) in [
        ("central/config.json", "\"history_retention\""),
        ("central/metrics.txt", "kulprit_central_streams 1"),
        ("central/status.json", "\"ready\": true"),
        ("nodes.json", "\"n1\""),
        ("incidents.json", "KubeletDown"),
        ("findings.jsonl", "KubeletInactive"),
        ("findings.jsonl", "https://<left-out>@host/x"),
    ] {
        assert!(files[path].contains(part), "{part} is not in {path}: {}", files[path]);
    }
    assert!(!files.values().any(|text| text.contains("hunter2")));
    // The log is the process's, and this one is a test.
    assert_eq!(notes[0], "central's log: not to be had: this central keeps no lines in memory");
    assert!(notes[1].starts_with("what looks like a secret is left out of "), "{notes:?}");
    app.stop().await;
}
