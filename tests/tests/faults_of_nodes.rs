//! The lab's faults of units and devices: each is the real thing, shows where it should, stays on its node, and is undone by its guard.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{SOON, assert_contains, failure, healthz, report};
use kulprit_tests::fault::{Hung, KubeletLoops, KvmMissing, KvmMode, UnitStopped};
use kulprit_tests::guest::Program;
use kulprit_tests::wait::{Stopwatch, wait_until};
use kulprit_tests::{Guest, Lab, process};

#[test]
fn a_stopped_kubelet_is_inactive_until_undone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let clock = Stopwatch::start();
    let stopped = UnitStopped::new(&node, "kubelet.service")?;
    assert_eq!(node.unit_property("kubelet.service", "ActiveState")?, "inactive");
    assert_contains(&failure(healthz(&node)), "Connection refused");
    report("kubelet stopped", clock.elapsed());
    drop(stopped);
    report("kubelet healthy again", wait_until("healthz", SOON, || Ok(healthz(&node).is_ok_and(|text| text == "ok")))?);
    Ok(())
}

#[test]
fn a_looping_kubelet_restarts_again_and_again_until_undone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let restarts = || -> Result<u32> { Ok(node.unit_property("kubelet.service", "NRestarts")?.parse()?) };
    assert_eq!(restarts()?, 0);
    let loops = KubeletLoops::new(&node)?;
    report("kubelet restarted 3 times", wait_until("three restarts", SOON, || Ok(restarts()? >= 3))?);
    assert_eq!(node.unit_property("kubelet.service", "Result")?, "exit-code");
    drop(loops);
    report("kubelet healthy again", wait_until("healthz", SOON, || Ok(healthz(&node).is_ok_and(|text| text == "ok")))?);
    Ok(())
}

#[test]
fn a_hung_kubelet_is_active_and_answers_nothing_until_undone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let hung = Hung::unit(&node, "kubelet.service")?;
    report("kubelet in T", wait_until("state T", SOON, || Ok(process::state(hung.pid()) == Some('T')))?);
    assert_eq!(node.unit_property("kubelet.service", "ActiveState")?, "active");
    assert_contains(&failure(healthz(&node)), "exit status: 124");
    drop(hung);
    assert_eq!(healthz(&node)?, "ok");
    Ok(())
}

#[test]
fn a_missing_kvm_device_fails_starts_on_its_node_alone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).define()?;
    let before = fs::metadata("/dev/kvm")?;
    let missing = KvmMissing::new(&node)?;
    assert!(!node.root().join("dev/kvm").exists());
    assert_contains(&failure(guest.virsh("start")), "KVM");
    drop(missing);
    guest.start()?;
    let after = fs::metadata("/dev/kvm")?;
    assert_eq!((before.ino(), before.mode(), before.ctime()), (after.ino(), after.mode(), after.ctime()));
    Ok(())
}

#[test]
fn a_kvm_device_of_mode_zero_denies_qemu_on_its_node_alone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).define()?;
    let before = fs::metadata("/dev/kvm")?;
    let denied = KvmMode::new(&node, 0o000)?;
    let error = failure(guest.virsh("start"));
    // Not `Permission denied`: with `-msg timestamp=on`, as libvirt runs it, QEMU 10.0 loses the errno and says `No such file`.
    assert_contains(&error, "Could not access KVM kernel module");
    let user = ["setpriv", "--reuid=libvirt-qemu", "--regid=kvm", "--clear-groups", "head", "-c1", "/dev/kvm"];
    assert_contains(&failure(node.run(&user)), "Permission denied");
    let after = fs::metadata("/dev/kvm")?;
    assert_eq!((before.mode(), before.ctime()), (after.mode(), after.ctime()));
    drop(denied);
    guest.start()?;
    Ok(())
}

#[test]
fn a_hung_libvirt_answers_nobody_and_its_guests_run_on() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    let hung = Hung::unit(&node, "libvirtd.service")?;
    assert_contains(&failure(node.run_within(2, &["virsh", "list"])), "124");
    assert!(process::is_alive(guest.qemu_pid().context("it runs")?));
    drop(hung);
    assert_contains(&node.virsh(&["list"])?, "running");
    Ok(())
}

#[test]
fn a_stopped_libvirt_stays_stopped_and_its_guests_run_on() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    let stopped = UnitStopped::new(&node, "libvirtd.service")?;
    assert_contains(&failure(node.virsh(&["list"])), "libvirt-sock");
    assert_eq!(node.unit_property("libvirtd.service", "ActiveState")?, "inactive");
    assert!(process::is_alive(guest.qemu_pid().context("it runs")?));
    drop(stopped);
    assert_eq!(guest.state()?, "running (booted)");
    Ok(())
}
