//! The watcher is never the fault: a QEMU that hangs, a disk that is frozen, a launcher pod that goes, each under the eyes of a real agent
//! with its worker.
//!
//! In each the agent holds nothing that others wait for: no domain's job (libvirt's own log of jobs is the judge, and what other clients of
//! libvirt are answered meanwhile), no mount and no namespace (the kernel's: unmount and removal succeed at once), and it ends on SIGTERM
//! within its drain. The lab's guests have no balloon, so the user's job is a query of a disk's figures, which asks QEMU as well.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::report;
use kulprit_tests::disk::FileDisk;
use kulprit_tests::fault::Hung;
use kulprit_tests::guest::Program;
use kulprit_tests::system::System;
use kulprit_tests::wait::{Stopwatch, pause, wait_until};
use kulprit_tests::{Guest, Lab, Launcher, Node};

/// Longer than the hold of any finding here (30 s) and the looks around it.
const LATE: Duration = Duration::from_secs(60);
/// Longer than two looks of the worker (5 s) and the slow beat of what is suspect.
const WATCHED: Duration = Duration::from_secs(16);
/// What answers at once does so within this, on a busy machine; who waits for a job waits 30 s.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The agent's drain.
const DRAIN: Duration = Duration::from_secs(10);
/// Where the node's libvirt notes the jobs of its domains.
const JOBS: &str = "run/lab-jobs.log";

/// Whether central knows this of a VM.
fn is_present(system: &System, vm: &str, code: &str) -> Result<bool> {
    let is_it = |finding: &kulprit_tests::system::answers::Finding| {
        finding.vm == vm && finding.code == code && finding.status.as_deref() == Some("Present")
    };
    Ok(system.findings(&[])?.iter().any(is_it))
}

fn wait_for_finding(system: &System, vm: &str, code: &str) -> Result<()> {
    let took = wait_until(code, LATE, || is_present(system, vm, code)).with_context(|| system.logs())?;
    report(code, took);
    Ok(())
}

/// Has the node's libvirt note each job of a domain from now on.
fn note_jobs(node: &Node) -> Result<()> {
    node.run(&["virt-admin", "daemon-log-outputs", &format!("1:file:/{JOBS}")])?;
    node.run(&["virt-admin", "daemon-log-filters", "1:conf.virdomainjob"])?;
    Ok(())
}

/// The jobs that libvirt began since [`note_jobs`].
fn jobs(node: &Node) -> Result<Vec<String>> {
    let log = fs::read_to_string(node.root().join(JOBS)).context("libvirt's log of jobs")?;
    Ok(log.lines().filter(|line| line.contains("Starting job: ")).map(str::to_owned).collect())
}

/// Lets the agent watch with nobody else at libvirt, and shows that no job was begun of any domain since before the fault. Then somebody else asks: of the sick
/// domain what libvirt knows itself, of the healthy one what its QEMU must be asked for, and is answered at once.
fn check_jobs(node: &Node, sick: &str, healthy: &str) -> Result<()> {
    pause(WATCHED);
    let begun = jobs(node)?;
    ensure!(begun.is_empty(), "somebody began jobs while only the agent watched: {begun:#?}");
    for line in [
        ["domcontrol", sick].as_slice(),
        &["dominfo", sick],
        &["domstats", "--state", sick],
        &["domjobinfo", sick],
        &["domblkstat", healthy, "vda"],
        &["domjobinfo", healthy],
    ] {
        let clock = Stopwatch::start();
        let said = node.virsh(line)?;
        ensure!(clock.elapsed() < AT_ONCE, "`virsh {}` took {:?}", line.join(" "), clock.elapsed());
        ensure!(line[0] != "domcontrol" || said.trim() == "ok", "{sick} is held: {said}");
    }
    let user = jobs(node)?;
    ensure!(user.iter().any(|job| job.contains(healthy)), "libvirt's log misses a user's job: {user:#?}");
    Ok(())
}

/// What must not be kept busy.
struct Kept<'a> {
    /// Parts of paths.
    paths: &'a [&'a str],
    /// Number of a block device with a file system.
    device: u64,
    /// A process whose namespaces are not to be held: as links, read while it lived.
    namespaces: &'a [String],
}

impl Kept<'_> {
    /// What these processes keep of it: open files, folders, mapped files, namespaces, and mounts in a mount namespace of their own.
    fn by(&self, pids: &[i32]) -> Vec<String> {
        let ours = fs::read_link("/proc/self/ns/mnt").ok();
        let mut kept = Vec::new();
        for pid in pids {
            let process = Path::new("/proc").join(pid.to_string());
            let in_fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
            let in_ns = fs::read_dir(process.join("ns")).into_iter().flatten().flatten().map(|entry| entry.path());
            for link in in_fds.chain(in_ns).chain([process.join("cwd"), process.join("root")]) {
                let to = fs::read_link(&link).map(|to| to.to_string_lossy().into_owned()).unwrap_or_default();
                let is_on_device = fs::metadata(&link).is_ok_and(|metadata| metadata.dev() == self.device);
                if is_on_device || self.names(&to) || self.namespaces.contains(&to) {
                    kept.push(format!("{}: {to}", link.display()));
                }
            }
            let own_mounts = fs::read_link(process.join("ns/mnt")).ok() != ours;
            for table in ["maps", "mountinfo"].into_iter().filter(|table| *table == "maps" || own_mounts) {
                let text = fs::read_to_string(process.join(table)).unwrap_or_default();
                kept.extend(text.lines().filter(|line| self.names(line)).map(|line| format!("{pid} {table}: {line}")));
            }
        }
        kept
    }

    fn names(&self, text: &str) -> bool {
        self.paths.iter().any(|path| text.contains(path))
    }

    /// Shows that the agent keeps nothing of it for longer than a look takes.
    fn check_free(&self, system: &System) -> Result<()> {
        let mut kept = Vec::new();
        let is_free = || {
            kept = self.by(&system.agent_family()?);
            Ok(kept.is_empty())
        };
        let took = wait_until("the agent to hold nothing", AT_ONCE, is_free);
        took.map(drop).with_context(|| format!("{kept:#?}"))
    }
}

fn number_of(device: &str) -> Result<u64> {
    Ok(fs::metadata(device)?.rdev())
}

fn stop_within_drain(system: &mut System) -> Result<()> {
    let took = system.stop_agent()?;
    report("the agent has ended", took);
    ensure!(took < DRAIN, "{took:?}");
    Ok(())
}

#[test]
fn a_hung_qemu_is_left_to_others_and_the_agent_ends() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let sick = Guest::define(&node, "db-0", Program::Idle).start()?;
    let _well = Guest::define(&node, "db-1", Program::Idle).start()?;
    let mut system = System::start(&lab, "")?;
    system.watch(&node)?;
    note_jobs(&node)?;
    let _hung = Hung::qemu(&sick)?;
    wait_for_finding(&system, "db-0", "QemuStopped")?;
    check_jobs(&node, "db-0", "db-1")?;
    stop_within_drain(&mut system)
}

#[test]
fn a_frozen_disk_is_not_held_and_the_agent_ends() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let disk = FileDisk::create(&node, "data", 64)?;
    let sick = Guest::define(&node, "db-0", Program::Writer { bursts: 4 }).disk_on(&disk).start()?;
    let _well = Guest::define(&node, "db-1", Program::Idle).start()?;
    let mut system = System::start(&lab, "")?;
    system.watch(&node)?;
    note_jobs(&node)?;
    let frozen = disk.freeze()?;
    wait_for_finding(&system, "db-0", "VmDiskStalled")?;
    check_jobs(&node, "db-0", "db-1")?;
    stop_within_drain(&mut system)?;

    // One that starts while it is frozen comes up, and holds as little.
    system.watch(&node)?;
    let kept = Kept { paths: &["/var/lib/lab/data"], device: number_of(disk.device())?, namespaces: &[] };
    let open = File::open(sick.image_here())?;
    ensure!(!kept.by(&[i32::try_from(std::process::id())?]).is_empty(), "an open file on the disk is not seen");
    drop(open);
    kept.check_free(&system)?;
    drop(frozen);
    drop(sick);
    disk.detach().context("the agent runs, and the disk is to go")?;
    stop_within_drain(&mut system)
}

#[test]
fn a_removed_launcher_is_let_go_and_the_agent_ends() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").without_libvirt().start()?;
    let disk = FileDisk::create(&node, "volume", 64)?;
    let going = Launcher::define(&node, "prod", "db-0")?.disk_on(&disk).start()?;
    let staying = Launcher::start(&node, "prod", "db-1")?;
    let mut system = System::start(&lab, "")?;
    system.watch(&node)?;
    let runs = |name: &str| Ok(system.vms()?.iter().any(|vm| vm.name == name && vm.state == "running"));
    for name in ["prod/db-0", "prod/db-1"] {
        wait_until(name, LATE, || runs(name)).with_context(|| system.logs())?;
    }

    let pod = node.root().join("var/lib/kubelet/pods").join(going.pod_uid());
    let process = Path::new("/proc").join(going.monitor_pid().to_string());
    let namespaces = ["mnt", "net", "pid", "uts", "ipc"]
        .map(|kind| fs::read_link(process.join("ns").join(kind)).map(|link| link.to_string_lossy().into_owned()));
    let namespaces = namespaces.into_iter().collect::<Result<Vec<_>, _>>()?;
    let uid = going.pod_uid().to_owned();
    let kept = Kept {
        paths: &["/var/lib/lab/volume", &uid, "vmi-disks"],
        device: number_of(disk.device())?,
        namespaces: &namespaces,
    };
    let open = File::open(process.join("ns/net"))?;
    ensure!(!kept.by(&[i32::try_from(std::process::id())?]).is_empty(), "an open namespace is not seen");
    drop(open);
    kept.check_free(&system)?;

    drop(going);
    ensure!(!pod.exists(), "the pod's folder stays: {:?}", fs::read_dir(&pod)?.flatten().collect::<Vec<_>>());
    disk.detach().context("the agent runs, and the volume is to go")?;
    kept.check_free(&system)?;
    let clock = Stopwatch::start();
    staying.virsh(&["domblkstat", &staying.domain(), "vda"])?;
    ensure!(clock.elapsed() < AT_ONCE, "the other launcher's libvirt took {:?}", clock.elapsed());
    let only_other = || Ok(!runs("prod/db-0")? && runs("prod/db-1")?);
    wait_until("one VM", LATE, only_other).with_context(|| system.logs())?;
    stop_within_drain(&mut system)
}
