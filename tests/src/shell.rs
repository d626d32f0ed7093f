//! Commands whose failure says what was run and what it answered.
//!
//! The lab drives the machine with the tools an administrator would use (`mount`, `ip`, `losetup`, `virsh`): each is one line to read, and
//! one line to try by hand when a test fails.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Makes a command of a line of words.
///
/// # Panics
/// On an empty line.
#[must_use]
pub fn command(line: &[&str]) -> Command {
    let (program, args) = line.split_first().expect("a command has a name");
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs a command to its end and returns its standard output, without the last newline.
///
/// # Errors
/// If it cannot be started or fails: the command line, its exit status, and what it wrote to standard error.
pub fn run(line: &[&str]) -> Result<String> {
    output(&mut command(line))
}

/// As [`run`], for a command already built.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("failed to start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}`: {status}: {}", describe(command), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim_end().to_owned())
}

/// Whether the command ran and ended well; its output is dropped. For undoing what may already be undone.
#[must_use]
pub fn succeeds(line: &[&str]) -> bool {
    output(&mut command(line)).is_ok()
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_command_status_and_reason() {
        let text = run(&["sh", "-c", "echo no such thing >&2; exit 3"]).unwrap_err().to_string();
        for part in ["sh -c", "exit status: 3", "no such thing"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn output_comes_without_the_last_newline() {
        assert_eq!(run(&["echo", "a b"]).unwrap(), "a b");
    }
}
