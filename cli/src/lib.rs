//! The `kulprit` command: asks central why a VM is stuck, asks an agent when central is gone, and prints the answer.
//!
//! Read in this order: [`called`] (`kulprit` or `kubectl kulprit`), [`arguments`] (what can be asked), [`route`] and [`connect`] (whom),
//! [`kubernetes`] (central behind an API server), `commands/` (one file per question), [`output`] (human, JSON, YAML), [`page`] (the page
//! of `why`, as a person reads it at three in the morning), [`completion`] (what a Tab offers).

mod arguments;
mod bearer;
mod called;
mod commands;
mod completion;
mod connect;
mod error;
mod kubernetes;
mod output;
mod page;
mod route;
mod shape;
mod table;
mod terminal;
mod when;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};

pub use terminal::Terminal;

use arguments::Arguments;
use called::Called;

/// Answers a command line, the program's own name first, and returns the exit status: 0 answered, 1 a VM cannot migrate, 2 could not be
/// asked, 3 asked and only unexplained, or not enough is known. Ends the process where the line is not understood, or asks for help.
pub fn run(words: &[OsString], terminal: &mut Terminal) -> ExitCode {
    let called = Called::of(words.first().map(OsString::as_os_str));
    if completion::answer_shell(called, words) {
        return ExitCode::SUCCESS;
    }
    let after_name = words.get(1..).unwrap_or_default();
    let asked = match (called, after_name) {
        (_, [first, asked @ ..]) if first == completion::COBRA => Some(asked),
        (Called::Completion, asked) => Some(asked),
        (Called::Kulprit | Called::Plugin, _) => None,
    };
    if let Some(asked) = asked {
        terminal.print(&completion::for_cobra(called, asked));
        return ExitCode::SUCCESS;
    }
    let matches = Arguments::command().bin_name(called.typed()).get_matches_from(words);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&format!("cannot start: {error}"));
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(commands::answer(arguments, called, terminal)) {
        Ok(code) => code,
        Err(error) => {
            terminal.error(&error.to_string());
            ExitCode::from(2)
        }
    }
}
