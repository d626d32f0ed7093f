//! The `kulprit` command: parse, ask, print, exit.

use std::process::ExitCode;

use clap::Parser as _;
use kulprit_cli::{Arguments, Terminal};

fn main() -> ExitCode {
    kulprit_cli::run(Arguments::parse(), &mut Terminal::of_this_process())
}
