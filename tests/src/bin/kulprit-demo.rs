//! `make demo`: one VM on a node of its own, its storage broken for real, and what Kulprit says about it.
//!
//! Everything is real: systemd, libvirt and QEMU on a lab node, a frozen file system under the VM's disk, an administrator's `virsh
//! destroy` that fails. It exits with an error if the answer is not the right chain, and takes everything down, however it ends.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use kulprit_tests::disk::FileDisk;
use kulprit_tests::guest::Program;
use kulprit_tests::system::System;
use kulprit_tests::wait::{Stopwatch, wait_for, wait_until};
use kulprit_tests::{Guest, Lab};

const VM: &str = "db-0";
/// Central's clocks, shorter than its defaults: nobody wants to watch a demo wait.
const CLOCKS: &str = "symptoms: {kill_grace: 5s}\nincidents: {close_after: 5s}\n";
/// A failing destroy takes 40 s (libvirt waits for SIGTERM, then for SIGKILL), then the symptom has its grace.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

#[expect(clippy::print_stderr, reason = "a command reports its failure")]
fn main() -> ExitCode {
    match play() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kulprit-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play() -> Result<()> {
    say("Booting a node with systemd and libvirt, and a VM on it that writes to its disk.");
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let guest = Guest::define(&node, VM, Program::Writer { bursts: 8 }).disk_on(&disk).start()?;

    say("Starting kulprit-central, and kulprit-agent for the node.");
    let mut system = System::start(&lab, CLOCKS)?;
    system.watch(&node)?;
    wait_until("the VM to be seen", ANSWER_LIMIT, || Ok(system.vms()?.iter().any(|vm| vm.state == "running")))?;
    command(&["vms"], &system.page(&["vms"])?);
    command(&["why"], &system.page(&["why"])?);

    say("Freezing the file system under the VM's disk, as a backup script does that dies half-way.");
    let since = Stopwatch::start();
    let frozen = disk.freeze()?;
    say("An administrator sees a VM that hangs, and stops it: `virsh destroy db-0` …");
    match guest.virsh("destroy") {
        Ok(_) => say("… succeeded?"),
        Err(error) => say(&format!("… fails after {:.0} s:\n    {}", since.elapsed().as_secs_f64(), last_line(&error))),
    }
    let (verdict, _) = wait_for("StuckStopping to be explained", ANSWER_LIMIT, || {
        Ok(system.why()?.into_iter().find(|verdict| verdict.subject.name == VM && verdict.symptom == "StuckStopping"))
    })?;
    command(&["why", VM], &system.page(&["why", VM])?);
    ensure!(
        verdict.causes.first().is_some_and(|cause| cause.chain == ["LocalDiskStalled", "QemuBlockedInKernel"]),
        "the chain is not LocalDiskStalled → QemuBlockedInKernel: {:?}",
        verdict.causes.first()
    );

    say("Doing what it says: thawing the file system. The kill that waited takes effect at once.");
    drop(frozen);
    wait_until("the incident to close", ANSWER_LIMIT, || {
        Ok(system.incidents()?.iter().all(|incident| !incident.open))
    })?;
    command(&["why"], &system.page(&["why"])?);
    command(&["incidents", "--all"], &system.page(&["incidents", "--all"])?);
    say("Done; taking everything down.");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "telling is what a demo does")]
fn say(text: &str) {
    println!("\n== {text}");
}

#[expect(clippy::print_stdout, reason = "telling is what a demo does")]
fn command(words: &[&str], page: &str) {
    println!("\n$ kulprit {}\n{}", words.join(" "), page.trim_end());
}

/// What virsh itself said.
fn last_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).rfind(|line| line.contains("error:")).unwrap_or(text.trim()).to_owned()
}
