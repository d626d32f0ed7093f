//! One run of a custom plugin: exit code 0 is OK, 1 is NonOK, all else is Unknown; the first line of its output is the message.
//!
//! The plugin runs in a process group of its own, which is killed when the time is over: the one thing the agent ever kills, and
//! it is its own child. Programs of node-problem-detector's own images are not run but done here: `health-checker` and
//! `log-counter` would need their binaries in ours, and `health-checker --enable-repair` restarts units, which an agent of ours never does.
//! Source: kubernetes/node-problem-detector `pkg/custompluginmonitor/plugin/plugin.go`.

use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

use super::rules::CustomRule;

/// Output that is kept; the rest is read and dropped, so that the plugin does not wait.
const MAX_READ_BYTES: usize = 4 << 10;

/// How a plugin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) message: String,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    NonOk,
    Unknown,
}

impl Outcome {
    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, message: message.into() }
    }
}

/// Runs a plugin once.
pub(super) async fn run(rule: &CustomRule, max_output_bytes: usize) -> Outcome {
    let spawned = Command::new(&rule.path)
        .args(&rule.args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Outcome::unknown(format!("{} cannot be started: {error}", rule.path)),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let output = child.stdout.take();
    let ended = timeout(rule.timeout, async {
        let text = match output {
            Some(output) => read_some(output).await,
            None => Vec::new(),
        };
        (child.wait().await, text)
    });
    let Ok((status, text)) = ended.await else {
        kill(group);
        // Reaped by whoever drops the child; a plugin in D state may take its time.
        return Outcome::unknown(format!("{} took longer than {}", rule.path, in_words(rule.timeout)));
    };
    // What it left running in its group goes with it.
    kill(group);
    let message = cut(String::from_utf8_lossy(&text).trim(), max_output_bytes);
    let verdict = match status.map(|status| status.code()) {
        Ok(Some(0)) => Verdict::Ok,
        Ok(Some(1)) => Verdict::NonOk,
        Ok(Some(_) | None) | Err(_) => Verdict::Unknown,
    };
    Outcome { verdict, message }
}

fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        // An empty group has nothing to kill.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

async fn read_some(mut output: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n_bytes) = output.read(&mut buffer).await {
        if n_bytes == 0 {
            break;
        }
        let room = MAX_READ_BYTES.saturating_sub(text.len());
        text.extend_from_slice(&buffer[..n_bytes.min(room)]);
    }
    text
}

/// At most so many bytes, ending where a char does.
fn cut(text: &str, max_bytes: usize) -> String {
    let end = (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

fn in_words(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(script: &str, timeout_ms: u64) -> CustomRule {
        CustomRule {
            condition: None,
            reason: "R".to_owned(),
            path: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            timeout: Duration::from_millis(timeout_ms),
            invoke_interval: Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn the_exit_code_is_the_verdict_and_the_output_the_message() {
        for (script, verdict, message) in [
            ("echo ' ntp is up '", Verdict::Ok, "ntp is up"),
            ("echo down; exit 1", Verdict::NonOk, "down"),
            ("echo odd; exit 2", Verdict::Unknown, "odd"),
            ("kill -9 $$", Verdict::Unknown, ""),
            ("echo äöü", Verdict::Ok, "äö"),
        ] {
            assert_eq!(
                run(&rule(script, 10_000), if script.contains('ä') { 5 } else { 80 }).await,
                Outcome { verdict, message: message.to_owned() }
            );
        }
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_unknown_and_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let outcome = run(&rule(&script, 500), 80).await;
        assert_eq!(outcome, Outcome::unknown("/bin/sh took longer than 500 ms"));
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let is_gone =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_there_is_unknown() {
        let missing = CustomRule { path: "/none/check.sh".to_owned(), ..rule("", 100) };
        assert_eq!(run(&missing, 80).await.verdict, Verdict::Unknown);
    }

    #[tokio::test]
    async fn much_output_is_read_and_dropped() {
        let outcome = run(&rule("head -c 300000 /dev/zero | tr '\\0' x", 10_000), 80).await;
        assert_eq!((outcome.verdict, outcome.message.len()), (Verdict::Ok, 80));
    }
}
