//! Nothing of a lab stays, whatever happens: its owner is killed with a guest in D state, and all is gone, by the reaper or by the next lab.
//!
//! A binary of its own, and one test after the other: what remains is looked for on the whole machine, so no other lab may be alive.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{assert_contains, report};
use kulprit_tests::wait::{Stopwatch, wait_until};
use kulprit_tests::{Lab, lab, process};
use nix::sys::signal::Signal;

static TURN: Mutex<()> = Mutex::new(());

/// Starts a lab with a frozen disk in a process of its own and kills that. Holds the tests' turn until the guard is dropped.
fn kill_a_lab_with_a_frozen_disk(spare_reaper: bool) -> Result<MutexGuard<'static, ()>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut owner = Command::new(env!("CARGO_BIN_EXE_kulprit-lab"))
        .arg("frozen")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start kulprit-lab")?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    assert_contains(&line, "up: node n1");
    assert!(!lab::remains()?.is_empty());
    if !spare_reaper {
        kill_reaper_of(owner.id())?;
    }
    owner.kill()?;
    owner.wait()?;
    Ok(turn)
}

fn kill_reaper_of(owner: u32) -> Result<()> {
    let children = fs::read_to_string(format!("/proc/{owner}/task/{owner}/children"))?;
    let is_reaper =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("\0reap\0"));
    let reaper = children.split_whitespace().find(is_reaper).context("the lab has a reaper")?;
    process::signal(reaper.parse()?, Signal::SIGKILL)
}

#[test]
fn a_killed_run_is_cleaned_up_by_its_reaper() -> Result<()> {
    let _turn = kill_a_lab_with_a_frozen_disk(true)?;
    let took = wait_until("the reaper to leave nothing", Duration::from_secs(60), || Ok(lab::remains()?.is_empty()))?;
    report("reaped", took);
    Ok(())
}

#[test]
fn a_killed_run_without_reaper_is_cleaned_up_by_the_next() -> Result<()> {
    let _turn = kill_a_lab_with_a_frozen_disk(false)?;
    let clock = Stopwatch::start();
    assert!(!lab::remains()?.is_empty(), "nobody has cleaned up yet");
    drop(Lab::open()?);
    report("cleaned by the next", clock.elapsed());
    assert_eq!(lab::remains()?, Vec::<String>::new());
    Ok(())
}
