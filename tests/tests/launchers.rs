//! What an agent sees of launchers: each found on the host and named by its VMI, its libvirt asked apart from others', and nothing of a
//! pod held when that goes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{assert_contains, report};
use kulprit_tests::fault::Hung;
use kulprit_tests::system::System;
use kulprit_tests::system::answers::Finding;
use kulprit_tests::wait::wait_until;
use kulprit_tests::{Lab, Launcher, programs, shell};

/// Longer than the hold of any finding here (30 s) and the looks around it.
const LATE: Duration = Duration::from_secs(60);

/// What is said of a launcher with this code; every word of it, of any status.
fn said(system: &System, launcher: &Launcher<'_>, code: &str) -> Result<Vec<Finding>> {
    let uid = launcher.vmi_uid();
    let is_its = |finding: &Finding| finding.code == code && finding.subject.contains(uid);
    Ok(system.findings(&["--all"])?.into_iter().filter(is_its).collect())
}

fn is(system: &System, launcher: &Launcher<'_>, code: &str, status: &str) -> Result<bool> {
    Ok(said(system, launcher, code)?.iter().any(|finding| finding.status.as_deref() == Some(status)))
}

/// What the agent and its worker have open; both are children of this process.
fn open_paths() -> Result<Vec<PathBuf>> {
    let own = i32::try_from(std::process::id())?;
    let agent = programs::child_of(own, "kulprit-agent").context("the agent runs")?;
    let worker = programs::child_of(agent, "kulprit-agent").context("its worker runs")?;
    let mut paths = Vec::new();
    for pid in [agent, worker] {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            paths.extend(fs::read_link(entry?.path()));
        }
    }
    Ok(paths)
}

#[test]
fn launchers_are_watched_each_for_itself_and_leave_without_a_trace() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").without_libvirt().start()?;
    let first = Launcher::start(&node, "prod", "db-0")?;
    let second = Launcher::define(&node, "prod", "db-1")?.non_root().start()?;
    let mut system = System::start(&lab, "")?;
    system.watch(&node)?;

    let names = || -> Result<Vec<String>> {
        let running = system.vms()?.into_iter().filter(|vm| vm.state == "running");
        Ok(running.map(|vm| vm.name).collect())
    };
    let both = || Ok(names()? == ["prod/db-0", "prod/db-1"]);
    report("both VMs by their names", wait_until("both VMs", LATE, both).with_context(|| system.logs())?);
    for launcher in [&first, &second] {
        for code in ["LibvirtUnresponsive", "LibvirtUnreachable", "LauncherDefunct", "SoftwareEmulation", "TwoQemus"] {
            wait_until(code, LATE, || is(&system, launcher, code, "Absent")).with_context(|| system.logs())?;
        }
    }

    let hung = Hung::process(first.libvirt_pid().context("it runs")?)?;
    let took = wait_until("a hung libvirt", LATE, || is(&system, &first, "LibvirtUnresponsive", "Present"));
    report("a launcher's hung libvirt", took.with_context(|| system.logs())?);
    assert!(is(&system, &second, "LibvirtUnresponsive", "Absent")?, "the other one answers");
    drop(hung);
    let took = wait_until("libvirt again", LATE, || is(&system, &first, "LibvirtUnresponsive", "Absent"));
    report("and again well", took.with_context(|| system.logs())?);

    let hung = Hung::process(first.launcher_pid().context("it runs")?)?;
    let took = wait_until("a defunct launcher", LATE, || is(&system, &first, "LauncherDefunct", "Present"));
    report("a stopped launcher, after its hold of 30 s", took.with_context(|| system.logs())?);
    assert!(is(&system, &second, "LauncherDefunct", "Absent")?);
    drop(hung);
    let took = wait_until("the launcher again", LATE, || is(&system, &first, "LauncherDefunct", "Absent"));
    report("and again well", took.with_context(|| system.logs())?);

    let paths = open_paths()?;
    let in_pod = |path: &&PathBuf| path.starts_with("/run/libvirt") || path.to_string_lossy().contains("kubernetes.io");
    assert_eq!(paths.iter().find(in_pod), None, "nothing of a pod is open: {paths:?}");
    let uid = second.vmi_uid().to_owned();
    drop(second);
    let is_gone = || Ok(names()? == ["prod/db-0"]);
    report("the other launcher gone", wait_until("one VM", LATE, is_gone).with_context(|| system.logs())?);
    // The death of its QEMU stays in memory, as an occurrence.
    let is_left = |finding: &Finding| finding.subject.contains(&uid) && finding.status.is_some();
    let left: Vec<Finding> = system.findings(&["--all"])?.into_iter().filter(is_left).collect();
    assert!(left.is_empty(), "nothing is said of it any more: {left:?}");
    assert_contains(&format!("{:?}", said(&system, &first, "LibvirtUnreachable")?), "Absent");

    wait_until("its links", LATE, || is(&system, &first, "VmLinkLost", "Absent")).with_context(|| system.logs())?;
    let of = format!("--net=/proc/{}/ns/net", first.monitor_pid());
    shell::run(&["nsenter", &of, "--", "ip", "link", "delete", "tap0"])?;
    let took = wait_until("a lost tap", LATE, || is(&system, &first, "VmLinkLost", "Present"));
    report("a tap that was deleted under its QEMU", took.with_context(|| system.logs())?);
    Ok(())
}
