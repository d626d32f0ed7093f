//! VMs of a real Kubernetes, explained by central from its watches: the host's faults with the node's agent, and what is no host's fault.
//!
//! KubeVirt's own part is played by the lab's driver; API server, scheduler and controllers are real, and so are launcher, QEMU and the
//! frozen disk where there is a node. Only the first test boots one: the others need the control plane alone, and their nodes are objects,
//! as nodes without an agent are.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::report;
use kulprit_tests::disk::FileDisk;
use kulprit_tests::guest::Program;
use kulprit_tests::kubevirt::api::{Kind, Place};
use kulprit_tests::kubevirt::{RegisteredNode, Vm, VmSpec};
use kulprit_tests::system::System;
use kulprit_tests::system::answers::{Incident, Verdict};
use kulprit_tests::wait::{Stopwatch, pause, wait_for, wait_until};
use kulprit_tests::{Cluster, KubeVirt, Lab, Launcher};
use serde_json::{Value, json};

/// Clocks of central that nobody wants to wait for.
const CLOCKS: &str = "symptoms: {stop_margin: 2s}\nincidents: {close_after: 2s, reopen_within: 1s}\n";
/// Longer than a verdict takes from what is written: central's watch, its next diagnosis, and a busy machine.
const EXPLAINED: Duration = Duration::from_secs(30);
/// Longer than an agent's slowest look and the hold of any finding here.
const SEEN: Duration = Duration::from_secs(90);
/// How long nothing may happen, where nothing may.
const QUIET: Duration = Duration::from_secs(15);
/// As long ago as nothing of a start or a migration may take.
const LONG_AGO: Duration = Duration::from_secs(15 * 60);

/// A cluster with KubeVirt, and a central that watches it.
struct Stage {
    // In the order of their end.
    system: System,
    kubevirt: KubeVirt,
    cluster: Cluster,
}

impl Stage {
    fn open() -> Result<Self> {
        Self::open_in(&Lab::open()?)
    }

    fn open_in(lab: &Lab) -> Result<Self> {
        let (cluster, _) = Cluster::start(lab, &[])?;
        let kubevirt = KubeVirt::install(&cluster)?;
        let config = format!("kubernetes: {{kubeconfig: {}}}\n{CLOCKS}", cluster.admin_config().display());
        let system = System::start(lab, &config)?;
        Ok(Self { system, kubevirt, cluster })
    }

    /// A node that is only an object.
    fn register(&self, name: &str, number: u8) -> Result<RegisteredNode> {
        self.kubevirt.register(name, &format!("10.77.0.{number}"))
    }

    /// What is said of a VM that was asked for by name; `None` while central does not know it.
    fn why(&self, vm: &str) -> Option<Verdict> {
        self.system.why_of(vm).ok()?.into_iter().next()
    }

    /// Waits until that symptom of a VM has that first cause.
    fn explained(&self, vm: &str, symptom: &str, cause: &str, limit: Duration) -> Result<Verdict> {
        let fits = || Ok(self.why(vm).filter(|said| said.symptom == symptom && said.first_cause() == cause));
        let (verdict, took) = wait_for(&format!("{vm}: {symptom} by {cause}"), limit, fits).map_err(|error| {
            let page = self.system.page(&["why", vm]).unwrap_or_else(|error| format!("{error:#}"));
            error.context(format!("{page}\n{}", self.system.logs()))
        })?;
        report(&format!("{vm}: {symptom} by {cause}"), took);
        Ok(verdict)
    }

    /// Which VMs are in trouble.
    fn in_trouble(&self) -> Result<Vec<String>> {
        Ok(self.system.why()?.into_iter().map(|verdict| verdict.subject.name).filter(|name| !name.is_empty()).collect())
    }

    /// The incidents of a cause, newest or not.
    fn incidents_of(&self, cause: &str) -> Result<Vec<Incident>> {
        Ok(self.system.incidents()?.into_iter().filter(|incident| incident.cause == cause).collect())
    }

    /// A VM whose claim does not exist: the surest thing that can be said.
    fn without_claim(&self, name: &str) -> Result<Vm<'_>> {
        let vm = self.kubevirt.create(VmSpec::new("prod", name).claim("gone"), LONG_AGO)?;
        vm.waits_for_claim("gone")?;
        Ok(vm)
    }
}

/// That no host is at fault, and none is said to be.
fn assert_no_host(verdict: &Verdict) {
    let first = verdict.causes.first().expect("a verdict has causes");
    assert_eq!((verdict.confidence.as_str(), first.role.as_str()), ("verdict", "cluster"), "{verdict:#?}");
    assert_eq!(first.node, "", "{verdict:#?}");
    let blamed: Vec<_> = verdict.contributing.iter().filter(|cause| !cause.node.is_empty()).collect();
    assert!(blamed.is_empty(), "no node contributes: {blamed:#?}");
}

#[test]
fn a_stop_that_a_frozen_disk_holds_up_names_the_disk_and_its_node() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").without_libvirt().with_kubelet().start()?;
    let disk = FileDisk::create(&node, "frozen", 64)?;
    let mut stage = Stage::open_in(&lab)?;
    stage.system.watch(&node)?;
    let registered = stage.kubevirt.register(node.name(), node.address())?;

    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0").grace_secs(1), Duration::ZERO)?;
    vm.is_taken_by(&registered)?;
    let writer = Program::Writer { bursts: 4 };
    let launcher = Launcher::define(&node, "prod", "db-0")?.of_pod(vm.vmi_uid(), vm.pod()?);
    let launcher = launcher.program(writer).disk_on(&disk).start()?;
    vm.is_handed_over()?;
    vm.runs()?;
    let is_seen = || Ok(stage.system.vms()?.iter().any(|vm| vm.name == "prod/db-0" && vm.state == "running"));
    report("its VM is seen on the node", wait_until("the VM", SEEN, is_seen).with_context(|| stage.system.logs())?);
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, Vec::<String>::new(), "nothing is wrong with it");

    let frozen = disk.freeze()?;
    vm.stop()?;
    // As virt-handler does after the grace period; libvirt gives up.
    let refused = launcher.virsh(&["destroy", &launcher.domain()]);
    assert!(refused.is_err(), "QEMU cannot be ended: {refused:?}");
    let verdict = stage.explained("prod/db-0", "StuckStopping", "LocalDiskStalled", SEEN)?;
    let first = verdict.causes.first().context("a verdict has causes")?;
    assert_eq!(first.chain, ["LocalDiskStalled", "QemuBlockedInKernel"]);
    assert_eq!((first.role.as_str(), first.node.as_str()), ("hosting", "n1"));
    assert!(!first.safe_to_force_delete, "its QEMU lives and may still write");
    let incidents = stage.incidents_of("LocalDiskStalled")?;
    assert_eq!(incidents.iter().filter(|incident| incident.open).count(), 1, "{incidents:#?}");

    drop(frozen);
    vm.qemu_ends(false)?;
    drop(launcher);
    vm.pod_goes()?;
    let is_over = || Ok(stage.in_trouble()?.is_empty());
    report("and over", wait_until("nothing to be said", SEEN, is_over).with_context(|| stage.system.logs())?);
    Ok(())
}

#[test]
fn a_pod_that_fits_no_node_is_no_hosts_fault() -> Result<()> {
    let stage = Stage::open()?;
    let _nodes = [stage.register("n1", 11)?, stage.register("n2", 12)?];
    let spec = VmSpec::new("prod", "db-0").node_selector("disktype", "nvme");
    let said = stage.kubevirt.create(spec, LONG_AGO)?.is_unschedulable()?;
    assert!(said.contains("didn't match Pod's node affinity/selector"), "{said}");
    let verdict = stage.explained("prod/db-0", "InError", "Unschedulable", EXPLAINED)?;
    assert_no_host(&verdict);
    let evidence = verdict.causes.first().map(|cause| format!("{:?}", cause.evidence)).unwrap_or_default();
    assert!(evidence.contains("node affinity/selector"), "in the scheduler's words: {evidence}");
    Ok(())
}

#[test]
fn a_claim_that_does_not_exist_is_no_hosts_fault() -> Result<()> {
    let stage = Stage::open()?;
    let _node = stage.register("n1", 11)?;
    let _vm = stage.without_claim("db-0")?;
    let verdict = stage.explained("prod/db-0", "InError", "VolumeNotFound", EXPLAINED)?;
    assert_no_host(&verdict);
    Ok(())
}

#[test]
fn a_migration_that_waits_for_its_turn_is_no_hosts_fault() -> Result<()> {
    let stage = Stage::open()?;
    let (n1, n2) = (stage.register("n1", 11)?, stage.register("n2", 12)?);
    stage.kubevirt.limit_migrations(5, 1)?;
    let mut first = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    first.runs_on(&n1)?;
    let mut before = first.migrate("db-0-out", Duration::from_secs(5))?;
    before.runs_to(&first, &n2)?;
    let mut second = stage.kubevirt.create(VmSpec::new("prod", "db-1"), LONG_AGO)?;
    second.runs_on(&n1)?;
    let mut waits = second.migrate("db-1-out", Duration::from_secs(180))?;
    let verdict = stage.explained("prod/db-1", "StuckMigrating", "MigrationLimitReached", EXPLAINED)?;
    assert_no_host(&verdict);

    before.ago(Duration::ZERO);
    before.succeeds(&mut first)?;
    waits.ago(Duration::ZERO);
    waits.runs_to(&second, &n2)?;
    waits.succeeds(&mut second)?;
    let is_over = || Ok(stage.in_trouble()?.is_empty());
    report(
        "both have arrived",
        wait_until("nothing to be said", EXPLAINED, is_over).with_context(|| stage.system.logs())?,
    );
    Ok(())
}

#[test]
fn a_migration_whose_target_fits_no_node_is_no_hosts_fault() -> Result<()> {
    let stage = Stage::open()?;
    let (n1, _n2) = (stage.register("n1", 11)?, stage.register("n2", 12)?);
    // Its node lost the label after it was started.
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0").node_selector("disktype", "nvme"), LONG_AGO)?;
    vm.runs_on(&n1)?;
    let mut migration = vm.migrate("db-0-out", Duration::from_secs(180))?;
    migration.is_unschedulable(&vm)?;
    let verdict = stage.explained("prod/db-0", "StuckMigrating", "Unschedulable", EXPLAINED)?;
    assert_no_host(&verdict);
    Ok(())
}

#[test]
fn a_vm_s_ordinary_life_raises_nothing() -> Result<()> {
    let stage = Stage::open()?;
    let (n1, n2) = (stage.register("n1", 11)?, stage.register("n2", 12)?);
    let now = Duration::ZERO;
    let mut resident = stage.kubevirt.create(VmSpec::new("prod", "resident"), LONG_AGO)?;
    resident.runs_on(&n1)?;
    let mut guest = stage.kubevirt.create(VmSpec::new("prod", "guest"), now)?;
    guest.runs_on(&n1)?;
    let mut migration = guest.migrate("guest-out", now)?;
    migration.runs_to(&guest, &n2)?;
    migration.succeeds(&mut guest)?;
    // A slow shutdown within its grace period.
    let mut slow = stage.kubevirt.create(VmSpec::new("prod", "slow").grace_secs(120), LONG_AGO)?;
    slow.ago(now);
    slow.runs_on(&n2)?;
    slow.stop()?;
    // What is written last is known: so is all before.
    let _last = stage.without_claim("broken")?;
    stage.explained("prod/broken", "InError", "VolumeNotFound", EXPLAINED)?;

    let since = Stopwatch::start();
    while since.elapsed() < QUIET {
        assert_eq!(stage.in_trouble()?, ["broken"]);
        pause(Duration::from_secs(1));
    }
    slow.qemu_ends(true)?;
    slow.pod_goes()?;
    guest.delete()?;
    guest.qemu_ends(true)?;
    guest.pod_goes()?;
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, ["broken"]);
    let causes: Vec<String> = stage.system.incidents()?.into_iter().map(|incident| incident.cause).collect();
    assert_eq!(causes, ["VolumeNotFound"], "nothing else was ever opened");
    Ok(())
}

#[test]
fn without_the_api_server_and_after_a_kill_of_central_nothing_is_forgotten_or_invented() -> Result<()> {
    let mut stage = Stage::open()?;
    let n1 = stage.register("n1", 11)?;
    {
        let mut well = stage.kubevirt.create(VmSpec::new("prod", "well"), LONG_AGO)?;
        well.runs_on(&n1)?;
        stage.without_claim("db-0")?;
        stage.without_claim("db-1")?;
    }
    for vm in ["prod/db-0", "prod/db-1"] {
        stage.explained(vm, "InError", "VolumeNotFound", EXPLAINED)?;
    }
    let ids = |stage: &Stage| -> Result<Vec<String>> {
        Ok(stage.system.incidents()?.into_iter().filter(|incident| incident.open).map(|incident| incident.id).collect())
    };
    let opened = ids(&stage)?;
    assert!(!opened.is_empty());

    stage.cluster.stop_api_server();
    pause(QUIET);
    assert_eq!(ids(&stage)?, opened, "what cannot be seen is neither over nor new");
    stage.cluster.start_api_server()?;
    for vm in ["prod/db-0", "prod/db-1"] {
        stage.explained(vm, "InError", "VolumeNotFound", EXPLAINED)?;
    }
    assert_eq!(ids(&stage)?, opened);

    stage.system.kill_central();
    // While nobody looks one of them goes, and the other stays as it was.
    for kind in [Kind::VMI, Kind::VM] {
        let place = Place::new(kind, "prod", "db-1");
        stage.kubevirt.api().update(&place, |object| object["metadata"]["finalizers"] = json!([]))?;
        stage.kubevirt.api().delete(&place, None)?;
    }
    stage.system.start_central()?;
    stage.explained("prod/db-0", "InError", "VolumeNotFound", EXPLAINED)?;
    let only_one = || Ok(stage.in_trouble()? == ["db-0"]);
    report("after a kill", wait_until("db-0 alone", EXPLAINED, only_one).with_context(|| stage.system.logs())?);
    pause(QUIET);
    assert_eq!(stage.in_trouble()?, ["db-0"]);
    let still = ids(&stage)?;
    assert!(still.iter().all(|id| opened.contains(id)) && !still.is_empty(), "{still:?} of {opened:?}");
    Ok(())
}

#[test]
fn objects_of_nonsense_do_not_hide_the_others() -> Result<()> {
    let stage = Stage::open()?;
    let n1 = stage.register("n1", 11)?;
    let mut well = stage.kubevirt.create(VmSpec::new("prod", "well"), LONG_AGO)?;
    well.runs_on(&n1)?;
    for (kind, object) in nonsense() {
        let namespace = if kind == Kind::POLICY { "" } else { "prod" };
        stage.kubevirt.api().create(kind, namespace, &object).with_context(|| object.to_string())?;
    }
    let _vm = stage.without_claim("db-0")?;
    let verdict = stage.explained("prod/db-0", "InError", "VolumeNotFound", EXPLAINED)?;
    assert_no_host(&verdict);
    // The good ones of a kind that has bad ones too go on being followed.
    for (kind, object) in nonsense() {
        if let (Kind::VM | Kind::VMI, Some(name)) = (kind, object["metadata"]["name"].as_str()) {
            let place = Place::new(kind, "prod", name);
            stage.kubevirt.api().update(&place, |object| object["spec"] = json!({"template": [[[1]]]}))?;
        }
    }
    let spec = VmSpec::new("prod", "db-1").node_selector("disktype", "nvme");
    stage.kubevirt.create(spec, LONG_AGO)?.is_unschedulable()?;
    stage.explained("prod/db-1", "InError", "Unschedulable", EXPLAINED)?;
    assert!(!stage.in_trouble()?.contains(&"well".to_owned()));
    Ok(())
}

/// Objects that the API server takes and that make no sense.
fn nonsense() -> Vec<(Kind, Value)> {
    let object = |api: &str, kind: &str, name: &str, spec: Value, status: Value| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec, "status": status});
    let (kubevirt, far) = ("kubevirt.io/v1", "99999-13-45T99:99:99Z");
    vec![
        (Kind::VM, object(kubevirt, "VirtualMachine", "odd-0", json!("all of it"), json!([1, 2]))),
        (
            Kind::VM,
            object(kubevirt, "VirtualMachine", "odd-1", json!({"runStrategy": {"a": 1}, "template": 7}), json!(null)),
        ),
        (
            Kind::VMI,
            object(
                kubevirt,
                "VirtualMachineInstance",
                "odd-0",
                json!(null),
                json!({
                    "phase": ["Running"],
                    "conditions": "many",
                    "phaseTransitionTimestamps": {"a": far},
                    "activePods": [1],
                    "migrationState": "soon",
                    "volumeStatus": {"x": []},
                }),
            ),
        ),
        (
            Kind::VMI,
            object(
                kubevirt,
                "VirtualMachineInstance",
                "odd-2",
                json!({"terminationGracePeriodSeconds": -9_223_372_036_854_775_807_i64, "volumes": 3}),
                json!({
                    "phase": "Levitating",
                    "phaseTransitionTimestamps": [null, 5, {"phase": "Levitating", "phaseTransitionTimestamp": far}],
                    "conditions": [null, "Ready", {"type": 1, "status": true}],
                    "nodeName": 17,
                }),
            ),
        ),
        (
            Kind::VMIM,
            object(
                kubevirt,
                "VirtualMachineInstanceMigration",
                "odd-0",
                json!({"vmiName": ["well"]}),
                json!({"phase": {}}),
            ),
        ),
        (
            Kind::KUBEVIRT,
            object(kubevirt, "KubeVirt", "odd", json!({"configuration": {"migrations": "none"}}), json!(0)),
        ),
        (
            Kind::POLICY,
            object(
                "migrations.kubevirt.io/v1alpha1",
                "MigrationPolicy",
                "odd",
                json!({"selectors": "all"}),
                json!(null),
            ),
        ),
        (Kind::DATA_VOLUME, object("cdi.kubevirt.io/v1beta1", "DataVolume", "odd", json!([]), json!("x"))),
        (
            Kind::EVENT,
            json!({
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": "odd.1"}, "reason": "", "message": "",
                "involvedObject": {"kind": "VirtualMachineInstance", "namespace": "prod", "name": "\u{202e}0-bd"},
            }),
        ),
    ]
}
