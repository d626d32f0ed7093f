//! KubeVirt's runbooks, case by case: each alert's symptom on a real Kubernetes, with the fault of a real host that the runbook has one look
//! for by hand, and the verdict that answers it. Where the host is innocent is in `cluster_explained.rs`; more of stops in `cluster_hosts.rs`.
//!
//! Runbooks: `VirtualMachineStuckOnNode` (start, stop), `KubeVirtVMStuckInErrorState`, `KubeVirtVMStuckInMigratingState` and
//! `KubeVirtVMIExcessiveMigrations` (kubevirt/monitoring, `docs/runbooks`).

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kulprit_tests::check::report;
use kulprit_tests::disk::FileDisk;
use kulprit_tests::export::Export;
use kulprit_tests::fault::network::{LinkFlaps, PortsDropped};
use kulprit_tests::fault::{Hung, KubeletLoops, KvmMissing, KvmMode, Scripted, UnitStopped};
use kulprit_tests::guest::Program;
use kulprit_tests::kubevirt::api::{Kind, Place};
use kulprit_tests::kubevirt::{Host, Migration, RegisteredNode, Stage, Vm, VmSpec};
use kulprit_tests::node::Running;
use kulprit_tests::system::answers::{Incident, Verdict};
use kulprit_tests::wait::{pause, wait_for, wait_until};
use kulprit_tests::{Cluster, Lab, Launcher, handler, process};
use nix::sys::signal::Signal;

const SEEN: Duration = Stage::SEEN;
const LONG_AGO: Duration = Stage::LONG_AGO;
const NOW: Duration = Duration::ZERO;
/// How long nothing may happen, where nothing may.
const QUIET: Duration = Duration::from_secs(10);
/// Dirties more than is sent at [`SLOWLY`].
const BUSY: Program = Program::Dirtier { mib: 128, mib_per_sec: 60 };
/// What a migration may send, MiB/s.
const SLOWLY: u32 = 24;
/// What virt-handler writes of a migration whose libvirt call failed (recorded from KubeVirt v1.8.4), but for the reason.
const FAILED: &str = "Live migration failed error encountered during MigrateToURI3 libvirt api call: virError(Code=38, Domain=7, Message='Cannot recv data: Connection reset by peer')";
/// The same of a path that was cut: libvirt's keepalive has had no answer for half a minute.
const CUT: &str = "Live migration failed error encountered during MigrateToURI3 libvirt api call: virError(Code=1, Domain=7, Message='internal error: client socket is closed')";
/// What libvirt says of a `/dev/kvm` that it cannot open (recorded).
const NO_KVM: &str = "LibvirtError(Code=67, Domain=10, Message='unsupported configuration: Emulator '/usr/bin/qemu-kvm' does not support virt type 'kvm'')";

/// That the first cause has that role at that node.
fn assert_blames(verdict: &Verdict, role: &str, node: &str) {
    let first = verdict.causes.first().expect("a verdict has causes");
    assert_eq!((verdict.confidence.as_str(), first.role.as_str()), ("verdict", role), "{verdict:#?}");
    assert!(first.node.split(',').any(|name| name == node), "{verdict:#?}");
}

/// That the case of a VM, taken away, has the verdict that central has.
fn is_recorded(stage: &Stage, vm: &str, live: &Verdict) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let said = stage.system.recorded(vm, &folder.path().join("case"))?;
    let place = |verdict: &Verdict| {
        let first = verdict.causes.first().map(|cause| (cause.id.clone(), cause.role.clone(), cause.node.clone()));
        (verdict.symptom.clone(), verdict.confidence.clone(), first)
    };
    let is_same = said.iter().any(|verdict| place(verdict) == place(live));
    assert!(is_same, "central says {live:#?}, the case {said:#?}");
    Ok(())
}

/// Ends a guest as virt-handler does. The launcher may end with it, and `virsh` with that before it can say so.
fn end_guest(launcher: &Launcher<'_>) {
    let _ = launcher.virsh(&["destroy", &launcher.domain()]);
}

/// A VM that runs on the first host, and a migration of it whose target waits on the second: `ago` before now in its words.
fn migration<'a>(stage: &'a Stage, [one, two]: &'a [Host; 2], program: Program, ago: Duration) -> Result<Moving<'a>> {
    let (vm, source) = stage.run(&one.node, &one.registered, 30, |launcher| launcher.program(program))?;
    let mut migration = vm.migrate("db-0-out", ago)?;
    migration.is_taken_by(&vm, Some(&two.registered))?;
    let target = Launcher::define(&two.node, "prod", "db-0")?.for_migration_of(&source);
    let target = target.of_pod(vm.vmi_uid(), migration.pod()?).start()?;
    migration.is_handed_over(&vm)?;
    one.handler.carry(&source, &two.handler, &target)?;
    migration.target_is_ready(&vm)?;
    Ok(Moving { vm, migration, source, target })
}

struct Moving<'stage> {
    vm: Vm<'stage>,
    migration: Migration,
    source: Launcher<'stage>,
    target: Launcher<'stage>,
}

impl Moving<'_> {
    /// QEMU copies, as slowly as [`SLOWLY`].
    fn begin(&mut self) -> Result<Running> {
        let copying = self.source.begin_migration(SLOWLY)?;
        self.migration.runs(&self.vm)?;
        Ok(copying)
    }

    fn is_sending(&self) -> Result<bool> {
        let job = self.source.virsh(&["domjobinfo", &self.source.domain()])?;
        let processed = job.lines().find_map(|line| line.strip_prefix("Data processed:"));
        Ok(processed.is_some_and(|value| !value.trim().starts_with("0.000")))
    }
}

/// A VM that was evacuated 13 times and is on the host now; returns the node on which it was in between.
fn evacuated(stage: &Stage, host: &Host) -> Result<RegisteredNode> {
    let other = stage.kubevirt.register("n2", "10.77.0.99")?;
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    vm.runs_on(&other)?;
    stage.hops(&mut vm, [&host.registered, &other], false)?;
    Ok(other)
}

#[test]
fn starting_on_a_node_without_kvm() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let missing = KvmMissing::new(&host.node)?;
    // As virt-handler's device plugin does, and kubelet then.
    stage.kubevirt.api().update_status(&Place::new(Kind::NODE, "", "n1"), |node| {
        node["status"]["allocatable"]["devices.kubevirt.io/kvm"] = "0".into();
    })?;
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    vm.is_taken_by(&host.registered)?;
    vm.is_handed_over()?;
    let verdict = stage.explained("prod/db-0", "StuckStarting", "KvmDeviceMissing", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    drop(missing);
    vm.ago(NOW);
    vm.runs()?;
    stage.wait_until_quiet()
}

#[test]
fn starting_while_the_runtime_hangs() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    let mut stage = Stage::on(&lab, cluster)?;
    stage.kubevirt.adopt(node)?;
    stage.system.watch(node)?;
    let hung = Hung::unit(node, "containerd.service")?;
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    let launcher = Launcher::define(node, "prod", "db-0")?.of_vmi(vm.vmi_uid());
    let pod = stage.cluster.request(&launcher, "localhost/virt-launcher:lab")?;
    vm.is_requested(&pod)?;
    let verdict = stage.explained("prod/db-0", "StuckStarting", "ContainerRuntimeHung", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    drop(hung);
    Ok(())
}

#[test]
fn terminating_while_the_runtime_hangs() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    let mut stage = Stage::on(&lab, cluster)?;
    stage.kubevirt.adopt(node)?;
    stage.system.watch(node)?;
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0").grace_secs(1), NOW)?;
    let launcher = stage.cluster.launch(Launcher::define(node, "prod", "db-0")?.of_vmi(vm.vmi_uid()))?;
    vm.is_launched(&launcher)?;
    vm.is_handed_over()?;
    vm.runs()?;
    stage.wait_for_vm("prod/db-0", "n1")?;

    let hung = Hung::unit(node, "containerd.service")?;
    vm.delete()?;
    end_guest(&launcher);
    vm.qemu_ends(false)?;
    let verdict = stage.explained("prod/db-0", "StuckTerminating", "ContainerRuntimeHung", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    drop(hung);
    vm.pod_goes()?;
    stage.wait_until_quiet()
}

#[test]
fn stopping_a_guest_that_ignores_it_is_no_hosts_fault() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let (mut vm, launcher) = stage.run(&host.node, &host.registered, 3600, |launcher| launcher)?;
    vm.stop()?;
    launcher.virsh(&["shutdown", &launcher.domain()])?;
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, Vec::<String>::new(), "its grace period is not over");
    // Who asks for it by its name wants to know all the same.
    let verdict = stage.explained("prod/db-0", "StuckStopping", "GuestIgnoresShutdown", SEEN)?;
    let blamed: Vec<_> = verdict.contributing.iter().map(|cause| &cause.id).collect();
    assert!(blamed.is_empty(), "the host is well: {blamed:?}");
    end_guest(&launcher);
    vm.qemu_ends(false)?;
    drop(launcher);
    vm.pod_goes()?;
    stage.wait_until_quiet()
}

#[test]
fn stopping_on_a_frozen_disk_and_without_a_kubelet_names_both() -> Result<()> {
    let (stage, [mut host]) = Stage::with_hosts(["n1"])?;
    let disk = FileDisk::create(&host.node, "frozen", 64)?;
    let (vm, launcher) = stage.run(&host.node, &host.registered, 1, |launcher| {
        launcher.program(Program::Writer { bursts: 4 }).disk_on(&disk)
    })?;
    let frozen = disk.freeze()?;
    let stopped = UnitStopped::new(&host.node, "kubelet.service")?;
    host.registered.fall_silent();
    vm.stop()?;
    let refused = launcher.virsh(&["destroy", &launcher.domain()]);
    assert!(refused.is_err(), "QEMU cannot be ended: {refused:?}");
    let named = || {
        let verdict = stage.system.why_of("prod/db-0")?.into_iter().find(|said| said.symptom == "StuckStopping");
        let is_named = |verdict: &Verdict, id: &str| {
            verdict.first_cause() == id || verdict.contributing.iter().any(|cause| cause.id == id)
        };
        Ok(verdict.filter(|said| ["LocalDiskStalled", "KubeletDown"].iter().all(|id| is_named(said, id))))
    };
    let (verdict, took) = wait_for("both to be named", SEEN, named)
        .with_context(|| format!("{}\n{}", stage.system.page(&["why"]).unwrap_or_default(), stage.system.logs()))?;
    report("both are named", took);
    assert_eq!(verdict.subject.node, "n1");
    drop((frozen, stopped));
    Ok(())
}

#[test]
fn stopping_on_two_nodes_of_one_storage_server_that_hangs_is_one_incident() -> Result<()> {
    const SERVER: &str = "10.77.0.250";
    let (stage, [one, two]) = Stage::with_hosts(["n1", "n2"])?;
    let exports = [Export::mount(&one.node, SERVER, "disk-0")?, Export::mount(&two.node, SERVER, "disk-1")?];
    let names = ["db-0", "db-1"];
    let mut running = Vec::new();
    for ((host, export), name) in [&one, &two].into_iter().zip(&exports).zip(names) {
        let writes = Program::Writer { bursts: 4 };
        running.push(
            stage.run_as(name, &host.node, &host.registered, 1, |launcher| launcher.program(writes).disk_of(export))?,
        );
    }
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, Vec::<String>::new(), "nothing is wrong with them");

    let hung = exports.each_ref().map(Export::hang);
    for (vm, launcher) in &running {
        vm.stop()?;
        let refused = launcher.virsh(&["destroy", &launcher.domain()]);
        assert!(refused.is_err(), "QEMU cannot be ended: {refused:?}");
    }
    for name in ["prod/db-0", "prod/db-1"] {
        stage.explained(name, "StuckStopping", "StorageBackendUnreachable", SEEN)?;
    }
    let is_one = || {
        let of_vms = |incident: &Incident| incident.members.iter().any(|member| !member.subject.name.is_empty());
        let open: Vec<Incident> =
            stage.system.incidents()?.into_iter().filter(|incident| incident.open && of_vms(incident)).collect();
        let [incident] = open.as_slice() else { return Ok(false) };
        let has = |name: &&str| incident.members.iter().any(|member| member.subject.name == **name);
        let is_shared = incident.cause == "StorageBackendUnreachable" && incident.node.is_empty();
        Ok(is_shared && names.iter().all(has))
    };
    let took = wait_until("one incident of both VMs", SEEN, is_one);
    let said = || format!("{}\n{:#?}", stage.system.page(&["why"]).unwrap_or_default(), stage.system.incidents());
    report("one incident", took.with_context(said)?);
    drop(hung);
    Ok(())
}

#[test]
fn in_error_for_an_image_that_only_this_node_does_not_get() -> Result<()> {
    const IMAGE: &str = "registry.example:5000/kubevirt/virt-launcher:v1.8.4";
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1", "n2"])?;
    let [n1, n2] = nodes.as_slice() else { bail!("two nodes were started") };
    let mut stage = Stage::on(&lab, cluster)?;
    for node in [n1, n2] {
        stage.kubevirt.adopt(node)?;
        stage.system.watch(node)?;
    }
    // One node has the image; the other would have to pull it, and its name server does not answer.
    n2.run(&["ctr", "--namespace", "k8s.io", "images", "tag", "localhost/virt-launcher:lab", IMAGE])?;
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    let launcher = Launcher::define(n1, "prod", "db-0")?.of_vmi(vm.vmi_uid());
    let pod = stage.cluster.request(&launcher, IMAGE)?;
    vm.is_requested(&pod)?;
    vm.waits_for_image()?;
    let verdict = stage.explained("prod/db-0", "InError", "ImagePullFailedOnNode", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}

#[test]
fn in_error_for_a_memory_limit_that_is_too_small() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    // It takes 20 s until its memory is too much.
    let grows = Program::Eater { mib: 384, delay: 1000 };
    let (vm, launcher) =
        stage.run(&host.node, &host.registered, 30, |launcher| launcher.program(grows).memory_limit_mib(240))?;
    let is_dead = || Ok(!process::is_alive(launcher.monitor_pid()) || launcher.qemu_pid().is_none());
    wait_until("the kernel to kill it", SEEN, is_dead)?;
    vm.qemu_ends(false)?;
    vm.is_in_crash_loop()?;
    let verdict = stage.explained("prod/db-0", "InError", "QemuOutOfMemory", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}

#[test]
fn in_error_for_a_qemu_that_crashes() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let (vm, launcher) = stage.run(&host.node, &host.registered, 30, |launcher| launcher)?;
    let qemu = launcher.qemu_pid().context("QEMU runs")?;
    process::signal(qemu, Signal::SIGSEGV)?;
    wait_until("QEMU to end", SEEN, || Ok(!process::is_alive(qemu)))?;
    vm.qemu_ends(false)?;
    vm.is_in_crash_loop()?;
    let verdict = stage.explained("prod/db-0", "InError", "QemuCrashed", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}

#[test]
fn in_error_on_a_node_that_lets_nobody_open_kvm() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let locked = KvmMode::new(&host.node, 0)?;
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    vm.is_taken_by(&host.registered)?;
    vm.is_handed_over()?;
    vm.ago(NOW);
    vm.does_not_start(NO_KVM)?;
    vm.launcher_gives_up()?;
    vm.is_in_crash_loop()?;
    let verdict = stage.explained("prod/db-0", "InError", "KvmDeviceInaccessible", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    is_recorded(&stage, "prod/db-0", &verdict)?;
    drop(locked);
    Ok(())
}

#[test]
fn migrating_a_guest_that_never_converges() -> Result<()> {
    let (stage, hosts) = Stage::with_hosts(["n1", "n2"])?;
    let mut moving = migration(&stage, &hosts, BUSY, NOW)?;
    let _copying = moving.begin()?;
    let verdict = stage.explained("prod/db-0", "StuckMigrating", "MigrationNotConverging", SEEN)?;
    assert_blames(&verdict, "source", "n1");
    moving.source.virsh(&["domjobabort", &moving.source.domain()])?;
    moving.migration.fails(&moving.vm, "Live migration is aborted: it does not converge")?;
    let failed = stage.explained("prod/db-0", "MigrationFailed", "MigrationNotConverging", SEEN)?;
    assert_blames(&failed, "source", "n1");
    Ok(())
}

#[test]
fn migrating_over_a_path_that_is_dropped() -> Result<()> {
    let (stage, hosts) = Stage::with_hosts(["n1", "n2"])?;
    let mut moving = migration(&stage, &hosts, Program::Idle, NOW)?;
    let dropped = PortsDropped::new(&hosts[1].node, &handler::port_set())?;
    let _copying = moving.begin()?;
    let verdict = stage.explained("prod/db-0", "StuckMigrating", "MigrationPathUnreachable", SEEN)?;
    assert_blames(&verdict, "path", "n1");
    assert_blames(&verdict, "path", "n2");
    drop(dropped);
    Ok(())
}

#[test]
fn failed_over_a_path_that_was_dropped_midway() -> Result<()> {
    let (stage, hosts) = Stage::with_hosts(["n1", "n2"])?;
    let mut moving = migration(&stage, &hosts, BUSY, NOW)?;
    let mut copying = moving.begin()?;
    wait_until("memory to be sent", SEEN, || moving.is_sending())?;
    let dropped = PortsDropped::new(&hosts[1].node, &handler::port_set())?;
    let has_ended = || Ok(copying.child().try_wait()?.is_some());
    report("libvirt has given up", wait_until("libvirt to give up", SEEN, has_ended)?);
    moving.migration.fails(&moving.vm, CUT)?;
    let verdict = stage.explained("prod/db-0", "MigrationFailed", "MigrationPathUnreachable", SEEN)?;
    assert_blames(&verdict, "path", "n1");
    drop(dropped);
    Ok(())
}

#[test]
fn failed_for_a_target_that_was_killed() -> Result<()> {
    let (stage, hosts) = Stage::with_hosts(["n1", "n2"])?;
    let mut moving = migration(&stage, &hosts, BUSY, NOW)?;
    let _copying = moving.begin()?;
    pause(QUIET);
    let qemu = moving.target.qemu_pid().context("QEMU waits on the target")?;
    process::signal(qemu, Signal::SIGKILL)?;
    moving.migration.fails(&moving.vm, FAILED)?;
    let verdict = stage.explained("prod/db-0", "MigrationFailed", "QemuKilled", SEEN)?;
    assert_blames(&verdict, "target", "n2");
    Ok(())
}

#[test]
fn migrating_to_a_launcher_whose_libvirt_hangs() -> Result<()> {
    let (stage, hosts) = Stage::with_hosts(["n1", "n2"])?;
    let mut moving = migration(&stage, &hosts, Program::Idle, LONG_AGO)?;
    let hung = Hung::process(moving.target.libvirt_pid().context("libvirt runs on the target")?)?;
    let _copying = moving.begin()?;
    let verdict = stage.explained("prod/db-0", "StuckMigrating", "LibvirtDaemonHung", SEEN)?;
    assert_blames(&verdict, "target", "n2");
    drop(hung);
    Ok(())
}

#[test]
fn too_many_migrations_away_from_a_node_whose_kubelet_flaps() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let _loops = KubeletLoops::new(&host.node)?;
    let _other = evacuated(&stage, &host)?;
    let verdict = stage.explained("prod/db-0", "ExcessiveMigrations", "KubeletDegraded", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}

#[test]
fn too_many_migrations_away_from_a_node_whose_kubelet_hangs() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let _hung = Hung::unit(&host.node, "kubelet.service")?;
    let _other = evacuated(&stage, &host)?;
    let verdict = stage.explained("prod/db-0", "ExcessiveMigrations", "KubeletDegraded", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}

#[test]
fn too_many_migrations_away_from_a_node_whose_link_flaps() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let flaps = LinkFlaps::new(&host.node)?;
    let _other = evacuated(&stage, &host)?;
    let verdict = stage.explained("prod/db-0", "ExcessiveMigrations", "NodeNetworkDegraded", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    drop(flaps);
    Ok(())
}

#[test]
fn too_many_migrations_away_from_a_node_that_finds_no_name_server() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    // Nobody answers there.
    let begins = "echo nameserver 10.77.0.1 >/etc/resolv.conf";
    let _silent = Scripted::new(&host.node, begins, "rm -f /etc/resolv.conf")?;
    let _other = evacuated(&stage, &host)?;
    let verdict = stage.explained("prod/db-0", "ExcessiveMigrations", "NodeNetworkDegraded", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}

#[test]
fn too_many_migrations_away_from_a_node_whose_disk_is_full() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let disk = FileDisk::create(&host.node, "images", 64)?;
    let begins = format!("mkdir -p /var/lib/containerd; mount --bind {} /var/lib/containerd", disk.path().display());
    let _mounted = Scripted::new(&host.node, &begins, "umount /var/lib/containerd")?;
    let _full = disk.fill(512)?;
    let _other = evacuated(&stage, &host)?;
    let verdict = stage.explained("prod/db-0", "ExcessiveMigrations", "NodeDiskFull", SEEN)?;
    assert_blames(&verdict, "hosting", "n1");
    Ok(())
}
