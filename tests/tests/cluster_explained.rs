//! VMs of a real Kubernetes, explained by central from its watches alone: what is no host's fault, what is no fault at all, and what must
//! be neither forgotten nor invented.
//!
//! KubeVirt's part is played by the lab's driver; API server, scheduler and controllers are real. No node is booted: the nodes are objects,
//! as nodes without an agent are. Real hosts are in `cluster_hosts.rs`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::report;
use kulprit_tests::kubevirt::api::{Kind, Place};
use kulprit_tests::kubevirt::{Stage, VmSpec};
use kulprit_tests::system::answers::Verdict;
use kulprit_tests::wait::{Stopwatch, pause, wait_until};
use serde_json::{Value, json};

const EXPLAINED: Duration = Stage::EXPLAINED;
const LONG_AGO: Duration = Stage::LONG_AGO;
/// How long nothing may happen, where nothing may.
const QUIET: Duration = Duration::from_secs(15);

/// That no host is at fault, and none is said to be.
fn assert_no_host(verdict: &Verdict) {
    let first = verdict.causes.first().expect("a verdict has causes");
    assert_eq!((verdict.confidence.as_str(), first.role.as_str()), ("verdict", "cluster"), "{verdict:#?}");
    assert_eq!(first.node, "", "{verdict:#?}");
    let blamed: Vec<_> = verdict.contributing.iter().filter(|cause| !cause.node.is_empty()).collect();
    assert!(blamed.is_empty(), "no node contributes: {blamed:#?}");
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
fn many_migrations_that_a_descheduler_asked_for_are_no_hosts_fault() -> Result<()> {
    let stage = Stage::open()?;
    let (n1, n2) = (stage.register("n1", 11)?, stage.register("n2", 12)?);
    let mut vm = stage.kubevirt.create(VmSpec::new("prod", "db-0"), LONG_AGO)?;
    vm.runs_on(&n2)?;
    stage.hops(&mut vm, [&n1, &n2], true)?;
    let verdict = stage.explained("prod/db-0", "ExcessiveMigrations", "MigrationsRequested", EXPLAINED)?;
    assert_no_host(&verdict);
    Ok(())
}

#[test]
fn a_vm_s_ordinary_life_raises_nothing() -> Result<()> {
    let stage = Stage::open()?;
    let (n1, n2) = (stage.register("n1", 11)?, stage.register("n2", 12)?);
    let now = Duration::ZERO;
    // None of them is dated back: a phase that began long ago and ends in this moment would be a long one.
    let mut resident = stage.kubevirt.create(VmSpec::new("prod", "resident"), now)?;
    resident.runs_on(&n1)?;
    let mut guest = stage.kubevirt.create(VmSpec::new("prod", "guest"), now)?;
    guest.runs_on(&n1)?;
    let mut migration = guest.migrate("guest-out", now)?;
    migration.runs_to(&guest, &n2)?;
    migration.succeeds(&mut guest)?;
    // A slow shutdown within its grace period.
    let mut slow = stage.kubevirt.create(VmSpec::new("prod", "slow").grace_secs(120), now)?;
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
    let incidents = stage.system.incidents()?;
    let told: Vec<String> =
        incidents.iter().map(|incident| stage.system.page(&["incidents", &incident.id])).collect::<Result<_>>()?;
    let causes: Vec<&str> = incidents.iter().map(|incident| incident.cause.as_str()).collect();
    assert_eq!(causes, ["VolumeNotFound"], "nothing else was ever opened: {}", told.join("\n"));
    Ok(())
}

#[test]
fn without_the_api_server_and_after_a_kill_of_central_nothing_is_forgotten_or_invented() -> Result<()> {
    let mut stage = Stage::open()?;
    let n1 = stage.register("n1", 11)?;
    {
        let mut well = stage.kubevirt.create(VmSpec::new("prod", "well"), Duration::ZERO)?;
        well.runs_on(&n1)?;
        stage.without_claim("db-0")?;
        stage.without_claim("db-1")?;
    }
    for vm in ["prod/db-0", "prod/db-1"] {
        stage.explained(vm, "InError", "VolumeNotFound", EXPLAINED)?;
    }
    // Objects that are dated back come one after the other, and the first ones alone may look like another trouble.
    pause(QUIET);
    let opened = stage.open_incidents()?;
    assert_eq!(opened.len(), 2, "{opened:?}");

    stage.cluster.stop_api_server();
    pause(QUIET);
    assert_eq!(stage.open_incidents()?, opened, "what cannot be seen is neither over nor new");
    stage.cluster.start_api_server()?;
    for vm in ["prod/db-0", "prod/db-1"] {
        stage.explained(vm, "InError", "VolumeNotFound", EXPLAINED)?;
    }
    assert_eq!(stage.open_incidents()?, opened);

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
    let still = stage.open_incidents()?;
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
