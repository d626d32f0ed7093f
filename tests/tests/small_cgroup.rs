//! The agent in a cgroup of 20 m CPU and 32 MiB through a storm in the kernel's log and a QEMU that crashes over and over: it stays within,
//! and nothing is missing at central.
//!
//! Its worker is in a cgroup of its own beside it: libvirt's library alone takes 17 to 19 MB. The storm is the kernel's own, of links that
//! join and leave a bridge in the lab's network; `/dev/kmsg` takes from a writer no more than ten lines in five seconds, so the planted lines
//! among it come slower than that. `KULPRIT_RELEASE_BIN` names a folder with release binaries of agent and worker; without it the debug
//! build is tested, which fits as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::bench::memory_mib;
use kulprit_tests::cage::Cage;
use kulprit_tests::check::{SOON, report};
use kulprit_tests::guest::Program;
use kulprit_tests::kernel_log::KernelLog;
use kulprit_tests::system::System;
use kulprit_tests::system::answers::{Finding, Vm};
use kulprit_tests::wait::{Stopwatch, pause, wait_until};
use kulprit_tests::{Guest, Lab};
use nix::sys::signal::Signal;

const CPU_MILLIS: u64 = 20;
const MEMORY_MIB: u64 = 32;
const N_CRASHES: u64 = 10;
/// Between two planted lines: the kernel takes ten of a writer in five seconds.
const PLANT_EVERY: Duration = Duration::from_millis(600);
/// Between two gusts of the storm.
const GUST_EVERY: Duration = Duration::from_millis(100);
/// Links that join and leave the bridge in a gust; the kernel logs about seven lines for each.
const GUST_LINKS: usize = 5;
/// After the storm, until the agent has caught up and central has it all.
const SETTLED: Duration = Duration::from_secs(60);

/// What the kernel logged while it stormed.
#[derive(Default)]
struct Logged {
    /// Planted lines written, and those that the kernel took, by device.
    written: BTreeMap<String, u64>,
    taken: BTreeMap<String, u64>,
    n_lines: usize,
}

/// Storms until it is over. Each planted line names a device of its own.
fn storm(lab: &Lab, is_over: &AtomicBool) -> Result<Logged> {
    let marker = format!("kulprit{}x", std::process::id());
    lab.ip("link add storm type bridge\nlink add gust type veth peer name calm\n")?;
    let gust = "link set gust master storm\nlink set gust nomaster\n".repeat(GUST_LINKS);
    let mut log = KernelLog::from_now()?;
    let (mut logged, clock) = (Logged::default(), Stopwatch::start());
    while !is_over.load(Ordering::Relaxed) {
        if clock.elapsed() >= PLANT_EVERY * u32::try_from(logged.written.len())? {
            let device = format!("{marker}{}", logged.written.len());
            let line = format!("<4>I/O error, dev {device}, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0");
            File::options().write(true).open("/dev/kmsg")?.write_all(line.as_bytes())?;
            logged.written.insert(device, 1);
        }
        lab.ip(&gust)?;
        for line in log.new_lines()? {
            logged.n_lines += 1;
            let device = line.strip_prefix("I/O error, dev ").and_then(|rest| rest.split(',').next());
            if let Some(device) = device.filter(|device| device.starts_with(&marker)) {
                *logged.taken.entry(device.to_owned()).or_default() += 1;
            }
        }
        pause(GUST_EVERY);
    }
    Ok(logged)
}

/// Kills the guest's QEMU and starts it again, over and over.
fn crash(guest: &Guest<'_>) -> Result<()> {
    for n in 0..N_CRASHES {
        if n > 0 {
            guest.start()?;
        }
        guest.signal(Signal::SIGKILL)?;
        guest.wait_for_state("shut off (crashed)", SOON)?;
    }
    Ok(())
}

/// What central's history has of this code.
fn history(system: &System, code: &str) -> Result<Vec<Finding>> {
    system.findings(&["--code", code, "--since", "1h"])
}

#[test]
fn a_small_agent_misses_nothing_in_a_storm() -> Result<()> {
    let release = std::env::var_os("KULPRIT_RELEASE_BIN").map(PathBuf::from);
    let build = if release.is_some() { "release" } else { "debug" };
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    let uuid = node.virsh(&["domuuid", guest.name()])?.trim().to_owned();
    let cage = Cage::new(CPU_MILLIS, MEMORY_MIB, release.as_deref())?;
    let mut system = System::start(&lab, "")?;
    let clock = Stopwatch::start();
    system.watch_in(&node, &cage)?;
    report("the small agent's start", clock.elapsed());
    let is_known = |vm: &Vm| vm.name == guest.name() && vm.qemu_pid.is_some() && vm.qemu_pid == guest.qemu_pid();
    let took = wait_until("the small agent to see the QEMU", SETTLED, || Ok(system.vms()?.iter().any(is_known)));
    report("the QEMU is seen", took.with_context(|| system.logs())?);
    let pid = *system.agent_family()?.first().context("the agent runs")?;

    let (is_over, clock, before) = (AtomicBool::new(false), Stopwatch::start(), cage.figures()?);
    let logged = thread::scope(|scope| {
        let stormy = scope.spawn(|| storm(&lab, &is_over));
        let crashed = crash(&guest);
        is_over.store(true, Ordering::Relaxed);
        let logged = stormy.join().expect("a storm does not panic");
        crashed.and(logged)
    })
    .with_context(|| system.logs())?;
    let took = clock.elapsed();
    ensure!(logged.taken == logged.written, "the kernel took {:?} of {:?}", logged.taken, logged.written);

    let planted = || -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        for finding in history(&system, "BlockIoError")? {
            let device = finding.attributes["device_name"].as_str().unwrap_or_default().to_owned();
            if logged.written.contains_key(&device) {
                *counts.entry(device).or_default() += finding.count.unwrap_or(1);
            }
        }
        Ok(counts)
    };
    // Each with how many there were until then.
    let counts_of = |code: &str| -> Result<BTreeSet<u64>> {
        let of_guest = history(&system, code)?.into_iter().filter(|finding| finding.subject.contains(&uuid));
        Ok(of_guest.filter_map(|finding| finding.count).collect())
    };
    // libvirt tells of all, the kernel of each QEMU that was seen: one may be killed before.
    let deaths = || -> Result<[BTreeSet<u64>; 2]> { Ok([counts_of("DomainFailed")?, counts_of("QemuExited")?]) };
    let are_all = |[told, seen]: &[BTreeSet<u64>; 2]| {
        told.iter().copied().eq(1..=N_CRASHES)
            && !seen.is_empty()
            && seen.iter().copied().zip(1..).all(|(n, want)| n == want)
    };
    let all = wait_until("all lines and deaths at central", SETTLED, || {
        Ok(planted()? == logged.written && are_all(&deaths()?))
    });
    let caught_up = all.with_context(|| {
        format!("{:?} of {:?}, {:?} deaths: {}", planted(), logged.written, deaths(), system.logs())
    })?;
    ensure!(history(&system, "KernelLogLost")?.is_empty(), "it read too slowly");
    ensure!(system.agent_family()?.first() == Some(&pid), "the agent is another one");

    let now = cage.figures()?;
    let (resident_mib, _) = memory_mib(pid)?;
    println!(
        "small cgroup ({build} build, {CPU_MILLIS} m CPU, {MEMORY_MIB} MiB): {} lines in {:.0} s, {} planted, {N_CRASHES} deaths ({} of a \
         QEMU that was seen), all at central {:.1} s later; {:.1} m CPU, {} periods throttled; {:.1} MiB charged at most, {:.1} of its own, {resident_mib:.1} resident \
         with its binary, {} reclaims, {} OOM kills",
        logged.n_lines,
        took.as_secs_f64(),
        logged.written.len(),
        deaths()?[1].len(),
        caught_up.as_secs_f64(),
        f64::from(u32::try_from((now.cpu_nsec - before.cpu_nsec) / 1000)?) / 1e3 / (took + caught_up).as_secs_f64(),
        now.throttled - before.throttled,
        mib(now.most_bytes)?,
        mib(now.anonymous_bytes)?,
        now.reclaims,
        now.oom_kills
    );
    ensure!(now.oom_kills == 0, "{now:?}");
    report("the small agent has ended", system.stop_agent()?);
    Ok(())
}

fn mib(bytes: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(bytes >> 10)?) / 1024.0)
}
