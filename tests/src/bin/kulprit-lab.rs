//! The lab by hand: scenarios played and told, a node with a guest to try things on, the removal of what a killed run left behind, and the
//! reaper that does so by itself.

use std::io::{self, Read as _};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use kulprit_tests::disk::FileDisk;
use kulprit_tests::guest::Program;
use kulprit_tests::scenario::{self, Scenario};
use kulprit_tests::{Guest, Lab, lab};

const USAGE: &str = "\
usage: kulprit-lab up       boots a node n1 with a guest db-0 that writes to its disk; ends with its standard input
       kulprit-lab frozen   the same, with the guest's disk frozen: QEMU sleeps in D state
       kulprit-lab clean    removes what a killed run of the lab left behind
       kulprit-lab play [NAME …]   plays these scenarios and tells their timelines
       kulprit-lab play --all [N]  plays every scenario, N times in a row, and prints a table";

#[expect(clippy::print_stderr, reason = "a command reports its failure")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["up"] => up(false),
        ["frozen"] => up(true),
        ["clean"] => Lab::clean_leftovers(),
        ["reap", owner] => lab::reap(owner),
        ["play", "--all"] => play_all(1),
        ["play", "--all", runs] if runs.parse::<u32>().is_ok() => play_all(runs.parse().unwrap_or(1)),
        ["play", ref names @ ..] if !names.is_empty() => play(names),
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

#[expect(clippy::print_stdout, reason = "telling is what it is asked for")]
fn play(names: &[&str]) -> Result<()> {
    let scenarios = names.iter().map(|name| Scenario::named(name)).collect::<Result<Vec<_>>>()?;
    let played = scenario::play_all(&scenarios, true, |one| {
        println!("{}: {} ({})", one.name, one.error.as_deref().unwrap_or("as expected"), one.spent);
    });
    println!("\n{}", scenario::table(&played));
    ensure!(played.iter().all(|one| one.error.is_none()), "not everything was as expected");
    Ok(())
}

/// Every scenario, `runs` times; of those that fail the timeline is shown.
#[expect(clippy::print_stdout, reason = "a table is what it is asked for")]
fn play_all(runs: u32) -> Result<()> {
    let scenarios = Scenario::all()?;
    let mut n_failed = 0;
    for run in 1..=runs {
        let played = scenario::play_all(&scenarios, false, |one| match &one.error {
            None => println!("{}: as expected, {} s ({})", one.name, one.took.as_secs(), one.spent),
            Some(error) => println!("{}: FAILED: {error}\n{}", one.name, one.timeline()),
        });
        n_failed += played.iter().filter(|one| one.error.is_some()).count();
        println!("\nrun {run} of {runs}\n{}", scenario::table(&played));
    }
    ensure!(n_failed == 0, "{n_failed} were not as expected");
    Ok(())
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
