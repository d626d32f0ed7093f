//! Migrations between two lab nodes: real ones, which converge or not by choice, and fail as their fault says.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{SOON, assert_contains, report};
use kulprit_tests::disk::FileDisk;
use kulprit_tests::fault::network::{MIGRATION_PORTS, PortsDropped};
use kulprit_tests::guest::Program;
use kulprit_tests::migration::{Ended, How, Migration};
use kulprit_tests::wait::{pause, wait_until};
use kulprit_tests::{Guest, Lab, Node, process};
use nix::sys::signal::Signal;

/// Dirties about 75 MiB/s.
const BUSY: Program = Program::Eater { mib: 128, delay: 100 };
/// Less than it dirties.
const TOO_SLOW: How = How { mib_per_sec: Some(16), copies_storage: false };

fn two_nodes() -> Result<[Node; 2]> {
    let lab = Lab::open()?;
    Ok([lab.node("n1").start()?, lab.node("n2").start()?])
}

#[test]
fn an_idle_guest_arrives_with_its_shared_disk() -> Result<()> {
    let [n1, n2] = two_nodes()?;
    let disk = FileDisk::create_shared(&[&n1, &n2], "shared", 64)?;
    let guest = Guest::define(&n1, "db-0", Program::Idle).disk_on(&disk).start()?;
    let mut migration = Migration::start(&guest, &n2, How::default())?;
    report("arrived", migration.wait_until_arrived(SOON)?);
    assert_eq!(guest.node().name(), "n2");
    assert_eq!(guest.state()?, "running (migrated)");
    assert!(!n1.virsh(&["list", "--all"])?.contains("db-0"), "the source has forgotten it");
    Ok(())
}

#[test]
fn a_guest_that_dirties_faster_than_is_sent_goes_on_until_aborted() -> Result<()> {
    let [n1, n2] = two_nodes()?;
    let disk = FileDisk::create_shared(&[&n1, &n2], "shared", 64)?;
    let guest = Guest::define(&n1, "db-0", BUSY).disk_on(&disk).start()?;
    let mut migration = Migration::start(&guest, &n2, TOO_SLOW)?;
    migration.wait_until_sending(SOON)?;
    pause(Duration::from_secs(20));
    assert_eq!(migration.ended()?, None, "{}", migration.job()?);
    migration.abort()?;
    let Ended::Failed(why) = migration.wait(SOON)? else { panic!("it arrived") };
    assert_contains(&why, "cancel");
    // The reason is libvirt's own: `booted` when the guest was never paused, `migration canceled` when the end had begun.
    assert!(guest.state()?.starts_with("running"), "{}", guest.state()?);
    Ok(())
}

#[test]
fn dropped_ports_leave_a_migration_without_a_byte() -> Result<()> {
    let [n1, n2] = two_nodes()?;
    let disk = FileDisk::create_shared(&[&n1, &n2], "shared", 64)?;
    let guest = Guest::define(&n1, "db-0", Program::Idle).disk_on(&disk).start()?;
    let dropped = PortsDropped::new(&n2, MIGRATION_PORTS)?;
    let mut migration = Migration::start(&guest, &n2, How::default())?;
    pause(Duration::from_secs(5));
    assert_eq!(migration.ended()?, None, "{}", migration.job()?);
    drop(dropped);
    report("arrived once the ports are open", migration.wait_until_arrived(SOON)?);
    Ok(())
}

#[test]
fn a_migration_fails_when_its_target_dies() -> Result<()> {
    let [n1, n2] = two_nodes()?;
    let disk = FileDisk::create_shared(&[&n1, &n2], "shared", 64)?;
    let guest = Guest::define(&n1, "db-0", BUSY).disk_on(&disk).start()?;
    let mut migration = Migration::start(&guest, &n2, TOO_SLOW)?;
    migration.wait_until_sending(SOON)?;
    process::signal(migration.target_qemu_pid().context("it waits on the target")?, Signal::SIGKILL)?;
    let Ended::Failed(why) = migration.wait(SOON)? else { panic!("it arrived") };
    println!("lab: {why}");
    wait_until("the guest to run on", SOON, || Ok(guest.state()?.starts_with("running")))?;
    Ok(())
}
