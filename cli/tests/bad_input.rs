//! What a person sees when a question cannot be asked: one line with what, where and what to do, and exit status 2.

use std::process::{Command, Output};

fn kulprit(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit"));
    command.args(arguments).env_remove("KULPRIT_CENTRAL").env_remove("KULPRIT_AGENT_SOCKET");
    command.output().expect("the command was built for this test")
}

#[track_caller]
fn check_refused(arguments: &[&str], want: &[&str]) {
    let output = kulprit(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    for part in want {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn central_not_there_is_said_with_its_address() {
    check_refused(&["--central", "http://127.0.0.1:1", "why"], &["127.0.0.1:1", "refused", "make run", "--central"]);
}

#[test]
fn an_address_that_is_none_is_shown() {
    check_refused(&["--central", "https://x:y", "nodes"], &["`https://x:y`", "http://HOST:PORT"]);
    check_refused(&["--central", "http://nowhere", "nodes"], &["http://HOST:PORT"]);
}

#[test]
fn no_agent_names_every_place_tried() {
    check_refused(&["status", "--socket", "/nonexistent/agent.sock"], &["/nonexistent/agent.sock", "--socket"]);
}

#[test]
fn a_bad_span_says_how_to_write_one() {
    check_refused(&["findings", "--since", "yesterday"], &["`yesterday`", "30m"]);
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = kulprit(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("kulprit"), "{shell}");
    }
}

#[test]
fn an_unknown_cause_points_to_the_list() {
    check_refused(&["causes", "Gremlins"], &["`Gremlins`", "kulprit causes"]);
}

#[test]
fn causes_are_listed_without_central() {
    let output = kulprit(&["--central", "http://127.0.0.1:1", "causes", "-o", "json"]);
    let causes: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON was asked for");
    let ids: Vec<&str> =
        causes["causes"].as_array().expect("a list").iter().filter_map(|cause| cause["id"].as_str()).collect();
    assert!(ids.contains(&"LocalDiskStalled") && ids.last() == Some(&"Unexplained"), "{ids:?}");
}

#[test]
fn a_support_bundle_without_central_says_so_in_it_and_a_file_that_is_there_stays() {
    let home = tempfile::tempdir().expect("a folder is made");
    let out = home.path().join("b.tar.gz");
    let name = out.display().to_string();
    let output = kulprit(&["--central", "http://127.0.0.1:1", "support-bundle", "--out", &name]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("central: not to be had: central does not answer at http://127.0.0.1:1"), "{text}");
    let listed = Command::new("tar").args(["-xzOf", &name]).output().expect("tar is everywhere");
    let page = String::from_utf8_lossy(&listed.stdout);
    assert!(page.contains("central: not to be had: ") && page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    check_refused(&["--central", "http://127.0.0.1:1", "support-bundle", "--out", &name], &[&name, "--out"]);
}
