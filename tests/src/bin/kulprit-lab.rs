//! The lab by hand: removes what a killed run left behind, and is the reaper that does so by itself.

use std::process::ExitCode;

use kulprit_tests::{Lab, lab};

#[expect(clippy::print_stderr, reason = "a command reports its failure")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clean"] => Lab::clean_leftovers(),
        ["reap", owner] => lab::reap(owner),
        _ => {
            eprintln!("usage: kulprit-lab clean    removes what a killed run of the lab left behind");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kulprit-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
