//! The `kulprit` command: asks central why a VM is stuck, asks an agent when central is gone, and prints the answer.
//!
//! Read in this order: [`arguments`] (what can be asked), [`connect`] (whom), `commands/` (one file per question),
//! [`output`] (human, JSON, YAML), [`page`] (the page of `why`, as a person reads it at three in the morning).

mod arguments;
mod commands;
mod connect;
mod error;
mod output;
mod page;
mod shape;
mod table;
mod terminal;
mod when;

use std::process::ExitCode;

pub use arguments::Arguments;
pub use terminal::Terminal;

/// Answers one question and returns the exit status: 0 answered, 2 could not be asked, 3 asked and only unexplained.
pub fn run(arguments: Arguments, terminal: &mut Terminal) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&format!("cannot start: {error}"));
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(commands::answer(arguments, terminal)) {
        Ok(code) => code,
        Err(error) => {
            terminal.error(&error.to_string());
            ExitCode::from(2)
        }
    }
}
