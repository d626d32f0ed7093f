//! Faults of guests and their storage, told by Kulprit: the right cause first, of the right VM, gone by itself when undone.

use anyhow::{Context as _, Result};
use kulprit_tests::Guest;
use kulprit_tests::guest::Program;
use kulprit_tests::scenario::{Expected, Stage};
use kulprit_tests::wait::Stopwatch;
use nix::sys::signal::Signal;

#[test]
fn a_killed_qemu_is_named() -> Result<()> {
    check_death(Signal::SIGKILL, "QemuKilled")
}

#[test]
fn a_crashed_qemu_is_named() -> Result<()> {
    check_death(Signal::SIGSEGV, "QemuCrashed")
}

fn check_death(by: Signal, cause: &str) -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander("well")?;
        let guest = Guest::define(&stage.node, "db-0", Program::Idle).start()?;
        stage.wait_until_seen(&guest)?;
        let fault = Stopwatch::start();
        guest.signal(by)?;
        let expected = Expected {
            fault: &format!("QEMU {by}"),
            vm: Some("db-0"),
            finding: "QemuExited",
            symptom: "StoppedUnexpectedly",
            chain: &[cause],
            also: &[],
        };
        let verdict = expected.wait_for_verdict(stage, fault)?;
        assert!(verdict.causes.first().context("it is met")?.safe_to_force_delete, "no QEMU lives");
        println!("{}", stage.system.page(&["why", "db-0"])?);
        let undo = Stopwatch::start();
        guest.start()?;
        expected.wait_until_clear(stage, undo)?;
        stage.end(guest)?;
        stage.end(well)
    })
}
