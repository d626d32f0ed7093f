//! The lab by hand: a node with a guest to try things on, the removal of what a killed run left behind, and the reaper that does so by
//! itself.

use std::io::{self, Read as _};
use std::process::ExitCode;

use anyhow::Result;
use kulprit_tests::disk::FileDisk;
use kulprit_tests::guest::Program;
use kulprit_tests::{Guest, Lab, lab};

const USAGE: &str = "\
usage: kulprit-lab up       boots a node n1 with a guest db-0 that writes to its disk; ends with its standard input
       kulprit-lab frozen   the same, with the guest's disk frozen: QEMU sleeps in D state
       kulprit-lab clean    removes what a killed run of the lab left behind";

#[expect(clippy::print_stderr, reason = "a command reports its failure")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["up"] => up(false),
        ["frozen"] => up(true),
        ["clean"] => Lab::clean_leftovers(),
        ["reap", owner] => lab::reap(owner),
        _ => {
            eprintln!("{USAGE}");
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

#[expect(clippy::print_stdout, reason = "tells the person how to enter, and a test that the node is up")]
fn up(frozen: bool) -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let guest = Guest::define(&node, "db-0", Program::Writer { bursts: 8 }).disk_on(&disk).start()?;
    let _frozen = if frozen { Some(disk.freeze()?) } else { None };
    println!("up: node n1 (its systemd is {0}), guest {1}; enter: nsenter -t {0} -a", node.leader(), guest.name());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
