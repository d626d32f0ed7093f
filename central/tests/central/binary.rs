//! The real binary: how it starts, what it says when it cannot.

use std::{
    path::Path,
    process::{ExitStatus, Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::agent::PATIENCE;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit-central"));
    command
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"])
        .arg(folder)
        .env_remove("KULPRIT_LOG")
        .kill_on_drop(true)
        .stderr(Stdio::piped());
    command
}

/// A central that runs.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) grpc: std::net::SocketAddr,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub(crate) async fn start(folder: &Path) -> Self {
        let mut child = command(folder).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let grpc = timeout(PATIENCE, async {
            while let Some(line) = log.next_line().await.unwrap() {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                if line["message"] == "central is up" {
                    return line["grpc"].as_str().expect("it is a field").parse().expect("it is an address");
                }
            }
            panic!("central ended before it was up");
        });
        let grpc = grpc.await.expect("central starts in time");
        Self { child, grpc, log }
    }

    /// Kills it at once.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Tells it to end, and waits.
    async fn terminate(mut self) -> (ExitStatus, String) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut rest = String::new();
        while let Some(line) = self.log.next_line().await.unwrap() {
            rest.push_str(&line);
            rest.push('\n');
        }
        (self.child.wait().await.unwrap(), rest)
    }
}

async fn refused(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let text = String::from_utf8(stderr).unwrap();
    let errors: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    (status.code(), errors.join("\n"))
}

#[tokio::test]
async fn sigterm_ends_it_well_and_its_folder_can_be_used_again() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let (status, log) = Running::start(folder.path()).await.terminate().await;
        assert!(status.success(), "{status}: {log}");
    }
}

#[tokio::test]
async fn a_foreign_file_is_one_line_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("central.db");
    std::fs::write(&file, "x".repeat(5_000)).unwrap();
    let (code, text) = refused(&mut command(folder.path())).await;
    assert_eq!(code, Some(2));
    let file = file.display();
    assert_eq!(
        text,
        format!(
            "error: failed to open the store: `{file}` is not a store of kulprit-central: it is no SQLite database; \
             move it away, or choose another folder with --data-dir"
        )
    );
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, what) in [("--listen", "gRPC"), ("--admin-listen", "admin HTTP")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit-central"));
        let other = if flag == "--listen" { "--admin-listen" } else { "--listen" };
        command.args([flag, &address, other, "127.0.0.1:0", "--log", "error", "--data-dir"]).arg(folder.path());
        let (code, text) = refused(&mut command).await;
        assert_eq!(code, Some(2));
        let want = format!("error: failed to listen on {address} ({what}): ");
        assert!(text.starts_with(&want) && text.ends_with(&format!("choose another with {flag}")), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made_is_one_line_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, text) = refused(&mut command(&file.join("data"))).await;
    assert_eq!(code, Some(2));
    assert!(text.starts_with("error: failed to open the store: failed to use the data folder `"), "{text}");
    assert!(text.ends_with("create it writable for this user, or choose another with --data-dir"), "{text}");
}

#[tokio::test]
async fn a_missing_configuration_is_one_line_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = refused(command(folder.path()).args(["--config", "/nonexistent/central.yaml"])).await;
    assert_eq!(code, Some(2));
    assert!(text.starts_with("error: failed to read the configuration `/nonexistent/central.yaml`"), "{text}");
}
