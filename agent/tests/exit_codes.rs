//! The agent as a process that cannot start as told: exit code 2 and one line, before anything of it runs.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// Starts it in `folder` with `flags`, which must end it with code 2; its last line must have all `parts`.
#[track_caller]
fn check(folder: &Path, flags: &[&str], parts: &[&str]) {
    let state = folder.join("state");
    fs::create_dir_all(&state).expect("the folder is ours");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_kulprit-agent"));
    agent.env_clear().stdin(Stdio::null()).arg("--state-dir").arg(state).args(flags);
    if !flags.contains(&"--admin-listen") {
        agent.args(["--admin-listen", "127.0.0.1:0"]);
    }
    let ended = agent.output().expect("the agent is built");
    let said = String::from_utf8_lossy(&ended.stderr);
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!((ended.status.code(), errors.len()), (Some(2), 1), "{flags:?}: {said}");
    for part in parts {
        assert!(errors[0].contains(part), "{errors:?} lacks {part:?}");
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_value_that_makes_no_sense() {
    check(folder().path(), &["--central", "10.0.0.1:7443"], &["`10.0.0.1:7443`"]);
}

#[test]
fn a_configuration_that_is_not_there() {
    check(folder().path(), &["--config", "/nonexistent/agent.yaml"], &["`/nonexistent/agent.yaml`", "--config"]);
}

#[test]
fn a_host_that_is_not_there() {
    check(folder().path(), &["--host-root", "/nonexistent"], &["which boot", "/nonexistent", "--host-root"]);
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it listens").to_string();
    check(folder().path(), &["--admin-listen", &address], &[&address, "--admin-listen"]);
}

#[test]
fn a_spool_that_is_another_programs() {
    let folder = folder();
    let name = "0000000000000001.seg";
    fs::create_dir_all(folder.path().join("state/spool")).expect("the folder is ours");
    fs::write(folder.path().join("state/spool").join(name), "hello\n".repeat(100)).expect("the folder is ours");
    check(folder.path(), &[], &[name, "--state-dir"]);
}
