//! The `kulprit` command, which is `kubectl kulprit` too: parse, ask, print, exit.

use std::{ffi::OsString, process::ExitCode};

use kulprit_cli::Terminal;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    kulprit_cli::run(&words, &mut Terminal::of_this_process())
}
