//! VMs of a real Kubernetes on real nodes: what KubeVirt's objects and the node's agent say, joined by central into one verdict.
//!
//! KubeVirt's part is played by the lab's driver; its launchers have the UIDs of the objects. Two kinds of nodes: registered by hand, which
//! boot fast, and with a real kubelet where kubelet is what breaks.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::report;
use kulprit_tests::disk::FileDisk;
use kulprit_tests::guest::Program;
use kulprit_tests::kubevirt::{Stage, VmSpec};
use kulprit_tests::system::answers::Verdict;
use kulprit_tests::wait::{pause, wait_until};
use kulprit_tests::{Cluster, Lab, Launcher};

const SEEN: Duration = Stage::SEEN;
/// How long nothing may happen, where nothing may.
const QUIET: Duration = Duration::from_secs(15);
const NOW: Duration = Duration::ZERO;

/// That the first cause sits on that node, on the hosting side.
fn assert_hosted_on(verdict: &Verdict, node: &str) {
    let first = verdict.causes.first().expect("a verdict has causes");
    assert_eq!((first.role.as_str(), first.node.as_str()), ("hosting", node), "{verdict:#?}");
}

#[test]
fn a_stop_that_a_frozen_disk_holds_up_names_the_disk_and_its_node() -> Result<()> {
    let (stage, [host]) = Stage::with_hosts(["n1"])?;
    let disk = FileDisk::create(&host.node, "frozen", 64)?;
    let (mut vm, launcher) = stage.run(&host.node, &host.registered, 1, |launcher| {
        launcher.program(Program::Writer { bursts: 4 }).disk_on(&disk)
    })?;
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, Vec::<String>::new(), "nothing is wrong with it");

    let frozen = disk.freeze()?;
    vm.stop()?;
    // As virt-handler does after the grace period; libvirt gives up.
    let refused = launcher.virsh(&["destroy", &launcher.domain()]);
    assert!(refused.is_err(), "QEMU cannot be ended: {refused:?}");
    let verdict = stage.explained("prod/db-0", "StuckStopping", "LocalDiskStalled", SEEN)?;
    assert_hosted_on(&verdict, "n1");
    let first = verdict.causes.first().context("a verdict has causes")?;
    assert_eq!(first.chain, ["LocalDiskStalled", "QemuBlockedInKernel"]);
    assert!(!first.safe_to_force_delete, "its QEMU lives and may still write");
    // Who asks is answered at once; the incident is named by the engine's next pass.
    let is_named = || {
        let incidents = stage.system.incidents()?;
        let open = incidents.iter().filter(|incident| incident.cause == "LocalDiskStalled" && incident.open);
        Ok(open.count() == 1)
    };
    wait_until("one incident of that", SEEN, is_named).with_context(|| format!("{:#?}", stage.system.incidents()))?;

    drop(frozen);
    vm.qemu_ends(false)?;
    drop(launcher);
    vm.pod_goes()?;
    stage.wait_until_quiet()
}

#[test]
fn a_delete_while_kubelet_is_stopped_names_kubelet_and_its_node() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1", "n2"])?;
    let [n1, n2] = nodes.as_slice() else { anyhow::bail!("two nodes were started") };
    let mut stage = Stage::on(&lab, cluster)?;
    for node in [n1, n2] {
        stage.kubevirt.adopt(node)?;
        stage.system.watch(node)?;
    }
    let mut vms = Vec::new();
    let mut launchers = Vec::new();
    for (name, node) in [("db-0", n1), ("db-1", n2)] {
        let mut vm = stage.kubevirt.create(VmSpec::new("prod", name).grace_secs(1), NOW)?;
        let launcher = stage.cluster.launch(Launcher::define(node, "prod", name)?.of_vmi(vm.vmi_uid()))?;
        vm.is_launched(&launcher)?;
        vm.is_handed_over()?;
        vm.runs()?;
        stage.wait_for_vm(&format!("prod/{name}"), node.name())?;
        vms.push(vm);
        launchers.push(launcher);
    }

    n1.systemctl(&["stop", "kubelet.service"])?;
    // virt-handler shuts QEMU down without kubelet; the pod stays, on the one node. On the other all goes well.
    for (vm, launcher) in vms.iter().zip(&launchers) {
        vm.delete()?;
        // Where kubelet runs it may have ended the launcher before.
        let _ = launcher.virsh(&["destroy", &launcher.domain()]);
        vm.qemu_ends(false)?;
    }
    let verdict = stage.explained("prod/db-0", "StuckTerminating", "KubeletDown", SEEN)?;
    assert_hosted_on(&verdict, "n1");
    vms.get_mut(1).context("two VMs")?.pod_goes()?;
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, ["db-0"], "the other node is well, and its VM is gone");

    n1.systemctl(&["start", "kubelet.service"])?;
    vms.first_mut().context("two VMs")?.pod_goes()?;
    stage.wait_until_quiet()
}

#[test]
fn a_real_migration_that_arrives_is_nobodys_trouble() -> Result<()> {
    let (stage, [one, two]) = Stage::with_hosts(["n1", "n2"])?;
    let (mut vm, source) = stage
        .run(&one.node, &one.registered, 30, |launcher| launcher.program(Program::Eater { mib: 32, delay: 1000 }))?;

    let mut migration = vm.migrate("db-0-out", NOW)?;
    migration.is_taken_by(&vm, Some(&two.registered))?;
    let target =
        Launcher::define(&two.node, "prod", "db-0")?.for_migration_of(&source).of_pod(vm.vmi_uid(), migration.pod()?);
    let target = target.start()?;
    migration.is_handed_over(&vm)?;
    one.handler.carry(&source, &two.handler, &target)?;
    migration.target_is_ready(&vm)?;
    migration.runs(&vm)?;
    report("copied", source.migrate_to(&target)?);
    migration.succeeds(&mut vm)?;
    stage.wait_for_vm("prod/db-0", "n2")?;
    drop(source);
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, Vec::<String>::new());
    let verdicts = stage.system.why_of("prod/db-0")?;
    assert!(verdicts.iter().all(|verdict| verdict.subject.node == "n2"), "it is known where it is: {verdicts:#?}");
    let incidents = stage.system.incidents()?;
    let told: Vec<String> =
        incidents.iter().map(|incident| stage.system.page(&["incidents", &incident.id])).collect::<Result<_>>()?;
    assert!(told.is_empty(), "{}", told.join("\n"));
    Ok(())
}
