//! The lab's faults of storage and of QEMU: each is the real thing, shows where it should, and is undone by its guard.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{SOON, assert_contains, failure, report};
use kulprit_tests::disk::{Failing, FileDisk};
use kulprit_tests::fault::{Hung, MemoryLimit};
use kulprit_tests::guest::Program;
use kulprit_tests::kernel_log::KernelLog;
use kulprit_tests::wait::{Stopwatch, pause, wait_for, wait_until};
use kulprit_tests::{Guest, Lab, Node, process};
use nix::sys::signal::Signal;

fn writer_on<'node>(node: &'node Node, disk: &FileDisk) -> Result<Guest<'node>> {
    let guest = Guest::define(node, "db-0", Program::Writer { bursts: 4 }).disk_on(disk).define()?;
    report("guest start", guest.start()?);
    Ok(guest)
}

#[test]
fn a_frozen_disk_puts_qemu_into_d_and_destroy_fails() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let guest = writer_on(&node, &disk)?;
    let pid = guest.qemu_pid().context("it runs")?;
    let frozen = disk.freeze()?;
    let (stuck, took) = wait_for("a thread of QEMU in D", SOON, || {
        Ok(process::threads(pid).into_iter().find(|thread| thread.state == 'D'))
    })?;
    report("QEMU in D", took);
    println!("lab: {} sleeps in {}", stuck.comm, stuck.wchan);
    pause(Duration::from_secs(1));
    assert!(process::threads(pid).contains(&stuck), "the same thread still sleeps in the same place");
    let clock = Stopwatch::start();
    let error = failure(node.run_within(60, &["virsh", "destroy", "db-0"]));
    report("virsh destroy failed", clock.elapsed());
    println!("lab: {error}");
    assert!(process::threads(pid).iter().any(|thread| thread.state == 'D'));
    drop(frozen);
    report("QEMU gone after the thaw", wait_until("QEMU to end", SOON, || Ok(!process::is_alive(pid)))?);
    Ok(())
}

#[test]
fn a_broken_disk_pauses_the_domain_and_it_goes_on_when_undone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let guest = writer_on(&node, &disk)?;
    let mut log = KernelLog::from_now()?;
    let broken = disk.fail(Failing::All)?;
    report("paused by EIO", guest.wait_for_state("paused (I/O error)", SOON)?);
    assert_contains(&log.new_lines()?.join("\n"), "attempt to access beyond end of device");
    assert_contains(&guest.virsh("domblkerror")?, "vda: unspecified error");
    drop(broken);
    resumes_and_writes(&guest)
}

#[test]
fn failing_reads_pause_the_domain_and_the_kernel_names_the_device() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let guest = Guest::define(&node, "db-0", Program::Reader { bursts: 4 }).disk_on(&disk).allocated().start()?;
    let mut log = KernelLog::from_now()?;
    let broken = disk.fail(Failing::Reads)?;
    report("paused by EIO", guest.wait_for_state("paused (I/O error)", SOON)?);
    let name = disk.device().trim_start_matches("/dev/");
    assert_contains(&log.new_lines()?.join("\n"), &format!("I/O error, dev {name}, sector"));
    drop(broken);
    guest.virsh("resume")?;
    assert_eq!(guest.state()?, "running (unpaused)");
    Ok(())
}

#[test]
fn a_full_disk_pauses_the_domain_and_it_goes_on_when_undone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let filled = disk.fill(2048)?;
    let guest = writer_on(&node, &disk)?;
    report("paused by ENOSPC", guest.wait_for_state("paused (I/O error)", SOON)?);
    assert_contains(&guest.virsh("domblkerror")?, "vda: no space");
    drop(filled);
    resumes_and_writes(&guest)
}

fn resumes_and_writes(guest: &Guest<'_>) -> Result<()> {
    guest.virsh("resume")?;
    let pid = guest.qemu_pid().context("it runs")?;
    let before = process::written_bytes(pid)?;
    wait_until("the guest to write on", SOON, || Ok(process::written_bytes(pid)? > before + (1 << 20)))?;
    assert_eq!(guest.state()?, "running (unpaused)");
    Ok(())
}

#[test]
fn a_killed_qemu_leaves_a_crashed_domain() -> Result<()> {
    check_death(Signal::SIGKILL)
}

#[test]
fn a_segfaulting_qemu_leaves_a_crashed_domain() -> Result<()> {
    check_death(Signal::SIGSEGV)
}

fn check_death(by: Signal) -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    guest.signal(by)?;
    report(&format!("libvirt sees {by}"), guest.wait_for_state("shut off (crashed)", SOON)?);
    Ok(())
}

#[test]
fn a_hung_qemu_holds_up_who_asks_its_monitor() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    let hung = Hung::qemu(&guest)?;
    let _waiting = node.spawn(&["virsh", "qemu-monitor-command", "db-0", "{\"execute\":\"query-status\"}"])?;
    let took = wait_until("the monitor to be occupied", SOON, || Ok(guest.virsh("domcontrol")?.contains("occupied")))?;
    report("domcontrol occupied", took);
    assert_eq!(guest.state()?, "running (booted)", "libvirt itself sees nothing wrong");
    drop(hung);
    wait_until("the monitor to answer", SOON, || Ok(guest.virsh("domcontrol")?.trim() == "ok"))?;
    Ok(())
}

#[test]
fn a_guest_beyond_its_memory_limit_is_killed_by_the_kernel() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Eater { mib: 512, delay: 100 }).start()?;
    let pid = guest.qemu_pid().context("it runs")?;
    let mut log = KernelLog::from_now()?;
    let _limit = MemoryLimit::new(&guest, 32)?;
    report("killed by its memory cgroup", wait_until("QEMU to end", SOON, || Ok(!process::is_alive(pid)))?);
    let lines = log.new_lines()?.join("\n");
    assert_contains(&lines, &format!("Memory cgroup out of memory: Killed process {pid}"));
    guest.wait_for_state("shut off (crashed)", SOON)?;
    Ok(())
}
