//! The lab itself: that each node is a machine of its own, that each fault is the real thing and shows where it should, and that nothing
//! of it stays, whatever happens. The seconds each fault takes to show are printed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::disk::{Failing, FileDisk};
use kulprit_tests::fault::{Hung, KubeletLoops, KvmMissing, KvmMode, MemoryLimit, UnitStopped};
use kulprit_tests::guest::Program;
use kulprit_tests::kernel_log::KernelLog;
use kulprit_tests::wait::{Stopwatch, pause, wait_for, wait_until};
use kulprit_tests::{Guest, Lab, Node, lab, process, shell};
use nix::sys::signal::Signal;

/// Longer than any fault here takes to show on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn report(what: &str, took: Duration) {
    println!("lab: {what}: {:.2} s", took.as_secs_f64());
}

fn healthz(node: &Node<'_>) -> Result<String> {
    shell::output(node.agent_command("curl").args(["-sS", "--max-time", "2", "http://127.0.0.1:10248/healthz"]))
}

fn writer_on<'node>(node: &'node Node<'node>, disk: &FileDisk) -> Result<Guest<'node>> {
    let guest = Guest::define(node, "db-0", Program::Writer { bursts: 4 }).disk_on(disk).define()?;
    report("guest start", guest.start()?);
    Ok(guest)
}

#[track_caller]
fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in: {text}");
}

/// The error of something that must fail.
#[track_caller]
fn failure<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.expect_err("must fail"))
}

#[test]
fn a_node_is_a_machine_of_its_own() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    report("node boot", node.boot_time());
    assert_eq!(node.run(&["hostname"])?, "n1");
    assert_ne!(
        fs::read_to_string(node.root().join("etc/machine-id"))?,
        fs::read_to_string("/etc/machine-id").unwrap_or_default()
    );
    assert!(fs::metadata(node.root().join("run/dbus/system_bus_socket"))?.file_type().is_socket());
    assert!(fs::metadata(node.root().join("dev/kmsg"))?.file_type().is_char_device());
    let cgroup = node.cgroup("unified").or_else(|| node.cgroup("")).context("the node has a v2 cgroup")?;
    let line = fs::read_to_string(format!("/proc/{}/cgroup", node.leader()))?;
    assert!(cgroup.ends_with("kulprit-lab/n1") && line.contains("/kulprit-lab/n1"), "{line}");
    Ok(())
}

#[test]
fn an_agent_sees_the_node_s_network_and_the_host_s_pids() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let namespaces = "readlink /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/mnt";
    let seen = shell::output(node.agent_command("sh").args(["-c", namespaces]))?;
    let link =
        |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).map(|path| path.display().to_string());
    let leader = node.leader().to_string();
    let wanted = [link(&leader, "net")?, link("self", "pid")?, link("self", "mnt")?];
    assert_eq!(seen.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(healthz(&node)?, "ok");
    // From the lab's namespace, where central runs, the node is a host on the network.
    shell::output(lab.command("ping").args(["-c1", "-W2", node.address()])).or_else(|_| {
        shell::output(node.agent_command("sh").args(["-c", &format!("exec 3<>/dev/tcp/{}/1", lab::GATEWAY)]))
            .or_else(|error| if format!("{error:#}").contains("refused") { Ok(String::new()) } else { Err(error) })
    })?;
    Ok(())
}

#[test]
fn two_nodes_are_two_hypervisors() -> Result<()> {
    let lab = Lab::open()?;
    let (one, two) = (lab.node("n1").start()?, lab.node("n2").start()?);
    let _guest = Guest::define(&one, "db-0", Program::Idle).start()?;
    assert_contains(&one.virsh(&["list", "--name"])?, "db-0");
    assert_eq!(two.virsh(&["list", "--all", "--name"])?.trim(), "");
    let uuid = |node: &Node<'_>| node.run(&["sh", "-c", "virsh capabilities | grep -m1 uuid"]);
    assert_ne!(uuid(&one)?, uuid(&two)?);
    Ok(())
}

#[test]
fn a_stopped_kubelet_is_inactive_until_undone() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let clock = Stopwatch::start();
    let stopped = UnitStopped::new(&node, "kubelet.service")?;
    assert_eq!(node.unit_property("kubelet.service", "ActiveState")?, "inactive");
    assert_contains(&failure(healthz(&node)), "curl");
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
    assert_contains(&failure(healthz(&node)), "timed out");
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
    println!("lab: mode 0000: {error}");
    assert_contains(&error, "kvm");
    let after = fs::metadata("/dev/kvm")?;
    assert_eq!((before.mode(), before.ctime()), (after.mode(), after.ctime()));
    drop(denied);
    guest.start()?;
    Ok(())
}

#[test]
fn a_node_can_be_without_kvm_from_the_start() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").without_kvm().start()?;
    assert!(!node.root().join("dev/kvm").exists());
    Ok(())
}

#[test]
fn a_polite_guest_lives_a_normal_life() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Polite).start()?;
    for verb in ["suspend", "resume"] {
        guest.virsh(verb)?;
    }
    let saved = "/var/lib/libvirt/images/db-0.save";
    node.virsh(&["save", "db-0", saved])?;
    assert_eq!(guest.state()?, "shut off (saved)");
    node.virsh(&["restore", saved])?;
    assert_eq!(guest.state()?, "running (restored)");
    guest.virsh("shutdown")?;
    report("shutdown", guest.wait_for_state("shut off (shutdown)", SOON)?);
    assert_eq!(guest.qemu_pid(), None);
    Ok(())
}

#[test]
fn an_idle_guest_ignores_the_power_button() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    guest.virsh("shutdown")?;
    pause(Duration::from_secs(3));
    assert_eq!(guest.state()?, "running (booted)");
    Ok(())
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
    let guest = Guest::define(&node, "db-0", Program::Eater { mib: 512, delay: 40_000 }).start()?;
    let pid = guest.qemu_pid().context("it runs")?;
    let mut log = KernelLog::from_now()?;
    let _limit = MemoryLimit::new(&guest, 32)?;
    report("killed by its memory cgroup", wait_until("QEMU to end", SOON, || Ok(!process::is_alive(pid)))?);
    let lines = log.new_lines()?.join("\n");
    assert_contains(&lines, &format!("Memory cgroup out of memory: Killed process {pid}"));
    guest.wait_for_state("shut off (crashed)", SOON)?;
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

/// What there is of any lab on this machine: mounts, loop devices, cgroups, the namespace, files.
fn remains() -> Result<Vec<String>> {
    let folder = lab::folder().display().to_string();
    let mut found: Vec<String> = Vec::new();
    for table in [fs::read_to_string("/proc/self/mountinfo")?, shell::run(&["losetup", "--list"])?] {
        found.extend(table.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
    }
    for entry in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let cgroup = entry.path().join("kulprit-lab");
        if cgroup.exists() {
            found.push(cgroup.display().to_string());
        }
    }
    if Path::new("/run/netns/kulprit-lab").exists() {
        found.push("network namespace".to_owned());
    }
    for entry in fs::read_dir(&folder)?.flatten().filter(|entry| entry.file_name() != "lock") {
        found.push(entry.path().display().to_string());
    }
    Ok(found)
}

/// Starts a lab with a frozen disk in a process of its own and kills that.
fn kill_a_lab_with_a_frozen_disk() -> Result<()> {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_kulprit-lab"))
        .arg("frozen")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start kulprit-lab")?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    assert_contains(&line, "up: node n1");
    assert!(!remains()?.is_empty());
    owner.kill()?;
    owner.wait()?;
    Ok(())
}

#[test]
fn a_killed_run_is_cleaned_up_by_its_reaper() -> Result<()> {
    kill_a_lab_with_a_frozen_disk()?;
    let took = wait_until("the reaper to leave nothing", Duration::from_secs(60), || Ok(remains()?.is_empty()))?;
    report("reaped", took);
    Ok(())
}

#[test]
fn a_killed_run_without_reaper_is_cleaned_up_by_the_next() -> Result<()> {
    kill_a_lab_with_a_frozen_disk()?;
    let clock = Stopwatch::start();
    // Waits for the reaper's lock or takes it first: either way what is there now is this lab's own.
    drop(Lab::open()?);
    report("cleaned by the next", clock.elapsed());
    assert_eq!(remains()?, Vec::<String>::new());
    Ok(())
}
