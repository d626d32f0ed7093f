//! What the tests of the lab say and ask over and over.

use std::fmt::Debug;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;

use crate::{Node, shell};

/// Longer than any fault here takes to show on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Prints how long something took; past the test harness, so that a run that passes shows its figures too.
pub fn report(what: &str, took: Duration) {
    // Figures are not worth failing a test for.
    let _ = writeln!(io::stdout(), "lab: {what}: {:.2} s", took.as_secs_f64());
}

/// # Panics
/// If `text` lacks `part`.
#[track_caller]
pub fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in: {text}");
}

/// The error of something that must fail, with its causes.
///
/// # Panics
/// If it did not.
#[track_caller]
pub fn failure<T: Debug>(result: Result<T>) -> String {
    format!("{:#}", result.expect_err("must fail"))
}

/// What kubelet's health answers, asked from where an agent of the node runs.
///
/// # Errors
/// If nobody listens, or no answer comes within 2 s (exit status 124).
pub fn healthz(node: &Node) -> Result<String> {
    let answer = get(node, 10248, "/healthz")?;
    Ok(answer.lines().next_back().unwrap_or_default().to_owned())
}

/// The whole answer to an HTTP request on the node's 127.0.0.1, asked from where an agent of the node runs.
///
/// # Errors
/// As [`healthz`].
pub fn get(node: &Node, port: u16, path: &str) -> Result<String> {
    let ask = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    shell::output(node.agent_command("timeout").args(["2", "bash", "-c", &ask]))
}
