//! Faults of guests and their storage, explained by Kulprit: the right cause first, of the right VM, and gone by itself when undone.

use anyhow::{Context as _, Result};
use kulprit_tests::Guest;
use kulprit_tests::disk::{Failing, FileDisk};
use kulprit_tests::fault::{Hung, MemoryLimit};
use kulprit_tests::guest::Program;
use kulprit_tests::scenario::{Expected, Stage};
use kulprit_tests::wait::Stopwatch;
use nix::sys::signal::Signal;

const WRITER: Program = Program::Writer { bursts: 4 };

#[test]
fn a_killed_qemu_is_named() -> Result<()> {
    check_death("killed", Signal::SIGKILL, "QemuKilled")
}

#[test]
fn a_crashed_qemu_is_named() -> Result<()> {
    check_death("crashed", Signal::SIGSEGV, "QemuCrashed")
}

fn check_death(name: &str, by: Signal, cause: &str) -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let guest = stage.seen(Guest::define(&stage.node, name, Program::Idle).start()?)?;
        let expected = Expected {
            fault: &format!("QEMU {by}"),
            vm: Some(name),
            finding: "QemuExited",
            symptom: "StoppedUnexpectedly",
            chain: &[cause],
            also: &[],
        };
        let fault = Stopwatch::start();
        guest.signal(by)?;
        let verdict = expected.wait_for_verdict(stage, fault)?;
        assert!(verdict.causes.first().context("it is met")?.safe_to_force_delete, "no QEMU lives");
        guest.start()?;
        expected.wait_until_clear(stage, Stopwatch::start())?;
        stage.end(guest)?;
        stage.end(well)
    })
}

#[test]
fn a_qemu_out_of_memory_is_named() -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let guest =
            stage.seen(Guest::define(&stage.node, "eater", Program::Eater { mib: 512, delay: 100 }).start()?)?;
        let expected = Expected {
            fault: "QEMU beyond its memory limit",
            vm: Some("eater"),
            finding: "MemcgOomKill",
            symptom: "StoppedUnexpectedly",
            chain: &["QemuOutOfMemory"],
            also: &[],
        };
        let fault = Stopwatch::start();
        let limit = MemoryLimit::new(&guest, 32)?;
        let verdict = expected.wait_for_verdict(stage, fault)?;
        assert!(verdict.causes.first().context("it is met")?.safe_to_force_delete, "no QEMU lives");
        drop(limit);
        guest.start()?;
        expected.wait_until_clear(stage, Stopwatch::start())?;
        stage.end(guest)?;
        stage.end(well)
    })
}

#[test]
fn a_frozen_disk_is_named_behind_a_qemu_that_cannot_be_destroyed() -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let disk = FileDisk::create(&stage.node, "frozen", 64)?;
        let guest = stage.seen(Guest::define(&stage.node, "writer", WRITER).disk_on(&disk).start()?)?;
        let expected = Expected {
            fault: "disk frozen",
            vm: Some("writer"),
            finding: "VmDiskStalled",
            symptom: "Unresponsive",
            chain: &["LocalDiskStalled", "QemuBlockedInKernel"],
            also: &[],
        };
        let fault = Stopwatch::start();
        let frozen = disk.freeze()?;
        expected.wait_for_verdict(stage, fault)?;

        let expected = Expected {
            fault: "disk frozen, destroy fails",
            finding: "QemuTerminationPending",
            symptom: "StuckStopping",
            ..expected
        };
        let fault = Stopwatch::start();
        let mut destroy = stage.node.spawn(&["virsh", "destroy", "writer"])?;
        let verdict = expected.wait_for_verdict(stage, fault)?;
        assert!(!verdict.causes.first().context("it is met")?.safe_to_force_delete, "QEMU will write when it can");
        assert!(!destroy.child().wait()?.success(), "nobody can kill it");
        assert!(expected.is_still_so(stage)?);
        println!("{}", stage.system.page(&["why", "writer"])?);
        let undo = Stopwatch::start();
        drop(frozen);
        expected.wait_until_clear(stage, undo)?;
        stage.end(guest)?;
        stage.end(well)
    })
}

#[test]
fn a_disk_with_errors_is_named_behind_a_pause() -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let disk = FileDisk::create(&stage.node, "broken", 64)?;
        let guest = stage.seen(Guest::define(&stage.node, "writer-eio", WRITER).disk_on(&disk).start()?)?;
        let expected = Expected {
            fault: "disk answers EIO",
            vm: Some("writer-eio"),
            finding: "DomainIoError",
            symptom: "PausedUnexpectedly",
            chain: &["DiskIoError"],
            also: &[],
        };
        let fault = Stopwatch::start();
        let broken = disk.fail(Failing::All)?;
        expected.wait_for_verdict(stage, fault)?;
        let undo = Stopwatch::start();
        drop(broken);
        guest.virsh("resume")?;
        expected.wait_until_clear(stage, undo)?;
        stage.end(guest)?;
        stage.end(well)
    })
}

#[test]
fn a_full_volume_is_named_behind_a_pause() -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let disk = FileDisk::create(&stage.node, "full", 64)?;
        let guest = stage.seen(Guest::define(&stage.node, "writer-full", WRITER).disk_on(&disk).start()?)?;
        let expected = Expected {
            fault: "volume full",
            vm: Some("writer-full"),
            finding: "DomainIoError",
            symptom: "PausedUnexpectedly",
            chain: &["VolumeOutOfSpace"],
            also: &[],
        };
        let fault = Stopwatch::start();
        let filled = disk.fill(2048)?;
        expected.wait_for_verdict(stage, fault)?;
        let undo = Stopwatch::start();
        drop(filled);
        guest.virsh("resume")?;
        expected.wait_until_clear(stage, undo)?;
        stage.end(guest)?;
        stage.end(well)
    })
}

#[test]
fn a_stopped_qemu_is_named_when_somebody_waits_for_it() -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let guest = stage.seen(Guest::define(&stage.node, "stopped", Program::Idle).start()?)?;
        let expected = Expected {
            fault: "QEMU SIGSTOP",
            vm: Some("stopped"),
            finding: "DomainControlOccupied",
            symptom: "Unresponsive",
            chain: &["QemuMonitorHung"],
            also: &[],
        };
        let fault = Stopwatch::start();
        let hung = Hung::qemu(&guest)?;
        let waiting =
            stage.node.spawn(&["virsh", "qemu-monitor-command", "stopped", "{\"execute\":\"query-status\"}"])?;
        expected.wait_for_verdict(stage, fault)?;
        let undo = Stopwatch::start();
        drop(hung);
        expected.wait_until_clear(stage, undo)?;
        drop(waiting);
        stage.end(guest)?;
        stage.end(well)
    })
}

#[test]
fn a_guest_that_ignores_the_power_button_is_named() -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let guest = stage.seen(Guest::define(&stage.node, "deaf", Program::Idle).start()?)?;
        let expected = Expected {
            fault: "guest ignores ACPI",
            vm: Some("deaf"),
            finding: "GuestShutdownRequested",
            symptom: "StuckStopping",
            chain: &["GuestIgnoresShutdown"],
            also: &[],
        };
        let fault = Stopwatch::start();
        guest.virsh("shutdown")?;
        expected.wait_for_verdict(stage, fault)?;
        let undo = Stopwatch::start();
        guest.virsh("destroy")?;
        expected.wait_until_clear(stage, undo)?;
        stage.end(guest)?;
        stage.end(well)
    })
}
